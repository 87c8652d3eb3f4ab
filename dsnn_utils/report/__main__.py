"""The report of a run, in three forms.

    python -m dsnn_utils.report runs/x
    python -m dsnn_utils.report runs/x --paper
    python -m dsnn_utils.report runs/x runs/y --compare runs/comparison

The first writes `runs/x/report/run.html`, a page that opens offline, the second figures as PDF and
tables as LaTeX to `runs/x/paper`. The third compares the search strategies of several runs. In
place of a run there may be a folder with the runs of several seeds, as `--seeds` of the runner
leaves it.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dsnn_utils.report.comparison import TESTED_AT, write_comparison
from dsnn_utils.report.page import write_run_report
from dsnn_utils.report.paper import write_paper
from dsnn_utils.study.comparison import COSTS


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if len(options.runs) > 1 and not options.compare:
        parser.error("more than one run needs --compare OUT")
    try:
        if options.compare:
            files = write_comparison(options.runs, options.compare, options.cost, options.at)
            print("Comparison:", *files, sep="\n  ")
        elif options.paper:
            print("Paper:", *write_paper(options.runs[0]), sep="\n  ")
        else:
            print(f"Report: {write_run_report(options.runs[0])}")
    except (OSError, RuntimeError, ValueError) as error:
        # Of a failed notebook without the line that names a file of the copy, gone by now.
        print(f"error: {error}".partition("\n(executed so far")[0], file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dsnn_utils.report", description="Write the report of a run."
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, help="a run directory, or a folder of several seeds"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--paper", action="store_true", help="figures as PDF and tables as LaTeX, in RUN/paper"
    )
    form.add_argument(
        "--compare", type=Path, metavar="OUT", help="the strategies of the runs, in folder OUT"
    )
    parser.add_argument("--cost", choices=COSTS, default=COSTS[0], help="beside trials, of curves")
    parser.add_argument(
        "--at", choices=TESTED_AT, default=TESTED_AT[0], help="test at equal trials or equal cost"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
