"""From energy to emissions, water and hardware, and when a search pays itself back.

Carbon intensities and their conversion are CodeCarbon's own (packaged data, no network).
Energy that `EnergyMeter` measured already contains the meter's `pue`: leave `pue` at 1 for it.
"""

import math
from dataclasses import dataclass

import pandas as pd

from dsnn_utils.checks import check_number

J_PER_KWH = 3.6e6


def grid_intensity_gco2eq_per_kwh(country: str, region: str | None = None) -> float:
    """Average carbon intensity of a country's (or region's) electricity in gCO2eq per kWh.

    `country` is a three-letter ISO code; `region` a name CodeCarbon knows for USA, CAN, CHN
    (states and provinces) or SWE, NOR, FIN (bidding zones such as `SE2`).
    Raises ValueError for unknown codes: CodeCarbon itself would silently use the world average.
    """
    from codecarbon.core.emissions import Emissions  # slow imports (pandas data, requests) only
    from codecarbon.core.units import Energy  # where CodeCarbon is really used
    from codecarbon.external.geography import GeoMetadata
    from codecarbon.input import DataSource

    known = DataSource().get_global_energy_mix_data()
    if country not in known:
        raise ValueError(
            f"country={country!r}: must be a three-letter ISO code known to CodeCarbon "
            f"({len(known)} countries, e.g. 'DEU', 'FRA', 'USA')"
        )
    emissions, one_kwh = Emissions(DataSource()), Energy.from_energy(1.0)
    geo = GeoMetadata(country_iso_code=country, region=region and region.lower())
    national_kg = emissions.get_country_emissions(one_kwh, geo)
    if region is None:
        return 1000 * national_kg
    try:
        regional_kg = emissions.get_region_emissions(one_kwh, geo)
    except Exception:  # KeyError, AttributeError, ValueError, ... depending on the country
        regional_kg = national_kg
    if regional_kg == national_kg:  # CodeCarbon's answer when it does not know the region
        raise ValueError(
            f"region={region!r}: must be None or a region of {country} in CodeCarbon's data "
            "(USA, CAN, CHN: state or province name; SWE, NOR, FIN: bidding zone)"
        )
    return 1000 * regional_kg


@dataclass(frozen=True)
class Footprint:
    """Emissions and water of an amount of electricity; `energy_kwh` includes `pue`."""

    energy_kwh: float
    emissions_gco2eq: float
    water_l: float
    carbon_intensity_gco2eq_per_kwh: float


def footprint(
    energy_kwh: float,
    *,
    country: str = "DEU",
    region: str | None = None,
    carbon_intensity_gco2eq_per_kwh: float | None = None,
    pue: float = 1.0,
    wue_l_per_kwh: float = 0.0,
) -> Footprint:
    """Emissions and water of `energy_kwh` as CodeCarbon computes them.

    `pue` (power usage effectiveness, >= 1) multiplies the energy, `wue_l_per_kwh` (water usage
    effectiveness) gives litres per kWh after `pue`. `carbon_intensity_gco2eq_per_kwh`
    overrides `country` and `region`. Energy measured or modelled: the caller's choice, and the
    caller's duty to say which.
    """
    check_number("energy_kwh", energy_kwh, 0)
    check_number("pue", pue, 1)
    check_number("wue_l_per_kwh", wue_l_per_kwh, 0)
    intensity = carbon_intensity_gco2eq_per_kwh
    if intensity is None:
        intensity = grid_intensity_gco2eq_per_kwh(country, region)
    check_number("carbon_intensity_gco2eq_per_kwh", intensity, 0)
    total_kwh = energy_kwh * pue
    return Footprint(
        energy_kwh=total_kwh,
        emissions_gco2eq=total_kwh * intensity,
        water_l=total_kwh * wue_l_per_kwh,
        carbon_intensity_gco2eq_per_kwh=intensity,
    )


