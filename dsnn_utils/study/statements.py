"""Statements of the papers, asked of our own tables: what we see, and whether it agrees.

Sources: Hennig, Tornede and Lindauer 2024 (arXiv 2404.01965); Hennig and Lindauer (2606.23208).
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from dsnn_utils.analysis.choosing import best_dominating_default
from dsnn_utils.analysis.fronts import pareto_front
from dsnn_utils.analysis.influence import importance
from dsnn_utils.analysis.trainings import summarise_points
from dsnn_utils.checks import require_columns
from dsnn_utils.runs.columns import (
    ACTIVATION_BITS,
    COMPUTE_ENERGY,
    MODELLED_ENERGIES,
    VALIDATION_READING,
    under_both_prices,
)
from dsnn_utils.runs.rows import default_trial, successful

# From this difference on, two accuracies of 40 to 50 % on 2,000 images can be told apart (95 %).
MARGIN = 0.03


@dataclass(frozen=True)
class Evidence:
    """The tables a statement may be asked of; see `findings`."""

    trials: pd.DataFrame
    energy: str
    grid: pd.DataFrame | None
    finals: pd.DataFrame | None
    transfer: pd.DataFrame | None
    seed: int


def findings(
    trials: pd.DataFrame,
    energy: str = COMPUTE_ENERGY,
    grid: pd.DataFrame | None = None,
    finals: pd.DataFrame | None = None,
    transfer: pd.DataFrame | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Published findings beside what our tables say: finding, source, ours, prices, holds.

    Each is asked under both tables of prices, if `trials` has that energy of both
    (`search.complete_energies` computes it). `prices` names those that were asked, or says that the
    answer does not depend on them. Where the two disagree the finding cannot be told.

    `trials` is that of a search over loss and the modelled `energy`; `grid` one of given
    networks over depth and bits, `finals` one of the default and chosen networks with test
    accuracies, `transfer` the same on other data. `holds` is True or False only where several seeds
    agree, intervals do not overlap, and measured and modelled quantities that the row shows say the
    same; otherwise None (cannot be told). Importances are fANOVA's on the trials, mean and range
    over the runs; those of a modelled energy are calculated.
    """
    asked = {p: name for p, name in under_both_prices(energy).items() if name in trials}
    evidence = Evidence(trials, energy, grid, finals, transfer, seed)
    rows = []
    for finding, source, check in FINDINGS:
        answers = {p: _ask(check, replace(evidence, energy=name)) for p, name in asked.items()}
        rows.append({"finding": finding, "source": source, **_together(answers)})
    return pd.DataFrame(rows)


def _ask(check: Callable, evidence: Evidence) -> tuple[str, bool | None]:
    try:
        return check(evidence)
    except ValueError as error:
        return f"cannot be told: {error}", None


def _together(answers: Mapping[str, tuple[str, bool | None]]) -> dict:
    """One answer out of those under each table of prices."""
    (text, holds), *others = answers.values()
    named = " and ".join(answers)
    if not others:
        return {"ours": text, "prices": named, "holds": holds}
    if all(other == (text, holds) for other in others):
        return {"ours": text, "prices": "either", "holds": holds}
    text = "; ".join(f"{prices}: {text}" for prices, (text, _) in answers.items())
    if any(other != holds for _, other in others):
        return {"ours": text, "prices": f"{named} disagree", "holds": None}
    return {"ours": text, "prices": named, "holds": holds}


def dominating_default(finals: pd.DataFrame, cost: str) -> tuple[pd.Series, pd.DataFrame]:
    """The default's row of `analysis.summarise_points`, and the rows that dominate it.

    Dominance in test accuracy (mean over seeds) and `cost`; the most accurate comes first. Networks
    whose `origin` begins with "default" are the default, started from other weights; the most
    accurate of them is the one to beat. Raises ValueError without a tested default.
    """
    require_columns(finals, ["origin", "test_accuracy", cost])
    for name in ("dataset", "model"):
        if name in finals and finals[name].nunique() > 1:
            raise ValueError(f"finals: must be of one {name}, not {finals[name].unique()}")
    summary = summarise_points(finals).dropna(subset=["test_accuracy"])
    is_default = summary["origin"].str.startswith("default")
    if not is_default.any():
        raise ValueError("finals: must have a tested network of origin 'default'")
    default = summary.loc[summary.loc[is_default, "test_accuracy"].idxmax()]
    others = summary[~is_default]
    as_good = (others["test_accuracy"] >= default["test_accuracy"]) & (
        others[cost] <= default[cost]
    )
    better = (others["test_accuracy"] > default["test_accuracy"]) | (others[cost] < default[cost])
    found = others[as_good & better].sort_values("test_accuracy", ascending=False, kind="stable")
    return default, found


