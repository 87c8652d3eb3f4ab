"""The search: strategies propose, trials are run and recorded, a killed run resumes.

A strategy is a deterministic function of what it was asked and told, in order. That order is in
the run directory (see `run_directory`), so a run resumes by asking and telling again; only the
trials in flight are lost, and run again as they were proposed.
"""

import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import pandas as pd
from ConfigSpace import ConfigurationSpace

from dsnn_utils import paper, pareto
from dsnn_utils.data import is_integer
from dsnn_utils.energy import validate_objectives
from dsnn_utils.execution import check_execution, make_executor
from dsnn_utils.run_directory import locked, open_run, read_finished, read_running, write_running
from dsnn_utils.space import (
    MOMENTUM_OPTIMIZERS,
    Fidelity,
    check_configuration,
    dsnn_space,
    make_fidelity,
    plain,
    published_default,
)
from dsnn_utils.strategies import MULTI_FIDELITY, STRATEGIES, make_strategy
from dsnn_utils.trial import MODELLED
from dsnn_utils.trials import HYPERPARAMETERS, read_trials, to_records, write_trials


@dataclass(frozen=True)
class SearchSettings:
    """What is searched and how; checked when made, and the same whenever a run is resumed.

    `max_depth` is the network's number of shiftable layers, `epochs` the length of a training (a
    hyperparameter from `min_epochs` up where that is given). A multi-fidelity `strategy` spends
    more of `fidelity`, from `min_fidelity` up, on the better configurations: by Hyperband on the
    best 1/`eta`, or, where the energy is known beforehand, on what promises the largest growth of
    the front. For any other strategy shift depth is an ordinary hyperparameter. `objectives` are
    minimised. `n_initial` random configurations come before the model. `seed_configurations`
    (dicts, missing entries as in the default) are evaluated right after the default. `context` is
    recorded with the run: everything else that makes a trial what it is, such as data and recipe.

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

    def __post_init__(self):
        if self.strategy not in STRATEGIES:
            known = ", ".join(STRATEGIES)
            raise ValueError(f"strategy={self.strategy!r}: must be one of {known}")
        dsnn_space(self.max_depth, self.epochs, self.min_epochs)  # checks these three
        levels = self.levels  # checks fidelity and min_fidelity
        if not self.multi_fidelity and levels.name != "shift_depth":
            raise ValueError(
                f"fidelity={self.fidelity!r}: strategy {self.strategy!r} has no fidelities, it "
                "searches shift depth as a hyperparameter; must be 'shift_depth', or the strategy "
                f"one of {', '.join(MULTI_FIDELITY)}"
            )
        for name, least in (("eta", 2), ("n_initial", 1), ("seed", 0)):
            value = getattr(self, name)
            if not is_integer(value, least):
                raise ValueError(f"{name}={value!r}: must be an integer of at least {least}")
        for name in ("max_depth", "epochs", "min_epochs", "eta", "n_initial", "seed"):
            if getattr(self, name) is not None:  # NumPy's integers have no JSON
                object.__setattr__(self, name, int(getattr(self, name)))
        object.__setattr__(self, "objectives", validate_objectives(self.objectives))
        seeds = tuple(plain(configuration) for configuration in self.seed_configurations)
        object.__setattr__(self, "seed_configurations", seeds)
        clash = sorted({f.name for f in fields(self)} & self.context.keys())
        if clash:
            raise ValueError(f"context: {clash[0]!r}: must not be the name of a setting")
        space = dsnn_space(self.max_depth, self.epochs, self.min_epochs, seed=self.seed)
        for configuration in self.seed_configurations:
            check_configuration(configuration, space, "seed_configurations")

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

    def space(self) -> ConfigurationSpace:
        """The configuration space; the fidelity is no part of it."""
        without = self.fidelity if self.multi_fidelity else None
        return dsnn_space(self.max_depth, self.epochs, self.min_epochs, without, self.seed)

    def first_points(self) -> list[tuple[dict, str]]:
        """The points every strategy starts with, and their origin."""
        default = {self.fidelity: self.levels.maximum}
        default |= published_default(self.max_depth, self.epochs)
        rungs = self.levels.rungs(3 if self.strategy == "smac_mf_published" else self.eta)
        values = rungs[::-1]
        if default[self.fidelity] not in rungs:  # weight bits: it has 5
            values = [default[self.fidelity], *values]
        points = [(default | {self.fidelity: value}, "default") for value in values]
        for point in (default | c for c in self.seed_configurations):
            if point["optimizer"] not in MOMENTUM_OPTIMIZERS:
                del point["momentum"]
            points.append((point, "seed"))
        return points

    def proposals(self, energy_of: Callable[[Mapping], float] | None = None):
        """The strategy that proposes all further points; `energy_of` as in `make_strategy`."""
        levels = self.levels if self.multi_fidelity else None
        if levels is not None and energy_of is not None:  # it has to take in all it is told
            told = [point[self.fidelity] for point, _ in self.first_points()]
            levels = replace(levels, minimum=min(levels.minimum, *told))
        return make_strategy(
            self.strategy,
            self.space(),
            levels,
            self.objectives,
            self.seed,
            self.n_initial,
            self.eta,
            energy_of,
        )

    def record(self) -> dict:
        """The settings as they are kept in `search.json`."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "context"}
        return json.loads(json.dumps(own | dict(self.context), default=dict))


