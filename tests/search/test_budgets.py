"""Two fidelities at once: the worth of a short training, its cost, and what counts in the end."""

import math
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from dsnn_utils.analysis import hypervolume, pareto_front
from dsnn_utils.runs import default_trial, read_trials
from dsnn_utils.runs.columns import HYPERPARAMETERS
from dsnn_utils.search import SearchSettings
from dsnn_utils.search.acquisition import LossModel
from dsnn_utils.search.budgets import FULL_SHARE
from tests.search.test_search import OBJECTIVES, Known, run, synthetic

BUDGETS = (1, 3, 9)
LIMIT = "energy_limit_j_per_image"


def learning(point, seed):
    """The synthetic problem, with an error that falls with the logarithm of the epochs, and by how
    much depends on the network, as if by chance."""
    row = synthetic(point, seed)
    chance = 1e5 * point["lr"] % 1
    loss = min(1.0, row["loss"] + 0.3 * (0.3 + chance) * (1 - math.log(point["epochs"], 9)) ** 2)
    return row | {"loss": loss, "val_accuracy": 1 - loss}


def search_by_budget(run_dir, **own):
    own = {"n_trials": 40, "evaluate": Known(learning), "epochs": 9, "budgets": BUDGETS} | own
    return run(run_dir, **own)


def test_the_default_is_trained_in_full_and_all_else_first_in_short():
    settings = SearchSettings(20, 9, budgets=BUDGETS, seed_configurations=[{"weight_bits": 3}])
    first = [(point["shift_depth"], point["epochs"]) for point, _ in settings.first_points()]
    assert first[:3] == [(20, 9), (20, 3), (20, 1)]
    assert first[3:] == [(depth, 1) for depth in (10, 5, 2, 1)] + [(20, 1)]


def test_epochs_are_the_rungs_and_half_of_them_go_to_full_trainings(tmp_path):
    trials = search_by_budget(tmp_path)
    assert set(trials["epochs"]) == set(BUDGETS)
    assert trials.loc[trials["origin"] == "initial", "epochs"].eq(1).all()
    assert trials["budget"].equals(trials["epochs"] / 9)
    asked = trials[trials["origin"].isin(["model", "promoted"])]
    spent = trials["epochs"].cumsum()
    full = trials["epochs"].where(trials["epochs"] == 9, 0).cumsum()
    before = asked.index - 1
    due = full[before].to_numpy() < FULL_SHARE * spent[before].to_numpy()
    assert (asked["epochs"].to_numpy()[due] == 9).all()
    assert not trials.duplicated(list(HYPERPARAMETERS)).any()


def test_every_network_tried_competes_at_every_budget_and_in_full_where_that_is_due():
    settings = SearchSettings(20, 9, budgets=BUDGETS, n_initial=2)
    strategy = settings.proposals(lambda point: 25.0 - point["shift_depth"])
    for point, _ in settings.first_points():
        strategy.tell(point, [0.5 / point["epochs"], 1.0], True)
    for _ in range(3):  # two of the initial design, and the first of the model's
        point, origin = strategy.ask()
        strategy.tell(point, [0.5, 1.0], True)
    assert origin in ("model", "promoted")
    improvement = strategy._improvement
    tried = improvement._losses.vectors
    drawn = tried[:1] + 0.0
    names = list(strategy._space)
    columns = [n for n, name in enumerate(names) if name != "epochs"]
    improvement.full_only = False
    found = improvement.completed(drawn)
    assert len(found) == 1 + 3 * len(tried)
    assert set(map(tuple, found[:, columns])) == set(map(tuple, tried[:, columns]))
    improvement.full_only = True
    assert (improvement.completed(drawn)[:, names.index("epochs")] == 2).all()


def test_only_full_trainings_count(tmp_path):
    trials = search_by_budget(tmp_path)
    front = pareto_front(trials)
    assert front["epochs"].eq(9).all() and len(front) > 1
    full = trials[trials["epochs"] == 9]
    assert set(front["trial"]) == set(pareto_front(full.drop(columns="budget"))["trial"])
    assert default_trial(trials)["epochs"] == 9
    reference = {"loss": 1.0, OBJECTIVES[1]: 1e-4}
    assert hypervolume(trials, reference=reference) == hypervolume(full, reference=reference)
    with pytest.raises(ValueError, match="status SUCCESS, trained in full"):
        pareto_front(trials[trials["epochs"] < 9])


def test_tables_without_a_budget_are_of_full_trainings(tmp_path):
    trials = run(tmp_path, strategy="random")
    assert trials["budget"].eq(1.0).all()
    trials.drop(columns="budget").to_csv(tmp_path / "trials.csv", index=False)
    assert read_trials(tmp_path)["budget"].eq(1.0).all()


def test_lower_rungs_of_hyperband_are_no_full_trainings_either(tmp_path):
    trials = run(tmp_path, fidelity="epochs", epochs=8)
    assert trials["budget"].equals(trials["epochs"] / 8)
    assert pareto_front(trials)["epochs"].eq(8).all()


def test_the_same_twice_and_after_a_cut(tmp_path):
    whole = search_by_budget(tmp_path / "a")
    pd.testing.assert_frame_equal(search_by_budget(tmp_path / "b"), whole)
    table = tmp_path / "b" / "trials.csv"
    text = table.read_text()
    table.write_text("".join(text.splitlines(keepends=True)[:25]))
    pd.testing.assert_frame_equal(search_by_budget(tmp_path / "b"), whole)
    assert table.read_text() == text


