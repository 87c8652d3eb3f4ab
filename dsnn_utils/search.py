"""The search: strategies propose, trials are run and recorded, a killed run resumes.

The run directory holds the whole state in two plain files: `search.json` (what was asked for, by
which versions, on what hardware) and `trials.csv` (one row per finished trial, rewritten
atomically as each trial ends). Strategies are deterministic, so a run resumes by asking and
telling them again what the table records; only the trial in flight is lost.
"""

import json
import math
import os
import platform
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path

import pandas as pd
from ConfigSpace import ConfigurationSpace

from dsnn_utils.energy import validate_objectives
from dsnn_utils.space import Fidelity, dsnn_space, make_fidelity, published_default
from dsnn_utils.strategies import MULTI_FIDELITY, STRATEGIES, make_strategy
from dsnn_utils.trials import (
    HYPERPARAMETERS,
    read_trials,
    to_records,
    write_atomically,
    write_trials,
)


@dataclass(frozen=True)
class SearchSettings:
    """What is searched and how; checked when made, and the same whenever a run is resumed.

    `max_depth` is the network's number of shiftable layers, `epochs` the length of a training (a
    hyperparameter from `min_epochs` up where that is given). A multi-fidelity `strategy` spends
    more of `fidelity`, from `min_fidelity` up, on the better 1/`eta` of the configurations; for
    any other strategy shift depth is an ordinary hyperparameter. `objectives` are minimised.
    `n_initial` random configurations come before the model. `seed_configurations` (dicts, missing
    entries as in the default) are evaluated right after the default. `context` is recorded with
    the run: everything else that makes a trial what it is, such as data and recipe.

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
        levels = self.levels  # checks fidelity and min_fidelity
        if not self.multi_fidelity and levels.name != "shift_depth":
            raise ValueError(
                f"fidelity={self.fidelity!r}: strategy {self.strategy!r} has no fidelities, it "
                "searches shift depth as a hyperparameter; must be 'shift_depth', or the strategy "
                f"one of {', '.join(MULTI_FIDELITY)}"
            )
        for name, least in (("eta", 2), ("n_initial", 1), ("seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or value != int(value) or value < least:
                raise ValueError(f"{name}={value!r}: must be an integer of at least {least}")
        object.__setattr__(self, "objectives", validate_objectives(self.objectives))
        self.space()  # checks the rest

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
        default = published_default(self.max_depth, self.epochs)
        rungs = self.levels.rungs(3 if self.strategy == "smac_mf_published" else self.eta)
        points = [(default | {self.fidelity: value}, "default") for value in reversed(rungs)]
        return points + [(default | dict(c), "seed") for c in self.seed_configurations]

    def proposals(self):
        """The strategy that proposes all further points."""
        return make_strategy(
            self.strategy,
            self.space(),
            self.levels if self.multi_fidelity else None,
            self.objectives,
            self.seed,
            self.n_initial,
            self.eta,
        )

    def record(self) -> dict:
        """The settings as they are kept in `search.json`."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "context"}
        return json.loads(json.dumps(own | dict(self.context), default=dict))


def search(
    evaluate: Callable[[dict, int], dict],
    run_dir: str | Path,
    settings: SearchSettings,
    n_trials: int = 30,
    on_trial: Callable[[dict, pd.DataFrame], None] | None = None,
) -> pd.DataFrame:
    """Search until the run directory holds `n_trials` trials; returns the trials table.

    `evaluate(point, seed)` runs one trial and returns its result columns; what it raises is
    recorded as a crashed trial. The published default is evaluated first, at every rung of the
    fidelity from the highest down, then the seed configurations, then the strategy's proposals.
    A run that was killed or interrupted goes on after its last finished trial, and a larger
    `n_trials` extends a finished one. `on_trial(row, trials)` is called after each new trial.

    Raises ValueError, before any trial is run, for too small an `n_trials` and for a run directory
    that belongs to other settings or cannot be written.
    """
    least = settings.least_trials
    if isinstance(n_trials, bool) or n_trials != int(n_trials) or n_trials < least:
        raise ValueError(
            f"n_trials={n_trials!r}: must be an integer of at least {least}: the default at each "
            f"fidelity and {len(settings.seed_configurations)} seed configurations "
            f"({least - settings.n_initial} trials), n_initial={settings.n_initial}"
        )
    run_dir = Path(run_dir)
    open_run(run_dir, settings.record(), n_trials)
    rows = to_records(read_trials(run_dir)) if (run_dir / "trials.csv").exists() else []
    points, proposals = settings.first_points(), settings.proposals()

    for number in range(n_trials):
        point, origin = points[number] if number < len(points) else proposals.ask()
        if number < len(rows):
            row = rows[number]
            point = _recorded_point(row, point)
        else:
            row = {"trial": number, "seed": settings.seed, "strategy": settings.strategy}
            row |= {"origin": origin, "max_shift_depth": settings.max_depth}
            row |= {"epochs": settings.epochs, "data_fraction": 1.0} | point
            row |= _evaluate(evaluate, row, settings.seed)
            rows.append(row)
            table = write_trials(rows, run_dir)
            if on_trial is not None:
                on_trial(row, table)
        known = costs(row, rows[:number], settings.objectives)
        proposals.tell(point, known, row["status"] == "SUCCESS")
    return read_trials(run_dir)


