"""Deep shift neural networks and their multi-objective tuning: the helpers of the notebooks.

Rooms, in the order in which data flows: `shift`, then `training` and `energy`, `runs`, `search`,
`analysis`, `plots`, `study`, and the `runner` that executes the notebooks. A room imports
from those before it and from none behind it.
"""

from dsnn_utils.paths import project_root
from dsnn_utils.shift import (
    ShiftConv2d,
    ShiftLinear,
    ShiftSpec,
    convert_to_shift,
    shiftable_layers,
)

__all__ = [
    "ShiftConv2d",
    "ShiftLinear",
    "ShiftSpec",
    "convert_to_shift",
    "project_root",
    "shiftable_layers",
]
__version__ = "0.1.0"
