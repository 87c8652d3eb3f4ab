"""How good are the search strategies? Hypervolume on five problems, against random search.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_search.py --seeds 10

`synthetic`: a closed form with the structure of the real problem (ResNet20 on 32x32 images). The
    loss grows with depth, dependent on the bits, each optimizer has its own learning rate, which
    falls with depth, PS needs RAdam or Ranger. Strategies see the loss with noise (0.01); the
    hypervolume is that of the noise-free values. The optimum is known by enumeration.
`digits`: the real trainings of `figures/strategies/digits_table.csv` (see `train_table.py`).
    Between the trained points extra trees interpolate, which return each trained point's own
    outcome; their error at points left out is printed. The energy is that of the exact point, not
    interpolated.
`cifar10`: the same from the 200 trainings of `figures/cifar10_search` and `.._unlimited`, in the
    extended space, with noise as of 2,500 validation images. Only networks below the energy of the
    published default count, which "smac_mf" is told as its limit.
`zdt1`, `zdt2`: made by others (Zitzler, Deb and Thiele 2000), with a convex and a concave front,
    six variables and a first objective that costs nothing to know. It is the first variable, in
    100 steps, which so takes the part of shift depth and energy. Without noise; the reference
    point is (1.1, 5). Only the strategies that know the energy use that it is known.

NePS (`neps_server.py`) runs in an environment of its own, and only where `--neps-python` names it.
For its first 30 trials and more, "neps_primo" is its initial design, which is "neps_moasha".

Every strategy starts with the same points, the published default at depths 20, 10, 5, 2, 1 (of
`cifar10` 20, 7, 2; in the last two problems: the centre of the other variables). The reference
point of the first three is a guess (error 0.9) at the energy of the plain network (of `cifar10`
the published default); the hypervolume is in shares of the
rectangle up to the reference point. A trial costs the same epochs at every depth, so equal trials
are equal cost. The results stand in `figures/strategies/comparison.csv`; notebook 3 shows them.
"""

import argparse
import math
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path

import moocore
import numpy as np
import pandas as pd
from ConfigSpace import ConfigurationSpace, Float, Integer
from neps_client import Neps
from scipy.stats import spearmanr
from sklearn.compose import make_column_transformer
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from dsnn_utils.limits import MULTI_FIDELITY
from dsnn_utils.runs.columns import ACTIVATION_BITS
from dsnn_utils.runs.table import to_python
from dsnn_utils.search import SearchSettings, energy_function, make_fidelity, published_default
from dsnn_utils.search.strategies import make_strategy
from dsnn_utils.shift import build_model
from dsnn_utils.study import compare_strategies, read_digits_table
from dsnn_utils.study.strategies import NEPS, STRATEGY_ORDER, TABLES

OBJECTIVES = ("loss", "energy_modelled_j_per_image")
DEPTH, CHANCE = 20, 0.9
NOISE = {"synthetic": 0.01, "cifar10": 0.006}
SHAPES = {"synthetic": (3, 32, 32), "digits": (1, 8, 8), "cifar10": (3, 32, 32)}
# As in the profile cifar10_search.
CIFAR10 = {
    "objectives": ("loss", "energy_modelled_with_memory_j_per_image"),
    "space": "extended",
    "min_fidelity": 2,
    "eta": 3,
    "n_initial": 4,
}
PROBLEMS = (*SHAPES, "zdt1", "zdt2")
ZDT_STEPS, ZDT_REFERENCE = 100, (5.0, 1.1)

# Per optimizer: log10 of its best learning rate at depth 0, its error there, how narrow the
# optimum is, and what PS costs with it at full depth.
OPTIMIZERS = {
    "SGD": (-1.1, 0.05, 1.0, 0.7),
    "Adam": (-2.1, 0.05, 1.2, 0.25),
    "Adadelta": (-0.5, 0.22, 0.6, 0.7),
    "Adagrad": (-1.5, 0.11, 0.8, 0.7),
    "RMSprop": (-2.6, 0.09, 1.3, 0.3),
    "RAdam": (-1.7, 0.05, 1.0, 0.05),
    "Ranger": (-1.4, 0.05, 0.8, 0.05),
}
BEST_MOMENTUM = {"SGD": 0.8, "RMSprop": 0.2}


