"""Remake every committed figure from its committed table: `python -m dsnn_utils.study.figures`.

A folder of `figures/` with a `trials.csv` is a run, or several runs in one table; its figures, and
the tables behind them, are made again from that table alone, the tables byte for byte the same.

    --collect figures/mine runs/a runs/b    first put the tables of runs together there
    --thumbnails runs/demo                  also make the thumbnails of README.md, from that run
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from PIL import Image

from dsnn_utils.analysis.fidelity import TRAINING_FIDELITIES, rank_agreement
from dsnn_utils.analysis.fronts import hypervolume_over
from dsnn_utils.analysis.trainings import (
    accuracy_by_format,
    learning_curves,
    summarise_points,
)
from dsnn_utils.paths import project_root, read_json
from dsnn_utils.plots.choosing import plot_tradeoff
from dsnn_utils.plots.fidelity import plot_fidelities
from dsnn_utils.plots.front import plot_front
from dsnn_utils.plots.search import plot_hypervolume
from dsnn_utils.plots.style import DualFigure
from dsnn_utils.plots.training import plot_formats, plot_learning_curves
from dsnn_utils.runs.columns import (
    EXTENSIONS,
    cost_among,
    loss_among,
    modelled_energy_among,
)
from dsnn_utils.runs.directory import read_settings
from dsnn_utils.runs.rows import configuration_columns
from dsnn_utils.runs.table import read_trials
from dsnn_utils.study.plots import plot_finals, plot_grid, plot_strategies
from dsnn_utils.study.strategies import TABLES, read_comparison
from dsnn_utils.study.tables import second_study, with_short_names

# One figure a notebook, as its notebook saved it.
THUMBNAILS = {
    "01": "weights",
    "02": "search_space",
    "03": "front",
    "04": "tradeoff_depth_bits",
    "05": "published",
    "06": "energy_depth",
    "07": "learning_curves",
    "08": "study_finals",
    "09": "few_bits_formats",
    "10": "ways",
    "11": "own_front",
}
FEW = 24
THUMBNAIL_WIDTH = 300  # pixels, twice what README.md shows


def committed_runs(folder: Path) -> list[Path]:
    """The runs below `folder`: directories with a trials table."""
    return sorted(path.parent for path in folder.glob("*/trials.csv"))


def collect(runs: Sequence[Path], target: Path) -> None:
    """Put the trials of several runs into one table, and their `search.json` into one list."""
    target.mkdir(parents=True, exist_ok=True)
    tables = [read_trials(run) for run in runs]
    pd.concat(tables, ignore_index=True).to_csv(target / "trials.csv", index=False)
    infos = [read_json(run / "search.json", "settings") for run in runs]
    infos = [one for info in infos for one in info.get("runs", [info])]
    (target / "search.json").write_text(json.dumps({"runs": infos}, indent=1) + "\n")


def given_figures(trials: pd.DataFrame) -> dict[str, DualFigure]:
    """What there is to see in trainings of given networks.

    Of few: their learning curves and, where the default was tested, test accuracy over energy. Of
    more than `FEW`: how well cheap trainings foretell full ones, if there are both; the accuracy of
    number formats, if some have what the published method has not; or else the map of a full grid.
    """
    if len(trials) > FEW:
        if set(configuration_columns(trials)) & set(EXTENSIONS):
            return {"formats": plot_formats(accuracy_by_format(trials))}
        if trials[["epochs", "data_fraction"]].nunique().max() > 1:
            agreement = rank_agreement(trials, TRAINING_FIDELITIES, full_only=True, draws=1000)
            return {"fidelities": plot_fidelities(agreement)}
        return {"grid": plot_grid(trials)}
    trials = with_short_names(trials)
    figures = {"learning_curves": plot_learning_curves(learning_curves(trials))}
    if "test_accuracy" in trials and (trials["origin"] == "default").any():
        figures["finals"] = plot_finals(summarise_points(trials))
    return figures


def run_figures(run: Path) -> dict[str, DualFigure]:
    """The figures of a run, by name.

    Of a search: front and trade-off of the first strategy in the table, hypervolume of all. Of
    given networks see `given_figures`.
    """
    trials, settings = read_trials(run), read_settings(run)
    if settings["strategy"] == "given":
        return given_figures(trials)
    loss, cost = loss_among(settings["objectives"]), cost_among(settings["objectives"])
    main = trials[trials["strategy"] == trials["strategy"].iloc[0]]
    by = ["strategy", "seed"]
    curves = hypervolume_over(trials, objectives=(loss, cost), by=by)
    group = "strategy" if trials["strategy"].nunique() > 1 else None
    if group is None:
        curves = curves.drop(columns="strategy")
    return {
        "front": plot_front(main, x=cost, y=loss, interactive=False),
        "hypervolume": plot_hypervolume(curves, group),
        "tradeoff": plot_tradeoff(
            main, "activation_bits", modelled_energy_among(settings["objectives"])
        ),
    }


def remake(run: Path, target: Path | None = None) -> list[Path]:
    """Make the figures of a run anew, into `target` or the run itself; returns the files."""
    target, figures = target or run, run_figures(run).items()
    return [path for name, figure in figures for path in figure.save(target / name)]


def remake_comparison(target: Path = TABLES) -> list[Path]:
    """Make the figure of the compared strategies anew, beside its table."""
    return plot_strategies(read_comparison()).save(target / "comparison")


def remake_second_study(target: Path | None = None) -> list[Path]:
    """Make the figure of the second study anew, beside the table of its finals."""
    folder = target or project_root() / "figures" / "cifar10_search_finals"
    summary = summarise_points(second_study())
    # A single training is an anecdote: it is in tables, and no point of the README's figure.
    return plot_finals(summary[summary["seeds"] != 1]).save(folder / "second_study")


def thumbnails(run: Path, target: Path) -> None:
    """Small pictures of one figure of each notebook, from the figures of a run."""
    target.mkdir(parents=True, exist_ok=True)
    for notebook, name in THUMBNAILS.items():
        with Image.open(run / "figures" / f"{name}.png") as picture:
            size = THUMBNAIL_WIDTH, round(picture.height * THUMBNAIL_WIDTH / picture.width)
            small = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
        small.save(target / f"{notebook}.png", optimize=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line described above."""
    parser = argparse.ArgumentParser(prog="python -m dsnn_utils.study.figures")
    parser.add_argument("--thumbnails", type=Path, metavar="RUN")
    parser.add_argument("--collect", type=Path, nargs="+", metavar=("TARGET", "RUN"))
    options = parser.parse_args(arguments)
    if options.collect:
        collect(options.collect[1:], options.collect[0])
    if options.thumbnails:
        thumbnails(options.thumbnails, project_root() / "figures" / "thumbnails")
    runs = committed_runs(project_root() / "figures")
    paths = [path for run in runs for path in remake(run)]
    for path in [*paths, *remake_comparison(), *remake_second_study()]:
        print(path.relative_to(project_root()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
