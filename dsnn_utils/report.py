"""The report of one run, from its tables alone.

    python -m dsnn_utils.report runs/x

writes what there is to know about a run to `runs/x/report/run.html`, a page that opens offline.
"""

import html
import json
import sys
from base64 import b64encode
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pandas as pd

from dsnn_utils.analysis.choosing import choose, solution_card
from dsnn_utils.analysis.fidelity import rank_agreement
from dsnn_utils.analysis.fronts import hypervolume_over, overview, pareto_front
from dsnn_utils.analysis.influence import ablation_path, importance
from dsnn_utils.energy.emissions import BreakEven, search_energy_kwh
from dsnn_utils.pages import _INDEX
from dsnn_utils.plots.energy import plot_break_even
from dsnn_utils.plots.fidelity import plot_right_pairs
from dsnn_utils.plots.front import plot_front
from dsnn_utils.plots.influence import plot_ablation, plot_importance, plot_partial_dependence
from dsnn_utils.plots.search import plot_hypervolume
from dsnn_utils.plots.style import NAMES, DualFigure, axis_label
from dsnn_utils.runs.columns import modelled_energy_among
from dsnn_utils.runs.directory import read_settings
from dsnn_utils.runs.rows import default_trial, successful
from dsnn_utils.runs.table import read_trials


def write_run_report(run: Path) -> Path:
    """Write `<run>/report/run.html`: front, chosen solution, importance, and how it was made.

    Reads `trials.csv` and, where they are, `search.json` and `results.json` (notebook 4). Raises
    FileNotFoundError without a trials table and ValueError where no trial succeeded.
    """
    trials = read_trials(run / "trials.csv")
    successful(trials)  # one clear error before any drawing
    results, note = _results_of(run)
    known = (run / "search.json").exists()
    settings = read_settings(run) if known else {}
    objectives = "loss", modelled_energy_among(settings.get("objectives", ()))
    chosen, rule = _chosen(trials, results, objectives)
    parts = [
        *_front_part(trials, chosen, objectives),
        *_chosen_part(trials, chosen, rule, results, objectives),
        *_reasons_part(trials, chosen, objectives),
        *_break_even_part(results, note),
        *_making_part(run, trials),
    ]
    page = run / "report" / "run.html"
    page.parent.mkdir(exist_ok=True)
    title = html.escape(f"Run {run.resolve().name}")
    page.write_text(_INDEX.format(title=title, body="\n".join(parts)), encoding="utf-8")
    return page


def _results_of(run: Path) -> tuple[dict, str]:
    """What notebook 4 wrote about this very table, or nothing and a sentence that says why."""
    path = run / "results.json"
    if not path.exists():
        return {}, "Notebook 4 has not been run on these trials."
    results = json.loads(path.read_text(encoding="utf-8"))
    table = sha256((run / "trials.csv").read_bytes()).hexdigest()
    if table not in results.get("trials_sha256", []):
        return {}, "results.json belongs to another table of trials and is left out."
    return results, ""


def _chosen(trials: pd.DataFrame, results: dict, objectives: tuple) -> tuple[pd.Series, str]:
    card = results.get("chosen") or {}
    found = (trials["trial"] == card.get("trial")) & (trials["seed"] == card.get("seed"))
    if found.any():
        return trials[found].iloc[0], results["rule"]
    return choose(trials, "knee", objectives), "knee"


def _paragraph(text: str) -> str:
    return f"<p>{html.escape(text)}</p>"


def _table(table: pd.DataFrame, index: bool = True) -> str:
    shown = table.to_html(index=index, border=0, na_rep="–", float_format="{:.4g}".format)
    return f"<div>{shown}</div>"


def _figure(make: Callable[[], DualFigure]) -> str:
    """A figure as an image, or the reason why the table does not give one."""
    try:
        figure = make()
    except ValueError as error:
        return _paragraph(f"No figure: {error}")
    source = b64encode(figure.svg().encode()).decode()
    alt = html.escape(figure.description, quote=True)
    return f'<p><img alt="{alt}" src="data:image/svg+xml;base64,{source}"></p>'


def _front_part(trials: pd.DataFrame, chosen: pd.Series, objectives: tuple) -> list[str]:
    front, curves = (f(trials, objectives=objectives) for f in (pareto_front, hypervolume_over))
    first, failed = trials.iloc[0], int((trials["status"] != "SUCCESS").sum())
    return [
        _paragraph(
            f"{first['model']} on {first['dataset']}, strategy {first['strategy']}: {len(trials)} "
            f"trials, {failed} of them failed. Energy is modelled, per inference on shift hardware."
        ),
        "<h2>Pareto front</h2>",
        _figure(lambda: plot_front(trials, objectives[1], chosen=chosen, interactive=False)),
        _table(overview(front).reset_index(), index=False),
        _figure(lambda: plot_hypervolume(curves)),
    ]


