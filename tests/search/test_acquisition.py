"""Strategies on their own: known energy, expected hypervolume improvement, ask and tell."""

import json
import os
import subprocess
import sys

import moocore
import numpy as np
import pytest

from dsnn_utils.energy import modelled_energy
from dsnn_utils.search import dsnn_space, energy_function, make_fidelity, published_default, to_spec
from dsnn_utils.search.acquisition import (
    LossModel,
    LossSurrogate,
    expected_hypervolume_improvement,
    expected_improvement,
)
from dsnn_utils.search.strategies import SmacFront, SmacMultiFidelity, make_strategy
from dsnn_utils.shift import build_model, convert_to_shift

OBJECTIVES = ("loss", "energy_modelled_j_per_image")
ENERGY = OBJECTIVES[1]


def energy_of(point):
    bits = point["activation_integer_bits"] + point["activation_fraction_bits"]
    return (20 - point["shift_depth"]) * 4.6 + point["shift_depth"] * (0.004 * bits + 0.1)


def loss_of(point):
    loss = 0.1 + 0.1 * (np.log10(point["lr"]) + 1.5) ** 2 + 0.01 * point["shift_depth"]
    return float(loss + 0.1 * (point["optimizer"] == "SGD" and point["shift_type"] == "PS"))


def make(
    seed=0, energy_of=energy_of, objectives=OBJECTIVES, fidelity="shift_depth", n_initial=4, **own
):
    space = dsnn_space(20, 8, without=fidelity, seed=seed)
    levels = make_fidelity(fidelity, 20, 8)
    return make_strategy("smac_mf", space, levels, objectives, seed, n_initial, 2, energy_of, **own)


def drive(strategy, trials, told=()):
    """Ask and tell `trials` times, the first answers being `told`; (point, origin, costs) each."""
    done = []
    default = published_default(20, 8)
    strategy.tell(default, [loss_of(default), energy_of(default)], True)
    for number in range(trials):
        point, origin = strategy.ask()
        costs = told[number][2] if number < len(told) else [loss_of(point), energy_of(point)]
        strategy.tell(point, costs, True)
        done.append((point, origin, costs))
    return done


@pytest.mark.parametrize("objective", [ENERGY, "energy_modelled_with_memory_j_per_image"])
@pytest.mark.parametrize(("name", "channels"), [("resnet20", 1), ("mobilenetv2", 3)])
def test_known_energy_is_that_of_the_converted_network(name, channels, objective):
    model = build_model(name, 10, channels)
    shape = (channels, 8, 8) if name == "resnet20" else (channels, 32, 32)
    known = energy_function(model, shape, objective)
    space = dsnn_space(20, seed=3)
    for point in [dict(c) for c in space.sample_configuration(3)]:
        network = convert_to_shift(model, point["shift_depth"], to_spec(point))
        assert known(point) == pytest.approx(getattr(modelled_energy(network, shape), objective))


def test_known_energy_refuses_what_is_measured():
    with pytest.raises(ValueError, match="objective='energy_measured_kwh': must be one of energy_"):
        energy_function(build_model("resnet20", 10), (3, 8, 8), "energy_measured_kwh")


def test_expected_improvement_is_its_definition():
    draws = np.exp(np.random.default_rng(0).normal(np.log(0.3), 0.5, 400_000))
    expected = np.maximum(0.25 - draws, 0).mean()
    assert expected_improvement(np.log(0.3), 0.5, 0.25) == pytest.approx(expected, rel=0.01)
    assert expected_improvement(np.log(0.2), 0.0, 0.25) == pytest.approx(0.05)  # sure
    assert expected_improvement(np.log(0.3), 0.0, 0.25) == pytest.approx(0.0)


@pytest.mark.parametrize("seed", range(5))
def test_hypervolume_improvement_is_the_mean_over_draws(seed):
    random = np.random.default_rng(seed)
    front, reference = random.random((6, 2)), [0.9, 0.95]
    mean, std, energy = np.log(random.random(4)), random.random(4), random.random(4)
    found = expected_hypervolume_improvement(mean, std, energy, front, reference)
    before = moocore.hypervolume(front, ref=reference)
    for candidate in range(4):
        losses = np.exp(random.normal(mean[candidate], std[candidate], 4000))
        grown = [
            moocore.hypervolume(np.vstack([front, [loss, energy[candidate]]]), ref=reference)
            for loss in losses
        ]
        gains = np.array(grown) - before
        tolerance = 5 * gains.std() / len(losses) ** 0.5 + 1e-5
        assert found[candidate] == pytest.approx(gains.mean(), abs=tolerance)


