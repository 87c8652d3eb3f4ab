"""One trial: build a network, convert it to a shift network, train it, weigh its energy.

`run_trial` turns a point (a configuration with its shift depth) into one row of the trials table.
"""

import hashlib
import inspect
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from dsnn_utils.checks import require, require_bools, require_choice, require_columns
from dsnn_utils.deploy.measure import check_runtime, measure_exported
from dsnn_utils.energy.emissions import embodied_emissions_gco2eq
from dsnn_utils.energy.measured import EnergyMeter
from dsnn_utils.energy.modelled import energy_by_format, modelled_energy, operation_counts
from dsnn_utils.limits import INT8_RUNTIMES, KNOWN_DATASETS, MIN_DURATION_S, check_limits
from dsnn_utils.runs.columns import (
    ACTIVATION_BITS,
    COMPUTE_ENERGY,
    CURVE,
    ENERGY_WITH_MEMORY,
    EXPORTED,
    EXPORTED_ENERGY,
    FORMAT,
    MEASURED,
    MODELLED_ENERGIES,
    OBJECTIVES,
    OWN,
    QTOOLS_ENERGIES,
    TRAINING_READINGS,
    VALIDATION_READING,
)
from dsnn_utils.runs.table import to_python, to_records
from dsnn_utils.search.space import to_spec
from dsnn_utils.shift.conversion import convert_to_integer, convert_to_shift, shiftable_layers
from dsnn_utils.shift.models import build_model, check_model
from dsnn_utils.shift.specs import IntegerSpec, ShiftSpec, Spec
from dsnn_utils.training.data import Dataset, load_dataset, take_fraction
from dsnn_utils.training.loop import (
    SCHEDULES,
    Diverged,
    evaluate,
    resolve_device,
    seed_everything,
    train,
)
from dsnn_utils.training.networks import SavedNetwork, load_network, plain_copy, save_network

#: Fields of a recipe that a hyperparameter "own_..." may set for each trial.
VARIED = ("schedule", "label_smoothing", "augment", "distillation")
TRAINING = ("optimizer", "lr", "momentum", "weight_decay", "batch_size", "epochs")


@dataclass(frozen=True)
class Recipe:
    """What all trials of a search share.

    `published_init` starts shift layers from DeepShift's own random initialisation instead of the
    plain network's initial weights. `start_from` is the file of a trained network (`save_network`)
    whose weights all trainings start from, whatever its number format, and `teacher` that of one
    they learn from, `distillation` being its share in the loss; "{seed}" in a name is replaced by
    the seed of the training. The other fields are arguments of `training.train`.
    Raises ValueError naming the field, its value and what is allowed.
    """

    model: str = "resnet20"
    schedule: str = "one_cycle"
    label_smoothing: float = 0.0
    augment: bool = True
    published_init: bool = False
    start_from: str | None = None
    teacher: str | None = None
    distillation: float = 0.5
    precision: str = "auto"
    device: str = "auto"

    def __post_init__(self):
        check_model(self.model)
        require_choice("schedule", self.schedule, SCHEDULES)
        require_bools(augment=self.augment, published_init=self.published_init)
        for name in ("precision", "label_smoothing", "distillation"):
            check_limits(**{name: getattr(self, name)})
        require(
            self.start_from is None or not self.published_init,
            f"published_init=True: must be False with start_from={self.start_from!r}",
        )
        resolve_device(self.device)


def recorded_data(settings: Mapping) -> tuple[Dataset, Recipe]:
    """The data set and the recipe of a run, from its settings (`runs.read_settings`).

    Raises ValueError where these do not hold the arguments of both, and what `load_dataset` raises.
    """
    _check_recorded(settings)
    return load_dataset(**settings["data"]), Recipe(**settings["recipe"])


