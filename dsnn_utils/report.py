"""The report of one run: notebook 4, without training and shown without its code.

    python -m dsnn_utils.report runs/x

writes it to `runs/x/report/run.html`, a page that opens offline.
"""

import json
import shutil
import sys
import tempfile
from contextlib import chdir
from hashlib import sha256
from pathlib import Path

from dsnn_utils.pages import write_html
from dsnn_utils.paths import project_root
from dsnn_utils.runner import run_notebook
from dsnn_utils.runs.columns import cost_among
from dsnn_utils.runs.directory import read_settings
from dsnn_utils.runs.rows import successful
from dsnn_utils.runs.table import read_trials
from dsnn_utils.training.data import load_dataset


def write_run_report(run: Path) -> Path:
    """Write `<run>/report/run.html`; nothing else in the run changes.

    Raises FileNotFoundError without `trials.csv` or `search.json`, ValueError where no trial
    succeeded, and what `load_dataset` raises, all of it before the notebook starts; then
    NotebookFailed, where a rule finds nothing to choose.
    """
    run = run.resolve()
    trials, settings = read_trials(run), read_settings(run)
    successful(trials, ["loss", cost_among(settings["objectives"])])
    if "data" in settings:  # a target function of one's own need not tell
        with chdir(project_root()):  # as in notebooks, relative paths start there
            load_dataset(**settings["data"])
    notebook = project_root() / "notebooks" / "04_pareto_analysis.ipynb"
    page = run / "report" / "run.html"
    with tempfile.TemporaryDirectory() as folder:
        # On a copy: the notebook writes figures and results.json, a report only reads.
        copy, executed = Path(folder) / run.name, Path(folder) / notebook.name
        copy.mkdir()
        for name in ("trials.csv", "search.json", "results.json"):
            if (run / name).exists():
                shutil.copy(run / name, copy)
        parameters = {"run_dir": str(copy), "retrain_seeds": [], **_recorded_choice(run)}
        run_notebook(notebook, executed, parameters, progress="report")
        write_html(executed, page, images=notebook.parent, title=f"Run {run.name}")
    return page


def _recorded_choice(run: Path) -> dict:
    """The rule and its limits in `results.json`, if that belongs to this very table of trials."""
    path = run / "results.json"
    results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    table = sha256((run / "trials.csv").read_bytes()).hexdigest()
    if table not in results.get("trials_sha256", []):
        return {}
    return {
        "rule": results["rule"],
        "energy_budget_j_per_image": results.get("energy_budget"),
        "accuracy_floor": results.get("accuracy_floor"),
    }


def main(arguments: list[str]) -> int:
    """Write the report of the run directory given as the only argument."""
    if len(arguments) != 1:
        print("usage: python -m dsnn_utils.report RUN", file=sys.stderr)
        return 2
    try:
        print(f"Report: {write_run_report(Path(arguments[0]))}")
    except (OSError, RuntimeError, ValueError) as error:
        # Of a failed notebook without the line that names a file of the copy, gone by now.
        print(f"error: {error}".partition("\n(executed so far")[0], file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
