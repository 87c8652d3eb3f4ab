"""Train networks one already knows: final trainings, grids, the front of another data set.

What comes out is a trials table like that of a search, and it is as safe: each row is on disk
before the next training is awaited, and a killed run goes on after it.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch

from dsnn_utils.checks import check_integer, require
from dsnn_utils.energy.measured import EnergyMeter
from dsnn_utils.energy.modelled import modelled_energy
from dsnn_utils.energy.readings import take_readings
from dsnn_utils.runs.columns import ENERGY_WITH_MEMORY, EXTENSIONS, OWN
from dsnn_utils.runs.table import to_python
from dsnn_utils.search.loop import run_trials
from dsnn_utils.search.space import (
    check_configuration,
    dsnn_space,
    published_default,
    to_spec,
    without_inactive,
)
from dsnn_utils.search.trial import Recipe, build_network
from dsnn_utils.training.data import Dataset
from dsnn_utils.training.loop import resolve_device


def grid_points(levels: Mapping[str, Sequence]) -> list[dict]:
    """All combinations of the levels, the last name varying fastest.

    A name "a, b" means hyperparameters that change together; its levels are lists.

    >>> grid_points({"shift_depth": [10, 20], "weight_bits": [3]})
    [{'shift_depth': 10, 'weight_bits': 3}, {'shift_depth': 20, 'weight_bits': 3}]

    Raises ValueError for levels that are no lists of at least one value and a name given twice.
    """
    axes: list[list[dict]] = []
    used: set[str] = set()
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
    return [to_python(space.sample_configuration()) for _ in range(count)]


def complete_points(points: Sequence[Mapping], max_depth: int, epochs: int) -> list[dict]:
    """Points with every hyperparameter, missing ones as in the published default.

    Depth 0 (the plain network) is allowed here, and so is everything of the extended space and
    `arithmetic` "integer". Momentum is left out where the optimizer has none; a fitted activation
    format has 0 fraction bits where the point does not say otherwise; integers have a scale for
    each channel. An entry `label` names the point in the column `origin` ("given" without). Raises
    ValueError naming what is unknown, out of range or does not go together.
    """
    completed = []
    default = published_default(max_depth, epochs) | EXTENSIONS
    default |= {"data_fraction": 1.0, "label": "given"}
    for point in points:
        integer = point.get("arithmetic") == "integer"
        space = dsnn_space(max_depth, epochs, space="integer" if integer else "extended")
        hyperparameters = {n: v for n, v in point.items() if n in space}
        if hyperparameters.get("shift_depth") == 0:
            del hyperparameters["shift_depth"]
        check_configuration(hyperparameters, space, "points")
        unknown = sorted(n for n in point if n not in default and not n.startswith(OWN))
        if unknown:
            raise ValueError(f"points: {unknown[0]!r}: must be one of {', '.join(default)}")
        given, point = point, default | dict(point)
        if integer:
            of_shifts = {"shift_type", "rounding"} - given.keys()
            point = {n: v for n, v in point.items() if n not in of_shifts}
            point["weight_scale"] = given.get("weight_scale", "channel")
        point = without_inactive(point)
        bits = "activation_fraction_bits"
        point.setdefault(bits, given.get(bits, 0))
        to_spec(point)  # refuses what does not go together
        check_integer("points: epochs", point["epochs"], 1)
        share = point["data_fraction"]
        require(0 < share <= 1, f"points: data_fraction={share!r}: must be over 0 and up to 1")
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
    record = {"strategy": "given", "points": list(map(dict, points)), **(context or {})}
    proposals = _OfAList(work, max_depth)
    return run_trials(evaluate, run_dir, record, proposals, len(work), on_trial, **execution)


class _OfAList:
    """Proposals of a list of seeds and points; results change nothing."""

    objectives: Sequence[str] = ()

    def __init__(self, work: Sequence[tuple[int, Mapping]], max_depth: int):
        self._work, self._max_depth = work, max_depth

    def check(self, finished: Sequence[Mapping]) -> None:
        seeds = dict(enumerate(seed for seed, _ in self._work))
        for row in finished:
            if row["seed"] != seeds.get(row["trial"]):
                raise ValueError(
                    f"seeds={list(dict.fromkeys(seeds.values()))}: trial {row['trial']} of this "
                    f"run has seed {row['seed']}, must be the same seeds and possibly more"
                )

    def ask(self, number: int, known: Mapping | None) -> dict:
        seed, point = self._work[number]
        point = dict(point)
        row = {"seed": seed, "strategy": "given", "origin": point.pop("label", "given")}
        return row | {"max_shift_depth": self._max_depth, "budget": 1.0, **point}

    def tell(self, row: Mapping, earlier: Sequence[Mapping]) -> None:
        pass


def measure_points(
    points: Sequence[Mapping],
    dataset: Dataset,
    recipe: Recipe,
    meter: EnergyMeter,
    rounds: int,
    window_s: float = 2.0,
) -> pd.DataFrame:
    """Readings of the inference energy of each point's network on validation images.

    The table of `energy.take_readings` with `point` (its number) for the network, besides its
    `origin` (the label) and `energy_modelled_with_memory_j_per_image`. Networks are untrained: what
    a dense layer computes costs the same whatever its weights.
    """
    networks = {}
    for number, point in enumerate(points):
        network = build_network(point, dataset, recipe, seed=0).to(resolve_device(recipe.device))
        networks[number] = network.to(memory_format=torch.channels_last)
    readings = take_readings(
        networks, dataset.validation, meter, windows_s=[window_s], rounds=rounds
    ).rename(columns={"network": "point"})
    shape = dataset.validation.shape
    energy = ENERGY_WITH_MEMORY
    modelled = {n: getattr(modelled_energy(net, shape), energy) for n, net in networks.items()}
    origin = readings["point"].map(lambda n: points[n].get("label", "given"))
    readings.insert(1, "origin", origin)
    return readings.assign(**{energy: readings["point"].map(modelled)})
