"""How fast does a trained network run, in emulation and in the runtimes, and what does it draw?

    python tests/benchmarks/bench_inference.py [NETWORK.safetensors] [--plain PLAIN.safetensors]
        [--dataset data/cifar10.zip]

Without files: ResNet20 with 3-bit weights and 4-bit activations, and the plain one, untrained (the
work does not depend on the weights). All ways take turns, every other round backwards; CodeCarbon
reads each window. Prints, for batches of 128 and of 1: time per image, the ratio to PyTorch's
float32, and MEASURED energy per image with its 95 % interval. Then the sizes of the files, and how
the runtimes' predictions agree with the emulation's, on noise or on the test images of a data set.
About five minutes on 2 cores; on a quiet machine.
"""

import argparse
import platform
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch

from dsnn_utils import ShiftSpec, convert_to_shift, load_network
from dsnn_utils.deploy import packed_bytes, ways_to_compute
from dsnn_utils.energy import EnergyMeter, summarise_readings, take_readings
from dsnn_utils.shift import build_model, fit_activations
from dsnn_utils.training import SavedNetwork, load_dataset

SPEC = ShiftSpec(
    "Q", 3, 4, 0, weight_scale="channel", activation_format="fitted", activation_rounding="nearest"
)
FIRST = "plain float32, PyTorch"


def untrained(images, spec=None) -> SavedNetwork:
    torch.manual_seed(0)
    network = build_model("resnet20", 10)
    if spec is not None:
        network = convert_to_shift(network, 20, spec)
    with torch.no_grad():
        network.train()(images)
    fit_activations(network, images)
    facts = (0.5,) * 3, (0.25,) * 3, (32, 32), {}
    return SavedNetwork(network.eval(), "resnet20", tuple("0123456789"), *facts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", nargs="?", help="file of a trained network of CIFAR-10")
    parser.add_argument("--plain", help="file of the plain network to compare with")
    parser.add_argument("--dataset", help="its test images: how many are predicted alike")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--window-s", type=float, default=1.0)
    arguments = parser.parse_args()
    images = torch.randn(256, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    saved = load_network(arguments.network) if arguments.network else untrained(images, SPEC)
    plain = load_network(arguments.plain) if arguments.plain else untrained(images)
    packages = ("torch", "onnxruntime", "openvino")
    print(platform.processor(), *(f"{name} {version(name)}" for name in packages), sep=", ")
    print(f"{torch.get_num_threads()} threads")
    with tempfile.TemporaryDirectory() as folder, EnergyMeter() as meter:
        ways = ways_to_compute(saved, plain, images, folder)
        for batch_size in (128, 1):
            print_readings(ways, images, meter, batch_size, arguments)
        for path in sorted(Path(folder).glob("*.onnx")):
            print(f"{path.name}: {path.stat().st_size / 1024:.0f} KiB")
    for name, network in (("plain", plain.network), ("network", saved.network)):
        print(f"{name}, weights packed: {packed_bytes(network) / 1024:.0f} KiB")
        if arguments.dataset:
            data = load_dataset(arguments.dataset)
            mean, std = (torch.tensor(x)[:, None, None] for x in (data.mean, data.std))
            images = data.test.images.float().div_(255).sub_(mean).div_(std)
        print_equality(ways, images)


@torch.no_grad()
def print_equality(ways, images) -> None:
    found = {
        name: torch.cat([way(part) for part in images.split(250)])
        for name, way in ways.items()
        if name.startswith(("emulation", "trained codes"))
    }
    expected = found.pop("emulation, PyTorch")
    print(f"{len(images)} images, standard deviation of the logits {expected.std():.3g}")
    for name, logits in found.items():
        same = (logits.argmax(1) == expected.argmax(1)).sum()
        off = (logits - expected).abs().max()
        print(f"{name}: {same} predictions as emulated, largest difference of logits {off:.3g}")


def print_readings(ways, images, meter, batch_size: int, arguments) -> None:
    readings = take_readings(
        ways,
        images,
        meter,
        windows_s=(arguments.window_s,),
        rounds=arguments.rounds,
        batch_size=batch_size,
    )
    table = summarise_readings(readings)
    by_round = readings.pivot(index="round", columns="network", values="duration_s_per_image")
    print(f"\nbatch {batch_size}; {meter.method}, {meter.hardware}")
    print("ms/image  times as fast (lowest..highest round)  MEASURED mJ/image")
    for name, row in table.iterrows():
        ratio = by_round[FIRST] / by_round[name]
        print(
            f"{1e3 * row['duration_s_per_image']:8.3f}  {ratio.median():6.2f}"
            f" ({ratio.min():.2f}..{ratio.max():.2f})"
            f"  {1e3 * row['energy_measured_j_per_image']:8.3f}"
            f" ± {1e3 * row['half_width_j_per_image']:.3f}  {name}"
        )


if __name__ == "__main__":
    main()
