"""Modelled energy: hand-computed cases, published totals, what it must grow and fall with."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from dsnn_utils import ShiftConv2d, ShiftLinear, ShiftSpec, convert_to_shift, shiftable_layers
from dsnn_utils.energy import (
    energy_by_format,
    mac_pj,
    modelled_energy,
    operation_counts,
    operation_pj,
)
from dsnn_utils.energy.prices import INTEGER_PJ
from dsnn_utils.shift import MODELS, IntegerSpec, build_model, convert_to_integer

PJ = 1e-12


@pytest.fixture(scope="module")
def resnet20():
    return build_model("resnet20", 10)


def by_kind(table):
    return table.groupby("kind")["operations"].sum().to_dict()


# --- energy per operation


@pytest.mark.parametrize("operation", INTEGER_PJ)
def test_published_widths_are_returned_as_published(operation):
    for width, picojoule in INTEGER_PJ[operation].items():
        assert operation_pj(operation, width) == pytest.approx(picojoule)


def test_widths_between_below_and_above_the_published_ones():
    assert operation_pj("shift", 12) == pytest.approx((0.024 + 0.057) / 2)  # interpolated
    assert operation_pj("shift", 4) == pytest.approx(0.024 / 2)  # proportional
    assert operation_pj("add", 64) == pytest.approx(0.1 + 2 * 0.05)  # slope of 16 to 32 bits


@given(st.sampled_from(sorted(INTEGER_PJ)), st.integers(1, 127))
def test_wider_operations_cost_more(operation, width):
    assert 0 < operation_pj(operation, width) < operation_pj(operation, width + 1)


def test_multiply_accumulate():
    assert mac_pj("float32") == pytest.approx(4.6)
    assert mac_pj("shift", 8) == pytest.approx(0.024 + 0.1)  # the accumulator stays at 32 bits
    assert mac_pj("shift", 32) == pytest.approx(0.13 + 0.1)
    assert mac_pj("shift", 64) == pytest.approx(0.276 + 0.2)  # here it widens with the activations
    assert mac_pj("integer", 8) / mac_pj("shift", 8) == pytest.approx(2.4, abs=0.05)


def test_unknown_arithmetic():
    with pytest.raises(ValueError, match="arithmetic='int8': must be one of float32, integer"):
        mac_pj("int8")


# --- hand-computed networks


def test_one_float_convolution_by_hand():
    table = operation_counts(nn.Conv2d(2, 3, 3, stride=2, padding=1), (2, 5, 5))
    (row,) = table.itertuples()
    macs = 3 * 3 * 3 * (2 * 3 * 3)  # outputs x products for each
    assert (row.kind, row.arithmetic, row.macs, row.width_bits) == ("conv", "float32", macs, 32)
    assert row.energy_modelled_j_per_image == pytest.approx(macs * 4.6 * PJ)
    values = 54 + 2 * 5 * 5 + 3 * 3 * 3  # weights, inputs, outputs
    assert row.memory_bits == 32 * values
    assert row.memory_energy_modelled_j_per_image == pytest.approx(32 * values * 100 / 64 * PJ)


def test_one_shift_convolution_by_hand():
    spec = ShiftSpec("PS", 3, activation_integer_bits=4, activation_fraction_bits=4)
    layer = ShiftConv2d(2, 4, 3, padding=1, groups=2, spec=spec)
    convert, conv = operation_counts(layer, (2, 4, 4)).itertuples()
    macs = 4 * 16 * (1 * 3 * 3)
    assert (convert.kind, convert.operations, convert.macs) == ("convert", 2 * 16, 0)
    assert convert.energy_modelled_j_per_image == pytest.approx(2 * 16 * 4.6 * PJ)
    assert (conv.kind, conv.arithmetic, conv.macs, conv.width_bits) == ("conv", "shift", macs, 8)
    assert conv.energy_modelled_j_per_image == pytest.approx(macs * 0.124 * PJ)
    assert conv.memory_bits == 3 * 36 + 8 * (2 * 16 + 4 * 16)


def test_an_integer_layer_is_priced_as_multiplications():
    spec = IntegerSpec(3, activation_integer_bits=4, activation_fraction_bits=4)
    layer = convert_to_integer(torch.nn.Linear(10, 5), 1, spec)
    convert, linear = operation_counts(layer, (10,)).itertuples()
    assert (linear.kind, linear.arithmetic, linear.macs) == ("linear", "integer", 50)
    assert linear.energy_modelled_j_per_image == pytest.approx(50 * 0.3 * PJ)
    assert linear.memory_bits == 3 * 50 + 8 * (10 + 5)
    assert modelled_energy(layer, (10,)).shift_macs_per_image == 0


@pytest.mark.parametrize(
    "remedy",
    [
        {"weight_scale": "channel"},
        {"activation_format": "fitted"},
        {"activation_rounding": "nearest", "clipped_gradient": "zero"},
    ],
)
@pytest.mark.parametrize("kind", [ShiftSpec, IntegerSpec])
def test_what_makes_few_bits_hold_costs_no_operation(remedy, kind):
    convert = convert_to_shift if kind is ShiftSpec else convert_to_integer
    plain = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
    bits = {"weight_bits": 3, "activation_integer_bits": 3, "activation_fraction_bits": 1}
    before, after = (
        operation_counts(convert(plain, 1, kind(**bits | extra)), (3, 8, 8))
        for extra in ({}, remedy)
    )
    assert before.equals(after)


def test_the_wider_of_activation_and_float_is_not_stored():
    spec = ShiftSpec(activation_integer_bits=32, activation_fraction_bits=32, weight_bits=8)
    conv = operation_counts(ShiftLinear(5, 7, spec=spec), (5,)).iloc[-1]
    assert conv["width_bits"] == 64
    assert conv["memory_bits"] == 8 * 35 + 32 * (5 + 7)


class Functional(nn.Module):
    """Arithmetic outside of modules: a residual network written with functions."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 4, 3, 3))

    def forward(self, x):
        y = F.relu(F.conv2d(x, self.weight, padding=1)) + x
        y = F.max_pool2d(y * 2, 3, stride=1)
        return F.linear(F.adaptive_avg_pool2d(y, 1).flatten(1), torch.ones(2, 4))


