"""A trained network in integers: what hardware would do, written to be read and to check against.

A layer of it takes the integers of its input, adds and shifts them, and has a sum in 64-bit
integers. Between the layers stays what the network has there. This is not the way to run it fast.
"""

import copy
import math
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from dsnn_utils.checks import check_integer, require, require_choice
from dsnn_utils.deploy.codes import bias_codes, input_codes, per_channel, weight_codes
from dsnn_utils.shift.activations import QuantizedLayer, check_fitted
from dsnn_utils.shift.integers import IntegerConv2d, IntegerLinear
from dsnn_utils.shift.layers import ShiftConv2d, ShiftLinear

BATCH_NORMS = ("float", "fixed_point")


def shift_and_add(operation, codes: Tensor, weights: Tensor) -> Tensor:
    """`operation(codes, weights)` for weights that are 0 or signed powers of two, all int64.

    All inputs that are to be shifted equally far are added or subtracted first (a weight of 1, -1
    or 0 multiplies nothing), and the sum is shifted once.
    """
    magnitudes = weights.abs()
    total = torch.zeros_like(operation(codes, torch.zeros_like(weights)))
    for magnitude in magnitudes.unique().tolist():
        if magnitude:
            signs = weights.sign() * (magnitudes == magnitude)
            total += operation(codes, signs) << (magnitude.bit_length() - 1)
    return total


class _Reference(QuantizedLayer):
    """What the four kinds of layer share: the arithmetic of `forward`."""

    batch_norm: "tuple[Tensor, Tensor, Tensor, int] | None" = None
    sum_bits = 64  # that hold any sum of the layer

    def forward(self, x: Tensor) -> Tensor:
        codes = input_codes(self, x)
        weights, unit = weight_codes(self)
        if self.spec.arithmetic == "shift":
            total = shift_and_add(self._operation, codes, weights)
        else:
            total = self._operation(codes, weights)
        total = total + self._of_channel(bias_codes(self, unit))
        if self.batch_norm is None:
            # The step of the accumulator: a power of two in shift layers, so this is exact.
            step = unit * self.activation_codes()[0]
            return (total * self._of_channel(step)).to(x.dtype)
        multiplier, offset, shift, fraction_bits = map(self._of_channel, self.batch_norm)
        return ((total * multiplier + offset) >> shift).to(x.dtype) * 2.0**-fraction_bits

    def _operation(self, codes: Tensor, weights: Tensor) -> Tensor:
        # Sums of 53 bits are exact in float64 as well, for which PyTorch's CPU kernels are some ten
        # times as fast. (Those of a GPU may transform their input first, and round.)
        if self.sum_bits <= 53 and codes.device.type == "cpu":
            codes, weights = codes.double(), weights.double()
        if isinstance(self, nn.Conv2d):
            return self._conv_forward(codes, weights, None).long()
        return F.linear(codes, weights).long()

    def _of_channel(self, values):
        """A value per output channel, in a shape that broadcasts over the output."""
        is_convolution = isinstance(self, nn.Conv2d) and isinstance(values, Tensor)
        return per_channel(values, 3) if is_convolution else values


class _ReferenceShiftConv2d(_Reference, ShiftConv2d): ...


class _ReferenceShiftLinear(_Reference, ShiftLinear): ...


class _ReferenceIntegerConv2d(_Reference, IntegerConv2d): ...


class _ReferenceIntegerLinear(_Reference, IntegerLinear): ...


REFERENCE_CLASS: dict[type, type] = {
    ShiftConv2d: _ReferenceShiftConv2d,
    ShiftLinear: _ReferenceShiftLinear,
    IntegerConv2d: _ReferenceIntegerConv2d,
    IntegerLinear: _ReferenceIntegerLinear,
}


