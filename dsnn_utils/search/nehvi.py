"""BoTorch's qLogNEHVI as a strategy: expected hypervolume improvement, both objectives modelled.

Two Gaussian processes, one per objective, and the logarithm of the expected improvement over the
fronts that the noisy trials may stand for (Daulton, Balandat and Bakshy 2021; Ament et al. 2023).
Where it is told how to compute the energy, only the loss is modelled. Needs the optional extra
`botorch`.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence

import moocore
import numpy as np
import torch
from ConfigSpace import Configuration, ConfigurationSpace

from dsnn_utils.runs.table import to_python
from dsnn_utils.search.acquisition import energies_of_vectors
from dsnn_utils.search.candidates import BestCandidate
from dsnn_utils.search.space import conditions_of

# Of maximising the acquisition; and how many fronts are drawn.
RESTARTS, RAW_SAMPLES, STEPS, FRONTS = 4, 128, 50, 64
AT_ONCE = 500  # drawn candidates, to keep the memory small


class QLogNEHVI:
    """Ask and tell as the strategies of `search.strategies`; `n_initial` random points first.

    Choices are one-hot and whole numbers relaxed while the acquisition is maximised; the proposal
    is the nearest point of the space. With `energy_of(point)`, the second objective as a function,
    the proposal is the best of the candidates that "smac_mf" draws: that function has no gradient
    to climb. Raises ValueError where BoTorch is not installed.
    """

    def __init__(
        self,
        space: ConfigurationSpace,
        objectives: Sequence[str],
        seed: int,
        n_initial: int,
        energy_of: Callable[[Mapping], float] | None = None,
    ):
        try:
            import botorch  # noqa: F401
        except ImportError as error:
            name = "qlognehvi" if energy_of is None else "qlognehvi_known_energy"
            raise ValueError(
                f"strategy={name!r}: must have BoTorch installed, by the extra 'botorch' of this "
                "project"
            ) from error
        # Without conditions; what is inactive is dropped from the points.
        self._conditions = conditions_of(space)
        self._space = ConfigurationSpace(seed=seed)
        self._space.add(list(space.values()))
        self._objectives, self._seed, self._n_initial = len(objectives), seed, n_initial
        self._energy_of = energy_of
        self._maximizer = BestCandidate(self._space, seed, self._conditions)
        self._told: list[tuple[Configuration, list[float]]] = []
        self._pending: dict[tuple, Configuration] = {}
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
        self._pending[tuple(sorted(point.items()))] = config
        return point, "initial" if initial else "model"

    def tell(self, point: dict, costs: list[float], success: bool) -> None:
        """Report the finite `costs` of a point, asked for or not (crash costs if it failed)."""
        config = self._pending.pop(tuple(sorted(point.items())), None)
        if config is None:
            default = self._space.get_default_configuration()
            values = {n: point[n] if point.get(n) is not None else default[n] for n in self._space}
            config = Configuration(self._space, values=values)
        self._told.append((config, list(costs)))

    def _best(self) -> Configuration:
        configs = [config for config, _ in self._told]
        costs = torch.tensor([costs for _, costs in self._told], dtype=torch.float64)
        state = torch.get_rng_state()
        torch.manual_seed(self._seed + 1000 * self._n_asked)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # fits that stop early are no errors
                if self._energy_of is None:
                    return self._climb(configs, costs)
                return self._draw(configs, costs, self._energy_of)
        finally:
            torch.set_rng_state(state)

    def _climb(self, configs: Sequence[Configuration], costs: torch.Tensor) -> Configuration:
        """Both objectives modelled, the acquisition maximised by its gradient."""
        from botorch.models import ModelListGP, SingleTaskGP
        from botorch.models.transforms import Standardize
        from botorch.optim import optimize_acqf

        inputs = self._inputs(_vectors(configs))
        scaled = Standardize(self._objectives)(-costs)[0]
        columns = [scaled[:, [n]] for n in range(self._objectives)]
        model = _fitted(ModelListGP(*(SingleTaskGP(inputs, column) for column in columns)))
        pending = list(self._pending.values())
        waiting = self._inputs(_vectors(pending)) if pending else None
        acquisition = self._acquisition(model, inputs, scaled, waiting)
        bounds = torch.tensor([[0.0], [1.0]], dtype=torch.float64).expand(2, inputs.shape[1])
        best, _ = optimize_acqf(
            acquisition, bounds, 1, RESTARTS, RAW_SAMPLES, options={"maxiter": STEPS}
        )
        return self._configuration(best[0].numpy())

    def _draw(
        self,
        configs: Sequence[Configuration],
        costs: torch.Tensor,
        energy_of: Callable[[Mapping], float],
    ) -> Configuration:
        """The loss modelled, the energy known: it rides along as the last input of the model."""
        from botorch.models import GenericDeterministicModel, ModelList, ModelListGP, SingleTaskGP
        from botorch.models.transforms import Standardize
        from botorch.models.transforms.input import FilterFeatures

        scale = Standardize(self._objectives)
        scaled = scale(-costs)[0]
        mean, std = scale.means[0, 1].item(), scale.stdvs[0, 1].item()

        def inputs_of(vectors: np.ndarray) -> torch.Tensor:
            energies = torch.tensor(energies_of_vectors(self._space, vectors, energy_of))
            return torch.column_stack([self._inputs(vectors), (-energies - mean) / std])

        told = inputs_of(_vectors(configs))
        but_energy = FilterFeatures(torch.arange(told.shape[1] - 1))
        loss = SingleTaskGP(told, scaled[:, [0]], input_transform=but_energy)
        energy = GenericDeterministicModel(lambda inputs: inputs[..., -1:])
        model = ModelList(*_fitted(ModelListGP(loss)).models, energy)
        pending = list(self._pending.values())
        waiting = inputs_of(_vectors(pending)) if pending else None
        acquisition = self._acquisition(model, told, scaled, waiting)
        front = _vectors(configs)[moocore.is_nondominated(costs.numpy())]

        class Drawn:
            """What the drawing of candidates asks an acquisition function for."""

            def parents(self):
                return front

            def completed(self, drawn):
                return drawn

            def values(self, vectors):
                with torch.no_grad():
                    parts = inputs_of(vectors)[:, None].split(AT_ONCE)
                    return torch.cat([acquisition(part) for part in parts]).numpy()

        self._maximizer.acquisition_function = Drawn()  # type: ignore[assignment]  # all it needs
        (_, config), *_ = self._maximizer._maximize([*configs, *pending], 1)
        return config

    def _acquisition(self, model, inputs, scaled, waiting):
        from botorch.acquisition.multi_objective.logei import (
            qLogNoisyExpectedHypervolumeImprovement,
        )
        from botorch.sampling.get_sampler import get_sampler

        fronts = torch.Size([FRONTS])
        return qLogNoisyExpectedHypervolumeImprovement(
            model,
            ref_point=scaled.amin(0).tolist(),  # the worst seen
            X_baseline=inputs,
            sampler=get_sampler(model.posterior(inputs), fronts, seed=self._seed),
            prune_baseline=True,
            cache_root=self._energy_of is None,  # what is known has no covariance to factorise
            X_pending=waiting,
        )

    def _inputs(self, vectors: np.ndarray) -> torch.Tensor:
        """Numbers in 0..1, choices one-hot, a row per vector."""
        columns = []
        for column, h in zip(vectors.T, self._space.values(), strict=True):
            choices = len(getattr(h, "choices", ()))
            columns.append(column[:, None] == np.arange(choices) if choices else column[:, None])
        return torch.tensor(np.hstack(columns).astype(float))

    def _configuration(self, inputs: np.ndarray) -> Configuration:
        values, start = {}, 0
        for name, h in self._space.items():
            choices = len(getattr(h, "choices", ()))
            part = inputs[start : start + max(1, choices)]
            values[name] = h.to_value(float(part.argmax() if choices else part[0]))
            start += max(1, choices)
        return Configuration(self._space, values=values)


def _vectors(configs: Sequence[Configuration]) -> np.ndarray:
    return np.array([config.get_array() for config in configs])


def _fitted(model):
    from botorch.fit import fit_gpytorch_mll
    from gpytorch.mlls import SumMarginalLogLikelihood

    fit_gpytorch_mll(SumMarginalLogLikelihood(model.likelihood, model))
    return model
