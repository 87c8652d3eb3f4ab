"""Pareto analysis of a trials table: fronts, hypervolume, attainment, choosing a solution.

Everything here reads a trials table (one row per configuration, shift depth and seed) and nothing
else; every objective is minimised. Each (configuration, shift depth) pair is a network of its own,
so a front is taken over all successful rows, never over the deepest rows only. moocore computes
dominance, hypervolume and the empirical attainment function; optuna computes fANOVA; ablation
paths and partial dependence are predictions of scikit-learn's extra trees.
"""

import warnings
from collections.abc import Mapping, Sequence

import moocore
import numpy as np
import pandas as pd
from scipy.stats import binomtest

from dsnn_utils import energy
from dsnn_utils.trials import HYPERPARAMETERS

#: Modelled energy of an inference: of the arithmetic, and with the traffic of memory.
ENERGIES = ("energy_modelled_j_per_image", "energy_modelled_with_memory_j_per_image")
DEFAULT_OBJECTIVES = ("loss", ENERGIES[0])

#: Columns that may be minimised. Accuracy is maximised, hence absent: its objective is `loss`.
OBJECTIVES = (*energy.OBJECTIVES, "val_cross_entropy")

#: Columns that make a configuration; together with `shift_depth` they make a network.
CONFIGURATION = tuple(name for name in HYPERPARAMETERS if name != "shift_depth")
LOG_SCALED = ("lr", "weight_decay")
ACTIVATION_BITS = ("activation_integer_bits", "activation_fraction_bits")

CHOICE_RULES = ("knee", "dominates_default", "energy_budget", "accuracy_floor")


# ------------------------------------------------------------------------------ reading a table


def require_columns(trials: pd.DataFrame, columns: Sequence[str]) -> None:
    """Raise one ValueError that names every column of `columns` missing from `trials`."""
    missing = [column for column in columns if column not in trials.columns]
    if missing:
        raise ValueError(f"trials={list(trials.columns)}: must have the columns {missing}")


def _checked(objectives: Sequence[str]) -> list[str]:
    if isinstance(objectives, str) or not objectives:
        raise ValueError(f"objectives={objectives!r}: must be a sequence of names")
    for name in objectives:
        if name not in OBJECTIVES:
            raise ValueError(f"objectives={name!r}: must be one of {', '.join(OBJECTIVES)}")
    if len(set(objectives)) < len(objectives):
        raise ValueError(f"objectives={objectives!r}: must not name a column twice")
    return list(objectives)


def successful(
    trials: pd.DataFrame, objectives: Sequence[str] = DEFAULT_OBJECTIVES
) -> pd.DataFrame:
    """The rows with status SUCCESS whose objectives are all finite numbers (a copy).

    The index is kept if it is unique, else numbered anew.
    Raises ValueError when a column is missing, an objective is unknown or no row is left.
    """
    objectives = _checked(objectives)
    require_columns(trials, ["status", *objectives])
    if "dataset" in trials and trials["dataset"].nunique() > 1:
        names = ", ".join(map(str, trials["dataset"].unique()))
        raise ValueError(f"trials: must be of one data set, these are of {names}")
    if not trials.index.is_unique:  # several tables put together
        trials = trials.reset_index(drop=True)
    rows = _finite(trials, objectives)
    if rows.empty:
        raise ValueError(
            f"trials: must have at least one row with status SUCCESS and finite "
            f"{', '.join(objectives)}; none of {len(trials)} rows has"
        )
    return rows


def _finite(trials: pd.DataFrame, objectives: list[str]) -> pd.DataFrame:
    numbers = trials[objectives].apply(pd.to_numeric, errors="coerce").astype(float)
    good = (trials["status"] == "SUCCESS") & np.isfinite(numbers).all(axis=1)
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


