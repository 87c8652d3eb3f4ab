"""Shift layers against plain layers that were given the rounded operands."""

import copy
import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dsnn_utils import ShiftConv2d, ShiftLinear, ShiftSpec
from dsnn_utils.shift import fixed_point

BOTH_TYPES = pytest.mark.parametrize("shift_type", ["Q", "PS"])


def layers(spec, **kwargs):
    yield ShiftConv2d(3, 4, 3, spec=spec, **kwargs)
    yield ShiftLinear(5, 6, spec=spec, **kwargs)


# ShiftSpec


def test_default_spec_is_the_published_one():
    assert ShiftSpec() == ShiftSpec("PS", 5, 16, 16, "deterministic")


@pytest.mark.parametrize(
    ("spec", "shift_range"),
    [
        (ShiftSpec("Q", 2), (-1, 0)),
        (ShiftSpec("Q", 5), (-15, 0)),
        (ShiftSpec("Q", 8), (-127, 0)),
        (ShiftSpec("PS", 2), (0, 0)),
        (ShiftSpec("PS", 5), (-14, 0)),
        (ShiftSpec("PS", 8), (-126, 0)),
    ],
)
def test_shift_range(spec, shift_range):
    assert spec.shift_range == shift_range


def test_spec_stores_python_types():
    spec = ShiftSpec(np.str_("Q"), np.int64(4), np.int32(8), np.uint8(0), np.str_("stochastic"))
    assert spec == ShiftSpec("Q", 4, 8, 0, "stochastic")
    types = [str, int, int, int, str, str, str, str, str]
    assert [type(value) for value in vars(spec).values()] == types


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("shift_type", "ps", "one of Q, PS"),
        ("shift_type", None, "one of Q, PS"),
        ("rounding", "determinstic", "one of deterministic, stochastic"),
        ("weight_bits", 1, "an integer from 2 to 8"),
        ("weight_bits", 9, "an integer from 2 to 8"),
        ("weight_bits", 4.0, "an integer from 2 to 8"),
        ("weight_bits", "4", "an integer from 2 to 8"),
        ("weight_bits", True, "an integer from 2 to 8"),
        ("activation_integer_bits", 1, "an integer from 2 to 32"),
        ("activation_integer_bits", 33, "an integer from 2 to 32"),
        ("activation_fraction_bits", -1, "an integer from 0 to 32"),
        ("activation_fraction_bits", np.float64(8), "an integer from 0 to 32"),
    ],
)
def test_invalid_spec(field, value, allowed):
    with pytest.raises(ValueError) as error:
        ShiftSpec(**{field: value})
    assert str(error.value) == f"{field}={value!r}: must be {allowed}"


def test_a_layer_refuses_what_is_no_spec():
    with pytest.raises(ValueError, match="spec='Q': must be a ShiftSpec"):
        ShiftLinear(2, 2, spec="Q")


# Forward and backward


def test_linear_by_hand():
    layer = ShiftLinear(2, 1, spec=ShiftSpec("Q", 3, 4, 2))
    layer.load_state_dict({"weight": torch.tensor([[0.3, -0.9]]), "bias": torch.tensor([0.3])})
    # x becomes 0.25 and -0.5, W 0.25 and -1, the bias 0.25
    y = layer(torch.tensor([[0.3, -0.3]]))
    assert y.item() == 0.25 * 0.25 + 0.5 + 0.25
    y.backward()
    assert layer.weight.grad.tolist() == [[0.25, -0.5]] and layer.bias.grad.tolist() == [1]


def test_ps_linear_by_hand():
    layer = ShiftLinear(2, 1, bias=False, spec=ShiftSpec("PS", 4, 4, 2))
    state = {"shift": torch.tensor([[-2.4, 1.0]]), "sign": torch.tensor([[-0.7, 0.4]])}
    layer.load_state_dict(state)
    y = layer(torch.tensor([[0.3, -0.3]]))  # W is -1/4 and 0
    assert y.item() == -0.25 * 0.25
    y.backward()
    torch.testing.assert_close(
        layer.shift.grad, torch.tensor([[0.25 * -0.25 * np.log(2), 0.0]]), check_dtype=False
    )
    assert layer.sign.grad.tolist() == [[0.25, -0.5]]