def _tested(finals: pd.DataFrame, cost: str) -> tuple[str, bool | None]:
    """None where the intervals of the accuracies overlap, or one seed has none."""
    default, found = dominating_default(finals, cost)
    origins = finals["origin"].unique()
    others = sum(not origin.startswith("default") for origin in origins)
    text = (
        f"{found['origin'].nunique()} of {others} networks dominate it in test accuracy and "
        f"modelled energy; {default['origin']} {_result(default, cost)}"
    )
    if len(found):
        text += f"; {found.iloc[0]['origin']} {_result(found.iloc[0], cost)}"
    summary = summarise_points(finals).dropna(subset=["test_accuracy"])
    rivals = summary[
        ~summary["origin"].str.startswith("default") & (summary[cost] <= default[cost])
    ]
    # NaN, the half-width of one seed, makes both comparisons false.
    default_low, default_high = _ends(default)
    low, high = _ends(rivals)
    if (low > default_high).any():
        return text, True
    if (high < default_low).all() and pd.notna(default_low):
        return text, False
    return f"{text}: one seed, or intervals that overlap", None


def _ends(rows):
    """The 95 % interval of the test accuracy."""
    half_width = rows["test_accuracy_half_width"]
    return rows["test_accuracy"] - half_width, rows["test_accuracy"] + half_width


def _result(row: pd.Series, cost: str) -> str:
    half_width = row["test_accuracy_half_width"]
    spread = f" ± {100 * half_width:.1f}" if pd.notna(half_width) else ""
    accuracy = f"{100 * row['test_accuracy']:.1f}{spread} % (n = {row['seeds']})"
    return f"{accuracy} at {1e6 * row[cost]:.1f} µJ"


def _default_dominated(e: Evidence) -> tuple[str, bool | None]:
    if e.finals is not None:
        return _tested(e.finals, e.energy)
    default_trial(successful(e.trials))
    answers, example = {}, ""
    for seed, run in e.trials.groupby("seed"):
        try:
            row = best_dominating_default(run, ("loss", e.energy))
            answers[seed], example = True, f", such as trial {row['trial']} of seed {seed}"
        except ValueError:
            answers[seed] = False
    text = (
        f"in {sum(answers.values())} of {len(answers)} searches a trial dominates it in validation "
        f"error and modelled energy{example}"
    )
    return _of_all(text, answers.values())


def _of_all(text: str, answers: Collection[bool]) -> tuple[str, bool | None]:
    """The answer of several searches that agree. One search, or several that do not, is none."""
    if len(answers) < 2:
        return f"{text}: one seed", None
    return text, next(iter(answers)) if len(set(answers)) == 1 else None


def _low_depths(e: Evidence) -> tuple[str, bool | None]:
    # The papers' energy is measured: of the training with its validation in the workshop's script,
    # of the last epoch's validation in the journal's. All that there are have to agree.
    objectives = {"modelled energy of an inference": e.energy}
    if e.trials["emissions_gco2eq"].notna().any():
        objectives["measured emissions of the training"] = "emissions_gco2eq"
    if VALIDATION_READING in e.trials and e.trials[VALIDATION_READING].notna().any():
        objectives["measured energy of the last validation"] = VALIDATION_READING
    parts, answers = [], []
    for words, objective in objectives.items():
        low = _shifts_half(pareto_front(e.trials, ("loss", objective)))
        parts.append(f"{words}: {low.sum()} of {len(low)}")
        answers.append(bool(low.mean() >= 0.5))
        for _, run in e.trials.groupby("seed"):
            answers.append(bool(_shifts_half(pareto_front(run, ("loss", objective))).mean() >= 0.5))
    text = f"with at most half of the layers shifted, on the front of error and {'; '.join(parts)}"
    if e.trials["seed"].nunique() < 2:
        return f"{text}: one seed", None
    return _of_all(text, answers)


def _shifts_half(front: pd.DataFrame) -> pd.Series:
    return front["shift_depth"] <= front["max_shift_depth"] / 2


def _most_important(
    e: Evidence, objective: str, expected: Sequence[str]
) -> tuple[str, bool | None]:
    """Does one of `expected` come first in fANOVA? None for one run or ranges that overlap."""
    table = importance(e.trials, objective, e.seed).set_index("hyperparameter")
    is_expected = table.index.isin(expected)
    first, rivals = table.iloc[[0]], table[is_expected != is_expected[0]]
    text = ", ".join(_share(row) for row in pd.concat([first, rivals.head(1)]).itertuples())
    runs = first["runs"].item()
    if objective not in MODELLED_ENERGIES and runs < 2:
        return f"{text}: one run has no range", None
    if rivals["highest"].max() >= first["lowest"].item():
        return f"{text}: ranges of {runs} runs overlap", None
    return text, bool(is_expected[0])


