"""The summary of a run that opens its pages: what it says of runs rich and poor."""

import json
import re
import shutil

import pandas as pd
import pytest

from dsnn_utils.paths import project_root
from dsnn_utils.summary import summarise_run

DEMO = project_root() / "figures" / "demo"


@pytest.fixture
def run(tmp_path):
    return shutil.copytree(DEMO, tmp_path / "run")


def text(page: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", page).split())


def test_data_settings_date_versions_front_and_choice(run):
    page = summarise_run(run)
    shown = text(page)
    for said in (
        "digits, 1150 training images", "resnet20, 20 layers that can shift",
        "validation error, modelled energy", "smac_mf, fidelity shift_depth",
        "30, 0 of them failed; seed 0", "2026-11-24", "torch 2.14.1",
        "the rule knee , trained again and tested once: 99.0 % test accuracy (n = 2)",
        "Trial 24 of seed 0", "19 of 20", "32 + 2", "0.771 (published default: 0.693)",
    ):  # fmt: skip
        assert said in shown, said
    assert page.count("data:image/svg+xml") == 1 and "e-07" not in page


def test_results_of_another_table_choose_nothing(run):
    trials = pd.read_csv(run / "trials.csv")
    trials[:-1].to_csv(run / "trials.csv", index=False)
    assert "The knee of the front; it was not trained again." in summarise_run(run)


def test_a_run_without_success_says_why_it_has_no_front(run):
    table = run / "trials.csv"
    table.write_text(table.read_text().replace("SUCCESS", "CRASHED"))
    shown = text(summarise_run(run))
    assert "30, 30 of them failed" in shown and "No front: trials: must have at least one" in shown


def test_a_table_alone_is_enough_and_text_is_escaped(run):
    (run / "search.json").unlink()
    shown = text(summarise_run(run))
    assert "fidelity not recorded" in shown and "Versions" not in shown
    results = json.loads((run / "results.json").read_text())
    (run / "results.json").write_text(json.dumps(results | {"rule": "<b>"}))
    assert "<code>&lt;b&gt;</code>" in summarise_run(run)
