"""From a plain network to a deep shift network: replace layers, starting at the output."""

import copy

from torch import nn

from dsnn_utils.layers import ShiftConv2d, ShiftLinear, ShiftSpec
from dsnn_utils.quantization import check_integer

SHIFT_CLASS = {nn.Conv2d: ShiftConv2d, nn.Linear: ShiftLinear}


def shiftable_layers(model: nn.Module) -> list[str]:
    """Names of the model's convolution and linear layers, the one at the output end first.

    That is the reverse of the order in which they were registered, and the order of conversion:
    shift depth k means the first k names. Layers already converted are listed too. Only the classes
    nn.Conv2d and nn.Linear themselves count, since a subclass may compute something else. A layer
    used twice is listed once.
    """
    classes = {*SHIFT_CLASS, *SHIFT_CLASS.values()}
    return [name for name, module in model.named_modules() if type(module) in classes][::-1]


def convert_to_shift(
    model: nn.Module, shift_depth: int, spec: ShiftSpec, keep_weights: bool = True
) -> nn.Module:
    """A copy of the model whose last `shift_depth` layers are shift layers; the model is untouched.

    Depth 0 is a plain copy, depth len(shiftable_layers(model)) converts everything. The copy shares
    no storage with the model and keeps dtype, device, frozen parameters, training mode and shared
    layers. Layers that are shift layers already stay as they are and keep their own spec.

    keep_weights=True starts from the model's weights: Q copies them, PS takes shift = log2|w| (within
    the range) and sign = sgn(w). keep_weights=False draws the published initialisation, biases too
    (see `reset_parameters` of the layers).

    Raises ValueError for a shift_depth that is no integer from 0 to the number of shiftable layers.
    """
    names = shiftable_layers(model)
    why = f" (the model has {len(names)} shiftable layers)"
    shift_depth = check_integer("shift_depth", shift_depth, 0, len(names), why)
    if not isinstance(spec, ShiftSpec):
        raise ValueError(f"spec={spec!r}: must be a ShiftSpec")
    result = copy.deepcopy(model)
    for name in names[:shift_depth]:
        layer = result.get_submodule(name)
        if type(layer) in SHIFT_CLASS:
            # The layer stays the same object, so every reference to it stays right: layers used
            # twice, and a model that is itself a single layer.
            layer.__class__ = SHIFT_CLASS[type(layer)]
            layer.adopt_spec(spec)
            if not keep_weights:
                layer.reset_parameters()
    return result
