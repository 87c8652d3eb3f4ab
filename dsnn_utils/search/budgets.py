"""Two fidelities at once: shift depth, and the length of the training.

A (configuration, depth) is a network; how many epochs it is trained, its budget, is a fidelity in
the true sense: only full trainings count in the end. A short one is worth what it tells about them.
The surrogate sees the budget beside configuration and depth, so it knows how much that is: after a
trial at budget b the expected logarithm of the loss at the full budget changes by a normal amount
of standard deviation |cov(full, b)| / sd(b). The expected hypervolume improvement with that
standard deviation in place of the loss's own, per epoch, compares new networks, the same ones
trained longer and full trainings in one list (the idea of the knowledge gradient for several
fidelities: Poloczek, Wang and Frazier, NeurIPS 2017; with a front: Irshad, Karsch and Doepp 2021,
MOMF).

Cost is counted in epochs, not in seconds: these differ from run to run, and the same seed has to
give the same search. A longer training starts anew: a schedule that falls to zero within the
epochs of a training (one cycle) leaves nothing to go on from.
"""

from collections.abc import Callable, Mapping, Sequence

import moocore
import numpy as np
from ConfigSpace import ConfigurationSpace

from dsnn_utils.search.acquisition import KnownEnergyImprovement, expected_hypervolume_improvement

#: At least this share of all epochs is spent on full trainings, whenever the search is stopped.
FULL_SHARE = 0.5


class ImprovementPerEpoch(KnownEnergyImprovement):
    """What a trial tells about the front after full trainings, per epoch.

    The front is what the surrogate expects of all networks tried, trained in full. With
    `full_only` it is that of the full trainings there are, and only full trainings are proposed:
    those by which it is expected to grow most, mainly of networks that short ones found.
    `space` has the `budgets` (epochs, ascending, the last one the full) as its ordinal "epochs".
    """

    def __init__(
        self,
        space: ConfigurationSpace,
        energy_of: Callable[[Mapping], float],
        budgets: Sequence[int],
        limit: float | None = None,
    ):
        super().__init__(space, energy_of, limit)
        self._column, self._budgets = list(space).index("epochs"), np.array(budgets)
        self.full_only = False

    def _update(self, **kwargs):
        self._losses = self.model
        vectors, losses = self.model.vectors, self.model.losses
        energies = self._energies(vectors)
        trained = np.column_stack([losses, energies])
        self._reference = self._worst(trained)
        expected, _ = self.model.predict(self._in_full(vectors))
        self._expected = np.column_stack([np.exp(expected.ravel()), energies])
        full = vectors[:, self._column] == len(self._budgets) - 1
        self._front = trained[full] if self.full_only else self._expected

    def values(self, vectors: np.ndarray) -> np.ndarray:
        """The expected improvement per full training's worth of epochs, for each vector."""
        mean, std = self._losses.told_by(vectors, self._in_full(vectors))
        gains = expected_hypervolume_improvement(
            mean, std, self._energies(vectors), self._front, self._reference
        )
        budgets = self._budgets[vectors[:, self._column].astype(int)]
        return gains * self._budgets[-1] / budgets

    def parents(self) -> np.ndarray:
        """The vectors of the front expected of full trainings."""
        return self._losses.vectors[moocore.is_nondominated(self._expected)]

    def completed(self, drawn: np.ndarray) -> np.ndarray:
        """What was drawn, and every network tried at every budget; or all of these in full."""
        tried = self._losses.vectors
        if self.full_only:
            return self._in_full(np.vstack([drawn, tried]))
        rungs = range(len(self._budgets))
        return np.vstack([drawn, *(self._at(tried, rung) for rung in rungs)])

    def _in_full(self, vectors: np.ndarray) -> np.ndarray:
        return self._at(vectors, len(self._budgets) - 1)

    def _at(self, vectors: np.ndarray, rung: int) -> np.ndarray:
        vectors = vectors.copy()
        vectors[:, self._column] = rung
        return vectors
