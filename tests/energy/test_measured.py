"""Measured energy: what a tracker can do wrong, and the protocol around it."""

import dataclasses
import logging
import math
import multiprocessing
import os
import pickle
import socket
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from dsnn_utils.energy import (
    EnergyMeter,
    Measurement,
    chance_to_rank,
    grid_intensity_gco2eq_per_kwh,
    mean_and_half_width,
    measure_inference,
    measured,
    repetitions_to_rank,
    summarise_readings,
    take_readings,
)
from dsnn_utils.energy import readings as readings_module

WORK_S = 0.15


@pytest.fixture(scope="module")
def session_meter():
    """The slow first start of CodeCarbon happens here, once."""
    with EnergyMeter("FRA", pue=1.5, wue_l_per_kwh=1.8) as meter:
        yield meter


@pytest.fixture
def meter(session_meter, monkeypatch):
    monkeypatch.setattr(measured, "MIN_DURATION_S", 0.05)
    return session_meter


def work(seconds=WORK_S):
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def assert_untrusted(measurement, reason):
    assert not measurement.trusted and reason in measurement.reason
    assert math.isnan(measurement.energy_measured_kwh)
    assert math.isnan(measurement.emissions_gco2eq) and math.isnan(measurement.water_l)


def assert_recovers(meter):
    with meter.measure() as measurement:
        work()
    assert measurement.trusted, measurement.reason


# --- a measurement that works


def test_a_measurement_is_complete_and_consistent(meter):
    with meter.measure() as measurement:
        assert measurement.reason == "not finished" and not measurement.trusted
        work()
    assert measurement.trusted and measurement.reason == ""
    assert measurement.duration_s >= WORK_S
    energy = measurement.energy_measured_kwh
    watts = energy * 3.6e6 / measurement.duration_s
    assert 0.5 < watts < 5000
    intensity = grid_intensity_gco2eq_per_kwh("FRA")
    assert measurement.emissions_gco2eq == pytest.approx(energy * intensity)
    assert measurement.water_l == pytest.approx(energy * 1.8)
    assert measurement.method == meter.method != "unknown"
    assert measurement.mode == meter.mode == "process"
    assert "threads" in meter.hardware and "GB RAM" in meter.hardware


def test_measurements_do_not_contain_what_happens_between_them(meter):
    with meter.measure() as first:
        work()
    work(0.5)
    with meter.measure() as second:
        work()
    first_power, second_power = (m.energy_measured_kwh / m.duration_s for m in (first, second))
    assert second_power < 2 * first_power  # with the pause in it would be four times as high


def test_carbon_intensity_can_be_given():
    with EnergyMeter("FRA", carbon_intensity_gco2eq_per_kwh=1000.0) as meter:
        with meter.measure() as measurement:
            work(0.6)
    assert measurement.emissions_gco2eq == pytest.approx(1000 * measurement.energy_measured_kwh)


def test_an_error_in_the_block_passes_through_and_is_measured(meter):
    with pytest.raises(ZeroDivisionError), meter.measure() as measurement:
        work()
        _ = 1 / 0
    assert measurement.trusted and measurement.energy_measured_kwh > 0
    assert_recovers(meter)


# --- readings that must not be passed on


def reading(meter, monkeypatch, **changed):
    stop_task = meter._tracker.stop_task
    monkeypatch.setattr(
        meter._tracker, "stop_task", lambda: dataclasses.replace(stop_task(), **changed)
    )


@pytest.mark.parametrize("energy_kwh", [0.0, -1e-6, math.nan, math.inf])
def test_an_impossible_energy_is_not_trusted(meter, monkeypatch, energy_kwh):
    with monkeypatch.context() as patch:
        reading(meter, patch, energy_consumed=energy_kwh)
        with meter.measure() as measurement:
            work()
    assert_untrusted(measurement, f"the tracker read {energy_kwh} kWh")
    assert_recovers(meter)


def test_a_short_block_is_not_trusted(meter):
    with meter.measure() as measurement:
        pass
    assert_untrusted(measurement, "is too short (under 0.05 s)")


