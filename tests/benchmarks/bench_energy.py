"""How repeatable is measured energy here, and what does measuring cost?

    python tests/benchmarks/bench_energy.py --repeats 10 --windows-s 0.5 1 2 5

Prints, per window length, the coefficient of variation between at least 10 repetitions of one
inference measurement, the 95 % half-width of their mean and how many windows it takes to rank two
networks; then the time and processor time a measurement itself takes. Run it on a quiet machine.
The full default run takes about two minutes.
"""

import argparse
import statistics
import time

import torch

from dsnn_utils import ShiftSpec, convert_to_shift
from dsnn_utils.energy import EnergyMeter, measure_inference, repetitions_to_rank
from dsnn_utils.shift import MODELS, build_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="resnet20")
    parser.add_argument("--shift-depth", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=10, help="windows per length")
    parser.add_argument("--windows-s", type=float, nargs="+", default=[0.5, 1.0, 2.0, 5.0])
    parser.add_argument("--idle-s", type=float, default=5.0, help="length of the overhead run")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    model = convert_to_shift(build_model(arguments.model, 10), arguments.shift_depth, ShiftSpec())
    images = torch.randint(0, 256, (arguments.batch_size, 3, 32, 32), dtype=torch.uint8)
    with EnergyMeter() as meter:
        print(f"{arguments.model}, shift depth {arguments.shift_depth}, {meter.method}")
        print(f"{meter.hardware}; torch {torch.__version__}, {torch.get_num_threads()} threads")
        print_repeatability(model, images, meter, arguments.windows_s, arguments.repeats)
        print_overhead(meter, arguments.idle_s)


def print_repeatability(model, images, meter, windows_s, repeats) -> None:
    print("\nwindow_s  windows  J/image   cv      half-width  windows to rank 20 % / 10 % / 5 %")
    for window_s in windows_s:
        found = measure_inference(
            model,
            images,
            meter,
            window_s=window_s,
            min_windows=repeats,
            max_windows=repeats,
            batch_size=len(images),
        )
        if not found.trusted:
            print(f"{window_s:8.1f}  {found.reason}")
            continue
        share = found.half_width_j_per_image / found.energy_measured_j_per_image
        to_rank = " / ".join(str(repetitions_to_rank(found.cv, d)) for d in (0.2, 0.1, 0.05))
        print(
            f"{window_s:8.1f}  {found.windows:7d}  {found.energy_measured_j_per_image:.3e}"
            f"  {found.cv:6.1%}  {share:9.1%}   {to_rank}"
        )


def print_overhead(meter, idle_s) -> None:
    durations = []
    for _ in range(20):
        started = time.perf_counter()
        with meter.measure():
            pass
        durations.append(time.perf_counter() - started)
    seconds = statistics.median(durations)
    started = time.process_time()
    with meter.measure():
        time.sleep(idle_s)
    load = (time.process_time() - started) / idle_s
    print(f"\nper measurement {1000 * seconds:.1f} ms ({seconds / 60:.3%} of a one-minute trial)")
    print(f"while measuring {load:.3%} of one processor")


if __name__ == "__main__":
    main()
