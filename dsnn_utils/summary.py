"""A run at a glance: its data, settings and versions, its front, the chosen network."""

import base64
import html
import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import pandas as pd

from dsnn_utils.analysis.choosing import knee, solution_card
from dsnn_utils.analysis.fronts import overview, pareto_front
from dsnn_utils.plots.front import plot_front
from dsnn_utils.plots.style import NAMES, DualFigure, axis_label
from dsnn_utils.runs.columns import (
    ACTIVATION_BITS,
    DEFAULT_OBJECTIVES,
    cost_among,
    loss_among,
)
from dsnn_utils.runs.directory import read_settings
from dsnn_utils.runs.table import read_runs


def summarise_run(run: Path, folders: Sequence[Path] | None = None) -> str:
    """HTML: what was searched and how, the front as a picture, the chosen network.

    `folders`: the run directories of several seeds, by default `run` alone. The chosen network is
    that of `results.json` in `run`, if it belongs to these very tables of trials, else the knee of
    the front. A run in which nothing succeeded has settings and no front.

    Raises FileNotFoundError without a table of trials.
    """
    folders = folders or [run]
    trials = read_runs(folders)
    path = folders[0] / "search.json"
    info = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    settings = read_settings(folders[0]) if info else {}
    objectives = settings.get("objectives", DEFAULT_OBJECTIVES)
    parts = [_rows(_about(trials, settings, info, objectives))]
    try:
        chosen, why = _chosen(run, folders, trials, objectives)
        cost, loss = cost_among(objectives), loss_among(objectives)
        figure = plot_front(trials, x=cost, y=loss, chosen=chosen, interactive=False)
        card = solution_card(trials, chosen, objectives)
    except ValueError as error:
        return "\n".join([*parts, f"<p>No front: {html.escape(str(error))}</p>"])
    members = overview(pareto_front(trials, objectives), objectives).reset_index()
    parts += ["<h2>Front</h2>", _image(figure), members.to_html(index=False, border=0, na_rep="")]
    parts += [f"<h2>Chosen network</h2>\n<p>{why}</p>", _rows(_network(card))]
    return "\n".join(parts)


def _about(trials: pd.DataFrame, settings: dict, info: dict, objectives) -> dict[str, str]:
    first, data = trials.iloc[0], settings.get("data", {})
    failed = int((trials["status"] != "SUCCESS").sum())
    seeds = ", ".join(map(str, sorted(trials["seed"].unique())))
    about = {
        "Data": f"{data.get('name_or_path', first['dataset'])}, "
        f"{trials['train_size'].max():.0f} training images",
        "Network": f"{first['model']}, {first['max_shift_depth']} layers that can shift",
        "Minimised": ", ".join(_name(name) for name in objectives),
        "Search": f"{', '.join(trials['strategy'].unique())}, "
        f"fidelity {settings.get('fidelity', 'not recorded')}",
        "Trials": f"{len(trials)}, {failed} of them failed; seed {seeds}; "
        f"up to {trials['epochs'].max()} epochs; {trials['duration_s'].sum() / 60:.0f} minutes",
    }
    if info:
        hardware = info.get("hardware", {})
        about["Started"] = str(info.get("started_at", "not recorded"))[:10]
        about["Hardware"] = f"{hardware.get('cpu')}, {hardware.get('cores')} cores, " + (
            f"GPU {hardware['gpu']}" if hardware.get("gpu") else "no GPU"
        )
        versions = info.get("versions", {})
        about["Versions"] = ", ".join(f"{name} {number}" for name, number in versions.items())
    return about


def _name(objective: str) -> str:
    """An objective without its unit: units belong to numbers."""
    return axis_label(objective)[0].split(" (")[0].lower()


def _chosen(run: Path, folders, trials: pd.DataFrame, objectives) -> tuple[pd.Series, str]:
    """The chosen trial, and by what it was chosen."""
    path = run / "results.json"
    results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    tables = {sha256((folder / "trials.csv").read_bytes()).hexdigest() for folder in folders}
    if not tables <= set(results.get("trials_sha256", [])):
        return knee(trials, objectives), "The knee of the front; it was not trained again."
    recorded = results["chosen"]
    found = trials["trial"].eq(recorded["trial"]) & trials["seed"].eq(recorded["seed"])
    why = f"Taken by the rule <code>{html.escape(results['rule'])}</code>"
    tests = results.get("test_accuracies", {})
    if "chosen_test_accuracy" in tests:
        n = sum(row["network"] == "chosen" for row in results["tested"])
        why += (
            f", trained again and tested once: {100 * tests['chosen_test_accuracy']:.1f} % "
            f"test accuracy (n = {n})"
        )
    return trials[found].iloc[0], f"{why}."


def _network(card: dict) -> dict[str, str]:
    bits = card["configuration"]
    network = {
        "Trial": f"{card['trial']} of seed {card['seed']}",
        NAMES["shift_depth"]: "{shift_depth} of {max_shift_depth}".format(**card["network"]),
        NAMES["shift_type"]: bits["shift_type"],
        NAMES["weight_bits"]: str(bits["weight_bits"]),
        NAMES["activation_bits"]: " + ".join(str(bits[n]) for n in ACTIVATION_BITS if n in bits),
    }
    for name, objective in card["objectives"].items():
        label, factor = axis_label(name)
        network[label] = f"{factor * objective['value']:.3g}"
        if card["default"]:
            network[label] += f" (published default: {factor * card['default'][name]:.3g})"
    return network


def _rows(rows: dict[str, str]) -> str:
    return pd.Series(rows).to_frame().to_html(header=False, border=0)


def _image(figure: DualFigure) -> str:
    encoded = base64.b64encode(figure.svg().encode()).decode()
    text = html.escape(figure.description)
    return f'<p><img alt="{text}" src="data:image/svg+xml;base64,{encoded}"></p>'
