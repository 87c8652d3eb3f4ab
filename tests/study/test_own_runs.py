"""Strategies compared on one's own runs: what belongs together, and what is refused by name."""

import json

import numpy as np
import pandas as pd
import pytest

from dsnn_utils.analysis import hypervolume
from dsnn_utils.paths import project_root
from dsnn_utils.plots import DualFigure
from dsnn_utils.report.__main__ import main
from dsnn_utils.runs import read_trials, seed_dir
from dsnn_utils.study import (
    final_values,
    plot_strategy_curves,
    read_strategies,
    strategy_curves,
)

DEMO = project_root() / "figures" / "demo"
ENERGY = "energy_modelled_j_per_image"


def write_run(folder, strategy, seed, trials=20, **changes):
    """The example run as one of another strategy and seed; `changes` of its settings."""
    folder.mkdir(parents=True)
    info = json.loads((DEMO / "search.json").read_text())
    settings = info["settings"] | {"strategy": strategy, "seed": seed}
    settings["data"] = settings["data"] | {"seed": seed} | changes.pop("data", {})
    settings["recipe"] = settings["recipe"] | changes.pop("recipe", {})
    (folder / "search.json").write_text(json.dumps(info | {"settings": settings | changes}))
    table = read_trials(DEMO)[:trials].assign(strategy=strategy, seed=seed)
    # Seeds differ, and a strategy other than smac_mf is worse by a third of its error.
    worse = (1 + seed / 20) * (1 if strategy == "smac_mf" else 1.33)
    table = table.assign(loss=np.minimum(table["loss"] * worse, 1))
    table.to_csv(folder / "trials.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    for seed in range(6):
        write_run(seed_dir(folder / "smac_mf", seed), "smac_mf", seed)
        write_run(seed_dir(folder / "random", seed), "random", seed, trials=15 + seed)
    return [folder / "smac_mf", folder / "random"]


@pytest.fixture(scope="module")
def curves(runs):
    return strategy_curves(*read_strategies(runs))


def test_hypervolume_up_to_where_the_shortest_run_ends(runs, curves):
    table, reference = curves
    assert reference == pytest.approx({"loss": 1.0, ENERGY: 1.16e-5}, rel=0.01)
    over_trials = table[table["over"] == "trial"]
    assert over_trials["x"].max() == 15
    values = final_values(table, "trial")
    assert values.shape == (6, 2) and values.notna().all(axis=None)
    for strategy, folder in zip(("smac_mf", "random"), runs, strict=True):
        for seed in (0, 5):
            trials = read_trials(seed_dir(folder, seed))[:15]
            assert values.loc[seed, strategy] == hypervolume(trials, reference=reference)
    runs_of = table.groupby(["over", "strategy", "seed"])
    assert runs_of["hypervolume"].is_monotonic_increasing.all()
    assert runs_of["x"].max().groupby("over").nunique().eq(1).all()


def test_costs_are_those_of_the_trials(runs, curves):
    values = final_values(curves[0], "duration_s")
    tables = {s: read_trials(seed_dir(f, 0)) for s, f in zip(values, sorted(runs), strict=True)}
    end = curves[0].loc[curves[0]["over"] == "duration_s", "x"].max()
    for strategy, trials in tables.items():
        done = trials[trials["duration_s"].cumsum() <= end + 1e-9]
        assert values.loc[0, strategy] == hypervolume(done, reference=curves[1])
    with pytest.raises(ValueError, match="cost='money': must be one of duration_s, epochs"):
        strategy_curves(*read_strategies(runs), cost="money")


def test_a_panel_over_trials_and_one_over_cost(curves):
    figure = plot_strategy_curves(curves[0])
    assert isinstance(figure, DualFigure) and len(figure.interactive.data) == 4
    labels = [axis.get_xlabel() for axis in figure.static.axes]
    assert labels == ["Trials", "Time spent in trials (s)"]
    assert "6 seeds" in figure.static.axes[0].get_title()
    assert all(axis.collections for axis in figure.static.axes)  # the bands


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"train_size": 99}}, r"data.train_size=99 of .*x: must be None, as in .*seed0"),
        ({"data": {"name_or_path": "cifar10"}}, "data.name_or_path='cifar10' of .*must be 'digits"),
        ({"data": {"seed": 7}}, "split=7 of .*must be 0, as in .* of the same seed, 0"),
        ({"recipe": {"augment": True}}, "recipe.augment=True of .*must be False"),
        ({"space": "extended"}, "space='extended' of .*must be 'published'"),
        ({"objectives": ["loss", "duration_s"]}, r"objectives=\['loss', 'duration_s'\] of .*must"),
        ({"epochs": 6}, "epochs=6 of .*must be 5"),
    ],
)
def test_runs_that_searched_something_else_are_refused(runs, tmp_path, changes, message):
    other = write_run(tmp_path / "x", "tpe", 0, **changes)
    with pytest.raises(ValueError, match=message):
        read_strategies([runs[0], other])


def test_other_runs_that_do_not_belong_together_are_refused(runs, tmp_path):
    with pytest.raises(ValueError, match="must be of two or more strategies, are of smac_mf"):
        read_strategies(runs[:1])
    with pytest.raises(ValueError, match="must be of different seeds, smac_mf has 0 twice"):
        read_strategies([*runs, write_run(tmp_path / "again", "smac_mf", 0)])
    other = write_run(tmp_path / "other", "smac_mf", 9, eta=2)
    with pytest.raises(ValueError, match="eta=2 of .*must be 3, .*of the same strategy, smac_mf"):
        read_strategies([*runs, other])
    with pytest.raises(ValueError, match=r"runs=\[\]: must be two or more"):
        read_strategies([])
    with pytest.raises(FileNotFoundError, match="holds no trials.csv"):
        read_strategies([*runs, tmp_path / "nothing"])


def test_another_reference_is_refused(runs):
    """Energies under other prices, or of another network than the recipe says."""
    trials, settings = read_strategies(runs)
    trials["model"] = trials["model"].mask(trials["strategy"] == "random", "mobilenetv2")
    with pytest.raises(ValueError, match="num_classes=10: must be those of the table"):
        strategy_curves(trials, settings)


def test_page_figure_and_tables(runs, tmp_path, capsys):
    out = tmp_path / "comparison"
    assert main([*map(str, runs), "--compare", str(out)]) == 0
    page = (out / "comparison.html").read_text()
    assert "after 15 trials" in page and "<script" not in page and "<td>smac_mf</td>" in page
    assert "takes at least" not in page  # six seeds do for one test
    tests = (out / "tests_table.tex").read_text()
    assert r"random & smac\_mf & 6 &" in tests and r"0.031 & 0.031 & smac\_mf \\" in tests
    assert (out / "hypervolume.pdf").read_bytes().startswith(b"%PDF")
    assert set(pd.read_csv(out / "hypervolume.csv")["over"]) == {"trial", "duration_s"}
    few = [str(seed_dir(folder, seed)) for folder in runs for seed in (0, 1)]
    for _ in range(2):  # the same bytes
        before = {path.name: path.read_bytes() for path in out.iterdir()}
        assert main([*few, "--compare", str(out), "--cost", "epochs", "--at", "cost"]) == 0
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    page = (out / "comparison.html").read_text()
    assert "at 75 epochs" in page and "With 2 seeds that is out of reach" in page
    with pytest.raises(SystemExit):
        main(few)
    assert "more than one run needs --compare" in capsys.readouterr().err
