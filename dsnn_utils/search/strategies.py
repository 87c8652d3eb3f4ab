"""Search strategies behind one small interface: `ask` proposes a point, `tell` reports its costs.

A *point* is a plain dict: the hyperparameters of one configuration plus the value of the fidelity,
if the strategy uses one. The loop that trains, records and resumes is in `search.loop`; the
strategies know nothing about networks, so they run on any function (see the benchmarks).

Every strategy is a deterministic function of its seed and of what it was told, in order. The
search relies on this: it resumes a run by asking and telling again what the trials table records.
"""

import copy
import logging
import math
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from ConfigSpace import (
    Configuration,
    ConfigurationSpace,
    Constant,
    Integer,
    OrdinalHyperparameter,
)

from dsnn_utils.checks import require, require_choice
from dsnn_utils.limits import MULTI_FIDELITY, REGISTERED, STRATEGIES, choices
from dsnn_utils.runs.table import to_python
from dsnn_utils.search.space import Fidelity, conditions_of

if TYPE_CHECKING:  # a slow import, done where it is used
    from smac.runhistory import TrialInfo

    from dsnn_utils.search.acquisition import FrontImprovement


def register_strategy(name: str, make: Callable) -> None:
    """Let a strategy of one's own go by a name, in `SearchSettings(strategy=name)`.

    `make(space, objectives, seed, n_initial)` returns an object with `ask() -> (point, origin)`,
    the point being a dict of values of the ConfigSpace `space`, its shift depth included, and
    `tell(point, costs, success)`, the costs being a list of finite floats in the order of
    `objectives`. It must be a function of its seed and of what it is told (see the top of this
    module), and is known to this process alone: register it again where a run is continued.
    Raises ValueError for a name that is taken.
    """
    require(
        isinstance(name, str) and name.isidentifier() and name not in STRATEGIES,
        f"name={name!r}: must be a name of letters, digits and _, other than "
        f"{', '.join(STRATEGIES)}",
    )
    REGISTERED["strategy"][name] = make


def make_strategy(
    name: str,
    space: ConfigurationSpace,
    fidelity: Fidelity | None,
    objectives: Sequence[str],
    seed: int,
    n_initial: int = 8,
    eta: int = 2,
    energy_of: Callable[[Mapping], float] | None = None,
    budgets: Sequence[int] = (),
    energy_limit: float | None = None,
):
    """The strategy `name` on `space`, minimising `objectives`.

    Multi-fidelity strategies need a `fidelity` (which must not be a hyperparameter of the space);
    for all others it must be None. `n_initial` random configurations come before the surrogate is
    trusted; `eta` is the share promoted by successive halving (the best 1/eta).

    With shift depth as the fidelity, and the loss and one other objective, "smac_mf" chooses
    configuration and depth together by expected hypervolume improvement (`chooses_depth`); else it
    is SMAC3's Hyperband with ParEGO. `energy_of(point)` is the second objective where that is a
    modelled energy, known without a training from depth and bits
    (`search.trial.energy_function`); without it a second surrogate learns it. With it, `budgets`
    (epochs, ascending) let "smac_mf" choose the length of a training, too, and what needs more than
    `energy_limit` (J per image) is worth nothing to it.

    Raises ValueError for an unknown name, and for budgets or a limit where the energy is not known.
    """
    require_choice("strategy", name, choices("strategy"))
    if (fidelity is not None) != (name in MULTI_FIDELITY):
        raise ValueError(f"strategy={name!r}: takes a fidelity exactly if it is multi-fidelity")
    unknown = "where the energy of a network is not known before it is trained"
    known = energy_of is not None
    require(known or not budgets, f"budgets={list(budgets)}: must be empty {unknown}")
    require(
        known or energy_limit is None,
        f"energy_limit_j_per_image={energy_limit}: must be None {unknown}",
    )
    if fidelity is not None:
        if chooses_depth(name, fidelity.name, objectives):
            energy = energy_of, energy_limit
            return SmacFront(space, fidelity, *energy, seed, n_initial, budgets)
        if name == "smac_mf":
            return SmacMultiFidelity(space, fidelity, objectives, seed, n_initial, eta)
        if name == "smac_mf_published":
            return SmacMultiFidelity(space, fidelity, objectives, seed, n_initial, eta=3)
    if name == "smac":
        return Smac(space, objectives, seed, n_initial)
    if name in ("qlognehvi", "qlognehvi_known_energy"):
        from dsnn_utils.search.nehvi import QLogNEHVI

        told = name == "qlognehvi_known_energy"
        two = len(objectives) == 2 and objectives[0] == "loss"
        require(
            not told or (known and two),
            f"strategy={name!r}: must be another for objectives={list(objectives)}, or {unknown}",
        )
        return QLogNEHVI(space, objectives, seed, n_initial, energy_of if told else None)
    if name in ("gp", "tpe", "nsga2"):
        return Optuna(name, space, objectives, seed, n_initial)
    if name == "random":
        return RandomSearch(space, seed)
    if name in REGISTERED["strategy"]:
        return REGISTERED["strategy"][name](space, objectives, seed, n_initial)
    raise NotImplementedError(f"strategy {name!r} is listed and not built here")


