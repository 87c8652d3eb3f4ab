"""Every figure of the notebooks, in one style (see `dsnn_utils.style`).

Each function takes plain data (a trials table, a dict of arrays) and returns a `TwoFaced`: a static
matplotlib figure for papers, GitHub and HTML export, and for the figures one explores also an
interactive plotly figure. Every axis carries its unit.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullLocator

from dsnn_utils import pareto
from dsnn_utils.comparison import STRATEGY_ORDER
from dsnn_utils.energy import MEMORY_PJ_PER_BIT
from dsnn_utils.footprint import BreakEven
from dsnn_utils.front import LiveFront, plot_front
from dsnn_utils.meter import repetitions_to_rank, summarise_readings
from dsnn_utils.style import (
    AXES,
    BLACK,
    BLUE,
    CATEGORIES,
    DEPTH_COLOURS,
    GREEN,
    GREY,
    LIGHT,
    NAMES,
    ONE_COLUMN,
    ORANGE,
    PINK,
    PLOTLY_AXIS,
    SKY,
    TWO_COLUMNS,
    VERMILION,
    TwoFaced,
    bin_index,
    bin_labels,
    bins_of,
    depth_norm,
    legend_above,
    new_axes,
    plotly_figure,
    styled,
    use_style,
)

__all__ = [
    "LiveFront",
    "TwoFaced",
    "plot_ablation",
    "plot_accuracy_drop",
    "plot_break_even",
    "plot_depth_and_bits",
    "plot_depth_correlation",
    "plot_energy_by_kind",
    "plot_energy_depth",
    "plot_fidelities",
    "plot_finals",
    "plot_front",
    "plot_grid",
    "plot_grids",
    "plot_hypervolume",
    "plot_importance",
    "plot_learning_curves",
    "plot_network",
    "plot_noise",
    "plot_parallel",
    "plot_partial_dependence",
    "plot_promotions",
    "plot_published",
    "plot_rounding",
    "plot_rounding_bias",
    "plot_space",
    "plot_strategies",
    "plot_tradeoff",
    "plot_training",
    "plot_weights",
    "use_style",
]

# ----------------------------------------------------------------- notebook 1: building networks


@styled
def plot_rounding(values, power_of_two, fixed_point) -> TwoFaced:
    """Weights rounded to powers of two and activations to fixed point, with their errors.

    Three arrays of one length: the values (ascending) and what each rounding makes of them.
    """
    x, *rounded = (np.asarray(a, dtype=float).ravel() for a in (values, power_of_two, fixed_point))
    figure, axes = new_axes(TWO_COLUMNS, 3.4, 2, 2, sharex=True, sharey="row", height_ratios=(2, 1))
    names = ("Power of two (weights)", "Fixed point (activations)")
    for column, (name, y, colour) in enumerate(zip(names, rounded, (BLUE, ORANGE), strict=True)):
        top, bottom = axes[:, column]
        # The rounded values are constant on stretches: their ends draw everything.
        first = np.flatnonzero(np.diff(y, prepend=np.nan) != 0)
        last = np.append(first[1:], len(y)) - 1
        top.plot(x[[0, -1]], x[[0, -1]], color=GREY, lw=0.8, ls="--", label="exact")
        top.hlines(y[first], x[first], x[last], color=colour, lw=1.8, label="rounded")
        single = first[first == last]
        top.plot(x[single], y[single], "o", color=colour, ms=2.5)
        top.set(title=name, ylabel="Rounded value\n(dimensionless)" if column == 0 else None)
        top.legend(loc="upper left")
        ends = np.ravel([first, last], order="F")
        bottom.fill_between(x[ends], (y - x)[ends], color=colour, alpha=0.35, lw=0)
        bottom.plot(x[ends], (y - x)[ends], color=colour, lw=0.7)
        bottom.set(xlabel="Value (dimensionless)")
        bottom.set_ylabel("Error\n(dimensionless)" if column == 0 else None)
        bottom.axhline(0, color=GREY, lw=0.6)
    figure.align_ylabels(axes[:, 0])
    data = pd.DataFrame({"value": x, "power_of_two": rounded[0], "fixed_point": rounded[1]})
    return TwoFaced(figure, data=data, description="Power-of-two and fixed-point rounding")


@styled
def plot_rounding_bias(fraction, nearest, stochastic, expected) -> TwoFaced:
    """Relative error of a power of two over the place of the value between two powers.

    Four arrays of one length: the fractional part of log2|w| (ascending, 0..1), the relative errors
    (0..1) of rounding to the nearest, the mean ones of stochastic rounding, and what is expected.
    """
    columns = {"nearest": nearest, "stochastic": stochastic, "expected": expected}
    data = pd.DataFrame({"fraction": fraction, **columns}).astype(float)
    figure, axis = new_axes(ONE_COLUMN * 1.5, 2.5)
    x, percent = data["fraction"], 100 * data[list(columns)]
    axis.axhline(0, color=GREY, lw=0.6)
    jump = np.flatnonzero(np.diff(percent["nearest"]) > 0) + 1
    axis.plot(np.insert(x, jump, np.nan), np.insert(percent["nearest"], jump, np.nan), color=BLUE,
              label="nearest")  # fmt: skip
    axis.plot(x, percent["expected"], color=ORANGE, label="stochastic, expected")
    axis.plot(x, percent["stochastic"], "o", color=VERMILION, ms=2.5,
              label="stochastic, drawn")  # fmt: skip
    axis.set(xlabel="Fractional part of log₂|w|", ylabel="Error relative to w (%)", xlim=(0, 1))
    legend_above(figure, axis.get_legend_handles_labels()[0])
    return TwoFaced(figure, data=data, description="Bias of stochastic power-of-two rounding")


@styled
def plot_network(layers: Sequence[str], depths: Sequence[int], macs: Mapping | None = None):
    """The network at several shift depths: one row of boxes per depth, shift layers coloured.

    layers: names in conversion order, as `shiftable_layers(model)` gives them (output end first);
    macs: {name: multiply-accumulates per image}; when given, drawn as bars above the boxes, and the
    share that the shift layers of a row take is written beside it.
    """
    layers, depths = list(layers), [int(d) for d in depths]
    for depth in depths:
        if not 0 <= depth <= len(layers):
            raise ValueError(f"depths={depth}: must be an integer from 0 to {len(layers)}")
    n, rows = len(layers), len(depths)
    ratios = (1, 0.32 * rows + 0.3)
    if macs is None:
        figure, boxes = new_axes(TWO_COLUMNS, 0.95 + 0.24 * rows)
    else:
        figure, (bars, boxes) = new_axes(
            TWO_COLUMNS, 1.9 + 0.24 * rows, 2, sharex=True, height_ratios=ratios
        )
        share = [100 * macs[name] / sum(macs.values()) for name in reversed(layers)]
        bars.bar(np.arange(1, n + 1), share, color=GREY, width=0.8)
        bars.set(ylabel="Share of\nMACs (%)")
        bars.grid(axis="x", visible=False)
        bars.text(
            n + 0.9, -0.04, "MACs that\nshift", transform=bars.get_xaxis_transform(), va="top"
        )
    for row, depth in enumerate(depths):
        if macs is not None:
            shifted_share = sum(share[n - depth :])
            text = "< 1 %" if 0 < shifted_share < 1 else f"{shifted_share:.0f} %"
            boxes.text(n + 0.9, row, text, va="center")
        for position in range(1, n + 1):
            shifted = position > n - depth
            boxes.add_patch(
                Rectangle(
                    (position - 0.42, row - 0.36), 0.84, 0.72, lw=0.5, ec="#444444",
                    fc=BLUE if shifted else "#F2F2F2",
                )
            )  # fmt: skip
    boxes.set_xlim(0.3, n + 0.7)
    boxes.set_ylim(rows - 0.4, -0.6)
    boxes.set_yticks(range(rows), [str(d) for d in depths])
    boxes.set(ylabel="Shift depth\n(layers)", xlabel=f"Layer (1 = input end, {n} = output end)")
    boxes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=12))
    boxes.grid(visible=False)
    boxes.tick_params(axis="y", length=0)
    for side in ("left", "bottom"):
        boxes.spines[side].set_visible(False)
    figure.legend(
        handles=[Patch(fc="#F2F2F2", ec="#444444", lw=0.5, label="plain layer"),
                 Patch(fc=BLUE, ec="#444444", lw=0.5, label="shift layer")],
        loc="outside upper center", ncols=2,
    )  # fmt: skip
    data = pd.DataFrame(
        [
            {"shift_depth": d, "position": n - i, "layer": name, "shift": i < d}
            for d in depths
            for i, name in enumerate(layers)
        ]
    )
    what = ", ".join(f"depth {d}: {d} of {n} layers shift" for d in depths)
    return TwoFaced(figure, data=data, description=f"Network by shift depth ({what})")


def _power_label(value: float) -> str:
    if value == 0:
        return "0"
    power = int(round(np.log2(abs(value))))
    return ("−" if value < 0 else "") + (f"$2^{{{power}}}$" if power else "1")


@styled
def plot_weights(weights: Mapping[str, object], before: Mapping[str, object] | None = None):
    """Histograms of weights, one panel per entry of {name: array}.

    Arrays of at most 64 distinct values (Q and PS weights) are drawn as one bar per value; of
    others, the outermost 0.1 % are added to the end bars.
    before: {name: array} of the same weights at another time, drawn as outlines.
    """
    figure, axes = new_axes(TWO_COLUMNS, 2.2, 1, len(weights), squeeze=False)
    parts = []
    for axis, name, colour in zip(axes[0], weights, CATEGORIES * 9, strict=False):
        arrays = [np.asarray(weights[name], dtype=float).ravel()]
        if before is not None:
            arrays.append(np.asarray(before[name], dtype=float).ravel())
        distinct = np.unique(np.concatenate(arrays))
        if len(distinct) <= 64:
            # Label the ends and, on both sides alike, every so many values.
            half = len(distinct) // 2
            left = np.arange(0, half, int(np.ceil(half / 2)) or 1)
            middle = [half] if len(distinct) % 2 else []
            ticks = [*left, *middle, *(len(distinct) - 1 - left)]
            axis.set_xticks(ticks, [_power_label(distinct[t]) for t in ticks])
            axis.set(xlabel="Weight, one bar per value")
            axis.grid(axis="x", visible=False)
            counts = [np.unique(np.append(a, distinct), return_counts=True)[1] - 1 for a in arrays]
            edges = np.arange(len(distinct) + 1) - 0.5
            values = distinct
        else:
            edges = np.linspace(*np.quantile(np.concatenate(arrays), (0.0005, 0.9995)), 61)
            counts = [np.histogram(a.clip(*edges[[0, -1]]), bins=edges)[0] for a in arrays]
            axis.set(xlabel="Weight (dimensionless)")
            values = edges[:-1]
        share = [100 * c / len(a) for c, a in zip(counts, arrays, strict=True)]
        if len(distinct) <= 64:
            axis.bar(range(len(distinct)), share[0], color=colour, width=0.85)
        else:
            axis.stairs(share[0], edges, fill=True, color=colour)
        part = pd.DataFrame({"weights": name, "value": values, "share_percent": share[0]})
        if before is not None:
            axis.stairs(share[1], edges, color=BLACK, lw=0.8)
            part["share_before_percent"] = share[1]
        parts.append(part)
        axis.set_title(name)
    axes[0][0].set_ylabel("Share of weights (%)")
    if before is not None:
        legend_above(figure, [
            Patch(fc="white", ec=BLACK, lw=0.8, label="before training"),
            Patch(color=GREY, label="after training"),
        ])  # fmt: skip
    description = "Histograms of weights: " + ", ".join(weights)
    return TwoFaced(figure, data=pd.concat(parts), description=description)


@styled
def plot_training(
    histories: Mapping[str, Sequence[Mapping]], colours: Sequence[str] = CATEGORIES
) -> TwoFaced:
    """Loss and accuracy over the epochs of {name: history}, as `training.train` returns them."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    figure, axes = new_axes(TWO_COLUMNS, 2.5, 1, 2)
    live = plotly_figure()
    live = make_subplots(figure=live, rows=1, cols=2)
    tables = []
    panels = (("loss", "Cross entropy (nats)", 1), ("accuracy", "Accuracy (%)", 100))
    for (name, history), colour in zip(histories.items(), tuple(colours) * 9, strict=False):
        table = pd.DataFrame(history)
        pareto.require_columns(table, ["epoch", "train_loss", "validation_loss"])
        tables.append(table.assign(run=name))
        style = {"color": colour, "ms": 2.5, "marker": "o" if len(table) < 30 else None}
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
    ticks = np.outer(10.0 ** np.arange(-6, 4), (1, 2, 5)).ravel()
    ticks = {"tickvals": ticks.tolist(), "ticktext": [f"{tick:g}" for tick in ticks]}
    live.update_yaxes(type="log", row=1, col=1, **ticks)
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
    return TwoFaced(figure, live, data, "Training of " + ", ".join(histories))


