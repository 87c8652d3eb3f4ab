"""What the figures contain: marks, labels with units, both faces, the same bytes every time."""

import io
import itertools
import json
import re
import time

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from dsnn_utils import ShiftSpec, analysis, convert_to_shift, plots, runs, study
from dsnn_utils.energy import (
    break_even,
    grid_table,
    operation_counts,
    repetitions_to_rank,
    summarise_readings,
)
from dsnn_utils.energy.prices import MEMORY_PJ_PER_BIT
from dsnn_utils.plots import explorer, front, style
from dsnn_utils.plots.style import NETWORKS, colours_of
from dsnn_utils.shift import build_model

ENERGY = "energy_modelled_j_per_image"


def trials(n: int = 40, seeds: int = 1) -> pd.DataFrame:
    """A made-up trials table with the published default first and some failed trials."""
    parts = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        depth = rng.choice([2, 7, 20], n)
        optimizer = rng.choice(["SGD", "Adam", "Ranger"], n)
        loss = (0.1 + 0.01 * depth + rng.uniform(0, 0.2, n)).round(3)
        status = np.where(rng.random(n) < 0.1, "DIVERGED", "SUCCESS")
        status[0] = "SUCCESS"
        rows = pd.DataFrame(
            {
                "trial": np.arange(n), "seed": seed, "status": status,
                "strategy": "random", "origin": np.where(np.arange(n) == 0, "default", "model"),
                "dataset": "digits", "model": "resnet20",
                "shift_depth": np.where(np.arange(n) == 0, 20, depth), "max_shift_depth": 20,
                "shift_type": np.where((np.arange(n) == 0) | (rng.random(n) < 0.5), "PS", "Q"),
                "weight_bits": np.where(np.arange(n) == 0, 5, rng.integers(2, 9, n)),
                "activation_integer_bits": rng.integers(2, 33, n),
                "activation_fraction_bits": rng.integers(2, 33, n),
                "rounding": "deterministic", "batch_size": 64, "optimizer": optimizer,
                "lr": 10 ** rng.uniform(-3, -0.7, n),
                "momentum": np.where(optimizer == "SGD", 0.9, np.nan), "weight_decay": 1e-4,
                "epochs": 3, "train_size": 1000, "val_accuracy": 1 - loss, "loss": loss,
                ENERGY: 1e-6 * (200 - 8 * depth + rng.uniform(0, 9, n)),
                "emissions_gco2eq": 0.1, "duration_s": 2.0,
            }
        )  # fmt: skip
        failed = rows["status"] != "SUCCESS"
        rows.loc[failed, ["val_accuracy", "loss", ENERGY, "emissions_gco2eq"]] = np.nan
        parts.append(rows)
    return pd.concat(parts)  # the index repeats, as real tables put together


def made_up(point) -> float:
    """About the energy of `trials`, in J per image."""
    return 1e-6 * (200 - 8 * point["shift_depth"])


TRIALS, SEEDS = trials(), trials(seeds=3)
HISTORY = [
    {"epoch": e, "train_loss": 1 / e, "train_accuracy": 1 - 1 / (e + 1),
     "validation_loss": 1.1 / e, "validation_accuracy": 0.9 - 1 / (e + 1), "lr": 0.1}
    for e in (1, 2, 3)
]  # fmt: skip
BREAK_EVEN = [
    ("the default", break_even(1e-3, 2e-3, 1.9e-3, kind="measured",
                               solution_half_width_j_per_image=2e-4)),
    ("a like one", break_even(1e-3, 1.8e-3, 1.9e-3, kind="measured",
                              solution_half_width_j_per_image=2e-4)),
    ("the plain network", break_even(1e-8, 1.2e-5, 1e-6, kind="modelled")),
    ("a cheaper one", break_even(1e-8, 5e-7, 1e-6, kind="modelled")),
]  # fmt: skip
X = np.linspace(-1.5, 1.5, 301)


def readings(joules: dict, windows_s=(1.0,), rounds: int = 6) -> pd.DataFrame:
    """Made-up readings of networks, as `meter.take_readings` gives them, with 4 % noise at 1 s."""
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {"network": name, "window_s": w, "round": r, "duration_s_per_image": j / 14,
         "energy_measured_j_per_image": j * rng.normal(1, 0.04 / w**0.5),
         "power_measured_w": 14.0, "reason": ""}
        for r in range(rounds) for name, j in joules.items() for w in windows_s
    )  # fmt: skip


