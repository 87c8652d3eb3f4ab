"""Trainings over their epochs."""

import itertools
import math
import textwrap
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from dsnn_utils.checks import require_columns
from dsnn_utils.plots.style import (
    BLUE,
    DEPTH_COLOURS,
    GREY,
    PLOTLY_AXIS,
    TWO_COLUMNS,
    DualFigure,
    colours_of,
    depth_norm,
    heatmap,
    legend_above,
    new_axes,
    plotly_figure,
    styled,
)


@styled
def plot_training(histories: Mapping[str, Sequence[Mapping]]) -> DualFigure:
    """Loss and accuracy over the epochs of {name: history}, as `training.train` returns them."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    figure, axes = new_axes(TWO_COLUMNS, 2.5, 1, 2)
    live = plotly_figure()
    live = make_subplots(figure=live, rows=1, cols=2)
    tables = []
    panels = (("loss", "Cross entropy (nats)", 1), ("accuracy", "Accuracy (%)", 100))
    colours = colours_of(histories)
    for (name, history), marker in zip(histories.items(), itertools.cycle("os^D"), strict=False):
        colour = colours[name]
        table = pd.DataFrame(history)
        require_columns(table, ["epoch", "train_loss", "validation_loss"])
        tables.append(table.assign(run=name))
        style = {"color": colour, "ms": 2.5, "marker": marker if len(table) < 30 else None}
        for column, (what, _, factor) in enumerate(panels):
            for part, dashes in (("validation", "-"), ("train", ":")):
                y = factor * table[f"{part}_{what}"]
                if part == "train":
                    axes[column].plot(table["epoch"], y, dashes, color=colour, lw=1)
                else:
                    axes[column].plot(table["epoch"], y, dashes, label=name, **style)
                live.add_trace(
                    go.Scatter(
                        x=table["epoch"].tolist(), y=y.tolist(), name=f"{name}, {part}",
                        legendgroup=name, showlegend=column == 0 and part == "validation",
                        line={"color": colour, "dash": "solid" if dashes == "-" else "dot"},
                    ),
                    row=1, col=column + 1,
                )  # fmt: skip
    for column, (_, label, _) in enumerate(panels):
        axes[column].set(xlabel="Epoch", ylabel=label)
        axes[column].xaxis.set_major_locator(MaxNLocator(integer=True))
        live.update_yaxes(title=label, row=1, col=column + 1, **PLOTLY_AXIS)
    # Early losses, and those of evaluation in particular, are many times the last ones.
    axes[0].set_yscale("log")
    axes[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes[0].yaxis.set_major_formatter("{x:g}")
    axes[0].yaxis.set_minor_locator(NullLocator())
    ticks = np.outer(10.0 ** np.arange(-6, 4), (1, 2, 5)).ravel().tolist()
    live.update_yaxes(
        type="log", row=1, col=1, tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks]
    )
    title = {"text": "dotted: training", "side": "top"}
    legend = {"orientation": "h", "yanchor": "bottom", "y": 1.02, "title": title}
    live.update_layout(legend=legend, margin={"t": 110})
    live.update_xaxes(title="Epoch", **PLOTLY_AXIS)
    handles, _ = axes[0].get_legend_handles_labels()
    styles = [
        Line2D([], [], color=GREY, ls="-", label="validation"),
        Line2D([], [], color=GREY, ls=":", label="training"),
    ]
    legend_above(figure, handles + styles)
    data = pd.concat(tables, ignore_index=True)
    return DualFigure(figure, live, data, "Training of " + ", ".join(histories))


@styled
def plot_learning_curves(curves: pd.DataFrame) -> DualFigure:
    """Validation accuracy over epochs, from `analysis.learning_curves`; mean and range over seeds.

    One line per point; more than eight points have a panel each, and more than 24 are put together
    by shift depth (mean over the points of a depth).
    """
    import plotly.graph_objects as go
    import seaborn as sns

    require_columns(curves, ["point", "shift_depth", "seed", "epoch", "val_accuracy"])
    percent = curves.assign(percent=100 * curves["val_accuracy"])
    points = list(dict.fromkeys(curves["point"]))
    if len(points) > 24:
        depths = sorted(set(curves["shift_depth"]))
        percent["point"] = percent["shift_depth"].map("depth {}".format)
        points = [f"depth {depth}" for depth in depths]
    if len(points) <= 8 and len(points) == curves["point"].nunique():
        colours = colours_of(map(str, points))
    else:
        norm, depth = depth_norm(curves), percent.groupby("point")["shift_depth"].first()
        colours = {p: mpl.colors.to_hex(DEPTH_COLOURS(norm(depth[p]))) for p in points}
    if 8 < curves["point"].nunique() <= 24:
        figure = _curve_panels(percent, points)
    else:
        figure, axis = new_axes(TWO_COLUMNS, 2.8)
        sns.lineplot(
            percent, x="epoch", y="percent", hue="point", hue_order=points, palette=colours,
            style="point", style_order=points, dashes=len(points) <= 8,
            errorbar=("pi", 100), ax=axis,
        )  # fmt: skip
        handles = axis.get_legend_handles_labels()[0]
        axis.get_legend().remove()
        axis.set(xlabel="Epoch", ylabel="Validation accuracy (%)")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        legend_above(figure, handles)
    live = plotly_figure(height=420, hovermode="x unified")
    for name in points:
        mean = percent[percent["point"] == name].groupby("epoch")["percent"].mean()
        live.add_trace(
            go.Scatter(x=mean.index.tolist(), y=mean.round(3).tolist(), name=str(name),
                       line={"color": colours[name]})
        )  # fmt: skip
    live.update_xaxes(title="Epoch", **PLOTLY_AXIS)
    live.update_yaxes(title="Validation accuracy (%)", **PLOTLY_AXIS)
    return DualFigure(figure, live, curves, "Validation accuracy over epochs")


def _curve_panels(percent: pd.DataFrame, points: Sequence[str]) -> Figure:
    """A panel per point, the others behind it in grey."""
    columns = 3 if len(points) <= 12 else 4
    rows = math.ceil(len(points) / columns)
    figure, axes = new_axes(
        TWO_COLUMNS, 0.5 + 1.25 * rows, rows, columns, sharex=True, sharey=True, squeeze=False
    )
    seeds = percent.groupby(["point", "epoch"])["percent"]
    means = seeds.mean().unstack("epoch")
    ranges = seeds.agg(["min", "max"])
    for axis, point in zip(axes.flat, points, strict=False):
        axis.plot(means.columns, means.drop(index=point).T, color="0.85", lw=0.6)
        axis.fill_between(means.columns, *ranges.loc[point].T.to_numpy(), color=BLUE, alpha=0.25)
        axis.plot(means.columns, means.loc[point], color=BLUE, lw=1.6)
        axis.set_title(textwrap.fill(str(point), 120 // columns), fontsize=7)
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    for axis in axes.flat[len(points) :]:
        axis.remove()
    for axis in axes.flat[max(0, len(points) - columns) : len(points)]:
        axis.xaxis.set_tick_params(labelbottom=True)
    figure.supxlabel("Epoch", fontsize=8)
    figure.supylabel("Validation accuracy (%)", fontsize=8)
    return figure


@styled
def plot_formats(cells: pd.DataFrame) -> DualFigure:
    """Validation accuracy by number format: a panel per weight bits, a row per label.

    `cells` is a table of `analysis.accuracy_by_format`. A cell has the mean over the seeds that
    succeeded; a note says where some failed, and a cross where all did.
    """
    labels = list(dict.fromkeys(cells["origin"]))
    weight_bits = sorted(cells["weight_bits"].unique())
    height = max(2.0, 0.9 + 0.24 * len(labels))  # room for the label of the colour bar
    figure, axes = new_axes(TWO_COLUMNS, height, 1, len(weight_bits), sharey=True, squeeze=False)
    low, high = (100 * cells["mean"].quantile(q) for q in (0.02, 1))
    for axis, bits in zip(axes[0], weight_bits, strict=True):
        part = cells[cells["weight_bits"] == bits].set_index(["origin", "activation_bits"])
        table = {name: part[name].unstack().reindex(labels[::-1]) for name in ("mean", "failed")}
        accuracy, failed = 100 * table["mean"], table["failed"].fillna(0)
        notes = accuracy.map("{:.1f}".format) + failed.map(lambda n: f" ({n:.0f} ✗)" if n else "")
        image = heatmap(axis, accuracy, "viridis", low, high, notes)
        for row, column in np.argwhere((accuracy.isna() & (failed > 0)).to_numpy()):
            axis.text(column, row, "✗", ha="center", va="center", color=GREY)
        axis.set(title=f"{bits} weight bits", xlabel="Activation bits")
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, pad=0.01, aspect=30)
    bar.set_label("Validation accuracy (%)")
    bar.outline.set_visible(False)
    if cells["failed"].any():
        cross = Line2D([], [], marker="$✗$", ls="", color=GREY, label="a training that failed")
        legend_above(figure, [cross])
    seeds = cells["seeds"].max()
    return DualFigure(
        figure, data=cells, description=f"Accuracy by number format, {seeds} seeds each"
    )
