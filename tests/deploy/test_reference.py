"""Integer layers: those of the emulation to the last bit where the arithmetic is exact."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dsnn_utils import ShiftSpec, convert_to_shift, shiftable_layers
from dsnn_utils.deploy import input_codes, shift_and_add, weight_codes, with_integer_layers
from dsnn_utils.shift import IntegerSpec, build_model, convert_to_integer, fit_activations

REMEDIES = {"activation_format": "fitted", "activation_rounding": "nearest"}


@st.composite
def specs(draw, kinds=("Q", "PS", "integer"), weight_bits=(2, 5), integer_bits=(2, 5)):
    kind = draw(st.sampled_from(kinds))
    fields = {
        "weight_bits": draw(st.integers(*weight_bits)),
        "activation_integer_bits": draw(st.integers(*integer_bits)),
        "activation_fraction_bits": draw(st.integers(0, 3)),
        "activation_format": draw(st.sampled_from(("fixed", "fitted"))),
        "activation_rounding": draw(st.sampled_from(("floor", "nearest"))),
    }
    if kind == "integer":
        scale = draw(st.sampled_from(("layer", "channel")))
        return IntegerSpec(weight_scale=scale, **fields)
    scale = draw(st.sampled_from(("none", "layer", "channel")))
    return ShiftSpec(kind, weight_scale=scale, **fields)


@st.composite
def layers_and_inputs(draw, **limits):
    """A converted layer of any geometry, and a batch for it that reaches beyond its format."""
    spec = draw(specs(**limits))
    torch.manual_seed(draw(st.integers(0, 2**31)))
    bias = draw(st.booleans())
    if draw(st.booleans()):
        groups = draw(st.sampled_from((1, 2, 4)))
        modes = ("zeros", "reflect", "replicate", "circular")
        geometry = {name: draw(st.integers(1, 2)) for name in ("stride", "dilation")}
        layer: nn.Module = nn.Conv2d(
            4, 8, draw(st.integers(1, 3)), padding=draw(st.integers(0, 2)), groups=groups,
            bias=bias, padding_mode=draw(st.sampled_from(modes)), **geometry)  # fmt: skip
        x = torch.randn(2, 4, draw(st.integers(5, 8)), draw(st.integers(5, 8)))
    else:
        layer, x = nn.Linear(6, 5, bias), torch.randn(3, 6)
    with torch.no_grad():
        layer.weight[0] = 0  # a filter that died
        layer.weight *= draw(st.sampled_from((0.1, 1.0, 10.0)))
    x = x * draw(st.sampled_from((0.01, 1.0, 100.0)))
    x = x.relu() if draw(st.booleans()) else x
    return convert(layer, spec, x), x


def convert(layer, spec, x):
    """The layer alone in a network, of this number format, fitted to x."""
    network = nn.Sequential(layer)
    change = convert_to_integer if isinstance(spec, IntegerSpec) else convert_to_shift
    network = change(network, 1, spec).eval()
    fit_activations(network, x)
    return network


@settings(deadline=None, max_examples=150)
@given(layers_and_inputs(weight_bits=(2, 8)))
def test_codes_times_units_are_what_the_emulation_computes_with(case):
    network, x = case
    codes, unit = weight_codes(network[0])
    weight = network[0].effective_weight().detach()
    found = codes * unit.view(-1, *[1] * (weight.ndim - 1))
    if isinstance(network[0].spec, ShiftSpec):
        assert torch.equal(found, weight.double())
        assert set(codes.abs().unique().tolist()) <= {0, *(2**n for n in range(63))}
    else:
        torch.testing.assert_close(found.float(), weight, rtol=1e-6, atol=0)
        assert codes.min() >= network[0].spec.code_range[0]
    step, lowest, highest = network[0].activation_codes()
    codes = input_codes(network[0], x)
    assert torch.equal((codes * step).float(), network[0].quantize_input(x))
    assert codes.min() >= lowest and codes.max() <= highest


@settings(deadline=None, max_examples=150)
@given(layers_and_inputs(kinds=("Q", "PS"), weight_bits=(2, 4)))
def test_a_shift_layer_equals_the_emulation_to_the_last_bit(case):
    network, x = case
    assert torch.equal(with_integer_layers(network)(x), network(x))


@settings(deadline=None, max_examples=150)
@given(layers_and_inputs(kinds=("integer",)))
def test_an_integer_layer_differs_by_roundings_only(case):
    network, x = case
    found, expected = with_integer_layers(network)(x), network(x)
    layer = network[0]
    with torch.no_grad():
        # Rounding of float32, relative to the sum of the magnitudes, and of the bias.
        size = layer.quantize_input(x).abs().max() * layer.effective_weight().abs().sum()
        slack = 1e-6 * size
        if layer.bias is not None:
            unit = layer.weight_unit().max() * layer.activation_codes()[0]
            slack = slack + 1e-6 * layer.bias.abs().max()
            slack = slack + (unit / 2 if layer.spec.activation_format == "fixed" else 0)
    assert (found - expected).abs().max() <= slack


@settings(deadline=None, max_examples=100)
@given(layers_and_inputs(kinds=("Q", "PS", "integer")))
def test_sums_in_float64_are_those_in_int64(case):
    network, x = case
    integers = with_integer_layers(network)
    found, integers[0].sum_bits = integers(x), 64
    assert torch.equal(integers(x), found)


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 2**31), st.integers(0, 20))
def test_shifting_and_adding_is_multiplying_by_powers_of_two(seed, highest):
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(-(2**31), 2**31, (3, 7), generator=generator)
    powers = 2 ** torch.randint(0, highest + 1, (5, 7), generator=generator)
    weights = powers * torch.randint(-1, 2, (5, 7), generator=generator)
    expected = (codes[:, None] * weights).sum(2)
    assert torch.equal(shift_and_add(nn.functional.linear, codes, weights), expected)


def test_beyond_24_bits_the_integers_are_right_and_float32_rounds():
    network = convert_to_shift(nn.Sequential(nn.Linear(2, 1, False)), 1, ShiftSpec("Q", 2))
    network[0].weight.data = torch.tensor([[1.0, 0.5]])
    x = torch.tensor([[30000.0, 2.0**-15]])
    exact = 30000 + 2.0**-16
    found = with_integer_layers(network.double())(x.double())
    assert found.item() == exact
    assert network.float()(x).item() == 30000


def trained_like(name="resnet20", spec=None, images=8):
    """A network whose batch norms have seen data, of a number format that fits it."""
    torch.manual_seed(0)
    network = build_model(name, 10)
    spec = spec or ShiftSpec("Q", 3, 4, 0, weight_scale="channel", **REMEDIES)
    change = convert_to_integer if isinstance(spec, IntegerSpec) else convert_to_shift
    network = change(network, len(shiftable_layers(network)), spec)
    x = torch.randn(images, 3, 32, 32)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 0.9  # in place of some twenty passes
    with torch.no_grad():
        network.train()(x)
    fit_activations(network, x)
    return network.eval(), x


def test_a_network_equals_the_emulation_to_the_last_bit():
    network, x = trained_like()
    with torch.no_grad():
        assert torch.equal(with_integer_layers(network)(x), network(x))


def test_a_batch_norm_of_a_multiplier_and_a_shift_differs_by_their_rounding():
    network, x = trained_like(images=2)
    with torch.no_grad():
        expected = network(x)
        errors = []
        for bits in (6, 16):
            found = with_integer_layers(network, "fixed_point", bits, 14)
            errors.append((found(x) - expected).abs().max().item())
            assert not [m for m in found.modules() if isinstance(m, nn.BatchNorm2d)]
    # Of few bits, whatever the size of the factor: codes times a multiplier of 2 bits.
    layer = with_integer_layers(network, "fixed_point", 2, 14).conv1
    odd = layer.batch_norm[0].abs()
    odd = odd // (odd & -odd).clamp(min=1)
    assert odd.max() <= 3
    # The first layer alone, where no later rounding hides it.
    first = nn.Sequential(network.conv1, network.bn1)
    with torch.no_grad():
        off = with_integer_layers(first, "fixed_point", 16, 14)(x) - first(x)
    assert off.abs().max() < 2.0**-14 + 2.0**-15 * first(x).abs().max()
    assert errors[-1] < errors[0] and math.isfinite(errors[0])


def test_only_a_batch_norm_that_alone_sees_a_layer_becomes_part_of_it():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)

        def forward(self, x):
            y = self.layer(x)
            return self.norm(y) + y

    network = convert_to_shift(Twice(), 1, ShiftSpec("Q", 3, 4, 4)).eval()
    kept = with_integer_layers(network, "fixed_point")
    assert isinstance(kept.norm, nn.BatchNorm1d)
    x = torch.randn(3, 4)
    assert torch.equal(kept(x), network(x))


def test_what_cannot_be_done_is_refused():
    network = convert_to_shift(nn.Sequential(nn.Linear(2, 1)), 1, ShiftSpec("Q", 8, 32, 32))
    with pytest.raises(ValueError, match="layer '0': its sums need .* must be at most 63"):
        with_integer_layers(network)
    network = convert_to_shift(nn.Sequential(nn.Linear(2, 1)), 1, ShiftSpec("Q", 3, **REMEDIES))
    with pytest.raises(ValueError, match="layer '0': activation_format='fitted' must see data"):
        with_integer_layers(network)
    with pytest.raises(ValueError, match="batch_norm='int': must be one of float, fixed_point"):
        with_integer_layers(network, "int")

    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(ValueError, match="network: must be one that torch.fx can trace"):
        with_integer_layers(Branching(), "fixed_point")