@pytest.mark.parametrize("seed", range(3))
def test_so_it_is_where_the_energy_is_uncertain_too(seed):
    random = np.random.default_rng(seed)
    front, reference = random.random((6, 2)), [0.9, 0.95]
    means, stds = np.log(random.random((3, 2))), random.random((3, 2))
    found = expected_hypervolume_improvement(
        means[:, 0], stds[:, 0], means[:, 1], front, reference, stds[:, 1]
    )
    before = moocore.hypervolume(front, ref=reference)
    for expected, mean, std in zip(found, means, stds, strict=True):
        draws = np.exp(random.normal(mean, std, (4000, 2)))
        grown = [moocore.hypervolume(np.vstack([front, draw]), ref=reference) for draw in draws]
        gains = np.array(grown) - before
        tolerance = 5 * gains.std() / len(draws) ** 0.5 + 1e-5
        assert expected == pytest.approx(gains.mean(), abs=tolerance)


def test_an_energy_learned_without_doubt_is_a_known_one():
    random = np.random.default_rng(0)
    front, reference = random.random((6, 2)), [0.9, 0.95]
    mean, std, energy = np.log(random.random(9)), random.random(9), random.random(9)
    known = expected_hypervolume_improvement(mean, std, energy, front, reference)
    sure = np.log(energy), np.zeros(9)
    learned = expected_hypervolume_improvement(mean, std, sure[0], front, reference, sure[1])
    assert learned == pytest.approx(known, abs=1e-12) and known.max() > 0


def test_hypervolume_improvement_without_a_front():
    # All of the rectangle from the candidate to the reference point.
    found = expected_hypervolume_improvement([np.log(0.4)], [0.0], np.array([2.0]), [], (1.0, 5.0))
    assert found == pytest.approx([0.6 * 3.0])


def test_the_prior_of_the_surrogate_has_the_right_gradient():
    random = np.random.default_rng(0)
    inputs = random.random((12, 3))
    surrogate = LossSurrogate(LossSurrogate.start(3), optimizer=None)
    surrogate.fit(inputs, inputs[:, 0] + 0.1 * random.random(12))
    theta = np.log([0.7, 0.5, 2.0, 5.0, 0.02])
    _, gradient = surrogate.log_marginal_likelihood(theta, eval_gradient=True)
    for index, step in enumerate(1e-5 * np.eye(5)):
        up, down = (surrogate.log_marginal_likelihood(theta + s) for s in (step, -step))
        assert gradient[index] == pytest.approx((up - down) / 2e-5, rel=1e-3, abs=1e-4)


def test_length_scales_are_looked_for_now_and_then_among_some_trials(monkeypatch):
    monkeypatch.setattr(LossModel, "FITTED", 30)
    fit, searches = LossSurrogate.fit, {}
    space = dsnn_space(20, 8, seed=0)
    drawn = space.sample_configuration(150)
    vectors = np.nan_to_num([c.get_array() for c in drawn], nan=0.5)
    losses = vectors.mean(axis=1)

    def noted(surrogate, inputs, outputs):
        if surrogate.optimizer is not None:
            searches[trials] = len(inputs), np.exp(outputs)
        return fit(surrogate, inputs, outputs)

    monkeypatch.setattr(LossSurrogate, "fit", noted)
    model = LossModel(space, seed=0)
    for trials in [*range(10, 22), *range(140, 150)]:
        model.train(vectors[:trials], losses[:trials])
        assert len(model.losses) == trials  # what is predicted rests on all of them
    assert list(searches) == [10, 15, 20, 143]  # the next after 143 // 20 trainings
    assert [size for size, _ in searches.values()] == [10, 15, 20, 30]
    added = LossModel.RAISED * losses[:20].max()
    assert searches[20][1] == pytest.approx(losses[:20] + added)
    # Of many trials, early ones and late ones.
    positive = losses[:143] + LossModel.RAISED * losses[:143].max()
    places = [np.abs(positive - loss).argmin() for loss in searches[143][1]]
    assert places[0] == 0 and places[-1] >= 135 and set(np.diff(places)) == {4, 5}


def test_the_surrogate_sees_bits_by_their_logarithms():
    space = dsnn_space(20, 8, space="extended")
    names, model = list(space), LossModel(space, seed=0)
    vectors = np.tile(space.get_default_configuration().get_array(), (5, 1))
    bits = [2, 5, 10, 21, 32]  # and one: about twice as many each
    column = names.index("activation_integer_bits")
    vectors[:, column] = [space["activation_integer_bits"].to_vector(n) for n in bits]
    inputs = model._inputs(vectors)
    (seen,) = (i for i, values in enumerate(inputs.T) if len(set(values)) > 1)
    assert inputs[[0, -1], seen].tolist() == [0, 1]
    expected = np.diff(np.log(np.array(bits) + 1)) / np.log(33 / 3)
    assert np.diff(inputs[:, seen]) == pytest.approx(expected)
    rates = vectors.copy()
    rates[:, names.index("lr")] = [0, 0.25, 0.5, 0.75, 1]  # on a logarithmic scale in the space
    (seen,) = (i for i, values in enumerate(model._inputs(rates - vectors).T) if values.std() > 0)
    assert np.diff(model._inputs(rates - vectors)[:, seen]) == pytest.approx([0.25] * 4)


