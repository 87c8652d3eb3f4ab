"""Every figure of the notebooks, in one style.

Each function takes plain data (a trials table, a dict of arrays) and returns a `TwoFaced`: a static
matplotlib figure for papers, GitHub and HTML export, and for the figures one explores also an
interactive plotly figure. Sizes are those of a one-column (3.3 in) or two-column (6.9 in) paper,
text is 8 pt or a little less, every axis carries its unit.
"""

import functools
import io
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from dsnn_utils import pareto

# ----------------------------------------------------------------------------------------- style

ONE_COLUMN, TWO_COLUMNS = 3.3, 6.9  # inches

# Okabe and Ito's palette, told apart with every common colour blindness.
BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PINK = (
    "#000000 #E69F00 #56B4E9 #009E73 #F0E442 #0072B2 #D55E00 #CC79A7".split()
)
CATEGORIES = (BLUE, ORANGE, GREEN, PINK, SKY, VERMILION, BLACK, YELLOW)
GREY, LIGHT = "#6E6E6E", "#D9D9D9"
DEFAULT_COLOUR = VERMILION
TYPE_MARKERS = {"Q": ("o", "circle"), "PS": ("^", "triangle-up")}
RASTERISE_ABOVE = 1000  # marks; more of them would make an SVG too large
HOVER_AT_MOST = 2000  # dominated trials in an interactive figure

# Viridis without its palest end, which is hard to see on white; dark is deep.
DEPTH_COLOURS = LinearSegmentedColormap.from_list(
    "depth", mpl.colormaps["viridis_r"](np.linspace(0.1, 1, 64))
)

STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "legend.handlelength": 1.4,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "axes.prop_cycle": mpl.cycler(color=CATEGORIES),
    "figure.dpi": 150,
    "savefig.dpi": 200,
    "svg.fonttype": "none",
    "svg.hashsalt": "dsnn",
}

PLOTLY_LAYOUT = {
    "font": {"family": "DejaVu Sans, Verdana, sans-serif", "size": 13, "color": "#222222"},
    "plot_bgcolor": "white",
    "paper_bgcolor": "white",
    "colorway": list(CATEGORIES),
    "height": 480,
    "margin": {"l": 70, "r": 20, "t": 40, "b": 60},
    "hoverlabel": {"font": {"size": 12}, "align": "left"},
}
PLOTLY_AXIS = {"gridcolor": "#E6E6E6", "linecolor": "#444444", "ticks": "outside", "zeroline": False}

#: column -> (label with unit, factor from the table's unit to the shown one)
AXES = {
    "loss": ("Validation error (%)", 100),
    "val_accuracy": ("Validation accuracy (%)", 100),
    "val_cross_entropy": ("Validation cross entropy (nats)", 1),
    "energy_modelled_j_per_image": ("Modelled energy (µJ per image)", 1e6),
    "energy_modelled_with_memory_j_per_image": ("Modelled energy with memory (µJ per image)", 1e6),
    "energy_measured_kwh": ("Measured energy of the trial (Wh)", 1e3),
    "emissions_gco2eq": ("Measured emissions of the trial (gCO₂eq)", 1),
    "duration_s": ("Duration (s)", 1),
    "trial": ("Trials", 1),
    "epochs": ("Training epochs spent", 1),
}
NAMES = {
    "shift_depth": "Shift depth",
    "shift_type": "Shift type",
    "weight_bits": "Weight bits",
    "activation_bits": "Activation bits",
    "activation_integer_bits": "Activation integer bits",
    "activation_fraction_bits": "Activation fraction bits",
    "rounding": "Rounding",
    "batch_size": "Batch size (images)",
    "optimizer": "Optimizer",
    "lr": "Learning rate",
    "momentum": "Momentum",
    "weight_decay": "Weight decay",
    "epochs": "Epochs",
    "data_fraction": "Share of training data",
}
UNITLESS = ("Shift depth (layers)", "Weight bits")


def use_style() -> None:
    """Give figures made directly with matplotlib the style of the others."""
    mpl.rcParams.update(STYLE)


