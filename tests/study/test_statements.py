"""Statements of the papers: our tables decide, and what is not in them stays open."""

import numpy as np
import pandas as pd
import pytest

from dsnn_utils.study import dominating_default, findings
from dsnn_utils.study.statements import FINDINGS

ENERGY = "energy_modelled_j_per_image"
QTOOLS = "energy_modelled_qtools_j_per_image"


def trials() -> pd.DataFrame:
    """The default, a better network and a plain one."""
    return pd.DataFrame(
        {
            "trial": [0, 1, 2], "seed": 0, "status": "SUCCESS",
            "origin": ["default", "model", "model"], "dataset": "cifar10", "model": "resnet20",
            "shift_depth": [20, 6, 0], "max_shift_depth": 20, "shift_type": ["PS", "Q", None],
            "weight_bits": [5, 4, np.nan], "activation_integer_bits": 16,
            "activation_fraction_bits": 16, "epochs": 3,
            "val_accuracy": [0.80, 0.85, 0.91], "loss": [0.20, 0.15, 0.09],
            ENERGY: [2e-5, 1.9e-5, 2e-4], "emissions_gco2eq": [0.4, 0.1, 0.5],
        }
    )  # fmt: skip


def grid() -> pd.DataFrame:
    """Depth x activation bits; at 8 bits depth 10 costs less than depth 20 does at 32."""
    table = pd.DataFrame({"shift_depth": [0, 0, 10, 10, 20, 20], "bits": [4, 16] * 3})
    depth, bits = table["shift_depth"], table["bits"]
    return table.assign(
        status="SUCCESS", weight_bits=4,
        activation_integer_bits=bits, activation_fraction_bits=bits,
        loss=0.1 + 0.01 * depth - 0.004 * bits, energy_measured_kwh=0.01 * (1 + 0.02 * depth),
        **{ENERGY: 1e-6 * (30 - depth + bits)},
    )  # fmt: skip


def finals(accuracies: dict[str, list[float]], energies: dict[str, float]) -> pd.DataFrame:
    rows = [
        {"trial": 0, "seed": seed, "status": "SUCCESS", "origin": name, "shift_depth": 20,
         "val_accuracy": 0.5, "test_accuracy": accuracy, ENERGY: energies[name]}
        for name, values in accuracies.items() for seed, accuracy in enumerate(values)
    ]  # fmt: skip
    return pd.DataFrame(rows)


FINALS = finals(
    {"default": [0.80, 0.82], "knee": [0.85, 0.87], "wide": [0.9], "bad": [0.7, 0.7]},
    {"default": 3e-5, "knee": 1e-5, "wide": 9e-5, "bad": 1e-5},
)


