"""Depth, bits and accuracy of what the front offers."""

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from dsnn_utils.analysis.choosing import accuracy_drop
from dsnn_utils.analysis.fronts import pareto_front
from dsnn_utils.checks import require_choice, require_columns
from dsnn_utils.plots.style import (
    AXES,
    BLUE,
    DEPTH_COLOURS,
    GREY,
    LIGHT,
    ONE_COLUMN,
    PINK,
    SKY,
    TWO_COLUMNS,
    VERMILION,
    DualFigure,
    axis_label,
    bin_index,
    bin_labels,
    bins_of,
    depth_norm,
    heatmap,
    legend_above,
    name_of,
    new_axes,
    plotly_figure,
    styled,
)
from dsnn_utils.runs.columns import COMPUTE_ENERGY, HYPERPARAMETERS, LOG_SCALED
from dsnn_utils.runs.rows import successful


@styled
def plot_depth_and_bits(counts: pd.DataFrame) -> DualFigure:
    """Depths and bits of the front beside those that were tried, from `analysis.depth_and_bits`."""
    require_columns(counts, ["parameter", "value", "front"])
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
    return DualFigure(
        figure, data=counts, description=f"Depths and bits of {total} front solutions"
    )


PARALLEL = (
    "shift_depth", "shift_type", "weight_bits", "activation_integer_bits",
    "activation_fraction_bits", "optimizer", "lr", "loss",
)  # fmt: skip


@styled
def plot_parallel(trials: pd.DataFrame, cost: str = COMPUTE_ENERGY) -> DualFigure:
    """Parallel coordinates of the successful trials; brush the axes in the interactive face.

    Lines of the Pareto front (of loss and `cost`) are coloured by shift depth, all others are grey
    (static face).
    """
    import plotly.graph_objects as go

    rows, columns = successful(trials, ("loss", cost)), (*PARALLEL, cost)
    require_columns(trials, columns)
    front = rows.index.isin(pareto_front(trials, ("loss", cost)).index)
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
    return DualFigure(figure, live, rows[list(columns)].assign(on_front=front), description)


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
    return label or _long(name).replace(" ", "\n", 1).replace(" (", "\n(")


def _long(name: str) -> str:
    return name_of(name) if name in HYPERPARAMETERS else axis_label(name)[0]


