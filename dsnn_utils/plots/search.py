"""What a search draws from and how it proceeds."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator, NullLocator

from dsnn_utils.checks import require_columns
from dsnn_utils.plots.style import (
    BLUE,
    CATEGORIES,
    ONE_COLUMN,
    PLOTLY_AXIS,
    TWO_COLUMNS,
    DualFigure,
    axis_label,
    legend_above,
    name_of,
    new_axes,
    plotly_figure,
    styled,
)
from dsnn_utils.runs.columns import CONFIGURATION, LOG_SCALED


@styled
def plot_space(samples: pd.DataFrame) -> DualFigure:
    """How sampled configurations are distributed: one panel per hyperparameter."""
    names = [n for n in ("shift_depth", *CONFIGURATION) if n in samples.columns]
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
            log = name in LOG_SCALED and column.min() > 0
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
        axis.set_title(name_of(name))
        axis.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))
        parts.append(pd.DataFrame({"hyperparameter": name, "value": labels, "count": counts}))
    for axis in axes.flat[len(names) :]:
        axis.remove()
    figure.supylabel("Sampled configurations", fontsize=8)
    description = f"Distribution of {len(samples)} sampled configurations"
    return DualFigure(figure, data=pd.concat(parts), description=description)


@styled
def plot_hypervolume(curves: pd.DataFrame, group: str | None = None) -> DualFigure:
    """Hypervolume over trials, epochs or time, from `analysis.hypervolume_over`.

    One line per run; with `group` (such as "strategy") runs of a group share a colour and their
    median is drawn thick.
    """
    import plotly.graph_objects as go

    require_columns(curves, ["hypervolume", *([group] if group else [])])
    x = next((n for n in ("trial", "epochs", "duration_s") if n in curves.columns), None)
    if x is None:
        raise ValueError("curves: must have a column trial, epochs or duration_s")
    label = "Time spent in trials (s)" if x == "duration_s" else axis_label(x)[0]
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
    return DualFigure(figure, live, curves, f"Hypervolume over {label.lower()}")


def _median_curve(runs: Sequence[pd.DataFrame], x: str) -> pd.DataFrame:
    grid = np.unique(np.concatenate([run[x].to_numpy(float) for run in runs]))
    grid = grid[grid <= min(run[x].max() for run in runs)]
    values = []
    for run in runs:
        at = np.searchsorted(run[x].to_numpy(float), grid, side="right") - 1
        values.append(np.where(at < 0, 0, run["hypervolume"].to_numpy()[np.maximum(at, 0)]))
    return pd.DataFrame({x: grid, "hypervolume": np.median(values, axis=0)})