def embodied_emissions_gco2eq(
    duration_s: float,
    *,
    machine_kgco2eq: float = 2500.0,
    lifetime_years: float = 6.0,
    utilisation: float = 0.85,
    share_of_machine: float = 1.0,
) -> float:
    """Share of the hardware's manufacturing emissions that `duration_s` of work is charged.

    Amortised over the hours the machine works in its life:
    `machine * share * duration / (lifetime * utilisation)`. The defaults describe a server
    without accelerators as in Luccioni et al., "Estimating the Carbon Footprint of BLOOM" (JMLR
    2023): 2500 kgCO2eq, 6 years, 85 % busy, which is 56 g per hour. A machine that idles most of
    its life has a far larger share per hour: set `utilisation` to your own.
    """
    check_number("duration_s", duration_s, 0)
    check_number("machine_kgco2eq", machine_kgco2eq, 0)
    for name, value, maximum in (
        ("lifetime_years", lifetime_years, 100),
        ("utilisation", utilisation, 1),
        ("share_of_machine", share_of_machine, 1),
    ):
        if not 0 < value <= maximum:
            raise ValueError(f"{name}={value!r}: must be over 0 and at most {maximum}")
    busy_life_s = lifetime_years * 365 * 24 * 3600 * utilisation
    return 1000 * machine_kgco2eq * share_of_machine * duration_s / busy_life_s


@dataclass(frozen=True)
class BreakEven:
    """Inferences after which a search is paid back; `low` to `high` is the 95 % interval.

    `kind` says whether all of it is measured or modelled energy; the two are never mixed.
    """

    kind: str
    inferences: float
    inferences_low: float
    inferences_high: float
    search_cost_j: float
    default_j_per_image: float
    solution_j_per_image: float
    saving_j_per_image: float
    saving_half_width_j_per_image: float


def break_even(
    search_energy_kwh: float,
    default_j_per_image: float,
    solution_j_per_image: float,
    *,
    kind: str,
    search_half_width_kwh: float = 0.0,
    default_half_width_j_per_image: float = 0.0,
    solution_half_width_j_per_image: float = 0.0,
) -> BreakEven:
    """After how many inferences has the solution saved what the search cost?

    All three energies must be of one `kind`, "measured" or "modelled": a search measured on
    one machine is not paid back by joules that only exist in a model of another. Half-widths are
    those of 95 % confidence intervals. The interval of the ratio follows Fieller (1954); it has no
    upper end when the saving cannot be told from zero. Where nothing is saved the answer is
    infinite.
    """
    if kind not in ("measured", "modelled"):
        raise ValueError(f"kind={kind!r}: must be 'measured' or 'modelled'")
    for name, value in (
        ("search_energy_kwh", search_energy_kwh),
        ("default_j_per_image", default_j_per_image),
        ("solution_j_per_image", solution_j_per_image),
        ("search_half_width_kwh", search_half_width_kwh),
        ("default_half_width_j_per_image", default_half_width_j_per_image),
        ("solution_half_width_j_per_image", solution_half_width_j_per_image),
    ):
        check_number(name, value, 0)
    cost, cost_hw = search_energy_kwh * J_PER_KWH, search_half_width_kwh * J_PER_KWH
    saving = default_j_per_image - solution_j_per_image
    # Separate readings have independent errors, which add in squares.
    saving_hw = math.hypot(default_half_width_j_per_image, solution_half_width_j_per_image)
    low, high = _fieller_interval(cost, cost_hw, saving, saving_hw)
    return BreakEven(
        kind=kind,
        inferences=cost / saving if saving > 0 else math.inf,
        inferences_low=low,
        inferences_high=high,
        search_cost_j=cost,
        default_j_per_image=default_j_per_image,
        solution_j_per_image=solution_j_per_image,
        saving_j_per_image=saving,
        saving_half_width_j_per_image=saving_hw,
    )