def _evaluate(evaluate, row: dict, seed: int) -> dict:
    """Run one trial; whatever goes wrong in it becomes a status and a reason."""
    point = {name: row[name] for name in HYPERPARAMETERS if name in row}
    try:
        result = dict(evaluate(point, seed))
    except Exception as error:  # a crashed trial must not end the search
        status = "MEMORYOUT" if _out_of_memory(error) else "CRASHED"
        return {"status": status, "reason": f"{type(error).__name__}: {error}"}
    result.setdefault("status", "SUCCESS")
    if result["status"] == "SUCCESS" and not math.isfinite(result.get("loss", math.nan)):
        result |= {"status": "DIVERGED", "reason": f"loss={result.get('loss')}: not finite"}
    return result


def _out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def costs(row: Mapping, rows: Sequence[Mapping], objectives: Sequence[str]) -> list[float]:
    """What a strategy is told of a trial, finite also for a failed one.

    A failed trial counts as total validation error and, for an energy it could not tell, as the
    worst of the earlier trials `rows`: bad enough to be avoided, without distorting a surrogate
    as SMAC's own crash cost (infinity) does.
    """
    values = []
    for name in objectives:
        value = row.get(name)
        if row["status"] != "SUCCESS" and name == "loss":
            value = 1.0
        elif value is None or not math.isfinite(value):
            seen = [earlier.get(name) for earlier in rows]
            value = max((v for v in seen if v is not None and math.isfinite(v)), default=0.0)
        values.append(float(value))
    return values


def _recorded_point(row: Mapping, asked: Mapping) -> dict:
    """The point a recorded row was run at; warns where it is not the one asked for again."""
    recorded = {name: row[name] for name in asked}
    same = all(
        recorded[name] == value
        or (isinstance(value, float) and math.isclose(recorded[name], value, rel_tol=1e-12))
        for name, value in asked.items()
    )
    if not same:
        warnings.warn(
            f"trial {row['trial']} is not the one this strategy proposes now (other library "
            "versions?): the recorded trial is used, new proposals may differ from the first run",
            stacklevel=3,
        )
        recorded = {n: row[n] for n in HYPERPARAMETERS if row.get(n) is not None}
    return recorded


# --- the run directory ---------------------------------------------------------------------------


def open_run(run_dir: Path, settings: Mapping, n_trials: int) -> None:
    """Create the run directory or check that it belongs to the same settings.

    Raises ValueError naming each setting that differs, or that the directory cannot be written.
    """
    path = run_dir / "search.json"
    if path.exists():
        known = json.loads(path.read_text())["settings"]
        different = [
            f"{name}={settings.get(name)!r} (there: {known.get(name)!r})"
            for name in sorted(settings.keys() | known.keys())
            if settings.get(name) != known.get(name)
        ]
        if different:
            raise ValueError(
                f"run_dir={str(run_dir)!r}: belongs to a search with other settings, must be "
                f"empty or the same: {'; '.join(different)}"
            )
        info = json.loads(path.read_text()) | {"n_trials": n_trials}
    else:
        info = {
            "settings": settings,
            "n_trials": n_trials,
            "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
            **environment(),
        }
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(info, indent=2) + "\n")
    except OSError as error:
        raise ValueError(
            f"run_dir={str(run_dir)!r}: must be a directory that can be written ({error.strerror})"
        ) from error


@cache
def environment() -> dict:
    """Versions and hardware, to be recorded with every result."""
    import torch
    from cpuinfo import get_cpu_info

    packages = ("torch", "torchvision", "smac", "ConfigSpace", "optuna", "codecarbon", "numpy")
    return {
        "versions": {"python": platform.python_version()} | {p: version(p) for p in packages},
        "hardware": {
            "cpu": get_cpu_info().get("brand_raw", platform.processor()),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
    }
