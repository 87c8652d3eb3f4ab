"""Convolution and linear layers whose weights are powers of two: multiplying is shifting bits."""

import torch
from torch import Tensor, nn

from dsnn_utils.shift.activations import QuantizedLayer
from dsnn_utils.shift.quantization import power_of_two_scale, quantize_ps
from dsnn_utils.shift.specs import ShiftSpec, check_spec, rounding_of


class _ShiftLayer(QuantizedLayer):
    """What ShiftConv2d and ShiftLinear share; comes before nn.Conv2d or nn.Linear in their bases.

    Parameters: `weight` (Q) or `shift` and `sign` (PS), each of the plain layer's weight shape, and
    `bias`. Forward: op(fx(x), W) + fx(bias), fx being `fixed_point`. PS with a scale of the weights
    has it in the buffer `weight_scale`.
    """

    spec: ShiftSpec
    shift: nn.Parameter
    sign: nn.Parameter
    weight_scale: Tensor

    def adopt_spec(self, spec: ShiftSpec) -> None:
        """Make a plain layer's parameters those of a shift layer, at the same weights.

        PS: shift = log2|w| within the shift range, unrounded, and sign = sgn(w); a weight of 0 gets
        sign 0 and the lowest shift. With a scale s, shift = log2|w / s|.
        """
        check_spec(spec)
        self.adopt_activations(spec)
        if spec.shift_type == "PS":
            weight = self.weight
            del self.weight
            with torch.no_grad():
                scaled = weight
                if spec.weight_scale != "none":
                    # Kept as it is from here on: the exponents are what is trained.
                    self.register_buffer("weight_scale", self._scale_of(weight))
                    scaled = weight / self.weight_scale
                shift = scaled.abs().log2().clamp(*spec.shift_range)
                self.shift = nn.Parameter(shift, weight.requires_grad)
                self.sign = nn.Parameter(weight.sign(), weight.requires_grad)

    def reset_parameters(self) -> None:
        """The published initialisation: Q as the plain layer; PS shift and sign uniform.

        PS: shift ~ U(lowest shift, 0) and sign ~ U(-1, 1), for both kinds of layer (DeepShift uses
        U(-10, -1) for the shifts of convolutions, which ignores the range). Half of the weights are
        then 0. The bias is drawn as the plain layer draws it.
        """
        if "weight" in self._parameters:
            return super().reset_parameters()
        nn.init.uniform_(self.shift, *self.spec.shift_range)
        nn.init.uniform_(self.sign, -1, 1)
        if self.bias is not None:
            bound = self.shift[0].numel() ** -0.5
            nn.init.uniform_(self.bias, -bound, bound)

    def effective_weight(self) -> Tensor:
        """The weight used in the forward pass: 0 or a signed power of two, differentiable.

        With stochastic rounding, each call while training draws anew.
        """
        low, _ = self.spec.shift_range
        stochastic = self.training and self.spec.rounding == "stochastic"
        if self.spec.shift_type != "PS":
            quantize = rounding_of(self.spec.shift_type)
            return quantize(self.weight, low, stochastic, self.scale())
        weight, scale = quantize_ps(self.shift, self.sign, low, stochastic), self.scale()
        return weight if scale is None else weight * scale

    def scale(self) -> Tensor | None:
        """The power of two that the weights are multiples of, to be broadcast; None without."""
        if self.spec.weight_scale == "none":
            return None
        return self.weight_scale if self.spec.shift_type == "PS" else self._scale_of(self.weight)

    def _scale_of(self, weight: Tensor) -> Tensor:
        low, _ = self.spec.shift_range
        return power_of_two_scale(weight, low, self.spec.weight_scale == "channel")

    def weight_unit(self) -> Tensor | float:
        """The smallest power of two of the weights, one for each output channel or for all."""
        scale, lowest = self.scale(), 2.0 ** self.spec.shift_range[0]
        return lowest if scale is None else scale.flatten() * lowest


class ShiftConv2d(_ShiftLayer, nn.Conv2d):
    """nn.Conv2d with power-of-two weights; the arguments of nn.Conv2d, and `spec`."""

    def __init__(
        self,
        in_channels,
        out_channels,
        kernel_size,
        stride=1,
        padding=0,
        dilation=1,
        groups=1,
        bias=True,
        padding_mode="zeros",
        device=None,
        dtype=None,
        *,
        spec=ShiftSpec(),  # noqa: B008 (immutable)
    ):
        geometry = (kernel_size, stride, padding, dilation, groups, bias, padding_mode)
        super().__init__(in_channels, out_channels, *geometry, device=device, dtype=dtype)
        self.adopt_spec(spec)
        if spec.shift_type == "PS":
            self.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        x = self.quantize_input(x)
        return self._conv_forward(x, self.effective_weight(), self.quantize_bias())


class ShiftLinear(_ShiftLayer, nn.Linear):
    """nn.Linear with power-of-two weights; the arguments of nn.Linear, and `spec`."""

    def __init__(
        self,
        in_features,
        out_features,
        bias=True,
        spec=ShiftSpec(),  # noqa: B008 (immutable)
        device=None,
        dtype=None,
    ):
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
        self.adopt_spec(spec)
        if spec.shift_type == "PS":
            self.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        x = self.quantize_input(x)
        return nn.functional.linear(x, self.effective_weight(), self.quantize_bias())