def synthetic_loss(point: dict) -> float:
    depth = point["shift_depth"] / DEPTH
    log_lr, error, narrow, ps_cost = OPTIMIZERS[point["optimizer"]]
    ps = point["shift_type"] == "PS"
    spare_bits = point["weight_bits"] - 2
    loss = error + 0.12 * narrow * (math.log10(point["lr"]) - log_lr + 0.4 * depth) ** 2
    loss += 0.1 * depth**2
    if point["optimizer"] in BEST_MOMENTUM:
        loss += 0.15 * (point["momentum"] - BEST_MOMENTUM[point["optimizer"]]) ** 2
    if ps:
        loss += (ps_cost + 0.35 * math.exp(-spare_bits / 0.8)) * depth
    else:
        loss += (0.08 + 0.2 * math.exp(-spare_bits / 1.2)) * depth
    if point["rounding"] == "stochastic":
        loss += (-0.01 if ps else 0.02) * depth
    range_loss = 0.6 * math.exp(-(point["activation_integer_bits"] - 2) / 1.2)
    resolution_loss = 0.5 * math.exp(-(point["activation_fraction_bits"] - 2) / 2)
    loss += depth**0.5 * (range_loss + resolution_loss)
    loss += 0.03 * math.log2(point["batch_size"] / 32) ** 2
    loss += 0.01 * (math.log10(point["weight_decay"]) + 3.7) ** 2
    return min(loss, CHANCE)


def synthetic_optimum() -> float:
    """The largest hypervolume there is: all discrete values, the continuous ones at their best."""
    energy_of, front = energies("synthetic"), np.empty((0, 2))
    for depth in range(1, DEPTH + 1):
        for optimizer, (log_lr, *_) in OPTIMIZERS.items():
            found = []
            point = {
                "shift_depth": depth,
                "optimizer": optimizer,
                "momentum": BEST_MOMENTUM.get(optimizer),
                "lr": min(0.2, max(1e-3, 10 ** (log_lr - 0.4 * depth / DEPTH))),
                "batch_size": 32,
                "weight_decay": 10**-3.7,
                "weight_bits": 8,  # free of charge
            }
            for shift_type in ("Q", "PS"):
                rounding = "stochastic" if shift_type == "PS" else "deterministic"
                point |= {"shift_type": shift_type, "rounding": rounding}
                for integer_bits in range(2, 20):
                    for fraction_bits in range(2, 24):
                        point["activation_integer_bits"] = integer_bits
                        point["activation_fraction_bits"] = fraction_bits
                        found.append((synthetic_loss(point), energy_of(point)))
            front = moocore.filter_dominated(np.vstack([front, found]))
    return hypervolume(front, "synthetic")


@cache
def energies(problem: str):
    shape = SHAPES[problem]
    _, energy = CIFAR10["objectives"] if problem == "cifar10" else OBJECTIVES
    return energy_function(build_model("resnet20", 10, shape[0]), shape, energy)


@cache
def reference_energy(problem: str) -> float:
    """Energy of the network without shift layers, or of the published default (`cifar10`)."""
    if problem == "cifar10":
        return energies(problem)(published_default(DEPTH))
    point = {"activation_integer_bits": 8, "activation_fraction_bits": 8, "weight_bits": 8}
    return energies(problem)(
        point | {"shift_depth": 0, "shift_type": "Q", "rounding": "stochastic"}
    )


def hypervolume(front: np.ndarray, problem: str) -> float:
    if problem not in SHAPES:
        return moocore.hypervolume(front / ZDT_REFERENCE, ref=[1, 1])
    return moocore.hypervolume(front / [CHANCE, reference_energy(problem)], ref=[1, 1])


# --- the table of real trainings -----------------------------------------------------------------


NUMBERS = ["shift_depth", "weight_bits", "activation_integer_bits", "activation_fraction_bits"]
NUMBERS += ["batch_size", "lr", "momentum", "weight_decay"]
CATEGORIES = ("shift_type", "rounding", "optimizer")
EXTENDED = ("weight_scale", "activation_format", "activation_rounding", "clipped_gradient")


def features(points: pd.DataFrame, categories: Sequence[str] = CATEGORIES) -> pd.DataFrame:
    """What the interpolation sees; momentum and fraction bits where there are none count as 0."""
    inactive = {"momentum": 0.0, "activation_fraction_bits": 0}
    points = points.reindex(columns=[*NUMBERS, *categories]).fillna(inactive)
    logs = {name: np.log10(points[name]) for name in ("lr", "weight_decay")}
    return points.assign(**logs, log_batch=np.log2(points["batch_size"]))


def interpolation(categories: Sequence[str] = CATEGORIES):
    encode = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore", sparse_output=False), list(categories)),
        remainder="passthrough",
    )
    return make_pipeline(encode, ExtraTreesRegressor(100, random_state=0))


@cache
def digits_losses():
    table = read_digits_table()
    return interpolation().fit(features(table), table["loss"])


def digits_loss(point: dict) -> float:
    return float(digits_losses().predict(features(pd.DataFrame([point])))[0])


