"""Expected hypervolume improvement over (configuration, shift depth), the energy being known.

The modelled energy of a network needs no training, so only its loss is uncertain. The expected
hypervolume improvement (Emmerich, Giannakoglou and Naujoks 2006) then needs no integral in two
dimensions: between two neighbours of the front the loss to beat is constant, and what is expected
there is the width of that stretch of energy times a one-dimensional expected improvement.

The surrogate sees the trials of all depths, depth being one of its inputs: shallow networks inform
about deep ones and the other way round.
"""

import copy
import warnings
from collections.abc import Callable, Mapping

import moocore
import numpy as np
import pandas as pd
from ConfigSpace import ConfigurationSpace, Integer
from scipy.stats import norm
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
from torch import nn

from dsnn_utils.conversion import convert_to_shift, shiftable_layers
from dsnn_utils.energy import operation_counts
from dsnn_utils.space import Fidelity, plain, to_spec

MODELLED = {
    "energy_modelled_j_per_image": ["energy_modelled_j_per_image"],
    "energy_modelled_with_memory_j_per_image": [
        "energy_modelled_j_per_image",
        "memory_energy_modelled_j_per_image",
    ],
}


def energy_function(
    model: nn.Module, input_shape: tuple[int, ...], objective: str
) -> Callable[[Mapping], float]:
    """A function from a point to its modelled energy in J per image, without building its network.

    `model` is the plain network, `input_shape` one image's. A layer's energy does not depend on
    what the other layers are, so one count of the fully shifted network serves all depths of a
    number format. Equal to `modelled_energy` of the converted network.

    Raises ValueError if the objective is no modelled energy.
    """
    if objective not in MODELLED:
        raise ValueError(f"objective={objective!r}: must be one of {', '.join(MODELLED)}")
    names = shiftable_layers(model)

    def by_layer(network: nn.Module) -> pd.Series:
        table = operation_counts(network, input_shape)
        return table[MODELLED[objective]].sum(axis=1).groupby(table["layer"]).sum()

    unshifted = by_layer(model)
    by_depth: dict[tuple, np.ndarray] = {}

    def energy_of(point: Mapping) -> float:
        width = point["activation_integer_bits"] + point["activation_fraction_bits"]
        key = (width, point["weight_bits"])
        if key not in by_depth:
            shifted = by_layer(convert_to_shift(model, len(names), to_spec(point)))
            change = (shifted - unshifted).reindex(names).to_numpy()
            by_depth[key] = unshifted.sum() + np.concatenate([[0.0], np.cumsum(change)])
        return float(by_depth[key][point["shift_depth"]])

    return energy_of


def expected_improvement(mean, std, threshold):
    """E[max(threshold - L, 0)] for a loss L ~ Normal(mean, std); arrays broadcast."""
    std = np.maximum(std, 1e-12)
    z = (threshold - mean) / std
    return (threshold - mean) * norm.cdf(z) + std * norm.pdf(z)


def expected_hypervolume_improvement(mean, std, energy, front, reference) -> np.ndarray:
    """Expected growth of the dominated hypervolume by candidates of known energy.

    `mean` and `std` of the loss, and `energy`, are arrays of one length; `front` has a row
    (loss, energy) per point, dominated ones allowed; `reference` is the worst (loss, energy) that
    counts. Both are minimised; the result is in units of loss x energy.
    """
    worst_loss, worst_energy = reference
    front = np.asarray(front, dtype=float).reshape(-1, 2)
    front = front[np.argsort(front[:, 1], kind="stable")]
    front = front[front[:, 1] < worst_energy]
    # Stretch k of the energy axis is edges[k] .. edges[k + 1]; there thresholds[k] is to be beaten.
    edges = np.concatenate([[-np.inf], front[:, 1], [worst_energy]])
    thresholds = np.minimum.accumulate(np.concatenate([[worst_loss], front[:, 0]]))
    total = np.zeros(len(energy))
    for low, high, threshold in zip(edges[:-1], edges[1:], thresholds, strict=True):
        width = np.clip(high - np.maximum(low, energy), 0, None)
        if width.any():
            total += width * expected_improvement(mean, std, threshold)
    return total


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
        if theta is None:
            return found
        scales = len(theta) - 2
        std = np.repeat(self.LOG_STD, [1, scales, 1])
        z = (theta - np.repeat(self.LOG_MEAN, [1, scales, 1])) / std
        if eval_gradient:
            return found[0] - z @ z / 2, found[1] - z / std
        return found - z @ z / 2