def read_seed_configurations(source: str | Path | None, max_depth: int) -> list[dict]:
    """Seed configurations from a file, made to fit a network with `max_depth` shiftable layers.

    `source` is a run directory or a trials.csv (its front is taken: a warm start from an earlier
    run), a .json file with a list of configurations, "known_good" for those of
    `paper.known_good_configurations`, or None for none. Deeper ones than the network allows are
    cut to `max_depth`; epochs and data fraction are left to the search, and a plain network (depth
    0) is left out.

    Raises ValueError or FileNotFoundError naming the source.
    """
    if source is None:
        return []
    if source == "known_good":
        return paper.known_good_configurations(max_depth)
    path = Path(source)
    if path.suffix == ".json":
        try:
            found = json.loads(path.read_text())
            found = [dict(configuration) for configuration in found]
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(
                f"seed_configurations={str(source)!r}: must be a list of configurations ({error})"
            ) from error
    else:
        found = to_records(pareto.pareto_front(read_trials(path))[list(HYPERPARAMETERS)])
    fitted = [
        {name: value for name, value in c.items() if name not in ("epochs", "data_fraction")}
        for c in found
    ]
    for configuration in fitted:
        if "shift_depth" in configuration:
            configuration["shift_depth"] = min(configuration["shift_depth"], max_depth)
    return [configuration for configuration in fitted if configuration.get("shift_depth") != 0]


