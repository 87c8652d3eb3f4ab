"""What makes few bits hold: scales of the weights, formats fitted to the activations, gradients."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dsnn_utils import ShiftConv2d, ShiftLinear, ShiftSpec, convert_to_shift
from dsnn_utils.shift import (
    check_fitted,
    effective_weights,
    fit_activations,
    fitting,
    power_of_two_scale,
    quantize_q,
    uniform,
)

ALL = ShiftSpec(
    "Q",
    weight_bits=3,
    activation_integer_bits=4,
    activation_fraction_bits=0,
    weight_scale="channel",
    activation_format="fitted",
    activation_rounding="nearest",
    clipped_gradient="zero",
)
BOTH_TYPES = pytest.mark.parametrize("shift_type", ["Q", "PS"])
SCALED = pytest.mark.parametrize("weight_scale", ["layer", "channel"])


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)
    )


def images(count=16) -> torch.Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))


# Rounding and gradient of activations


@given(
    st.floats(-1e4, 1e4, width=32, allow_subnormal=False),
    st.integers(-12, 6),
    st.integers(2, 16),
    st.booleans(),
    st.sampled_from(["floor", "nearest"]),
)
@settings(max_examples=300, deadline=None)
def test_uniform_is_the_nearest_or_lower_code_of_its_range(value, exponent, bits, signed, rounding):
    step, codes = 2.0**exponent, 2 ** (bits - signed)
    lowest, highest = -codes * signed, codes - 1
    (result,) = uniform(torch.tensor([value]), step, lowest, highest, rounding).tolist()
    code = {"floor": math.floor, "nearest": round}[rounding](value / step)  # round: half to even
    assert result == step * min(max(code, lowest), highest)


@pytest.mark.parametrize(
    ("rounding", "passes"),
    [
        ("floor", [False, True, True, True, True, False]),
        ("nearest", [False, True, True, True, False, False]),
    ],
)
def test_gradient_of_clipped_activations_is_zero_or_passed(rounding, passes):
    # Codes 0 to 15 of 1/4: up to 3.75, reached from 3.625 (nearest) and left at 4 (floor).
    values = [-0.3, 0.01, 1.3, 3.8, 3.9, 4.1]
    for how, expected in (("zero", passes), ("passed", [True] * 6)):
        x = torch.tensor(values, requires_grad=True)
        uniform(x, 0.25, 0, 15, rounding, how).backward(torch.full((6,), 2.0))
        assert x.grad.tolist() == [2.0 * e for e in expected]


# Scale of the weights


@SCALED
@BOTH_TYPES
def test_weights_are_powers_of_two_times_one_power_of_two(shift_type, weight_scale):
    spec = replace(ALL, shift_type=shift_type, weight_scale=weight_scale)
    torch.manual_seed(0)
    layer = convert_to_shift(nn.Conv2d(3, 6, 3), 1, spec)
    scale = layer.scale()
    assert scale.shape == ((6, 1, 1, 1) if weight_scale == "channel" else (1, 1, 1, 1))
    mantissas, _ = torch.frexp(scale)
    assert torch.equal(mantissas, torch.full_like(scale, 0.5))
    exponents = (layer.effective_weight() / scale).abs().log2()
    low, high = spec.shift_range
    assert torch.equal(exponents, exponents.round())
    assert exponents.min() >= low and exponents.max() <= high


@given(st.integers(-20, 20))
@settings(max_examples=20, deadline=None)
def test_scaling_the_weights_by_a_power_of_two_scales_what_is_made_of_them(exponent):
    weight = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    scale = power_of_two_scale(weight, -3, per_channel=True)
    rounded = quantize_q(weight, -3, scale=scale)
    factor = 2.0**exponent
    scaled = power_of_two_scale(weight * factor, -3, per_channel=True)
    assert torch.equal(scaled, scale * factor)
    assert torch.equal(quantize_q(weight * factor, -3, scale=scaled), rounded * factor)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_the_range_ends_where_normal_weights_lose_least(bits):
    weight = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    low, _ = ShiftSpec("Q", bits).shift_range

    def error(scale: torch.Tensor) -> float:
        return (quantize_q(weight, low, scale=scale) - weight).square().mean().item()

    for spread in (1.0, 1.19, 1.41, 1.68):  # a power of two does not fit all of them equally well
        weight = weight * spread
        chosen = power_of_two_scale(weight, low, per_channel=False)
        least = min(error(chosen * 2.0**e) for e in (-2, -1, 0, 1, 2))
        assert error(chosen) <= 1.12 * least
        weight = weight / spread


def test_three_bits_without_a_scale_clip_nearly_all_weights_of_a_real_layer():
    torch.manual_seed(0)
    layer = nn.Conv2d(64, 64, 3)  # weights within 0.042
    without, scaled = (
        convert_to_shift(layer, 1, replace(ALL, weight_scale=scale)).effective_weight().abs()
        for scale in ("none", "channel")
    )
    assert without.unique().tolist() == [0.125]
    assert all(len(filter_.unique()) >= 3 for filter_ in scaled)


def test_a_dead_channel_stays_finite():
    layer = convert_to_shift(nn.Linear(4, 2, bias=False), 1, ALL)
    layer.weight.data[0] = 0
    assert layer.effective_weight()[0].tolist() == [0.0] * 4


# Formats fitted to the input


def test_a_format_fits_the_input_and_is_unsigned_where_that_is_never_negative():
    net = convert_to_shift(network(), 2, ALL)
    net.train()(images())  # the first batch of a training is enough
    first, last = net[0], net[4]
    step, lowest, highest = first.activation_codes()
    assert (lowest, highest) == (-8, 7) and 0.25 <= step <= 0.5  # standard normal
    step, lowest, highest = last.activation_codes()
    assert (lowest, highest) == (0, 15) and step == 2.0 ** round(math.log2(step))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 300.0])
def test_the_step_follows_the_size_of_the_input(scale):
    layer = convert_to_shift(nn.Linear(50, 2), 1, ALL)
    x = scale * torch.rand(64, 50)
    fit_activations(layer, x)
    step, lowest, highest = layer.activation_codes()
    assert scale / 16 <= step * 1.05 and step * highest <= 2 * scale and lowest == 0
    error = (uniform(x, step, lowest, highest, "nearest") - x).square().mean()
    for other in (step / 2, step * 2):
        assert error <= 1.03 * (uniform(x, other, lowest, highest, "nearest") - x).square().mean()


def test_once_negative_always_signed():
    layer = convert_to_shift(nn.Linear(4, 2), 1, ALL)
    fit_activations(layer, torch.rand(8, 4))
    assert layer.activation_codes()[1] == 0
    fit_activations(layer, -torch.rand(8, 4))
    fit_activations(layer, torch.rand(8, 4))
    assert layer.activation_codes()[1] == -8


def test_wide_formats_leave_room():
    layer = convert_to_shift(nn.Linear(4, 2), 1, replace(ALL, activation_integer_bits=32))
    x = torch.rand(8, 4)
    fit_activations(layer, x)
    step, _, highest = layer.activation_codes()
    assert step * highest > 1000 and torch.allclose(layer.quantize_input(x), x, atol=1e-6)


def test_fitting_is_for_the_batches_within_it_and_for_the_first_of_a_training():
    net = convert_to_shift(network(), 2, ALL).train()
    net(images())
    before = net[0].activation_errors.clone()
    net(images())
    assert torch.equal(net[0].activation_errors, before)
    with fitting(net, now=False):
        net(images())
    assert torch.equal(net[0].activation_errors, before)
    with fitting(net):
        net(100 * images())
    assert not torch.equal(net[0].activation_errors, before)
    net.eval()(images())
    assert not net[0].fitting


def test_a_network_that_saw_no_data_is_refused_by_name():
    net = convert_to_shift(network(), 1, ALL)
    with pytest.raises(ValueError, match="layer '4': activation_format='fitted' must see data"):
        check_fitted(net)
    with pytest.raises(ValueError, match="images: must hold at least one image"):
        fit_activations(net, images(0))
    fit_activations(net, images())
    check_fitted(net)


def test_a_diverging_network_has_some_format():
    """The loss tells that it diverges; that its inputs have no best format is no error."""
    layer = ShiftLinear(3, 2, spec=ALL)
    with fitting(layer):
        for value in (1.0, math.inf, math.inf, math.nan):
            layer(torch.tensor([[value, 0.0, 1.0]]))
    assert layer.activation_errors.isnan().all()
    assert layer(torch.tensor([[math.nan, 0.0, 1.0]])).isnan().any()


def test_fixed_formats_are_never_fitted():
    net = convert_to_shift(network(), 2, ShiftSpec("Q"))
    check_fitted(net)
    fit_activations(net, images())
    assert net[0].activation_codes() == (2.0**-16, -(2**31), 2**31 - 1)
    assert set(net.state_dict()) == set(network().state_dict())


def test_the_bias_is_a_multiple_of_what_the_accumulator_counts():
    net = convert_to_shift(network(), 2, ALL)
    fit_activations(net, images())
    layer = net[4]
    unit = layer.scale().flatten() * 2.0**-3 * layer.activation_codes()[0]
    bias = layer.quantize_bias()
    assert torch.equal(bias / unit, (bias / unit).round())
    assert ((bias - layer.bias).abs() <= unit / 2).all()
    (gradient,) = torch.autograd.grad(bias.sum(), layer.bias)
    assert torch.equal(gradient, torch.ones(5))


@BOTH_TYPES
@pytest.mark.parametrize("weight_scale", ["none", "layer", "channel"])
@pytest.mark.parametrize("weight_bits", [7, 8])
def test_a_bias_outlives_the_smallest_units(weight_bits, weight_scale, shift_type):
    spec = replace(ALL, weight_bits=weight_bits, weight_scale=weight_scale, shift_type=shift_type)
    net = convert_to_shift(network(), 2, spec)
    fit_activations(net, images())
    with torch.no_grad():
        net[4].bias[:2] = torch.tensor([0.0, 4.0])
    assert torch.equal(net[4].quantize_bias(), net[4].bias)
    assert net(images()).isfinite().all()


# All of it together


@BOTH_TYPES
def test_every_product_is_exact_in_integers(shift_type):
    spec = replace(ALL, shift_type=shift_type)
    net = convert_to_shift(network(), 2, spec)
    fit_activations(net, images())
    layer = net[4]
    x = net[:4].eval()(images())
    step, lowest, highest = layer.activation_codes()
    codes = (layer.quantize_input(x) / step).long()
    assert lowest <= codes.min() and codes.max() <= highest
    unit = layer.weight_unit()[:, None]
    weights = (layer.effective_weight() / unit).long()
    assert torch.equal(weights * unit, layer.effective_weight())
    bias = (layer.quantize_bias() / (unit.flatten() * step)).round().long()
    integers = codes @ weights.T + bias
    assert torch.equal(integers * unit.flatten() * step, layer(x))


@BOTH_TYPES
def test_state_dict_copies_and_second_conversion(shift_type):
    spec = replace(ALL, shift_type=shift_type)
    net = convert_to_shift(network(), 2, spec)
    fit_activations(net, images())
    expected = net.eval()(images())
    other = convert_to_shift(network(), 2, spec).eval()
    other(images())  # a format that was read before must not survive the loading
    other.load_state_dict(net.state_dict())
    for copied in (other, copy.deepcopy(net), convert_to_shift(net, 2, ShiftSpec("Q"))):
        assert torch.equal(copied(images()), expected)


@BOTH_TYPES
def test_conversion_with_a_scale_keeps_a_weight_that_fits(shift_type):
    layer = nn.Linear(4, 2)
    layer.weight.data = 2.0**-7 * torch.tensor([[1.0, -0.5, 0.5, 1.0], [0.5, 1.0, -1.0, 0.5]])
    converted = convert_to_shift(layer, 1, replace(ALL, shift_type=shift_type))
    assert torch.equal(effective_weights(converted), layer.weight.flatten())


@pytest.mark.parametrize("kind", [ShiftConv2d, ShiftLinear])
@BOTH_TYPES
def test_layers_made_directly_have_scale_and_format_too(kind, shift_type):
    spec = replace(ALL, shift_type=shift_type)
    layer = kind(3, 4, 3, spec=spec) if kind is ShiftConv2d else kind(3, 4, spec=spec)
    x = images() if kind is ShiftConv2d else torch.rand(5, 3)
    layer(x).sum().backward()
    assert layer.is_fitted and all(p.grad is not None for p in layer.parameters())
