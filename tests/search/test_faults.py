"""What may go wrong while a search runs, brought about on purpose: nothing finished is lost."""

import errno
import itertools
import json
import multiprocessing
import os
import random
import re
import signal
import sys
import time
import warnings
from contextlib import suppress
from pathlib import Path

import dask
import psutil
import pytest
from test_search import run, synthetic

from dsnn_utils.runs import read_trials
from dsnn_utils.search import execution
from dsnn_utils.training import Diverged

FAULTS = {  # told apart by their weight decay
    0.0011: "raises",
    0.0012: "nan",
    0.0013: "inf",
    0.0014: "diverges",
    0.0015: "hangs",
    0.0016: "is killed",
    0.0017: "is out of memory",
    0.0018: "exits",
    0.0019: "hangs hard",
}
NEED_A_PROCESS = ("hangs", "hangs hard", "is killed")


def faulty(point, seed):
    """The synthetic problem, with the fault that the weight decay names."""
    match FAULTS.get(point["weight_decay"]):
        case "raises":
            raise RuntimeError("a message\nof two lines, with a comma")
        case "nan":
            return synthetic(point, seed) | {"loss": float("nan")}
        case "inf":
            return synthetic(point, seed) | {"loss": float("inf")}
        case "diverges":
            raise Diverged(2, 30)
        case "hangs":
            time.sleep(1000)
        case "hangs hard":  # never lets another thread run
            re.match("(a+)+$", "a" * 60 + "b")
        case "is killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "is out of memory":
            raise MemoryError
        case "exits":
            sys.exit(3)
    return synthetic(point, seed) | {"model": (_ for _ in ())}  # could not be sent as it is


def seeds(*faults):
    return [{"weight_decay": w} for w, fault in FAULTS.items() if fault in faults]


EXPECTED = {
    "raises": ("CRASHED", "RuntimeError: a message of two lines, with a comma"),
    "nan": ("DIVERGED", "loss=nan: not finite"),
    "inf": ("DIVERGED", "loss=inf: not finite"),
    "diverges": ("DIVERGED", "epoch 2"),
    "hangs": ("TIMEOUT", "not finished within trial_timeout_s=3"),
    "hangs hard": ("TIMEOUT", "not finished within trial_timeout_s=3"),
    "is killed": ("CRASHED", "its worker process died (killed, perhaps out of memory)"),
    "is out of memory": ("MEMORYOUT", "MemoryError"),
    "exits": ("CRASHED", "SystemExit: 3"),
}


def check(trials, faults, expected=EXPECTED):
    assert trials["trial"].is_unique and not trials["reason"].str.contains("\n", na=False).any()
    for _, row in trials.iterrows():
        fault = FAULTS.get(row["weight_decay"])
        if fault is None:
            assert row["status"] == "SUCCESS", row["reason"]
        else:
            status, reason = expected[fault]
            assert row["status"] == status and reason in row["reason"], (fault, row["reason"])
            faults = [f for f in faults if f != fault]
    assert not faults


@pytest.mark.parametrize("n_workers", [1, 2])
def test_every_kind_of_fault_costs_its_trial_only(n_workers, tmp_path, capfd, monkeypatch):
    expected, faults = EXPECTED, list(FAULTS.values())
    if n_workers == 1:
        faults.remove("hangs")  # hanging hard is worse, and each of them takes a while
        # As if the kernel had counted an out-of-memory kill.
        monkeypatch.setattr(execution, "_count_oom_kills", itertools.count().__next__)
        reason = "its process was killed by the system, which was out of memory"
        expected = expected | {"is killed": ("MEMORYOUT", reason)}
    trials = run(
        tmp_path,
        faulty,
        seed_configurations=seeds(*faults),
        strategy="random",
        n_trials=24,
        n_workers=n_workers,
        trial_timeout_s=3,
    )
    assert sorted(trials["trial"]) == list(range(24))
    check(trials, faults, expected)
    overdue = trials[trials["status"] == "TIMEOUT"]
    assert (overdue["duration_s"] >= 3).all() and overdue["started_at"].notna().all()
    assert capfd.readouterr().err == ""


@pytest.mark.timeout(300)
def test_a_worker_that_is_slow_to_come_back_is_waited_for(tmp_path):
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "1ms"}):  # Dask's: 15 s
        arguments = {"seed_configurations": seeds("is killed"), "strategy": "random"}
        trials = run(tmp_path, faulty, **arguments, isolate=True)
    check(trials, ["is killed"])


def test_in_this_process_what_raises_costs_its_trial_only(tmp_path):
    faults = [fault for fault in FAULTS.values() if fault not in NEED_A_PROCESS]
    check(run(tmp_path, faulty, seed_configurations=seeds(*faults), strategy="random"), faults)


