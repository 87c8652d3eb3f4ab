"""The vocabulary of the trials table: its columns, and the names of groups of them.

Every name that the table, a search over it or an analysis of it goes by is defined here, once.
"""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import NamedTuple

from dsnn_utils.checks import require_choice

ACTIVATION_BITS = ("activation_integer_bits", "activation_fraction_bits")
#: The number format of a shift layer.
FORMAT = ("weight_bits", *ACTIVATION_BITS)
#: Choices that the published method does not have, and the one by which it is unchanged.
EXTENSIONS = {
    "arithmetic": "shift",
    "weight_scale": "none",
    "activation_format": "fixed",
    "activation_rounding": "floor",
    "clipped_gradient": "passed",
}
#: What makes a configuration; together with `shift_depth` it makes a network and its training.
CONFIGURATION = (
    ("shift_type", *FORMAT, "rounding", *EXTENSIONS, "batch_size", "optimizer", "lr", "momentum")
    + ("weight_decay", "epochs", "data_fraction")
)  # fmt: skip
HYPERPARAMETERS = ("shift_depth", *CONFIGURATION)

#: How the name of a hyperparameter of one's own begins, in the space and in the table.
OWN = "own_"

LOG_SCALED = ("lr", "weight_decay")
MOMENTUM_OPTIMIZERS = ("SGD", "RMSprop")  # `momentum` is empty for all others
#: Hyperparameters of which a trial may get less than the full amount.
FIDELITIES = ("shift_depth", "epochs", "weight_bits", "data_fraction")

#: Modelled energy of an inference: of the arithmetic, and with the traffic of memory.
COMPUTE_ENERGY = "energy_modelled_j_per_image"
ENERGY_WITH_MEMORY = "energy_modelled_with_memory_j_per_image"
#: The same two under the second table of prices, see `energy.prices`.
QTOOLS_ENERGIES = (
    "energy_modelled_qtools_j_per_image",
    "energy_modelled_qtools_with_memory_j_per_image",
)
MODELLED_ENERGIES = (COMPUTE_ENERGY, ENERGY_WITH_MEMORY, *QTOOLS_ENERGIES)
#: Measured over the training of a trial with all its validations, as the workshop paper's script.
TRAINING_READINGS = ("energy_measured_kwh", "emissions_gco2eq", "water_l")
#: Measured over the validation of the last epoch alone, as the journal paper's script.
VALIDATION_READING = "energy_measured_last_validation_kwh"
MEASURED = (*TRAINING_READINGS, VALIDATION_READING)
#: Of the trained network, exported to int8 and run; only where a search asks for it.
EXPORTED_LATENCY = "exported_latency_ms_per_image"
EXPORTED_ENERGY = "exported_energy_measured_j_per_image"
EXPORTED = (EXPORTED_LATENCY, EXPORTED_ENERGY)
ACCURACIES = ("val_accuracy", "test_accuracy")
#: Validation accuracy after each epoch, as text with a blank between two epochs.
CURVE = "validation_accuracy_by_epoch"

#: `budget` is the share of the full training that a trial was given: only with 1 is its network one
#: to use, and counts in fronts and analyses.
COLUMNS = (
    ("trial", "seed", "status", "reason", "strategy", "origin", "dataset", "model")
    + ("shift_depth", "max_shift_depth", *CONFIGURATION, "budget", "train_size")
    + ("val_accuracy", "val_cross_entropy", "loss", *MODELLED_ENERGIES, *MEASURED)
    + ("embodied_gco2eq", "energy_measured_method", "energy_measured_mode", "duration_s")
    + ("started_at", "asked_after")
)
#: Columns that tables of earlier versions lack, and may go on lacking.
NEWER_COLUMNS = (*QTOOLS_ENERGIES, VALIDATION_READING, "energy_measured_mode")
#: What the search fills in itself; no result of a trial may hold these, nor hyperparameters.
BOOKKEEPING = ("trial", "seed", "strategy", "origin", "max_shift_depth", "budget", "asked_after")
STATUSES = ("SUCCESS", "CRASHED", "DIVERGED", "TIMEOUT", "MEMORYOUT")


def hyperparameters_among(names: Iterable[str]) -> list[str]:
    """Those of the names that are hyperparameters: `HYPERPARAMETERS`, then those of one's own."""
    given = list(names)
    known = [name for name in HYPERPARAMETERS if name in given]
    return known + [name for name in given if name.startswith(OWN)]


class Objective(NamedTuple):
    unit: str
    description: str