# ----------------------------------------------------------------- notebook 2: the search space


@styled
def plot_space(samples: pd.DataFrame) -> TwoFaced:
    """How sampled configurations are distributed: one panel per hyperparameter."""
    names = [n for n in ("shift_depth", *pareto.CONFIGURATION) if n in samples.columns]
    names = [n for n in names if samples[n].nunique() > 1] or names
    if not names:
        raise ValueError("samples: must have at least one hyperparameter column")
    columns = min(4, len(names))
    rows = int(np.ceil(len(names) / columns))
    figure, axes = new_axes(TWO_COLUMNS, 1.45 * rows + 0.1, rows, columns, squeeze=False)
    parts = []
    for axis, name in zip(axes.flat, names, strict=False):
        column = samples[name].dropna()
        numeric = pd.api.types.is_numeric_dtype(column)
        if numeric and column.nunique() > 40:
            log = name in pareto.LOG_SCALED and column.min() > 0
            edges = (np.geomspace if log else np.linspace)(column.min(), column.max(), 16)
            counts, _ = np.histogram(column, bins=edges)
            axis.stairs(counts, edges, fill=True, color=BLUE)
            if log:
                axis.set_xscale("log")
                axis.xaxis.set_minor_locator(NullLocator())
            labels = edges[:-1]
        else:
            tally = column.value_counts().sort_index()
            labels, counts = tally.index, tally.to_numpy()
            where = labels if numeric else np.arange(len(labels))
            axis.bar(
                where,
                counts,
                color=BLUE,
                width=0.8 * (np.diff(where).min() if len(where) > 1 else 1),
            )
            if not numeric:
                axis.set_xticks(where, labels, rotation=45 if len(labels) > 3 else 0,
                                ha="right" if len(labels) > 3 else "center",
                                rotation_mode="anchor")  # fmt: skip
            else:
                axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
            axis.grid(axis="x", visible=False)
        axis.set_title(NAMES[name])
        axis.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))
        parts.append(pd.DataFrame({"hyperparameter": name, "value": labels, "count": counts}))
    for axis in axes.flat[len(names) :]:
        axis.remove()
    figure.supylabel("Sampled configurations", fontsize=8)
    description = f"Distribution of {len(samples)} sampled configurations"
    return TwoFaced(figure, data=pd.concat(parts), description=description)


@styled
def plot_learning_curves(curves: pd.DataFrame) -> TwoFaced:
    """Validation accuracy over epochs, from `given.learning_curves`; mean and range over seeds.

    One line per point; more than eight points have a panel each, and more than 24 are put together
    by shift depth (mean over the points of a depth).
    """
    import plotly.graph_objects as go
    import seaborn as sns

    pareto.require_columns(curves, ["point", "shift_depth", "seed", "epoch", "val_accuracy"])
    percent = curves.assign(percent=100 * curves["val_accuracy"])
    points = list(dict.fromkeys(curves["point"]))
    if len(points) > 24:
        depths = sorted(set(curves["shift_depth"]))
        percent["point"] = percent["shift_depth"].map("depth {}".format)
        points = [f"depth {depth}" for depth in depths]
    if len(points) <= 8 and len(points) == curves["point"].nunique():
        colours = sns.color_palette(CATEGORIES, len(points)).as_hex()
    else:
        norm, depth = depth_norm(curves), percent.groupby("point")["shift_depth"].first()
        colours = [mpl.colors.to_hex(DEPTH_COLOURS(norm(depth[point]))) for point in points]
    colours = dict(zip(points, colours, strict=True))
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
    return TwoFaced(figure, live, curves, "Validation accuracy over epochs")


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


# ------------------------------------------------------------------- notebook 4: the analysis


