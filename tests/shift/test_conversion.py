"""Conversion: which layers, with which parameters, and nothing else changed."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, prune

from dsnn_utils import ShiftConv2d, ShiftLinear, ShiftSpec, convert_to_shift, shiftable_layers
from dsnn_utils.shift import effective_weights, fixed_point, round_to_power_of_two

SHIFT = (ShiftConv2d, ShiftLinear)
BOTH_TYPES = pytest.mark.parametrize("shift_type", ["Q", "PS"])


class Net(nn.Module):
    """A bit of everything: nested, shared and frozen layers, geometries, other layers between."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, padding_mode="circular", bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.body = nn.Sequential(
            nn.Conv2d(8, 8, 3, padding="same", dilation=2, groups=2), nn.ReLU(), nn.Dropout(0.1)
        )
        self.twice = nn.Conv2d(8, 8, 1)
        self.alias = self.twice
        self.head = nn.ModuleDict({"hidden": nn.Linear(8, 6), "out": nn.Linear(6, 4)})
        self.body[0].weight.requires_grad_(False)
        self.head["out"].bias.requires_grad_(False)

    def forward(self, x):
        x = self.body(self.norm(self.stem(x)))
        x = self.alias(self.twice(x).relu()).mean((2, 3))
        return self.head["out"](self.head["hidden"](x).relu())


NAMES = ["head.out", "head.hidden", "twice", "body.0", "stem"]


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


def converted_names(model):
    return [name for name, module in model.named_modules() if isinstance(module, SHIFT)][::-1]


def snapshot(model):
    return {
        "state": copy.deepcopy(model.state_dict()),
        "types": {name: type(module) for name, module in model.named_modules()},
        "training": {name: module.training for name, module in model.named_modules()},
        "frozen": {name: p.requires_grad for name, p in model.named_parameters()},
        "pointers": {name: p.data_ptr() for name, p in model.named_parameters()},
        "dtypes": {name: p.dtype for name, p in model.named_parameters()},
    }


def assert_same(left, right, keys=("state", "types", "training", "frozen", "dtypes")):
    for key in keys:
        if key == "state":
            assert left[key].keys() == right[key].keys()
            assert all(torch.equal(value, right[key][name]) for name, value in left[key].items())
        else:
            assert left[key] == right[key]


def test_order_is_from_the_output_end(net):
    assert shiftable_layers(net) == NAMES
    for depth in range(len(NAMES) + 1):
        assert converted_names(convert_to_shift(net, depth, ShiftSpec())) == NAMES[:depth]


def test_depth_0_is_the_source_to_the_last_bit(net):
    result = convert_to_shift(net, 0, ShiftSpec())
    assert_same(snapshot(net), snapshot(result))
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(net.eval()(x), result.eval()(x))


@settings(max_examples=40, deadline=None)
@given(
    depth=st.integers(0, 5),
    shift_type=st.sampled_from(["Q", "PS"]),
    bits=st.integers(2, 8),
    keep_weights=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    training=st.booleans(),
)
def test_the_source_never_changes(depth, shift_type, bits, keep_weights, dtype, training):
    net = Net().to(dtype).train(training)
    net.norm.eval()
    before = snapshot(net)
    result = convert_to_shift(net, depth, ShiftSpec(shift_type, bits, 4, 4), keep_weights)
    result(torch.randn(4, 3, 8, 8, dtype=dtype)).sum().backward()
    with torch.no_grad():
        for parameter in result.parameters():
            parameter.add_(1)
    assert_same(before, snapshot(net), [*before])
    assert all(parameter.grad is None for parameter in net.parameters())
    ours = {t.untyped_storage().data_ptr() for t in net.state_dict().values()}
    theirs = {t.untyped_storage().data_ptr() for t in result.state_dict().values()}
    assert not ours & theirs
    # and what the result took over from it
    for name, module in result.named_modules():
        assert module.training == net.get_submodule(name).training
    for name, parameter in result.named_parameters():
        assert parameter.dtype == dtype
        source = name.replace(".shift", ".weight").replace(".sign", ".weight")
        assert parameter.requires_grad == net.get_parameter(source).requires_grad


@settings(max_examples=40, deadline=None)
@given(a=st.integers(0, 5), b=st.integers(0, 5), shift_type=st.sampled_from(["Q", "PS"]))
def test_converting_twice_is_converting_once_to_the_larger_depth(a, b, shift_type):
    torch.manual_seed(a)
    net, spec = Net(), ShiftSpec(shift_type, 4)
    twice = convert_to_shift(convert_to_shift(net, a, spec), b, spec)
    once = convert_to_shift(net, max(a, b), spec)
    assert_same(snapshot(twice), snapshot(once))
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(twice.eval()(x), once.eval()(x))
    assert shiftable_layers(twice) == shiftable_layers(net)


