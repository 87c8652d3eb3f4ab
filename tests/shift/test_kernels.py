"""The compiled passes against PyTorch's operations, bit for bit, and the ways around them."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from dsnn_utils.shift import fixed_point, kernels, quantization

DTYPES = list(kernels.DTYPES)
BIT_PATTERN = {torch.float32: torch.int32, torch.bfloat16: torch.int16}
SPECIAL = [0.0, -0.0, torch.nan, torch.inf, -torch.inf, 1e-40, -1e-40, 3e38, -3e38, 0.5, -0.5, 2.5]
compiled = pytest.mark.skipif(kernels._library() is None, reason="no C compiler with OpenMP")


def values(dtype, seed=0) -> torch.Tensor:
    """All sizes of numbers, the special ones and edges of the grid among them."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2 * kernels.SMALLEST, generator=generator)
    x = x * torch.randint(-40, 30, x.shape, generator=generator).exp2()
    x[: len(SPECIAL)] = torch.tensor(SPECIAL)
    x[100:200] = torch.arange(-50, 50) / 4
    return x.to(dtype).view(16, 8, 16, -1)


def bits(x: torch.Tensor) -> torch.Tensor:
    # All NaN are one: which of them an operation returns is the processor's choice.
    return torch.where(x.isnan(), torch.nan, x).view(BIT_PATTERN[x.dtype])


@compiled
@given(
    dtype=st.sampled_from(DTYPES),
    width=st.integers(2, 64),
    exponent=st.integers(-40, 6),
    signed=st.booleans(),
    nearest=st.booleans(),
    channels_last=st.booleans(),
    threads=st.sampled_from([1, 2]),
    flushed=st.booleans(),
    seed=st.integers(0, 3),
)
def test_rounding_is_that_of_pytorch(
    dtype, width, exponent, signed, nearest, channels_last, threads, flushed, seed
):
    x = values(dtype, seed)
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    step, codes = 2.0**exponent, 2 ** (width - signed)
    form = step, -codes * signed * step, (codes - 1) * step, nearest
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    torch.set_flush_denormal(flushed and threads == 1)  # as in a training
    try:
        result, expected = kernels.round_in_one_pass(x, *form), quantization._round(x, *form)
    finally:
        torch.set_num_threads(before)
        torch.set_flush_denormal(False)
    if result is None:
        assert dtype == torch.bfloat16 and step > 1
    else:
        assert torch.equal(bits(result), bits(expected))
        assert result.stride() == x.stride()


@compiled
@pytest.mark.parametrize("threads", [1, 2])
def test_gradient_outside_is_that_of_a_hard_tanh(threads):
    x = values(torch.bfloat16)
    gradient = values(torch.bfloat16, 1).roll(3, 0)  # its NaN beside that of x
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for ends in ((-2.0, 1.75), (0.0, 4.0), (-0.125, 30.0)):
            result = kernels.zero_outside(gradient, x, *ends)
            expected = torch.ops.aten.hardtanh_backward(gradient, x, *ends)
            assert torch.equal(bits(result), bits(expected))
    finally:
        torch.set_num_threads(before)


def test_what_the_kernels_are_not_for():
    x = values(torch.float32)
    form = 0.25, -2.0, 1.75, False
    assert kernels.round_in_one_pass(x.double(), *form) is None
    assert kernels.round_in_one_pass(x.half(), *form) is None
    assert kernels.round_in_one_pass(x.flatten()[:100], *form) is None
    assert kernels.round_in_one_pass(x[:, ::2], *form) is None
    assert kernels.round_in_one_pass(x.to("meta"), *form) is None
    with FlopCounterMode(display=False):  # who counts operations has to see them
        assert kernels.round_in_one_pass(x, *form) is None
    assert kernels.zero_outside(x, x, -1.0, 1.0) is None
    assert kernels.zero_outside(x.bfloat16(), x, -1.0, 1.0) is None


@pytest.mark.parametrize("compiler", [None, "/bin/false", "/no/such/compiler"])
def test_without_a_working_compiler_the_result_is_the_same(monkeypatch, compiler):
    x = values(torch.float32)
    expected = fixed_point(x, 4, 4)
    monkeypatch.setattr(kernels.shutil, "which", lambda name: compiler)
    kernels._library.cache_clear()
    try:
        assert kernels.round_in_one_pass(x, 0.25, -2.0, 1.75, False) is None
        assert torch.equal(bits(fixed_point(x, 4, 4)), bits(expected))
    finally:
        kernels._library.cache_clear()


def test_nothing_is_compiled_before_it_is_needed():
    code = (
        "import dsnn_utils, torch; from dsnn_utils.shift import kernels, fixed_point;"
        "fixed_point(torch.ones(9), 4, 4); print(kernels._library.cache_info().misses)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"
