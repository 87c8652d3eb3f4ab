"""Figures of the committed study and of published values."""

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import Bbox

from dsnn_utils.analysis.fronts import pareto_front
from dsnn_utils.checks import require_columns
from dsnn_utils.plots.style import (
    AXES,
    BLACK,
    BLUE,
    CATEGORIES,
    DEPTH_COLOURS,
    GREY,
    LIGHT,
    PINK,
    PLOTLY_AXIS,
    TWO_COLUMNS,
    VERMILION,
    DualFigure,
    depth_norm,
    heatmap,
    legend_above,
    new_axes,
    plotly_figure,
    styled,
)
from dsnn_utils.runs.columns import ACTIVATION_BITS, ENERGY_WITH_MEMORY
from dsnn_utils.runs.rows import successful
from dsnn_utils.study.strategies import STRATEGY_ORDER


@styled
def plot_strategies(results: pd.DataFrame) -> DualFigure:
    """Hypervolume over trials of several strategies, from `study.read_comparison`.

    One panel per problem: mean over the seeds with its standard error, and the number of seeds.
    """
    require_columns(results, ["problem", "strategy", "seed", "trials", "hypervolume"])
    panels = {
        str(problem): (AXES["trial"][0], part.rename(columns={"trials": "x"}))
        for problem, part in results.groupby("problem", sort=False)
    }
    return _strategy_panels(panels, results)


@styled
def plot_strategy_curves(curves: pd.DataFrame) -> DualFigure:
    """Hypervolume over trials and over cost of one's own runs, from `study.strategy_curves`.

    A panel for each: mean over the seeds with its standard error, and the number of seeds.
    """
    require_columns(curves, ["over", "x", "strategy", "seed", "hypervolume"])
    labels = {"duration_s": "Time spent in trials (s)"}
    panels = {
        f"Over {'trials' if over == 'trial' else 'cost'}": (
            labels.get(str(over)) or AXES[str(over)][0],
            part,
        )
        for over, part in curves.groupby("over", sort=False)
    }
    return _strategy_panels(panels, curves)


def _strategy_panels(
    panels: Mapping[str, tuple[str, pd.DataFrame]], data: pd.DataFrame
) -> DualFigure:
    """{title: (label of the x axis, table with x, strategy, seed and hypervolume)} side by side."""
    import plotly.graph_objects as go
    import seaborn as sns
    from plotly.subplots import make_subplots

    found = list(dict.fromkeys(data["strategy"]))
    names = [n for n in STRATEGY_ORDER if n in found]
    names += [n for n in found if n not in names]
    free = [colour for colour in (*CATEGORIES, GREY) if colour != BLACK]
    colours = dict(zip(names, free * 9, strict=False)) | {"smac_mf": BLACK}
    figure, axes = new_axes(TWO_COLUMNS, 2.9, columns=len(panels), squeeze=False)
    live = plotly_figure(height=420)
    live = make_subplots(1, len(panels), subplot_titles=list(panels), figure=live)
    shown = set()
    for column, (axis, (title, (label, part))) in enumerate(
        zip(axes.flat, panels.items(), strict=True), start=1
    ):
        sns.lineplot(
            part, x="x", y="hypervolume", hue="strategy", style="strategy", errorbar="se",
            hue_order=names, style_order=names[::-1], palette=colours, lw=1.4, ax=axis,
        )  # fmt: skip
        handles = axis.get_legend_handles_labels()[0]
        axis.get_legend().remove()
        seeds = part.groupby("strategy")["seed"].nunique()
        spread = f"{seeds.min()}" if seeds.nunique() == 1 else f"{seeds.min()} to {seeds.max()}"
        axis.set_title(f"{title} ({spread} seeds)", fontsize=8)
        axis.set(xlabel=label, ylabel="")
        for name in [n for n in names if n in set(part["strategy"])]:
            runs = part[part["strategy"] == name].groupby("x")["hypervolume"]
            curve = runs.agg(["mean", "sem"]).reset_index()
            live.add_trace(
                go.Scatter(
                    x=curve["x"].tolist(), y=curve["mean"].tolist(), name=name,
                    legendgroup=name, showlegend=name not in shown, line={"color": colours[name]},
                    error_y={"array": curve["sem"].tolist(), "thickness": 0.7},
                ),
                row=1, col=column,
            )  # fmt: skip
            shown.add(name)
        live.update_xaxes(title=label, row=1, col=column, **PLOTLY_AXIS)
        live.update_yaxes(row=1, col=column, **PLOTLY_AXIS)
    axes.flat[0].set_ylabel("Hypervolume (share of reference\nbox), mean and standard error")
    live.update_yaxes(title="Hypervolume (share of reference box)", row=1, col=1)
    legend_above(figure, handles)
    return DualFigure(figure, live, data, "Hypervolume over trials of search strategies")


