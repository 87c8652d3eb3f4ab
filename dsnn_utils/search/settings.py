"""What a search is asked for: checked when made, and recorded with the run."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

from ConfigSpace import ConfigurationSpace
from ConfigSpace.hyperparameters import Hyperparameter

from dsnn_utils.checks import require, require_choice
from dsnn_utils.limits import MULTI_FIDELITY, check_budgets, check_limits, choices, limited_integer
from dsnn_utils.runs.columns import MODELLED_ENERGIES, check_objectives
from dsnn_utils.runs.table import to_python
from dsnn_utils.search.space import (
    Fidelity,
    check_configuration,
    dsnn_space,
    make_fidelity,
    without_inactive,
)
from dsnn_utils.search.strategies import chooses_depth, make_strategy


@dataclass(frozen=True)
class SearchSettings:
    """What is searched and how; checked when made, and the same whenever a run is resumed.

    `space` names the search space (see `dsnn_space`), `max_depth` is the network's number of
    shiftable layers, `epochs` the length of a training (a hyperparameter from `min_epochs` up where
    that is given). A multi-fidelity `strategy` spends more of `fidelity`, from `min_fidelity` up,
    on the better configurations: by Hyperband on the best 1/`eta`, or, if it chooses the depth (see
    `chooses_depth`), on what promises the largest growth of the front. For any other strategy shift
    depth is an ordinary hyperparameter. `objectives` are minimised. `n_initial` random
    configurations come before the model; of a strategy that chooses the depth the trials of the
    default count among these, and one random configuration at least is left. `seed_configurations`
    (dicts, missing entries as in the default) are evaluated right after the default. `context` is
    recorded with the run: everything else that makes a trial what it is, such as data and recipe.

    `budgets` are lengths of trainings in epochs, ascending, the last one `epochs`: "smac_mf" then
    also chooses how long a network is trained, where the energy is known beforehand (see
    `dsnn_utils.search.budgets`). Only full trainings count in fronts. The default at full depth is
    trained at every budget, at other depths and for the `n_initial` random configurations it is
    the shortest, and that of the seed configurations, too. Whenever the search is stopped, at least
    half of all epochs were spent on full trainings.

    `energy_limit_j_per_image` is the most energy that a network may take to count: "smac_mf"
    proposes what lies below it, where the energy is known beforehand. The default, the seed
    configurations and the initial design are evaluated all the same.

    `hyperparameters` (of ConfigSpace) are searched besides: one whose name the space has takes the
    place of that, such as a narrower range or the shift types of your own; any other is your own,
    its name begins with "own_", and the target function gets it with each point.

    Raises ValueError naming the parameter, its value and what is allowed.
    """

    max_depth: int
    epochs: int
    min_epochs: int | None = None
    strategy: str = "smac_mf"
    fidelity: str = "shift_depth"
    min_fidelity: float | None = None
    eta: int = 2
    objectives: Sequence[str] = ("loss", "energy_modelled_j_per_image")
    n_initial: int = 8
    seed: int = 0
    seed_configurations: Sequence[Mapping] = ()
    context: Mapping = field(default_factory=dict)
    space: str = "published"
    budgets: Sequence[int] = ()
    energy_limit_j_per_image: float | None = None
    hyperparameters: Sequence[Hyperparameter] = ()

    def __post_init__(self):
        require_choice("strategy", self.strategy, choices("strategy"))
        limited_integer("seed", self.seed)  # before ConfigSpace, which would not name it
        space = self._space()  # checks what else it is made from
        levels = self.levels  # checks fidelity and min_fidelity
        if not self.multi_fidelity and levels.name != "shift_depth":
            raise ValueError(
                f"fidelity={self.fidelity!r}: strategy {self.strategy!r} has no fidelities, it "
                "searches shift depth as a hyperparameter; must be 'shift_depth', or the strategy "
                f"one of {', '.join(MULTI_FIDELITY)}"
            )
        for name in ("eta", "n_initial"):
            limited_integer(name, getattr(self, name))
        for name in ("max_depth", "epochs", "min_epochs", "eta", "n_initial", "seed"):
            if getattr(self, name) is not None:  # NumPy's integers have no JSON
                self._set(name, int(getattr(self, name)))
        self._set("objectives", tuple(check_objectives(self.objectives)))
        self._set("seed_configurations", tuple(map(to_python, self.seed_configurations)))
        clash = sorted({f.name for f in fields(self)} & self.context.keys())
        if clash:
            raise ValueError(f"context: {clash[0]!r}: must not be the name of a setting")
        self._check_budgets()
        if self.energy_limit_j_per_image is not None:
            check_limits(energy_limit_j_per_image=self.energy_limit_j_per_image)
            self._set("energy_limit_j_per_image", float(self.energy_limit_j_per_image))
            self._check_known_energy("energy_limit_j_per_image", "None")
        for configuration in self.seed_configurations:
            check_configuration(configuration, space, "seed_configurations")

    def _check_budgets(self) -> None:
        budgets = list(self.budgets)
        if not budgets:
            return
        for value in budgets:
            limited_integer("budgets", value)
        self._set("budgets", tuple(map(int, budgets)))
        check_budgets(budgets, self.epochs)
        if self.min_epochs is not None:
            raise ValueError(f"budgets={budgets}: must be empty with min_epochs={self.min_epochs}")
        self._check_known_energy("budgets", "empty")

    def _check_known_energy(self, name: str, absent: str) -> None:
        """ValueError unless this is the search that is told the energy of a network beforehand."""
        objectives = list(self.objectives)
        known = objectives[0] == "loss" and objectives[1:] in [[name] for name in MODELLED_ENERGIES]
        require(
            known and self.strategy == "smac_mf" and self.fidelity == "shift_depth",
            f"{name}={getattr(self, name)}: must be {absent} but for strategy 'smac_mf' with "
            "fidelity 'shift_depth' and the objectives loss and a modelled energy",
        )

    def budget_of(self, point: Mapping) -> float:
        """The share of the full training that the point is given, 1 for a full one."""
        if self.budgets:
            return point["epochs"] / self.epochs
        if self.multi_fidelity and self.fidelity in ("epochs", "data_fraction"):
            return point[self.fidelity] / self.levels.maximum
        return 1.0

    def _set(self, name, value):
        object.__setattr__(self, name, value)  # the dataclass is frozen

    @property
    def multi_fidelity(self) -> bool:
        return self.strategy in MULTI_FIDELITY

    @property
    def levels(self) -> Fidelity:
        """The fidelity with its bounds."""
        return make_fidelity(self.fidelity, self.max_depth, self.epochs, self.min_fidelity)

    @property
    def least_trials(self) -> int:
        """The default at every rung, the seed configurations and the initial design."""
        return len(self.first_points()) + self.n_initial

    def _space(self, without: str | None = None) -> ConfigurationSpace:
        bounds = self.max_depth, self.epochs, self.min_epochs
        return dsnn_space(*bounds, without, self.seed, self.space, self.hyperparameters)

    def searched_space(self) -> ConfigurationSpace:
        """The configuration space; the fidelity is no part of it."""
        return self._space(self.fidelity if self.multi_fidelity else None)

    def first_points(self) -> list[tuple[dict, str]]:
        """The points every strategy starts with, and their origin."""
        default: dict = {self.fidelity: self.levels.maximum}
        default |= {"shift_depth": self.max_depth, "epochs": self.epochs}
        default |= to_python(self._space().get_default_configuration())
        rungs = self.levels.rungs(3 if self.strategy == "smac_mf_published" else self.eta)
        values = rungs[::-1]
        if default[self.fidelity] not in rungs:  # weight bits: it has 5
            values = [default[self.fidelity], *values]
        points = [default | {self.fidelity: value} for value in values]
        if self.budgets:  # the published network in full first, everything else is cheap
            longer = [default | {"epochs": epochs} for epochs in self.budgets[:0:-1]]
            default["epochs"] = self.budgets[0]
            points = [*longer, *(point | {"epochs": self.budgets[0]} for point in points)]
        seeds = [without_inactive(default | dict(c)) for c in self.seed_configurations]
        return [(point, "default") for point in points] + [(point, "seed") for point in seeds]

    def proposals(self, energy_of: Callable[[Mapping], float] | None = None):
        """The strategy that proposes all further points; `energy_of` as in `make_strategy`."""
        levels = self.levels if self.multi_fidelity else None
        n_initial = self.n_initial
        joint = chooses_depth(self.strategy, self.fidelity, self.objectives)
        if joint and levels is not None:  # it has to take in all it is told
            told = [point[self.fidelity] for point, _ in self.first_points()]
            levels = replace(levels, minimum=min(levels.minimum, *told))
        if joint or self.strategy == "qlognehvi_known_energy":
            if not self.budgets:
                n_default = len(self.first_points()) - len(self.seed_configurations)
                n_initial = max(1, n_initial - n_default)
        return make_strategy(
            self.strategy,
            self.searched_space(),
            levels,
            self.objectives,
            self.seed,
            n_initial,
            self.eta,
            energy_of,
            self.budgets,
            self.energy_limit_j_per_image,
        )

    def record(self) -> dict:
        """The settings as they are kept in `search.json`."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "context"}
        own["hyperparameters"] = list(map(str, self.hyperparameters))
        for name in ("budgets", "energy_limit_j_per_image", "hyperparameters"):
            if not own[name]:  # as runs of earlier versions, which can so be continued
                del own[name]
        return json.loads(json.dumps(own | dict(self.context), default=dict))
