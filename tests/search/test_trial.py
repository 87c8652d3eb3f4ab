"""One trial on the digits: the row it gives, what depth 0 means, failures, measured energy."""

import math
import pickle
from dataclasses import replace

import pandas as pd
import pytest
import torch
from torch import nn

from dsnn_utils import convert_to_shift
from dsnn_utils.energy import EnergyMeter, modelled_energy
from dsnn_utils.paths import project_root
from dsnn_utils.runs import COLUMNS, HYPERPARAMETERS, read_trials, to_python
from dsnn_utils.runs.columns import MODELLED_ENERGIES, QTOOLS_ENERGIES
from dsnn_utils.runs.table import to_records
from dsnn_utils.search import (
    Recipe,
    TargetFunction,
    build_network,
    check_files,
    complete_energies,
    depth_bound,
    dsnn_space,
    energy_function,
    energy_of_trials,
    published_default,
    run_trial,
    to_spec,
)
from dsnn_utils.shift import build_model, convert_to_integer
from dsnn_utils.training import evaluate, load_dataset, load_network, seed_everything, train


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits", train_size=400)


RECIPE = Recipe(augment=False, precision="float32")
POINT = published_default(20, epochs=1) | {"shift_type": "Q", "batch_size": 32}


def test_the_row_holds_columns_of_the_table(digits):
    row, network, history = run_trial(POINT, digits, RECIPE)
    assert row["status"] == "SUCCESS" and set(row) <= set(COLUMNS)
    assert row["loss"] == 1 - row["val_accuracy"] == 1 - history[-1]["validation_accuracy"]
    assert row["val_accuracy"] == evaluate(network, digits.validation, digits)["accuracy"]
    assert (row["dataset"], row["model"], row["train_size"]) == ("digits", "resnet20", 400)
    assert row["energy_modelled_j_per_image"] < row["energy_modelled_with_memory_j_per_image"]
    assert row["duration_s"] > 0 and row["started_at"].endswith("+00:00")
    assert "energy_measured_kwh" not in row and "test_accuracy" not in row


def test_what_int8_cannot_hold_is_told_and_not_measured(digits):
    pytest.importorskip("openvino", reason="the extra `deploy` is not installed")
    pytest.importorskip("onnxscript", reason="the extra `deploy` is not installed")
    row, _, _ = run_trial(POINT, digits, RECIPE, exported_to="openvino")
    assert row["status"] == "SUCCESS" and row["exported_to"] == "openvino"
    assert row["exported_refused"] == (
        "layer 'conv1': has 32 activation bits, form='qdq' holds at most 8"
    )
    assert row["exported_latency_ms_per_image"] is None


def test_an_exported_objective_is_refused_where_nothing_is_exported(digits, monkeypatch):
    target = TargetFunction(digits, RECIPE, EnergyMeter("DEU"))
    with pytest.raises(ValueError, match="exported_to=None: must be one of onnxruntime, openvino"):
        target.check(["loss", "exported_latency_ms_per_image"])
    with pytest.raises(ValueError, match="exported_to='tvm': must be one of onnxruntime"):
        replace(target, exported_to="tvm")
    monkeypatch.setattr("dsnn_utils.deploy.measure.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="exported_to='openvino': must have onnx, onnxscript, op"):
        replace(target, exported_to="openvino")


def test_depth_0_trains_the_plain_network_to_the_last_bit(digits):
    point = POINT | {"shift_depth": 0}
    _, network, _ = run_trial(point, digits, RECIPE, seed=3)
    seed_everything(3)
    plain = build_model("resnet20", 10, 1)
    train(plain, digits, epochs=1, batch_size=32, precision="float32", augment=False, seed=3)
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, network.state_dict()[name]), name


def test_the_same_seed_gives_the_same_row(digits):
    point = POINT | {"rounding": "stochastic", "shift_depth": 7}
    rows = [run_trial(point, digits, RECIPE, seed=1)[0] for _ in range(2)]
    for row in rows:
        del row["duration_s"], row["embodied_gco2eq"], row["started_at"]
    assert rows[0] == rows[1]