def test_functions_are_counted_like_modules():
    table = operation_counts(Functional(), (4, 6, 6))
    assert by_kind(table) == {
        "conv": 144 * 36,
        "activation": 144,
        "elementwise": 2 * 144,  # the residual add and the multiplication
        "pooling": 4 * 16 * 9 + 4 * 16,  # 9 comparisons per output, then one add per input
        "linear": 8,
    }


def test_only_the_second_operand_of_an_elementwise_operation_is_read_back():
    table = operation_counts(Functional(), (4, 6, 6))
    elementwise = table[table["kind"] == "elementwise"]
    assert list(elementwise["memory_bits"]) == [32 * 144, 0]  # a tensor added, a number multiplied
    assert (table.loc[table["kind"] == "activation", "memory_bits"] == 0).all()


def test_modules_beside_convolutions_by_hand():
    net = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU6(), nn.SiLU(), nn.AvgPool2d(2), nn.MaxPool2d(2))
    table = operation_counts(net, (3, 8, 8)).set_index("layer")
    assert table["operations"].to_dict() == {"0": 192, "1": 192, "2": 192, "3": 192, "4": 48}
    picojoules = {"0": 4.6, "1": 0.1, "2": 4 * 4.6, "3": 0.9, "4": 0.1}
    for layer, row in table.iterrows():
        expected = row["operations"] * picojoules[layer] * PJ
        assert row["energy_modelled_j_per_image"] == pytest.approx(expected)


@pytest.mark.parametrize(
    "layer, shape, macs",
    [
        (nn.ConvTranspose2d(2, 3, 2, stride=2), (2, 4, 4), 2 * 16 * (3 * 4)),
        (nn.Conv2d(8, 8, 3, padding=1, groups=8), (8, 4, 4), 8 * 16 * 9),
        (nn.Conv1d(2, 3, 3), (2, 10), 3 * 8 * 6),
        (nn.Conv3d(1, 2, 2), (1, 3, 3, 3), 2 * 8 * 8),
        (nn.Linear(5, 7), (5,), 35),
        (nn.Linear(5, 7, bias=False), (11, 5), 11 * 35),
    ],
)
def test_macs_of_other_layers(layer, shape, macs):
    assert modelled_energy(layer, shape).macs_per_image == macs


