"""What parameters may be: choices and ranges, each written down once.

The runner and the first cell of each notebook check against these before anything slow is imported,
and so do the classes and functions that take the same values.
"""

from collections.abc import Callable
from typing import NamedTuple

from dsnn_utils.checks import check_integer, is_number, require, require_choice

MODELS = ("resnet20", "mobilenetv2", "googlenet", "vgg19", "efficientnetv2")
#: The shape of an image (channels, height, width) by name; each has ten classes.
KNOWN_DATASETS = {"digits": (1, 8, 8), "cifar10": (3, 32, 32), "fashion_mnist": (1, 28, 28)}
SPACES = ("published", "extended", "integer", "int8")
STRATEGIES = (
    "smac_mf", "smac_mf_published", "smac", "gp", "qlognehvi", "qlognehvi_known_energy", "tpe",
    "nsga2", "random",
)  # fmt: skip
MULTI_FIDELITY = ("smac_mf", "smac_mf_published")
INT8_RUNTIMES = ("onnxruntime", "openvino")
PRECISIONS = ("auto", "float32", "bfloat16")
TRACKING_MODES = ("process", "machine")
CHOICE_RULES = ("knee", "dominates_default", "energy_budget", "accuracy_floor")
#: A shorter measurement is dominated by the resolution of CodeCarbon's readings, in seconds.
MIN_DURATION_S = 0.5


class Range(NamedTuple):
    """Numbers from `low` to `high`, both allowed unless among the `excluded` ones."""

    low: float
    high: float
    excluded: tuple[float, ...] = ()

    def __str__(self):
        without = f", but not {' or '.join(map(str, self.excluded))}" if self.excluded else ""
        return f"from {self.low} to {self.high}{without}"


_SEED = Range(0, 2**31 - 1)
_EPOCHS = Range(1, 10_000)
_LEARNING_RATE = Range(0, 1000, excluded=(0,))
_ENERGY = Range(0, 1e6, excluded=(0,))
_WINDOW_S = Range(MIN_DURATION_S, 3600)
_AT_LEAST_TWO = Range(2, 10_000)  # one reading has no interval

#: By the name of the parameter; of a list the range of its elements. Upper ends are far above any
#: sensible value: they catch a slip of the pen before it fills the memory or runs for years.
RANGES = {
    "accuracy_drop": Range(0, 0.2, excluded=(0,)),
    "accuracy_floor": Range(0, 1),
    "activation_bits": Range(2, 32),
    "activation_fraction_bits": Range(0, 32),
    "activation_integer_bits": Range(2, 32),
    "batch_size": Range(2, 100_000),
    "budgets": _EPOCHS,
    "depths": Range(0, 10_000),
    "distillation": Range(0, 1, excluded=(0,)),
    "energy_budget_j_per_image": _ENERGY,
    "energy_limit_j_per_image": _ENERGY,
    "epochs": _EPOCHS,
    "eta": Range(2, 1000),
    "few_bits": Range(2, 8),
    "image_size": Range(1, 1024),
    "in_channels": Range(1, 1000),
    "label_smoothing": Range(0, 1, excluded=(1,)),
    "lr": _LEARNING_RATE,
    "lr_radam": _LEARNING_RATE,
    "lr_sgd": _LEARNING_RATE,
    "measuring_rounds": Range(0, 10_000, excluded=(1,)),  # 0: none
    "min_epochs": _EPOCHS,
    "min_fidelity": Range(0, 10_000, excluded=(0,)),
    "n_initial": Range(1, 10_000),
    "n_random": Range(0, 100_000),
    "n_samples": Range(1, 1_000_000),
    "n_trials": Range(1, 100_000),
    "n_workers": Range(1, 1000),
    "noise_windows_s": _WINDOW_S,
    "num_classes": Range(2, 100_000),
    "pause_after": Range(1, 100_000),
    "pue": Range(1, 100),
    "repeats": _AT_LEAST_TWO,
    "retrain_epochs": _EPOCHS,
    "retrain_seeds": _SEED,
    "rounds": _AT_LEAST_TWO,
    "seconds_per_epoch": Range(0, 1e7, excluded=(0,)),
    "seed": _SEED,
    "seeds": _SEED,
    "split_seed": _SEED,
    "train_size": Range(1, 1_000_000_000),
    "trial_timeout_s": Range(0, 1e7, excluded=(0,)),
    "validation_share": Range(0, 1, excluded=(0, 1)),
    "weight_bits": Range(2, 8),
    "window_s": _WINDOW_S,
    "wue_l_per_kwh": Range(0, 1000),
}
#: By the name of the parameter; `dataset` may also be a path.
CHOICES = {
    "exported_to": INT8_RUNTIMES,
    "model": MODELS,
    "precision": PRECISIONS,
    "rule": CHOICE_RULES,
    "space": SPACES,
    "strategy": STRATEGIES,
    "tracking_mode": TRACKING_MODES,
}
#: What was registered in this process, by the parameter that may name it: how each is made.
REGISTERED: dict[str, dict[str, Callable]] = {"model": {}, "strategy": {}}


def choices(name: str) -> tuple[str, ...]:
    """What a parameter may be, those registered in this process last."""
    return (*CHOICES[name], *REGISTERED.get(name, ()))


def check_limits(**values) -> None:
    """ValueError naming the first value that is outside its range or none of its choices."""
    for name, value in values.items():
        if name in CHOICES:
            require_choice(name, value, choices(name))
        else:
            check_range(name, value, RANGES[name])


def check_range(name: str, value, limits: Range) -> None:
    """ValueError unless `value` is a number (no bool) within `limits`."""
    within = is_number(value) and not isinstance(value, bool)
    within = within and limits.low <= value <= limits.high and value not in limits.excluded
    require(within, f"{name}={value!r}: must be a number {limits}")


def limited_integer(name: str, value, why: str = "") -> int:
    """`value` as an int; ValueError unless it is an integer (no bool) in the range of `name`."""
    low, high, _ = RANGES[name]
    return check_integer(name, value, int(low), int(high), why)


def check_budgets(budgets, epochs: int) -> None:
    """ValueError unless there are none, or two or more, ascending, the last one `epochs`."""
    budgets = list(budgets)
    ascending = len(budgets) > 1 and sorted(set(budgets)) == budgets and budgets[-1] == epochs
    require(
        not budgets or ascending,
        f"{budgets=}: must be at least two numbers of epochs, ascending, the last one {epochs=}; "
        "or none",
    )


def check_rule(rule: str, **limits) -> None:
    """ValueError unless the rule of choice has its limit, and no other limit is given.

    The limit of a rule has its name, with or without a unit: `energy_budget_j_per_image`.
    """
    check_limits(rule=rule)
    for name, value in limits.items():
        needed = name.startswith(rule)
        allowed = "a number" if needed else "None"
        require((value is not None) == needed, f"{name}={value}: must be {allowed} for {rule=}")
