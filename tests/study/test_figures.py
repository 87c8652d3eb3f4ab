"""The committed figures belong to the committed tables, byte for byte."""

import json

import pytest

from dsnn_utils.analysis import pareto_front
from dsnn_utils.paths import project_root
from dsnn_utils.runs import read_settings, read_trials
from dsnn_utils.study.figures import (
    collect,
    committed_runs,
    remake,
    remake_comparison,
    remake_second_study,
)
from dsnn_utils.study.strategies import TABLES

RUNS = committed_runs(project_root() / "figures")


@pytest.mark.parametrize("run", RUNS, ids=[run.name for run in RUNS])
def test_figures_are_those_of_their_table(run, tmp_path):
    files = remake(run, tmp_path)
    names = {path.stem for path in files}
    if read_settings(run)["strategy"] == "given":
        assert names in (
            {"learning_curves"},
            {"learning_curves", "finals"},
            {"grid"},
            {"fidelities"},
            {"formats"},
        )
    else:
        assert names == {"front", "hypervolume", "tradeoff"}
    for path in files:
        if path.suffix == ".csv":  # drawings may differ in the last digit between fonts
            assert path.read_bytes() == (run / path.name).read_bytes(), path.name
        else:
            assert (run / path.name).exists(), path.name


def test_the_comparison_is_that_of_its_table(tmp_path):
    files = remake_comparison(tmp_path)
    assert {path.suffix for path in files} == {".svg", ".png", ".csv"}
    assert (tmp_path / "comparison.csv").read_bytes() == (TABLES / "comparison.csv").read_bytes()
    assert (TABLES / "comparison.svg").exists()


def test_the_second_study_is_drawn_from_its_tables(tmp_path):
    committed = project_root() / "figures" / "cifar10_search_finals"
    files = remake_second_study(tmp_path)
    assert {path.suffix for path in files} == {".svg", ".png", ".csv"}
    table = "second_study.csv"
    assert (tmp_path / table).read_bytes() == (committed / table).read_bytes()
    assert "second_study.svg" in (project_root() / "README.md").read_text()


@pytest.mark.parametrize("run", RUNS, ids=[run.name for run in RUNS])
def test_runs_say_how_they_were_made(run):
    assert "python -m dsnn_utils.runner" in (run / "README.md").read_text()
    info = json.loads((run / "search.json").read_text())
    infos, trials = info.get("runs", [info]), read_trials(run)
    for one in infos:
        assert one["versions"]["torch"] and one["hardware"]["cpu"] and one["started_at"]
        assert not str(one["settings"]["data"]["name_or_path"]).startswith("/")
    missing = len(trials) < sum(one["n_trials"] for one in infos)
    assert not missing or "interrupted" in (run / "README.md").read_text()
    assert trials["duration_s"].sum() > 0
    # One network may dominate a few, or all those of one activation format.
    energies = trials["energy_modelled_j_per_image"].nunique()
    assert len(pareto_front(trials)) >= (2 if energies > 2 and len(trials) > 3 else 1)


def test_runs_are_put_together(tmp_path):
    collect(RUNS[:2], tmp_path)
    assert len(read_trials(tmp_path)) == sum(len(read_trials(run)) for run in RUNS[:2])
    assert read_settings(tmp_path) == read_settings(RUNS[0])