def test_resnet20_has_its_published_totals(resnet20):
    plain = modelled_energy(resnet20, (3, 32, 32))
    assert plain.macs_per_image == 40_551_040 and plain.shift_macs_per_image == 0
    spec = ShiftSpec(activation_integer_bits=16, activation_fraction_bits=16)
    shift = operation_counts(convert_to_shift(resnet20, 20, spec), (3, 32, 32))
    macs = shift[shift["macs"] > 0]
    assert plain.macs_per_image * mac_pj("float32") * PJ == pytest.approx(186.5e-6, abs=0.05e-6)
    assert set(macs["arithmetic"]) == {"shift"} and macs["macs"].sum() == 40_551_040
    assert macs["energy_modelled_j_per_image"].sum() == pytest.approx(9.3e-6, abs=0.05e-6)


@pytest.mark.parametrize(
    "name, macs_per_image",  # torchvision's table of weights gives GMACs at 224x224
    [("mobilenet_v2", 0.30e9), ("googlenet", 1.50e9), ("densenet121", 2.83e9)],
)
def test_foreign_networks_have_their_published_macs(name, macs_per_image):
    torchvision = pytest.importorskip("torchvision")
    options = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    network = getattr(torchvision.models, name)(weights=None, **options)
    assert modelled_energy(network, (3, 224, 224)).macs_per_image == pytest.approx(
        macs_per_image, rel=0.01
    )


# --- what it grows and falls with


@pytest.mark.parametrize(
    "name, bits",
    [("resnet20", (2, 2, 2)), ("resnet20", (5, 16, 16))]
    + [(name, (8, 32, 32)) for name in MODELS if name != "vgg19"],  # slow, and all plain convs
)
def test_never_rises_with_depth(name, bits):
    network = build_model(name, 10)
    layers = len(shiftable_layers(network))
    depths = range(layers + 1) if name == "resnet20" else (0, 1, layers // 3, layers // 2, layers)
    spec = ShiftSpec("Q", *bits)
    found = [modelled_energy(convert_to_shift(network, d, spec), (3, 32, 32)) for d in depths]
    for shallow, deep in zip(found, found[1:], strict=False):
        assert deep.energy_modelled_j_per_image <= shallow.energy_modelled_j_per_image
        assert (
            deep.energy_modelled_with_memory_j_per_image
            <= shallow.energy_modelled_with_memory_j_per_image
        )


bits = st.integers(2, 32)
specs = st.builds(ShiftSpec, st.sampled_from(["Q", "PS"]), st.integers(2, 8), bits, bits)


@settings(deadline=None)  # a first count takes longer than later ones
@given(specs, st.sampled_from(["activation_integer_bits", "activation_fraction_bits"]))
def test_more_activation_bits_never_cost_less(spec, field):
    wider = dataclasses.replace(spec, **{field: min(32, getattr(spec, field) + 1)})
    narrow, wide = (modelled_energy(ShiftLinear(6, 4, spec=s), (6,)) for s in (spec, wider))
    assert wide.energy_modelled_j_per_image >= narrow.energy_modelled_j_per_image
    assert (
        wide.energy_modelled_with_memory_j_per_image
        >= narrow.energy_modelled_with_memory_j_per_image
    )


@settings(deadline=None)
@given(specs)
def test_more_weight_bits_cost_memory_and_no_compute(spec):
    wider = dataclasses.replace(spec, weight_bits=8)
    narrow, wide = (modelled_energy(ShiftLinear(6, 4, spec=s), (6,)) for s in (spec, wider))
    assert wide.energy_modelled_j_per_image == narrow.energy_modelled_j_per_image
    difference = (
        wide.energy_modelled_with_memory_j_per_image
        - narrow.energy_modelled_with_memory_j_per_image
    )
    assert difference == pytest.approx((8 - spec.weight_bits) * 24 * 100 / 64 * PJ)


def test_a_figure_per_image_whatever_the_model_was_fed(resnet20):
    before = modelled_energy(resnet20, (3, 32, 32))
    for batch_size in (1, 7):
        resnet20(torch.zeros(batch_size, 3, 32, 32))
    assert modelled_energy(resnet20, (3, 32, 32)) == before


def test_memory_kinds_differ_only_in_the_memory_term(resnet20):
    found = [
        modelled_energy(resnet20, (3, 32, 32), memory=memory)
        for memory in ("sram_8kb", "sram_32kb", "sram_1mb", "dram")
    ]
    with_memory = [energy.energy_modelled_with_memory_j_per_image for energy in found]
    assert len({energy.energy_modelled_j_per_image for energy in found}) == 1
    assert with_memory == sorted(set(with_memory))


# --- the model is left as it was


def test_counting_leaves_no_trace(resnet20):
    resnet20.train()
    resnet20.bn1.eval()  # a frozen layer in a training network
    before = {name: tensor.clone() for name, tensor in resnet20.state_dict().items()}
    operation_counts(resnet20, (3, 32, 32))
    assert all(torch.equal(before[name], now) for name, now in resnet20.state_dict().items())
    assert resnet20.training and resnet20.conv1.training and not resnet20.bn1.training
    assert all(p.requires_grad and p.grad is None for p in resnet20.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in resnet20.modules())


def test_an_error_leaves_no_trace_either(resnet20):
    resnet20.train()
    with pytest.raises(RuntimeError):
        operation_counts(resnet20, (5, 32, 32))  # not the number of channels it takes
    assert resnet20.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in resnet20.modules())


