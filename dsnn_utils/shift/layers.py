"""Convolution and linear layers whose weights are powers of two: multiplying is shifting bits."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dsnn_utils.checks import check_integer, require_choice
from dsnn_utils.shift.quantization import fixed_point, quantize_ps, quantize_q

SHIFT_TYPES = ("Q", "PS")
ROUNDINGS = ("deterministic", "stochastic")


@dataclass(frozen=True)
class ShiftSpec:
    """How a shift layer stores and rounds its numbers. The defaults are the published ones.

    shift_type              "Q": a real weight, rounded to a power of two in the forward pass;
                            "PS": a real exponent and a real sign, each rounded
    weight_bits             2..8; sets the smallest power of two, see `shift_range`
    activation_integer_bits, activation_fraction_bits
                            2..32 and 0..32; fixed-point format of the layer's input and bias
    rounding                "deterministic", or "stochastic": weights are rounded at random while
                            training (evaluation is always deterministic)

    NumPy integers and strings are accepted and stored as Python's.
    Raises ValueError naming the field, the value and what is allowed.
    """

    shift_type: str = "PS"
    weight_bits: int = 5
    activation_integer_bits: int = 16
    activation_fraction_bits: int = 16
    rounding: str = "deterministic"

    def __post_init__(self):
        for name, allowed in (("shift_type", SHIFT_TYPES), ("rounding", ROUNDINGS)):
            require_choice(name, getattr(self, name), allowed)
            self._set(name, str(getattr(self, name)))
        for name, low, high in (
            ("weight_bits", 2, 8),
            ("activation_integer_bits", 2, 32),
            ("activation_fraction_bits", 0, 32),
        ):
            self._set(name, check_integer(name, getattr(self, name), low, high))

    def _set(self, name, value):
        object.__setattr__(self, name, value)  # the dataclass is frozen

    @property
    def shift_range(self) -> tuple[int, int]:
        """Smallest and largest exponent. PS gives up one power to have a code for zero."""
        return -(2 ** (self.weight_bits - 1)) + (1 if self.shift_type == "Q" else 2), 0


def check_spec(spec) -> None:
    """ValueError unless `spec` is a ShiftSpec."""
    if not isinstance(spec, ShiftSpec):
        raise ValueError(f"spec={spec!r}: must be a ShiftSpec")


class _ShiftLayer(nn.Module):
    """What ShiftConv2d and ShiftLinear share; comes before nn.Conv2d or nn.Linear in their bases.

    Parameters: `weight` (Q) or `shift` and `sign` (PS), each of the plain layer's weight shape, and
    `bias`. Forward: op(fx(x), W) + fx(bias), fx being `fixed_point`.
    """

    spec: ShiftSpec

    def adopt_spec(self, spec: ShiftSpec) -> None:
        """Make a plain layer's parameters those of a shift layer, at the same weights.

        PS: shift = log2|w| within the shift range, unrounded, and sign = sgn(w); a weight of 0 gets
        sign 0 and the lowest shift.
        """
        check_spec(spec)
        self.spec = spec
        if spec.shift_type == "PS":
            weight = self.weight
            del self.weight
            with torch.no_grad():
                shift = weight.abs().log2().clamp(*spec.shift_range)
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
        if self.spec.shift_type == "Q":
            return quantize_q(self.weight, low, stochastic)
        return quantize_ps(self.shift, self.sign, low, stochastic)

    def _fixed_point(self, x: Tensor) -> Tensor:
        """x in the layer's activation format."""
        spec = self.spec
        return fixed_point(x, spec.activation_integer_bits, spec.activation_fraction_bits)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.spec}"


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
        bias = None if self.bias is None else self._fixed_point(self.bias)
        return self._conv_forward(self._fixed_point(x), self.effective_weight(), bias)


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
        bias = None if self.bias is None else self._fixed_point(self.bias)
        return nn.functional.linear(self._fixed_point(x), self.effective_weight(), bias)