def _parallel_axis(column: pd.Series, name: str) -> tuple[np.ndarray, list, dict]:
    """Positions in 0..1, tick labels for the static face and plotly's dimension."""
    label = ONE_LINE.get(name) or _long(name)
    if not pd.api.types.is_numeric_dtype(column):
        column = column.astype(object).where(column.notna(), "none")  # integers have no shift type
        names = sorted(column.astype(str).unique())
        codes = column.astype(str).map({n: i for i, n in enumerate(names)}).to_numpy(float)
        places = [i / max(1, len(names) - 1) for i in range(len(names))]
        dimension = {"label": label, "values": codes.tolist(), "ticktext": names,
                     "tickvals": list(range(len(names)))}  # fmt: skip
        return codes / max(1, len(names) - 1), list(zip(places, names, strict=True)), dimension
    factor = 1 if name in HYPERPARAMETERS or name not in AXES else AXES[name][1]
    values = factor * column.astype(float).to_numpy()
    log = name in LOG_SCALED and np.nanmin(values) > 0
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
def plot_tradeoff(
    trials: pd.DataFrame, bits: str = "weight_bits", cost: str = COMPUTE_ENERGY
) -> DualFigure:
    """Best validation error, and the energy it costs, for each shift depth and number of bits.

    bits: "weight_bits" or "activation_bits" (integer plus fraction); cost: the other objective.
    Empty cells were not tried.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    require_choice("bits", bits, ("weight_bits", "activation_bits"))
    objectives = ("loss", cost)
    rows = successful(trials, objectives)
    total = rows["activation_integer_bits"] + rows["activation_fraction_bits"]
    rows = rows.assign(activation_bits=total)
    rows["on_front"] = rows.index.isin(pareto_front(rows, objectives).index)
    depth_bins, bit_bins = bins_of(rows["shift_depth"]), bins_of(rows[bits])
    rows["d"] = bin_index(rows["shift_depth"], depth_bins)
    rows["b"] = bin_index(rows[bits], bit_bins)
    cells = rows.groupby(["b", "d"]).agg(trials=("loss", "size"), front=("on_front", "any"))
    best = rows.sort_values(list(objectives), kind="stable")
    best = best.groupby(["b", "d"]).first().join(cells).reset_index()
    shape = len(bit_bins), len(depth_bins)
    labels = [bin_labels(depth_bins), bin_labels(bit_bins)]
    panels = {}
    for name in objectives:
        cells = np.full(shape, np.nan)
        cells[best["b"], best["d"]] = axis_label(name)[1] * best[name]
        panels[name] = pd.DataFrame(cells, index=labels[1], columns=labels[0])
    figure, axes = new_axes(TWO_COLUMNS, 0.9 + 0.24 * shape[0], 1, 2, sharey=True)
    titles = ("Lowest validation error (%)", axis_label(cost)[0].replace(" (", " there ("))
    live = make_subplots(
        figure=plotly_figure(height=440, margin={"t": 75}), rows=1, cols=2, horizontal_spacing=0.2,
        subplot_titles=titles,
    )  # fmt: skip
    maps = ("viridis_r", "cividis_r")
    bits_label = "Weight bits" if bits == "weight_bits" else "Activation bits\n(integer + fraction)"
    for i, (axis, matrix) in enumerate(zip(axes, panels.values(), strict=True)):
        # A cell that failed to learn must not take all colours: the scale ends at twice the median.
        low, high = np.nanmin(matrix), min(np.nanmax(matrix), 2 * np.nanmedian(matrix))
        notes = matrix.map(("{:.1f}" if np.nanmax(matrix) < 100 else "{:.0f}").format)
        image = heatmap(axis, matrix, maps[i], low, high, notes)
        clipped = "max" if np.nanmax(matrix) > high else "neither"
        bar = figure.colorbar(image, ax=axis, pad=0.02, extend=clipped)
        bar.outline.set_visible(False)
        for cell in best[best["front"]].itertuples():
            axis.add_patch(
                Rectangle((cell.d - 0.46, cell.b - 0.44), 0.92, 0.88, fill=False, ec=PINK, lw=1.6)
            )
        axis.set(xlabel="Shift depth (layers)", title=titles[i])
        live.add_trace(
            go.Heatmap(
                z=[[None if np.isnan(v) else float(v) for v in r] for r in matrix.to_numpy()],
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
    return DualFigure(figure, live, data, "Validation error and energy over shift depth and bits")


@styled
def plot_accuracy_drop(
    trials: pd.DataFrame,
    drop: float = 0.01,
    cost: str = "energy_modelled_j_per_image",
    by: str = "seed",
    baseline: tuple[str, float] | None = None,
) -> DualFigure:
    """Energy saved by giving up accuracy, and which network does it (`analysis.accuracy_drop`).

    One thin line per run, their median thick; from 20 runs (by="draw") a band of 5 to 95 % in place
    of the lines. The text reads off the value at `drop` (0..1), with the same range in brackets.
    baseline: (name, value) of what savings are relative to; default: the most accurate network.
    """
    grid = np.unique([*np.linspace(0, max(5 * drop, 0.02), 101), drop])
    name, value = baseline or ("the most accurate network", None)
    table = accuracy_drop(trials, grid.tolist(), cost, by, value)
    at = table[table["drop"] == drop]
    figure, axis = new_axes(ONE_COLUMN * 1.35, 2.6)
    saving = 100 * table.pivot(index="drop", columns=by, values="saving")
    number, what = saving.shape[1], axis_label(cost)[0].split(" (")[0].lower()
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
    return DualFigure(figure, data=table, description="; ".join(lines))


def _range_of(number: int) -> tuple[float, float]:
    """The quantiles that are shown as the range of so many values."""
    return (0, 1) if number < 20 else (0.05, 0.95)


def _spread(values: pd.Series) -> str:
    """Median and, where they differ, range."""
    low, high = values.quantile(_range_of(len(values)))
    low, middle, high = (f"{v:.0f}" for v in (low, values.median(), high))
    return middle if low == high else f"{middle} ({low}–{high})"