@pytest.mark.parametrize(
    "losses",
    [[0.0, 0.1, 0.9], [-0.9, -0.4, 0.2], [0.0, 0.0, 0.0], [-3.0, -3.0, -3.0], [1e-9, 3e-9, 2e-9]],
)
def test_losses_of_any_sign_and_size_become_positive_ones(losses):
    space = dsnn_space(20, 8, seed=0)
    vectors = np.nan_to_num([c.get_array() for c in space.sample_configuration(3)], nan=0.5)
    model = LossModel(space, seed=0)
    model.train(vectors, np.array(losses))
    assert (model.losses > 0).all()
    assert np.diff(model.losses) == pytest.approx(np.diff(losses), abs=1e-15)
    mean, variance = model.predict(vectors)
    assert np.isfinite(mean).all() and np.isfinite(variance).all()


def test_the_model_takes_over_after_the_initial_design():
    done = drive(make(), 24)
    origins = [origin for _, origin, _ in done]
    assert origins[:4] == ["initial"] * 4 and set(origins[4:]) <= {"model", "promoted"}
    space = dsnn_space(20, 8)
    seen = [published_default(20, 8)]
    for point, origin, _ in done:
        assert json.loads(json.dumps(point)) == point
        assert ("momentum" in point) == (point["optimizer"] in ("SGD", "RMSprop"))
        assert set(point) | {"momentum"} == set(space)
        assert all(point[n] in h.choices for n, h in space.items() if hasattr(h, "choices"))
        assert point not in seen
        without = [{n: p[n] for n in p if n not in ("shift_depth", "epochs")} for p in seen]
        mine = {n: point[n] for n in point if n != "shift_depth"}
        assert (mine in without) == (origin == "promoted")
        seen.append(point)


@pytest.mark.parametrize("told", [True, False])
def test_it_beats_its_own_random_design(told):
    energy = energy_of if told else None
    model, chance = drive(make(energy_of=energy), 30), drive(make(n_initial=30), 30)
    found, base = (
        moocore.hypervolume(np.array([c for _, _, c in done]) / [1, 92], ref=[0.9, 1])
        for done in (model, chance)
    )
    assert found > 1.01 * base


@pytest.mark.parametrize("budgets", [(), (2, 8)])
def test_beyond_the_limit_nothing_is_proposed(budgets):
    limit = 20.0  # of 2.2 to 92: depths from 16 up
    limited, free = (
        [
            costs
            for _, origin, costs in drive(make(budgets=budgets, **own), 24)
            if origin != "initial"
        ]
        for own in ({"energy_limit": limit}, {})
    )
    assert max(energy for _, energy in limited) < limit < max(energy for _, energy in free)
    chance = [costs for _, _, costs in drive(make(n_initial=30), 24)]
    found, base = (moocore.hypervolume(np.array(c), ref=[0.9, limit]) for c in (limited, chance))
    assert found > 1.2 * base


def test_the_same_answers_give_the_same_questions():
    first = drive(make(seed=1), 14)
    assert drive(make(seed=1), 14, told=first[:8]) == first
    assert drive(make(seed=2), 6) != first[:6]


SCRIPT = "from tests.search.test_acquisition import drive, make; print(drive(make(), 10))"


def test_the_hash_seed_changes_nothing():
    outputs = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env=os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.getcwd()},
            capture_output=True, text=True, check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }  # fmt: skip
    assert len(outputs) == 1 and "model" in outputs.pop()


@pytest.mark.parametrize("known", [energy_of, None])
def test_several_points_can_be_open(known):
    strategy = make(energy_of=known)
    default = published_default(20, 8)
    strategy.tell(default, [loss_of(default), energy_of(default)], True)
    asked = [strategy.ask()[0] for _ in range(8)]
    assert all(one not in asked[:number] for number, one in enumerate(asked))
    for point in reversed(asked):  # told in another order than asked
        strategy.tell(point, [1.0, energy_of(point)], success=False)
    assert strategy.ask()[0] not in asked


@pytest.mark.parametrize("known", [energy_of, None])
def test_constant_losses_are_no_error(known):
    strategy = make(energy_of=known)
    for _ in range(10):
        point, _ = strategy.ask()
        strategy.tell(point, [1.0, energy_of(point) if known else 1.0], success=False)


@pytest.mark.parametrize(
    ("arguments", "joint"),
    [
        ({}, True),
        ({"energy_of": None}, True),
        ({"fidelity": "epochs"}, False),
        ({"objectives": ("loss",)}, False),
        ({"objectives": (*OBJECTIVES, "duration_s")}, False),
    ],
)
def test_everything_else_is_left_to_smacs_hyperband(arguments, joint):
    strategy = make(**arguments)
    assert isinstance(strategy, SmacFront if joint else SmacMultiFidelity)
