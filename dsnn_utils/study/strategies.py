"""The committed comparison of search strategies: read it, and say who is better by how much.

The tables are made by `make bench-search` (`tests/benchmarks/bench_search.py` explains both
problems) and lie in `figures/strategies`.
"""

from collections.abc import Sequence

import pandas as pd
from scipy.stats import wilcoxon

from dsnn_utils.checks import require_columns
from dsnn_utils.paths import project_root

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
