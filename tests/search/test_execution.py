"""Several workers: proposals and results out of step, local processes, a Dask scheduler."""

import json
import os
import platform
import random
import time
import warnings

import psutil
import pytest
import torch
from test_search import INSTALLED, SLOW, failing, run, synthetic

from dsnn_utils.energy import EnergyMeter
from dsnn_utils.runs import read_trials
from dsnn_utils.search import SearchSettings, execution, loop
from dsnn_utils.search.execution import InProcess, make_executor, run_safely


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


# --- proposals and results out of step: no processes needed --------------------------------------


class Shuffled:
    """An executor whose trials end in a random order, as those of `n_workers` would."""

    def __init__(self, evaluate, n_workers, seed):
        self._evaluate, self._n_workers = evaluate, n_workers
        self._random, self._flights = random.Random(seed), []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def has_room(self):
        return len(self._flights) < self._n_workers

    def submit(self, *trial):
        self._flights.append(trial)

    def wait(self):
        self._random.shuffle(self._flights)
        number, point, seed = self._flights.pop()
        return [(number, run_safely(self._evaluate, point, seed))]


@pytest.fixture
def shuffled(monkeypatch):
    def use(n_workers, seed=0):
        monkeypatch.setattr(
            loop,
            "make_executor",
            lambda evaluate, **_: Shuffled(evaluate, n_workers, seed),
        )

    return use


def stop_after(count):
    def on_trial(row, trials):
        if len(trials) == count:
            raise KeyboardInterrupt

    return on_trial


# The slow ones replay what is recorded in test_search.
@pytest.mark.parametrize("strategy", [name for name in INSTALLED if name not in SLOW])
def test_a_parallel_run_resumes_with_any_number_of_workers(strategy, tmp_path, shuffled):
    """Replaying what is recorded asks every strategy for just the trials it had proposed."""
    before = ""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # the replay asks for something else
        for n_workers, count in ((3, 9), (1, 17), (4, 22)):
            shuffled(n_workers, seed=count)
            with pytest.raises(KeyboardInterrupt):
                run(tmp_path, failing, strategy=strategy, on_trial=stop_after(count))
            trials = read_trials(tmp_path)
            assert len(trials) == count and trials["trial"].is_unique
            assert (trials["asked_after"] <= trials.index).all()
            table = (tmp_path / "trials.csv").read_text()
            assert table.startswith(before)
            before = table
        shuffled(2)
        trials = run(tmp_path, failing, strategy=strategy)
    assert sorted(trials["trial"]) == list(range(26))
    assert trials["trial"].tolist() != list(range(26))
    assert not (tmp_path / "running.json").exists()


@pytest.mark.parametrize("strategy", INSTALLED)
def test_more_workers_than_trials_before_the_model(strategy, tmp_path, shuffled):
    shuffled(26)
    trials = run(tmp_path, strategy=strategy)
    assert (trials["asked_after"] == 0).all() and set(trials["status"]) == {"SUCCESS"}


@pytest.mark.parametrize("energy_of", [lambda point: point["shift_depth"], None])
def test_proposals_before_a_loss_is_known(energy_of):
    settings = SearchSettings(max_depth=20, epochs=3)
    search = settings.proposals(energy_of)
    asked = [search.ask() for _ in range(settings.n_initial + 2)]
    # The five evaluations of the default count among the initial ones.
    initial = settings.n_initial - 5
    assert [o for _, o in asked] == ["initial"] * initial + ["random"] * (len(asked) - initial)
    for point, _ in asked[:2]:
        search.tell(point, [0.5, point["shift_depth"]], True)
    assert search.ask()[1] in ("model", "promoted")


def test_trials_lost_in_flight_are_run_again_as_they_were_proposed(tmp_path, shuffled):
    shuffled(4)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, strategy="tpe", on_trial=stop_after(18))
    lost = json.loads((tmp_path / "running.json").read_text())
    assert len(lost) >= 4
    trials = run(tmp_path, strategy="tpe").set_index("trial")
    for row in lost:
        assert trials.loc[row["trial"], "lr"] == row["lr"]
        assert trials.loc[row["trial"], "asked_after"] == row["asked_after"]