def by_check(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(check=[check.__name__ for *_, check in FINDINGS]).set_index("check")


def test_a_search_alone():
    table = by_check(findings(trials()))
    assert table.loc["_default_dominated", "holds"] is True
    assert table.loc["_default_dominated", "ours"].startswith("trial 1 of seed 0 dominates")
    # Two of the three are on both fronts: depths 6 and 0.
    assert table.loc["_low_depths", "holds"] is True
    assert table.loc["_low_depths", "ours"].count(": 2 of 2") == 2
    for check in ("_depth_for_loss", "_transfer", "_fewer_layers_save_more"):
        assert table.loc[check, "holds"] is None
        assert table.loc[check, "ours"].startswith("cannot be told: ")
    worse = trials().assign(loss=[0.01, 0.15, 0.2], **{ENERGY: [1e-6, 1, 2]})
    assert findings(worse).loc[0, "holds"] is False
    assert findings(trials().assign(origin="model")).loc[0, "holds"] is None


def test_finals_decide_by_test_accuracy_and_energy():
    default, found = dominating_default(FINALS, ENERGY)
    assert default["test_accuracy"] == pytest.approx(0.81) and default["seeds"] == 2
    assert found["origin"].tolist() == ["knee"]  # one is dearer, one is worse
    row = by_check(findings(trials(), finals=FINALS)).loc["_default_dominated"]
    assert row["holds"] is True and row["ours"].startswith("1 of 3 networks dominate")
    assert "(n = 2) at 10.0 µJ" in row["ours"]
    beaten = FINALS[FINALS["origin"].isin(["default", "wide", "bad"])]
    assert by_check(findings(trials(), finals=beaten)).loc["_default_dominated", "holds"] is False
    renamed = FINALS["origin"].replace("wide", "default, other weights")
    default, found = dominating_default(FINALS.assign(origin=renamed), ENERGY)
    assert default["origin"] == "default, other weights" and found.empty  # the better start counts
    with pytest.raises(ValueError, match="must be of one model"):
        dominating_default(FINALS.assign(model=["resnet20", "vgg19"] * 3 + ["resnet20"]), ENERGY)
    default_only = FINALS[FINALS["origin"] == "default"]  # the others are still to be trained
    assert len(dominating_default(default_only, ENERGY)[1]) == 0
    with pytest.raises(ValueError, match="must have a tested network of origin 'default'"):
        dominating_default(FINALS[FINALS["origin"] != "default"], ENERGY)


def test_both_tables_of_prices_are_asked_and_have_to_agree():
    """Under the other prices the better network needs more than the default."""
    assert set(findings(trials())["prices"]) == {"horowitz"}  # a table without the others
    agreeing = trials().assign(**{QTOOLS: trials()[ENERGY]})
    assert set(by_check(findings(agreeing))["prices"]) == {"either"}
    dearer = trials().assign(**{QTOOLS: [2e-5, 2.1e-5, 2e-4]})
    row = by_check(findings(dearer)).loc["_default_dominated"]
    assert row["holds"] is None and row["prices"] == "horowitz and qtools disagree"
    assert row["ours"].startswith("horowitz: trial 1 of seed 0 dominates it")
    assert "; qtools: no trial dominates it" in row["ours"]
    tested = FINALS.assign(**{QTOOLS: FINALS[ENERGY] * 1.1})
    row = by_check(findings(dearer, finals=tested)).loc["_default_dominated"]
    assert row["holds"] is True and row["prices"] == "horowitz and qtools"
    assert "at 10.0 µJ" in row["ours"] and "at 11.0 µJ" in row["ours"]


def test_transfer_is_asked_of_its_own_table():
    assert by_check(findings(trials(), transfer=FINALS)).loc["_transfer", "holds"] is True


def test_the_grid_says_whether_fewer_layers_can_save_more_and_what_was_measured():
    table = by_check(findings(trials(), grid=grid()))
    row = table.loc["_fewer_layers_save_more"]
    assert row["holds"] is True and "depth 10 24 to 36" in row["ours"]
    assert "+40 % from depth 0 to 20" in row["ours"]
    one_width = grid()[grid()["activation_integer_bits"] == 4]
    table = by_check(findings(trials(), grid=one_width))
    assert table.loc["_fewer_layers_save_more", "holds"] is True  # measured energy decides
    assert table.loc["_balance", "holds"] is False  # all bits are the same
    unread = by_check(findings(trials(), grid=one_width.assign(energy_measured_kwh=np.nan)))
    assert unread.loc["_fewer_layers_save_more", "holds"] is False  # in the model each layer saves


def test_balance_needs_several_depths_and_bits_on_the_front_that_chance_does_not_explain():
    row = by_check(findings(trials(), grid=grid())).loc["_balance"]
    assert row["holds"] is True and "activation bits 8 32" in row["ours"]
    alike = grid().assign(loss=lambda t: t["loss"] / 10)  # the same order, hardly any distance
    row = by_check(findings(trials(), grid=alike)).loc["_balance"]
    assert row["holds"] is None and "at least 3 points apart: depths 20" in row["ours"]


@pytest.mark.parametrize(
    "lead, holds", [({"shift_depth": 3.0}, True), ({"lr": 3.0}, False), ({}, None)]
)
def test_importance_counts_only_where_the_runs_agree(lead, holds):
    """The loss of three runs hangs on one hyperparameter, or on a different one in each run."""
    rng, runs = np.random.default_rng(0), []
    names = ("shift_depth", "lr", "batch_size")
    for seed in range(3):
        run = pd.DataFrame({name: rng.uniform(size=40) for name in names})
        weights = lead or {names[seed]: 3.0}
        loss = sum(weight * run[name] for name, weight in weights.items())
        runs.append(run.assign(seed=seed, trial=range(40), loss=loss + rng.normal(0, 0.01, 40)))
    table = pd.concat(runs).assign(
        status="SUCCESS", origin="model", max_shift_depth=1, emissions_gco2eq=np.nan,
        weight_bits=4, activation_integer_bits=4, activation_fraction_bits=4, **{ENERGY: 1.0},
    )  # fmt: skip
    row = by_check(findings(table)).loc["_depth_for_loss"]
    assert row["holds"] is holds and (" overlap" in row["ours"]) == (holds is None)