GEOMETRIES = [
    {},
    {"bias": False},
    {"stride": 2, "padding": 1},
    {"stride": (1, 2), "padding": (2, 0), "dilation": (1, 2)},
    {"groups": 2, "padding": 1},
    {"groups": 4},
    {"padding": "same", "dilation": 2},
    {"padding": "valid"},
    {"padding": 1, "padding_mode": "reflect"},
    {"padding": (2, 1), "padding_mode": "circular"},
    {"padding": 2, "padding_mode": "replicate"},
    {"padding": "same", "padding_mode": "reflect"},
]


@BOTH_TYPES
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_conv_is_the_plain_conv_of_rounded_operands(shift_type, geometry):
    torch.manual_seed(0)
    layer = ShiftConv2d(4, 8, 3, spec=ShiftSpec(shift_type, 4, 4, 3), **geometry)
    plain = nn.Conv2d(4, 8, 3, **geometry)
    x = torch.randn(2, 4, 7, 9) * 4
    with torch.no_grad():
        plain.weight.copy_(layer.effective_weight())
        if plain.bias is not None:
            plain.bias.copy_(fixed_point(layer.bias, 4, 3))
        assert torch.equal(layer(x), plain(fixed_point(x, 4, 3)))
        assert torch.equal(layer(x[0]), plain(fixed_point(x[0], 4, 3)))  # without a batch


@BOTH_TYPES
def test_linear_takes_any_leading_shape(shift_type):
    layer = ShiftLinear(4, 2, spec=ShiftSpec(shift_type))
    x = torch.randn(3, 5, 4)
    torch.testing.assert_close(layer(x), layer(x.reshape(15, 4)).reshape(3, 5, 2))
    assert layer(x[0, 0]).shape == (2,)


@BOTH_TYPES
@pytest.mark.parametrize("rounding", ["deterministic", "stochastic"])
def test_forward_changes_neither_parameters_nor_input(shift_type, rounding):
    for layer in layers(ShiftSpec(shift_type, 3, 4, 4, rounding)):
        before = copy.deepcopy(layer.state_dict())
        x = torch.randn(2, 3, 5, 5) * 10
        kept = x.clone()
        layer(x).sum().backward()
        assert torch.equal(x, kept)
        assert all(torch.equal(before[name], value) for name, value in layer.state_dict().items())
        assert all(parameter.grad is not None for parameter in layer.parameters())


@BOTH_TYPES
def test_stochastic_only_while_training(shift_type):
    torch.manual_seed(0)
    for layer in layers(ShiftSpec(shift_type, rounding="stochastic")):
        assert not torch.equal(layer.effective_weight(), layer.effective_weight())
        layer.eval()
        exact = copy.deepcopy(layer)
        exact.spec = ShiftSpec(shift_type)
        assert torch.equal(layer.effective_weight(), exact.effective_weight())


@settings(max_examples=60, deadline=None)
@given(
    shift_type=st.sampled_from(["Q", "PS"]),
    bits=st.integers(2, 8),
    rounding=st.sampled_from(["deterministic", "stochastic"]),
    scale=st.sampled_from([1e-3, 0.1, 1.0, 30.0]),
    seed=st.integers(0, 1000),
)
def test_effective_weights_are_zero_or_powers_of_two_in_range(
    shift_type, bits, rounding, scale, seed
):
    torch.manual_seed(seed)
    spec = ShiftSpec(shift_type, bits, rounding=rounding)
    for layer in layers(spec):
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.mul_(scale)
        weight = layer.effective_weight().detach()
        low, high = spec.shift_range
        powers = {2.0**k for k in range(low, high + 1)}
        assert set(weight.abs().unique().tolist()) <= powers | {0.0}
        # Q has 2^bits codes and zero besides; PS has zero among its codes, and one code unused.
        assert len(weight.unique()) <= (2**bits + 1 if shift_type == "Q" else 2**bits - 1)


# Initialisation


def test_q_starts_as_the_plain_layer():
    for plain_class, shift_class in ((nn.Conv2d, ShiftConv2d), (nn.Linear, ShiftLinear)):
        arguments = (8, 4, 3) if plain_class is nn.Conv2d else (8, 4)
        torch.manual_seed(0)
        plain = plain_class(*arguments)
        torch.manual_seed(0)
        layer = shift_class(*arguments, spec=ShiftSpec("Q"))
        assert torch.equal(plain.weight, layer.weight) and torch.equal(plain.bias, layer.bias)


