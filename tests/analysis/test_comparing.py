"""Paired tests and their correction, against cases counted by hand."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import wilcoxon

from dsnn_utils.analysis import holm, paired_tests, seeds_needed


def test_holm_by_hand():
    # 0.01 x 4, 0.02 x 3, 0.03 x 2 (no smaller than the one before), 0.2 x 1
    assert holm([0.2, 0.01, 0.03, 0.02]) == pytest.approx([0.2, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]).tolist() == [1.0, 1.0] and holm([0.03]).tolist() == [0.03]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_a_correction_keeps_the_order_and_stays_within_that_of_bonferroni(p_values):
    corrected = holm(p_values)
    p = np.array(p_values)
    assert (corrected >= p).all() and (corrected <= np.minimum(1, len(p) * p)).all()
    assert (np.diff(corrected[np.argsort(p, kind="stable")]) >= 0).all()


def values(**columns):
    return pd.DataFrame(columns, dtype=float).rename_axis("seed")


def test_six_seeds_of_one_sign_are_the_fewest_that_tell():
    zeros = np.zeros(6)
    better = values(a=zeros + np.arange(1, 7), b=zeros)
    (row,) = paired_tests(better).to_dict("records")
    assert row["p"] == row["p_holm"] == 2 / 2**6 and row["better"] == "a"
    assert row["seeds"] == 6 and row["difference"] == 3.5
    assert paired_tests(-better).loc[0, "better"] == "b"
    assert paired_tests(better[:5]).loc[0, "better"] == "cannot be told"  # p = 0.0625
    assert seeds_needed(1) == 6 and seeds_needed(3) == 7


def test_p_is_exact_also_with_ties_and_equal_seeds():
    # Five of one sign, three of one size: 2 of the 32 signs are as extreme.
    assert paired_tests(values(a=[1, 1, 1, 2, 3], b=[0] * 5)).loc[0, "p"] == 2 / 2**5
    assert paired_tests(values(a=[1, 2], b=[1, 2])).loc[0, "p"] == 1.0
    assert paired_tests(values(a=[1], b=[0])).loc[0, "p"] == 1.0
    rng = np.random.default_rng(0)
    long = values(a=rng.normal(0.4, 1, 20), b=rng.normal(0, 1, 20))
    assert paired_tests(long).loc[0, "p"] == wilcoxon(long["a"], long["b"]).pvalue


def test_pairs_are_compared_on_the_seeds_they_share_and_corrected_together():
    base = np.arange(8.0)
    table = values(a=base + np.linspace(0.1, 0.8, 8), b=base, c=[*(base[:6] - 1), None, None])
    tests = paired_tests(table).set_index(["first", "second"])
    assert tests["seeds"].tolist() == [8, 6, 6]
    assert tests["p"].tolist() == [2 / 2**8, 2 / 2**6, 2 / 2**6]
    assert tests["p_holm"].tolist() == [3 * 2 / 2**8, 4 / 2**6, 4 / 2**6]
    assert tests["better"].tolist() == ["a", "cannot be told", "cannot be told"]
    only = paired_tests(table, [("c", "a")])
    assert only[["first", "second", "better"]].values.tolist() == [["c", "a", "a"]]
    apart = paired_tests(values(a=[1, None], b=[None, 1]))
    assert apart.loc[0, "seeds"] == 0 and apart["p_holm"].isna().all()
    assert apart.loc[0, "better"] == "cannot be told"