def test_stochastic_layers_do_not_move_the_random_stream():
    layer = ShiftLinear(4, 4, spec=ShiftSpec(rounding="stochastic")).train()
    state = torch.get_rng_state()
    operation_counts(layer, (4,))
    assert torch.equal(torch.get_rng_state(), state)


# --- bad input


@pytest.mark.parametrize("shape", [(), (0, 3), (3, -1), (3.0, 2)])
def test_bad_input_shape(shape):
    with pytest.raises(ValueError, match="input_shape=.*must be"):
        operation_counts(nn.Linear(3, 2), shape)


def test_bad_memory():
    with pytest.raises(ValueError, match="memory='cache': must be one of sram_8kb"):
        operation_counts(nn.Linear(3, 2), (3,), memory="cache")


class Attention(nn.Module):
    """A head of a vision transformer: linear layers around scaled dot products."""

    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.out(x.transpose(1, 2).flatten(2))


def test_attention_stays_float_and_its_linear_layers_shift():
    network = convert_to_shift(Attention(), 2, ShiftSpec("Q", 3, 4, 4))
    table = operation_counts(network, (5, 8))
    # Two heads: 5 x 5 scores of 4 products each, then as many to weigh the values; softmax of each.
    attention = table[table["kind"] == "attention"]
    assert attention["macs"].tolist() == [2 * 25 * 4, 2 * 25 * 4]
    assert set(attention["arithmetic"]) == {"float32"} and set(attention["layer"]) == {""}
    assert attention["energy_modelled_j_per_image"].sum() == pytest.approx(400 * 4.6 * PJ)
    assert by_kind(table)["activation"] == 2 * 25
    assert by_kind(table)["elementwise"] == 2 * 2 * 5 * 4  # the scale, on queries and keys
    linear = table[table["kind"] == "linear"]
    assert linear["macs"].tolist() == [5 * 8 * 24, 5 * 8 * 8]
    assert set(linear["arithmetic"]) == {"shift"}
    integer = operation_counts(network, (5, 8), between_layers="integer")
    assert by_kind(integer)["convert"] == 40 + 120 + 40  # image; queries, keys, values; back


