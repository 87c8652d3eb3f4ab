"""The trials table: what its columns are, how it is read and how it is written.

One row per trial, that is per (configuration, shift depth, seed). Every analysis works on this
table alone, so it can be somebody else's.

`trial` numbers the trials in the order they were proposed, rows stand in the order they finished,
and `asked_after` is how many had finished when the trial was proposed: with several workers these
differ, and a search that resumes needs all three. Serially all are the row's number.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import pandas as pd

from dsnn_utils.runner import project_root

HYPERPARAMETERS = (
    "shift_depth",
    "shift_type",
    "weight_bits",
    "activation_integer_bits",
    "activation_fraction_bits",
    "rounding",
    "batch_size",
    "optimizer",
    "lr",
    "momentum",
    "weight_decay",
    "epochs",
    "data_fraction",
)
COLUMNS = (
    ("trial", "seed", "status", "reason", "strategy", "origin", "dataset", "model")
    + ("shift_depth", "max_shift_depth", *HYPERPARAMETERS[1:], "train_size")
    + ("val_accuracy", "val_cross_entropy", "loss", "energy_modelled_j_per_image")
    + ("energy_modelled_with_memory_j_per_image", "energy_measured_kwh", "emissions_gco2eq")
    + ("water_l", "embodied_gco2eq", "energy_measured_method", "duration_s", "started_at")
    + ("asked_after",)
)
STATUSES = ("SUCCESS", "CRASHED", "DIVERGED", "TIMEOUT", "MEMORYOUT")


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
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        raise ValueError(f"trials={str(path)!r}: lacks the columns {', '.join(missing)}")
    return table


def read_runs(run_dirs: Sequence[str | Path]) -> pd.DataFrame:
    """The trials of a search under several seeds, one table below the other.

    Of several strategies in one table it is the first that counts. Raises ValueError where two runs
    have the same seed, and what `read_trials` raises.
    """
    tables = [read_trials(run_dir) for run_dir in run_dirs]
    tables = [table[table["strategy"] == table["strategy"].iloc[0]] for table in tables]
    trials = pd.concat(tables, ignore_index=True)
    if trials["seed"].nunique() < sum(table["seed"].nunique() for table in tables):
        raise ValueError(f"runs={[str(d) for d in run_dirs]}: must be of different seeds")
    return trials


def read_settings(run_dir: str | Path) -> dict:
    """The settings a search was run with, from its `search.json`; of several runs put together
    those of the first.

    Raises FileNotFoundError where there is none.
    """
    path = Path(run_dir) / "search.json"
    if not path.exists():
        raise FileNotFoundError(f"run_dir={str(run_dir)!r}: must be the directory of a search")
    info = json.loads(path.read_text())
    return info.get("runs", [info])[0]["settings"]


def find_run(run_dir: str | Path) -> Path:
    """The run directory, from the project's root; the committed example run if it has no trials.

    The example (`figures/demo`) is what `make demo` once gave, so that a notebook about trials
    can be read and run before any search; says so when it is taken.
    """
    path = project_root() / run_dir
    if (path / "trials.csv").exists():
        return path
    print(f"{run_dir} holds no trials yet: reading the committed example run, figures/demo")
    return project_root() / "figures" / "demo"


def to_records(table: pd.DataFrame) -> list[dict]:
    """The rows as dicts of plain Python values, None where the table is empty."""
    return [
        {name: None if pd.isna(value) else value for name, value in row.items()}
        for row in table.astype(object).to_dict("records")
    ]


def write_atomically(path: Path, text: str) -> None:
    """Replace the file at once: whoever reads, and whenever it is killed, finds a whole file.

    Raises OSError naming the file, which then is as it was.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        reason = f"cannot be written ({error.strerror}) and is as it was before"
        raise OSError(error.errno, reason, str(path)) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