@cache
def cifar10_losses():
    """Of networks that diverged the loss is that of a guess."""
    folders = (TABLES.parent / f"cifar10_search{which}" for which in ("", "_unlimited"))
    table = pd.concat([pd.read_csv(folder / "trials.csv") for folder in folders])
    losses = table["loss"].fillna(CHANCE).clip(upper=CHANCE)
    categories = (*CATEGORIES, *EXTENDED)
    return interpolation(categories).fit(features(table, categories), losses)


def cifar10_loss(point: dict) -> float:
    rows = features(pd.DataFrame([point]), (*CATEGORIES, *EXTENDED))
    return float(cifar10_losses().predict(rows)[0])


def print_table() -> None:
    table = read_digits_table()
    groups = table[["optimizer", "lr", "weight_decay"]].astype(str).agg(" ".join, axis=1)
    guess = cross_val_predict(
        interpolation(), features(table), table["loss"], groups=groups, cv=GroupKFold(10)
    )
    error = guess - table["loss"]
    print(
        f"digits table: {len(table)} trainings of {groups.nunique()} configurations; interpolated "
        f"loss of configurations left out: mean error {error.abs().mean():.3f}, "
        f"R2 {1 - error.var() / table['loss'].var():.2f}, "
        f"rank correlation {spearmanr(guess, table['loss'])[0]:.2f}"
    )
    wide = table.assign(configuration=groups).pivot_table(
        index="configuration", columns="shift_depth", values="loss"
    )
    wide = wide.dropna()
    print(f"rank correlation of the loss between depths ({len(wide)} configurations at all):")
    print(wide.corr("spearman").round(2).to_string())
    print("median CPU seconds of a training, by depth:")
    print(table.groupby("shift_depth")["cpu_s"].median().to_frame().T.to_string(index=False))


# --- ZDT -----------------------------------------------------------------------------------------


def zdt_loss(problem: str, point: dict) -> float:
    """The second objective, to be found out by a trial."""
    g = 1 + 9 * np.mean([point[f"x{number}"] for number in range(2, 7)])
    share = zdt_energy(point) / g
    return float(g * (1 - (share**0.5 if problem == "zdt1" else share**2)))


def zdt_energy(point: dict) -> float:
    """The first objective is the first variable itself."""
    return point["shift_depth"] / ZDT_STEPS


def zdt_space(seed: int) -> ConfigurationSpace:
    """All variables but the first."""
    space = ConfigurationSpace(seed=seed)
    space.add([Float(f"x{number}", (0.0, 1.0), default=0.5) for number in range(2, 7)])
    return space


def zdt_strategy(name: str, seed: int, energy_of):
    space, levels = zdt_space(seed), None
    if name in MULTI_FIDELITY:
        levels = make_fidelity("shift_depth", ZDT_STEPS, 1)
    else:
        space.add(Integer("shift_depth", (1, ZDT_STEPS), default=ZDT_STEPS))
    # With these strategies the five points of the beginning count, as in a search.
    n_initial = 3 if name in ("smac_mf", "qlognehvi_known_energy") else 8
    return make_strategy(name, space, levels, OBJECTIVES, seed, n_initial, energy_of=energy_of)


def zdt_first() -> list[dict]:
    centre = {f"x{number}": 0.5 for number in range(2, 7)}
    return [centre | {"shift_depth": step} for step in (100, 50, 25, 12, 6)]


# --- the comparison ------------------------------------------------------------------------------

LOSSES = {"synthetic": synthetic_loss, "digits": digits_loss, "cifar10": cifar10_loss}
LOSSES |= {problem: partial(zdt_loss, problem) for problem in ("zdt1", "zdt2")}


def neps_strategy(problem: str, arm: str, seed: int, python: Path) -> Neps:
    """NePS with shift depth as the fidelity, and for PriMO what one would think to be good."""
    algorithm, priors = arm.removeprefix("neps_"), {}
    if problem in SHAPES:
        own: dict = dict(CIFAR10) if problem == "cifar10" else {}
        settings = SearchSettings(max_depth=DEPTH, epochs=5, seed=seed, **own)
        space, levels, eta = settings.searched_space(), settings.levels, settings.eta
        accurate = to_python({name: h.default_value for name, h in space.items()})
        narrow = {name: h.lower for name, h in space.items() if name in ACTIVATION_BITS}
        priors = {"loss": accurate, "energy": accurate | to_python(narrow)}
    else:
        space, eta = zdt_space(seed), 2
        levels = make_fidelity("shift_depth", ZDT_STEPS, 1)
    return Neps(python, algorithm, space, levels, seed, eta, priors)


