"""Runs: the trials table with its vocabulary, and the directory that holds it."""

from dsnn_utils.runs.columns import (
    ACTIVATION_BITS,
    COLUMNS,
    CONFIGURATION,
    DEFAULT_OBJECTIVES,
    EXTENSIONS,
    HYPERPARAMETERS,
    MEASURED,
    MODELLED_ENERGIES,
    OBJECTIVES,
    check_objectives,
    cost_among,
    loss_among,
    modelled_energy_among,
    under_both_prices,
)
from dsnn_utils.runs.directory import environment, find_run, find_runs, read_settings, seed_dir
from dsnn_utils.runs.rows import configuration_columns, default_rows, default_trial, successful
from dsnn_utils.runs.table import read_runs, read_trials, to_python, write_trials

__all__ = [
    "ACTIVATION_BITS",
    "COLUMNS",
    "CONFIGURATION",
    "DEFAULT_OBJECTIVES",
    "EXTENSIONS",
    "HYPERPARAMETERS",
    "MEASURED",
    "MODELLED_ENERGIES",
    "OBJECTIVES",
    "check_objectives",
    "configuration_columns",
    "cost_among",
    "default_rows",
    "default_trial",
    "environment",
    "find_run",
    "find_runs",
    "loss_among",
    "modelled_energy_among",
    "read_runs",
    "read_settings",
    "read_trials",
    "seed_dir",
    "successful",
    "to_python",
    "under_both_prices",
    "write_trials",
]
