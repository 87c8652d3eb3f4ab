"""What users bring along: an objective of their own, through search, table, fronts and figures."""

import os
import warnings

import pytest

from dsnn_utils import analysis, plots
from dsnn_utils.runs import read_settings, read_trials
from dsnn_utils.search import Recipe, TargetFunction
from dsnn_utils.training import load_dataset
from tests.search.test_search import Known, run, synthetic

LATENCY = ("loss", "latency_ms")


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def timed(point, seed):
    """The synthetic problem, in which every shifted layer takes time (ms)."""
    bits = point["activation_integer_bits"] + point["activation_fraction_bits"]
    return synthetic(point, seed) | {"latency_ms": 1 + 0.1 * point["shift_depth"] + 0.01 * bits}


@pytest.fixture(scope="module")
def trials(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("run")
    run(run_dir, timed, objectives=LATENCY, strategy="random", n_trials=20)
    return read_trials(run_dir)  # as another notebook reads it


@pytest.mark.parametrize("strategy", ["smac_mf", "tpe", "nsga2"])  # of SMAC, Optuna
def test_strategies_minimise_an_objective_of_ones_own(strategy, tmp_path):
    trials = run(tmp_path, timed, strategy=strategy, objectives=LATENCY, n_trials=16)
    assert trials["latency_ms"].notna().all() and set(trials["status"]) == {"SUCCESS"}
    assert read_settings(tmp_path)["objectives"] == list(LATENCY)
    front = analysis.pareto_front(trials, LATENCY)
    assert front["latency_ms"].is_monotonic_increasing  # laid out along it
    assert front["loss"].is_monotonic_decreasing


def test_it_comes_back_from_worker_processes(tmp_path):
    settings = {"strategy": "random", "objectives": LATENCY, "n_initial": 1, "n_trials": 6}
    trials = run(tmp_path, timed, isolate=True, **settings)
    assert trials["latency_ms"].between(1, 4).all()


def test_hypervolume_and_card_take_it(trials):
    reference = analysis.reference_point(trials, LATENCY)
    assert reference == {"loss": 1.0, "latency_ms": pytest.approx(1.1 * trials["latency_ms"].max())}
    assert 0 < analysis.hypervolume(trials, LATENCY) < 1
    curve = analysis.hypervolume_over(trials, objectives=LATENCY)["hypervolume"]
    assert curve.is_monotonic_increasing
    for rule in ("knee", "dominates_default"):
        chosen = analysis.choose(trials, rule, LATENCY)
        card = analysis.solution_card(trials, chosen, LATENCY)
        assert card["objectives"]["latency_ms"]["value"] == chosen["latency_ms"]
        assert set(card["gains_percent"]) == set(LATENCY)
    cheapest = analysis.choose(trials, "accuracy_floor", LATENCY, accuracy_floor=0.0)
    assert cheapest["latency_ms"] == trials["latency_ms"].min()


def test_every_figure_names_it_with_its_unit(trials):
    importances = {name: analysis.importance(trials, name) for name in LATENCY}
    start, chosen = trials.iloc[0], analysis.knee(trials, LATENCY)
    paths = {name: analysis.ablation_path(trials, start, chosen, name) for name in LATENCY}
    figures = {
        "Latency (ms)": [
            plots.plot_front(trials, x="latency_ms", chosen=chosen),
            plots.plot_partial_dependence(trials, cost="latency_ms"),
            plots.plot_ablation(paths),
        ],
        "Latency there (ms)": [plots.plot_tradeoff(trials, cost="latency_ms")],
        "Saved latency": [plots.plot_accuracy_drop(trials, cost="latency_ms")],
        "Latency": [
            plots.plot_importance(importances),
            plots.plot_parallel(trials, "latency_ms"),
        ],
    }
    for text, those in figures.items():
        for figure in those:
            assert text in figure.svg()


def test_the_front_grows_while_the_search_runs(trials, capsys):
    live = plots.LiveFront(20, x="latency_ms", live=False)
    live(trials.iloc[0].to_dict(), trials)
    assert "20/20, 0 failed" in capsys.readouterr().out


def test_the_packages_own_target_refuses_what_it_would_not_return(tmp_path):
    target = TargetFunction(load_dataset("digits", train_size=100), Recipe())
    with pytest.raises(ValueError, match=r"\['latency_ms'\] must come from a target function"):
        run(tmp_path / "run", target, objectives=LATENCY)
    with pytest.raises(ValueError, match="meter=None: must be an EnergyMeter"):
        run(tmp_path / "run", target, objectives=("loss", "energy_measured_kwh"))
    assert not (tmp_path / "run").exists()


def test_a_trial_that_lacks_it_is_a_failed_one(tmp_path):
    trials = run(tmp_path, synthetic, objectives=LATENCY, strategy="random", n_trials=14)
    assert set(trials["status"]) == {"CRASHED"}
    assert trials["reason"].str.contains("objective 'latency_ms': must be a number").all()


def test_smac_mf_says_when_it_has_to_do_without_the_energy(tmp_path):
    with pytest.warns(UserWarning, match="no energy_of.*Hyperband with ParEGO"):
        run(tmp_path / "unknown", n_trials=14)
    with warnings.catch_warnings(record=True) as heard:
        run(tmp_path / "known", Known(synthetic), n_trials=14)
        run(tmp_path / "other", strategy="random", n_trials=14)
    assert not [one for one in heard if "energy_of" in str(one.message)]