def test_an_unknown_method_is_not_trusted(meter, monkeypatch):
    monkeypatch.setattr(meter, "method", "unknown")
    with meter.measure() as measurement:
        work()
    assert_untrusted(measurement, "does not say how it measures")


def test_an_inner_measurement_is_not_trusted_and_does_not_disturb(meter):
    with meter.measure() as outer:
        with meter.measure() as inner:
            work()
    assert_untrusted(inner, "another measurement of this meter was running")
    assert outer.trusted and inner.duration_s > 0


# --- a tracker that fails


@pytest.mark.parametrize("where", ["start_task", "stop_task"])
def test_a_failing_tracker_does_not_end_the_trial(meter, monkeypatch, where):
    def fail(*_):
        raise OSError("counter gone")

    monkeypatch.setattr(meter._tracker, where, fail)
    done = False
    with meter.measure() as measurement:
        work()
        done = True
    assert done and measurement.duration_s >= WORK_S
    assert_untrusted(measurement, "counter gone")
    assert_recovers(meter)


def test_hardware_failing_in_mid_run_does_not_end_the_trial(meter, monkeypatch):
    with meter.measure() as measurement:
        work()
        for item in meter._tracker._hardware:
            monkeypatch.setattr(type(item), "measure_power_and_energy", None)
    assert_untrusted(measurement, "the tracker failed")
    monkeypatch.undo()
    monkeypatch.setattr(measured, "MIN_DURATION_S", 0.05)
    assert_recovers(meter)


def test_a_tracker_that_gives_nothing_back(meter, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(meter._tracker, "stop_task", lambda: None)
        with meter.measure() as measurement:
            work()
    assert_untrusted(measurement, "the tracker failed: RuntimeError('no reading')")
    assert_recovers(meter)


def test_a_tracker_that_does_not_start(meter, monkeypatch):
    import codecarbon

    def fail(**_):
        raise RuntimeError("no sensors")

    with EnergyMeter() as other:
        other.close()
        with monkeypatch.context() as patch:
            patch.setattr(codecarbon, "OfflineEmissionsTracker", fail)
            with other.measure() as measurement:
                work()
        assert_untrusted(measurement, "the tracker did not start: RuntimeError('no sensors')")
        assert_recovers(other)


# --- bad input, before anything runs


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"country": None}, "country=None: must be a three-letter ISO code"),
        ({"country": "Germany"}, "country='Germany': must be a three-letter ISO code"),
        ({"region": "Atlantis"}, "region='Atlantis': must be None or a region of DEU"),
        ({"carbon_intensity_gco2eq_per_kwh": -1.0}, "carbon_intensity_gco2eq_per_kwh=-1.0: must"),
        ({"pue": 0.5}, "pue=0.5: must be a finite number of at least 1"),
        ({"wue_l_per_kwh": math.nan}, "wue_l_per_kwh=nan: must be"),
        ({"tracking_mode": "room"}, "tracking_mode='room': must be 'process' or 'machine'"),
        ({"export_dir": "/dev/null/x"}, "export_dir='/dev/null/x': must be a directory"),
    ],
)
def test_bad_settings(arguments, message):
    with pytest.raises(ValueError, match=message):
        EnergyMeter(**arguments)


# --- good company: no network, files, noise, locks


