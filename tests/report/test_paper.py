"""The figures and tables of a paper, from runs of one and of several seeds."""

import re
import shutil
import subprocess

import pandas as pd
import pytest

from dsnn_utils.analysis import hypervolume, pareto_front
from dsnn_utils.paths import project_root
from dsnn_utils.report import paper
from dsnn_utils.report.__main__ import main
from dsnn_utils.runs import read_trials, seed_dir

DEMO = project_root() / "figures" / "demo"
ENERGY = "energy_modelled_j_per_image"
FIGURES = ["front.pdf", "hypervolume.pdf", "importance.pdf"]
TRIALS = 12  # of each run: fANOVA is what takes long
TABLES = ["front_table.tex", "trials_table.tex"]


def write_seeds(folder, seeds):
    """The example run under several seeds, as the runner leaves them."""
    trials = read_trials(DEMO)[:TRIALS]
    for seed in seeds:
        run = seed_dir(folder, seed)
        run.mkdir(parents=True)
        shutil.copy(DEMO / "search.json", run)
        # Each seed finds something else: its own losses are a little worse.
        trials.assign(seed=seed, loss=trials["loss"] * (1 + seed / 10)).to_csv(
            run / "trials.csv", index=False
        )
    return folder


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    run = write_seeds(tmp_path_factory.mktemp("runs") / "of_three", (0, 2, 10))
    assert main([str(run), "--paper"]) == 0
    return run


def cells(path):
    lines = [line for line in path.read_text().splitlines() if line.endswith(r" \\")]
    return [re.split(r" & ", line.removesuffix(r" \\")) for line in lines]


def test_a_set_of_files_the_same_bytes_every_time(several):
    folder = several / "paper"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert sorted(before) == sorted([*FIGURES, *TABLES, "paper.tex"])
    assert main([str(several), "--paper"]) == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_figures_embed_their_fonts_and_are_a_column_wide(several):
    for name in FIGURES:
        content = (several / "paper" / name).read_bytes()
        assert b"/FontFile2" in content and b"/Type3" not in content, name
        assert b"/CreationDate" not in content and b"/Producer" not in content
        width = float(re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ", content)[1])
        assert width == pytest.approx(72 * 3.3, abs=0.1), name


def test_the_tables_are_those_of_the_trials(several):
    front_rows, seed_rows = (cells(several / "paper" / name) for name in TABLES)
    tables = [read_trials(seed_dir(several, seed)) for seed in (0, 2, 10)]
    front = pareto_front(pd.concat(tables, ignore_index=True))
    assert {len(row) for row in front_rows} == {10} and len(front_rows) == 2 + len(front)
    assert front_rows[0][-1] == "modelled energy" and front_rows[1][-1] == r"($\mu$J per image)"
    for cell, value in zip(front_rows[2:], 1e6 * front[ENERGY], strict=True):
        assert float(cell[-1]) == pytest.approx(value, rel=1e-3)
    assert [row[0] for row in seed_rows[2:]] == ["0", "2", "10", "all"]
    assert [row[1] for row in seed_rows[2:]] == ["12", "12", "12", "36"]
    share = [float(row[5]) for row in seed_rows[2:]]
    plain_j = float(re.search(r"modelled energy ([\d.]+) ", read(several, "paper.tex"))[1]) / 1e6
    for found, table in zip(share, tables, strict=False):
        expected = hypervolume(table, reference={"loss": 1.0, ENERGY: plain_j})
        assert found == pytest.approx(expected, abs=1e-3)
    assert share[0] > share[1] > share[2] and share[3] == share[0]  # the first attains them all


def read(run, name):
    return (run / "paper" / name).read_text()


def test_captions_say_how_many_seeds_and_what_whiskers_are(several, tmp_path, monkeypatch):
    monkeypatch.setattr(paper, "RESAMPLINGS", 2)
    text = read(several, "paper.tex")
    assert r"smac\_mf, 36 trials of 3 seeds, resnet20 on digits" in text
    assert "Whiskers: range over seeds" in text and "all seeds and one seed attain" in text
    run = seed_dir(write_seeds(tmp_path, (0,)), 0)  # one of them alone
    assert main([str(run), "--paper"]) == 0
    text = read(run, "paper.tex")
    assert "12 trials of 1 seed," in text and "range over 2 resamplings" in text
    assert "median front" not in text
    assert len(cells(run / "paper" / "trials_table.tex")) == 3  # no row of all


def test_few_trials_have_no_importances_but_a_paper(tmp_path, capsys):
    run = tmp_path / "few"
    run.mkdir()
    shutil.copy(DEMO / "search.json", run)
    read_trials(DEMO)[20:22].to_csv(run / "trials.csv", index=False)
    assert main([str(run), "--paper"]) == 0
    assert "no figure of the importances: trials: must" in capsys.readouterr().out
    assert not (run / "paper" / "importance.pdf").exists()
    assert "importance.pdf" not in read(run, "paper.tex")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_the_paper_compiles_and_nothing_is_too_wide(several, tmp_path):
    shutil.copytree(several / "paper", tmp_path / "paper")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path / "paper", capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout and "Missing character" not in done.stdout
