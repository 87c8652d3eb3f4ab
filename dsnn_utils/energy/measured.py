"""Measured energy: CodeCarbon, started once, used by a protocol instead of a single shot.

What is measured is this machine running this software, in which a shift is emulated by a float
convolution. Modelled energy lives in `energy.modelled`; the two never mix in one number.
"""

import logging
import math
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dsnn_utils.checks import check_number
from dsnn_utils.energy.emissions import grid_intensity_gco2eq_per_kwh
from dsnn_utils.limits import MIN_DURATION_S, check_limits

if TYPE_CHECKING:  # a slow import, done where it is used
    from codecarbon import OfflineEmissionsTracker


@dataclass
class Measurement:
    """What `EnergyMeter.measure` found; complete once its `with` block is left.

    If the reading is not `trusted` energy, emissions and water are NaN and `reason` says why.
    `method` is where the power came from (RAPL, CPU load, ...), `mode` the meter's `tracking_mode`.
    """

    energy_measured_kwh: float = math.nan
    emissions_gco2eq: float = math.nan
    water_l: float = math.nan
    duration_s: float = math.nan
    method: str = "unknown"
    mode: str = "unknown"
    trusted: bool = False
    reason: str = "not finished"


class EnergyMeter:
    """Measures with one CodeCarbon tracker that is started once and reused for every trial.

    Offline: the grid is `country` (three-letter ISO code) and `region`, or
    `carbon_intensity_gco2eq_per_kwh`. `pue` and `wue_l_per_kwh` as in CodeCarbon.
    `tracking_mode="process"` counts this process and its children, so that two workers do not
    count each other where the power comes from a CPU-load model (RAPL and NVML counters are
    machine-wide whatever is set, and the model's constant memory power counts once per worker).
    Without such counters CodeCarbon assumes powers: a share of the processor's by its load, and a
    constant for memory (see `hardware`). Such a reading says little more than the duration does.
    The share is linear in the load of this process in mode "process", and TDP (0.1 + 0.9 load^3)
    in the load of the whole computer in mode "machine" (CodeCarbon, pull request 1377): the two can
    rank networks differently, so compare readings of one mode only. Against external meters
    CodeCarbon was found to be off by up to 40 % (arXiv 2509.22092).
    On several GPUs set CUDA_VISIBLE_DEVICES, or idle ones are counted too.
    With `export_dir` each measurement also becomes a row of `export_dir/emissions.csv` in
    CodeCarbon's format; give each worker a directory of its own.

    Use as a context manager or call `close`. A meter can be pickled: the copy starts a
    tracker of its own. Raises ValueError for an unknown country, region or number out of range;
    after that no failure of the tracker is raised, measurements say so instead.
    """

    def __init__(
        self,
        country: str = "DEU",
        *,
        region: str | None = None,
        carbon_intensity_gco2eq_per_kwh: float | None = None,
        pue: float = 1.0,
        wue_l_per_kwh: float = 0.0,
        tracking_mode: str = "process",
        export_dir: str | Path | None = None,
    ):
        intensity = grid_intensity_gco2eq_per_kwh(country, region)
        if carbon_intensity_gco2eq_per_kwh is not None:
            intensity = carbon_intensity_gco2eq_per_kwh
        for name, value, minimum in (
            ("carbon_intensity_gco2eq_per_kwh", intensity, 0),
            ("pue", pue, 1),
            ("wue_l_per_kwh", wue_l_per_kwh, 0),
        ):
            check_number(name, value, minimum)
        check_limits(tracking_mode=tracking_mode)
        self.mode = tracking_mode
        self.export_dir = None if export_dir is None else _writable_directory(export_dir)
        # Every setting that could reach the network, a file or a lock is given explicitly, as
        # CodeCarbon otherwise takes it from the environment or ~/.codecarbon.config.
        self._settings: dict[str, Any] = dict(
            country_iso_code=country,
            region=region,
            force_carbon_intensity_g_co2e_kwh=float(intensity),  # so it asks no service for it
            pue=float(pue),
            wue=float(wue_l_per_kwh),
            tracking_mode=tracking_mode,
            output_methods=[],
            output_dir=tempfile.gettempdir(),
            emissions_endpoint=None,
            allow_multiple_runs=True,  # no lock file: neither workers nor dead processes block
            log_level="critical",
        )
        self._tracker: OfflineEmissionsTracker | None = None
        self._tracker_pid: int | None = None
        self._measuring_pid: int | None = None
        self.method = "unknown"
        self.hardware = "unknown"
        self._failure = ""

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.close()

    def __getstate__(self):
        return {**self.__dict__, "_tracker": None, "_tracker_pid": None, "_measuring_pid": None}

    def start(self) -> None:
        """Start the tracker if it is not running; slow (1 to 3 s) the first time in a process."""
        # In a forked process the parent's tracker would go on reading the load of the parent.
        if self._tracker is not None and self._tracker_pid == os.getpid():
            return
        try:
            from codecarbon import OfflineEmissionsTracker

            logging.getLogger("codecarbon").setLevel(logging.CRITICAL)  # the import resets it
            tracker = OfflineEmissionsTracker(**self._settings, output_handlers=[])
            tracker.start_task("warm-up")  # detects the hardware
            first_reading = tracker.stop_task()
            self.method, self.hardware = _describe(tracker, first_reading)
            self._tracker, self._tracker_pid, self._failure = tracker, os.getpid(), ""
        except Exception as error:
            self._drop_tracker(f"the tracker did not start: {error!r}")

    def close(self) -> None:
        """Stop the tracker; measuring again starts a new one."""
        self._drop_tracker("")

    @contextmanager
    def measure(self, label: str = "dsnn") -> Iterator[Measurement]:
        """Measure the `with` block; exceptions of the block pass through, measured as well.

        Measurements do not nest: an inner one is marked as not trusted.
        """
        measurement = Measurement(mode=self.mode)
        if self._measuring_pid == os.getpid():
            started = time.perf_counter()
            try:
                yield measurement
            finally:
                measurement.duration_s = time.perf_counter() - started
                measurement.reason = "another measurement of this meter was running"
            return
        self.start()
        _wait_for_gpu()  # or work launched earlier would be charged to this block
        measurement.method = self.method
        self._measuring_pid = os.getpid()
        try:
            if self._tracker is not None:
                self._tracker.start_task(label)
        except Exception as error:
            self._drop_tracker(f"the tracker failed at the start: {error!r}")
        started = time.perf_counter()
        try:
            yield measurement
            _wait_for_gpu()
        finally:
            measurement.duration_s = time.perf_counter() - started
            self._measuring_pid = None
            self._finish(measurement, label)

    def _finish(self, measurement: Measurement, label: str) -> None:
        data = None
        if self._tracker is not None:
            try:
                data = self._tracker.stop_task()
                if data is None:
                    raise RuntimeError("no reading")
                if self.export_dir is not None:
                    self._export(data, label)
            except Exception as error:
                self._drop_tracker(f"the tracker failed: {error!r}")
        energy_kwh = math.nan if data is None else data.energy_consumed
        if data is None:
            measurement.reason = self._failure
        elif not (math.isfinite(energy_kwh) and energy_kwh > 0):
            measurement.reason = f"the tracker read {energy_kwh} kWh"
        elif measurement.duration_s < MIN_DURATION_S:
            measurement.reason = (
                f"{measurement.duration_s:.3f} s is too short (under {MIN_DURATION_S} s)"
            )
        elif measurement.method == "unknown":
            measurement.reason = "the tracker does not say how it measures"
        else:
            measurement.trusted, measurement.reason = True, ""
            measurement.energy_measured_kwh = energy_kwh
            measurement.emissions_gco2eq = 1000 * data.emissions
            measurement.water_l = data.water_consumed

    def _export(self, data, label: str) -> None:
        from codecarbon.output_methods.file import FileOutput

        data.project_name = label
        try:
            FileOutput("emissions.csv", str(self.export_dir)).out(data, None)
        except OSError as error:  # a full disk does not make the reading wrong
            logging.getLogger(__name__).warning("measurement not exported: %s", error)

    def _drop_tracker(self, failure: str) -> None:
        tracker, self._tracker, self._failure = self._tracker, None, failure
        try:
            if tracker is not None:
                tracker.stop()  # ends CodeCarbon's background thread
        except Exception:
            pass  # nothing to do about a tracker that cannot even stop


