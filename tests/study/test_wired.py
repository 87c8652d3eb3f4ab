"""Constants wired into a circuit: rounding to formats, and adders counted by da4ml."""

import numpy as np
import pytest

from dsnn_utils.study.wired import adder_cost, adders_table, levels, read_adders, round_to


def test_levels_are_those_of_the_formats():
    assert levels("integer", 3).tolist() == [-3, -2, -1, 0, 1, 2, 3]
    assert levels("shift", 3).tolist() == [-8, -4, -2, -1, 1, 2, 4, 8]


def test_what_a_format_holds_exactly_is_rounded_without_error():
    rng = np.random.default_rng(0)
    for possible in (levels("integer", 4), levels("shift", 3)):
        weight = 0.05 * rng.choice(possible, (20, 3))
        weight[0, 0] = 0.05 * possible.max()
        codes, error = round_to(weight, possible)
        assert set(codes.ravel()) <= set(possible) and error < 1e-3


def test_the_committed_table_belongs_to_the_formats():
    table = read_adders()
    assert table.loc["INT8", "error"] < table.loc["INT3", "error"]
    assert table.loc["3-bit shift", "adders_per_weight"] > table.loc["INT3", "adders_per_weight"]


def test_a_shift_of_one_input_is_wiring_and_a_sum_is_adders():
    pytest.importorskip("da4ml", reason="da4ml is not installed (pip install da4ml)")
    assert adder_cost(np.array([[4.0]])) == 0
    assert adder_cost(np.array([[1.0], [2.0]])) > 0
    weight = np.random.default_rng(1).normal(size=(6, 2))
    table = adders_table(weight)
    assert table["adders_per_weight"].ge(0).all() and len(table) == 8