def chooses_depth(name: str, fidelity: str, objectives: Sequence[str]) -> bool:
    """Whether the strategy takes shift depth for one more input of its model (`SmacFront`)."""
    two = len(objectives) == 2 and objectives[0] == "loss"
    return name == "smac_mf" and fidelity == "shift_depth" and two


class RandomSearch:
    """Uniform sampling from the space."""

    def __init__(self, space: ConfigurationSpace, seed: int):
        self._space = space
        self._space.seed(seed)

    def ask(self) -> tuple[dict, str]:
        """The next point and where it comes from (here always "random")."""
        return to_python(self._space.sample_configuration()), "random"

    def tell(self, point: dict, costs: list[float], success: bool) -> None:
        """Random search learns nothing."""


class Smac:
    """SMAC3 with a random-forest surrogate and ParEGO; every hyperparameter is a plain one.

    SMAC searches the space without its conditions, and what is inactive is dropped from its
    proposals: the local search of SMAC 2.4 takes a missing value for a changed one, so it never
    looks at a neighbour of a configuration with an inactive hyperparameter.
    """

    def __init__(
        self, space: ConfigurationSpace, objectives: Sequence[str], seed: int, n_initial: int
    ):
        self._conditions = conditions_of(space)
        self._space = ConfigurationSpace(seed=seed)
        self._space.add(list(space.values()))
        self._facade = self._make_facade(self._space, objectives, seed, n_initial)
        self._open: dict[tuple, TrialInfo] = {}

    def _make_facade(self, space, objectives, seed, n_initial):
        return _smac_facade(space, objectives, seed, n_initial)

    def _budget(self, point: dict) -> float | None:
        return None

    def _point(self, info) -> dict:
        point = to_python(info.config)
        for child, parent, values in self._conditions:
            if point[parent] not in values:
                del point[child]
        return point

    def ask(self) -> tuple[dict, str]:
        """The next point and its origin: "initial" design, "model", "random" (interleaved) or
        "promoted" (a configuration seen before, at its next fidelity)."""
        info = self._facade.ask()
        point = self._point(info)
        self._open[_key(point)] = info
        return point, self._origin(info.config)

    def _origin(self, config: Configuration) -> str:
        return _origin(config)

    def tell(self, point: dict, costs: list[float], success: bool) -> Configuration:
        """Report the finite `costs` of a point, asked for or not (crash costs if it failed).

        Returns the configuration that SMAC took it for.
        """
        from smac.runhistory import StatusType, TrialInfo, TrialValue

        info = self._open.pop(_key(point), None)
        if info is None:  # a point the search brought along, such as the published default
            default = self._space.get_default_configuration()
            values = {n: point[n] if point.get(n) is not None else default[n] for n in self._space}
            config = Configuration(self._space, values=values)
            info = TrialInfo(config, seed=0, budget=self._budget(point))
        status = StatusType.SUCCESS if success else StatusType.CRASHED
        cost = list(map(float, costs))
        value = TrialValue(cost[0] if len(cost) == 1 else cost, status=status)
        self._facade.tell(info, value, save=False)
        return info.config


class SmacMultiFidelity(Smac):
    """SMAC3 with Hyperband over a fidelity and ParEGO over the objectives.

    Two things differ from SMAC 2.4's own facade. Incumbents are not kept: its update fails with an
    AssertionError once two configurations were seen at different budgets (SMAC issue 1050), and
    with shift depth as the fidelity every (configuration, depth) is a solution of its own, so the
    front is taken from the trials table. And configurations brought along (the default) inform the
    surrogate without entering a bracket.
    """

    def __init__(self, space, fidelity: Fidelity, objectives, seed, n_initial, eta):
        self._fidelity, self._eta = fidelity, eta
        self._budgets = _budgets(fidelity, eta)
        self._seen: set[Configuration] = set()
        super().__init__(space, objectives, seed, n_initial)

    def _origin(self, config: Configuration) -> str:
        promoted = config in self._seen
        self._seen.add(config)
        return "promoted" if promoted else _origin(config)

    def _make_facade(self, space, objectives, seed, n_initial):
        budgets = sorted(self._budgets.values())
        return _smac_facade(space, objectives, seed, n_initial, budgets, self._eta)

    def _budget(self, point: dict) -> float:
        value = point[self._fidelity.name]
        return self._budgets.get(value, float(value))

    def _point(self, info) -> dict:
        return super()._point(info) | {self._fidelity.name: self._fidelity.value(info.budget)}