def _check_recorded(settings: Mapping) -> None:
    """ValueError where data or recipe are not the arguments of what they are for."""
    for name, made_by in (("data", load_dataset), ("recipe", Recipe)):
        try:
            inspect.signature(made_by).bind(**settings.get(name, None))
        except TypeError as error:
            raise ValueError(
                f"settings: {name}={settings.get(name)!r}: must be arguments of "
                f"{made_by.__name__} ({error})"
            ) from None


def build_network(point: Mapping, dataset: Dataset, recipe: Recipe, seed: int) -> torch.nn.Module:
    """The untrained network of a point: the plain network of `seed`, its last layers shifted.

    Raises ValueError where the recipe's `start_from` is no file or that of another network.
    """
    seed_everything(seed)
    plain = build_model(recipe.model, dataset.num_classes, dataset.in_channels)
    if recipe.start_from is not None:
        plain = plain_copy(_load("start_from", recipe.start_from, dataset, recipe, seed))
    return _converted(plain, point["shift_depth"], to_spec(point), not recipe.published_init)


def _converted(plain: nn.Module, depth: int, spec: Spec, keep_weights: bool = True) -> nn.Module:
    if isinstance(spec, IntegerSpec):
        return convert_to_integer(plain, depth, spec, keep_weights)
    return convert_to_shift(plain, depth, spec, keep_weights)


def check_files(recipe: Recipe, dataset: Dataset, seeds: Sequence[int]) -> None:
    """ValueError unless the networks to start and to learn from are there for all seeds and fit."""
    for name in ("start_from", "teacher"):
        for seed in seeds if getattr(recipe, name) is not None else ():
            _load(name, getattr(recipe, name), dataset, recipe, seed)


def _load(name: str, path: str, dataset: Dataset, recipe: Recipe, seed: int) -> SavedNetwork:
    path = path.replace("{seed}", str(seed))
    require(Path(path).is_file(), f"{name}={path!r}: must be the file of a trained network")
    saved = load_network(path)
    fits = (saved.model, saved.classes) == (recipe.model, dataset.classes)
    require(
        fits,
        f"{name}={path!r}: must be a {recipe.model} for the {dataset.num_classes} classes of "
        f"{dataset.name}, is a {saved.model} for {len(saved.classes)}",
    )
    return saved


def depth_bound(dataset: Dataset, recipe: Recipe) -> int:
    """The number of shiftable layers of the recipe's network, the largest shift depth."""
    return len(
        shiftable_layers(build_model(recipe.model, dataset.num_classes, dataset.in_channels))
    )


