"""Cheap trainings against full ones: correlations as SciPy finds them, costs, failures."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from dsnn_utils.analysis import TRAINING_FIDELITIES, rank_agreement


def fidelity_table(noise: dict[tuple, float], configurations: int = 12) -> pd.DataFrame:
    """Configurations with a true loss each, seen at several fidelities through noise."""
    rng = np.random.default_rng(0)
    true = rng.uniform(0.2, 0.6, configurations)
    rows = []
    for (depth, epochs, share), spread in noise.items():
        for number, loss in enumerate(true + spread * rng.normal(size=configurations)):
            rows.append(
                {"seed": 0, "status": "SUCCESS", "lr": 0.01 * (1 + number), "momentum": np.nan,
                 "shift_depth": depth, "epochs": epochs, "data_fraction": share, "loss": loss,
                 "duration_s": 10.0 * epochs * share}
            )  # fmt: skip
    return pd.DataFrame(rows)


FULL, SHALLOW, SHORT = (20, 3, 1.0), (2, 3, 1.0), (20, 1, 1.0)


def against_full(trials: pd.DataFrame, draws: int = 20) -> pd.DataFrame:
    return rank_agreement(trials, TRAINING_FIDELITIES, full_only=True, draws=draws)


def test_rank_correlation_with_the_full_training_and_its_cost():
    trials = fidelity_table({FULL: 0.0, SHALLOW: 0.3, SHORT: 0.01, (20, 3, 0.25): 0.0})
    names = list(TRAINING_FIDELITIES)
    table = against_full(trials, draws=200).set_index(names)
    assert len(table) == 3 and table["configurations"].eq(12).all()
    losses = {key: rows["loss"].tolist() for key, rows in trials.groupby(names)}
    for fidelity, row in table.iterrows():
        assert row["spearman"] == pytest.approx(spearmanr(losses[fidelity], losses[FULL])[0])
        assert row["low"] <= row["spearman"] <= row["high"]
    assert table.loc[(20, 3, 0.25), "spearman"] == 1
    assert table.loc[SHALLOW, "spearman"] < table.loc[SHORT, "spearman"]
    assert table["cost"].to_dict() == pytest.approx({SHALLOW: 1, SHORT: 1 / 3, (20, 3, 0.25): 0.25})


def test_a_failed_training_ranks_last_and_a_constant_side_has_no_correlation():
    trials = fidelity_table({FULL: 0.0, SHALLOW: 0.0})
    worst = trials.groupby("shift_depth")["loss"].idxmax()
    failed = trials.assign(status=np.where(trials.index == worst[2], "DIVERGED", "SUCCESS"))
    failed.loc[worst[2], "loss"] = np.nan
    assert against_full(failed)["spearman"].tolist() == [1.0]
    constant = trials.assign(loss=trials["loss"].where(trials["shift_depth"] == 20, 0.5))
    assert against_full(constant)["spearman"].isna().all()


def test_without_full_trainings_nothing_is_compared():
    trials = fidelity_table({(20, 1, 1.0): 0.0, (2, 3, 1.0): 0.0})
    with pytest.raises(ValueError, match="must hold at least 3 configurations at"):
        against_full(trials)