class SmacFront(Smac):
    """SMAC3 with a Gaussian process of the loss and expected hypervolume improvement.

    Shift depth is an input of the surrogate and chosen together with the configuration, from its
    whole range; promoting a configuration is one of the candidates: when it promises most, it is
    taken. The second objective is known (`energy_of`) or has a Gaussian process of its own. See
    `dsnn_utils.search.acquisition`, and `dsnn_utils.search.budgets` for `budgets`, with which the
    length of a training is chosen, too; the initial design has the shortest then.
    """

    _improvement: "FrontImprovement"

    def __init__(
        self,
        space: ConfigurationSpace,
        fidelity: Fidelity,
        energy_of: Callable[[Mapping], float] | None,
        energy_limit: float | None,
        seed: int,
        n_initial: int,
        budgets: Sequence[int] = (),
    ):
        space = copy.deepcopy(space)
        low, high = int(fidelity.minimum), int(fidelity.maximum)
        space.add(
            Integer(fidelity.name, (low, high)) if low < high else Constant(fidelity.name, low)
        )
        if budgets:
            space.add(OrdinalHyperparameter("epochs", list(budgets)))
        self._energy_of, self._limit, self._budgets = energy_of, energy_limit, tuple(budgets)
        self._promoted_by = "epochs" if budgets else fidelity.name
        self._seen: set[tuple] = set()
        self._epochs = {"all": 0, "full": 0}  # spent, those of running trials included
        super().__init__(space, ("loss",), seed, n_initial)

    def _make_facade(self, space, objectives, seed, n_initial):
        from dsnn_utils.search.acquisition import (
            KnownEnergyImprovement,
            LearnedCostImprovement,
            LossModel,
        )
        from dsnn_utils.search.budgets import ImprovementPerEpoch
        from dsnn_utils.search.candidates import BestCandidate

        self._model = LossModel(space, seed, self._conditions)
        if self._energy_of is None:
            self._improvement = LearnedCostImprovement(LossModel(space, seed, self._conditions))
        elif self._budgets:
            known = self._energy_of, self._budgets, self._limit
            self._improvement = ImprovementPerEpoch(space, *known)
        else:
            self._improvement = KnownEnergyImprovement(space, self._energy_of, self._limit)
        maximizer = BestCandidate(space, seed, self._conditions)
        own = {"model": self._model, "acquisition": self._improvement, "maximizer": maximizer}
        facade = _smac_facade(space, objectives, seed, n_initial, **own)
        # SMAC predicts each trial by itself to find the best one, half of the time once there are
        # hundreds. The hypervolume's improvement has no use for it.
        facade._config_selector._get_x_best = lambda vectors: (vectors[0], 0.0)
        if self._budgets:
            for config in facade._config_selector._initial_design_configs:
                config["epochs"] = self._budgets[0]
        return facade

    def ask(self) -> tuple[dict, str]:
        """The next point and its origin: "initial" (random), "model", or "promoted" (by the model,
        a configuration seen before, at another depth; with budgets a network seen before, trained
        longer)."""
        from dsnn_utils.search.budgets import FULL_SHARE, ImprovementPerEpoch

        pending = [info.config.get_array() for info in self._open.values()]
        self._model.pending = np.array(pending).reshape(-1, len(self._space))
        self._facade._config_selector._previous_entries = -1  # train even without new results
        if isinstance(self._improvement, ImprovementPerEpoch):
            self._improvement.full_only = self._epochs["full"] < FULL_SHARE * self._epochs["all"]
        point, origin = super().ask()
        if origin == "model" and self._configuration(point) in self._seen:
            origin = "promoted"
        self._note(point)
        return point, origin

    def tell(self, point: dict, costs: list[float], success: bool) -> Configuration:
        """Report the finite `costs` of a point, asked for or not, the loss first."""
        if _key(point) not in self._open:
            self._note(point)
        config = super().tell(point, costs[:1], success)
        self._improvement.told(config.get_array(), costs[1])
        return config

    def _note(self, point: dict) -> None:
        self._seen.add(self._configuration(point))
        if self._budgets:
            self._epochs["all"] += point["epochs"]
            self._epochs["full"] += point["epochs"] * (point["epochs"] == self._budgets[-1])

    def _configuration(self, point: dict) -> tuple:
        return tuple(point.get(n) for n in self._space if n != self._promoted_by)


