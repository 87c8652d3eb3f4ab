"""The CIFAR-10 study: what it cost, and how well cheap trainings foretell full ones."""

import json
import os

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from dsnn_utils import pareto, study
from dsnn_utils.data import load_dataset
from dsnn_utils.energy import modelled_energy
from dsnn_utils.given import complete_points
from dsnn_utils.models import build_model
from dsnn_utils.run_directory import environment
from dsnn_utils.runner import project_root
from dsnn_utils.trial import Recipe, run_trial
from dsnn_utils.trials import HYPERPARAMETERS, read_runs, read_settings, read_trials, to_records


def fidelity_table(noise: dict[tuple, float], configurations: int = 12) -> pd.DataFrame:
    """Configurations with a true loss each, seen at several fidelities through noise."""
    rng = np.random.default_rng(0)
    true = rng.uniform(0.2, 0.6, configurations)
    rows = []
    for (depth, epochs, share), spread in noise.items():
        for number, loss in enumerate(true + spread * rng.normal(size=configurations)):
            rows.append(
                {"seed": 0, "status": "SUCCESS", "lr": 0.01 * (1 + number), "momentum": np.nan,
                 "shift_depth": depth, "epochs": epochs, "data_fraction": share, "loss": loss,
                 "duration_s": 10.0 * epochs * share}
            )  # fmt: skip
    return pd.DataFrame(rows)


FULL, SHALLOW, SHORT = (20, 3, 1.0), (2, 3, 1.0), (20, 1, 1.0)


def test_rank_correlation_with_the_full_training_and_its_cost():
    trials = fidelity_table({FULL: 0.0, SHALLOW: 0.3, SHORT: 0.01, (20, 3, 0.25): 0.0})
    table = study.fidelity_correlation(trials, draws=200).set_index(list(study.FIDELITIES))
    assert len(table) == 3 and table["configurations"].eq(12).all()
    losses = {key: rows["loss"].tolist() for key, rows in trials.groupby(list(study.FIDELITIES))}
    for fidelity, row in table.iterrows():
        assert row["spearman"] == pytest.approx(spearmanr(losses[fidelity], losses[FULL])[0])
        assert row["low"] <= row["spearman"] <= row["high"]
    assert table.loc[(20, 3, 0.25), "spearman"] == 1
    assert table.loc[SHALLOW, "spearman"] < table.loc[SHORT, "spearman"]
    assert table["cost"].to_dict() == pytest.approx({SHALLOW: 1, SHORT: 1 / 3, (20, 3, 0.25): 0.25})


def test_a_failed_training_ranks_last_and_a_constant_side_has_no_correlation():
    trials = fidelity_table({FULL: 0.0, SHALLOW: 0.0})
    worst = trials.groupby("shift_depth")["loss"].idxmax()
    failed = trials.assign(status=np.where(trials.index == worst[2], "DIVERGED", "SUCCESS"))
    failed.loc[worst[2], "loss"] = np.nan
    assert study.fidelity_correlation(failed, draws=20)["spearman"].tolist() == [1.0]
    constant = trials.assign(loss=trials["loss"].where(trials["shift_depth"] == 20, 0.5))
    assert study.fidelity_correlation(constant, draws=20)["spearman"].isna().all()


def test_without_full_trainings_nothing_is_compared():
    trials = fidelity_table({(20, 1, 1.0): 0.0, (2, 3, 1.0): 0.0})
    with pytest.raises(ValueError, match="must hold at least 3 configurations at"):
        study.fidelity_correlation(trials)


def test_cost_of_runs_sums_up():
    table = study.cost_of_runs(["figures/demo", "figures/cifar10_quick"])
    assert table.index.tolist() == ["demo", "cifar10_quick", "all"]
    assert table.loc["all", "trainings"] == 55 and table.loc["cifar10_quick", "images"] == 5000
    for name in ("hours", "energy_measured_kwh", "emissions_gco2eq"):
        assert table[name].iloc[:2].sum() == pytest.approx(table.loc["all", name])
    intensity = table["emissions_gco2eq"] / table["energy_measured_kwh"]
    assert intensity.between(300, 500).all()  # gCO2eq per kWh, Germany


def test_finalists_follow_their_rules_and_can_be_trained():
    objectives = ("loss", "energy_modelled_j_per_image")
    trials = read_trials(project_root() / "figures" / "demo")
    few = study.finalists(trials, objectives)
    assert "half the energy" not in {point["label"] for point in few}  # none is as cheap
    cheaper = (trials["shift_depth"] == 20) & (trials["origin"] != "default")
    trials.loc[cheaper, objectives[1]] /= 3
    points = study.finalists(trials, objectives)
    labels = [point["label"] for point in points]
    assert labels[0] == "default" and len(set(labels)) == len(labels) >= 6
    assert {"cheapest", "most accurate", "public 1", "public 2", "public 3"} <= set(labels)
    bare = [{k: v for k, v in point.items() if k != "label"} for point in points]
    assert all(point not in bare[:n] for n, point in enumerate(bare))  # none is trained twice
    assert len(complete_points(points, 20, 30)) == len(points)

    default = pareto.default_trial(trials)
    half = trials[trials[objectives[1]] <= default[objectives[1]] / 2]
    enough = trials[trials["loss"] <= default["loss"]]
    chosen = {point.get("lr") for point in points}
    for row in (
        trials.loc[half["loss"].idxmin()],
        trials.loc[trials["loss"].idxmin()],
        trials.loc[enough[objectives[1]].idxmin()],
    ):
        assert row["lr"] in chosen


