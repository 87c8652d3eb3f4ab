"""The committed comparison of search strategies: read it, and say who is better by how much.

The tables are made by `make bench-search` (`tests/benchmarks/bench_search.py` explains the
problems) and lie in `figures/strategies`.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import chdir

import pandas as pd

from dsnn_utils.analysis.comparing import paired_tests
from dsnn_utils.analysis.fronts import reference_point
from dsnn_utils.checks import require_columns
from dsnn_utils.paths import project_root
from dsnn_utils.runs.columns import MODELLED_ENERGIES, cost_among, loss_among
from dsnn_utils.search.trial import energy_of_trials, why_not_rebuilt
from dsnn_utils.training.data import load_dataset

TABLES = project_root() / "figures" / "strategies"
STRATEGY_ORDER = (
    "random", "smac_mf_published", "smac_mf_unknown_energy", "smac", "nsga2", "tpe", "gp",
    "qlognehvi", "qlognehvi_known_energy", "neps_moasha", "neps_primo", "smac_mf",
)  # fmt: skip
#: No strategies of ours: its pins want an environment of their own (`tests/benchmarks`).
NEPS = ("neps_moasha", "neps_primo")


def read_comparison() -> pd.DataFrame:
    """Hypervolume (share of the reference box) of each run, a row per ten trials, and at 15.

    Columns problem, strategy, seed, trials, hypervolume, cpu_s_per_trial. The strategy
    "smac_mf_unknown_energy" is smac_mf where only a trial tells the energy, as a measured one.
    """
    return pd.read_csv(TABLES / "comparison.csv")


def search_energy(trials: pd.DataFrame, settings: Mapping) -> Callable[[Mapping], float] | None:
    """The `energy_function` of a search's network for its modelled energy.

    `settings` as `read_settings` gives them. None where they name no network of ours or the search
    minimised no modelled energy. Only data that is not known by name is loaded. Raises what
    `load_dataset` and `energy_of_trials` raise.
    """
    energy = cost_among(settings["objectives"])
    if energy not in MODELLED_ENERGIES or why_not_rebuilt(trials, settings):
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


def compare_strategies(
    results: pd.DataFrame, trials: int = 100, rivals: Sequence[str] = STRATEGY_ORDER[:-1]
) -> pd.DataFrame:
    """Hypervolume after `trials` trials, and how smac_mf stands to each of its rivals.

    A row per problem and strategy: `seeds`, `mean`, `sd`, `over_random` (ratio of means over the
    seeds both have), `smac_mf_over_it`, and a two-sided Wilcoxon signed-rank test against smac_mf,
    paired by seed: `p`, `p_holm` (corrected for all tests of the problem) and `better`
    (see `analysis.paired_tests`).

    Raises ValueError if the results hold no run of that many trials.
    """
    require_columns(results, ["problem", "strategy", "seed", "trials", "hypervolume"])
    own = [name for name in results["strategy"].unique() if name not in STRATEGY_ORDER]
    rivals = [*rivals, *own]
    last = results[results["trials"] == trials]
    if last.empty:
        raise ValueError(f"trials={trials!r}: must be a number of trials that was recorded")
    tables = []
    for _, part in last.groupby("problem", sort=False):
        at = part.pivot_table(index="seed", columns="strategy", values="hypervolume")
        names = [name for name in (*rivals, "smac_mf") if name in at]
        table = at[names].agg(["count", "mean", "std"]).T.set_axis(["seeds", "mean", "sd"], axis=1)
        table["seeds"] = table["seeds"].astype(int)
        for rival, column in (("random", "over_random"), ("smac_mf", "smac_mf_over_it")):
            if rival in at:
                both = {name: at[[rival, name]].dropna().mean() for name in names}
                ratio = pd.Series({n: means.iloc[1] / means.iloc[0] for n, means in both.items()})
                table[column] = ratio if rival == "random" else (1 / ratio).drop("smac_mf")
        if "smac_mf" in at:
            tests = paired_tests(at, [("smac_mf", name) for name in names if name != "smac_mf"])
            table = table.join(tests.set_index("second")[["p", "p_holm", "better"]])
        tables.append(table.rename_axis("strategy"))
    return pd.concat(tables, keys=last["problem"].unique(), names=["problem"])
