"""Training given networks: completing points, resuming, adding seeds, summarising."""

import math
import os

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dsnn_utils import plots
from dsnn_utils.analysis import accuracy_by_format, learning_curves, points_table, summarise_points
from dsnn_utils.runs import EXTENSIONS, read_trials
from dsnn_utils.runs.columns import COMPUTE_ENERGY
from dsnn_utils.search import (
    complete_points,
    grid_points,
    published_default,
    random_points,
    train_points,
)


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


class Target:
    """Counts its calls; the result depends on point and seed alone."""

    def __init__(self, fail_at=None):
        self.calls, self.fail_at = [], fail_at

    def __call__(self, point, seed):
        self.calls.append((point["shift_depth"], seed))
        if len(self.calls) == self.fail_at:
            raise RuntimeError("broken")
        accuracy = 0.9 - 0.01 * point["shift_depth"] + 0.001 * seed
        energy = 1e-6 * (21 - point["shift_depth"])
        return {"loss": 1 - accuracy, "val_accuracy": accuracy, "test_accuracy": accuracy - 0.1,
                "energy_modelled_j_per_image": energy, "dataset": "synthetic"}  # fmt: skip


POINTS = complete_points([{"label": "default"}, {"shift_depth": 0}, {"shift_depth": 7}], 20, 4)


def test_points_are_completed_with_the_default():
    default, plain, seven = POINTS
    published = published_default(20, 4) | EXTENSIONS
    assert default == published | {"data_fraction": 1.0, "label": "default"}
    assert (plain["shift_depth"], seven["shift_depth"], plain["label"]) == (0, 7, "given")
    (adam,) = complete_points([{"optimizer": "Adam", "epochs": 9}], 20, 4)
    assert "momentum" not in adam and adam["epochs"] == 9


def test_fitted_formats_and_integers_are_completed_with_what_they_have():
    width, both, integer = complete_points(
        [
            {"activation_format": "fitted", "activation_integer_bits": 4},
            {"activation_format": "fitted", "activation_fraction_bits": 2},
            {"arithmetic": "integer"},
        ],
        20,
        4,
    )
    assert [p["activation_fraction_bits"] for p in (width, both, integer)] == [0, 2, 16]
    assert integer["weight_scale"] == "channel" and not {"shift_type", "rounding"} & integer.keys()


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ({"width": 2}, "points: 'width': must be one of"),
        ({"arithmetic": "float"}, "arithmetic='float': must be one of"),
        ({"arithmetic": "integer", "shift_type": "Q"}, "shift_type='Q': must be left out"),
        ({"arithmetic": "integer", "weight_scale": "none"}, "weight_scale='none': must be in"),
        ({"weight_scale": "row"}, "points: weight_scale='row': must be in"),
        ({"weight_bits": 1}, "points: weight_bits=1: must be in"),
        ({"shift_depth": 21}, "points: shift_depth=21: must be in"),
        ({"shift_depth": -1}, "points: shift_depth=-1: must be in"),
        ({"epochs": -3}, "points: epochs=-3"),
        ({"data_fraction": 7}, "points: .*data_fraction=7"),
    ],
)
def test_bad_points(point, message):
    with pytest.raises(ValueError, match=message):
        complete_points([point], 20, 4)


def test_random_points_are_one_sequence():
    five = random_points(5, 20)
    assert random_points(3, 20) == five[:3] and len({str(p) for p in five}) == 5
    assert complete_points(five, 20, 4)[0]["epochs"] == 4


def test_a_grid_is_the_product_of_its_levels():
    points = grid_points({"shift_depth": [0, 20], "weight_bits": [2, 3, 4]})
    assert len(points) == 6 and points[1] == {"shift_depth": 0, "weight_bits": 3}
    together = grid_points({"activation_integer_bits, activation_fraction_bits": [[4, 4], [8, 6]]})
    assert together[1] == {"activation_integer_bits": 8, "activation_fraction_bits": 6}
    with pytest.raises(ValueError, match="grid: lr, momentum=.*must be lists of 2 values"):
        grid_points({"lr, momentum": [[0.1]]})
    with pytest.raises(ValueError, match="grid: lr, momentum=.*must be lists of 2 values"):
        grid_points({"lr, momentum": [0.1, 0.2]})
    with pytest.raises(ValueError, match="grid: 'shift_depth, lr': a name must be on one axis"):
        grid_points({"shift_depth": [1, 2], "shift_depth, lr": [[3, 0.1]]})
    for levels in (3, [], "Q"):
        with pytest.raises(ValueError, match="grid: weight_bits=.*must be a list"):
            grid_points({"weight_bits": levels})


