"""The one style of all figures: sizes, colours, fonts, axis labels, and a figure with two faces.

Sizes are those of a one-column (3.3 in) or two-column (6.9 in) paper; text is 7 to 8 pt. Colours
are told apart with every common colour blindness.
"""

import functools
import io
import itertools
import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler
from matplotlib.ticker import LogLocator, NullLocator

from dsnn_utils.runs.columns import OWN, split_unit

ONE_COLUMN, TWO_COLUMNS = 3.3, 6.9  # inches
# Okabe and Ito's palette, told apart with every common colour blindness.
BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PINK = (
    "#000000 #E69F00 #56B4E9 #009E73 #F0E442 #0072B2 #D55E00 #CC79A7".split()
)
CATEGORIES = (BLUE, ORANGE, GREEN, PINK, SKY, VERMILION, BLACK, YELLOW)
GREY, LIGHT = "#6E6E6E", "#D9D9D9"
#: One colour per kind of network, in every figure. The published default and the chosen network
#: have their own in place of that of their kind.
NETWORKS = {
    "plain": BLACK,
    "Q": BLUE,
    "PS": ORANGE,
    "integer": GREEN,
    "default": VERMILION,
    "chosen": PINK,
}
DEFAULT_COLOUR = NETWORKS["default"]
RASTERISE_ABOVE = 1000  # marks; more of them would make an SVG too large
# Viridis without its palest end, which is hard to see on white; dark is deep.
DEPTH_COLOURS = LinearSegmentedColormap.from_list(
    "depth", mpl.colormaps["viridis_r"](np.linspace(0.1, 1, 64))
)
STYLE: dict[Any, Any] = {  # matplotlib types its settings one by one, by literal names
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
    "axes.prop_cycle": cycler(color=CATEGORIES),
    "figure.dpi": 150,
    "svg.fonttype": "none",
    "svg.hashsalt": "dsnn",
    "pdf.fonttype": 42,  # embedded as TrueType: publishers refuse type 3
}
PLOTLY_LAYOUT = {
    "font": {"family": "DejaVu Sans, Verdana, sans-serif", "size": 13, "color": "#222222"},
    "plot_bgcolor": "white",
    "paper_bgcolor": "white",
    "colorway": list(CATEGORIES),
    "height": 480,
    "autosize": True,
    "margin": {"l": 70, "r": 20, "t": 40, "b": 60},
    "hoverlabel": {"font": {"size": 12}, "align": "left"},
}
PLOTLY_AXIS = {
    "gridcolor": "#E6E6E6",
    "linecolor": "#444444",
    "ticks": "outside",
    "zeroline": False,
}
#: column -> (label with unit, factor from the table's unit to the shown one)
AXES = {
    "loss": ("Validation error (%)", 100),
    "val_accuracy": ("Validation accuracy (%)", 100),
    "val_cross_entropy": ("Validation cross entropy (nats)", 1),
    "energy_modelled_j_per_image": ("Modelled energy (µJ per image)", 1e6),
    "energy_modelled_with_memory_j_per_image": ("Modelled energy with memory (µJ per image)", 1e6),
    "energy_modelled_qtools_j_per_image": ("Modelled energy, qtools prices (µJ per image)", 1e6),
    "energy_modelled_qtools_with_memory_j_per_image": (
        "Modelled energy with memory, qtools prices (µJ per image)",
        1e6,
    ),
    "energy_measured_kwh": ("Measured energy of the trial (Wh)", 1e3),
    "energy_measured_last_validation_kwh": ("Measured energy of the last validation (mWh)", 1e6),
    "water_l": ("Water for the measured energy (mL)", 1e3),
    "emissions_gco2eq": ("Measured emissions of the trial (gCO₂eq)", 1),
    "embodied_gco2eq": ("Embodied emissions of the trial (gCO₂eq)", 1),
    "duration_s": ("Duration (s)", 1),
    "exported_latency_ms_per_image": ("Latency in int8 (ms per image)", 1),
    "exported_energy_measured_j_per_image": ("Measured energy in int8 (mJ per image)", 1e3),
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
    "arithmetic": "Arithmetic",
    "weight_scale": "Scale of the weights",
    "activation_format": "Activation format",
    "activation_rounding": "Activation rounding",
    "clipped_gradient": "Gradient where clipped",
    "batch_size": "Batch size (images)",
    "optimizer": "Optimizer",
    "lr": "Learning rate",
    "momentum": "Momentum",
    "weight_decay": "Weight decay",
    "epochs": "Epochs",
    "data_fraction": "Share of training data",
}


def use_style() -> None:
    """Give figures made directly with matplotlib the style of the others."""
    mpl.rcParams.update(STYLE)


