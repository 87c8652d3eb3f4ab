"""Where trials run: in this process, in worker processes, or on the workers of a Dask scheduler.

An executor is asked `has_room`, given trials by `submit`, and reports from `wait` those that
ended, in the order of ending. Whatever goes wrong in a trial becomes its status and reason:
an exception in any executor; a trial that exceeds its time limit or takes its process along (the
out-of-memory killer, a segmentation fault) only where it has a process of its own.
"""

import ctypes
import math
import os
import signal
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from dsnn_utils.checks import check_integer, require_choice
from dsnn_utils.runs.columns import BOOKKEEPING, STATUSES, hyperparameters_among
from dsnn_utils.runs.table import python_value
from dsnn_utils.shift.models import own_models, register_model
from dsnn_utils.shift.specs import own_shift_types, register_shift_type
from dsnn_utils.training.loop import Diverged

if TYPE_CHECKING:  # a slow import, done where it is used
    from distributed import Future

POLL_S = 0.2  # how often lost workers, overdue trials and new workers are looked for
CONNECT_S = 10.0  # for a scheduler to answer
PATIENCE_S = 60.0  # without any worker, before the user is told what is waited for
Trial = tuple[int, dict]  # its number and its result columns


def make_executor(
    evaluate: Callable[[dict, int], dict],
    n_workers: int = 1,
    scheduler: str | None = None,
    trial_timeout_s: float | None = None,
    isolate: bool = False,
):
    """The simplest executor that does what is asked; without any wish, this process."""
    check_execution(n_workers, scheduler, trial_timeout_s)
    if n_workers == 1 and scheduler is None and trial_timeout_s is None and not isolate:
        return InProcess(evaluate)
    return DaskWorkers(evaluate, n_workers, scheduler, trial_timeout_s)


def check_execution(n_workers, scheduler, trial_timeout_s) -> None:
    """Raises ValueError naming the parameter, its value and what is allowed."""
    check_integer("n_workers", n_workers, 1)
    if scheduler is not None and not (isinstance(scheduler, str) and scheduler):
        raise ValueError(
            f"scheduler={scheduler!r}: must be the address of a running Dask scheduler, such as "
            "'tcp://host:8786', or None"
        )
    if scheduler is not None and n_workers != 1:
        raise ValueError(
            f"n_workers={n_workers}: must be left out (1) with scheduler={scheduler!r}, all of "
            "whose workers are used"
        )
    number = isinstance(trial_timeout_s, int | float)
    if trial_timeout_s is not None and not (number and 0 < trial_timeout_s < math.inf):
        raise ValueError(f"trial_timeout_s={trial_timeout_s!r}: must be over 0 seconds, or None")


def run_safely(evaluate, point: Mapping, seed: int) -> dict:
    """Run one trial; an exception or a loss that is not finite becomes a status and a reason.

    Numbers come back as Python's, whatever else is no text as text: so it can be sent and written.
    """
    try:
        result = {name: python_value(value) for name, value in evaluate(dict(point), seed).items()}
        _check_result(result)
    except Diverged as error:
        return {"status": "DIVERGED", "reason": str(error)}
    except (Exception, SystemExit) as error:  # a crashed trial must not end the search
        status = "MEMORYOUT" if _out_of_memory(error) else "CRASHED"
        return {"status": status, "reason": f"{type(error).__name__}: {error}"}
    if result["status"] == "SUCCESS" and not math.isfinite(result.get("loss", math.nan)):
        result |= {"status": "DIVERGED", "reason": f"loss={result.get('loss')}: not finite"}
    return result


def _check_result(result: dict) -> None:
    """ValueError for a result that would not fit into the trials table; sets a missing status."""
    ours = sorted([*(result.keys() & {*BOOKKEEPING}), *hyperparameters_among(result)])
    if ours:
        raise ValueError(f"result {ours[0]!r}: must not be a column that the search fills itself")
    status = result.setdefault("status", "SUCCESS")
    require_choice("result status", status, STATUSES)
    if status == "SUCCESS" and not isinstance(result.get("loss"), int | float):
        raise ValueError(f"result loss={result.get('loss')!r}: must be a number")


def _out_of_memory(error: BaseException) -> bool:
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or "DefaultCPUAllocator" in str(error)  # PyTorch's, a plain RuntimeError


class InProcess:
    """One trial at a time in this process, without Dask."""

    def __init__(self, evaluate):
        self._evaluate, self._trial = evaluate, None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def has_room(self) -> bool:
        return self._trial is None

    def submit(self, number: int, point: Mapping, seed: int) -> None:
        self._trial = number, point, seed

    def wait(self) -> list[Trial]:
        number, point, seed = self._trial
        result = run_safely(self._evaluate, point, seed)
        self._trial = None
        return [(number, result)]


@dataclass
class _Flight:
    """A trial that runs on a worker."""

    number: int
    worker: str
    started: float = field(default_factory=time.monotonic)
    started_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))


