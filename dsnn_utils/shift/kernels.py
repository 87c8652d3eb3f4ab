"""The rounding of activations in one pass over the memory, compiled where there is a C compiler.

PyTorch takes three or four passes for the same, which on a CPU is most of what a shift network
costs more than a plain one. `kernels.c` is compiled at first use, for the processor at hand, in a
quarter of a second; nothing is kept between processes. Where it cannot be used (no compiler, a GPU,
another dtype, a graph being captured) the functions return None, and the caller takes PyTorch's
operations, which give the same bits.
"""

import ctypes
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

SOURCE = Path(__file__).with_name("kernels.c")
# No exceptions of floating point are read, so that floor and rint become one instruction.
FLAGS = "-O3 -march=native -fno-math-errno -fno-trapping-math -fopenmp -shared -fPIC".split()
SMALLEST = 1 << 14  # elements; below, a call costs less than it could save
DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


def round_in_one_pass(
    x: Tensor, step: float, low: float, high: float, nearest: bool
) -> Tensor | None:
    """clip(floor(x / step) step, low, high), or with rint for floor; None if it cannot be done."""
    # A bfloat16 times less than 1 could lose digits, where it gets below the normal numbers.
    if not _is_suitable(x) or (x.dtype == torch.bfloat16 and step > 1):
        return None
    kernels = _library()
    if kernels is None:
        return None
    y = torch.empty_like(x)
    kernel = getattr(kernels, f"{'nearest' if nearest else 'floor'}_{DTYPES[x.dtype]}")
    ends = _as_held(low, x.dtype), _as_held(high, x.dtype)
    kernel(*_addresses(x, y), *_extent(x), ctypes.c_float(step), *ends)
    return y


def zero_outside(gradient: Tensor, x: Tensor, low: float, high: float) -> Tensor | None:
    """The gradient where low < x < high, and 0 elsewhere; None if it cannot be done.

    In bfloat16 only: for float32 PyTorch has such a pass that is as fast.
    """
    alike = gradient.dtype == x.dtype == torch.bfloat16 and gradient.stride() == x.stride()
    kernels = _library() if alike and _is_suitable(x) and _is_suitable(gradient) else None
    if kernels is None:
        return None
    y = torch.empty_like(gradient)
    ends = ctypes.c_float(low), ctypes.c_float(high)
    kernels.zero_outside_bfloat16(*_addresses(gradient, x, y), *_extent(x), *ends)
    return y


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL | None:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return None
    try:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            made = Path(folder, "kernels.so")
            command = [compiler, *FLAGS, str(SOURCE), "-o", str(made), "-lm"]
            subprocess.run(command, check=True, capture_output=True, timeout=60)
            return ctypes.CDLL(str(made))
    except (OSError, subprocess.SubprocessError):
        return None


def _is_suitable(x: Tensor) -> bool:
    """Whether x is one dense block of CPU memory, and nobody but us looks at the operations."""
    return (
        x.numel() >= SMALLEST
        and x.dtype in DTYPES
        and x.device.type == "cpu"
        and type(x) in (Tensor, torch.nn.Parameter)  # not a stand-in without memory
        and (x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last))
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and _get_current_dispatch_mode() is None
    )


def _addresses(*tensors: Tensor) -> list[ctypes.c_void_p]:
    return [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]


def _extent(x: Tensor) -> tuple[ctypes.c_int64, ctypes.c_int]:
    return ctypes.c_int64(x.numel()), ctypes.c_int(torch.get_num_threads())


@lru_cache
def _as_held(value: float, dtype: torch.dtype) -> ctypes.c_float:
    """The nearest value that the dtype has."""
    return ctypes.c_float(torch.tensor(value, dtype=dtype).item())
