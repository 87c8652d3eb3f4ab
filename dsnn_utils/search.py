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
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from dsnn_utils.energy import validate_objectives
from dsnn_utils.space import dsnn_space, make_fidelity, published_default
from dsnn_utils.strategies import MULTI_FIDELITY, STRATEGIES, make_strategy
from dsnn_utils.trials import (
    HYPERPARAMETERS,
    read_trials,
    to_records,
    write_atomically,
    write_trials,
)


def search(
    evaluate: Callable[[dict, int], dict],
    run_dir: str | Path,
    *,
    max_depth: int,
    epochs: int,
    min_epochs: int | None = None,
    strategy: str = "smac_mf",
    fidelity: str = "shift_depth",
    min_fidelity: float | None = None,
    eta: int = 2,
    objectives: Sequence[str] = ("loss", "energy_modelled_j_per_image"),
    n_trials: int = 30,
    n_initial: int = 8,
    seed: int = 0,
    seed_configurations: Sequence[Mapping] = (),
    settings: Mapping | None = None,
    on_trial: Callable[[dict, pd.DataFrame], None] | None = None,
) -> pd.DataFrame:
    """Search for networks that minimise `objectives`; returns the trials table.

    `evaluate(point, seed)` runs one trial and returns its result columns; what it raises is
    recorded as a crashed trial. The published default is evaluated first, at every value of the
    fidelity from the highest down, then `seed_configurations`, then the strategy's proposals.
    With a strategy that has no fidelities, shift depth is an ordinary hyperparameter.
    `settings` are recorded with the run and, like all arguments but `n_trials`, must be the same
    when it is resumed; a larger `n_trials` extends a finished run.
    `on_trial(row, trials)` is called after each new trial.

    Raises ValueError for bad arguments and for a run directory that belongs to other settings or
    cannot be written, before any trial is run.
    """
    objectives = tuple(validate_objectives(objectives))
    points, proposals = _plan(
        max_depth, epochs, min_epochs, strategy, fidelity, min_fidelity, eta, objectives,
        n_trials, n_initial, seed, seed_configurations,
    )  # fmt: skip
    run_dir = Path(run_dir)
    asked = {
        "max_depth": max_depth, "epochs": epochs, "min_epochs": min_epochs, "strategy": strategy,
        "fidelity": fidelity, "min_fidelity": min_fidelity, "eta": eta,
        "objectives": objectives, "n_initial": n_initial, "seed": seed,
        "seed_configurations": [dict(c) for c in seed_configurations], **(settings or {}),
    }  # fmt: skip
    open_run(run_dir, asked, n_trials)
    rows = to_records(read_trials(run_dir)) if (run_dir / "trials.csv").exists() else []

    for number in range(n_trials):
        if number < len(points):
            point, origin = points[number]
        else:
            point, origin = proposals.ask()
        if number < len(rows):
            row = rows[number]
            point = _recorded_point(row, point)
        else:
            row = {"trial": number, "seed": seed, "strategy": strategy, "origin": origin}
            row |= {"max_shift_depth": max_depth, "epochs": epochs, "data_fraction": 1.0} | point
            row |= _evaluate(evaluate, row, seed)
            rows.append(row)
            table = write_trials(rows, run_dir)
            if on_trial is not None:
                on_trial(row, table)
        proposals.tell(point, costs(row, rows[:number], objectives), row["status"] == "SUCCESS")
    return read_trials(run_dir)


def _plan(max_depth, epochs, min_epochs, strategy, fidelity, min_fidelity, eta, objectives,
          n_trials, n_initial, seed, seed_configurations):  # fmt: skip
    """The points every strategy starts with, and the strategy itself; checks all arguments."""
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy={strategy!r}: must be one of {', '.join(STRATEGIES)}")
    multi_fidelity = strategy in MULTI_FIDELITY
    levels = make_fidelity(fidelity, max_depth, epochs, min_fidelity)
    if not multi_fidelity and fidelity != "shift_depth":
        raise ValueError(
            f"fidelity={fidelity!r}: strategy {strategy!r} has no fidelities, it searches shift "
            f"depth as a hyperparameter; must be 'shift_depth', or the strategy one of "
            f"{', '.join(MULTI_FIDELITY)}"
        )
    for name, value, low in [("eta", eta, 2), ("n_initial", n_initial, 1), ("seed", seed, 0)]:
        if isinstance(value, bool) or value != int(value) or value < low:
            raise ValueError(f"{name}={value!r}: must be an integer of at least {low}")
    space = dsnn_space(
        max_depth, epochs, min_epochs, without=fidelity if multi_fidelity else None, seed=seed
    )
    default = published_default(max_depth, epochs)
    rungs = levels.rungs(3 if strategy == "smac_mf_published" else eta)
    points = [(default | {fidelity: value}, "default") for value in reversed(rungs)]
    points += [(default | dict(c), "seed") for c in seed_configurations]
    least = len(points) + n_initial
    if isinstance(n_trials, bool) or n_trials != int(n_trials) or n_trials < least:
        raise ValueError(
            f"n_trials={n_trials!r}: must be an integer of at least {least} (the default at "
            f"{len(rungs)} fidelities, {len(seed_configurations)} seed configurations, "
            f"n_initial={n_initial})"
        )
    proposals = make_strategy(
        strategy, space, levels if multi_fidelity else None, objectives, seed, n_initial, eta
    )
    return points, proposals


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
    settings = json.loads(json.dumps(settings))  # as they read back
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
