"""From a plain network to one of shift or integer layers: replaced starting at the output."""

import copy
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from dsnn_utils.checks import check_integer
from dsnn_utils.shift.activations import QuantizedLayer
from dsnn_utils.shift.integers import IntegerConv2d, IntegerLinear
from dsnn_utils.shift.layers import ShiftConv2d, ShiftLinear
from dsnn_utils.shift.specs import IntegerSpec, ShiftSpec, Spec, check_spec

SHIFT_CLASS = {nn.Conv2d: ShiftConv2d, nn.Linear: ShiftLinear}
INTEGER_CLASS = {nn.Conv2d: IntegerConv2d, nn.Linear: IntegerLinear}


def shiftable_layers(model: nn.Module) -> list[str]:
    """Names of the model's convolution and linear layers, the one at the output end first.

    That is the reverse of the order in which they were registered, and the order of conversion:
    shift depth k means the first k names. Layers already converted are listed too. Only the classes
    nn.Conv2d and nn.Linear themselves count, since a subclass may compute something else. A layer
    registered twice is listed once.
    """
    classes = {*SHIFT_CLASS, *SHIFT_CLASS.values(), *INTEGER_CLASS.values()}
    return [name for name, module in model.named_modules() if type(module) in classes][::-1]


def convert_to_shift(
    model: nn.Module, shift_depth: int, spec: ShiftSpec, keep_weights: bool = True
) -> nn.Module:
    """A copy of the model whose last `shift_depth` layers are shift layers; the model is untouched.

    Depth 0 is a plain copy, depth len(shiftable_layers(model)) converts everything. The copy shares
    no storage with the model and keeps dtype, device, memory format, frozen parameters, training
    mode, hooks and shared layers. Layers that are shift layers already keep their own spec.

    keep_weights=True starts from the model's weights, without drawing random numbers: Q copies
    them, PS takes shift = log2|w| within the range and sign = sgn(w). keep_weights=False draws the
    published initialisation, biases included (`reset_parameters` of the layers).

    A module that reads `layer.weight` itself where it should call the layer (torchvision's Swin
    attention does), or that has kept `layer.forward`, computes without the shift layer; nothing
    here can see that. A state_dict of the result holds its parameters and not the spec: load it
    into a network that was converted with the same one.

    Raises ValueError for a shift_depth that is no integer from 0 to the number of shiftable layers,
    a spec that is no ShiftSpec, and a network with layers that would go on computing without shifts
    and not say so: under weight_norm, another parametrization or pruning, lazy and not yet
    initialised, with a forward of their own (as set by hooks of some libraries), or, for PS, with a
    weight that another module has, too.
    """
    check_spec(spec)
    return _convert(model, shift_depth, spec, keep_weights, "shift_depth")


def convert_to_integer(
    model: nn.Module, depth: int, spec: IntegerSpec, keep_weights: bool = True
) -> nn.Module:
    """A copy of the model whose last `depth` layers are integer layers; the model is untouched.

    The counterpart of `convert_to_shift`, to which it is the same in everything else.
    """
    check_spec(spec, IntegerSpec)
    return _convert(model, depth, spec, keep_weights, "depth")


def _convert(model: nn.Module, depth: int, spec: Spec, keep_weights: bool, name: str) -> nn.Module:
    names = shiftable_layers(model)
    why = f" (the model has {len(names)} shiftable layers)"
    depth = check_integer(name, depth, 0, len(names), why)
    plain = [name for name in names[:depth] if type(model.get_submodule(name)) in SHIFT_CLASS]
    if depth:
        _check_layers(model)
    return convert_layers(model, dict.fromkeys(plain, spec), keep_weights)


def convert_layers(
    model: nn.Module, specs: Mapping[str, Spec], keep_weights: bool = True
) -> nn.Module:
    """A copy of the model with these plain layers converted, each to its own number format.

    Raises ValueError as `convert_to_shift` does.
    """
    for name in specs:
        _check_layer(name, model.get_submodule(name))
    _check_not_tied(
        model, [n for n, spec in specs.items() if getattr(spec, "shift_type", 0) == "PS"]
    )
    result = copy.deepcopy(model)
    for name, spec in specs.items():
        layer = result.get_submodule(name)
        # The layer stays the same object, so all references to it stay right: a layer used twice,
        # or a model that is itself a single layer.
        classes = INTEGER_CLASS if isinstance(spec, IntegerSpec) else SHIFT_CLASS
        layer.__class__ = classes[type(layer)]
        assert isinstance(layer, QuantizedLayer)
        layer.adopt_spec(spec)
        if not keep_weights:
            layer.reset_parameters()
    if specs:
        _close_fused_paths(result)
    return result


@torch.no_grad()
def effective_weights(model: nn.Module) -> Tensor:
    """The weights that the model's `shiftable_layers` compute with, in their order, as one row.

    Signed powers of two (or 0) for shift layers, integers times a step for integer layers, the
    weights themselves for plain ones. A copy, on the CPU, to look at.
    """
    layers: list[Any] = [model.get_submodule(name) for name in shiftable_layers(model)]
    weights = [x.effective_weight() if hasattr(x, "spec") else x.weight for x in layers]
    return torch.cat([weight.flatten().cpu() for weight in weights])


def _check_layers(model: nn.Module) -> None:
    """ValueError for layers that are of no listed class and would be one a moment later."""
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module) and isinstance(module, tuple(SHIFT_CLASS)):
            raise ValueError(f"layer {name!r}: remove its parametrization before converting")
        if isinstance(module, nn.modules.lazy.LazyModuleMixin):
            raise ValueError(f"layer {name!r}: run a batch through the network before converting")


def _check_layer(name: str, layer: nn.Module) -> None:
    if "weight" not in layer._parameters:
        raise ValueError(f"layer {name!r}: remove weight_norm or pruning before converting it")
    if "forward" in vars(layer):
        raise ValueError(f"layer {name!r}: remove the forward set on this layer before converting")


def _check_not_tied(model: nn.Module, names: list[str]) -> None:
    """PS replaces a weight by two parameters of the layer: it cannot stay another module's, too."""
    owners = Counter(id(p) for m in model.modules() for p in m._parameters.values())
    for name in names:
        if owners[id(model.get_submodule(name).weight)] > 1:
            raise ValueError(f"layer {name!r}: its weight is another module's too, PS cannot share")


def _close_fused_paths(model: nn.Module) -> None:
    """Make PyTorch's transformer encoder call its linear layers in inference, as in training.

    Its fused inference path reads their `weight` instead, past the forward of a shift layer.
    """
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0