DEPTH_READINGS = readings({0: 0.044, 10: 0.046, 20: 0.06})
WAYS = summarise_readings(readings({"float32": 0.01, "int8": 0.002}))
MODELLED = pd.DataFrame(
    {"shift_depth": [0, 10, 20], ENERGY: [1.9e-4, 1e-4, 1e-5],
     "energy_modelled_with_memory_j_per_image": [2.2e-4, 1.3e-4, 4e-5]}
)  # fmt: skip
PLAIN = build_model("resnet20", 10)
COUNTS = {
    "plain": operation_counts(PLAIN, (3, 8, 8)),
    "shifted": operation_counts(convert_to_shift(PLAIN, 20, ShiftSpec()), (3, 8, 8)),
}
GRID = pd.DataFrame(
    {"trial": range(24), "seed": 0, "status": "SUCCESS", "max_shift_depth": 20,
     "shift_type": ["Q", "PS"] * 12, "shift_depth": np.repeat([1, 10, 20], 8),
     "weight_bits": np.tile([2, 2, 5, 5], 6),
     "activation_integer_bits": np.tile([4] * 4 + [16] * 4, 3)}
)  # fmt: skip
GRID["activation_fraction_bits"] = GRID["activation_integer_bits"]
GRID["val_accuracy"] = 0.9 - 0.01 * GRID["shift_depth"] + 0.001 * GRID["trial"]
GRID["loss"] = 1 - GRID["val_accuracy"]
GRID["energy_modelled_with_memory_j_per_image"] = 1e-6 * (230 - 10 * GRID["shift_depth"])
FINALS = pd.DataFrame(
    {"origin": ["default", "knee", "known good 1"], "shift_depth": [20, 20, 6], "seeds": [3, 3, 1],
     "test_accuracy": [0.84, 0.88, 0.9], "test_accuracy_half_width": [0.01, 0.005, np.nan],
     "energy_modelled_with_memory_j_per_image": [36e-6, 18e-6, 140e-6]}
)  # fmt: skip
FIDELITIES = pd.DataFrame(
    {"shift_depth": [1, 10, 20, 20], "epochs": [3, 3, 1, 3], "data_fraction": [1.0, 1.0, 1.0, 0.3],
     "configurations": 24, "spearman": [0.3, 0.7, 0.6, np.nan], "low": [0, 0.5, 0.4, np.nan],
     "high": [0.5, 0.8, 0.7, np.nan], "cost": [0.9, 0.95, 0.33, 0.3],
     "full_shift_depth": 20, "full_epochs": 3, "full_data_fraction": 1.0}
)  # fmt: skip
FORMATS = pd.DataFrame(
    {
        "origin": ["none", "none", "all", "all"],
        "weight_bits": [2, 3, 2, 3],
        "activation_bits": 4,
        "seeds": 2,
        "failed": [2, 1, 0, 0],
        "mean": [np.nan, 0.2, 0.45, 0.5],
    }
)
MEASURED = pd.DataFrame(
    {"what": list("aabb"), "runtime": list("rsrs"), "test_accuracy": [0.9, 0.9, 0.8, 0.8],
     "energy_measured_j_per_image": [4e-3, 5e-3, 2e-3, 9e-3],
     "half_width_j_per_image": [1e-3, 1e-3, 1e-4, 1e-4]}
)  # fmt: skip

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 1, 8, 8), dtype=np.uint8)
LABELS = np.arange(12) % 3
PREDICTED = {  # one network that is always right, one that takes all for the first class
    "right": np.eye(3)[LABELS],
    "first": np.tile([0.5, 0.3, 0.2], (12, 1)) + np.linspace(0, 0.1, 12)[:, None] * [1, -1, 0],
}
POINT = TRIALS.iloc[1].to_dict() | {"shift_depth": 7}
FIGURES = {
    "format": lambda: plots.plot_format(POINT, made_up, 20, TRIALS),
    "images": lambda: plots.plot_images(IMAGES, LABELS, ["cat", "dog", "a very long name"]),
    "confusions": lambda: plots.plot_confusions(PREDICTED, LABELS, ["cat", "dog", "fox"]),
    "mistakes": lambda: plots.plot_mistakes(PREDICTED, IMAGES, LABELS, ["cat", "dog", "fox"], 4),
    "formats": lambda: plots.plot_formats(FORMATS),
    "rounding": lambda: plots.plot_rounding(X, np.sign(X), np.floor(4 * X) / 4),
    "rounding_bias": lambda: plots.plot_rounding_bias(
        [0, 0.25, 0.75], [0, -0.16, 0.19], [0, 0.05, 0.04], [0, 0.051, 0.041]
    ),
    "network": lambda: plots.plot_network(list("abcde"), [0, 2, 5], dict.fromkeys("abcde", 7)),
    "weights": lambda: plots.plot_weights({"plain": X, "Q": np.sign(X)}),
    "training": lambda: plots.plot_training({"plain": HISTORY, "Q": HISTORY}),
    "space": lambda: plots.plot_space(TRIALS),
    "front": lambda: plots.plot_front(TRIALS, chosen=analysis.knee(TRIALS)),
    "front_accuracy": lambda: plots.plot_front(SEEDS, y="val_accuracy", width=plots.ONE_COLUMN),
    "hypervolume": lambda: plots.plot_hypervolume(analysis.hypervolume_over(SEEDS)),
    "depth_and_bits": lambda: plots.plot_depth_and_bits(
        analysis.depth_and_bits(analysis.pareto_front(TRIALS), TRIALS)
    ),
    "parallel": lambda: plots.plot_parallel(TRIALS),
    "importance": lambda: plots.plot_importance(
        {"loss": pd.DataFrame({"hyperparameter": ["lr", "shift_depth"], "importance": [0.2, 0.8],
                               "lowest": [0.1, 0.7], "highest": [0.3, 0.9]})}
    ),
    "rank_correlation": lambda: plots.plot_rank_correlation(
        pd.DataFrame({"shift_depth": [2], "full_shift_depth": [7], "configurations": [9],
                      "spearman": [0.5]})
    ),
    "right_pairs": lambda: plots.plot_right_pairs(
        pd.DataFrame({"shift_depth": [2, 2], "full_shift_depth": [7, 20], "pairs": [1, 9],
                      "share": [1.0, 0.4], "share_low": [0.2, 0.2], "share_high": [1.0, 0.6]})
    ),
    "ablation": lambda: plots.plot_ablation(
        {
            n: analysis.ablation_path(TRIALS, *TRIALS.iloc[[0, 3]].iloc, n, energy_of=made_up)
            for n in ("loss", ENERGY)
        }
    ),
    "partial_dependence": lambda: plots.plot_partial_dependence(TRIALS, energy_of=made_up),
    "tradeoff": lambda: plots.plot_tradeoff(TRIALS),
    "accuracy_drop": lambda: plots.plot_accuracy_drop(SEEDS),
    "accuracy_drop_draws": lambda: plots.plot_accuracy_drop(
        analysis.plausible_accuracies(TRIALS, 100, draws=30), by="draw"
    ),
    "break_even": lambda: plots.plot_break_even(BREAK_EVEN),
    "published": lambda: study.plot_published(study.compare(TRIALS)),
    "finals": lambda: study.plot_finals(FINALS),
    "fronts of studies": lambda: study.plot_fronts({"first": FINALS, "second": FINALS.head(1)}),
    "measured": lambda: study.plot_measured(MEASURED),
    "grid": lambda: study.plot_grid(GRID),
    "fidelities": lambda: plots.plot_fidelities(FIDELITIES),
    "energy_depth": lambda: plots.plot_energy_depth(DEPTH_READINGS, MODELLED),
    "noise": lambda: plots.plot_noise(readings({"a": 0.05}, (0.5, 1.0, 2.0), 10), 0.007),
    "energy_by_kind": lambda: plots.plot_energy_by_kind(COUNTS),
    "grids": lambda: plots.plot_grids(grid_table(0.5), "DEU"),
    "ways": lambda: plots.plot_ways({"batches of 128": WAYS, "one image at a time": 4 * WAYS}),
}  # fmt: skip
WITHOUT_AXES = {"parallel", "published", "space", "images", "mistakes"}
INTERACTIVE = {
    "training",
    "front",
    "front_accuracy",
    "hypervolume",
    "parallel",
    "tradeoff",
    "grids",
}


@pytest.fixture(scope="module")
def figures() -> dict[str, plots.DualFigure]:
    return {name: make() for name, make in FIGURES.items()}


@pytest.mark.parametrize("name", FIGURES)
def test_bundle_is_small_has_its_faces_and_is_the_same_every_time(figures, name):
    bundle = figures[name]._repr_mimebundle_()
    svg = bundle["image/svg+xml"]
    assert svg.lstrip().startswith("<?xml") and len(svg) < 150_000
    assert "<dc:date>" not in svg
    assert len(bundle["text/plain"]) > 10
    live = bundle.get("application/vnd.plotly.v1+json")
    assert (live is not None) == (name in INTERACTIVE)
    if live is not None:
        assert len(live["data"]) > 0
        # Plain lists rather than base64 blocks, and nothing that is not JSON (such as NaN).
        assert "bdata" not in json.dumps(live, allow_nan=False)
    again = FIGURES[name]()
    assert again.svg() == svg
    assert again.data.to_csv(index=False) == figures[name].data.to_csv(index=False)