@pytest.mark.parametrize("strategy", ["smac_mf", "tpe"])
def test_the_surrogate_survives_faults(strategy, tmp_path):
    faults = [fault for fault in FAULTS.values() if fault not in NEED_A_PROCESS]
    arguments = {"seed_configurations": seeds(*faults), "strategy": strategy, "n_trials": 34}
    trials = run(tmp_path, faulty, **arguments)
    check(trials, faults)
    assert (trials["origin"] == "model").any()


# --- the search itself is killed -----------------------------------------------------------------


FRESH = multiprocessing.get_context("forkserver")
FRESH.set_forkserver_preload(["dsnn_utils.search", "optuna", "distributed"])  # imported once


def search_alone(run_dir, n_workers, n_trials, strategy):
    """What a process of its own runs; a trial takes about 20 ms."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored if tests run with nohup
    os.fsync = lambda descriptor: None
    output = os.open(f"{run_dir}.out", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    log = f"{run_dir}.log"

    def evaluate(point, seed):
        with open(log, "a") as file:
            print(os.getpid(), file=file)
        time.sleep(0.02)
        return synthetic(point, seed)

    run(run_dir, evaluate, strategy=strategy, n_workers=n_workers, n_trials=n_trials)


@pytest.fixture
def start(tmp_path):
    started = []

    def start(n_workers=1, n_trials=40, strategy="tpe"):
        run_dir = tmp_path / "run"
        run_dir.mkdir(exist_ok=True)
        process = FRESH.Process(target=search_alone, args=(run_dir, n_workers, n_trials, strategy))
        process.start()
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()


def finished(run_dir):
    """The number of finished trials; reading must never fail."""
    if not (run_dir / "trials.csv").exists():
        return 0
    trials = read_trials(run_dir)
    assert trials["trial"].is_unique and trials["status"].notna().all()
    return len(trials)


def wait_for(run_dir, count, process):
    while finished(run_dir) < count:
        assert process.is_alive(), Path(f"{run_dir}.out").read_text()
        time.sleep(0.005)


@pytest.mark.parametrize(("n_workers", "kills"), [(1, 8), (2, 2)])
def test_kills_at_random_moments(n_workers, kills, tmp_path, start):
    chance = random.Random(0)
    before, run_dir = "", tmp_path / "run"
    for kill in range(kills):
        process = start(n_workers)
        wait_for(run_dir, 40 // (kills + 1) * (kill + 1) - 3, process)
        time.sleep(chance.uniform(0, 0.05))
        process.kill()
        process.join()
        finished(run_dir)
        table = (run_dir / "trials.csv").read_text()
        assert table.startswith(before)  # nothing that was finished is lost or changed
        before = table
    evaluations = Path(f"{run_dir}.log").read_text().split()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        trials = run(run_dir, strategy="tpe", n_trials=40)
    assert sorted(trials["trial"]) == list(range(40))
    assert (run_dir / "trials.csv").read_text().startswith(before)
    # Each kill cost at most the trials in flight, and the workers ended by themselves.
    assert len(evaluations) <= finished_before(before) + kills * n_workers
    for worker in set(evaluations):
        wait_gone(int(worker))


def finished_before(table):
    return len(table.splitlines()) - 1


def wait_gone(pid):
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.05)


@pytest.mark.parametrize("n_workers", [1, 2])
def test_control_c_in_a_terminal(n_workers, tmp_path, start):
    process = start(n_workers, n_trials=10_000, strategy="random")  # it cannot end before that
    wait_for(tmp_path / "run", 8, process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers as well
    process.join()
    output = Path(f"{tmp_path}/run.out").read_text()
    assert output.count("Traceback") == 1 and output.rstrip().endswith("KeyboardInterrupt")
    n_trials = finished(tmp_path / "run") + 8
    assert n_trials >= 16
    trials = run(tmp_path / "run", strategy="random", n_trials=n_trials)
    assert set(trials["status"]) == {"SUCCESS"} and len(trials) == n_trials


def test_a_second_search_in_the_same_directory_is_refused(tmp_path, start):
    process = start(n_trials=10_000)
    wait_for(tmp_path / "run", 15, process)
    with pytest.raises(ValueError, match=f"is in use by another search .process {process.pid} on"):
        run(tmp_path / "run", strategy="tpe", n_trials=40)
    process.kill()
    process.join()
    n_trials = finished(tmp_path / "run") + 1
    assert len(run(tmp_path / "run", strategy="tpe", n_trials=n_trials)) == n_trials  # free again


def test_the_table_is_whole_at_every_moment(tmp_path, start):
    seen = []
    process, running = start(), tmp_path / "run" / "running.json"
    while process.is_alive():
        seen.append(finished(tmp_path / "run"))
        with suppress(FileNotFoundError):
            assert all("lr" in row for row in json.loads(running.read_text()))
    assert process.exitcode == 0 and seen == sorted(seen)
    assert len(set(seen)) > 5 and finished(tmp_path / "run") == 40


# --- the disk ------------------------------------------------------------------------------------


def failing_disk(monkeypatch, number, when):
    """Writing fails from the moment on that `when()` is true."""
    replace = os.replace

    def refuse(*arguments):
        if when():
            raise OSError(number, os.strerror(number))
        return replace(*arguments)

    monkeypatch.setattr(os, "replace", refuse)


def test_a_full_disk_ends_the_search_and_loses_nothing(tmp_path, monkeypatch):
    with monkeypatch.context() as context:
        failing_disk(context, errno.ENOSPC, lambda: finished(tmp_path) >= 12)
        with pytest.raises(OSError, match="No space left on device.*is as it was before"):
            run(tmp_path, strategy="tpe")
    assert finished(tmp_path) == 12
    assert not list(tmp_path.glob("*.tmp")) and not list(tmp_path.glob(".*.tmp"))
    assert len(run(tmp_path, strategy="tpe")) == 26


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EACCES])
def test_a_directory_that_cannot_be_written_is_refused_at_once(number, tmp_path, monkeypatch):
    run(tmp_path / "old", strategy="random", n_trials=20)

    def never(point, seed):
        raise AssertionError("must not be called")

    table = (tmp_path / "old" / "trials.csv").read_text()
    failing_disk(monkeypatch, number, lambda: True)
    for name in ("old", "new"):
        with pytest.raises(ValueError, match=f"run_dir=.*{name}.*: must be a directory that can"):
            run(tmp_path / name, never, strategy="random")
    assert (tmp_path / "old" / "trials.csv").read_text() == table


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_read_only_directory_is_refused_at_once(tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(ValueError, match="must be a directory that can be written"):
        run(tmp_path, strategy="random")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_a_cut_last_line_is_dropped_and_kept_aside(share, tmp_path):
    whole = run(tmp_path, strategy="tpe", n_trials=20)
    text = (tmp_path / "trials.csv").read_text()
    start_of_last = text.rstrip("\n").rfind("\n") + 1
    cut = start_of_last + 1 + int(share * (len(text) - start_of_last - 2))
    (tmp_path / "trials.csv").write_text(text[:cut])
    with pytest.warns(UserWarning, match="last line is damaged and dropped.*trials.csv.damaged"):
        again = run(tmp_path, strategy="tpe", n_trials=20)
    assert again.equals(whole) and (tmp_path / "trials.csv").read_text() == text
    assert (tmp_path / "trials.csv.damaged").read_text() == text[:cut]


def test_a_last_line_of_garbage_is_dropped(tmp_path):
    whole = run(tmp_path, strategy="tpe", n_trials=20)
    text = (tmp_path / "trials.csv").read_text()
    for garbage in ("\0\0\0\0\0\n", "\0" * 100, "19,0,SUC\n", 'x"y,z\n'):
        (tmp_path / "trials.csv").write_text(text + garbage)
        with pytest.warns(UserWarning, match="last line is damaged"):
            assert run(tmp_path, strategy="tpe", n_trials=20).equals(whole)


def test_other_damage_is_refused_and_named(tmp_path):
    run(tmp_path, strategy="tpe", n_trials=20)
    table, settings = tmp_path / "trials.csv", tmp_path / "search.json"
    text, known = table.read_text(), settings.read_text()
    lines = text.splitlines(keepends=True)
    for damaged, message in (
        ("".join([*lines, lines[5]]), "line 22: must not be the same as another line"),
        (text[:40], "its last line must end in a line break"),
        (lines[0][:40] + "\n", "lacks the columns"),
        ("", "is damaged"),
        ("".join([*lines[:5], "1,2," * 50 + "\n", *lines[5:]]), "is damaged"),
    ):
        table.write_text(damaged)
        with pytest.raises(ValueError, match=message):
            run(tmp_path, strategy="tpe", n_trials=20)
        assert table.read_text() == damaged
    table.write_text(text)
    settings.write_text(known[:100])
    with pytest.raises(ValueError, match="settings=.*search.json.*must be a file of JSON"):
        run(tmp_path, strategy="tpe", n_trials=20)


def test_a_damaged_list_of_running_trials_is_ignored(tmp_path):
    run(tmp_path, strategy="tpe", n_trials=20)
    (tmp_path / "running.json").write_text('[{"trial": 20, "lr')
    with pytest.warns(UserWarning, match="running.json is damaged and ignored"):
        assert len(run(tmp_path, strategy="tpe", n_trials=25)) == 25


def test_without_locks_the_user_is_told(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def no_locks(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.warns(UserWarning, match="this file system has no locks"):
        run(tmp_path, strategy="random", n_trials=13)
