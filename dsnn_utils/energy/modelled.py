"""Modelled energy (operation counts x published energy per operation).

Measured energy (CodeCarbon) lives in `energy.measured`. The two answer different questions and are
never added, averaged or compared as if they were one.
*Modelled* energy is what hardware with shifters would spend, deterministic and idealised.
*Measured* energy is what this machine spent running this software, where a shift is emulated by a
float convolution, so it cannot show what shift hardware saves.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from dsnn_utils.checks import require_choice
from dsnn_utils.energy.prices import (
    FLOAT32_PJ,
    FLOAT_BITS,
    INTEGER_PJ,
    MEMORY_PJ_PER_BIT,
    MULTIPLY_ADD_PJ,
    PRICES,
    accumulator_bits,
    mac_pj,
    operation_pj,
)
from dsnn_utils.shift.activations import QuantizedLayer
from dsnn_utils.shift.conversion import shiftable_layers
from dsnn_utils.shift.modes import eval_mode
from dsnn_utils.shift.specs import IntegerSpec, Spec

BETWEEN_LAYERS = ("float32", "integer")
INT8 = IntegerSpec(8, activation_integer_bits=4, activation_fraction_bits=4)


@dataclass(frozen=True)
class ModelledEnergy:
    """Modelled energy of one inference on one image; a fully deterministic figure.

    Under the default prices and, where the name says so, under those of qtools (`energy.prices`).
    Memory has the same prices in both.
    """

    energy_modelled_j_per_image: float
    energy_modelled_with_memory_j_per_image: float
    energy_modelled_qtools_j_per_image: float
    energy_modelled_qtools_with_memory_j_per_image: float
    macs_per_image: int
    shift_macs_per_image: int


def modelled_energy(
    model: nn.Module,
    input_shape: tuple[int, ...],
    *,
    memory: str = "sram_1mb",
    between_layers: str = "float32",
) -> ModelledEnergy:
    """Sum of `operation_counts` under both tables of prices; `input_shape` as in (3, 32, 32)."""
    options = {"memory": memory, "between_layers": between_layers}
    table, qtools = (
        operation_counts(model, input_shape, prices=prices, **options) for prices in PRICES
    )
    return ModelledEnergy(
        *_compute_and_with_memory(table),
        *_compute_and_with_memory(qtools),
        macs_per_image=int(table["macs"].sum()),
        shift_macs_per_image=int(table.loc[table["arithmetic"] == "shift", "macs"].sum()),
    )


def _compute_and_with_memory(table: pd.DataFrame) -> tuple[float, float]:
    compute = float(table["energy_modelled_j_per_image"].sum())
    return compute, compute + float(table["memory_energy_modelled_j_per_image"].sum())


def operation_counts(
    model: nn.Module,
    input_shape: tuple[int, ...],
    *,
    memory: str = "sram_1mb",
    prices: str = "horowitz",
    between_layers: str = "float32",
) -> pd.DataFrame:
    """Operations and modelled energy of one inference on one image, a row per operation.

    Counted on the real forward pass of one zero image in eval mode, on the model's device; the
    model is left as it was. Works for any network of convolutions, linear layers and attention:
    what runs is counted, whether a module or a function. Layers have to be called:
    `layer.forward(x)` hides that it is the layer which computes.

    Columns: `layer` (module name), `kind` (conv, linear, attention, convert, requantise,
    batch_norm, activation, pooling, elementwise), `arithmetic` (float32, shift, integer),
    `operations`, `macs` (0 except for conv, linear and attention), `width_bits` of the activations
    or, of what is done to an accumulator, its own, `energy_modelled_j_per_image` under the `prices`
    ("horowitz" or "qtools", see `energy.prices`), `memory_bits` and
    `memory_energy_modelled_j_per_image`.

    What is assumed: float layers work in float32. A shift layer first converts each input from
    float32 to fixed point (one float32 multiply and add: `convert`), then shifts it at its own
    width and adds at `max(32, width)`; its bias starts the accumulator. Batch norm is one float32
    multiply-add per element (folded into scale and offset), ReLU one comparison, a smooth
    activation four multiply-adds, pooling one add or comparison per value read. Attention, a
    product of two activations, is float32 whatever the layers are, its softmax a smooth activation.
    Each layer reads its weights and inputs once and writes its outputs once (perfect reuse, so a
    lower bound), all from memory of the given kind ("sram_1mb", "sram_8kb", "sram_32kb", "dram").
    Weights take `weight_bits` in shift layers, else 32; activations take the layer's width, at most
    32, as they come from float32. Batch norm, activation and element-wise operations work on values
    in flight; only a second operand (the shortcut of a residual block, or a parameter of its own
    size) is read back. Moving data around (padding, concatenation) is free.

    Under these assumptions converting a layer saves energy from 1.2 multiply-accumulates
    per input value, which all but degenerate layers have (depthwise 3x3 with stride 2: 2.25).

    With `between_layers="integer"` there is no float32 between two fixed-point layers, as where an
    integer network really runs. An accumulator is as wide as all sums of the layer need
    (`accumulator_bits`). It is brought to the layer's activation width by one integer multiply and
    add, both of its own width, in which the batch norm is contained (`requantise`; Jacob et al.,
    CVPR 2018, arXiv 1712.05877); where there is no batch norm, a shift layer needs just a shift.
    ReLU, residual additions and pooling are integer operations of that width, and values are stored
    with it. The input is converted once. Float layers, and what has no integer form here (smooth
    activations, products, layer norm, attention), stay float32, with a `convert` wherever a value
    passes from one kind to the other. The last layer's result stays in its accumulator.

    Raises ValueError for bad arguments, and for an operation whose cost is not known.
    """
    require_choice("memory", memory, MEMORY_PJ_PER_BIT)
    require_choice("prices", prices, PRICES)
    require_choice("between_layers", between_layers, BETWEEN_LAYERS)
    return _operation_counts(model, input_shape, memory, prices, between_layers, _own_spec)


def energy_by_format(
    model: nn.Module,
    input_shape: tuple[int, ...],
    *,
    memory: str = "sram_1mb",
    prices: str = "horowitz",
) -> Callable[[Spec], np.ndarray]:
    """Modelled energy of all shift (or all integer) layers of a network in any number format.

    The function that is returned gives, for a spec of the layers' arithmetic, (layers, 2): compute
    and compute with memory in J per image, the layers in the order of `shiftable_layers`. These are
    the sums by layer of `operation_counts`, without running the network again: a format changes
    neither which operations there are nor how many.
    """
    found = {name: model.get_submodule(name) for name in shiftable_layers(model)}
    layers: dict[str, Any] = {n: m for n, m in found.items() if isinstance(m, QuantizedLayer)}
    table = operation_counts(model, input_shape, memory=memory, prices=prices)
    of_layers = table[table["layer"].isin(layers)]
    products = of_layers["macs"] > 0
    rows, rest = of_layers[products], of_layers[~products]
    number = np.array([list(layers).index(name) for name in rows["layer"]], int)
    macs, pj_per_bit = rows["macs"].to_numpy(), MEMORY_PJ_PER_BIT[memory]
    weights = np.array([layers[name].weight.numel() for name in rows["layer"]])
    weight_bits = np.array([layers[name].spec.weight_bits for name in rows["layer"]])
    # What is no weight of what was moved: inputs and outputs, at their own width.
    values = (rows["memory_bits"] - weight_bits * weights) // rows["width_bits"].clip(upper=32)
    names = ["energy_modelled_j_per_image", "memory_energy_modelled_j_per_image"]
    others = rest.groupby("layer")[names].sum().reindex(layers, fill_value=0.0).to_numpy()

    def energies(spec: Spec) -> np.ndarray:
        width = spec.activation_integer_bits + spec.activation_fraction_bits
        joules = macs * mac_pj(spec.arithmetic, width, spec.weight_bits, prices=prices) * 1e-12
        bits = spec.weight_bits * weights + min(width, FLOAT_BITS) * values.to_numpy()
        result = others.copy()
        np.add.at(result, number, np.stack([joules, bits * pj_per_bit * 1e-12], axis=1))
        return result.cumsum(axis=1)

    return energies


def energy_by_layer(
    model: nn.Module,
    input_shape: tuple[int, ...],
    *,
    prices: str = "horowitz",
    between_layers: str = "float32",
) -> pd.DataFrame:
    """Modelled compute energy layer by layer (J per image): what a number format can save, and not.

    A row per convolution, linear layer or product of attention, in the order they run. Columns:
    `products`, the multiplications or shifts; `sums`, their accumulation; `between`, all that lies
    between two layers (batch norm, activation, pooling, additions, requantisation), charged to the
    layer before, and the conversion to fixed point, charged to the layer it is for. Arguments as in
    `operation_counts`, whose sum is that of this table.
    """
    options = {"prices": prices, "between_layers": between_layers}
    table = operation_counts(model, input_shape, **options)
    is_layer = table["macs"] > 0
    number = (is_layer.cumsum() + (table["kind"] == "convert")).clip(1, max(is_layer.sum(), 1))
    energy = table["energy_modelled_j_per_image"]
    layers = table[is_layer].reset_index(drop=True)
    pj = [_product_pj(model, row, prices) for row in layers.itertuples()]
    found = pd.DataFrame({"layer": layers["layer"], "products": layers["macs"] * pj})
    found["products"] *= 1e-12
    found["sums"] = layers["energy_modelled_j_per_image"] - found["products"]
    between = energy.where(~is_layer, 0.0).groupby(number).sum()
    return found.assign(between=between.to_numpy()).set_index("layer")


def _product_pj(model: nn.Module, row: Any, prices: str) -> float:
    if row.arithmetic == "float32":
        return FLOAT32_PJ["multiply"]
    spec = _own_spec(model.get_submodule(row.layer))
    assert spec is not None
    operation = "shift" if row.arithmetic == "shift" else "multiply"
    return operation_pj(operation, row.width_bits, spec.weight_bits, prices=prices)


def price_with_integers(
    model: nn.Module,
    input_shape: tuple[int, ...],
    *,
    memory: str = "sram_1mb",
    prices: str = "horowitz",
    between_layers: str = "float32",
) -> pd.DataFrame:
    """What a network costs, and what it would with integer multipliers: the sceptic's question.

    Rows: "as it is"; "integers of the same widths", every shift layer computing with uniform
    integers of its weight and activation bits; "all layers int8", what one has without shifts: all
    convolution and linear layers, converted or not, with 8-bit weights and activations. Columns
    `energy_modelled_j_per_image` and `energy_modelled_with_memory_j_per_image`, other arguments as
    in `operation_counts`. Accuracy is another matter: each would have to be trained.
    """
    require_choice("memory", memory, MEMORY_PJ_PER_BIT)
    require_choice("prices", prices, PRICES)
    require_choice("between_layers", between_layers, BETWEEN_LAYERS)
    spec_of = {
        "as it is": _own_spec,
        "integers of the same widths": _integer_spec,
        "all layers int8": _int8_spec,
    }
    found = {
        name: _compute_and_with_memory(
            _operation_counts(model, input_shape, memory, prices, between_layers, spec)
        )
        for name, spec in spec_of.items()
    }
    columns = ["energy_modelled_j_per_image", "energy_modelled_with_memory_j_per_image"]
    return pd.DataFrame.from_dict(found, orient="index", columns=columns)


SpecOf = Callable[[nn.Module | None], Spec | None]  # what a module is counted as


def _own_spec(module: nn.Module | None) -> Spec | None:
    return module.spec if isinstance(module, QuantizedLayer) else None


def _integer_spec(module: nn.Module | None) -> Spec | None:
    spec = _own_spec(module)
    if spec is None:
        return None
    bits = spec.weight_bits, spec.activation_integer_bits, spec.activation_fraction_bits
    return IntegerSpec(*bits)


def _int8_spec(module: nn.Module | None) -> Spec | None:
    return INT8 if isinstance(module, QuantizedLayer | nn.Conv2d | nn.Linear) else None


def _operation_counts(model, input_shape, memory, prices, between_layers, spec_of) -> pd.DataFrame:
    if not input_shape or any(not isinstance(n, Integral) or n < 1 for n in input_shape):
        raise ValueError(
            f"input_shape={input_shape}: must be one image's shape in positive integers, "
            "without the batch, e.g. (3, 32, 32)"
        )
    kind = _IntegerCounter if between_layers == "integer" else _OperationCounter
    rows = _count(model, (1, *input_shape), kind(prices, spec_of))
    table = pd.DataFrame(rows, columns=_Row._fields)
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


def _count(model: nn.Module, shape: tuple[int, ...], counter: "_OperationCounter") -> list[_Row]:
    parameter = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    image = torch.zeros(shape, device=parameter.device, dtype=parameter.dtype)
    hooks = []
    try:
        for name, module in model.named_modules():
            hooks.append(module.register_forward_pre_hook(counter.enter(name)))
            hooks.append(module.register_forward_hook(counter.leave))
        with eval_mode(model), torch.no_grad(), _unfused_attention(), counter:
            model(image)
    finally:
        for hook in hooks:
            hook.remove()
    return counter.rows


@contextmanager
def _unfused_attention() -> Iterator[None]:
    """Attention as the products and the softmax it consists of, instead of one opaque operation."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


