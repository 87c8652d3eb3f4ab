"""What users bring along: objectives, hyperparameters, networks, strategies and shift types.

Each goes through the search into the table, and from there into fronts and figures.
"""

import os

import pandas as pd
import pytest
import torch
from ConfigSpace import Categorical, Float, Integer
from torch import nn

from dsnn_utils import ShiftConv2d, ShiftSpec, analysis, convert_to_shift, plots, study
from dsnn_utils.energy import modelled_energy
from dsnn_utils.limits import REGISTERED
from dsnn_utils.parameters import all_notebooks, check_parameters
from dsnn_utils.runs import read_settings, read_trials
from dsnn_utils.search import (
    Recipe,
    SearchSettings,
    TargetFunction,
    build_network,
    complete_points,
    depth_bound,
    dsnn_space,
    published_default,
    register_strategy,
    run_trial,
    space_table,
)
from dsnn_utils.shift import build_model, quantize_q, register_model, register_shift_type
from dsnn_utils.shift import specs as shift_specs
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


@pytest.mark.parametrize("strategy", ["smac_mf", "tpe"])  # of SMAC, of Optuna
def test_strategies_minimise_an_objective_of_ones_own(strategy, tmp_path):
    trials = run(tmp_path, timed, strategy=strategy, objectives=LATENCY, n_trials=16)
    assert trials["latency_ms"].notna().all() and set(trials["status"]) == {"SUCCESS"}
    assert read_settings(tmp_path)["objectives"] == list(LATENCY)
    front = analysis.pareto_front(trials, LATENCY)
    assert front["latency_ms"].is_monotonic_increasing  # laid out along it
    assert front["loss"].is_monotonic_decreasing


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


# ------------------------------------------------------------------------- hyperparameters


WIDTH = Float("own_width", (0.5, 2.0), default=1.0)


def wide(point, seed):
    """The synthetic problem, in which a wider network has a smaller error."""
    return synthetic(point, seed) | {"loss": 1 / (1 + point["own_width"])}


@pytest.mark.parametrize("strategy", ["smac_mf", "random"])
def test_a_hyperparameter_of_ones_own_reaches_trial_table_and_importance(strategy, tmp_path):
    target = Known(wide)
    trials = run(tmp_path, target, strategy=strategy, hyperparameters=[WIDTH], n_trials=20)
    assert trials.loc[trials["origin"] == "default", "own_width"].eq(1.0).all()
    assert trials["own_width"].between(0.5, 2).all() and trials["own_width"].nunique() > 3
    assert trials["loss"].to_numpy() == pytest.approx(1 / (1 + trials["own_width"]))
    assert read_settings(tmp_path)["hyperparameters"] == [str(WIDTH)]
    found = analysis.importance(read_trials(tmp_path))
    assert found.set_index("hyperparameter").loc["own_width", "importance"] > 0.05
    assert "Width" in plots.plot_importance({"loss": found}).svg()
    card = analysis.solution_card(trials, analysis.knee(trials))
    assert "own_width" in card["configuration"]
    # The same call resumes: its column is read back as it was written.
    again = run(tmp_path, target, strategy=strategy, hyperparameters=[WIDTH], n_trials=21)
    pd.testing.assert_series_equal(again["own_width"][:20], trials["own_width"])
    with pytest.raises(ValueError, match="belongs to a search with other settings.*hyperparam"):
        run(tmp_path, target, strategy=strategy, n_trials=22)


def test_one_that_would_reach_no_trial_is_refused_by_name(tmp_path):
    for name in ("width", "shift_depth", "epochs"):
        with pytest.raises(ValueError, match=f"hyperparameters: '{name}': must begin with 'own_'"):
            SearchSettings(20, 3, hyperparameters=[Float(name, (1, 2))])
    target = TargetFunction(load_dataset("digits", train_size=100), Recipe())
    with pytest.raises(ValueError, match="own_width: must be a target function's of your own"):
        run(tmp_path / "run", target, hyperparameters=[WIDTH])
    with pytest.raises(ValueError, match="own_width: must be a target function's of your own"):
        run_trial(published_default(20, 1) | {"own_width": 1.0}, target.dataset, Recipe())
    assert not (tmp_path / "run").exists()


