"""Deep shift neural networks and their multi-objective tuning: the helpers of the notebooks.

Rooms, in the order in which data flows: `shift`, then `training` and `energy`, `deploy`, `runs`,
`search`, `analysis`, `plots`, `study`, and the `runner` that executes the notebooks. A room imports
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
    "export_onnx",
    "load_network",
    "project_root",
    "save_network",
    "shiftable_layers",
]


def __getattr__(name: str):
    # On demand: torchvision, which the data sets need, takes a second to import.
    if name in ("load_network", "save_network"):
        from dsnn_utils import training

        return getattr(training, name)
    if name == "export_onnx":
        from dsnn_utils.deploy import export_onnx

        return export_onnx
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__version__ = "0.1.0"
