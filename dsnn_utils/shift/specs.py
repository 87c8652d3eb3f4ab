"""How a layer stores and rounds its numbers: as powers of two, or as uniform integers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dsnn_utils.checks import check_integer, require, require_choice
from dsnn_utils.shift.quantization import ACTIVATION_ROUNDINGS, CLIPPED_GRADIENTS, quantize_q

SHIFT_TYPES = ("Q", "PS")
ROUNDINGS = ("deterministic", "stochastic")
ARITHMETICS = ("shift", "integer")
WEIGHT_SCALES = ("none", "layer", "channel")
ACTIVATION_FORMATS = ("fixed", "fitted")

_INTEGERS = {
    "weight_bits": (2, 8),
    "activation_integer_bits": (2, 32),
    "activation_fraction_bits": (0, 32),
}
_CHOICES = {
    "rounding": ROUNDINGS,
    "activation_format": ACTIVATION_FORMATS,
    "activation_rounding": ACTIVATION_ROUNDINGS,
    "clipped_gradient": CLIPPED_GRADIENTS,
}


#: How a real weight is rounded, by shift type; PS has no such weight.
_ROUNDED_BY: dict[str, Callable[..., Tensor]] = {"Q": quantize_q}


def register_shift_type(name: str, quantize: Callable[..., Tensor]) -> None:
    """Let a rounding of one's own be a shift type, beside Q and PS.

    Its layers have a real weight, as those of Q. `quantize(weight, lowest, stochastic, scale)`
    returns what they compute with: 0 or a signed power of two from 2**lowest to 1, times `scale`
    where that is not None, of the shape of `weight` and differentiable (see `quantize_q`). Energy
    is counted as that of any shift. It is known to this process and to the workers that it starts:
    register it again where a run is continued or read. A search tries it where its space says so.
    Raises ValueError for a name that is taken.
    """
    require(
        isinstance(name, str) and name.isidentifier() and name not in SHIFT_TYPES,
        f"name={name!r}: must be a name of letters, digits and _, other than Q and PS",
    )
    _ROUNDED_BY[name] = quantize


def own_shift_types() -> dict[str, Callable[..., Tensor]]:
    """The roundings registered by `register_shift_type`."""
    return {name: f for name, f in _ROUNDED_BY.items() if name not in SHIFT_TYPES}


def rounding_of(shift_type: str) -> Callable[..., Tensor]:
    """The function that rounds the real weight of a shift type other than PS."""
    return _ROUNDED_BY[shift_type]


class _Spec:
    """Checks of the fields that both kinds share."""

    def _check(self, weight_scales: tuple[str, ...]) -> None:
        choices = _CHOICES | {"weight_scale": weight_scales}
        choices["shift_type"] = (*SHIFT_TYPES, *own_shift_types())
        for name, allowed in choices.items():
            if hasattr(self, name):
                require_choice(name, getattr(self, name), allowed)
                self._set(name, str(getattr(self, name)))
        for name, (low, high) in _INTEGERS.items():
            self._set(name, check_integer(name, getattr(self, name), low, high))

    def _set(self, name, value):
        object.__setattr__(self, name, value)  # the dataclass is frozen


@dataclass(frozen=True)
class ShiftSpec(_Spec):
    """How a shift layer stores and rounds its numbers. The defaults are the published ones.

    shift_type              "Q": a real weight, rounded to a power of two in the forward pass;
                            "PS": a real exponent and a real sign, each rounded; or one of your
                            own, see `register_shift_type`
    weight_bits             2..8; sets the smallest power of two, see `shift_range`
    activation_integer_bits, activation_fraction_bits
                            2..32 and 0..32; fixed-point format of the layer's input and bias
    rounding                "deterministic", or "stochastic": weights are rounded at random while
                            training (evaluation is always deterministic)

    What follows is not in the published method. It makes few bits hold, and all of it is still
    shifts: a scale is a power of two, and so is the step between two activations.

    weight_scale            "none": the powers of two end at 1; "layer", "channel": they end at a
                            power of two that fits the weights of the layer, or those of each
                            output channel. For Q it follows the weights as they are trained; for
                            PS it is set when the layer is made.
    activation_format       "fixed": as the two numbers of bits say. "fitted": as many bits as both
                            together, the binary point where it fits the layer's input, unsigned
                            if that is never negative. It has to see data first: training does it,
                            otherwise `fit_activations`. The bias then has the precision of the
                            accumulator.
    activation_rounding     "floor", as cutting off bits does, or "nearest" (half to even)
    clipped_gradient        of activations beyond the range: "passed" on as if they were not, or
                            "zero"

    NumPy integers and strings are accepted and stored as Python's.
    Raises ValueError naming the field, the value and what is allowed.
    """

    arithmetic: ClassVar[str] = "shift"

    shift_type: str = "PS"
    weight_bits: int = 5
    activation_integer_bits: int = 16
    activation_fraction_bits: int = 16
    rounding: str = "deterministic"
    weight_scale: str = "none"
    activation_format: str = "fixed"
    activation_rounding: str = "floor"
    clipped_gradient: str = "passed"

    def __post_init__(self):
        self._check(WEIGHT_SCALES)

    @property
    def shift_range(self) -> tuple[int, int]:
        """Smallest and largest exponent. PS gives up one power to have a code for zero."""
        return -(2 ** (self.weight_bits - 1)) + (2 if self.shift_type == "PS" else 1), 0


@dataclass(frozen=True)
class IntegerSpec(_Spec):
    """How an integer layer stores and rounds its numbers: what one would train instead of shifts.

    Weights are integers of `weight_bits` (2..8) times a real step that is trained with them, one
    for the `weight_scale` "layer" or for each output "channel" (LSQ, Esser et al., ICLR 2020,
    arXiv 1902.08153). Activations are those of `ShiftSpec`, field by field.

    Raises ValueError naming the field, the value and what is allowed.
    """

    arithmetic: ClassVar[str] = "integer"

    weight_bits: int = 8
    activation_integer_bits: int = 16
    activation_fraction_bits: int = 16
    weight_scale: str = "channel"
    activation_format: str = "fixed"
    activation_rounding: str = "floor"
    clipped_gradient: str = "passed"

    def __post_init__(self):
        self._check(WEIGHT_SCALES[1:])

    @property
    def code_range(self) -> tuple[int, int]:
        """Smallest and largest integer of a weight."""
        return -(2 ** (self.weight_bits - 1)), 2 ** (self.weight_bits - 1) - 1


Spec = ShiftSpec | IntegerSpec


def check_spec(spec, kind: type = ShiftSpec) -> None:
    """ValueError unless `spec` is of the `kind`."""
    if not isinstance(spec, kind):
        raise ValueError(f"spec={spec!r}: must be a{'n' * (kind is IntegerSpec)} {kind.__name__}")
