"""The report of a run: notebook 4 as one page that opens offline, for runs rich and poor.

Executing the notebook takes up to half a minute, so it is done once for each kind of run, and the
tests look at the pages.
"""

import io
import json
import re
import shutil
from base64 import b64decode
from contextlib import redirect_stdout
from hashlib import sha256
from pathlib import Path

import pandas as pd
import pytest

from dsnn_utils.paths import project_root
from dsnn_utils.report import page as report
from dsnn_utils.report.__main__ import main

DEMO = project_root() / "figures" / "demo"
MAX_BYTES = 5_000_000
LOADS = re.compile(
    r"<script|<link|(?:src|href)\s*=\s*[\"'](?!data:|#)|url\((?!data:)|@import", re.I
)
CHOSEN = 13  # not the knee


def copy_run(folder: Path, trials: pd.DataFrame) -> Path:
    folder.mkdir()
    trials.to_csv(folder / "trials.csv", index=False)
    shutil.copy(DEMO / "search.json", folder)
    return folder


def write_results(run: Path, trials: pd.DataFrame) -> None:
    """As notebook 4 leaves them, with tests of a network that another rule than `knee` takes."""
    results = json.loads((DEMO / "results.json").read_text())
    results["trials_sha256"] = [sha256((run / "trials.csv").read_bytes()).hexdigest()]
    results["chosen"]["trial"] = CHOSEN
    results["rule"] = "energy_budget"
    results["energy_budget"] = trials.loc[CHOSEN, "energy_modelled_j_per_image"]
    (run / "results.json").write_text(json.dumps(results))


def write_report(run: Path) -> str:
    shown = io.StringIO()
    with redirect_stdout(shown):
        assert main([str(run)]) == 0
    page = run / "report" / "run.html"
    assert str(page) in shown.getvalue()
    return page.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def rich(tmp_path_factory):
    """A run with failures, promotions and results, and its page."""
    trials = pd.read_csv(DEMO / "trials.csv", dtype={"reason": object})
    trials.loc[[3, 5], ["status", "reason", "loss"]] = ["DIVERGED", "loss <inf> & more", None]
    deep = trials[trials["shift_depth"] == 19]
    shallow = deep.assign(
        trial=range(len(trials), len(trials) + len(deep)),
        shift_depth=5,
        energy_modelled_j_per_image=9e-6,
    )
    trials = pd.concat([trials, shallow], ignore_index=True)
    run = copy_run(tmp_path_factory.mktemp("runs") / "a <run>", trials)
    write_results(run, trials)
    before = {path: path.read_bytes() for path in run.iterdir()}
    page = write_report(run)
    # It leaves the run as it was: results of trainings are not those of a report to replace.
    assert {path: path.read_bytes() for path in run.iterdir() if path.is_file()} == before
    assert [path.name for path in (run / "report").iterdir()] == ["run.html"]
    return run, page


@pytest.fixture(scope="module")
def poor(tmp_path_factory):
    """The page of a run of two trials, neither of them the published default."""
    trials = pd.read_csv(DEMO / "trials.csv")[20:22]
    return write_report(copy_run(tmp_path_factory.mktemp("runs") / "poor", trials))


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """The page of a run of somebody's own target function, which returned a loss and a latency."""
    trials = pd.read_csv(DEMO / "trials.csv")
    known = [name for name in trials if "energy" in name or "emissions" in name or "gco2" in name]
    unknown = dict.fromkeys([*known, "dataset", "model", "train_size", "val_accuracy"])
    width = trials["trial"] % 3 + 1
    trials = trials.assign(**unknown, own_width=width, latency_ms=width + trials["shift_depth"])
    run = copy_run(tmp_path_factory.mktemp("runs") / "own", trials)
    info = json.loads((run / "search.json").read_text())
    settings = {n: v for n, v in info["settings"].items() if n not in ("data", "recipe")}
    info["settings"] = settings | {"objectives": ["loss", "latency_ms"]}
    (run / "search.json").write_text(json.dumps(info))
    return write_report(run)


def images(page: str) -> list[str]:
    sources = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', page)
    return [b64decode(source).decode() for source in sources]


