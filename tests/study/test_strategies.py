"""The committed comparison of strategies, and how it is read."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import wilcoxon

from dsnn_utils import analysis, study
from dsnn_utils.search import STRATEGIES
from dsnn_utils.study import compare_strategies, read_comparison, read_digits_table
from dsnn_utils.study.strategies import NEPS, STRATEGY_ORDER


def made_up(seeds=8):
    random = np.random.default_rng(0)
    return pd.DataFrame(
        [
            {"problem": "p", "strategy": name, "seed": seed, "trials": trials,
             "hypervolume": base + trials / 1000 + 0.01 * random.random(), "cpu_s_per_trial": 0.1}
            for name, base in (("random", 0.5), ("tpe", 0.55), ("smac_mf", 0.6))
            for seed in range(seeds)
            for trials in (50, 100)
        ]
    )  # fmt: skip


def test_ratios_and_p_values_are_those_of_the_paired_runs():
    results = made_up()
    table = compare_strategies(results)
    at = results[results["trials"] == 100].pivot(
        index="seed", columns="strategy", values="hypervolume"
    )
    tpe = table.loc[("p", "tpe")]
    assert tpe["over_random"] == pytest.approx(at["tpe"].mean() / at["random"].mean())
    assert tpe["smac_mf_over_it"] == pytest.approx(at["smac_mf"].mean() / at["tpe"].mean())
    assert tpe["p"] == wilcoxon(at["smac_mf"], at["tpe"]).pvalue
    assert tpe["p_holm"] == 2 * tpe["p"] and tpe["better"] == "smac_mf"  # of two equal ones
    assert np.isnan(table.loc[("p", "smac_mf"), "p_holm"])
    assert table["seeds"].tolist() == [8, 8, 8]
    assert table.loc[("p", "random"), "over_random"] == 1


def test_each_problem_is_corrected_by_itself_and_few_seeds_tell_nothing():
    table = compare_strategies(pd.concat([made_up(), made_up(5).assign(problem="q")]))
    assert table.loc[("p", "tpe"), "p_holm"] == 2 * 2 / 2**8
    assert table.loc[("q", "tpe"), "better"] == "cannot be told"  # 2 / 2**5 at best


def test_only_seeds_both_have_are_compared():
    results = made_up()
    cut = results[(results["strategy"] != "random") | (results["seed"] < 5)]
    both = results[results["seed"] < 5]
    expected = compare_strategies(both).loc[("p", "tpe"), "over_random"]
    assert compare_strategies(cut).loc[("p", "tpe"), "over_random"] == pytest.approx(expected)


def test_a_mark_that_was_not_recorded():
    with pytest.raises(ValueError, match="trials=70: must be a number of trials that was recorded"):
        compare_strategies(made_up(), trials=70)


def test_the_committed_results_are_complete():
    results = read_comparison()
    assert set(STRATEGY_ORDER) == {*STRATEGIES, "smac_mf_unknown_energy", *NEPS}
    for problem in ("synthetic", "digits"):
        part = results[(results["problem"] == problem) & (results["trials"] == 100)]
        seeds = part.groupby("strategy")["seed"].nunique()
        # The peers cost minutes a run.
        peers = {"gp", "qlognehvi", "qlognehvi_known_energy", "neps_primo"}
        assert set(seeds.index) == set(STRATEGY_ORDER) - peers and seeds.min() >= 10
    early = results[results["trials"] == 30]
    for (problem, strategy), part in early.groupby(["problem", "strategy"]):
        assert part["seed"].nunique() >= 10, (problem, strategy)
    assert results["hypervolume"].between(0, 1).all()
    assert not results.duplicated(["problem", "strategy", "seed", "trials"]).any()


def test_the_table_of_real_trainings():
    table = read_digits_table()
    assert len(table) >= 400 and table["loss"].between(0, 1).all()
    correlation = analysis.rank_agreement(table)
    assert (correlation["configurations"] >= 10).any()


def test_a_line_per_strategy_and_problem():
    results = made_up()
    both = pd.concat([results, results.assign(problem="q")])
    neps = results[results["strategy"] == "tpe"].assign(strategy=NEPS[0])
    figure = study.plot_strategies(pd.concat([both, neps]))
    assert NEPS[0] in set(figure.data["strategy"])  # and with it in the table that is saved
    assert len(figure.interactive.data) == 6
    axes = figure.static.axes
    assert [axis.get_title().splitlines()[0] for axis in axes] == ["p", "q"]
    drawn = {
        tuple(np.round(line.get_ydata(), 6)) for line in axes[0].lines if len(line.get_xdata())
    }
    mean = results.groupby(["strategy", "trials"])["hypervolume"].mean().unstack()
    assert drawn == {tuple(np.round(row, 6)) for row in mean.to_numpy()}