def test_converted_layers_keep_their_spec(net):
    first, second = ShiftSpec("Q", 3), ShiftSpec("PS", 6)
    result = convert_to_shift(convert_to_shift(net, 2, first), 5, second)
    specs = [result.get_submodule(name).spec for name in NAMES]
    assert specs == [first] * 2 + [second] * 3


# Parameters


def test_q_copies_the_weights(net):
    result = convert_to_shift(net, 5, ShiftSpec("Q"))
    assert all(torch.equal(v, result.state_dict()[name]) for name, v in net.state_dict().items())


def test_ps_starts_at_the_weights(net):
    with torch.no_grad():
        net.stem.weight[0, 0, 0] = torch.tensor([0.0, 4.0, -1e-9])
    layer = convert_to_shift(net, 5, ShiftSpec("PS", 5)).stem
    assert layer.shift.isfinite().all()
    assert layer.shift[0, 0, 0].tolist() == [-14, 0, -14]
    assert layer.sign[0, 0, 0].tolist() == [0, 1, -1]
    inside = net.stem.weight.abs() > 2**-14
    inside &= net.stem.weight.abs() < 1
    exact = net.stem.weight[inside]
    torch.testing.assert_close(layer.shift[inside].exp2() * layer.sign[inside], exact)
    assert (layer.shift[inside] % 1 != 0).any()  # unrounded
    assert torch.equal(layer.effective_weight()[inside], round_to_power_of_two(exact))


def test_keeping_the_weights_draws_no_random_numbers(net):
    state = torch.get_rng_state()
    convert_to_shift(net, 5, ShiftSpec("PS", rounding="stochastic"))
    assert torch.equal(state, torch.get_rng_state())


@BOTH_TYPES
def test_fresh_initialisation_is_that_of_a_new_layer(net, shift_type):
    spec = ShiftSpec(shift_type, 4)
    layer = convert_to_shift(net, 2, spec, keep_weights=False).head["hidden"]
    for name, parameter in layer.named_parameters():
        assert parameter.std() > 0  # the bias is new as well
        assert not any(torch.equal(parameter, p) for p in net.head["hidden"].parameters())
        if name == "shift":
            assert -6 <= parameter.min() and parameter.max() <= 0
        elif name == "sign":
            assert parameter.abs().max() <= 1
        else:
            assert parameter.abs().max() <= 8**-0.5
    torch.manual_seed(3)
    first = convert_to_shift(net, 5, spec, keep_weights=False)
    torch.manual_seed(3)
    assert_same(snapshot(first), snapshot(convert_to_shift(net, 5, spec, keep_weights=False)))


# Structure


def test_output_is_the_plain_network_of_rounded_weights_and_wide_activations(net):
    """With 32 + 20 bits the activations hardly round: what is left is the weights."""
    result = convert_to_shift(net, 5, ShiftSpec("Q", 6, 32, 20)).eval()
    rounded = copy.deepcopy(net).double().eval()
    with torch.no_grad():
        for name in NAMES:
            layer = rounded.get_submodule(name)
            layer.weight.copy_(round_to_power_of_two(layer.weight))
            if layer.bias is not None:
                layer.bias.copy_(fixed_point(layer.bias, 32, 20))
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(
        result(x), rounded(x.double()), rtol=1e-4, atol=1e-4, check_dtype=False
    )


def test_shared_layers_stay_shared(net):
    assert "alias" not in shiftable_layers(net)
    result = convert_to_shift(net, 3, ShiftSpec())
    assert result.alias is result.twice and isinstance(result.alias, ShiftConv2d)
    container = nn.Sequential(net, nn.ModuleList([net.stem, net.twice]))
    result = convert_to_shift(container, 5, ShiftSpec("Q"))
    assert result[1][0] is result[0].stem and result[1][1] is result[0].alias
    assert converted_names(result) == ["0." + name for name in NAMES]


def test_a_layer_kept_outside_the_module_tree_is_converted_too(net):
    net.hidden_list = [net.stem]
    result = convert_to_shift(net, 5, ShiftSpec())
    assert result.hidden_list[0] is result.stem and net.hidden_list[0] is net.stem


@BOTH_TYPES
@pytest.mark.parametrize("layer", [nn.Conv2d(3, 4, 3), nn.Linear(5, 4)], ids=["conv", "linear"])
def test_a_bare_layer_converts(layer, shift_type):
    assert shiftable_layers(layer) == [""]
    result = convert_to_shift(layer, 1, ShiftSpec(shift_type))
    assert isinstance(result, SHIFT) and not isinstance(layer, SHIFT)
    assert shiftable_layers(result) == [""]


