"""Trained networks as ONNX files, with the integers that the layers compute with.

PyTorch's exporter writes the graph. Only the quantised layers are replaced, by ones that name their
ONNX operators themselves.
"""

import copy
import hashlib
import json
import logging
import math
import os
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dsnn_utils.checks import require, require_choice
from dsnn_utils.deploy.codes import per_channel, weight_codes
from dsnn_utils.shift.activations import QuantizedLayer, check_fitted
from dsnn_utils.training.networks import KEY, SavedNetwork

FORMS = ("qdq", "qonnx")
OPSET = 21
QONNX_QUANT = "qonnx.custom_op.general::Quant"


def export_onnx(saved: SavedNetwork, path: str | Path, form: str = "qdq") -> Path:
    """Write a network, as `load_network` returns it, to an ONNX file; returns the path.

    Its input `image` is a normalised batch (N, C, height, width) in float32, its output `logits`.
    What is known of the network (classes, normalisation, image size) is in the file's metadata, and
    what it answers to two images of noise, for `load_onnx` to compare.

    form "qdq"     for ONNX Runtime, OpenVINO and others: int8 weights and uint8 or int8 activations
                   between QuantizeLinear and DequantizeLinear. Weights whose powers of two span too
                   much for int8 are split into several layers that are added. Plain layers stay in
                   float32, as does what is between layers.
    form "qonnx"   for tools that make circuits, such as FINN or hls4ml: `Quant` operators with any
                   number of bits, rounded as trained (FLOOR or ROUND); one image at a time.

    Raises ValueError for a layer that the form cannot hold exactly (its name and the reason are
    told), an activation format that was not fitted, or a network PyTorch cannot export;
    ModuleNotFoundError without the packages of the extra `deploy`.
    """
    require_choice("form", form, FORMS)
    require(
        isinstance(saved, SavedNetwork),
        f"saved={type(saved).__name__}: must be what load_network returns",
    )
    require(
        hasattr(torch.onnx, "ops"), f"torch {torch.__version__}: must be 2.8 or newer to export"
    )
    import onnx  # noqa: F401  # PyTorch's exporter needs both
    import onnxscript  # noqa: F401

    check_fitted(saved.network)
    network = copy.deepcopy(saved.network).cpu().float().eval()
    # In channels_last, as an evaluation leaves it, PyTorch exports a flattening as a `Gather`, and
    # OpenVINO computed such a network wrongly in int8.
    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # its stub
    shape = (len(saved.mean), *saved.image_size)
    with torch.no_grad():
        expected = network(probe(shape))
    for name, layer in network.named_modules():
        if isinstance(layer, QuantizedLayer):
            adopt = _adopt_qdq if form == "qdq" else _adopt_qonnx
            adopt(name, layer)
    # Tools for circuits want to know how many images there are: one.
    batch = ({0: torch.export.Dim("batch")},) if form == "qdq" else None
    example = torch.zeros(2 if batch else 1, *shape)
    model = _export(network, example, batch)
    about = {
        "model": saved.model,
        "classes": list(saved.classes),
        "mean": list(saved.mean),
        "std": list(saved.std),
        "image_size": list(saved.image_size),
        "row": saved.row,
        "form": form,
        "logits_of_probe": expected.tolist(),
        "versions": {"torch": torch.__version__, "dsnn_utils": version("dsnn-utils")},
    }
    text = json.dumps(about)
    for key, value in {KEY: text, "sha256": checksum(text, model)}.items():
        model.metadata_props.add(key=key, value=value)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(model.SerializeToString(deterministic=True))
    os.replace(temporary, path)
    return path


def probe(shape: tuple[int, ...]) -> Tensor:
    """Two images of noise, always the same: whoever loads a file sees whether it still fits."""
    return torch.from_numpy(np.random.default_rng(0).standard_normal((2, *shape), np.float32))


def checksum(text: str, model) -> str:
    """SHA-256 of the metadata and the graph of an ONNX model."""
    return hashlib.sha256(
        text.encode() + model.graph.SerializeToString(deterministic=True)
    ).hexdigest()


