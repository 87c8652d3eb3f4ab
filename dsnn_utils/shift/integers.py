"""Convolution and linear layers with uniform integer weights: what shift layers compete with.

The recipe is LSQ (learned step size quantization, Esser et al., ICLR 2020, arXiv 1902.08153). The
activations are those of the shift layers, so that only the weights differ.
"""

import torch
from torch import Tensor, nn
from torch.autograd import Function

from dsnn_utils.shift.activations import QuantizedLayer
from dsnn_utils.shift.specs import IntegerSpec, check_spec

SMALLEST_STEP = 1e-8  # a step may be trained past zero, and the weights of a channel may be 0


def quantize_lsq(weight: Tensor, step: Tensor, lowest: int, highest: int) -> Tensor:
    """Integers lowest..highest times a step, which is trained (equations 1 to 5 of LSQ).

        v = w / step,    W = step rint(clip(v, lowest, highest))
        dL/dw = dL/dW where v is within the range, else 0
        dL/dstep = g sum(dL/dW (rint(v) - v)), or g sum(dL/dW lowest or highest) where v is beyond

    with g = 1 / sqrt(n highest), n being the number of weights that share a step. `step` has to be
    broadcast over the weight: one dimension each, of size 1 or as large.
    """
    return _QuantizeLsq.apply(weight, step, lowest, highest)


class _QuantizeLsq(Function):
    @staticmethod
    def forward(ctx, weight, step, lowest, highest):
        scaled = weight / step
        codes = scaled.round().clamp_(lowest, highest)
        ctx.save_for_backward(scaled, codes, step)
        ctx.range = lowest, highest
        return codes * step

    @staticmethod
    def backward(ctx, grad):
        scaled, codes, step = ctx.saved_tensors
        lowest, highest = ctx.range
        inside = (scaled >= lowest) & (scaled <= highest)
        change = torch.where(inside, codes - scaled, codes)
        shared = scaled.numel() / step.numel()
        # Without this factor the step would learn far faster than the weights do.
        pace = (shared * highest) ** -0.5
        return grad * inside, (grad * change).sum_to_size(step.shape) * pace, None, None


class _IntegerLayer(QuantizedLayer):
    """What IntegerConv2d and IntegerLinear share; before nn.Conv2d or nn.Linear in their bases.

    Parameters: those of the plain layer, and `weight_step`, one for the layer or for each output
    channel. It is one-dimensional, so weight decay leaves it alone.

    The step is trained in units of the mean weight. Trained as it is, it cannot follow weights that
    grow fast at the large learning rates of a training from scratch: they are clipped, get no
    gradient any more, and the network learns less than one of powers of two.
    """

    spec: IntegerSpec

    def adopt_spec(self, spec: IntegerSpec) -> None:
        """Make a plain layer an integer layer of the same weights; LSQ's first step."""
        check_spec(spec, IntegerSpec)
        self.adopt_activations(spec)
        count = len(self.weight) if spec.weight_scale == "channel" else 1
        # The range with the least squared error for normally distributed weights, in mean weights,
        # is 2.6 at 2 bits and grows by nearly as much with each bit.
        first = (1.9 + 0.38 * spec.weight_bits) / 2 ** (spec.weight_bits - 1)
        step = self.weight.new_full((count,), first)
        self.weight_step = nn.Parameter(step, self.weight.requires_grad)

    def effective_weight(self) -> Tensor:
        """The weight used in the forward pass: an integer times the step, differentiable."""
        step = self._step().view(-1, *[1] * (self.weight.ndim - 1))
        return quantize_lsq(self.weight, step, *self.spec.code_range)

    def _step(self) -> Tensor:
        size = self.weight.detach().abs().flatten(1).mean(1)
        size = size if self.spec.weight_scale == "channel" else size.mean(0, keepdim=True)
        return (self.weight_step * size).clamp_min(SMALLEST_STEP)

    def weight_unit(self) -> Tensor:
        """The step, one for each output channel or for all."""
        return self._step().detach()


class IntegerConv2d(_IntegerLayer, nn.Conv2d):
    """nn.Conv2d with integer weights; made by `convert_to_integer`."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.quantize_input(x)
        return self._conv_forward(x, self.effective_weight(), self.quantize_bias())


class IntegerLinear(_IntegerLayer, nn.Linear):
    """nn.Linear with integer weights; made by `convert_to_integer`."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.quantize_input(x)
        return nn.functional.linear(x, self.effective_weight(), self.quantize_bias())