class _Operation(NamedTuple):
    """The energy per element in float32, and the integer operations it is; none: it has no such."""

    float32_pj: float
    as_integers: tuple[str, ...] = ()


_ADD = _Operation(FLOAT32_PJ["add"], ("add",))
# Comparing two floats costs about one integer subtraction.
_COMPARE = _Operation(INTEGER_PJ["add"][32], ("add",))
_MULTIPLY = _Operation(FLOAT32_PJ["multiply"])
_SCALE_AND_OFFSET = _Operation(MULTIPLY_ADD_PJ, ("multiply", "add"))
_NORMALISE = _CONVERT = _Operation(MULTIPLY_ADD_PJ)
_SMOOTH = _Operation(4 * MULTIPLY_ADD_PJ)  # assumed: a cubic polynomial and one product

# Tensor operations with arithmetic of their own, counted per output or per input element.
_ACTIVATIONS = {
    **dict.fromkeys(("relu", "relu_", "hardtanh", "hardtanh_", "clamp", "clamp_min"), _COMPARE),
    **dict.fromkeys(("leaky_relu", "leaky_relu_", "threshold", "clamp_max"), _COMPARE),
    **dict.fromkeys(("_prelu_kernel", "softshrink", "hardshrink", "abs", "neg", "sign"), _COMPARE),
    **dict.fromkeys(("round", "floor", "ceil", "maximum", "minimum"), _COMPARE),
    **dict.fromkeys(("silu", "silu_", "sigmoid", "sigmoid_", "tanh", "tanh_", "gelu"), _SMOOTH),
    **dict.fromkeys(("elu", "elu_", "hardswish", "hardswish_", "hardsigmoid"), _SMOOTH),
    **dict.fromkeys(("_softmax", "_safe_softmax", "_log_softmax", "hardsigmoid_"), _SMOOTH),
    **dict.fromkeys(("mish", "softplus", "celu", "glu", "log_sigmoid_forward"), _SMOOTH),
    **dict.fromkeys(("exp", "log", "pow", "sqrt", "rsqrt", "reciprocal", "erf"), _SMOOTH),
    **dict.fromkeys(("sin", "cos"), _SMOOTH),
}
_ELEMENTWISE = {
    **dict.fromkeys(("add", "add_", "sub", "sub_", "rsub"), _ADD),
    **dict.fromkeys(("mul", "mul_", "div", "div_"), _MULTIPLY),
    "upsample_bilinear2d": _Operation(4 * MULTIPLY_ADD_PJ),
}
# Per value read. The variance takes a difference, its square and a sum.
_REDUCTIONS = {
    **dict.fromkeys(("mean", "sum", "cumsum"), _ADD),
    **dict.fromkeys(("amax", "amin", "max", "min"), _COMPARE),
    "linalg_vector_norm": _Operation(MULTIPLY_ADD_PJ),
    **dict.fromkeys(("var", "var_mean", "std"), _Operation(MULTIPLY_ADD_PJ + FLOAT32_PJ["add"])),
}
# Operations that only make, copy, choose or move values. What is in no list is refused.
_FREE = {
    *("empty", "empty_like", "zeros", "zeros_like", "ones", "ones_like", "full", "full_like"),
    *("new_empty", "new_zeros", "new_ones", "new_full", "scalar_tensor", "arange", "linspace"),
    *("view", "_unsafe_view", "_reshape_alias", "reshape", "alias", "as_strided", "as_strided_"),
    *("t", "transpose", "permute", "expand", "squeeze", "unsqueeze", "diagonal", "unfold"),
    *("slice", "select", "split", "split_with_sizes", "unsafe_split", "unbind", "chunk"),
    *("cat", "stack", "repeat", "clone", "detach", "copy_", "_to_copy", "lift_fresh", "fill_"),
    *("zero_", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "replication_pad2d"),
    *("roll", "flip", "index", "index_select", "gather", "embedding", "where", "masked_fill"),
    *("masked_fill_", "tril", "triu", "im2col", "pixel_shuffle", "pixel_unshuffle"),
    *("channel_shuffle", "native_channel_shuffle", "upsample_nearest2d"),
    *("_upsample_nearest_exact2d", "max_unpool2d", "max_unpool3d", "squeeze_", "unsqueeze_"),
    *("transpose_", "t_"),
}  # fmt: skip
_MATRIX_PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "addmv", "mv", "linear")