def overview(rows: pd.DataFrame) -> pd.DataFrame:
    """The columns a reader wants to see of trials, with short names, units and rounded."""
    bits = [rows[f"activation_{part}_bits"].astype("Int64") for part in ("integer", "fraction")]
    table = {
        "seed": rows["seed"],
        "trial": rows["trial"],
        "origin": rows["origin"],
        "depth": rows["shift_depth"],
        "type": rows["shift_type"],
        "weight bits": rows["weight_bits"].astype("Int64"),
        "activation bits": bits[0].astype(str) + " + " + bits[1].astype(str),
        "optimizer": rows["optimizer"],
        "lr": rows["lr"].map("{:.3g}".format),
        "validation accuracy (%)": (100 * rows["val_accuracy"]).round(2),
        "modelled energy (µJ/image)": (1e6 * rows[ENERGIES[0]]).round(3),
        "with memory (µJ/image)": (1e6 * rows[ENERGIES[1]]).round(3),
    }
    return pd.DataFrame(table).set_index(["seed", "trial"])


# ---------------------------------------------------------------------------------------- fronts


def _cost(objectives: Sequence[str]) -> str:
    """The objective a front is laid out along: the first one that is not a kind of loss."""
    return next((o for o in objectives if o not in ("loss", "val_cross_entropy")), objectives[0])


def drawn_objectives(objectives: Sequence[str]) -> tuple[str, str]:
    """The loss and the cost that a figure of the front shows for a search over `objectives`."""
    costs = [o for o in objectives if o not in ("loss", "val_cross_entropy")]
    loss = next((o for o in objectives if o not in costs), DEFAULT_OBJECTIVES[0])
    return loss, costs[0] if costs else DEFAULT_OBJECTIVES[1]


def modelled_objectives(objectives: Sequence[str]) -> tuple[str, str]:
    """Error and modelled energy, with memory if a search over `objectives` minimised that."""
    with_memory = "energy_modelled_with_memory_j_per_image"
    return DEFAULT_OBJECTIVES[0], with_memory if with_memory in objectives else ENERGIES[0]


def pareto_front(
    trials: pd.DataFrame, objectives: Sequence[str] = DEFAULT_OBJECTIVES
) -> pd.DataFrame:
    """The non-dominated successful rows, sorted by the first energy objective.

    Rows of all seeds are pooled (the aggregated front). Different networks with equal objectives
    are all kept; of rows that agree in configuration, depth and objectives the first is kept.
    """
    rows = successful(trials, objectives)
    objectives = list(objectives)
    front = rows[moocore.is_nondominated(rows[objectives].to_numpy(float), keep_weakly=True)]
    network = [column for column in (*CONFIGURATION, "shift_depth") if column in front.columns]
    front = front.drop_duplicates([*objectives, *network])
    cost = _cost(objectives)
    return front.sort_values([cost, *[o for o in objectives if o != cost]], kind="stable")


def attainment(
    trials: pd.DataFrame,
    objectives: Sequence[str] = DEFAULT_OBJECTIVES,
    percentiles: Sequence[float] = (0, 50, 100),
    by: str = "seed",
) -> pd.DataFrame:
    """Empirical attainment function over the runs told apart by column `by`.

    Returns the objectives and a column `percentile`: the points of one percentile p are the front
    that at least p % of the runs attain (0: at least one run, which is the aggregated front; 50:
    the median front; 100: every run). One run gives the same front for every percentile.
    A run without a successful row counts as a run that attains nothing.
    Two or three objectives (da Fonseca et al., EMO 2001; computed by moocore).
    """
    require_columns(trials, [by])
    rows = successful(trials, objectives)
    objectives = list(objectives)
    if len(objectives) not in (2, 3):
        raise ValueError(f"objectives={objectives}: must be two or three for the attainment")
    for value in percentiles:
        if not 0 <= value <= 100:
            raise ValueError(f"percentiles={value}: must be from 0 to 100")
    if rows[by].isna().any():
        raise ValueError(f"trials: must have a value of {by} in every row to tell the runs apart")
    # moocore wants each run in one piece and silently gives wrong fronts otherwise.
    rows = rows.sort_values(by, kind="stable")
    points, runs = rows[objectives].to_numpy(float), pd.factorize(rows[by])[0]
    # It counts the runs it sees: rescale so that a run without success counts too.
    seen, total = rows[by].nunique(), trials[by].nunique()
    parts = []
    for percentile in percentiles:
        needed = max(1, int(np.ceil(percentile / 100 * total - 1e-9)))
        if needed > seen:
            continue
        part = moocore.eaf(points, runs, percentiles=[100 * needed / seen])
        part[:, -1] = percentile
        parts.append(part)
    table = pd.DataFrame(np.vstack(parts), columns=[*objectives, "percentile"])
    order = ["percentile", _cost(objectives)]
    return table.sort_values(order, kind="stable", ignore_index=True)


