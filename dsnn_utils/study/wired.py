"""Constants wired into a circuit: what the weights of one trained layer cost in adders.

Where the weights never change, a multiplication by a constant is a few shifts and additions, and a
shift by a constant is wiring. da4ml (optional; Sun et al., arXiv 2507.04535) finds such circuits
for a whole layer and shares what its outputs have in common. `python -m dsnn_utils.study.wired`
makes the committed table again: train a plain ResNet20 on the digits, take the first convolution of
its first block, round it to each format with the scale that fits best, and count.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dsnn_utils.paths import project_root
from dsnn_utils.shift.models import build_model
from dsnn_utils.shift.specs import ShiftSpec
from dsnn_utils.training.data import load_dataset
from dsnn_utils.training.loop import seed_everything, train

TABLE = project_root() / "figures" / "wired" / "adders.csv"
ACTIVATION_BITS = 8


def levels(arithmetic: str, weight_bits: int) -> NDArray:
    """The weights of a format as integers, ascending: "shift" (type Q, no zero) or "integer"."""
    if arithmetic == "integer":
        return np.arange(1 - 2 ** (weight_bits - 1), 2 ** (weight_bits - 1))
    lowest, highest = ShiftSpec("Q", weight_bits).shift_range
    powers = 2.0 ** np.arange(highest - lowest + 1)
    return np.concatenate([-powers[::-1], powers])


def round_to(weight: NDArray, possible: NDArray) -> tuple[NDArray, float]:
    """The nearest levels under the best of 200 scales, and the squared error over the variance."""
    best, least = np.zeros_like(weight), np.inf
    between = (possible[1:] + possible[:-1]) / 2
    for scale in np.geomspace(0.05, 1.5, 200) * np.abs(weight).max() / possible.max():
        codes = possible[np.searchsorted(between, weight / scale)]
        error = float(((scale * codes - weight) ** 2).mean() / weight.var())
        if error < least:
            best, least = codes, error
    return best, least


def adder_cost(codes: NDArray, activation_bits: int = ACTIVATION_BITS) -> float:
    """Full adders (one bit each) per weight of a matrix (inputs, outputs) of constants, by da4ml.

    Raises ImportError without da4ml.
    """
    from da4ml.cmvm import QInterval, solve

    reach = 2.0 ** (activation_bits - 1)
    intervals = [QInterval(-reach, reach - 1, 1.0)] * len(codes)
    circuit = solve(codes.astype(np.float32), qintervals=intervals, adder_size=1, carry_size=-1)
    return circuit.cost / codes.size


def adders_table(weight: NDArray) -> pd.DataFrame:
    """Error and adders of a layer's weights (inputs, outputs) in shift and integer formats.

    Columns `format`, `error` (squared error over the variance of the weights), `adders_per_weight`.
    """
    rows = []
    for arithmetic, widths in (("shift", (2, 3, 4)), ("integer", (2, 3, 4, 5, 8))):
        for bits in widths:
            codes, error = round_to(weight, levels(arithmetic, bits))
            name = f"{bits}-bit shift" if arithmetic == "shift" else f"INT{bits}"
            rows.append((name, error, adder_cost(codes)))
    return pd.DataFrame(rows, columns=["format", "error", "adders_per_weight"])


def read_adders() -> pd.DataFrame:
    """The committed table of `adders_table`."""
    return pd.read_csv(TABLE, index_col="format")


def trained_layer() -> NDArray:
    """A convolution of a ResNet20 trained on the digits, as a matrix (144 inputs, 16 outputs)."""
    data = load_dataset("digits")
    seed_everything(0)
    network = build_model("resnet20", data.num_classes, data.in_channels)
    train(network, data, epochs=5, augment=False, precision="float32", seed=0)
    weight = network.get_submodule("layer1.0.conv1").weight
    return weight.detach().flatten(1).T.double().numpy()  # type: ignore[union-attr,operator]


if __name__ == "__main__":
    TABLE.parent.mkdir(parents=True, exist_ok=True)
    adders_table(trained_layer()).to_csv(TABLE, index=False, float_format="%.6g")
