"""Analysis of a trials table: fronts, choosing from them, importance, fidelity, seeds."""

from dsnn_utils.analysis.choosing import (
    CHOICE_RULES,
    accuracy_drop,
    best_dominating_default,
    choose,
    knee,
    likely_networks,
    plausible_accuracies,
    read_seed_configurations,
    solution_card,
)
from dsnn_utils.analysis.comparing import holm, paired_tests, seeds_needed
from dsnn_utils.analysis.fidelity import TRAINING_FIDELITIES, rank_agreement
from dsnn_utils.analysis.fronts import (
    agreement_of_prices,
    attainment,
    depth_and_bits,
    hypervolume,
    hypervolume_over,
    overview,
    pareto_front,
    reference_point,
    summarise_runs,
)
from dsnn_utils.analysis.influence import ablation_path, importance, partial_dependence
from dsnn_utils.analysis.trainings import (
    accuracy_by_format,
    learning_curves,
    points_table,
    summarise_points,
)

__all__ = [
    "TRAINING_FIDELITIES",
    "CHOICE_RULES",
    "ablation_path",
    "accuracy_by_format",
    "accuracy_drop",
    "agreement_of_prices",
    "attainment",
    "best_dominating_default",
    "choose",
    "depth_and_bits",
    "holm",
    "hypervolume",
    "hypervolume_over",
    "importance",
    "knee",
    "learning_curves",
    "likely_networks",
    "overview",
    "paired_tests",
    "pareto_front",
    "partial_dependence",
    "plausible_accuracies",
    "points_table",
    "rank_agreement",
    "read_seed_configurations",
    "reference_point",
    "seeds_needed",
    "solution_card",
    "summarise_points",
    "summarise_runs",
]
