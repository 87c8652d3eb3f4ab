"""The directory of a run: held by one search at a time, and readable whatever happened to it.

`search.json` says what was asked for, by which versions, on what hardware; `trials.csv` has one
row per finished trial; `running.json` names the trials proposed and not finished. All are
replaced atomically, so a reader, or a search after a kill, finds whole files.
"""

import csv
import itertools
import json
import os
import platform
import shutil
import socket
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path

from dsnn_utils.paths import project_root, write_atomically
from dsnn_utils.runs.columns import STATUSES
from dsnn_utils.runs.table import read_trials, to_records

if sys.platform != "win32":
    import fcntl


DEFAULT_RUN = "runs/default"  # of every notebook; it may stay empty


@contextmanager
def locked(run_dir: Path):
    """Create the run directory and hold it; the system frees it even if this process is killed.

    Raises ValueError if another search holds it or it cannot be written.
    """
    name = f"run_dir={str(run_dir)!r}"
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        file = open(run_dir / ".lock", "a+")
    except OSError as error:
        raise ValueError(
            f"{name}: must be a directory that can be written ({error.strerror})"
        ) from error
    with file:
        try:
            if sys.platform != "win32":
                # Not lockf: whoever in this process closes another view of the file ends that.
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.seek(0)
            raise ValueError(
                f"{name}: is in use by another search ({file.read().strip()}), must be free"
            ) from None
        except OSError as error:
            warnings.warn(
                f"{name}: this file system has no locks ({error.strerror}); never run two searches "
                "here at once",
                stacklevel=4,
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


def open_run(run_dir: Path, settings: Mapping, n_trials: int) -> None:
    """Write `search.json`, or check that the directory belongs to the same settings.

    Raises ValueError naming each setting that differs, that the directory cannot be written, or
    that it has trials and does not say of what.
    """
    path = run_dir / "search.json"
    if path.exists():
        try:
            info = json.loads(path.read_text(encoding="utf-8"))
            known = info["settings"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"run_dir={str(run_dir)!r}: search.json is damaged: {error}") from None
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
        info |= {"n_trials": n_trials}
    elif (run_dir / "trials.csv").exists():
        raise ValueError(
            f"run_dir={str(run_dir)!r}: must be empty or hold a search.json besides its trials.csv"
        )
    else:
        info = {
            "settings": settings,
            "n_trials": n_trials,
            "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
            **environment(),
        }
    try:
        write_atomically(path, json.dumps(info, indent=2) + "\n")
    except OSError as error:
        raise ValueError(
            f"run_dir={str(run_dir)!r}: must be a directory that can be written ({error.strerror})"
        ) from error


def read_finished(run_dir: Path) -> list[dict]:
    """The rows of `trials.csv`, in the order the trials finished; empty if there is none.

    A last line that is not whole (the file was copied or cut by something else: the search itself
    replaces it at once) is dropped with a warning, and the file as it was kept beside it.
    Raises ValueError for other damage.
    """
    path = run_dir / "trials.csv"
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    header, *lines = text.split("\n")  # of a whole file the last one is empty
    if lines and (lines[-1] or (lines[:-1] and not _whole(lines[-2], header))):
        copies = (path.with_name(f"trials.csv.damaged{n or ''}") for n in itertools.count())
        copy = next(copy for copy in copies if not copy.exists())
        shutil.copyfile(path, copy)
        kept = lines[:-1] if lines[-1] else lines[:-2]
        write_atomically(path, "".join(line + "\n" for line in [header, *kept]))
        warnings.warn(
            f"trials={str(path)!r}: the last line is damaged and dropped, its trial will be run "
            f"again; the file as it was is kept as {copy.name}",
            stacklevel=4,
        )
    rows = to_records(read_trials(path))
    numbers = [row["trial"] for row in rows]
    twice = sorted({n for n in numbers if numbers.count(n) > 1})
    if twice:
        raise ValueError(f"trials={str(path)!r}: is damaged: holds trial {twice[0]} twice")
    return rows


def _whole(line: str, header: str) -> bool:
    if len(line) > csv.field_size_limit():  # not for this parser, nor the work of a cut
        return True
    try:
        (names,), (values,) = csv.reader([header]), csv.reader([line])
    except (ValueError, csv.Error):
        return False
    row = dict(zip(names, values, strict=False))
    return len(names) == len(values) and row.get("status", STATUSES[0]) in STATUSES


def read_running(run_dir: Path) -> list[dict]:
    """The trials proposed and perhaps not finished, as `write_running` left them."""
    path = run_dir / "running.json"
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    except ValueError:
        warnings.warn(f"{path} is damaged and ignored", stacklevel=4)
        return []


def write_running(rows: Sequence[Mapping], run_dir: Path) -> None:
    """Record the trials in flight; no file if there are none."""
    path = run_dir / "running.json"
    if rows:
        write_atomically(path, json.dumps(rows, indent=1) + "\n")
    else:
        path.unlink(missing_ok=True)


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


def read_settings(run_dir: str | Path) -> dict:
    """The settings a search was run with, from its `search.json`; of several runs put together
    those of the first.

    Raises FileNotFoundError where there is none.
    """
    path = Path(run_dir) / "search.json"
    if not path.exists():
        raise FileNotFoundError(f"run_dir={str(run_dir)!r}: must hold the search.json of a search")
    info = json.loads(path.read_text())
    return info.get("runs", [info])[0]["settings"]


def seed_dir(folder: str | Path, seed: int) -> Path:
    """Where in `folder` the run of one seed lies, if it holds a search under several seeds."""
    return Path(folder) / f"seed{seed}"


def find_runs(run_dir: str | Path, more_runs: Sequence[str | Path] = ()) -> list[Path]:
    """The run directories of a search under several seeds, from the project's root.

    Each name is that of a run directory or of a folder with the runs of several seeds (see
    `seed_dir`), in order of their seeds. Raises FileNotFoundError as `find_run`, which is asked
    for every other one.
    """
    found: list[Path] = []
    for name in (run_dir, *more_runs):
        folder = project_root() / name
        seeds = [] if (folder / "trials.csv").exists() else folder.glob("seed*/trials.csv")
        numbered = {path.parent.name.removeprefix("seed"): path.parent for path in seeds}
        several = [numbered[seed] for seed in sorted(filter(str.isdecimal, numbered), key=int)]
        found += several or [find_run(name)]
    return found


def find_run(run_dir: str | Path) -> Path:
    """The run directory, from the project's root; an example where none was asked for.

    Without trials in `DEFAULT_RUN` that is the committed `figures/demo`, what `make demo` once
    gave, so that a notebook about trials can be read and run before any search; says so when it is
    taken. Raises FileNotFoundError for any other directory without trials: it may be mistyped.
    """
    path = project_root() / run_dir
    if (path / "trials.csv").exists():
        return path
    if Path(run_dir) != Path(DEFAULT_RUN):
        raise FileNotFoundError(
            f"run_dir={str(run_dir)!r}: must be the directory of a run, it holds no trials.csv"
        )
    print(f"{run_dir} holds no trials yet: reading the committed example run, figures/demo")
    return project_root() / "figures" / "demo"
