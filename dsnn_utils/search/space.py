"""The search space of deep shift neural networks, as a ConfigSpace.

Hyperparameters, ranges and defaults are those of the published method (Hennig, Tornede and
Lindauer 2024, arXiv 2404.01965; Hennig and Lindauer, arXiv 2606.23208). Three things differ, none
of which touches a default: learning rate and weight decay are searched on a log scale, momentum is
active only for the optimizers that use it, and shift depth is bounded by the number of shiftable
layers the network really has.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import pandas as pd
from ConfigSpace import (
    Categorical,
    ConfigurationSpace,
    Float,
    InCondition,
    Integer,
)
from ConfigSpace.hyperparameters import Hyperparameter

from dsnn_utils.checks import check_integer, require, require_choice
from dsnn_utils.runs.columns import (
    ACTIVATION_BITS,
    EXTENSIONS,
    FIDELITIES,
    MOMENTUM_OPTIMIZERS,
    OWN,
)
from dsnn_utils.runs.table import to_python
from dsnn_utils.shift.quantization import ACTIVATION_ROUNDINGS, CLIPPED_GRADIENTS
from dsnn_utils.shift.specs import (
    ACTIVATION_FORMATS,
    ARITHMETICS,
    ROUNDINGS,
    SHIFT_TYPES,
    WEIGHT_SCALES,
    IntegerSpec,
    ShiftSpec,
    Spec,
)
from dsnn_utils.training.loop import OPTIMIZERS

WHY = {
    "shift_depth": "how many layers, counted from the output end, compute with shifts",
    "shift_type": "Q rounds trained weights to powers of two; PS trains sign and shift themselves",
    "weight_bits": "bits of a weight: one for the sign, the others set the range of shifts",
    "activation_integer_bits": "range of the fixed-point activations",
    "activation_fraction_bits": "resolution of the fixed-point activations",
    "rounding": "stochastic rounding lets small updates through while training",
    "arithmetic": "shifts, or multiplications of uniform integers to compare them with",
    "weight_scale": "a power of two at which the range of the weights ends, or none: it ends at 1",
    "activation_format": "fitted: binary point and sign from the data, so only the width is left",
    "activation_rounding": "to the nearest value, or down as cutting off bits does",
    "clipped_gradient": "whether values beyond the range learn as if they were not",
    "batch_size": "images per optimizer step",
    "optimizer": "PS is known to need an adaptive one (RAdam)",
    "lr": "learning rate, searched on a log scale",
    "momentum": "active for SGD and RMSprop only",
    "weight_decay": "never applied to the shift and sign parameters, searched on a log scale",
    "epochs": "length of the training",
}
SPACES = ("published", "extended", "integer", "int8")


@dataclass(frozen=True)
class Fidelity:
    """The quantity a multi-fidelity search spends more of on better configurations.

    `minimum` and `maximum` bound it; `integer` tells whether its values are whole numbers.
    """

    name: str
    minimum: float
    maximum: float
    integer: bool = True

    def value(self, budget: float) -> int | float:
        """The fidelity's value at a (possibly fractional) budget of the search."""
        return max(int(self.minimum), int(round(budget))) if self.integer else float(budget)

    def rungs(self, eta: int) -> list[int | float]:
        """The values successive halving visits, ascending: maximum / eta**k down to the minimum.

        >>> Fidelity("shift_depth", 1, 20).rungs(eta=2)
        [1, 2, 5, 10, 20]
        """
        values, budget = [], float(self.maximum)
        while budget >= self.minimum - 1e-9:
            values.append(self.value(budget))
            budget /= eta
        return sorted(set(values))


def make_fidelity(name: str, max_depth: int, epochs: int, minimum: float | None = None) -> Fidelity:
    """The fidelity `name` with its bounds.

    shift_depth runs up to `max_depth` (the number of shiftable layers), epochs up to `epochs`,
    weight_bits over 2..8, data_fraction (the share of the training images) up to 1. `minimum`
    overrides the lower end.

    Raises ValueError for an unknown name or a minimum outside the range.
    """
    bounds = {
        "shift_depth": (1, max_depth, True),
        "epochs": (1, epochs, True),
        "weight_bits": (2, 8, True),
        "data_fraction": (0.125, 1.0, False),
    }
    require_choice("fidelity", name, FIDELITIES)
    low, high, integer = bounds[name]
    lowest = low if integer else 0.01
    if minimum is not None:
        if not lowest <= minimum <= high or (integer and minimum != int(minimum)):
            kind = "an integer" if integer else "a number"
            raise ValueError(
                f"min_fidelity={minimum!r}: must be {kind} from {lowest} to {high} for {name}"
            )
        low = minimum
    return Fidelity(name, low, high, integer)