def test_a_smaller_n_trials_than_there_are_runs_nothing(tmp_path, shuffled):
    shuffled(3)
    whole = run(tmp_path, strategy="random")

    def never(point, seed):
        raise AssertionError("must not be called")

    fewer = run(tmp_path, never, strategy="random", n_trials=20)
    assert fewer.equals(whole)
    assert len(run(tmp_path, strategy="random", n_trials=28)) == 28


def test_rows_taken_out_of_the_table_are_run_again(tmp_path, shuffled):
    shuffled(2)
    run(tmp_path, strategy="random")
    lines = (tmp_path / "trials.csv").read_text().splitlines(keepends=True)
    (tmp_path / "trials.csv").write_text("".join(lines[:9] + lines[11:20]))
    again = run(tmp_path, strategy="random")
    assert sorted(again["trial"]) == list(range(26))


def test_tables_of_before_are_read_as_serial(tmp_path):
    trials = run(tmp_path, strategy="random", n_trials=13)
    trials.drop(columns="asked_after").to_csv(tmp_path / "trials.csv", index=False)
    assert read_trials(tmp_path).equals(trials)
    assert trials["asked_after"].equals(trials["trial"])


# --- worker processes ----------------------------------------------------------------------------


class Target:
    """The synthetic problem; says where and how each trial ran."""

    def __init__(self, unpickled=None):
        self.unpickled = unpickled  # a file with a line per time that it arrived somewhere

    def __setstate__(self, state):
        self.__dict__.update(state)
        if self.unpickled:
            with open(self.unpickled, "a") as file:
                file.write(f"{os.getpid()}\n")

    def __call__(self, point, seed):
        time.sleep(0.02)
        where = {"pid": os.getpid(), "threads": torch.get_num_threads()}
        return synthetic(point, seed) | where


def test_two_local_workers(tmp_path, capfd):
    target, environment = Target(str(tmp_path / "unpickled")), dict(os.environ)
    trials = run(tmp_path / "run", target, strategy="random", n_workers=2)
    assert dict(os.environ) == environment  # Dask's nannies change it
    assert sorted(trials["trial"]) == list(range(26)) and set(trials["status"]) == {"SUCCESS"}
    assert (trials.index - trials["asked_after"]).max() >= 1  # two at once
    workers = set(trials["pid"])
    assert len(workers) == 2 and os.getpid() not in workers
    assert set(trials["threads"]) == {1}
    arrived = (tmp_path / "unpickled").read_text().split()
    assert sorted(map(int, arrived)) == sorted(workers)  # sent once, not with each trial
    assert not any(psutil.pid_exists(worker) for worker in workers)
    printed = capfd.readouterr()
    assert printed.out == "" and printed.err == ""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        more = run(tmp_path / "run", Target(), strategy="random", n_trials=30)
    assert more.head(26).equals(trials) and set(more["pid"][26:]) == {os.getpid()}


@pytest.fixture(scope="module")
def scheduler():
    from distributed import LocalCluster

    environment = dict(os.environ)
    with LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        memory_limit=None,
        dashboard_address="127.0.0.1:0",
        silence_logs="CRITICAL",
    ) as cluster:
        yield cluster.scheduler_address
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)


def test_the_workers_of_a_scheduler_are_used_and_left_running(tmp_path, scheduler):
    pids = []
    for name in ("a", "b"):
        trials = run(tmp_path / name, Target(), strategy="random", scheduler=scheduler)
        assert sorted(trials["trial"]) == list(range(26))
        pids.append(set(trials["pid"]))
    assert pids[0] == pids[1] and len(pids[0]) == 2


def test_an_interrupted_search_frees_the_workers_of_a_scheduler(tmp_path, scheduler):
    def slow(point, seed):
        time.sleep(0.01 if point["shift_depth"] == 20 else 1000)
        return synthetic(point, seed)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, slow, scheduler=scheduler, on_trial=stop_after(1))
    trials = run(tmp_path, Target(), scheduler=scheduler, n_trials=13)
    assert sorted(trials["trial"]) == list(range(13)) and set(trials["status"]) == {"SUCCESS"}


