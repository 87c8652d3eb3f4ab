"""BoTorch's qLogNEHVI as a strategy: expected hypervolume improvement, both objectives modelled.

Two Gaussian processes, one per objective, and the logarithm of the expected improvement over the
fronts that the noisy trials may stand for (Daulton, Balandat and Bakshy 2021; Ament et al. 2023).
It does not use that the energy is known. Needs the optional extra `botorch`.
"""

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from ConfigSpace import Configuration, ConfigurationSpace

from dsnn_utils.runs.table import to_python
from dsnn_utils.search.space import conditions_of

# Of maximising the acquisition; and how many fronts are drawn.
RESTARTS, RAW_SAMPLES, STEPS, FRONTS = 4, 128, 50, 64


class QLogNEHVI:
    """Ask and tell as the strategies of `search.strategies`; `n_initial` random points first.

    Choices are one-hot and whole numbers relaxed while the acquisition is maximised; the proposal
    is the nearest point of the space. Raises ValueError where BoTorch is not installed.
    """

    def __init__(
        self, space: ConfigurationSpace, objectives: Sequence[str], seed: int, n_initial: int
    ):
        try:
            import botorch  # noqa: F401
        except ImportError as error:
            raise ValueError(
                "strategy='qlognehvi': must have BoTorch installed, by the extra 'botorch' of this "
                "project"
            ) from error
        # Without conditions; what is inactive is dropped from the points.
        self._conditions = conditions_of(space)
        self._space = ConfigurationSpace(seed=seed)
        self._space.add(list(space.values()))
        self._objectives, self._seed, self._n_initial = len(objectives), seed, n_initial
        self._told: list[tuple[np.ndarray, list[float]]] = []
        self._pending: dict[tuple, np.ndarray] = {}
        self._n_asked = 0

    def ask(self) -> tuple[dict, str]:
        """The next point and its origin: "initial" or "model"."""
        initial = self._n_asked < self._n_initial or len(self._told) < 2
        config = self._space.sample_configuration() if initial else self._best()
        self._n_asked += 1
        point = to_python(config)
        for child, parent, values in self._conditions:
            if point[parent] not in values:
                del point[child]
        self._pending[tuple(sorted(point.items()))] = self._inputs(config)
        return point, "initial" if initial else "model"

    def tell(self, point: dict, costs: list[float], success: bool) -> None:
        """Report the finite `costs` of a point, asked for or not (crash costs if it failed)."""
        inputs = self._pending.pop(tuple(sorted(point.items())), None)
        if inputs is None:
            default = self._space.get_default_configuration()
            values = {n: point[n] if point.get(n) is not None else default[n] for n in self._space}
            inputs = self._inputs(Configuration(self._space, values=values))
        self._told.append((inputs, list(costs)))

    def _best(self) -> Configuration:
        from botorch.acquisition.multi_objective.logei import (
            qLogNoisyExpectedHypervolumeImprovement,
        )
        from botorch.fit import fit_gpytorch_mll
        from botorch.models import ModelListGP, SingleTaskGP
        from botorch.models.transforms import Standardize
        from botorch.optim import optimize_acqf
        from botorch.sampling import SobolQMCNormalSampler
        from gpytorch.mlls import SumMarginalLogLikelihood

        inputs = torch.tensor(np.array([x for x, _ in self._told]))
        values = -torch.tensor([costs for _, costs in self._told], dtype=torch.float64)
        scaled = Standardize(self._objectives)(values)[0]  # the reference is the worst seen
        pending = torch.tensor(np.array(list(self._pending.values()))) if self._pending else None
        state = torch.get_rng_state()
        torch.manual_seed(self._seed + 1000 * self._n_asked)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # fits that stop early are no errors
                columns = [scaled[:, [n]] for n in range(self._objectives)]
                model = ModelListGP(*(SingleTaskGP(inputs, column) for column in columns))
                fit_gpytorch_mll(SumMarginalLogLikelihood(model.likelihood, model))
                acquisition = qLogNoisyExpectedHypervolumeImprovement(
                    model,
                    ref_point=scaled.amin(0).tolist(),
                    X_baseline=inputs,
                    sampler=SobolQMCNormalSampler(torch.Size([FRONTS]), seed=self._seed),
                    prune_baseline=True,
                    X_pending=pending,
                )
                bounds = torch.tensor([[0.0], [1.0]], dtype=torch.float64).expand(
                    2, inputs.shape[1]
                )
                best, _ = optimize_acqf(
                    acquisition, bounds, 1, RESTARTS, RAW_SAMPLES, options={"maxiter": STEPS}
                )
        finally:
            torch.set_rng_state(state)
        return self._configuration(best[0].numpy())

    def _inputs(self, config: Configuration) -> np.ndarray:
        """Numbers in 0..1, choices one-hot."""
        parts = []
        for value, h in zip(config.get_array(), self._space.values(), strict=True):
            choices = len(getattr(h, "choices", ()))
            parts.append(np.arange(choices) == value if choices else [value])
        return np.concatenate(parts).astype(float)

    def _configuration(self, inputs: np.ndarray) -> Configuration:
        values, start = {}, 0
        for name, h in self._space.items():
            choices = len(getattr(h, "choices", ()))
            part = inputs[start : start + max(1, choices)]
            values[name] = h.to_value(float(part.argmax() if choices else part[0]))
            start += max(1, choices)
        return Configuration(self._space, values=values)
