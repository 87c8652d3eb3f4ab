"""The integers behind a trained layer: those of its weights, its input and its bias."""

import torch
from torch import Tensor

from dsnn_utils.shift.activations import QuantizedLayer


@torch.no_grad()
def weight_codes(layer: QuantizedLayer) -> tuple[Tensor, Tensor]:
    """Integers (int64, shape of the weight) and their unit (float64, one per output channel).

    Their product is `layer.effective_weight()`: exactly for shift layers, whose integers are 0 or
    signed powers of two; up to float32's rounding for integer layers.
    """
    weight = layer.effective_weight().double()
    unit = torch.as_tensor(layer.weight_unit(), device=weight.device).double().expand(len(weight))
    if layer.spec.arithmetic == "shift":
        # With a fixed format the bias is a multiple of the input's step: a unit of at most 1
        # makes it one of the accumulator's step as well.
        unit = unit.clamp(max=1)
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