def search(
    evaluate: Callable[[dict, int], dict],
    run_dir: str | Path,
    settings: SearchSettings,
    n_trials: int = 30,
    on_trial: Callable[[dict, pd.DataFrame], None] | None = None,
    *,
    n_workers: int = 1,
    scheduler: str | None = None,
    trial_timeout_s: float | None = None,
    isolate: bool = False,
) -> pd.DataFrame:
    """Search until the run directory holds trials 0 to `n_trials` - 1; returns the trials table.

    `evaluate(point, seed)` runs one trial and returns its result columns, `loss` and the objectives
    among them; what it raises is recorded as a crashed trial. In a process of its own (see below)
    it cannot start processes itself. If it also has `energy_of(objective)`, as `TargetFunction`
    has, a modelled energy is computed beforehand and only the loss is left to the surrogate. The
    published default is evaluated first, at every rung of the fidelity from the highest down, then
    the seed configurations, then the strategy's proposals.

    A run that was killed or interrupted goes on after its last finished trial, and a larger
    `n_trials` extends a finished one. `on_trial(row, trials)` is called after each new trial.

    Trials run one by one in this process; with `n_workers` at once in as many processes of this
    machine, one thread each; with `scheduler`, the address of a running Dask scheduler, on all
    its workers. `trial_timeout_s` (seconds) and `isolate` put even a single worker into a process
    of its own, so that a trial over its time, or one that gets its process killed, is a failed
    trial and not the end of the search. A script that starts processes needs
    `if __name__ == "__main__":`. All five may change when a run is resumed.

    Raises ValueError, before any trial is run, for too small an `n_trials`, for a scheduler that
    does not answer, and for a run directory that belongs to other settings, is in use by another
    search, is damaged or cannot be written. Raises OSError for a disk that is full.
    """
    least = settings.least_trials
    if not is_integer(n_trials, least):
        raise ValueError(
            f"n_trials={n_trials!r}: must be an integer of at least {least}: the default at each "
            f"fidelity and {len(settings.seed_configurations)} seed configurations "
            f"({least - settings.n_initial} trials), n_initial={settings.n_initial}"
        )
    check_execution(n_workers, scheduler, trial_timeout_s)
    run_dir, n_trials = Path(run_dir), int(n_trials)
    strategy = settings.proposals(_known_energy(evaluate, settings.objectives))
    with locked(run_dir):
        open_run(run_dir, settings.record(), n_trials)
        run = _Run(run_dir, settings, strategy)
        if not run.is_complete(n_trials):
            with make_executor(
                evaluate, n_workers, scheduler, trial_timeout_s, isolate
            ) as executor:
                run.replay()
                while not run.is_complete(n_trials):
                    while executor.has_room() and (row := run.next_trial(n_trials)) is not None:
                        executor.submit(row["trial"], _hyperparameters(row), settings.seed)
                    ended = [run.finish(number, result) for number, result in executor.wait()]
                    for row, table in ended if on_trial is not None else ():
                        on_trial(row, table)
        return read_trials(run_dir)


class _Run:
    """The trials of a run, proposed and finished, and the strategy that knows of them."""

    def __init__(self, run_dir: Path, settings: SearchSettings, strategy):
        self._run_dir, self._settings = run_dir, settings
        self._finished = read_finished(run_dir)  # in the order they finished
        known = [r for r in read_running(run_dir) if r["asked_after"] <= len(self._finished)]
        self._known = {row["trial"]: row for row in [*known, *self._finished]}
        done = {row["trial"] for row in self._finished}
        self._open = {n: row for n, row in self._known.items() if n not in done}
        self._points, self._strategy = settings.first_points(), strategy
        self._asked = {}  # what the strategy proposed and was not told of, by trial
        self._untold = []  # finished, with an energy nobody can guess yet
        self._n_asked = 0
        self._again = []  # trials to be run again, as they were lost in flight

    def is_complete(self, n_trials: int) -> bool:
        return {row["trial"] for row in self._finished}.issuperset(range(n_trials))

    def replay(self) -> None:
        """Ask and tell the strategy what it was asked and told, in the same order."""
        told_at = {row["trial"]: i for i, row in enumerate(self._finished)}
        asked_after, latest = {}, len(self._finished)
        for number in reversed(range(max(self._known, default=-1) + 1)):
            # Rows that were removed or damaged leave gaps: trials are still asked for in order,
            # before they or any later one is told.
            known = self._known.get(number, {}).get("asked_after", latest)
            latest = asked_after[number] = min(known, told_at.get(number, latest), latest)
        for n_told, row in enumerate([*self._finished, None]):
            while asked_after.get(self._n_asked, math.inf) <= n_told:
                self._ask(n_told)
            if row is not None:
                self._tell(row, self._finished[:n_told])
        self._again = sorted(self._open)

    def next_trial(self, n_trials: int) -> dict | None:
        """The next trial to run, None if all up to `n_trials` are finished or running."""
        if self._again and self._again[0] < n_trials:
            return self._open[self._again.pop(0)]
        if self._n_asked >= n_trials:
            return None
        number = self._ask(len(self._finished))
        write_running(list(self._open.values()), self._run_dir)
        return self._open[number]

    def finish(self, number: int, result: Mapping) -> tuple[dict, pd.DataFrame]:
        """Record the result of a trial, tell the strategy; returns its row and the table."""
        row = self._open.pop(number) | _with_objectives(result, self._settings.objectives)
        table = write_trials([*self._finished, row], self._run_dir)
        if not self._open:
            write_running([], self._run_dir)
        self._tell(row, self._finished)
        self._finished.append(row)
        return row, table

    def _ask(self, n_told: int) -> int:
        number = self._n_asked
        self._n_asked += 1
        ours = number < len(self._points)
        point, origin = self._points[number] if ours else self._strategy.ask()
        known = self._known.get(number)
        if known is None:
            settings = self._settings
            row = {"trial": number, "seed": settings.seed, "strategy": settings.strategy}
            row |= {"origin": origin, "max_shift_depth": settings.max_depth}
            row |= {"shift_depth": settings.max_depth, "epochs": settings.epochs}
            row |= {"data_fraction": 1.0} | point
            self._open[number] = row | {"asked_after": n_told}
        self._asked[number] = point if known is None else _recorded_point(known, point)
        return number

    def _tell(self, row: Mapping, earlier: Sequence[Mapping]) -> None:
        self._untold.append(row)
        for waiting in list(self._untold):
            known = costs(waiting, [*earlier, row], self._settings.objectives)
            if known is not None:
                self._untold.remove(waiting)
                point = self._asked.pop(waiting["trial"])
                self._strategy.tell(point, known, waiting["status"] == "SUCCESS")


