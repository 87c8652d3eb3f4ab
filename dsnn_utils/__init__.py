"""Deep shift neural networks and their multi-objective tuning: the helpers of the notebooks."""

from dsnn_utils.conversion import convert_to_shift, shiftable_layers
from dsnn_utils.layers import ShiftConv2d, ShiftLinear, ShiftSpec

__all__ = ["ShiftConv2d", "ShiftLinear", "ShiftSpec", "convert_to_shift", "shiftable_layers"]
__version__ = "0.1.0"