def _share(row) -> str:
    if row.lowest == row.highest:
        return f"{row.Index} {100 * row.importance:.1f} %"
    ends = f"{100 * row.lowest:.0f} to {100 * row.highest:.0f}"
    return f"{row.Index} {100 * row.importance:.0f} % ({ends})"


def _depth_for_loss(e: Evidence) -> tuple[str, bool | None]:
    text, holds = _most_important(e, "loss", ["shift_depth"])
    return f"importance for the loss: {text}", holds


def _bits_for_emissions(e: Evidence) -> tuple[str, bool | None]:
    measured, holds = _most_important(e, "emissions_gco2eq", ACTIVATION_BITS)
    modelled, holds_modelled = _most_important(e, e.energy, ACTIVATION_BITS)
    text = f"for emissions of the training: {measured}; for modelled energy of an inference: "
    return text + modelled, holds if holds == holds_modelled else None


def _fewer_layers_save_more(e: Evidence) -> tuple[str, bool | None]:
    if e.grid is None:
        raise ValueError("needs the same training at several depths and bits")
    rows = successful(e.grid, ("loss", e.energy))
    depths = sorted(rows["shift_depth"].unique())
    energy = 1e6 * rows.groupby("shift_depth")[e.energy].agg(["min", "max"])
    cheaper = any(  # some network with fewer shift layers below every one with more
        energy.loc[low, "min"] < energy.loc[high, "max"]
        for n, low in enumerate(depths)
        for high in depths[n + 1 :]
    )
    text = "modelled energy of an inference (µJ): " + ", ".join(
        f"depth {depth} {low:.0f} to {high:.0f}" for depth, low, high in energy.itertuples()
    )
    measured = rows.groupby("shift_depth")["energy_measured_kwh"].median()
    if measured.notna().all() and len(measured) > 1:
        change = 100 * (measured.iloc[-1] / measured.iloc[0] - 1)
        text += f"; measured energy of the training: {change:+.0f} % from depth {depths[0]} to "
        text += f"{depths[-1]} (median)"
        if (change > 0) != cheaper:
            return f"{text}: the two disagree", None
    return text, bool(cheaper)


def _balance(e: Evidence) -> tuple[str, bool | None]:
    """True only where several depths and bits remain after steps that chance can explain go.

    One seed of each network tells nothing about how far another one would have led.
    """
    rows = e.trials if e.grid is None else e.grid
    front = pareto_front(rows, ("loss", e.energy))
    told_apart = front.iloc[:1]
    for number in range(1, len(front)):
        row = front.iloc[[number]]
        if row["loss"].item() <= told_apart["loss"].iloc[-1] - MARGIN:
            told_apart = pd.concat([told_apart, row])
    (strict, text), (safe, text_safe) = map(_depths_and_bits, (front, told_apart))
    text = f"the {len(front)} networks of the front have {text}"
    if strict and not safe:
        text += f"; the {len(told_apart)} at least {100 * MARGIN:.0f} points apart: {text_safe}"
        return text, None
    if rows["seed"].nunique() < 2:
        return f"{text}: one seed", None
    return text, strict


def _depths_and_bits(front: pd.DataFrame) -> tuple[bool, str]:
    """Do several depths occur with several bits, and which ones?"""
    bits = front["activation_integer_bits"] + front["activation_fraction_bits"]
    used = {
        "depths": front["shift_depth"], "weight bits": front["weight_bits"],
        "activation bits": bits,
    }  # fmt: skip
    # A plain network has no bits.
    values = {n: sorted(column.dropna().astype(int).unique()) for n, column in used.items()}
    text = ", ".join(f"{name} {' '.join(map(str, found))}" for name, found in values.items())
    return len(values["depths"]) > 1 and max(map(len, list(values.values())[1:])) > 1, text


def _transfer(e: Evidence) -> tuple[str, bool | None]:
    if e.transfer is None:
        raise ValueError("a search has one data set, this needs two")
    return _tested(e.transfer, e.energy)


FINDINGS = (
    ("The default is dominated", "both papers", _default_dominated),
    ("Low shift depths are often optimal", "2606.23208", _low_depths),
    ("Shift depth matters most for the loss", "2606.23208, ResNet20", _depth_for_loss),
    ("Activation bits matter most for emissions", "2606.23208, ResNet20", _bits_for_emissions),
    (
        "Shifting less of the network at low precision can save more than shifting more of it",
        "2606.23208",
        _fewer_layers_save_more,
    ),
    ("Shift layers and bits have to be balanced", "2404.01965", _balance),
    (
        "Configurations found on one data set dominate the default on another",
        "2606.23208, ImageNet100",
        _transfer,
    ),
)