def _known_energy(evaluate, objectives: Sequence[str]) -> Callable[[Mapping], float] | None:
    """The energy of a point where that is the second of two objectives and needs no training."""
    known = hasattr(evaluate, "energy_of") and len(objectives) == 2 and objectives[1] in MODELLED
    return evaluate.energy_of(objectives[1]) if known else None


def _hyperparameters(row: Mapping) -> dict:
    return {name: row[name] for name in HYPERPARAMETERS if row.get(name) is not None}


def _with_objectives(result: Mapping, objectives: Sequence[str]) -> dict:
    """The result; as a failure where it lacks an objective (one may be empty, and is a number)."""
    for name in objectives if result["status"] == "SUCCESS" else ():
        if name not in result or not isinstance(result[name], int | float | None):
            what = repr(result[name]) if name in result else "missing"
            reason = f"objective {name!r}: must be a number in the result, is {what}"
            return {**result, name: None, "status": "CRASHED", "reason": reason}
    return dict(result)


def costs(row: Mapping, rows: Sequence[Mapping], objectives: Sequence[str]) -> list[float] | None:
    """What a strategy is told of a trial, finite also for a failed one.

    A failed trial counts as total validation error (or the worst loss of the trials `rows`, if that
    is more) and, for an energy it could not tell, as the worst of `rows`: bad enough to be avoided,
    without distorting a surrogate as SMAC's own crash cost (infinity) does. None if `rows` have no
    such energy either.
    """
    values = []
    for name in objectives:
        value, failed_loss = row.get(name), row["status"] != "SUCCESS" and name == "loss"
        if failed_loss or value is None or not math.isfinite(value):
            seen = [earlier.get(name) for earlier in rows]
            seen = [v for v in seen if v is not None and math.isfinite(v)]
            value = max([*seen, 1.0] if name == "loss" else seen, default=None)
        if value is None:
            return None
        values.append(float(value))
    return values


def _recorded_point(row: Mapping, asked: Mapping) -> dict:
    """The point a recorded row was run at; warns where it is not the one asked for again."""
    if all(
        row.get(name) == value
        or (
            isinstance(row.get(name), float)
            and isinstance(value, float)
            and math.isclose(row[name], value, rel_tol=1e-12)
        )
        for name, value in asked.items()
    ):
        return dict(asked)
    warnings.warn(
        f"trial {row['trial']} is not the one this strategy proposes now (other library "
        "versions?): the recorded trial is used, new proposals may differ from the first run",
        stacklevel=5,
    )
    return _hyperparameters(row)
