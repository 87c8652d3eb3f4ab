"""The committed figures belong to the committed tables, byte for byte."""

import json

import pytest

from dsnn_utils.figures import RUN_FIGURES, committed_runs, remake
from dsnn_utils.pareto import pareto_front
from dsnn_utils.runner import project_root
from dsnn_utils.trials import read_trials

RUNS = committed_runs(project_root() / "figures")


@pytest.mark.parametrize("run", RUNS, ids=[run.name for run in RUNS])
def test_figures_are_those_of_their_table(run, tmp_path):
    files = remake(run, tmp_path)
    assert {path.stem for path in files} == set(RUN_FIGURES)
    for path in files:
        if path.suffix == ".csv":  # drawings may differ in the last digit between fonts
            assert path.read_bytes() == (run / path.name).read_bytes(), path.name
        else:
            assert (run / path.name).exists(), path.name


@pytest.mark.parametrize("run", RUNS, ids=[run.name for run in RUNS])
def test_runs_say_how_they_were_made(run):
    info = json.loads((run / "search.json").read_text())
    assert "python -m dsnn_utils.runner" in (run / "README.md").read_text()
    assert info["settings"]["seed"] == 0 and info["versions"]["smac"] and info["hardware"]["cpu"]
    trials = read_trials(run)
    assert len(trials) == info["n_trials"] and len(pareto_front(trials)) >= 2
    assert not str(info["settings"]["data"]["name_or_path"]).startswith("/")
