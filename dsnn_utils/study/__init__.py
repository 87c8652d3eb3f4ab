"""Published values, and the committed studies: their tables, findings and figures."""

from dsnn_utils.study.comparison import final_values, read_strategies, strategy_curves
from dsnn_utils.study.papers import PUBLISHED, compare, published
from dsnn_utils.study.plots import (
    plot_finals,
    plot_fronts,
    plot_grid,
    plot_measured,
    plot_published,
    plot_strategies,
    plot_strategy_curves,
)
from dsnn_utils.study.statements import dominating_default, findings
from dsnn_utils.study.strategies import compare_strategies, read_comparison, read_digits_table
from dsnn_utils.study.tables import (
    best_within,
    cost_of_runs,
    finalists,
    finalists_by_seed,
    finals_table,
    modelled_cost_kwh,
    price_claims,
    prices_table,
    second_study,
    tables_beside,
    with_short_names,
)
from dsnn_utils.study.wired import read_adders

__all__ = [
    "PUBLISHED",
    "best_within",
    "compare",
    "compare_strategies",
    "cost_of_runs",
    "dominating_default",
    "final_values",
    "finalists",
    "finalists_by_seed",
    "finals_table",
    "findings",
    "modelled_cost_kwh",
    "plot_finals",
    "plot_fronts",
    "plot_grid",
    "plot_measured",
    "plot_published",
    "plot_strategies",
    "plot_strategy_curves",
    "price_claims",
    "prices_table",
    "published",
    "read_adders",
    "read_comparison",
    "read_digits_table",
    "read_strategies",
    "second_study",
    "strategy_curves",
    "tables_beside",
    "with_short_names",
]
