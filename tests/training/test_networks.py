"""Saved networks: the same outputs to the last bit, without the script that made them."""

import json
from importlib.metadata import PackageNotFoundError

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from dsnn_utils import ShiftSpec, convert_to_shift
from dsnn_utils.shift import IntegerSpec, build_model, convert_to_integer, fit_activations
from dsnn_utils.training import load_dataset, load_network, plain_copy, save_network

FITTED = {"activation_integer_bits": 4, "activation_fraction_bits": 0}
FITTED |= {"activation_format": "fitted", "activation_rounding": "nearest"}


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits", train_size=100)


def batch(digits) -> torch.Tensor:
    return digits.validation.images[:16].float() / 255


def networks():
    torch.manual_seed(0)
    plain = build_model("resnet20", 10, 1)
    return {
        "plain": plain,
        "published": convert_to_shift(plain, 5, ShiftSpec()),
        "Q": convert_to_shift(plain, 20, ShiftSpec("Q", 3, weight_scale="channel", **FITTED)),
        "PS": convert_to_shift(plain, 20, ShiftSpec("PS", 3, weight_scale="layer", **FITTED)),
        "integer": convert_to_integer(plain, 20, IntegerSpec(4, **FITTED)),
        "mixed": convert_to_integer(convert_to_shift(plain, 3, ShiftSpec("Q")), 9, IntegerSpec(8)),
    }


@pytest.mark.parametrize("name", networks())
def test_loading_gives_the_same_outputs_and_facts(digits, tmp_path, name):
    network = networks()[name]
    fit_activations(network, batch(digits))
    row = {"trial": 3, "val_accuracy": 0.5, "lr": 0.1}
    path = save_network(network, tmp_path / "new" / "n.safetensors", digits, "resnet20", row)
    saved = load_network(path)
    assert torch.equal(saved.network(batch(digits)), network.eval()(batch(digits)))
    assert (saved.classes, saved.mean, saved.std) == (digits.classes, digits.mean, digits.std)
    assert (saved.model, saved.image_size, saved.row) == ("resnet20", (8, 8), row)
    for old, new in zip(network.modules(), saved.network.modules(), strict=True):
        assert type(old) is type(new) and getattr(old, "spec", 0) == getattr(new, "spec", 0)


@pytest.mark.parametrize("name", networks())
def test_a_plain_copy_has_the_weights_behind_the_number_format(digits, tmp_path, name):
    network = networks()[name]
    fit_activations(network, batch(digits))
    saved = load_network(save_network(network, tmp_path / "n.safetensors", digits, "resnet20"))
    copied = plain_copy(saved)
    assert all(type(m) in (nn.Conv2d, nn.Linear) for m in copied.modules() if hasattr(m, "bias")
               and not isinstance(m, nn.BatchNorm2d))  # fmt: skip
    layer = network.linear
    expected = layer.weight if "weight" in layer._parameters else layer.effective_weight()
    assert torch.equal(copied.linear.weight, expected)


def test_a_network_of_ones_own_needs_its_constructor(digits, tmp_path):
    def make():
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    network = convert_to_shift(make(), 1, ShiftSpec("Q"))
    path = save_network(network, tmp_path / "own.safetensors", digits)
    with pytest.raises(ValueError, match=r"call load_network\(path, network\)"):
        load_network(path)
    saved = load_network(path, make())
    assert torch.equal(saved.network(batch(digits)), network(batch(digits)))
    with pytest.raises(ValueError, match="does not fit the network given"):
        load_network(path, nn.Sequential(nn.Flatten(), nn.Linear(64, 9)))
    with pytest.raises(ValueError, match="does not fit the network given"):
        load_network(path, nn.Sequential(nn.Linear(64, 10)))


def test_what_save_network_did_not_write_is_refused(digits, tmp_path):
    with pytest.raises(ValueError, match="must be a file that save_network wrote"):
        load_network(tmp_path / "absent.safetensors")
    path = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="is damaged or not by save_network"):
        load_network(path)
    save_network(networks()["plain"], path, digits, "resnet20")
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(ValueError, match="is damaged or not by save_network"):
        load_network(path)
    changed = bytearray(whole)
    changed[-5] ^= 1  # a bit of a weight
    path.write_bytes(changed)
    with pytest.raises(ValueError, match="its checksum is that of other content"):
        load_network(path)
    path.write_bytes(whole.replace(b"resnet20", b"resnet21", 1))
    with pytest.raises(ValueError, match="its checksum is that of other content"):
        load_network(path)


def test_metadata_that_somebody_rewrote_are_refused(digits, tmp_path):
    path = save_network(networks()["published"], tmp_path / "n.safetensors", digits, "resnet20")
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["dsnn_utils"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    for text, message in (
        ("[]", "its metadata are incomplete"),
        (json.dumps({k: v for k, v in about.items() if k != "std"}), "metadata are incomplete"),
        (json.dumps(about | {"layers": {"linear": {"arithmetic": "x"}}}), "format of a layer"),
        (json.dumps(about | {"layers": {"linear": {}}}), "the format of a layer is none"),
        (json.dumps(about | {"model": "resnet21"}), "model='resnet21': must be one of"),
        (json.dumps(about | {"classes": ["a", "b"]}), "does not fit the network given"),
    ):
        save_file(tensors, path, {"dsnn_utils": text})
        with pytest.raises(ValueError, match=message):
            load_network(path)


def test_a_pickle_is_not_opened(tmp_path):
    """Nothing in a file is executed: what torch.save writes is no safetensors file."""
    path = tmp_path / "n.safetensors"
    torch.save(networks()["plain"], path)
    with pytest.raises(ValueError, match="is damaged or not by save_network"):
        load_network(path)


def test_a_format_that_saw_no_data_is_not_saved(digits, tmp_path):
    with pytest.raises(ValueError, match="layer 'conv1': activation_format='fitted' must see data"):
        save_network(networks()["Q"], tmp_path / "n.safetensors", digits, "resnet20")
    assert not list(tmp_path.iterdir())


def test_the_metadata_are_plain_json(digits, tmp_path):
    path = save_network(networks()["published"], tmp_path / "n.safetensors", digits, "resnet20")
    size = int.from_bytes(path.read_bytes()[:8], "little")
    about = json.loads(json.loads(path.read_bytes()[8 : 8 + size])["__metadata__"]["dsnn_utils"])
    assert about["layers"]["linear"]["shift_type"] == "PS" and len(about["layers"]) == 5


def test_a_checkout_that_was_never_installed_saves_networks_too(digits, tmp_path, monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("dsnn_utils.training.networks.version", missing)
    path = save_network(networks()["plain"], tmp_path / "n.safetensors", digits, "resnet20")
    assert load_network(path).classes == digits.classes
