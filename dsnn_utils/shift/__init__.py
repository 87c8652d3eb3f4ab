"""Shift networks: their arithmetic, layers, conversion, and the networks there are to convert."""

from dsnn_utils.shift.activations import check_fitted, fit_activations, fitting
from dsnn_utils.shift.conversion import (
    convert_layers,
    convert_to_integer,
    convert_to_shift,
    effective_weights,
    shiftable_layers,
)
from dsnn_utils.shift.integers import IntegerConv2d, IntegerLinear, quantize_lsq
from dsnn_utils.shift.layers import ShiftConv2d, ShiftLinear
from dsnn_utils.shift.models import MODELS, build_model, register_model
from dsnn_utils.shift.modes import denormals_flushed, eval_mode
from dsnn_utils.shift.quantization import (
    fixed_point,
    power_of_two_scale,
    quantize_ps,
    quantize_q,
    round_to_power_of_two,
    uniform,
)
from dsnn_utils.shift.specs import IntegerSpec, ShiftSpec, register_shift_type

__all__ = [
    "MODELS",
    "IntegerConv2d",
    "IntegerLinear",
    "IntegerSpec",
    "ShiftConv2d",
    "ShiftLinear",
    "ShiftSpec",
    "build_model",
    "check_fitted",
    "convert_layers",
    "convert_to_integer",
    "convert_to_shift",
    "denormals_flushed",
    "effective_weights",
    "eval_mode",
    "fit_activations",
    "fitting",
    "fixed_point",
    "power_of_two_scale",
    "quantize_lsq",
    "quantize_ps",
    "quantize_q",
    "register_model",
    "register_shift_type",
    "round_to_power_of_two",
    "shiftable_layers",
    "uniform",
]