class _OperationCounter(TorchDispatchMode):
    """Sees each tensor operation that really runs and knows, by hooks, in which module it runs."""

    def __init__(self, prices: str, spec_of: SpecOf):
        super().__init__()
        self.rows: list[_Row] = []
        self.prices, self.spec_of = prices, spec_of
        self._modules: list[tuple[str, nn.Module, tuple]] = []  # with what each was given

    def enter(self, name: str):
        return lambda module, given: self._modules.append((name, module, given))

    def leave(self, *_):
        self._modules.pop()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        name, module, _ = self._modules[-1] if self._modules else ("", None, ())
        self._record(func.overloadpacket.__name__, name, module, args, output)
        return output

    def _record(self, op: str, layer: str, module: nn.Module | None, args: tuple, output) -> None:
        out = output[0] if isinstance(output, (tuple, list)) else output
        spec = self.spec_of(module)
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
            between_activations = "bmm" in op and spec is None
            kind = "attention" if between_activations else "linear"
            self._layer(layer, kind, spec, out.numel() * inner, x, weight, out)
        elif isinstance(module, QuantizedLayer):
            # Emulating the rounding of such a layer is "convert", not float arithmetic.
            self._move(args, output)
        elif "batch_norm" in op:
            self._other(layer, "batch_norm", out.numel(), _SCALE_AND_OFFSET, args[:1], out)
        elif "group_norm" in op or "layer_norm" in op:
            self._other(layer, "batch_norm", out.numel(), _NORMALISE, args[:1], out)
        elif op in _ACTIVATIONS:
            self._other(layer, "activation", out.numel(), _ACTIVATIONS[op], args[:2], out)
        elif op in _ELEMENTWISE and out.is_floating_point() and args[0].ndim:
            tensors = [arg for arg in args[:2] if isinstance(arg, Tensor)]
            own = [tensor.numel() for tensor in tensors if isinstance(tensor, nn.Parameter)]
            moved = own[0] if own else (len(tensors) - 1) * out.numel()
            self._other(layer, "elementwise", out.numel(), _ELEMENTWISE[op], tensors, out, moved)
        elif ("pool" in op and "unpool" not in op) or op in _REDUCTIONS:
            windows = "pool" in op and "adaptive" not in op  # windows may overlap
            reads = out.numel() * math.prod(args[1]) if windows else args[0].numel()
            moved = args[0].numel() + out.numel()
            price = _REDUCTIONS.get(op, _COMPARE if "max" in op else _ADD)
            self._other(layer, "pooling", reads, price, args[:1], out, moved)
        elif op in _FREE or op in _ELEMENTWISE:
            self._move(args, output)
        elif isinstance(out, Tensor) and out.is_floating_point():  # others compute places, not data
            raise ValueError(
                f"operation {op} in layer {layer!r}: must be a convolution, a linear layer, "
                "attention or an element-wise operation to be counted"
            )

    def _layer(self, layer, kind, spec, macs, x, weight, out) -> None:
        arithmetic, width, weight_bits, sum_bits = "float32", FLOAT_BITS, FLOAT_BITS, None
        if spec is not None:
            arithmetic, weight_bits = spec.arithmetic, spec.weight_bits
            width = spec.activation_integer_bits + spec.activation_fraction_bits
            sum_bits = self._accumulator(spec, math.ceil(macs / out.numel()))
        self._enter_layer(layer, kind, spec, x, weight)
        bits = weight_bits * weight.numel() + self._stored(width) * (x.numel() + out.numel())
        pj = mac_pj(arithmetic, width, weight_bits, accumulator_bits=sum_bits, prices=self.prices)
        joules = macs * pj * 1e-12
        self.rows.append(_Row(layer, kind, arithmetic, macs, macs, width, joules, bits))
        self._leave_layer(spec, sum_bits, out)

    def _accumulator(self, spec: Spec, fan_in: int) -> int | None:
        return None  # the published arithmetic's: 32 bits or more

    def _stored(self, width: int) -> int:
        return min(width, FLOAT_BITS)

    def _enter_layer(self, layer, kind, spec, x, weight) -> None:
        if spec is not None:
            self._float(layer, "convert", x.numel(), _CONVERT)

    def _leave_layer(self, spec, sum_bits, out) -> None:
        pass

    def _other(self, layer, kind, operations, price, inputs, out, moved=0) -> None:
        """Count what is no layer; `moved` values are read from memory or written to it."""
        self._float(layer, kind, operations, price, moved)

    def _float(self, layer, kind, operations, price: _Operation, moved=0) -> None:
        joules = operations * price.float32_pj * 1e-12
        row = _Row(layer, kind, "float32", operations, 0, FLOAT_BITS, joules, FLOAT_BITS * moved)
        self.rows.append(row)

    def _move(self, inputs: Sequence, outputs) -> None:
        pass