@styled
def plot_published(comparison: pd.DataFrame) -> DualFigure:
    """Published values beside ours, from `study.compare`; hollow marks are not comparable.

    Only rows in percent are drawn: other units have no common axis.
    """
    require_columns(comparison, ["what", "published", "ours", "unit", "comparable"])
    rows = comparison[comparison["unit"] == "%"].reset_index(drop=True)
    figure, axis = new_axes(TWO_COLUMNS, 0.8 + 0.2 * len(rows))
    y = np.arange(len(rows))
    axis.plot(rows["published"], y, "D", color=BLACK, ms=4.5, label="published")
    for comparable, face, label in ((True, BLUE, "ours"), (False, "white", "ours, not comparable")):
        mask = (rows["comparable"] == comparable) & rows["ours"].notna()
        if mask.any():
            axis.plot(rows.loc[mask, "ours"], y[mask], "o", mfc=face, mec=BLUE, ms=5.5, label=label)
    for i, row in rows.iterrows():
        if pd.notna(row["ours"]):
            axis.plot([row["published"], row["ours"]], [i, i], color=LIGHT, lw=1, zorder=0)
    axis.set_yticks(y, rows["what"])
    axis.invert_yaxis()
    axis.set(xlabel="Value (%)")
    figure.legend(loc="outside upper center", ncols=3)
    return DualFigure(figure, data=comparison, description="Published values beside ours")


@styled
def plot_finals(summary: pd.DataFrame, cost: str = ENERGY_WITH_MEMORY) -> DualFigure:
    """Test accuracy over modelled energy of tested networks, from `analysis.summarise_points`.

    Whiskers are 95 % intervals of the mean over seeds; a network of a single seed has none. The
    star is the network named "default", or whatever begins so. Networks whose trainings all failed
    are left out.
    """
    needed = ["origin", "shift_depth", "seeds", "test_accuracy", "test_accuracy_half_width", cost]
    require_columns(summary, needed)
    rows = summary.dropna(subset=["test_accuracy"]).sort_values(cost, kind="stable")
    norm = depth_norm(rows)
    figure, axis = new_axes(TWO_COLUMNS, 3.0)
    label, factor = AXES[cost]
    for _, row in rows.iterrows():
        default = row["origin"].startswith("default")
        colour = VERMILION if default else DEPTH_COLOURS(norm(row["shift_depth"]))
        x, y = factor * row[cost], 100 * row["test_accuracy"]
        half_width = 100 * row["test_accuracy_half_width"]
        axis.errorbar(
            x, y, None if np.isnan(half_width) else half_width, color=colour, capsize=2.5, lw=1,
            marker="*" if default else "o", ms=11 if default else 6, zorder=3,
        )  # fmt: skip
    wide = rows[cost].max() > 4 * rows[cost].min()
    axis.set(xlabel=label, ylabel="Test accuracy (%)", xscale="log" if wide else "linear")
    if wide:
        axis.xaxis.set_major_locator(LogLocator(10, (1, 2, 5)))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_formatter("{x:g}")
    axis.margins(x=0.18, y=0.12)
    bar = figure.colorbar(mpl.cm.ScalarMappable(norm, DEPTH_COLOURS), ax=axis, pad=0.02)
    bar.set_label("Shift depth (layers); star: published default")
    bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    bar.outline.set_visible(False)
    figure.draw_without_rendering()  # from here on it is known how much room a label takes
    taken: list[Bbox] = []
    for _, row in rows.sort_values("test_accuracy", ascending=False).iterrows():
        text = f"{row['origin']}, n = {row['seeds']}"
        place = factor * row[cost], 100 * row["test_accuracy"]
        note = axis.annotate(text, place, (6, 3), textcoords="offset points", fontsize=7)
        for side, offset in (("left", (6, 3)), ("left", (6, -9)), ("right", (-6, -9))):
            note.set(ha=side, position=offset)
            if not any(note.get_window_extent().overlaps(other) for other in taken):
                break
        taken.append(note.get_window_extent())
    text = "Test accuracy over modelled energy of " + ", ".join(map(str, rows["origin"]))
    return DualFigure(figure, data=rows, description=text)


