"""Deep shift neural networks and their multi-objective tuning: the helpers of the notebooks.

Rooms, in the order in which data flows: `shift`, then `training` and `energy`, `deploy`, `runs`,
`search`, `analysis`, `plots`, `study`, and the `runner` that executes the notebooks. A room imports
from those before it and from none behind it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from dsnn_utils.paths import project_root

if TYPE_CHECKING:
    from dsnn_utils.deploy import export_onnx
    from dsnn_utils.shift import (
        ShiftConv2d,
        ShiftLinear,
        ShiftSpec,
        convert_to_shift,
        shiftable_layers,
    )
    from dsnn_utils.training import load_network, save_network

__all__ = [
    "ShiftConv2d",
    "ShiftLinear",
    "ShiftSpec",
    "convert_to_shift",
    "export_onnx",
    "load_network",
    "project_root",
    "save_network",
    "shiftable_layers",
]


def __getattr__(name: str):
    # On demand, since PyTorch takes seconds to import: parameters are checked without it.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    rooms = {"export_onnx": "deploy", "load_network": "training", "save_network": "training"}
    return getattr(import_module(f"dsnn_utils.{rooms.get(name, 'shift')}"), name)


__version__ = "0.1.0"