def test_the_committed_finalists_are_those_of_the_committed_search():
    search = project_root() / "figures" / "cifar10_study"
    objectives = pareto.modelled_objectives(read_settings(search)["objectives"])
    points = study.finalists(read_runs([search]), objectives)
    committed = project_root() / "notebooks" / "profiles" / "cifar10_finals.json"
    trained = {point["label"]: point for point in json.loads(committed.read_text())}
    assert trained == {point["label"]: point for point in points}  # first what matters most


def test_readings_are_taken_of_the_networks_that_are_trained():
    profiles = project_root() / "notebooks" / "profiles"
    names = ("cifar10_finals", "cifar10_finals_standard", "cifar10_finals_published")
    listed = [point for n in names for point in json.loads((profiles / f"{n}.json").read_text())]
    trained = {point["label"]: point for point in complete_points(listed, 20, 30)}
    listed = json.loads((profiles / "cifar10_readings.json").read_text())
    for point in complete_points(listed, 20, 30):
        format_ = ("shift_depth", "shift_type", "weight_bits", *pareto.ACTIVATION_BITS)
        assert all(point[name] == trained[point["label"]][name] for name in format_)


def test_trainings_are_weighed_as_passes_of_the_plain_network():
    run = project_root() / "figures" / "cifar10_quick"
    trials, plain = read_trials(run), modelled_energy(build_model("resnet20", 10, 3), (3, 32, 32))
    passes = 25 * 6 * (3 * 5000 + 2500)  # trainings, epochs, images
    assert trials["epochs"].eq(6).all()
    expected = passes * plain.energy_modelled_with_memory_j_per_image / 3.6e6
    assert study.modelled_cost_kwh(["figures/cifar10_quick"]) == pytest.approx(expected)


def test_measured_and_modelled_energy_stand_side_by_side():
    point = {
        "shift_depth": 20, "weight_bits": 4, "activation_integer_bits": 3,
        "activation_fraction_bits": 2, "status": "SUCCESS", "energy_modelled_j_per_image": 1e-5,
        "energy_measured_kwh": 0.01,
    }  # fmt: skip
    named = {"default": (0.8, 0.82, 4e-5), "cheap": (0.84, 0.85, 2e-5)}
    finals = pd.DataFrame(
        point | {"origin": n, "seed": s, "test_accuracy": a[s], pareto.ENERGIES[1]: a[2]}
        for n, a in named.items()
        for s in (0, 1)
    )
    readings = pd.DataFrame(
        {"origin": name, "energy_measured_j_per_image": joules, "duration_s_per_image": 0.001,
         "power_measured_w": 10.0}
        for name, values in {"default": (0.01, 0.012), "cheap": (0.011, 0.011)}.items()
        for joules in values
    )  # fmt: skip
    table = study.finals_table(finals, readings)
    assert table.index.tolist() == ["cheap", "default"] and table["seeds"].eq(2).all()
    assert table["test accuracy (%)"].tolist() == pytest.approx([84.5, 81])
    assert table["MODELLED inference (µJ/image)"].tolist() == pytest.approx([20, 40])
    assert table["MEASURED inference (mJ/image)"].tolist() == pytest.approx([11, 11])
    assert table["± (mJ/image)"].tolist() == pytest.approx([0, 12.706], abs=1e-3)
    assert table["MEASURED training (Wh)"].tolist() == pytest.approx([10, 10])
    unnamed = finals.assign(origin="given", weight_bits=[4, 4, 5, 5])
    with pytest.raises(ValueError, match="must have an origin \\(label\\) of its own"):
        study.finals_table(unnamed)


@pytest.mark.skipif("DSNN_CIFAR10" not in os.environ, reason="DSNN_CIFAR10 is not set")
def test_a_committed_training_gives_its_row_again(pytestconfig):
    """The best fully shifted network of the grid, trained again (half a minute)."""
    run = project_root() / "figures" / "cifar10_grid"
    settings, trials = read_settings(run), read_trials(run)
    row = trials.loc[trials[trials["shift_depth"] == 20]["val_accuracy"].idxmax()]
    (point,) = to_records(row[list(HYPERPARAMETERS)].to_frame().T.infer_objects())
    where = {
        "name_or_path": os.environ["DSNN_CIFAR10"],
        "root": pytestconfig.cache.mkdir("cifar10"),
    }
    data = load_dataset(**settings["data"] | where)
    again, _, _ = run_trial(point, data, Recipe(**settings["recipe"]), int(row["seed"]))
    assert again["train_size"] == row["train_size"]
    for name in pareto.ENERGIES:
        assert again[name] == pytest.approx(row[name], rel=1e-12)
    # Other processors have other kernels, whose rounding grows over some hundred steps; a broken
    # training gives 0.1.
    made_on = json.loads((run / "search.json").read_text())["runs"][0]["hardware"]["cpu"]
    same_cpu = environment()["hardware"]["cpu"] == made_on
    assert again["val_accuracy"] == pytest.approx(
        row["val_accuracy"], abs=0.02 if same_cpu else 0.1
    )