class KnownEnergySearch:
    """Ask and tell: the (configuration, fidelity) of largest expected hypervolume improvement.

    The fidelity is chosen together with the configuration, from its whole range, so promoting a
    configuration is one of the candidates: when it is the best, it is taken. `energy_of(point)` is
    the second objective, known without a training. Points asked for but not yet told (several
    workers) count with the loss the surrogate expects of them.
    """

    REFIT_EVERY = 5  # asks between two searches for length scales; each trial is conditioned on
    RANDOM, LOCAL, ROUNDS, KEPT = 500, 150, 6, 10  # candidates per ask

    def __init__(
        self,
        space: ConfigurationSpace,
        fidelity: Fidelity,
        energy_of: Callable[[Mapping], float],
        seed: int,
        n_initial: int,
    ):
        self._space = copy.deepcopy(space)
        self._fidelity = fidelity.name
        self._space.add(Integer(fidelity.name, (int(fidelity.minimum), int(fidelity.maximum))))
        self._energy_of = energy_of
        self._seed, self._n_initial = seed, n_initial
        self._asked = 0
        self._told: list[dict] = []
        self._losses: list[float] = []
        self._open: list[dict] = []
        self._kernel = None
        names = list(self._space)
        self._names = names
        self._choices = {
            column: len(hyperparameter.choices)
            for column, hyperparameter in enumerate(self._space.values())
            if hasattr(hyperparameter, "choices")
        }
        self._conditions = [
            (names.index(c.child.name), names.index(c.parent.name),
             [self._space[c.parent.name].to_vector(value) for value in c.values])
            for c in self._space.conditions
        ]  # fmt: skip

    def ask(self) -> tuple[dict, str]:
        """The next point and its origin: "initial" (random), "model", or "promoted" (by the model,
        a configuration seen before, at another fidelity)."""
        self._asked += 1
        random = np.random.default_rng([self._seed, self._asked])
        self._space.seed(int(random.integers(2**31)))
        if self._asked <= self._n_initial or not self._told:  # many workers, nothing known yet
            point, origin = plain(self._space.sample_configuration()), "initial"
        else:
            point = self._propose(random)
            seen = [self._without_fidelity(p) for p in self._told + self._open]
            origin = "promoted" if self._without_fidelity(point) in seen else "model"
        self._open.append(point)
        return point, origin

    def tell(self, point: dict, costs: list[float], success: bool) -> None:
        """Report the finite loss, first in `costs`, of a point, asked for or not."""
        if point in self._open:
            self._open.remove(point)
        self._told.append({n: point[n] for n in self._names if point.get(n) is not None})
        self._losses.append(float(costs[0]))

    def _without_fidelity(self, point: Mapping) -> dict:
        return {n: point[n] for n in self._names if n in point and n != self._fidelity}

    def _propose(self, random: np.random.Generator) -> dict:
        """Random candidates, then rounds of changes to the best and to the front."""
        vectors = self._vectors(self._told + self._open)
        losses = self._fit(vectors)
        energies = self._energies(vectors)
        front = np.column_stack([losses, energies])
        reference = front.max(axis=0)

        def improvement(candidates):
            mean, std = self._surrogate.predict(self._inputs(candidates), return_std=True)
            energy = self._energies(candidates)
            return expected_hypervolume_improvement(mean, std, energy, front, reference)

        best = vectors[moocore.is_nondominated(front)]
        sample = self._space.sample_configuration(self.RANDOM)
        pool = np.vstack([[c.get_array() for c in sample], self._at_every_fidelity(best)])
        values = improvement(pool)
        for number in range(self.ROUNDS):
            kept = np.argsort(-values, kind="stable")[: self.KEPT]
            parents = np.vstack([pool[kept], best]) if number == 0 else pool[kept]
            changed = self._changed(parents[random.integers(len(parents), size=self.LOCAL)], random)
            pool = np.vstack([pool[kept], changed])
            values = np.concatenate([values[kept], improvement(changed)])
        known = {vector.tobytes() for vector in vectors}
        order = np.argsort(-values, kind="stable")
        new = next((i for i in order if pool[i].tobytes() not in known), None)
        if new is None:  # a space so small that nothing better than a random point is left
            return plain(sample[0])
        return self._points(pool[[new]])[0]

    def _fit(self, vectors: np.ndarray) -> np.ndarray:
        """Fit the surrogate; returns the losses, expected ones for the points still open."""
        inputs, losses = self._inputs(vectors), np.array(self._losses)
        told = len(losses)
        if self._kernel is None or self._asked % self.REFIT_EVERY == 0:
            surrogate = LossSurrogate(self._kernel or LossSurrogate.start(inputs.shape[1]))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # a bound reached is no error
                self._kernel = surrogate.fit(inputs[:told], losses).kernel_
        self._surrogate = LossSurrogate(self._kernel, optimizer=None).fit(inputs[:told], losses)
        if self._open:
            losses = np.concatenate([losses, self._surrogate.predict(inputs[told:])])
            self._surrogate.fit(inputs, losses)
        return losses

    # --- points as ConfigSpace's vectors: 0..1, the number of a choice, NaN where inactive --------

    def _vectors(self, points: list[dict]) -> np.ndarray:
        return np.array(
            [
                [h.to_vector(p[n]) if n in p else np.nan for n, h in self._space.items()]
                for p in points
            ]
        )

    def _points(self, vectors: np.ndarray) -> list[dict]:
        values = [
            h.to_value(np.nan_to_num(vectors[:, column])).tolist()
            for column, h in enumerate(self._space.values())
        ]
        active = ~np.isnan(vectors)
        return [
            {
                name: v
                for name, v, is_active in zip(self._names, row, mask, strict=True)
                if is_active
            }
            for row, mask in zip(zip(*values, strict=True), active, strict=True)
        ]

    def _energies(self, vectors: np.ndarray) -> np.ndarray:
        return np.array([self._energy_of(point) for point in self._points(vectors)])

    def _inputs(self, vectors: np.ndarray) -> np.ndarray:
        """What the surrogate sees: choices one-hot, inactive values in the middle."""
        columns = []
        for column, values in enumerate(np.nan_to_num(vectors, nan=0.5).T):
            count = self._choices.get(column)
            columns.append(values[:, None] == np.arange(count) if count else values[:, None])
        return np.hstack(columns).astype(float)

    def _at_every_fidelity(self, vectors: np.ndarray) -> np.ndarray:
        hyperparameter = self._space[self._fidelity]
        levels = np.arange(hyperparameter.lower, hyperparameter.upper + 1)
        result = np.repeat(vectors, len(levels), axis=0)
        column = self._names.index(self._fidelity)
        result[:, column] = np.tile(hyperparameter.to_vector(levels), len(vectors))
        return result

    def _changed(self, vectors: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Each vector with one to a few changes: small or larger steps, or anything at all."""
        count, width = vectors.shape
        vectors = vectors.copy()
        chosen = random.random((count, width)) < 1.5 / width
        chosen[np.arange(count), random.integers(width, size=count)] |= ~chosen.any(axis=1)
        step = random.normal(size=(count, width)) * random.choice([0.05, 0.15], (count, width))
        moved = np.clip(vectors + step, 0, 1)
        anew = random.random((count, width))
        moved = np.where(random.random((count, width)) < 0.2, anew, moved)
        for column, choices in self._choices.items():
            moved[:, column] = np.floor(anew[:, column] * choices)
        vectors = np.where(chosen, moved, vectors)
        for child, parent, values in self._conditions:
            active = np.isin(vectors[:, parent], values)
            vectors[:, child] = np.where(np.isnan(vectors[:, child]), anew[:, child],
                                         vectors[:, child])  # fmt: skip
            vectors[~active, child] = np.nan
        for column, hyperparameter in enumerate(self._space.values()):  # integers onto their grid
            if column not in self._choices:
                active = ~np.isnan(vectors[:, column])
                legal = hyperparameter.to_vector(hyperparameter.to_value(vectors[active, column]))
                vectors[active, column] = legal
        return vectors