def test_report_is_one_small_page_that_loads_nothing_and_shows_no_code(rich):
    run, page = rich
    assert (run / "report" / "run.html").stat().st_size < MAX_BYTES
    assert not LOADS.search(page)
    assert all("http" not in ref for ref in re.findall(r'href="([^"]*)"', "\n".join(images(page))))
    assert "plots.plot_front" not in page and "run_dir: str" not in page
    body = page.partition("<body")[2]  # the style sheet before it knows prompts
    assert "In&nbsp;[" not in body and "Out[" not in body and "What stays" not in body


def test_every_figure_is_drawn(rich):
    drawings = images(rich[1])
    assert len(drawings) == 13 and "No figure" not in rich[1]
    text = "\n".join(drawings)
    for label in ("Pareto front", "Hypervolume", "Importance", "Inferences", "Right promotions"):
        assert label in text
    assert "start" in text and "Shift depth" in text  # ablation path, partial dependence


def test_the_chosen_solution_and_its_tests_are_those_of_the_results(rich):
    assert f"trial {CHOSEN} of seed 0, taken by the rule energy_budget" in rich[1]
    assert "results kept" in rich[1] and "99.025" in rich[1]


def test_how_it_was_made_with_failures_counted_and_text_escaped(rich):
    run, page = rich
    assert "Run a &lt;run&gt;</h1>" in re.sub("<a .*?</a>", "", page)
    assert "2 of them failed" in page and "loss &lt;inf&gt; &amp; more" in page
    info = json.loads((run / "search.json").read_text())
    for value in (info["versions"]["smac"], info["hardware"]["cpu"], "one_cycle"):
        assert value in page


def test_few_trials_give_sentences_in_place_of_figures(poor):
    assert poor.count("No figure: ") == 4 and len(images(poor)) == 9
    assert "at least 4 successful rows" in poor
    assert "must have a pair of configurations, both tried at the same two depths" in poor
    assert "no successful training of the published default" in poor
    assert "0 of them failed" in poor and "taken by the rule knee" in poor
    assert "no test accuracies" in poor


def test_a_target_function_of_ones_own_is_read_by_its_table(own):
    assert "no network is built, trained or measured here: search.json has no data" in own
    drawn = "".join(images(own))
    for text in ("Latency (ms)", "Latency there (ms)", "Saved latency", "Own width", "Width"):
        assert (text in drawn) == (text != "Own width"), text
    assert "latency_ms" in own and "nan on nan" not in own
    assert "One validation image is" not in own  # how many there were is not known


def test_results_of_another_table_are_not_those_of_this_run(tmp_path):
    trials = pd.read_csv(DEMO / "trials.csv")
    run = copy_run(tmp_path / "run", trials)
    assert report._recorded_choice(run, [run]) == {}
    write_results(run, trials)
    assert report._recorded_choice(run, [run])["rule"] == "energy_budget"
    trials[:-1].to_csv(run / "trials.csv", index=False)
    assert report._recorded_choice(run, [run]) == {}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda run: (run / "trials.csv").unlink(),
            "must be the directory of a run, it holds no trials.csv",
        ),
        (lambda run: (run / "search.json").unlink(), "must hold the search.json of a search"),
        (
            lambda run: replace_in(run / "trials.csv", "SUCCESS", "CRASHED"),
            "at least one row with status SUCCESS",
        ),
        (
            lambda run: replace_in(run / "search.json", '"digits"', '"no/such/folder"'),
            "name_or_path='no/such/folder': must be one of digits",
        ),
    ],
    ids=["no trials", "no settings", "no success", "no data"],
)
def test_what_is_missing_is_one_clear_error_before_a_kernel_starts(
    damage, message, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(report, "run_notebook", lambda *_, **__: pytest.fail("a kernel started"))
    run = copy_run(tmp_path / "run", pd.read_csv(DEMO / "trials.csv"))
    damage(run)
    assert main([str(run)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line


def replace_in(path: Path, old: str, new: str) -> None:
    path.write_text(path.read_text().replace(old, new))


def test_a_run_directory_must_be_given(capsys):
    with pytest.raises(SystemExit, match="2"):
        main([])
    assert "usage:" in capsys.readouterr().err
