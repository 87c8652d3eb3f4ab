"""Pareto fronts of a trials table, their attainment over runs, and their hypervolume."""

from collections.abc import Mapping, Sequence

import moocore
import numpy as np
import pandas as pd

from dsnn_utils.checks import require_choice, require_columns
from dsnn_utils.energy.emissions import search_energy_kwh
from dsnn_utils.runs.columns import (
    COMPUTE_ENERGY,
    DEFAULT_OBJECTIVES,
    ENERGY_WITH_MEMORY,
    MODELLED_ENERGIES,
    check_objectives,
    cost_among,
    under_both_prices,
)
from dsnn_utils.runs.rows import configuration_columns, finite_rows, successful


def overview(rows: pd.DataFrame, objectives: Sequence[str] = ()) -> pd.DataFrame:
    """The columns a reader wants to see of trials, with short names, units and rounded.

    `objectives` that are not among these follow as they are.
    """
    bits = [rows[f"activation_{part}_bits"].astype("Int64") for part in ("integer", "fraction")]
    table = {
        "seed": rows["seed"],
        "trial": rows["trial"],
        "origin": rows["origin"],
        "depth": rows["shift_depth"],
        "type": rows["shift_type"].fillna("integer"),
        "weight bits": rows["weight_bits"].astype("Int64"),
        "activation bits": bits[0].astype(str) + " + " + bits[1].astype(str),
        "optimizer": rows["optimizer"],
        "lr": rows["lr"].map("{:.3g}".format),
        "validation accuracy (%)": (100 * rows["val_accuracy"].astype(float)).round(2),
        "modelled energy (µJ/image)": (1e6 * rows[COMPUTE_ENERGY]).round(3),
        "with memory (µJ/image)": (1e6 * rows[ENERGY_WITH_MEMORY]).round(3),
    }
    others = [n for n in objectives if n not in ("loss", COMPUTE_ENERGY, ENERGY_WITH_MEMORY)]
    table |= {name: rows[name] for name in others}
    return pd.DataFrame(table).set_index(["seed", "trial"])


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
    network = [n for n in (*configuration_columns(trials), "shift_depth") if n in front.columns]
    front = front.drop_duplicates([*objectives, *network])
    cost = cost_among(objectives)
    return front.sort_values([cost, *[o for o in objectives if o != cost]], kind="stable")


def agreement_of_prices(trials: pd.DataFrame, energy: str = COMPUTE_ENERGY) -> pd.Series:
    """What of a front, and of the order of networks, survives the other table of prices.

    Fronts are of loss and `energy` under "horowitz" and under "qtools". Entries: `front` and
    `front_qtools` (networks on each), `on_both`, `front_survives` (share of the first front that is
    on the second, 0..1), `pairs_alike` and `front_pairs_alike` (share of the pairs of all networks,
    and of those on either front, of which both tables say that the same one needs less; pairs with
    equal energies under one of them do not count). NaN where there is no such pair.
    """
    names = list(under_both_prices(energy).values())
    rows = successful(trials, ("loss", *names)).reset_index(drop=True)
    fronts = [set(pareto_front(rows, ("loss", name)).index) for name in names]
    both = len(fronts[0] & fronts[1])
    either = rows.loc[sorted(fronts[0] | fronts[1])]
    return pd.Series(
        {
            "front": len(fronts[0]),
            "front_qtools": len(fronts[1]),
            "on_both": both,
            "front_survives": both / len(fronts[0]),
            "pairs_alike": _pairs_alike(rows[names].to_numpy(float)),
            "front_pairs_alike": _pairs_alike(either[names].to_numpy(float)),
        }
    )


def _pairs_alike(energies: np.ndarray) -> float:
    """The share of pairs of rows that both columns order alike; (n, 2)."""
    first, second = np.triu_indices(len(energies), 1)
    order = np.sign(energies[first] - energies[second])
    order = order[(order != 0).all(axis=1)]
    return float((order[:, 0] == order[:, 1]).mean()) if len(order) else np.nan


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
        # Rounding must not ask for one run more: 28 % of 25 runs are 7.000000000000001 as floats.
        needed = max(1, int(np.ceil(percentile / 100 * total - 1e-9)))
        if needed > seen:  # nothing is attained by that many runs
            continue
        part = moocore.eaf(points, runs, percentiles=[100 * needed / seen])
        part[:, -1] = percentile
        parts.append(part)
    table = pd.DataFrame(np.vstack(parts), columns=[*objectives, "percentile"])
    order = ["percentile", cost_among(objectives)]
    return table.sort_values(order, kind="stable", ignore_index=True)


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
        worst = 1.1 * rows[name].max()  # at the worst value itself that trial would add nothing
        if name == "loss":
            worst = 1.0
        elif name in MODELLED_ENERGIES:
            plain = rows[rows["shift_depth"] == 0] if "shift_depth" in rows else rows[:0]
            if plain_energy_j_per_image is not None:
                worst = plain_energy_j_per_image
            elif len(plain):
                worst = plain[name].max()
        if not (np.isfinite(worst) and worst > 0):
            raise ValueError(f"reference_point {name}={worst}: must be a positive finite number")
        reference[name] = float(worst)
    return reference


def _relative(rows: pd.DataFrame, objectives: list[str], reference: Mapping) -> np.ndarray:
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
    require_choice("x", x, ("trial", "epochs", "duration_s"))
    by = [by] if isinstance(by, str) else list(by)
    require_columns(trials, ["trial", x, *by])
    objectives = check_objectives(objectives)
    reference = reference or reference_point(trials, objectives)
    # Rows are found by their index, which several tables put together repeat.
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
    good = run.index.isin(finite_rows(run, objectives).index)
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


def summarise_runs(
    trials: pd.DataFrame,
    objectives: Sequence[str] = DEFAULT_OBJECTIVES,
    reference: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """What each run (by `seed`) took and found; with several, a last row "all" of them together.

    Columns `seed` (text), `trials`, `failed`, `front` (networks on it), `best_val_accuracy` (0..1),
    `hypervolume` (share of the box up to `reference`, as in `hypervolume`), `duration_s` and
    `energy_measured_kwh` (summed over trials; those without a reading are charged by their
    duration). A run without a success has no accuracy, no front and a hypervolume of 0.
    """
    require_columns(trials, ["seed", "status", "val_accuracy", "duration_s", "energy_measured_kwh"])
    objectives = check_objectives(objectives)
    reference = reference or reference_point(trials, objectives)
    parts = {str(seed): run for seed, run in trials.groupby("seed")}
    if len(parts) > 1:
        parts["all"] = trials.reset_index(drop=True)
    rows = []
    for seed, run in parts.items():
        good = finite_rows(run, objectives)
        rows.append(
            {
                "seed": seed,
                "trials": len(run),
                "failed": int((run["status"] != "SUCCESS").sum()),
                "front": len(pareto_front(run, objectives)) if len(good) else 0,
                "best_val_accuracy": good["val_accuracy"].max(),
                "hypervolume": hypervolume(run, objectives, reference) if len(good) else 0.0,
                "duration_s": run["duration_s"].sum(),
                "energy_measured_kwh": search_energy_kwh(run)[0],
            }
        )
    return pd.DataFrame(rows)


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