def test_every_point_under_every_seed(tmp_path):
    trials = train_points(Target(), tmp_path, POINTS, [0, 5], 20)
    assert trials["trial"].tolist() == list(range(6))
    assert trials["seed"].tolist() == [0, 0, 0, 5, 5, 5]
    assert trials["shift_depth"].tolist() == [20, 0, 7] * 2
    assert trials["origin"].tolist() == ["default", "given", "given"] * 2
    assert set(trials["status"]) == {"SUCCESS"} and set(trials["max_shift_depth"]) == {20}


def test_an_interrupted_run_goes_on_and_seeds_can_be_added(tmp_path):
    def impatient(row, table):
        if len(table) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_points(Target(), tmp_path, POINTS, [0, 1], 20, on_trial=impatient)
    assert len(read_trials(tmp_path)) == 4
    target = Target()
    trials = train_points(target, tmp_path, POINTS, [0, 1, 2], 20)
    assert target.calls == [(0, 1), (7, 1), (20, 2), (0, 2), (7, 2)]
    whole = train_points(Target(), tmp_path / "whole", POINTS, [0, 1, 2], 20)
    pd.testing.assert_frame_equal(trials, whole)


def test_a_failure_is_recorded_and_the_rest_trained(tmp_path):
    trials = train_points(Target(fail_at=2), tmp_path, POINTS, [0, 1], 20)
    assert trials["status"].tolist() == ["SUCCESS", "CRASHED"] + ["SUCCESS"] * 4
    assert trials["reason"][1] == "RuntimeError: broken"


def test_two_workers(tmp_path):
    trials = train_points(Target(), tmp_path, POINTS, [0, 1], 20, n_workers=2)
    serial = train_points(Target(), tmp_path / "serial", POINTS, [0, 1], 20)
    columns = ["trial", "seed", "shift_depth", "loss"]
    trials = trials.sort_values("trial", ignore_index=True)
    pd.testing.assert_frame_equal(trials[columns], serial[columns])


def test_other_points_or_seeds_are_refused(tmp_path):
    train_points(Target(), tmp_path, POINTS, [0, 1], 20)
    with pytest.raises(ValueError, match="points=.*there:"):
        train_points(Target(), tmp_path, POINTS[:2], [0, 1], 20)
    with pytest.raises(ValueError, match="has seed 1, must be the same seeds"):
        train_points(Target(), tmp_path, POINTS, [0, 2], 20)
    for points, seeds in ((POINTS, []), ([], [0]), (POINTS, [1, 1])):
        with pytest.raises(ValueError, match="must be some, all different"):
            train_points(Target(), tmp_path / "new", points, seeds, 20)


def test_the_summary_has_students_interval(tmp_path):
    trials = train_points(Target(), tmp_path, POINTS, [0, 1, 2], 20)
    summary = summarise_points(trials)
    assert summary["shift_depth"].tolist() == [20, 7, 0]  # by energy
    assert summary["seeds"].tolist() == [3, 3, 3] and summary["failed"].sum() == 0
    assert summary["val_accuracy"][0] == pytest.approx(0.701)
    half = stats.t.ppf(0.975, 2) * np.std([0, 0.001, 0.002], ddof=1) / math.sqrt(3)
    assert summary["test_accuracy_half_width"].tolist() == pytest.approx([half] * 3)
    ends = summary.loc[0, ["val_accuracy_lowest", "val_accuracy_highest"]]
    deep = trials[trials["shift_depth"] == 20]["val_accuracy"]
    assert ends.tolist() == [deep.min(), deep.max()] and deep.nunique() == 3
    one = summarise_points(trials[trials["seed"] == 0])
    assert one["val_accuracy_half_width"].isna().all()

    trials.loc[trials["shift_depth"] == 7, "status"] = "DIVERGED"
    failed = summarise_points(trials).set_index("shift_depth").loc[7]
    assert (failed["seeds"], failed["failed"]) == (0, 3) and np.isnan(failed["test_accuracy"])
    assert failed[COMPUTE_ENERGY] == summary[COMPUTE_ENERGY][1]  # is known without training


