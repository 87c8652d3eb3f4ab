"""Expected hypervolume improvement over (configuration, shift depth), of loss and energy.

The modelled energy of a network needs no training, so only its loss is uncertain. The expected
hypervolume improvement (Emmerich, Giannakoglou and Naujoks 2006) then needs no integral in two
dimensions: between two neighbours of the front the loss to beat is constant, and what is expected
there is the width of that stretch of energy times a one-dimensional expected improvement. A
measured energy, or a second objective of one's own, has a surrogate as the loss has; the width is
an expectation then, too.

The surrogate learns the logarithm of the loss (Hutter et al. 2009), and sees numbers of bits by
their logarithms. From 9 to 10 % error is as far as from 60 to 67 %, from 2 to 4 bits about as far
as from 8 to 16: between 2 bits that fail and 20 that hold it looks at 6, not at 11.

The surrogate sees the trials of all depths, depth being one of its inputs: shallow networks inform
about deep ones and the other way round. Both are components of SMAC3, which does the rest: initial
design, maximising the acquisition function, bookkeeping.
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence

import moocore
import numpy as np
from ConfigSpace import ConfigurationSpace, UniformIntegerHyperparameter
from scipy.linalg import solve_triangular
from scipy.special import ndtr
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
from smac.acquisition.function import AbstractAcquisitionFunction
from smac.model.abstract_model import AbstractModel

from dsnn_utils.runs.columns import FORMAT, OWN
from dsnn_utils.search.space import without_inactive


def expected_improvement(mean, std, threshold):
    """E[max(threshold - L, 0)] for a loss L with log L ~ Normal(mean, std); arrays broadcast.

    From Hutter, Hoos, Leyton-Brown and Murphy (GECCO 2009), there E[I_exp]. The threshold is
    positive.
    """
    std = np.maximum(std, 1e-12)  # else 0 / 0 where a loss is certain and equals the threshold
    z = (np.log(threshold) - mean) / std
    return threshold * ndtr(z) - np.exp(mean + std**2 / 2) * ndtr(z - std)


def expected_hypervolume_improvement(
    mean, std, energy, front, reference, energy_std=None
) -> np.ndarray:
    """Expected growth of the dominated hypervolume by candidates.

    `mean` and `std` of the logarithm of the loss, and `energy`, are arrays of one length; `front`
    has a row (loss, energy) per point, dominated ones allowed; `reference` is the worst (loss,
    energy) that counts. Both are minimised, and losses are positive; the result is in units of
    loss x energy. With `energy_std` the energy is uncertain as well, independent of the loss:
    `energy` and `energy_std` are mean and standard deviation of its logarithm.
    """
    worst_loss, worst_energy = reference
    front = np.asarray(front, dtype=float).reshape(-1, 2)
    # A point beyond the reference energy would stretch the edges, and so the gains, past it.
    front = front[front[:, 1] < worst_energy]
    if len(front):
        front = front[moocore.is_nondominated(front)]
        front = front[np.argsort(front[:, 1])]
    # Stretch k of the energy axis is edges[k] .. edges[k + 1]; there thresholds[k] is to be beaten.
    edges = np.concatenate([[-np.inf], front[:, 1], [worst_energy]])[:, None]
    thresholds = np.minimum(worst_loss, np.concatenate([[worst_loss], front[:, 0]]))[:, None]
    # Where less energy is allowed than the candidate takes, it dominates nothing.
    if energy_std is None:
        widths = np.clip(edges[1:] - np.maximum(edges[:-1], energy), 0, None)
    else:  # of what lies below each edge, as above, the stretches are the differences
        below = expected_improvement(np.asarray(energy), np.asarray(energy_std), edges[1:])
        widths = np.diff(below, axis=0, prepend=0)
    gains = expected_improvement(np.asarray(mean), np.asarray(std), thresholds)
    return (widths * gains).sum(axis=0)


class LossSurrogate(GaussianProcessRegressor):
    """A Gaussian process whose hyperparameters are the most probable ones, not the likeliest.

    With a length scale per input and a few dozen trials, maximum likelihood picks out inputs by
    chance. The prior expects a length scale of 2 (inputs lie in 0..1, categories are one-hot), so
    a moderate influence of each, and noise of about a tenth of the spread of the losses.
    """

    LOG_MEAN = np.log([1.0, 2.0, 0.01])  # of amplitude, length scale, noise (a variance)
    LOG_STD = np.array([1.0, 0.7, 1.5])

    def __init__(self, kernel=None, optimizer="fmin_l_bfgs_b", normalize_y=True):
        super().__init__(kernel, optimizer=optimizer, normalize_y=normalize_y)

    @staticmethod
    def start(inputs: int):
        """The kernel to start from: amplitude x Matern 5/2 + noise."""
        scales = Matern(np.ones(inputs), (0.05, 100.0), nu=2.5)
        return ConstantKernel(1.0, (0.05, 20.0)) * scales + WhiteKernel(0.01, (1e-4, 0.5))

    def log_marginal_likelihood(self, theta=None, eval_gradient=False, clone_kernel=True):
        found = super().log_marginal_likelihood(theta, eval_gradient, clone_kernel)
        if theta is None:  # the value kept from the fit, prior included
            return found
        scales = len(theta) - 2
        std = np.repeat(self.LOG_STD, [1, scales, 1])
        # theta holds logarithms, so normal densities of it are log-normal priors.
        z = (theta - np.repeat(self.LOG_MEAN, [1, scales, 1])) / std
        if eval_gradient:
            return found[0] - z @ z / 2, found[1] - z / std
        return found - z @ z / 2

    def covariance(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Posterior covariance of the outputs, without noise, of each row of `one` with `other`'s.

        In units of the outputs squared; sklearn itself has that of all rows with all.
        """
        signal = self.kernel_.k1
        distance = np.sqrt(5) * np.linalg.norm((one - other) / signal.k2.length_scale, axis=1)
        prior = signal.k1.constant_value * (1 + distance + distance**2 / 3) * np.exp(-distance)
        left, right = (
            solve_triangular(self.L_, signal(self.X_train_, rows), lower=True)
            for rows in (one, other)
        )
        return self._y_train_std**2 * (prior - (left * right).sum(axis=0))