def test_energy_falls_with_depth_and_does_not_depend_on_training(digits):
    energies = []
    for depth in (0, 1, 10, 20):
        row, _, _ = run_trial(POINT | {"shift_depth": depth, "epochs": 1}, digits, RECIPE)
        energies.append(row["energy_modelled_j_per_image"])
    assert energies == sorted(energies, reverse=True) and energies[0] > 10 * energies[-1]


def test_initialisation_is_a_choice(digits):
    point = POINT | {"shift_type": "PS"}
    kept = build_network(point, digits, RECIPE, seed=0)
    published = build_network(point, digits, replace(RECIPE, published_init=True), seed=0)
    zeros = [
        float((net.get_submodule("layer1.0.conv1").effective_weight() == 0).float().mean())
        for net in (kept, published)
    ]
    assert zeros[0] < 0.01 and 0.4 < zeros[1] < 0.6


def test_a_diverging_training_is_a_status(digits):
    point = POINT | {"optimizer": "SGD", "lr": 1e30, "shift_depth": 0}
    row, _, _ = run_trial(point, digits, RECIPE)
    assert row["status"] == "DIVERGED" and "epoch 1" in row["reason"]
    assert row["energy_modelled_j_per_image"] > 0 and "loss" not in row


def test_data_fraction_trains_on_less(digits):
    row, _, _ = run_trial(POINT | {"data_fraction": 0.25}, digits, RECIPE)
    assert row["train_size"] == 100


def test_measured_energy_is_in_its_own_columns(digits):
    with EnergyMeter(carbon_intensity_gco2eq_per_kwh=400.0) as meter:
        row, _, _ = run_trial(POINT | {"epochs": 3}, digits, RECIPE, meter=meter)
    assert row["energy_measured_method"] and row["energy_measured_mode"] == "process"
    # One validation of the last epoch is less than the training with all of its validations.
    assert 0 < row["energy_measured_last_validation_kwh"] < 0.01
    if row["energy_measured_kwh"] is not None:
        assert row["energy_measured_last_validation_kwh"] < row["energy_measured_kwh"] / 3
    if row["energy_measured_kwh"] is not None:  # trusted: long enough, and read
        assert 0 < row["energy_measured_kwh"] < 0.01
        assert math.isclose(row["emissions_gco2eq"], 400 * row["energy_measured_kwh"], rel_tol=1e-6)
    else:
        assert row["energy_measured_method"].startswith("untrusted")


def test_the_test_set_is_touched_only_when_asked(digits):
    row, network, _ = run_trial(POINT, digits, RECIPE, test=True)
    assert row["test_accuracy"] == evaluate(network, digits.test, digits)["accuracy"]
    run_trial(POINT, replace(digits, test=None), RECIPE)  # not needed otherwise
    with pytest.raises(ValueError, match="test=True: must have a data set with a test part"):
        run_trial(POINT, replace(digits, test=None), RECIPE, test=True)


def test_the_target_function_is_picklable(digits):
    target = pickle.loads(pickle.dumps(TargetFunction(digits, RECIPE)))
    assert target(POINT, 0)["status"] == "SUCCESS"


def test_the_depth_bound_is_counted(digits):
    assert depth_bound(digits, RECIPE) == 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "lenet"}, "model='lenet': must be one of resnet20"),
        ({"augment": "false"}, "augment='false': must be True or False"),
        ({"schedule": "cosine"}, "schedule='cosine': must be one of one_cycle"),
        ({"precision": "int8"}, "precision='int8': must be one of"),
        ({"label_smoothing": 1.0}, "label_smoothing=1.0: must be"),
        ({"device": "tpu"}, "device='tpu': must be"),
    ],
)
def test_bad_recipes(change, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**change)


