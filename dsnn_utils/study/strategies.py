"""The committed comparison of search strategies: read it, and say who is better by how much.

The tables are made by `make bench-search` (`tests/benchmarks/bench_search.py` explains both
problems) and lie in `figures/strategies`.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import chdir

import pandas as pd
from scipy.stats import wilcoxon

from dsnn_utils.analysis.fronts import reference_point
from dsnn_utils.checks import require_columns
from dsnn_utils.paths import project_root
from dsnn_utils.runs.columns import MODELLED_ENERGIES, cost_among, loss_among
from dsnn_utils.search.trial import energy_of_trials
from dsnn_utils.training.data import load_dataset

TABLES = project_root() / "figures" / "strategies"
STRATEGY_ORDER = (
    "random", "smac_mf_published", "smac_mf_unknown_energy", "smac", "nsga2", "tpe", "gp",
    "qlognehvi", "smac_mf",
)  # fmt: skip


def read_comparison() -> pd.DataFrame:
    """Hypervolume (share of the reference box) of each run, a row per ten trials, and at 15.

    Columns problem, strategy, seed, trials, hypervolume, cpu_s_per_trial. The strategy
    "smac_mf_unknown_energy" is smac_mf where the energy is not known beforehand.
    """
    return pd.read_csv(TABLES / "comparison.csv")


def search_energy(trials: pd.DataFrame, settings: Mapping) -> Callable[[Mapping], float] | None:
    """The `energy_function` of a search's network for its modelled energy.

    `settings` as `read_settings` gives them. None where they name no network of ours or the search
    minimised no modelled energy. Only data that is not known by name is loaded. Raises what
    `load_dataset` and `energy_of_trials` raise.
    """
    energy = cost_among(settings["objectives"])
    if "recipe" not in settings or energy not in MODELLED_ENERGIES:
        return None
    try:
        return energy_of_trials(trials, energy)
    except ValueError:  # the shape of the images is that of the data
        with chdir(project_root()):  # as in notebooks, relative paths start there
            data = load_dataset(**settings["data"])
        shape = tuple(data.train.images.shape[1:])
        return energy_of_trials(trials, energy, shape, data.num_classes)


def search_reference(
    trials: pd.DataFrame, settings: Mapping, energy_of: Callable[[Mapping], float] | None
) -> dict[str, float]:
    """The reference point of a search: error 1 and, of a modelled energy, the plain network's.

    `energy_of` as `search_energy` gives it; without, the point is that of
    `analysis.reference_point`.
    """
    objectives = loss_among(settings["objectives"]), cost_among(settings["objectives"])
    plain_j = None if energy_of is None else energy_of({"shift_depth": 0})
    return reference_point(trials, objectives, plain_j)


def read_digits_table() -> pd.DataFrame:
    """Real trainings on scikit-learn's digits; `loss` is the validation error, 1 if it diverged."""
    table = pd.read_csv(TABLES / "digits_table.csv")
    return table.assign(loss=table["error_5"].fillna(1.0), status="SUCCESS")


def own_strategies(results: pd.DataFrame) -> list[str]:
    """The strategies of a table that are none of the package's, in order of appearance."""
    return [name for name in results["strategy"].unique() if name not in STRATEGY_ORDER]


def compare_strategies(
    results: pd.DataFrame, trials: int = 100, rivals: Sequence[str] = STRATEGY_ORDER[:-1]
) -> pd.DataFrame:
    """Hypervolume after `trials` trials, and how smac_mf stands to each of its rivals.

    A row per problem and strategy: `seeds`, `mean`, `sd`, `over_random` (ratio of means over the
    seeds both have), `smac_mf_over_it` and `p` (Wilcoxon signed-rank test, paired by seed,
    one-sided: smac_mf is better).

    Raises ValueError if the results hold no run of that many trials.
    """
    require_columns(results, ["problem", "strategy", "seed", "trials", "hypervolume"])
    rivals = [*rivals, *own_strategies(results)]
    last = results[results["trials"] == trials]
    if last.empty:
        raise ValueError(f"trials={trials!r}: must be a number of trials that was recorded")
    rows = []
    for problem, part in last.groupby("problem", sort=False):
        at = part.pivot_table(index="seed", columns="strategy", values="hypervolume")
        for name in [n for n in (*rivals, "smac_mf") if n in at]:
            row = {"problem": problem, "strategy": name, "seeds": int(at[name].count())}
            row |= {"mean": at[name].mean(), "sd": at[name].std()}
            if "random" in at:
                both = at[["random", name]].loc[:, ["random", name]].dropna()
                row["over_random"] = both.iloc[:, 1].mean() / both.iloc[:, 0].mean()
            if "smac_mf" in at and name != "smac_mf" and at[["smac_mf", name]].dropna().size:
                both = at[["smac_mf", name]].dropna()
                row["smac_mf_over_it"] = both["smac_mf"].mean() / both[name].mean()
                row["p"] = wilcoxon(both["smac_mf"], both[name], alternative="greater").pvalue
            rows.append(row)
    return pd.DataFrame(rows).set_index(["problem", "strategy"])
