"""Choosing a solution from the front, and what is known of the one chosen."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from dsnn_utils.analysis.fronts import pareto_front
from dsnn_utils.checks import require_choice, require_columns
from dsnn_utils.runs.columns import (
    COMPUTE_ENERGY,
    DEFAULT_OBJECTIVES,
    check_objectives,
    cost_among,
    hyperparameters_among,
    loss_among,
)
from dsnn_utils.runs.rows import (
    configuration_columns,
    default_rows,
    default_trial,
    successful,
)
from dsnn_utils.runs.table import json_value, read_trials, to_records
from dsnn_utils.search.space import known_good_configurations

CHOICE_RULES = ("knee", "dominates_default", "energy_budget", "accuracy_floor")


def knee(front: pd.DataFrame, objectives: Sequence[str] = DEFAULT_OBJECTIVES) -> pd.Series:
    """The row with the smallest sum of objectives, each scaled to 0..1 over the front.

    With two objectives that is the point farthest below the straight line between the front's
    ends. Ties go to the lower first objective.
    """
    front = pareto_front(front, objectives)
    values = front[list(objectives)]
    span = (values.max() - values.min()).replace(0, 1)
    total = ((values - values.min()) / span).sum(axis=1).round(12)
    order = front.assign(_total=total).sort_values(["_total", objectives[0]], kind="stable")
    return front.loc[order.index[0]]


def best_dominating_default(
    trials: pd.DataFrame, objectives: Sequence[str] = DEFAULT_OBJECTIVES
) -> pd.Series:
    """The row that beats the published default by the largest margin in every objective.

    The margin is the smallest relative gain over the objectives ("at least 12 % better in both");
    ties go to the larger sum of gains. Raises ValueError when no row dominates the default.
    """
    front = pareto_front(trials, objectives)
    names = list(objectives)
    start = default_trial(successful(trials, objectives))[names].astype(float)
    dominates = (front[names] <= start).all(axis=1) & (front[names] < start).any(axis=1)
    if not dominates.any():
        raise ValueError("trials: must have a row that dominates the published default; none does")
    gains = 1 - front.loc[dominates, names] / start.replace(0, np.nan)
    ranked = pd.DataFrame({"margin": gains.min(axis=1), "total": gains.sum(axis=1)})
    return front.loc[ranked.sort_values(["margin", "total"], kind="stable").index[-1]]


def choose(
    trials: pd.DataFrame,
    rule: str = "knee",
    objectives: Sequence[str] = DEFAULT_OBJECTIVES,
    energy_budget: float | None = None,
    accuracy_floor: float | None = None,
) -> pd.Series:
    """One row of the table by one of four rules.

    - "knee": see `knee`; "dominates_default": see `best_dominating_default`;
    - "energy_budget": the lowest loss among rows whose first energy objective is at most
      `energy_budget` (in the unit of that objective);
    - "accuracy_floor": the lowest first energy objective among rows with `val_accuracy` (0..1) of
      at least `accuracy_floor`.

    Raises ValueError for an unknown rule, a missing or useless limit, or when no row qualifies.
    """
    require_choice("rule", rule, CHOICE_RULES)
    if rule == "knee":
        return knee(trials, objectives)
    if rule == "dominates_default":
        return best_dominating_default(trials, objectives)
    rows, cost = successful(trials, objectives), cost_among(objectives)
    if rule == "energy_budget":
        if energy_budget is None or not energy_budget > 0:
            raise ValueError(f"energy_budget={energy_budget}: must be a positive number")
        rows = rows[rows[cost] <= energy_budget]
        order, limit = [loss_among(objectives), cost], f"energy_budget={energy_budget}"
        possible = f"at least the lowest {cost} of the table"
    else:
        require_columns(trials, ["val_accuracy"])
        if accuracy_floor is None or not 0 <= accuracy_floor <= 1:
            raise ValueError(f"accuracy_floor={accuracy_floor}: must be from 0 to 1")
        rows = rows[rows["val_accuracy"] >= accuracy_floor]
        order = [cost, loss_among(objectives)]
        limit = f"accuracy_floor={accuracy_floor}"
        possible = "at most the highest val_accuracy of the table"
    if rows.empty:
        raise ValueError(f"{limit}: must be {possible}; no row qualifies")
    return rows.sort_values(order, kind="stable").iloc[0]


def accuracy_drop(
    trials: pd.DataFrame,
    drops: Sequence[float] = (0.0, 0.005, 0.01, 0.02, 0.05),
    cost: str = COMPUTE_ENERGY,
    by: str = "seed",
    baseline: float | None = None,
) -> pd.DataFrame:
    """What giving up some accuracy saves: for each run and drop the cheapest row that is allowed.

    A drop of 0.01 allows every row whose loss is at most 0.01 above that run's lowest. Columns
    `by`, `drop`, `seed`, `trial`, `shift_depth`, `weight_bits`, `activation_bits` (i + f),
    `shift_type`, `loss`, `cost` and `saving` (0..1), against a `baseline` in the unit of `cost`
    (such as the plain network's) or else against that run's most accurate row (of rows equally
    accurate the cheapest). The spread over the runs tells how sure it is; with
    `plausible_accuracies` and by="draw" also one run has a spread.
    """
    require_columns(trials, [by, "seed", "trial", "shift_depth", "weight_bits", "shift_type"])
    for drop in drops:
        if not 0 <= drop <= 1:
            raise ValueError(f"drops={drop}: must be from 0 to 1")
    rows = successful(trials, ("loss", cost)).sort_values([cost, "loss"], kind="stable")
    bits = rows["activation_integer_bits"] + rows["activation_fraction_bits"]
    rows = rows.assign(activation_bits=bits)
    columns = ["seed", "trial", "shift_depth", "weight_bits", "activation_bits", "shift_type"]
    columns = list(dict.fromkeys([by, *columns, "loss", cost]))
    tables = []
    for _, run in rows[columns].groupby(by, dropna=False):
        loss = run["loss"].to_numpy()
        allowed = loss <= loss.min() + np.asarray(drops)[:, None] + 1e-12
        found = run.iloc[allowed.argmax(axis=1)]  # cheapest first
        before = run[cost].iloc[loss.argmin()] if baseline is None else baseline
        saving = 1 - found[cost] / before if before else 0.0
        tables.append(found.assign(drop=list(drops), saving=saving))
    table = pd.concat(tables, ignore_index=True)
    return table[[by, "drop", *[name for name in columns if name != by], "saving"]]


def likely_networks(answers: pd.DataFrame) -> pd.DataFrame:
    """For each drop the network that is most often the answer in `accuracy_drop` by "draw".

    Index `drop`; columns `share` (0..1, of the draws in which it is), the network's `seed`,
    `trial`, `shift_depth`, `shift_type`, `weight_bits`, `activation_bits`, and `saving` (its
    median) with `saving_low` and `saving_high` (5 and 95 % of the answers, whichever network).
    """
    network = ["seed", "trial", "shift_depth", "shift_type", "weight_bits", "activation_bits"]
    by_drop = answers.groupby("drop")
    share = by_drop[network].value_counts(normalize=True, dropna=False).groupby("drop").head(1)
    table = share.rename("share").reset_index()
    saving = answers.groupby(["drop", *network], dropna=False)["saving"].median().reset_index()
    table = table.merge(saving, on=["drop", *network]).set_index("drop")
    table["saving_low"] = by_drop["saving"].quantile(0.05)
    table["saving_high"] = by_drop["saving"].quantile(0.95)
    return table[["share", *network, "saving", "saving_low", "saving_high"]]


def plausible_accuracies(
    trials: pd.DataFrame, validation_size: int, draws: int = 200, seed: int = 0
) -> pd.DataFrame:
    """Copies of the table with accuracies as they might truly be, numbered in the column `draw`.

    `validation_size` images tell an accuracy only so well. Each draw takes every successful
    `val_accuracy`, and `loss` with it, from Jeffreys' posterior of a proportion: the beta
    distribution of (right + 1/2, wrong + 1/2). Networks are drawn independently, although the same
    images judge them all, so differences are rather less noisy than drawn. What training again
    would change is not in it: use several seeds for that, each of which is drawn by itself.
    """
    require_columns(trials, ["seed", "val_accuracy"])
    if validation_size < 1:
        raise ValueError(f"validation_size={validation_size}: must be an integer of at least 1")
    rows = successful(trials, ("loss",))
    right = (rows["val_accuracy"].astype(float) * validation_size).round().to_numpy()
    rng = np.random.default_rng(seed)
    accuracy = rng.beta(right + 0.5, validation_size - right + 0.5, (draws, len(rows)))
    runs = pd.factorize(rows["seed"])[0]
    tables = [
        rows.assign(val_accuracy=a, loss=1 - a, draw=number + draws * runs)
        for number, a in enumerate(accuracy)
    ]
    return pd.concat(tables, ignore_index=True)


def solution_card(
    trials: pd.DataFrame,
    row: pd.Series,
    objectives: Sequence[str] = DEFAULT_OBJECTIVES,
    validation_size: int | None = None,
) -> dict:
    """A chosen row as a JSON-safe dict that training can read.

    `network` and `configuration` rebuild it; `objectives` gives each value and, when the table
    holds the same network under several seeds, mean, lowest and highest over them; `changes` and
    `gains_percent` compare with the published default (None when the table has none; a gain is
    positive when the chosen row is better). With `validation_size`, the number of validation
    images, `val_accuracy_interval` is Wilson's 95 % interval: the error of counting so many images,
    not that of training again.
    """
    objectives = check_objectives(objectives)
    require_columns(trials, ["shift_depth", *objectives])
    names = configuration_columns(trials)
    rows = successful(trials, objectives)
    same = rows[[*names, "shift_depth"]].apply(
        lambda column: column.isna() if pd.isna(row[column.name]) else column == row[column.name]
    )
    repeats = rows[same.all(axis=1)]
    context = ("dataset", "model", "shift_depth", "max_shift_depth", "train_size")
    card = {
        "trial": json_value(row.get("trial")),
        "seed": json_value(row.get("seed")),
        "network": {name: json_value(row.get(name)) for name in context},
        "configuration": {name: json_value(row[name]) for name in names},
        "val_accuracy": json_value(row.get("val_accuracy")),
        "val_accuracy_interval": _wilson(row, validation_size),
        "objectives": {
            name: {
                "value": json_value(row[name]),
                "mean": json_value(repeats[name].mean()),
                "lowest": json_value(repeats[name].min()),
                "highest": json_value(repeats[name].max()),
                "seeds": len(repeats),
            }
            for name in objectives
        },
        "default": None,
        "changes": None,
        "gains_percent": None,
    }
    found = "origin" in trials and "max_shift_depth" in trials and len(default_rows(rows))
    if found:
        start = default_trial(rows)
        compared = ["shift_depth", *names]
        pairs = {name: (json_value(start[name]), json_value(row[name])) for name in compared}
        card["default"] = {name: json_value(start[name]) for name in objectives}
        card["changes"] = {n: {"default": a, "chosen": b} for n, (a, b) in pairs.items() if a != b}
        card["gains_percent"] = {
            name: json_value(100 * (1 - row[name] / start[name])) if start[name] else None
            for name in objectives
        }
    return card


def _wilson(row: pd.Series, size: int | None) -> list[float] | None:
    if size is None or pd.isna(row.get("val_accuracy")):
        return None
    if size < 1:
        raise ValueError(f"validation_size={size}: must be an integer of at least 1")
    right = round(row["val_accuracy"] * size)
    return [float(v) for v in binomtest(right, size).proportion_ci(method="wilson")]


def read_seed_configurations(source: str | Path | None, max_depth: int) -> list[dict]:
    """Seed configurations from a file, made to fit a network with `max_depth` shiftable layers.

    `source` is a run directory or a trials.csv (its front is taken: a warm start from an earlier
    run), a .json file with a list of configurations, "known_good" for those of
    `search.known_good_configurations`, or None for none. Deeper ones than the network allows are
    cut to `max_depth`; epochs and data fraction are left to the search, and a plain network (depth
    0) is left out.

    Raises ValueError or FileNotFoundError naming the source.
    """
    if source is None:
        return []
    if source == "known_good":
        return known_good_configurations(max_depth)
    path = Path(source)
    if path.suffix == ".json":
        try:
            found = json.loads(path.read_text())
            found = [dict(configuration) for configuration in found]
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(
                f"seed_configurations={str(source)!r}: must be a list of configurations ({error})"
            ) from error
    else:
        front = pareto_front(read_trials(path))
        found = to_records(front[hyperparameters_among(front)])
    fitted = [
        {name: value for name, value in c.items() if name not in ("epochs", "data_fraction")}
        for c in found
    ]
    for configuration in fitted:
        if "shift_depth" in configuration:
            configuration["shift_depth"] = min(configuration["shift_depth"], max_depth)
    return [configuration for configuration in fitted if configuration.get("shift_depth") != 0]
