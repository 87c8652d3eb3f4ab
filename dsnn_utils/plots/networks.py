"""How shift networks are built: rounding, layers by depth, weights."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from dsnn_utils.plots.style import (
    BLACK,
    BLUE,
    GREY,
    NETWORKS,
    ONE_COLUMN,
    TWO_COLUMNS,
    DualFigure,
    colours_of,
    legend_above,
    new_axes,
    styled,
)


@styled
def plot_rounding(values, power_of_two, fixed_point) -> DualFigure:
    """Weights rounded to powers of two and activations to fixed point, with their errors.

    Three arrays of one length: the values (ascending) and what each rounding makes of them.
    """
    x, *rounded = (np.asarray(a, dtype=float).ravel() for a in (values, power_of_two, fixed_point))
    figure, axes = new_axes(TWO_COLUMNS, 3.4, 2, 2, sharex=True, sharey="row", height_ratios=(2, 1))
    names = ("Power of two (weights)", "Fixed point (activations)")
    for column, (name, y, colour) in enumerate(
        zip(names, rounded, (NETWORKS["Q"], NETWORKS["integer"]), strict=True)
    ):
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
    return DualFigure(figure, data=data, description="Power-of-two and fixed-point rounding")


@styled
def plot_rounding_bias(fraction, nearest, stochastic, expected) -> DualFigure:
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
    axis.plot(x, percent["expected"], color=GREY, label="stochastic, expected")
    axis.plot(x, percent["stochastic"], "o", color=BLACK, ms=2.5,
              label="stochastic, drawn")  # fmt: skip
    axis.set(xlabel="Fractional part of log₂|w|", ylabel="Error relative to w (%)", xlim=(0, 1))
    legend_above(figure, axis.get_legend_handles_labels()[0])
    return DualFigure(figure, data=data, description="Bias of stochastic power-of-two rounding")


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
    return DualFigure(figure, data=data, description=f"Network by shift depth ({what})")


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
    for axis, (name, colour) in zip(axes[0], colours_of(weights).items(), strict=True):
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
            low, high = np.quantile(np.concatenate(arrays), (0.0005, 0.9995))
            edges = np.linspace(low, high, 61)
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
    return DualFigure(figure, data=pd.concat(parts), description=description)