def test_a_scheduler_that_is_lost_ends_the_search(tmp_path, monkeypatch):
    from distributed import LocalCluster

    monkeypatch.setattr(execution, "CONNECT_S", 1)
    cluster = LocalCluster(n_workers=1, processes=False, dashboard_address="127.0.0.1:0",
                           protocol="tcp", silence_logs="CRITICAL")  # fmt: skip

    def close(row, trials):
        if len(trials) == 8:
            cluster.close()

    arguments = {"strategy": "random", "scheduler": cluster.scheduler_address}
    with pytest.raises(ConnectionError, match="scheduler='tcp.*: the connection was lost"):
        run(tmp_path, on_trial=close, **arguments)
    assert 8 <= len(read_trials(tmp_path)) <= 9
    assert len(run(tmp_path, strategy="random")) == 26


def test_what_the_workers_cannot_load_is_said(tmp_path, scheduler):
    class Broken:
        def __reduce__(self):
            return unpicklable, ()

    with pytest.raises(RuntimeError, match="cannot load the trials: .*no such data here"):
        run(tmp_path, Broken(), scheduler=scheduler)


def unpicklable():
    raise LookupError("no such data here")


class Measured:
    def __init__(self):
        self.meter = EnergyMeter(carbon_intensity_gco2eq_per_kwh=400.0)

    def __call__(self, point, seed):
        started_before = self.meter.hardware != "unknown"
        with self.meter.measure() as measurement:
            time.sleep(0.5)
        how = {"energy_measured_method": measurement.method, "started_before": started_before}
        return synthetic(point, seed) | how | {"pid": os.getpid()}


def test_each_worker_starts_its_own_energy_meter_once(tmp_path):
    trials = run(tmp_path, Measured(), strategy="random", n_trials=13, n_workers=2)
    assert not set(trials["energy_measured_method"]) & {"unknown", ""}
    for _, of_a_worker in trials.groupby("pid"):
        assert of_a_worker["started_before"].tolist() == [False] + [True] * (len(of_a_worker) - 1)


def page_faults_of_reused_memory(point, seed):
    import resource

    def use(times):
        for _ in range(times):
            torch.ones(2 << 20)  # 8 MiB, an activation of a batch of 128 images
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

    before = use(times=3)
    return {"loss": 0.0, "page_faults": use(times=20) - before}


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no mallopt")
def test_workers_keep_the_memory_of_freed_tensors():
    with make_executor(page_faults_of_reused_memory, isolate=True) as executor:
        while not executor.has_room():
            time.sleep(0.05)
        executor.submit(0, {}, 0)
        while not (ended := executor.wait()):
            pass
    (_, result) = ended[0]
    assert result["page_faults"] < 20 * 2048 / 4, result  # each tensor has 2048 pages of 4 KiB


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_workers": 0}, "n_workers=0: must be an integer of at least 1"),
        ({"n_workers": 1.5}, "n_workers=1.5: must be an integer of at least 1"),
        ({"n_workers": 2, "scheduler": "tcp://127.0.0.1:1"}, "n_workers=2: must be left out"),
        ({"trial_timeout_s": 0}, "trial_timeout_s=0: must be over 0 seconds"),
        ({"trial_timeout_s": float("nan")}, "trial_timeout_s=nan: must be over 0 seconds"),
        ({"scheduler": ""}, "scheduler='': must be the address of a running Dask scheduler"),
        ({"scheduler": 8786}, "scheduler=8786: must be the address of a running Dask scheduler"),
        ({"scheduler": "nowhere"}, "scheduler='nowhere': must be the address of a running Dask"),
        ({"scheduler": "tcp://127.0.0.1:1"}, "scheduler='tcp://127.0.0.1:1': must be the address"),
    ],
)
def test_bad_arguments(arguments, message, tmp_path, monkeypatch):
    monkeypatch.setattr(execution, "CONNECT_S", 0.5)
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "run", **arguments)
    assert not (tmp_path / "run" / "trials.csv").exists()


def test_dask_is_used_only_where_it_is_needed(monkeypatch):
    monkeypatch.setattr(execution, "DaskWorkers", lambda *arguments: arguments[1:])
    assert isinstance(make_executor(synthetic), InProcess)
    assert make_executor(synthetic, isolate=True) == (1, None, None)
    assert make_executor(synthetic, trial_timeout_s=5) == (1, None, 5)
    assert make_executor(synthetic, n_workers=2) == (2, None, None)
    assert make_executor(synthetic, scheduler="tcp://host:1") == (1, "tcp://host:1", None)
