"""The two tables of prices: published values, the tool's formulas by hand, what is refused."""

import math

import pytest

from dsnn_utils.energy import PRICES, accumulator_bits, mac_pj, operation_pj
from dsnn_utils.shift import IntegerSpec, ShiftSpec


@pytest.mark.parametrize(
    ("activation_bits", "weight_bits", "multiply", "shift"),
    [(8, 8, 0.200, 0.234), (8, 5, 0.126, 0.060), (8, 3, 0.077, 0.023), (4, 4, 0.052, 0.023),
     (4, 3, 0.040, 0.013)],
)  # fmt: skip
def test_qtools_prices_computed_by_hand(activation_bits, weight_bits, multiply, shift):
    """Computed from the formulas in the sources of QKeras, not by the tool, in pJ, rounded."""
    bits = activation_bits, weight_bits
    assert operation_pj("multiply", *bits, prices="qtools") == pytest.approx(multiply, abs=5e-4)
    assert operation_pj("shift", *bits, prices="qtools") == pytest.approx(shift, abs=5e-4)


def test_a_qtools_shift_by_hand():
    # 2^5 * 8 = 256, its root is 16, and an addition of 16 log10(16) = 19.266 bits costs 0.0602 pJ.
    expected = 0.003125 * 16 * math.log10(16)
    assert operation_pj("shift", 8, 5, prices="qtools") == pytest.approx(expected, rel=1e-15)
    assert expected == pytest.approx(0.0602, abs=1e-4)


def test_both_tables_agree_on_horowitz_own_values():
    """qtools' formulas are drawn through them: 32-bit addition, 8- and 32-bit multiplication."""
    assert operation_pj("add", 32, prices="qtools") == pytest.approx(operation_pj("add", 32))
    for width in (8, 32):
        expected = operation_pj("multiply", width)
        found = operation_pj("multiply", width, width, prices="qtools")
        assert found == pytest.approx(expected, rel=1e-6)
    assert mac_pj("float32", prices="qtools") == mac_pj("float32")


def test_where_the_tables_disagree():
    """Which of shift and multiplication is cheaper is a matter of the table at 8-bit weights."""
    for prices, cheaper in (("horowitz", "shift"), ("qtools", "multiply")):
        cost = {n: operation_pj(n, 8, 8, prices=prices) for n in ("shift", "multiply")}
        assert min(cost, key=cost.get) == cheaper
    ratio = operation_pj("shift", 8, 3, prices="qtools") / operation_pj(
        "multiply", 8, 3, prices="qtools"
    )
    assert ratio == pytest.approx(0.3, abs=0.01)


def test_only_qtools_charges_the_bits_of_a_weight():
    for prices in PRICES:
        narrow, wide = (mac_pj("shift", 8, bits, prices=prices) for bits in (3, 5))
        assert (narrow == wide) == (prices == "horowitz")


def test_a_multiply_accumulate_adds_in_the_given_accumulator():
    assert mac_pj("shift", 8, accumulator_bits=16) == pytest.approx(0.024 + 0.05)
    assert mac_pj("integer", 8, 8, prices="qtools") == pytest.approx(0.2 + 0.1)
    found = mac_pj("integer", 8, 8, accumulator_bits=20, prices="qtools")
    assert found == pytest.approx(0.2 + 0.0625)


@pytest.mark.parametrize("fan_in", [1, 2, 3, 27, 576])
@pytest.mark.parametrize("bits", [(2, 2, 0), (3, 4, 4), (5, 16, 16)])
def test_an_accumulator_holds_the_largest_sum_and_is_no_wider_than_it_has_to_be(bits, fan_in):
    for spec in (ShiftSpec("Q", *bits), ShiftSpec("PS", *bits), IntegerSpec(*bits)):
        largest_value = 2 ** (bits[1] + bits[2] - 1)
        if isinstance(spec, ShiftSpec):
            largest_weight = 2 ** -spec.shift_range[0]  # in units of the smallest
        else:
            largest_weight = 2 ** (bits[0] - 1)
        largest = (fan_in + 1) * largest_value * largest_weight  # the bias being one more product
        width = accumulator_bits(spec, fan_in)
        assert largest <= 2 ** (width - 1) < 2 * largest


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mac_pj("shift", 8, 3, prices="dollars"), "prices='dollars': must be one of horow"),
        (lambda: mac_pj("shift", 8, prices="qtools"), "weight_bits=None: must be at least 1"),
        (lambda: operation_pj("divide", 8), "operation='divide': must be one of add, multiply"),
        (lambda: operation_pj("add", 0), "width=0: must be"),
        (lambda: accumulator_bits(ShiftSpec(), 0), "fan_in=0: must be"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