def styled(function):
    """Draw in the style without changing the reader's own matplotlib settings."""

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        with mpl.rc_context(STYLE):
            return function(*args, **kwargs)

    return wrapper


def new_axes(width: float, height: float, rows: int = 1, columns: int = 1, **kwargs):
    """A figure outside pyplot (so that a notebook never shows it a second time) and its axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, **kwargs)


def heatmap(axis, matrix: pd.DataFrame, colours: str, low=None, high=None, notes=None):
    """Draw a table as coloured cells, its index upwards, and return the image.

    `low` and `high` bound the colours. `notes`: a table of texts, drawn into the cells that have a
    value, in black or white, whichever reads better on the cell's colour.
    """
    image = axis.imshow(matrix, cmap=colours, vmin=low, vmax=high, origin="lower", aspect="auto")
    # White on the darker half of a one-way scale, and on both dark ends of a two-way one.
    dark_below = min(0.5, _brightness(image.cmap(0.5)))
    for (row, column), value in np.ndenumerate(matrix.to_numpy(float)):
        if notes is not None and np.isfinite(value):
            dark = _brightness(image.cmap(image.norm(value))) < dark_below
            axis.text(column, row, notes.iloc[row, column], ha="center", va="center", fontsize=7,
                      color="white" if dark else "black")  # fmt: skip
    axis.set_xticks(range(matrix.shape[1]), matrix.columns)
    axis.set_yticks(range(matrix.shape[0]), matrix.index)
    axis.grid(visible=False)
    return image


def _brightness(colour) -> float:
    """How bright a colour looks, 0..1 (ITU-R BT.601)."""
    red, green, blue, _ = colour
    return 0.299 * red + 0.587 * green + 0.114 * blue


def colours_of(names: Iterable[str]) -> dict[str, str]:
    """A colour for each named network: that of its kind, or a shade of it after the first one.

    The kind is the word that a name begins with ("PS (kept weights)", "the plain network"), see
    `NETWORKS`. Names without one get the colours that are left, in their order.
    """
    names = list(dict.fromkeys(names))
    kinds = {n: re.match(rf"(?:the )?({'|'.join(NETWORKS)})\b", n) for n in names}
    used = {NETWORKS[kind[1]] for kind in kinds.values() if kind}
    others = itertools.cycle([c for c in CATEGORIES if c not in used] or CATEGORIES)
    counts, found = dict.fromkeys(NETWORKS, 0), {}
    for name, kind in kinds.items():
        if kind:
            found[name] = _shade(NETWORKS[kind[1]], counts[kind[1]])
            counts[kind[1]] += 1
        else:
            found[name] = next(others)
    return found


def _shade(colour: str, number: int) -> str:
    """The colour itself, then darker and lighter by turns; black only becomes lighter."""
    shares = (0, 0.4, 0.6, 0.75) if colour == BLACK else (0, -0.5, 0.55, -0.75)
    share = shares[number % len(shares)]
    towards = 1.0 if share > 0 else 0.0
    red, green, blue = (
        (1 - abs(share)) * c + abs(share) * towards for c in mpl.colors.to_rgb(colour)
    )
    return mpl.colors.to_hex((red, green, blue)).upper()


def legend_above(figure: Figure, handles: list) -> None:
    """A legend above the axes with as many columns as fit."""
    longest = max(len(handle.get_label()) for handle in handles)
    fits = max(1, int(figure.get_figwidth() / (0.36 + 0.062 * longest)))
    rows = int(np.ceil(len(handles) / fits))
    columns = int(np.ceil(len(handles) / rows))
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, columnspacing=1.2)


def spans_a_decade(values: pd.Series) -> bool:
    """Whether an axis for these values is logarithmic: all positive, and more than a factor 10."""
    return bool(0 < 10 * values.min() < values.max())


def logarithmic(axes: Axes, labelled: Sequence[int] = (1, 2, 5)) -> None:
    """Make the x axis logarithmic, labelled at these multiples of powers of ten."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=labelled))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())


def depth_norm(rows: pd.DataFrame) -> Normalize:
    """Scale of the depth colours: from 0 to the network's number of shiftable layers."""
    deepest = "max_shift_depth" if "max_shift_depth" in rows else "shift_depth"
    return Normalize(0, max(1, rows[deepest].max()))


def axis_label(name: str) -> tuple[str, float]:
    """(label with unit, factor) of a column; of one's own it is the name with the unit at its end.

    Raises ValueError for a column without label and unit.
    """
    if name in AXES:
        return AXES[name]
    own = split_unit(name)
    if own is None:
        raise ValueError(f"axis={name!r}: must end in a unit, or be one of {', '.join(AXES)}")
    return f"{_words(own[0])} ({own[1]})", 1