def test_one_takes_the_place_of_that_of_the_space():
    adam = Categorical("optimizer", ["Adam", "RAdam"])
    space = dsnn_space(20, hyperparameters=[Integer("weight_bits", (3, 4)), adam, WIDTH])
    assert space["weight_bits"].upper == 4 and "momentum" not in space
    assert space_table(space).loc["own_width", "why"] == "of your own"
    point = published_default(20) | {"own_width": 2.0}
    assert complete_points([{"own_width": 2.0}], 20, 100)[0]["own_width"] == point["own_width"]


def test_a_field_of_the_recipe_may_differ_from_trial_to_trial():
    data, recipe = load_dataset("digits", train_size=100), Recipe(augment=False)
    point = published_default(20, 1) | {"shift_type": "Q", "shift_depth": 1}
    losses = [
        run_trial(point | {"own_label_smoothing": share}, data, recipe)[0]["val_cross_entropy"]
        for share in (0.0, 0.0, 0.5)
    ]
    assert losses[0] == losses[1] != losses[2]
    with pytest.raises(ValueError, match="label_smoothing=1.5: must be a number from 0"):
        run_trial(point | {"own_label_smoothing": 1.5}, data, recipe)


# --------------------------------------------------------------------- networks, shift types


@pytest.fixture
def forget(monkeypatch):
    """What is registered in a test is forgotten after it."""
    monkeypatch.setitem(REGISTERED, "model", {})
    monkeypatch.setitem(REGISTERED, "strategy", {})
    monkeypatch.setattr(shift_specs, "_ROUNDED_BY", dict(shift_specs._ROUNDED_BY))


def tiny(num_classes, in_channels):
    layers = nn.Conv2d(in_channels, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(4, num_classes))


def halved(weight, lowest, stochastic, scale):
    """The power of two below that of Q."""
    return quantize_q(weight, lowest, stochastic, scale) / 2


def test_a_network_of_ones_own_has_its_energy_known_by_one_call(forget, tmp_path):
    register_model("tiny", tiny)
    data, recipe = load_dataset("digits", train_size=60), Recipe("tiny", augment=False)
    assert depth_bound(data, recipe) == 2
    target = TargetFunction(data, recipe)
    settings = {"max_depth": 2, "epochs": 1, "n_initial": 2, "n_trials": 5}
    trials = run(tmp_path, target, **settings)
    assert set(trials["model"]) == {"tiny"} and set(trials["status"]) == {"SUCCESS"}
    shape = tuple(data.train.images.shape[1:])
    for _, row in trials.iterrows():
        network = build_network(row, data, recipe, seed=0)
        energy = modelled_energy(network, shape).energy_modelled_j_per_image
        assert row["energy_modelled_j_per_image"] == pytest.approx(energy)


def test_notebooks_take_what_was_registered_before_their_first_cell(forget):
    search = next(path for path in all_notebooks() if path.name.startswith("03_"))
    own = {"model": "tiny", "strategy": "mine"}
    for name in own:
        with pytest.raises(ValueError, match=f"{name}='{own[name]}': must be one of"):
            check_parameters(search, {name: own[name]})
    register_model("tiny", tiny)
    register_strategy("mine", FirstOnly)
    assert check_parameters(search, own) == own


def test_names_that_are_taken_or_unknown_are_refused(forget):
    with pytest.raises(ValueError, match="name='resnet20': must be a name of letters.*other than"):
        register_model("resnet20", tiny)
    with pytest.raises(ValueError, match="name='PS': must be a name of letters"):
        register_shift_type("PS", halved)
    with pytest.raises(ValueError, match="name='smac': must be a name of letters"):
        register_strategy("smac", None)
    with pytest.raises(ValueError, match="model='tiny': must be one of resnet20"):
        build_model("tiny", 10)
    with pytest.raises(ValueError, match="shift_type='half': must be one of Q, PS"):
        ShiftSpec("half")


