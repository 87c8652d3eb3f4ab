"""Reading what a run leaves: whole, damaged, of several runs, of one that is not there yet."""

import json
import math
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsnn_utils import analysis
from dsnn_utils.paths import project_root
from dsnn_utils.runs import (
    directory,
    find_run,
    find_runs,
    read_results,
    read_runs,
    read_settings,
    read_trials,
    seed_dir,
)
from dsnn_utils.runs import table as table_of_runs
from dsnn_utils.search import recorded_data

DEMO = project_root() / "figures" / "demo"


def write(folder, seed, strategies=("smac_mf",)):
    folder.mkdir()
    rows = [read_trials(DEMO).assign(seed=seed, strategy=name) for name in strategies]
    pd.concat(rows).to_csv(folder / "trials.csv", index=False)
    return folder


def test_runs_of_several_seeds_and_the_first_of_compared_strategies(tmp_path):
    one = write(tmp_path / "one", 0, ("smac_mf", "random"))
    two = write(tmp_path / "two", 1)
    trials = read_runs([one, two])
    assert len(trials) == 2 * len(read_trials(DEMO)) and trials.index.is_unique
    assert set(trials["strategy"]) == {"smac_mf"}
    with pytest.raises(ValueError, match="must be of different seeds"):
        read_runs([one, two, write(tmp_path / "three", 1)])
    with pytest.raises(ValueError, match="must be of one strategy, are of smac_mf, tpe"):
        read_runs([one, write(tmp_path / "four", 2, ("tpe",))])


def test_the_example_stands_in_only_where_no_run_was_asked_for(tmp_path, monkeypatch, capsys):
    assert find_run(write(tmp_path / "run", 0)) == tmp_path / "run"
    with pytest.raises(FileNotFoundError, match="run_dir=.*nothing.*holds no trials.csv"):
        find_run(tmp_path / "nothing")
    monkeypatch.setattr(directory, "project_root", lambda: tmp_path)
    assert find_run("runs/default") == tmp_path / "figures" / "demo"
    assert "reading the committed example run, figures/demo" in capsys.readouterr().out


def test_a_folder_of_seeds_stands_for_its_runs_in_order(tmp_path):
    folder = tmp_path / "search"
    folder.mkdir()
    for seed in (10, 2, 0):
        write(seed_dir(folder, seed), seed)
    write(folder / "seed_of_another_kind", 5)
    seeds = [seed_dir(folder, seed) for seed in (0, 2, 10)]
    assert find_runs(folder) == seeds
    one = write(tmp_path / "one", 1)
    assert find_runs(one, [folder]) == [one, *seeds]
    assert read_runs(find_runs(one, [folder]))["seed"].unique().tolist() == [1, 0, 2, 10]
    write(folder / "given", 7)  # trainings of given networks are no run of a seed
    assert find_runs(folder) == seeds
    with pytest.raises(FileNotFoundError, match="nothing.*holds no trials.csv"):
        find_runs(folder, [tmp_path / "nothing"])


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("shift_depth", 99, "line 4: shift_depth must be from 0 to max_shift_depth"),
        ("shift_depth", None, "line 4: shift_depth must be from 0"),
        ("shift_depth", 1.5, "line 4: shift_depth must be an integer"),
        ("status", "DONE", "line 4: status must be one of SUCCESS, CRASHED"),
        ("loss", None, "line 4: loss must be a finite number where the status is SUCCESS"),
        ("loss", "good", "line 4: loss must be a finite number where the status is SUCCESS"),
        ("seed", None, "line 4: seed must be an integer"),
        ("seed", -1, "line 4: seed must be an integer"),
        ("weight_bits", 9, "line 4: weight_bits must be an integer from 2 to 8"),
        ("val_accuracy", 90.1, "line 4: val_accuracy must be a number from 0 to 1"),
        ("val_accuracy", "True", "line 4: val_accuracy must be a number from 0 to 1"),
        ("energy_modelled_j_per_image", -1e-6, "line 4: energy_modelled_j_per_image must be a num"),
        ("duration_s", "inf", "line 4: duration_s must be a number from 0"),
        ("epochs", 1e23, "line 4: epochs must be an integer from 1 to 10000"),
    ],
)
def test_a_row_that_cannot_be_a_trial_is_named(tmp_path, column, value, message):
    run = write(tmp_path / "run", 0)
    table = read_trials(run)
    table[column] = table[column].astype(object)
    table.loc[2, column] = value
    table.to_csv(run / "trials.csv", index=False)
    with pytest.raises(ValueError, match=f"trials=.*run.*: {message}"):
        read_trials(run)