@styled
def plot_hypervolume(curves: pd.DataFrame, group: str | None = None) -> TwoFaced:
    """Hypervolume over trials, epochs or time, from `pareto.hypervolume_over`.

    One line per run; with `group` (such as "strategy") runs of a group share a colour and their
    median is drawn thick.
    """
    import plotly.graph_objects as go

    pareto.require_columns(curves, ["hypervolume", *([group] if group else [])])
    x = next((n for n in ("trial", "epochs", "duration_s") if n in curves.columns), None)
    if x is None:
        raise ValueError("curves: must have a column trial, epochs or duration_s")
    label = "Time spent in trials (s)" if x == "duration_s" else AXES[x][0]
    keys = [c for c in curves.columns if c not in (x, "hypervolume")]
    figure, axis = new_axes(ONE_COLUMN, 2.3)
    live = plotly_figure(height=400, hovermode="x unified")
    groups = sorted(curves[group].unique()) if group else [None]
    for name, colour in zip(groups, CATEGORIES * 9, strict=False):
        part = curves[curves[group] == name] if group else curves
        runs = [run for _, run in part.groupby(keys, dropna=False)] if keys else [part]
        thin = len(runs) > 1
        for run in runs:
            axis.step(run[x], run["hypervolume"], where="post", color=colour,
                      lw=0.8 if thin else 1.6, alpha=0.5 if thin else 1)  # fmt: skip
        median = _median_curve(runs, x) if thin else runs[0]
        title = "median" if name is None else str(name)
        if thin:
            title = (
                f"median of {len(runs)} runs" if name is None else f"{name} (median of {len(runs)})"
            )
            axis.step(
                median[x], median["hypervolume"], where="post", color=colour, lw=1.8, label=title
            )
        elif name is not None:
            axis.lines[-1].set_label(title)
        live.add_trace(
            go.Scatter(x=median[x].tolist(), y=median["hypervolume"].tolist(), name=title,
                       line={"shape": "hv", "color": colour})
        )  # fmt: skip
    axis.set(xlabel=label, ylabel="Hypervolume (share\nof reference box)")
    axis.set_xlim(left=0)
    handles, _ = axis.get_legend_handles_labels()
    if handles:
        legend_above(figure, handles)
    live.update_xaxes(title=label, **PLOTLY_AXIS)
    live.update_yaxes(title="Hypervolume (share of reference box)", **PLOTLY_AXIS)
    return TwoFaced(figure, live, curves, f"Hypervolume over {label.lower()}")


@styled
def plot_strategies(results: pd.DataFrame) -> TwoFaced:
    """Hypervolume over trials of several strategies, from `comparison.read_comparison`.

    One panel per problem: mean over the seeds with its standard error, and the number of seeds.
    """
    import plotly.graph_objects as go
    import seaborn as sns
    from plotly.subplots import make_subplots

    needed = ["problem", "strategy", "seed", "trials", "hypervolume"]
    pareto.require_columns(results, needed)
    problems = list(dict.fromkeys(results["problem"]))
    names = [n for n in STRATEGY_ORDER if n in set(results["strategy"])]
    colours = dict(zip(names, [*CATEGORIES, GREY], strict=False)) | {"smac_mf": BLACK}
    figure, axes = new_axes(TWO_COLUMNS, 2.9, columns=len(problems), squeeze=False)
    live = plotly_figure(height=420)
    live = make_subplots(1, len(problems), subplot_titles=problems, figure=live)
    shown = set()
    for column, (axis, problem) in enumerate(zip(axes.flat, problems, strict=True), start=1):
        part = results[results["problem"] == problem]
        sns.lineplot(
            part, x="trials", y="hypervolume", hue="strategy", style="strategy", errorbar="se",
            hue_order=names, style_order=names[::-1], palette=colours, lw=1.4, ax=axis,
        )  # fmt: skip
        handles = axis.get_legend_handles_labels()[0]
        axis.get_legend().remove()
        seeds = part.groupby("strategy")["seed"].nunique()
        spread = f"{seeds.min()}" if seeds.nunique() == 1 else f"{seeds.min()} to {seeds.max()}"
        axis.set_title(f"{problem}: mean and standard error, {spread} seeds", fontsize=8)
        axis.set(xlabel=AXES["trial"][0], ylabel="")
        for name in [n for n in names if n in set(part["strategy"])]:
            runs = part[part["strategy"] == name].groupby("trials")["hypervolume"]
            curve = runs.agg(["mean", "sem"]).reset_index()
            live.add_trace(
                go.Scatter(
                    x=curve["trials"].tolist(), y=curve["mean"].tolist(), name=name,
                    legendgroup=name, showlegend=name not in shown, line={"color": colours[name]},
                    error_y={"array": curve["sem"].tolist(), "thickness": 0.7},
                ),
                row=1, col=column,
            )  # fmt: skip
            shown.add(name)
        live.update_xaxes(title=AXES["trial"][0], row=1, col=column, **PLOTLY_AXIS)
        live.update_yaxes(row=1, col=column, **PLOTLY_AXIS)
    axes.flat[0].set_ylabel("Hypervolume (share\nof reference box)")
    live.update_yaxes(title="Hypervolume (share of reference box)", row=1, col=1)
    legend_above(figure, handles)
    return TwoFaced(figure, live, results, "Hypervolume over trials of search strategies")


def _median_curve(runs: Sequence[pd.DataFrame], x: str) -> pd.DataFrame:
    grid = np.unique(np.concatenate([run[x].to_numpy(float) for run in runs]))
    grid = grid[grid <= min(run[x].max() for run in runs)]
    values = []
    for run in runs:
        at = np.searchsorted(run[x].to_numpy(float), grid, side="right") - 1
        values.append(np.where(at < 0, 0, run["hypervolume"].to_numpy()[np.maximum(at, 0)]))
    return pd.DataFrame({x: grid, "hypervolume": np.median(values, axis=0)})


@styled
def plot_depth_and_bits(counts: pd.DataFrame) -> TwoFaced:
    """Which depths and bits the front uses beside what was tried, from `pareto.depth_and_bits`."""
    pareto.require_columns(counts, ["parameter", "value", "front"])
    parameters = {
        "shift_depth": "Shift depth (layers)",
        "weight_bits": "Weight bits",
        "activation_bits": "Activation bits (integer + fraction)",
    }
    figure, axes = new_axes(TWO_COLUMNS, 2.2, 1, 3, sharey=True)
    for axis, (name, label) in zip(axes, parameters.items(), strict=True):
        part = counts[counts["parameter"] == name]
        bins = bins_of(part["value"])
        places = np.arange(len(bins))
        for column, colour, shift, what in (
            ("tried", LIGHT, -0.2, "all trials"),
            ("front", BLUE, 0.2, "Pareto front"),
        ):
            if column in part:
                index = bin_index(part["value"], bins)
                number = np.bincount(index, weights=part[column], minlength=len(bins))
                share = 100 * number / max(1, number.sum())
                axis.bar(places + shift, share, 0.4, color=colour, label=what)
        labels = bin_labels(bins)
        axis.set_xticks(places, labels, rotation=45 if max(map(len, labels)) > 3 else 0)
        axis.set(xlabel=label)
        axis.grid(axis="x", visible=False)
    axes[0].set_ylabel("Share (%)")
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=2)
    total = counts.loc[counts["parameter"] == "shift_depth", "front"].sum()
    return TwoFaced(figure, data=counts, description=f"Depths and bits of {total} front solutions")


PARALLEL = (
    "shift_depth", "shift_type", "weight_bits", "activation_integer_bits",
    "activation_fraction_bits", "optimizer", "lr", "loss",
)  # fmt: skip


