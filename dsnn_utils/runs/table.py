"""The trials table: what its columns are, how it is read and how it is written.

One row per trial, that is per (configuration, shift depth, seed). Every analysis works on this
table alone, so it can be somebody else's.

`trial` numbers the trials in the order they were proposed, rows stand in the order they finished,
and `asked_after` is how many had finished when the trial was proposed: with several workers these
differ, and a search that resumes needs all three. Serially all are the row's number.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dsnn_utils.checks import require
from dsnn_utils.limits import RANGES, Range
from dsnn_utils.paths import write_atomically
from dsnn_utils.runs.columns import (
    ACCURACIES,
    COLUMNS,
    EXTENSIONS,
    MEASURED,
    MODELLED_ENERGIES,
    NEWER_COLUMNS,
    STATUSES,
)

_COUNT = Range(0, 2**63)
_AMOUNT = Range(0, math.inf, excluded=(math.inf,))
_SHARE = Range(0, 1, excluded=(0,))
#: What a number of the table may be, by its column; empty cells are allowed.
_ALLOWED = {name: RANGES[name] for name in ("weight_bits", "batch_size", "lr", "epochs")}
_ALLOWED |= {name: RANGES[name] for name in ("activation_integer_bits", "activation_fraction_bits")}
_ALLOWED |= dict.fromkeys(("trial", "seed", "asked_after", "shift_depth", "train_size"), _COUNT)
_ALLOWED |= dict.fromkeys((*MODELLED_ENERGIES, *MEASURED, "embodied_gco2eq", "duration_s"), _AMOUNT)
_ALLOWED |= dict.fromkeys(ACCURACIES, Range(0, 1)) | dict.fromkeys(
    ("data_fraction", "budget"), _SHARE
)
_ALLOWED |= {"max_shift_depth": Range(1, 10_000), "momentum": Range(0, 1), "weight_decay": _AMOUNT}
_WHOLE = ("trial", "seed", "shift_depth", "max_shift_depth", "weight_bits", "epochs")


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


def read_trials(path: str | Path, empty: bool = False) -> pd.DataFrame:
    """Read a trials table (a run directory or the CSV itself), which may be `empty`.

    One of an earlier version may lack `NEWER_COLUMNS`; of these the modelled energies can be
    computed (`search.complete_energies`).
    Raises FileNotFoundError if there is none and ValueError if it cannot be read, lacks columns or
    has no rows, and for the first line that no run can have left: a table that was cut, edited or
    put together from others is found by this.
    """
    path = Path(path)
    path = path / "trials.csv" if path.is_dir() else path
    if not path.exists():
        raise FileNotFoundError(f"trials={str(path)!r}: must be a run directory or a trials.csv")
    name = f"trials={str(path)!r}"
    try:
        text = path.read_text(encoding="utf-8")
        lines = _check_lines(text, name)
        require(lines or empty, f"{name}: must have at least one row")
        table = pd.read_csv(io.StringIO(text))
    except (OSError, UnicodeDecodeError, pd.errors.ParserError) as error:
        raise ValueError(f"{name}: is damaged: {error}") from error
    if "trial" in table.columns and "asked_after" not in table.columns:
        table["asked_after"] = table["trial"]  # by a serial search
    if "embodied_gco2eq" not in table.columns:  # by an earlier version
        table["embodied_gco2eq"] = math.nan
    # Earlier versions knew the published choices only, and no training that was not a full one.
    for column, earlier in {**EXTENSIONS, "budget": 1.0}.items():
        if column not in table.columns:
            table[column] = earlier
    known = [*table.columns, *NEWER_COLUMNS]
    missing = [column for column in COLUMNS if column not in known]
    if missing:
        raise ValueError(f"{name}: lacks the columns {', '.join(missing)}")
    _check_rows(table, lines, name)
    return table


def _check_lines(text: str, name: str) -> list[int]:
    """The line of each row; ValueError for one without as many values as the header has names."""
    require(text.endswith("\n"), f"{name}: is damaged: its last line must end in a line break")
    before = csv.field_size_limit(len(text))  # a long reason is no damage
    try:
        rows = csv.reader(io.StringIO(text, newline=""), strict=True)
        header = next(rows)
        twice = sorted({column for column in header if header.count(column) > 1})
        require(not twice, f"{name}: is damaged: line 1 names the column {twice} twice")
        lines = []
        for row in rows:
            right = len(row) == len(header)
            has = f"has {len(row)} values, must have {len(header)}"
            require(right, f"{name}: is damaged: line {rows.line_num} {has}")
            lines.append(rows.line_num)
    except csv.Error as error:
        raise ValueError(f"{name}: is damaged: line {rows.line_num}: {error}") from error
    finally:
        csv.field_size_limit(before)
    return lines


def _check_rows(table: pd.DataFrame, lines: Sequence[int], name: str) -> None:
    """ValueError naming the first line that no run can have left."""
    success = table["status"] == "SUCCESS"
    names = table["strategy"].map(lambda name: isinstance(name, str) and name.isidentifier())
    wrong = {
        f"status must be one of {', '.join(STATUSES)}": ~table["status"].isin(STATUSES),
        "strategy must be a name": ~names.astype(bool),  # one may have been registered elsewhere
    }
    for column, limits in _ALLOWED.items():
        if column in table:
            numbers = pd.to_numeric(table[column], errors="coerce")
            good = numbers.between(limits.low, limits.high) & ~numbers.isin(limits.excluded)
            if table[column].dtype == bool:
                good &= False
            if column in _WHOLE:
                good &= numbers % 1 == 0
            kind = "an integer" if column in _WHOLE else "a number"
            if column not in ("trial", "seed"):  # which no row is without
                good |= table[column].isna()
            wrong[f"{column} must be {kind} {limits}"] = ~good
    deepest = table["max_shift_depth"].fillna(math.inf)
    # On the numbers that are some: others were found above.
    depth, loss = (pd.to_numeric(table[n], errors="coerce") for n in ("shift_depth", "loss"))
    wrong |= {
        "shift_depth must be from 0 to max_shift_depth": ~(
            depth <= pd.to_numeric(deepest, "coerce")
        ),
        "loss must be a finite number where the status is SUCCESS": success & ~np.isfinite(loss),
        "must not be the same as another line": table.duplicated(),
    }
    for what, rows in wrong.items():
        if rows.any():
            raise ValueError(f"{name}: line {lines[int(rows.to_numpy().argmax())]}: {what}")


def read_runs(run_dirs: Sequence[str | Path]) -> pd.DataFrame:
    """The trials of a search under several seeds, one table below the other.

    Of several strategies in one table it is the first that counts; the others are named in a line
    that is printed. Raises ValueError where two runs have the same seed, or are of different
    strategies, data sets or networks, and what `read_trials` raises.
    """
    tables = []
    for run_dir in run_dirs:
        table = read_trials(run_dir)
        first, *others = table["strategy"].unique()
        if others:
            print(f"{run_dir}: trials of {first} only, without those of {', '.join(others)}")
        table = table[table["strategy"] == first]
        check_once(table, run_dir)
        tables.append(table)
    trials = pd.concat(tables, ignore_index=True)
    name = f"runs={[str(run_dir) for run_dir in run_dirs]}"
    for column in ("strategy", "dataset", "model", "max_shift_depth"):
        # A crashed trial did not come to say its data and network.
        values = sorted(map(str, trials[column].dropna().unique()))
        require(len(values) <= 1, f"{name}: must be of one {column}, are of {', '.join(values)}")
    if trials["seed"].nunique() < sum(table["seed"].nunique() for table in tables):
        raise ValueError(f"{name}: must be of different seeds")
    return trials


def check_once(trials: pd.DataFrame, run_dir: str | Path) -> None:
    """ValueError naming a trial that a strategy has twice under one seed."""
    twice = trials.duplicated(["strategy", "seed", "trial"])
    if twice.any():
        seed, trial = trials.loc[twice, ["seed", "trial"]].iloc[0]
        raise ValueError(
            f"trials={str(run_dir)!r}: must have trial {trial} of seed {seed} only once"
        )


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