def test_a_trial_counts_once(tmp_path):
    run = write(tmp_path / "run", 0)
    table = read_trials(run)
    table.loc[2, "trial"] = 0
    table.to_csv(run / "trials.csv", index=False)
    with pytest.raises(ValueError, match="run.*: must have trial 0 of seed 0 only once"):
        read_runs([run])


def test_runs_of_other_networks_are_no_repetitions(tmp_path):
    one, two = write(tmp_path / "one", 0), write(tmp_path / "two", 1)
    read_trials(two).assign(model="vgg19").to_csv(two / "trials.csv", index=False)
    with pytest.raises(ValueError, match="must be of one model, are of resnet20, vgg19"):
        read_runs([one, two])


def test_a_crashed_trial_belongs_to_its_run(tmp_path):
    one, two = write(tmp_path / "one", 0), write(tmp_path / "two", 1)
    table = read_trials(one)
    came_after = table.columns[table.columns.get_loc("train_size") :]
    table = table.astype(object)
    table.loc[2, ["status", "reason"]] = "CRASHED", "ValueError: why"
    table.loc[2, ["dataset", "model", *came_after]] = None
    table.to_csv(one / "trials.csv", index=False)
    trials = read_runs([one, two])
    assert trials["status"].value_counts()["CRASHED"] == 1
    # What crashed on its way tells nothing of the front, but counts as a trial.
    assert len(analysis.hypervolume_over(trials, by="seed")) == len(trials)


def test_strategies_in_one_table_are_told_apart(tmp_path, capsys):
    run = write(tmp_path / "run", 0, ("smac_mf", "tpe"))
    assert set(read_runs([run])["strategy"]) == {"smac_mf"}
    assert capsys.readouterr().out == f"{run}: trials of smac_mf only, without those of tpe\n"
    both = read_trials(run)
    for merged in (
        lambda: analysis.hypervolume_over(both),
        lambda: analysis.attainment(both),
        lambda: analysis.importance(both),
        lambda: analysis.summarise_points(both),
    ):
        with pytest.raises(ValueError, match="must be of one strategy .* have smac_mf, tpe"):
            merged()
    assert len(analysis.hypervolume_over(both, by=["strategy", "seed"])) == len(both)


# ------------------------------------------------------------ files that were damaged on the way

TABLE = (DEMO / "trials.csv").read_text().splitlines(keepends=True)[:7]
HEADER = TABLE[0].rstrip("\n").split(",")
ROWS = st.integers(1, len(TABLE) - 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("damaged")


def read(folder, text):
    """The table, or the message of the one error that names the file."""
    path = folder / "trials.csv"
    path.write_text(text)
    try:
        return read_runs([path])
    except ValueError as error:
        assert str(error).startswith((f"trials={str(path)!r}: ", f"runs={[str(path)]}: "))
        return str(error)


def test_the_undamaged_table_is_read(folder):
    assert len(read(folder, "".join(TABLE))) == len(TABLE) - 1


@settings(max_examples=20, deadline=None)
@given(st.integers(0, sum(map(len, TABLE)) - 1))
def test_a_cut_table_is_refused_unless_whole_lines_are_left(folder, cut):
    text = "".join(TABLE)[:cut]
    found = read(folder, text)
    if text.endswith("\n") and text.count("\n") > 1:
        assert len(found) == text.count("\n") - 1
    else:
        assert isinstance(found, str)


@settings(max_examples=20, deadline=None)
@given(ROWS, ROWS)
def test_a_line_that_stands_twice_is_refused(folder, row, place):
    text = "".join([*TABLE[:place], TABLE[row], *TABLE[place:]])
    assert "must not be the same as another line" in read(folder, text)


@settings(max_examples=20, deadline=None)
@given(ROWS, st.integers(0, len(HEADER) - 1), st.booleans())
def test_a_line_with_a_value_too_few_or_too_many_is_refused_by_number(folder, row, column, more):
    values = TABLE[row].rstrip("\n").split(",")
    values[column : column + 1] = ["0", "0"] if more else []
    text = "".join([*TABLE[:row], ",".join(values) + "\n", *TABLE[row + 1 :]])
    assert f"line {row + 1} has {len(values)} values, must have {len(HEADER)}" in read(folder, text)


@settings(max_examples=20, deadline=None)
@given(ROWS, st.sampled_from(HEADER), st.sampled_from(HEADER))
def test_swapped_values_are_refused_or_in_range(folder, row, one, other):
    values = dict(zip(HEADER, TABLE[row].rstrip("\n").split(","), strict=True))
    values[one], values[other] = values[other], values[one]
    text = "".join([*TABLE[:row], ",".join(values.values()) + "\n", *TABLE[row + 1 :]])
    found = read(folder, text)
    if isinstance(found, str):
        assert f"line {row + 1}: " in found or "only once" in found or "must be of one" in found
    else:  # what is left cannot be told from a trial
        assert found["val_accuracy"].dropna().between(0, 1).all()
        assert (found["shift_depth"] <= found["max_shift_depth"]).all()
        assert np.isfinite(found.loc[found["status"] == "SUCCESS", "loss"]).all()


@settings(max_examples=20, deadline=None)
@given(ROWS, st.sampled_from(HEADER), st.sampled_from(["nonsense", "-7", "1e99", "inf", "True"]))
def test_nonsense_never_reaches_an_analysis(folder, row, column, nonsense):
    values = TABLE[row].rstrip("\n").split(",")
    values[HEADER.index(column)] = nonsense
    text = "".join([*TABLE[:row], ",".join(values) + "\n", *TABLE[row + 1 :]])
    found = read(folder, text)
    limits = table_of_runs._ALLOWED.get(column)
    allowed = limits is None or (nonsense == "1e99" and limits.high == math.inf)
    if column == "strategy" and nonsense.isidentifier():  # may be somebody's own: the first counts
        assert found["strategy"].nunique() == 1
    elif column in ("status", "strategy") or not allowed:
        assert isinstance(found, str) and f"line {row + 1}: " in found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is damaged"),
        (TABLE[0], "must have at least one row"),
        (TABLE[0] + TABLE[1].rstrip("\n"), "its last line must end in a line break"),
        ("trial" + "".join(TABLE), "lacks the columns trial"),
        ("loss," + "".join(TABLE), r"line 1 names the column \['loss'\] twice"),
        ("".join(TABLE).replace(",", ";"), "lacks the columns"),
        ("".join(TABLE) + "\n", f"line {len(TABLE) + 1} has 0 values"),
        ("".join(TABLE) + '"open\n', "is damaged: line"),
    ],
)
def test_a_file_that_is_no_table_is_refused(folder, text, message):
    assert re.search(message, read(folder, text))


