"""Search strategies compared on one's own runs: which belong together, and what they reached."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dsnn_utils.analysis.fronts import hypervolume_over
from dsnn_utils.checks import require_choice
from dsnn_utils.runs.columns import cost_among, loss_among
from dsnn_utils.runs.directory import find_runs, read_all_settings
from dsnn_utils.runs.table import check_once, read_trials
from dsnn_utils.search.settings import SearchSettings
from dsnn_utils.search.trial import Recipe
from dsnn_utils.study.strategies import search_energy, search_reference

COSTS = ("duration_s", "epochs")
GRID = 100  # costs at which a curve is read
#: Settings by which strategies may differ; by all others they would search something else.
_OF_STRATEGY = (
    *("strategy", "fidelity", "min_fidelity", "eta", "n_initial", "budgets"),
    "energy_limit_j_per_image",
)


def read_strategies(run_dirs: Sequence[str | Path]) -> tuple[pd.DataFrame, dict]:
    """The trials of runs of several strategies, one table below the other, and their settings.

    Each name is that of a run directory or of a folder of several seeds, see `runs.find_runs`; a
    run may also be several strategies or seeds in one table. The settings are those of the first.

    Raises ValueError where two runs differ in data, recipe, space, objectives or whatever else
    makes them incomparable; where runs of one strategy differ in more than the seed, or have the
    same seed; and where all are of one strategy. Raises also what `read_trials` and
    `runs.read_settings` raise.
    """
    if not run_dirs:
        raise ValueError("runs=[]: must be two or more run directories")
    tables, settings = [], []
    for folder in find_runs(run_dirs[0], run_dirs[1:]):
        table = read_trials(folder)
        check_once(table, folder)
        tables.append(table)
        settings += [(folder, one) for one in read_all_settings(folder)]
    _check_alike(settings)
    trials = pd.concat(tables, ignore_index=True)
    names = [str(name) for name in run_dirs]
    runs = pd.concat([table[["strategy", "seed"]].drop_duplicates() for table in tables])
    twice = runs[runs.duplicated()]
    if len(twice):
        strategy, seed = twice.iloc[0]
        raise ValueError(f"runs={names}: must be of different seeds, {strategy} has {seed} twice")
    if trials["strategy"].nunique() < 2:
        raise ValueError(
            f"runs={names}: must be of two or more strategies, are of {trials['strategy'].iloc[0]}"
        )
    return trials, settings[0][1]


def _check_alike(settings: Sequence[tuple[Path, dict]]) -> None:
    """ValueError naming the first setting in which two runs differ that must not."""
    first: dict[tuple, tuple[Path, Any]] = {}
    for folder, one in settings:
        given = _complete(one)
        for name, value in given.items():
            if name == "seed":
                continue
            among, whose = None, ""
            if name in _OF_STRATEGY:
                among, whose = given["strategy"], f" of the same strategy, {given['strategy']}"
            elif name == "split":  # runs are paired by seed
                among, whose = given["seed"], f" of the same seed, {given['seed']}"
            where, wanted = first.setdefault((name, among), (folder, value))
            if value != wanted:
                raise ValueError(
                    f"{name}={value!r} of {folder}: must be {wanted!r}, as in {where}{whose}"
                )


def _complete(settings: Mapping) -> dict[str, Any]:
    """The settings, with what runs of earlier versions did not record, and one level deep."""
    known: dict[str, Any] = {field.name: field.default for field in fields(SearchSettings)}
    known |= {"seed_configurations": [], "budgets": []} | dict(settings)
    data = known.pop("data", None) or {}
    flat = {f"data.{name}": value for name, value in data.items() if name not in ("root", "seed")}
    flat |= {"data.image_size": data.get("image_size"), "split": data.get("seed")}
    if "recipe" in known:
        recipe = asdict(Recipe(**known.pop("recipe")))
        flat |= {f"recipe.{name}": value for name, value in recipe.items()}
    known.pop("context", None)
    return known | flat


def strategy_curves(
    trials: pd.DataFrame, settings: Mapping, cost: str = "duration_s"
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Hypervolume over trials and over `cost`, and the reference point, which all runs share.

    Columns `over` ("trial" or the cost), `x`, `strategy`, `seed`, `hypervolume`. Both end where the
    shortest run ends; over the cost, curves are read at the same `GRID` places. `cost` is
    "duration_s", spent in trials, or "epochs", trained.

    Raises ValueError for another cost, and where runs do not have the same reference point: then
    their networks are not the same, or were counted under other prices.
    """
    require_choice("cost", cost, COSTS)
    objectives = loss_among(settings["objectives"]), cost_among(settings["objectives"])
    by = ["strategy", "seed"]
    references = {
        key: search_reference(trials, settings, search_energy(run, settings))
        for key, run in trials.groupby(by)
    }
    first, reference = next(iter(references.items()))
    for key, found in references.items():
        if not all(math.isclose(found[n], reference[n], rel_tol=1e-9) for n in found):
            raise ValueError(
                f"reference={found} of strategy {key[0]}, seed {key[1]}: must be {reference}, as "
                f"of strategy {first[0]}, seed {first[1]}"
            )
    parts = []
    for x in ("trial", cost):
        curves = hypervolume_over(trials, x, objectives, reference, by)
        end = curves.groupby(by)[x].max().min()
        grid = np.arange(1, end + 1) if x == "trial" else np.linspace(0, end, GRID)
        for (strategy, seed), run in curves.groupby(by):
            last = np.searchsorted(run[x].to_numpy(float), grid, side="right") - 1
            values = np.where(last < 0, 0.0, run["hypervolume"].to_numpy()[np.maximum(last, 0)])
            part = {"over": x, "x": grid, "strategy": strategy, "seed": seed}
            parts.append(pd.DataFrame(part | {"hypervolume": values}))
    return pd.concat(parts, ignore_index=True), reference


def final_values(curves: pd.DataFrame, over: str) -> pd.DataFrame:
    """The hypervolume at the common end, from `strategy_curves`: a row per seed, a column per
    strategy."""
    part = curves[curves["over"] == over]
    last = part[part["x"] == part["x"].max()]
    return last.pivot(index="seed", columns="strategy", values="hypervolume")
