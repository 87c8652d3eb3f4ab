"""The vocabulary of the trials table: its names agree with the rest of the package."""

from dataclasses import fields

import pytest

from dsnn_utils.energy import PRICES, Measurement, ModelledEnergy
from dsnn_utils.runs import (
    COLUMNS,
    EXTENSIONS,
    HYPERPARAMETERS,
    MEASURED,
    MODELLED_ENERGIES,
    OBJECTIVES,
    check_objectives,
    cost_among,
    loss_among,
    modelled_energy_among,
    under_both_prices,
)
from dsnn_utils.runs.columns import EXPORTED, NEWER_COLUMNS, TRAINING_READINGS, split_unit
from dsnn_utils.search import dsnn_space


def test_objectives_are_returned_as_given():
    assert check_objectives(["duration_s", "loss"]) == ["duration_s", "loss"]
    assert check_objectives(("loss",)) == ["loss"]
    assert check_objectives(OBJECTIVES, wue_l_per_kwh=1.8) == list(OBJECTIVES)


def test_an_objective_of_ones_own_ends_in_its_unit():
    own = ["loss", "latency_ms", "peak_memory_mb", "energy_j_per_batch"]
    assert check_objectives(own) == own
    assert [split_unit(name) for name in own] == [
        None, ("latency", "ms"), ("peak_memory", "MB"), ("energy", "J per batch"),
    ]  # fmt: skip


MISSPELT = ["energy_modeled_j_per_image", "emission_gco2eq", "val_accuracy", "latency", "_ms", 3]


@pytest.mark.parametrize(
    "names",
    [[], "loss", ["loss", "loss"], ["Loss"], *(["loss", name] for name in MISSPELT)],
)
def test_objectives_are_refused_with_the_list_of_known_ones(names):
    with pytest.raises(ValueError, match="^objectives=.*must be.*loss, val_cross_entropy, energy"):
        check_objectives(names)


def test_water_needs_a_water_usage_effectiveness():
    with pytest.raises(ValueError, match="wue_l_per_kwh=0.0: must be over 0"):
        check_objectives(["loss", "water_l"], wue_l_per_kwh=0.0)


def test_every_objective_carries_its_unit_in_its_name():
    suffixes = {
        "J": "_j_per_image",
        "ms": "_ms_per_image",
        "kWh": "_kwh",
        "gCO2eq": "_gco2eq",
        "L": "_l",
        "s": "_s",
    }
    for name, objective in OBJECTIVES.items():
        assert name.endswith(suffixes.get(objective.unit, ""))
        assert objective.description


def test_columns_are_named_as_the_code_that_fills_them_names_them():
    assert len(set(COLUMNS)) == len(COLUMNS)
    spaces = [dsnn_space(20, 5, 1, space=space) for space in ("extended", "integer")]
    assert set(HYPERPARAMETERS) == {*spaces[0], *spaces[1], "data_fraction"}
    assert set(HYPERPARAMETERS) - {*dsnn_space(20, 5, 1), "data_fraction"} == set(EXTENSIONS)
    assert set(MODELLED_ENERGIES) <= {field.name for field in fields(ModelledEnergy)}
    assert {*TRAINING_READINGS} <= {field.name for field in fields(Measurement)}
    assert {*NEWER_COLUMNS} <= {*COLUMNS}
    assert {*HYPERPARAMETERS, *MODELLED_ENERGIES, *MEASURED} <= set(COLUMNS)
    assert {*OBJECTIVES} - {*EXPORTED} <= set(COLUMNS)


def test_loss_cost_and_energy_are_found_among_objectives():
    compute, with_memory, *qtools = MODELLED_ENERGIES
    assert loss_among(["duration_s", "val_cross_entropy"]) == "val_cross_entropy"
    assert loss_among(["duration_s"]) == "loss"
    assert cost_among(["loss", "duration_s", compute]) == "duration_s"
    assert cost_among(["loss"]) == compute
    assert modelled_energy_among(["loss", "emissions_gco2eq"]) == compute
    assert modelled_energy_among([with_memory, "loss"]) == with_memory
    assert modelled_energy_among(["loss", *qtools]) == qtools[0]


def test_an_energy_is_found_under_both_tables_of_prices():
    compute, with_memory, *qtools = MODELLED_ENERGIES
    for pair in ((compute, qtools[0]), (with_memory, qtools[1])):
        for energy in pair:
            assert under_both_prices(energy) == dict(zip(PRICES, pair, strict=True))
    with pytest.raises(ValueError, match="energy='loss': must be one of energy_modelled"):
        under_both_prices("loss")