def test_text_of_another_encoding_is_refused(tmp_path):
    (tmp_path / "trials.csv").write_bytes("".join(TABLE).encode("utf-16"))
    with pytest.raises(ValueError, match="trials=.*is damaged"):
        read_trials(tmp_path)


SETTINGS = json.loads((DEMO / "search.json").read_text())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "must be a file of JSON .line 1: Expecting property name"),
        ('{"settings":\n {"eta": 2,\n "eta": 3}}', "must be a file of JSON .has 'eta' twice"),
        ('{"settings": {"eta": NaN}}', "must be a file of JSON .has NaN"),
        ("[]", "must hold the settings of a search"),
        ('{"settings": 3}', "must hold the settings of a search"),
        ('{"runs": []}', "must hold the settings of a search"),
        ('{"settings": {"objectives": ["accuracy"]}}', "objectives=.'accuracy'.: must be a list"),
    ],
)
def test_damaged_settings_are_refused_by_file(tmp_path, text, message):
    (tmp_path / "search.json").write_text(text)
    with pytest.raises(ValueError, match=f"settings=.*search.json.*{message}"):
        read_settings(tmp_path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"data": None}, "settings: data=None: must be arguments of load_dataset"),
        ({"data": {"name": "digits"}}, "settings: data=.*unexpected keyword argument 'name'"),
        ({"recipe": {"modle": "vgg19"}}, "settings: recipe=.*arguments of Recipe"),
        ({"recipe": {"model": "resnet"}}, "model='resnet': must be one of resnet20"),
    ],
)
def test_settings_that_no_search_has_are_refused(changed, message):
    settings = {"data": {"name_or_path": "digits"}, "recipe": {}} | changed
    with pytest.raises(ValueError, match=message):
        recorded_data(settings)


RESULTS = {
    "trials_sha256": ["0"],
    "rule": "knee",
    "chosen": {"trial": 3, "seed": 0},
    "tested": [],
    "test_accuracies": {},
}


def test_results_are_read_or_refused_by_file(tmp_path):
    assert read_results(tmp_path) == {}
    path = tmp_path / "results.json"
    path.write_text(json.dumps(RESULTS))
    assert read_results(tmp_path) == RESULTS
    for name in RESULTS:
        path.write_text(json.dumps({**RESULTS, name: 5}))
        with pytest.raises(ValueError, match=f"results=.*results.json.*: must hold {name}, a"):
            read_results(tmp_path)
    path.write_text(json.dumps({**RESULTS, "chosen": {"trial": "3"}}))
    with pytest.raises(ValueError, match="must hold the trial and the seed that were chosen"):
        read_results(tmp_path)
    path.write_text(json.dumps(RESULTS)[:-5])
    with pytest.raises(ValueError, match="results=.*must be a file of JSON .line 1"):
        read_results(tmp_path)
