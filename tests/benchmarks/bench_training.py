"""How fast does a shift network train, and what does a trial cost beside its training?

    python tests/benchmarks/bench_training.py [--deepshift CHECKOUT] [--compiled]

Trains ResNet20 on random images of CIFAR-10's size: plain, Q and PS at full depth with
`training.train`, both also with everything that makes few bits hold, uniform integers, and with
`--deepshift` (a checkout of github.com/mostafaelhoushi/DeepShift) the same network converted by
DeepShift's own code, in float32 as that code needs it, with the same loop; with `--compiled` plain
and Q through torch.compile too (minutes until the first step). Where the hardware computes in
bfloat16, so do the networks, and plain in float32 is one more arm; elsewhere all are in float32,
where a step takes several times as long. All arms take turns within every round, so what else the
machine does hits all of them; the ratios are of the medians over the rounds. Then: images per
second and core with one thread, two threads, and two processes of one thread each; what dead
weights cost in evaluation, the time of a conversion, of everything a trial does outside training
and evaluation, and the memory CIFAR-10 takes. About six minutes on 2 cores with bfloat16, longer
without.
"""

import argparse
import contextlib
import copy
import os
import platform
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

from dsnn_utils import ShiftSpec, convert_to_shift, shiftable_layers
from dsnn_utils.search import Recipe, published_default, run_trial
from dsnn_utils.shift import IntegerSpec, build_model, convert_to_integer, kernels
from dsnn_utils.training import Dataset, ImageSet, evaluate, train
from dsnn_utils.training.loop import _bfloat16, resolve_device

REMEDIES = {
    "weight_bits": 3,
    "activation_integer_bits": 4,
    "activation_fraction_bits": 0,
    "weight_scale": "channel",
    "activation_format": "fitted",
    "activation_rounding": "nearest",
    "clipped_gradient": "zero",
}