def _chosen_part(
    trials: pd.DataFrame, chosen: pd.Series, rule: str, results: dict, objectives: tuple
) -> list[str]:
    card = solution_card(trials, chosen, objectives)
    settings = {"shift_depth": card["network"]["shift_depth"], **card["configuration"]}
    columns = {"chosen": settings}
    if card["default"]:
        changes = {name: pair["default"] for name, pair in card["changes"].items()}
        columns = {"published default": settings | changes, **columns}
    objectives = {
        axis_label(name)[0]: {
            "published default": axis_label(name)[1]
            * (card["default"] or {}).get(name, float("nan")),
            "chosen": axis_label(name)[1] * values["value"],
            "gain (%)": (card["gains_percent"] or {}).get(name),
        }
        for name, values in card["objectives"].items()
    }
    tested = pd.DataFrame(results.get("tested", []))
    if len(tested):
        for name, rows in tested.groupby("network"):
            column = "published default" if name == "default" else name
            value = 100 * rows["test_accuracy"].mean()
            objectives.setdefault("Test accuracy, trained again (%)", {})[column] = value
    where = f"trial {card['trial']} of seed {card['seed']}, chosen by the rule {rule}"
    accuracy = (results.get("chosen") or {}).get("val_accuracy_interval")
    if accuracy:
        low, high = (100 * end for end in accuracy)
        where += f"; its validation accuracy means {low:.1f} to {high:.1f} % (95 %)"
    return [
        "<h2>Chosen solution</h2>",
        _paragraph(f"{where[0].upper()}{where[1:]}."),
        _table(pd.DataFrame(objectives).T.astype(float).dropna(axis=1, how="all")),
        _table(pd.DataFrame(columns).map(_value).rename(index=NAMES)),
    ]


def _value(value) -> str:
    if value is None or pd.isna(value):
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _reasons_part(trials: pd.DataFrame, chosen: pd.Series, objectives: tuple) -> list[str]:
    def importances() -> DualFigure:
        copies = [trials.sample(frac=1, replace=True, random_state=i) for i in range(10)]
        resampled = pd.concat([copy.assign(draw=i) for i, copy in enumerate(copies)])
        return plot_importance({o: importance(resampled, o, by="draw") for o in objectives})

    def ablation() -> DualFigure:
        start = default_trial(trials, even_failed=True)
        return plot_ablation({o: ablation_path(trials, start, chosen, o) for o in objectives})

    return [
        "<h2>Layers and bits</h2>",
        _paragraph(
            "Predictions of extra trees fitted to the trials, averaged over how everything else "
            "was set in them. R² is that of trials a tree has not seen; far from the dots a map "
            "only continues what is known elsewhere."
        ),
        _figure(lambda: plot_partial_dependence(trials, cost=objectives[1])),
        "<h2>Which hyperparameters matter</h2>",
        _paragraph("fANOVA, on ten resamplings of the trials; whiskers span all ten."),
        _figure(importances),
        _paragraph(
            "From the published default to the chosen solution, one hyperparameter at a time, "
            "always the one predicted to help most."
        ),
        _figure(ablation),
        "<h2>Does a shallow trial predict a deep one?</h2>",
        _paragraph(
            "Of two configurations tried at the same two depths: how often the better one when "
            "shallow is also the better one when deep."
        ),
        _figure(lambda: plot_right_pairs(rank_agreement(trials))),
    ]


def _break_even_part(results: dict, note: str) -> list[str]:
    rows = [dict(row) for row in results.get("break_even", [])]
    if not rows:
        return ["<h2>Break-even</h2>", _paragraph(note or "No break-even in results.json.")]
    pairs = [
        (row.pop("instead_of"), BreakEven(**{n: _number(v) for n, v in row.items()}))
        for row in rows
    ]
    return [
        "<h2>Break-even</h2>",
        _paragraph(
            "Measured: on the machine of the run, with emulated shifts. Modelled: on hardware that "
            "shifts. The two are never mixed."
        ),
        _figure(lambda: plot_break_even(pairs)),
    ]


def _number(value):
    return float("inf") if value is None else value  # JSON has no infinity


def _making_part(run: Path, trials: pd.DataFrame) -> list[str]:
    failures = trials[trials["status"] != "SUCCESS"].fillna({"reason": ""})
    counts = failures.groupby(["status", "reason"]).size().rename("trials").reset_index()
    energy_kwh, share = search_energy_kwh(trials)
    read = (
        f"{100 * share:.0f} % of it read, the rest by duration" if share < 1 else "all of it read"
    )
    measured = f" and, measured, {1e3 * energy_kwh:.3g} Wh ({read})" if share else ""
    parts = [
        "<h2>How it was made</h2>",
        _paragraph(
            f"{len(trials)} trials took {trials['duration_s'].sum():.0f} s"
            f"{measured}. All numbers are in trials.csv."
        ),
        _table(counts, index=False) if len(counts) else _paragraph("No trial failed."),
    ]
    path = run / "search.json"
    if not path.exists():
        return [*parts, _paragraph("There is no search.json: the settings are unknown.")]
    info = pd.json_normalize(json.loads(path.read_text())).iloc[0]
    names = [name.removeprefix("settings.") for name in info.index]
    return [*parts, _table(pd.DataFrame({"value": map(str, info)}, index=names))]


def main(arguments: list[str]) -> int:
    """Write the report of the run directory given as the only argument."""
    if len(arguments) != 1:
        print("usage: python -m dsnn_utils.report RUN", file=sys.stderr)
        return 2
    try:
        print(f"Report: {write_run_report(Path(arguments[0]))}")
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
