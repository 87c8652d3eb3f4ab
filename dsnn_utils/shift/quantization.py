"""The arithmetic of a deep shift network: fixed-point activations and power-of-two weights.

Every function rounds in the forward pass and hands its gradient straight through in the backward
pass (a straight-through estimator), as DeepShift does (Elhoushi et al., CVPR Workshops 2021).
"""

import math

import torch
from torch import Tensor
from torch.autograd import Function

from dsnn_utils.checks import check_integer
from dsnn_utils.shift.kernels import round_in_one_pass, zero_outside

ACTIVATION_ROUNDINGS = ("floor", "nearest")
CLIPPED_GRADIENTS = ("passed", "zero")


def fixed_point(x: Tensor, integer_bits: int, fraction_bits: int) -> Tensor:
    """Round down to a multiple of 2^-fraction_bits and clip to the two's-complement range.

        clip(floor(x 2^f) / 2^f, -2^(i-1), 2^(i-1) - 2^-f),    gradient 1 everywhere

    The published format of activations: see `uniform` for shapes, dtypes and other formats.

    Raises ValueError unless integer_bits is 2..32 and fraction_bits 0..32.
    """
    check_integer("integer_bits", integer_bits, 2, 32)
    check_integer("fraction_bits", fraction_bits, 0, 32)
    return uniform(x, *two_complement(integer_bits, fraction_bits))


def two_complement(integer_bits: int, fraction_bits: int) -> tuple[float, int, int]:
    """Step, lowest and highest code of a signed fixed-point format: arguments of `uniform`."""
    codes = 2 ** (integer_bits + fraction_bits - 1)
    return 2.0**-fraction_bits, -codes, codes - 1


def uniform(
    x: Tensor,
    step: float,
    lowest: int,
    highest: int,
    rounding: str = "floor",
    clipped_gradient: str = "passed",
) -> Tensor:
    """x as an integer code times `step`, the code rounded and clipped to lowest..highest.

        step clip(floor(x / step), lowest, highest)

    `step` must be a power of two. `rounding` "nearest" takes rint (half to even) for floor.
    `clipped_gradient` "passed" is a gradient of 1 everywhere, as published; "zero" is 1 only
    between the two ends, beyond which the code no longer changes (and 0 at the ends themselves).

    Any shape; dtype and memory format are kept. bfloat16 and float16 give what float32 would,
    rounded to them. Where the upper bound has more digits than the dtype holds, it is the nearest
    value the dtype has (float32 with 16 and 16 bits: 32768). NaN stays NaN.
    """
    return _Uniform.apply(x, step, lowest, highest, rounding == "nearest", clipped_gradient)


class _Uniform(Function):
    @staticmethod
    def forward(ctx, x, step, lowest, highest, nearest, clipped_gradient):
        ctx.ends = None
        if clipped_gradient == "zero":
            half = 0.5 if nearest else 0.0
            ctx.ends = (lowest - half) * step, (highest + 1 - half) * step
            ctx.save_for_backward(x)
        low, high = lowest * step, highest * step
        y = round_in_one_pass(x, step, low, high, nearest)
        return _round(x, step, low, high, nearest) if y is None else y

    @staticmethod
    def backward(ctx, grad):
        if ctx.ends is not None:
            (x,) = ctx.saved_tensors
            inside = zero_outside(grad, x, *ctx.ends)
            # That of a hard tanh with these ends is this gradient.
            grad = (
                torch.ops.aten.hardtanh_backward(grad, x, *ctx.ends) if inside is None else inside
            )
        return grad, None, None, None, None, None


def _round(x: Tensor, step: float, low: float, high: float, nearest: bool) -> Tensor:
    # One new tensor, then in place: this runs on every activation of the network. bfloat16 has the
    # exponents of float32 and holds its own floor exactly (from 256 on it has no fraction), so it
    # needs no detour; float16 would overflow.
    y = x.float().mul_(1 / step) if x.dtype == torch.float16 else x * (1 / step)
    y = y.round_() if nearest else y.floor_()
    return y.mul_(step).clamp_(low, high).to(x.dtype)


# A float64 is a sign bit, 11 bits of exponent and 52 of fraction. Its sqrt(2), 0x1.6a09e667f3bcd,
# is a little above the irrational number, so this is the smallest fraction that is rounded up.
SIGN_AND_EXPONENT = -(1 << 52)
CARRY_FROM_SQRT_2 = (1 << 52) - 0x6A09E667F3BCD


def round_to_power_of_two(x: Tensor, stochastic: bool = False) -> Tensor:
    """The signed power of two next to x on a logarithmic scale; 0 stays 0, NaN stays NaN.

    Deterministic: sign(x) 2^rint(log2 |x|), exact for every finite float32 and every normal
    float64. Stochastic: the exponent is rounded up with probability log2|x| - floor(log2|x|). Its
    expectation is then not x but up to 6.15 % more, and powers of two are never changed.
    No gradient: see `quantize_q`.
    """
    x64 = x.double()
    bits = x64.view(torch.int64)
    if stochastic:
        power = (bits & SIGN_AND_EXPONENT).view(torch.float64)  # rounded towards 0
        round_up = (x64 / power).log2_().gt_(torch.rand_like(x64))
        power.mul_(round_up.add_(1))
    else:  # no logarithm: from sqrt(2) on, the fraction carries into the exponent
        power = (bits + CARRY_FROM_SQRT_2).bitwise_and_(SIGN_AND_EXPONENT).view(torch.float64)
    return power.to(x.dtype).add_(x - x)  # x - x is 0, but NaN where x is


