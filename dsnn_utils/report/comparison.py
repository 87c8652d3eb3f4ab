"""Strategies compared on one's own runs: a page, the figure as PDF, the tables as LaTeX."""

import base64
import html
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from dsnn_utils.analysis.comparing import LEVEL, paired_tests, seeds_needed
from dsnn_utils.checks import require_choice
from dsnn_utils.pages import write_page
from dsnn_utils.plots.latex import latex_table
from dsnn_utils.plots.style import axis_label
from dsnn_utils.report.paper import write_files
from dsnn_utils.study.comparison import COSTS, final_values, read_strategies, strategy_curves
from dsnn_utils.study.plots import plot_strategy_curves

TESTED_AT = ("trial", "cost")


def write_comparison(
    runs: Sequence[Path], out: Path, cost: str = "duration_s", at: str = "trial"
) -> list[Path]:
    """Compare the strategies of some runs; writes to the folder `out` and returns the files.

    `comparison.html` shows the hypervolume over trials and over `cost` ("duration_s" or "epochs"),
    what each strategy reached, and paired tests of every two, corrected for their number: `at` says
    whether after equally many trials ("trial") or at equal cost ("cost"). Beside it the figure as
    PDF, its data as CSV and both tables as LaTeX. The same runs give the same bytes.

    Raises ValueError for runs that cannot be compared (see `study.read_strategies`).
    """
    require_choice("at", at, TESTED_AT)
    require_choice("cost", cost, COSTS)
    trials, settings = read_strategies([run.resolve() for run in runs])
    curves, reference = strategy_curves(trials, settings, cost)
    over = "trial" if at == "trial" else cost
    values = final_values(curves, over)
    strategies, tests = _strategies_table(trials, values), paired_tests(values)
    figure = plot_strategy_curves(curves)
    named = tests.rename(
        columns={"first": "strategy", "second": "against", "p_holm": "corrected p"}
    )
    formats = {"mean hypervolume": "{:.4f}", "sd": "{:.4f}", "time in trials (h)": "{:.2f}"}
    formats |= {"difference": "{:+.4f}", "p": "{:.2g}", "corrected p": "{:.2g}"}
    ends = curves.groupby("over")["x"].max()
    where = f"after {ends['trial']:.0f} trials"
    if at == "cost":
        where = f"at {ends[cost]:.0f} {'s spent in trials' if cost == 'duration_s' else 'epochs'}"
    box = ", ".join(_value(name, value) for name, value in reference.items())
    svg = base64.b64encode(figure.svg().encode()).decode()
    body = [
        f"<p>{html.escape(_what(trials))}. Hypervolume is the share of the box up to "
        f"{html.escape(box)}; all runs count up to where the shortest of them ends.</p>",
        f'<img alt="{html.escape(figure.description)}" style="width: 100%" '
        f'src="data:image/svg+xml;base64,{svg}">',
        f"<h2>What each strategy reached {where}</h2>",
        _html_table(strategies, formats),
        "<h2>Which differences can be told</h2>",
        f"<p>{_how_tested(tests, where)}</p>",
        _html_table(named, formats),
    ]
    write_page(out / "comparison.html", "Strategies compared", "\n".join(body))
    contents = {"hypervolume.pdf": figure.pdf(), "hypervolume.csv": curves.to_csv(index=False)}
    for name, table in (("strategies_table", strategies), ("tests_table", named)):
        shown = {column: form for column, form in formats.items() if column in table}
        contents[f"{name}.tex"] = latex_table(table, shown)
    as_bytes = {n: c if isinstance(c, bytes) else c.encode() for n, c in contents.items()}
    return [out / "comparison.html", *write_files(out, as_bytes)]


def _what(trials: pd.DataFrame) -> str:
    first = trials.iloc[0]
    return f"{first['model']} on {first['dataset']}, {len(trials)} trials in all"


def _value(objective: str, value: float) -> str:
    label, factor = axis_label(objective)
    name, _, unit = label.rstrip(")").partition(" (")
    return f"{name.lower()} {factor * value:.3g} {unit}"


def _strategies_table(trials: pd.DataFrame, values: pd.DataFrame) -> pd.DataFrame:
    by = trials.groupby("strategy")
    table = pd.DataFrame(
        {
            "seeds": values.count(),
            "mean hypervolume": values.mean(),
            "sd": values.std(),
            "trials": by.size(),
            "failed": by["status"].agg(lambda status: (status != "SUCCESS").sum()),
            "time in trials (h)": by["duration_s"].sum() / 3600,
        }
    )
    order = table.sort_values("mean hypervolume", ascending=False, kind="stable")
    return order.rename_axis("strategy").reset_index()


def _how_tested(tests: pd.DataFrame, where: str) -> str:
    number, most = int(tests["p"].notna().sum()), int(tests["seeds"].max())
    needed = seeds_needed(max(1, number))
    text = (
        f"Hypervolume {where}, paired by seed: two-sided Wilcoxon signed-rank tests, corrected for "
        f"their number ({number}) after Holm. A difference counts as told where the corrected p is "
        f"at most {LEVEL:g}."
    )
    if most < needed:
        text += (
            f" With {most} seed{'s' * (most != 1)} that is out of reach, whatever the "
            f"runs are like: it takes at least {needed}."
        )
    return text


def _html_table(table: pd.DataFrame, formats: dict[str, str]) -> str:
    forms = {name: form.format for name, form in formats.items() if name in table}
    return table.to_html(index=False, border=0, na_rep="", formatters=forms)