def _writable_directory(path: str | Path) -> Path:
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError as error:
        raise ValueError(
            f"export_dir={str(path)!r}: must be a directory that can be written ({error.strerror})"
        ) from None


def _describe(tracker, first_reading) -> tuple[str, str]:
    """How this tracker gets its numbers, and on what: two short texts for tables and titles."""
    names = {
        "intel_rapl": "RAPL",
        "cpu_load": "CPU load",
        "constant": "constant",
        "intel_power_gadget": "Power Gadget",
        "windows_emi": "EMI",
    }
    methods, notes = [], []
    for item in tracker._hardware:
        kind = type(item).__name__
        if kind == "CPU":
            methods.append(names.get(item._mode, item._mode))
            if item._mode in ("cpu_load", "constant"):
                notes.append(f"CPU assumed {item._tdp:g} W at full load")
        elif kind == "GPU":
            methods.append("NVML" if torch.version.hip is None else "AMDSMI")
        elif kind != "RAM":  # always a constant, says nothing about the method
            methods.append(kind)
    notes.append(f"memory assumed {first_reading.ram_power / tracker._pue:g} W")  # readings have it
    found = tracker.get_detected_hardware()
    hardware = [f"{found['cpu_model']}, {found['cpu_count']} threads"]
    hardware.append(f"{found['ram_total_size']:.1f} GB RAM")
    if found["gpu_count"]:
        hardware.append(found["gpu_model"])
    return " + ".join(dict.fromkeys(methods)) or "unknown", ", ".join(hardware + notes)


def _wait_for_gpu() -> None:
    """CUDA calls return before the work is done: wait, so that its energy falls in the window."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
