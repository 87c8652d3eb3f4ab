"""Do cheap trainings foretell full ones? One table answers, in two measures.

A fidelity (shift depth, epochs, share of the data) is worth having for a search if configurations
rank at a low value as they do at a high one. Spearman's rho compares the two orders; the share of
right pairs asks the plainer question of how often the better of two stays the better one.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from dsnn_utils.checks import require_columns
from dsnn_utils.runs.columns import hyperparameters_among
from dsnn_utils.runs.rows import successful

#: Less of any of these makes a training cheaper, or another network of a configuration.
TRAINING_FIDELITIES = ("shift_depth", "epochs", "data_fraction")


def rank_agreement(
    trials: pd.DataFrame,
    fidelities: Sequence[str] = ("shift_depth",),
    objective: str = "loss",
    full_only: bool = False,
    draws: int = 0,
    seed: int = 0,
) -> pd.DataFrame:
    """How trainings at lower values of the `fidelities` rank configurations, against higher ones.

    A row per pair of values at which at least two configurations were tried under the same seed,
    with `full_only` only against the highest values. Columns:

    - the `fidelities` at the cheaper training, and as `full_...` at the other one;
    - `configurations` tried at both; `spearman`, the rank correlation of the objective (NaN below
      3, or where one side is constant), with its 95 % interval `low` to `high` by `draws`
      bootstrap samples of the configurations (NaN without draws);
    - `pairs` of configurations of one seed that differ at both, `right` ones among them (the better
      one cheaply is the better one fully), their `share` (0..1; chance is 0.5) and Wilson's 95 %
      interval `share_low` to `share_high`. It takes pairs for independent; those that share a
      configuration are not, so in truth less is known;
    - `cost`, the mean duration of the cheaper training as a share of the other one's.

    A failed training counts as loss 1. Raises ValueError where a column is missing, or, with
    `full_only`, where fewer than 3 configurations were trained in full.
    """
    fidelities = list(fidelities)
    require_columns(trials, fidelities)
    successful(trials, [objective])  # its errors
    wide, duration = _by_level(trials, fidelities, objective)
    full = tuple(trials[fidelities].max())
    full = full if len(full) > 1 else full[0]
    if full_only and (full not in wide or wide[full].count() < 3):
        raise ValueError(f"trials: must hold at least 3 configurations at {fidelities}={full}")
    rng, table = np.random.default_rng(seed), []
    for cheap, dear in _pairs(list(wide.columns), full if full_only else None):
        both = wide[[cheap, dear]].dropna()
        if len(both) > 1:
            levels = *_values(cheap), *_values(dear)
            cost = duration.get(cheap, np.nan) / duration.get(dear, np.nan)
            interval = _bootstrap(both, draws, rng)
            rho = _spearman(both) if len(both) > 2 else np.nan
            table.append((*levels, len(both), rho, *interval, *_right_pairs(both), cost))
    columns = [*fidelities, *(f"full_{name}" for name in fidelities), "configurations", "spearman"]
    columns += ["low", "high", "pairs", "right", "share", "share_low", "share_high", "cost"]
    return pd.DataFrame(table, columns=columns)


def _by_level(trials: pd.DataFrame, fidelities: list[str], objective: str):
    """The objective, a row per seed and configuration and a column per value of the fidelities.

    Also the mean duration of the successful trainings, by value.
    """
    good = trials["status"] == "SUCCESS"
    rows = trials if "seed" in trials else trials.assign(seed=0)
    rows = rows.assign(loss=rows["loss"].where(good, 1.0)) if objective == "loss" else rows[good]
    names = [n for n in hyperparameters_among(rows) if n not in fidelities]
    rows = rows.assign(configuration=rows.groupby([*names, "seed"], dropna=False).ngroup())
    wide = rows.pivot_table(objective, ["seed", "configuration"], fidelities)
    timed = trials[good] if "duration_s" in trials else trials.assign(duration_s=np.nan)
    return wide, timed.groupby(fidelities)["duration_s"].mean()


def _values(level) -> tuple:
    """The value of each fidelity; pandas has a plain value where there is one fidelity."""
    return level if isinstance(level, tuple) else (level,)


def _pairs(levels: list, full) -> Iterator[tuple]:
    """Pairs of values, the first one lower or equal everywhere; with `full`, of those below it."""
    for place, one in enumerate(levels):
        for other in levels if full is not None else levels[place + 1 :]:
            below = one != other and bool((np.asarray(one) <= np.asarray(other)).all())
            if below and full in (None, other):
                yield one, other


def _spearman(pair: pd.DataFrame) -> float:
    ranks = pair.rank().to_numpy()
    if (ranks == ranks[0]).all(axis=0).any():  # one side is constant
        return np.nan
    return float(np.corrcoef(ranks.T)[0, 1])


def _bootstrap(pair: pd.DataFrame, draws: int, rng: np.random.Generator) -> tuple[float, float]:
    """95 % interval of the rank correlation (percentiles of resampled configurations)."""
    picks = (pair.iloc[rng.integers(len(pair), size=len(pair))] for _ in range(draws))
    drawn = pd.Series([_spearman(pick) for pick in picks], dtype=float)
    low, high = drawn.quantile([0.025, 0.975])
    return low, high


def _right_pairs(pair: pd.DataFrame) -> tuple:
    """Pairs that differ at both values, right ones, their share and its interval."""
    pairs = right = 0
    for _, run in pair.groupby(level="seed"):
        cheap, dear = run.to_numpy().T
        # Each pair is looked at from its better side at the cheap value, so it counts once.
        better = cheap[:, None] < cheap
        right += int((better & (dear[:, None] < dear)).sum())
        pairs += int((better & (dear[:, None] != dear)).sum())
    if not pairs:
        return 0, 0, np.nan, np.nan, np.nan
    interval = binomtest(right, pairs).proportion_ci(method="wilson")
    return pairs, right, right / pairs, interval.low, interval.high
