"""The page of a run: notebook 4, without training and shown without its code."""

import json
import shutil
import tempfile
from contextlib import chdir
from hashlib import sha256
from pathlib import Path

from dsnn_utils.pages import write_html
from dsnn_utils.paths import project_root
from dsnn_utils.runner import run_notebook
from dsnn_utils.runs.columns import cost_among
from dsnn_utils.runs.directory import find_runs, read_settings
from dsnn_utils.runs.rows import successful
from dsnn_utils.runs.table import read_runs
from dsnn_utils.summary import summarise_run
from dsnn_utils.training.data import load_dataset


def write_run_report(run: Path) -> Path:
    """Write `<run>/report/run.html`, of a run or a folder of several seeds; nothing else changes.

    Raises FileNotFoundError without `trials.csv` or `search.json`, ValueError where no trial
    succeeded, and what `load_dataset` raises, all of it before the notebook starts; then
    NotebookFailed, where a rule finds nothing to choose.
    """
    run = run.resolve()
    folders = find_runs(run)
    trials, settings = read_runs(folders), read_settings(folders[0])
    successful(trials, ["loss", cost_among(settings["objectives"])])
    if "data" in settings:  # a target function of one's own need not tell
        with chdir(project_root()):  # as in notebooks, relative paths start there
            load_dataset(**settings["data"])
    notebook = project_root() / "notebooks" / "04_pareto_analysis.ipynb"
    page = run / "report" / "run.html"
    with tempfile.TemporaryDirectory() as folder:
        # On a copy: the notebook writes figures and results.json, a report only reads.
        copy, executed = Path(folder) / run.name, Path(folder) / notebook.name
        for name in ("trials.csv", "search.json", "results.json"):
            for file in {each / name for each in (run, *folders)}:
                if file.exists():
                    (copy / file.relative_to(run)).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(file, copy / file.relative_to(run))
        parameters = {"run_dir": str(copy), "retrain_seeds": [], **_recorded_choice(run, folders)}
        run_notebook(notebook, executed, parameters, progress="report")
        summary = summarise_run(run, folders)
        title = f"Run {run.name}"
        write_html(executed, page, images=notebook.parent, title=title, summary=summary)
    return page


def _recorded_choice(run: Path, folders: list[Path]) -> dict:
    """The rule and its limits in `results.json`, if that belongs to these very tables of trials."""
    path = run / "results.json"
    results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    tables = {sha256((folder / "trials.csv").read_bytes()).hexdigest() for folder in folders}
    if not tables <= set(results.get("trials_sha256", [])):
        return {}
    return {
        "rule": results["rule"],
        "energy_budget_j_per_image": results.get("energy_budget"),
        "accuracy_floor": results.get("accuracy_floor"),
    }