def conditions_of_vectors(space: ConfigurationSpace, conditions: Sequence[tuple]) -> list[tuple]:
    """Conditions (child, parent, values of the parent) in columns and values of SMAC's vectors.

    These have a column per hyperparameter: 0..1, or the number of a choice.
    """
    names = list(space)
    return [
        (names.index(child), names.index(parent), [space[parent].to_vector(v) for v in values])
        for child, parent, values in conditions
    ]


def inactive_in_the_middle(vectors: np.ndarray, conditions: Sequence[tuple]) -> np.ndarray:
    """The vectors with 0.5 for what is inactive by `conditions_of_vectors`.

    SMAC gives inactive hyperparameters a value all the same. It changes nothing in a training, so
    it must not tell two configurations apart either.
    """
    vectors = vectors.copy()
    for child, parent, values in conditions:
        vectors[~np.isin(vectors[:, parent], values), child] = 0.5
    return vectors


def energies_of_vectors(
    space: ConfigurationSpace, vectors: np.ndarray, energy_of: Callable[[Mapping], float]
) -> np.ndarray:
    """The energy of each of SMAC's vectors; `energy_of` is told depth and bits alone."""
    columns = {
        name: space[name].to_value(column).tolist()
        for name, column in zip(space, vectors.T, strict=True)
        if name in ("shift_depth", *FORMAT, "arithmetic", "activation_format")
        or name.startswith(OWN)
    }
    points = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
    return np.array([energy_of(without_inactive(point)) for point in points])