def test_no_network_no_files_no_noise(meter, monkeypatch, tmp_path, capfd, caplog):
    def refuse(*_):
        raise AssertionError("network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("CODECARBON_SAVE_TO_API", "true")
    monkeypatch.setenv("CODECARBON_EMISSIONS_ENDPOINT", "http://localhost:1")
    monkeypatch.setenv("CODECARBON_ELECTRICITYMAPS_API_TOKEN", "secret")
    monkeypatch.setenv("CODECARBON_LOG_LEVEL", "info")
    monkeypatch.chdir(tmp_path)
    with caplog.at_level(logging.DEBUG), EnergyMeter() as other:
        assert_recovers(other)
    assert os.listdir(tmp_path) == []
    assert capfd.readouterr() == ("", "") and not caplog.records


def test_export_in_codecarbons_format(meter, tmp_path):
    directory = tmp_path / "new" / "export"
    with EnergyMeter(export_dir=directory) as other:
        for label in ("first", "second"):
            with other.measure(label) as measurement:
                work()
    rows = pd.read_csv(directory / "emissions.csv")
    assert list(rows["project_name"]) == ["first", "second"]
    assert rows["energy_consumed"].iloc[1] == pytest.approx(measurement.energy_measured_kwh)
    assert {"run_id", "emissions", "country_iso_code", "tracking_mode"} <= set(rows.columns)


def test_a_lock_left_by_a_killed_process_does_not_block(meter, monkeypatch, tmp_path):
    import codecarbon.lock

    lock = tmp_path / ".codecarbon.lock"
    lock.touch()  # what is left of a process that was killed while it held the lock
    monkeypatch.setattr(codecarbon.lock, "LOCKFILE", str(lock))
    monkeypatch.setenv("CODECARBON_ALLOW_MULTIPLE_RUNS", "false")  # a user's own configuration
    with EnergyMeter() as other:
        assert_recovers(other)
    assert lock.exists()


def _measure_in_worker(meter, together, results):
    with meter.measure() as measurement:
        together.wait(60)  # both are measuring now
        work()
        together.wait(60)
    results.put((meter._tracker_pid == os.getpid(), measurement))


def test_two_workers_measure_at_once(meter, capfd):
    """Forked in the middle of a measurement, as a search with a time limit per trial may do."""
    context = multiprocessing.get_context("fork")
    together, results = context.Barrier(2), context.Queue()
    arguments = (meter, together, results)
    with meter.measure() as measurement:
        workers = [context.Process(target=_measure_in_worker, args=arguments) for _ in range(2)]
        for worker in workers:
            worker.start()
        found = [results.get(timeout=60) for _ in workers]
        for worker in workers:
            worker.join()
    for own_tracker, each in (*found, (True, measurement)):
        assert own_tracker and each.trusted, each.reason
    assert capfd.readouterr() == ("", "")


def test_a_pickled_meter_measures_with_the_same_settings(meter):
    copy = pickle.loads(pickle.dumps(meter))
    assert copy._settings == meter._settings
    with copy.measure() as measurement:
        work()
    assert measurement.trusted and measurement.water_l > 0
    copy.close()


# --- the protocol of measure_inference


class ScriptedMeter:
    """Gives readings in kWh per window from a list; None stands for an untrusted one."""

    method, mode, hardware = "scripted", "process", "none"

    def __init__(self, readings):
        self.readings = iter(readings)

    def start(self):
        pass

    @contextmanager
    def measure(self, label):
        yield (measurement := Measurement(method="scripted", duration_s=2.0))
        reading = next(self.readings)
        measurement.trusted = reading is not None
        measurement.energy_measured_kwh = math.nan if reading is None else reading
        measurement.reason = "" if measurement.trusted else "zero"


@pytest.fixture
def fast_windows(monkeypatch):
    monkeypatch.setattr(readings_module, "run_window", lambda model, batch, window_s: 100)


NET = nn.Linear(2, 2)
IMAGES = torch.zeros(4, 2)


def test_steady_readings_stop_at_the_smallest_number_of_windows(fast_windows):
    found = measure_inference(NET, IMAGES, ScriptedMeter([1e-6] * 20))
    assert found.windows == 5 and found.trusted and found.target_met and found.reason == ""
    assert found.energy_measured_j_per_image == pytest.approx(1e-6 * 3.6e6 / 100)
    assert found.half_width_j_per_image == pytest.approx(0, abs=1e-15)
    assert (found.method, found.hardware, found.batch_size) == ("scripted", "none", 4)


def test_noisy_readings_go_on_until_the_half_width_is_small_enough(fast_windows):
    readings = [1e-6, 1.2e-6] * 10
    found = measure_inference(NET, IMAGES, ScriptedMeter(readings), half_width_share=0.08)
    assert 5 < found.windows < 20 and found.target_met
    mean, half_width, cv = mean_and_half_width([r * 3.6e4 for r in readings[: found.windows]])
    assert found.energy_measured_j_per_image == pytest.approx(mean)
    assert found.half_width_j_per_image == pytest.approx(half_width)
    assert half_width <= 0.08 * mean
    assert found.cv == pytest.approx(cv)
    assert len(found.window_energies_j_per_image) == found.windows


def test_the_number_of_windows_is_capped(fast_windows):
    readings = [1e-6, 5e-6] * 10
    found = measure_inference(NET, IMAGES, ScriptedMeter(readings), max_windows=7)
    assert found.windows == 7 and found.trusted and not found.target_met


def test_untrusted_windows_are_left_out(fast_windows):
    found = measure_inference(NET, IMAGES, ScriptedMeter([None, 1e-6, None] + [1e-6] * 9))
    assert found.windows == 5 and found.trusted


def test_too_few_trusted_windows_are_no_result(fast_windows):
    found = measure_inference(NET, IMAGES, ScriptedMeter([1e-6] * 4 + [None] * 16))
    assert not found.trusted and not found.target_met and found.windows == 4
    assert math.isnan(found.energy_measured_j_per_image) and math.isnan(found.cv)
    assert found.reason == "5 windows failed: zero"


def test_half_width_is_that_of_students_t():
    mean, half_width, cv = mean_and_half_width([1.0, 2.0, 3.0, 4.0, 5.0])
    assert mean == 3.0 and cv == pytest.approx(np.sqrt(2.5) / 3)
    assert half_width == pytest.approx(2.776445 * np.sqrt(2.5 / 5))  # t(0.975, 4)


def test_repetitions_to_rank_follow_the_textbook():
    assert repetitions_to_rank(0.05, 0.05) == 17  # one standard deviation, 80 % power: n = 17
    assert repetitions_to_rank(0.10, 0.05) > 3.5 * repetitions_to_rank(0.05, 0.05)
    with pytest.raises(ValueError, match="difference_share=0: must be over 0"):
        repetitions_to_rank(0.05, 0)


def test_chance_to_rank_agrees_with_simulated_readings():
    rng = np.random.default_rng(0)
    a, b = rng.normal([[1.0], [1.03]], 0.05, (2, 40_000))
    assert chance_to_rank(0.05, 0.03) == pytest.approx((a < b).mean(), abs=0.01)
    four = (a.reshape(-1, 4).mean(1) < b.reshape(-1, 4).mean(1)).mean()
    assert chance_to_rank(0.05, 0.03, 4) == pytest.approx(four, abs=0.01)
    assert chance_to_rank(0.05, 0.0) == 0.5
    assert chance_to_rank(0.0, 0.03) == 1.0  # readings without spread


# --- single readings in turn


def test_readings_are_taken_in_turn_and_every_other_round_backwards(fast_windows):
    meter = ScriptedMeter(1e-6 * k for k in range(1, 9))
    readings = take_readings({"a": NET, "b": NET}, IMAGES, meter, windows_s=[1, 2], rounds=2)
    assert readings["network"].tolist() == ["a", "a", "b", "b", "b", "b", "a", "a"]
    assert readings["window_s"].tolist() == [1, 2, 1, 2, 2, 1, 2, 1]
    assert readings["round"].tolist() == [0] * 4 + [1] * 4
    joules = 3.6 * np.arange(1, 9)  # of 100 images in 2 s
    np.testing.assert_allclose(readings["energy_measured_j_per_image"], joules / 100)
    np.testing.assert_allclose(readings["duration_s_per_image"], 0.02)
    np.testing.assert_allclose(readings["power_measured_w"], joules / 2)


def test_a_summary_has_the_interval_of_the_mean_and_of_the_variation(fast_windows):
    kwh = [1e-6, 1.1e-6, None, 1.3e-6]
    readings = take_readings({"a": NET}, IMAGES, ScriptedMeter(kwh), rounds=4)
    assert readings["reason"].tolist() == ["", "", "zero", ""]
    assert set(readings["method"]) == {"scripted"}
    row = summarise_readings(readings).loc["a"]
    trusted = [3.6e4 * k for k in kwh if k]
    mean, half_width, cv = mean_and_half_width(trusted)
    assert row["readings"] == 3 and row["energy_measured_j_per_image"] == pytest.approx(mean)
    assert row["half_width_j_per_image"] == pytest.approx(half_width)
    assert row["cv"] == pytest.approx(cv)
    # chi-squared with 2 degrees of freedom: 0.0506 and 7.378
    assert row["cv_low"] == pytest.approx(cv * np.sqrt(2 / 7.378), rel=1e-3)
    assert row["cv_high"] == pytest.approx(cv * np.sqrt(2 / 0.05064), rel=1e-3)


def test_one_reading_has_no_spread(fast_windows):
    readings = take_readings({"a": NET, "b": NET}, IMAGES, ScriptedMeter([1e-6] * 2), rounds=1)
    summary = summarise_readings(readings)
    assert summary["energy_measured_j_per_image"].notna().all()
    assert summary[["half_width_j_per_image", "cv", "cv_low", "cv_high"]].isna().all(axis=None)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"rounds": 0}, "rounds=0: must be"),
        ({"windows_s": [1.0, 0.1]}, "windows_s=0.1: must be a finite number of at least 0.5"),
        ({"windows_s": []}, "windows_s: must have at least one entry"),
        ({"networks": {}}, "networks, windows_s: must have"),
        ({"images": IMAGES[:0]}, "images: must hold at least one image"),
    ],
)
def test_bad_readings(arguments, message):
    arguments = {"networks": {"a": NET}, "images": IMAGES, "meter": ScriptedMeter([])} | arguments
    with pytest.raises(ValueError, match=message):
        take_readings(**arguments)