class WithAuxiliaryHead(nn.Module):
    """Its last layer runs in training only, as the heads of GoogLeNet do."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(16, 8), nn.Linear(8, 4)
        self.auxiliary = nn.Linear(8, 4)

    def forward(self, x):
        hidden = self.first(x.flatten(1)).relu()
        return self.second(hidden)


def test_energy_known_beforehand_is_that_of_the_converted_network():
    network = WithAuxiliaryHead()
    point = published_default(3)
    for objective in MODELLED_ENERGIES:
        energy_of = energy_function(network, (1, 4, 4), objective)
        for depth in range(4):
            shifted = convert_to_shift(network, depth, to_spec(point))
            expected = getattr(modelled_energy(shifted, (1, 4, 4)), objective)
            assert energy_of(point | {"shift_depth": depth}) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("objective", MODELLED_ENERGIES)
def test_energy_known_beforehand_is_that_of_the_network_in_every_space(digits, objective):
    energy_of = TargetFunction(digits, RECIPE).energy_of(objective)
    for space in ("published", "extended", "integer"):
        for configuration in dsnn_space(20, 1, seed=4, space=space).sample_configuration(6):
            point = to_python(configuration)
            network = build_network(point, digits, RECIPE, seed=0)
            expected = getattr(modelled_energy(network, (1, 8, 8)), objective)
            assert energy_of(point) == pytest.approx(expected, rel=1e-12)


def _without_qtools(name):
    trials = read_trials(project_root() / "figures" / name).head(40)
    assert not set(QTOOLS_ENERGIES) & set(trials)  # of an earlier version
    return trials


@pytest.mark.parametrize("name", ["demo", "cifar10_few_bits", "cifar10_mobilenetv2"])
def test_an_older_table_is_completed_from_its_configurations(name):
    trials = _without_qtools(name)
    complete = complete_energies(trials)
    assert complete[trials.columns].equals(trials)
    shape = {"digits": (1, 8, 8), "cifar10": (3, 32, 32)}[trials["dataset"][0]]
    plain = build_model(trials["model"][0], 10, shape[0])
    for row in to_records(complete.sample(5, random_state=0, replace=True)):
        spec = to_spec({n: v for n, v in row.items() if n in HYPERPARAMETERS})
        convert = convert_to_shift if row["arithmetic"] == "shift" else convert_to_integer
        expected = modelled_energy(convert(plain, row["shift_depth"], spec), shape)
        for energy in MODELLED_ENERGIES:
            assert row[energy] == pytest.approx(getattr(expected, energy), rel=1e-9)


def test_completing_keeps_what_is_there_and_invents_nothing():
    trials = _without_qtools("demo").assign(**{QTOOLS_ENERGIES[0]: 1.0})
    trials.loc[3, list(MODELLED_ENERGIES[:2])] = math.nan  # crashed before it was built
    trials.loc[1:, QTOOLS_ENERGIES[0]] = math.nan
    complete = complete_energies(trials)
    assert complete.loc[3, list(QTOOLS_ENERGIES)].isna().all()
    assert complete.drop(3)[list(QTOOLS_ENERGIES)].notna().all(axis=None)
    assert complete_energies(complete).equals(complete)
    with pytest.raises(ValueError, match="input_shape=None: must be given, faces is no known"):
        complete_energies(trials.assign(dataset="faces"))
    with pytest.raises(ValueError, match=r"input_shape=\(1, 16, 16\).*must be those of the table"):
        complete_energies(trials, (1, 16, 16))


@pytest.mark.parametrize("name", ["demo", "cifar10_few_bits", "cifar10_mobilenetv2"])
def test_the_energy_of_a_tables_network_is_the_recorded_one(name):
    trials = read_trials(project_root() / "figures" / name)
    for objective in MODELLED_ENERGIES[:2]:
        energy_of = energy_of_trials(trials, objective)
        found = [energy_of(row) for row in trials.to_dict("records")]  # NaN where a bit is missing
        assert found == pytest.approx(trials[objective].tolist(), rel=1e-9)
    with pytest.raises(ValueError, match="weight_bits=0: must be an integer from 2"):
        energy_of({"shift_depth": 3, "weight_bits": None})


def test_the_energy_of_a_table_needs_one_known_network():
    trials = read_trials(project_root() / "figures" / "demo")
    crashed = trials.copy()
    crashed.loc[3, ["dataset", "model", *MODELLED_ENERGIES[:2]]] = None
    row = trials.loc[3].to_dict()
    found = energy_of_trials(crashed, MODELLED_ENERGIES[0])(row)
    assert found == pytest.approx(row[MODELLED_ENERGIES[0]], rel=1e-9)
    other = trials.assign(model="mobilenetv2")
    with pytest.raises(ValueError, match="trials: must be of one network and data set"):
        energy_of_trials(pd.concat([trials, other]), MODELLED_ENERGIES[0])
    with pytest.raises(ValueError, match="must be those of the table, whose mobilenetv2 needs"):
        energy_of_trials(other, MODELLED_ENERGIES[0])
    with pytest.raises(ValueError, match="input_shape=None: must be given, faces is no known"):
        energy_of_trials(trials.assign(dataset="faces"), MODELLED_ENERGIES[0])
    with pytest.raises(ValueError, match="trials: must have a row with energy_modelled_j"):
        energy_of_trials(trials.assign(**{MODELLED_ENERGIES[0]: math.nan}), MODELLED_ENERGIES[0])
    with pytest.raises(ValueError, match="objective='loss': must be one of"):
        energy_of_trials(trials, "loss")


def test_a_trial_leaves_a_network_and_the_next_starts_from_it(digits, tmp_path):
    target = TargetFunction(
        digits, RECIPE, checkpoints=tmp_path / "checkpoints", networks=tmp_path / "networks"
    )
    row = target(POINT, 3)
    assert not list((tmp_path / "checkpoints").iterdir())
    saved = load_network(tmp_path / row["network"])
    assert saved.row["val_accuracy"] == row["val_accuracy"] and saved.row["seed"] == 3
    path = str(tmp_path / row["network"]).replace("seed3", "seed{seed}")
    recipe = Recipe(augment=False, precision="float32", start_from=path, teacher=path)
    started = build_network(POINT | {"weight_bits": 8}, digits, recipe, seed=3)
    assert torch.equal(started.linear.weight, saved.network.linear.weight)
    assert started.linear.spec.weight_bits == 8
    assert run_trial(POINT, digits, recipe, seed=3)[0]["loss"] < row["loss"]
    check_files(recipe, digits, [3])
    with pytest.raises(ValueError, match="start_from=.*seed4.*: must be the file of a trained"):
        check_files(recipe, digits, [3, 4])
    with pytest.raises(ValueError, match="must be a vgg19 for the 10 classes of digits"):
        check_files(replace(recipe, model="vgg19"), digits, [3])
    with pytest.raises(ValueError, match="published_init=True: must be False with start_from"):
        replace(recipe, published_init=True)
    with pytest.raises(ValueError, match="distillation=0: must be a number from 0 to 1, but not 0"):
        Recipe(distillation=0)


def test_no_epochs_are_no_trial(digits):
    with pytest.raises(ValueError, match="epochs=0: must be at least 1"):
        run_trial(published_default(20) | {"epochs": 0}, digits, Recipe())


def test_a_training_whose_network_cannot_be_saved_is_not_lost(digits, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("no space left on device")

    target = TargetFunction(
        digits, RECIPE, checkpoints=tmp_path / "checkpoints", networks=tmp_path / "networks"
    )
    with monkeypatch.context() as broken:
        broken.setattr("dsnn_utils.search.trial.save_network", fail)
        with pytest.raises(OSError):
            target(POINT, 3)
    (checkpoint,) = (tmp_path / "checkpoints").iterdir()
    assert checkpoint.stat().st_size > 0
    # The training is not repeated: all its epochs are there.
    monkeypatch.setattr("dsnn_utils.training.loop.fitting", None)
    assert target(POINT, 3)["status"] == "SUCCESS"
    assert not checkpoint.exists()