def test_saved_files_are_the_same_bytes_every_time(figures, tmp_path):
    paths = figures["front"].save(tmp_path / "new folder" / "front.v1")
    assert [path.name for path in paths] == ["front.v1.svg", "front.v1.png", "front.v1.csv"]
    again = FIGURES["front"]().save(tmp_path / "again")
    for one, other in zip(paths, again, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert Image.open(io.BytesIO(paths[1].read_bytes())).width > 600
    other = figures["front"].save(tmp_path / "front", data=pd.DataFrame({"x": [1]}))
    assert other[2].read_text() == "x\n1\n"


@pytest.mark.parametrize("name", sorted(set(FIGURES) - WITHOUT_AXES))
def test_axes_have_labels_with_units(figures, name):
    unitless = r"Weight bits|Weight, one bar per value|Epoch|Trials|Hypervolume|Spearman"
    axes = [a for a in figures[name].static.axes if a.axison]
    labels = [text for a in axes for text in (a.get_xlabel(), a.get_ylabel(), a.get_title())]
    labels = [text for text in labels if text]
    assert any("(" in text or re.search(unitless, text) for text in labels)
    quantities = r"energy|error|accuracy|entropy|share|depth \("
    for axis in axes:
        for text in (axis.get_xlabel(), axis.get_ylabel()):
            if re.search(quantities, text, re.IGNORECASE) and "Spearman" not in text:
                assert "(" in text, f"no unit: {text}"


@pytest.mark.parametrize("name", FIGURES)
def test_no_text_is_cut_off_or_too_small(figures, name):
    figure = figures[name].static
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    width, height = figure.bbox.size
    texts = [t for a in figure.axes for t in (a.title, a.xaxis.label, a.yaxis.label)]
    texts += [t for legend in figure.legends for t in legend.get_texts()]
    for text in texts:
        if text.get_text():
            box = text.get_window_extent(renderer)
            assert box.x0 > -2 and box.y0 > -2, text
            assert box.x1 < width + 2 and box.y1 < height + 2, text
            assert text.get_fontsize() >= 7


def test_figures_are_outside_pyplot_and_leave_its_settings_alone(figures):
    assert plt.get_fignums() == []
    assert plt.rcParams["svg.fonttype"] == plt.rcParamsDefault["svg.fonttype"]
    with plt.rc_context():
        plots.use_style()
        assert plt.rcParams["svg.fonttype"] == "none"


# --- the front -----------------------------------------------------------------------------------


def drawn(figure: plots.DualFigure) -> int:
    """Marks of trials in the static face."""
    return sum(len(c.get_offsets()) for c in figure.static.axes[0].collections
               if hasattr(c, "get_sizes") and len(c.get_sizes()))  # fmt: skip


def test_front_draws_every_successful_trial_in_both_faces(figures):
    successes = int((TRIALS["status"] == "SUCCESS").sum())
    assert drawn(figures["front"]) == successes
    marks = [t for t in figures["front"].interactive.data if t.name.startswith("depth")]
    assert sum(len(t.x) for t in marks) == successes
    assert {t.legendgroup for t in marks} == {"Q", "PS"}
    assert {t.name for t in marks} == {"depth 2", "depth 7", "depth 20"}
    assert len(figures["front"].data) == successes


def test_front_line_default_and_chosen_are_where_they_belong(figures):
    axis = figures["front"].static.axes[0]
    best = analysis.pareto_front(TRIALS)
    circles = next(line for line in axis.lines if line.get_marker() == "o")
    np.testing.assert_allclose(circles.get_xdata(), 1e6 * best[ENERGY])
    np.testing.assert_allclose(circles.get_ydata(), 100 * best["loss"])
    star = next(line for line in axis.lines if line.get_marker() == "*")
    assert star.get_xdata()[0] == pytest.approx(1e6 * runs.default_trial(TRIALS)[ENERGY])
    named = {trace.name: trace for trace in figures["front"].interactive.data}
    assert named["chosen"].y[0] == pytest.approx(100 * analysis.knee(TRIALS)["loss"])
    assert axis.get_xlabel() == "Modelled energy (µJ per image)"
    assert axis.get_ylabel() == "Validation error (%)"


def test_the_staircase_never_passes_above_a_point_of_the_front(figures):
    x, y = figures["front"].static.axes[0].lines[0].get_data()
    for _, row in analysis.pareto_front(TRIALS).iterrows():
        at = np.isclose(x, 1e6 * row[ENERGY])
        assert y[at].min() == pytest.approx(100 * row["loss"])
    assert (np.diff(y) <= 1e-9).all() and (np.diff(x) >= 0).all()


def test_hover_shows_the_whole_configuration(figures):
    trace = figures["front"].interactive.data[0]
    for name in ("trial", "optimizer", "lr", "weight_bits", "activation_integer_bits", "rounding"):
        assert f"{name}: " in trace.hovertemplate
    assert trace.hovertemplate.count("customdata") == len(trace.customdata[0])


def test_several_seeds_give_median_and_band(figures):
    labels = [t.get_text() for t in figures["front_accuracy"].static.legends[0].get_texts()]
    assert {"median of 3 seeds", "range over seeds", "front over all seeds"} <= set(labels)
    axis = figures["front_accuracy"].static.axes[0]
    median = analysis.attainment(SEEDS, percentiles=[50])
    line = next(line for line in axis.lines if line.get_label() == "median of 3 seeds")
    assert set(np.round(100 * (1 - median["loss"]), 6)) <= set(np.round(line.get_ydata(), 6))


def test_far_worse_trials_are_counted_not_hidden_silently():
    rows = trials().reset_index(drop=True)
    rows.loc[[3, 4], ["status", "loss", ENERGY]] = ["SUCCESS", 0.99, 2e-4]
    figure = plots.plot_front(rows)
    texts = [t.get_text() for t in figure.static.axes[0].texts]
    assert texts == ["2 worse trials outside the view"]
    assert max(max(t.y) for t in figure.interactive.data) == pytest.approx(99)


def test_losses_up_to_chance_get_a_logarithmic_axis():
    rows = trials().reset_index(drop=True)
    rows.loc[0, "loss"] = 0.9  # the default did not learn
    figure = plots.plot_front(rows)
    axis = figure.static.axes[0]
    assert axis.get_yscale() == "log" and figure.interactive.layout.yaxis.type == "log"
    assert axis.get_ylim()[1] > 90 and not axis.texts
    labels = [t.get_text() for t in axis.get_yticklabels()]
    assert {"20", "50"} <= set(labels)
    assert plots.plot_front(rows, y="val_accuracy").static.axes[0].get_yscale() == "linear"


def test_thousands_of_trials_are_rasterised_and_thinned_openly():
    figure = plots.plot_front(trials(6000))
    assert len(figure.svg()) < 400_000 and "<image" in figure.svg()
    assert "of" in figure.interactive.layout.title.text
    shown = sum(len(t.x) for t in figure.interactive.data if t.name.startswith("depth"))
    assert shown <= front.HOVER_AT_MOST + figure.data["on_front"].sum()
    assert len(figure.data) > 5000  # the CSV has them all


@pytest.mark.parametrize("seeds", [1, 5])
def test_front_of_one_trial_per_seed(seeds):
    rows = trials(1, seeds)
    assert drawn(plots.plot_front(rows)) == seeds
    plots.plot_tradeoff(rows)
    plots.plot_parallel(rows)
    plots.plot_accuracy_drop(rows)


def test_front_without_a_default_and_with_a_plain_network():
    rows = trials().reset_index(drop=True).assign(origin="model")
    rows.loc[0, ["shift_depth", "shift_type"]] = [0, None]
    figure = plots.plot_front(rows)
    assert drawn(figure) == (rows["status"] == "SUCCESS").sum()
    labels = [t.get_text() for t in figure.static.legends[0].get_texts()]
    assert "published default" not in labels


def test_unknown_axis_is_refused():
    with pytest.raises(ValueError, match="axis='energy': must end in a unit, or be one of"):
        plots.plot_front(TRIALS, x="energy")


# --- the others ----------------------------------------------------------------------------------


def test_rounding_draws_each_step_once(figures):
    steps = figures["rounding"].static.axes[0].collections[0].get_segments()
    assert sorted({s[0][1] for s in steps}) == [-1, 0, 1]
    assert len(figures["rounding"].static.axes[1].collections[0].get_segments()) == 13


def test_network_colours_the_output_end():
    figure = plots.plot_network(["fc", "conv2", "conv1"], [0, 1, 3])
    data = figure.data
    assert data.groupby("shift_depth")["shift"].sum().to_dict() == {0: 0, 1: 1, 3: 3}
    shifted = data[(data["shift_depth"] == 1) & data["shift"]]
    assert shifted["layer"].tolist() == ["fc"] and shifted["position"].tolist() == [3]
    boxes = figure.static.axes[0].patches
    blue = [b for b in boxes if b.get_facecolor()[:3] == plt.matplotlib.colors.to_rgb(style.BLUE)]
    assert len(boxes) == 9 and len(blue) == 4
    with pytest.raises(ValueError, match="depths=4: must be an integer from 0 to 3"):
        plots.plot_network(["fc", "conv2", "conv1"], [4])


def test_weights_of_few_values_have_one_bar_each(figures):
    _, bars = figures["weights"].static.axes
    assert len(bars.patches) == 3
    assert [t.get_text() for t in bars.get_xticklabels()] == ["−1", "0", "1"]
    data = figures["weights"].data
    np.testing.assert_allclose(data.groupby("weights")["share_percent"].sum(), 100)


def test_rounding_to_the_nearest_is_drawn_in_two_pieces(figures):
    _, nearest, expected, drawn = figures["rounding_bias"].static.axes[0].lines
    np.testing.assert_allclose(nearest.get_ydata(), [0, -16, np.nan, 19])
    np.testing.assert_allclose(expected.get_ydata(), [0, 5.1, 4.1])
    np.testing.assert_allclose(drawn.get_ydata(), [0, 5, 4])


def test_network_writes_the_share_of_work_that_shifts():
    figure = plots.plot_network(
        ["fc", "conv2", "conv1"], [0, 1, 2], {"fc": 1, "conv2": 399, "conv1": 100}
    )
    texts = [text.get_text() for text in figure.static.axes[1].texts]
    assert texts == ["0 %", "< 1 %", "80 %"]


def test_weights_before_are_outlines_over_the_same_values():
    weights = {"plain": np.linspace(-1, 1, 999), "PS": np.array([-1.0, 0, 0, 1])}
    before = {"plain": 2 * weights["plain"], "PS": np.array([0.5, 0.5, 1, 1])}
    data = plots.plot_weights(weights, before).data.set_index(["weights", "value"]).loc["PS"]
    assert data["share_percent"].to_dict() == {-1: 25, 0: 50, 0.5: 0, 1: 25}
    assert data["share_before_percent"].to_dict() == {-1: 0, 0: 0, 0.5: 50, 1: 50}
    figure = plots.plot_weights(weights, before)
    np.testing.assert_allclose(figure.data.groupby("weights")["share_before_percent"].sum(), 100)


def test_training_draws_both_parts_of_each_run(figures):
    assert [len(a.lines) for a in figures["training"].static.axes] == [4, 4]
    assert len(figures["training"].interactive.data) == 8
    with pytest.raises(ValueError, match=r"must have the columns \['validation_loss'\]"):
        plots.plot_training({"plain": [{"epoch": 1, "train_loss": 1.0}]})


def test_hypervolume_median_of_runs():
    curves = pd.DataFrame(
        {"seed": [0, 0, 1, 1, 2, 2], "trial": [1, 2] * 3,
         "hypervolume": [0.1, 0.2, 0.3, 0.3, 0.0, 0.6]}
    )  # fmt: skip
    figure = plots.plot_hypervolume(curves)
    np.testing.assert_allclose(figure.interactive.data[0].y, [0.1, 0.3])
    grouped = plots.plot_hypervolume(
        curves.assign(strategy=["a", "a", "b", "b", "b", "b"]), "strategy"
    )
    assert [t.name for t in grouped.interactive.data] == ["a", "b (median of 2)"]


def test_tradeoff_shows_the_best_trial_of_each_cell(figures):
    rows = TRIALS[TRIALS["status"] == "SUCCESS"]
    best = rows.groupby(["shift_depth", "weight_bits"])["loss"].min()
    data = figures["tradeoff"].data.set_index(["shift_depth", "weight_bits"])["loss"]
    pd.testing.assert_series_equal(data.sort_index(), best.sort_index())
    z = np.array(figures["tradeoff"].interactive.data[0].z, dtype=float)
    assert np.isfinite(z).sum() == len(best)
    with pytest.raises(ValueError, match="bits='bits': must be one of"):
        plots.plot_tradeoff(TRIALS, "bits")


def test_ablation_draws_each_step_from_one_prediction_to_the_next(figures):
    path = analysis.ablation_path(TRIALS, *TRIALS.iloc[[0, 3]].iloc)
    axis = figures["ablation"].static.axes[0]
    bars = axis.patches
    assert len(bars) == len(path) - 1 > 3
    for bar, before, after in zip(bars, path["predicted"], path["predicted"][1:], strict=False):
        assert bar.get_x() == pytest.approx(100 * before)
        assert bar.get_x() + bar.get_width() == pytest.approx(100 * after)
    labels = [t.get_text() for t in axis.get_yticklabels()]
    assert labels[0] == "start" and len(labels) == len(path)
    optimizer = path[path["hyperparameter"] == "optimizer"].iloc[0]
    assert f"Optimizer: {optimizer['from']} → {optimizer['to']}" in labels
    assert axis.get_title("right").startswith("R² = ")
    energy = figures["ablation"].static.axes[1]
    assert energy.get_title("right") == "calculated"
    low, high = energy.get_xlim()
    marks = np.concatenate([line.get_xdata() for line in energy.lines if line.get_marker() == "D"])
    assert low < np.nanmin(marks) and np.nanmax(marks) < high
    nothing = analysis.ablation_path(TRIALS, TRIALS.iloc[0], TRIALS.iloc[0])
    assert "no hyperparameter differs" in plots.plot_ablation({"loss": nothing}).description


def test_ablation_says_when_the_forest_is_no_guide(figures):
    rng = np.random.default_rng(0)
    noise = TRIALS.assign(loss=rng.random(len(TRIALS)))
    path = analysis.ablation_path(noise, *noise.iloc[[0, 3]].iloc)
    axis = plots.plot_ablation({"loss": path}).static.axes[0]
    assert path["r2"].iloc[0] < 0.1 and axis.get_title("right").endswith("no guide")


def test_partial_dependence_maps_the_prediction_and_marks_each_trial(figures):
    figure = figures["partial_dependence"]
    assert len(figure.static.axes) == 4
    table = analysis.partial_dependence(TRIALS, ("shift_depth", "weight_bits"))
    (image,), others = figure.static.axes[0].images, figure.static.axes[0].collections
    expected = 100 * table.pivot(index="weight_bits", columns="shift_depth", values="predicted")
    np.testing.assert_allclose(image.get_array(), expected.to_numpy())
    marks = [c for c in others if len(c.get_offsets()) > 1 and len(c.get_sizes())]
    trials, rings = marks
    assert len(trials.get_offsets()) == (TRIALS["status"] == "SUCCESS").sum()
    assert len(rings.get_offsets()) == len(analysis.pareto_front(TRIALS))
    good = TRIALS[TRIALS["status"] == "SUCCESS"]
    first = expected.columns.get_loc(good["shift_depth"].iloc[0])
    assert abs(trials.get_offsets()[0, 0] - first) <= 0.25
    with pytest.raises(ValueError, match="bits='bits': must be one of"):
        plots.plot_partial_dependence(TRIALS, ["bits"])


def test_partial_dependence_of_one_depth_and_of_many_trials():
    one = plots.plot_partial_dependence(
        TRIALS.assign(shift_depth=7), ["weight_bits"], energy_of=made_up
    )
    assert len(one.static.axes) == 4  # colour bars in place of contours
    many = plots.plot_partial_dependence(trials(6000), ["weight_bits"], energy_of=made_up)
    assert len(many.svg()) < 400_000


def test_right_pairs_draw_shares_and_refuse_an_empty_report(figures):
    axis = figures["right_pairs"].static.axes[0]
    labels = [t.get_text() for t in axis.get_yticklabels()]
    assert labels == ["2 → 7 (1 pair)", "2 → 20 (9 pairs)"]
    assert "2 → 20 (9 pairs) 40 %" in figures["right_pairs"].description
    with pytest.raises(ValueError, match="agreement: must have a pair"):
        plots.plot_right_pairs(analysis.rank_agreement(TRIALS))


def test_bins_cover_the_values_without_gaps():
    assert style.bins_of([2, 20, 7, 7]) == [(2, 2), (7, 7), (20, 20)]
    bins = style.bins_of(np.arange(1, 21))
    assert bins[0][0] == 1 and bins[-1][1] == 20
    assert all(a[1] + 1 == b[0] for a, b in zip(bins[:-1], bins[1:], strict=True))
    assert style.bin_labels(bins)[:2] == ["1–3", "4–6"]
    assert style.bin_index([1, 3, 4, 20], bins).tolist() == [0, 0, 1, 6]


def test_accuracy_drop_reads_off_the_answer():
    rows = trials(2).assign(status="SUCCESS", loss=[0.10, 0.11], weight_bits=[5, 3])
    rows[ENERGY] = [2e-4, 1e-4]
    figure = plots.plot_accuracy_drop(rows, 0.01)
    assert figure.description.startswith("1 point less accuracy: 50 % less modelled energy")
    assert "weight bits 3" in figure.description


def test_accuracy_drop_of_many_runs_gives_their_middle_90_per_cent():
    rows = pd.concat([trials(2).assign(status="SUCCESS", loss=[0.10, 0.11], draw=d)
                      for d in range(100)])  # fmt: skip
    rows[ENERGY] = [v for d in range(100) for v in (1.0, 0.5 if d < 3 else 0.2)]
    figure = plots.plot_accuracy_drop(rows, 0.01, by="draw")
    assert figure.description.startswith("1 point less accuracy: 80 % less modelled energy")


def test_break_even_has_a_panel_per_kind_and_says_where_nothing_is_saved(figures):
    figure = figures["break_even"]
    labels = [axis.get_ylabel() for axis in figure.static.axes]
    assert labels == ["Measured energy in all (J)", "Modelled energy in all (J)"]
    assert "the default (measured): paid back after 3.6·10⁷ (1.2·10⁷ to ∞)" in figure.description
    assert "a like one (measured): paid back not before 3.6·10⁷, if ever" in figure.description
    assert "a cheaper one (modelled): never paid back" in figure.description
    assert figure.data["kind"].tolist() == ["measured"] * 2 + ["modelled"] * 2


def test_energy_over_depth_keeps_measured_and_modelled_apart(figures):
    left, right = figures["energy_depth"].static.axes
    assert left.get_ylabel() == "Measured energy (mJ per image)"
    assert right.get_ylabel() == "Modelled energy (µJ per image)"
    assert left.get_ylim()[0] == 0
    means = summarise_readings(DEPTH_READINGS)["energy_measured_j_per_image"]
    drawn_means = left.containers[0].lines[0].get_ydata().astype(float)
    np.testing.assert_allclose(drawn_means, 1e3 * means)
    np.testing.assert_allclose(right.lines[0].get_ydata(), 1e6 * MODELLED[ENERGY])
    data = figures["energy_depth"].data
    assert data["shift_depth"].tolist() == [0, 10, 20] and data["readings"].tolist() == [6] * 3


def test_modelled_energy_over_more_than_a_decade_is_on_a_logarithmic_axis(figures):
    left, right = figures["energy_depth"].static.axes
    assert (left.get_yscale(), right.get_yscale()) == ("linear", "log")
    low, high = right.get_ylim()
    assert low < 1e6 * MODELLED[ENERGY].min() and high > 1e6 * MODELLED[ENERGY].max()
    _, flat = plots.plot_energy_depth(DEPTH_READINGS, MODELLED.assign(**{ENERGY: 1e-4})).static.axes
    assert flat.get_yscale() == "linear" and flat.get_ylim()[0] == 0


def test_ways_have_a_mark_each_and_say_their_times_beside_the_whiskers(figures):
    left, right = figures["ways"].static.axes
    marks = left.containers[0].lines[0].get_xdata().astype(float)
    np.testing.assert_allclose(marks, 1e3 * WAYS["energy_measured_j_per_image"])
    seconds = WAYS["duration_s_per_image"].iloc[0]
    assert left.texts[0].get_text() == f"{1e3 * seconds:.2g} ms"
    end = 1e3 * (WAYS["energy_measured_j_per_image"] + WAYS["half_width_j_per_image"]).iloc[0]
    assert left.texts[0].xy[0] == pytest.approx(end) and left.texts[0].xyann[0] > 3  # points away
    assert len(right.texts) == 2 and len(figures["ways"].data) == 4
    assert left.get_xscale() == "linear"
    wide = WAYS.assign(energy_measured_j_per_image=[0.001, 0.02], half_width_j_per_image=0.005)
    (axis,) = plots.plot_ways({"wide": wide}).static.axes
    assert axis.get_xscale() == "log"
    (whiskers,) = axis.containers[0].lines[2]
    assert min(end for segment in whiskers.get_segments() for end, _ in segment) > 0


def test_a_network_has_one_colour_in_all_figures():
    kinds = {"plain": "Q", "Q": "plain", "PS": "chosen", "the default": "integer"}
    for name, other in kinds.items():  # whatever stands beside it, and in whichever order
        assert colours_of([name, other])[name] == colours_of([other, name])[name]
    colours = colours_of(["PS", "PS (kept)", "PS (both)", "PS (none)", "remedies", "Quick"])
    assert len(set(colours.values())) == 6 and colours["PS (kept)"] not in NETWORKS.values()
    assert NETWORKS["PS"] not in (colours["remedies"], colours["Quick"])
    assert list(colours_of("abc").values()) == list(plots.CATEGORIES[:3])
    curves = plots.plot_training({"PS": HISTORY, "plain": HISTORY}).static.axes[0].lines
    drawn_colours = [line.get_color() for line in curves if line.get_label() in ("PS", "plain")]
    assert drawn_colours == [NETWORKS["PS"], NETWORKS["plain"]]
    names = ["Q", "plain", "PS"]
    table = pd.concat([learning_curves_of(1).assign(point=name) for name in names])
    live = plots.plot_learning_curves(table).interactive
    assert [trace.line.color for trace in live.data] == [NETWORKS[name] for name in names]


def test_noise_draws_each_reading_and_how_many_it_takes(figures):
    left, right = figures["noise"].static.axes
    dots = left.lines[:3]
    assert [len(line.get_ydata()) for line in dots] == [10] * 3
    np.testing.assert_allclose([np.mean(line.get_ydata()) for line in dots], 0, atol=1e-9)
    assert [t.get_text() for t in left.get_xticklabels()] == ["0.5", "1", "2"]
    assert right.lines[-1].get_xdata()[0] == pytest.approx(0.7)
    data = figures["noise"].data
    cv = summarise_readings(readings({"a": 0.05}, (0.5, 1.0, 2.0), 10), "window_s").loc[1.0, "cv"]
    row = data[data["window_s"] == 1.0].iloc[40]
    assert row["readings"] == repetitions_to_rank(cv, row["difference_share"])
    assert row["readings_at_least"] < row["readings"] < row["readings_at_most"]


def test_energy_by_kind_shows_shares_of_the_whole_with_and_without_memory(figures):
    figure = figures["energy_by_kind"]
    compute, _, dram = figure.static.axes
    for axis in (compute, dram):
        ends = [max(b.get_x() + b.get_width() for b in axis.patches if b.get_y() // 1 == y)
                for y in (-1, 0)]  # fmt: skip
        np.testing.assert_allclose(ends, 100)
    data = figure.data.set_index(["panel", "network"])
    assert (data.loc["Compute only", "memory"] == 0).all()
    moved = COUNTS["plain"]["memory_bits"].sum() * MEMORY_PJ_PER_BIT["dram"] * 1e-12
    assert data.loc[("All data in DRAM", "plain"), "memory"] == pytest.approx(moved)
    total = 1e6 * (moved + COUNTS["plain"][ENERGY].sum())
    assert f"{total:.3g} µJ" in [t.get_text() for t in dram.texts]


def test_grids_mark_one_country_and_name_those_that_have_room(figures):
    texts = [t.get_text() for t in figures["grids"].static.axes[0].texts]
    germany = figures["grids"].data.set_index("country").loc["DEU"]
    assert texts[0] == f"Germany {germany['emissions_gco2eq']:.3g}"
    assert any(text.startswith("France") for text in texts)
    bars = figures["grids"].interactive.data[0]
    assert len(bars.x) == len(figures["grids"].data) and list(bars.y) == sorted(bars.y)
    assert bars.marker.color.count(style.VERMILION) == 1
    assert "low-carbon" in bars.text[0] and "(2022)" in bars.text[0]
    with pytest.raises(ValueError, match="country='XXX': must be one of"):
        plots.plot_grids(grid_table(), "XXX")


# --- the live view -------------------------------------------------------------------------------


class Clock:
    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


@pytest.fixture
def shown(monkeypatch):
    """What a notebook would be shown: a list of (kind, mime bundle)."""
    import IPython
    import IPython.display

    calls = []

    class Handle:
        def update(self, figure):
            calls.append(("update", figure._repr_mimebundle_()))

    def display(figure, display_id):
        calls.append(("display", figure._repr_mimebundle_()))
        return Handle()

    monkeypatch.setattr(IPython, "get_ipython", lambda: object())
    monkeypatch.setattr(IPython.display, "display", display)
    return calls


def test_live_view_redraws_one_display_at_most_twice_a_second(monkeypatch, shown):
    clock = Clock(monkeypatch)
    with plots.LiveFront(n_trials=40, live=True) as live:
        for n in range(25, 41):
            live({}, TRIALS.iloc[:n])
            clock.now += 0.125
    assert [kind for kind, _ in shown] == ["display"] + ["update"] * 4
    while_running, last = shown[:-1], shown[-1][1]
    assert all(set(bundle) == {"image/svg+xml", "text/plain"} for _, bundle in while_running)
    assert "application/vnd.plotly.v1+json" in last and "trial 40/40" in last["image/svg+xml"]


def test_without_a_viewer_there_are_a_few_lines_of_text(monkeypatch, capsys):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    monkeypatch.delenv("VSCODE_PID", raising=False)
    clock = Clock(monkeypatch)
    live = plots.LiveFront(n_trials=40)
    assert live.live is False
    for n in range(1, 41):
        live.update(TRIALS.iloc[:n])
        clock.now += 1
    live.close()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and lines[0].startswith("trial 1/40, 0 failed, 1 on the front")
    assert lines[-1].startswith("trial 40/40")


def test_live_view_of_nothing_and_of_failures_only(capsys, shown):
    plots.LiveFront().close()
    with plots.LiveFront(live=True) as live:
        live.update(TRIALS.iloc[:1].assign(status="CRASHED"))
    assert shown == []
    assert live.status() == "trial 1, 1 failed, no successful trial yet"


def test_the_maps_of_a_grid_hold_every_training_and_frame_the_front():
    figure = study.plot_grid(GRID)
    titles = [axis.get_title() for axis in figure.static.axes]
    assert {"Q, activations 4 + 4 bits", "PS, activations 16 + 16 bits"} <= set(titles)
    cells = sum(len(axis.texts) for axis in figure.static.axes)
    front = analysis.pareto_front(GRID, ("loss", "energy_modelled_with_memory_j_per_image"))
    frames = sum(len(axis.patches) for axis in figure.static.axes)
    assert cells == len(GRID) and frames == len(front) == figure.data["on_front"].sum()


def test_finals_have_a_star_and_whiskers_where_there_are_seeds():
    failed = FINALS.head(1).assign(origin="fails", test_accuracy=np.nan)
    axis = study.plot_finals(pd.concat([FINALS, failed])).static.axes[0]
    star = [line for line in axis.lines if line.get_marker() == "*"]
    assert [line.get_xydata().tolist() for line in star] == [[[36.0, 84.0]]]
    texts = {text.get_text() for text in axis.texts}
    assert texts == {"knee, n = 3", "default, n = 3", "known good 1, n = 1"}


def test_labels_of_finals_do_not_lie_on_each_other():
    names = ["a network with a long name that reaches far", "its neighbour", "another", "default"]
    rows = pd.concat([FINALS, FINALS.head(1)], ignore_index=True)
    rows = rows.assign(origin=names, test_accuracy=[0.9, 0.89, 0.895, 0.2])
    rows["energy_modelled_with_memory_j_per_image"] = [18e-6, 28e-6, 36e-6, 36e-6]
    figure = study.plot_finals(rows).static
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts if text.get_text()]
    assert len(boxes) == 4
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_labels_of_finals_keep_clear_of_whiskers_and_of_each_other():
    """Neighbours with long whiskers, and two at the same place, as in the second study."""
    names = ["default", "W3/A4", "W4/A4", "W2/A4", "integer W3/A4", "integer W4/A4"]
    names += ["W4/A6, found (seed 0)", "W4/A6, found again (seed 1)", "W4/A5, found again (seed 2)"]
    rows = pd.concat([FINALS] * 3, ignore_index=True).assign(
        origin=names,
        seeds=3,
        shift_depth=20,
        arithmetic=["shift"] * 4 + ["integer"] * 2 + ["shift"] * 3,
        test_accuracy=[0.9116, 0.9056, 0.9059, 0.8943, 0.9051, 0.9096, 0.915, 0.9164, 0.9056],
        test_accuracy_half_width=[np.nan, 0.0016, 0.004, 0.0081, 0.0071, 0.0036, 0.0014, 0.0032,
                                  0.0027],
    )  # fmt: skip
    energy = [36e-6, 14.5e-6, 14.9e-6, 14e-6, 18e-6, 18.4e-6, 16.3e-6, 16.3e-6, 15.6e-6]
    rows["energy_modelled_with_memory_j_per_image"] = energy
    figure = study.plot_finals(rows).static
    figure.draw_without_rendering()
    (axis,) = figure.axes  # one depth, so no bar of its colours
    written = [text for text in axis.texts if text.get_text()]
    assert {text.get_text() for text in written} == {*names}  # how many trainings says the axis
    assert axis.get_ylabel() == "Test accuracy (%), n = 3"
    labels = [text.get_window_extent() for text in written]
    marks = [line.get_window_extent() for line in axis.lines]
    assert len(marks) == 9 + 2 * 8
    assert not any(label.overlaps(mark) for label in labels for mark in marks)
    assert not any(a.overlaps(b) for a, b in itertools.combinations(labels, 2))
    kinds = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sorted(kinds) == ["published default", "shifts", "uniform integers"]


def test_every_group_of_finals_has_its_own_front():
    failed = FINALS.head(1).assign(origin="fails", test_accuracy=np.nan)
    worse = FINALS.head(1).assign(origin="worse", test_accuracy=0.5)
    figure = study.plot_fronts({"all": pd.concat([FINALS, failed, worse]), "one": FINALS.tail(1)})
    (axis,) = figure.static.axes
    fronts = [line for line in axis.lines if line.get_drawstyle() == "steps-post"]
    drawn = [np.round(line.get_xydata(), 9).tolist() for line in fronts]
    assert drawn == [[[18, 12], [140, 10]], [[140, 10]]]
    assert [line.get_marker() for line in axis.lines].count("*") == 1  # the default
    assert figure.data["origin"].tolist() == ["knee", "default", "worse"] + 2 * ["known good 1"]
    texts = [text.get_text() for text in figure.static.legends[0].get_texts()]
    assert texts == ["all", "one", "published default"]
    with pytest.raises(ValueError, match="6: must be at most 5"):
        study.plot_fronts(dict.fromkeys("abcdef", FINALS))


def test_the_measured_front_is_that_of_the_means():
    figure = study.plot_measured(MEASURED)
    assert figure.description == "On the front: b, r; a, r"
    (axis,) = figure.static.axes
    marks = [line for line in axis.lines if line.get_marker() in ("o", "s")]
    drawn = {
        (round(float(x), 9), round(float(y), 9)) for m in marks for x, y in [m.get_xydata()[0]]
    }
    assert drawn == {(4, 90), (5, 90), (2, 80), (9, 80)}
    texts = [text.get_text() for text in figure.static.legends[0].get_texts()]
    assert texts == ["a", "b", "r", "s"]


def test_a_cell_says_what_was_reached_and_how_many_trainings_failed():
    axes = plots.plot_formats(FORMATS).static.axes
    none, all_ = ({text.get_text() for text in axis.texts} for axis in axes[:2])
    assert none == {"✗", "45.0"} and all_ == {"20.0 (1 ✗)", "50.0"}


def learning_curves_of(count: int) -> pd.DataFrame:
    points = [(f"point {n}", (1, 10, 20)[n % 3]) for n in range(count)]
    rows = [(name, depth, 0, epoch, 0.1 * epoch) for name, depth in points for epoch in (1, 2)]
    return pd.DataFrame(rows, columns=["point", "shift_depth", "seed", "epoch", "val_accuracy"])


def test_few_learning_curves_are_lines_with_a_legend():
    figure = plots.plot_learning_curves(learning_curves_of(8))
    texts = [text.get_text() for text in figure.static.legends[0].get_texts()]
    assert texts == [line.name for line in figure.interactive.data]
    assert texts == [f"point {n}" for n in range(8)]
    assert len({line.line.color for line in figure.interactive.data}) == 8


@pytest.mark.parametrize("count", [9, 11, 13, 24])
def test_more_learning_curves_have_a_panel_each(count):
    figure = plots.plot_learning_curves(learning_curves_of(count))
    titles = [axis.get_title() for axis in figure.static.axes]
    assert titles == [line.name for line in figure.interactive.data]
    assert titles == [f"point {n}" for n in range(count)]
    for axis in figure.static.axes:
        assert len(axis.lines) == count
        assert axis.lines[-1].get_ydata() == pytest.approx([10, 20])


def test_many_learning_curves_are_drawn_by_depth():
    figure = plots.plot_learning_curves(learning_curves_of(27))
    texts = [text.get_text() for text in figure.static.legends[0].get_texts()]
    assert texts == [line.name for line in figure.interactive.data]
    assert texts == ["depth 1", "depth 10", "depth 20"]
    assert len({line.line.color for line in figure.interactive.data}) == 3


def test_fidelities_are_named_with_what_they_take():
    axis = plots.plot_fidelities(FIDELITIES).static.axes[0]
    labels = [text.get_text() for text in axis.get_yticklabels()]
    assert labels[0] == "depth 1, takes 90%" and labels[-2:] == [
        "epochs 1, takes 33%", "data 30%, takes 30%",
    ]  # fmt: skip


def test_a_table_too_poor_for_a_figure_gives_its_reason(tmp_path):
    drawn = plots.draw(lambda: plots.plot_front(TRIALS), tmp_path / "front")
    assert isinstance(drawn, plots.DualFigure) and (tmp_path / "front.svg").exists()
    nothing = plots.draw(
        lambda: plots.plot_right_pairs(analysis.rank_agreement(TRIALS)), tmp_path / "x"
    )
    text = nothing._repr_mimebundle_()["text/markdown"]
    assert text.startswith("No figure: agreement: must have a pair") and nothing.data is None
    assert not (tmp_path / "x.svg").exists()
    with pytest.raises(KeyError):  # a mistake in the code is not the table's fault
        plots.draw(lambda: {}["missing"])


def extended(table: pd.DataFrame) -> pd.DataFrame:
    """The table as if its trials had used everything beyond the published space."""
    rng = np.random.default_rng(5)
    choices = {
        "arithmetic": ["shift", "integer"],
        "weight_scale": ["layer", "channel"],
        "activation_format": ["fixed", "fitted"],
        "activation_rounding": ["floor", "nearest"],
        "clipped_gradient": ["passed", "zero"],
    }
    drawn = {name: rng.choice(values, len(table)) for name, values in choices.items()}
    table = table.assign(**drawn)
    table.loc[0, list(runs.EXTENSIONS)] = list(runs.EXTENSIONS.values())  # the default stays it
    of_shifts = ["shift_type", "rounding"]
    table[of_shifts] = table[of_shifts].astype(object)
    table.loc[table["arithmetic"] == "integer", of_shifts] = np.nan
    table.loc[table["activation_format"] == "fitted", "activation_fraction_bits"] = 0
    return table


def test_tables_of_every_space_are_analysed_and_drawn():
    table = extended(TRIALS).assign(energy_modelled_with_memory_j_per_image=1e-5)
    used = set(analysis.importance(table)["hyperparameter"])
    assert set(runs.EXTENSIONS) <= used
    chosen, start = analysis.knee(table), table.iloc[0]
    card = analysis.solution_card(table, chosen)
    assert set(runs.EXTENSIONS) <= set(card["configuration"])
    overview = analysis.overview(table)
    assert (overview["type"] == "integer").sum() == (table["arithmetic"] == "integer").sum() > 0
    draws = analysis.plausible_accuracies(table, 100, draws=20)
    assert analysis.likely_networks(analysis.accuracy_drop(draws, by="draw")).notna().any(axis=None)
    front_figure = plots.plot_front(table, chosen=chosen)
    legend = {text.get_text() for text in front_figure.static.legends[0].get_texts()}
    assert {"Q", "PS", "integer"} <= legend
    assert set(runs.EXTENSIONS) <= set(front_figure.data.columns)
    for figure in (
        plots.plot_space(table),
        plots.plot_parallel(table),
        plots.plot_tradeoff(table),
        plots.plot_partial_dependence(table, energy_of=made_up),
        plots.plot_accuracy_drop(draws, by="draw"),
        plots.plot_ablation({"loss": analysis.ablation_path(table, start, chosen, "loss")}),
        plots.plot_depth_and_bits(analysis.depth_and_bits(analysis.pareto_front(table), table)),
    ):
        assert figure.svg()
    # A table that uses nothing of it is analysed as if the columns were not there.
    published = TRIALS.assign(**runs.EXTENSIONS)
    assert analysis.importance(published).equals(analysis.importance(TRIALS))
    assert analysis.solution_card(published, chosen) == analysis.solution_card(TRIALS, chosen)


# --- predictions ---------------------------------------------------------------------------------


def test_confusions_count_every_image_once(figures):
    data = figures["confusions"].data
    assert data.groupby("network")["images"].sum().to_dict() == {"right": 12, "first": 12}
    mistakes = data[data["class"] != data["taken_for"]]
    assert mistakes["network"].unique().tolist() == ["first"] and mistakes["images"].sum() == 8
    titles = [axis.get_title() for axis in figures["confusions"].static.axes]
    assert titles[:2] == ["right\n0 wrong", "first\n8 wrong"]


def test_mistakes_are_the_surest_ones_first_and_none_is_said(figures):
    data = figures["mistakes"].data
    assert data["network"].tolist() == ["first"] * 4
    assert data["image"].tolist() == [11, 10, 8, 7]  # 9 is right
    assert data["probability"].is_monotonic_decreasing
    shown = [axis for axis in figures["mistakes"].static.axes if axis.images]
    assert len(shown) == 4 and shown[0].get_title() == "fox\n→ cat\n60 %"
    texts = [text.get_text() for axis in figures["mistakes"].static.axes for text in axis.texts]
    assert texts == ["right:\nno mistake", "first"]


def test_images_of_each_class_stand_in_its_column(figures):
    assert figures["images"].data["image"].tolist() == [0, 3, 1, 4, 2, 5]
    assert figures["images"].static.axes[2].get_title() == "a very long…"


# --- one number format ---------------------------------------------------------------------------


def test_a_format_is_drawn_with_its_energy_and_the_nearest_trials(figures):
    axes = figures["format"].static.axes
    np.testing.assert_allclose(figures["format"].data[ENERGY], 1e-6 * (200 - 8 * np.arange(21)))
    mark = axes[2].lines[1]
    assert (mark.get_xdata()[0], mark.get_ydata()[0]) == (7, pytest.approx(144))
    assert "144 µJ per image" in figures["format"].description
    near = explorer.nearest_trials(POINT, TRIALS, 20)
    assert len(near) == len(axes[3].lines[-1].get_xdata()) == explorer.NEAREST
    assert near.iloc[0]["trial"] == 1 or near.iloc[0]["shift_depth"] == 7


@pytest.mark.parametrize("change", [{"shift_type": "Q"}, {"shift_type": "PS", "weight_bits": 2}])
def test_the_stairs_of_a_format_are_its_weights(change):
    figure = plots.plot_format(POINT | {"weight_bits": 3} | change, made_up, 20)
    rounded = figure.static.axes[0].lines[1].get_ydata()
    magnitudes = set(np.unique(np.abs(rounded)))
    expected = {0, 1} if change["shift_type"] == "PS" else {0.125, 0.25, 0.5, 1}
    assert magnitudes == expected
    assert not figure.static.axes[3].axison  # no trials to be near


def test_explorer_has_a_slider_for_each_choice_and_is_a_picture_elsewhere(monkeypatch):
    state = POINT, made_up, 20, TRIALS
    assert isinstance(plots.explore(*state), plots.DualFigure)
    monkeypatch.setattr(explorer, "someone_looks", lambda: True)
    drawn = []
    monkeypatch.setattr(
        explorer, "plot_format", lambda point, *_: drawn.append(point["weight_bits"])
    )
    widget = plots.explore(*state)
    sliders = {slider.description: slider for slider in widget.children[:-1]}
    assert set(sliders) > {"Shift depth", "Weight bits"} and len(sliders) == 5
    sliders["Weight bits"].value = 8 if POINT["weight_bits"] != 8 else 2
    assert drawn[-1] == sliders["Weight bits"].value


def test_energies_over_more_than_a_decade_are_on_a_logarithmic_axis():
    name = "energy_modelled_j_per_image"
    wide = TRIALS.assign(**{name: TRIALS[name] ** 2 / TRIALS[name].min()})
    for rows, scale in ((wide, "log"), (TRIALS, "linear")):
        figure = plots.plot_front(rows)
        assert figure.static.axes[0].get_xscale() == scale
        assert figure.interactive.layout.xaxis.type == scale
