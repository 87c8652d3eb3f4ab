"""What an operation costs on chip: two published tables of prices, which disagree about shifts.

`prices="horowitz"` is the default: measured energies of 45 nm circuits, between which we
interpolate. The width is that of the activations, so the bits of a weight cost nothing, and below
8 bits a multiplication gets cheaper in proportion.

`prices="qtools"` are the formulas by which QKeras estimates energy (google/qkeras v0.9.0,
`qtools/config_public.py` and `qtools/quantized_operators/multiplier_impl.py`). A multiplication
grows with the square of the width, and a shift with the reach of its weight, 2^bits: with 8-bit
weights and activations it costs more than a multiplication, with 3-bit weights a third of one.

Both go back to Horowitz and so agree on additions of 32 bits, multiplications of 8 and of 32, and
float32. Memory has our prices with both: the tool's own, by the size of a tensor, are left out, as
is its cheaper shift where it is told how many different values the weights take. A ranking that
holds under one table only is a statement about the table.
"""

import math

import numpy as np

from dsnn_utils.checks import check_number, require, require_choice
from dsnn_utils.shift.specs import ShiftSpec, Spec

PRICES = ("horowitz", "qtools")
# Energy per operation in picojoules by width in bits, 45 nm. Add, multiply and float32: Horowitz,
# "Computing's energy problem", ISSCC 2014. Shift: You et al., "ShiftAddNet", NeurIPS 2020.
INTEGER_PJ = {
    "add": {8: 0.03, 16: 0.05, 32: 0.1},
    "multiply": {8: 0.2, 32: 3.1},
    "shift": {8: 0.024, 16: 0.057, 32: 0.13},
}
FLOAT32_PJ = {"add": 0.9, "multiply": 3.7}
# qtools: `fpm_add` and `fpm_mul`, which go through Horowitz's 32-bit addition and his two
# multiplications.
QTOOLS_ADD_PJ_PER_BIT = 0.003125
QTOOLS_MULTIPLY_PJ = (0.002994791667, 0.001041666667)  # times the width squared, and the width
# Per bit moved, from Horowitz's energies of a 64-bit access; DRAM is the middle of 1.3 to 2.6 nJ.
MEMORY_PJ_PER_BIT = {
    "sram_8kb": 10 / 64,
    "sram_32kb": 20 / 64,
    "sram_1mb": 100 / 64,
    "dram": 1950 / 64,
}
FLOAT_BITS = 32
ACCUMULATOR_BITS = 32  # at least; a wider activation widens the accumulator with it
MULTIPLY_ADD_PJ = FLOAT32_PJ["multiply"] + FLOAT32_PJ["add"]


def operation_pj(
    operation: str, width: int, weight_bits: float | None = None, *, prices: str = "horowitz"
) -> float:
    """Energy in pJ of one integer "add", "multiply" or "shift" of `width` bits.

    "horowitz": between published widths linear interpolation, below 8 bits proportional to the
    width, above 32 bits the last slope continued.

    "qtools": an addition of b bits costs 0.003125 b, a multiplication 0.0029948 b^2 + 0.0010417 b
    with b = sqrt(width * weight_bits), a shift by a power of two of `weight_bits` an addition of
    b log10(b) bits with b = sqrt(2^weight_bits * width). Raises ValueError where it needs
    `weight_bits` and they are not given.
    """
    require_choice("operation", operation, INTEGER_PJ)
    require_choice("prices", prices, PRICES)
    check_number("width", width, 1)
    if prices == "qtools":
        return _qtools_pj(operation, width, weight_bits)
    table = INTEGER_PJ[operation]
    widths, energies = list(table), list(table.values())
    if width > widths[-1]:
        slope = (energies[-1] - energies[-2]) / (widths[-1] - widths[-2])
        return energies[-1] + slope * (width - widths[-1])
    return float(np.interp(width, [0, *widths], [0.0, *energies]))


def _qtools_pj(operation: str, width: float, weight_bits: float | None) -> float:
    if operation == "add":
        return QTOOLS_ADD_PJ_PER_BIT * width
    require(
        weight_bits is not None and weight_bits >= 1,
        f"weight_bits={weight_bits!r}: must be at least 1 for a {operation} with prices='qtools'",
    )
    assert weight_bits is not None
    if operation == "shift":
        bits = math.sqrt(2**weight_bits * width)
        return QTOOLS_ADD_PJ_PER_BIT * bits * math.log10(bits)
    bits = math.sqrt(width * weight_bits)
    square, linear = QTOOLS_MULTIPLY_PJ
    return square * bits**2 + linear * bits


def mac_pj(
    arithmetic: str,
    width: int = FLOAT_BITS,
    weight_bits: int | None = None,
    *,
    accumulator_bits: int | None = None,
    prices: str = "horowitz",
) -> float:
    """Energy in pJ of one multiply-accumulate as "float32", "integer" or "shift" arithmetic.

    `width` is that of the activations; `weight_bits` matter to "qtools" alone, which has to be
    given them. Integer and shift accumulate in `accumulator_bits`: unless given, in 32 bits or, if
    wider, in the activations' width. At 8 bits an integer network (0.3) is only 2.4 times a shift
    network (0.124): the advantage over float32 (4.6) is mostly that of the narrow type.
    """
    require_choice("arithmetic", arithmetic, ("float32", "integer", "shift"))
    require_choice("prices", prices, PRICES)
    if arithmetic == "float32":
        return MULTIPLY_ADD_PJ
    product = "multiply" if arithmetic == "integer" else "shift"
    if accumulator_bits is None:
        accumulator_bits = max(ACCUMULATOR_BITS, width)
    return operation_pj(product, width, weight_bits, prices=prices) + operation_pj(
        "add", accumulator_bits, prices=prices
    )


def accumulator_bits(spec: Spec, fan_in: int) -> int:
    """Bits that hold every sum of `fan_in` products and a bias, whatever the values.

    A product of `a` activation bits takes a + w - 1 bits with an integer of w bits, and a + r with
    a power of two, r being how far its exponents reach. A bit more for each doubling of the number
    of summands, the bias being one. (The rule of qtools' `FixedPointAccumulator`.) The one sum that
    may be 1 too large for it has the most negative value in every summand, and saturates.
    """
    check_number("fan_in", fan_in, 1)
    activation_bits = spec.activation_integer_bits + spec.activation_fraction_bits
    if isinstance(spec, ShiftSpec):
        lowest, highest = spec.shift_range
        return activation_bits + highest - lowest + math.ceil(math.log2(fan_in + 1))
    return activation_bits + spec.weight_bits - 1 + math.ceil(math.log2(fan_in + 1))
