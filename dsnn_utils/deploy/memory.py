"""Memory that a process takes to compute one network: run as a script, in a process of its own.

    python memory.py RUNTIME FILE SHAPE

loads the file, computes one batch of zeros of SHAPE (such as 1,3,32,32) and prints two numbers in
MB: the peak of the resident memory after the runtime was imported, and at the end.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def peak_memory_mb(path: str | Path, runtime: str, shape: Sequence[int]) -> tuple[float, float]:
    """Peak resident memory (MB) of a fresh process that computes one batch; (runtime alone, all).

    `path` is a file of `save_network` with `runtime` "pytorch", or one of `export_onnx` with
    "onnxruntime" or "openvino"; `shape` that of the batch. The first number is what importing the
    runtime takes: only the difference is of the network. Raises RuntimeError where that process
    fails.
    """
    command = [sys.executable, __file__, runtime, str(path), ",".join(map(str, shape))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"path={str(path)!r}, {runtime=}: {done.stderr.strip()[-300:]}")
    runtime_mb, all_mb = map(float, done.stdout.split()[-2:])
    return runtime_mb, all_mb


def _peak_mb() -> float:
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage: on Linux its peak is at least that of the process which started this one.
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # bytes on macOS


def _main(runtime: str, path: str, shape: list[int]) -> None:
    import numpy as np

    batch = np.zeros(shape, np.float32)
    if runtime == "onnxruntime":
        import onnxruntime

        before = _peak_mb()
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        session.run(None, {"image": batch})
    elif runtime == "openvino":
        import openvino

        before = _peak_mb()
        openvino.Core().compile_model(path, "CPU")(batch)
    else:
        import torch

        from dsnn_utils.training.networks import load_network

        before = _peak_mb()
        network = load_network(path).network
        with torch.no_grad():
            network(torch.from_numpy(batch))
    print(before, _peak_mb())


if __name__ == "__main__":
    # The folder of this file would hide other packages of the same names as its neighbours.
    sys.path.pop(0)
    _main(sys.argv[1], sys.argv[2], [int(n) for n in sys.argv[3].split(",")])