def test_only_the_classes_themselves_convert():
    class MyLinear(nn.Linear):
        pass

    net = nn.Sequential(
        MyLinear(2, 2),
        nn.ConvTranspose2d(2, 2, 1),
        nn.Conv1d(2, 2, 1),
        nn.MultiheadAttention(4, 2),
        nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)),
        nn.Linear(2, 2),
    )
    assert shiftable_layers(net) == ["5"]


def test_memory_format_hooks_and_device_stay(net):
    net.to(memory_format=torch.channels_last)
    calls = []
    net.stem.register_forward_hook(lambda *args: calls.append(type(args[0])))
    result = convert_to_shift(net, 5, ShiftSpec())
    assert result.body[0].shift.is_contiguous(memory_format=torch.channels_last)
    result(torch.randn(2, 3, 8, 8))
    assert calls == [ShiftConv2d]
    meta = convert_to_shift(Net().to("meta"), 5, ShiftSpec())
    assert {p.device.type for p in meta.parameters()} == {"meta"}


@BOTH_TYPES
def test_state_dict_and_deepcopy_of_a_converted_model(net, shift_type):
    spec = ShiftSpec(shift_type, 4, rounding="stochastic")
    result = convert_to_shift(net, 4, spec)
    other = convert_to_shift(Net(), 4, spec)
    other.load_state_dict(result.state_dict())
    assert_same(snapshot(result), snapshot(other))
    assert_same(snapshot(result), snapshot(copy.deepcopy(result)))


@BOTH_TYPES
def test_transformer_encoders_use_the_shift_layers_in_inference(shift_type):
    """PyTorch's fused path for inference would read the weights past them."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2).eval()
    result = convert_to_shift(encoder, 4, ShiftSpec(shift_type, 2))
    x, padding = torch.randn(2, 5, 8), torch.zeros(2, 5, dtype=torch.bool)
    padding[1, 3:] = True
    expected = result(x, src_key_padding_mask=padding)
    with torch.no_grad():
        torch.testing.assert_close(result(x, src_key_padding_mask=padding), expected)
    assert encoder.use_nested_tensor and encoder.layers[0].activation_relu_or_gelu == 1


# Looking at the weights


@pytest.mark.parametrize("depth", [0, 2, 5])
def test_effective_weights_are_those_of_the_layers_in_order(net, depth):
    result = convert_to_shift(net, depth, ShiftSpec("Q"))
    layers = [result.get_submodule(name) for name in shiftable_layers(result)]
    shifted = [layer.effective_weight() for layer in layers[:depth]]
    expected = [weight.flatten() for weight in [*shifted, *(x.weight for x in layers[depth:])]]
    weights = effective_weights(result)
    assert torch.equal(weights, torch.cat(expected)) and not weights.requires_grad


# Bad input


@pytest.mark.parametrize("depth", [-1, 6, 2.0, "1", True, None, np.float32(1), np.True_])
def test_invalid_depth(net, depth):
    with pytest.raises(ValueError) as error:
        convert_to_shift(net, depth, ShiftSpec())
    assert str(error.value) == (
        f"shift_depth={depth!r}: must be an integer from 0 to 5 (the model has 5 shiftable layers)"
    )


def test_numpy_depth(net):
    assert len(converted_names(convert_to_shift(net, np.int64(2), ShiftSpec()))) == 2


def test_invalid_spec_and_layer(net):
    with pytest.raises(ValueError, match="spec=None: must be a ShiftSpec"):
        convert_to_shift(net, 0, None)
    prune.identity(net.stem, "weight")
    with pytest.raises(ValueError, match="layer 'stem': remove weight_norm or pruning"):
        convert_to_shift(net, 5, ShiftSpec())


def test_what_would_not_shift_in_silence_is_refused():
    spec, q = ShiftSpec("PS"), ShiftSpec("Q")
    parametrized = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 2))
    with pytest.raises(ValueError, match="layer '0': remove its parametrization"):
        convert_to_shift(parametrized, 1, spec)
    lazy = nn.Sequential(nn.Flatten(), nn.LazyLinear(3), nn.Linear(3, 2))
    with pytest.raises(ValueError, match="layer '1': run a batch through the network"):
        convert_to_shift(lazy, 1, spec)
    lazy(torch.zeros(1, 2, 2))
    assert converted_names(convert_to_shift(lazy, 2, spec)) == ["2", "1"]

    patched = nn.Sequential(nn.Linear(4, 3))
    original = patched[0].forward
    patched[0].forward = lambda x: original(x)
    with pytest.raises(ValueError, match="layer '0': remove the forward set on this layer"):
        convert_to_shift(patched, 1, spec)

    tied = nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU(), nn.Linear(4, 4, bias=False))
    tied[2].weight = tied[0].weight
    with pytest.raises(ValueError, match="layer '2': its weight is another module's too"):
        convert_to_shift(tied, 2, spec)
    shifted = convert_to_shift(tied, 2, q)
    assert shifted[2].weight is shifted[0].weight  # Q keeps the tie
