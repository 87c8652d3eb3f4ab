"""What an inference of a trained network takes where it would run: exported, in an int8 runtime."""

import statistics
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from dsnn_utils.checks import require, require_choice
from dsnn_utils.deploy.export import export_onnx, probe
from dsnn_utils.deploy.runtimes import load_onnx
from dsnn_utils.energy.measured import EnergyMeter
from dsnn_utils.energy.readings import run_window, take_readings
from dsnn_utils.training.networks import SavedNetwork

INT8_RUNTIMES = ("onnxruntime", "openvino")
WINDOW_S, ROUNDS = 0.2, 5  # of the latency
ENERGY_WINDOW_S, ENERGY_ROUNDS = 0.5, 3  # no shorter window can be read


def check_runtime(name: str, runtime: str) -> None:
    """ValueError for a runtime that is unknown or lacks a package, `name` being the parameter."""
    require_choice(name, runtime, INT8_RUNTIMES)
    lacking = [package for package in ("onnx", "onnxscript", runtime) if find_spec(package) is None]
    how = f"must have {', '.join(lacking)} installed (pip install -e '.[deploy]')"
    require(not lacking, f"{name}={runtime!r}: {how}")


def measure_exported(saved: SavedNetwork, runtime: str, meter: EnergyMeter | None = None) -> dict:
    """The columns of a trained network exported to int8 and run, one image at a time.

    `exported_latency_ms_per_image` is the median over `ROUNDS` windows; with a `meter` also
    `exported_energy_measured_j_per_image`, the mean of `ENERGY_ROUNDS` readings, None where one
    cannot be trusted. The image is noise: time and energy of a dense network do not depend on what
    it sees. A network that int8 cannot hold exactly, or that
    the runtime gets wrong, is not measured: both are None then, and `exported_refused` says why,
    which is None otherwise.

    Raises ValueError for an unknown runtime or one that is not installed.
    """
    check_runtime("runtime", runtime)
    found: dict = {"exported_to": runtime, "exported_latency_ms_per_image": None}
    found |= {"exported_energy_measured_j_per_image": None, "exported_refused": None}
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = export_onnx(saved, Path(folder) / "network.onnx")
            network = load_onnx(path, runtime).network
        except ValueError as error:
            return found | {"exported_refused": str(error)}
    image = probe((len(saved.mean), *saved.image_size))[:1]
    run_window(network, image, WINDOW_S)  # warm-up
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        done = run_window(network, image, WINDOW_S)
        seconds.append((time.perf_counter() - started) / done)
    found["exported_latency_ms_per_image"] = 1e3 * statistics.median(seconds)
    if meter is not None:
        readings = take_readings(
            {runtime: network},
            image,
            meter,
            windows_s=(ENERGY_WINDOW_S,),
            rounds=ENERGY_ROUNDS,
            batch_size=1,
        )
        joules = readings["energy_measured_j_per_image"]
        if joules.notna().all():
            found["exported_energy_measured_j_per_image"] = float(joules.mean())
    return found
