"""Fronts, hypervolume and attainment against brute force and a second library; choosing; errors."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsnn_utils import pareto

ENERGY = "energy_modelled_j_per_image"
OPTIMIZERS = ("SGD", "Adam", "RMSprop", "Ranger")


def table(points, seeds=None, **columns) -> pd.DataFrame:
    """A trials table with the given (loss, energy) points."""
    points = np.asarray(points, float).reshape(-1, 2)
    n = len(points)
    rows = pd.DataFrame(
        {
            "trial": np.arange(n),
            "seed": 0 if seeds is None else seeds,
            "status": "SUCCESS",
            "origin": "model",
            "dataset": "digits",
            "model": "resnet20",
            "shift_depth": 1 + np.arange(n) % 20,
            "max_shift_depth": 20,
            "shift_type": np.where(np.arange(n) % 2, "Q", "PS"),
            "weight_bits": 2 + np.arange(n) % 7,
            "activation_integer_bits": 4,
            "activation_fraction_bits": 2 + np.arange(n) % 9,
            "lr": 0.1 / (1 + np.arange(n)),
            "momentum": np.where(np.arange(n) % 3, np.nan, 0.9),
            "epochs": 3,
            "val_accuracy": 1 - points[:, 0],
            "loss": points[:, 0],
            ENERGY: points[:, 1],
            "emissions_gco2eq": 0.2,
            "duration_s": 2.0,
        }
    )
    return rows.assign(**columns)


def random_table(n: int, seed: int = 0, seeds: int = 1) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    points = np.column_stack([rng.uniform(0, 1, n), rng.uniform(1e-6, 2e-4, n)]).round(6)
    rows = table(points, rng.integers(0, seeds, n), optimizer=rng.choice(OPTIMIZERS, n))
    failed = rng.random(n) < 0.1
    rows.loc[failed, ["loss", "val_accuracy", ENERGY]] = np.nan
    rows.loc[failed, "status"] = "DIVERGED"
    return rows


def with_default(rows: pd.DataFrame, loss: float, energy: float) -> pd.DataFrame:
    default = table([[loss, energy]], origin="default", shift_depth=20, weight_bits=5)
    return pd.concat([default.assign(trial=-1), rows], ignore_index=True)


def is_dominated(point, others) -> bool:
    others = np.asarray(others, float)
    return bool(((others <= point).all(axis=1) & (others < point).any(axis=1)).any())


def box_volume(points, reference=1.0) -> float:
    """Union of the boxes [point, reference] in two dimensions, slab by slab."""
    edges = sorted({min(x, reference) for x, _ in points} | {reference})
    volume = 0.0
    for left, right in itertools.pairwise(edges):
        heights = [reference - y for x, y in points if x <= left and y < reference]
        volume += (right - left) * max(heights, default=0.0)
    return volume


def attains(points, goals) -> np.ndarray:
    """For each goal, whether some point is at least as good in everything."""
    points = np.asarray(points, float).reshape(-1, 1, 2)
    return (points <= goals).all(axis=-1).any(axis=0)


# A coarse grid gives many ties and duplicates; 13 of 12 lies beyond the reference point.
coarse = st.integers(1, 13).map(lambda i: i / 12)
points = st.lists(st.tuples(coarse, coarse), min_size=1, max_size=25)
REFERENCE = {"loss": 1.0, ENERGY: 1.0}


@given(points)
def test_front_agrees_with_brute_force_and_keeps_ties(values):
    rows = table(values)
    expected = [i for i, p in enumerate(values) if not is_dominated(p, values)]
    front = pareto.pareto_front(rows)
    assert sorted(front.index) == expected
    assert front[ENERGY].is_monotonic_increasing


@given(points)
@settings(max_examples=30)
def test_front_agrees_with_optuna(values):
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(directions=["minimize", "minimize"])
    study.add_trials([optuna.trial.create_trial(values=list(p)) for p in values])
    expected = sorted(trial.number for trial in study.best_trials)
    assert sorted(pareto.pareto_front(table(values)).index) == expected


def test_identical_rows_are_kept_once_and_different_networks_each():
    row = table([[0.1, 0.2]])
    same = pd.concat([row, row.assign(trial=7)])  # the index repeats, as after pd.concat
    assert pareto.pareto_front(same)["trial"].tolist() == [0]
    other = pd.concat([row, row.assign(shift_depth=9)])
    assert len(pareto.pareto_front(other)) == 2


@given(points)
def test_hypervolume_agrees_with_brute_force(values):
    assert pareto.hypervolume(table(values), reference=REFERENCE) == pytest.approx(
        box_volume(values), abs=1e-12
    )


@given(st.lists(st.tuples(coarse, coarse, coarse), min_size=1, max_size=12))
@settings(max_examples=30)
def test_hypervolume_of_three_objectives_agrees_with_cells_counted_and_with_optuna(values):
    rows = table([p[:2] for p in values], duration_s=[p[2] for p in values])
    names = ("loss", ENERGY, "duration_s")
    ours = pareto.hypervolume(rows, names, {name: 1.0 for name in names})
    corners = np.stack(np.meshgrid(*[np.arange(12) / 12] * 3), -1).reshape(-1, 3)
    covered = (np.array(values)[:, None] <= corners + 1e-9).all(-1).any(0)
    assert ours == pytest.approx(covered.sum() / 12**3, abs=1e-9)
    wfg = pytest.importorskip("optuna._hypervolume")
    inside = np.array([p for p in values if max(p) <= 1]).reshape(-1, 3)
    theirs = wfg.compute_hypervolume(inside, np.ones(3)) if len(inside) else 0.0
    assert ours == pytest.approx(theirs, abs=1e-9)


@given(points)
@settings(max_examples=40)
def test_hypervolume_over_trials_is_that_of_each_prefix(values):
    rows = table(values).sample(frac=1, random_state=0)  # the order of rows must not matter
    curve = pareto.hypervolume_over(rows, reference=REFERENCE)
    expected = [box_volume(values[: i + 1]) for i in range(len(values))]
    np.testing.assert_allclose(curve["hypervolume"], expected, atol=1e-12)
    assert curve["trial"].tolist() == list(range(1, len(values) + 1))


def test_hypervolume_over_epochs_counts_failed_trials_and_keeps_runs_apart():
    rows = table([[0.5, 0.5], [0.2, 0.2], [0.4, 0.4]], seeds=[0, 0, 1], epochs=[2, 3, 4])
    rows.loc[0, ["status", "loss"]] = ["CRASHED", np.nan]
    curve = pareto.hypervolume_over(rows, "epochs", reference=REFERENCE)
    assert curve["seed"].tolist() == [0, 0, 1]
    assert curve["epochs"].tolist() == [2, 5, 4]
    np.testing.assert_allclose(curve["hypervolume"], [0, 0.64, 0.36])
    both = pareto.hypervolume_over(
        rows.assign(strategy="random"), "duration_s", reference=REFERENCE, by=("strategy", "seed")
    )
    assert both["duration_s"].tolist() == [2.0, 4.0, 2.0]


@given(st.lists(st.tuples(st.integers(0, 2), coarse, coarse), min_size=1, max_size=25))
def test_attainment_agrees_with_counting_seeds(values):
    seeds = [v[0] for v in values]
    rows = table([v[1:] for v in values], seeds)
    fronts = pareto.attainment(rows, percentiles=(0, 50, 100))
    runs = [[v[1:] for v in values if v[0] == seed] for seed in sorted(set(seeds))]
    goals = np.array(list(itertools.product(np.arange(14) / 12, repeat=2)))
    for percentile in (0, 50, 100):
        front = fronts.loc[fronts["percentile"] == percentile, ["loss", ENERGY]].to_numpy()
        needed = max(1, int(np.ceil(percentile / 100 * len(runs))))
        attained = sum(attains(run, goals).astype(int) for run in runs)
        np.testing.assert_array_equal(attained >= needed, attains(front, goals))


def test_attainment_of_percentile_0_is_the_aggregated_front():
    rows = random_table(80, seeds=3)
    merged = pareto.pareto_front(rows)[["loss", ENERGY]].drop_duplicates()
    lowest = pareto.attainment(rows, percentiles=[0])[["loss", ENERGY]]
    np.testing.assert_array_equal(lowest, merged)


def test_attainment_counts_a_seed_without_success():
    rows = table([[0.1, 0.1], [0.2, 0.2], [0.3, 0.3]], seeds=[0, 1, 2])
    rows.loc[2, ["status", "loss"]] = ["CRASHED", np.nan]
    fronts = pareto.attainment(rows, percentiles=(50, 100))
    assert fronts["percentile"].unique().tolist() == [50]
    assert fronts["loss"].tolist() == [0.2]


def test_one_seed_has_one_front_for_all_percentiles():
    fronts = pareto.attainment(random_table(40))
    parts = [part[["loss", ENERGY]].to_numpy() for _, part in fronts.groupby("percentile")]
    assert all(np.array_equal(part, parts[0]) for part in parts)


def test_reference_point_prefers_what_does_not_depend_on_the_run():
    rows = table([[0.2, 1e-4], [0.3, 2e-4]])
    assert pareto.reference_point(rows) == {"loss": 1.0, ENERGY: pytest.approx(2.2e-4)}
    assert pareto.reference_point(rows, plain_energy_j_per_image=5e-4)[ENERGY] == 5e-4
    rows.loc[0, "shift_depth"] = 0
    assert pareto.reference_point(rows)[ENERGY] == 1e-4
    with pytest.raises(ValueError, match="emissions_gco2eq=0.0: must be a positive"):
        pareto.reference_point(rows.assign(emissions_gco2eq=0.0), ("loss", "emissions_gco2eq"))


# --- choosing ------------------------------------------------------------------------------------


def test_knee_is_farthest_below_the_line_between_the_ends():
    rows = random_table(60, seed=3)
    rows[ENERGY] = 1e-4 * (rows[ENERGY] / 1e-4 + (1 - rows["loss"]) ** 3)  # a curved front
    front = pareto.pareto_front(rows)
    assert len(front) > 4
    scaled = front[["loss", ENERGY]].to_numpy()
    scaled = (scaled - scaled.min(0)) / (scaled.max(0) - scaled.min(0))
    distance = (1 - scaled.sum(axis=1)) / np.sqrt(2)
    chosen = front.index.get_loc(pareto.knee(front).name)
    assert distance[chosen] == pytest.approx(distance.max())
    assert pareto.choose(rows, "knee").name == pareto.knee(front).name


def test_knee_of_one_point_and_of_equal_points():
    assert pareto.knee(table([[0.3, 0.4]]))["trial"] == 0
    assert pareto.knee(table([[0.3, 0.4], [0.3, 0.4]]))["trial"] == 0


def test_best_dominating_default_has_the_largest_smallest_gain():
    rows = with_default(table([[0.2, 0.9], [0.35, 0.3], [0.3, 0.5], [0.1, 2.0]]), 0.4, 1.0)
    chosen = pareto.choose(rows, "dominates_default")
    assert chosen["trial"] == 2  # gains 25 % and 50 %; the others gain less in one objective
    with pytest.raises(ValueError, match="dominates the published default"):
        pareto.best_dominating_default(with_default(table([[0.5, 0.1]]), 0.4, 1.0))


def test_default_is_the_full_depth_row_with_median_loss_at_the_highest_fidelity():
    rows = table(
        [[0.1, 1], [0.6, 1], [0.4, 1], [0.5, 1], [0.3, 1]], origin="default", weight_bits=5,
        shift_depth=[3, 20, 20, 20, 20], epochs=[9, 9, 9, 9, 1],
    )  # fmt: skip
    assert pareto.default_trial(rows)["loss"] == 0.5
    with pytest.raises(ValueError, match="published default"):
        pareto.default_trial(rows[:1])


def test_a_failed_default_only_on_request():
    rows = with_default(table([[0.2, 0.5]]), 0.4, 1.0)
    rows.loc[rows["origin"] == "default", ["status", "loss"]] = ["DIVERGED", np.nan]
    with pytest.raises(ValueError, match="must have a row with origin 'default'"):
        pareto.default_trial(rows)
    failed = pareto.default_trial(rows, even_failed=True)
    assert failed["status"] == "DIVERGED" and failed["shift_depth"] == 20
    card = pareto.solution_card(rows, failed)
    assert card["objectives"]["loss"]["value"] is None and card["changes"] is None


def test_budget_and_floor():
    rows = table([[0.1, 5.0], [0.2, 3.0], [0.3, 1.0], [0.25, 3.0]])
    assert pareto.choose(rows, "energy_budget", energy_budget=3.0)["trial"] == 1
    assert pareto.choose(rows, "accuracy_floor", accuracy_floor=0.75)["trial"] == 1
    for rule, limit in (("energy_budget", 0.5), ("accuracy_floor", 0.95)):
        with pytest.raises(ValueError, match=rf"{rule}={limit}: must be .*; no row qualifies"):
            pareto.choose(rows, rule, **{rule: limit})
        with pytest.raises(ValueError, match=f"{rule}=None: must be"):
            pareto.choose(rows, rule)
    with pytest.raises(ValueError, match="rule='best': must be one of knee"):
        pareto.choose(rows, "best")


def test_accuracy_drop_takes_the_cheapest_allowed_row_of_each_seed():
    rows = table([[0.10, 4.0], [0.10, 3.0], [0.11, 2.0], [0.3, 1.0], [0.2, 8.0]], [0, 0, 0, 0, 1])
    drops = pareto.accuracy_drop(rows, (0.0, 0.01, 0.5)).set_index(["seed", "drop"])
    assert drops.loc[0, "trial"].tolist() == [1, 2, 3]
    np.testing.assert_allclose(drops.loc[0, "saving"], [0, 1 / 3, 2 / 3])
    assert drops.loc[1, "saving"].tolist() == [0, 0, 0]
    against = pareto.accuracy_drop(rows, (0.0, 0.01, 0.5), baseline=16.0)
    np.testing.assert_allclose(against["saving"], 1 - against[ENERGY] / 16)


def test_plausible_accuracies_spread_as_counting_errors_do():
    rows = table([[0.1, 2.0], [0.0, 1.0]], [0, 1]).assign(val_accuracy=[0.9, 1.0])
    drawn = pareto.plausible_accuracies(rows, 100, draws=2000)
    assert len(drawn) == 4000 and drawn["draw"].nunique() == 4000  # each seed by itself
    first, perfect = (drawn.loc[drawn["seed"] == s, "val_accuracy"] for s in (0, 1))
    assert first.mean() == pytest.approx(0.9, abs=0.01)
    assert first.std() == pytest.approx(np.sqrt(0.9 * 0.1 / 100), rel=0.1)
    assert 0.97 < perfect.quantile(0.05) < 1  # 100 of 100 right is not certainty
    assert (drawn["loss"] == 1 - drawn["val_accuracy"]).all()
    saved = pareto.accuracy_drop(drawn.assign(seed=0), (0.01,), by="draw")
    assert len(saved) == 4000


def test_likely_networks_are_the_most_frequent_answers():
    rows = table([[0.10, 4.0], [0.11, 2.0]])
    rows = pd.concat([rows.assign(draw=d) for d in range(10)])
    rows.loc[(rows["draw"] < 3) & (rows["trial"] == 1), "loss"] = 0.3
    answers = pareto.accuracy_drop(rows, (0.0, 0.02), by="draw", baseline=8.0)
    likely = pareto.likely_networks(answers)
    assert likely["trial"].tolist() == [0, 1] and likely["share"].tolist() == [1.0, 0.7]
    assert likely["saving"].tolist() == [0.5, 0.75]
    assert likely.loc[0.02, ["saving_low", "saving_high"]].tolist() == [0.5, 0.75]


def test_overview_has_a_row_per_trial():
    rows = with_default(table([[0.2, 0.5e-6]]), 0.4, 1e-6)
    rows = rows.assign(seed=0, optimizer="SGD", lr=0.1)
    shown = pareto.overview(rows)
    assert len(shown) == len(rows) and shown.index.names == ["seed", "trial"]
    assert shown["modelled energy (µJ/image)"].max() == 1.0


def test_depth_and_bits_counts_the_front_beside_what_was_tried():
    rows = random_table(60)
    front = pareto.pareto_front(rows)
    counts = pareto.depth_and_bits(front, rows)
    for _, part in counts.groupby("parameter"):
        assert part["front"].sum() == len(front)
        assert part["tried"].sum() == (rows["status"] == "SUCCESS").sum()
        assert (part["front"] <= part["tried"]).all()
    assert set(counts["parameter"]) == {"shift_depth", "weight_bits", "activation_bits"}


def test_solution_card_is_json_and_says_what_changed():
    rows = with_default(table([[0.2, 0.5]]), 0.4, 1.0)
    again = rows.iloc[[1]].assign(seed=1, loss=0.3, val_accuracy=0.7)
    rows = pd.concat([rows, again], ignore_index=True)
    card = pareto.solution_card(rows, rows.iloc[1], validation_size=100)
    assert json.loads(json.dumps(card, allow_nan=False)) == card
    assert card["objectives"]["loss"] == {
        "value": 0.2, "mean": 0.25, "lowest": 0.2, "highest": 0.3, "seeds": 2,
    }  # fmt: skip
    assert card["gains_percent"] == {"loss": 50, ENERGY: 50}
    assert card["changes"]["shift_depth"] == {"default": 20, "chosen": 1}
    assert "lr" not in card["changes"]
    low, high = card["val_accuracy_interval"]
    assert low == pytest.approx(0.7112, abs=1e-4) and high == pytest.approx(0.8666, abs=1e-4)


def test_solution_card_without_a_default():
    rows = table([[0.2, 0.5]], momentum=np.nan)
    card = pareto.solution_card(rows, rows.iloc[0])
    assert card["default"] is None and card["gains_percent"] is None
    assert card["configuration"]["momentum"] is None


# --- fidelity and importance ---------------------------------------------------------------------


def test_depth_rank_correlation_finds_agreement_and_reversal():
    configurations = np.arange(6)
    parts = []
    for depth, loss in ((2, configurations), (7, configurations**2), (20, -configurations)):
        part = table(np.column_stack([1 + loss, np.ones(6)]), weight_bits=4, shift_type="Q",
                     activation_fraction_bits=4)  # fmt: skip
        parts.append(part.assign(shift_depth=depth))
    pairs = pareto.depth_rank_correlation(pd.concat(parts))
    found = {(p.low_depth, p.high_depth): p.spearman for p in pairs.itertuples()}
    assert found == {
        (2, 7): pytest.approx(1),
        (2, 20): pytest.approx(-1),
        (7, 20): pytest.approx(-1),
    }
    assert (pairs["configurations"] == 6).all()


def test_depth_rank_correlation_is_empty_without_shared_configurations():
    pairs = pareto.depth_rank_correlation(random_table(30))
    assert pairs.empty and "spearman" in pairs


def test_importance_finds_the_hyperparameter_that_matters():
    rng = np.random.default_rng(0)
    rows = random_table(120, seeds=2)
    rows = rows.assign(status="SUCCESS", shift_type="Q", weight_bits=rng.integers(2, 9, 120))
    rows["loss"] = 0.1 * rows["weight_bits"] + 0.001 * rng.random(120)
    result = pareto.importance(rows, "loss")
    assert result["hyperparameter"].iloc[0] == "weight_bits"
    assert result["importance"].iloc[0] > 0.8
    assert result["importance"].sum() == pytest.approx(1)
    assert "shift_type" not in set(result["hyperparameter"])  # never varies
    assert (result["lowest"] <= result["importance"]).all()
    assert (result["highest"] >= result["importance"]).all()
    pd.testing.assert_frame_equal(result, pareto.importance(rows, "loss"))  # the seed decides


# --- what real tables contain --------------------------------------------------------------------


def test_failed_trials_never_count():
    rows = table([[0.1, 0.1], [0.5, 0.5], [0.4, 0.6], [0.3, np.inf]])
    rows.loc[0, "status"] = "CRASHED"
    assert pareto.pareto_front(rows)["trial"].tolist() == [1, 2]
    assert pareto.hypervolume(rows, reference=REFERENCE) == pytest.approx(0.29)


def test_a_table_read_back_from_csv_gives_the_same_front(tmp_path):
    rows = random_table(50)
    rows.to_csv(tmp_path / "trials.csv", index=False)
    again = pd.read_csv(tmp_path / "trials.csv")
    assert (
        pareto.pareto_front(again)["trial"].tolist() == pareto.pareto_front(rows)["trial"].tolist()
    )


def test_errors_say_what_is_wrong():
    rows = table([[0.1, 0.1]])
    with pytest.raises(ValueError, match="'val_accuracy': must be one of loss"):
        pareto.pareto_front(rows, ("val_accuracy", ENERGY))
    with pytest.raises(ValueError, match="objectives='loss': must be a sequence"):
        pareto.pareto_front(rows, "loss")
    with pytest.raises(ValueError, match=r"must have the columns \['energy_measured_kwh'\]"):
        pareto.pareto_front(rows, ("loss", "energy_measured_kwh"))
    with pytest.raises(ValueError, match="at least one row with status SUCCESS"):
        pareto.pareto_front(rows.assign(status="CRASHED"))
    with pytest.raises(ValueError, match="must be of one data set, these are of digits, cifar10"):
        pareto.pareto_front(pd.concat([rows, rows.assign(dataset="cifar10")]))
    with pytest.raises(ValueError, match="x='trials': must be one of trial"):
        pareto.hypervolume_over(rows, "trials")
    with pytest.raises(ValueError, match="reference=.*must have a value for"):
        pareto.hypervolume(rows, reference={"loss": 1.0})
    with pytest.raises(ValueError, match="percentiles=101"):
        pareto.attainment(rows, percentiles=[101])
    with pytest.raises(ValueError, match="at least 4 successful rows"):
        pareto.importance(pd.concat([rows, rows.assign(shift_depth=3)]), "loss")


def test_ten_thousand_rows_are_analysed_by_every_function():
    rows = random_table(10_000, seeds=3)
    front = pareto.pareto_front(rows)
    everything = pareto.successful(rows)[["loss", ENERGY]]
    assert not any(is_dominated(p, everything) for p in front[["loss", ENERGY]].to_numpy())
    assert len(pareto.hypervolume_over(rows)) == 10_000
    assert len(pareto.attainment(rows)) > 3
    assert pareto.knee(rows)["status"] == "SUCCESS"
    assert len(pareto.accuracy_drop(rows)) == 15
    pareto.depth_rank_correlation(rows)
    pareto.solution_card(rows, front.iloc[0])
