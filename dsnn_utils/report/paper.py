"""What a paper needs of a run: figures as PDF and tables as LaTeX, in `<run>/paper`."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from dsnn_utils.analysis.fronts import hypervolume_over, overview, pareto_front, summarise_runs
from dsnn_utils.analysis.influence import importance
from dsnn_utils.plots.front import plot_front
from dsnn_utils.plots.influence import plot_importance
from dsnn_utils.plots.latex import latex_table, latex_text
from dsnn_utils.plots.search import plot_hypervolume
from dsnn_utils.plots.style import ONE_COLUMN, axis_label
from dsnn_utils.runs.columns import MODELLED_ENERGIES, cost_among, loss_among
from dsnn_utils.runs.directory import find_runs, read_settings
from dsnn_utils.runs.table import read_runs
from dsnn_utils.study.strategies import search_energy, search_reference

RESAMPLINGS = 10  # of the trials of a single seed, to see how uncertain its importances are
_PAPER = r"""% Made to see all of it at once, and to copy from.
\documentclass[twocolumn]{article}
\usepackage{booktabs,graphicx}
\usepackage[margin=0.75in,columnsep=0.2in]{geometry}
\begin{document}
"""


def write_paper(run: Path) -> list[Path]:
    """Write the figures and tables of a run, or of a folder of several seeds, to `<run>/paper`.

    `front`, `hypervolume` and `importance` as PDF as wide as a column, the networks of the front
    and a summary of all trials as LaTeX tables, and `paper.tex`, which shows all of them with
    captions. The same run gives the same bytes. Returns the files. Too few trials have no
    importances: then that figure is left out.

    Raises FileNotFoundError without `trials.csv` or `search.json`, ValueError where no trial
    succeeded, and what `search_energy` raises, before anything is written.
    """
    run = run.resolve()
    folders = find_runs(run)
    trials, settings = read_runs(folders), read_settings(folders[0])
    objectives = loss_among(settings["objectives"]), cost_among(settings["objectives"])
    energy_of = search_energy(trials, settings)
    reference = search_reference(trials, settings, energy_of)
    front = pareto_front(trials, objectives)
    curves = hypervolume_over(trials, objectives=objectives, reference=reference)
    seeds = trials["seed"].nunique()
    what = latex_text(
        f"{trials['strategy'].iloc[0]}, {len(trials)} trials of {seeds} seed{'s' * (seeds > 1)}, "
        f"{trials['model'].iloc[0]} on {trials['dataset'].iloc[0]}"
    )
    box = ", ".join(_value(name, value) for name, value in reference.items())
    figures = {
        "front": (
            plot_front(trials, x=objectives[1], y=objectives[0], width=ONE_COLUMN),
            f"Pareto front ({what})." + _band(seeds),
        ),
        "hypervolume": (
            plot_hypervolume(curves),
            f"Hypervolume over trials ({what}). Reference point: {box}.",
        ),
    }
    try:
        figures["importance"] = (
            _importance(trials, objectives, energy_of),
            _importance_caption(seeds, what, objectives),
        )
    except ValueError as error:
        print(f"no figure of the importances: {error}")
    tables = {
        "front_table": (
            _front_table(front, objectives, seeds),
            f"Networks on the front ({what}). Accuracy on the validation part.",
        ),
        "trials_table": (
            _trials_table(summarise_runs(trials, objectives, reference)),
            f"The search ({what}). Accuracy on the validation part, hypervolume as a share of the "
            f"box up to {box}.",
        ),
    }
    contents = {f"{name}.pdf": figure.pdf() for name, (figure, _) in figures.items()}
    contents |= {f"{name}.tex": text.encode() for name, (text, _) in tables.items()}
    contents["paper.tex"] = _paper(figures, tables).encode()
    return write_files(run / "paper", contents)


def write_files(folder: Path, contents: dict[str, bytes]) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in contents]


def _value(objective: str, value: float) -> str:
    label, factor = axis_label(objective)
    name, _, unit = label.rstrip(")").partition(" (")
    return latex_text(f"{name.lower()} {factor * value:.3g} {unit}")


def _band(seeds: int) -> str:
    if seeds == 1:
        return ""
    share = "75 and 25 \\% of the seeds attain" if seeds >= 5 else "all seeds and one seed attain"
    return f" The line is the median front, the band spans what {share}."


def _importance(trials: pd.DataFrame, objectives: Sequence[str], energy_of):
    by = "seed"
    if trials["seed"].nunique() == 1:
        by = "draw"
        draws = [trials.sample(frac=1, replace=True, random_state=i) for i in range(RESAMPLINGS)]
        trials = pd.concat([draw.assign(draw=i) for i, draw in enumerate(draws)])
    tables = {name: importance(trials, name, by=by, energy_of=energy_of) for name in objectives}
    return plot_importance(tables, width=ONE_COLUMN)


def _importance_caption(seeds: int, what: str, objectives: Sequence[str]) -> str:
    over = "seeds" if seeds > 1 else f"{RESAMPLINGS} resamplings of the trials"
    caption = f"Importance of hyperparameters by fANOVA ({what}). Whiskers: range over {over}."
    if set(objectives) & set(MODELLED_ENERGIES):
        caption += " That of the modelled energy follows from its formula."
    return caption


def _front_table(front: pd.DataFrame, objectives: Sequence[str], seeds: int) -> str:
    """The networks, by cost: what makes them, their accuracy and the other objectives."""
    table = overview(front).reset_index().drop(columns="origin")
    table = table.loc[:, :"lr"].assign(lr=front["lr"].to_numpy())
    if seeds == 1:
        table = table.drop(columns="seed")
    table["accuracy (%)"] = 100 * front["val_accuracy"].to_numpy()
    formats = {"lr": "{:#.2g}", "accuracy (%)": "{:.2f}"}
    for name in objectives:
        if name != "loss":
            label, factor = axis_label(name)
            head = label[0].lower() + label[1:]
            table[head] = factor * front[name].to_numpy()
            formats[head] = "{:#.4g}"
    return latex_table(table, formats)


def _trials_table(summary: pd.DataFrame) -> str:
    table = pd.DataFrame(
        {
            "seed": summary["seed"],
            "trials": summary["trials"],
            "failed": summary["failed"],
            "on front": summary["front"],
            "best accuracy (%)": 100 * summary["best_val_accuracy"],
            "hypervolume": summary["hypervolume"],
            "duration (h)": summary["duration_s"] / 3600,
            "measured energy (Wh)": 1e3 * summary["energy_measured_kwh"],
        }
    )
    formats = {"best accuracy (%)": "{:.2f}", "hypervolume": "{:.4f}", "duration (h)": "{:.2f}"}
    return latex_table(table, formats | {"measured energy (Wh)": "{:#.3g}"})


def _paper(figures: dict, tables: dict) -> str:
    parts = [_PAPER]
    for name, (_, caption) in figures.items():
        parts.append(
            "\\begin{figure}[t]\n\\centering\n"
            f"\\includegraphics{{{name}.pdf}}\n\\caption{{{caption}}}\n\\end{{figure}}\n"
        )
    for name, (_, caption) in tables.items():  # over both columns
        parts.append(
            "\\begin{table*}[t]\n\\centering\n"
            f"\\caption{{{caption}}}\n\\input{{{name}.tex}}\n\\end{{table*}}\n"
        )
    return "".join([*parts, "\\end{document}\n"])
