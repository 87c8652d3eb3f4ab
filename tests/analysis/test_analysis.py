"""Fronts, hypervolume and attainment against brute force and a second library; choosing; errors."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsnn_utils import analysis, project_root, runs
from dsnn_utils.analysis import influence

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
    front = analysis.pareto_front(rows)
    assert sorted(front.index) == expected
    assert front[ENERGY].is_monotonic_increasing


@given(points)
@settings(max_examples=30, deadline=None)
def test_front_agrees_with_optuna(values):
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(directions=["minimize", "minimize"])
    study.add_trials([optuna.trial.create_trial(values=list(p)) for p in values])
    expected = sorted(trial.number for trial in study.best_trials)
    assert sorted(analysis.pareto_front(table(values)).index) == expected


def test_identical_rows_are_kept_once_and_different_networks_each():
    row = table([[0.1, 0.2]])
    same = pd.concat([row, row.assign(trial=7)])  # the index repeats, as after pd.concat
    assert analysis.pareto_front(same)["trial"].tolist() == [0]
    other = pd.concat([row, row.assign(shift_depth=9)])
    assert len(analysis.pareto_front(other)) == 2


@given(points)
def test_hypervolume_agrees_with_brute_force(values):
    assert analysis.hypervolume(table(values), reference=REFERENCE) == pytest.approx(
        box_volume(values), abs=1e-12
    )


@given(st.lists(st.tuples(coarse, coarse, coarse), min_size=1, max_size=12))
@settings(max_examples=30, deadline=None)
def test_hypervolume_of_three_objectives_agrees_with_cells_counted_and_with_optuna(values):
    rows = table([p[:2] for p in values], duration_s=[p[2] for p in values])
    names = ("loss", ENERGY, "duration_s")
    ours = analysis.hypervolume(rows, names, {name: 1.0 for name in names})
    corners = np.stack(np.meshgrid(*[np.arange(12) / 12] * 3), -1).reshape(-1, 3)
    covered = (np.array(values)[:, None] <= corners + 1e-9).all(-1).any(0)
    assert ours == pytest.approx(covered.sum() / 12**3, abs=1e-9)
    wfg = pytest.importorskip("optuna._hypervolume")
    inside = np.array([p for p in values if max(p) <= 1]).reshape(-1, 3)
    theirs = wfg.compute_hypervolume(inside, np.ones(3)) if len(inside) else 0.0
    assert ours == pytest.approx(theirs, abs=1e-9)


@given(points)
@settings(max_examples=40, deadline=None)
def test_hypervolume_over_trials_is_that_of_each_prefix(values):
    rows = table(values).sample(frac=1, random_state=0)  # the order of rows must not matter
    curve = analysis.hypervolume_over(rows, reference=REFERENCE)
    expected = [box_volume(values[: i + 1]) for i in range(len(values))]
    np.testing.assert_allclose(curve["hypervolume"], expected, atol=1e-12)
    assert curve["trial"].tolist() == list(range(1, len(values) + 1))


def test_hypervolume_over_epochs_counts_failed_trials_and_keeps_runs_apart():
    rows = table([[0.5, 0.5], [0.2, 0.2], [0.4, 0.4]], seeds=[0, 0, 1], epochs=[2, 3, 4])
    rows.loc[0, ["status", "loss"]] = ["CRASHED", np.nan]
    curve = analysis.hypervolume_over(rows, "epochs", reference=REFERENCE)
    assert curve["seed"].tolist() == [0, 0, 1]
    assert curve["epochs"].tolist() == [2, 5, 4]
    np.testing.assert_allclose(curve["hypervolume"], [0, 0.64, 0.36])
    both = analysis.hypervolume_over(
        rows.assign(strategy="random"), "duration_s", reference=REFERENCE, by=("strategy", "seed")
    )
    assert both["duration_s"].tolist() == [2.0, 4.0, 2.0]


@given(st.lists(st.tuples(st.integers(0, 2), coarse, coarse), min_size=1, max_size=25))
def test_attainment_agrees_with_counting_seeds(values):
    seeds = [v[0] for v in values]
    rows = table([v[1:] for v in values], seeds)
    fronts = analysis.attainment(rows, percentiles=(0, 50, 100))
    runs = [[v[1:] for v in values if v[0] == seed] for seed in sorted(set(seeds))]
    goals = np.array(list(itertools.product(np.arange(14) / 12, repeat=2)))
    for percentile in (0, 50, 100):
        front = fronts.loc[fronts["percentile"] == percentile, ["loss", ENERGY]].to_numpy()
        needed = max(1, int(np.ceil(percentile / 100 * len(runs))))
        attained = sum(attains(run, goals).astype(int) for run in runs)
        np.testing.assert_array_equal(attained >= needed, attains(front, goals))


def test_attainment_of_percentile_0_is_the_aggregated_front():
    rows = random_table(80, seeds=3)
    merged = analysis.pareto_front(rows)[["loss", ENERGY]].drop_duplicates()
    lowest = analysis.attainment(rows, percentiles=[0])[["loss", ENERGY]]
    np.testing.assert_array_equal(lowest, merged)


def test_attainment_counts_a_seed_without_success():
    rows = table([[0.1, 0.1], [0.2, 0.2], [0.3, 0.3]], seeds=[0, 1, 2])
    rows.loc[2, ["status", "loss"]] = ["CRASHED", np.nan]
    fronts = analysis.attainment(rows, percentiles=(50, 100))
    assert fronts["percentile"].unique().tolist() == [50]
    assert fronts["loss"].tolist() == [0.2]


def test_one_seed_has_one_front_for_all_percentiles():
    fronts = analysis.attainment(random_table(40))
    parts = [part[["loss", ENERGY]].to_numpy() for _, part in fronts.groupby("percentile")]
    assert all(np.array_equal(part, parts[0]) for part in parts)


def test_reference_point_prefers_what_does_not_depend_on_the_run():
    rows = table([[0.2, 1e-4], [0.3, 2e-4]])
    assert analysis.reference_point(rows) == {"loss": 1.0, ENERGY: pytest.approx(2.2e-4)}
    assert analysis.reference_point(rows, plain_energy_j_per_image=5e-4)[ENERGY] == 5e-4
    rows.loc[0, "shift_depth"] = 0
    assert analysis.reference_point(rows)[ENERGY] == 1e-4
    with pytest.raises(ValueError, match="emissions_gco2eq=0.0: must be a positive"):
        analysis.reference_point(rows.assign(emissions_gco2eq=0.0), ("loss", "emissions_gco2eq"))


# --- choosing ------------------------------------------------------------------------------------


def test_knee_is_farthest_below_the_line_between_the_ends():
    rows = random_table(60, seed=3)
    rows[ENERGY] = 1e-4 * (rows[ENERGY] / 1e-4 + (1 - rows["loss"]) ** 3)  # a curved front
    front = analysis.pareto_front(rows)
    assert len(front) > 4
    scaled = front[["loss", ENERGY]].to_numpy()
    scaled = (scaled - scaled.min(0)) / (scaled.max(0) - scaled.min(0))
    distance = (1 - scaled.sum(axis=1)) / np.sqrt(2)
    chosen = front.index.get_loc(analysis.knee(front).name)
    assert distance[chosen] == pytest.approx(distance.max())
    assert analysis.choose(rows, "knee").name == analysis.knee(front).name


def test_knee_of_one_point_and_of_equal_points():
    assert analysis.knee(table([[0.3, 0.4]]))["trial"] == 0
    assert analysis.knee(table([[0.3, 0.4], [0.3, 0.4]]))["trial"] == 0


def test_best_dominating_default_has_the_largest_smallest_gain():
    rows = with_default(table([[0.2, 0.9], [0.35, 0.3], [0.3, 0.5], [0.1, 2.0]]), 0.4, 1.0)
    chosen = analysis.choose(rows, "dominates_default")
    assert chosen["trial"] == 2  # gains 25 % and 50 %; the others gain less in one objective
    with pytest.raises(ValueError, match="dominates the published default"):
        analysis.best_dominating_default(with_default(table([[0.5, 0.1]]), 0.4, 1.0))


def test_default_is_the_full_depth_row_with_median_loss_at_the_highest_fidelity():
    rows = table(
        [[0.1, 1], [0.6, 1], [0.4, 1], [0.5, 1], [0.3, 1]], origin="default", weight_bits=5,
        shift_depth=[3, 20, 20, 20, 20], epochs=[9, 9, 9, 9, 1],
    )  # fmt: skip
    assert runs.default_trial(rows)["loss"] == 0.5
    with pytest.raises(ValueError, match="published default"):
        runs.default_trial(rows[:1])


def test_a_failed_default_only_on_request():
    rows = with_default(table([[0.2, 0.5]]), 0.4, 1.0)
    rows.loc[rows["origin"] == "default", ["status", "loss"]] = ["DIVERGED", np.nan]
    with pytest.raises(ValueError, match="must have a row with origin 'default'"):
        runs.default_trial(rows)
    with pytest.raises(ValueError, match="must have a row with origin 'default'"):
        runs.default_trial(table([[0.2, 0.5]]), even_failed=True)
    failed = runs.default_trial(rows, even_failed=True)
    assert failed["status"] == "DIVERGED" and failed["shift_depth"] == 20
    card = analysis.solution_card(rows, failed)
    assert card["objectives"]["loss"]["value"] is None and card["changes"] is None


def test_budget_and_floor():
    rows = table([[0.1, 5.0], [0.2, 3.0], [0.3, 1.0], [0.25, 3.0]])
    assert analysis.choose(rows, "energy_budget", energy_budget=3.0)["trial"] == 1
    assert analysis.choose(rows, "accuracy_floor", accuracy_floor=0.75)["trial"] == 1
    turned = runs.DEFAULT_OBJECTIVES[::-1]  # the rules do not depend on the order
    assert analysis.choose(rows, "energy_budget", turned, energy_budget=3.0)["trial"] == 1
    assert analysis.choose(rows, "accuracy_floor", turned, accuracy_floor=0.75)["trial"] == 1
    for rule, limit in (("energy_budget", 0.5), ("accuracy_floor", 0.95)):
        with pytest.raises(ValueError, match=rf"{rule}={limit}: must be .*; no row qualifies"):
            analysis.choose(rows, rule, **{rule: limit})
        with pytest.raises(ValueError, match=f"{rule}=None: must be"):
            analysis.choose(rows, rule)
    with pytest.raises(ValueError, match="rule='best': must be one of knee"):
        analysis.choose(rows, "best")


def test_accuracy_drop_takes_the_cheapest_allowed_row_of_each_seed():
    rows = table([[0.10, 4.0], [0.10, 3.0], [0.11, 2.0], [0.3, 1.0], [0.2, 8.0]], [0, 0, 0, 0, 1])
    drops = analysis.accuracy_drop(rows, (0.0, 0.01, 0.5)).set_index(["seed", "drop"])
    assert drops.loc[0, "trial"].tolist() == [1, 2, 3]
    np.testing.assert_allclose(drops.loc[0, "saving"], [0, 1 / 3, 2 / 3])
    assert drops.loc[1, "saving"].tolist() == [0, 0, 0]
    against = analysis.accuracy_drop(rows, (0.0, 0.01, 0.5), baseline=16.0)
    np.testing.assert_allclose(against["saving"], 1 - against[ENERGY] / 16)


def test_plausible_accuracies_spread_as_counting_errors_do():
    rows = table([[0.1, 2.0], [0.0, 1.0]], [0, 1]).assign(val_accuracy=[0.9, 1.0])
    drawn = analysis.plausible_accuracies(rows, 100, draws=2000)
    assert len(drawn) == 4000 and drawn["draw"].nunique() == 4000  # each seed by itself
    first, perfect = (drawn.loc[drawn["seed"] == s, "val_accuracy"] for s in (0, 1))
    assert first.mean() == pytest.approx(0.9, abs=0.01)
    assert first.std() == pytest.approx(np.sqrt(0.9 * 0.1 / 100), rel=0.1)
    assert 0.97 < perfect.quantile(0.05) < 1  # 100 of 100 right is not certainty
    assert (drawn["loss"] == 1 - drawn["val_accuracy"]).all()
    saved = analysis.accuracy_drop(drawn.assign(seed=0), (0.01,), by="draw")
    assert len(saved) == 4000


def test_likely_networks_are_the_most_frequent_answers():
    rows = table([[0.10, 4.0], [0.11, 2.0]])
    rows = pd.concat([rows.assign(draw=d) for d in range(10)])
    rows.loc[(rows["draw"] < 3) & (rows["trial"] == 1), "loss"] = 0.3
    answers = analysis.accuracy_drop(rows, (0.0, 0.02), by="draw", baseline=8.0)
    likely = analysis.likely_networks(answers)
    assert likely["trial"].tolist() == [0, 1] and likely["share"].tolist() == [1.0, 0.7]
    assert likely["saving"].tolist() == [0.5, 0.75]
    assert likely.loc[0.02, ["saving_low", "saving_high"]].tolist() == [0.5, 0.75]


def test_overview_has_a_row_per_trial():
    rows = with_default(table([[0.2, 0.5e-6]]), 0.4, 1e-6)
    rows = rows.assign(seed=0, optimizer="SGD", lr=0.1)
    rows["energy_modelled_with_memory_j_per_image"] = 3 * rows["energy_modelled_j_per_image"]
    shown = analysis.overview(rows)
    assert len(shown) == len(rows) and shown.index.names == ["seed", "trial"]
    assert shown["modelled energy (µJ/image)"].max() == 1.0
    assert shown["with memory (µJ/image)"].max() == 3.0


def test_objectives_of_an_analysis_are_those_of_the_search():
    energy, with_memory = runs.MODELLED_ENERGIES[:2]
    assert runs.modelled_energy_among(["loss", "emissions_gco2eq"]) == energy
    assert runs.modelled_energy_among([with_memory, "loss"]) == with_memory


def test_depth_and_bits_counts_the_front_beside_what_was_tried():
    rows = random_table(60)
    front = analysis.pareto_front(rows)
    counts = analysis.depth_and_bits(front, rows)
    for _, part in counts.groupby("parameter"):
        assert part["front"].sum() == len(front)
        assert part["tried"].sum() == (rows["status"] == "SUCCESS").sum()
        assert (part["front"] <= part["tried"]).all()
    assert set(counts["parameter"]) == {"shift_depth", "weight_bits", "activation_bits"}


def test_solution_card_is_json_and_says_what_changed():
    rows = with_default(table([[0.2, 0.5]]), 0.4, 1.0)
    again = rows.iloc[[1]].assign(seed=1, loss=0.3, val_accuracy=0.7)
    rows = pd.concat([rows, again], ignore_index=True)
    card = analysis.solution_card(rows, rows.iloc[1], validation_size=100)
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
    card = analysis.solution_card(rows, rows.iloc[0])
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
    pairs = analysis.rank_agreement(pd.concat(parts))
    found = {(p.shift_depth, p.full_shift_depth): p.spearman for p in pairs.itertuples()}
    assert found == {
        (2, 7): pytest.approx(1),
        (2, 20): pytest.approx(-1),
        (7, 20): pytest.approx(-1),
    }
    assert (pairs["configurations"] == 6).all()


def test_depth_rank_correlation_is_empty_without_shared_configurations():
    pairs = analysis.rank_agreement(random_table(30))
    assert pairs.empty and "spearman" in pairs


def test_importance_finds_the_hyperparameter_that_matters():
    rng = np.random.default_rng(0)
    rows = random_table(120, seeds=2)
    rows = rows.assign(status="SUCCESS", shift_type="Q", weight_bits=rng.integers(2, 9, 120))
    rows["loss"] = 0.1 * rows["weight_bits"] + 0.001 * rng.random(120)
    result = analysis.importance(rows, "loss")
    assert result["hyperparameter"].iloc[0] == "weight_bits"
    assert result["importance"].iloc[0] > 0.8
    assert result["importance"].sum() == pytest.approx(1)
    assert "shift_type" not in set(result["hyperparameter"])  # never varies
    assert (result["lowest"] <= result["importance"]).all()
    assert (result["highest"] >= result["importance"]).all()
    pd.testing.assert_frame_equal(result, analysis.importance(rows, "loss"))  # the seed decides


def repeated(losses: dict[int, list], seed: int = 0) -> pd.DataFrame:
    """Configurations tried at several depths: {depth: the loss of each, None where not tried}."""
    parts = []
    for depth, values in losses.items():
        rows = table(np.column_stack([values, np.ones(len(values))]).astype(float), seed)
        bits = {"shift_type": "Q", "weight_bits": 4, "activation_fraction_bits": 4}
        parts.append(rows.assign(shift_depth=depth, **bits))
    rows = pd.concat(parts, ignore_index=True)
    return rows.dropna(subset=["loss"])


def test_promotion_report_counts_pairs_without_ties_and_within_a_seed():
    rows = repeated({2: [1, 2, 3, 3, 4], 20: [1, 3, 2, 4, None]})
    (report,) = analysis.rank_agreement(rows).to_dict("records")
    # Pairs of the first four without the tie (3, 3): right are 12, 13, 14, 24; wrong is 23.
    assert [report[n] for n in ("shift_depth", "full_shift_depth", "configurations")] == [2, 20, 4]
    assert (report["pairs"], report["right"], report["share"]) == (5, 4, 0.8)
    z, n, p = 1.959964, 5, 0.8  # Wilson (1927)
    middle, half = p + z**2 / 2 / n, z * np.sqrt(p * (1 - p) / n + z**2 / 4 / n**2)
    ends = [(middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)]
    assert [report["share_low"], report["share_high"]] == pytest.approx(ends)
    both = analysis.rank_agreement(pd.concat([rows, repeated({2: [9, 8], 20: [9, 8]}, seed=1)]))
    assert both[["configurations", "pairs", "right"]].to_numpy().tolist() == [[6, 6, 5]]


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_promotion_report_agrees_with_counting_one_by_one(seed):
    rng = np.random.default_rng(seed)
    losses = {d: rng.integers(0, 4, 7).astype(float) for d in (2, 7, 20)}
    report = analysis.rank_agreement(repeated(losses)).set_index(
        ["shift_depth", "full_shift_depth"]
    )
    for a, b in itertools.combinations(losses, 2):
        pairs = itertools.combinations(zip(losses[a], losses[b], strict=True), 2)
        signs = [(x[0] - y[0]) * (x[1] - y[1]) for x, y in pairs]
        right, wrong = sum(s > 0 for s in signs), sum(s < 0 for s in signs)
        if right + wrong:
            assert report.loc[(a, b), ["pairs", "right"]].tolist() == [right + wrong, right]
        else:
            assert (a, b) not in report.index


def test_promotion_report_is_empty_without_repeated_configurations():
    assert analysis.rank_agreement(random_table(30)).empty
    alone = analysis.rank_agreement(repeated({2: [1.0], 20: [2.0]}))
    assert alone.empty and "share" in alone
    (ties,) = analysis.rank_agreement(repeated({2: [1.0, 1.0], 20: [2.0, 3.0]})).to_dict("records")
    assert (ties["configurations"], ties["pairs"]) == (2, 0) and np.isnan(ties["share"])


# --- predictions ---------------------------------------------------------------------------------


def known_table(n: int = 200, seed: int = 0) -> pd.DataFrame:
    """Loss depends on the optimizer (most), the learning rate and weight bits; energy on depth."""
    rng = np.random.default_rng(seed)
    optimizer = rng.choice(OPTIMIZERS, n)
    lr, bits, depth = 10 ** rng.uniform(-3, -1, n), rng.integers(2, 9, n), rng.integers(1, 21, n)
    loss = 0.4 * (optimizer == "SGD") + 0.1 * np.abs(np.log10(lr) + 2) + 0.01 * (8 - bits)
    rows = table(np.column_stack([loss, 1e-6 * (21 - depth)]), lr=lr, weight_bits=bits,
                 optimizer=optimizer, shift_depth=depth)  # fmt: skip
    momentum = rng.uniform(0, 0.9, n)
    return rows.assign(momentum=np.where(np.isin(optimizer, ["SGD", "RMSprop"]), momentum, np.nan))


KNOWN = known_table()
START = KNOWN[KNOWN["optimizer"] == "SGD"].sort_values("loss").iloc[-1]
TARGET = KNOWN[KNOWN["optimizer"] == "Adam"].sort_values("loss").iloc[0]


def test_ablation_path_begins_with_what_matters_and_ends_at_the_target():
    path = analysis.ablation_path(KNOWN, START, TARGET)
    assert path["hyperparameter"].tolist()[:2] == ["", "optimizer"]
    assert path.loc[1, ["from", "to"]].tolist() == ["SGD", "Adam"]
    assert "momentum" not in set(path["hyperparameter"])  # it goes with the optimizer
    names = ["shift_depth", *[n for n in runs.CONFIGURATION if n in KNOWN]]
    changed = {n for n in names if START[n] != TARGET[n]} - {"momentum"}
    assert set(path["hyperparameter"][1:]) == changed and path["step"].is_monotonic_increasing
    assert path["predicted"].iloc[1] < path["predicted"].iloc[0] - 0.2
    ends = path["observed"].iloc[[0, -1]].tolist()
    assert (
        ends == [START["loss"], TARGET["loss"]] and path["observed"].isna().sum() == len(path) - 2
    )
    assert path["predicted"].iloc[[0, -1]].tolist() == pytest.approx(ends, abs=0.1)
    assert (path["r2"] > 0.7).all() and (path["spread"] >= 0).all()
    pd.testing.assert_frame_equal(path, analysis.ablation_path(KNOWN, START, TARGET))


def known_energy(point) -> float:
    """The energy of `known_table`, as a function of what a modelled energy may depend on."""
    return 1e-6 * (21 - point["shift_depth"])


def test_ablation_path_of_energy_is_calculated():
    start, target = KNOWN.sort_values("shift_depth").iloc[[0, -1]].iloc
    path = analysis.ablation_path(KNOWN, start, target, ENERGY, energy_of=known_energy)
    assert path["hyperparameter"][1] == "shift_depth"
    assert path["predicted"].iloc[0] == path["observed"].iloc[0] == start[ENERGY]
    assert (path["predicted"].iloc[1:] == target[ENERGY]).all()  # no other step is one
    assert (path["spread"] == 0).all() and path["r2"].isna().all()


def test_the_energy_of_a_real_run_is_that_of_its_networks():
    """A forest found the optimizer to save energy in such a run, and more than twice the start."""
    rows = runs.read_trials(project_root() / "figures" / "demo")
    start, target = runs.default_trial(rows), analysis.pareto_front(rows).iloc[0]
    path = analysis.ablation_path(rows, start, target, ENERGY)
    ends = path.iloc[[0, -1]]
    np.testing.assert_allclose(ends["predicted"], ends["observed"].astype(float), rtol=1e-12)
    steps = path.set_index("hyperparameter")["predicted"].diff()
    bits = {"activation_integer_bits", "activation_fraction_bits", "shift_depth"}
    assert set(steps[steps < 0].index) == bits & set(steps.index)
    assert (steps.drop(["", *bits], errors="ignore") == 0).all()
    table = analysis.importance(rows, ENERGY).set_index("hyperparameter")["importance"]
    assert table.index[0] == "shift_depth" and table["optimizer"] == table["lr"] == 0


def test_importance_says_where_a_forest_has_nothing_to_split():
    rows = table([(0.1, 1e-6)] * 8).assign(latency_ms=[0.0] * 7 + [1e-200])
    with pytest.raises(ValueError, match="at least 4 successful rows that differ in latency_ms"):
        analysis.importance(rows, "latency_ms")


def test_the_energy_of_somebody_elses_network_is_estimated():
    rng = np.random.default_rng(0)
    width = rng.uniform(1, 4, 40)
    rows = table(np.column_stack([rng.uniform(0.1, 0.9, 40), 1e-6 * width])).assign(own_width=width)
    found = analysis.importance(rows, ENERGY)  # the formula would not know of the width
    assert found["hyperparameter"][0] == "own_width"


def test_importance_for_energy_is_that_of_the_formula():
    rows = known_table(60).assign(seed=np.arange(60) % 3)
    depth, bits = rows["shift_depth"].agg(["min", "max"]), rows["weight_bits"].agg(["min", "max"])
    table = analysis.importance(
        rows, ENERGY, energy_of=lambda p: 100.0 + 3 * p["shift_depth"] + 10 * p["weight_bits"]
    )
    # The variance of 1..n is (n² - 1) / 12.
    squares = [9 * ((np.ptp(depth) + 1) ** 2 - 1), 100 * ((np.ptp(bits) + 1) ** 2 - 1)]
    found = table.set_index("hyperparameter")
    assert found.loc[["shift_depth", "weight_bits"], "importance"].tolist() == pytest.approx(
        [square / sum(squares) for square in squares]
    )
    others = found["importance"].drop(["shift_depth", "weight_bits"])
    assert len(others) > 2 and others.tolist() == pytest.approx([0] * len(others))
    assert (table["lowest"] == table["highest"]).all() and (table["runs"] == 3).all()
    with pytest.raises(ValueError, match="must vary shift_depth or bits"):
        analysis.importance(rows, ENERGY, energy_of=lambda p: 3.1e-5)


def test_a_fitted_format_has_no_fraction_bits_in_the_energy():
    rows = known_table(60).assign(
        activation_format=["fitted", "fixed"] * 30, activation_integer_bits=8
    )
    rows["activation_fraction_bits"] = np.where(rows["activation_format"] == "fitted", np.nan, 8)
    seen = set()

    def energy_of(point):
        seen.add((point["activation_integer_bits"], point["activation_fraction_bits"]))
        return point["activation_integer_bits"] + point["activation_fraction_bits"]

    table = analysis.importance(rows, ENERGY, energy_of=energy_of).set_index("hyperparameter")
    assert seen == {(16, 0), (8, 0)} and table.loc["activation_format", "importance"] == 1
    found = analysis.partial_dependence(
        rows, ("shift_depth", "activation_bits"), ENERGY, energy_of=energy_of
    )
    assert found["activation_bits"].agg(["min", "max"]).tolist() == [8, 16]


def test_ablation_path_takes_each_time_the_best_of_all_changes():
    path = analysis.ablation_path(KNOWN, START, TARGET)
    surrogate = influence._Surrogate(KNOWN, "loss", 0)
    point, left = START.copy(), path["hyperparameter"].tolist()[1:]
    for name, predicted in zip(left.copy(), path["predicted"][1:], strict=True):
        found = {}
        for other in left:
            changed = point.copy()
            for part in (other, "momentum") if other == "optimizer" else (other,):
                changed[part] = TARGET[part]
            found[other] = surrogate.predict(changed.to_frame().T).mean(), changed
        assert found[name][0] == min(value for value, _ in found.values()) == predicted
        point = found[name][1]
        left.remove(name)


def test_ablation_path_momentum_is_a_step_of_its_own_where_the_optimizer_stays():
    one, other = KNOWN[KNOWN["optimizer"] == "SGD"].iloc[[0, 1]].iloc
    path = analysis.ablation_path(KNOWN, one, other)
    assert "momentum" in set(path["hyperparameter"]) - {"optimizer"}


def test_ablation_path_from_a_failed_default_and_to_itself():
    rows = KNOWN.copy()
    rows.loc[START.name, ["status", "loss"]] = ["DIVERGED", np.nan]
    path = analysis.ablation_path(rows, rows.loc[START.name], TARGET)
    assert np.isnan(path["observed"].iloc[0]) and path["predicted"].notna().all()
    assert analysis.ablation_path(KNOWN, TARGET, TARGET)["hyperparameter"].tolist() == [""]


def test_partial_dependence_is_the_mean_prediction_over_the_trials():
    result = analysis.partial_dependence(KNOWN, ("shift_depth", "weight_bits"))
    assert len(result) == 20 * 7 and (result["r2"] > 0.7).all()
    surrogate = influence._Surrogate(KNOWN, "loss", 0)
    for row in result.sample(4, random_state=0).itertuples():
        filled = KNOWN.assign(shift_depth=row.shift_depth, weight_bits=row.weight_bits)
        assert row.predicted == pytest.approx(surrogate.predict(filled).mean())
    over_bits = result.groupby("weight_bits")["predicted"].mean()
    assert over_bits[2] > over_bits[8] + 0.03
    energy = analysis.partial_dependence(
        KNOWN, ("shift_depth", "lr"), ENERGY, energy_of=known_energy
    )
    assert energy["lr"].nunique() == 20 and (energy["spread"] == 0).all()
    np.testing.assert_allclose(energy["predicted"], 1e-6 * (21 - energy["shift_depth"]))


def test_partial_dependence_of_the_sum_of_activation_bits():
    rng = np.random.default_rng(0)
    rows = known_table(300).assign(activation_integer_bits=rng.integers(2, 33, 300),
                                   activation_fraction_bits=rng.integers(2, 33, 300))  # fmt: skip
    total = rows["activation_integer_bits"] + rows["activation_fraction_bits"]
    rows["loss"] = total / 64
    result = analysis.partial_dependence(rows, ("shift_depth", "activation_bits"))
    over_bits = result.groupby("activation_bits")["predicted"].mean()
    assert (over_bits.index.min(), over_bits.index.max()) == (total.min(), total.max())
    assert np.abs(over_bits - over_bits.index / 64).max() < 0.1
    energy = analysis.partial_dependence(
        rows, ("shift_depth", "activation_bits"), ENERGY,
        energy_of=lambda p: p["activation_integer_bits"] + p["activation_fraction_bits"],
    )  # fmt: skip
    assert energy["predicted"].tolist() == energy["activation_bits"].tolist()  # in whole bits


def test_predictions_stand_failed_trials_one_seed_and_few_trials():
    rows = random_table(30).assign(weight_bits=4)
    assert (rows["status"] != "SUCCESS").any()
    good = rows[rows["status"] == "SUCCESS"]
    path = analysis.ablation_path(rows, good.iloc[0], good.iloc[1])
    pd.testing.assert_frame_equal(path, analysis.ablation_path(good, good.iloc[0], good.iloc[1]))
    assert np.isfinite(analysis.partial_dependence(rows)["predicted"]).all()
    plain = table(np.arange(8).reshape(4, 2)).assign(shift_type=None, weight_bits=np.nan)
    assert len(analysis.ablation_path(plain, plain.iloc[0], plain.iloc[1])) > 1


# --- what real tables contain --------------------------------------------------------------------


def test_failed_trials_never_count():
    rows = table([[0.1, 0.1], [0.5, 0.5], [0.4, 0.6], [0.3, np.inf]])
    rows.loc[0, "status"] = "CRASHED"
    assert analysis.pareto_front(rows)["trial"].tolist() == [1, 2]
    assert analysis.hypervolume(rows, reference=REFERENCE) == pytest.approx(0.29)


def test_a_table_read_back_from_csv_gives_the_same_front(tmp_path):
    rows = random_table(50)
    rows.to_csv(tmp_path / "trials.csv", index=False)
    again = pd.read_csv(tmp_path / "trials.csv")
    assert (
        analysis.pareto_front(again)["trial"].tolist()
        == analysis.pareto_front(rows)["trial"].tolist()
    )


def test_errors_say_what_is_wrong():
    rows = table([[0.1, 0.1]])
    with pytest.raises(ValueError, match=r"objectives=\['val_accuracy', .* must be .* out of loss"):
        analysis.pareto_front(rows, ("val_accuracy", ENERGY))
    with pytest.raises(ValueError, match="objectives='loss': must be a list"):
        analysis.pareto_front(rows, "loss")
    with pytest.raises(ValueError, match=r"must have the columns \['energy_measured_kwh'\]"):
        analysis.pareto_front(rows, ("loss", "energy_measured_kwh"))
    with pytest.raises(ValueError, match="at least one row with status SUCCESS"):
        analysis.pareto_front(rows.assign(status="CRASHED"))
    with pytest.raises(ValueError, match="must be of one data set, these are of digits, cifar10"):
        analysis.pareto_front(pd.concat([rows, rows.assign(dataset="cifar10")]))
    with pytest.raises(ValueError, match="x='trials': must be one of trial"):
        analysis.hypervolume_over(rows, "trials")
    with pytest.raises(ValueError, match="reference=.*must have a value for"):
        analysis.hypervolume(rows, reference={"loss": 1.0})
    with pytest.raises(ValueError, match="percentiles=101"):
        analysis.attainment(rows, percentiles=[101])
    too_few = "at least 4 successful rows that differ in loss"
    with pytest.raises(ValueError, match=rf"{too_few} in one run \(rows with the same seed\); run"):
        analysis.importance(pd.concat([rows, rows.assign(shift_depth=3)]), "loss")
    for function in (
        analysis.partial_dependence,
        lambda t: analysis.ablation_path(t, START, TARGET),
    ):
        with pytest.raises(ValueError, match=f"{too_few}; run more trials"):
            function(KNOWN[:3])
        with pytest.raises(ValueError, match=r"must have the columns \['shift_depth'\]"):
            function(KNOWN.drop(columns="shift_depth"))
        with pytest.raises(ValueError, match=r"must have the columns \['loss'\]"):
            function(KNOWN.drop(columns="loss"))
    with pytest.raises(ValueError, match=r"target=.*must have the hyperparameters \['lr'\]"):
        analysis.ablation_path(KNOWN, START, TARGET.drop("lr"))
    with pytest.raises(ValueError, match="hyperparameters='optimizer': must be one of shift_depth"):
        analysis.partial_dependence(KNOWN, ("shift_depth", "optimizer"))
    with pytest.raises(ValueError, match="hyperparameters=.*must be two different names"):
        analysis.partial_dependence(KNOWN, ("lr", "lr"))
    with pytest.raises(ValueError, match=r"must have the columns \['activation_fraction_bits'\]"):
        rows = KNOWN.drop(columns="activation_fraction_bits")
        analysis.partial_dependence(rows, ("shift_depth", "activation_bits"))
    with pytest.raises(ValueError, match=r"must have the columns \['shift_depth'\]"):
        analysis.rank_agreement(KNOWN.drop(columns="shift_depth"))


def test_ten_thousand_rows_are_analysed_by_every_function():
    rows = random_table(10_000, seeds=3)
    front = analysis.pareto_front(rows)
    everything = runs.successful(rows)[["loss", ENERGY]]
    assert not any(is_dominated(p, everything) for p in front[["loss", ENERGY]].to_numpy())
    assert len(analysis.hypervolume_over(rows)) == 10_000
    assert len(analysis.attainment(rows)) > 3
    assert analysis.knee(rows)["status"] == "SUCCESS"
    assert len(analysis.accuracy_drop(rows)) == 15
    analysis.rank_agreement(rows)
    analysis.solution_card(rows, front.iloc[0])
    assert len(analysis.ablation_path(rows, rows.iloc[0], front.iloc[0])) > 3
    assert len(analysis.partial_dependence(rows, ("shift_depth", "activation_bits"))) > 100
    deep = rows.assign(shift_depth=np.arange(len(rows)) % 2, weight_bits=4, shift_type="Q",
                       activation_fraction_bits=4, lr=np.arange(len(rows)) // 2)  # fmt: skip
    report = analysis.rank_agreement(deep.assign(optimizer="SGD", momentum=0.9))
    assert report["pairs"].sum() > 10_000 and report["share"].between(0.45, 0.55).all()


def test_what_of_a_front_survives_the_other_prices():
    """Four networks: the second leaves the front where it is dearer than the third."""
    loss, first, second = [0.1, 0.2, 0.15, 0.5], [4.0, 1.0, 2.0, 5.0], [4.0, 3.0, 2.0, 5.0]
    energies = dict(zip(runs.under_both_prices("energy_modelled_j_per_image").values(),
                        (first, second), strict=True))  # fmt: skip
    table = pd.DataFrame({"status": "SUCCESS", "loss": loss, "shift_depth": range(4)} | energies)
    found = analysis.agreement_of_prices(table)
    assert found[["front", "front_qtools", "on_both"]].tolist() == [3, 2, 2]
    assert found["front_survives"] == pytest.approx(2 / 3)
    assert found["pairs_alike"] == pytest.approx(5 / 6)  # all pairs but that of the two
    assert found["front_pairs_alike"] == pytest.approx(2 / 3)