# ----------------------------------------------------------------------------------- hypervolume


def reference_point(
    trials: pd.DataFrame,
    objectives: Sequence[str] = DEFAULT_OBJECTIVES,
    plain_energy_j_per_image: float | None = None,
) -> dict[str, float]:
    """The point the hypervolume is measured against, as {objective: value}.

    `loss` has 1.0, the largest validation error. A modelled energy has the plain network's, if it
    is given (of the kind that is among the objectives) or the table has a successful row at depth
    0. Everything else has 1.1 times the worst successful value. Hypervolumes compare only under
    ONE reference point: pass the same one for every table.
    """
    rows = successful(trials, objectives)
    reference = {}
    for name in objectives:
        worst = 1.1 * rows[name].max()
        if name == "loss":
            worst = 1.0
        elif name in ENERGIES:
            plain = rows.loc[rows["shift_depth"] == 0, name] if "shift_depth" in rows else []
            if plain_energy_j_per_image is not None:
                worst = plain_energy_j_per_image
            elif len(plain):
                worst = plain.max()
        if not (np.isfinite(worst) and worst > 0):
            raise ValueError(f"reference_point {name}={worst}: must be a positive finite number")
        reference[name] = float(worst)
    return reference


def _relative(rows: pd.DataFrame, objectives: list[str], reference: Mapping | None) -> np.ndarray:
    missing = [name for name in objectives if name not in reference]
    if missing:
        raise ValueError(f"reference={dict(reference)}: must have a value for {missing}")
    return rows[objectives].to_numpy(float) / [float(reference[name]) for name in objectives]


def hypervolume(
    trials: pd.DataFrame,
    objectives: Sequence[str] = DEFAULT_OBJECTIVES,
    reference: Mapping[str, float] | None = None,
) -> float:
    """Share (0..1) of the box between zero and the reference point that the front dominates.

    Objectives are divided by `reference` (default: `reference_point(trials)`), so the value has no
    unit. Points outside the box add nothing.
    """
    rows = successful(trials, objectives)
    reference = reference or reference_point(trials, objectives)
    points = _relative(rows, list(objectives), reference)
    return float(moocore.hypervolume(points, ref=np.ones(len(objectives))))


def hypervolume_over(
    trials: pd.DataFrame,
    x: str = "trial",
    objectives: Sequence[str] = DEFAULT_OBJECTIVES,
    reference: Mapping[str, float] | None = None,
    by: str | Sequence[str] = "seed",
) -> pd.DataFrame:
    """Hypervolume after each trial of each run; columns `by`, `x`, `hypervolume`.

    x: "trial" counts trials from 1, "epochs" and "duration_s" add up what was spent. Failed trials
    cost and gain nothing. Runs are told apart by the column(s) `by`, in order of `trial`, and share
    one reference point.
    """
    if x not in ("trial", "epochs", "duration_s"):
        raise ValueError(f"x={x!r}: must be one of trial, epochs, duration_s")
    by = [by] if isinstance(by, str) else list(by)
    require_columns(trials, ["trial", x, *by])
    objectives = _checked(objectives)
    reference = reference or reference_point(trials, objectives)
    trials = trials.reset_index(drop=True)
    curves = []
    for key, run in trials.groupby(by, dropna=False, sort=True):
        run = run.sort_values("trial", kind="stable")
        spent = np.arange(1, len(run) + 1) if x == "trial" else run[x].fillna(0).cumsum()
        curve = pd.DataFrame(dict(zip(by, key, strict=True)), index=range(len(run)))
        curve[x] = np.asarray(spent)
        curve["hypervolume"] = _running_hypervolume(run, objectives, reference)
        curves.append(curve)
    return pd.concat(curves, ignore_index=True)