def _export(network: nn.Module, example: Tensor, dynamic_shapes):
    names: dict[str, Any] = {"input_names": ["image"], "output_names": ["logits"]}
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's, about itself
            program = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=dynamic_shapes,
                verbose=False,
                **names,
            )
    except Exception as error:  # of many kinds: it runs the network's own code
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"saved: must be a network that PyTorch can export ({reason})") from error
    finally:
        logger.setLevel(level)
    assert program is not None
    model = program.model_proto
    for node in model.graph.node:  # where in the code it comes from, with folders of this machine
        del node.metadata_props[:]
        node.doc_string = ""
    for value in [*model.graph.value_info, *model.graph.input, *model.graph.output]:
        del value.metadata_props[:]
    for tensor in model.graph.initializer:
        del tensor.metadata_props[:]
    del model.graph.metadata_props[:]
    return model


# ----------------------------------------------------------------------------------- layers


class _OnnxLayer(nn.Module):
    """A layer of which the exporter sees how input and weight are quantised.

    `weights()` are those of one layer, or of several that are added.
    """

    bias: Any

    def quantize_input(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def weights(self) -> list[Tensor]:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        x = self.quantize_input(x)
        first, *others = self.weights()
        y = self._operation(x, first, self.bias)
        for weight in others:
            y = y + self._operation(x, weight, None)
        return y

    def _operation(self, x, weight, bias):
        if isinstance(self, nn.Conv2d):
            return self._conv_forward(x, weight, bias)
        # The weight is stored as MatMul has it: a runtime would not look behind a Transpose.
        y = torch.matmul(x, weight)
        return y if bias is None else y + bias


class _Qdq(_OnnxLayer):
    """Integers of 8 bits, in standard operators."""

    codes_of_input: tuple[float, int, int]
    floor: bool
    parts: int
    step: Tensor
    zero: Tensor
    zeros: Tensor

    def quantize_input(self, x: Tensor) -> Tensor:
        step, lowest, highest = self.codes_of_input
        if self.floor:  # the operator below rounds to nearest, half to even
            x = (x * (1 / step)).floor() * step
        if highest - lowest < 255:
            x = x.clamp(lowest * step, highest * step)
        # Of 8 bits exactly, the operator itself does the clipping.
        inputs = (self.step, self.zero)
        codes = _operator("QuantizeLinear", (x, *inputs), x, self.zero.dtype)
        return _operator("DequantizeLinear", (codes, *inputs), x)

    def weights(self) -> list[Tensor]:
        axis = 0 if isinstance(self, nn.Conv2d) else 1
        parts = [
            (getattr(self, f"codes{i}"), getattr(self, f"scale{i}")) for i in range(self.parts)
        ]
        return [
            _operator("DequantizeLinear", (codes, scale, self.zeros), codes, axis=axis)
            for codes, scale in parts
        ]


class _QdqConv2d(_Qdq, nn.Conv2d): ...


class _QdqLinear(_Qdq, nn.Linear): ...


def _adopt_qdq(name: str, layer: Any) -> None:
    step, lowest, highest = layer.activation_codes()
    bits = math.ceil(math.log2(highest - lowest + 1))
    require(bits <= 8, f"layer {name!r}: has {bits} activation bits, form='qdq' holds at most 8")
    parts, bias = int8_parts(layer), layer.quantize_bias()
    floor = layer.spec.activation_rounding == "floor"
    layer.__class__ = _QdqConv2d if isinstance(layer, nn.Conv2d) else _QdqLinear
    layer.codes_of_input, layer.floor, layer.parts = (step, lowest, highest), floor, len(parts)
    kind = torch.int8 if lowest < 0 else torch.uint8
    layer.register_buffer("step", torch.tensor(step))
    layer.register_buffer("zero", torch.tensor(0, dtype=kind))
    layer.register_buffer("zeros", torch.zeros(len(parts[0][1]), dtype=torch.int8))
    for i, (codes, scale) in enumerate(parts):
        codes = codes if isinstance(layer, nn.Conv2d) else codes.T.contiguous()
        layer.register_buffer(f"codes{i}", codes)
        layer.register_buffer(f"scale{i}", scale)
    layer.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)


