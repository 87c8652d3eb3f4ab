"""Modelled energy (operation counts x published energy per operation).

Measured energy (CodeCarbon) lives in `energy.measured`. The two answer different questions and are
never added, averaged or compared as if they were one.
*Modelled* energy is what hardware with shifters would spend, deterministic and idealised.
*Measured* energy is what this machine spent running this software, where a shift is emulated by a
float convolution, so it cannot show what shift hardware saves.
"""

import math
from dataclasses import dataclass
from numbers import Integral
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from dsnn_utils.checks import require_choice
from dsnn_utils.shift.activations import QuantizedLayer
from dsnn_utils.shift.modes import eval_mode
from dsnn_utils.shift.specs import Spec

# Energy per operation in picojoules by width in bits, 45 nm. Add, multiply and float32: Horowitz,
# "Computing's energy problem", ISSCC 2014. Shift: You et al., "ShiftAddNet", NeurIPS 2020.
INTEGER_PJ = {
    "add": {8: 0.03, 16: 0.05, 32: 0.1},
    "multiply": {8: 0.2, 32: 3.1},
    "shift": {8: 0.024, 16: 0.057, 32: 0.13},
}
FLOAT32_PJ = {"add": 0.9, "multiply": 3.7}
# Per bit moved, from Horowitz's energies of a 64-bit access; DRAM is the middle of 1.3 to 2.6 nJ.
MEMORY_PJ_PER_BIT = {
    "sram_8kb": 10 / 64,
    "sram_32kb": 20 / 64,
    "sram_1mb": 100 / 64,
    "dram": 1950 / 64,
}
FLOAT_BITS = 32
ACCUMULATOR_BITS = 32  # at least; a wider activation widens the accumulator with it
_MULTIPLY_ADD_PJ = FLOAT32_PJ["multiply"] + FLOAT32_PJ["add"]
_COMPARE_PJ = INTEGER_PJ["add"][32]  # comparing two floats costs about one integer subtraction
_SMOOTH_PJ = 4 * _MULTIPLY_ADD_PJ  # assumed: a cubic polynomial and one product


def operation_pj(operation: str, width: int) -> float:
    """Energy in pJ of one integer "add", "multiply" or "shift" of `width` bits.

    Between published widths: linear interpolation; below 8 bits: proportional to the width; above
    32 bits: the last slope continued.
    """
    table = INTEGER_PJ[operation]
    widths, energies = list(table), list(table.values())
    if width > widths[-1]:
        slope = (energies[-1] - energies[-2]) / (widths[-1] - widths[-2])
        return energies[-1] + slope * (width - widths[-1])
    return float(np.interp(width, [0, *widths], [0.0, *energies]))


def mac_pj(arithmetic: str, width: int = FLOAT_BITS) -> float:
    """Energy in pJ of one multiply-accumulate as "float32", "integer" or "shift" arithmetic.

    `width` is that of the activations. Integer and shift accumulate in 32 bits or, if wider, in
    the activations' width. At 8 bits an integer network (0.3) is only 2.4 times a shift network
    (0.124): the advantage over float32 (4.6) is mostly that of the narrow type.
    """
    require_choice("arithmetic", arithmetic, ("float32", "integer", "shift"))
    if arithmetic == "float32":
        return _MULTIPLY_ADD_PJ
    product = "multiply" if arithmetic == "integer" else "shift"
    return operation_pj(product, width) + operation_pj("add", max(ACCUMULATOR_BITS, width))


@dataclass(frozen=True)
class ModelledEnergy:
    """Modelled energy of one inference on one image; a fully deterministic figure."""

    energy_modelled_j_per_image: float
    energy_modelled_with_memory_j_per_image: float
    macs_per_image: int
    shift_macs_per_image: int


def modelled_energy(
    model: nn.Module, input_shape: tuple[int, ...], *, memory: str = "sram_1mb"
) -> ModelledEnergy:
    """Sum of `operation_counts`; `input_shape` is one image's, e.g. (3, 32, 32)."""
    table = operation_counts(model, input_shape, memory=memory)
    compute = float(table["energy_modelled_j_per_image"].sum())
    return ModelledEnergy(
        energy_modelled_j_per_image=compute,
        energy_modelled_with_memory_j_per_image=compute
        + float(table["memory_energy_modelled_j_per_image"].sum()),
        macs_per_image=int(table["macs"].sum()),
        shift_macs_per_image=int(table.loc[table["arithmetic"] == "shift", "macs"].sum()),
    )


