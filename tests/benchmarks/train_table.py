"""Train the tables of real outcomes that `bench_search.py` replays.

    OMP_NUM_THREADS=1 python tests/benchmarks/train_table.py --points 400
    OMP_NUM_THREADS=1 python tests/benchmarks/train_table.py --points 300 --budgets

ResNet20 on scikit-learn's digits, 5 epochs per training. Two of three configurations are uniform
from the search space, one of three comes from the region where shift networks are known to train
(adaptive optimizer, moderate learning rate, 8 to 20 activation bits). The published default and
every tenth configuration are trained at all seven depths, the others at one of them. A training
per row; `error_1` to `error_5` are the validation errors after each epoch. With `--budgets` a row
is a point with three trainings, of 1, 4 and 16 epochs: each has a whole schedule of its own, so
the 4 epochs are no part of the 16, and `error_after_1` to `error_after_16` are their errors at the
end, empty where a training diverged. Each row is on disk before the next training starts: a stopped
run goes on where it was. What made a table stands beside it as JSON.
"""

import argparse
import csv
import json
import time
from pathlib import Path

import numpy as np

from dsnn_utils.runs import environment
from dsnn_utils.runs.table import to_python
from dsnn_utils.search import Recipe, depth_bound, dsnn_space, published_default, run_trial
from dsnn_utils.study.strategies import TABLES
from dsnn_utils.training import load_dataset

DEPTHS = (1, 2, 5, 7, 10, 15, 20)
EPOCHS = 5
BUDGETS = (1, 4, 16)  # epochs
SEED = 0
HYPERPARAMETERS = (
    ("shift_depth", "shift_type", "weight_bits", "activation_integer_bits")
    + ("activation_fraction_bits", "rounding", "batch_size", "optimizer", "lr", "momentum")
    + ("weight_decay",)
)
RESULTS = ("status", *(f"error_{epoch}" for epoch in range(1, EPOCHS + 1)))
RESULTS += ("energy_modelled_j_per_image", "cpu_s")
RESULTS_BY_BUDGET = (
    *(f"error_after_{epochs}" for epochs in BUDGETS),
    "energy_modelled_j_per_image",
    *(f"cpu_s_{epochs}" for epochs in BUDGETS),
)


def points(count: int) -> list[dict]:
    """The first `count` points of the table; the same for every count."""
    space = dsnn_space(DEPTHS[-1], without="shift_depth", seed=SEED)
    random = np.random.default_rng(SEED)
    default = published_default(DEPTHS[-1], EPOCHS)
    found = [default | {"shift_depth": depth} for depth in reversed(DEPTHS)]
    number = 0
    while len(found) < count:
        number += 1
        point = to_python(space.sample_configuration())
        if number % 3 == 0:
            point |= promising(random)
            if point["optimizer"] not in ("SGD", "RMSprop"):
                point.pop("momentum", None)
        point |= {name: float(f"{point[name]:.4g}") for name in ("lr", "weight_decay")}
        if "momentum" in point:
            point["momentum"] = round(point["momentum"], 3)
        depths = DEPTHS if number % 10 == 0 else [int(random.choice(DEPTHS))]
        found += [point | {"shift_depth": depth, "epochs": EPOCHS} for depth in depths]
    return found[:count]


def promising(random: np.random.Generator) -> dict:
    return {
        "optimizer": str(random.choice(["Adam", "RAdam", "Ranger"])),
        "lr": float(10 ** random.uniform(-2.3, -1.0)),
        "weight_bits": int(random.integers(3, 9)),
        "activation_integer_bits": int(random.integers(3, 9)),
        "activation_fraction_bits": int(random.integers(2, 13)),
        "batch_size": int(random.integers(32, 65)),
    }


def train_in_one(point: dict, dataset, recipe: Recipe) -> list:
    """A training of `EPOCHS` epochs: its row of the table, without the hyperparameters."""
    started = time.process_time()
    row, _, history = run_trial(point, dataset, recipe, SEED)
    errors = [round(1 - epoch["validation_accuracy"], 4) for epoch in history]
    errors += [""] * (EPOCHS - len(errors))
    energy = f"{row['energy_modelled_j_per_image']:.6g}"
    return [row["status"], *errors, energy, f"{time.process_time() - started:.1f}"]


def train_by_budget(point: dict, dataset, recipe: Recipe) -> list:
    """A training for each of `BUDGETS`: as above."""
    rows, cpu_s = [], []
    for epochs in BUDGETS:
        started = time.process_time()
        rows.append(run_trial(point | {"epochs": epochs}, dataset, recipe, SEED)[0])
        cpu_s.append(f"{time.process_time() - started:.2f}")
    errors = ["" if row.get("loss") is None else round(row["loss"], 4) for row in rows]
    return [*errors, f"{rows[0]['energy_modelled_j_per_image']:.6g}", *cpu_s]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=400)
    parser.add_argument("--budgets", action="store_true", help="1, 4 and 16 epochs of each point")
    parser.add_argument("--table", type=Path)
    arguments = parser.parse_args()
    table = arguments.table or TABLES / f"{'budgets' if arguments.budgets else 'digits'}_table.csv"
    results, train = (
        (RESULTS_BY_BUDGET, train_by_budget) if arguments.budgets else (RESULTS, train_in_one)
    )

    dataset, recipe = load_dataset("digits"), Recipe(device="cpu")
    assert depth_bound(dataset, recipe) == DEPTHS[-1]
    done = 0
    if table.exists():
        done = len(table.read_text().splitlines()) - 1
    else:
        table.write_text(",".join(HYPERPARAMETERS + results) + "\n")
        options = " --budgets" if arguments.budgets else ""
        info = {
            "command": f"python tests/benchmarks/{Path(__file__).name}{options}",
            "dataset": "scikit-learn digits, load_dataset('digits')",
            "train_size": len(dataset.train),
            "validation_size": len(dataset.validation),
            "recipe": vars(recipe) | {"epochs": BUDGETS if arguments.budgets else EPOCHS},
            "seed": SEED,
            **environment(),
        }
        table.with_suffix(".json").write_text(json.dumps(info, indent=2) + "\n")
    for point in points(arguments.points)[done:]:
        found = train(point, dataset, recipe)
        with open(table, "a", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([point.get(name, "") for name in HYPERPARAMETERS] + found)


if __name__ == "__main__":
    main()