class DaskWorkers:
    """One trial per Dask worker: processes of this machine, or all workers of a scheduler.

    Each worker is sent `evaluate` (with its data) once, when it joins, and gets one trial at a
    time, bound to it: Dask itself would move a trial that kills its workers from one to the next.
    Workers may come and go. A trial whose worker dies is CRASHED, or MEMORYOUT if this machine's
    kernel counted an out-of-memory kill meanwhile. A trial over `trial_timeout_s` is a TIMEOUT and
    its worker is killed; its nanny (Dask's default) starts the next.

    A worker computes with as many threads as Dask gave it: one, but all of PyTorch's for a single
    local worker. Raises ValueError if no scheduler answers at the address `scheduler`.
    """

    def __init__(
        self,
        evaluate,
        n_workers: int = 1,
        scheduler: str | None = None,
        trial_timeout_s: float | None = None,
    ):
        from distributed import Client

        self._evaluate, self._timeout_s = evaluate, trial_timeout_s
        self._token = uuid.uuid4().hex  # tells this search from others on the same workers
        self._environment = dict(os.environ)
        self._cluster = None if scheduler is not None else _local_cluster(n_workers)
        self._where = "the local cluster" if scheduler is None else f"scheduler={scheduler!r}"
        try:
            self._client = Client(
                scheduler or self._cluster, timeout=CONNECT_S, set_as_default=False
            )
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{self._where}: must be the address of a running Dask scheduler ({error})"
            ) from error
        self._alive: set[str] = set()
        self._ready: set[str] = set()
        self._idle: list[str] = []
        self._flights: dict[Future, _Flight] = {}
        self._ended = threading.Event()
        self._lonely_since = time.monotonic()
        self._oom_kills = _count_oom_kills()
        if scheduler is None:
            self._client.wait_for_workers(n_workers)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """Stop what still runs; a scheduler's workers go back to it, local ones end."""
        if self._cluster is None:
            with suppress(Exception):  # there is nothing to clean on a scheduler that is gone
                for flight in self._flights.values():
                    self._kill(flight.worker)
                left = [worker for worker in self._ready if worker in self._client.nthreads()]
                self._client.run(_forget, self._token, workers=left, on_error="ignore")
        self._client.close()
        if self._cluster is not None:
            self._cluster.close()
            # Dask sets variables of this process (PYTHONHASHSEED, threads) to pass them on.
            for name in os.environ.keys() - self._environment.keys():
                del os.environ[name]
            os.environ.update(self._environment)

    def has_room(self) -> bool:
        self._look_for_workers()
        return bool(self._idle)

    def submit(self, number: int, point: Mapping, seed: int) -> None:
        worker = self._idle.pop(0)
        # Not pure: Dask takes pure calls with the same arguments for one task.
        future = self._client.submit(
            _run, self._token, dict(point), seed, workers=[worker], pure=False
        )
        future.add_done_callback(lambda _: self._ended.set())
        self._flights[future] = _Flight(number, worker)

    def wait(self) -> list[Trial]:
        """The trials that ended meanwhile; none, if a worker may have become free instead."""
        self._ended.wait(POLL_S)
        self._ended.clear()  # before looking, so that what ends meanwhile is not slept through
        self._look_for_workers()
        ended = []
        for future, flight in list(self._flights.items()):
            result = self._result(future, flight)
            if result is not None:
                ended.append((flight.number, result))
                del self._flights[future]
                future.cancel()  # nobody is to run it again
        return ended

    def _result(self, future, flight: _Flight) -> dict | None:
        """The result columns of a trial that ended, None while it runs."""
        duration_s = time.monotonic() - flight.started
        failed = {"status": "CRASHED", "started_at": flight.started_at, "duration_s": duration_s}
        if future.status == "finished":
            with suppress(Exception):  # the worker may have died with its result
                # None comes from a process that took the place of this worker, see `_run`.
                if (result := future.result(timeout=CONNECT_S)) is not None:
                    self._idle.append(flight.worker)
                    return result
        if future.status != "pending" or flight.worker not in self._alive:
            self._ready.discard(flight.worker)
            return failed | self._cause_of_death()
        if self._timeout_s is not None and duration_s > self._timeout_s:
            self._kill(flight.worker)
            reason = f"not finished within trial_timeout_s={self._timeout_s:g}"
            return failed | {"status": "TIMEOUT", "reason": reason}
        return None

    def _cause_of_death(self) -> dict:
        kills, self._oom_kills = self._oom_kills, _count_oom_kills()
        # The count is this machine's, and the workers of a scheduler may be on others.
        if self._cluster is not None and self._oom_kills > kills:
            reason = "its process was killed by the system, which was out of memory"
            return {"status": "MEMORYOUT", "reason": reason}
        return {"reason": "its worker process died (killed, perhaps out of memory)"}

    def _look_for_workers(self) -> None:
        """Notice workers that joined or left; those that joined are sent what to evaluate."""
        try:
            self._alive = set(self._client.nthreads())
            joined = self._send(sorted(self._alive - self._ready))
        except OSError as error:
            raise ConnectionError(
                f"{self._where}: the connection was lost; what is finished is on disk, the same "
                "call goes on from there"
            ) from error
        self._ready = (self._ready | joined) & self._alive
        self._idle = sorted((joined | set(self._idle)) & self._ready)
        if self._ready:
            self._lonely_since = time.monotonic()
        elif time.monotonic() - self._lonely_since > PATIENCE_S:
            self._lonely_since = math.inf  # said once
            warnings.warn(f"{self._where}: waiting for a free worker", stacklevel=2)

    def _send(self, workers: list[str]) -> set[str]:
        """Send `evaluate` to those of the workers that are free; returns them."""
        if not workers:
            return set()
        # A worker that dies meanwhile answers with an exception, which is neither True nor False.
        busy = self._client.run(_is_busy, workers=workers, on_error="return")
        free = [worker for worker in workers if busy.get(worker) is False]
        # Networks and shift types of one's own are known to this process only.
        own = own_models(), own_shift_types()
        arguments = (self._token, self._evaluate, self._cluster is not None, *own)
        sent = self._client.run(_receive, *arguments, workers=free, on_error="return")
        for worker, failure in sent.items():
            if failure is not None and worker in self._client.nthreads():
                raise RuntimeError(f"worker {worker} cannot load the trials: {failure!r}")
        return {worker for worker, failure in sent.items() if failure is None}

    def _kill(self, worker: str) -> None:
        """Kill a worker process, by its nanny (it may be too busy itself) or by its own hand."""
        for nanny in (True, False):
            with suppress(Exception):  # it may be gone already
                if self._client.run(_die, workers=[worker], nanny=nanny, on_error="ignore"):
                    return