@styled
def plot_parallel(trials: pd.DataFrame, cost: str = pareto.ENERGIES[0]) -> TwoFaced:
    """Parallel coordinates of the successful trials; brush the axes in the interactive face.

    Lines of the Pareto front (of loss and `cost`) are coloured by shift depth, all others are grey
    (static face).
    """
    import plotly.graph_objects as go

    rows, columns = pareto.successful(trials, ("loss", cost)), (*PARALLEL, cost)
    pareto.require_columns(trials, columns)
    front = rows.index.isin(pareto.pareto_front(trials, ("loss", cost)).index)
    norm = depth_norm(rows)
    scaled, ticks, dimensions = {}, {}, []
    for name in columns:
        scaled[name], ticks[name], dimension = _parallel_axis(rows[name], name)
        dimensions.append(dimension)
    figure, axis = new_axes(TWO_COLUMNS, 3.1)
    positions = np.arange(len(columns))
    lines = np.column_stack([scaled[name] for name in columns])
    # More grey lines than this only make a grey field.
    others = lines[~front]
    drawn = np.random.default_rng(0).permutation(len(others))[:300]
    segments = [np.column_stack([positions, line]) for line in others[np.sort(drawn)]]
    axis.add_collection(LineCollection(segments, colors=GREY, lw=0.4, alpha=0.3, zorder=1))
    depths = rows.loc[front, "shift_depth"]
    for line, depth in zip(lines[front], depths, strict=True):
        axis.plot(positions, line, color=DEPTH_COLOURS(norm(depth)), lw=1.2, zorder=3)
    for position, name in zip(positions, columns, strict=True):
        axis.axvline(position, color="#444444", lw=0.7, zorder=2)
        for where, text in ticks[name]:
            axis.text(position + 0.04, where, text, fontsize=7, va="center", zorder=4,
                      bbox={"fc": "white", "ec": "none", "alpha": 0.75, "pad": 0.4})  # fmt: skip
    axis.set_xticks(positions, [_short(name) for name in columns])
    axis.xaxis.tick_top()
    axis.tick_params(length=0, labelsize=7)
    axis.set_xlim(-0.15, len(columns) - 0.45)
    axis.set_ylim(-0.05, 1.05)
    axis.set_yticks([])
    axis.grid(visible=False)
    for side in axis.spines.values():
        side.set_visible(False)
    bar = figure.colorbar(
        mpl.cm.ScalarMappable(norm, DEPTH_COLOURS), ax=axis, location="bottom", aspect=50, pad=0.02
    )
    bar.set_label("Shift depth (layers) of Pareto-optimal trials; other trials are grey")
    bar.ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    bar.outline.set_visible(False)
    scale = [[float(v), mpl.colors.to_hex(DEPTH_COLOURS(float(v)))] for v in np.linspace(0, 1, 9)]
    live = plotly_figure(margin={"l": 60, "r": 60, "t": 70, "b": 30})
    live.add_trace(
        go.Parcoords(
            dimensions=dimensions, labelfont={"size": 12}, tickfont={"size": 11},
            rangefont={"size": 1, "color": "rgba(0,0,0,0)"},
            line={"color": rows["shift_depth"].astype(int).tolist(), "colorscale": scale,
                  "cmin": norm.vmin, "cmax": norm.vmax, "showscale": True,
                  "colorbar": {"title": {"text": "Shift depth (layers)", "side": "right"}}},
        )
    )  # fmt: skip
    description = f"Parallel coordinates of {len(rows)} trials, {int(front.sum())} on the front"
    return TwoFaced(figure, live, rows[list(columns)].assign(on_front=front), description)


ONE_LINE = {
    "activation_integer_bits": "Act. integer",
    "activation_fraction_bits": "Act. fraction",
    "loss": "Error (%)",
    "val_accuracy": "Accuracy (%)",
    "energy_modelled_j_per_image": "Energy (µJ)",
    "energy_modelled_with_memory_j_per_image": "with memory (µJ)",
}


def _short(name: str) -> str:
    label = {
        "loss": "Validation\nerror (%)",
        "val_accuracy": "Validation\naccuracy (%)",
        "energy_modelled_j_per_image": "Modelled\nenergy\n(µJ/image)",
        "energy_modelled_with_memory_j_per_image": "Modelled,\nwith memory\n(µJ/image)",
        "activation_integer_bits": "Activation\ninteger\nbits",
        "activation_fraction_bits": "Activation\nfraction\nbits",
    }.get(name)
    long = NAMES.get(name) or (AXES[name][0] if name in AXES else name)
    return label or long.replace(" ", "\n", 1)


def _parallel_axis(column: pd.Series, name: str) -> tuple[np.ndarray, list, dict]:
    """Positions in 0..1, tick labels for the static face and plotly's dimension."""
    label = ONE_LINE.get(name, NAMES.get(name, name))
    if not pd.api.types.is_numeric_dtype(column):
        names = sorted(column.astype(str).unique())
        codes = column.astype(str).map({n: i for i, n in enumerate(names)}).to_numpy(float)
        places = [i / max(1, len(names) - 1) for i in range(len(names))]
        dimension = {"label": label, "values": codes.tolist(), "ticktext": names,
                     "tickvals": list(range(len(names)))}  # fmt: skip
        return codes / max(1, len(names) - 1), list(zip(places, names, strict=True)), dimension
    factor = AXES[name][1] if name in AXES and name != "epochs" else 1
    values = factor * column.astype(float).to_numpy()
    log = name in pareto.LOG_SCALED and np.nanmin(values) > 0
    shown = np.log10(values) if log else values
    low, high = np.nanmin(shown), np.nanmax(shown)
    places = np.nan_to_num((shown - low) / ((high - low) or 1), nan=0.0)
    ends = [low, (low + high) / 2, high] if high > low else [low]
    ticks = [((e - low) / ((high - low) or 1), f"{10**e if log else e:.3g}") for e in ends]
    dimension = {"label": label, "values": np.nan_to_num(shown, nan=low).tolist()}
    if log:
        powers = np.arange(np.ceil(low), np.floor(high) + 1)  # plotly draws ticks outside, too
        dimension |= {"tickvals": powers.tolist(), "ticktext": [f"{10.0**p:g}" for p in powers]}
    return places, ticks, dimension


@styled
def plot_importance(tables: Mapping[str, pd.DataFrame], top: int = 8) -> TwoFaced:
    """fANOVA importances of {objective: `pareto.importance(...)`}; whiskers: range over seeds.

    The `top` hyperparameters by summed importance; the others are in the data.
    """
    names = list(dict.fromkeys(n for t in tables.values() for n in t["hyperparameter"]))
    merged = {
        k: t.set_index("hyperparameter").reindex(names).fillna(0.0) for k, t in tables.items()
    }
    order = sum(t["importance"] for t in merged.values()).sort_values(kind="stable").index[-top:]
    figure, axis = new_axes(ONE_COLUMN * 1.35, 0.7 + 0.21 * len(order) * max(1, len(tables) * 0.6))
    height = 0.8 / len(tables)
    for i, (objective, table) in enumerate(merged.items()):
        table = table.loc[order]
        y = np.arange(len(order)) + (len(tables) - 1 - 2 * i) / 2 * height
        value = 100 * table["importance"]
        whiskers = np.abs([value - 100 * table["lowest"], 100 * table["highest"] - value])
        label = AXES[objective][0].split(" (")[0] if objective in AXES else objective
        axis.barh(y, value, height, color=CATEGORIES[i], label=label,
                  xerr=whiskers if np.any(whiskers) else None,  # one run has no range
                  error_kw={"lw": 0.8, "capsize": 1.5})  # fmt: skip
    axis.set_yticks(range(len(order)), [NAMES.get(n, n).split(" (")[0] for n in order])
    axis.set(xlabel="Importance (% of variance explained)")
    axis.set_xlim(left=0)
    axis.grid(axis="y", visible=False)
    legend_above(figure, axis.get_legend_handles_labels()[0])
    data = pd.concat([t.assign(objective=k) for k, t in tables.items()], ignore_index=True)
    return TwoFaced(figure, data=data, description="fANOVA importance for " + ", ".join(tables))


def _change(step) -> str:
    """One step of an ablation path in words: "Optimizer: SGD → RAdam"."""
    values = []
    for value in (step["from"], step["to"]):
        number = isinstance(value, int | float | np.number)
        values.append("none" if pd.isna(value) else f"{value:.3g}" if number else str(value))
    name = NAMES.get(step["hyperparameter"], step["hyperparameter"]).split(" (")[0]
    return f"{name}: {' → '.join(values)}"


def _trust(r2: float) -> str:
    """How well a surrogate predicts trials it has not seen."""
    return f"R² = {r2:.2f}".replace("-", "−") + (": no guide" if r2 < 0.1 else "")


@styled
def plot_ablation(paths: Mapping[str, pd.DataFrame]) -> TwoFaced:
    """From one configuration to another, {objective: `pareto.ablation_path(...)`}, a panel each.

    A bar per step, from the prediction before it to the one after, with the spread of the latter
    over the trees; diamonds are what the first and the last trial really had. R² is that of trials
    the trees have not seen.
    """
    rows = max(len(path) for path in paths.values())
    figure, axes = new_axes(TWO_COLUMNS, 1.15 + 0.2 * rows, 1, len(paths), squeeze=False)
    for axis, (objective, path) in zip(axes[0], paths.items(), strict=True):
        needed = ["step", "hyperparameter", "from", "to", "predicted", "spread", "observed", "r2"]
        pareto.require_columns(path, needed)
        label, factor = AXES[objective]
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
        axis.set_xlabel(label if len(label) < 25 else label.replace(" (", "\n("))
    legend_above(figure, [
        Patch(fc=BLUE, label="improves"),
        Patch(fc=VERMILION, label="worsens"),
        Line2D([], [], marker="o", color=BLACK, ms=2.5, lw=0.7, label="predicted, ± spread"),
        Line2D([], [], marker="D", ls="", mfc="none", mec=PINK, mew=1.4, ms=6, label="observed"),
    ])  # fmt: skip
    data = pd.concat([path.assign(objective=name) for name, path in paths.items()])
    steps = max(paths.values(), key=len)[1:].iterrows()
    text = "; ".join(_change(step) for _, step in steps) or "no hyperparameter differs"
    return TwoFaced(figure, data=data, description=f"Ablation path: {text}")


