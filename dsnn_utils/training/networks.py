"""A trained network in a file: its numbers, and all that is needed to use it elsewhere.

The file is in the safetensors format, so reading one runs no code of it. What the numbers mean is
in its metadata, as JSON under the key "dsnn_utils".
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import Tensor, nn

from dsnn_utils.checks import require
from dsnn_utils.shift.activations import QuantizedLayer, check_fitted
from dsnn_utils.shift.conversion import convert_layers
from dsnn_utils.shift.models import build_model
from dsnn_utils.shift.specs import IntegerSpec, ShiftSpec
from dsnn_utils.training.data import Dataset

KEY = "dsnn_utils"
FACTS = ("model", "in_channels", "layers", "classes", "mean", "std", "image_size", "row")
SPECS = {spec.arithmetic: spec for spec in (ShiftSpec, IntegerSpec)}


@dataclass(frozen=True)
class SavedNetwork:
    """A network read from a file, in evaluation mode, and what was known of it.

    `mean` and `std` (of the 0..1 scale, by channel) normalise its input, `image_size` is (height,
    width) in pixels, `model` the name it was built by (None for a network of the user's own) and
    `row` what the trials table says of its training.
    """

    network: nn.Module
    model: str | None
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: tuple[int, int]
    row: dict


def save_network(
    network: nn.Module,
    path: str | Path,
    dataset: Dataset,
    model: str | None = None,
    row: Mapping | None = None,
) -> Path:
    """Write the network to `path` (a .safetensors file), at once and whole; returns the path.

    `dataset` is what it was trained on, `model` the name that `build_model` made it by, `row` its
    row of the trials table (plain values). Raises ValueError for a layer whose activation format
    has not been fitted, OSError where the file cannot be written.
    """
    from safetensors.torch import save_file

    check_fitted(network)
    layers = {
        name: {"arithmetic": layer.spec.arithmetic, **asdict(layer.spec)}
        for name, layer in network.named_modules()
        if isinstance(layer, QuantizedLayer)
    }
    about = {
        "model": model,
        "in_channels": dataset.in_channels,
        "layers": layers,
        "classes": list(dataset.classes),
        "mean": list(dataset.mean),
        "std": list(dataset.std),
        "image_size": list(dataset.image_size),
        "row": dict(row or {}),
        "versions": {"torch": torch.__version__, "dsnn_utils": _own_version()},
    }
    # Copies, since the format neither keeps strides nor lets two names share their numbers.
    tensors = {
        name: value.cpu().contiguous().clone() for name, value in network.state_dict().items()
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    text = json.dumps(about)
    save_file(tensors, temporary, {KEY: text, "sha256": _checksum(text, tensors)})
    os.replace(temporary, path)
    return path


def _own_version() -> str:
    try:
        return version("dsnn-utils")
    except PackageNotFoundError:  # a checkout on the search path
        return "not installed"


def load_network(path: str | Path, network: nn.Module | None = None) -> SavedNetwork:
    """The network of a file that `save_network` wrote.

    One that `build_model` does not know has to be made first and given as `network`, plain and of
    the same classes; it is converted and filled. Raises ValueError for a file of something else,
    one that is damaged, or a `network` that is missing or does not fit.
    """
    name = f"path={str(path)!r}"
    about, tensors = _read(Path(path), name)
    if network is None:
        require(
            about["model"] is not None,
            f"{name}: is a network of your own: make it as it was made before it was converted, "
            "and call load_network(path, network)",
        )
        network = build_model(about["model"], len(about["classes"]), about["in_channels"])
    specs = {}
    try:
        for layer, spec in about["layers"].items():
            fields = dict(spec)
            specs[layer] = SPECS[fields.pop("arithmetic")](**fields)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{name}: is damaged: the format of a layer is none ({error})") from error
    try:
        network = convert_layers(network, specs)
        network.load_state_dict(tensors)
    except (AttributeError, KeyError, RuntimeError) as error:
        raise ValueError(f"{name}: does not fit the network given: {error}") from error
    return saved_network(network.eval(), about)


def saved_network(network: nn.Module, about: Mapping) -> SavedNetwork:
    """The network with the facts of its file's metadata."""
    return SavedNetwork(
        network,
        about["model"],
        tuple(about["classes"]),
        tuple(about["mean"]),
        tuple(about["std"]),
        tuple(about["image_size"]),
        about["row"],
    )


def _read(path: Path, name: str) -> tuple[dict, dict[str, Tensor]]:
    """The metadata and the tensors of a file; ValueError unless they are as they were written."""
    from safetensors import SafetensorError, safe_open

    require(path.is_file(), f"{name}: must be a file that save_network wrote")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        text = metadata[KEY]
        about = json.loads(text)
        # The first files had no checksum.
        changed = metadata.get("sha256", "none") not in ("none", _checksum(text, tensors))
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"{name}: is damaged or not by save_network ({error})") from error
    known = isinstance(about, dict) and set(FACTS) <= set(about)
    require(known, f"{name}: is damaged or not by save_network (its metadata are incomplete)")
    require(not changed, f"{name}: is damaged: its checksum is that of other content")
    return about, tensors


def _checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of all that a file says. It finds damage; who means harm can compute it as well."""
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@torch.no_grad()
def plain_copy(saved: SavedNetwork) -> nn.Module:
    """The saved network with plain layers, to be converted to another number format.

    Q and integer layers have a real weight, which is kept; of PS it is the power of two. Raises
    ValueError for a network that `build_model` does not know.
    """
    require(saved.model is not None, "saved: must be a network that build_model knows")
    state = saved.network.state_dict()
    for name, layer in saved.network.named_modules():
        if isinstance(layer, QuantizedLayer) and f"{name}.weight" not in state:
            state[f"{name}.weight"] = layer.effective_weight()
    network = build_model(str(saved.model), len(saved.classes), len(saved.mean))
    network.load_state_dict({key: state[key] for key in network.state_dict()})
    return network