class Optuna:
    """Optuna's multi-objective samplers: a Gaussian process with the logarithm of the expected
    hypervolume improvement ("gp"), TPE ("tpe") or NSGA-II ("nsga2", population 20).

    The Gaussian process only models hyperparameters that every trial has. So it is given inactive
    ones, too, which are dropped from its proposals.
    """

    def __init__(self, name: str, space: ConfigurationSpace, objectives, seed: int, n_initial: int):
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # experimental-feature notes
            sampler: optuna.samplers.BaseSampler
            if name == "tpe":
                sampler = optuna.samplers.TPESampler(
                    seed=seed, n_startup_trials=n_initial, multivariate=True, group=True
                )
            elif name == "gp":
                sampler = optuna.samplers.GPSampler(seed=seed, n_startup_trials=n_initial)
            else:
                sampler = optuna.samplers.NSGAIISampler(seed=seed, population_size=20)
        self._study = optuna.create_study(
            sampler=sampler, directions=["minimize"] * len(objectives)
        )
        self._space = space
        self._conditions = conditions_of(space)
        self._n_initial, self._complete = n_initial, name == "gp"
        self._open: dict[tuple, optuna.Trial] = {}

    def ask(self) -> tuple[dict, str]:
        """The next point and its origin: "initial" or "model"."""
        trial = self._study.ask()
        point: dict = {}
        for name, hyperparameter in self._ordered():
            active = self._active(name, point)
            if active or self._complete:
                value = trial._suggest(name, _distribution(hyperparameter))
            if active:
                point[name] = value
        self._open[_key(point)] = trial
        return point, "initial" if trial.number < self._n_initial else "model"

    def tell(self, point: dict, costs: list[float], success: bool) -> None:
        """Report the finite `costs` of a point, asked for or not (crash costs if it failed)."""
        import optuna

        trial = self._open.pop(_key(point), None)
        if trial is not None:
            self._study.tell(trial, list(costs))
            return
        if self._complete:
            given = {name: value for name, value in point.items() if value is not None}
            point = to_python({n: h.default_value for n, h in self._space.items()}) | given
        names = [n for n, _ in self._ordered() if point.get(n) is not None]
        self._study.add_trial(
            optuna.trial.create_trial(
                params={n: point[n] for n in names},
                distributions={n: _distribution(self._space[n]) for n in names},
                values=list(costs),
            )
        )

    def _ordered(self):
        """Hyperparameters with parents before their children."""
        children = {child for child, _, _ in self._conditions}
        return sorted(self._space.items(), key=lambda item: item[0] in children)

    def _active(self, name: str, point: dict) -> bool:
        return all(
            point.get(parent) in values
            for child, parent, values in self._conditions
            if child == name
        )


def _distribution(hyperparameter):
    from optuna import distributions

    if hasattr(hyperparameter, "choices"):
        return distributions.CategoricalDistribution([str(c) for c in hyperparameter.choices])
    low, high = to_python({"low": hyperparameter.lower, "high": hyperparameter.upper}).values()
    if isinstance(low, int):
        return distributions.IntDistribution(low, high, log=hyperparameter.log)
    return distributions.FloatDistribution(low, high, log=hyperparameter.log)


def _key(point: dict) -> tuple:
    return tuple(sorted(point.items()))


def _budgets(fidelity: Fidelity, eta: int) -> dict[int | float, float]:
    """The (possibly fractional) Hyperband budget behind each value of the fidelity."""
    budgets: dict[int | float, float] = {}
    budget = float(fidelity.maximum)
    while budget >= fidelity.minimum - 1e-9:
        budgets.setdefault(fidelity.value(budget), budget)
        budget /= eta
    return budgets


