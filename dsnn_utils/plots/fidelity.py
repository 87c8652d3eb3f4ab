"""How well cheap trainings foretell full ones."""

import numpy as np
import pandas as pd

from dsnn_utils.checks import require_columns
from dsnn_utils.plots.style import (
    BLUE,
    GREEN,
    GREY,
    ONE_COLUMN,
    ORANGE,
    DualFigure,
    heatmap,
    new_axes,
    styled,
)

DIFFERENT = {  # how a fidelity is drawn
    "shift_depth": (BLUE, "o", "depth {:g}"),
    "epochs": (ORANGE, "s", "epochs {:g}"),
    "data_fraction": (GREEN, "^", "data {:.0%}"),
}


@styled
def plot_rank_correlation(agreement: pd.DataFrame) -> DualFigure:
    """Spearman's rank correlation between shift depths, from `analysis.rank_agreement`."""
    require_columns(agreement, ["shift_depth", "full_shift_depth", "configurations", "spearman"])
    pairs = agreement[agreement["configurations"] > 2]
    figure, axis = new_axes(ONE_COLUMN, 2.4)
    if pairs.empty:
        text = "No pair of depths shares\nenough configurations"
        axis.text(0.5, 0.5, text, ha="center", va="center", transform=axis.transAxes)
        axis.set_axis_off()
        return DualFigure(figure, data=pairs, description="No pair of depths to correlate")
    matrix = pairs.pivot(index="full_shift_depth", columns="shift_depth", values="spearman")
    numbers = pairs.pivot(index="full_shift_depth", columns="shift_depth", values="configurations")
    notes = None
    if matrix.shape[1] < 7:  # else they would not fit
        rho = matrix.map("{:.2f}".format).replace("-", "−", regex=True)
        notes = rho + numbers.map("\nn = {:.0f}".format)
    image = heatmap(axis, matrix, "PuOr", -1, 1, notes)
    axis.set(xlabel="Shallower depth (layers)", ylabel="Deeper depth (layers)")
    bar = figure.colorbar(image, ax=axis, pad=0.02)
    bar.set_label("Spearman's ρ of validation error")
    bar.outline.set_visible(False)
    return DualFigure(figure, data=pairs, description="Rank correlation between shift depths")


@styled
def plot_right_pairs(agreement: pd.DataFrame, at_most: int = 12) -> DualFigure:
    """How often the better of two shallow trials is the better deep one (`rank_agreement`).

    The `at_most` pairs of depths with the most pairs of configurations; the data has all.
    """
    needed = ["shift_depth", "full_shift_depth", "pairs", "share", "share_low", "share_high"]
    require_columns(agreement, needed)
    rows = agreement[agreement["pairs"] > 0]
    if rows.empty:
        raise ValueError(
            "agreement: must have a pair of configurations, both tried at the same two depths"
        )
    shown = rows.sort_values("pairs", ascending=False, kind="stable").head(at_most).sort_index()
    labels = [
        f"{row.shift_depth} → {row.full_shift_depth} ({row.pairs} pair{'s' * (row.pairs > 1)})"
        for row in shown.itertuples()
    ]
    figure, axis = new_axes(ONE_COLUMN * 1.2, 0.8 + 0.22 * len(shown))
    axis.axvline(50, color=GREY, lw=0.8, ls="--")
    percent = 100 * shown[["share", "share_low", "share_high"]]
    for place, (value, *ends) in enumerate(percent.to_numpy()):
        _with_interval(axis, place, value, ends, color=BLUE, marker="o", ms=4.5)
    _name_rows(axis, labels)
    axis.set(xlim=(-2, 102), ylabel="Shift depth\n(layers)")
    axis.set_xlabel("Right promotions (% of pairs); dashed: chance")
    text = "Share of right promotions between depths: " + ", ".join(
        f"{label} {value:.0f} %" for label, value in zip(labels, percent["share"], strict=True)
    )
    return DualFigure(figure, data=rows, description=text)


@styled
def plot_fidelities(agreement: pd.DataFrame) -> DualFigure:
    """Rank correlation with the full training and its cost, by fidelity (`rank_agreement`)."""
    shown = [*DIFFERENT, "configurations", "spearman", "low", "high", "cost"]
    require_columns(agreement, [*shown, *(f"full_{name}" for name in DIFFERENT)])
    figure, axis = new_axes(ONE_COLUMN * 1.35, 0.9 + 0.24 * len(agreement))
    labels: list[str] = []
    for name, (colour, marker, text) in DIFFERENT.items():
        for row in agreement[agreement[name] < agreement[f"full_{name}"]].to_dict("records"):
            ends, style = (row["low"], row["high"]), {"color": colour, "marker": marker, "ms": 5}
            _with_interval(axis, len(labels), row["spearman"], ends, **style)
            labels.append(f"{text.format(row[name])}, takes {row['cost']:.0%}")
    axis.axvline(0, color=GREY, lw=0.8, ls="--")
    _name_rows(axis, labels)
    axis.set_xlabel("Spearman's ρ with the full training, 95 % interval")
    text = "Rank correlation of cheap trainings with the full one over their cost"
    return DualFigure(figure, data=agreement[shown], description=text)


def _with_interval(axis, place: int, value: float, ends, **style) -> None:
    """A mark in row `place` with a whisker from the lower to the upper end."""
    whisker = np.abs([[value - ends[0]], [ends[1] - value]])
    axis.errorbar([value], [place], xerr=whisker, lw=1.2, capsize=2, **style)


def _name_rows(axis, labels: list[str]) -> None:
    axis.set_yticks(range(len(labels)), labels)
    axis.set_ylim(len(labels) - 0.4, -0.6)  # the first on top
    axis.grid(axis="y", visible=False)
