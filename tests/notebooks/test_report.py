"""The report of a run: one page that opens offline, from a run directory in any state."""

import json
import re
import shutil
from base64 import b64decode
from hashlib import sha256

import pandas as pd
import pytest

from dsnn_utils import analysis, report, runs
from dsnn_utils.paths import project_root
from dsnn_utils.runs import read_trials

DEMO = project_root() / "figures" / "demo"
MAX_BYTES = 5_000_000
LOADS = re.compile(r"<script|<link|(?:src|href)\s*=\s*[\"'](?!data:)|url\(|@import", re.I)


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "a run"
    shutil.copytree(DEMO, folder)
    return folder


def images(page: str) -> list[str]:
    sources = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', page)
    return [b64decode(source).decode() for source in sources]


def test_report_is_one_small_page_that_loads_nothing(run, capsys):
    assert report.main([str(run)]) == 0
    path = run / "report" / "run.html"
    page = path.read_text(encoding="utf-8")
    assert str(path) in capsys.readouterr().out
    assert path.stat().st_size < MAX_BYTES
    assert not LOADS.search(page)
    drawings = images(page)
    assert len(drawings) == 6 and page.count("No figure") == 1
    assert (
        "must have a pair of configurations, both tried at the same two depths" in page
    )  # nothing was promoted
    text = "\n".join(drawings)
    for label in ("Pareto front", "Hypervolume", "Importance", "Inferences"):
        assert label in text
    assert "start" in text and "Shift depth" in text  # ablation path, partial dependence
    assert all("http" not in ref for ref in re.findall(r'href="([^"]*)"', text))
    results = json.loads((run / "results.json").read_text())
    assert f"Trial {results['chosen']['trial']} of seed 0" in page
    info = json.loads((run / "search.json").read_text())
    for value in (
        info["versions"]["smac"],
        info["hardware"]["cpu"],
        "one_cycle",
        "No trial failed",
    ):
        assert value in page


def test_promotions_are_drawn_where_configurations_were_promoted(tmp_path):
    shutil.copytree(project_root() / "figures" / "cifar10_quick", tmp_path / "run")
    page = report.write_run_report(tmp_path / "run").read_text(encoding="utf-8")
    assert any("Right promotions" in drawing for drawing in images(page))


def test_the_chosen_solution_is_that_of_the_results_if_they_are_of_this_table(run):
    trials = read_trials(run)
    other = analysis.pareto_front(trials).iloc[-1]
    card = {"trial": int(other["trial"]), "seed": int(other["seed"])}
    digest = sha256((run / "trials.csv").read_bytes()).hexdigest()
    content = {"trials_sha256": [digest], "chosen": card, "rule": "energy_budget"}
    (run / "results.json").write_text(json.dumps(content))
    results, note = report._results_of(run)
    row, rule = report._chosen(trials, results, runs.DEFAULT_OBJECTIVES)
    assert (row["trial"], rule, note) == (other["trial"], "energy_budget", "")
    trials.iloc[:-1].to_csv(run / "trials.csv", index=False)
    results, note = report._results_of(run)
    assert results == {} and note.startswith("results.json belongs to another table")
    assert (
        report._chosen(trials, results, runs.DEFAULT_OBJECTIVES)[0]["trial"]
        == analysis.knee(trials)["trial"]
    )


def test_failures_are_counted_and_names_are_escaped(run):
    (run / "search.json").unlink()
    (run / "results.json").unlink()
    trials = pd.read_csv(run / "trials.csv")
    trials["reason"] = trials["reason"].astype(object)
    trials.loc[[0, 5], ["status", "reason", "loss"]] = ["DIVERGED", "loss <inf> & more", None]
    trials.to_csv(run / "trials.csv", index=False)
    page = report.write_run_report(run).read_text(encoding="utf-8")
    assert "2 of them failed" in page and "loss &lt;inf&gt; &amp; more" in page
    assert "the settings are unknown" in page and "Notebook 4 has not been run" in page


def test_few_trials_give_sentences_in_place_of_figures(run):
    (run / "results.json").unlink()
    pd.read_csv(run / "trials.csv")[20:22].to_csv(run / "trials.csv", index=False)
    page = report.write_run_report(run).read_text(encoding="utf-8")
    assert page.count("No figure: ") == 4 and "at least 4 successful rows" in page
    assert "published default" not in page.split("Chosen solution")[1].split("Layers and bits")[0]


def test_a_directory_without_trials_is_one_clear_error(tmp_path, run, capsys):
    assert report.main([str(tmp_path)]) == 1
    assert "must be a run directory or a trials.csv" in capsys.readouterr().err
    pd.read_csv(run / "trials.csv").assign(status="CRASHED").to_csv(run / "trials.csv", index=False)
    assert report.main([str(run)]) == 1
    assert "at least one row with status SUCCESS" in capsys.readouterr().err
    assert report.main([]) == 2
