"""Measured energy: CodeCarbon, started once, used by a protocol instead of a single shot.

What is measured is this machine running this software, in which a shift is emulated by a float
convolution. Modelled energy lives in :mod:`dsnn_utils.energy`; the two never mix in one number.
"""

import logging
import math
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from dsnn_utils.footprint import J_PER_KWH, check_number, grid_intensity_gco2eq_per_kwh
from dsnn_utils.modes import eval_mode

MIN_DURATION_S = 0.5  # below this CodeCarbon's readings are dominated by their own resolution


@dataclass
class Measurement:
    """What :meth:`EnergyMeter.measure` found; complete once its ``with`` block is left.

    If the reading is not ``trusted`` energy, emissions and water are NaN and ``reason`` says why.
    """

    energy_measured_kwh: float = math.nan
    emissions_gco2eq: float = math.nan
    water_l: float = math.nan
    duration_s: float = math.nan
    method: str = "unknown"
    trusted: bool = False
    reason: str = "not finished"


class EnergyMeter:
    """Measures with one CodeCarbon tracker that is started once and reused for every trial.

    Offline: the grid is ``country`` (three-letter ISO code) and ``region``, or
    ``carbon_intensity_gco2eq_per_kwh``. ``pue`` and ``wue_l_per_kwh`` as in CodeCarbon.
    ``tracking_mode="process"`` counts this process and its children, so that two workers do not
    count each other where the power comes from a CPU-load model (RAPL and NVML counters are
    machine-wide whatever is set, and the model's constant memory power counts once per worker).
    Without such counters CodeCarbon assumes powers: a share of the processor's by its load, and a
    constant for memory (see ``hardware``). Such a reading says little more than the duration does.
    On several GPUs set CUDA_VISIBLE_DEVICES, or idle ones are counted too.
    With ``export_dir`` each measurement also becomes a row of ``export_dir/emissions.csv`` in
    CodeCarbon's format; give each worker a directory of its own.

    Use as a context manager or call :meth:`close`. A meter can be pickled: the copy starts a
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
        if tracking_mode not in ("process", "machine"):
            raise ValueError(f"tracking_mode={tracking_mode!r}: must be 'process' or 'machine'")
        self.export_dir = None if export_dir is None else _writable_directory(export_dir)
        # Every setting that could reach the network, a file or a lock is given explicitly, as
        # CodeCarbon otherwise takes it from the environment or ~/.codecarbon.config.
        self._settings = dict(
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
        self._tracker = None
        self._tracker_pid = None
        self._measuring_pid = None
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
        """Measure the ``with`` block; exceptions of the block pass through, measured as well.

        Measurements do not nest: an inner one is marked as not trusted.
        """
        measurement = Measurement()
        if self._measuring_pid == os.getpid():
            started = time.perf_counter()
            try:
                yield measurement
            finally:
                measurement.duration_s = time.perf_counter() - started
                measurement.reason = "another measurement of this meter was running"
            return
        self.start()
        _wait_for_gpu()
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


@dataclass(frozen=True)
class InferenceEnergy:
    """Measured energy per image over repeated windows, with its 95 % confidence half-width.

    ``cv`` is the coefficient of variation between windows. If not ``trusted`` mean and half-width
    are NaN and ``reason`` says why. ``target_met`` is False where the windows ran out before the
    half-width came under the asked share of the mean.
    """

    energy_measured_j_per_image: float
    half_width_j_per_image: float
    cv: float
    windows: int
    target_met: bool
    window_s: float
    batch_size: int
    method: str
    hardware: str
    trusted: bool
    reason: str
    window_energies_j_per_image: tuple[float, ...] = field(repr=False, default=())


def measure_inference(
    model: nn.Module,
    images,
    meter: EnergyMeter,
    *,
    window_s: float = 2.0,
    min_windows: int = 5,
    max_windows: int = 20,
    half_width_share: float = 0.05,
    batch_size: int = 128,
) -> InferenceEnergy:
    """Measure inference by repetition: after a warm-up the same batch runs until windows are full.

    ``images`` is a batch (N, ...) of uint8 or float, or an ImageSet; its first ``batch_size``
    images are used on the model's device, converted outside the measurement. At least
    ``min_windows`` windows of ``window_s`` seconds, then on until the 95 % half-width (Student's t)
    is at most ``half_width_share`` of the mean, or ``max_windows``.
    """
    if not 2 <= min_windows <= max_windows:
        raise ValueError(f"min_windows={min_windows}: must be from 2 to max_windows={max_windows}")
    if window_s < MIN_DURATION_S:
        raise ValueError(f"window_s={window_s}: must be at least {MIN_DURATION_S}")
    if not half_width_share > 0:
        raise ValueError(f"half_width_share={half_width_share}: must be over 0")
    batch = _batch_for(model, images, batch_size)
    energies, failures = [], []
    with eval_mode(model):
        meter.start()
        _run_window(model, batch, min(window_s, 0.5))
        while len(energies) + len(failures) < max_windows:
            with meter.measure("inference") as measurement:
                images_done = _run_window(model, batch, window_s)
            if measurement.trusted:
                energies.append(measurement.energy_measured_kwh * J_PER_KWH / images_done)
            else:
                failures.append(measurement.reason)
            if len(failures) >= min_windows:
                break
            if len(energies) >= min_windows:
                mean, half_width, cv = mean_and_half_width(energies)
                if half_width <= half_width_share * mean:
                    break
    trusted = len(energies) >= min_windows
    mean, half_width, cv = mean_and_half_width(energies) if trusted else (math.nan,) * 3
    return InferenceEnergy(
        energy_measured_j_per_image=mean,
        half_width_j_per_image=half_width,
        cv=cv,
        windows=len(energies),
        target_met=trusted and half_width <= half_width_share * mean,
        window_s=window_s,
        batch_size=len(batch),
        method=meter.method,
        hardware=meter.hardware,
        trusted=trusted,
        reason="" if trusted else f"{len(failures)} windows failed: {failures[-1]}",
        window_energies_j_per_image=tuple(energies),
    )


def take_readings(
    networks: Mapping[object, nn.Module],
    images,
    meter: EnergyMeter,
    *,
    windows_s: Sequence[float] = (1.0,),
    rounds: int = 5,
    batch_size: int = 128,
) -> pd.DataFrame:
    """Single readings of inference, of all networks in turn, round after round; a row each.

    In turn, and every other round backwards, because a drift of the machine (its temperature, other
    programs) then falls on all networks alike: they can be compared within a round. Each network is
    read once per round with each window length. ``images`` as in :func:`measure_inference`.

    Columns: ``network`` (the key), ``window_s``, ``round``, ``energy_measured_j_per_image`` (NaN if
    the reading is not trusted), ``duration_s_per_image``, ``power_measured_w`` (its mean over the
    window) and ``reason``.
    """
    if not networks or not len(windows_s):
        raise ValueError("networks, windows_s: must have at least one entry")
    check_number("rounds", rounds, 1)
    for window_s in windows_s:
        check_number("windows_s", window_s, MIN_DURATION_S)
    batches = {name: _batch_for(net, images, batch_size) for name, net in networks.items()}
    meter.start()
    for name, network in networks.items():
        with eval_mode(network):
            _run_window(network, batches[name], 0.3)  # warm-up
    rows = []
    in_turn = [(name, window_s) for name in networks for window_s in windows_s]
    for number in range(rounds):
        for name, window_s in in_turn[:: -1 if number % 2 else 1]:
            with eval_mode(networks[name]), meter.measure("inference") as measurement:
                images_done = _run_window(networks[name], batches[name], window_s)
            joules, seconds = measurement.energy_measured_kwh * J_PER_KWH, measurement.duration_s
            results = joules / images_done, seconds / images_done, joules / seconds
            rows.append((name, window_s, number, *results, measurement.reason))
    results = ["energy_measured_j_per_image", "duration_s_per_image", "power_measured_w"]
    return pd.DataFrame(rows, columns=["network", "window_s", "round", *results, "reason"])


def summarise_readings(readings: pd.DataFrame, by: str = "network") -> pd.DataFrame:
    """Mean and spread of the trusted readings, a row per value of ``by`` (in order of appearance).

    Columns: ``readings`` (how many), ``energy_measured_j_per_image`` (mean),
    ``half_width_j_per_image`` (95 %, Student's t), ``cv`` (coefficient of variation) with its own
    95 % interval ``cv_low`` to ``cv_high`` (chi-squared, for normally distributed readings),
    ``duration_s_per_image`` and ``power_measured_w`` (means). NaN below two readings.
    """
    from scipy.special import chdtri, stdtrit

    energy = "energy_measured_j_per_image"
    groups = readings.dropna(subset=energy).groupby(by, sort=False)
    number, deviation = groups[energy].count(), groups[energy].std()
    table = groups[[energy, "duration_s_per_image", "power_measured_w"]].mean()
    freedom = number - 1
    table.insert(0, "readings", number)
    table.insert(2, "half_width_j_per_image", deviation * stdtrit(freedom, 0.975) / number**0.5)
    table.insert(3, "cv", deviation / table[energy])
    table.insert(4, "cv_low", table["cv"] * (freedom / chdtri(freedom, 0.025)) ** 0.5)
    table.insert(5, "cv_high", table["cv"] * (freedom / chdtri(freedom, 0.975)) ** 0.5)
    return table


def mean_and_half_width(values: Iterable[float]) -> tuple[float, float, float]:
    """Mean, half-width of its 95 % confidence interval (Student's t), coefficient of variation."""
    from scipy.special import stdtrit

    values = np.asarray(list(values), dtype=float)
    mean, deviation = values.mean(), values.std(ddof=1)
    half_width = stdtrit(len(values) - 1, 0.975) * deviation / math.sqrt(len(values))
    return float(mean), float(half_width), float(deviation / mean)


def repetitions_to_rank(cv: float, difference_share: float, *, power: float = 0.8) -> int:
    """Windows per network needed to tell two mean energies apart that differ by a given share.

    Two-sided t-test at 5 %, found with probability ``power``; ``cv`` is that between windows.
    Normal approximation with the small-sample correction of Guenther (1981).
    """
    from scipy.special import ndtri

    if not difference_share > 0:
        raise ValueError(f"difference_share={difference_share}: must be over 0")
    z_alpha, z_power = ndtri(0.975), ndtri(power)
    return math.ceil(2 * ((z_alpha + z_power) * cv / difference_share) ** 2 + z_alpha**2 / 4)


def chance_to_rank(cv: float, difference_share: float, repetitions: int = 1) -> float:
    """Probability (0.5..1) that the means of so many readings each put two networks in order.

    The networks' energies differ by ``difference_share``; ``cv`` is that between readings, taken
    as independent and normally distributed. 0.5 is a coin toss.
    """
    from scipy.special import ndtr

    check_number("cv", cv, 0)
    if cv == 0:
        return 1.0 if difference_share else 0.5
    return float(ndtr(difference_share / (cv * math.sqrt(2 / repetitions))))


def _batch_for(model: nn.Module, images, batch_size: int) -> torch.Tensor:
    """The first images on the model's device and in its number type (uint8 becomes 0..1)."""
    check_number("batch_size", batch_size, 1)
    parameter = next(model.parameters(), torch.empty(0))
    batch = getattr(images, "images", images)[:batch_size]
    if not len(batch):
        raise ValueError("images: must hold at least one image")
    scale = 255 if batch.dtype == torch.uint8 else 1
    return batch.to(parameter.device, parameter.dtype) / scale


def _wait_for_gpu() -> None:
    """CUDA calls return before the work is done: wait, so that its energy falls in the window."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def _run_window(model: nn.Module, batch: torch.Tensor, window_s: float) -> int:
    """Run whole batches for at least ``window_s`` seconds; return the number of images."""
    images_done = 0
    end = time.perf_counter() + window_s
    with torch.no_grad():
        while time.perf_counter() < end:
            model(batch)
            _wait_for_gpu()  # or launches would queue up far beyond the window
            images_done += len(batch)
    return images_done
