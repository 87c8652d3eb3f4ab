"""Remake every committed figure from its committed table: `python -m dsnn_utils.figures`.

A folder of `figures/` with a `trials.csv` is a run; its figures, and the tables behind them, are
made again from that table alone, byte for byte the same.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from dsnn_utils import pareto, plots
from dsnn_utils.runner import project_root
from dsnn_utils.style import TwoFaced
from dsnn_utils.trials import read_trials

RUN_FIGURES: dict[str, Callable[[pd.DataFrame], TwoFaced]] = {
    "front": lambda trials: plots.plot_front(trials, interactive=False),
    "hypervolume": lambda trials: plots.plot_hypervolume(pareto.hypervolume_over(trials)),
    "tradeoff": lambda trials: plots.plot_tradeoff(trials, bits="activation_bits"),
}


def committed_runs(folder: Path) -> list[Path]:
    """The runs below `folder`: directories with a trials table."""
    return sorted(path.parent for path in folder.glob("*/trials.csv"))


def remake(run: Path, target: Path | None = None) -> list[Path]:
    """Make the figures of a run anew, into `target` or the run itself; returns the files."""
    trials = read_trials(run)
    target = target or run
    return [
        path for name, figure in RUN_FIGURES.items() for path in figure(trials).save(target / name)
    ]


def main() -> int:
    """Remake all figures below `figures/`."""
    for run in committed_runs(project_root() / "figures"):
        for path in remake(run):
            print(path.relative_to(project_root()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
