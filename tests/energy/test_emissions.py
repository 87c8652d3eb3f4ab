"""From energy to emissions and water, embodied emissions, break-even, grids."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dsnn_utils.energy import (
    break_even,
    embodied_emissions_gco2eq,
    footprint,
    grid_intensity_gco2eq_per_kwh,
    grid_table,
    search_energy_kwh,
    training_modelled_kwh,
)

# --- grids, emissions, water


def test_country_intensity_is_codecarbons_own():
    from codecarbon.input import DataSource

    for country, mix in DataSource().get_global_energy_mix_data().items():
        assert grid_intensity_gco2eq_per_kwh(country) == pytest.approx(mix["carbon_intensity"])


@pytest.mark.parametrize(
    "country, region",
    [("USA", "California"), ("CAN", "Ontario"), ("CHN", "Beijing"), ("SWE", "SE2")],
)
def test_regions_differ_from_their_country(country, region):
    regional = grid_intensity_gco2eq_per_kwh(country, region)
    assert 0 < regional != grid_intensity_gco2eq_per_kwh(country)


@pytest.mark.parametrize("country", ["XXX", "de", "", None])
def test_unknown_country(country):
    with pytest.raises(ValueError, match=f"country={country!r}: must be a three-letter ISO code"):
        grid_intensity_gco2eq_per_kwh(country)


@pytest.mark.parametrize("country, region", [("DEU", "Bavaria"), ("USA", "Atlantis"), ("CHN", "?")])
def test_unknown_region(country, region):
    with pytest.raises(ValueError, match="region=.*: must be None or a region of " + country):
        grid_intensity_gco2eq_per_kwh(country, region)


def test_footprint_by_hand():
    found = footprint(2.0, carbon_intensity_gco2eq_per_kwh=100.0, pue=1.5, wue_l_per_kwh=1.8)
    assert found.energy_kwh == pytest.approx(3.0)
    assert found.emissions_gco2eq == pytest.approx(300.0)
    assert found.water_l == pytest.approx(5.4)  # after pue, as CodeCarbon does
    assert footprint(1.0, country="FRA").emissions_gco2eq == pytest.approx(
        grid_intensity_gco2eq_per_kwh("FRA")
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"energy_kwh": -1.0}, "energy_kwh=-1.0"),
        ({"energy_kwh": math.nan}, "energy_kwh=nan"),
        ({"energy_kwh": 1.0, "pue": 0.9}, "pue=0.9"),
        ({"energy_kwh": 1.0, "pue": "1.2"}, "pue='1.2'"),
        ({"energy_kwh": 1.0, "wue_l_per_kwh": -1}, "wue_l_per_kwh=-1"),
        ({"energy_kwh": 1.0, "carbon_intensity_gco2eq_per_kwh": -5}, "carbon_intensity"),
    ],
)
def test_footprint_refuses_impossible_numbers(arguments, message):
    with pytest.raises(ValueError, match=message + ".*: must be a finite number of at least"):
        footprint(**arguments)


def test_numpy_numbers_are_numbers():
    assert footprint(np.float32(2)) == footprint(2.0)


def test_the_same_energy_in_all_grids():
    one, two = grid_table(), grid_table(2.0)
    assert len(one) > 200 and one["country"].is_unique
    assert one["carbon_intensity_gco2eq_per_kwh"].is_monotonic_increasing
    assert (one["carbon_intensity_gco2eq_per_kwh"] > 0).all()
    assert one["low_carbon_share"].between(0, 1).all()
    assert np.allclose(two["emissions_gco2eq"], 2 * one["emissions_gco2eq"])
    emissions = one.set_index("country")["emissions_gco2eq"]
    assert emissions["FRA"] < emissions["DEU"] < emissions["POL"]


# --- embodied emissions


def test_embodied_emissions_by_hand():
    assert embodied_emissions_gco2eq(3600) == pytest.approx(56.0, abs=0.1)  # the source's figure
    year_s = 365 * 24 * 3600
    found = embodied_emissions_gco2eq(
        year_s, machine_kgco2eq=300, lifetime_years=3, utilisation=0.5, share_of_machine=0.1
    )
    assert found == pytest.approx(1000 * 300 * 0.1 / (3 * 0.5))


@pytest.mark.parametrize("name", ["lifetime_years", "utilisation", "share_of_machine"])
@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf])
def test_embodied_emissions_refuse_impossible_numbers(name, value):
    with pytest.raises(ValueError, match=f"{name}={value}: must be over 0"):
        embodied_emissions_gco2eq(1.0, **{name: value})


# --- break-even


def test_break_even_by_hand():
    found = break_even(1.0, 3.0, 1.0, kind="measured")
    assert found.kind == "measured" and found.saving_j_per_image == 2.0
    assert found.inferences == found.inferences_low == found.inferences_high == 1.8e6


def test_break_even_when_nothing_is_saved():
    found = break_even(1.0, 1.0, 3.0, kind="modelled")
    assert found.inferences == found.inferences_low == found.inferences_high == math.inf
    assert break_even(0.0, 2.0, 2.0, kind="modelled").inferences == math.inf


def test_break_even_of_an_uncertain_saving_has_no_upper_end():
    found = break_even(1.0, 3.0, 1.0, kind="measured", solution_half_width_j_per_image=2.5)
    assert found.inferences == 1.8e6 and found.inferences_high == math.inf
    assert found.inferences_low == pytest.approx(3.6e6 / 4.5)
    worse = break_even(1.0, 1.0, 3.0, kind="measured", solution_half_width_j_per_image=2.5)
    assert worse.inferences == math.inf and worse.inferences_low == pytest.approx(3.6e6 / 0.5)


numbers = st.floats(0.01, 100)
shares = st.floats(0, 2)


@given(numbers, numbers, numbers, shares, shares, shares)
def test_break_even_interval_holds_the_estimate_and_grows_with_uncertainty(
    search, default, solution, search_share, default_share, solution_share
):
    assume(abs(default - solution) > 1e-3 * default)

    def interval(scale):
        return break_even(
            search,
            default,
            solution,
            kind="measured",
            search_half_width_kwh=scale * search_share * search,
            default_half_width_j_per_image=scale * default_share * default,
            solution_half_width_j_per_image=scale * solution_share * solution,
        )

    narrow, wide = interval(0.5), interval(1.0)
    rounding = 1 + 1e-6
    assert 0 <= wide.inferences_low <= narrow.inferences_low * rounding
    assert narrow.inferences_low <= narrow.inferences * rounding
    assert narrow.inferences <= narrow.inferences_high * rounding
    assert narrow.inferences_high <= wide.inferences_high * rounding


def test_break_even_interval_covers_the_truth_as_often_as_it_says():
    random = np.random.default_rng(0)
    search, default, solution, sigma = 1.0, 3.0, 1.0, 0.3
    half_width = 1.96 * sigma
    hits = 0
    for _ in range(2000):
        found = break_even(
            search,
            random.normal(default, sigma),
            max(random.normal(solution, sigma), 0.0),
            kind="measured",
            default_half_width_j_per_image=half_width,
            solution_half_width_j_per_image=half_width,
        )
        hits += found.inferences_low <= 1.8e6 <= found.inferences_high
    assert hits / 2000 == pytest.approx(0.95, abs=0.015)


def test_break_even_needs_to_know_what_kind_of_energy():
    with pytest.raises(TypeError):
        break_even(1.0, 2.0, 1.0)
    with pytest.raises(ValueError, match="kind='both': must be 'measured' or 'modelled'"):
        break_even(1.0, 2.0, 1.0, kind="both")
    with pytest.raises(ValueError, match="search_energy_kwh=nan: must be"):
        break_even(math.nan, 2.0, 1.0, kind="measured")


# --- energy of a whole search


def test_trials_without_a_reading_are_charged_the_mean_power_of_the_others():
    trials = pd.DataFrame(
        {"energy_measured_kwh": [1.0, 2.0, None], "duration_s": [10.0, 20.0, 10.0]}
    )
    energy_kwh, measured_share = search_energy_kwh(trials)
    assert energy_kwh == pytest.approx(4.0) and measured_share == pytest.approx(0.75)
    assert search_energy_kwh(trials[:2]) == (3.0, 1.0)


def test_a_search_without_any_reading_has_no_measured_energy():
    trials = pd.DataFrame({"energy_measured_kwh": [None, None], "duration_s": [1.0, None]})
    energy_kwh, measured_share = search_energy_kwh(trials)
    assert math.isnan(energy_kwh) and measured_share == 0.0


def test_a_training_is_three_passes_an_image_and_a_validation_one():
    trials = pd.DataFrame({"epochs": [2, 3, 3], "train_size": [100, 50, None]})
    joules = 2 * (3 * 100 + 10) + 3 * (3 * 50 + 10)
    assert training_modelled_kwh(trials, 1.0, 10) == pytest.approx(joules / 3.6e6)
    with pytest.raises(ValueError, match="validation_size=-1: must be"):
        training_modelled_kwh(trials, 1.0, -1)