def hyperband_plan(fidelity: Fidelity, eta: int) -> pd.DataFrame:
    """How many configurations Hyperband runs in each bracket (rows) at each rung (columns).

    The sizes are SMAC's: a bracket starts with ceil(eta^s (S + 1) / (s + 1)) configurations, S + 1
    being the number of rungs and s the promotions in the bracket (Li et al., JMLR 2018).
    """
    rungs = fidelity.rungs(eta)
    top = len(rungs) - 1
    plan = pd.DataFrame(0, index=range(1, top + 2), columns=rungs)
    for bracket in range(top + 1):
        promotions = top - bracket
        start = math.ceil(eta**promotions * (top + 1) / (promotions + 1))
        for rung in range(promotions + 1):
            plan.iloc[bracket, bracket + rung] = start // eta**rung
    plan = plan.rename_axis(index="bracket", columns=fidelity.name)
    return plan.assign(trainings=plan.sum(axis=1))


def _origin(config: Configuration) -> str:
    origin = config.origin or ""
    if "Initial Design" in origin:
        return "initial"
    drawn = "Random Search (max" in origin or origin in ("", "Random Search")
    return "random" if drawn else "model"


def _smac_facade(
    space,
    objectives,
    seed,
    n_initial,
    budgets=None,
    eta=2,
    model=None,
    acquisition=None,
    maximizer=None,
):
    """A SMAC3 facade for ask and tell, deterministic for a given seed.

    With `budgets` (ascending, each eta times the one before) the intensifier is Hyperband. The
    default `model` is the facade's random forest, the default `acquisition` expected improvement,
    the default `maximizer` SMAC's local search; with a model of one's own no random configurations
    are interleaved and losses stay unscaled.
    """
    import smac
    from smac import HyperparameterOptimizationFacade as Blackbox
    from smac import MultiFidelityFacade
    from smac.initial_design import RandomInitialDesign
    from smac.multi_objective.parego import ParEGO
    from smac.runhistory.encoder import RunHistoryEncoder

    logging.getLogger("smac").setLevel(logging.ERROR)
    scratch = tempfile.TemporaryDirectory(prefix="smac-")  # the trials table is the record
    scenario = smac.Scenario(
        space,
        objectives=list(objectives),
        deterministic=True,
        n_trials=10**6,  # the search loop decides when to stop
        seed=seed,
        # Just under the lowest rung: SMAC counts rungs by a floor of logarithms.
        min_budget=budgets and budgets[0] * (1 - 1e-9),
        max_budget=budgets and budgets[-1],
        output_directory=Path(scratch.name),
    )
    facade = MultiFidelityFacade if budgets else Blackbox
    own = {}
    if model is None:
        model = facade.get_model(scenario)
        model._rf_opts["n_jobs"] = 1  # threads cost more than they bring on ten small trees
    else:
        own["runhistory_encoder"] = RunHistoryEncoder(scenario)
        own["random_design"] = facade.get_random_design(scenario, probability=0)
        own["config_selector"] = facade.get_config_selector(scenario, retrain_after=1)
        own["acquisition_function"] = acquisition
    if maximizer is None:
        maximizer = facade.get_acquisition_maximizer(scenario, challengers=1000)
        _order_start_points(maximizer._local_search)
    facade = facade(
        scenario,
        None,
        model=model,
        acquisition_maximizer=maximizer,
        initial_design=RandomInitialDesign(scenario, n_configs=n_initial, max_ratio=1.0),
        intensifier=_hyperband(scenario, eta) if budgets else None,
        multi_objective_algorithm=ParEGO(scenario) if len(objectives) > 1 else None,
        logging_level=False,
        overwrite=True,
        **own,
    )
    facade.scratch = scratch  # removed with the facade
    return facade


def _order_start_points(local_search) -> None:
    """Make SMAC's local search start from a list in a fixed order.

    It collects its start points in a set, whose order depends on PYTHONHASHSEED: with it the same
    seed would search differently in every process.
    """
    collect = local_search._get_init_points_from_previous_configs

    def ordered(*args, **kwargs):
        points = collect(*args, **kwargs)
        return sorted(points, key=lambda c: np.nan_to_num(c.get_array(), nan=-1.0).tolist())

    local_search._get_init_points_from_previous_configs = ordered


def _hyperband(scenario, eta: int):
    from smac.intensifier import Hyperband

    class FrontHyperband(Hyperband):
        def reset(self) -> None:
            super().reset()
            # A tracker that is not empty keeps told configurations out of the first bracket.
            self._tracker[(0, 0)] = []

        def update_incumbents(self, config: Configuration) -> None:
            pass  # the trials table holds the front (see SmacMultiFidelity)

    return FrontHyperband(scenario, eta=eta, incumbent_selection="highest_budget")