def _local_cluster(n_workers: int):
    import dask
    from distributed import LocalCluster

    dask.config.set(
        {
            # The cluster gives up a worker that is not back after 15 s, and its nanny, which is
            # starting the next. A busy machine takes longer; a search of one worker would then
            # wait for ever.
            "distributed.deploy.lost-worker-timeout": "365d",
            # Dask would look after itself every 20 ms and sample the trial's stack every 10 ms,
            # which takes processor time (and measured energy) from the trials.
            "distributed.admin.tick.interval": "1s",
            "distributed.worker.profile.enabled": False,
        }
    )
    return LocalCluster(
        n_workers=n_workers,
        threads_per_worker=1 if n_workers > 1 else torch.get_num_threads(),
        processes=True,
        memory_limit=None,  # Dask's own limit would pause a worker, and then kill it
        dashboard_address="127.0.0.1:0",  # a free port: None would mean 8787 all the same
        scheduler_kwargs={"dashboard": False},
        silence_logs="CRITICAL",
    )


def _count_oom_kills() -> int:
    """How many processes this machine's kernel has killed for want of memory (0 if unknown)."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


# What runs on the workers, from here on.

_received: dict[str, Callable] = {}  # what a worker process evaluates, by search


def _is_busy(dask_worker) -> bool:
    """Whether a trial of a search that is gone still runs there."""
    return bool(dask_worker.active_threads)


def _receive(token: str, evaluate, local: bool, models: Mapping, shift_types: Mapping) -> None:
    for name, build in models.items():
        register_model(name, build)
    for name, quantize in shift_types.items():
        register_shift_type(name, quantize)
    _received[token] = evaluate
    _keep_freed_memory()
    if local:  # Ctrl-C goes to all processes; the search ends its workers itself
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _keep_freed_memory() -> None:
    """Let the C library keep what is freed, instead of asking the kernel again for every tensor.

    Dask starts its workers with MALLOC_TRIM_THRESHOLD_=65536, against memory that is never given
    back; with it, training spends more than a third of its time on page faults.
    """
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
    with suppress(AttributeError, OSError, TypeError):  # no glibc: nothing to mend
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(mmap_threshold, 32 << 20)  # bytes; glibc allows no more
        mallopt(trim_threshold, 1 << 30)


def _forget(token: str) -> None:
    _received.pop(token, None)


def _run(token: str, point: dict, seed: int) -> dict | None:
    """Run one trial; None in a process that took the place of the one the trial was sent to."""
    from distributed import get_worker

    if token not in _received:
        return None
    torch.set_num_threads(get_worker().state.nthreads)
    return run_safely(_received[token], point, seed)


def _die(dask_worker) -> None:
    from distributed import Nanny

    nanny = isinstance(dask_worker, Nanny)
    pid = dask_worker.pid if nanny else os.getpid()
    if pid is not None:
        os.kill(pid, signal.SIGKILL)