def quantize_q(
    weight: Tensor, lowest_shift: int, stochastic: bool = False, scale: Tensor | None = None
) -> Tensor:
    """DeepShift-Q: the power of two next to the weight, its magnitude first clipped to the range.

        c = sign(w) clip(|w|, 2^lowest_shift, 1),    W = sign(c) 2^rint(log2 |c|),    dL/dw = dL/dW

    A weight of 0 stays 0. With a `scale` s (powers of two, to be broadcast over the weight) it is
    s W(w / s), so that the range ends at s and not at 1; the gradient is the same.
    Any shape; dtype and memory format are kept.
    """
    return _QuantizeQ.apply(weight, lowest_shift, stochastic, scale)


class _QuantizeQ(Function):
    @staticmethod
    def forward(ctx, weight, lowest_shift, stochastic, scale):
        w = weight if _is_wide(weight) else weight.float()
        if scale is not None:
            w = w / scale
        clipped = w.abs().clamp_(2.0**lowest_shift, 1).mul_(w.sign())
        power = round_to_power_of_two(clipped, stochastic)
        if scale is not None:
            power.mul_(scale)
        return power.to(weight.dtype)

    @staticmethod
    def backward(ctx, grad):
        return grad, None, None, None


# Where the range of powers of two should end, in mean weights, by the number of octaves below: what
# has the least mean squared error for normally distributed weights of any spread, the end being
# rounded to a power of two itself. From six octaves on the lowest powers no longer matter.
RANGE_END_IN_MEAN_WEIGHTS = {0: 0.93, 1: 1.57, 2: 2.22, 3: 2.93}
WIDE_RANGE_END_IN_MEAN_WEIGHTS = 4.8


@torch.no_grad()
def power_of_two_scale(weight: Tensor, lowest_shift: int, per_channel: bool) -> Tensor:
    """The power of two at which the range of a layer's weights should end; 1 for weights of 0.

    Shape of the weight with 1 in every dimension (of the layer), or in every one but the first (per
    output channel). Always float32 or wider.
    """
    w = weight if _is_wide(weight) else weight.float()
    dimensions = tuple(range(1 if per_channel else 0, w.ndim))
    mean = w.abs().mean(dimensions, keepdim=True)
    factor = RANGE_END_IN_MEAN_WEIGHTS.get(-lowest_shift, WIDE_RANGE_END_IN_MEAN_WEIGHTS)
    exponent = (mean * factor).log2_().round_()
    # A channel that died has the logarithm -inf: any finite scale will do for it.
    return torch.where(mean > 0, exponent, 0.0).clamp_(-100, 100).exp2_()


def quantize_ps(shift: Tensor, sign: Tensor, lowest_shift: int, stochastic: bool = False) -> Tensor:
    """DeepShift-PS: a power of two from a trained exponent and a trained ternary sign.

        W = 2^rint(clip(shift, lowest_shift, 0)) sgn(rint(sign))
        dL/dshift = dL/dW W ln 2,    dL/dsign = dL/dW

    A sign within [-1/2, 1/2] gives a weight of 0, whose shift then has no gradient. Stochastic:
    both are rounded up with the probability of their fractional part. Same shape for both; dtype
    and memory format are kept.
    """
    return _QuantizePS.apply(shift, sign, lowest_shift, stochastic)


class _QuantizePS(Function):
    @staticmethod
    def forward(ctx, shift, sign, lowest_shift, stochastic):
        dtype = shift.dtype
        if not _is_wide(shift):
            shift, sign = shift.float(), sign.float()
        shift = shift.clamp(lowest_shift, 0)
        if stochastic:
            shift, sign = _stochastic_round(shift), _stochastic_round(sign)
        else:
            shift, sign = shift.round(), sign.round()  # half to even
        # For integers the clamp is sgn, but it keeps NaN.
        weight = shift.exp2_().mul_(sign.clamp_(-1, 1)).to(dtype)
        ctx.save_for_backward(weight)
        return weight

    @staticmethod
    def backward(ctx, grad):
        (weight,) = ctx.saved_tensors
        grad_shift = (grad * weight).mul_(math.log(2)) if ctx.needs_input_grad[0] else None
        return grad_shift, grad, None, None


def _stochastic_round(x: Tensor) -> Tensor:
    """floor(x), plus 1 with the probability of the fractional part."""
    floor = x.floor()
    return floor + (torch.rand_like(x) < x - floor)


def _is_wide(x: Tensor) -> bool:
    """Whether the arithmetic is exact in the dtype of x (the half formats go through float32)."""
    return x.dtype in (torch.float32, torch.float64)
