"""Readings of inference: repeated, in turn, with intervals; never a single shot."""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from dsnn_utils.checks import check_number
from dsnn_utils.energy.emissions import J_PER_KWH
from dsnn_utils.energy.measured import MIN_DURATION_S, EnergyMeter, _wait_for_gpu
from dsnn_utils.shift.modes import eval_mode


@dataclass(frozen=True)
class InferenceEnergy:
    """Measured energy per image over repeated windows, with its 95 % confidence half-width.

    `cv` is the coefficient of variation between windows. If not `trusted` mean and half-width
    are NaN and `reason` says why. `target_met` is False where the windows ran out before the
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
    mode: str
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

    `images` is a batch (N, ...) of uint8 or float, or an ImageSet; its first `batch_size`
    images are used on the model's device, converted outside the measurement. At least
    `min_windows` windows of `window_s` seconds, then on until the 95 % half-width (Student's t)
    is at most `half_width_share` of the mean, or `max_windows`.
    """
    if not 2 <= min_windows <= max_windows:
        raise ValueError(f"min_windows={min_windows}: must be from 2 to max_windows={max_windows}")
    if window_s < MIN_DURATION_S:
        raise ValueError(f"window_s={window_s}: must be at least {MIN_DURATION_S}")
    if not half_width_share > 0:
        raise ValueError(f"half_width_share={half_width_share}: must be over 0")
    batch = _batch_for(model, images, batch_size)
    energies: list[float] = []
    failures: list[str] = []
    with eval_mode(model):
        meter.start()
        run_window(model, batch, min(window_s, 0.5))
        while len(energies) + len(failures) < max_windows:
            with meter.measure("inference") as measurement:
                images_done = run_window(model, batch, window_s)
            if measurement.trusted:
                energies.append(measurement.energy_measured_kwh * J_PER_KWH / images_done)
            else:
                failures.append(measurement.reason)
            if len(failures) >= min_windows:  # this meter does not read: more take time only
                break
            # To stop at the first narrow interval favours windows that agree by chance. Simulated
            # with a cv as large as the share asked for, intervals of 95 % hold in 90 % of cases
            # with min_windows=2 and in 95 % with 5.
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
        mode=meter.mode,
        hardware=meter.hardware,
        trusted=trusted,
        reason="" if trusted else f"{len(failures)} windows failed: {failures[-1]}",
        window_energies_j_per_image=tuple(energies),
    )


def take_readings(
    networks: Mapping[Any, nn.Module],
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
    read once per round with each window length. `images` as in `measure_inference`.

    Columns: `network` (the key), `window_s`, `round`, `energy_measured_j_per_image` (NaN if
    the reading is not trusted), `duration_s_per_image`, `power_measured_w` (its mean over the
    window), `reason`, and the meter's `method` and `mode`.
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
            run_window(network, batches[name], 0.3)  # warm-up
    rows = []
    in_turn = [(name, window_s) for name in networks for window_s in windows_s]
    for number in range(rounds):
        for name, window_s in in_turn[:: -1 if number % 2 else 1]:
            with eval_mode(networks[name]), meter.measure("inference") as measurement:
                images_done = run_window(networks[name], batches[name], window_s)
            joules, seconds = measurement.energy_measured_kwh * J_PER_KWH, measurement.duration_s
            results = joules / images_done, seconds / images_done, joules / seconds
            how = measurement.reason, measurement.method, measurement.mode
            rows.append((name, window_s, number, *results, *how))
    columns = ["network", "window_s", "round", "energy_measured_j_per_image"]
    columns += ["duration_s_per_image", "power_measured_w", "reason", "method", "mode"]
    return pd.DataFrame(rows, columns=columns)


def summarise_readings(readings: pd.DataFrame, by: str = "network") -> pd.DataFrame:
    """Mean and spread of the trusted readings, a row per value of `by` (in order of appearance).

    Columns: `readings` (how many), `energy_measured_j_per_image` (mean),
    `half_width_j_per_image` (95 %, Student's t), `cv` (coefficient of variation) with its own
    95 % interval `cv_low` to `cv_high` (chi-squared, for normally distributed readings),
    `duration_s_per_image` and `power_measured_w` (means). NaN below two readings.
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
    # The interval is that of the deviation, as the mean is known far better. `chdtri` counts from
    # the upper end: the larger quantile, at 0.025, gives the lower bound.
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

    Two-sided t-test at 5 %, found with probability `power`; `cv` is that between windows.
    Normal approximation with the small-sample correction of Guenther (1981).
    """
    from scipy.special import ndtri

    if not difference_share > 0:
        raise ValueError(f"difference_share={difference_share}: must be over 0")
    z_alpha, z_power = ndtri(0.975), ndtri(power)
    return math.ceil(2 * ((z_alpha + z_power) * cv / difference_share) ** 2 + z_alpha**2 / 4)


def chance_to_rank(cv: float, difference_share: float, repetitions: int = 1) -> float:
    """Probability (0.5..1) that the means of so many readings each put two networks in order.

    The networks' energies differ by `difference_share`; `cv` is that between readings, taken
    as independent and normally distributed. 0.5 is a coin toss.
    """
    from scipy.special import ndtr

    check_number("cv", cv, 0)
    if cv == 0:
        return 1.0 if difference_share else 0.5
    # A difference of two means has twice the variance of one.
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


def run_window(model: nn.Module, batch: torch.Tensor, window_s: float) -> int:
    """Run whole batches for at least `window_s` seconds; return the number of images."""
    images_done = 0
    end = time.perf_counter() + window_s
    with torch.no_grad():
        while time.perf_counter() < end:
            model(batch)
            _wait_for_gpu()  # or launches would queue up far beyond the window
            images_done += len(batch)
    return images_done