def with_integer_layers(
    network: nn.Module,
    batch_norm: str = "float",
    multiplier_bits: int = 16,
    fraction_bits: int = 16,
) -> nn.Module:
    """A copy of a trained network, in evaluation mode, whose layers compute in integers.

    The output of a shift layer equals the emulation's to the last bit, as long as its sums have at
    most 24 bits (the digits of float32); beyond that the integers are right and float32 rounds. An
    integer layer has a real step, so the emulation rounds each product and this does not: they
    differ by the rounding of float32, and in a fixed activation format by that of the bias, at
    most half a unit of the accumulator.

    `batch_norm` "float" leaves what is between the layers as it is: batch normalisation, addition
    and pooling in float32. "fixed_point" makes a batch normalisation that directly follows a layer
    part of it, as integer runtimes do: the sum times an integer of `multiplier_bits` (2..24), plus
    an integer, shifted to the right, gives a fixed-point number with `fraction_bits` (1..24). Up to
    the next layer these are handed on in float32, which holds 24 bits; ReLU, maxima and additions
    of them are those of integers, only averages round. This changes results a little.

    Raises ValueError for a layer without a fitted format, one whose sums could have more than 63
    bits, and for "fixed_point" a network that torch.fx cannot trace.
    """
    require_choice("batch_norm", batch_norm, BATCH_NORMS)
    check_integer("multiplier_bits", multiplier_bits, 2, 24)
    check_integer("fraction_bits", fraction_bits, 1, 24)
    check_fitted(network)
    result = copy.deepcopy(network).eval()
    pairs = batch_norms_behind_layers(result) if batch_norm == "fixed_point" else {}
    for name, layer in result.named_modules():
        if type(layer) in REFERENCE_CLASS:
            sum_bits = _sum_bits(layer)  # type: ignore[arg-type]
            bits = sum_bits + (multiplier_bits if name in pairs else 0)
            require(bits <= 63, f"layer {name!r}: its sums need {bits} bits, must be at most 63")
            layer.__class__ = REFERENCE_CLASS[type(layer)]
            layer.sum_bits = sum_bits  # type: ignore[assignment]
    for name, norm in pairs.items():
        layer = result.get_submodule(name)
        constants = _fixed_point(layer, result.get_submodule(norm), multiplier_bits, fraction_bits)
        layer.batch_norm = constants  # type: ignore[assignment]
        result.set_submodule(norm, nn.Identity())
    return result


def batch_norms_behind_layers(network: nn.Module) -> dict[str, str]:
    """Which batch normalisation sees the output of which shift or integer layer, and alone does.

    Raises ValueError for a network that torch.fx cannot trace.
    """
    tracer = _Tracer()
    try:
        nodes = tracer.trace(network).nodes
    except Exception as error:  # of many kinds: it runs the network's own code
        raise ValueError(f"network: must be one that torch.fx can trace ({error})") from error
    calls = [str(node.target) for node in nodes if node.op == "call_module"]
    pairs: dict[str, str] = {}
    for node in nodes:
        if node.op != "call_module" or not isinstance(node.args[0], fx.Node):
            continue
        before, norm = node.args[0], network.get_submodule(str(node.target))
        if before.op != "call_module" or len(before.users) > 1:
            continue
        layer = network.get_submodule(str(before.target))
        once = calls.count(str(node.target)) == calls.count(str(before.target)) == 1
        matches = isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d) and norm.track_running_stats
        if once and matches and isinstance(layer, QuantizedLayer):
            pairs[str(before.target)] = str(node.target)
    return pairs


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        leaf = isinstance(m, QuantizedLayer)
        return leaf or super().is_leaf_module(m, module_qualified_name)


def batch_norm_of(norm: Any) -> tuple[Tensor, Tensor]:
    """Factor and offset (float64, by channel) that a batch normalisation is in evaluation mode."""
    factor = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        factor = factor * norm.weight.detach().double()
    offset = -norm.running_mean.double() * factor
    return factor, offset if norm.bias is None else offset + norm.bias.detach().double()


def _fixed_point(layer: Any, norm: nn.Module, multiplier_bits: int, fraction_bits: int):
    """Multiplier, offset and shift, integers by channel, and the fraction bits of the result."""
    _, unit = weight_codes(layer)
    factor, offset = batch_norm_of(norm)
    factor = factor * unit * layer.activation_codes()[0] * 2.0**fraction_bits
    offset = offset * 2.0**fraction_bits
    # As many digits as the multiplier has. A channel whose factor is 0 may have any shift.
    digits = factor.abs().clamp(min=2.0**-30).log2().floor().long() + 1
    shift = (multiplier_bits - digits).clamp(max=62 - fraction_bits - 8)
    multiplier = (factor * 2.0**shift).round().long()
    # A large factor has zeros behind its digits: it is shifted to the left.
    multiplier, shift = multiplier << (-shift).clamp(min=0), shift.clamp(min=0)
    half = torch.where(shift > 0, 1 << (shift - 1).clamp(min=0), 0)  # to nearest
    return multiplier, (offset * 2.0**shift).round().long() + half, shift, fraction_bits


def _sum_bits(layer: QuantizedLayer) -> int:
    """Bits, with the sign, that hold any sum of the layer, whatever its input."""
    _, lowest, highest = layer.activation_codes()
    weight = layer.effective_weight().detach().double().abs().flatten(1).sum(1)
    unit = torch.as_tensor(layer.weight_unit()).double()
    if layer.spec.arithmetic == "shift":
        unit = unit.clamp(max=1)
    largest = (weight / unit).max().item() * max(-lowest, highest)
    if (bias := layer.quantize_bias()) is not None:
        largest += (bias.detach().double().abs() / unit).max().item() / layer.activation_codes()[0]
    return math.ceil(math.log2(largest + 1)) + 1 if math.isfinite(largest) else 2000
