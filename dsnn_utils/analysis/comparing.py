"""Which of several methods is better: paired tests, corrected for their number."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import PermutationMethod, wilcoxon

LEVEL = 0.05
_EXACT_UP_TO = 13  # pairs: 2^13 changes of sign are quickly gone through


def holm(p_values: Sequence[float]) -> np.ndarray:
    """p-values corrected for their number (Holm, Scandinavian Journal of Statistics 1979); (n,).

    Whoever calls a difference real where the result is at most 5 % is wrong about one or more of
    them with a probability of at most 5 %, however the tests hang together.
    """
    p = np.asarray(p_values, float)
    order = np.argsort(p, kind="stable")
    corrected = np.empty_like(p)
    steps = p[order] * np.arange(len(p), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected


def paired_tests(
    values: pd.DataFrame, pairs: Sequence[tuple[str, str]] | None = None
) -> pd.DataFrame:
    """Two-sided Wilcoxon signed-rank tests between columns of `values`, larger being better.

    `values` has a row per seed and a column per method, NaN where a method lacks a seed: a pair is
    compared on the seeds both have. `pairs` are all by default. A row per pair: `first`, `second`,
    `seeds`, `difference` (mean of first minus second), `p`, `p_holm` (corrected for the number of
    rows) and `better`: the one that is, or "cannot be told" where `p_holm` is over `LEVEL`. Up to
    13 seeds p is exact, also with ties. A pair without a seed in common has NaN and no test.
    """
    pairs = list(combinations(values.columns, 2)) if pairs is None else list(pairs)
    rows = []
    for first, second in pairs:
        difference = (values[first] - values[second]).dropna().to_numpy(float)
        row = {"first": first, "second": second, "seeds": len(difference)}
        found = {"difference": difference.mean(), "p": _p(difference)} if len(difference) else {}
        rows.append(row | found)
    table = pd.DataFrame(rows, columns=["first", "second", "seeds", "difference", "p"])
    tested = table["p"].notna()
    table.loc[tested, "p_holm"] = holm(table.loc[tested, "p"])
    told = table["p_holm"] <= LEVEL
    ahead = table["first"].where(table["difference"] > 0, table["second"])
    return table.assign(better=ahead.where(told, "cannot be told"))


def _p(difference: np.ndarray) -> float:
    if len(difference) < 2 or not difference.any():  # nothing speaks against chance
        return 1.0
    exact = len(difference) <= _EXACT_UP_TO
    method = PermutationMethod(n_resamples=2**_EXACT_UP_TO) if exact else "auto"
    return float(wilcoxon(difference, method=method).pvalue)


def seeds_needed(tests: int) -> int:
    """The fewest seeds with which one of so many differences can be told: all of one sign."""
    return next(seeds for seeds in range(1, 64) if tests * 2.0 ** (1 - seeds) <= LEVEL)
