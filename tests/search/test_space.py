"""The search space: published defaults, conditions, fidelities, errors that name the culprit."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsnn_utils import ShiftSpec
from dsnn_utils.runs.columns import EXTENSIONS, MOMENTUM_OPTIMIZERS
from dsnn_utils.runs.table import to_python
from dsnn_utils.search import dsnn_space, make_fidelity, published_default, space_table, to_spec


def test_the_default_is_the_published_one():
    default = published_default(20, epochs=100)
    assert default == {
        "shift_depth": 20,
        "shift_type": "PS",
        "weight_bits": 5,
        "activation_integer_bits": 16,
        "activation_fraction_bits": 16,
        "rounding": "deterministic",
        "batch_size": 128,
        "optimizer": "SGD",
        "lr": 0.1,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "epochs": 100,
    }
    assert to_spec(default) == ShiftSpec("PS", 5, 16, 16, "deterministic")


@pytest.mark.parametrize("name", ["published", "extended", "integer", "int8"])
def test_samples_respect_bounds_and_conditions_and_are_json_safe(name):
    space = dsnn_space(20, epochs=10, min_epochs=2, seed=1, space=name)
    for configuration in space.sample_configuration(200):
        point = to_python(configuration)
        assert json.loads(json.dumps(point)) == point
        assert ("momentum" in point) == (point["optimizer"] in MOMENTUM_OPTIMIZERS)
        assert 1 <= point["shift_depth"] <= 20 and 2 <= point["epochs"] <= 10
        fixed = point.get("activation_format", "fixed") == "fixed"
        assert ("activation_fraction_bits" in point) == fixed
        assert to_spec(point).arithmetic == ("integer" if name == "integer" else "shift")


@pytest.mark.parametrize("name", ["published", "extended"])
def test_the_default_of_either_space_of_shifts_is_the_published_one(name):
    point = to_python(dsnn_space(20, space=name).get_default_configuration())
    assert to_spec(point) == ShiftSpec()
    assert published_default(20) == {"epochs": 100} | {n: point[n] for n in point if n not in
                                                      EXTENSIONS}  # fmt: skip


def test_an_unknown_space_is_refused():
    with pytest.raises(ValueError, match="space='all': must be one of published, extended"):
        dsnn_space(20, space="all")


def test_the_same_seed_samples_the_same():
    first, second = (dsnn_space(20, seed=3).sample_configuration(5) for _ in range(2))
    assert first == second


def test_the_fidelity_is_no_hyperparameter():
    assert "shift_depth" not in dsnn_space(20, without="shift_depth")
    assert "weight_bits" not in dsnn_space(20, without="weight_bits")


def test_a_single_layer_network_has_no_depth_to_search():
    assert "shift_depth" not in dsnn_space(1)
    assert published_default(1)["shift_depth"] == 1


@given(st.integers(1, 300), st.integers(2, 5))
def test_rungs_ascend_to_the_full_depth(max_depth, eta):
    rungs = make_fidelity("shift_depth", max_depth, epochs=1).rungs(eta)
    assert rungs == sorted(set(rungs))
    assert rungs[0] >= 1 and rungs[-1] == max_depth


def test_rungs_of_resnet20():
    assert make_fidelity("shift_depth", 20, 1).rungs(2) == [1, 2, 5, 10, 20]
    assert make_fidelity("shift_depth", 20, 1, minimum=2).rungs(3) == [2, 7, 20]
    assert make_fidelity("data_fraction", 20, 1).rungs(2) == [0.125, 0.25, 0.5, 1.0]


def test_the_table_explains_every_hyperparameter():
    space = dsnn_space(20, min_epochs=1)
    table = space_table(space)
    assert set(table.index) == set(space)
    assert table.loc["lr", "scale"] == "log"
    assert "SGD" in table.loc["momentum", "active"]
    assert table.notna().all(axis=None)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dsnn_space(0), "max_depth=0: must be"),
        (lambda: dsnn_space(20, epochs=0), "epochs=0: must be"),
        (lambda: dsnn_space(20, epochs=5, min_epochs=6), "min_epochs=6: must be.* 1 to 5"),
        (lambda: make_fidelity("depth", 20, 1), "fidelity='depth': must be one of shift_depth"),
        (lambda: make_fidelity("shift_depth", 20, 1, -1), "min_fidelity=-1: must be"),
        (lambda: make_fidelity("shift_depth", 20, 1, 21), "min_fidelity=21: must be .* 1 to 20"),
        (lambda: make_fidelity("epochs", 20, 8, 1.5), "min_fidelity=1.5: must be an integer"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