BITS = {"weight_bits": "Weight bits", "activation_bits": "Activation bits\n(integer + fraction)"}


@styled
def plot_partial_dependence(
    trials: pd.DataFrame,
    bits: Sequence[str] = tuple(BITS),
    cost: str = pareto.ENERGIES[0],
    seed: int = 0,
) -> TwoFaced:
    """Predicted error and `cost` over shift depth and bits (`pareto.partial_dependence`).

    A row of two maps for each of `bits` ("weight_bits", "activation_bits"), a column per objective,
    with contours. Dots are the trials, slightly moved apart; rings those of the front. Far from
    them a map only continues what is known elsewhere. R² is that of trials the trees have not seen.
    """
    import seaborn as sns

    for name in bits:
        if name not in BITS:
            raise ValueError(f"bits={name!r}: must be one of {', '.join(BITS)}")
    objectives = ("loss", cost)
    rows = pareto.successful(trials, objectives)
    total = rows["activation_integer_bits"] + rows["activation_fraction_bits"]
    rows = rows.assign(activation_bits=total)
    front = rows.index.isin(pareto.pareto_front(rows, objectives).index)
    figure, axes = new_axes(
        TWO_COLUMNS, 0.5 + 1.85 * len(bits), len(bits), 2, sharex="all", sharey="row", squeeze=False
    )
    jitter = np.random.default_rng(0).uniform(-0.25, 0.25, (2, len(rows)))
    tables = []
    for axis_row, name in zip(axes, bits, strict=True):
        for axis, objective in zip(axis_row, objectives, strict=True):
            table = pareto.partial_dependence(trials, ("shift_depth", name), objective, seed)
            tables.append(table.rename(columns={name: "bits"}).assign(of=name, objective=objective))
            label, factor = AXES[objective]
            matrix = factor * table.pivot(index=name, columns="shift_depth", values="predicted")
            maps = "viridis_r" if objective == "loss" else "cividis_r"
            flat = min(matrix.shape) == 1 or np.ptp(matrix) == 0
            sns.heatmap(matrix, ax=axis, cmap=maps, rasterized=True, cbar=flat)
            at = np.arange(matrix.shape[1]) + 0.5, np.arange(matrix.shape[0]) + 0.5
            if not flat:  # labelled contours are the scale
                lines = axis.contour(*at, matrix, levels=6, colors="white", linewidths=0.8)
                lines.set_path_effects([withStroke(linewidth=1.8, foreground="#444444")])
                for text in axis.clabel(lines, fontsize=7, fmt="%.3g"):
                    text.set_bbox({"fc": "#444444", "ec": "none", "pad": 0.6})
            x = np.interp(rows["shift_depth"], matrix.columns, at[0]) + jitter[0]
            y = np.interp(rows[name], matrix.index, at[1]) + jitter[1]
            axis.scatter(x, y, s=7, c=BLACK, ec="white", lw=0.3, rasterized=len(rows) > 100)
            axis.scatter(x[front], y[front], s=34, fc="none", ec=PINK, lw=1.4)
            axis.invert_yaxis()
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
    return TwoFaced(figure, data=pd.concat(tables, ignore_index=True), description=text)


@styled
def plot_depth_correlation(correlation: pd.DataFrame) -> TwoFaced:
    """Spearman rank correlation between depths, from `pareto.depth_rank_correlation`."""
    pareto.require_columns(correlation, ["low_depth", "high_depth", "configurations", "spearman"])
    figure, axis = new_axes(ONE_COLUMN, 2.4)
    depths = sorted(set(correlation["low_depth"]) | set(correlation["high_depth"]))
    if not depths:
        text = "No pair of depths shares\nenough configurations"
        axis.text(0.5, 0.5, text, ha="center", va="center", transform=axis.transAxes)
        axis.set_axis_off()
        return TwoFaced(figure, data=correlation, description="No pair of depths to correlate")
    at = {depth: i for i, depth in enumerate(depths)}
    matrix = np.full((len(depths), len(depths)), np.nan)
    for pair in correlation.itertuples():
        matrix[at[pair.high_depth], at[pair.low_depth]] = pair.spearman
    matrix = matrix[1:, :-1]
    image = axis.imshow(matrix, cmap="PuOr", vmin=-1, vmax=1, aspect="auto")
    if len(depths) <= 7:
        for pair in correlation.itertuples():
            colour = "white" if abs(pair.spearman) > 0.6 else "black"
            text = f"{pair.spearman:.2f}\nn = {pair.configurations}".replace("-", "−")
            axis.text(
                at[pair.low_depth], at[pair.high_depth] - 1, text, ha="center", va="center",
                fontsize=7, color=colour,
            )  # fmt: skip
    axis.set_xticks(range(len(depths) - 1), depths[:-1])
    axis.set_yticks(range(len(depths) - 1), depths[1:])
    axis.set(xlabel="Shallower depth (layers)", ylabel="Deeper depth (layers)")
    axis.grid(visible=False)
    bar = figure.colorbar(image, ax=axis, pad=0.02)
    bar.set_label("Spearman's ρ of validation error")
    bar.outline.set_visible(False)
    return TwoFaced(figure, data=correlation, description="Rank correlation between shift depths")


@styled
def plot_promotions(report: pd.DataFrame, at_most: int = 12) -> TwoFaced:
    """Share of right promotions per pair of depths, from `pareto.promotion_report`.

    The `at_most` pairs of depths with the most pairs of configurations; the data has all.
    """
    needed = ["low_depth", "high_depth", "pairs", "share", "share_low", "share_high"]
    pareto.require_columns(report, needed)
    if report.empty:
        raise ValueError("report: must have a row; no two configurations were tried at two depths")
    shown = report.sort_values("pairs", ascending=False, kind="stable").head(at_most).sort_index()
    figure, axis = new_axes(ONE_COLUMN * 1.2, 0.8 + 0.22 * len(shown))
    y, share = np.arange(len(shown)), 100 * shown["share"]
    ends = [share - 100 * shown["share_low"], 100 * shown["share_high"] - share]
    axis.axvline(50, color=GREY, lw=0.8, ls="--")
    axis.errorbar(share, y, xerr=ends, fmt="o", color=BLUE, ms=4.5, lw=1.2, capsize=2)
    labels = [
        f"{r.low_depth} → {r.high_depth} ({r.pairs} pair{'s' * (r.pairs > 1)})"
        for r in shown.itertuples()
    ]
    axis.set_yticks(y, labels)
    axis.set_ylim(len(shown) - 0.4, -0.6)
    axis.set(xlim=(-2, 102), ylabel="Shift depth\n(layers)")
    axis.set_xlabel("Right promotions (% of pairs); dashed: chance")
    axis.grid(axis="y", visible=False)
    text = "Share of right promotions between depths: " + ", ".join(
        f"{label} {value:.0f} %" for label, value in zip(labels, share, strict=True)
    )
    return TwoFaced(figure, data=report, description=text)