def run_trial(
    point: Mapping,
    dataset: Dataset,
    recipe: Recipe,
    seed: int = 0,
    meter: EnergyMeter | None = None,
    test: bool = False,
    checkpoint: str | Path | None = None,
    exported_to: str | None = None,
) -> tuple[dict, torch.nn.Module, list[dict]]:
    """Train and evaluate the network of `point`; returns (row, network, training history).

    The row holds the result columns of the trials table: validation accuracy (0..1), cross
    entropy (nats) and loss (validation error), modelled energy (J per image), duration (s) and
    status; with a `meter` also two measured energies (kWh): `energy_measured_kwh` of the training
    with all its validations, as the workshop paper's script reads it, with its emissions (gCO2eq)
    and water (L), and `energy_measured_last_validation_kwh` of the last epoch's validation alone,
    as the journal paper's script does. They are empty where a reading cannot be trusted.
    `embodied_gco2eq` follows from the duration, with the assumptions of
    `embodied_emissions_gco2eq`. `test` adds the accuracy on the test set: for final evaluations
    only.
    `exported_to` ("onnxruntime", "openvino") adds what the trained network takes there in int8, see
    `deploy.measure_exported`: one that cannot be exported has the reason in `exported_refused`.
    `checkpoint` is the file from which an interrupted training goes on; it stays.
    Duration and measured energy are then those since it went on.
    A hyperparameter "own_..." of the point sets that field of the recipe (`VARIED`).
    A training that diverges gives status DIVERGED with the reason, not an exception.
    Raises ValueError for epochs below 1 and for `test` on a data set without a test part, besides
    what `train` raises.
    """
    require(point.get("epochs", 1) != 0, "epochs=0: must be at least 1")
    test_images = dataset.test if test else None
    require(not test or test_images is not None, "test=True: must have a data set with a test part")
    recipe = _varied(recipe, point)
    started = time.perf_counter()
    row: dict[str, Any] = {"started_at": datetime.now(UTC).isoformat(timespec="seconds")}
    data = take_fraction(dataset, point.get("data_fraction") or 1.0)
    network = build_network(point, data, recipe, seed)
    energy = modelled_energy(network, data.train.shape)
    row |= {
        "dataset": data.name,
        "model": recipe.model,
        "train_size": len(data.train),
        **{name: getattr(energy, name) for name in MODELLED_ENERGIES},
    }
    teacher = None
    if recipe.teacher is not None:
        teacher = _load("teacher", recipe.teacher, data, recipe, seed).network
    history: list[dict] = []
    with meter.measure() if meter else nullcontext() as measurement:
        try:
            train(
                network,
                data,
                **{name: point[name] for name in TRAINING if point.get(name) is not None},
                schedule=recipe.schedule,
                label_smoothing=recipe.label_smoothing,
                augment=recipe.augment,
                precision=recipe.precision,
                device=recipe.device,
                seed=seed,
                on_epoch=history.append,
                checkpoint=checkpoint,
                teacher=teacher,
                distillation=recipe.distillation,
            )
            last = history[-1]
            row |= {
                "status": "SUCCESS",
                "val_accuracy": last["validation_accuracy"],
                "val_cross_entropy": last["validation_loss"],
                "loss": 1.0 - last["validation_accuracy"],
            }
        except Diverged as error:
            row |= {"status": "DIVERGED", "reason": str(error)}
    if measurement is not None:
        if measurement.trusted:
            row |= {name: getattr(measurement, name) for name in TRAINING_READINGS}
            row["energy_measured_method"] = measurement.method
        else:
            row |= dict.fromkeys(TRAINING_READINGS)
            row["energy_measured_method"] = f"untrusted: {measurement.reason}"
        row["energy_measured_mode"] = measurement.mode
    if test_images is not None and row["status"] == "SUCCESS":
        tested = evaluate(network, test_images, data, device=recipe.device)
        row["test_accuracy"] = tested["accuracy"]
    row["duration_s"] = time.perf_counter() - started
    row["embodied_gco2eq"] = embodied_emissions_gco2eq(row["duration_s"])
    if meter is not None and row["status"] == "SUCCESS":
        row[VALIDATION_READING] = _validation_kwh(network, data, meter, recipe.device)
    if exported_to is not None and row["status"] == "SUCCESS":
        facts = data.classes, data.mean, data.std, data.image_size
        saved = SavedNetwork(network, recipe.model, *facts, row={})
        row |= measure_exported(saved, exported_to, meter)
    return row, network, history


def _varied(recipe: Recipe, point: Mapping) -> Recipe:
    """The recipe with what the point's hyperparameters of one's own say; ValueError for others."""
    own = {n.removeprefix(OWN): v for n, v in point.items() if n.startswith(OWN) and v is not None}
    _check_varied(own)
    return replace(recipe, **own) if own else recipe


def _check_varied(names: Iterable[str]) -> None:
    for name in names:
        what = f"{OWN}{name}: must be a target function's of your own, or one of "
        require(name in VARIED, what + ", ".join(OWN + known for known in VARIED))


