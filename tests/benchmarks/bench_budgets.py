"""Does a search pay that chooses the length of each training? Real learning curves, at equal cost.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_budgets.py --seeds 10

The problem is `figures/strategies/budgets_table.csv` (see `train_table.py`): trainings of 1, 4 and
16 epochs on the digits. Between the trained points extra trees interpolate all three errors at
once, so that they stay a curve. What counts is the front after 16 epochs, as the share of the box
between zero and error 0.9 at the energy of the plain network. Cost is in full trainings of 16
epochs. The results stand in `figures/strategies/budgets.csv`.

- `random`: full trainings of random networks, after the published default;
- `smac_mf`: the default strategy with full trainings alone;
- `smac_mf_budgets`: the same choosing the length of each training;
- `hyperband`: successive halving over the three lengths, with ParEGO.
"""

import argparse
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from bench_search import DEPTH, energies, features, hypervolume, interpolation
from scipy.stats import spearmanr
from sklearn.model_selection import GroupKFold, cross_val_predict

from dsnn_utils.search import SearchSettings
from dsnn_utils.study.strategies import TABLES

BUDGETS = (1, 4, 16)
ERRORS = [f"error_after_{epochs}" for epochs in BUDGETS]
FULL = BUDGETS[-1]
ARMS = {
    "random": {"strategy": "random"},
    "smac_mf": {},
    "smac_mf_budgets": {"budgets": BUDGETS},
    "hyperband": {"fidelity": "epochs", "eta": 4},
}
MARKS = (5, 10, 15, 20, 30, 40)  # full trainings


def read_table() -> pd.DataFrame:
    table = pd.read_csv(TABLES / "budgets_table.csv")
    return table.fillna(dict.fromkeys(ERRORS, 1.0))  # diverged


@cache
def curves():
    table = read_table()
    return interpolation().fit(features(table), table[ERRORS])


def loss(point: dict) -> float:
    return float(
        curves().predict(features(pd.DataFrame([point])))[0][BUDGETS.index(point["epochs"])]
    )


def run(arm: str, seed: int, cost: float) -> list[dict]:
    """One search until `cost` full trainings' worth of epochs are spent; a row per mark."""
    settings = SearchSettings(max_depth=DEPTH, epochs=FULL, seed=seed, **ARMS[arm])
    energy_of = energies("digits")
    strategy = settings.proposals(None if arm == "hyperband" else energy_of)
    first = [point for point, _ in settings.first_points()]
    first = first[:1] if arm == "random" else first
    front, rows, spent, trials = [], [], 0, 0
    marks = [mark for mark in MARKS if mark <= cost]
    while marks:
        point = first[trials] if trials < len(first) else strategy.ask()[0]
        point = {"epochs": FULL} | point
        seen, energy = loss(point), energy_of(point)
        if spent + point["epochs"] > FULL * marks[0]:  # not finished at the mark
            found = hypervolume(np.array(front), "digits") if front else 0.0
            rows.append(
                {"strategy": arm, "seed": seed, "full_trainings": marks.pop(0)}
                | {"trials": trials, "trained_in_full": len(front), "hypervolume": round(found, 5)}
            )
        known = {name: value for name, value in point.items() if name in asked_for(arm, point)}
        strategy.tell(known, [seen, energy], True)
        spent, trials = spent + point["epochs"], trials + 1
        if point["epochs"] == FULL:
            front.append((seen, energy))
    return rows


def asked_for(arm: str, point: dict) -> list[str]:
    """The point as the strategy knows it: epochs only where it chooses them."""
    return [name for name in point if name != "epochs" or arm in ("smac_mf_budgets", "hyperband")]


def print_table() -> None:
    table = read_table()
    groups = table[["optimizer", "lr", "weight_decay"]].astype(str).agg(" ".join, axis=1)
    guess = cross_val_predict(
        interpolation(), features(table), table[ERRORS], groups=groups, cv=GroupKFold(10)
    )
    print(f"{len(table)} points of {groups.nunique()} configurations")
    for number, name in enumerate(ERRORS):
        rank = spearmanr(guess[:, number], table[name])[0]
        with_full = spearmanr(table[name], table[ERRORS[-1]])[0]
        print(
            f"{name}: mean {table[name].mean():.3f}, interpolated for configurations left out with "
            f"rank correlation {rank:.2f}; rank correlation with the full training {with_full:.2f}"
        )


def print_results(results: pd.DataFrame) -> None:
    wide = results.pivot_table("hypervolume", "strategy", "full_trainings", sort=False)
    print("\nmean hypervolume of full trainings, by cost")
    print(wide.round(4).to_string())
    print("\ntrained in full")
    wide = results.pivot_table("trained_in_full", "strategy", "full_trainings", sort=False)
    print(wide.round(1).to_string())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--strategies", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--cost", type=float, default=MARKS[-1], help="full trainings")
    parser.add_argument("--out", type=Path, default=TABLES / "budgets.csv")
    arguments = parser.parse_args()
    known = pd.read_csv(arguments.out) if arguments.out.exists() else pd.DataFrame()
    if len(known):  # replaces what an earlier run found
        known = known[~known["strategy"].isin(arguments.strategies)]
    print_table()
    for arm in arguments.strategies:
        for seed in range(arguments.seeds):
            rows = pd.DataFrame(run(arm, seed, arguments.cost))
            known = pd.concat([known, rows], ignore_index=True)
            known.to_csv(arguments.out, index=False)
        print(f"{arm} done", flush=True)
    print_results(known)


if __name__ == "__main__":
    main()
