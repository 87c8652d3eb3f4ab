"""Train networks one already knows: final trainings, grids, the front of another data set.

What comes out is a trials table like that of a search, and it is as safe: each row is on disk
before the next training is awaited, and a killed run goes on after it.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch
from scipy import stats

from dsnn_utils.data import Dataset, is_integer
from dsnn_utils.energy import modelled_energy
from dsnn_utils.execution import make_executor
from dsnn_utils.meter import EnergyMeter, take_readings
from dsnn_utils.pareto import require_columns
from dsnn_utils.run_directory import locked, open_run, read_finished
from dsnn_utils.space import check_configuration, dsnn_space, plain, published_default
from dsnn_utils.training import resolve_device
from dsnn_utils.trial import Recipe, build_network
from dsnn_utils.trials import HYPERPARAMETERS, read_trials, write_trials

CURVE = "validation_accuracy_by_epoch"
ACCURACIES = ("val_accuracy", "test_accuracy")
ENERGIES = ("energy_modelled_j_per_image", "energy_modelled_with_memory_j_per_image")
ENERGIES += ("energy_measured_kwh",)


def grid_points(levels: Mapping[str, Sequence]) -> list[dict]:
    """All combinations of the levels, the last name varying fastest.

    A name "a, b" stands for hyperparameters that change together; its levels are lists.

    >>> grid_points({"shift_depth": [10, 20], "weight_bits": [3]})
    [{'shift_depth': 10, 'weight_bits': 3}, {'shift_depth': 20, 'weight_bits': 3}]

    Raises ValueError for levels that are no lists of at least one value and a name given twice.
    """
    axes, used = [], set()
    for names, values in levels.items():
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise ValueError(f"grid: {names}={values!r}: must be a list of at least one value")
        split = [name.strip() for name in names.split(",")]
        if used & set(split):
            raise ValueError(f"grid: {names!r}: a name must be on one axis only")
        used |= set(split)
        together = values if len(split) > 1 else [[value] for value in values]
        if any(not isinstance(v, list | tuple) or len(v) != len(split) for v in together):
            raise ValueError(f"grid: {names}={values!r}: must be lists of {len(split)} values")
        axes.append([dict(zip(split, row, strict=True)) for row in together])
    return [dict(itertools.chain(*(d.items() for d in row))) for row in itertools.product(*axes)]


def random_points(count: int, max_depth: int, seed: int = 0) -> list[dict]:
    """The first `count` of one sequence of configurations drawn from the search space."""
    space = dsnn_space(max_depth, seed=seed)
    return [plain(space.sample_configuration()) for _ in range(count)]


def complete_points(points: Sequence[Mapping], max_depth: int, epochs: int) -> list[dict]:
    """Points with every hyperparameter, missing ones as in the published default.

    Depth 0 (the plain network) is allowed here. Momentum is left out where the optimizer has none.
    An entry `label` names the point in the column `origin` ("given" without). Raises ValueError
    naming what is unknown or out of range.
    """
    space, completed = dsnn_space(max_depth, epochs), []
    default = published_default(max_depth, epochs) | {"data_fraction": 1.0, "label": "given"}
    for point in points:
        hyperparameters = {n: v for n, v in point.items() if n in space}
        if hyperparameters.get("shift_depth") == 0:
            del hyperparameters["shift_depth"]
        check_configuration(hyperparameters, space, "points")
        unknown = sorted(point.keys() - default.keys())
        if unknown:
            raise ValueError(f"points: {unknown[0]!r}: must be one of {', '.join(default)}")
        point = default | dict(point)
        if point["optimizer"] not in ("SGD", "RMSprop"):
            point.pop("momentum")
        valid = is_integer(point["epochs"], 1) and 0 < point["data_fraction"] <= 1
        if not valid:
            raise ValueError(
                f"points: epochs={point['epochs']!r}, data_fraction={point['data_fraction']!r}: "
                "must be an integer of at least 1 and a share of the data, over 0 and up to 1"
            )
        completed.append(point)
    return completed


def train_points(
    evaluate: Callable[[dict, int], dict],
    run_dir: str | Path,
    points: Sequence[Mapping],
    seeds: Sequence[int],
    max_depth: int,
    context: Mapping | None = None,
    on_trial: Callable[[dict, pd.DataFrame], None] | None = None,
    **execution,
) -> pd.DataFrame:
    """Evaluate each point under each seed (all points under the first seed first).

    `points` come from `complete_points`; `execution` is passed to `execution.make_executor`
    (n_workers, scheduler, trial_timeout_s). Returns the trials table, with the point's label as
    `origin`. Seeds may be added when the run is continued; points and `context` may not change.

    Raises ValueError for no points or seeds, and for a run directory of other settings.
    """
    if not points or not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds={list(seeds)}, {len(points)} points: must be some, all different")
    work = [(seed, dict(point)) for seed in seeds for point in points]
    run_dir = Path(run_dir)
    with locked(run_dir):
        settings = {"strategy": "given", "points": list(map(dict, points)), **(context or {})}
        open_run(run_dir, settings, len(work))
        rows = read_finished(run_dir)
        done = {row["trial"]: row["seed"] for row in rows}
        other = [n for n, seed in done.items() if n >= len(work) or work[n][0] != seed]
        if other:
            raise ValueError(
                f"seeds={list(seeds)}: trial {other[0]} in {str(run_dir)!r} has seed "
                f"{done[other[0]]}, must be the same seeds and possibly more"
            )
        waiting = [number for number in range(len(work)) if number not in done]
        flying = {}
        with make_executor(evaluate, **execution) as executor:
            while waiting or flying:
                while waiting and executor.has_room():
                    number = waiting.pop(0)
                    seed, point = work[number]
                    row = {"trial": number, "seed": seed, "strategy": "given"}
                    flying[number] = row | {
                        "origin": point.pop("label", "given"),
                        "max_shift_depth": max_depth,
                        "asked_after": len(rows),
                        **point,
                    }
                    executor.submit(number, point, seed)
                for number, result in executor.wait():
                    rows.append(flying.pop(number) | result)
                    table = write_trials(rows, run_dir)
                    if on_trial is not None:
                        on_trial(rows[-1], table)
        return read_trials(run_dir)


def measure_points(
    points: Sequence[Mapping],
    dataset: Dataset,
    recipe: Recipe,
    meter: EnergyMeter,
    rounds: int,
    window_s: float = 2.0,
) -> pd.DataFrame:
    """Readings of the inference energy of each point's network on validation images.

    The table of `meter.take_readings` with `point` (its number) for the network, besides its
    `origin` (the label) and `energy_modelled_with_memory_j_per_image`. Networks are untrained: what
    a dense layer computes costs the same whatever its weights.
    """
    where = {"device": resolve_device(recipe.device), "memory_format": torch.channels_last}
    built = (build_network(point, dataset, recipe, seed=0).to(**where) for point in points)
    networks = dict(enumerate(built))
    readings = take_readings(
        networks, dataset.validation, meter, windows_s=[window_s], rounds=rounds
    ).rename(columns={"network": "point"})
    shape = tuple(dataset.validation.images.shape[1:])
    energy = ENERGIES[1]
    modelled = {n: getattr(modelled_energy(net, shape), energy) for n, net in networks.items()}
    origin = readings["point"].map(lambda n: points[n].get("label", "given"))
    readings.insert(1, "origin", origin)
    return readings.assign(**{energy: readings["point"].map(modelled)})


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
    names = [n for n in (*HYPERPARAMETERS, "dataset", "model", "origin") if n in trials.columns]
    always = ("shift_depth", "origin")
    return [n for n in names if n in always or trials[n].nunique(dropna=False) > 1]


def summarise_points(trials: pd.DataFrame) -> pd.DataFrame:
    """A row per point: seeds, mean accuracy with the half-width of its 95 % interval, energy.

    Half-widths are Student's t over the seeds, empty for a single one. Failed trainings are counted
    in `failed` and otherwise left out, but their modelled energy is known. Sorted by it.
    Raises ValueError for an empty table.
    """
    if trials.empty:
        raise ValueError("trials: must have at least one row")
    names = _varying(trials)
    values = [n for n in (*ACCURACIES, *ENERGIES) if n in trials.columns]
    rows = []
    for key, part in trials.groupby(names, dropna=False, sort=False):
        good = part[part["status"] == "SUCCESS"]
        row = dict(zip(names, key, strict=True))
        row |= {"seeds": len(good), "failed": len(part) - len(good)}
        for name in values:
            row[name] = (part if name in ENERGIES[:2] else good)[name].mean()
            if name in ACCURACIES:
                n = max(len(good), 1)
                quantile = stats.t.ppf(0.975, n - 1) if n > 1 else math.nan
                row[f"{name}_half_width"] = quantile * good[name].std() / n**0.5
        rows.append(row)
    return pd.DataFrame(rows).sort_values(ENERGIES[0], kind="stable", ignore_index=True)
