"""The picture of a Pareto front: static, interactive, and growing while a search runs."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from dsnn_utils.analysis.fronts import attainment, pareto_front
from dsnn_utils.plots.style import (
    BLACK,
    BLUE,
    DEFAULT_COLOUR,
    DEPTH_COLOURS,
    GREY,
    PINK,
    PLOTLY_AXIS,
    RASTERISE_ABOVE,
    SKY,
    TWO_COLUMNS,
    DualFigure,
    axis_label,
    bin_labels,
    bins_of,
    depth_norm,
    legend_above,
    logarithmic,
    new_axes,
    plotly_figure,
    someone_looks,
    spans_a_decade,
    styled,
)
from dsnn_utils.runs.rows import (
    configuration_columns,
    default_rows,
    default_trial,
    successful,
)

TYPE_MARKERS = {
    "Q": ("o", "circle"),
    "PS": ("^", "triangle-up"),
    "integer": ("s", "square"),
}
OWN_MARKER = ("D", "diamond")  # of shift types of one's own
HOVER = ("trial", "seed", "origin", "shift_depth")
LOG_TICKS = [m * 10.0**d for d in range(-2, 3) for m in (1, 2, 3, 5, 7)]
HOVER_AT_MOST = 2000  # dominated trials in an interactive figure, to keep it small


class _View:
    """What a figure of the front shows, and how: objectives as drawn on its axes."""

    def __init__(self, trials: pd.DataFrame, x: str, y: str, chosen: pd.Series | None):
        (self.x_label, self._x_factor), (self.y_label, self._y_factor) = map(axis_label, (x, y))
        self.upward = y == "val_accuracy"
        self.x_name, self.loss = x, "loss" if self.upward else y
        self.objectives = (self.loss, x)
        self.trials, self.chosen = trials, chosen
        self.rows = successful(trials, self.objectives)
        self.front = pareto_front(trials, self.objectives)
        found = {"origin", "shift_depth", "max_shift_depth", "loss"} <= set(self.rows)
        default = found and len(default_rows(self.rows))
        self.default = default_trial(self.rows) if default else None
        self.seeds = self.rows["seed"].nunique() if "seed" in self.rows else 1
        self.depth_norm = depth_norm(self.rows)
        marked = [row[self.loss] for row in (self.default, chosen) if row is not None]
        self.marked_losses = [*self.front[self.loss], *marked]
        # Losses from a few per cent to pure chance are only legible on a logarithmic axis.
        low, high = min(self.marked_losses), max(self.marked_losses)
        self.log = not self.upward and 0 < 4 * low <= high
        self.log_x = spans_a_decade(self.rows[x])

    def x(self, rows) -> np.ndarray:
        return self._x_factor * np.atleast_1d(rows[self.x_name]).astype(float)

    def y(self, rows) -> np.ndarray:
        return self.height(np.atleast_1d(rows[self.loss]).astype(float))

    def height(self, loss):
        return self._y_factor * (1 - loss if self.upward else loss)

    def by_type(self, rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
        """The rows of each shift type and, where there are any, of integer networks.

        What has none (a plain network) goes with Q.
        """
        known = rows["shift_type"].astype(object).where(rows["shift_type"].notna(), "Q")
        if "arithmetic" in rows:
            known = known.mask(rows["arithmetic"] == "integer", "integer")
        for kind in dict.fromkeys([*TYPE_MARKERS, *sorted(known.unique())]):
            if kind != "integer" or (known == kind).any():
                yield kind, rows[known == kind]

    def steps(self, front, limits=None) -> tuple[np.ndarray, np.ndarray]:
        """Corners of a front's staircase: what is attained with at most so much energy.

        With limits it runs to the edges: nothing is attained left of it, the best right of it.
        """
        x, y = self.x(front), self.y(front)
        if limits is not None and len(x):
            worst = limits[1][0 if self.upward else 1]
            x, y = np.r_[x[:1], x, limits[0][1]], np.r_[worst, y, y[-1:]]
        return np.repeat(x, 2)[1:], np.repeat(y, 2)[:-1]


@styled
def plot_front(
    trials: pd.DataFrame,
    x: str = "energy_modelled_j_per_image",
    y: str = "loss",
    chosen: pd.Series | None = None,
    title: str | None = None,
    width: float = TWO_COLUMNS,
    interactive: bool = True,
) -> DualFigure:
    """All successful trials, their Pareto front, the published default and a chosen solution.

    Colour is shift depth, the marker the shift type. y: "loss" or "val_accuracy". With several
    seeds the line is the median front and the band spans what every and what at least one seed
    attains (with five seeds or more: 25 % and 75 % of them); the thin line is the front over all.
    The energy axis is logarithmic if the trials span more than a decade, a loss axis if the front,
    default and chosen solution span a factor of 4 or more. Else the static face leaves out trials
    far worse than those and says how many; the interactive face has them all.
    """
    view = _View(trials, x, y, chosen)
    figure, axis = new_axes(width, 3.0 if width > 5 else 3.2)
    points, handles = _draw_trials(axis, view)
    _focus(axis, view)
    limits = axis.get_xlim(), axis.get_ylim()
    if view.seeds > 1:
        handles += _draw_band(axis, view, limits)
    handles += _draw_front(axis, view, limits)
    axis.set(xlim=limits[0], ylim=limits[1])
    axis.set(xlabel=view.x_label, ylabel=view.y_label, title=title)
    bar = figure.colorbar(points, ax=axis, pad=0.01, aspect=30)
    bar.set_label("Shift depth (layers)")
    bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    bar.outline.set_visible(False)
    legend_above(figure, handles)
    description = (
        f"{view.y_label} against {view.x_label[0].lower() + view.x_label[1:]}: "
        f"{len(view.rows)} trials ({len(trials) - len(view.rows)} failed or incomplete, not "
        f"drawn), {len(view.front)} on the front"
    )
    live = _interactive_front(view, title) if interactive else None
    columns = _hover_columns(view.rows)
    data = view.rows[[*columns, *view.objectives]]
    data = data.assign(on_front=view.rows.index.isin(view.front.index))
    return DualFigure(figure, live, data, description)


def _draw_trials(axis, view: _View):
    size = 16 if len(view.rows) <= 300 else 8
    handles = []
    for kind, part in view.by_type(view.rows):
        marker, _ = TYPE_MARKERS.get(kind, OWN_MARKER)
        points = axis.scatter(
            view.x(part), view.y(part), c=part["shift_depth"], cmap=DEPTH_COLOURS,
            norm=view.depth_norm, marker=marker, s=size, lw=0, alpha=0.85, zorder=3,
            rasterized=len(view.rows) > RASTERISE_ABOVE,
        )  # fmt: skip
        if len(part):
            handles.append(Line2D([], [], color=GREY, marker=marker, ls="", ms=4, label=kind))
    return points, handles


def _focus(axis, view: _View) -> None:
    """Limit the view to what is marked and a margin of worse trials, and say what is left out."""
    if view.log_x:
        logarithmic(axis)
    if view.log:
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(FixedLocator(LOG_TICKS))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_locator(NullLocator())
        return
    low, high = min(view.marked_losses), max(view.marked_losses)
    worst = high + 0.5 * (high - low)
    outside = int((view.rows[view.loss] > worst).sum())
    if high == low or not outside:
        return
    axis.set_ylim(*sorted(view.height(v) for v in (low - 0.08 * (worst - low), worst)))
    height, side = (0.02, "bottom") if view.upward else (0.98, "top")
    axis.text(
        0.99, height, f"{outside} worse trial{'s' * (outside > 1)} outside the view",
        transform=axis.transAxes, ha="right", va=side, fontsize=7, color=GREY,
    )  # fmt: skip


def _legend_line(**style) -> Line2D:
    return Line2D([], [], **style)


def _draw_front(axis, view: _View, limits) -> list:
    one = view.seeds == 1
    line = {"color": BLACK, "lw": 1.4 if one else 0.7, "ls": "-" if one else "--"}
    line["label"] = "Pareto front" if one else "front over all seeds"
    axis.plot(*view.steps(view.front, limits), zorder=2.5, **line)
    handles = [_legend_line(**line)]
    circles = {"marker": "o", "ms": 6.5, "mfc": "none", "mec": BLACK, "mew": 0.7, "ls": ""}
    axis.plot(view.x(view.front), view.y(view.front), zorder=3.5, **circles)
    star = {"marker": "*", "ms": 11, "mfc": DEFAULT_COLOUR, "mec": "white", "mew": 0.6, "ls": ""}
    ring = {"marker": "o", "ms": 11, "mfc": "none", "mec": PINK, "mew": 2, "ls": ""}
    marks = ((view.default, star, "published default"), (view.chosen, ring, "chosen"))
    for row, style, label in marks:
        if row is not None:
            axis.plot(view.x(row), view.y(row), zorder=5, **style)
            handles.append(_legend_line(label=label, **style))
    return handles


def _draw_band(axis, view: _View, limits) -> list:
    """The median front over the seeds and the band around it."""
    low, high = (0, 100) if view.seeds < 5 else (25, 75)
    table = attainment(view.trials, view.objectives, (low, 50, high))
    fronts = {p: table[table["percentile"] == p] for p in (low, 50, high)}
    grid = np.unique(np.append(view.x(table), limits[0][1]))
    worst = limits[1][0 if view.upward else 1]
    edges = []
    for front in (fronts[low], fronts[high]):
        before = np.searchsorted(view.x(front), grid, side="right")  # points with less energy
        edges.append(np.r_[worst, view.y(front)][before])
    axis.fill_between(grid, *edges, step="post", color=SKY, alpha=0.3, lw=0, zorder=1)
    band = "range over seeds" if view.seeds < 5 else "25–75 % of seeds"
    handles: list[Artist] = [Patch(fc=SKY, alpha=0.3, lw=0, label=band)]
    if len(fronts[50]):
        line = {"color": BLUE, "lw": 1.6, "label": f"median of {view.seeds} seeds"}
        axis.plot(*view.steps(fronts[50], limits), zorder=2, **line)
        handles.insert(0, _legend_line(**line))
    return handles


def _hover(rows: pd.DataFrame) -> tuple[list, str]:
    """Values and template of a hover text that shows the whole configuration."""
    names = _hover_columns(rows)
    lines = [f"{name}: %{{customdata[{i}]}}" for i, name in enumerate(names)]
    values = [[_text(value) for value in row] for row in rows[names].to_numpy(object)]
    return values, "<br>".join(lines)


def _hover_columns(rows: pd.DataFrame) -> list[str]:
    names = dict.fromkeys([*HOVER, *configuration_columns(rows)])
    return [name for name in names if name in rows.columns]


def _text(value):
    if pd.isna(value):
        return "–"
    if isinstance(value, float | np.floating):
        return int(value) if float(value).is_integer() else f"{value:.3g}"
    return value.item() if isinstance(value, np.generic) else value


def _interactive_front(view: _View, title: str | None):
    import plotly.graph_objects as go

    shown, note = view.rows, ""
    if len(view.rows) > HOVER_AT_MOST:
        others = view.rows.drop(view.front.index)
        some = others.sample(min(HOVER_AT_MOST, len(others)), random_state=0)
        shown = pd.concat([view.front, some])
        note = f" (the front and {len(some)} of {len(others)} other trials)"
    figure = plotly_figure(title={"text": (title or "") + note, "font": {"size": 14}})
    ends = f"<br>{view.x_label}: %{{x:.4g}}<br>{view.y_label}: %{{y:.4g}}"

    def scatter(part: pd.DataFrame, **kwargs):
        values, template = _hover(part)
        template += f"{ends}<extra>%{{fullData.name}}</extra>"
        figure.add_trace(
            go.Scatter(
                x=view.x(part).tolist(), y=view.y(part).tolist(), mode="markers",
                customdata=values, hovertemplate=template, **kwargs,
            )
        )  # fmt: skip

    # One trace per type and depths, so that the legend filters by both.
    bins = bins_of(shown["shift_depth"], at_most=7)
    for kind, of_kind in view.by_type(shown):
        _, symbol = TYPE_MARKERS.get(kind, OWN_MARKER)
        for (low, high), label in zip(bins, bin_labels(bins), strict=True):
            part = of_kind[of_kind["shift_depth"].between(low, high)]
            colour = mpl.colors.to_hex(DEPTH_COLOURS(view.depth_norm((low + high) / 2)))
            if len(part):
                scatter(
                    part, name=f"depth {label}", legendgroup=kind,
                    legendgrouptitle={"text": f"{kind} (click to hide)"},
                    marker={"symbol": symbol, "size": 9, "opacity": 0.85, "color": colour},
                )  # fmt: skip
    x, y = view.steps(view.front)
    figure.add_trace(
        go.Scatter(
            x=x.tolist(), y=y.tolist(), mode="lines", line={"color": BLACK, "width": 2},
            name="Pareto front" if view.seeds == 1 else "front over all seeds",
            hoverinfo="skip", legendgroup="front",
        )
    )  # fmt: skip
    star = {"symbol": "star", "size": 17, "color": DEFAULT_COLOUR,
            "line": {"color": "white", "width": 1}}  # fmt: skip
    ring = {"symbol": "circle-open", "size": 18, "color": PINK, "line": {"width": 3}}
    for row, marker, label in (
        (view.default, star, "published default"),
        (view.chosen, ring, "chosen"),
    ):
        if row is not None:
            scatter(row.to_frame().T, name=label, legendgroup="front", marker=marker)
    figure.update_layout(legend={"groupclick": "toggleitem"})
    scale = {"type": "log", "dtick": "D2"} if view.log_x else {"type": "linear"}  # 1, 2, 5, 10, ..
    figure.update_xaxes(title=view.x_label, **scale, **PLOTLY_AXIS)
    figure.update_yaxes(title=view.y_label, type="log" if view.log else "linear", **PLOTLY_AXIS)
    if view.log:
        figure.update_yaxes(tickvals=LOG_TICKS, ticktext=[f"{tick:g}" for tick in LOG_TICKS])
    return figure


@dataclass
class LiveFront:
    """Shows the front while a search runs: pass it as `on_trial`, call `close()` at the end.

    In a notebook one display is redrawn (SVG only) at most every `seconds`; where nobody looks
    (papermill, a terminal) lines of text are printed instead, at most every `text_seconds`.
    `close()` always draws the last state, with both faces. As a context manager it closes itself.
    """

    n_trials: int | None = None
    x: str = "energy_modelled_j_per_image"
    y: str = "loss"
    seconds: float = 0.5
    text_seconds: float = 10.0
    live: bool | None = None
    _handle: Any = field(default=None, init=False, repr=False)
    _trials: pd.DataFrame | None = field(default=None, init=False, repr=False)
    _next: float = field(default=0.0, init=False, repr=False)
    _printed: str = field(default="", init=False, repr=False)

    def __post_init__(self):
        if self.live is None:
            self.live = someone_looks()

    def __call__(self, row: Mapping, trials: pd.DataFrame) -> None:
        self.update(trials)

    def update(self, trials: pd.DataFrame) -> None:
        """Take the newest table; show it if the last showing is old enough."""
        self._trials = trials
        started = time.monotonic()
        if started < self._next:
            return
        if self.live:
            self._draw(final=False)
        else:
            self._print()
        # Drawing takes at most a tenth of the search's time, however slow it is.
        now = time.monotonic()
        pause = self.seconds if self.live else self.text_seconds
        self._next = now + max(pause, 10 * (now - started))

    def status(self) -> str:
        """One line: trials, failures, size of the front, best accuracy."""
        rows, total = self._trials, f"/{self.n_trials}" if self.n_trials else ""
        if rows is None:
            return "no trial yet"
        line = f"trial {len(rows)}{total}, {int((rows['status'] != 'SUCCESS').sum())} failed"
        try:
            front = pareto_front(rows, ("loss", self.x))
        except ValueError:
            return f"{line}, no successful trial yet"
        best = 100 * (1 - front["loss"].min())
        return f"{line}, {len(front)} on the front, best validation accuracy {best:.1f} %"

    def close(self) -> None:
        """Show the last state for good."""
        if self._trials is None:
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
        if line != self._printed:
            print(line, flush=True)
            self._printed = line

    def _draw(self, final: bool) -> None:
        try:
            from IPython import get_ipython
            from IPython.display import display
        except ImportError:
            return
        if get_ipython() is None:
            return
        try:
            figure = plot_front(
                self._trials, self.x, self.y, title=self.status(), interactive=final
            )
        except ValueError:  # no successful trial yet
            return
        if self._handle is None:
            self._handle = display(figure, display_id=True)
        else:
            self._handle.update(figure)
