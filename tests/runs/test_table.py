"""Reading trials tables: of several runs, and of a run that is not there yet."""

import pandas as pd
import pytest

from dsnn_utils.paths import project_root
from dsnn_utils.runs import find_run, read_runs, read_trials

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


def test_a_run_without_trials_is_replaced_by_a_committed_one(tmp_path, capsys):
    assert find_run(write(tmp_path / "run", 0)) == tmp_path / "run"
    assert find_run(tmp_path / "nothing") == DEMO
    assert "reading the committed example run, figures/demo" in capsys.readouterr().out
