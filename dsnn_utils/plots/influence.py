"""Which hyperparameters matter, as estimated from the trials."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from dsnn_utils.analysis.fronts import pareto_front
from dsnn_utils.analysis.influence import EnergyOf, partial_dependence
from dsnn_utils.checks import require_choice, require_columns
from dsnn_utils.plots.style import (
    BLACK,
    BLUE,
    CATEGORIES,
    GREY,
    ONE_COLUMN,
    PINK,
    TWO_COLUMNS,
    VERMILION,
    DualFigure,
    axis_label,
    heatmap,
    legend_above,
    logarithmic,
    name_of,
    new_axes,
    spans_a_decade,
    styled,
)
from dsnn_utils.runs.columns import COMPUTE_ENERGY
from dsnn_utils.runs.rows import successful


@styled
def plot_importance(
    tables: Mapping[str, pd.DataFrame], top: int = 8, width: float = ONE_COLUMN * 1.35
) -> DualFigure:
    """fANOVA importances of {objective: `analysis.importance(...)`}; whiskers: range over seeds.

    The `top` hyperparameters by summed importance; the others are in the data.
    """
    names = list(dict.fromkeys(n for t in tables.values() for n in t["hyperparameter"]))
    merged = {
        k: t.set_index("hyperparameter").reindex(names).fillna(0.0) for k, t in tables.items()
    }
    order = sum(t["importance"] for t in merged.values()).sort_values(kind="stable").index[-top:]
    figure, axis = new_axes(width, 0.7 + 0.21 * len(order) * max(1, len(tables) * 0.6))
    height = 0.8 / len(tables)
    for i, (objective, table) in enumerate(merged.items()):
        table = table.loc[order]
        y = np.arange(len(order)) + (len(tables) - 1 - 2 * i) / 2 * height
        value = 100 * table["importance"]
        whiskers = np.abs([value - 100 * table["lowest"], 100 * table["highest"] - value])
        label = axis_label(objective)[0].split(" (")[0]
        axis.barh(y, value, height, color=CATEGORIES[i], label=label,
                  xerr=whiskers if np.max(whiskers) > 1e-9 else None,  # one run has no range
                  error_kw={"lw": 0.8, "capsize": 1.5})  # fmt: skip
    axis.set_yticks(range(len(order)), [name_of(n).split(" (")[0] for n in order])
    axis.set(xlabel="Importance (% of variance)")
    axis.set_xlim(left=0)
    axis.grid(axis="y", visible=False)
    legend_above(figure, axis.get_legend_handles_labels()[0])
    data = pd.concat([t.assign(objective=k) for k, t in tables.items()], ignore_index=True)
    return DualFigure(figure, data=data, description="fANOVA importance for " + ", ".join(tables))


def _change(step) -> str:
    """One step of an ablation path in words: "Optimizer: SGD → RAdam"."""
    values = []
    for value in (step["from"], step["to"]):
        number = isinstance(value, int | float | np.number)
        values.append("none" if pd.isna(value) else f"{value:.3g}" if number else str(value))
    name = name_of(step["hyperparameter"]).split(" (")[0]
    return f"{name}: {' → '.join(values)}"


def _trust(r2: float) -> str:
    """How well a surrogate predicts trials it has not seen; NaN where there is none."""
    if np.isnan(r2):
        return "calculated"
    return f"R² = {r2:.2f}".replace("-", "−") + (": no guide" if r2 < 0.1 else "")


@styled
def plot_ablation(paths: Mapping[str, pd.DataFrame]) -> DualFigure:
    """From one configuration to another, {objective: `analysis.ablation_path(...)`}, a panel each.

    A bar per step, from the prediction before it to the one after, with the spread of the latter
    over the trees; diamonds are what the first and the last trial really had. R² is that of trials
    the trees have not seen; a modelled energy is calculated. An axis over more than a decade is
    logarithmic.
    """
    rows = max(len(path) for path in paths.values())
    figure, axes = new_axes(TWO_COLUMNS, 1.15 + 0.2 * rows, 1, len(paths), squeeze=False)
    for axis, (objective, path) in zip(axes[0], paths.items(), strict=True):
        needed = ["step", "hyperparameter", "from", "to", "predicted", "spread", "observed", "r2"]
        require_columns(path, needed)
        label, factor = axis_label(objective)
        value, spread = factor * path["predicted"], factor * path["spread"]
        change = value.diff()
        colours = np.where(change > 0, VERMILION, BLUE)
        axis.barh(path["step"][1:], change[1:], left=value[:-1], height=0.62, color=colours[1:])
        for step in path["step"][1:]:
            axis.plot(value[[step - 1] * 2], [step - 1, step], color=GREY, lw=0.7, zorder=1)
        axis.errorbar(
            value, path["step"], xerr=[np.minimum(spread, value), spread], fmt="o", color=BLACK,
            ms=2.5, lw=0.7, capsize=1.5, zorder=3,
        )  # fmt: skip
        axis.plot(factor * path["observed"], path["step"], "D", mfc="none", mec=PINK, mew=1.4, ms=6,
                  zorder=4)  # fmt: skip
        names = ["start", *(_change(step) for _, step in path[1:].iterrows())]
        axis.set_yticks(path["step"], names, fontsize=7)
        axis.invert_yaxis()
        axis.grid(axis="y", visible=False)
        axis.set_title(_trust(path["r2"].iloc[0]), loc="right", fontsize=7, color=GREY)
        axis.set_xlabel(textwrap.fill(label, 26))
        axis.use_sticky_edges = False  # a bar may end at the edge, a diamond may not
        axis.margins(x=0.07)
        if spans_a_decade(value):
            logarithmic(axis, labelled=(1, 3))  # a narrow panel
    legend_above(figure, [
        Patch(fc=BLUE, label="improves"),
        Patch(fc=VERMILION, label="worsens"),
        Line2D([], [], marker="o", color=BLACK, ms=2.5, lw=0.7, label="predicted, ± spread"),
        Line2D([], [], marker="D", ls="", mfc="none", mec=PINK, mew=1.4, ms=6, label="observed"),
    ])  # fmt: skip
    data = pd.concat([path.assign(objective=name) for name, path in paths.items()])
    steps = max(paths.values(), key=len)[1:].iterrows()
    text = "; ".join(_change(step) for _, step in steps) or "no hyperparameter differs"
    return DualFigure(figure, data=data, description=f"Ablation path: {text}")


BITS = {"weight_bits": "Weight bits", "activation_bits": "Activation bits\n(integer + fraction)"}


@styled
def plot_partial_dependence(
    trials: pd.DataFrame,
    bits: Sequence[str] = tuple(BITS),
    cost: str = COMPUTE_ENERGY,
    seed: int = 0,
    energy_of: EnergyOf | None = None,
) -> DualFigure:
    """Error and `cost` over shift depth and bits, from `analysis.partial_dependence`.

    A row of two maps for each of `bits` ("weight_bits", "activation_bits"), a column per objective,
    with contours. Dots are the trials, slightly moved apart; rings those of the front. Far from
    them a predicted map only continues what is known elsewhere. R² is that of trials the trees have
    not seen; a modelled energy is calculated (`energy_of` as in `analysis.importance`).
    """
    for name in bits:
        require_choice("bits", name, BITS)
    objectives = ("loss", cost)
    rows = successful(trials, objectives)
    total = rows["activation_integer_bits"] + rows["activation_fraction_bits"]
    rows = rows.assign(activation_bits=total)
    front = rows.index.isin(pareto_front(rows, objectives).index)
    figure, axes = new_axes(
        TWO_COLUMNS, 0.5 + 1.85 * len(bits), len(bits), 2, sharex="all", sharey="row", squeeze=False
    )
    jitter = np.random.default_rng(0).uniform(-0.25, 0.25, (2, len(rows)))
    tables = []
    for axis_row, name in zip(axes, bits, strict=True):
        for axis, objective in zip(axis_row, objectives, strict=True):
            table = partial_dependence(
                trials, ("shift_depth", name), objective, seed, energy_of=energy_of
            )
            tables.append(table.rename(columns={name: "bits"}).assign(of=name, objective=objective))
            label, factor = axis_label(objective)
            matrix = factor * table.pivot(index=name, columns="shift_depth", values="predicted")
            maps = "viridis_r" if objective == "loss" else "cividis_r"
            flat = min(matrix.shape) == 1 or np.ptp(matrix) == 0
            image = heatmap(axis, matrix, maps)
            at = np.arange(matrix.shape[1]), np.arange(matrix.shape[0])
            if flat:
                figure.colorbar(image, ax=axis)
            else:  # labelled contours are the scale
                lines = axis.contour(*at, matrix, levels=6, colors="white", linewidths=0.8)
                lines.set_path_effects([withStroke(linewidth=1.8, foreground="#444444")])
                for text in axis.clabel(lines, fontsize=7, fmt="%.3g"):
                    text.set_bbox({"fc": "#444444", "ec": "none", "pad": 0.6})
            x = np.interp(rows["shift_depth"], matrix.columns, at[0]) + jitter[0]
            y = np.interp(rows[name], matrix.index, at[1]) + jitter[1]
            axis.scatter(x, y, s=7, c=BLACK, ec="white", lw=0.3, rasterized=len(rows) > 100)
            axis.scatter(x[front], y[front], s=34, fc="none", ec=PINK, lw=1.4)
            for values, places, set_ticks in (
                (matrix.columns, at[0], axis.set_xticks),
                (matrix.index, at[1], axis.set_yticks),
            ):
                ticks = MaxNLocator(7, integer=True, steps=[1, 2, 5, 10]).tick_values(
                    values[0], values[-1]
                )
                ticks = ticks[(values[0] <= ticks) & (ticks <= values[-1])].astype(int)
                set_ticks(np.interp(ticks, values, places), ticks, rotation=0)
            axis.set_title(label, loc="left")
            axis.set_title(_trust(table["r2"].iloc[0]), loc="right", fontsize=7, color=GREY)
            axis.set(xlabel="", ylabel="")
        axis_row[0].set_ylabel(BITS[name])
    for axis in axes[-1]:
        axis.set_xlabel("Shift depth (layers)")
    legend_above(figure, [
        Line2D([], [], marker="o", ls="", color=BLACK, ms=2.8, label="a trial"),
        Line2D([], [], marker="o", ls="", mfc="none", mec=PINK, mew=1.4, ms=6,
               label="on the Pareto front"),
    ])  # fmt: skip
    text = "Partial dependence of validation error and modelled energy on shift depth and bits"
    return DualFigure(figure, data=pd.concat(tables, ignore_index=True), description=text)