def why_not_rebuilt(trials: pd.DataFrame, settings: Mapping) -> str:
    """Why the networks of a run cannot be made again here; empty where they can.

    `settings` come from `read_settings`. What users bring along is known where they registered it,
    and what a target function of their own makes of a point is known to that function alone.
    Raises ValueError for data or a recipe that no run can have recorded.
    """
    if not {"data", "recipe"} <= settings.keys():
        return "search.json has no data and recipe"
    if trials[COMPUTE_ENERGY].isna().all():
        return "no trial has a modelled energy"
    _check_recorded(settings)
    try:
        Recipe(**settings["recipe"])
        _check_varied(n.removeprefix(OWN) for n in trials.columns if n.startswith(OWN))
        for shift_type in trials["shift_type"].dropna().unique():
            ShiftSpec(shift_type)
    except ValueError as error:
        return str(error)
    return ""


def _validation_kwh(
    network: nn.Module, data: Dataset, meter: EnergyMeter, device: str
) -> float | None:
    """Measured energy of one validation of the trained network; None if it cannot be trusted.

    The last epoch's is run again, as often as it takes to be long enough for a reading: within the
    training it would have to be cut out of that reading, and a short one reads as zero.
    """
    passes = 0
    with meter.measure("validation") as measurement:
        started = time.perf_counter()
        while passes == 0 or time.perf_counter() - started < MIN_DURATION_S:
            evaluate(network, data.validation, data, device=device)
            passes += 1
    return measurement.energy_measured_kwh / passes if measurement.trusted else None


def energy_function(
    model: nn.Module, input_shape: tuple[int, ...], objective: str
) -> Callable[[Mapping], float]:
    """A function from a point to its modelled energy in J per image, without building its network.

    `model` is the plain network, `input_shape` one image's. A layer's energy does not depend on
    what the other layers are, so one count of the fully shifted network serves all depths of a
    number format. Equal to `modelled_energy` of the converted network.

    Raises ValueError if the objective is no modelled energy.
    """
    require_choice("objective", objective, MODELLED_ENERGIES)
    prices = "qtools" if objective in QTOOLS_ENERGIES else "horowitz"
    with_memory = objective in (ENERGY_WITH_MEMORY, QTOOLS_ENERGIES[1])
    energies_of = _energies_function(model, input_shape, prices)
    return lambda point: float(energies_of(point)[int(with_memory)])


def _energies_function(
    model: nn.Module, input_shape: tuple[int, ...], prices: str
) -> Callable[[Mapping], np.ndarray]:
    """`energy_function` of compute and with memory in one count, under one table of prices."""
    names = shiftable_layers(model)
    table = operation_counts(model, input_shape, prices=prices)
    energies = table[[COMPUTE_ENERGY, "memory_energy_modelled_j_per_image"]].cumsum(axis=1)
    of_plain = energies.sum().to_numpy()
    plain_layers = energies.groupby(table["layer"]).sum().reindex(names, fill_value=0.0).to_numpy()
    layers_of: dict[str, Callable] = {}  # by arithmetic
    by_depth: dict[tuple, np.ndarray] = {}

    def energies_of(point: Mapping) -> np.ndarray:
        if point["shift_depth"] == 0:
            return of_plain
        # Scales and the place of the binary point change no operation, and PS takes those of Q.
        arithmetic = point.get("arithmetic", "shift")
        integer_bits, fraction_bits = (point.get(name) or 0 for name in ACTIVATION_BITS)
        key = (arithmetic, integer_bits + fraction_bits, point["weight_bits"])
        if key not in by_depth:
            bits: dict[str, Any] = {name: point.get(name) or 0 for name in FORMAT}
            spec = IntegerSpec(**bits) if arithmetic == "integer" else ShiftSpec("Q", **bits)
            if arithmetic not in layers_of:
                network = _converted(model, len(names), spec)
                layers_of[arithmetic] = energy_by_format(network, input_shape, prices=prices)
            change = layers_of[arithmetic](spec) - plain_layers
            by_depth[key] = of_plain + np.cumsum(change, axis=0)
        return by_depth[key][point["shift_depth"] - 1]

    return energies_of