def int8_parts(layer: QuantizedLayer) -> list[tuple[Tensor, Tensor]]:
    """The weights as sums of int8 integers times a scale (float32) for each output channel.

    One part if the powers of two of a channel span at most 6 steps (7 for the lowest negative one),
    otherwise the smaller ones are in the first and the rest in the next.
    """
    codes, unit = _codes(layer)
    parts: list[tuple[Tensor, Tensor]] = []
    while codes.any() or not parts:
        codes, unit = _without_common_factor(codes, unit)
        small = torch.where((codes >= -128) & (codes <= 127), codes, 0)
        parts.append((small.to(torch.int8), unit.float()))
        codes = codes - small
    return parts


@torch.no_grad()
def _codes(layer: QuantizedLayer) -> tuple[Tensor, Tensor]:
    """`weight_codes` in float64, which holds any power of two: int64 ends at 63 of them."""
    if layer.spec.arithmetic == "shift":
        weight = layer.effective_weight().double()
        return weight, torch.ones(len(weight), dtype=torch.float64, device=weight.device)
    codes, unit = weight_codes(layer)
    return codes.double(), unit


def _without_common_factor(codes: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
    """The same weights in the largest power of two times `unit` that all of a channel share."""
    flat = codes.flatten(1)
    mantissa, exponent = flat.frexp()
    digits = (mantissa * 2.0**53).long()
    lowest_bits = torch.ldexp((digits & -digits).double(), exponent - 53)
    shared = lowest_bits.where(flat != 0, math.inf).amin(1)
    shared = shared.where(shared.isfinite(), 1)
    return codes / per_channel(shared, codes.ndim), unit * shared


class _Qonnx(_OnnxLayer):
    """Integers of any number of bits, in the `Quant` operators of QONNX."""

    signed: int
    rounding: str
    step: Tensor
    input_bits: Tensor
    values: Tensor
    units: Tensor
    weight_bits: Tensor

    def quantize_input(self, x: Tensor) -> Tensor:
        return _quant(x, self.step, self.input_bits, self.signed, self.rounding)

    def weights(self) -> list[Tensor]:
        return [_quant(self.values, self.units, self.weight_bits, 1, "ROUND")]


class _QonnxConv2d(_Qonnx, nn.Conv2d): ...


class _QonnxLinear(_Qonnx, nn.Linear): ...


def _adopt_qonnx(name: str, layer: Any) -> None:
    step, lowest, highest = layer.activation_codes()
    codes, unit = _without_common_factor(*_codes(layer))
    bits = 1 + math.ceil(math.log2(max(codes.max().item() + 1, -codes.min().item(), 2)))
    require(bits <= 24, f"layer {name!r}: its weights span {bits} bits, form='qonnx' holds 24")
    values, bias = layer.effective_weight().detach(), layer.quantize_bias()
    floor = layer.spec.activation_rounding == "floor"
    layer.__class__ = _QonnxConv2d if isinstance(layer, nn.Conv2d) else _QonnxLinear
    layer.signed, layer.rounding = int(lowest < 0), "FLOOR" if floor else "ROUND"
    is_convolution = isinstance(layer, nn.Conv2d)
    units = per_channel(unit.float(), values.ndim) if is_convolution else unit.float()
    layer.register_buffer("step", torch.tensor(step))
    layer.register_buffer("units", units)
    layer.register_buffer("values", values if is_convolution else values.T.contiguous())
    layer.register_buffer("input_bits", torch.tensor(math.log2(highest - lowest + 1)))
    layer.register_buffer("weight_bits", torch.tensor(float(bits)))
    layer.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)


def _quant(x: Tensor, step: Tensor, bits: Tensor, signed: int, rounding: str) -> Tensor:
    attributes: dict[str, Any] = {"signed": signed, "narrow": 0, "rounding_mode": rounding}
    inputs = (x, step, torch.zeros(()), bits)
    return torch.onnx.ops.symbolic(
        QONNX_QUANT, inputs, attributes, dtype=torch.float32, shape=x.shape, version=1
    )


def _operator(name: str, inputs, like: Tensor, dtype=torch.float32, **attributes) -> Tensor:
    return torch.onnx.ops.symbolic(
        name, inputs, attributes, dtype=dtype, shape=like.shape, version=OPSET
    )
