"""Remake every committed figure from its committed table: `python -m dsnn_utils.figures`.

A folder of `figures/` with a `trials.csv` is a run; its figures, and the tables behind them, are
made again from that table alone, the tables byte for byte the same. With the directory of a demo
run as argument the thumbnails of README.md are made from that run's figures as well.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from PIL import Image

from dsnn_utils import pareto, plots
from dsnn_utils.runner import project_root
from dsnn_utils.style import TwoFaced
from dsnn_utils.trials import read_trials

RUN_FIGURES: dict[str, Callable[[pd.DataFrame], TwoFaced]] = {
    "front": lambda trials: plots.plot_front(trials, interactive=False),
    "hypervolume": lambda trials: plots.plot_hypervolume(pareto.hypervolume_over(trials)),
    "tradeoff": lambda trials: plots.plot_tradeoff(trials, bits="activation_bits"),
}
# One figure a notebook, as its notebook saved it.
THUMBNAILS = {
    "01": "weights",
    "02": "search_space",
    "03": "front",
    "04": "tradeoff_depth_bits",
    "05": "published",
    "06": "energy_depth",
    "07": "learning_curves",
}
THUMBNAIL_WIDTH = 300  # pixels, twice what README.md shows


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


def thumbnails(run: Path, target: Path) -> None:
    """Small pictures of one figure of each notebook, from the figures of a run."""
    target.mkdir(parents=True, exist_ok=True)
    for notebook, name in THUMBNAILS.items():
        with Image.open(run / "figures" / f"{name}.png") as picture:
            height = round(picture.height * THUMBNAIL_WIDTH / picture.width)
            small = picture.convert("RGB").resize((THUMBNAIL_WIDTH, height), Image.LANCZOS)
        small.save(target / f"{notebook}.png", optimize=True)


def main(arguments: list[str]) -> int:
    """Remake all figures below `figures/`; with a run directory also the thumbnails."""
    if arguments:
        thumbnails(Path(arguments[0]), project_root() / "figures" / "thumbnails")
    for run in committed_runs(project_root() / "figures"):
        for path in remake(run):
            print(path.relative_to(project_root()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
