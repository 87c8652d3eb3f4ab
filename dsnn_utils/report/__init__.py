"""What is written about runs: a page, and the figures and tables of a paper."""

from dsnn_utils.report.page import write_run_report
from dsnn_utils.report.paper import write_paper

__all__ = ["write_paper", "write_run_report"]
