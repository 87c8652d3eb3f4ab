"""Integer layers: LSQ against its equations, and what they share with shift layers."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from dsnn_utils import ShiftSpec, shiftable_layers
from dsnn_utils.shift import (
    IntegerConv2d,
    IntegerLinear,
    IntegerSpec,
    convert_to_integer,
    convert_to_shift,
    effective_weights,
    fit_activations,
    quantize_lsq,
)

W4 = IntegerSpec(4, 8, 8)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


def test_forward_and_gradients_by_hand():
    weight = torch.tensor([0.24, -0.9, 0.8, 0.1], requires_grad=True)
    step = torch.tensor([0.25], requires_grad=True)
    rounded = quantize_lsq(weight, step, -2, 1)  # 2 bits: -0.5, -0.25, 0, 0.25
    assert rounded.tolist() == [0.25, -0.5, 0.25, 0.0]
    rounded.backward(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert weight.grad.tolist() == [1.0, 0.0, 0.0, 4.0]
    # round(v) - v within the range, the end of the range beyond; times 1 / sqrt(4 weights * 1).
    expected = (1 * (1 - 0.96) + 2 * -2 + 3 * 1 + 4 * (0 - 0.4)) / 2
    assert step.grad.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("weight_scale", ["layer", "channel"])
def test_weights_are_integers_of_the_range_times_the_step(bits, weight_scale):
    spec = replace(W4, weight_bits=bits, weight_scale=weight_scale)
    for layer in (nn.Conv2d(3, 5, 3), nn.Linear(7, 5)):
        converted = convert_to_integer(layer, 1, spec)
        assert len(converted.weight_step) == (5 if weight_scale == "channel" else 1)
        codes = converted.effective_weight().flatten(1) / converted.weight_unit()[:, None]
        assert torch.allclose(codes, codes.round(), atol=1e-4)
        low, high = spec.code_range
        assert low <= codes.round().min() and codes.round().max() <= high


def test_eight_bits_are_close_and_more_bits_closer():
    plain = network()
    errors = [
        (effective_weights(convert_to_integer(plain, 2, replace(W4, weight_bits=bits)))
         - effective_weights(plain)).square().mean().item()
        for bits in (2, 4, 8)
    ]  # fmt: skip
    assert errors[0] > 5 * errors[1] > 25 * errors[2]


def test_conversion_is_that_of_shift_layers():
    plain = network()
    integer = convert_to_integer(plain, 1, W4)
    assert [type(integer[i]) for i in (0, 3)] == [nn.Conv2d, IntegerLinear]
    assert shiftable_layers(integer) == shiftable_layers(plain) == ["3", "0"]
    both = convert_to_integer(convert_to_shift(plain, 1, ShiftSpec("Q")), 2, W4)
    assert type(both[0]) is IntegerConv2d and both[3].spec == ShiftSpec("Q")
    assert type(plain[0]) is nn.Conv2d and torch.equal(integer[3].weight, plain[3].weight)
    with pytest.raises(ValueError, match="depth=3: must be an integer from 0 to 2"):
        convert_to_integer(plain, 3, W4)
    with pytest.raises(ValueError, match="spec=.*: must be an IntegerSpec"):
        convert_to_integer(plain, 1, ShiftSpec("Q"))
    with pytest.raises(ValueError, match="spec=.*: must be a ShiftSpec"):
        convert_to_shift(plain, 1, W4)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
def test_the_first_step_is_near_the_best_for_normal_weights(bits):
    layer = nn.Linear(50_000, 1)
    layer.weight.data = torch.randn(1, 50_000, generator=torch.Generator().manual_seed(0))
    converted = convert_to_integer(layer, 1, replace(W4, weight_bits=bits))

    def error(factor: float) -> float:
        changed = copy.deepcopy(converted)
        changed.weight_step.data *= factor
        return (changed.effective_weight() - layer.weight).square().mean().item()

    assert error(1.0) <= 1.1 * min(error(factor) for factor in (0.6, 0.8, 0.9, 1.1, 1.25, 1.6))


def test_the_step_follows_the_weights_while_they_grow():
    net = convert_to_integer(network(), 2, W4)
    before = effective_weights(net)
    for layer in (net[0], net[3]):
        layer.weight.data *= 4
    assert torch.allclose(effective_weights(net), 4 * before)
    (gradient,) = torch.autograd.grad(net[3].effective_weight().square().sum(), net[3].weight_step)
    assert gradient.ne(0).all()


def test_a_dead_channel_stays_finite():
    net = convert_to_integer(network(), 2, W4)
    net[3].weight.data[1] = 0
    assert net[3].effective_weight()[1].eq(0).all()


def test_activations_are_those_of_the_shift_layer():
    formats = {
        "activation_integer_bits": 3,
        "activation_fraction_bits": 1,
        "activation_format": "fitted",
        "activation_rounding": "nearest",
    }
    shift = convert_to_shift(network(), 2, ShiftSpec("Q", **formats))
    integer = convert_to_integer(network(), 2, IntegerSpec(8, **formats))
    x = torch.randn(8, 1, 4, 4)
    for net in (shift, integer):
        fit_activations(net, x)
    assert torch.equal(shift[0].quantize_input(x), integer[0].quantize_input(x))


def test_state_dict_and_copies_are_exact():
    net = convert_to_integer(network(), 2, W4)
    net[3].weight_step.data *= 1.3
    other = convert_to_integer(network(), 2, W4)
    other.load_state_dict(net.state_dict())
    x = torch.randn(2, 1, 4, 4)
    assert torch.equal(other(x), net(x)) and torch.equal(copy.deepcopy(net)(x), net(x))


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("weight_bits", 9, "an integer from 2 to 8"),
        ("weight_scale", "none", "one of layer, channel"),
        ("activation_format", "unsigned", "one of fixed, fitted"),
        ("activation_rounding", "up", "one of floor, nearest"),
        ("clipped_gradient", None, "one of passed, zero"),
        ("activation_fraction_bits", 33, "an integer from 0 to 32"),
    ],
)
def test_bad_fields_are_named(field, value, allowed):
    with pytest.raises(ValueError, match=f"{field}={value!r}: must be {allowed}"):
        IntegerSpec(**{field: value})
