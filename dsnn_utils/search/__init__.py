"""The search: a space, strategies that propose from it, trials, and the loop that runs them."""

from dsnn_utils.search.given import (
    complete_points,
    grid_points,
    measure_points,
    random_points,
    train_points,
)
from dsnn_utils.search.loop import search
from dsnn_utils.search.settings import SearchSettings
from dsnn_utils.search.space import (
    dsnn_space,
    known_good_configurations,
    make_fidelity,
    published_default,
    space_table,
    to_spec,
)
from dsnn_utils.search.strategies import STRATEGIES, hyperband_plan, register_strategy
from dsnn_utils.search.trial import (
    Recipe,
    TargetFunction,
    build_network,
    check_files,
    complete_energies,
    depth_bound,
    energy_function,
    energy_of_trials,
    run_trial,
    why_not_rebuilt,
)

__all__ = [
    "Recipe",
    "STRATEGIES",
    "SearchSettings",
    "TargetFunction",
    "build_network",
    "check_files",
    "complete_energies",
    "complete_points",
    "depth_bound",
    "dsnn_space",
    "energy_function",
    "energy_of_trials",
    "grid_points",
    "hyperband_plan",
    "known_good_configurations",
    "make_fidelity",
    "measure_points",
    "published_default",
    "random_points",
    "register_strategy",
    "run_trial",
    "search",
    "space_table",
    "to_spec",
    "train_points",
    "why_not_rebuilt",
]
