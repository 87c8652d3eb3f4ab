"""Published values we compare with: each with its source, its protocol and what is not known.

Sources:

- [H24] Hennig, Tornede and Lindauer, "Towards Leveraging AutoML for Sustainable Deep Learning",
  2024, arXiv 2404.01965. Its numbers are taken from a public summary of the paper (the quoted
  "Stats" and abstract), which names neither table nor page.
- [H26] Hennig and Lindauer, arXiv 2606.23208 (the journal version).
- [E21] Elhoushi et al., "DeepShift: Towards Multiplication-Less Neural Networks", CVPR Workshops
  2021, arXiv 1905.13298.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from dsnn_utils.analysis.choosing import best_dominating_default, knee
from dsnn_utils.checks import require_columns
from dsnn_utils.energy.readings import mean_and_half_width
from dsnn_utils.runs.columns import DEFAULT_OBJECTIVES, HYPERPARAMETERS
from dsnn_utils.runs.rows import default_rows, default_trial, successful

TOLERANCE_PERCENT = 1.0  # a value this many percentage points below the published one still holds


@dataclass(frozen=True)
class Published:
    """One published number. `quantity` says which number of a run is its counterpart."""

    source: str
    what: str
    value: float
    unit: str
    quantity: str
    dataset: str
    model: str
    protocol: str
    unknown: str
    relation: str = "="  # "=", ">" (more than) or "~" (about, up to)
    shift_type: str | None = None
    weight_bits: int | None = None
    epochs: int | None = None


def _h24(what: str, value: float, unit: str, quantity: str, **kwargs) -> Published:
    return Published(
        "arXiv 2404.01965", what, value, unit, quantity, "cifar10", "resnet20",
        "CIFAR-10 test set, ResNet20",
        "epochs of the final training, seeds, hardware, grid, table or page of the number, the "
        "default's emissions",
        **kwargs,
    )  # fmt: skip


def _h26(what: str, value: float, unit: str, quantity: str, model: str, **kwargs) -> Published:
    return Published(
        "arXiv 2606.23208", what, value, unit, quantity, "cifar10", model,
        "fidelity is epochs (up to 100), 3 seeds; emissions measured on emulated shifts",
        "hardware, grid, table or figure of the number, the network it belongs to",
        **kwargs,
    )  # fmt: skip


def _e21(what: str, value: float, quantity: str, model: str, **kwargs) -> Published:
    return Published(
        "DeepShift, CVPRW 2021", what, value, "%", quantity, "cifar10", model,
        "CIFAR-10 test set, 200 epochs, trained from scratch", "seeds, hardware",
        epochs=200, **kwargs,
    )  # fmt: skip


PUBLISHED = (
    _h24("Default DSNN, accuracy", 83.0, "%", "default_accuracy"),
    _h24("Optimised DSNNs, accuracy", 80.0, "%", "chosen_accuracy", relation=">"),
    _h24("Pareto solution 1, accuracy", 83.5, "%", "chosen_accuracy"),
    _h24("Pareto solution 1, emissions", 0.1661, "gCO2eq", "chosen_emissions"),
    _h24("Pareto solution 2, accuracy", 84.67, "%", "chosen_accuracy"),
    _h24("Pareto solution 2, emissions", 0.1673, "gCO2eq", "chosen_emissions"),
    _h26("Lower loss than the default, up to", 20.0, "%", "loss_gain", "any", relation="~"),
    _h26("Fewer emissions than the default, over", 60.0, "%", "emissions_gain", "any",
         relation=">"),
    _h26("Best VGG19, accuracy", 93.45, "%", "best_accuracy", "vgg19"),
    _e21("ResNet20, float32, accuracy", 91.79, "plain_accuracy", "resnet20"),
    _e21("ResNet20, Q, accuracy", 89.85, "full_depth_accuracy", "resnet20", shift_type="Q"),
    _e21("ResNet20, PS, accuracy", 88.84, "full_depth_accuracy", "resnet20", shift_type="PS"),
    *(
        _e21(f"ResNet18, PS, {bits} weight bits, accuracy", value, "full_depth_accuracy",
             "resnet18", shift_type="PS", weight_bits=bits)
        for bits, value in ((5, 93.20), (4, 94.12), (3, 92.85), (2, 92.80))
    ),
)  # fmt: skip


def published() -> pd.DataFrame:
    """Every published number, one row each (the fields of `Published`)."""
    return pd.DataFrame([asdict(row) for row in PUBLISHED])


def compare(
    trials: pd.DataFrame | None = None,
    results: Mapping[str, float | Sequence[float]] | None = None,
    chosen: pd.Series | None = None,
    objectives: Sequence[str] = DEFAULT_OBJECTIVES,
) -> pd.DataFrame:
    """Published values beside ours: columns what, published, relation, ours, half_width, unit,
    ratio, comparable, why, status, source.

    Ours are validation values of the trials table, whose `chosen` row (default: the row that
    dominates the published default in the `objectives` by the largest margin, else the knee) stands
    beside the papers' Pareto solutions. Test accuracies (0..1) take the place of validation values:
    a column `test_accuracy` of the table (mean over the seeds of the network, which is chosen by
    its validation values), or `results` of final trainings, one accuracy or those of all seeds,
    with any of the keys `default_test_accuracy`, `chosen_test_accuracy`, `plain_test_accuracy`,
    `best_test_accuracy`, `full_depth_q_test_accuracy` and `full_depth_ps_test_accuracy`.
    `half_width` is that of the 95 % interval of `ours` over seeds, NaN for one.

    status: "reproduced" (comparable, within one percentage point, or beyond a published bound),
    "exceeded" or "differs" (comparable, further above or below), "cannot be told" (comparable, but
    the 95 % interval over our seeds leaves more than one of these, or there is one seed) or
    "not yet" (not comparable).
    """
    ours = _our_rows(trials, chosen, objectives) if trials is not None else None
    return pd.DataFrame([_compare_one(row, ours, results or {}) for row in PUBLISHED])


def _compare_one(row: Published, ours: dict | None, results: Mapping) -> dict:
    reasons: list[str] = []
    found = None
    if ours is None:
        reasons.append("no trials table given")
    else:
        found = _counterpart(row, ours, results, reasons)
        if found is not None:
            reasons = list(dict.fromkeys([*reasons, *_differences(row, found.row)]))
    value = np.nan if found is None else found.value
    comparable, status = False, "not yet"
    if found is not None and not reasons:
        comparable = True
        ends = value - found.half_width, value + found.half_width
        verdicts = {_verdict(row, end) for end in ends}
        certain = np.isfinite(found.half_width) and len(verdicts) == 1
        status = verdicts.pop() if certain else "cannot be told"
        reasons = [
            f"same data set, network and measure, ours {found.row.get('epochs')} epochs, "
            f"n = {found.seeds}",
            f"not known: {row.unknown}",
        ]
    return {
        "what": row.what,
        "published": row.value,
        "relation": row.relation,
        "ours": value,
        "half_width": np.nan if found is None else found.half_width,
        "unit": row.unit,
        "ratio": value / row.value,
        "comparable": comparable,
        "why": "; ".join(reasons),
        "status": status,
        "source": row.source,
    }


def _verdict(row: Published, value: float) -> str:
    if value < row.value - TOLERANCE_PERCENT:
        return "differs"
    if row.relation != ">" and value > row.value + TOLERANCE_PERCENT:
        return "exceeded"
    return "reproduced"


def _our_rows(trials: pd.DataFrame, chosen: pd.Series | None, objectives: Sequence[str]) -> dict:
    """Our rows that published numbers may have a counterpart in."""
    require_columns(
        trials, ["dataset", "model", "origin", "shift_depth", "max_shift_depth", "val_accuracy"]
    )
    rows = successful(trials, ("loss",))
    if chosen is None:
        try:
            chosen = best_dominating_default(trials, objectives)
        except ValueError:
            chosen = knee(trials, objectives)
    found = {"rows": rows, "chosen": chosen, "default": None, "objectives": objectives}
    if len(default_rows(rows)):
        found["default"] = default_trial(rows)
    return found


class _Accuracy(NamedTuple):
    """Mean test accuracy (0..1) over seeds, and the half-width of its 95 % interval (one: NaN)."""

    mean: float
    half_width: float
    seeds: int


def _over_seeds(accuracies: Sequence[float]) -> _Accuracy:
    half_width = mean_and_half_width(accuracies)[1] if len(accuracies) > 1 else np.nan
    return _Accuracy(float(np.mean(accuracies)), half_width, len(accuracies))


class _Counterpart(NamedTuple):
    value: float  # in the published unit
    row: pd.Series  # the trial it belongs to
    seeds: int
    half_width: float = np.nan  # of the 95 % interval of `value`


def _counterpart(
    row: Published, ours: dict, results: Mapping, reasons: list[str]
) -> _Counterpart | None:
    """Our value beside a published one; without any, None and one more of the `reasons`."""
    rows, default, chosen = ours["rows"], ours["default"], ours["chosen"]
    kind, _, measure = row.quantity.rpartition("_")
    if row.model not in ("any", *rows["model"].unique()):
        reasons.append(f"no trial with {row.model}")
        return None
    if default is None and (measure == "gain" or kind == "default"):
        reasons.append("no successful published default in the table")
        return None
    if measure == "gain":
        if kind == "loss":
            return _loss_gain(ours, reasons)
        value = _emissions_gain(ours, reasons)
        return None if value is None else _Counterpart(value, default, 1)
    if measure == "emissions":
        value = chosen.get("emissions_gco2eq")
        if value is None or not np.isfinite(value):
            reasons.append("no emissions measured")
            return None
        return _Counterpart(float(value), chosen, 1)
    if kind == "full_depth":
        rows = rows[rows["shift_depth"] == rows["max_shift_depth"]]
        rows = rows[rows["shift_type"] == row.shift_type]
        if row.weight_bits is not None:
            rows = rows[rows["weight_bits"] == row.weight_bits]
    elif kind == "plain":
        rows = rows[rows["shift_depth"] == 0]
    elif kind in ("default", "chosen"):
        rows = ours[kind].to_frame().T
    if row.model != "any":
        rows = rows[rows["model"] == row.model]
    if rows.empty:
        reasons.append("no such trial in the table")
        return None
    used = rows.loc[rows["val_accuracy"].astype(float).idxmax()]
    if kind == "full_depth" and row.shift_type is not None:
        kind = f"{kind}_{row.shift_type.lower()}"
    if f"{kind}_test_accuracy" in results:
        accuracy = _over_seeds(np.atleast_1d(results[f"{kind}_test_accuracy"]).tolist())
    else:
        accuracy = _accuracy(used, ours["rows"], reasons)
    return _Counterpart(100 * accuracy.mean, used, accuracy.seeds, 100 * accuracy.half_width)


def _accuracy(network: pd.Series, rows: pd.DataFrame, reasons: list) -> _Accuracy:
    """Test accuracy over the network's seeds, else its validation accuracy."""
    if pd.isna(network.get("test_accuracy")):
        reasons.append("ours is validation accuracy, the published one test accuracy")
        return _over_seeds([float(network["val_accuracy"])])
    names = [name for name in ("origin", "dataset", "model", *HYPERPARAMETERS) if name in rows]
    same = (rows[names] == network[names]) | (rows[names].isna() & network[names].isna())
    return _over_seeds(rows.loc[same.all(axis=1), "test_accuracy"].dropna().tolist())


