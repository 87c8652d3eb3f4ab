"""Candidates of the acquisition function: legal, new, close to the front, and the best of them."""

import numpy as np
import pytest
from ConfigSpace import Constant

from dsnn_utils.limits import SPACES
from dsnn_utils.search import SearchSettings
from dsnn_utils.search.candidates import BestCandidate


class Parabola:
    """An acquisition function that prefers vectors close to 0.3 everywhere."""

    def __init__(self, parents):
        self._parents, self.asked = parents, []

    def values(self, vectors):
        self.asked.append(vectors)
        return -((vectors - 0.3) ** 2).sum(axis=1)

    def parents(self):
        return self._parents

    def completed(self, drawn):
        return drawn


def strategy_of(space, seed=0, max_depth=20):
    settings = SearchSettings(max_depth=max_depth, epochs=2, space=space, seed=seed)
    return settings.proposals(lambda point: 25.0 - point["shift_depth"])


def maximizer_of(space, seed=0, **settings):
    strategy = strategy_of(space, seed, **settings)
    flat = strategy._space
    found = BestCandidate(flat, seed, strategy._conditions)
    previous = flat.sample_configuration(6)
    found.acquisition_function = Parabola(np.array([c.get_array() for c in previous[:3]]))
    return found, flat, previous


@pytest.mark.parametrize("space", SPACES)
def test_candidates_are_legal_new_and_sorted(space):
    maximizer, flat, previous = maximizer_of(space)
    found = list(maximizer.maximize(previous))
    asked = maximizer.acquisition_function.asked[0]
    # Crossovers of three parents are the same again and again.
    assert 2000 < len(asked) <= 4000 and len(np.unique(asked, axis=0)) == len(asked)
    for config in found:
        config.check_valid_configuration()
    assert not set(found) & set(previous) and len(set(found)) == 50
    values = maximizer.acquisition_function.values(np.array([c.get_array() for c in found]))
    assert (np.diff(values) <= 0).all()
    assert values[0] == maximizer.acquisition_function.values(asked).max()


@pytest.mark.parametrize("space", SPACES)
def test_what_is_inactive_tells_no_candidates_apart(space):
    maximizer, flat, previous = maximizer_of(space)
    asked = maximizer._legal(maximizer._random(500))
    names = list(flat)
    for child, parent, values in strategy_of(space)._conditions:
        inactive = ~np.isin(flat[parent].to_value(asked[:, names.index(parent)]), values)
        assert len(np.unique(asked[inactive, names.index(child)])) == 1 < inactive.sum()


def test_neighbours_and_crossovers_stay_with_their_parents():
    maximizer, _, _ = maximizer_of("extended")
    parents = maximizer.acquisition_function.parents()
    distances = (maximizer._neighbours(parents)[:, None] != parents).sum(axis=2).min(axis=1)
    assert distances.max() == 2 and distances.mean() > 1
    crossed = maximizer._crossovers(parents)
    assert all(
        np.isin(column, origin).all() for column, origin in zip(crossed.T, parents.T, strict=True)
    )


def test_a_single_depth_is_a_constant():
    maximizer, flat, previous = maximizer_of("published", max_depth=1)
    assert isinstance(flat["shift_depth"], Constant)
    assert len(list(maximizer.maximize(previous))) == 50


@pytest.mark.parametrize("space", SPACES)
def test_every_space_is_searched_the_same_twice(space):
    def points():
        strategy, found = strategy_of(space, seed=3), []
        for number in range(8):
            point, origin = strategy.ask()
            strategy.tell(point, [0.1 * (number % 4), 25.0 - point["shift_depth"]], True)
            found.append((point, origin))
        return found

    first = points()
    assert first == points() and first[-1][1] in ("model", "promoted")


def test_the_same_vectors_for_the_same_seed():
    one, other = (maximizer_of("published", seed)[0] for seed in (1, 1))
    assert (one._random(50) == other._random(50)).all()
