"""Every notebook, executed by papermill in the test profile, and what it leaves behind.

The notebooks run once, in order, in one run directory; the tests then look at the results. Bad
input is given to notebooks as a user would give it: it has to stop them before any training.
"""

import html
import json
import re
import shutil
from urllib.parse import unquote

import nbformat
import numpy as np
import pandas as pd
import pytest

from dsnn_utils.parameters import all_notebooks, load_profile
from dsnn_utils.runner import NotebookFailed, main, run_notebook
from dsnn_utils.runs import COLUMNS, read_settings, read_trials
from dsnn_utils.training import load_network

NOTEBOOKS = [path.stem for path in all_notebooks()]
SEARCH = next(path for path in all_notebooks() if path.stem.startswith("03"))


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "test"
    assert main(["--profile", "test", "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def trials(run_dir):
    return read_trials(run_dir)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_executed_notebook_page_and_no_errors(name, run_dir):
    notebook = nbformat.read(run_dir / "notebooks" / f"{name}.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    kinds = {output.output_type for cell in code for output in cell.outputs}
    assert "error" not in kinds
    page = (run_dir / "report" / f"{name}.html").read_text()
    assert "data:image/svg+xml" in page and "Traceback" not in page


def test_links_between_pages_lead_to_pages_and_anchors(run_dir):
    pages = {path.name: path.read_text() for path in (run_dir / "report").glob("*.html")}
    assert set(pages) >= {"index.html", "glossary.html", *(f"{name}.html" for name in NOTEBOOKS)}
    ids = {n: set(map(html.unescape, re.findall(r' id="([^"]+)"', p))) for n, p in pages.items()}
    for name, page in pages.items():
        links = re.findall(r'href="(?!\w+:)([^"#]*)(?:#([^"]*))?"', page.partition("<body")[2])
        for target, anchor in links:
            # A browser looks for the anchor as it is written, then decoded.
            written = {html.unescape(anchor), unquote(html.unescape(anchor))}
            assert target in ("", *pages), target
            assert not anchor or written & ids[target or name], (target, anchor)


def test_the_trials_table(trials):
    assert list(trials.columns[: len(COLUMNS)]) == list(COLUMNS)
    assert len(trials) == load_profile("test")[f"notebook_{SEARCH.stem}"]["n_trials"]
    assert trials["shift_depth"].nunique() >= 3
    default = trials.iloc[0]
    assert (default["origin"], default["shift_depth"], default["shift_type"]) == (
        "default",
        20,
        "PS",
    )
    good = trials[trials["status"] == "SUCCESS"]
    np.testing.assert_allclose(good["loss"], 1 - good["val_accuracy"])
    # A hundred images of ten classes, two epochs: chance is 10 %.
    assert good["val_accuracy"].max() > 0.5
    # The deeper, the cheaper; a depth-2 network is mostly float32, whatever the bits.
    energy = trials.loc[trials["origin"] == "default", "energy_modelled_j_per_image"]
    assert energy.is_monotonic_increasing and len(energy) == 3
    shallow = good.loc[good["shift_depth"] <= 2, "energy_modelled_j_per_image"]
    assert good.loc[good["shift_depth"] == 20, "energy_modelled_j_per_image"].max() < shallow.min()
    assert {"default", "initial", "model"} <= set(trials["origin"])


def test_the_front_is_the_brute_force_front(trials, run_dir):
    good = trials[trials["status"] == "SUCCESS"]
    values = good[["loss", "energy_modelled_j_per_image"]].to_numpy()
    dominated = [
        any((other <= one).all() and (other < one).any() for other in values) for one in values
    ]
    expected = set(good.loc[~np.array(dominated), "trial"])
    drawn = pd.read_csv(run_dir / "figures" / "front.csv")
    assert set(drawn.loc[drawn["on_front"], "trial"]) == expected


def test_the_search_is_resumed_not_repeated(run_dir, trials):
    before = (run_dir / "trials.csv").read_bytes()
    profile = load_profile("test")
    parameters = {"seed": profile["seed"], "run_dir": str(run_dir)}
    parameters |= profile[f"notebook_{SEARCH.stem}"]
    run_notebook(SEARCH, run_dir / "again.ipynb", parameters, progress=False)
    assert (run_dir / "trials.csv").read_bytes() == before


def test_the_chosen_solution_was_tested_once(run_dir, trials):
    results = json.loads((run_dir / "results.json").read_text())
    assert 0 < results["hypervolume"] < 1
    chosen = trials.loc[trials["trial"] == results["chosen"]["trial"]].iloc[0]
    assert results["chosen"]["network"]["shift_depth"] == chosen["shift_depth"]
    tested = pd.DataFrame(results["tested"])
    assert set(tested["network"]) == {"default", "chosen"}
    assert tested["test_accuracy"].between(0, 1).all()


def test_given_networks_are_trained_under_every_seed(run_dir):
    given = read_trials(run_dir / "given")
    profile = load_profile("test")["notebook_07_training_given_networks"]
    assert len(given) == 3 * len(profile["seeds"]) and set(given["status"]) == {"SUCCESS"}
    assert given["validation_accuracy_by_epoch"].str.split().str.len().eq(2).all()
    summary = pd.read_csv(run_dir / "given" / "summary.csv")
    assert summary["shift_depth"].tolist() == [20, 20, 0] and summary["seeds"].eq(2).all()
    assert "test_accuracy" not in summary  # not asked for, so the test set was not touched
    readings = pd.read_csv(run_dir / "given" / "inference_readings.csv")
    in_turn = ["default", "given", "given"]
    assert readings["origin"].tolist() == in_turn + in_turn[::-1]
    energy = "energy_modelled_with_memory_j_per_image"
    assert set(readings[energy]) == set(given[energy])


def test_trained_networks_are_saved_beside_their_table(run_dir):
    given = read_trials(run_dir / "given")
    for row in given.itertuples():
        saved = load_network(run_dir / "given" / row.network)
        assert saved.row["val_accuracy"] == row.val_accuracy and len(saved.classes) == 10
    assert not list((run_dir / "given" / "checkpoints").iterdir())


def test_few_bits_train_with_the_remedies(run_dir):
    curves = pd.read_csv(run_dir / "figures" / "few_bits_training.csv")
    assert {"all remedies", "integers"} <= set(curves["run"])
    levels = pd.read_csv(run_dir / "figures" / "few_bits_weights.csv")
    # Without a scale nearly all weights have the smallest magnitude there is.
    unscaled = levels[levels["weights"] == "no scale"]
    assert unscaled.loc[unscaled["value"].abs() == 0.125, "share_percent"].sum() > 75
    assert levels.groupby("weights")["value"].nunique()["scale per channel"] >= 8


def test_every_way_to_compute_a_network_is_measured_and_tested(run_dir):
    table = pd.read_csv(run_dir / "inference.csv")
    assert set(table["batches"]) == {"batches of 128", "one image at a time"}
    accuracy = table.groupby("way")["test_accuracy"].agg(["first", "nunique"])
    assert len(accuracy) >= 3 and accuracy["nunique"].eq(1).all()
    # The same network: rounding between the layers may turn an image or two of 359.
    same = accuracy.loc[accuracy.index.str.startswith(("emulation", "trained codes")), "first"]
    assert np.ptp(same) <= 2 / 359 + 1e-9
    assert (table[["energy_measured_j_per_image", "duration_s_per_image"]] > 0).all().all()


def test_another_strategy_and_another_fidelity(tmp_path):
    parameters = {"strategy": "smac_mf_published", "fidelity": "epochs", "min_fidelity": 1}
    parameters |= {"train_size": 60, "epochs": 2, "n_initial": 2, "n_trials": 8, "pause_after": 7}
    parameters |= {"run_dir": str(tmp_path), "measure_energy": False}
    run_notebook(SEARCH, tmp_path / "out.ipynb", parameters, progress=False)
    trials = read_trials(tmp_path)
    assert len(trials) == 8 and set(trials["strategy"]) == {"smac_mf_published"}


def test_search_json_names_data_recipe_versions_and_hardware(run_dir):
    settings = read_settings(run_dir)
    assert (
        settings["data"]["name_or_path"] == "digits" and settings["recipe"]["model"] == "resnet20"
    )
    info = json.loads((run_dir / "search.json").read_text())
    assert {"smac", "torch"} <= set(info["versions"]) and info["hardware"]["cores"]


BAD = [
    ({"dataset": "imagenet"}, "must be one of digits, cifar10, fashion_mnist, or an existing"),
    ({"model": "lenet"}, "model='lenet': must be one of resnet20"),
    ({"fidelity": "width"}, "fidelity='width': must be one of shift_depth"),
    ({"strategy": "grid"}, "strategy='grid': must be one of smac_mf"),
    ({"objectives": ["speed"]}, "objectives=['speed']: must be a list of one or more"),
]


@pytest.mark.parametrize(("parameters", "message"), BAD, ids=[str(*p) for p, _ in BAD])
def test_bad_input_stops_the_notebook_before_any_training(parameters, message, tmp_path):
    parameters = {"run_dir": str(tmp_path / "run"), "measure_energy": False} | parameters
    # By the runner; what only a cell can know stops it as well, see the next test.
    with pytest.raises(ValueError) as failure:
        run_notebook(SEARCH, tmp_path / "out.ipynb", parameters, progress=False)
    assert message in str(failure.value)
    assert not (tmp_path / "run" / "trials.csv").exists()


def test_a_run_directory_of_other_parameters_is_refused(run_dir, tmp_path):
    shutil.copytree(run_dir, tmp_path / "run")
    parameters = {"run_dir": str(tmp_path / "run"), "seed": 7, "measure_energy": False}
    with pytest.raises(NotebookFailed, match=r"belongs to a search with other settings.*seed=7"):
        run_notebook(SEARCH, tmp_path / "out.ipynb", parameters, progress=False)


def test_parameters_are_cast_and_misspelt_ones_refused(tmp_path):
    with pytest.raises(ValueError, match="parameter 'ephocs': unknown"):
        run_notebook(SEARCH, tmp_path / "out.ipynb", {"ephocs": 3})
    with pytest.raises(ValueError, match="epochs='many': must be an integer"):
        run_notebook(SEARCH, tmp_path / "out.ipynb", {"epochs": "many"})
