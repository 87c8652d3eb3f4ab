"""The arithmetic of a deep shift network: fixed-point activations and power-of-two weights.

Every function rounds in the forward pass and hands its gradient straight through in the backward
pass (a straight-through estimator), as DeepShift does (Elhoushi et al., CVPR Workshops 2021).
"""

import math

import torch
from torch import Tensor
from torch.autograd import Function

from dsnn_utils.checks import check_integer


def fixed_point(x: Tensor, integer_bits: int, fraction_bits: int) -> Tensor:
    """Round down to a multiple of 2^-fraction_bits and clip to the two's-complement range.

        clip(floor(x 2^f) / 2^f, -2^(i-1), 2^(i-1) - 2^-f),    gradient 1 everywhere

    Any shape; dtype and memory format are kept. bfloat16 and float16 give what float32 would,
    rounded to them.
    Where the upper bound has more digits than the dtype holds, it is the nearest value the dtype
    has (float32 with 16 and 16 bits: 32768). NaN stays NaN.

    Raises ValueError unless integer_bits is 2..32 and fraction_bits 0..32.
    """
    check_integer("integer_bits", integer_bits, 2, 32)
    check_integer("fraction_bits", fraction_bits, 0, 32)
    return _FixedPoint.apply(x, integer_bits, fraction_bits)


class _FixedPoint(Function):
    @staticmethod
    def forward(ctx, x, integer_bits, fraction_bits):
        scale, limit = 2.0**fraction_bits, 2.0 ** (integer_bits - 1)
        # One new tensor, then in place: this runs on every activation of the network. bfloat16 has
        # the exponents of float32 and holds its own floor exactly (from 256 on it has no fraction),
        # so it needs no detour; float16 would overflow.
        y = x.float().mul_(scale) if x.dtype == torch.float16 else x * scale
        y.floor_().mul_(1 / scale).clamp_(-limit, limit - 1 / scale)
        return y.to(x.dtype)

    @staticmethod
    def backward(ctx, grad):
        return grad, None, None


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


def quantize_q(weight: Tensor, lowest_shift: int, stochastic: bool = False) -> Tensor:
    """DeepShift-Q: the power of two next to the weight, its magnitude first clipped to the range.

        c = sign(w) clip(|w|, 2^lowest_shift, 1),    W = sign(c) 2^rint(log2 |c|),    dL/dw = dL/dW

    A weight of 0 stays 0. Any shape; dtype and memory format are kept.
    """
    return _QuantizeQ.apply(weight, lowest_shift, stochastic)


class _QuantizeQ(Function):
    @staticmethod
    def forward(ctx, weight, lowest_shift, stochastic):
        w = weight if _is_wide(weight) else weight.float()
        clipped = w.abs().clamp_(2.0**lowest_shift, 1).mul_(w.sign())
        return round_to_power_of_two(clipped, stochastic).to(weight.dtype)

    @staticmethod
    def backward(ctx, grad):
        return grad, None, None


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