def complete_energies(
    trials: pd.DataFrame, input_shape: tuple[int, ...] | None = None, num_classes: int = 10
) -> pd.DataFrame:
    """A copy of the table with the modelled energies of `runs.columns.QTOOLS_ENERGIES`.

    Tables of earlier versions lack them. They follow from the configuration, so nothing is trained.
    `input_shape` is that of an image, by default of the known data set that a row names. What is
    there already stays, and rows without any modelled energy stay without.

    Raises ValueError for other data sets without their shape, for models that are not known, and
    where the energy that the table has is not that of such a network.
    """
    require_columns(trials, ["dataset", "model", "shift_depth", *FORMAT, COMPUTE_ENERGY])
    trials = trials.reset_index(drop=True)
    for name in QTOOLS_ENERGIES:
        trials[name] = trials.get(name, np.nan)
    lacking = trials[list(QTOOLS_ENERGIES)].isna().any(axis=1) & trials[COMPUTE_ENERGY].notna()
    for _, rows in trials[lacking].groupby(["dataset", "model"]):
        network, shape = _network_of(rows, input_shape, num_classes)
        energies_of = _energies_function(network, shape, "qtools")
        points = map(_format_of, to_records(rows))
        trials.loc[rows.index, list(QTOOLS_ENERGIES)] = [energies_of(point) for point in points]
    return trials


def energy_of_trials(
    trials: pd.DataFrame,
    objective: str,
    input_shape: tuple[int, ...] | None = None,
    num_classes: int = 10,
) -> Callable[[Mapping], float]:
    """The `energy_function` of the network that the trials trained, from what the table says of it.

    A point is a row of the table, or has its columns of depth and number format; None and NaN are
    bits that it has not. `input_shape` and errors are those of `complete_energies`; a ValueError
    also for a table of more than one network or data set, and for a point with shift layers and
    no bits.
    """
    require_choice("objective", objective, MODELLED_ENERGIES)
    require_columns(trials, ["dataset", "model", "shift_depth", *FORMAT, COMPUTE_ENERGY])
    known = trials[trials[COMPUTE_ENERGY].notna()]
    require(len(known) > 0, f"trials: must have a row with {COMPUTE_ENERGY}")
    kinds = known[["dataset", "model"]].drop_duplicates()
    require(
        len(kinds) == 1, f"trials: must be of one network and data set, are of {kinds.to_numpy()}"
    )
    network, shape = _network_of(known, input_shape, num_classes)
    energy_of = energy_function(network, shape, objective)
    return lambda point: energy_of(_format_of(point))


def _network_of(
    rows: pd.DataFrame, input_shape: tuple[int, ...] | None, num_classes: int
) -> tuple[nn.Module, tuple[int, ...]]:
    """The plain network that all rows trained, and the shape of its images."""
    dataset, model = rows[["dataset", "model"]].iloc[0]
    shape = input_shape or KNOWN_DATASETS.get(dataset)
    if shape is None:
        raise ValueError(f"input_shape=None: must be given, {dataset} is no known data set")
    network = build_model(model, num_classes, shape[0])
    recorded = rows[COMPUTE_ENERGY].iloc[0]
    found = energy_function(network, shape, COMPUTE_ENERGY)(_format_of(to_records(rows)[0]))
    require(
        math.isclose(found, recorded, rel_tol=1e-9),
        f"input_shape={shape}, num_classes={num_classes}: must be those of the table, whose "
        f"{model} needs {recorded:.6g} J per image and not {found:.6g}",
    )
    return network, shape


def _format_of(row: Mapping) -> dict[str, Any]:
    """What of a row of a table its modelled energy depends on."""
    given: dict[str, Any] = {name: row.get(name) for name in ("shift_depth", *FORMAT)}
    bits = {name: 0 if pd.isna(value) else int(value) for name, value in given.items()}
    arithmetic = row.get("arithmetic")
    return {"arithmetic": "shift" if pd.isna(arithmetic) else arithmetic, **bits}


