"""How do a trial and the search itself grow? CPU seconds, and the exponent fitted to them.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_growth.py --trials 2000 --limit 1800

An epoch of a small shift network by its images and by its layers; what a strategy takes for asking
and telling, all trials together, on the synthetic problem of `bench_search.py` (no training). An
exponent of 1 is linear; it is fitted to the upper half of the sizes, where constant costs no longer
hide it. A strategy stops after `--limit` seconds. The table stands in `results/growth.csv`; a run
replaces the rows that it measures.
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from bench_search import DEPTH, OBJECTIVES, energies, synthetic_loss
from bench_training import processor, random_dataset
from torch import nn

from dsnn_utils import ShiftSpec, convert_to_shift
from dsnn_utils.limits import MULTI_FIDELITY, STRATEGIES
from dsnn_utils.search import SearchSettings, make_fidelity
from dsnn_utils.search.strategies import make_strategy
from dsnn_utils.training import train

TABLE = Path(__file__).parent / "results" / "growth.csv"


def chain(layers: int) -> nn.Module:
    """A network of so many shift layers, all but the last alike."""
    blocks = [nn.Conv2d(3, 16, 3, padding=1, stride=2)]
    for _ in range(layers - 2):
        blocks += [nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1)]
    plain = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    return convert_to_shift(plain, layers, ShiftSpec("Q"))


def epoch_cpu_s(layers: int, images: int) -> float:
    network, dataset = chain(layers), random_dataset(images)
    seconds = []
    for _ in range(4):
        started = time.process_time()
        train(network, dataset, lr=0.01, epochs=1)
        seconds.append(time.process_time() - started)
    return min(seconds[1:])


def search_cpu_s(name: str, trials: int, limit: float) -> dict[int, float]:
    """CPU seconds of asking and telling until 25, 50, 100, ... trials."""
    settings = SearchSettings(max_depth=DEPTH, epochs=5, strategy=name)
    energy_of = energies("synthetic")
    levels = make_fidelity("shift_depth", DEPTH, 5) if name in MULTI_FIDELITY else None
    strategy = make_strategy(
        name, settings.searched_space(), levels, OBJECTIVES, 0, energy_of=energy_of
    )
    noise, cpu_s, found, mark = np.random.default_rng(0), 0.0, {}, 25
    for number in range(1, trials + 1):
        started = time.process_time()
        point = strategy.ask()[0]
        cpu_s += time.process_time() - started
        loss = float(np.clip(synthetic_loss(point) + 0.01 * noise.normal(), 0, 1))
        values = [loss, energy_of(point)]
        started = time.process_time()
        strategy.tell(point, values, True)
        cpu_s += time.process_time() - started
        if number == min(mark, trials):
            found[number], mark = cpu_s, 2 * mark
        if cpu_s > limit:
            break
    return found


def exponent(cpu_s: dict[int, float]) -> float:
    sizes = sorted(cpu_s)[len(cpu_s) // 2 :] if len(cpu_s) > 3 else sorted(cpu_s)
    if len(sizes) < 2:
        return float("nan")
    return float(np.polyfit(np.log(sizes), np.log([cpu_s[size] for size in sizes]), 1)[0])


def write(rows: pd.DataFrame) -> None:
    """Into the table, in place of what it knew of the same."""
    known = pd.read_csv(TABLE)
    other = known[~known["what"].isin(rows["what"])]
    pd.concat([rows, other]).to_csv(TABLE, index=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--limit", type=float, default=1800, help="CPU seconds for a strategy")
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=list(STRATEGIES))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{processor()}, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}", flush=True)

    measured = {
        ("an epoch, 8 layers", "images"): {n: epoch_cpu_s(8, n) for n in (512, 1024, 2048, 4096)},
        ("an epoch, 1024 images", "layers"): {n: epoch_cpu_s(n, 1024) for n in (4, 8, 16, 32)},
    }
    rows = []
    for (what, by), cpu_s in measured.items():
        rows += [{"what": what, "by": by, "size": n, "cpu_s": s} for n, s in cpu_s.items()]
        print(f"{what}, by {by}: exponent {exponent(cpu_s):.2f}", flush=True)
    for name in arguments.strategies:
        cpu_s = search_cpu_s(name, arguments.trials, arguments.limit)
        what = f"search, {name}"
        rows += [{"what": what, "by": "trials", "size": n, "cpu_s": s} for n, s in cpu_s.items()]
        print(f"{what}, by trials up to {max(cpu_s)}: exponent {exponent(cpu_s):.2f}", flush=True)
        write(pd.DataFrame(rows).round({"cpu_s": 3}))


if __name__ == "__main__":
    main()