def _running_hypervolume(run: pd.DataFrame, objectives: list[str], reference: Mapping) -> list:
    good = run.index.isin(_finite(run, objectives).index)
    numbers = run[objectives].apply(pd.to_numeric, errors="coerce")
    points = _relative(numbers, objectives, reference)
    front, value, values = np.empty((0, len(objectives))), 0.0, []
    for point, counts in zip(points, good, strict=True):
        # Only a point that nothing in the front weakly dominates can change the volume.
        if counts and not (front <= point).all(axis=1).any():
            front = np.vstack([front[~(front >= point).all(axis=1)], point])
            value = float(moocore.hypervolume(front, ref=np.ones(len(objectives))))
        values.append(value)
    return values


# ------------------------------------------------------------------------------------- choosing


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
    if rule not in CHOICE_RULES:
        raise ValueError(f"rule={rule!r}: must be one of {', '.join(CHOICE_RULES)}")
    if rule == "knee":
        return knee(trials, objectives)
    if rule == "dominates_default":
        return best_dominating_default(trials, objectives)
    rows, cost = successful(trials, objectives), _cost(objectives)
    if rule == "energy_budget":
        if energy_budget is None or not energy_budget > 0:
            raise ValueError(f"energy_budget={energy_budget}: must be a positive number")
        rows = rows[rows[cost] <= energy_budget]
        order, limit = [drawn_objectives(objectives)[0], cost], f"energy_budget={energy_budget}"
        possible = f"at least the lowest {cost} of the table"
    else:
        require_columns(trials, ["val_accuracy"])
        if accuracy_floor is None or not 0 <= accuracy_floor <= 1:
            raise ValueError(f"accuracy_floor={accuracy_floor}: must be from 0 to 1")
        rows = rows[rows["val_accuracy"] >= accuracy_floor]
        order = [cost, drawn_objectives(objectives)[0]]
        limit = f"accuracy_floor={accuracy_floor}"
        possible = "at most the highest val_accuracy of the table"
    if rows.empty:
        raise ValueError(f"{limit}: must be {possible}; no row qualifies")
    return rows.sort_values(order, kind="stable").iloc[0]


