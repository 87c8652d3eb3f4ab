"""The trials table: what its columns are, how it is read and how it is written.

One row per trial, that is per (configuration, shift depth, seed). Every analysis works on this
table alone, so it can be somebody else's.

`trial` numbers the trials in the order they were proposed, rows stand in the order they finished,
and `asked_after` is how many had finished when the trial was proposed: with several workers these
differ, and a search that resumes needs all three. Serially all are the row's number.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dsnn_utils.paths import write_atomically
from dsnn_utils.runs.columns import COLUMNS, EXTENSIONS, NEWER_COLUMNS, STATUSES


def write_trials(rows: Sequence[Mapping], run_dir: Path) -> pd.DataFrame:
    """Write the trials table, whole and atomically: a reader sees the old or the new one.

    Line breaks in texts become blanks: one row is one line, so that a cut one can be recognised.
    """
    extra = [name for row in rows for name in row if name not in COLUMNS]
    rows = [{name: _one_line(value) for name, value in row.items()} for row in rows]
    table = pd.DataFrame(rows, columns=[*COLUMNS, *dict.fromkeys(extra)])
    write_atomically(Path(run_dir) / "trials.csv", table.to_csv(index=False))
    return table


def _one_line(value):
    return " ".join(value.split()) if isinstance(value, str) else value


def read_trials(path: str | Path) -> pd.DataFrame:
    """Read a trials table (a run directory or the CSV itself).

    One of an earlier version may lack `NEWER_COLUMNS`; of these the modelled energies can be
    computed (`search.complete_energies`).
    Raises FileNotFoundError if there is none and ValueError if it cannot be read or lacks columns.
    """
    path = Path(path)
    path = path / "trials.csv" if path.is_dir() else path
    if not path.exists():
        raise FileNotFoundError(f"trials={str(path)!r}: must be a run directory or a trials.csv")
    try:
        table = pd.read_csv(path)
    except ValueError as error:  # pandas' parser errors are some
        raise ValueError(f"trials={str(path)!r}: is damaged: {error}") from error
    if "trial" in table.columns and "asked_after" not in table.columns:
        table["asked_after"] = table["trial"]  # by a serial search
    if "embodied_gco2eq" not in table.columns:  # by an earlier version
        table["embodied_gco2eq"] = math.nan
    # Earlier versions knew the published choices only, and no training that was not a full one.
    for name, earlier in {**EXTENSIONS, "budget": 1.0}.items():
        if name not in table.columns:
            table[name] = earlier
    known = [*table.columns, *NEWER_COLUMNS]
    missing = [name for name in COLUMNS if name not in known]
    if missing:
        raise ValueError(f"trials={str(path)!r}: lacks the columns {', '.join(missing)}")
    return table


def read_runs(run_dirs: Sequence[str | Path]) -> pd.DataFrame:
    """The trials of a search under several seeds, one table below the other.

    Of several strategies in one table it is the first that counts. Raises ValueError where two runs
    have the same seed or are of different strategies, for a row that cannot be a trial, and what
    `read_trials` raises.
    """
    tables = []
    for run_dir in run_dirs:
        table = read_trials(run_dir)
        table = table[table["strategy"] == table["strategy"].iloc[:1].squeeze()]
        check_trials(table, f"trials={str(run_dir)!r}")
        tables.append(table)
    trials = pd.concat(tables, ignore_index=True)
    strategies = sorted(trials["strategy"].unique())
    if len(strategies) > 1:
        raise ValueError(
            f"runs={[str(d) for d in run_dirs]}: must be of one strategy, are of "
            f"{', '.join(strategies)}"
        )
    if trials["seed"].nunique() < sum(table["seed"].nunique() for table in tables):
        raise ValueError(f"runs={[str(d) for d in run_dirs]}: must be of different seeds")
    return trials


def check_trials(trials: pd.DataFrame, name: str) -> None:
    """ValueError naming the first row that no run can have left, by its line in the file.

    A table that was cut, edited or put together from others is found by this.
    """
    if trials.empty:
        raise ValueError(f"{name}: must have at least one row")
    success = trials["status"] == "SUCCESS"
    deepest = trials["max_shift_depth"].fillna(math.inf)
    wrong = {
        f"status must be one of {', '.join(STATUSES)}": ~trials["status"].isin(STATUSES),
        "shift_depth must be from 0 to max_shift_depth": ~trials["shift_depth"].between(0, deepest),
        "loss must be a number where the status is SUCCESS": success & trials["loss"].isna(),
        "must not have the trial and seed of another line": trials.duplicated(["seed", "trial"]),
    }
    for what, rows in wrong.items():
        if rows.any():
            raise ValueError(f"{name}: line {rows.idxmax() + 2}: {what}")


def python_value(value):
    """`value` as one of Python's own types: NumPy's and PyTorch's scalars too, others as text."""
    if value is None or isinstance(value, str | bool | int | float):
        return value.item() if isinstance(value, np.generic) else value  # np.float64 is a float
    if getattr(value, "size", None) == 1 or getattr(value, "ndim", None) == 0:
        return value.item()
    return str(value)


def to_python(configuration: Mapping) -> dict:
    """A configuration in Python's own types, ready for JSON (ConfigSpace yields NumPy's)."""
    return {name: python_value(value) for name, value in dict(configuration).items()}


def json_value(value):
    """`value` for JSON: missing, NaN and infinite become None, whole floats integers."""
    value = python_value(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    return None if value is pd.NA or value is pd.NaT else value


def to_records(table: pd.DataFrame) -> list[dict]:
    """The rows as dicts of plain Python values, None where the table is empty."""
    return [
        {name: None if pd.isna(value) else value for name, value in row.items()}
        for row in table.astype(object).to_dict("records")
    ]
