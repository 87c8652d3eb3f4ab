"""Where the acquisition function is looked for a maximum: the best of many drawn candidates.

A local search climbs the acquisition into corners of the space, where a surrogate of a few dozen
trials is unsure of everything and therefore promises most. Drawn candidates ask it about likely
places instead: about the whole space, about what is close to the front, and about mixtures of two
networks of the front, as evolutionary algorithms make them.
"""

from collections.abc import Sequence

import numpy as np
from ConfigSpace import Configuration, ConfigurationSpace
from smac.acquisition.maximizer import AbstractAcquisitionMaximizer

from dsnn_utils.search.acquisition import conditions_of_vectors, inactive_in_the_middle

RANDOM, NEIGHBOURS, CROSSOVERS = 500, 1500, 2000  # candidates of each kind
STEP = 0.2  # standard deviation of a neighbour's step, as a share of the hyperparameter's range
ORIGIN = "Acquisition Function Maximizer: Best Candidate"


class BestCandidate(AbstractAcquisitionMaximizer):
    """The candidates with the highest acquisition value, out of 4,000 drawn anew each time.

    The acquisition function gives `values(vectors)`, the vectors of the front, `parents()`, and by
    `completed(vectors)` those to choose from: it may change what was drawn, and add to it.
    Where a value changes nothing by the `conditions` (see `inactive_in_the_middle`) candidates are
    the same network, and count once. Nothing is proposed twice.
    """

    def __init__(self, space: ConfigurationSpace, seed: int, conditions: Sequence[tuple] = ()):
        super().__init__(space, challengers=50, seed=seed)
        self._hyperparameters = list(space.values())
        self._conditions = conditions_of_vectors(space, conditions)

    def _maximize(self, previous_configs, n_points):
        parents = self._acquisition_function.parents()
        seen = np.array([config.get_array() for config in previous_configs])
        drawn = self._random(RANDOM), self._neighbours(parents), self._crossovers(parents)
        completed = self._acquisition_function.completed(np.vstack(drawn))
        vectors = self._legal(np.vstack([seen, completed]))
        _, first = np.unique(vectors, axis=0, return_index=True)
        # In the order of drawing: among equal values that of np.unique prefers low ones.
        candidates = vectors[np.sort(first[first >= len(seen)])]
        values = self._acquisition_function.values(candidates)
        best = np.argsort(-values, kind="stable")[:n_points]
        return [
            (values[i], Configuration(self._configspace, vector=candidates[i], origin=ORIGIN))
            for i in best
        ]

    def _random(self, count: int) -> np.ndarray:
        columns = [h.sample_vector(count, seed=self._rng) for h in self._hyperparameters]
        return np.column_stack(columns)

    def _neighbours(self, parents: np.ndarray) -> np.ndarray:
        """One or two hyperparameters of a parent changed: numbers by a step, choices drawn anew."""
        found = parents[self._rng.randint(len(parents), size=NEIGHBOURS)]
        anew = self._random(NEIGHBOURS)
        number = np.array([hasattr(h, "lower") for h in self._hyperparameters])
        steps = np.clip(found + STEP * self._rng.standard_normal(found.shape), 0, 1)
        changed = np.zeros(found.shape, dtype=bool)
        for _ in range(2):  # the same one twice is one
            columns = self._rng.randint(found.shape[1], size=NEIGHBOURS)
            changed[np.arange(NEIGHBOURS), columns] = True
        return np.where(changed, np.where(number, steps, anew), found)

    def _crossovers(self, parents: np.ndarray) -> np.ndarray:
        """Each hyperparameter from one of two parents."""
        one, other = parents[self._rng.randint(len(parents), size=(2, CROSSOVERS))]
        return np.where(self._rng.random_sample(one.shape) < 0.5, one, other)

    def _legal(self, vectors: np.ndarray) -> np.ndarray:
        """Values that there are nearest to those of the vectors."""
        vectors = inactive_in_the_middle(vectors, self._conditions)
        columns = [
            h.to_vector(h.to_value(column)) if hasattr(h, "lower") else column
            for h, column in zip(self._hyperparameters, vectors.T, strict=True)
        ]
        return np.column_stack(columns)