def accuracy_drop(
    trials: pd.DataFrame,
    drops: Sequence[float] = (0.0, 0.005, 0.01, 0.02, 0.05),
    cost: str = "energy_modelled_j_per_image",
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
    """The table again and again, with accuracies as they might truly be; column `draw` counts.

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


def depth_and_bits(front: pd.DataFrame, trials: pd.DataFrame | None = None) -> pd.DataFrame:
    """How often the front uses each shift depth, weight bits and activation bits (i + f).

    Columns `parameter`, `value`, `front` (rows) and, with `trials`, `tried` (successful rows).
    """
    columns = ("shift_depth", "weight_bits", "activation_integer_bits", "activation_fraction_bits")
    require_columns(front, columns)

    def counts(rows: pd.DataFrame) -> dict[str, pd.Series]:
        bits = rows["activation_integer_bits"] + rows["activation_fraction_bits"]
        rows = rows.assign(activation_bits=bits)
        names = ("shift_depth", "weight_bits", "activation_bits")
        return {name: rows[name].dropna().astype(int).value_counts() for name in names}

    used = counts(front)
    tried = counts(trials[trials["status"] == "SUCCESS"]) if trials is not None else used
    parts = []
    for name in used:
        values = sorted(set(used[name].index) | set(tried[name].index))
        part = pd.DataFrame({"parameter": name, "value": values})
        part["front"] = used[name].reindex(values, fill_value=0).to_numpy()
        if trials is not None:
            part["tried"] = tried[name].reindex(values, fill_value=0).to_numpy()
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


# ----------------------------------------------------------------------------- the solution card


def _plain(value):
    """A JSON-safe Python value; missing, NaN and infinite become None."""
    if value is None or (np.isscalar(value) and pd.isna(value)):
        return None
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        value = float(value)
        if not np.isfinite(value):
            return None
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    return str(value)


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
    objectives = _checked(objectives)
    require_columns(trials, ["shift_depth", *objectives])
    names = [name for name in CONFIGURATION if name in trials.columns]
    rows = successful(trials, objectives)
    same = rows[[*names, "shift_depth"]].apply(
        lambda column: column.isna() if pd.isna(row[column.name]) else column == row[column.name]
    )
    repeats = rows[same.all(axis=1)]
    context = ("dataset", "model", "shift_depth", "max_shift_depth", "train_size")
    card = {
        "trial": _plain(row.get("trial")),
        "seed": _plain(row.get("seed")),
        "network": {name: _plain(row.get(name)) for name in context},
        "configuration": {name: _plain(row[name]) for name in names},
        "val_accuracy": _plain(row.get("val_accuracy")),
        "val_accuracy_interval": _wilson(row, validation_size),
        "objectives": {
            name: {
                "value": _plain(row[name]),
                "mean": _plain(repeats[name].mean()),
                "lowest": _plain(repeats[name].min()),
                "highest": _plain(repeats[name].max()),
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
        pairs = {name: (_plain(start[name]), _plain(row[name])) for name in compared}
        card["default"] = {name: _plain(start[name]) for name in objectives}
        card["changes"] = {n: {"default": a, "chosen": b} for n, (a, b) in pairs.items() if a != b}
        card["gains_percent"] = {
            name: _plain(100 * (1 - row[name] / start[name])) if start[name] else None
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


# ------------------------------------------------------------------------ fidelity and importance


def depth_rank_correlation(
    trials: pd.DataFrame, objective: str = "loss", minimum: int = 3
) -> pd.DataFrame:
    """Do shallow trials rank configurations as deep ones do? Spearman's rho for pairs of depths.

    Columns `low_depth`, `high_depth`, `configurations` (tried at both depths under the same seed),
    `spearman` (NaN when one side is constant). Pairs with fewer than `minimum` shared
    configurations are left out; the table may be empty.
    """
    if minimum < 3:
        raise ValueError(f"minimum={minimum}: must be an integer of at least 3")
    wide = _by_depth(trials, objective)
    seen = wide.notna().to_numpy(int)
    shared = seen.T @ seen
    pairs = []
    for a, b in zip(*np.triu_indices(len(wide.columns), k=1), strict=True):
        if shared[a, b] >= minimum:
            both = wide.iloc[:, [a, b]].dropna().rank()
            rho = both.iloc[:, 0].corr(both.iloc[:, 1]) if (both.nunique() > 1).all() else np.nan
            pairs.append((int(wide.columns[a]), int(wide.columns[b]), int(shared[a, b]), rho))
    return pd.DataFrame(pairs, columns=["low_depth", "high_depth", "configurations", "spearman"])


def _by_depth(trials: pd.DataFrame, objective: str) -> pd.DataFrame:
    """The objective of configurations tried at several depths: a row each, a column per depth.

    The same configuration under another seed is another row; the index holds the seed.
    """
    require_columns(trials, ["shift_depth"])
    rows = successful(trials, [objective])
    rows = rows if "seed" in rows else rows.assign(seed=0)
    key = ["seed", *[name for name in CONFIGURATION if name in rows.columns]]
    rows["configuration"] = rows.groupby(key, dropna=False).ngroup()
    index = ["seed", "configuration"]
    wide = rows.pivot_table(objective, index, "shift_depth", aggfunc="mean")
    return wide[wide.notna().sum(axis=1) > 1]


def promotion_report(trials: pd.DataFrame, objective: str = "loss") -> pd.DataFrame:
    """How often is what looks better when shallow also better when deep?

    Of all pairs of configurations that one run tried at the same two depths, the share in which the
    better one at the lower depth is the better one at the higher depth too; ties at either depth
    are left out. Columns `low_depth`, `high_depth`, `configurations`, `pairs`, `right` (pairs),
    `share` (0..1) and `share_low`, `share_high`: Wilson's 95 % interval of a binomial proportion.
    It counts pairs as independent; those of one configuration are not, so truly one knows less.
    Chance is 0.5. The table is empty where no two configurations share two depths.
    """
    wide = _by_depth(trials, objective)
    counts: dict[tuple, np.ndarray] = {}
    for _, run in wide.groupby(level="seed"):
        for i, low in enumerate(run):
            for high in run.columns[i + 1 :]:
                a, b = run[[low, high]].dropna().to_numpy().T
                better, worse = a[:, None] < a, b[:, None] > b
                right = int((better & (b[:, None] < b)).sum())
                found = np.array([len(a), right + int((better & worse).sum()), right])
                counts[low, high] = counts.get((low, high), 0) + found
    rows = []
    for (low, high), (configurations, pairs, right) in sorted(counts.items()):
        if pairs:
            interval = binomtest(int(right), int(pairs)).proportion_ci(method="wilson")
            numbers = [int(v) for v in (low, high, configurations, pairs, right)]
            rows.append((*numbers, right / pairs, interval.low, interval.high))
    columns = ["low_depth", "high_depth", "configurations", "pairs", "right"]
    return pd.DataFrame(rows, columns=[*columns, "share", "share_low", "share_high"])


def importance(
    trials: pd.DataFrame,
    objective: str = "loss",
    seed: int = 0,
    by: str = "seed",
    max_trials: int = 400,
) -> pd.DataFrame:
    """Hyperparameter importance by fANOVA (Hutter et al., ICML 2014), one analysis per run.

    Columns `hyperparameter`, `importance` (mean over the runs told apart by `by`), `lowest`,
    `highest`, `runs`; sorted, importances of one run sum to 1. Shift depth counts as a
    hyperparameter; columns that never vary are left out; a missing momentum (optimizers without
    one) counts as 0. Runs longer than `max_trials` are sampled down to it.
    """
    with warnings.catch_warnings(action="ignore"):  # of its progress bars, on notebook widgets
        import optuna

    require_columns(trials, [by])
    names = [name for name in ("shift_depth", *CONFIGURATION) if name in trials.columns]
    rows = successful(trials, [objective])
    names = [n for n in names if rows[n].nunique(dropna=False) > 1]
    if not names:
        raise ValueError("trials: must vary at least one hyperparameter for an importance")
    results = []
    for _, run in rows.groupby(by, dropna=False):
        if len(run) < 4 or run[objective].nunique() < 2:
            continue
        if len(run) > max_trials:
            run = run.sample(max_trials, random_state=seed)
        results.append(_fanova(run, names, objective, seed, optuna))
    if not results:
        raise ValueError(
            f"trials: must have a {by} with at least 4 successful rows that differ in {objective}"
        )
    wide = pd.DataFrame(results).fillna(0.0)
    table = pd.DataFrame(
        {"importance": wide.mean(), "lowest": wide.min(), "highest": wide.max(), "runs": len(wide)}
    )
    table = table.sort_values("importance", ascending=False, kind="stable")
    return table.rename_axis("hyperparameter").reset_index()


def _fanova(run: pd.DataFrame, names: list[str], objective: str, seed: int, optuna) -> dict:
    distributions, columns = {}, {}
    for name in names:
        column = run[name].fillna(0.0) if name == "momentum" else run[name]
        if column.isna().any():
            column = column.astype(str)
        low, high = column.min(), column.max()
        if not pd.api.types.is_numeric_dtype(column):
            choices = sorted(column.astype(str).unique())
            column = column.astype(str)
            distributions[name] = optuna.distributions.CategoricalDistribution(choices)
        elif (column % 1 == 0).all():
            column = column.astype(int)
            distributions[name] = optuna.distributions.IntDistribution(int(low), int(high))
        else:
            log = name in LOG_SCALED and low > 0
            distributions[name] = optuna.distributions.FloatDistribution(
                float(low), float(high), log=log
            )
        columns[name] = column.tolist()
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
        study.add_trials(
            [
                optuna.trial.create_trial(
                    params={name: columns[name][i] for name in names},
                    distributions=distributions,
                    value=value,
                )
                for i, value in enumerate(run[objective].tolist())
            ]
        )
        evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=32, seed=seed)
        return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))
    finally:
        optuna.logging.set_verbosity(verbosity)


# --------------------------------------------------------------------------------- the surrogate


class _Surrogate:
    """Extra trees fitted to the successful trials, to predict an objective of any configuration.

    `r2` is the share of the variance explained in trials that a tree has not seen (out of bag): 1
    is perfect, 0 no better than the mean, less is worse. Categories are encoded one-hot, learning
    rate and weight decay as logarithms; a missing number (such as the momentum of an optimizer that
    has none) is a value of its own to the trees.
    """

    def __init__(self, trials: pd.DataFrame, objective: str, seed: int):
        from sklearn.ensemble import ExtraTreesRegressor

        require_columns(trials, ["shift_depth"])
        self.rows = successful(trials, [objective])
        self.names = [n for n in ("shift_depth", *CONFIGURATION) if n in trials.columns]
        if len(self.rows) < 4 or self.rows[objective].nunique() < 2:
            raise ValueError(
                f"trials: must have at least 4 successful rows that differ in {objective}"
            )
        self.numbers = [n for n in self.names if _is_number(self.rows[n])]
        features = self._encode(self.rows)
        self._columns = features.columns
        # Each tree learns from at most 2000 trials: more only take time.
        self._forest = ExtraTreesRegressor(
            100, bootstrap=True, max_samples=min(len(features), 2000), oob_score=True,
            random_state=seed,
        )  # fmt: skip
        self._forest.fit(features.to_numpy(), self.rows[objective])
        self.r2 = float(self._forest.oob_score_)

    def _encode(self, rows: pd.DataFrame) -> pd.DataFrame:
        numbers = rows[self.numbers].apply(pd.to_numeric).astype(float)
        for name in set(LOG_SCALED) & set(numbers):
            numbers[name] = np.log10(numbers[name].clip(lower=1e-12))
        if set(ACTIVATION_BITS) <= set(numbers):  # shifts and adds work at their sum
            numbers["activation_bits"] = numbers[list(ACTIVATION_BITS)].sum(axis=1, min_count=2)
        texts = rows[[n for n in self.names if n not in self.numbers]].astype(str)
        return numbers.join(pd.get_dummies(texts, dtype=float)) if len(texts.columns) else numbers

    def predict(self, rows: pd.DataFrame) -> np.ndarray:
        """What each tree predicts for each row, (trees, rows)."""
        features = self._encode(rows).reindex(columns=self._columns, fill_value=0.0)
        features = features.to_numpy(np.float32)
        return np.array([tree.predict(features) for tree in self._forest.estimators_])


def _is_number(column: pd.Series) -> bool:
    return pd.to_numeric(column, errors="coerce").notna().equals(column.notna())


def ablation_path(
    trials: pd.DataFrame,
    start: pd.Series,
    target: pd.Series,
    objective: str = "loss",
    seed: int = 0,
) -> pd.DataFrame:
    """From `start` to `target`, one hyperparameter at a time, always the one that helps most.

    Ablation (Fawcett & Hoos, J. Heuristics 2016) on a surrogate (Biedenkapp et al., AAAI 2017):
    nothing is trained, all values are predictions of extra trees fitted to the trials, also of the
    modelled energy, which could be calculated. If the optimizer changes, momentum goes with it.

    One row per step, the first being `start`: `step`, `hyperparameter`, `from`, `to`, `predicted`
    (the objective after the step), `spread` (standard deviation over the trees), `observed` (the
    trial's own value; first and last row only) and `r2`, the share of the variance that the trees
    explain in trials they have not seen. With `r2` near 0 or below, the path says nothing.
    """
    surrogate = _Surrogate(trials, objective, seed)
    for label, row in (("start", start), ("target", target)):
        missing = [name for name in surrogate.names if name not in row.index]
        if missing:
            raise ValueError(f"{label}={list(row.index)}: must have the hyperparameters {missing}")
    point, goal = start[surrogate.names].to_dict(), target[surrogate.names].to_dict()
    changes = {n: {n: goal[n]} for n in goal if _plain(point[n]) != _plain(goal[n])}
    if "optimizer" in changes and "momentum" in goal:
        changes.pop("momentum", None)
        changes["optimizer"]["momentum"] = goal["momentum"]
    predicted = surrogate.predict(pd.DataFrame([point]))[:, 0]
    path = [(0, "", None, None, predicted.mean(), predicted.std())]
    while changes:
        candidates = surrogate.predict(pd.DataFrame([point | c for c in changes.values()]))
        best = int(candidates.mean(axis=0).argmin())
        name, predicted = list(changes)[best], candidates[:, best]
        step = (len(path), name, point[name], goal[name], predicted.mean(), predicted.std())
        path.append(step)
        point |= changes.pop(name)
    columns = ["step", "hyperparameter", "from", "to", "predicted", "spread"]
    table = pd.DataFrame(path, columns=columns).assign(observed=np.nan, r2=surrogate.r2)
    table.loc[table.index[[0, -1]], "observed"] = [
        pd.to_numeric(row.get(objective), errors="coerce") for row in (start, target)
    ]
    return table


def partial_dependence(
    trials: pd.DataFrame,
    hyperparameters: Sequence[str] = ("shift_depth", "weight_bits"),
    objective: str = "loss",
    seed: int = 0,
    at_most: int = 20,
    max_trials: int = 200,
) -> pd.DataFrame:
    """The objective over two hyperparameters, averaged over how all others were set in the trials.

    Partial dependence (Friedman, Annals of Statistics 2001) of extra trees fitted to the trials:
    the mean prediction over all (at most `max_trials`, sampled) successful trials with the two
    values put in their place. "activation_bits" stands for integer plus fraction bits, shared out
    as in each trial as far as both stay in the range tried. The grid has at most `at_most` values
    of each, from the lowest to the highest tried.

    Columns: the two names, `predicted`, `spread` (standard deviation over the trees) and `r2` (see
    `ablation_path`). Where nothing was tried, a prediction continues the nearest trials.
    """
    surrogate = _Surrogate(trials, objective, seed)
    rows = surrogate.rows
    if len(set(hyperparameters)) != 2:
        raise ValueError(f"hyperparameters={hyperparameters!r}: must be two different names")
    if {"activation_bits"} & set(hyperparameters):
        require_columns(rows, ACTIVATION_BITS)
        rows = rows.assign(activation_bits=rows[list(ACTIVATION_BITS)].sum(axis=1, min_count=2))
    possible = [n for n in [*surrogate.numbers, "activation_bits"] if n in rows]
    for name in hyperparameters:
        if name not in possible or rows[name].isna().all():
            raise ValueError(f"hyperparameters={name!r}: must be one of {', '.join(possible)}")
    one, two = hyperparameters
    grid = pd.MultiIndex.from_product([_grid(rows[n], at_most) for n in hyperparameters])
    sample = rows.sample(min(len(rows), max_trials), random_state=seed)
    predictions = []
    for values in grid:
        filled = sample.copy()
        for name, value in zip(hyperparameters, values, strict=True):
            _put(filled, name, value)
        predictions.append(filled)
    every = surrogate.predict(pd.concat(predictions, ignore_index=True))
    means = every.reshape(len(every), len(grid), len(sample)).mean(axis=2)
    table = grid.to_frame(index=False, name=[one, two])
    return table.assign(predicted=means.mean(axis=0), spread=means.std(axis=0), r2=surrogate.r2)


def _grid(values: pd.Series, at_most: int) -> np.ndarray:
    """From the lowest to the highest value; integers stay integers."""
    values = pd.to_numeric(values).dropna()
    low, high = values.min(), values.max()
    if (values % 1 == 0).all():
        number = int(min(at_most, high - low + 1))
        return np.unique(np.linspace(low, high, number).round().astype(int))
    return (np.geomspace if values.name in LOG_SCALED else np.linspace)(low, high, at_most)


def _put(rows: pd.DataFrame, name: str, value: float) -> None:
    if name != "activation_bits":
        rows[name] = value
        return
    # In each row's proportion, as far as both parts stay within what was tried.
    one, other = ACTIVATION_BITS
    low = max(rows[one].min(), value - rows[other].max())
    high = min(rows[one].max(), value - rows[other].min())
    rows[one] = (rows[one] / rows["activation_bits"] * value).clip(low, max(low, high))
    rows[other] = value - rows[one]
