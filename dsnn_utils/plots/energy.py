"""Measured and modelled energy, each on axes of its own, and when a search is paid back."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator

from dsnn_utils.checks import require_columns
from dsnn_utils.energy.emissions import BreakEven
from dsnn_utils.energy.prices import MEMORY_PJ_PER_BIT
from dsnn_utils.energy.readings import repetitions_to_rank, summarise_readings
from dsnn_utils.plots.style import (
    BLACK,
    BLUE,
    CATEGORIES,
    GREY,
    LIGHT,
    ORANGE,
    PLOTLY_AXIS,
    SKY,
    TWO_COLUMNS,
    VERMILION,
    DualFigure,
    colours_of,
    legend_above,
    new_axes,
    plotly_figure,
    styled,
)


@styled
def plot_break_even(results: Sequence[tuple[str, BreakEven]]) -> DualFigure:
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
        colours = colours_of(["chosen", *(name for name, _ in part)])
        label = "search, then chosen network"
        axis.plot(x, cost + per_image * x, color=colours["chosen"], lw=2.2, label=label)
        for name, result in part:
            colour = colours[name]
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
    return DualFigure(figure, data=data, description=text)


def _paid_back(result: BreakEven) -> str:
    """When the search is paid back, in words."""
    if not np.isfinite(result.inferences):
        earliest = result.inferences_low
        early = f"paid back not before {_power_of_ten(earliest)}, if ever"
        return early if np.isfinite(earliest) else "never paid back"
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


@styled
def plot_ways(summaries: Mapping[str, pd.DataFrame]) -> DualFigure:
    """Measured energy of one network computed in several ways, a panel per size of the batches.

    `summaries` are tables of `summarise_readings` over the same ways, each under its panel's title.
    Whiskers are 95 % intervals; the figures beside them are times. Axes are logarithmic if the
    energies of a panel span more than a factor of 10.
    """
    names = ["energy_measured_j_per_image", "half_width_j_per_image", "duration_s_per_image"]
    figure, axes = new_axes(TWO_COLUMNS, 3.2, 1, len(summaries), squeeze=False, sharey=True)
    wide = any(t[names[0]].max() > 10 * t[names[0]].min() for t in summaries.values())
    for axis, (title, table) in zip(axes[0], summaries.items(), strict=True):
        energy, half = (1e3 * table[name] for name in names[:2])
        place = np.arange(len(table))[::-1]
        low = half.clip(upper=0.9 * energy)  # below zero there is nothing, and no logarithm
        axis.errorbar(energy, place, xerr=[low, half], fmt="o", ms=5, color=BLUE, ecolor=BLACK,
                      elinewidth=0.8, capsize=2)  # fmt: skip
        for y, x, seconds in zip(place, energy + half, table[names[2]], strict=True):
            axis.annotate(
                f"{1e3 * seconds:.2g} ms", (x, y), (6, 0), textcoords="offset points",
                va="center", fontsize=7,
            )  # fmt: skip
        axis.set(xlabel="Measured energy (mJ per image)", title=title)
        axis.set_yticks(place, table.index)
        axis.set_ylim(-0.6, len(table) - 0.4)
        if wide:
            axis.set_xscale("log")
            first, last = (energy - low).min(), (energy + half).max()
            axis.set_xlim(first / 1.3, last * (last / first) ** 0.3)
            axis.xaxis.set_major_formatter("{x:g}")
        else:
            axis.set_xlim(0, 1.25 * (energy + half).max())
    data = pd.concat(summaries, names=["batches"]).reset_index()
    lowest = {
        title: table["energy_measured_j_per_image"].idxmin() for title, table in summaries.items()
    }
    text = "Least measured energy: " + "; ".join(f"{t}: {name}" for t, name in lowest.items())
    return DualFigure(figure, data=data, description=text)


@styled
def plot_energy_depth(readings: pd.DataFrame, modelled: pd.DataFrame) -> DualFigure:
    """Energy per image over shift depth: measured and modelled, each on an axis of its own.

    readings: from `energy.take_readings`, of networks named by their shift depth; modelled: columns
    `shift_depth`, `energy_modelled_j_per_image`, `energy_modelled_with_memory_j_per_image`.
    """
    names = ["energy_modelled_j_per_image", "energy_modelled_with_memory_j_per_image"]
    require_columns(modelled, ["shift_depth", *names])
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
        low, high = axis.dataLim.intervaly
        if high > 10 * low > 0:
            axis.set_yscale("log")
            axis.set_ylim(low / 1.5, high * (high / low) ** 0.3)
            axis.yaxis.set_major_locator(LogLocator(10, (1, 2, 5)))
            axis.yaxis.set_major_formatter("{x:g}")
            axis.yaxis.set_minor_locator(NullLocator())
        else:
            axis.set_ylim(0, 1.22 * axis.get_ylim()[1])
        axis.xaxis.set_major_locator(FixedLocator(modelled["shift_depth"]))
        axis.legend(loc="upper right", ncols=2, columnspacing=1)
    data = measured.rename_axis("shift_depth").reset_index()
    data = data.merge(modelled[["shift_depth", *names]], how="outer")
    return DualFigure(
        figure, data=data, description="Measured and modelled energy over shift depth"
    )


@styled
def plot_noise(readings: pd.DataFrame, difference_share: float) -> DualFigure:
    """How far single readings of one network scatter, and how many it takes to rank two networks.

    readings: from `energy.take_readings`, of one network with several window lengths. Bands are the
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
    return DualFigure(figure, data=data, description="Noise of single readings of measured energy")


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
) -> DualFigure:
    """Where the modelled energy goes: shares by kind of operation, a panel per kind of memory.

    tables: {network: `energy.operation_counts(...)`}. The first panel leaves memory out. The number
    at the end of a bar is the whole; kinds below 1 % everywhere are put together.
    """
    panels: dict[str, str | None] = {"Compute only": None}
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
    return DualFigure(figure, data=data, description="Modelled energy by kind of operation")


@styled
def plot_grids(
    grids: pd.DataFrame,
    country: str,
    named: Sequence[str] = ("FRA", "CAN", "USA", "CHN", "IND"),
) -> DualFigure:
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
    energy = f"{energy_kwh:.3g} kWh" if energy_kwh >= 0.1 else f"{1e3 * energy_kwh:.3g} Wh"
    label = f"Emissions of {energy} (gCO₂eq)"
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
    return DualFigure(figure, live, rows, f"{label} in the grids of {len(rows)} countries")