def dsnn_space(
    max_depth: int,
    epochs: int = 100,
    min_epochs: int | None = None,
    without: str | None = None,
    seed: int | None = None,
    space: str = "published",
    hyperparameters: Sequence[Hyperparameter] = (),
) -> ConfigurationSpace:
    """The configuration space of a DSNN whose network has `max_depth` shiftable layers.

    `space` is "published"; "extended" by what makes few bits hold (see `ShiftSpec`), every choice
    of which is a hyperparameter, with the published one as default; "integer", the extended one
    for uniform integers in place of shifts; or "int8", the extended one with what an int8 runtime
    holds, fitted activations of 2 to 8 bits (8 by default). In all but the first a fitted
    activation format has as many bits as `activation_integer_bits` says, and
    `activation_fraction_bits` is inactive.

    Epochs are a hyperparameter (`min_epochs`..`epochs`) where `min_epochs` is given, else constant.
    `without` names the fidelity: the search sets it, so it is no hyperparameter then.
    `hyperparameters` take the place of those of the same name, or are added: of one's own are those
    whose name begins with "own_". `seed` seeds the sampling. The default configuration is the
    published one, as far as the space has it.
    """
    require_choice("space", space, SPACES)
    for name, value in (("max_depth", max_depth), ("epochs", epochs)):
        check_integer(name, value, 1)
    if min_epochs is not None:
        check_integer("min_epochs", min_epochs, 1, epochs)
    optimizer = Categorical("optimizer", OPTIMIZERS, default="SGD")
    momentum = Float("momentum", (0.0, 0.9), default=0.9)
    fraction_bits = Integer(
        "activation_fraction_bits", (2 if space == "published" else 0, 32), default=16
    )
    activation_format = Categorical("activation_format", ACTIVATION_FORMATS, default="fixed")
    known: list[Hyperparameter] = [
        Categorical("shift_type", SHIFT_TYPES, default="PS"),
        Integer("weight_bits", (2, 8), default=5),
        Integer("activation_integer_bits", (2, 32), default=16),
        fraction_bits,
        Categorical("rounding", ROUNDINGS, default="deterministic"),
        Categorical("weight_scale", WEIGHT_SCALES, default="none"),
        activation_format,
        Categorical("activation_rounding", ACTIVATION_ROUNDINGS, default="floor"),
        Categorical("clipped_gradient", CLIPPED_GRADIENTS, default="passed"),
        Integer("batch_size", (32, 128), default=128),
        optimizer,
        Float("lr", (1e-3, 0.2), default=0.1, log=True),
        momentum,
        Float("weight_decay", (1e-6, 1e-2), default=1e-4, log=True),
    ]
    if max_depth > 1:
        known.append(Integer("shift_depth", (1, max_depth), default=max_depth))
    if min_epochs is not None and min_epochs < epochs:
        known.append(Integer("epochs", (min_epochs, epochs), default=epochs))
    left_out: dict[str, Collection[str]] = {
        "published": EXTENSIONS,
        "extended": (),
        "integer": ("shift_type", "rounding", "weight_scale"),
        "int8": ("activation_format", *ACTIVATION_BITS),
    }
    kept = [h for h in known if h.name not in left_out[space]]
    if space == "int8":
        kept.append(Categorical("activation_format", ["fitted"]))
        kept.append(Integer("activation_integer_bits", (2, 8), default=8))
    if space == "integer":
        kept.append(Categorical("weight_scale", WEIGHT_SCALES[1:], default="channel"))
        kept.append(Categorical("arithmetic", ["integer"]))
    kept = [h for h in kept if h.name != without]
    chosen = {h.name: h for h in kept} | _checked_own(hyperparameters, kept)
    conditions: dict[str, tuple[str, Sequence[str]]]
    conditions = {"momentum": ("optimizer", MOMENTUM_OPTIMIZERS)}
    if space in ("extended", "integer"):
        conditions["activation_fraction_bits"] = ("activation_format", ("fixed",))
    added = []
    for child, (parent, values) in conditions.items():
        possible = [value for value in values if chosen[parent].legal_value(value)]
        if possible:
            added.append(InCondition(chosen[child], chosen[parent], possible))
        else:  # of no optimizer that is left, for instance
            del chosen[child]
    result = ConfigurationSpace(name="dsnn", seed=seed)
    result.add(list(chosen.values()))
    result.add(added)
    return result


def _checked_own(
    hyperparameters: Sequence[Hyperparameter], known: Sequence[Hyperparameter]
) -> dict[str, Hyperparameter]:
    """The hyperparameters by name; ValueError for one that would reach no trial."""
    bounded = ("shift_depth", "epochs")  # by max_depth and epochs
    names = [h.name for h in known if h.name not in bounded]
    for one in hyperparameters:
        if one.name not in names and not one.name.startswith(OWN):
            raise ValueError(
                f"hyperparameters: {one.name!r}: must begin with {OWN!r}, or be one of "
                f"{', '.join(names)}"
            )
    return {one.name: one for one in hyperparameters}


def conditions_of(space: ConfigurationSpace) -> list[tuple[str, str, list]]:
    """Which hyperparameter is active with which values of which other one."""
    found = []
    for condition in space.conditions:
        if not isinstance(condition, InCondition):
            raise NotImplementedError(f"{condition}: must be an InCondition")
        found.append((condition.child.name, condition.parent.name, condition.values))
    return found