def test_inference_is_measured_for_real_and_leaves_the_model_alone(session_meter):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.BatchNorm1d(4)).train()
    model[2].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images = torch.randint(0, 256, (16, 1, 8, 8), dtype=torch.uint8)
    found = measure_inference(
        model, images, session_meter, window_s=0.5, min_windows=2, max_windows=2, batch_size=8
    )
    assert found.trusted and found.windows == 2 and found.batch_size == 8
    assert 0 < found.energy_measured_j_per_image < 1
    assert model.training and not model[2].training
    assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"min_windows": 1}, "min_windows=1: must be from 2 to max_windows=20"),
        ({"min_windows": 9, "max_windows": 8}, "min_windows=9: must be from 2 to max_windows=8"),
        ({"window_s": 0.1}, "window_s=0.1: must be at least 0.5"),
        ({"half_width_share": 0}, "half_width_share=0: must be over 0"),
        ({"batch_size": 0}, "batch_size=0: must be"),
    ],
)
def test_bad_protocol(arguments, message):
    with pytest.raises(ValueError, match=message):
        measure_inference(NET, IMAGES, ScriptedMeter([]), **arguments)


def test_no_images():
    with pytest.raises(ValueError, match="images: must hold at least one image"):
        measure_inference(NET, IMAGES[:0], ScriptedMeter([]))


# --- an independent tool


def test_zeus_reads_the_same_energy_of_the_processor():
    """Both read the counters of RAPL, so only the moments of reading and memory's share differ.

    CodeCarbon was reported to be off by a factor of two against other such tools (issue 788).
    """
    monitor = pytest.importorskip("zeus.monitor", reason="zeus is not installed")
    counters = sorted(Path("/sys/class/powercap").glob("intel-rapl:*/energy_uj"))
    if not counters or not all(os.access(path, os.R_OK) for path in counters):
        pytest.skip("no energy counter of the processor (RAPL) that can be read")
    zeus = monitor.ZeusMonitor(gpu_indices=[])
    with EnergyMeter(tracking_mode="machine") as meter:
        if "RAPL" not in meter.method:
            pytest.skip(f"CodeCarbon does not read RAPL here, but uses {meter.method}")
        zeus.begin_window("work")
        with meter.measure() as measurement:
            work(5.0)
        found = zeus.end_window("work")
    assert measurement.mode == "machine" and measurement.trusted
    ratio = 3.6e6 * measurement.energy_measured_kwh / sum(found.cpu_energy.values())
    assert 0.5 < ratio < 2.5
