"""The report of a run.

    python -m dsnn_utils.report runs/x

writes it to `runs/x/report/run.html`, a page that opens offline. With `--paper` it is figures as
PDF and tables as LaTeX in `runs/x/paper`. A folder with the runs of several seeds
(`--seeds` of the runner leaves one) is read as one run of several seeds.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dsnn_utils.report.page import write_run_report
from dsnn_utils.report.paper import write_paper


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m dsnn_utils.report", description="Write the report of a run."
    )
    parser.add_argument("run", type=Path, help="a run directory, or a folder of several seeds")
    parser.add_argument(
        "--paper", action="store_true", help="figures as PDF and tables as LaTeX, in RUN/paper"
    )
    options = parser.parse_args(arguments)
    try:
        if options.paper:
            print("Paper:", *write_paper(options.run), sep="\n  ")
        else:
            print(f"Report: {write_run_report(options.run)}")
    except (OSError, RuntimeError, ValueError) as error:
        # Of a failed notebook without the line that names a file of the copy, gone by now.
        print(f"error: {error}".partition("\n(executed so far")[0], file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
