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


def searches(*tables: pd.DataFrame) -> pd.DataFrame:
    """Searches under several seeds in one table; by default two of `trials`."""
    tables = tables or (trials(), trials())
    return pd.concat([t.assign(seed=seed) for seed, t in enumerate(tables)], ignore_index=True)


def grid() -> pd.DataFrame:
    """Depth x activation bits; at 8 bits depth 10 costs less than depth 20 does at 32."""
    table = pd.DataFrame({"shift_depth": [0, 0, 10, 10, 20, 20], "bits": [4, 16] * 3})
    table = pd.concat([table.assign(seed=0), table.assign(seed=1)], ignore_index=True)
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
    {"default": [0.81, 0.81], "knee": [0.859, 0.861], "wide": [0.9], "bad": [0.7, 0.7]},
    {"default": 3e-5, "knee": 1e-5, "wide": 9e-5, "bad": 1e-5},
)


def by_check(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(check=[check.__name__ for *_, check in FINDINGS]).set_index("check")


def test_searches_decide_where_they_agree():
    table = by_check(findings(searches()))
    assert table.loc["_default_dominated", "holds"] is True
    assert table.loc["_default_dominated", "ours"].startswith("in 2 of 2 searches a trial")
    # Two of the three are on both fronts: depths 6 and 0.
    assert table.loc["_low_depths", "holds"] is True
    assert table.loc["_low_depths", "ours"].count(": 2 of 2") == 2
    for check in ("_depth_for_loss", "_transfer", "_fewer_layers_save_more"):
        assert table.loc[check, "holds"] is None
        assert table.loc[check, "ours"].startswith("cannot be told: ")
    worse = trials().assign(loss=[0.01, 0.15, 0.2], **{ENERGY: [1e-6, 1, 2]})
    assert findings(searches(worse, worse)).loc[0, "holds"] is False
    both = by_check(findings(searches(worse, trials()))).loc["_default_dominated"]
    assert both["holds"] is None and both["ours"].startswith("in 1 of 2 searches")
    assert findings(searches().assign(origin="model")).loc[0, "holds"] is None


def test_one_search_decides_nothing():
    """Notebook 4 says of such a run that nothing can be told."""
    table = by_check(findings(trials()))
    assert table["holds"].isna().all()
    for check in ("_default_dominated", "_low_depths", "_balance"):
        assert table.loc[check, "ours"].endswith(": one seed")


def test_measured_and_modelled_evidence_have_to_agree():
    """The deep network costs little in the model, the shallow ones when measured."""
    rows = trials().assign(shift_depth=[20, 20, 0], emissions_gco2eq=[0.4, 0.3, 0.1])
    row = by_check(findings(searches(rows, rows))).loc["_low_depths"]
    assert "modelled energy of an inference: 1 of 2" in row["ours"] and row["holds"] is True
    rows = rows.assign(**{ENERGY: [2e-5, 1.9e-5, 2e-4]}, loss=[0.2, 0.09, 0.09])
    row = by_check(findings(searches(rows, rows))).loc["_low_depths"]
    assert "inference: 0 of 1; measured emissions of the training: 1 of 1" in row["ours"]
    assert row["holds"] is None


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


def test_finals_with_one_seed_or_intervals_that_overlap_decide_nothing():
    def verdict(accuracies):
        table = finals(accuracies, {"default": 3e-5, "knee": 1e-5})
        return by_check(findings(trials(), finals=table)).loc["_default_dominated"]

    one = verdict({"default": [0.8, 0.802], "knee": [0.9]})
    assert one["holds"] is None and one["ours"].endswith("one seed, or intervals that overlap")
    assert verdict({"default": [0.8], "knee": [0.9, 0.901]})["holds"] is None
    assert verdict({"default": [0.80, 0.82], "knee": [0.81, 0.85]})["holds"] is None
    assert verdict({"default": [0.80, 0.802], "knee": [0.85, 0.851]})["holds"] is True
    assert verdict({"default": [0.80, 0.802], "knee": [0.75, 0.751]})["holds"] is False


def test_both_tables_of_prices_are_asked_and_have_to_agree():
    """Under the other prices the better network needs more than the default."""
    assert set(findings(searches())["prices"]) == {"horowitz"}  # a table without the others
    agreeing = searches().assign(**{QTOOLS: searches()[ENERGY]})
    assert set(by_check(findings(agreeing))["prices"]) == {"either"}
    dearer = searches().assign(**{QTOOLS: [2e-5, 2.1e-5, 2e-4] * 2})
    row = by_check(findings(dearer)).loc["_default_dominated"]
    assert row["holds"] is None and row["prices"] == "horowitz and qtools disagree"
    assert row["ours"].startswith("horowitz: in 2 of 2 searches")
    assert "; qtools: in 0 of 2 searches" in row["ours"]
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
    row = table.loc["_fewer_layers_save_more"]  # only the measured energy says so
    assert row["holds"] is None and row["ours"].endswith("the two disagree")
    assert table.loc["_balance", "holds"] is False  # all bits are the same
    unread = by_check(findings(trials(), grid=one_width.assign(energy_measured_kwh=np.nan)))
    assert unread.loc["_fewer_layers_save_more", "holds"] is False  # in the model each layer saves


def test_balance_needs_several_depths_and_bits_on_the_front_that_chance_does_not_explain():
    row = by_check(findings(trials(), grid=grid())).loc["_balance"]
    assert row["holds"] is True and "activation bits 8 32" in row["ours"]
    one_seed = grid()[grid()["seed"] == 0]
    assert by_check(findings(trials(), grid=one_seed)).loc["_balance", "holds"] is None
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