def test_ps_starts_uniform_with_half_of_the_weights_zero():
    torch.manual_seed(0)
    for layer in (ShiftConv2d(64, 64, 3), ShiftLinear(256, 256)):
        for parameter, low, high in ((layer.shift, -14, 0), (layer.sign, -1, 1)):
            quartiles = torch.quantile(parameter.detach().flatten(), torch.linspace(0, 1, 5))
            expected = torch.linspace(low, high, 5)
            torch.testing.assert_close(quartiles, expected, rtol=0, atol=0.02 * (high - low))
        zeros = (layer.effective_weight() == 0).double().mean().item()
        assert abs(zeros - 0.5) < 0.02
        bound = layer.shift[0].numel() ** -0.5
        assert layer.bias.abs().max() <= bound and layer.bias.abs().max() > 0.9 * bound


# A module like any other


@BOTH_TYPES
def test_parameters_and_repr(shift_type):
    names = {"Q": {"weight", "bias"}, "PS": {"shift", "sign", "bias"}}[shift_type]
    for layer in layers(ShiftSpec(shift_type, 3)):
        assert set(layer.state_dict()) == names
        assert f"shift_type='{shift_type}', weight_bits=3" in repr(layer)
    assert set(ShiftLinear(2, 3, False, ShiftSpec(shift_type)).state_dict()) == names - {"bias"}


@BOTH_TYPES
def test_state_dict_and_deepcopy_are_exact(shift_type):
    spec = ShiftSpec(shift_type, 4, 5, 6, "stochastic")
    for layer, other in zip(layers(spec), layers(spec), strict=True):
        buffer = io.BytesIO()
        torch.save(layer.state_dict(), buffer)
        buffer.seek(0)
        other.load_state_dict(torch.load(buffer, weights_only=True))
        twin = copy.deepcopy(layer)
        for name, value in layer.state_dict().items():
            assert torch.equal(value, other.state_dict()[name])
            assert torch.equal(value, twin.state_dict()[name])
        assert twin.spec == spec
        x = torch.randn(2, 3, 5, 5)
        assert torch.equal(layer.eval()(x), other.eval()(x))
        assert torch.equal(layer(x), twin.eval()(x))


@BOTH_TYPES
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtype_is_preserved(shift_type, dtype):
    for layer in layers(ShiftSpec(shift_type, 4, 8, 8), dtype=dtype):
        x = torch.randn(2, 3, 5, 5, dtype=dtype, requires_grad=True)
        y = layer(x)
        y.sum().backward()
        assert y.dtype == x.grad.dtype == dtype
        assert all(parameter.grad.dtype == dtype for parameter in layer.parameters())
        assert layer.effective_weight().dtype == dtype


def test_device_argument():
    for layer in layers(ShiftSpec(), device="meta"):
        assert all(parameter.device.type == "meta" for parameter in layer.parameters())


# Mixed precision


def test_autocast_rounds_before_it_casts():
    """0.2499 at 2 fraction bits is 0; as bfloat16 it would have become 0.25 first."""
    layer = ShiftLinear(1, 1, bias=False, spec=ShiftSpec("Q", 5, 8, 2))
    nn.init.ones_(layer.weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(torch.tensor([[0.2499]]))
    assert y.dtype == torch.bfloat16 and y.item() == 0


@BOTH_TYPES
def test_autocast_is_exact_where_bfloat16_is(shift_type):
    """Powers of two and 4 + 2 bit activations are exact in bfloat16; a sum of 5 is nearly so."""
    torch.manual_seed(0)
    layer = ShiftLinear(5, 6, bias=False, spec=ShiftSpec(shift_type, 3, 4, 2))
    x = torch.randn(20, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
        y.float().sum().backward()
    torch.testing.assert_close(y.float(), layer(x), rtol=2**-7, atol=1e-6)
    assert all(parameter.grad.dtype == torch.float32 for parameter in layer.parameters())


@BOTH_TYPES
def test_channels_last_stays(shift_type):
    layer = ShiftConv2d(4, 8, 3, spec=ShiftSpec(shift_type)).to(memory_format=torch.channels_last)
    x = torch.randn(2, 4, 6, 6).to(memory_format=torch.channels_last)
    assert layer(x).is_contiguous(memory_format=torch.channels_last)
    assert layer.effective_weight().is_contiguous(memory_format=torch.channels_last)