def _short_name(point: Mapping, seed: int) -> str:
    """A file name for a training: readable in front, and its own by the hash at its end."""
    text = json.dumps(to_python(point), sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    depth, kind = point.get("shift_depth"), point.get("shift_type") or point.get("arithmetic")
    what = f"{kind}-depth{depth}-{point.get('weight_bits')}bit" if depth else "plain"
    return f"{what}-{digest}-seed{seed}"


@dataclass(frozen=True)
class TargetFunction:
    """`run_trial` with its data, recipe and meter fixed: what a search evaluates.

    `test` adds the accuracy on the test set (for final trainings, never in a search), `curve` the
    validation accuracy after each epoch, as text with a blank between two epochs, `exported_to` (a
    runtime) what the network takes in int8. With a folder for `checkpoints` a training that was
    interrupted goes on where it was, with one for `networks` each trained network is saved in it,
    and the column `network` names the file.
    """

    dataset: Dataset
    recipe: Recipe
    meter: EnergyMeter | None = None
    test: bool = False
    curve: bool = False
    checkpoints: Path | None = None
    networks: Path | None = None
    exported_to: str | None = None

    def __post_init__(self):
        if self.exported_to is not None:
            check_runtime("exported_to", self.exported_to)

    def __call__(self, point: Mapping, seed: int) -> dict:
        name = _short_name(point, seed)
        checkpoint = self._checkpoint(point, seed)
        shared = self.dataset, self.recipe, seed, self.meter, self.test
        row, network, history = run_trial(point, *shared, checkpoint, self.exported_to)
        if self.networks is not None and row["status"] == "SUCCESS":
            path, facts = self.networks / f"{name}.safetensors", {**point, "seed": seed, **row}
            save_network(network, path, self.dataset, self.recipe.model, to_python(facts))
            row["network"] = f"{path.parent.name}/{path.name}"
        if self.curve:
            accuracies = (f"{epoch['validation_accuracy']:.4f}" for epoch in history)
            row[CURVE] = " ".join(accuracies)
        if checkpoint is not None:  # only now: a network that could not be saved is not lost
            checkpoint.unlink(missing_ok=True)
        return row

    def _checkpoint(self, point: Mapping, seed: int) -> Path | None:
        name = _short_name(point, seed)
        return None if self.checkpoints is None else self.checkpoints / f"{name}.pt"

    def discard(self, point: Mapping, seed: int) -> None:
        """Remove what a trial that is recorded left behind: the checkpoint of one that failed."""
        checkpoint = self._checkpoint(point, seed)
        if checkpoint is not None:
            checkpoint.unlink(missing_ok=True)

    def check(self, objectives: Sequence[str], hyperparameters: Sequence[str] = ()) -> None:
        """ValueError for objectives that no trial would return, and for hyperparameters of one's
        own that none would heed."""
        _check_varied(name.removeprefix(OWN) for name in hyperparameters)
        needing = (*MEASURED, EXPORTED_ENERGY)
        unmeasured = [name for name in objectives if name in needing and self.meter is None]
        require(
            not unmeasured, f"meter=None: must be an EnergyMeter for the objectives {unmeasured}"
        )
        exported = [name for name in objectives if name in EXPORTED and self.exported_to is None]
        require(
            not exported,
            f"exported_to=None: must be one of {', '.join(INT8_RUNTIMES)} to minimise {exported}",
        )
        unknown = sorted(set(objectives) - OBJECTIVES.keys())
        require(
            not unknown,
            f"objectives={list(objectives)}: {unknown} must come from a target function of your "
            f"own; TargetFunction returns {', '.join(OBJECTIVES)}",
        )

    def energy_of(self, objective: str) -> Callable[[Mapping], float]:
        """The `energy_function` of this data and network: what a search knows beforehand."""
        data, recipe = self.dataset, self.recipe
        network = build_model(recipe.model, data.num_classes, data.in_channels)
        return energy_function(network, data.train.shape, objective)