LOSSES = {
    "loss": Objective("1", "validation error, 1 - accuracy"),
    "val_cross_entropy": Objective("nats", "validation cross entropy"),
}
#: What may be minimised. Accuracy is maximised, hence absent: its objective is `loss`.
OBJECTIVES = LOSSES | {
    COMPUTE_ENERGY: Objective("J", "modelled compute energy of one inference"),
    ENERGY_WITH_MEMORY: Objective("J", "modelled compute and memory energy of one inference"),
    QTOOLS_ENERGIES[0]: Objective("J", "the modelled compute energy under the prices of qtools"),
    QTOOLS_ENERGIES[1]: Objective("J", "the same with memory"),
    "energy_measured_kwh": Objective("kWh", "measured energy of training and validation"),
    VALIDATION_READING: Objective("kWh", "measured energy of the last epoch's validation"),
    "emissions_gco2eq": Objective("gCO2eq", "emissions of the measured energy in the chosen grid"),
    "water_l": Objective("L", "water for the measured energy, needs wue_l_per_kwh over 0"),
    "embodied_gco2eq": Objective(
        "gCO2eq", "share of the hardware's manufacturing emissions, by duration and assumptions"
    ),
    "duration_s": Objective("s", "wall-clock time of the trial"),
    EXPORTED_LATENCY: Objective("ms", "time of an inference of the exported network"),
    EXPORTED_ENERGY: Objective("J", "measured energy of an inference of the exported network"),
}
DEFAULT_OBJECTIVES = ("loss", COMPUTE_ENERGY)
#: Units that may end the name of an objective of one's own, and how they are written.
UNITS = {
    "us": "µs", "ms": "ms", "s": "s", "h": "h", "bytes": "bytes", "kb": "kB", "mb": "MB",
    "gb": "GB", "kib": "KiB", "mib": "MiB", "gib": "GiB", "uj": "µJ", "mj": "mJ", "j": "J",
    "wh": "Wh", "kwh": "kWh", "mw": "mW", "w": "W", "gco2eq": "gCO₂eq", "l": "L", "nats": "nats",
    "percent": "%", "count": "count",
}  # fmt: skip
_WITH_UNIT = re.compile(rf"([a-z]\w*?)_({'|'.join(UNITS)})((?:_per_[a-z]+)?)")


def split_unit(name: str) -> tuple[str, str] | None:
    """What a name speaks of, and its unit as written; None for a name without a unit at its end.

    >>> split_unit("latency_ms_per_image")
    ('latency', 'ms per image')
    """
    found = _WITH_UNIT.fullmatch(name)
    if found is None:
        return None
    what, unit, per = found.groups()
    return what, UNITS[unit] + per.replace("_", " ")


def check_objectives(names: Iterable[str], *, wue_l_per_kwh: float | None = None) -> list[str]:
    """`names` as a list, or ValueError naming what is allowed.

    Besides `OBJECTIVES` these are columns of one's own, which a target function returns: any name
    with a unit at its end (`UNITS`, possibly with `_per_image` or the like), such as `latency_ms`.
    One that is nearly a known name is taken for misspelt.

    With `wue_l_per_kwh` given, `water_l` is refused at 0: it would be 0 for every trial.
    """
    given = [] if isinstance(names, str) else list(names)
    good = all(isinstance(n, str) and (n in OBJECTIVES or _is_own(n)) for n in given)
    if not given or not good or len(set(given)) < len(given):
        raise ValueError(
            f"objectives={given or names!r}: must be a list of one or more different names out of "
            f"{', '.join(OBJECTIVES)}; or of columns of your own that end in a unit, as latency_ms"
        )
    if "water_l" in given and wue_l_per_kwh is not None and wue_l_per_kwh <= 0:
        raise ValueError(f"wue_l_per_kwh={wue_l_per_kwh}: must be over 0 with objective water_l")
    return given


def _is_own(name: str) -> bool:
    known = name in (*COLUMNS, *ACCURACIES) or get_close_matches(name, OBJECTIVES, cutoff=0.95)
    return not known and split_unit(name) is not None


def loss_among(objectives: Iterable[str]) -> str:
    """The first objective that is a kind of loss; "loss" where there is none."""
    return next((name for name in objectives if name in LOSSES), "loss")


def cost_among(objectives: Iterable[str]) -> str:
    """The first objective that is no loss, along which fronts are laid out and drawn.

    The modelled compute energy where there is none.
    """
    return next((name for name in objectives if name not in LOSSES), COMPUTE_ENERGY)


def modelled_energy_among(objectives: Iterable[str]) -> str:
    """The modelled energy to analyse: the first one among the objectives, else that of compute."""
    return next((name for name in objectives if name in MODELLED_ENERGIES), COMPUTE_ENERGY)


def under_both_prices(energy: str) -> dict[str, str]:
    """A modelled energy under each table of prices: {"horowitz": its column, "qtools": its column}.

    Raises ValueError if it is none of `MODELLED_ENERGIES`.
    """
    require_choice("energy", energy, MODELLED_ENERGIES)
    horowitz = (COMPUTE_ENERGY, ENERGY_WITH_MEMORY)
    kind = MODELLED_ENERGIES.index(energy) % len(horowitz)
    return {"horowitz": horowitz[kind], "qtools": QTOOLS_ENERGIES[kind]}