@styled
def plot_grid(trials: pd.DataFrame, cost: str = ENERGY_WITH_MEMORY) -> DualFigure:
    """Validation accuracy of a full grid: depth x weight bits, a map per type and activation bits.

    Framed cells are on the Pareto front of the whole grid, of loss and `cost`. Trainings that
    failed leave an empty cell.
    """
    failed = (trials["status"] != "SUCCESS").any()
    rows = successful(trials, ("loss", cost))
    on_front = rows.index.isin(pareto_front(rows, ("loss", cost)).index)
    bits = list(ACTIVATION_BITS)
    rows = rows.assign(on_front=on_front, total=rows[bits].sum(axis=1))
    types = sorted(rows["shift_type"].unique(), reverse=True)
    pairs = rows[[*bits, "total"]].drop_duplicates().sort_values(["total", *bits]).to_numpy()
    shape = len(types), len(pairs)
    figure, axes = new_axes(
        TWO_COLUMNS, 0.9 + 1.75 * shape[0], *shape, sharex=True, sharey=True, squeeze=False
    )
    low, high = (100 * rows["val_accuracy"].quantile(q) for q in (0.02, 1))
    for axis_row, kind in zip(axes, types, strict=True):
        for axis, (integer, fraction, _) in zip(axis_row, pairs, strict=True):
            chosen = (rows["shift_type"] == kind) & (rows[bits] == [integer, fraction]).all(axis=1)
            part = rows[chosen]
            keys = {"index": "weight_bits", "columns": "shift_depth", "aggfunc": "mean"}
            accuracy = 100 * part.pivot_table("val_accuracy", **keys)
            heatmap(axis, accuracy, "viridis", low, high, accuracy.map("{:.0f}".format))
            for cell in part[part["on_front"]].itertuples():
                place = (
                    accuracy.columns.get_loc(cell.shift_depth) - 0.5,
                    accuracy.index.get_loc(cell.weight_bits) - 0.5,
                )
                axis.add_patch(Rectangle(place, 1, 1, fill=False, ec=PINK, lw=1.8, zorder=4))
            axis.set_title(f"{kind}, activations {integer} + {fraction} bits")
            axis.tick_params(length=0)
            axis.spines[:].set_visible(False)
        axis_row[0].set_ylabel("Weight bits")
    for axis in axes[-1]:
        axis.set_xlabel("Shift depth (layers)")
    frame = Patch(fill=False, ec=PINK, lw=1.8, label="on the Pareto front of the grid")
    empty = Patch(fill=False, ec=GREY, lw=0.5, label="empty: training failed")
    legend_above(figure, [frame, empty] if failed else [frame])
    bar = figure.colorbar(
        mpl.cm.ScalarMappable(mpl.colors.Normalize(low, high), "viridis"), ax=axes, pad=0.01
    )
    bar.set_label("Validation accuracy (%)")
    bar.outline.set_visible(False)
    columns = ["shift_type", *bits, "weight_bits", "shift_depth", "val_accuracy", cost, "on_front"]
    text = "Validation accuracy over depth, weight bits, activation bits and type"
    return DualFigure(figure, data=rows[columns], description=text)
