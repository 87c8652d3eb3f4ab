"""Shift networks: their arithmetic, layers, conversion, and the networks there are to convert."""

from dsnn_utils.shift.conversion import convert_to_shift, effective_weights, shiftable_layers
from dsnn_utils.shift.layers import ShiftConv2d, ShiftLinear, ShiftSpec
from dsnn_utils.shift.models import MODELS, build_model
from dsnn_utils.shift.modes import denormals_flushed, eval_mode
from dsnn_utils.shift.quantization import (
    fixed_point,
    quantize_ps,
    quantize_q,
    round_to_power_of_two,
)

__all__ = [
    "MODELS",
    "ShiftConv2d",
    "ShiftLinear",
    "ShiftSpec",
    "build_model",
    "convert_to_shift",
    "denormals_flushed",
    "effective_weights",
    "eval_mode",
    "fixed_point",
    "quantize_ps",
    "quantize_q",
    "round_to_power_of_two",
    "shiftable_layers",
]
