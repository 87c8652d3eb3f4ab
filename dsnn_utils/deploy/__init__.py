"""Trained networks outside of training: in integers, as ONNX files, in runtimes."""

from dsnn_utils.deploy.codes import input_codes, weight_codes
from dsnn_utils.deploy.reference import shift_and_add, with_integer_layers

__all__ = ["input_codes", "shift_and_add", "weight_codes", "with_integer_layers"]