def operation_counts(
    model: nn.Module, input_shape: tuple[int, ...], *, memory: str = "sram_1mb"
) -> pd.DataFrame:
    """Operations and modelled energy of one inference on one image, a row per operation.

    Counted on the real forward pass of one zero image in eval mode, on the model's device; the
    model is left as it was. Works for any network of convolutions and linear layers: what runs is
    counted, whether a module or a function. Layers have to be called: `layer.forward(x)` hides that
    it is the layer which computes.

    Columns: `layer` (module name), `kind` (conv, linear, convert, batch_norm, activation,
    pooling, elementwise), `arithmetic` (float32, shift), `operations`, `macs` (0 except for
    conv and linear), `width_bits` of the activations, `energy_modelled_j_per_image`,
    `memory_bits` and `memory_energy_modelled_j_per_image`.

    What is assumed: float layers work in float32. A shift layer first converts each input from
    float32 to fixed point (one float32 multiply and add: `convert`), then shifts it at its own
    width and adds at `max(32, width)`; its bias starts the accumulator. Batch norm is one float32
    multiply-add per element (folded into scale and offset), ReLU one comparison, a smooth
    activation four multiply-adds, pooling one add or comparison per value read. Each layer reads
    its weights and inputs once and writes its outputs once (perfect reuse, so a lower bound), all
    from memory of the given kind ("sram_1mb", "sram_8kb", "sram_32kb", "dram"). Weights take
    `weight_bits` in shift layers, else 32; activations take the layer's width, at most 32, as
    they come from float32. Batch norm, activation and element-wise operations work on values in
    flight; only a second operand (the shortcut of a residual block, or a parameter of its own size)
    is read back. Moving data around (padding, concatenation) is free.

    Under these assumptions converting a layer saves energy from 1.2 multiply-accumulates
    per input value, which all but degenerate layers have (depthwise 3x3 with stride 2: 2.25).
    """
    require_choice("memory", memory, MEMORY_PJ_PER_BIT)
    if not input_shape or any(not isinstance(n, Integral) or n < 1 for n in input_shape):
        raise ValueError(
            f"input_shape={input_shape}: must be one image's shape in positive integers, "
            "without the batch, e.g. (3, 32, 32)"
        )
    table = pd.DataFrame(_count(model, (1, *input_shape)), columns=_Row._fields)
    if table.empty:
        raise ValueError("model: no operation was seen; a scripted or traced network hides them")
    table["memory_energy_modelled_j_per_image"] = (
        table["memory_bits"] * MEMORY_PJ_PER_BIT[memory] * 1e-12
    )
    return table


class _Row(NamedTuple):
    layer: str
    kind: str
    arithmetic: str
    operations: int
    macs: int
    width_bits: int
    energy_modelled_j_per_image: float
    memory_bits: int


def _count(model: nn.Module, shape: tuple[int, ...]) -> list[_Row]:
    parameter = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    image = torch.zeros(shape, device=parameter.device, dtype=parameter.dtype)
    counter = _OperationCounter()
    hooks = []
    try:
        for name, module in model.named_modules():
            hooks.append(module.register_forward_pre_hook(counter.enter(name)))
            hooks.append(module.register_forward_hook(counter.leave))
        with eval_mode(model), torch.no_grad(), counter:
            model(image)
    finally:
        for hook in hooks:
            hook.remove()
    return counter.rows


# Tensor operations with arithmetic of their own, and the energy per output or per input element.
_ACTIVATION_PJ = {
    **dict.fromkeys(("relu", "relu_", "hardtanh", "hardtanh_", "clamp", "clamp_min"), _COMPARE_PJ),
    **dict.fromkeys(("leaky_relu", "leaky_relu_", "threshold"), _COMPARE_PJ),
    **dict.fromkeys(("silu", "silu_", "sigmoid", "sigmoid_", "tanh", "gelu"), _SMOOTH_PJ),
    **dict.fromkeys(("elu", "elu_", "hardswish", "hardswish_", "hardsigmoid"), _SMOOTH_PJ),
    **dict.fromkeys(("_softmax", "_log_softmax", "hardsigmoid_", "exp"), _SMOOTH_PJ),
    **dict.fromkeys(("clamp_max", "_prelu_kernel", "softshrink", "hardshrink"), _COMPARE_PJ),
    **dict.fromkeys(("mish", "softplus", "celu", "glu", "log_sigmoid_forward"), _SMOOTH_PJ),
    **dict.fromkeys(("tanh_", "log", "pow", "sqrt", "rsqrt"), _SMOOTH_PJ),
}
_ELEMENTWISE_PJ = {
    **dict.fromkeys(("add", "add_", "sub", "sub_", "rsub"), FLOAT32_PJ["add"]),
    **dict.fromkeys(("mul", "mul_", "div", "div_"), FLOAT32_PJ["multiply"]),
    "upsample_bilinear2d": 4 * _MULTIPLY_ADD_PJ,
}
_NOT_COVERED = ("attention", "transformer", "lstm", "gru", "rnn")  # refused, never undercounted
_MATRIX_PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "addmv", "mv", "linear")


