"""What is written about runs: a page, the figures and tables of a paper, strategies compared."""

from dsnn_utils.report.comparison import write_comparison
from dsnn_utils.report.page import write_run_report
from dsnn_utils.report.paper import write_paper

__all__ = ["write_comparison", "write_paper", "write_run_report"]
