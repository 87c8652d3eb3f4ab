"""Trainings of given networks: learning curves, and what several seeds say together."""

import math

import pandas as pd
from scipy import stats

from dsnn_utils.checks import require_columns
from dsnn_utils.runs.columns import (
    ACCURACIES,
    ACTIVATION_BITS,
    COMPUTE_ENERGY,
    CURVE,
    MODELLED_ENERGIES,
    hyperparameters_among,
)


def learning_curves(trials: pd.DataFrame) -> pd.DataFrame:
    """A row per trial and epoch: point (in words), shift_depth, seed, epoch, val_accuracy (0..1).

    Raises ValueError if the table does not hold the accuracies by epoch.
    """
    require_columns(trials, [CURVE])
    good = trials[trials["status"] == "SUCCESS"].reset_index(drop=True)
    varying = [n for n in _varying(trials) if n != "origin"]
    points = good.groupby([*varying, "origin"], dropna=False).ngroups
    if good["origin"].nunique() == points > 1:
        words = good["origin"]  # each point has a name of its own
    else:
        words = good[varying].apply(
            lambda row: ", ".join(_in_words(n, v) for n, v in row.items() if pd.notna(v)), axis=1
        )
    curves = good.assign(point=words, val_accuracy=good[CURVE].astype(str).str.split())
    curves = curves.explode("val_accuracy").astype({"val_accuracy": float})
    curves["epoch"] = curves.groupby(level=0).cumcount() + 1  # trial numbers may repeat
    columns = ["point", "shift_depth", "seed", "epoch", "val_accuracy"]
    return curves[columns].reset_index(drop=True)


def _in_words(name: str, value) -> str:
    """ "shift_depth", 20 -> "shift depth 20"; a category speaks for itself."""
    if isinstance(value, str):
        return value
    return f"{name.replace('_', ' ')} {value:.3g}"


def _varying(trials: pd.DataFrame) -> list[str]:
    """Columns that tell the points apart; shift depth and origin always."""
    names = [n for n in ("dataset", "model", "origin") if n in trials.columns]
    names = [*hyperparameters_among(trials), *names]
    always = ("shift_depth", "origin")
    return [n for n in names if n in always or trials[n].nunique(dropna=False) > 1]


def summarise_points(trials: pd.DataFrame) -> pd.DataFrame:
    """A row per point: seeds, mean accuracy with the half-width of its 95 % interval, energy.

    Half-widths are Student's t over the seeds, empty for a single one. With two seeds they may be
    wider than accuracies can differ; `..._lowest` and `..._highest` are what was seen. Failed
    trainings are counted in `failed` and otherwise left out, but their modelled energy is known.
    Sorted by it.
    Raises ValueError for an empty table.
    """
    if trials.empty:
        raise ValueError("trials: must have at least one row")
    names = _varying(trials)
    values = [
        n for n in (*ACCURACIES, *MODELLED_ENERGIES, "energy_measured_kwh") if n in trials.columns
    ]
    rows = []
    for key, part in trials.groupby(names, dropna=False, sort=False):
        good = part[part["status"] == "SUCCESS"]
        row = dict(zip(names, key, strict=True))
        row |= {"seeds": len(good), "failed": len(part) - len(good)}
        for name in values:
            row[name] = (part if name in MODELLED_ENERGIES else good)[name].mean()
            if name in ACCURACIES:
                n = max(len(good), 1)
                quantile = stats.t.ppf(0.975, n - 1) if n > 1 else math.nan
                row[f"{name}_half_width"] = quantile * good[name].std() / n**0.5
                row[f"{name}_lowest"], row[f"{name}_highest"] = good[name].min(), good[name].max()
        rows.append(row)
    return pd.DataFrame(rows).sort_values(COMPUTE_ENERGY, kind="stable", ignore_index=True)


def points_table(summary: pd.DataFrame) -> pd.DataFrame:
    """A table of `summarise_points` for a page, with a row per point and few columns.

    Of the hyperparameters those that differ, accuracies in per cent with the lowest and the highest
    of several seeds, energies in units that a person reads: µJ per inference, mWh per training.
    """
    varying = [n for n in _varying(summary) if n != "origin"]
    table = summary[varying].rename(columns=lambda name: name.replace("_", " "))
    table["seeds"] = summary["seeds"].astype(str)
    table["seeds"] += summary["failed"].map(lambda n: f" ({n} failed)" if n else "")
    for name, kind in zip(ACCURACIES, ("validation", "test"), strict=True):
        if name in summary and summary[name].notna().any():
            table[f"{kind} accuracy (%)"] = (100 * summary[name]).round(1)
            ends = (100 * summary[f"{name}_{end}"] for end in ("lowest", "highest"))
            table[f"{kind}: lowest to highest"] = [
                f"{low:.1f} to {high:.1f}" if low < high else ""
                for low, high in zip(*ends, strict=True)
            ]
    for name, title in zip(MODELLED_ENERGIES, _MODELLED_TITLES, strict=True):
        if name in summary:
            table[title] = (1e6 * summary[name]).round(3)
    if "energy_measured_kwh" in summary:
        table["MEASURED training (mWh)"] = (1e6 * summary["energy_measured_kwh"]).round(1)
    return table.set_index(summary["origin"])


_MODELLED_TITLES = (
    "MODELLED (µJ/image)",
    "with memory (µJ/image)",
    "qtools prices (µJ/image)",
    "qtools, with memory (µJ/image)",
)


def accuracy_by_format(trials: pd.DataFrame) -> pd.DataFrame:
    """A row per label (`origin`), weight bits and activation bits (integer and fraction together).

    Columns `seeds` (that were trained), `failed`, and `mean`, `lowest` and `highest` validation
    accuracy (0..1) of those that succeeded, empty where none did. Labels keep their order.
    Raises ValueError for an empty table.
    """
    if trials.empty:
        raise ValueError("trials: must have at least one row")
    good = trials["status"] == "SUCCESS"
    bits = trials[list(ACTIVATION_BITS)].fillna(0).sum(axis=1).astype(int)
    rows = trials.assign(
        activation_bits=bits, failed=~good, val_accuracy=trials["val_accuracy"].where(good)
    )
    cells = rows.groupby(["origin", "weight_bits", "activation_bits"], sort=False)
    accuracy = cells["val_accuracy"]
    table = pd.DataFrame(
        {
            "seeds": cells.size(),
            "failed": cells["failed"].sum(),
            "mean": accuracy.mean(),
            "lowest": accuracy.min(),
            "highest": accuracy.max(),
        }
    )
    return table.reset_index()
