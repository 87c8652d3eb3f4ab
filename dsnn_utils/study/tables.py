"""The study on CIFAR-10 (`figures/cifar10_*`): what it cost, and what its fidelity study says."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from torch import nn

from dsnn_utils.analysis.choosing import choose
from dsnn_utils.analysis.fronts import pareto_front
from dsnn_utils.analysis.trainings import summarise_points
from dsnn_utils.energy.emissions import search_energy_kwh, training_modelled_kwh
from dsnn_utils.energy.modelled import INT8, modelled_energy, price_with_integers
from dsnn_utils.energy.prices import PRICES
from dsnn_utils.energy.readings import summarise_readings
from dsnn_utils.paths import project_root
from dsnn_utils.runs.columns import (
    ACTIVATION_BITS,
    ENERGY_WITH_MEMORY,
    EXTENSIONS,
    FORMAT,
    HYPERPARAMETERS,
    under_both_prices,
)
from dsnn_utils.runs.directory import read_settings
from dsnn_utils.runs.rows import default_trial
from dsnn_utils.runs.table import read_trials, to_records
from dsnn_utils.search.space import known_good_configurations, to_spec
from dsnn_utils.search.trial import complete_energies
from dsnn_utils.shift.conversion import convert_to_integer, convert_to_shift, shiftable_layers
from dsnn_utils.shift.models import build_model
from dsnn_utils.shift.specs import IntegerSpec

PARTS = ("curves", "formats", "finals", "grid", "fidelity", "transfer", "mobilenetv2")
#: What makes a network, whatever trains it.
NETWORK = ("shift_depth", "shift_type", *FORMAT, "rounding", *EXTENSIONS)
DATA = {"cifar10": (50_000, (3, 32, 32)), "fashion_mnist": (60_000, (1, 28, 28))}


def tables_beside(run: Path) -> dict[str, pd.DataFrame]:
    """The other committed tables of the study `run` belongs to (see `PARTS`); none for others.

    With the modelled energies under both tables of prices.
    """
    if run != project_root() / "figures" / "cifar10_study":
        return {}
    folders = {name: run.with_name(f"cifar10_{name}") for name in PARTS}
    made = {name: path for name, path in folders.items() if (path / "trials.csv").exists()}
    return {name: complete_energies(read_trials(path)) for name, path in made.items()}


def finalists(trials: pd.DataFrame, cost: str) -> list[dict]:
    """The networks of a search over loss and `cost`, an energy, that are worth a real training.

    Points for notebook 7, each with a `label`: the published default, solutions of the front over
    all seeds and the public configurations (`search.known_good_configurations`). The solutions are
    the cheapest network as accurate (validation) as the default, the most accurate with at most
    half and with at most all of its energy, the most accurate of all, and the knee of the front;
    each is named once, and a rule that no network follows is left out.
    """
    objectives, default = ("loss", cost), default_trial(trials)
    budget = default[cost]
    shares = {"half the energy": 0.5, "same energy": 1.0, "most accurate": np.inf}
    front = pareto_front(trials, objectives)
    good_enough = front[front["loss"] <= default["loss"]]
    possible = {"cheapest": good_enough.head(1)}
    possible |= {label: front[front[cost] <= s * budget] for label, s in shares.items()}
    rows = {label: part.iloc[-1] for label, part in possible.items() if len(part)}  # by energy
    rows["knee"] = choose(trials, "knee", objectives)
    max_depth = int(trials["max_shift_depth"].iloc[0])
    known = known_good_configurations(max_depth)
    found = {label: _point(row) for label, row in rows.items()}
    found |= {f"public {number}": _point(pd.Series(c)) for number, c in enumerate(known, start=1)}
    points, named = [{"label": "default"}], [_point(default)]
    for label, point in found.items():
        if point not in named:
            named.append(point)
            points.append(point | {"label": label})
    return points


def _point(row: pd.Series) -> dict:
    """What makes the network and its training, but for epochs and data: those are the finals'.

    Extensions are named where they are not as published.
    """
    published = [n for n, value in EXTENSIONS.items() if row.get(n, value) == value]
    names = [n for n in HYPERPARAMETERS if n not in ("epochs", "data_fraction", *published)]
    (record,) = to_records(row.reindex(names).to_frame().T.infer_objects())
    return {"label": None, **record}


def finalists_by_seed(trials: pd.DataFrame, cost: str) -> list[dict]:
    """The finalists of the second study: of each search those that rules pick from its front.

    Points for notebook 7. A search is for networks that need at most the energy `cost` of the
    published default; all others are left out. The rules: the most accurate network, the most
    accurate with at most 50, 45 and 35 % of that energy, and the knee. What several rules or
    seeds pick is one point, with all of them in its `label`. A point says what the network is; how
    it is trained is up to the finals, and the same for all.
    """
    labels: dict[str, list[str]] = {}
    points: dict[str, dict] = {}
    for seed, run in trials.groupby("seed"):
        budget = default_trial(run)[cost]
        run = run[run[cost] <= budget]
        front = pareto_front(run, ("loss", cost))  # by energy, so the last one errs least
        picked = {"most accurate": front}
        for share in (50, 45, 35):
            picked[f"within {share} %"] = front[front[cost] <= share / 100 * budget]
        picked["knee"] = choose(run, "knee", ("loss", cost)).to_frame().T
        for label, rows in picked.items():
            if rows.empty:
                continue
            point = {name: v for name, v in _point(rows.iloc[-1]).items() if name in NETWORK}
            points.setdefault(key := repr(point), point)
            labels.setdefault(key, []).append(f"{label} (seed {seed})")
    return [{"label": ", ".join(labels[key])} | point for key, point in points.items()]


def with_short_names(trials: pd.DataFrame) -> pd.DataFrame:
    """The finals of `finalists_by_seed` named by their bits, as in "W4/A6, found (seed 0)".

    The rules that picked a network make a label too long for a figure. Other labels stay.
    """
    trials = trials.copy()
    bits = trials[list(ACTIVATION_BITS)].sum(axis=1)
    found = trials["origin"].str.contains("(seed", regex=False)
    for row in trials[found].itertuples():
        seeds = sorted(set(re.findall(r"seed \d+", row.origin)))
        name = f"W{row.weight_bits:.0f}/A{bits[row.Index]:.0f}, found ({', '.join(seeds)})"
        trials.loc[row.Index, "origin"] = name
    return trials


def second_study() -> pd.DataFrame:
    """Trainings of the second study: its finals, and networks chosen by hand, all trained alike.

    Rows of `figures/cifar10_search_finals` and, as "found again", those of the repeated searches in
    `figures/cifar10_search_logarithms_finals`, with short names, and of
    `figures/cifar10_few_bits_short`; the modelled energies are those under both tables of prices.
    """
    figures = project_root() / "figures"
    finals = with_short_names(read_trials(figures / "cifar10_search_finals"))
    again = with_short_names(read_trials(figures / "cifar10_search_logarithms_finals"))
    again["origin"] = again["origin"].str.replace(", found (", ", found again (", regex=False)
    by_hand = read_trials(figures / "cifar10_few_bits_short")
    return complete_energies(pd.concat([finals, again, by_hand], ignore_index=True))


def best_within(
    trials: pd.DataFrame, cost: str, shares: Sequence[int] = (35, 45, 50, 100)
) -> pd.DataFrame:
    """Validation accuracy (%) of each search's best network within shares of the default's energy.

    A row per strategy and seed, a column per share (%) of the energy `cost` of the published
    default; "any" is the best of all, and "trials within 50 %" counts the networks there. NaN where
    a search has no network that needs so little.
    """
    rows = {}
    for run, part in trials.groupby(["strategy", "seed"]):
        of_default = default_trial(part, even_failed=True)[cost]
        accuracy, share = 100 * part["val_accuracy"], 100 * part[cost] / of_default
        row = {f"{limit} %": accuracy[share <= limit].max() for limit in shares}
        rows[run] = row | {"any": accuracy.max(), "trials within 50 %": int((share <= 50).sum())}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["strategy", "seed"])


def cost_of_runs(folders: Sequence[str | Path]) -> pd.DataFrame:
    """What the runs took, a row each and their sum; folders are relative to the project's root.

    Columns `trainings`, `failed`, `seeds`, `images` and `epochs` (largest of a training), `hours`
    (summed over trainings, each on one thread), `energy_measured_kwh`, `emissions_gco2eq` (grid
    of the measurements). Trainings without a reading are charged by their duration.
    """
    rows = {}
    for folder in folders:
        trials = read_trials(project_root() / folder)
        kwh, _ = search_energy_kwh(trials)
        read = trials[trials["emissions_gco2eq"] > 0]
        intensity = read["emissions_gco2eq"].sum() / read["energy_measured_kwh"].sum()
        rows[Path(folder).name] = {
            "trainings": len(trials),
            "failed": int((trials["status"] != "SUCCESS").sum()),
            "seeds": trials["seed"].nunique(),
            "images": trials["train_size"].max(),
            "epochs": trials["epochs"].max(),
            "hours": trials["duration_s"].sum() / 3600,
            "energy_measured_kwh": kwh,
            "emissions_gco2eq": kwh * intensity,
        }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("run")
    sums = ["trainings", "failed", "hours", "energy_measured_kwh", "emissions_gco2eq"]
    table.loc["all"] = table[sums].sum()
    whole = ["trainings", "failed", "seeds", "images", "epochs"]
    return table.astype(dict.fromkeys(whole, "Int64"))


def modelled_cost_kwh(folders: Sequence[str | Path]) -> float:
    """`energy.training_modelled_kwh` of runs of the study: their trainings on shift hardware.

    Shifts do not help there: training works on float32 weights. Memory traffic is included.
    """
    total = 0.0
    for folder in map(Path, folders):
        trials, settings = (
            read_trials(project_root() / folder),
            read_settings(project_root() / folder),
        )
        for (dataset, model), part in trials.groupby(["dataset", "model"]):
            images, shape = DATA[dataset]
            plain = modelled_energy(build_model(model, 10, shape[0]), shape)
            total += training_modelled_kwh(
                part,
                plain.energy_modelled_with_memory_j_per_image,
                round(settings["data"]["validation_share"] * images),
            )
    return total


def finals_table(finals: pd.DataFrame, readings: pd.DataFrame | None = None) -> pd.DataFrame:
    """Measured and modelled energy of tested networks side by side, a row each, cheapest first.

    `finals` is the table of their trainings, `readings` that of `search.measure_points`. Column
    names say which energy is which; intervals (95 %) are of the mean, over seeds or readings, in
    texts such as "90.07 ± 0.60". What has no interval has none in the text, what is not known an
    empty one.
    Raises ValueError where two networks have the same label.
    """
    summary = summarise_points(finals).set_index("origin")
    if not summary.index.is_unique:
        raise ValueError("finals: must have an origin (label) of its own for every network")
    network = finals.groupby("origin").first().reindex(summary.index)
    bits = network[list(ACTIVATION_BITS)].astype(int).astype(str).agg(" + ".join, axis=1)
    columns = {
        "depth": network["shift_depth"],
        "weight bits": network["weight_bits"],
        "activation bits": bits,
        "seeds": summary["seeds"].astype(str)
        + summary["failed"].map(lambda n: f" ({n} failed)" if n else ""),
        "test accuracy (%)": _with_intervals(
            100 * summary["test_accuracy"], 100 * summary["test_accuracy_half_width"]
        ),
        "MODELLED inference (µJ/image)": (1e6 * summary[ENERGY_WITH_MEMORY]).round(2),
    }
    if readings is not None:
        measured = summarise_readings(readings, "origin").reindex(summary.index)
        columns["MEASURED inference (mJ/image)"] = _with_intervals(
            1e3 * measured["energy_measured_j_per_image"], 1e3 * measured["half_width_j_per_image"]
        )
    columns["MEASURED training (Wh)"] = _with_intervals(1e3 * summary["energy_measured_kwh"])
    table = pd.DataFrame(columns)
    return table.sort_values("MODELLED inference (µJ/image)", kind="stable")


def _with_intervals(values: pd.Series, half_widths: pd.Series | None = None) -> pd.Series:
    texts = values.map("{:.2f}".format)
    if half_widths is not None:
        texts += half_widths.map(lambda half: "" if pd.isna(half) else f" ± {half:.2f}")
    return texts.where(values.notna(), "")


INT4 = IntegerSpec(4, activation_integer_bits=2, activation_fraction_bits=2)
RIVALS = ("plain float32", "int8 throughout", "INT4 throughout")


def prices_table(
    points: Mapping[str, Mapping],
    model: str = "resnet20",
    input_shape: tuple[int, ...] = (3, 32, 32),
    energy: str = ENERGY_WITH_MEMORY,
    between_layers: str = "float32",
) -> pd.DataFrame:
    """Modelled energy (µJ per image) of named networks under both tables of prices.

    `points` have a shift depth and a number format. Below them stand the plain network in float32,
    and all of its layers as uniform integers of 8 bits and of 4 bits (weights and activations).
    `energy` is that of compute or with memory, of either table. Columns: each table of prices as
    the network is, and "integers": with uniform integer multipliers of its own widths in place of
    shifts. Accuracy is another matter: a network of integers would have to be trained.
    """
    column = under_both_prices(energy)["horowitz"]
    plain = build_model(model, 10, input_shape[0])
    whole = len(shiftable_layers(plain))
    networks = {name: _convert(plain, point) for name, point in points.items()}
    rivals = (plain, convert_to_integer(plain, whole, INT8), convert_to_integer(plain, whole, INT4))
    networks |= dict(zip(RIVALS, rivals, strict=True))
    options = {"between_layers": between_layers}
    rows: dict[str, dict] = {name: {} for name in networks}
    for name, network in networks.items():
        for prices in PRICES:
            priced = price_with_integers(network, input_shape, prices=prices, **options)[column]
            rows[name][prices] = 1e6 * priced["as it is"]
            rows[name][f"{prices}, integers"] = 1e6 * priced["integers of the same widths"]
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("MODELLED (µJ/image)")


def _convert(plain: nn.Module, point: Mapping) -> nn.Module:
    depth, spec = int(point["shift_depth"]), to_spec(point)
    if isinstance(spec, IntegerSpec):
        return convert_to_integer(plain, depth, spec)
    return convert_to_shift(plain, depth, spec)


def price_claims(table: pd.DataFrame, default: str = "default") -> pd.DataFrame:
    """Does a network need less energy than its rivals? `table` is that of `prices_table`.

    A row per network but the rivals; columns are what it is compared with: the `default`, integers
    of its own widths, and `RIVALS`. Values: "yes" or "no" if both tables of prices say so, else
    "only " and the table that says yes.
    """
    networks = table.drop(index=list(RIVALS))
    claims = pd.DataFrame(index=networks.index)
    others = {default: table.loc[default], **{name: table.loc[name] for name in RIVALS}}
    for against in (default, "its own integers", *RIVALS):
        less = {}
        for prices in PRICES:
            own = f"{prices}, integers"
            rival = networks[own] if against == "its own integers" else others[against][prices]
            less[prices] = networks[prices] < rival * (1 - 1e-9)  # rounding is no difference
        answers = pd.DataFrame(less)
        only = answers.idxmax(axis=1).radd("only ")
        claims[f"less than {against}"] = only.where(~answers.all(axis=1), "yes").where(
            answers.any(axis=1), "no"
        )
    return claims
