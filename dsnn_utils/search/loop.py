"""The loop: trials are proposed, run and recorded; a killed run resumes.

Whoever proposes, a strategy or a list of given networks, is a deterministic function of what it was
asked and told, in order. That order is in the run directory (see `runs.directory`), so a run
resumes by asking and telling again; only the trials in flight are lost, and run again as they were
proposed.
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import pandas as pd

from dsnn_utils.checks import check_integer, require
from dsnn_utils.runs.columns import (
    EXTENSIONS,
    MODELLED_ENERGIES,
    OWN,
    hyperparameters_among,
)
from dsnn_utils.runs.directory import locked, open_run, read_finished, read_running, write_running
from dsnn_utils.runs.table import read_trials, write_trials
from dsnn_utils.search.execution import check_execution, make_executor
from dsnn_utils.search.settings import SearchSettings
from dsnn_utils.search.space import without_inactive


class Proposals(Protocol):
    """Where trials come from: a strategy (`search`) or a list (`search.given`)."""

    objectives: Sequence[str]  # what a successful result must have

    def check(self, finished: Sequence[Mapping]) -> None:
        """ValueError where the finished trials of a run cannot be those proposed here."""

    def ask(self, number: int, known: Mapping | None) -> dict:
        """The row of the next trial, without results.

        Numbers come in order from 0. `known` is the trial's row in the run directory, where it was
        proposed before.
        """

    def tell(self, row: Mapping, earlier: Sequence[Mapping]) -> None:
        """The result of a trial that was asked for, and the rows that finished before it."""


def run_trials(
    evaluate: Callable[[dict, int], dict],
    run_dir: str | Path,
    record: Mapping,
    proposals: Proposals,
    n_trials: int,
    on_trial: Callable[[dict, pd.DataFrame], None] | None = None,
    **execution,
) -> pd.DataFrame:
    """Run trials until the run directory holds trials 0 to `n_trials` - 1; returns their table.

    `record` are the settings as they are kept in `search.json`: a directory of others is refused.
    `execution` goes to `execution.make_executor`. Raises as `search` does.
    """
    run_dir = Path(run_dir)
    discard = getattr(evaluate, "discard", lambda point, seed: None)
    with locked(run_dir):
        open_run(run_dir, record, n_trials)
        run = _Run(run_dir, proposals)
        if not run.is_complete(n_trials):
            with make_executor(evaluate, **execution) as executor:
                run.replay()
                while not run.is_complete(n_trials):
                    while executor.has_room() and (row := run.next_trial(n_trials)) is not None:
                        executor.submit(row["trial"], _hyperparameters(row), row["seed"])
                    ended = [run.finish(number, result) for number, result in executor.wait()]
                    for row, _ in ended:
                        discard(_hyperparameters(row), row["seed"])
                    if on_trial is not None:
                        for row, table in ended:
                            on_trial(row, table)
        return read_trials(run_dir)


class _Run:
    """The trials of a run, proposed and finished, and who proposes them."""

    def __init__(self, run_dir: Path, proposals: Proposals):
        self._run_dir, self._proposals = run_dir, proposals
        self._finished = read_finished(run_dir)  # in the order they finished
        proposals.check(self._finished)
        known = [r for r in read_running(run_dir) if r["asked_after"] <= len(self._finished)]
        self._known = {row["trial"]: row for row in [*known, *self._finished]}
        done = {row["trial"] for row in self._finished}
        self._open = {n: row for n, row in self._known.items() if n not in done}
        self._n_asked = 0
        self._again: list[int] = []  # trials to be run again, as they were lost in flight

    def is_complete(self, n_trials: int) -> bool:
        return {row["trial"] for row in self._finished}.issuperset(range(n_trials))

    def replay(self) -> None:
        """Ask and tell what was asked and told before, in the same order."""
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
                self._proposals.tell(row, self._finished[:n_told])
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
        """Record the result of a trial and tell it; returns its row and the table."""
        row = self._open.pop(number) | _with_objectives(result, self._proposals.objectives)
        table = write_trials([*self._finished, row], self._run_dir)
        if not self._open:
            write_running([], self._run_dir)
        self._proposals.tell(row, self._finished)
        self._finished.append(row)
        return row, table

    def _ask(self, n_told: int) -> int:
        number, known = self._n_asked, self._known.get(self._n_asked)
        self._n_asked += 1
        row = self._proposals.ask(number, known)
        if known is None:
            self._open[number] = {"trial": number, **row, "asked_after": n_told}
        return number


def _hyperparameters(row: Mapping) -> dict:
    return {name: row[name] for name in hyperparameters_among(row) if row[name] is not None}


def _with_objectives(result: Mapping, objectives: Sequence[str]) -> dict:
    """The result; as a failure where it lacks an objective (one may be empty, and is a number)."""
    for name in objectives if result["status"] == "SUCCESS" else ():
        if name not in result or not isinstance(result[name], int | float | None):
            what = repr(result[name]) if name in result else "missing"
            reason = f"objective {name!r}: must be a number in the result, is {what}"
            return {**result, name: None, "status": "CRASHED", "reason": reason}
    return dict(result)


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
    it cannot start processes itself. As an object it may also have, as `TargetFunction` has,

    energy_of(objective)                    a function from a point to a modelled energy, which is
                                            then known beforehand: only the loss is left to the
                                            surrogate
    check(objectives, hyperparameters)      called before any trial, the second being the names of
                                            your own: may refuse what it does not know
    discard(point, seed)                    called when a trial is recorded

    The published default is evaluated first, at every rung of the fidelity from the highest down,
    then the seed configurations, then the strategy's proposals.

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
    why = (
        f": the default at each fidelity and {len(settings.seed_configurations)} seed "
        f"configurations ({least - settings.n_initial} trials), n_initial={settings.n_initial}"
    )
    n_trials = check_integer("n_trials", n_trials, least, why=why)
    check_execution(n_workers, scheduler, trial_timeout_s)
    if hasattr(evaluate, "check"):
        own = [hyperparameter.name for hyperparameter in settings.hyperparameters]
        evaluate.check(settings.objectives, [name for name in own if name.startswith(OWN)])
    proposals = _OfAStrategy(settings, _known_energy(evaluate, settings))
    return run_trials(
        evaluate,
        run_dir,
        settings.record(),
        proposals,
        n_trials,
        on_trial,
        n_workers=n_workers,
        scheduler=scheduler,
        trial_timeout_s=trial_timeout_s,
        isolate=isolate,
    )


class _OfAStrategy:
    """Proposals of a strategy, after the points that every strategy starts with."""

    def __init__(self, settings: SearchSettings, energy_of: Callable[[Mapping], float] | None):
        self.objectives = settings.objectives
        self._settings, self._strategy = settings, settings.proposals(energy_of)
        self._first_points = settings.first_points()
        # What the strategy proposed and was not told of, by trial.
        self._asked: dict[int, Mapping] = {}
        self._untold: list[Mapping] = []  # finished, with an energy nobody can guess yet

    def check(self, finished: Sequence[Mapping]) -> None:
        """Nothing to check: `search.json` has the seed and all settings."""

    def ask(self, number: int, known: Mapping | None) -> dict:
        first = number < len(self._first_points)
        point, origin = self._first_points[number] if first else self._strategy.ask()
        lost = sorted(point.keys() - set(hyperparameters_among(point)))
        require(not lost, f"point {lost}: must be hyperparameters, those of your own begin {OWN!r}")
        self._asked[number] = point if known is None else _recorded_point(known, point)
        settings = self._settings
        row = {"seed": settings.seed, "strategy": settings.strategy, "origin": origin}
        row |= {"max_shift_depth": settings.max_depth, "shift_depth": settings.max_depth}
        # A fitted format has no fraction bits of its own: all of its bits are counted as integer.
        row |= EXTENSIONS | {"activation_fraction_bits": 0}
        row |= {"epochs": settings.epochs, "data_fraction": 1.0} | point
        return row | {"budget": settings.budget_of(row)}

    def tell(self, row: Mapping, earlier: Sequence[Mapping]) -> None:
        self._untold.append(row)
        for waiting in list(self._untold):
            known = costs(waiting, [*earlier, row], self.objectives)
            if known is not None:
                self._untold.remove(waiting)
                point = self._asked.pop(waiting["trial"])
                self._strategy.tell(point, known, waiting["status"] == "SUCCESS")


def _known_energy(evaluate, settings: SearchSettings) -> Callable[[Mapping], float] | None:
    """The energy of a point where that is the second of two objectives and needs no training."""
    objectives = settings.objectives
    if len(objectives) != 2 or objectives[1] not in MODELLED_ENERGIES:
        return None
    return evaluate.energy_of(objectives[1]) if hasattr(evaluate, "energy_of") else None


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
            seen = [v for r in rows if (v := r.get(name)) is not None and math.isfinite(v)]
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
    return without_inactive(_hyperparameters(row))
