"""One number format at a time: what it rounds to, what it costs, which trials are near it."""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
import torch
from matplotlib.ticker import MaxNLocator

from dsnn_utils.analysis.fronts import pareto_front
from dsnn_utils.checks import require_choice
from dsnn_utils.plots.style import (
    BLUE,
    DEFAULT_COLOUR,
    GREY,
    LIGHT,
    NETWORKS,
    SKY,
    TWO_COLUMNS,
    DualFigure,
    axis_label,
    name_of,
    new_axes,
    someone_looks,
    styled,
)
from dsnn_utils.runs.columns import COMPUTE_ENERGY
from dsnn_utils.runs.rows import successful
from dsnn_utils.search.space import to_spec
from dsnn_utils.shift import ShiftSpec, fixed_point, quantize_ps, quantize_q

NEAREST = 5


@styled
def plot_format(
    point: Mapping,
    energy_of: Callable[[Mapping], float],
    max_depth: int,
    trials: pd.DataFrame | None = None,
) -> DualFigure:
    """The rounding grid of a point's number format, its modelled energy, and the trials near it.

    point: a configuration with its shift depth, such as `search.published_default` gives;
    energy_of: its modelled energy in J per image (arithmetic alone), see `search.energy_function`;
    trials: a table of trials of the same network. `data` of the figure is the energy by depth.

    Raises ValueError for a depth beyond `max_depth`, for integer arithmetic and for types of one's
    own.
    """
    spec, depth = to_spec(point), int(point["shift_depth"])
    if not 0 <= depth <= max_depth:
        raise ValueError(f"shift_depth={depth}: must be an integer from 0 to {max_depth}")
    if not isinstance(spec, ShiftSpec):
        raise ValueError(f"arithmetic={point['arithmetic']!r}: must be shift")
    require_choice("shift_type", point["shift_type"], ("Q", "PS"))
    i, f = spec.activation_integer_bits, spec.activation_fraction_bits
    figure, axes = new_axes(TWO_COLUMNS, 4.2, 2, 2)
    w = torch.linspace(-1.25, 1.25, 2001)
    low = spec.shift_range[0]
    if point["shift_type"] == "PS":
        # As if the sign were trained to +-1, and to 0 below the smallest power's half.
        weights = quantize_ps(w.abs().log2(), w.sign() * (w.abs() >= 2.0 ** (low - 1)), low)
    else:
        weights = quantize_q(w, low)
    x = torch.linspace(-9, 9, 2001)
    bits = f"{point['shift_type']}, {spec.weight_bits} bits, down to $2^{{{low}}}$"
    _stairs(axes[0, 0], w, weights, NETWORKS[point["shift_type"]], "Weight", bits)
    _stairs(axes[0, 1], x, fixed_point(x, i, f), SKY, "Activation", f"{i} + {f} bits")

    depths = np.arange(max_depth + 1)
    energies = np.array([energy_of({**point, "shift_depth": int(d)}) for d in depths])
    label, factor = axis_label(COMPUTE_ENERGY)
    below = axes[1, 0]
    below.plot(depths, factor * energies, color=GREY, marker=".", ms=3)
    below.plot(depth, factor * energies[depth], "o", color=DEFAULT_COLOUR, ms=6)
    below.set(xlabel="Shift depth (layers)", ylabel=label, yscale="log")
    below.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10))
    below.yaxis.set_major_formatter("{x:g}")
    below.set_title(f"{factor * energies[depth]:.3g} µJ at depth {depth}")
    _near(axes[1, 1], point, factor * energies[depth], max_depth, trials)
    data = pd.DataFrame({"shift_depth": depths, COMPUTE_ENERGY: energies})
    description = (
        f"{point['shift_type']}, {spec.weight_bits} weight bits, {i} + {f} activation bits, depth "
        f"{depth}: {factor * energies[depth]:.3g} µJ per image (modelled)"
    )
    return DualFigure(figure, data=data, description=description)