def run(problem: str, arm: str, seed: int, trials: int, neps: Path | None = None) -> list[dict]:
    """One search; a row per ten trials, and one after 15."""
    name = "smac_mf" if arm in ("smac_mf_unknown_energy", *NEPS) else arm
    energy_of = energies(problem) if problem in SHAPES else zdt_energy
    known = energy_of if arm in ("smac_mf", "qlognehvi_known_energy") else None
    if problem in SHAPES:
        own: dict = dict(CIFAR10) if problem == "cifar10" else {}
        points = SearchSettings(max_depth=DEPTH, epochs=5, **own).first_points()
        first = [point for point, _ in points]  # the same for every arm
        if problem == "cifar10" and arm == "smac_mf":
            own["energy_limit_j_per_image"] = reference_energy(problem)
        settings = SearchSettings(max_depth=DEPTH, epochs=5, strategy=name, seed=seed, **own)
        strategy = settings.proposals(known)
    else:
        strategy, first = zdt_strategy(name, seed, known), zdt_first()
    if arm in NEPS:
        strategy = neps_strategy(problem, arm, seed, neps)
    noise = np.random.default_rng(seed + 1000)
    values, rows, cpu_s = [], [], 0.0
    for number in range(trials):
        started = time.process_time()
        point = first[number] if number < len(first) else strategy.ask()[0]
        cpu_s += time.process_time() - started
        loss = seen = LOSSES[problem](point)
        if problem in NOISE:
            seen = float(np.clip(loss + NOISE[problem] * noise.normal(), 0, 1))
        values.append((loss, energy_of(point)))
        started = time.process_time()
        strategy.tell(point, [seen, values[-1][1]], True)
        cpu_s += time.process_time() - started
        if (number + 1) % 10 == 0 or number + 1 == 15:
            found = hypervolume(np.array(values), problem)
            spent = cpu_s + getattr(strategy, "cpu_s", 0.0)  # that of another process
            rows.append(
                {"problem": problem, "strategy": arm, "seed": seed, "trials": number + 1}
                | {"hypervolume": round(found, 5), "cpu_s_per_trial": round(spent / len(values), 3)}
            )
    if arm in NEPS:
        strategy.close()
    return rows


def print_ratios(results: pd.DataFrame, problem: str, marks=(15, 20, 30, 50, 100)) -> None:
    results = results[results["problem"] == problem]
    print(f"\n{problem}: hypervolume over that of random search after .. trials")
    ratios = {
        mark: compare_strategies(results, mark)["over_random"]
        for mark in marks
        if mark in set(results.loc[results["strategy"] == "random", "trials"])
    }
    print(pd.DataFrame(ratios).droplevel("problem").round(3).to_string())
    last = results["trials"].max()
    table = compare_strategies(results, last).droplevel("problem")
    cpu = results[results["trials"] == last].groupby("strategy")["cpu_s_per_trial"].mean()
    print(f"\n{problem}, after {last} trials, with CPU seconds per trial of the search itself")
    print(table.assign(cpu_s_per_trial=cpu).round(4).to_string())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument(
        "--strategies", nargs="+", choices=STRATEGY_ORDER, default=list(STRATEGY_ORDER)
    )
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--neps-python", type=Path, help="see neps_server.py; else without NePS")
    parser.add_argument("--out", type=Path, default=TABLES / "comparison.csv")
    parser.add_argument("--only-print", action="store_true", help="print the results in --out")
    arguments = parser.parse_args()
    if arguments.neps_python is None:
        arguments.strategies = [name for name in arguments.strategies if name not in NEPS]

    if not arguments.only_print:
        known = pd.read_csv(arguments.out) if arguments.out.exists() else pd.DataFrame()
        if len(known):  # replaces what an earlier run found
            again = known["problem"].isin(arguments.problems)
            known = known[~(again & known["strategy"].isin(arguments.strategies))]
        for problem in arguments.problems:
            for arm in arguments.strategies:
                with ProcessPoolExecutor(arguments.workers) as pool:
                    one = partial(
                        run, problem, arm, trials=arguments.trials, neps=arguments.neps_python
                    )
                    for rows in pool.map(one, range(arguments.seeds)):
                        known = pd.concat([known, pd.DataFrame(rows)], ignore_index=True)
                        known.to_csv(arguments.out, index=False)
                print(f"{problem} {arm} done", flush=True)
    results = pd.read_csv(arguments.out)
    results = results[results["seed"] < arguments.seeds]
    for problem in arguments.problems:
        print_ratios(results, problem)
        if problem == "synthetic":
            print(f"largest hypervolume there is: {synthetic_optimum():.4f}")
        elif problem == "digits":
            print_table()


if __name__ == "__main__":
    main()