def _styled(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        with mpl.rc_context(STYLE):
            return function(*args, **kwargs)

    return wrapper


def _axes(width: float, height: float, rows: int = 1, columns: int = 1, **kwargs):
    """A figure outside pyplot (so that a notebook never shows it a second time) and its axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, **kwargs)


def _axis(name: str) -> tuple[str, float]:
    if name not in AXES:
        raise ValueError(f"axis={name!r}: must be one of {', '.join(AXES)}")
    return AXES[name]


# ------------------------------------------------------------------------------- the two faces


@dataclass
class TwoFaced:
    """One figure with a static face (matplotlib) and possibly an interactive one (plotly).

    A notebook gets both in one display bundle and each viewer takes the best it can show:
    JupyterLab the interactive one, GitHub and HTML export the SVG, a terminal the description.
    """

    static: Figure
    interactive: object = None
    data: pd.DataFrame | None = None
    description: str = ""

    def svg(self) -> str:
        """The static face as SVG text, the same bytes for the same figure."""
        return self._render("svg", {"Date": None, "Creator": None}).decode()

    def png(self) -> bytes:
        """The static face as PNG (200 dpi), the same bytes for the same figure."""
        return self._render("png", {"Software": None})

    def _render(self, kind: str, metadata: dict) -> bytes:
        buffer = io.BytesIO()
        with mpl.rc_context(STYLE):
            self.static.savefig(buffer, format=kind, metadata=metadata)
        return buffer.getvalue()

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        bundle = {"image/svg+xml": self.svg(), "text/plain": self.description or "figure"}
        if self.interactive is not None:
            plotly = json.loads(self.interactive.to_json())
            plotly["config"] = {"displaylogo": False, "responsive": True}
            bundle["application/vnd.plotly.v1+json"] = plotly
        return bundle

    def save(self, path_stem: str | Path, data: pd.DataFrame | None = None) -> list[Path]:
        """Write <path_stem>.svg and .png, and .csv with the data behind the figure; all byte-stable.

        `data` replaces the figure's own table. Returns the paths written.
        """
        stem = Path(path_stem)
        stem.parent.mkdir(parents=True, exist_ok=True)
        contents = {".svg": self.svg().encode(), ".png": self.png()}
        data = self.data if data is None else data
        if data is not None:
            contents[".csv"] = data.to_csv(index=False, lineterminator="\n").encode()
        paths = [stem.with_name(stem.name + suffix) for suffix in contents]
        for path, content in zip(paths, contents.values(), strict=True):
            path.write_bytes(content)
        return paths


def _plotly(**layout):
    import plotly.graph_objects as go

    figure = go.Figure(layout={"template": None})
    figure.update_layout(**PLOTLY_LAYOUT)
    figure.update_layout(**layout)
    return figure


# ----------------------------------------------------------------- notebook 1: building networks


@_styled
def plot_rounding(values, power_of_two, fixed_point) -> TwoFaced:
    """Weights rounded to powers of two and activations to fixed point, with their errors.

    Three arrays of one length: the values (ascending) and what each rounding makes of them.
    """
    x, *rounded = (np.asarray(a, dtype=float).ravel() for a in (values, power_of_two, fixed_point))
    figure, axes = _axes(TWO_COLUMNS, 3.4, 2, 2, sharex=True, height_ratios=(2, 1))
    names = ("Power of two (weights)", "Fixed point (activations)")
    for column, (name, y, colour) in enumerate(zip(names, rounded, (BLUE, ORANGE), strict=True)):
        top, bottom = axes[:, column]
        top.plot(x, x, color=GREY, lw=0.8, ls="--", label="exact")
        top.plot(x, np.where(np.diff(y, prepend=y[0]) != 0, np.nan, y), color=colour, label="rounded")
        top.set(title=name, ylabel="Rounded value (1)" if column == 0 else None)
        top.legend(loc="upper left")
        bottom.fill_between(x, y - x, color=colour, alpha=0.35, lw=0)
        bottom.plot(x, y - x, color=colour, lw=0.7)
        bottom.set(xlabel="Value (1)", ylabel="Error (1)" if column == 0 else None)
        bottom.axhline(0, color=GREY, lw=0.6)
    figure.align_ylabels(axes[:, 0])
    data = pd.DataFrame({"value": x, "power_of_two": rounded[0], "fixed_point": rounded[1]})
    return TwoFaced(figure, data=data, description="Power-of-two and fixed-point rounding")


@_styled
def plot_network(layers: Sequence[str], depths: Sequence[int], macs: Mapping | None = None):
    """The network at several shift depths: one row of boxes per depth, shift layers coloured.

    layers: names in conversion order, as `shiftable_layers(model)` gives them (output end first);
    macs: {name: multiply-accumulates per image}, drawn as bars above the boxes when given.
    """
    layers, depths = list(layers), [int(d) for d in depths]
    for depth in depths:
        if not 0 <= depth <= len(layers):
            raise ValueError(f"depths={depth}: must be an integer from 0 to {len(layers)}")
    n, rows = len(layers), len(depths)
    ratios = (1, 0.32 * rows + 0.3)
    if macs is None:
        figure, boxes = _axes(TWO_COLUMNS, 0.95 + 0.24 * rows)
    else:
        figure, (bars, boxes) = _axes(
            TWO_COLUMNS, 1.9 + 0.24 * rows, 2, sharex=True, height_ratios=ratios
        )
        share = [100 * macs[name] / sum(macs.values()) for name in reversed(layers)]
        bars.bar(np.arange(1, n + 1), share, color=GREY, width=0.8)
        bars.set(ylabel="Share of\nMACs (%)")
        bars.grid(axis="x", visible=False)
    for row, depth in enumerate(depths):
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
    boxes.set(ylabel="Shift depth\n(layers)", xlabel="Layer, from input (1) to output end")
    boxes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=12))
    boxes.grid(visible=False)
    boxes.tick_params(axis="y", length=0)
    for side in ("left", "bottom"):
        boxes.spines[side].set_visible(False)
    figure.legend(
        handles=[Patch(fc="#F2F2F2", ec="#444444", lw=0.5, label="plain layer"),
                 Patch(fc=BLUE, ec="#444444", lw=0.5, label="shift layer")],
        loc="outside upper right", ncols=2,
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


@_styled
def plot_weights(weights: Mapping[str, object]) -> TwoFaced:
    """Histograms of weights, one panel per entry of {name: array}.

    Arrays of at most 64 distinct values (Q and PS weights) are drawn as one bar per value.
    """
    figure, axes = _axes(TWO_COLUMNS, 2.1, 1, len(weights), squeeze=False)
    parts = []
    for axis, (name, values), colour in zip(axes[0], weights.items(), CATEGORIES * 9, strict=False):
        values = np.asarray(values, dtype=float).ravel()
        distinct, counts = np.unique(values, return_counts=True)
        share = 100 * counts / len(values)
        if len(distinct) <= 64:
            axis.bar(range(len(distinct)), share, color=colour, width=0.85)
            step = int(np.ceil(len(distinct) / 9))
            # Ticks spread from the middle, so that zero or the smallest magnitudes are labelled.
            ticks = np.arange(len(distinct) // 2 % step, len(distinct), step)
            axis.set_xticks(ticks, [_power_label(distinct[t]) for t in ticks])
            axis.set(xlabel="Weight (1), one bar per value")
            axis.grid(axis="x", visible=False)
            parts.append(pd.DataFrame({"weights": name, "value": distinct, "share_percent": share}))
        else:
            counts, edges = np.histogram(values, bins=60)
            share = 100 * counts / len(values)
            axis.stairs(share, edges, fill=True, color=colour)
            axis.set(xlabel="Weight (1)")
            parts.append(
                pd.DataFrame({"weights": name, "value": edges[:-1], "share_percent": share})
            )
        axis.set_title(name)
    axes[0][0].set_ylabel("Share of weights (%)")
    return TwoFaced(
        figure, data=pd.concat(parts), description="Histograms of weights: " + ", ".join(weights)
    )


@_styled
def plot_training(histories: Mapping[str, Sequence[Mapping]]) -> TwoFaced:
    """Loss and accuracy over the epochs of {name: history}, as `training.train` returns them."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    figure, axes = _axes(TWO_COLUMNS, 2.5, 1, 2)
    live = _plotly()
    live = make_subplots(figure=live, rows=1, cols=2)
    tables = []
    panels = (("loss", "Cross entropy (nats)", 1), ("accuracy", "Accuracy (%)", 100))
    for (name, history), colour in zip(histories.items(), CATEGORIES * 9, strict=False):
        table = pd.DataFrame(history)
        pareto.require_columns(table, ["epoch", "train_loss", "validation_loss"])
        tables.append(table.assign(run=name))
        marker = "o" if len(table) < 30 else None
        for column, (what, _, factor) in enumerate(panels):
            for part, dashes in (("validation", "-"), ("train", ":")):
                y = factor * table[f"{part}_{what}"]
                axes[column].plot(
                    table["epoch"], y, dashes, color=colour, marker=marker, ms=2.5,
                    label=name if part == "validation" else None,
                )  # fmt: skip
                live.add_trace(
                    go.Scatter(
                        x=table["epoch"].tolist(), y=y.tolist(), name=f"{name}, {part}",
                        legendgroup=f"{name}, {part}", showlegend=column == 0,
                        line={"color": colour, "dash": "solid" if dashes == "-" else "dot"},
                    ),
                    row=1, col=column + 1,
                )  # fmt: skip
    for column, (_, label, _) in enumerate(panels):
        axes[column].set(xlabel="Epoch", ylabel=label)
        axes[column].xaxis.set_major_locator(MaxNLocator(integer=True))
        live.update_yaxes(title=label, row=1, col=column + 1, **PLOTLY_AXIS)
    live.update_xaxes(title="Epoch", **PLOTLY_AXIS)
    handles, _ = axes[0].get_legend_handles_labels()
    styles = [
        Line2D([], [], color=GREY, ls="-", label="validation"),
        Line2D([], [], color=GREY, ls=":", label="training"),
    ]
    figure.legend(handles=handles + styles, loc="outside upper center", ncols=4)
    data = pd.concat(tables, ignore_index=True)
    return TwoFaced(figure, live, data, "Training of " + ", ".join(histories))


# ----------------------------------------------------------------- notebook 2: the search space


@_styled
def plot_space(samples: pd.DataFrame) -> TwoFaced:
    """How sampled configurations are distributed: one panel per hyperparameter."""
    names = [n for n in ("shift_depth", *pareto.CONFIGURATION) if n in samples.columns]
    names = [n for n in names if samples[n].nunique() > 1] or names
    if not names:
        raise ValueError("samples: must have at least one hyperparameter column")
    columns = min(4, len(names))
    rows = int(np.ceil(len(names) / columns))
    figure, axes = _axes(TWO_COLUMNS, 1.45 * rows + 0.1, rows, columns, squeeze=False)
    parts = []
    for axis, name in zip(axes.flat, names, strict=False):
        column = samples[name].dropna()
        numeric = pd.api.types.is_numeric_dtype(column)
        if numeric and column.nunique() > 15:
            log = name in pareto.LOG_SCALED and column.min() > 0
            edges = (np.geomspace if log else np.linspace)(column.min(), column.max(), 16)
            counts, _ = np.histogram(column, bins=edges)
            axis.stairs(counts, edges, fill=True, color=BLUE)
            if log:
                axis.set_xscale("log")
            labels = edges[:-1]
        else:
            tally = column.value_counts().sort_index()
            labels, counts = tally.index, tally.to_numpy()
            where = labels if numeric else np.arange(len(labels))
            axis.bar(where, counts, color=BLUE, width=0.8 * (np.diff(where).min() if len(where) > 1 else 1))
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


# ------------------------------------------------------------------- notebooks 3 and 4: the front


def _type_of(rows: pd.DataFrame) -> pd.Series:
    return rows["shift_type"].where(rows["shift_type"].isin(list(TYPE_MARKERS)), "Q")


def _step(x, y) -> tuple[np.ndarray, np.ndarray]:
    """Corners of the staircase that a front of minimised x bounds (y holds until the next x)."""
    return np.repeat(x, 2)[1:], np.repeat(y, 2)[:-1]


@_styled
def plot_front(
    trials: pd.DataFrame,
    x: str = "energy_modelled_j_per_image",
    y: str = "loss",
    chosen: pd.Series | None = None,
    title: str | None = None,
    width: float = TWO_COLUMNS,
) -> TwoFaced:
    """All successful trials, their Pareto front, the published default and a chosen solution.

    Colour is shift depth, the marker the shift type. y: "loss" or "val_accuracy". With several
    seeds the line is the median front and the band spans what every and what at least one seed
    attains (with five seeds or more: 25 % and 75 % of them); the thin line is the front over all.
    """
    objective = "loss" if y == "val_accuracy" else y
    objectives = (objective, x)
    rows = pareto.successful(trials, objectives)
    front = pareto.pareto_front(trials, objectives)
    (x_label, fx), (y_label, fy) = _axis(x), _axis(y)
    seeds = rows["seed"].nunique() if "seed" in rows else 1
    figure, axis = _axes(width, 3.0 if width > 5 else 3.2)

    def height(values):  # an objective as drawn
        return fy * (1 - np.asarray(values, float)) if y == "val_accuracy" else fy * np.asarray(values)

    points = _draw_trials(axis, rows, fx * rows[x].to_numpy(float), height(rows[objective]))
    handles = [
        Line2D([], [], color=GREY, marker=TYPE_MARKERS[t][0], ls="", ms=4, label=t)
        for t in TYPE_MARKERS
        if (rows["shift_type"] == t).any()
    ]
    limits = axis.get_xlim(), axis.get_ylim()
    if seeds > 1:
        handles += _draw_band(axis, trials, objectives, seeds, fx, height, limits)
    line = _with_ends(fx * front[x].to_numpy(float), height(front[objective]), limits, y)
    label = "Pareto front" if seeds == 1 else "front over all seeds"
    style = {"color": BLACK, "lw": 1.4 if seeds == 1 else 0.7, "ls": "-" if seeds == 1 else "--"}
    axis.plot(*_step(*line), **style, zorder=2.5)
    handles.append(Line2D([], [], label=label, **style))
    axis.plot(fx * front[x], height(front[objective]), "o", mfc="none", mec=BLACK, ms=6.5, mew=0.7,
              zorder=3.5)  # fmt: skip

    default = pareto.default_rows(rows) if {"origin", "max_shift_depth"} <= set(rows) else rows[:0]
    if len(default):
        default = pareto.default_trial(rows)
        star = {"marker": "*", "ms": 11, "mfc": DEFAULT_COLOUR, "mec": "white", "mew": 0.6}
        axis.plot(fx * default[x], height(default[objective]), ls="", zorder=5, **star)
        handles.append(Line2D([], [], ls="", label="published default", **star))
    if chosen is not None:
        ring = {"marker": "o", "ms": 11, "mfc": "none", "mec": PINK, "mew": 2}
        axis.plot(fx * chosen[x], height(chosen[objective]), ls="", zorder=6, **ring)
        handles.append(Line2D([], [], ls="", label="chosen", **ring))
    axis.set_xlim(limits[0])
    axis.set_ylim(limits[1])
    axis.set(xlabel=x_label, ylabel=y_label, title=title)
    bar = figure.colorbar(points, ax=axis, pad=0.01, aspect=30)
    bar.set_label("Shift depth (layers)")
    bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    bar.outline.set_visible(False)
    figure.legend(handles=handles, loc="outside upper center", ncols=6 if width > 5 else 3,
                  columnspacing=1.2)  # fmt: skip
    failed = len(trials) - len(rows)
    description = (
        f"{y_label} against {x_label[0].lower() + x_label[1:]}: {len(rows)} trials "
        f"({failed} failed or incomplete, not drawn), {len(front)} on the front"
    )
    live = _interactive_front(rows, front, default, chosen, x, y, height, title)
    keep = [c for c in ("trial", "seed", "origin", "shift_depth", *pareto.CONFIGURATION) if c in rows]
    data = rows[[*keep, objective, x]].assign(on_front=rows.index.isin(front.index))
    return TwoFaced(figure, live, data, description)


def _depth_norm(rows: pd.DataFrame) -> Normalize:
    top = rows["max_shift_depth"].max() if "max_shift_depth" in rows else rows["shift_depth"].max()
    return Normalize(0, max(1, top))


def _draw_trials(axis, rows: pd.DataFrame, x: np.ndarray, y: np.ndarray):
    norm, kinds = _depth_norm(rows), _type_of(rows)
    size = 16 if len(rows) <= 300 else 8
    for kind, (marker, _) in TYPE_MARKERS.items():
        mask = (kinds == kind).to_numpy()
        points = axis.scatter(
            x[mask], y[mask], c=rows.loc[mask, "shift_depth"], cmap=DEPTH_COLOURS, norm=norm,
            marker=marker, s=size, lw=0, alpha=0.85, zorder=3,
            rasterized=len(rows) > RASTERISE_ABOVE,
        )  # fmt: skip
    return points


def _with_ends(x: np.ndarray, y: np.ndarray, limits, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Let the staircase run to the edges: nothing is attained left of it, the best right of it."""
    worst = limits[1][0] if name == "val_accuracy" else limits[1][1]
    return np.concatenate([x[:1], x, [limits[0][1]]]), np.concatenate([[worst], y, y[-1:]])


def _draw_band(axis, trials, objectives, seeds: int, fx: float, height, limits) -> list:
    percentiles = (0, 50, 100) if seeds < 5 else (25, 50, 75)
    table = pareto.attainment(trials, objectives, percentiles)
    loss, x = objectives
    fronts = {p: table[table["percentile"] == p] for p in percentiles}
    grid = np.unique(np.append(fx * table[x].to_numpy(), limits[0][1]))
    edges = []
    name = "val_accuracy" if height(0.0) > height(1.0) else "loss"
    worst = limits[1][0] if name == "val_accuracy" else limits[1][1]
    for p in (percentiles[0], percentiles[2]):
        where = np.searchsorted(fx * fronts[p][x].to_numpy(), grid, side="right") - 1
        values = height(fronts[p][loss].to_numpy())
        edges.append(np.where(where < 0, worst, values[np.maximum(where, 0)]) if len(values)
                     else np.full(len(grid), worst))  # fmt: skip
    axis.fill_between(grid, *edges, step="post", color=SKY, alpha=0.3, lw=0, zorder=1)
    band = "every to any seed" if seeds < 5 else "25–75 % of seeds"
    handles = [Patch(fc=SKY, alpha=0.3, lw=0, label=band)]
    if len(fronts[50]):
        line = _with_ends(
            fx * fronts[50][x].to_numpy(), height(fronts[50][loss].to_numpy()), limits, name
        )
        axis.plot(*_step(*line), color=BLUE, lw=1.6, zorder=2)
        handles.insert(0, Line2D([], [], color=BLUE, lw=1.6, label=f"median of {seeds} seeds"))
    return handles


HOVER = ("trial", "seed", "origin", "shift_depth", *pareto.CONFIGURATION)


def _hover(rows: pd.DataFrame) -> tuple[list, str]:
    """Values and template of a hover text that shows the whole configuration."""
    names = [n for n in HOVER if n in rows.columns]
    values = rows[names].astype(object).where(rows[names].notna(), "–")
    for name in values.columns.intersection(["lr", "momentum", "weight_decay", "data_fraction"]):
        values[name] = [f"{v:.3g}" if isinstance(v, float) else v for v in values[name]]
    lines = [f"{name}: %{{customdata[{i}]}}" for i, name in enumerate(names)]
    return [[_plain(v) for v in row] for row in values.to_numpy()], "<br>".join(lines)


def _plain(value):
    value = value.item() if hasattr(value, "item") else value
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _depth_bins(depths: pd.Series, at_most: int = 6) -> list[tuple[int, int]]:
    values = np.array(sorted(depths.unique()))
    parts = np.array_split(values, min(at_most, len(values)))
    return [(int(p[0]), int(p[-1])) for p in parts]


def _interactive_front(rows, front, default, chosen, x, y, height, title):
    import plotly.graph_objects as go

    (x_label, fx), (y_label, _) = _axis(x), _axis(y)
    objective = "loss" if y == "val_accuracy" else y
    shown, note = rows, ""
    if len(rows) > HOVER_AT_MOST:
        others = rows.drop(front.index)
        shown = pd.concat([front, others.sample(HOVER_AT_MOST, random_state=0)])
        note = f" (front and {HOVER_AT_MOST} of the other {len(others)} trials)"
    figure = _plotly(title={"text": (title or "") + note, "font": {"size": 14}})
    norm, kinds = _depth_norm(rows), _type_of(shown)
    scale = [
        [float(v), mpl.colors.to_hex(DEPTH_COLOURS(float(v)))] for v in np.linspace(0, 1, 9)
    ]
    ends = f"<br>{x_label}: %{{x:.4g}}<br>{y_label}: %{{y:.4g}}"

    def scatter(part, **kwargs):
        custom, template = _hover(part)
        figure.add_trace(
            go.Scatter(
                x=[float(v) for v in fx * part[x]], y=height(part[objective]).tolist(),
                mode="markers", customdata=custom,
                hovertemplate=template + ends + "<extra>%{fullData.name}</extra>", **kwargs,
            )
        )  # fmt: skip

    for kind, (_, symbol) in TYPE_MARKERS.items():
        of_kind = shown[kinds == kind]
        bins = _depth_bins(of_kind["shift_depth"]) if len(of_kind) else []
        for low, high in bins:
            part = of_kind[of_kind["shift_depth"].between(low, high)]
            scatter(
                part, name=f"depth {low}" if low == high else f"depth {low}–{high}",
                legendgroup=kind, legendgrouptitle={"text": f"{kind} (click to hide)"},
                marker={
                    "symbol": symbol, "size": 8, "opacity": 0.85, "coloraxis": "coloraxis",
                    "color": part["shift_depth"].astype(int).tolist(),
                },
            )  # fmt: skip
    step = _step(*(np.asarray(v, float) for v in (fx * front[x], height(front[objective]))))
    figure.add_trace(
        go.Scatter(
            x=step[0].tolist(), y=step[1].tolist(), mode="lines", name="Pareto front",
            line={"color": BLACK, "width": 2}, hoverinfo="skip", legendgroup="front",
        )
    )  # fmt: skip
    if len(default):
        scatter(
            default.to_frame().T, name="published default", legendgroup="front",
            marker={"symbol": "star", "size": 17, "color": DEFAULT_COLOUR,
                    "line": {"color": "white", "width": 1}},
        )  # fmt: skip
    if chosen is not None:
        scatter(
            chosen.to_frame().T, name="chosen", legendgroup="front",
            marker={"symbol": "circle-open", "size": 18, "color": PINK, "line": {"width": 3}},
        )  # fmt: skip
    figure.update_layout(
        legend={"groupclick": "toggleitem", "x": 1.16, "y": 1},
        coloraxis={"colorscale": scale, "cmin": norm.vmin, "cmax": norm.vmax,
                   "colorbar": {"title": {"text": "Shift depth (layers)", "side": "right"},
                                "thickness": 14, "x": 1.01}},
    )  # fmt: skip
    figure.update_xaxes(title=x_label, **PLOTLY_AXIS)
    figure.update_yaxes(title=y_label, **PLOTLY_AXIS)
    return figure


@_styled
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
    figure, axis = _axes(ONE_COLUMN, 2.3)
    live = _plotly(height=400, hovermode="x unified")
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
            title = f"{'median' if name is None else name} of {len(runs)} seeds"
            axis.step(median[x], median["hypervolume"], where="post", color=colour, lw=1.8, label=title)
        elif name is not None:
            axis.lines[-1].set_label(title)
        live.add_trace(
            go.Scatter(x=median[x].tolist(), y=median["hypervolume"].tolist(), name=title,
                       line={"shape": "hv", "color": colour})
        )  # fmt: skip
    axis.set(xlabel=label, ylabel="Hypervolume (share\nof reference box)")
    axis.set_xlim(left=0)
    axis.set_ylim(bottom=0)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(loc="lower right")
    live.update_xaxes(title=label, **PLOTLY_AXIS)
    live.update_yaxes(title="Hypervolume (share of reference box)", rangemode="tozero", **PLOTLY_AXIS)
    return TwoFaced(figure, live, curves, f"Hypervolume over {label.lower()}")


def _median_curve(runs: Sequence[pd.DataFrame], x: str) -> pd.DataFrame:
    grid = np.unique(np.concatenate([run[x].to_numpy(float) for run in runs]))
    grid = grid[grid <= min(run[x].max() for run in runs)]
    values = []
    for run in runs:
        at = np.searchsorted(run[x].to_numpy(float), grid, side="right") - 1
        values.append(np.where(at < 0, 0, run["hypervolume"].to_numpy()[np.maximum(at, 0)]))
    return pd.DataFrame({x: grid, "hypervolume": np.median(values, axis=0)})


@_styled
def plot_depth_and_bits(counts: pd.DataFrame) -> TwoFaced:
    """Which depths and bits the front uses beside what was tried, from `pareto.depth_and_bits`."""
    pareto.require_columns(counts, ["parameter", "value", "front"])
    labels = {
        "shift_depth": "Shift depth (layers)",
        "weight_bits": "Weight bits",
        "activation_bits": "Activation bits (integer + fraction)",
    }
    figure, axes = _axes(TWO_COLUMNS, 2.2, 1, 3, sharey=True)
    for axis, (name, label) in zip(axes, labels.items(), strict=True):
        part = counts[counts["parameter"] == name]
        edges = _bin_edges(part["value"])
        centres = np.arange(len(edges) - 1)
        for column, colour, shift, what in (
            ("tried", LIGHT, -0.2, "all trials"),
            ("front", BLUE, 0.2, "Pareto front"),
        ):
            if column in part:
                number, _ = np.histogram(part["value"], bins=edges, weights=part[column])
                axis.bar(centres + shift, 100 * number / max(1, number.sum()), 0.4, color=colour,
                         label=what)  # fmt: skip
        ends = [(int(np.ceil(a)), int(np.ceil(b)) - 1) for a, b in zip(edges[:-1], edges[1:], strict=True)]
        ticks = [f"{a}" if a == b else f"{a}–{b}" for a, b in ends]
        axis.set_xticks(centres, ticks, rotation=45 if len(ticks) > 6 and "–" in "".join(ticks) else 0)
        axis.set(xlabel=label)
        axis.grid(axis="x", visible=False)
    axes[0].set_ylabel("Share (%)")
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=2)
    total = counts.loc[counts["parameter"] == "shift_depth", "front"].sum()
    return TwoFaced(figure, data=counts, description=f"Depths and bits of {total} front solutions")


def _bin_edges(values: pd.Series, at_most: int = 8) -> np.ndarray:
    """Edges between integers: one bin per value, or `at_most` bins of equal width."""
    distinct = np.unique(values)
    if len(distinct) <= at_most:
        return np.append(distinct, distinct[-1] + 1).astype(float) - 0.5 + 0.5
    low, high = distinct[0], distinct[-1] + 1
    width = int(np.ceil((high - low) / at_most))
    return np.arange(low, high + width, width).astype(float)


PARALLEL = (
    "shift_depth", "shift_type", "weight_bits", "activation_integer_bits",
    "activation_fraction_bits", "optimizer", "lr", "loss", "energy_modelled_j_per_image",
)  # fmt: skip


@_styled
def plot_parallel(trials: pd.DataFrame, columns: Sequence[str] = PARALLEL) -> TwoFaced:
    """Parallel coordinates of the successful trials; brush the axes in the interactive face.

    Lines of the Pareto front are coloured by shift depth, all others are grey (static face).
    """
    import plotly.graph_objects as go

    rows = pareto.successful(trials)
    pareto.require_columns(trials, columns)
    front = rows.index.isin(pareto.pareto_front(trials).index)
    norm = _depth_norm(rows)
    scaled, ticks, dimensions = {}, {}, []
    for name in columns:
        scaled[name], ticks[name], dimension = _parallel_axis(rows[name], name)
        dimensions.append(dimension)
    figure, axis = _axes(TWO_COLUMNS, 3.1)
    positions = np.arange(len(columns))
    lines = np.column_stack([scaled[name] for name in columns])
    raster = len(rows) * len(columns) > RASTERISE_ABOVE
    background = lines[~front][:1500]
    axis.plot(positions, background.T, color=GREY, lw=0.4, alpha=0.25, zorder=1, rasterized=raster)
    depths = rows.loc[front, "shift_depth"]
    for line, depth in zip(lines[front], depths, strict=True):
        axis.plot(positions, line, color=DEPTH_COLOURS(norm(depth)), lw=1.2, zorder=3)
    for position, name in zip(positions, columns, strict=True):
        axis.axvline(position, color="#444444", lw=0.7, zorder=2)
        for where, text in ticks[name]:
            axis.text(position + 0.04, where, text, fontsize=6.5, va="center", zorder=4,
                      bbox={"fc": "white", "ec": "none", "alpha": 0.75, "pad": 0.4})  # fmt: skip
    axis.set_xticks(positions, [_short(name) for name in columns])
    axis.xaxis.tick_top()
    axis.tick_params(length=0, labelsize=7)
    axis.set_xlim(-0.15, len(columns) - 0.45)
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
    live = _plotly(margin={"l": 60, "r": 60, "t": 70, "b": 30})
    live.add_trace(
        go.Parcoords(
            dimensions=dimensions,
            line={"color": rows["shift_depth"].astype(int).tolist(), "colorscale": scale,
                  "cmin": norm.vmin, "cmax": norm.vmax, "showscale": True,
                  "colorbar": {"title": {"text": "Shift depth (layers)", "side": "right"}}},
        )
    )  # fmt: skip
    description = f"Parallel coordinates of {len(rows)} trials, {int(front.sum())} on the front"
    return TwoFaced(figure, live, rows[list(columns)].assign(on_front=front), description)


def _short(name: str) -> str:
    label = {
        "loss": "Validation\nerror (%)",
        "val_accuracy": "Validation\naccuracy (%)",
        "energy_modelled_j_per_image": "Modelled\nenergy\n(µJ/image)",
        "activation_integer_bits": "Activation\ninteger\nbits",
        "activation_fraction_bits": "Activation\nfraction\nbits",
    }.get(name)
    return label or NAMES.get(name, _axis(name)[0] if name in AXES else name).replace(" ", "\n", 1)


def _parallel_axis(column: pd.Series, name: str) -> tuple[np.ndarray, list, dict]:
    """Positions in 0..1, tick labels for the static face and plotly's dimension."""
    label = _short(name).replace("\n", " ")
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
        powers = np.arange(np.floor(low), np.ceil(high) + 1)
        dimension |= {"tickvals": powers.tolist(), "ticktext": [f"{10.0**p:g}" for p in powers]}
    return places, ticks, dimension


@_styled
def plot_importance(tables: Mapping[str, pd.DataFrame]) -> TwoFaced:
    """fANOVA importances of {objective: `pareto.importance(...)`}; whiskers: range over seeds."""
    names = list(dict.fromkeys(n for t in tables.values() for n in t["hyperparameter"]))
    merged = {k: t.set_index("hyperparameter").reindex(names).fillna(0.0) for k, t in tables.items()}
    order = sum(t["importance"] for t in merged.values()).sort_values(kind="stable").index
    figure, axis = _axes(ONE_COLUMN * 1.35, 0.7 + 0.21 * len(order) * max(1, len(tables) * 0.6))
    height = 0.8 / len(tables)
    for i, (objective, table) in enumerate(merged.items()):
        table = table.loc[order]
        y = np.arange(len(order)) + (len(tables) - 1 - 2 * i) / 2 * height
        value = 100 * table["importance"]
        whiskers = np.abs([value - 100 * table["lowest"], 100 * table["highest"] - value])
        label = AXES[objective][0].split(" (")[0] if objective in AXES else objective
        axis.barh(y, value, height, color=CATEGORIES[i], label=label, xerr=whiskers,
                  error_kw={"lw": 0.8, "capsize": 1.5})  # fmt: skip
    axis.set_yticks(range(len(order)), [NAMES.get(n, n).split(" (")[0] for n in order])
    axis.set(xlabel="Importance (% of variance explained)")
    axis.set_xlim(left=0)
    axis.grid(axis="y", visible=False)
    figure.legend(loc="outside upper center", ncols=2)
    data = pd.concat([t.assign(objective=k) for k, t in tables.items()], ignore_index=True)
    return TwoFaced(figure, data=data, description="fANOVA importance for " + ", ".join(tables))


@_styled
def plot_depth_correlation(correlation: pd.DataFrame) -> TwoFaced:
    """Spearman rank correlation between depths, from `pareto.depth_rank_correlation`."""
    pareto.require_columns(correlation, ["low_depth", "high_depth", "configurations", "spearman"])
    figure, axis = _axes(ONE_COLUMN, 2.4)
    depths = sorted(set(correlation["low_depth"]) | set(correlation["high_depth"]))
    if not depths:
        axis.text(0.5, 0.5, "No pair of depths shares\nenough configurations", ha="center", va="center",
                  transform=axis.transAxes)  # fmt: skip
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
            axis.text(at[pair.low_depth], at[pair.high_depth] - 1,
                      f"{pair.spearman:.2f}\nn={pair.configurations}", ha="center", va="center",
                      fontsize=7, color=colour)  # fmt: skip
    axis.set_xticks(range(len(depths) - 1), depths[:-1])
    axis.set_yticks(range(len(depths) - 1), depths[1:])
    axis.set(xlabel="Shallower depth (layers)", ylabel="Deeper depth (layers)")
    axis.grid(visible=False)
    bar = figure.colorbar(image, ax=axis, pad=0.02)
    bar.set_label("Spearman's ρ of validation error")
    bar.outline.set_visible(False)
    return TwoFaced(figure, data=correlation, description="Rank correlation between shift depths")


@_styled
def plot_tradeoff(trials: pd.DataFrame, bits: str = "weight_bits") -> TwoFaced:
    """Best validation error, and the energy it costs, for each shift depth and number of bits.

    bits: "weight_bits" or "activation_bits" (integer plus fraction). Empty cells were not tried.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    if bits not in ("weight_bits", "activation_bits"):
        raise ValueError(f"bits={bits!r}: must be one of weight_bits, activation_bits")
    rows = pareto.successful(trials)
    total = rows["activation_integer_bits"] + rows["activation_fraction_bits"]
    rows = rows.assign(activation_bits=total)
    depth_edges, bit_edges = _bin_edges(rows["shift_depth"]), _bin_edges(rows[bits])
    best = rows.assign(
        d=np.digitize(rows["shift_depth"], depth_edges) - 1, b=np.digitize(rows[bits], bit_edges) - 1
    ).sort_values(["loss", "energy_modelled_j_per_image"], kind="stable")
    counts = best.groupby(["b", "d"]).size().rename("trials")
    best = best.groupby(["b", "d"]).first().join(counts).reset_index()
    shape = len(bit_edges) - 1, len(depth_edges) - 1
    panels = {}
    for name in ("loss", "energy_modelled_j_per_image"):
        panels[name] = np.full(shape, np.nan)
        panels[name][best["b"], best["d"]] = AXES[name][1] * best[name]
    figure, axes = _axes(TWO_COLUMNS, 0.9 + 0.24 * shape[0], 1, 2, sharey=True)
    live = make_subplots(figure=_plotly(height=420), rows=1, cols=2, horizontal_spacing=0.16)
    maps = ("viridis_r", "cividis_r")
    titles = ("Lowest validation error (%)", "Modelled energy there (µJ per image)")
    labels = [_interval_labels(edges) for edges in (depth_edges, bit_edges)]
    bits_label = "Weight bits" if bits == "weight_bits" else "Activation bits\n(integer + fraction)"
    for i, (axis, matrix) in enumerate(zip(axes, panels.values(), strict=True)):
        image = axis.imshow(matrix, cmap=maps[i], origin="lower", aspect="auto")
        bar = figure.colorbar(image, ax=axis, pad=0.02)
        bar.outline.set_visible(False)
        for (row, column), value in np.ndenumerate(matrix):
            if np.isfinite(value):
                dark = image.norm(value) > 0.5
                axis.text(column, row, f"{value:.3g}", ha="center", va="center", fontsize=6.5,
                          color="white" if dark else "black")  # fmt: skip
        axis.set_xticks(range(shape[1]), labels[0])
        axis.set_yticks(range(shape[0]), labels[1])
        axis.set(xlabel="Shift depth (layers)", title=titles[i])
        axis.grid(visible=False)
        live.add_trace(
            go.Heatmap(
                z=[[None if np.isnan(v) else float(v) for v in r] for r in matrix],
                x=labels[0], y=labels[1], colorscale=["Viridis", "Cividis"][i], reversescale=True,
                colorbar={"x": 0.43 + 0.59 * i, "thickness": 12},
                hovertemplate=f"depth %{{x}}<br>{bits.replace('_', ' ')} %{{y}}"
                f"<br>{titles[i]}: %{{z:.4g}}<extra></extra>",
            ),
            row=1, col=i + 1,
        )  # fmt: skip
        live.add_annotation(text=titles[i], x=0.21 + 0.58 * i, y=1.08, xref="paper", yref="paper",
                            showarrow=False)  # fmt: skip
    axes[0].set_ylabel(bits_label)
    live.update_xaxes(title="Shift depth (layers)", type="category")
    live.update_yaxes(title=bits_label.replace("\n", " "), type="category")
    keep = ["trial", "seed", "shift_depth", bits, "loss", "energy_modelled_j_per_image", "trials"]
    data = best[[c for c in keep if c in best]]
    return TwoFaced(figure, live, data, "Validation error and energy over shift depth and bits")


def _interval_labels(edges: np.ndarray) -> list[str]:
    ends = [(int(a), int(b) - 1) for a, b in zip(edges[:-1], edges[1:], strict=True)]
    return [f"{a}" if a == b else f"{a}–{b}" for a, b in ends]


# ------------------------------------------------------------------- notebook 5: published values


@_styled
def plot_published(comparison: pd.DataFrame) -> TwoFaced:
    """Published values beside ours, from `paper.compare`; hollow marks are not comparable.

    Only rows in percent are drawn: other units have no common axis.
    """
    pareto.require_columns(comparison, ["what", "published", "ours", "unit", "comparable"])
    rows = comparison[comparison["unit"] == "%"].reset_index(drop=True)
    figure, axis = _axes(TWO_COLUMNS, 0.8 + 0.2 * len(rows))
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


# ------------------------------------------------------------------------ the live view of a search


def _in_live_notebook() -> bool:
    """True in a notebook someone looks at; False in a terminal and under papermill or nbconvert."""
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    shell = get_ipython()
    front_end = "JPY_SESSION_NAME" in os.environ or "VSCODE_PID" in os.environ
    return shell is not None and hasattr(shell, "kernel") and front_end


@dataclass
class LiveFront:
    """Shows the front of a search while it grows: pass it as `on_trial`, call `close()` at the end.

    In a notebook one display is redrawn (SVG only) at most every `seconds`; without a viewer
    (papermill, a terminal) lines of text are printed instead, at most every `text_seconds`.
    `close()` always draws the last state. As a context manager it closes itself.
    """

    n_trials: int | None = None
    x: str = "energy_modelled_j_per_image"
    y: str = "loss"
    seconds: float = 0.5
    text_seconds: float = 10.0
    live: bool | None = None
    _handle: object = field(default=None, repr=False)
    _trials: pd.DataFrame | None = field(default=None, repr=False)
    _last: float = field(default=-np.inf, repr=False)
    _shown: str = field(default="", repr=False)

    def __post_init__(self):
        if self.live is None:
            self.live = _in_live_notebook()

    def __call__(self, row: Mapping, trials: pd.DataFrame) -> None:
        self.update(trials)

    def update(self, trials: pd.DataFrame) -> None:
        """Take the newest table; draw it if the last drawing is old enough."""
        self._trials = trials
        now = time.monotonic()
        if now - self._last < (self.seconds if self.live else self.text_seconds):
            return
        if self.live:
            self._draw(final=False)
        else:
            self._print()
        self._last = time.monotonic()  # after drawing: a slow drawing does not eat up the search

    def status(self) -> str:
        """One line: trials, failures, size of the front, best accuracy."""
        rows, total = self._trials, f"/{self.n_trials}" if self.n_trials else ""
        line = f"trial {len(rows)}{total}"
        failed = int((rows["status"] != "SUCCESS").sum())
        try:
            front = pareto.pareto_front(rows, ("loss", self.x))
        except ValueError:
            return f"{line}, {failed} failed, no successful trial yet"
        best = 100 * (1 - front["loss"].min())
        return f"{line}, {failed} failed, front {len(front)}, best validation accuracy {best:.1f} %"

    def close(self) -> None:
        """Draw the last state for good."""
        if self._trials is None or not len(self._trials):
            return
        if not self.live:
            self._print()
        self._draw(final=True)

    def __enter__(self) -> "LiveFront":
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def _print(self) -> None:
        line = self.status()
        if line != self._shown:
            print(line, flush=True)
            self._shown = line

    def _draw(self, final: bool) -> None:
        try:
            figure = plot_front(self._trials, self.x, self.y, title=self.status())
        except ValueError:  # nothing to draw yet
            return
        if not final:
            figure.interactive = None
        try:
            from IPython import get_ipython
            from IPython.display import display
        except ImportError:
            return
        if get_ipython() is None:
            return
        if self._handle is None:
            self._handle = display(figure, display_id=True)
        else:
            self._handle.update(figure)