def name_of(hyperparameter: str) -> str:
    """A hyperparameter in words."""
    return NAMES.get(hyperparameter) or _words(hyperparameter.removeprefix(OWN))


def _words(name: str) -> str:
    return name[:1].upper() + name[1:].replace("_", " ")


def plotly_figure(**layout):
    """An empty plotly figure in the style."""
    import plotly.graph_objects as go

    figure = go.Figure(layout={"template": None})
    figure.update_layout(**PLOTLY_LAYOUT)
    figure.update_layout(**layout)
    return figure


def bins_of(values, at_most: int = 8) -> list[tuple[int, int]]:
    """Integer intervals that cover the values: one per value, or at most `at_most` equal ones."""
    distinct = np.unique(np.asarray(values)).astype(int)
    if len(distinct) <= at_most:
        return [(int(v), int(v)) for v in distinct]
    low, high = int(distinct[0]), int(distinct[-1])
    width = int(np.ceil((high - low + 1) / at_most))
    return [(a, min(a + width - 1, high)) for a in range(low, high + 1, width)]


def bin_labels(bins: Sequence[tuple[int, int]]) -> list[str]:
    return [f"{a}" if a == b else f"{a}–{b}" for a, b in bins]


def bin_index(values, bins: Sequence[tuple[int, int]]) -> np.ndarray:
    return np.searchsorted([low for low, _ in bins], np.asarray(values), side="right") - 1


@dataclass
class DualFigure:
    """One figure with a static face (matplotlib) and possibly an interactive one (plotly).

    A notebook gets both in one display bundle and each viewer takes the best it can show:
    JupyterLab the interactive one, GitHub and HTML export the SVG, a terminal the description.
    """

    static: Figure
    interactive: Any = None
    data: pd.DataFrame | None = None
    description: str = ""

    def __post_init__(self):
        # Lay out once: each further run of the layout engine would move things a little.
        with mpl.rc_context(STYLE):
            self.static.draw_without_rendering()
        self.static.set_layout_engine("none")

    def svg(self) -> str:
        """The static face as SVG text, the same bytes for the same figure."""
        # The dpi only tells how finely rasterised marks are drawn.
        return self._render("svg", {"Date": None, "Creator": None}, dpi=100).decode()

    def png(self) -> bytes:
        """The static face as PNG (200 dpi), the same bytes for the same figure."""
        return self._render("png", {"Software": None}, dpi=200)

    def pdf(self) -> bytes:
        """The static face as PDF with its fonts embedded, the same bytes for the same figure."""
        # The dpi is that of rasterised marks, here for print.
        nothing = dict.fromkeys(("CreationDate", "Creator", "Producer"))
        return self._render("pdf", nothing, dpi=300)

    def _render(self, kind: str, metadata: dict, dpi="figure") -> bytes:
        buffer = io.BytesIO()
        with mpl.rc_context(STYLE):
            self.static.savefig(buffer, format=kind, metadata=metadata, dpi=dpi)
        return buffer.getvalue()

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        bundle = {"image/svg+xml": self.svg(), "text/plain": self.description or "figure"}
        if self.interactive is not None:
            plotly = json.loads(self.interactive.to_json())
            # Buttons only under the mouse: they cover titles in a narrow window.
            plotly["config"] = {
                "displaylogo": False, "responsive": True, "displayModeBar": "hover",
            }  # fmt: skip
            bundle["application/vnd.plotly.v1+json"] = plotly
        return bundle

    def save(self, path_stem: str | Path, data: pd.DataFrame | None = None) -> list[Path]:
        """Write <path_stem>.svg, .png and, for the data behind the figure, .csv; returns the paths.

        The same figure gives the same bytes. `data` replaces the figure's own table.
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


@dataclass
class NoFigure:
    """Stands where a table of trials is too poor for a figure, and says why."""

    reason: str
    data: pd.DataFrame | None = None

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        text = f"No figure: {self.reason}"
        return {"text/markdown": text, "text/plain": text}


def draw(make: Callable[[], DualFigure], path_stem: str | Path | None = None):
    """The figure that `make()` draws, saved if a path is given; a `NoFigure` on a ValueError.

    For pages about runs of any size: a table of two trials has no importances, and is no reason to
    stop.
    """
    try:
        figure = make()
    except ValueError as error:
        return NoFigure(str(error))
    if path_stem is not None:
        figure.save(path_stem)
    return figure


def someone_looks() -> bool:
    """True in a notebook open in JupyterLab or VS Code; False in a terminal or under papermill."""
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    # Jupyter's server and VS Code set these for the kernels they start; batch executors do not.
    front_end = "JPY_SESSION_NAME" in os.environ or "VSCODE_PID" in os.environ
    return hasattr(get_ipython(), "kernel") and front_end