@pytest.mark.parametrize("batch_first", [True, False])
def test_pytorchs_own_attention_is_counted_past_its_fused_path(batch_first):
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=batch_first)
    table = operation_counts(layer, (1, 8))
    assert table["macs"].sum() == 8 * 24 + 8 * 8 + 2 * 8 * 16 + 2 * 8
    assert torch.backends.mha.get_fastpath_enabled()  # as it was


class Unknown(nn.Module):
    def forward(self, x):
        return torch.special.bessel_j0(x)


def test_an_operation_of_unknown_cost_is_refused_and_never_free():
    with pytest.raises(
        ValueError, match="operation special_bessel_j0 in layer '1': must be a conv"
    ):
        operation_counts(nn.Sequential(nn.Linear(4, 4), Unknown()), (4,))


def test_what_cannot_be_counted_is_refused():
    network = nn.Sequential(nn.Linear(4, 4), nn.LSTM(4, 4))
    with pytest.raises(ValueError, match="operation .* in layer '1': must be"):
        operation_counts(network, (2, 4))


class Scale(nn.Module):
    """A parameter times its input, as in the layer scale of ConvNeXt."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4, 1, 1))

    def forward(self, x):
        return self.scale * x


def test_a_parameter_of_an_elementwise_operation_is_read_at_its_own_size():
    row = operation_counts(Scale(), (4, 8, 8)).iloc[0]
    assert row["operations"] == 256 and row["memory_bits"] == 32 * 4


@pytest.mark.parametrize(
    "layer", [nn.PReLU(), nn.Mish(), nn.Softplus(), nn.CELU(), nn.LogSigmoid(), nn.Hardshrink()]
)
def test_rarer_activations_are_counted(layer):
    table = operation_counts(layer, (4, 8, 8))
    assert by_kind(table) == {"activation": 256}


def test_unpooling_moves_data():
    class Unpool(nn.Module):
        def forward(self, x):
            pooled, indices = F.max_pool2d(x, 2, return_indices=True)
            return F.max_unpool2d(pooled, indices, 2)

    assert by_kind(operation_counts(Unpool(), (4, 8, 8))) == {"pooling": 4 * 8 * 8}


def test_a_network_of_which_nothing_is_seen_is_refused():
    with pytest.raises(ValueError, match="no operation was seen"):
        modelled_energy(nn.Flatten(), (4, 2))


def test_numpy_shapes(resnet20):
    shape = tuple(np.array([3, 32, 32]))
    assert modelled_energy(resnet20, shape) == modelled_energy(resnet20, (3, 32, 32))


# --- one count for all number formats


@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from(["shift", "integer"]),
    st.sampled_from(["horowitz", "qtools"]),
    st.sampled_from(["sram_1mb", "dram"]),
    st.tuples(st.integers(2, 8), st.integers(2, 32), st.integers(0, 32)),
)
def test_a_count_gives_the_energy_of_every_format(arithmetic, prices, memory, bits):
    """Also of a layer that runs twice, and of one that never runs."""

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.linear = nn.Conv2d(2, 2, 3, padding=1), nn.Linear(8, 3)
            self.unused = nn.Linear(8, 3)

        def forward(self, x):
            return self.linear(self.conv(self.conv(x)).flatten(1))

    convert = {"shift": convert_to_shift, "integer": convert_to_integer}[arithmetic]
    spec_of = {"shift": lambda *b: ShiftSpec("Q", *b), "integer": IntegerSpec}[arithmetic]
    options = {"memory": memory, "prices": prices}
    energies_of = energy_by_format(convert(Twice(), 3, spec_of(8, 3, 4)), (2, 2, 2), **options)
    network = convert(Twice(), 3, spec_of(*bits))
    table = operation_counts(network, (2, 2, 2), **options)
    names = ["energy_modelled_j_per_image", "memory_energy_modelled_j_per_image"]
    expected = table.groupby("layer")[names].sum().cumsum(axis=1)
    found = energies_of(spec_of(*bits))
    assert shiftable_layers(network) == ["unused", "linear", "conv"]
    np.testing.assert_allclose(found[1:], expected.loc[["linear", "conv"]], rtol=1e-12)
    assert (found[0] == 0).all()
