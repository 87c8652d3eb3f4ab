"""Networks without float32 between their layers: a small one counted by hand, under both tables."""

import pytest
import torch
from torch import nn

from dsnn_utils.energy import (
    energy_by_layer,
    modelled_energy,
    operation_counts,
    price_with_integers,
)
from dsnn_utils.shift import (
    IntegerSpec,
    ShiftSpec,
    build_model,
    convert_to_integer,
    convert_to_shift,
    shiftable_layers,
)

PJ = 1e-12
SPEC = ShiftSpec("Q", 3, activation_integer_bits=2, activation_fraction_bits=2)
INTEGER = {"between_layers": "integer"}


class Small(nn.Module):
    """Two convolutions with batch norm, the second with a shortcut; pooling; a linear layer."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(2, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)
        self.conv2, self.bn2 = nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)
        self.linear = nn.Linear(3, 2)

    def forward(self, x):
        x = self.bn1(self.conv1(x)).relu()
        x = (self.bn2(self.conv2(x)) + x).relu()
        return self.linear(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


@pytest.fixture(scope="module")
def small():
    return convert_to_shift(Small(), 3, SPEC)


def picojoules(model, shape, **options):
    table = operation_counts(model, shape, **options)
    return [(kind, joules / PJ) for kind, joules in
            zip(table["kind"], table["energy_modelled_j_per_image"], strict=True)]  # fmt: skip


# Images of 2 x 4 x 4, so 32 inputs and 48 values between layers. Multiply-accumulates: 864 in the
# first convolution (18 for each output), 1296 in the second (27), 6 in the linear layer (3).
FLOAT_BETWEEN = [  # kind, operations, picojoules of one; shift of 4 bits, sum of 32 bits
    ("convert", 32, 4.6),
    ("conv", 864, 0.012 + 0.1),
    ("batch_norm", 48, 4.6),
    ("activation", 48, 0.1),
    ("convert", 48, 4.6),
    ("conv", 1296, 0.012 + 0.1),
    ("batch_norm", 48, 4.6),
    ("elementwise", 48, 0.9),
    ("activation", 48, 0.1),
    ("pooling", 48, 0.9),
    ("convert", 3, 4.6),
    ("linear", 6, 0.012 + 0.1),
]
# A product has 4 + 3 bits: exponents reach from -3 to 0. A sum of 18 or 27 of them and a bias takes
# 5 more, 12; one of 3 takes 2 more, 9; one of the 16 values that are pooled 4 more than theirs, 8.
# Addition of 12 bits: 0.04, multiplication: 0.2 + 2.9 * 4 / 24, addition of 4 bits: 0.03 / 2, of 9
# bits: 0.03 + 0.02 / 8.
INTEGER_THROUGHOUT = [
    ("convert", 32, 4.6),
    ("conv", 864, 0.012 + 0.04),
    ("requantise", 48, 0.2 + 2.9 / 6 + 0.04),
    ("activation", 48, 0.015),
    ("conv", 1296, 0.012 + 0.04),
    ("requantise", 48, 0.2 + 2.9 / 6 + 0.04),
    ("elementwise", 48, 0.015),
    ("activation", 48, 0.015),
    ("pooling", 48, 0.03),
    ("linear", 6, 0.012 + 0.0325),
]
# qtools: b = sqrt(2^3 * 4) = 5.6569, a shift 0.003125 b log10(b) = 0.013303772 pJ; a multiplication
# of 12 by 12 bits 0.002994791667 * 144 + 0.001041666667 * 12 = 0.443750000052 pJ; an addition
# 0.003125 pJ a bit.
QTOOLS_SHIFT = 0.0133037719546599
QTOOLS_FLOAT_BETWEEN = [
    (kind, n, QTOOLS_SHIFT + 0.1 if kind in ("conv", "linear") else pj)
    for kind, n, pj in FLOAT_BETWEEN
]
QTOOLS_INTEGER_THROUGHOUT = [
    ("convert", 32, 4.6),
    ("conv", 864, QTOOLS_SHIFT + 0.0375),
    ("requantise", 48, 0.443750000052 + 0.0375),
    ("activation", 48, 0.0125),
    ("conv", 1296, QTOOLS_SHIFT + 0.0375),
    ("requantise", 48, 0.443750000052 + 0.0375),
    ("elementwise", 48, 0.0125),
    ("activation", 48, 0.0125),
    ("pooling", 48, 0.025),
    ("linear", 6, QTOOLS_SHIFT + 0.028125),
]


@pytest.mark.parametrize(
    ("options", "expected", "total_pj"),
    [
        ({"prices": "horowitz"}, FLOAT_BETWEEN, 1161.992),
        ({"prices": "horowitz", **INTEGER}, INTEGER_THROUGHOUT, 332.827),
        ({"prices": "qtools"}, QTOOLS_FLOAT_BETWEEN, 1164.8159700538),
        ({"prices": "qtools", **INTEGER}, QTOOLS_INTEGER_THROUGHOUT, 306.3847200588),
    ],
)
def test_a_small_network_by_hand(small, options, expected, total_pj):
    found = picojoules(small, (2, 4, 4), **options)
    assert [kind for kind, _ in found] == [kind for kind, _, _ in expected]
    for (_, energy), (_, operations, price) in zip(found, expected, strict=True):
        assert energy == pytest.approx(operations * price, rel=1e-12)
    assert sum(energy for _, energy in found) == pytest.approx(total_pj, abs=5e-11)


def test_modelled_energy_has_both_tables(small):
    for options, horowitz, qtools in (({}, 1161.992, 1164.816), (INTEGER, 332.827, 306.385)):
        energy = modelled_energy(small, (2, 4, 4), **options)
        assert energy.energy_modelled_j_per_image == pytest.approx(horowitz * PJ)
        found = energy.energy_modelled_qtools_j_per_image
        assert found == pytest.approx(qtools * PJ, rel=1e-6)
        # Memory is priced alike.
        memory = energy.energy_modelled_with_memory_j_per_image - horowitz * PJ
        expected = energy.energy_modelled_qtools_with_memory_j_per_image - found
        assert memory == pytest.approx(expected)


def test_memory_of_an_integer_network_by_hand(small):
    table = operation_counts(small, (2, 4, 4), **INTEGER)
    bits = table.groupby("kind")["memory_bits"].sum()
    # Weights of 3 bits, values of 4; the shortcut is read back; pooling reads 48 and writes 3.
    assert bits["conv"] == 3 * (54 + 81) + 4 * (32 + 48 + 48 + 48)
    assert bits["elementwise"] == 4 * 48 and bits["pooling"] == 4 * (48 + 3)
    assert bits["linear"] == 3 * 6 + 4 * (3 + 2) and bits["requantise"] == 0


def test_without_a_batch_norm_a_shift_layer_is_requantised_by_a_shift():
    plain = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    shift = picojoules(convert_to_shift(plain, 2, SPEC), (4,), **INTEGER)
    # 4 + 3 + 3 bits; shifts between 8 and 16 bits cost 0.024 to 0.057.
    assert shift[2] == ("requantise", pytest.approx(3 * (0.024 + 0.033 * 2 / 8)))
    spec = IntegerSpec(3, activation_integer_bits=2, activation_fraction_bits=2)
    integer = picojoules(convert_to_integer(plain, 2, spec), (4,), **INTEGER)
    # 4 + 3 - 1 + 3 bits; the step of an integer layer is no power of two.
    expected = 3 * (0.2 + 2.9 / 24 + 0.03 + 0.02 / 8)
    assert integer[2] == ("requantise", pytest.approx(expected))
    assert [kind for kind, _ in integer].count("convert") == 1


def test_values_pass_between_float_and_integer_layers_by_a_conversion():
    plain = nn.Sequential(nn.Linear(4, 3), nn.SiLU(), nn.Linear(3, 2))
    kinds = [kind for kind, _ in picojoules(convert_to_shift(plain, 2, SPEC), (4,), **INTEGER)]
    assert kinds == ["convert", "linear", "convert", "activation", "convert", "linear"]
    kinds = [kind for kind, _ in picojoules(convert_to_shift(plain, 1, SPEC), (4,), **INTEGER)]
    assert kinds == ["linear", "activation", "convert", "linear"]


def test_a_plain_network_has_no_integers():
    plain = build_model("resnet20", 10)
    counts = (
        operation_counts(plain, (3, 32, 32), between_layers=b) for b in ("float32", "integer")
    )
    first, second = counts
    assert first.equals(second)


def test_marks_survive_views_concatenation_and_in_place_operations():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(8, 2)

        def forward(self, x):
            x = self.first(x).relu_()
            a, b = x.view(2, 2).t().split(1)
            return self.second(torch.cat([x.view(-1), a.flatten(), b.flatten()]).unsqueeze(0))

    kinds = [kind for kind, _ in picojoules(convert_to_shift(Branches(), 2, SPEC), (4,), **INTEGER)]
    assert kinds == ["convert", "linear", "requantise", "activation", "linear"]


def test_a_layer_may_be_called_by_keyword():
    class Keyword(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 2)

        def forward(self, x):
            return self.linear(x=x)

    found = picojoules(convert_to_shift(Keyword(), 1, SPEC), (4,), **INTEGER)
    assert found[0] == ("convert", pytest.approx(4 * 4.6))


@pytest.mark.parametrize("name", ["resnet20", "mobilenetv2", "googlenet"])
def test_networks_of_relu_and_batch_norm_convert_their_input_alone(name):
    plain = build_model(name, 10)
    network = convert_to_shift(plain, len(shiftable_layers(plain)), SPEC)
    table = operation_counts(network, (3, 32, 32), **INTEGER)
    floating = table[table["arithmetic"] == "float32"]
    assert floating["kind"].tolist() == ["convert"] and floating["operations"].item() == 3072
    assert table["macs"].sum() == operation_counts(network, (3, 32, 32))["macs"].sum()


def test_wide_exponents_widen_the_accumulator():
    """The published default has exponents to -14: exact sums of 32-bit values need 56 bits."""
    network = convert_to_shift(build_model("resnet20", 10), 20, ShiftSpec())
    table = operation_counts(network, (3, 32, 32), **INTEGER)
    assert table.loc[table["kind"] == "requantise", "width_bits"].max() == 32 + 14 + 10
    default, integer = (modelled_energy(network, (3, 32, 32), **o) for o in ({}, INTEGER))
    assert integer.energy_modelled_j_per_image > default.energy_modelled_j_per_image


def test_energy_layer_by_layer_by_hand(small):
    """Products, sums and what lies between are those of the tables above."""
    found = energy_by_layer(small, (2, 4, 4)) / PJ
    assert found.index.tolist() == ["conv1", "conv2", "linear"]
    assert found["products"].tolist() == pytest.approx([864 * 0.012, 1296 * 0.012, 6 * 0.012])
    assert found["sums"].tolist() == pytest.approx([86.4, 129.6, 0.6])
    # 32 converted, 48 normalised and compared; 48 converted, ..., added, compared and pooled; 3.
    between = [32 * 4.6 + 48 * 4.7, 48 * (4.6 + 4.6 + 0.9 + 0.1 + 0.9), 3 * 4.6]
    assert found["between"].tolist() == pytest.approx(between)
    integer = energy_by_layer(small, (2, 4, 4), prices="qtools", **INTEGER) / PJ
    assert integer["products"].sum() == pytest.approx((864 + 1296 + 6) * QTOOLS_SHIFT)
    assert integer.sum().sum() == pytest.approx(306.3847200588, abs=5e-11)
    plain = build_model("resnet20", 10)  # float32: no layer is converted
    found, table = energy_by_layer(plain, (3, 32, 32)), operation_counts(plain, (3, 32, 32))
    assert len(found) == 20
    assert found.sum().sum() == pytest.approx(table["energy_modelled_j_per_image"].sum())


# --- the sceptic's question


@pytest.mark.parametrize("options", [{}, INTEGER, {"prices": "qtools"}])
def test_integers_of_the_same_widths_are_what_integer_layers_cost(options):
    plain = Small()
    spec = IntegerSpec(3, activation_integer_bits=2, activation_fraction_bits=2)
    int8 = IntegerSpec(8, activation_integer_bits=4, activation_fraction_bits=4)
    found = price_with_integers(convert_to_shift(plain, 3, SPEC), (2, 4, 4), **options)
    networks = [convert_to_shift(plain, 3, SPEC), convert_to_integer(plain, 3, spec)]
    networks.append(convert_to_integer(plain, 3, int8))
    for row, network in zip(found.itertuples(), networks, strict=True):
        table = operation_counts(network, (2, 4, 4), **options)
        expected = table["energy_modelled_j_per_image"].sum()
        assert row.energy_modelled_j_per_image == pytest.approx(expected, rel=1e-12)
        expected += table["memory_energy_modelled_j_per_image"].sum()
        assert row.energy_modelled_with_memory_j_per_image == pytest.approx(expected, rel=1e-12)


def test_layers_that_were_not_converted_are_int8_all_the_same():
    plain = Small()
    deep, none = (price_with_integers(convert_to_shift(plain, n, SPEC), (2, 4, 4)) for n in (3, 0))
    assert none.loc["all layers int8"].equals(deep.loc["all layers int8"])
    assert none.loc["integers of the same widths"].equals(none.loc["as it is"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"between_layers": "int8"}, "between_layers='int8': must be one of float32, integer"),
        ({"prices": "euro"}, "prices='euro': must be one of horowitz, qtools"),
        ({"memory": "cache"}, "memory='cache': must be one of"),
    ],
)
def test_bad_options(small, options, message):
    for function in (operation_counts, price_with_integers):
        with pytest.raises(ValueError, match=message):
            function(small, (2, 4, 4), **options)
