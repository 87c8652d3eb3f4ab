"""Reading trials tables: of several runs, and of a run that is not there yet."""

import pandas as pd
import pytest

from dsnn_utils.paths import project_root
from dsnn_utils.runs import directory, find_run, find_runs, read_runs, read_trials, seed_dir

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
        ("status", "DONE", "line 4: status must be one of SUCCESS, CRASHED"),
        ("loss", None, "line 4: loss must be a number where the status is SUCCESS"),
        ("trial", 0, "line 4: must not have the trial and seed of another line"),
    ],
)
def test_a_row_that_cannot_be_a_trial_is_named(tmp_path, column, value, message):
    run = write(tmp_path / "run", 0)
    table = read_trials(run)
    table[column] = table[column].astype(object)
    table.loc[2, column] = value
    table.to_csv(run / "trials.csv", index=False)
    with pytest.raises(ValueError, match=f"trials=.*run.*: {message}"):
        read_runs([run])


def test_a_table_without_rows_is_refused(tmp_path):
    run = write(tmp_path / "run", 0)
    read_trials(run).iloc[:0].to_csv(run / "trials.csv", index=False)
    with pytest.raises(ValueError, match="must have at least one row"):
        read_runs([run])
