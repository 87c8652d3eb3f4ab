"""Checks of what a user passes in.

Each raises one ValueError that names the parameter, its value and what is allowed, before any
compute is spent.
"""

import math
import operator
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # it takes half a second, and parameters are checked before anything slow
    import pandas as pd


def require(condition, message: str) -> None:
    """Raise `ValueError(message)` unless the condition holds."""
    if not condition:
        raise ValueError(message)


def require_bools(**flags) -> None:
    """ValueError naming the first that is neither True nor False: a text would count as true."""
    for name, value in flags.items():
        require(isinstance(value, bool), f"{name}={value!r}: must be True or False")


def require_choice(name: str, value, allowed: Iterable[str]) -> None:
    """ValueError unless `value` is one of the `allowed` names."""
    allowed = list(allowed)
    known = isinstance(value, str) and value in allowed
    require(known, f"{name}={value!r}: must be one of {', '.join(allowed)}")


def check_integer(name: str, value, low: int, high: float = math.inf, why: str = "") -> int:
    """`value` as an int; ValueError unless it is an integer from `low` to `high` (no bool)."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    allowed = f"from {low} to {high}" if high < math.inf else f"of at least {low}"
    if number is None or not low <= number <= high:
        raise ValueError(f"{name}={value!r}: must be an integer {allowed}{why}")
    return number


def is_number(value) -> bool:
    """Whether `value` is a real, finite number."""
    return isinstance(value, Real) and math.isfinite(value)


def check_number(name: str, value: float, minimum: float) -> None:
    """ValueError unless `value` is a finite number of at least `minimum`."""
    if not (is_number(value) and value >= minimum):
        raise ValueError(f"{name}={value!r}: must be a finite number of at least {minimum}")


def require_columns(table: "pd.DataFrame", columns: Sequence[str]) -> None:
    """One ValueError that names every column of `columns` missing from `table`."""
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise ValueError(f"trials={list(table.columns)}: must have the columns {missing}")