@styled
def plot_tradeoff(
    trials: pd.DataFrame, bits: str = "weight_bits", cost: str = pareto.ENERGIES[0]
) -> TwoFaced:
    """Best validation error, and the energy it costs, for each shift depth and number of bits.

    bits: "weight_bits" or "activation_bits" (integer plus fraction); cost: one of the modelled
    energies. Empty cells were not tried.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    if bits not in ("weight_bits", "activation_bits"):
        raise ValueError(f"bits={bits!r}: must be one of weight_bits, activation_bits")
    if cost not in pareto.ENERGIES:
        raise ValueError(f"cost={cost!r}: must be one of {', '.join(pareto.ENERGIES)}")
    objectives = ("loss", cost)
    rows = pareto.successful(trials, objectives)
    total = rows["activation_integer_bits"] + rows["activation_fraction_bits"]
    rows = rows.assign(activation_bits=total)
    rows["on_front"] = rows.index.isin(pareto.pareto_front(rows, objectives).index)
    depth_bins, bit_bins = bins_of(rows["shift_depth"]), bins_of(rows[bits])
    rows["d"] = bin_index(rows["shift_depth"], depth_bins)
    rows["b"] = bin_index(rows[bits], bit_bins)
    cells = rows.groupby(["b", "d"]).agg(trials=("loss", "size"), front=("on_front", "any"))
    best = rows.sort_values(list(objectives), kind="stable")
    best = best.groupby(["b", "d"]).first().join(cells).reset_index()
    shape = len(bit_bins), len(depth_bins)
    panels = {}
    for name in objectives:
        panels[name] = np.full(shape, np.nan)
        panels[name][best["b"], best["d"]] = AXES[name][1] * best[name]
    figure, axes = new_axes(TWO_COLUMNS, 0.9 + 0.24 * shape[0], 1, 2, sharey=True)
    memory = " with memory" * (cost == pareto.ENERGIES[1])
    titles = ("Lowest validation error (%)", f"Modelled energy{memory} there (µJ per image)")
    live = make_subplots(
        figure=plotly_figure(height=440, margin={"t": 75}), rows=1, cols=2, horizontal_spacing=0.2,
        subplot_titles=titles,
    )  # fmt: skip
    maps = ("viridis_r", "cividis_r")
    labels = [bin_labels(depth_bins), bin_labels(bit_bins)]
    bits_label = "Weight bits" if bits == "weight_bits" else "Activation bits\n(integer + fraction)"
    for i, (axis, matrix) in enumerate(zip(axes, panels.values(), strict=True)):
        # A cell that failed to learn must not take all colours: the scale ends at twice the median.
        low, high = np.nanmin(matrix), min(np.nanmax(matrix), 2 * np.nanmedian(matrix))
        image = axis.imshow(
            matrix, cmap=maps[i], vmin=low, vmax=high, origin="lower", aspect="auto"
        )
        clipped = "max" if np.nanmax(matrix) > high else "neither"
        bar = figure.colorbar(image, ax=axis, pad=0.02, extend=clipped)
        bar.outline.set_visible(False)
        for (row, column), value in np.ndenumerate(matrix):
            if np.isfinite(value):
                dark = image.norm(value) > 0.5
                text = f"{value:.1f}" if matrix[np.isfinite(matrix)].max() < 100 else f"{value:.0f}"
                axis.text(column, row, text, ha="center", va="center", fontsize=7,
                          color="white" if dark else "black")  # fmt: skip
        for cell in best[best["front"]].itertuples():
            axis.add_patch(
                Rectangle((cell.d - 0.46, cell.b - 0.44), 0.92, 0.88, fill=False, ec=PINK, lw=1.6)
            )
        axis.set_xticks(range(shape[1]), labels[0])
        axis.set_yticks(range(shape[0]), labels[1])
        axis.set(xlabel="Shift depth (layers)", title=titles[i])
        axis.grid(visible=False)
        live.add_trace(
            go.Heatmap(
                z=[[None if np.isnan(v) else float(v) for v in r] for r in matrix],
                x=labels[0], y=labels[1], colorscale=["Viridis", "Cividis"][i], reversescale=True,
                colorbar={"x": 0.41 + 0.6 * i, "thickness": 12}, texttemplate="%{z:.3g}",
                zmin=float(low), zmax=float(high),
                hovertemplate=f"depth %{{x}}<br>{bits.replace('_', ' ')} %{{y}}"
                f"<br>{titles[i]}: %{{z:.4g}}<extra></extra>",
            ),
            row=1, col=i + 1,
        )  # fmt: skip
    axes[0].set_ylabel(bits_label)
    figure.legend(
        handles=[Patch(fill=False, ec=PINK, lw=1.6, label="holds a Pareto-optimal solution")],
        loc="outside upper center",
    )
    live.update_xaxes(title="Shift depth (layers)", type="category")
    live.update_yaxes(title=bits_label.replace("\n", " "), type="category")
    columns = ["trial", "seed", "shift_depth", bits, *panels, "trials", "front"]
    data = best[[name for name in columns if name in best]]
    return TwoFaced(figure, live, data, "Validation error and energy over shift depth and bits")


@styled
def plot_accuracy_drop(
    trials: pd.DataFrame,
    drop: float = 0.01,
    cost: str = "energy_modelled_j_per_image",
    by: str = "seed",
    baseline: tuple[str, float] | None = None,
) -> TwoFaced:
    """Energy saved by giving up some accuracy, and which network does it (`pareto.accuracy_drop`).

    One thin line per run, their median thick; from 20 runs (by="draw") a band of 5 to 95 % in place
    of the lines. The text reads off the value at `drop` (0..1), with the same range in brackets.
    baseline: (name, value) of what savings are relative to; default: the most accurate network.
    """
    grid = np.unique([*np.linspace(0, max(5 * drop, 0.02), 101), drop])
    name, value = baseline or ("the most accurate network", None)
    table = pareto.accuracy_drop(trials, grid, cost, by, value)
    at = table[table["drop"] == drop]
    figure, axis = new_axes(ONE_COLUMN * 1.35, 2.6)
    saving = 100 * table.pivot(index="drop", columns=by, values="saving")
    number, what = saving.shape[1], AXES[cost][0].split(" (")[0].lower()
    low, high = _range_of(number)
    if number < 20:
        axis.step(saving.index * 100, saving, where="post", color=SKY, lw=0.9)
    else:
        edges = saving.quantile([low, high], axis=1)
        axis.fill_between(saving.index * 100, *edges.to_numpy(), step="post", color=SKY, alpha=0.35,
                          lw=0)  # fmt: skip
    axis.step(saving.index * 100, saving.median(axis=1), where="post", color=BLUE, lw=1.8)
    axis.axvline(100 * drop, color=GREY, lw=0.8, ls="--")
    axis.plot(100 * drop, 100 * at["saving"].median(), "o", color=VERMILION, ms=6, zorder=5)
    lines = [
        f"{100 * drop:g} point{'s' * (drop != 0.01)} less accuracy: "
        f"{_spread(100 * at['saving'])} % less {what}",
        f"shift depth {_spread(at['shift_depth'])}, weight bits {_spread(at['weight_bits'])}, "
        f"activation bits {_spread(at['activation_bits'])}",
    ]
    axis.set_title("\n".join(lines), loc="left", fontsize=7.5)
    axis.set(
        xlabel="Accuracy given up (percentage points)",
        ylabel=f"Saved {what}\n(% of that of {name})",
    )
    axis.set_xlim(0, 100 * grid[-1])
    axis.set_ylim(bottom=min(0, axis.get_ylim()[0]))
    if number > 1:
        runs = f"{by}s"
        one = Line2D([], [], color=SKY, lw=0.9, label=f"one {by}")
        band = Patch(fc=SKY, alpha=0.35, lw=0, label=f"{100 * low:g}–{100 * high:g} % of {runs}")
        legend_above(figure, [
            Line2D([], [], color=BLUE, lw=1.8, label=f"median of {number} {runs}"),
            one if number < 20 else band,
        ])  # fmt: skip
    return TwoFaced(figure, data=table, description="; ".join(lines))


def _range_of(number: int) -> tuple[float, float]:
    """The quantiles that stand for the range of so many values."""
    return (0, 1) if number < 20 else (0.05, 0.95)


def _spread(values: pd.Series) -> str:
    """Median and, where they differ, range."""
    low, high = values.quantile(_range_of(len(values)))
    low, middle, high = (f"{v:.0f}" for v in (low, values.median(), high))
    return middle if low == high else f"{middle} ({low}–{high})"


@styled
def plot_break_even(results: Sequence[tuple[str, BreakEven]]) -> TwoFaced:
    """Total energy over the number of inferences: the search and its solution, or another network.

    Each result comes with the name of the other network (such as "the default"), the same solution
    in all of one kind. Kinds (measured, modelled) have panels of their own, as they share no axis.
    A dot marks where the search is paid back, the line through it its 95 % interval.
    """
    kinds = list(dict.fromkeys(result.kind for _, result in results))
    figure, axes = new_axes(TWO_COLUMNS, 3.1, 1, len(kinds), squeeze=False)
    for axis, kind in zip(axes[0], kinds, strict=True):
        part = [(name, r) for name, r in results if r.kind == kind]
        cost, per_image = part[0][1].search_cost_j, part[0][1].solution_j_per_image
        # Where inference has cost as much as the search, and where it is paid back.
        places = [cost / per_image, *(r.inferences for _, r in part if np.isfinite(r.inferences))]
        x = np.geomspace(min(places) / 100, max(places) * 100, 200)
        axis.plot(x, cost + per_image * x, color=BLACK, lw=1.8, label="search, then chosen network")
        for (name, result), colour in zip(part, CATEGORIES, strict=False):
            y = result.default_j_per_image
            axis.plot(x, y * x, color=colour, label=f"{name}: {_paid_back(result)}")
            if np.isfinite(result.inferences):
                height = y * result.inferences
                ends = np.clip([result.inferences_low, result.inferences_high], x[0], x[-1])
                axis.plot(ends, [height, height], color=colour, lw=0.8)
                axis.plot(result.inferences, height, "o", color=colour, ms=5, zorder=4)
        axis.set(xscale="log", yscale="log", xlim=(x[0], x[-1]))
        axis.set_ylim(bottom=cost / 30)
        axis.set(xlabel="Inferences (images)", ylabel=f"{kind.capitalize()} energy in all (J)")
        axis.legend(loc="lower left", bbox_to_anchor=(0, 1))
    data = pd.DataFrame([{"instead_of": name, **asdict(r)} for name, r in results])
    texts = [f"{name} ({r.kind}): {_paid_back(r)}" for name, r in results]
    text = "After how many inferences the search is paid back, against " + "; ".join(texts)
    return TwoFaced(figure, data=data, description=text)


def _paid_back(result: BreakEven) -> str:
    """When the search is paid back, in words."""
    if not np.isfinite(result.inferences):
        low = result.inferences_low
        early = f"paid back not before {_power_of_ten(low)}, if ever"
        return early if np.isfinite(low) else "never paid back"
    ends = (result.inferences_low, result.inferences, result.inferences_high)
    low, middle, high = map(_power_of_ten, ends)
    return f"paid back after {middle}" + (f" ({low} to {high})" if low != high else "")


def _power_of_ten(value: float) -> str:
    """Two digits: 3200, 4.1·10⁷, ∞."""
    if not np.isfinite(value):
        return "∞"
    if value < 1e5:
        return f"{float(f'{value:.2g}'):.0f}"
    mantissa, power = f"{value:.1e}".split("e+")
    return f"{mantissa}·10{str(int(power)).translate(str.maketrans('0123456789', '⁰¹²³⁴⁵⁶⁷⁸⁹'))}"


# ------------------------------------------------------------------- notebook 5: published values


@styled
def plot_published(comparison: pd.DataFrame) -> TwoFaced:
    """Published values beside ours, from `paper.compare`; hollow marks are not comparable.

    Only rows in percent are drawn: other units have no common axis.
    """
    pareto.require_columns(comparison, ["what", "published", "ours", "unit", "comparable"])
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
    return TwoFaced(figure, data=comparison, description="Published values beside ours")


@styled
def plot_finals(summary: pd.DataFrame, cost: str = pareto.ENERGIES[1]) -> TwoFaced:
    """Test accuracy over modelled energy of tested networks, from `given.summarise_points`.

    Whiskers are 95 % intervals of the mean over seeds; a network of a single seed has none. The
    star is the network named "default", or whatever begins so. Networks whose trainings all failed
    are left out.
    """
    needed = ["origin", "shift_depth", "seeds", "test_accuracy", "test_accuracy_half_width", cost]
    pareto.require_columns(summary, needed)
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
    taken = []
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
    return TwoFaced(figure, data=rows, description=text)


@styled
def plot_grid(trials: pd.DataFrame, cost: str = pareto.ENERGIES[1]) -> TwoFaced:
    """Validation accuracy of a full grid: depth x weight bits, a map per type and activation bits.

    Framed cells are on the Pareto front of the whole grid, of loss and `cost`. Trainings that
    failed leave an empty cell.
    """
    import seaborn as sns

    failed = (trials["status"] != "SUCCESS").any()
    rows = pareto.successful(trials, ("loss", cost))
    on_front = rows.index.isin(pareto.pareto_front(rows, ("loss", cost)).index)
    bits = list(pareto.ACTIVATION_BITS)
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
            sns.heatmap(
                accuracy, ax=axis, cmap="viridis", vmin=low, vmax=high, annot=True, fmt=".0f",
                annot_kws={"size": 7}, cbar=False,
            )  # fmt: skip
            for cell in part[part["on_front"]].itertuples():
                place = (
                    accuracy.columns.get_loc(cell.shift_depth),
                    accuracy.index.get_loc(cell.weight_bits),
                )
                axis.add_patch(Rectangle(place, 1, 1, fill=False, ec=PINK, lw=1.8, zorder=4))
            axis.invert_yaxis()
            axis.set_title(f"{kind}, activations {integer} + {fraction} bits")
            axis.set(xlabel="", ylabel="")
            axis.tick_params(length=0, rotation=0)
            axis.grid(visible=False)
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
    return TwoFaced(figure, data=rows[columns], description=text)


@styled
def plot_fidelities(table: pd.DataFrame) -> TwoFaced:
    """Rank correlation with the full training over cost, from `study.fidelity_correlation`."""
    needed = ["shift_depth", "epochs", "data_fraction", "configurations", "spearman", "low", "high"]
    pareto.require_columns(table, [*needed, "cost"])
    full = table[["shift_depth", "epochs", "data_fraction"]].max()
    kinds = {
        "shift_depth": (BLUE, "o", "depth {:g}"),
        "epochs": (ORANGE, "s", "epochs {:g}"),
        "data_fraction": (GREEN, "^", "data {:.0%}"),
    }
    figure, axis = new_axes(ONE_COLUMN * 1.35, 0.9 + 0.24 * len(table))
    labels = []
    for name, (colour, marker, text) in kinds.items():
        for row in table[table[name] < full[name]].to_dict("records"):
            ends = [[row["spearman"] - row["low"]], [row["high"] - row["spearman"]]]
            axis.errorbar(
                [row["spearman"]], [len(labels)], xerr=np.abs(ends), color=colour, marker=marker,
                ms=5, lw=1.2, capsize=2,
            )  # fmt: skip
            labels.append(f"{text.format(row[name])}, takes {row['cost']:.0%}")
    axis.axvline(0, color=GREY, lw=0.8, ls="--")
    axis.set_yticks(range(len(labels)), labels)
    axis.set_ylim(len(labels) - 0.4, -0.6)
    axis.grid(axis="y", visible=False)
    axis.set_xlabel("Spearman's ρ with the full training, 95 % interval")
    text = "Rank correlation of cheap trainings with the full one over their cost"
    return TwoFaced(figure, data=table, description=text)


# ------------------------------------------------- notebook 6: measured energy and modelled energy


@styled
def plot_energy_depth(readings: pd.DataFrame, modelled: pd.DataFrame) -> TwoFaced:
    """Energy per image over shift depth: measured and modelled, each on an axis of its own.

    readings: from `meter.take_readings`, of networks named by their shift depth; modelled: columns
    `shift_depth`, `energy_modelled_j_per_image`, `energy_modelled_with_memory_j_per_image`.
    """
    names = ["energy_modelled_j_per_image", "energy_modelled_with_memory_j_per_image"]
    pareto.require_columns(modelled, ["shift_depth", *names])
    measured = summarise_readings(readings).sort_index()
    figure, (left, right) = new_axes(TWO_COLUMNS, 2.7, 1, 2)
    energies = 1e3 * readings["energy_measured_j_per_image"]
    left.plot(readings["network"], energies, "o", color=SKY, ms=2.5, alpha=0.7, label="one reading")
    left.errorbar(
        measured.index, 1e3 * measured["energy_measured_j_per_image"],
        1e3 * measured["half_width_j_per_image"], color=BLUE, marker="o", ms=4, capsize=3,
        label="mean, 95 % interval",
    )  # fmt: skip
    labels = "compute", "compute and memory"
    for name, label, colour, marker in zip(names, labels, (VERMILION, ORANGE), "sD", strict=True):
        right.plot(
            modelled["shift_depth"], 1e6 * modelled[name], marker=marker, ms=4, color=colour,
            label=label,
        )  # fmt: skip
    left.set(title="Measured: this computer, which imitates shifts")
    left.set(ylabel="Measured energy (mJ per image)")
    right.set(title="Modelled: hardware that shifts", ylabel="Modelled energy (µJ per image)")
    for axis in (left, right):
        axis.set(xlabel="Shift depth (layers)")
        axis.set_ylim(0, 1.22 * axis.get_ylim()[1])
        axis.xaxis.set_major_locator(FixedLocator(modelled["shift_depth"]))
        axis.legend(loc="upper right", ncols=2, columnspacing=1)
    data = measured.rename_axis("shift_depth").reset_index()
    data = data.merge(modelled[["shift_depth", *names]], how="outer")
    return TwoFaced(figure, data=data, description="Measured and modelled energy over shift depth")


@styled
def plot_noise(readings: pd.DataFrame, difference_share: float) -> TwoFaced:
    """How far single readings of one network scatter, and how many it takes to rank two networks.

    readings: from `meter.take_readings`, of one network with several window lengths. Bands are the
    95 % intervals of the coefficients of variation. difference_share: one difference to mark.
    """
    noise = summarise_readings(readings, "window_s").sort_index()
    figure, (left, right) = new_axes(TWO_COLUMNS, 2.7, 1, 2)
    differences = np.geomspace(min(0.005, difference_share / 1.5), 0.25, 120)
    parts = []
    for place, (window_s, row) in enumerate(noise.iterrows()):
        colour = CATEGORIES[place % len(CATEGORIES)]
        part = readings[readings["window_s"] == window_s]
        in_order = place + np.linspace(-0.3, 0.3, len(part))
        energies = part["energy_measured_j_per_image"]
        left.plot(
            in_order, 100 * (energies / energies.mean() - 1), "o-", color=colour, ms=3, lw=0.5
        )
        needed = [[repetitions_to_rank(row[name], d) for d in differences]
                  for name in ("cv_low", "cv", "cv_high")]  # fmt: skip
        right.fill_between(100 * differences, needed[0], needed[2], color=colour, alpha=0.15, lw=0)
        right.plot(100 * differences, needed[1], color=colour, label=f"{window_s:g} s")
        parts.append(pd.DataFrame({"window_s": window_s, "difference_share": differences,
                                   "readings_at_least": needed[0], "readings": needed[1],
                                   "readings_at_most": needed[2]}))  # fmt: skip
    left.axhline(0, color=GREY, lw=0.8)
    left.set_xticks(range(len(noise)), [f"{w:g}" for w in noise.index])
    left.set(xlabel="Window (s); readings in order", ylabel="Reading of the same network\n"
             "(% above or below the mean)")  # fmt: skip
    left.grid(axis="x", visible=False)
    right.axvline(100 * difference_share, color=BLACK, lw=1, ls="--", label="published pair")
    right.set(xscale="log", yscale="log", xlabel="Difference between two networks (%)")
    right.set(ylabel="Readings needed of each")
    right.xaxis.set_major_formatter("{x:g}")
    right.yaxis.set_major_formatter("{x:g}")
    right.legend(loc="upper right", title="window", title_fontsize=7.5)
    data = pd.concat(parts, ignore_index=True)
    return TwoFaced(figure, data=data, description="Noise of single readings of measured energy")


MEMORIES = {"sram_8kb": "8 KB SRAM", "sram_32kb": "32 KB SRAM", "sram_1mb": "1 MB SRAM"}


def _energy_by_kind(table: pd.DataFrame, memory: str | None) -> pd.Series:
    """Modelled energy (J per image) by kind of operation, and of the memory if one is named."""
    energy = table.groupby("kind")["energy_modelled_j_per_image"].sum()
    if memory is not None:
        energy["memory"] = table["memory_bits"].sum() * MEMORY_PJ_PER_BIT[memory] * 1e-12
    return energy


@styled
def plot_energy_by_kind(
    tables: Mapping[str, pd.DataFrame], memories: Sequence[str] = ("sram_1mb", "dram")
) -> TwoFaced:
    """Where the modelled energy goes: shares by kind of operation, a panel per kind of memory.

    tables: {network: `energy.operation_counts(...)`}. The first panel leaves memory out. The number
    at the end of a bar is the whole; kinds below 1 % everywhere are put together.
    """
    panels = {"Compute only": None}
    panels |= {f"All data in {MEMORIES.get(m, m.upper())}": m for m in memories}
    energies = {
        (title, name): _energy_by_kind(table, memory)
        for title, memory in panels.items()
        for name, table in tables.items()
    }
    wide = pd.DataFrame(energies).T.fillna(0.0)
    shares = 100 * wide.div(wide.sum(axis=1), axis=0)
    small = shares.columns[shares.max() < 1]
    shares = shares.drop(columns=small).assign(other=shares[small].sum(axis=1))
    shares = shares[sorted(shares, key=["conv", "linear", *shares].index)]
    colours = dict(zip(shares, CATEGORIES * 2, strict=False)) | {"memory": LIGHT, "other": GREY}
    figure, axes = new_axes(
        TWO_COLUMNS, 0.95 + 0.28 * len(tables), 1, len(panels), sharey=True, squeeze=False
    )
    for axis, title in zip(axes[0], panels, strict=True):
        left = np.zeros(len(tables))
        for kind, share in shares.loc[title].items():
            axis.barh(range(len(tables)), share, left=left, color=colours[kind], height=0.7)
            left += share
        for place, total in enumerate(1e6 * wide.loc[title].sum(axis=1)):
            axis.text(102, place, f"{total:.3g} µJ", va="center", fontsize=7)
        axis.set(title=title, xlabel="Share of modelled\nenergy (%)", xlim=(0, 135))
        axis.set_xticks([0, 50, 100])
        axis.grid(axis="y", visible=False)
    axes[0][0].set_yticks(range(len(tables)), list(tables))
    axes[0][0].invert_yaxis()
    legend_above(figure, [Patch(fc=colours[k], label=k.replace("_", " ")) for k in shares])
    data = wide.rename_axis(["panel", "network"]).reset_index()
    return TwoFaced(figure, data=data, description="Modelled energy by kind of operation")


@styled
def plot_grids(
    grids: pd.DataFrame,
    country: str,
    named: Sequence[str] = ("FRA", "CAN", "USA", "CHN", "IND"),
) -> TwoFaced:
    """The same energy in the grids of all countries, from `footprint.grid_table`.

    `country` is marked; of those in `named` the static face names the ones that have room, the
    interactive face names any under the mouse. No map: plotly would fetch its outlines from the
    network.
    """
    import plotly.graph_objects as go

    rows = grids.sort_values("emissions_gco2eq", kind="stable", ignore_index=True)
    if country not in set(rows["country"]):
        raise ValueError(f"country={country!r}: must be one of the table's countries")
    energy_kwh = (rows["emissions_gco2eq"] / rows["carbon_intensity_gco2eq_per_kwh"]).iloc[0]
    label = f"Emissions of {energy_kwh:.3g} kWh (gCO₂eq)"
    shown = rows.index[rows["country"] == country].tolist()
    for place in rows.index[rows["country"].isin(named)]:
        if min(abs(place - other) for other in shown) > len(rows) / 15:
            shown.append(place)
    colours = [SKY] * len(rows)
    for place in shown:
        colours[place] = VERMILION if place == shown[0] else BLUE
    figure, axis = new_axes(TWO_COLUMNS, 2.7)
    axis.bar(rows.index, rows["emissions_gco2eq"], width=1.0, color=colours)
    for i, row in rows.loc[shown].iterrows():
        axis.annotate(
            f"{row['country_name']} {row['emissions_gco2eq']:.3g}", (i, row["emissions_gco2eq"]),
            xytext=(-8, 8), textcoords="offset points", ha="right", va="bottom", fontsize=7,
            color=colours[i], arrowprops={"arrowstyle": "-", "color": GREY, "lw": 0.5},
        )  # fmt: skip
    axis.set(xlabel=f"{len(rows)} countries, cleanest first", ylabel=label)
    axis.set(xlim=(-0.07 * len(rows), len(rows)), xticks=[])
    hover = [
        f"{row.country_name} ({row.year})<br>{row.emissions_gco2eq:.3g} gCO₂eq"
        f"<br>{row.carbon_intensity_gco2eq_per_kwh:.0f} gCO₂eq per kWh"
        f"<br>{100 * row.low_carbon_share:.0f} % low-carbon"
        for row in rows.itertuples()
    ]
    live = plotly_figure(height=400, bargap=0)
    live.add_trace(
        go.Bar(x=rows["country_name"].tolist(), y=rows["emissions_gco2eq"].tolist(), text=hover,
               textposition="none", hovertemplate="%{text}<extra></extra>",
               marker={"color": colours, "line": {"width": 0}})
    )  # fmt: skip
    live.update_xaxes(title="Countries, cleanest first", showticklabels=False, **PLOTLY_AXIS)
    live.update_yaxes(title=label, **PLOTLY_AXIS)
    return TwoFaced(figure, live, rows, f"{label} in the grids of {len(rows)} countries")
