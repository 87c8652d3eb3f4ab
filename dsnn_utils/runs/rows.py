"""Which rows of a trials table count: successful ones, and the published default among them."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from dsnn_utils.checks import require_columns
from dsnn_utils.runs.columns import (
    DEFAULT_OBJECTIVES,
    EXTENSIONS,
    check_objectives,
    hyperparameters_among,
)


def configuration_columns(trials: pd.DataFrame) -> list[str]:
    """What makes a configuration in this table, hyperparameters of one's own included.

    Extensions that no row of it uses are left out.
    """
    names = [name for name in hyperparameters_among(trials.columns) if name != "shift_depth"]
    return [
        name for name in names if name not in EXTENSIONS or trials[name].ne(EXTENSIONS[name]).any()
    ]


def successful(
    trials: pd.DataFrame, objectives: Sequence[str] = DEFAULT_OBJECTIVES
) -> pd.DataFrame:
    """The rows with status SUCCESS whose objectives are all finite numbers (a copy).

    Of trials with a budget those trained in full: no other network is one to use.
    The index is kept if it is unique, else numbered anew.
    Raises ValueError when a column is missing, an objective is unknown or no row is left.
    """
    objectives = check_objectives(objectives)
    require_columns(trials, ["status", *objectives])
    if "dataset" in trials and trials["dataset"].nunique() > 1:
        names = ", ".join(map(str, trials["dataset"].unique()))
        raise ValueError(f"trials: must be of one data set, these are of {names}")
    if not trials.index.is_unique:  # several tables put together
        trials = trials.reset_index(drop=True)
    rows = finite_rows(trials, objectives)
    if rows.empty:
        raise ValueError(
            f"trials: must have at least one row with status SUCCESS, trained in full, and "
            f"finite {', '.join(objectives)}; none of {len(trials)} rows has"
        )
    return rows


def finite_rows(trials: pd.DataFrame, objectives: list[str]) -> pd.DataFrame:
    numbers = trials[objectives].apply(pd.to_numeric, errors="coerce").astype(float)
    good = (trials["status"] == "SUCCESS") & np.isfinite(numbers).all(axis=1)
    if "budget" in trials:
        good &= trials["budget"].fillna(1.0) == 1.0
    return trials[good].assign(**{name: numbers.loc[good, name] for name in objectives})


def default_rows(trials: pd.DataFrame) -> pd.DataFrame:
    """The successful rows of the published default: origin `default`, full depth, 5 weight bits.

    A search evaluates the default at every value of its fidelity. Where that is epochs or the share
    of the data, the rows with the highest value count.
    """
    require_columns(trials, ["status", "origin", "shift_depth", "max_shift_depth"])
    full_depth = trials["shift_depth"] == trials["max_shift_depth"]
    rows = trials[(trials["origin"] == "default") & full_depth & (trials["status"] == "SUCCESS")]
    if "weight_bits" in rows:
        rows = rows[rows["weight_bits"] == 5]
    for fidelity in ("epochs", "data_fraction"):
        if fidelity in rows and rows[fidelity].notna().any():
            rows = rows[rows[fidelity] == rows[fidelity].max()]
    return rows


def default_trial(trials: pd.DataFrame, even_failed: bool = False) -> pd.Series:
    """The published default; of several seeds the one with the (lower) median loss.

    With `even_failed` a default that failed (it may diverge) is better than none.
    Raises ValueError when the table has no such default at full depth.
    """
    require_columns(trials, ["loss"])
    rows = default_rows(trials).sort_values("loss", kind="stable")
    if rows.empty and even_failed:
        rows = default_rows(trials.assign(status="SUCCESS"))
        rows = rows.assign(status=trials.loc[rows.index, "status"])
    if rows.empty:
        raise ValueError(
            "trials: must have a row with origin 'default', shift_depth equal to max_shift_depth "
            "and status SUCCESS (the published default)"
        )
    return rows.iloc[(len(rows) - 1) // 2]