def test_the_summary_for_a_page_has_units_that_a_person_reads(tmp_path):
    trials = train_points(Target(), tmp_path, POINTS, [0, 1], 20)
    table = points_table(summarise_points(trials.assign(energy_measured_kwh=4.2e-6)))
    deep = trials[trials["shift_depth"] == 20]["val_accuracy"]
    row = table[table["shift depth"] == 20].iloc[0]
    assert row["validation accuracy (%)"] == round(100 * deep.mean(), 1) and row["seeds"] == "2"
    ends = f"{100 * deep.min():.1f} to {100 * deep.max():.1f}"
    assert row["validation: lowest to highest"] == (ends if deep.nunique() > 1 else "")
    assert row["MEASURED training (mWh)"] == 4.2
    energy = trials.loc[trials["shift_depth"] == 20, COMPUTE_ENERGY].iloc[0]
    assert row["MODELLED (µJ/image)"] == pytest.approx(1e6 * energy, abs=1e-3)
    failed = trials.assign(status=["DIVERGED"] * 3 + ["SUCCESS"] * (len(trials) - 3))
    assert points_table(summarise_points(failed))["seeds"].str.contains("failed").any()
    one = points_table(summarise_points(trials[trials["seed"] == 0]))
    assert (one["validation: lowest to highest"] == "").all()


def test_learning_curves_name_each_point_by_what_differs():
    rows = [
        {"trial": n, "seed": 0, "status": "SUCCESS", "origin": "given", "shift_depth": 20,
         "shift_type": kind, "momentum": momentum, "validation_accuracy_by_epoch": "0.1 0.25"}
        for n, (kind, momentum) in enumerate([("Q", 0.9), ("PS", None)])
    ]  # fmt: skip
    curves = learning_curves(pd.DataFrame(rows))
    assert curves["epoch"].tolist() == [1, 2, 1, 2]
    assert curves["val_accuracy"].tolist() == [0.1, 0.25] * 2
    assert curves["point"].unique().tolist() == [
        "shift depth 20, Q, momentum 0.9",
        "shift depth 20, PS",
    ]
    named = learning_curves(pd.DataFrame([r | {"origin": r["shift_type"]} for r in rows]))
    assert named["point"].unique().tolist() == ["Q", "PS"]
    one_epoch = [row | {"validation_accuracy_by_epoch": 0.1} for row in rows]  # as CSV is read
    assert learning_curves(pd.DataFrame(one_epoch))["val_accuracy"].tolist() == [0.1, 0.1]
    two_runs = learning_curves(pd.concat([pd.DataFrame(rows[:1])] * 2))
    assert two_runs["epoch"].tolist() == [1, 2, 1, 2]
    with pytest.raises(ValueError, match="validation_accuracy_by_epoch"):
        learning_curves(pd.DataFrame(rows).drop(columns="validation_accuracy_by_epoch"))
    figure = plots.plot_learning_curves(named)
    assert len(figure.interactive.data) == 2


def test_accuracy_by_format_counts_failures_and_keeps_the_order_of_labels():
    rows = [
        ("z", 3, 2, 2, 0, "SUCCESS", 0.5),
        ("z", 3, 4, None, 1, "SUCCESS", 0.7),  # a fitted format may leave its fraction bits empty
        ("z", 3, 2, 2, 2, "DIVERGED", 0.9),
        ("a", 3, 2, 2, 0, "DIVERGED", None),
        ("a", 2, 4, 4, 0, "SUCCESS", 0.1),
    ]
    columns = ["origin", "weight_bits", "activation_integer_bits", "activation_fraction_bits"]
    trials = pd.DataFrame(rows, columns=[*columns, "seed", "status", "val_accuracy"])
    cells = accuracy_by_format(trials)
    assert list(dict.fromkeys(cells["origin"])) == ["z", "a"]
    first, second, third = cells.to_dict("records")
    assert (first["seeds"], first["failed"], first["activation_bits"]) == (3, 1, 4)
    assert (first["mean"], first["lowest"], first["highest"]) == (pytest.approx(0.6), 0.5, 0.7)
    assert (second["failed"], third["activation_bits"]) == (1, 8) and np.isnan(second["mean"])
    with pytest.raises(ValueError, match="must have at least one row"):
        accuracy_by_format(trials.iloc[:0])