class LossModel(AbstractModel):
    """SMAC's view of the `LossSurrogate`: logarithms of the losses of configurations, as vectors.

    Or of another objective, see `LearnedCostImprovement`.

    A loss of 0 has no logarithm, so `losses` are raised by 2 % of the largest, and before that, if
    some are negative, to 0. No difference between two of them changes.

    By the `conditions` (child, parent, values of the parent) some values count only where they are
    active.
    `pending` are vectors of trials still running (several workers): they count with the loss
    expected of them, so that the next proposal goes elsewhere.
    """

    # A search for length scales takes dozens of likelihoods with their gradients, a training with
    # given scales takes one. So the next search is after 5 trainings, or after a twentieth of all
    # trials if these are more, and it sees no more than 300 of them: its time grows with the cube
    # of their number, its memory with the square, and it has a few dozen scales to find.
    REFIT_EVERY, REFIT_SHARE, FITTED = 5, 20, 300
    RAISED = 0.02  # the share of the largest loss that is added to each

    def __init__(self, space: ConfigurationSpace, seed: int, conditions: Sequence[tuple] = ()):
        super().__init__(space, seed=seed)
        self._conditions = conditions_of_vectors(space, conditions)
        self._hyperparameters = list(space.values())
        self._kernel = None
        self._until_refit = 0
        self.pending = np.empty((0, len(space)))

    def _train(self, X, Y):
        losses = Y.ravel() - min(0.0, Y.min())
        inputs, logs = self._inputs(X), np.log(losses + self.RAISED * (losses.max() or 1))
        if self._until_refit == 0:
            surrogate = LossSurrogate(self._kernel or LossSurrogate.start(inputs.shape[1]))
            count = min(len(inputs), self.FITTED)
            some = np.arange(count) * len(inputs) // count  # evenly, from the first trials on
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # a bound reached is no error
                self._kernel = surrogate.fit(inputs[some], logs[some]).kernel_
            self._until_refit = max(self.REFIT_EVERY, len(inputs) // self.REFIT_SHARE)
        self._until_refit -= 1
        self._surrogate = LossSurrogate(self._kernel, optimizer=None).fit(inputs, logs)
        if len(self.pending):
            # "Kriging believer": taken for observed, the expected loss leaves the mean as it is and
            # takes away the uncertainty that made the pending point attractive.
            expected = self._surrogate.predict(self._inputs(self.pending))
            X, logs = np.vstack([X, self.pending]), np.concatenate([logs, expected])
            self._surrogate.fit(self._inputs(X), logs)
        self.vectors, self.losses = X, np.exp(logs)
        return self

    def _predict(self, X, covariance_type="diagonal"):
        mean, std = self._surrogate.predict(self._inputs(X), return_std=True)
        return mean, None if covariance_type is None else std**2

    def told_by(self, trials: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Expected log losses of the vectors `wanted`, and how much trials at `trials` change them.

        That is the standard deviation of the expectation after such a trial, pair by pair: the
        covariance of the two log losses over the standard deviation of the trial's, with noise.
        """
        _, std = self._surrogate.predict(self._inputs(trials), return_std=True)
        mean = self._surrogate.predict(self._inputs(wanted))
        covariance = self._surrogate.covariance(self._inputs(trials), self._inputs(wanted))
        return mean, np.abs(covariance) / np.maximum(std, 1e-12)

    def _inputs(self, vectors: np.ndarray) -> np.ndarray:
        """What the surrogate sees: choices one-hot, inactive values in the middle, rungs (epochs)
        and bits by their logarithms, in 0..1."""
        vectors, columns = inactive_in_the_middle(vectors, self._conditions), []
        for values, hyperparameter in zip(vectors.T, self._hyperparameters, strict=True):
            column = values[:, None]
            if hasattr(hyperparameter, "choices"):
                column = column == np.arange(len(hyperparameter.choices))
            elif hasattr(hyperparameter, "sequence"):
                rungs = np.log(hyperparameter.sequence)
                column = ((rungs - rungs[0]) / (rungs[-1] - rungs[0]))[column.astype(int)]
            elif isinstance(hyperparameter, UniformIntegerHyperparameter):
                if hyperparameter.name.endswith("_bits") and not hyperparameter.log:
                    column = _by_logarithm(column, hyperparameter.lower, hyperparameter.upper)
            columns.append(column)
        return np.hstack(columns).astype(float)


def _by_logarithm(shares: np.ndarray, lower: int, upper: int) -> np.ndarray:
    """Numbers given by their shares of the range, anew by the share of their logarithms."""
    low, high = math.log(lower + 1), math.log(upper + 1)  # there are formats of no fraction bits
    return (np.log(lower + 1 + shares * (upper - lower)) - low) / (high - low)


class FrontImprovement(AbstractAcquisitionFunction):
    """What the front of all trials the model saw is expected to grow by.

    The reference point is their worst loss and energy, or the `limit` where that is less energy: a
    network beyond it is worth nothing.
    """

    def __init__(self, limit: float | None = None):
        super().__init__()
        self._limit = math.inf if limit is None else limit
        self._losses: LossModel  # what SMAC gives us as `model`

    def told(self, vector: np.ndarray, cost: float) -> None:
        """Take note of the second objective of a trial."""

    def _update(self, **kwargs):
        self._losses = self.model
        self._front = np.column_stack([self.model.losses, self._energies_of_trials()])
        self._reference = self._worst(self._front)

    def _energies_of_trials(self) -> np.ndarray:
        """The energy of each vector that the model saw."""
        raise NotImplementedError

    def _worst(self, points: np.ndarray) -> np.ndarray:
        """The reference point: the largest loss and energy of the points, within the limit."""
        return np.minimum(points.max(axis=0), [math.inf, self._limit])

    def _compute(self, X):
        return self.values(X)[:, None]

    def values(self, vectors: np.ndarray) -> np.ndarray:
        """The expected improvement of each vector."""
        raise NotImplementedError

    def parents(self) -> np.ndarray:
        """The vectors of the front."""
        return self._losses.vectors[moocore.is_nondominated(self._front)]

    def completed(self, drawn: np.ndarray) -> np.ndarray:
        """The candidates to choose from: those drawn, and none besides."""
        return drawn


class KnownEnergyImprovement(FrontImprovement):
    """Expected hypervolume improvement of configurations whose energy is computed, not predicted.

    `energy_of(point)` is the energy of a point, as in `energies_of_vectors`.
    """

    def __init__(
        self,
        space: ConfigurationSpace,
        energy_of: Callable[[Mapping], float],
        limit: float | None = None,
    ):
        super().__init__(limit)
        self._space, self._energy_of = space, energy_of

    def _energies_of_trials(self):
        return self._energies(self._losses.vectors)

    def values(self, vectors: np.ndarray) -> np.ndarray:
        """The expected improvement of each vector."""
        mean, std = _predicted(self._losses, vectors)
        energies = self._energies(vectors)
        return expected_hypervolume_improvement(mean, std, energies, self._front, self._reference)

    def _energies(self, vectors: np.ndarray) -> np.ndarray:
        return energies_of_vectors(self._space, vectors, self._energy_of)


class LearnedCostImprovement(FrontImprovement):
    """The same where only a trial tells the second objective, as with measured energy.

    A second surrogate, `costs`, learns it.
    """

    def __init__(self, costs: LossModel):
        super().__init__()
        self._costs = costs
        self._cost_of: dict[bytes, float] = {}

    def told(self, vector: np.ndarray, cost: float) -> None:
        """Take note of the second objective of a trial."""
        self._cost_of[vector.tobytes()] = cost

    def _energies_of_trials(self):
        vectors, pending = self._losses.vectors, self._losses.pending
        tried = vectors[: len(vectors) - len(pending)]
        self._costs.pending = pending
        costs = [self._cost_of[vector.tobytes()] for vector in tried]
        return self._costs.train(tried, np.array(costs)).losses

    def values(self, vectors: np.ndarray) -> np.ndarray:
        """The expected improvement of each vector."""
        mean, std = _predicted(self._losses, vectors)
        cost, cost_std = _predicted(self._costs, vectors)
        return expected_hypervolume_improvement(
            mean, std, cost, self._front, self._reference, cost_std
        )


def _predicted(model: LossModel, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the logarithms."""
    mean, variance = model.predict(vectors)
    assert variance is not None  # for the types: only where none is asked for
    return mean.ravel(), np.sqrt(variance.ravel())