def test_a_run_without_budgets_is_recorded_as_before():
    assert "budgets" not in SearchSettings(20, 9).record()
    assert SearchSettings(20, 9, budgets=np.array([3, 9])).record()["budgets"] == [3, 9]


@pytest.mark.parametrize("space", ["extended", "integer"])
def test_in_every_space(space):
    settings = SearchSettings(20, 9, budgets=BUDGETS, space=space, n_initial=3)
    strategy = settings.proposals(lambda point: 25.0 - point["shift_depth"])
    for number in range(12):
        point, _ = strategy.ask()
        assert point["epochs"] in BUDGETS
        strategy.tell(point, [0.1 * (number % 5) + 0.1 / point["epochs"], 1.0], True)


def test_what_a_short_training_tells_is_the_change_of_expectation():
    """Against the same Gaussian process, fitted with the outcome one standard deviation off."""
    settings = SearchSettings(20, 9, budgets=BUDGETS)
    strategy = settings.proposals(lambda point: 20.0 - point["shift_depth"])
    flat = strategy._space
    vectors = np.array([c.get_array() for c in flat.sample_configuration(13)])
    model = LossModel(flat, seed=0, conditions=strategy._conditions)
    model._train(vectors[:12], np.random.default_rng(0).random((12, 1)))
    losses = np.log(model.losses)
    trial, wanted = vectors[12:].copy(), vectors[12:].copy()
    column = list(flat).index("epochs")
    trial[:, column], wanted[:, column] = 0, 2
    mean, change = model.told_by(trial, wanted)
    expected, variance = model.predict(trial)
    surrogate = model._surrogate
    told = np.append(losses, expected[0] + np.sqrt(variance[0]))
    inputs = model._inputs(np.vstack([vectors[:12], trial]))
    # With the scaling of the losses as before, else the prior would change, too.
    again = type(surrogate)(surrogate.kernel_, optimizer=None, normalize_y=False)
    scaled = (told - losses.mean()) / losses.std()
    after = again.fit(inputs, scaled).predict(model._inputs(wanted)) * losses.std() + losses.mean()
    assert abs(after[0] - mean[0]) == pytest.approx(change[0], rel=1e-6)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"budgets": [3]}, r"budgets=\[3\]: must be at least two numbers of epochs"),
        ({"budgets": [3, 1, 9]}, r"budgets=\[3, 1, 9\]: must be at least two.*ascending"),
        ({"budgets": [1, 3]}, r"the last one epochs=9"),
        ({"budgets": [0, 9]}, "budgets=0: must be an integer from 1 to"),
        ({"budgets": [1.5, 9]}, "budgets=1.5: must be an integer"),
        ({"strategy": "tpe"}, "budgets=.*: must be empty but for strategy 'smac_mf'"),
        ({"fidelity": "epochs"}, "budgets=.*: must be empty but for"),
        ({"min_epochs": 2}, "budgets=.*: must be empty with min_epochs=2"),
        ({"objectives": ["loss"]}, "budgets=.*: must be empty but for"),
        ({"evaluate": learning}, "budgets=.*: must be empty where the energy"),
        ({LIMIT: 0}, f"{LIMIT}=0: must be a number from 0"),
        ({LIMIT: 1e-5, "budgets": (), "strategy": "tpe"}, f"{LIMIT}=1e-05: must be None but for"),
        ({LIMIT: 1e-5, "budgets": (), "evaluate": learning}, f"{LIMIT}=1e-05: must be None where"),
    ],
)
def test_budgets_that_cannot_be(own, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        search_by_budget(tmp_path / "run", **own)
    assert not (tmp_path / "run").exists()


LONG = """
import sys
from pathlib import Path
from dsnn_utils.search import Recipe, SearchSettings, TargetFunction, search
from dsnn_utils.training import load_dataset

folder, epochs = Path(sys.argv[1]), 12
data, recipe = load_dataset("digits", train_size=200), Recipe(device="cpu", augment=False)
target = TargetFunction(data, recipe, checkpoints=folder / "checkpoints")
settings = SearchSettings(20, epochs, budgets=(1, epochs), n_initial=1, eta=20)
search(target, folder, settings, n_trials=4)
"""


def test_a_search_killed_within_a_long_training_goes_on_there(tmp_path):
    def start(name):
        command = [sys.executable, "-c", LONG, str(tmp_path / name)]
        return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": os.getcwd()})

    process, kept = start("cut"), tmp_path / "cut" / "checkpoints"
    while not list(kept.glob("*.pt")):
        time.sleep(0.01)
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(list(kept.glob("*.pt"))) == 1 and not (tmp_path / "cut" / "trials.csv").exists()
    assert start("cut").wait() == 0 and start("whole").wait() == 0
    cut, whole = (read_trials(tmp_path / name) for name in ("cut", "whole"))
    times = ["duration_s", "started_at", "embodied_gco2eq"]
    pd.testing.assert_frame_equal(cut.drop(columns=times), whole.drop(columns=times))
    assert cut["trial"].tolist() == [0, 1, 2, 3] and not list(kept.glob("*"))


def test_what_a_failed_trial_left_is_removed_when_it_is_recorded(tmp_path):
    class Leaves(Known):
        def discard(self, point, seed):
            discarded.append((point["shift_depth"], point["epochs"], seed))

    discarded = []
    trials = search_by_budget(tmp_path, evaluate=Leaves(learning), n_trials=16)
    assert discarded == list(
        zip(trials["shift_depth"], trials["epochs"], trials["seed"], strict=True)
    )
