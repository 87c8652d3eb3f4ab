"""Trained networks outside of training: in integers, as ONNX files, in runtimes."""

from dsnn_utils.deploy.classify import classify
from dsnn_utils.deploy.codes import input_codes, packed_bytes, weight_codes
from dsnn_utils.deploy.compare import quantize_after_training, ways_to_compute
from dsnn_utils.deploy.export import export_onnx, int8_parts
from dsnn_utils.deploy.measure import check_runtime, measure_exported
from dsnn_utils.deploy.memory import peak_memory_mb
from dsnn_utils.deploy.reference import shift_and_add, with_integer_layers
from dsnn_utils.deploy.runtimes import RUNTIMES, load_onnx

__all__ = [
    "RUNTIMES",
    "check_runtime",
    "classify",
    "export_onnx",
    "input_codes",
    "int8_parts",
    "load_onnx",
    "measure_exported",
    "packed_bytes",
    "peak_memory_mb",
    "quantize_after_training",
    "shift_and_add",
    "ways_to_compute",
    "weight_codes",
    "with_integer_layers",
]
