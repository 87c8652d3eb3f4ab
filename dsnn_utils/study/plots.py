"""Figures of the committed study and of published values."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import moocore
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import Bbox

from dsnn_utils.analysis.fronts import pareto_front
from dsnn_utils.checks import require, require_columns
from dsnn_utils.plots.style import (
    AXES,
    BLACK,
    BLUE,
    CATEGORIES,
    DEPTH_COLOURS,
    GREY,
    LIGHT,
    NETWORKS,
    PINK,
    PLOTLY_AXIS,
    TWO_COLUMNS,
    VERMILION,
    DualFigure,
    depth_norm,
    heatmap,
    legend_above,
    logarithmic,
    new_axes,
    plotly_figure,
    styled,
)
from dsnn_utils.runs.columns import ACTIVATION_BITS, ENERGY_WITH_MEMORY
from dsnn_utils.runs.rows import successful
from dsnn_utils.study.strategies import NEPS, STRATEGY_ORDER

MARKERS = "oDs^v"  # of groups


@styled
def plot_strategies(results: pd.DataFrame) -> DualFigure:
    """Hypervolume over trials of several strategies, from `study.read_comparison`.

    One panel per problem: mean over the seeds with its standard error, and the number of seeds.
    NePS is in the table beside the figure only: there are no more colours to be told apart.
    """
    require_columns(results, ["problem", "strategy", "seed", "trials", "hypervolume"])
    drawn = results[~results["strategy"].isin(NEPS)]
    panels = {
        str(problem): (AXES["trial"][0], part.rename(columns={"trials": "x"}))
        for problem, part in drawn.groupby("problem", sort=False)
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

    parts = (part["strategy"] for _, part in panels.values())
    found = list(dict.fromkeys(name for part in parts for name in part))
    names = [n for n in STRATEGY_ORDER if n in found]
    names += [n for n in found if n not in names]
    free = [colour for colour in (*CATEGORIES, GREY) if colour != BLACK]
    others = [n for n in names if n not in ("smac_mf", "smac_mf_unknown_energy")]
    colours = dict.fromkeys(names, BLACK) | dict(zip(others, free * 9, strict=False))
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
        axis.set_title(f"{title}\n({spread} seeds)", fontsize=8)  # five panels are narrow
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
    star is the network named "default", or whatever begins so. Colours tell the depths apart, or
    shifts and integers where all networks have one depth. Networks whose trainings all failed are
    left out.
    """
    needed = ["origin", "shift_depth", "seeds", "test_accuracy", "test_accuracy_half_width", cost]
    require_columns(summary, needed)
    rows = summary.dropna(subset=["test_accuracy"]).sort_values(cost, kind="stable")
    by_depth = rows["shift_depth"].nunique() > 1
    norm = depth_norm(rows)
    figure, axis = new_axes(TWO_COLUMNS, 3.0)
    label, factor = AXES[cost]
    kinds: dict[str, ErrorbarContainer] = {}
    drawn = []
    for _, row in rows.iterrows():
        kind, colour, marker = _kind(row)
        if by_depth and kind != DEFAULT:
            colour, marker = DEPTH_COLOURS(norm(row["shift_depth"])), "o"
        x, y = factor * row[cost], 100 * row["test_accuracy"]
        half_width = 100 * row["test_accuracy_half_width"]
        kinds[kind] = axis.errorbar(
            x, y, None if np.isnan(half_width) else half_width, color=colour, capsize=2.5, lw=1,
            marker=marker, ms=11 if marker == "*" else 6, zorder=3, label=kind,
        )  # fmt: skip
        drawn.append(kinds[kind])
    wide = rows[cost].max() > 4 * rows[cost].min()
    alike = rows["seeds"].nunique() == 1  # then the axis says it once
    ylabel = f"Test accuracy (%), n = {rows['seeds'].iloc[0]}" if alike else "Test accuracy (%)"
    axis.set(xlabel=label, ylabel=ylabel)
    if wide:
        logarithmic(axis)
    axis.margins(x=0.18, y=0.12)
    if by_depth:
        bar = figure.colorbar(mpl.cm.ScalarMappable(norm, DEPTH_COLOURS), ax=axis, pad=0.02)
        bar.set_label(f"Shift depth (layers); star: {DEFAULT}")
        bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True))
        bar.outline.set_visible(False)
    else:
        legend_above(figure, list(kinds.values()))
    figure.draw_without_rendering()  # from here on it is known how much room a label takes
    marks = [_extent(container) for container in drawn]
    taken = list(marks)
    order = np.argsort(-rows["test_accuracy"].to_numpy(), kind="stable")
    for row, mark in ((rows.iloc[n], marks[n]) for n in order):
        place = factor * row[cost], 100 * row["test_accuracy"]
        text = row["origin"] if alike else f"{row['origin']}, n = {row['seeds']}"
        taken.append(_label(axis, text, place, mark, taken))
    text = "Test accuracy over modelled energy of " + ", ".join(map(str, rows["origin"]))
    return DualFigure(figure, data=rows, description=text)


