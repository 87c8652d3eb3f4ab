"""Every figure of the notebooks, in one style, and tables for papers.

Each function takes plain data (a trials table, a dict of arrays) and returns a `DualFigure`: a
static matplotlib figure for papers, GitHub and HTML export, and for the figures one explores also
an interactive plotly figure. Every axis carries its unit.
"""

from dsnn_utils.plots.choosing import (
    plot_accuracy_drop,
    plot_depth_and_bits,
    plot_parallel,
    plot_tradeoff,
)
from dsnn_utils.plots.energy import (
    plot_break_even,
    plot_energy_by_kind,
    plot_energy_depth,
    plot_grids,
    plot_noise,
    plot_ways,
)
from dsnn_utils.plots.explorer import explore, plot_format
from dsnn_utils.plots.fidelity import plot_fidelities, plot_rank_correlation, plot_right_pairs
from dsnn_utils.plots.front import LiveFront, plot_front
from dsnn_utils.plots.influence import plot_ablation, plot_importance, plot_partial_dependence
from dsnn_utils.plots.latex import latex_table, latex_text
from dsnn_utils.plots.networks import plot_network, plot_rounding, plot_rounding_bias, plot_weights
from dsnn_utils.plots.predictions import plot_confusions, plot_images, plot_mistakes
from dsnn_utils.plots.search import plot_hypervolume, plot_space
from dsnn_utils.plots.style import (
    CATEGORIES,
    ONE_COLUMN,
    TWO_COLUMNS,
    DualFigure,
    axis_label,
    draw,
    use_style,
)
from dsnn_utils.plots.training import plot_formats, plot_learning_curves, plot_training

__all__ = [
    "CATEGORIES",
    "DualFigure",
    "LiveFront",
    "ONE_COLUMN",
    "TWO_COLUMNS",
    "axis_label",
    "draw",
    "explore",
    "latex_table",
    "latex_text",
    "plot_ablation",
    "plot_accuracy_drop",
    "plot_break_even",
    "plot_confusions",
    "plot_depth_and_bits",
    "plot_energy_by_kind",
    "plot_energy_depth",
    "plot_fidelities",
    "plot_front",
    "plot_grids",
    "plot_hypervolume",
    "plot_images",
    "plot_importance",
    "plot_format",
    "plot_formats",
    "plot_learning_curves",
    "plot_mistakes",
    "plot_network",
    "plot_noise",
    "plot_parallel",
    "plot_partial_dependence",
    "plot_rank_correlation",
    "plot_right_pairs",
    "plot_rounding",
    "plot_rounding_bias",
    "plot_space",
    "plot_tradeoff",
    "plot_training",
    "plot_ways",
    "plot_weights",
    "use_style",
]
