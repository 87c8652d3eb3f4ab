"""The integers behind a trained layer: those of its weights, its input and its bias."""

import math

import torch
from torch import Tensor, nn

from dsnn_utils.checks import require
from dsnn_utils.shift.activations import QuantizedLayer


@torch.no_grad()
def weight_codes(layer: QuantizedLayer) -> tuple[Tensor, Tensor]:
    """Integers (int64, shape of the weight) and their unit (float64, one per output channel).

    Their product is `layer.effective_weight()`: exactly for shift layers, whose integers are 0 or
    signed powers of two; up to float32's rounding for integer layers.

    Raises ValueError for a shift layer whose weights span more powers of two than 64 bits hold.
    """
    weight = layer.effective_weight().double()
    unit = torch.as_tensor(layer.weight_unit(), device=weight.device).double().expand(len(weight))
    if layer.spec.arithmetic == "shift":
        # With a fixed format the bias is a multiple of the input's step: a unit of at most 1
        # makes it one of the accumulator's step as well.
        unit = unit.clamp(max=1)
        # Eight bits reach down to 2^-126, and an ordinary weight in that unit is beyond 64 bits.
        # The unit is then the smallest weight that the channel has.
        magnitudes = weight.abs().flatten(1)
        smallest = magnitudes.where(magnitudes > 0, math.inf).amin(1)
        unit = torch.where(magnitudes.amax(1) / unit > 2.0**62, smallest, unit)
        span = 1 + int((magnitudes.amax(1) / unit).amax().clamp(min=1).log2())
        require(span <= 63, f"weights: span {span} powers of two, must be at most 63")
    return (weight / per_channel(unit, weight.ndim)).round().long(), unit


def input_codes(layer: QuantizedLayer, x: Tensor) -> Tensor:
    """The layer's input as integers (int64); times the step they are `layer.quantize_input(x)`."""
    step, lowest, highest = layer.activation_codes()
    x = x.double() / step
    x = x.round() if layer.spec.activation_rounding == "nearest" else x.floor()
    return x.clamp(lowest, highest).long()


@torch.no_grad()
def bias_codes(layer: QuantizedLayer, unit: Tensor) -> Tensor:
    """The bias as integers (int64), in units of the accumulator: weight unit times input step.

    Exact for shift layers, and for integer layers with a fitted format; with a fixed one, an
    integer layer's bias is rounded here and not in the emulation.
    """
    bias = layer.quantize_bias()
    if bias is None:
        return torch.zeros(len(unit), dtype=torch.int64, device=unit.device)
    return (bias.double() / (unit * layer.activation_codes()[0])).round().long()


def per_channel(values: Tensor, dimensions: int) -> Tensor:
    """One value per output channel, in a shape that broadcasts over a weight."""
    return values.view(-1, *[1] * (dimensions - 1))


def packed_bytes(network: nn.Module) -> int:
    """Bytes that the network takes if each weight has just its bits.

    Weights of shift and integer layers have `weight_bits`, and their scale a byte (a power of two)
    or a float32. All other numbers are float32.
    """
    bits = 0
    mine: set[int] = set()
    for layer in network.modules():
        if isinstance(layer, QuantizedLayer):
            mine |= {id(x) for n, x in layer.named_parameters() if n != "bias"}
            mine |= {id(x) for x in layer.buffers()}
            scales = {"none": 0, "layer": 1, "channel": len(layer.effective_weight())}
            of_scale = 8 if layer.spec.arithmetic == "shift" else 32
            bits += layer.effective_weight().numel() * layer.spec.weight_bits
            bits += scales[layer.spec.weight_scale] * of_scale
    numbers = {id(x): x for x in [*network.parameters(), *network.buffers()]}
    bits += 32 * sum(x.numel() for key, x in numbers.items() if key not in mine)
    return math.ceil(bits / 8)