def _loss_gain(ours: dict, reasons: list) -> _Counterpart:
    """Largest relative reduction (%) of the error among what dominates the default."""
    rows, default, objectives = ours["rows"], ours["default"], list(ours["objectives"])
    better = rows[(rows[objectives] <= default[objectives].astype(float)).all(axis=1)]
    best = better.loc[better["loss"].idxmin()]
    accuracy, of_default = _accuracy(best, rows, reasons), _accuracy(default, rows, reasons)
    gain = 100 * (1 - (1 - accuracy.mean) / (1 - of_default.mean))
    # A quotient: the relative half-widths of both errors add up as squares.
    relative = np.hypot(
        accuracy.half_width / (1 - accuracy.mean), of_default.half_width / (1 - of_default.mean)
    )
    seeds = min(accuracy.seeds, of_default.seeds)
    return _Counterpart(gain, default, seeds, float((100 - gain) * relative))


def _emissions_gain(ours: dict, reasons: list) -> float | None:
    """Largest relative reduction (%) among what dominates the default in loss and emissions."""
    rows, default, names = ours["rows"], ours["default"], ["loss", "emissions_gco2eq"]
    if "emissions_gco2eq" not in rows or not np.isfinite(default["emissions_gco2eq"]):
        reasons.append("no emissions measured")
        return None
    better = rows[(rows[names] <= default[names].astype(float)).all(axis=1)]
    return float(100 * (1 - better["emissions_gco2eq"].min() / default["emissions_gco2eq"]))


def _differences(row: Published, used: pd.Series) -> list[str]:
    """What keeps our value from being comparable with the published one."""
    reasons = []
    if used["dataset"] != row.dataset:
        reasons.append(f"data set {used['dataset']}, published {row.dataset}")
    if row.model not in ("any", used["model"]):
        reasons.append(f"network {used['model']}, published {row.model}")
    if row.epochs is not None and used.get("epochs") != row.epochs:
        reasons.append(f"{used.get('epochs')} epochs, published {row.epochs}")
    size = used.get("train_size")
    if row.dataset == "cifar10" and pd.notna(size) and size < 40_000:
        reasons.append(f"{int(size)} training images, published presumably most of the 50,000")
    if "emissions" in row.quantity:
        reasons.append("emissions depend on machine, grid and what was measured, none published")
    return reasons