def check_configuration(configuration: Mapping, space: ConfigurationSpace, name: str) -> None:
    """ValueError naming what is unknown or out of range; None is an inactive value.

    An extension that is as published may also be named in a space without it.
    """
    for key, value in configuration.items():
        if key not in space and EXTENSIONS.get(key, ...) == value:
            continue
        if key not in space:
            raise ValueError(f"{name}: {key!r}: must be one of {', '.join(space)}")
        if value is not None and not space[key].legal_value(value):
            raise ValueError(f"{name}: {key}={value!r}: must be in {space[key]}")


def published_default(max_depth: int, epochs: int = 100) -> dict:
    """The published default configuration: full depth, PS, 5 weight bits, 16/16 activation bits,
    SGD with lr 0.1 and momentum 0.9, batch 128, weight decay 1e-4, deterministic rounding."""
    return {"shift_depth": max_depth, "epochs": epochs} | to_python(
        dsnn_space(max_depth, epochs).get_default_configuration()
    )


def without_inactive(point: Mapping) -> dict:
    """The point without what its other values make inactive."""
    inactive = set()
    if point.get("optimizer") not in MOMENTUM_OPTIMIZERS:
        inactive.add("momentum")
    if point.get("activation_format") == "fitted":
        inactive.add("activation_fraction_bits")
    return {name: value for name, value in point.items() if name not in inactive}


def to_spec(configuration: Mapping) -> Spec:
    """The number format of the converted layers that a configuration asks for.

    Extensions that it does not name are as published. Raises ValueError for an unknown arithmetic
    and for what `ShiftSpec` and `IntegerSpec` refuse, a field that the kind does not have included.
    """
    values = EXTENSIONS | {n: v for n, v in configuration.items() if v is not None}
    arithmetic = values["arithmetic"]
    require_choice("arithmetic", arithmetic, ARITHMETICS)
    kind = IntegerSpec if arithmetic == "integer" else ShiftSpec
    if values["activation_format"] == "fitted":  # only the width counts
        values.setdefault("activation_fraction_bits", 0)
    for name in ("shift_type", "rounding") if kind is IntegerSpec else ():
        require(name not in values, f"{name}={values.get(name)!r}: must be left out for integers")
    return kind(**{field.name: values[field.name] for field in fields(kind)})


def space_table(space: ConfigurationSpace) -> pd.DataFrame:
    """A row per hyperparameter: range or choices, scale, default, condition and its reason."""
    conditions = {c.child.name: str(c).split(" | ")[-1] for c in space.conditions}
    rows = []
    hyperparameter: Any
    for hyperparameter in space.values():
        categorical = hasattr(hyperparameter, "choices")
        log = getattr(hyperparameter, "log", False)
        rows.append(
            {
                "hyperparameter": hyperparameter.name,
                "range": ", ".join(map(str, hyperparameter.choices))
                if categorical
                else f"{hyperparameter.lower:g} .. {hyperparameter.upper:g}",
                "scale": "categories" if categorical else "log" if log else "linear",
                "default": to_python({"x": hyperparameter.default_value})["x"],
                "active": conditions.get(hyperparameter.name, "always"),
                "why": WHY.get(hyperparameter.name, "of your own"),
            }
        )
    return (
        pd.DataFrame(rows)
        .set_index("hyperparameter")
        .reindex([*[n for n in WHY if n in space], *[n for n in space if n not in WHY]])
    )


def known_good_configurations(max_depth: int | None = None) -> list[dict]:
    """Three optimised configurations that stand in the authors' public code history.

    Not results of a paper: which network, data set and accuracy they belong to is not stated
    there. Keys are those of the trials table. With `max_depth` they are made to fit the search
    space of a network with that many shiftable layers: depth and batch size (32..128) are clipped,
    epochs are left to the search, and momentum is None for optimizers that have none there.
    """
    names = (
        "shift_depth", "shift_type", "weight_bits", "activation_integer_bits",
        "activation_fraction_bits", "batch_size", "optimizer", "lr", "momentum", "rounding",
        "weight_decay", "epochs",
    )  # fmt: skip
    rows = (
        (6, "Q", 4, 4, 4, 355, "Ranger", 0.0846873538693396, 0.5016319121915253, "stochastic",
         0.002621919374247543, 100),
        (10, "Q", 8, 5, 11, 184, "Adagrad", 0.01376535177340809, 0.6232249074330178,
         "deterministic", 0.003186370955560786, 100),
        (7, "PS", 3, 22, 19, 412, "Adam", 0.19574505010432006, 0.5759289191947714, "stochastic",
         0.0015905368668715518, 47),
    )  # fmt: skip
    configurations: list[dict[str, Any]] = [dict(zip(names, row, strict=True)) for row in rows]
    if max_depth is None:
        return configurations
    check_integer("max_depth", max_depth, 1)
    for c in configurations:
        c["shift_depth"] = min(c["shift_depth"], max_depth)
        c["batch_size"] = min(max(c["batch_size"], 32), 128)
        del c["epochs"]
        c["momentum"] = without_inactive(c).get("momentum")
    return configurations