@dataclass
class _FixedPoint:
    """What is known of an integer tensor: its width and, until requantised, its accumulator's."""

    bits: int
    accumulator_bits: int | None = None
    by_shift: bool = False  # whether a shift is enough to requantise it, when there is no norm


class _IntegerCounter(_OperationCounter):
    """Follows integer values from layer to layer; they are marked by an attribute of the tensor."""

    def _accumulator(self, spec: Spec, fan_in: int) -> int | None:
        return accumulator_bits(spec, fan_in)

    def _stored(self, width: int) -> int:
        return width

    def _enter_layer(self, layer, kind, spec, x, weight) -> None:
        if spec is None:
            self._to_float(layer, (x, weight) if kind == "attention" else (x,))
            return
        given = (*self._modules[-1][2], x)[0]  # what reached the layer, before it rounds its input
        if _mark(given) is None:
            self._float(layer, "convert", x.numel(), _CONVERT)
        else:
            self._requantise(layer, given)

    def _leave_layer(self, spec, sum_bits, out) -> None:
        if spec is not None:
            width = spec.activation_integer_bits + spec.activation_fraction_bits
            out.fixed_point = _FixedPoint(width, sum_bits, spec.arithmetic == "shift")

    def _other(self, layer, kind, operations, price, inputs, out, moved=0) -> None:
        # A parameter is a constant, which can be stored in any format.
        tensors = [t for t in inputs if isinstance(t, Tensor) and not isinstance(t, nn.Parameter)]
        marks = [_mark(tensor) for tensor in tensors]
        known = [mark for mark in marks if mark is not None]
        if not price.as_integers or len(known) < len(marks):
            self._to_float(layer, tensors)
            self._float(layer, kind, operations, price, moved)
            out.fixed_point = None  # in place, it has the mark of its input
            return
        bits = max(mark.bits for mark in known)
        width = bits
        if kind == "batch_norm":
            kind, width = "requantise", known[0].accumulator_bits or bits
        else:
            for tensor in tensors:
                self._requantise(layer, tensor)
        if kind == "pooling" and price == _ADD:  # a sum is wider than its summands
            width += math.ceil(math.log2(operations / out.numel()))
        self._integer(layer, kind, operations, price.as_integers, width, bits * moved)
        out.fixed_point = _FixedPoint(bits)

    def _requantise(self, layer: str, tensor: Tensor) -> None:
        mark = _mark(tensor)
        if mark is None or mark.accumulator_bits is None:
            return
        operations = ("shift",) if mark.by_shift else ("multiply", "add")
        self._integer(layer, "requantise", tensor.numel(), operations, mark.accumulator_bits, 0)
        mark.accumulator_bits = None  # once, however often the value is used

    def _to_float(self, layer: str, tensors: Sequence[Tensor]) -> None:
        for tensor in tensors:
            if _mark(tensor) is not None:
                self._float(layer, "convert", tensor.numel(), _CONVERT)

    def _integer(self, layer, kind, operations, names, width, memory_bits) -> None:
        # The constant of a requantisation is as wide as the accumulator, which is more than it
        # needs; a shift may go by as many places as there are.
        second = {"multiply": width, "shift": max(1.0, math.log2(width))}
        pj = sum(operation_pj(n, width, second.get(n), prices=self.prices) for n in names)
        joules = operations * pj * 1e-12
        row = _Row(layer, kind, "integer", operations, 0, width, joules, memory_bits)
        self.rows.append(row)

    def _move(self, inputs: Sequence, outputs) -> None:
        tensors = [t for t in _tensors(inputs) if t.is_floating_point()]
        marks = [mark for mark in map(_mark, tensors) if mark is not None]
        if marks and len(marks) == len(tensors):
            for out in _tensors([outputs]):
                out.fixed_point = max(marks, key=lambda mark: mark.accumulator_bits or 0)


def _tensors(values: Sequence) -> Iterator[Any]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def _mark(tensor: Tensor) -> _FixedPoint | None:
    return getattr(tensor, "fixed_point", None)