def random_dataset(train_size: int, validation_size: int = 2) -> Dataset:
    """Noise with the shape of CIFAR-10."""
    generator = torch.Generator().manual_seed(0)
    parts = [
        ImageSet(
            torch.randint(256, (size, 3, 32, 32), dtype=torch.uint8, generator=generator),
            torch.randint(10, (size,), generator=generator),
        )
        for size in (train_size, validation_size)
    ]
    classes = tuple("0123456789")
    return Dataset("noise", classes, *parts, None, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def deepshift_network(checkout: Path, shift_type: str) -> torch.nn.Module:
    sys.path.insert(0, str(checkout / "pytorch"))
    import deepshift.convert

    network, converted = deepshift.convert.convert_to_shift(
        build_model("resnet20", 10), 20, shift_type, use_cuda=False
    )
    assert converted > 0
    return network


def native_precision() -> str:
    """What "auto" means here."""
    return "bfloat16" if _bfloat16("auto", resolve_device("auto")) else "float32"


def seconds_per_step(network, dataset: Dataset, precision: str) -> float:
    """One epoch with everything `train` does: drawing, augmenting, forward, backward, update."""
    steps = len(dataset.train) // 128
    started = time.perf_counter()
    train(network, dataset, lr=0.01, epochs=1, schedule="constant", precision=precision, seed=0)
    return (time.perf_counter() - started) / steps


def print_training(rounds: int, steps: int, checkout: Path | None, compiled: bool) -> None:
    plain = build_model("resnet20", 10)
    depth = len(shiftable_layers(plain))
    networks = {
        "plain": plain,
        "Q": convert_to_shift(plain, depth, ShiftSpec("Q")),
        "PS": convert_to_shift(plain, depth, ShiftSpec("PS")),
        "Q, remedies": convert_to_shift(plain, depth, ShiftSpec("Q", **REMEDIES)),
        "PS, remedies": convert_to_shift(plain, depth, ShiftSpec("PS", **REMEDIES)),
        "integers": convert_to_integer(plain, depth, IntegerSpec(**REMEDIES)),
    }
    if compiled:
        networks |= {
            f"{name}, compiled": torch.compile(copy.deepcopy(networks[name]))
            for name in ("plain", "Q")
        }
    arms = {name: (network, "auto") for name, network in networks.items()}
    if native_precision() == "bfloat16":
        arms["plain float32"] = build_model("resnet20", 10), "float32"
    if checkout:
        arms |= {
            f"DeepShift {kind} float32": (deepshift_network(checkout, kind), "float32")
            for kind in ("Q", "PS")
        }
    dataset = random_dataset(128 * steps)
    times = {name: [] for name in arms}
    for number in range(rounds + 1):
        for name, (network, precision) in arms.items():
            seconds = seconds_per_step(network, dataset, precision)
            if number > 0:  # the first round warms up
                times[name].append(seconds)
    median = {name: statistics.median(values) for name, values in times.items()}
    print(f"\ntraining step, batch 128, {rounds} rounds of {steps} steps; speed over that of")
    columns = [name for name in ("plain", "Q", "PS", "DeepShift Q float32", "DeepShift PS float32")
               if name in arms]  # fmt: skip
    print(f"{'':22}" + "".join(f"{name:>22}" for name in columns) + "   spread of rounds")
    for name, values in times.items():
        ratios = "".join(f"{median[other] / median[name]:22.2f}" for other in columns)
        quartiles = statistics.quantiles(values, n=4)
        print(f"{name:22}{ratios}   {(quartiles[2] - quartiles[0]) / median[name]:8.1%}")


def images_per_second(kind: str, threads: int, steps: int, start_at: float = 0.0) -> float:
    """Of one process, the best of three epochs; it begins at a time (of time.time) if told so."""
    torch.set_num_threads(threads)
    network = build_model("resnet20", 10)
    if kind != "plain":
        network = convert_to_shift(network, 20, ShiftSpec(kind))
    dataset = random_dataset(128 * steps)
    seconds_per_step(network, dataset, "auto")
    time.sleep(max(0.0, start_at - time.time()))
    return 128 / min(seconds_per_step(network, dataset, "auto") for _ in range(3))


def print_throughput(steps: int) -> None:
    before = torch.get_num_threads()
    print("\nimages per second and core")
    ways = ("1 thread", "2 threads", "2 processes")
    print(f"{'':22}" + "".join(f"{way:>14}" for way in ways))
    for kind in ("plain", "Q", "PS"):
        row = [images_per_second(kind, threads, steps) / threads for threads in (1, 2)]
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
            start_at = time.time() + 40  # both have imported and warmed up by then
            jobs = [pool.submit(images_per_second, kind, 1, steps, start_at) for _ in range(2)]
            row.append(statistics.mean(job.result() for job in jobs))
        print(f"{kind:22}" + "".join(f"{value:14.0f}" for value in row), flush=True)
    torch.set_num_threads(before)


def processor() -> str:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return platform.processor()


def print_dead_weights(rounds: int) -> None:
    """Evaluation of a network half of whose filters are denormal numbers, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    dataset, alive = random_dataset(2, 128), build_model("resnet20", 10)
    dead = copy.deepcopy(alive)
    for name in shiftable_layers(dead):
        dead.get_submodule(name).weight.data[::2] = 1e-39
    batches = (dataset.validation.images.float() / 255).split(128)

    def not_flushed() -> None:
        with torch.no_grad():
            for batch in batches:
                dead.eval()(batch)

    arms = {
        "no dead weights": lambda: evaluate(alive, dataset.validation, dataset),
        "half are dead": lambda: evaluate(dead, dataset.validation, dataset),
        "half are dead, denormals not flushed": not_flushed,
    }
    times = {name: [] for name in arms}
    for _ in range(rounds):
        for name, run in arms.items():
            started = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - started)
    torch.set_num_threads(threads)
    first = statistics.median(times["no dead weights"])
    print("\nevaluation on one thread, duration over that of a network without dead weights")
    for name, values in times.items():
        print(f"{name:40}{statistics.median(values) / first:8.2f}")


def print_conversion() -> None:
    plain, durations = build_model("resnet20", 10), []
    for _ in range(21):
        started = time.perf_counter()
        convert_to_shift(plain, 20, ShiftSpec("PS"))
        durations.append(time.perf_counter() - started)
    print(f"\nconversion of all 20 layers: {1000 * statistics.median(durations):.0f} ms")


def print_trial_overhead(train_size: int) -> None:
    dataset = random_dataset(train_size, 128)
    point, seconds = published_default(20, epochs=1) | {"data_fraction": 0.02}, []
    for seed in range(6):
        row, _, history = run_trial(point, dataset, Recipe(), seed=seed)
        seconds.append(row["duration_s"] - sum(epoch["duration_s"] for epoch in history))
    overhead = statistics.median(seconds[1:])
    print(
        f"a trial outside its epochs (subset of {train_size} images, network, operation counts): "
        f"{overhead:.2f} s, {overhead / 60:.2%} of a one-minute trial"
    )


def print_memory(dataset: Dataset) -> None:
    parts = (dataset.train, dataset.validation)
    size = sum(part.images.nbytes + part.labels.nbytes for part in parts)
    print(f"50,000 images of 32x32 in memory: {size / 2**20:.0f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--deepshift", type=Path, help="a checkout of DeepShift")
    parser.add_argument("--compiled", action="store_true", help="also through torch.compile")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=16)
    arguments = parser.parse_args()
    one_pass = "compiled" if kernels._library() else "not compiled: no C compiler"
    print(
        f"{processor()} ({platform.machine()}), {os.cpu_count()} processors, load "
        f"{os.getloadavg()[0]:.1f}; torch {torch.__version__}, {torch.get_num_threads()} threads, "
        f"{native_precision()}; rounding of activations {one_pass}",
        flush=True,
    )
    print_training(arguments.rounds, arguments.steps, arguments.deepshift, arguments.compiled)
    print_throughput(arguments.steps)
    print_dead_weights(3)
    print_conversion()
    print_trial_overhead(47_500)
    print_memory(random_dataset(47_500, 2_500))


if __name__ == "__main__":
    main()