def test_a_shift_type_of_ones_own_computes_trains_and_is_drawn(forget, tmp_path):
    register_shift_type("half", halved)
    layer = ShiftConv2d(3, 8, 3, spec=ShiftSpec("half"))
    q = convert_to_shift(nn.Conv2d(3, 8, 3), 1, ShiftSpec("Q"))
    q.load_state_dict(layer.state_dict())
    assert torch.equal(layer.effective_weight(), q.effective_weight() / 2)
    assert layer.spec.shift_range == q.spec.shift_range
    data = load_dataset("digits", train_size=100)
    point = published_default(20, 1) | {"shift_type": "half"}
    row, network, _ = run_trial(point, data, Recipe(augment=False))
    _, as_q, _ = run_trial(point | {"shift_type": "Q"}, data, Recipe(augment=False))
    assert row["status"] == "SUCCESS"
    shape = tuple(data.train.images.shape[1:])
    assert modelled_energy(network, shape) == modelled_energy(as_q, shape)  # of any shift
    types = Categorical("shift_type", ["Q", "PS", "half"], default="half")
    trials = run(tmp_path, strategy="random", hyperparameters=[types], n_trials=20)
    assert set(trials["shift_type"]) == {"Q", "PS", "half"}
    assert ">half<" in plots.plot_front(trials).svg()


class Timed:
    """A target function with an objective of its own, sent to workers."""

    def __init__(self, target):
        self.target = target

    def __call__(self, point, seed):
        return self.target(point, seed) | {"latency_ms": 1.5}


def test_workers_know_what_was_registered(forget, tmp_path):
    register_model("tiny", tiny)
    register_shift_type("half", halved)
    target = TargetFunction(load_dataset("digits", train_size=60), Recipe("tiny", augment=False))
    types = [Categorical("shift_type", ["half"])]
    settings = {"max_depth": 2, "epochs": 1, "n_initial": 1, "n_trials": 3, "strategy": "random"}
    settings |= {"objectives": LATENCY, "hyperparameters": types, "isolate": True}
    trials = run(tmp_path, Timed(target), **settings)
    assert set(trials["status"]) == {"SUCCESS"}, trials["reason"].tolist()
    assert trials["latency_ms"].eq(1.5).all()
    assert set(trials["shift_type"]) == {"half"}


# ------------------------------------------------------------------------- strategies


class FirstOnly:
    """A strategy that knows one point, and what it was told."""

    def __init__(self, space, objectives, seed, n_initial):
        self.point, self.told = dict(space.get_default_configuration()), []
        self.seed = seed

    def ask(self):
        return self.point | {"lr": 0.01 * (1 + len(self.told))}, "model"

    def tell(self, point, costs, success):
        self.told.append((point, costs, success))


def test_a_strategy_of_ones_own_searches_beside_the_others(monkeypatch, tmp_path):
    monkeypatch.setitem(REGISTERED, "strategy", {})
    made = []
    register_strategy("first_only", lambda *how: made.append(FirstOnly(*how)) or made[-1])
    trials = run(tmp_path / "own", strategy="first_only", n_trials=14)
    assert set(trials["strategy"]) == {"first_only"} and len(made[0].told) == 14
    assert made[0].told[-1][1] == trials[["loss", "energy_modelled_j_per_image"]].iloc[-1].tolist()
    curves = []
    for name in ("first_only", "random"):
        one = run(tmp_path / name, strategy=name, n_trials=14)
        curve = analysis.hypervolume_over(one, by="seed").rename(columns={"trial": "trials"})
        curves.append(curve.assign(problem="synthetic", strategy=name))
    results = pd.concat(curves)
    compared = study.compare_strategies(results, trials=14)
    assert ("synthetic", "first_only") in compared.index
    assert "first_only" in study.plot_strategies(results).svg()
    with pytest.raises(ValueError, match="strategy='other': must be one of smac_mf.*first_only"):
        run(tmp_path / "other", strategy="other")


def test_a_point_with_an_unknown_name_stops_the_search(monkeypatch, tmp_path):
    class Wrong(FirstOnly):
        def ask(self):
            return self.point | {"width": 2}, "model"

    monkeypatch.setitem(REGISTERED, "strategy", {"wrong": Wrong})
    with pytest.raises(ValueError, match=r"point \['width'\]: must be hyperparameters"):
        run(tmp_path, strategy="wrong", n_trials=14)