def explore(
    point: Mapping,
    energy_of: Callable[[Mapping], float],
    max_depth: int,
    trials: pd.DataFrame | None = None,
):
    """Sliders over `plot_format`, starting at `point`; the figure alone where nobody can move them.

    That is under papermill, and so on GitHub and in HTML pages.
    """
    if not someone_looks():
        return plot_format(point, energy_of, max_depth, trials)
    import ipywidgets
    from IPython.display import display

    def labelled(name: str) -> dict:
        # The usual width cuts off all that tells the two sliders of activations apart.
        wide = {"style": {"description_width": "170px"}, "layout": {"width": "420px"}}
        return {"value": point[name], "description": name_of(name)} | wide

    def slider(name: str, low: int, high: int):
        # A new format takes a moment to count: drawn when the slider is let go.
        ends = {"min": low, "max": high, "continuous_update": False}
        return ipywidgets.IntSlider(**labelled(name), **ends)

    return ipywidgets.interactive(
        lambda **moved: display(plot_format({**point, **moved}, energy_of, max_depth, trials)),
        shift_type=ipywidgets.Dropdown(options=["Q", "PS"], **labelled("shift_type")),
        shift_depth=slider("shift_depth", 0, max_depth),
        weight_bits=slider("weight_bits", 2, 8),
        activation_integer_bits=slider("activation_integer_bits", 2, 16),
        activation_fraction_bits=slider("activation_fraction_bits", 0, 16),
    )


def nearest_trials(point: Mapping, trials: pd.DataFrame, max_depth: int) -> pd.DataFrame:
    """The `NEAREST` successful trials whose depth, type and bits are most like those of `point`.

    Each of the four counts by the share of its range that it differs (activation bits by their
    logarithm, another type as half of the range).
    """
    rows = successful(trials, ["loss", COMPUTE_ENERGY])
    own, theirs = (
        np.log2(p["activation_integer_bits"] + p["activation_fraction_bits"]) for p in (point, rows)
    )
    distance = (
        (rows["shift_depth"] - point["shift_depth"]).abs() / max_depth
        + (rows["weight_bits"] - point["weight_bits"]).abs() / 6
        + (theirs - own).abs() / 5
        + (rows["shift_type"] != point["shift_type"]) / 2
    )
    return rows.loc[distance.sort_values(kind="stable").index[:NEAREST]]


def _stairs(axis, values, rounded, colour: str, what: str, title: str) -> None:
    axis.plot(values, values, color=LIGHT, lw=1)
    axis.plot(values, rounded, color=colour, lw=1.2)
    axis.set(xlabel=f"{what} (dimensionless)", ylabel="Rounded (dimensionless)", title=title)


def _near(axis, point, energy, max_depth: int, trials: pd.DataFrame | None) -> None:
    if trials is None:
        axis.axis("off")
        return
    label, factor = axis_label(COMPUTE_ENERGY)
    error, percent = axis_label("loss")
    axis.axvline(energy, color=DEFAULT_COLOUR, lw=1)
    axis.set(xlabel=label, ylabel=error, xscale="log")
    axis.xaxis.set_major_formatter("{x:g}")
    rows = successful(trials, ["loss", COMPUTE_ENERGY])
    axis.plot(factor * rows[COMPUTE_ENERGY], percent * rows["loss"], "o", ms=2, color=LIGHT)
    front = pareto_front(rows, ("loss", COMPUTE_ENERGY)).sort_values(COMPUTE_ENERGY)
    where = {"drawstyle": "steps-post", "color": GREY, "lw": 0.8}
    axis.plot(factor * front[COMPUTE_ENERGY], percent * front["loss"], **where)
    near = nearest_trials(point, trials, max_depth)
    axis.plot(factor * near[COMPUTE_ENERGY], percent * near["loss"], "o", ms=4, color=BLUE)
    axis.set_title(f"the {len(near)} nearest of {len(rows)} trials")