class _OperationCounter(TorchDispatchMode):
    """Sees each tensor operation that really runs and knows, by hooks, in which module it runs."""

    def __init__(self):
        super().__init__()
        self.rows: list[_Row] = []
        self._modules: list[tuple[str, nn.Module]] = []

    def enter(self, name: str):
        return lambda module, _: self._modules.append((name, module))

    def leave(self, *_):
        self._modules.pop()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        name, module = self._modules[-1] if self._modules else ("", None)
        self._record(func.overloadpacket.__name__, name, _spec(module), args, output)
        return output

    def _record(self, op: str, layer: str, spec: Spec | None, args: tuple, output) -> None:
        out = output[0] if isinstance(output, (tuple, list)) else output
        if op == "convolution":
            x, weight, transposed = args[0], args[1], args[6]
            # Each output needs one product per weight of its filter; transposed: each input.
            positions = x.numel() if transposed else out.numel()
            self._layer(layer, "conv", spec, positions * weight[0].numel(), x, weight, out)
        elif op in _MATRIX_PRODUCTS:
            x, weight = args[1:3] if op.startswith(("addm", "badd")) else args[:2]
            inner = weight.shape[-1] if op in ("linear", "addmv", "mv") else weight.shape[-2]
            if op in ("addmv", "mv"):
                x, weight = weight, x
            self._layer(layer, "linear", spec, out.numel() * inner, x, weight, out)
        elif spec is not None:
            return  # emulating the rounding of such a layer is "convert", not float arithmetic
        elif "batch_norm" in op or "group_norm" in op or "layer_norm" in op:
            self._other(layer, "batch_norm", out.numel(), _MULTIPLY_ADD_PJ)
        elif op in _ACTIVATION_PJ:
            self._other(layer, "activation", out.numel(), _ACTIVATION_PJ[op])
        elif op in _ELEMENTWISE_PJ and out.is_floating_point() and args[0].ndim:
            tensors = [arg for arg in args[:2] if isinstance(arg, torch.Tensor)]
            own = [tensor.numel() for tensor in tensors if isinstance(tensor, nn.Parameter)]
            moved = FLOAT_BITS * (own[0] if own else (len(tensors) - 1) * out.numel())
            self._other(layer, "elementwise", out.numel(), _ELEMENTWISE_PJ[op], moved)
        elif ("pool" in op and "unpool" not in op) or op in ("mean", "sum"):
            windows = "pool" in op and "adaptive" not in op  # windows may overlap
            reads = out.numel() * math.prod(args[1]) if windows else args[0].numel()
            moved = FLOAT_BITS * (args[0].numel() + out.numel())
            pj = _COMPARE_PJ if "max" in op else FLOAT32_PJ["add"]
            self._other(layer, "pooling", reads, pj, moved)
        elif any(word in op for word in _NOT_COVERED):
            raise ValueError(
                f"operation {op} in layer {layer!r}: must be a convolution, a linear "
                "layer or an element-wise operation to be counted"
            )

    def _layer(self, layer, kind, spec, macs, x, weight, out) -> None:
        arithmetic, width, weight_bits = "float32", FLOAT_BITS, FLOAT_BITS
        if spec is not None:
            arithmetic, weight_bits = spec.arithmetic, spec.weight_bits
            width = spec.activation_integer_bits + spec.activation_fraction_bits
            self._other(layer, "convert", x.numel(), _MULTIPLY_ADD_PJ)
        stored = min(width, FLOAT_BITS)
        bits = weight_bits * weight.numel() + stored * (x.numel() + out.numel())
        joules = macs * mac_pj(arithmetic, width) * 1e-12
        self.rows.append(_Row(layer, kind, arithmetic, macs, macs, width, joules, bits))

    def _other(self, layer, kind, operations, pj, memory_bits=0) -> None:
        joules = operations * pj * 1e-12
        row = _Row(layer, kind, "float32", operations, 0, FLOAT_BITS, joules, memory_bits)
        self.rows.append(row)


def _spec(module: nn.Module | None) -> Spec | None:
    return module.spec if isinstance(module, QuantizedLayer) else None