@styled
def plot_fronts(groups: Mapping[str, pd.DataFrame], cost: str = ENERGY_WITH_MEMORY) -> DualFigure:
    """Test error over modelled energy of tested networks, with the front of each group.

    Tables of `analysis.summarise_points` by name. Whiskers are 95 % intervals of the mean over
    seeds; a network of a single seed has none. A front is that of the means. Stars are networks
    whose name begins with "default"; networks whose trainings all failed are left out.
    Raises ValueError for more groups than there are markers.
    """
    require(len(groups) <= len(MARKERS), f"{len(groups)=}: must be at most {len(MARKERS)}")
    figure, axis = new_axes(TWO_COLUMNS, 3.2)
    label, factor = AXES[cost]
    parts, handles = {}, []
    for name, colour, marker in zip(groups, CATEGORIES, MARKERS, strict=False):
        require_columns(groups[name], ["origin", "test_accuracy", "test_accuracy_half_width", cost])
        rows = groups[name].dropna(subset=["test_accuracy"]).sort_values(cost, kind="stable")
        parts[name] = rows = rows.assign(error=1 - rows["test_accuracy"])
        for row in rows.itertuples():
            star = row.origin.startswith("default")
            axis.errorbar(
                factor * getattr(row, cost), 100 * row.error,
                np.nan_to_num(100 * row.test_accuracy_half_width) or None,
                color=colour, marker="*" if star else marker, ms=9 if star else 4.5,
                capsize=2, lw=1, zorder=3,
            )  # fmt: skip
        front = rows[moocore.is_nondominated(rows[[cost, "error"]].to_numpy())]
        axis.step(factor * front[cost], 100 * front["error"], where="post", color=colour, lw=1.2)
        handles.append(Line2D([], [], color=colour, marker=marker, ms=4.5, label=name))
    axis.set_yscale("log")
    logarithmic(axis)
    axis.yaxis.set_major_locator(LogLocator(10, (1, 2, 5)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_locator(NullLocator())
    axis.set(xlabel=label, ylabel="Test error (%)")
    star = Line2D([], [], ls="", color=GREY, marker="*", ms=9, label=DEFAULT)
    legend_above(figure, [*handles, star])
    data = pd.concat(parts, names=["group"]).reset_index("group")
    return DualFigure(figure, data=data, description="Fronts of " + ", ".join(groups))


@styled
def plot_measured(table: pd.DataFrame) -> DualFigure:
    """Test accuracy over measured energy of networks in the runtimes that compute them.

    A row per network and runtime: `what` (the network and its arithmetic), `runtime`,
    `test_accuracy`, and `energy_measured_j_per_image` with its `half_width_j_per_image`. Whiskers
    are 95 % intervals of the mean; the line is the front of the means.
    """
    names = ["what", "runtime", "test_accuracy"]
    names += ["energy_measured_j_per_image", "half_width_j_per_image"]
    require_columns(table, names)
    rows = pd.DataFrame(
        {"x": 1e3 * table[names[3]], "half": 1e3 * table[names[4]], "y": 100 * table[names[2]]}
    ).join(table[names[:2]])
    figure, axis = new_axes(TWO_COLUMNS, 3.0)
    front = rows[moocore.is_nondominated(rows.assign(y=-rows["y"])[["x", "y"]].to_numpy())]
    front = front.sort_values("x")
    axis.step(front["x"], front["y"], where="post", color=LIGHT, lw=1.2, zorder=0)
    markers = dict(zip(rows["runtime"].unique(), "osD^v", strict=False))
    handles: list[Artist] = []
    for colour, (what, part) in zip(
        (BLACK, *CATEGORIES), rows.groupby("what", sort=False), strict=False
    ):
        handles.append(Patch(color=colour, label=what))
        for row in part.itertuples():
            axis.errorbar(row.x, row.y, xerr=row.half, fmt=markers[row.runtime], color=colour,
                          ms=5.5, lw=1, capsize=2)  # fmt: skip
    for runtime, marker in markers.items():
        handles.append(Line2D([], [], ls="", marker=marker, color=GREY, label=runtime))
    logarithmic(axis)
    axis.margins(y=0.15)
    axis.set(xlabel="Measured energy (mJ per image)", ylabel="Test accuracy (%)")
    legend_above(figure, handles)
    text = "On the front: " + "; ".join(f"{r.what}, {r.runtime}" for r in front.itertuples())
    return DualFigure(figure, data=table[names], description=text)


DEFAULT = "published default"


def _kind(row: pd.Series) -> tuple[str, str, str]:
    """What a network is, in words, with its colour and marker."""
    if row["origin"].startswith("default"):
        return DEFAULT, VERMILION, "*"
    if row.get("arithmetic") == "integer":
        return "uniform integers", NETWORKS["integer"], "s"
    return "shifts", NETWORKS["Q"], "o"


def _extent(container: ErrorbarContainer) -> Bbox:
    """The rectangle of a mark with its whiskers, in pixels."""
    mark, caps, _ = container
    return Bbox.union([line.get_window_extent() for line in (mark, *caps)])


def _label(
    axis: Axes, text: str, place: tuple[float, float], mark: Bbox, taken: Sequence[Bbox]
) -> Bbox:
    """Write beside a mark where the fewest of `taken` are covered; returns what is covered now."""
    far = mark.height / 2 * 72 / axis.figure.dpi + 3  # points, beyond the whiskers
    note = axis.annotate(text, place, (0, 0), textcoords="offset points", fontsize=7)
    covered: dict[tuple[str, float, float], int] = {}
    beside = [(x, y) for y in (3, -9, 13, -19, 23, -29, 33, -39) for x in (7, -7)]
    for x, y in (*beside, (0, far), (0, -far - 6)):
        side = "center" if x == 0 else "left" if x > 0 else "right"
        note.set(ha=side, position=(x, y))
        extent = note.get_window_extent()
        covered[side, x, y] = sum(extent.overlaps(other) for other in taken)
        covered[side, x, y] += 10 * (extent.x0 < axis.bbox.x0)  # over the labels of the axis
    side, *offset = min(covered, key=covered.__getitem__)  # of equals the first
    note.set(ha=side, position=offset)
    if side != "center" and not -10 < offset[1] < 4:  # too far away to be seen as its mark's
        end = offset[0], offset[1] + 2
        line = {"arrowstyle": "-", "color": "0.6", "lw": 0.6, "shrinkA": 0, "shrinkB": 4}
        axis.annotate("", place, end, textcoords="offset points", arrowprops=line)
    return note.get_window_extent()


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