def search_energy_kwh(trials: pd.DataFrame) -> tuple[float, float]:
    """Measured energy of all trials of a search, and the share of it that was really measured.

    Works on the trials table (`energy_measured_kwh`, `duration_s`), all workers in one. Trials
    without a trusted reading (crashed, too short) are charged the mean power of the others over
    their duration; without any reading the energy is NaN. What the optimiser itself spends between
    trials is not in the table and not in the sum.
    """
    energy = trials["energy_measured_kwh"].astype(float)
    duration = trials["duration_s"].astype(float).fillna(0.0)
    measured = energy.notna() & (duration > 0)
    if not measured.any():
        return math.nan, 0.0
    measured_kwh = float(energy[measured].sum())
    kwh_per_s = measured_kwh / float(duration[measured].sum())
    total_kwh = measured_kwh + kwh_per_s * float(duration[~measured].sum())
    return total_kwh, measured_kwh / total_kwh


def training_modelled_kwh(
    trials: pd.DataFrame, plain_j_per_image: float, validation_size: int
) -> float:
    """What all trainings of a table would cost on the modelled hardware, in kWh.

    Training one image takes about three float32 passes of the plain network (forward, gradients of
    the inputs, gradients of the weights), validating it one. Left out: what a training keeps in
    memory for its backward pass, so it is a lower bound. Trials that never trained cost nothing.
    """
    check_number("plain_j_per_image", plain_j_per_image, 0)
    check_number("validation_size", validation_size, 0)
    passes = trials["epochs"] * (3 * trials["train_size"] + validation_size)
    return plain_j_per_image * float(passes.sum()) / J_PER_KWH


def _fieller_interval(a: float, a_hw: float, b: float, b_hw: float) -> tuple[float, float]:
    """95 % interval of the positive ratio a / b from the half-widths of a and b.

    The ratios r not rejected are those with (a - r b)^2 <= a_hw^2 + r^2 b_hw^2, a quadratic in r.
    """
    if b + b_hw <= 0:
        return math.inf, math.inf  # a loss beyond doubt
    quadratic, constant = b * b - b_hw * b_hw, a * a - a_hw * a_hw
    discriminant = (a * b) ** 2 - quadratic * constant
    if b > b_hw:
        # Negative by rounding alone: with exact a and b it is a difference of equal numbers.
        root = math.sqrt(max(discriminant, 0.0))
        return max((a * b - root) / quadratic, 0.0), (a * b + root) / quadratic
    if constant <= 0:  # neither cost nor saving can be told from zero
        return 0.0, math.inf
    # The smallest ratio that is not rejected, written so that quadratic = 0 needs no special case.
    return constant / (a * b + math.sqrt(discriminant)), math.inf


def grid_table(energy_kwh: float = 1.0) -> pd.DataFrame:
    """The same energy in the grids of all countries CodeCarbon has data for, cleanest first.

    Columns: `country` (ISO code), `country_name`, `carbon_intensity_gco2eq_per_kwh`,
    `low_carbon_share` (0..1), `year` of the data, `emissions_gco2eq` of `energy_kwh`.
    """
    from codecarbon.input import DataSource

    check_number("energy_kwh", energy_kwh, 0)
    table = pd.DataFrame(
        {
            "country": code,
            "country_name": mix["country_name"],
            "carbon_intensity_gco2eq_per_kwh": grid_intensity_gco2eq_per_kwh(code),
            "low_carbon_share": mix["low_carbon_TWh"] / mix["total_TWh"],
            "year": mix["year"],
        }
        for code, mix in DataSource().get_global_energy_mix_data().items()
        if mix["carbon_intensity"] > 0  # no grid emits nothing: a zero is a gap in the data
    )
    table["emissions_gco2eq"] = energy_kwh * table["carbon_intensity_gco2eq_per_kwh"]
    return table.sort_values("carbon_intensity_gco2eq_per_kwh", ignore_index=True)
