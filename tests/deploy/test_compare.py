"""One network computed in every way there is, and what it weighs."""

import subprocess
import sys

import pytest
import torch

from dsnn_utils import ShiftSpec, convert_to_shift, load_network, save_network
from dsnn_utils.deploy import compare, packed_bytes, peak_memory_mb, ways_to_compute
from dsnn_utils.shift import IntegerSpec, build_model, convert_to_integer, fit_activations
from dsnn_utils.training import load_dataset, train

FITTED = {"activation_format": "fitted", "activation_rounding": "nearest"}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A shift network and the plain one, both trained a little on the digits, and images."""
    data, folder = load_dataset("digits", train_size=400), tmp_path_factory.mktemp("pair")
    found = []
    for spec in (ShiftSpec("Q", 3, 4, 0, weight_scale="channel", **FITTED), None):
        torch.manual_seed(0)
        network = build_model("resnet20", 10, 1)
        network = convert_to_shift(network, 20, spec) if spec else network
        train(network, data, epochs=4, batch_size=32, optimizer="SGD", lr=0.05, seed=0)
        path = save_network(network, folder / f"{spec is None}.safetensors", data, "resnet20")
        found.append(load_network(path))
    images = (data.validation.images.float() / 255 - data.mean[0]) / data.std[0]
    return *found, images


@pytest.fixture(scope="module")
def ways(pair, tmp_path_factory):
    """Every way to compute them, and the folder with the files of the runtimes."""
    pytest.importorskip("onnxscript", reason="the extra `deploy` is not installed")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    folder = tmp_path_factory.mktemp("ways")
    return ways_to_compute(*pair, folder), folder


def test_every_way_computes_one_of_the_two_networks(pair, ways):
    (saved, plain, images), (ways, _) = pair, ways
    assert list(ways)[:3] == [
        "plain float32, PyTorch",
        "plain float32, PyTorch channels_last",
        "emulation, PyTorch",
    ]
    assert {name.rpartition(", ")[2] for name in ways} >= {"ONNX Runtime"}
    with torch.no_grad():
        shifted, floats = saved.network(images), plain.network(images)
        for name, way in ways.items():
            expected = shifted if name.startswith(("trained codes", "emulation")) else floats
            same = (way(images).argmax(1) == expected.argmax(1)).float().mean()
            # Only int8 after training computes something else.
            assert same >= (0.95 if "after training" in name else 0.995), name


@pytest.mark.parametrize("vnni", [True, False])
def test_weights_after_training_leave_room_where_sums_overflow(pair, ways, monkeypatch, vnni):
    onnx = pytest.importorskip("onnx")
    (_, _, images), (_, folder) = pair, ways
    monkeypatch.setattr(compare, "has_vnni", lambda: vnni)
    path = compare.quantize_after_training(folder / "plain.onnx", images[:16], folder / "q.onnx")
    arrays = [onnx.numpy_helper.to_array(array) for array in onnx.load(path).graph.initializer]
    largest = max(abs(array.astype(int)).max() for array in arrays if array.dtype == "int8")
    assert largest == (127 if vnni else 64)


def test_a_runtime_that_refuses_is_left_out_with_its_reason(pair, ways, monkeypatch):
    (saved, plain, images), (_, folder) = pair, ways

    def without_vnni(path, runtime):
        if runtime == "openvino" and path.name == "codes.onnx":
            raise ValueError("this processor has no VNNI")
        return plain

    monkeypatch.setattr(compare, "load_onnx", without_vnni)
    # The files are there; writing them again takes a quarter of a minute.
    monkeypatch.setattr(compare, "export_onnx", lambda network, path: path)
    monkeypatch.setattr(compare, "quantize_after_training", lambda plain, images, path: path)
    with pytest.warns(UserWarning, match="codes int8, OpenVINO: left out, this processor has no V"):
        found = ways_to_compute(saved, plain, images, folder)
    assert "trained codes int8, OpenVINO" not in found and len(found) == 8


def test_without_the_extra_pytorch_remains(pair, tmp_path, monkeypatch):
    def missing(*_):
        raise ModuleNotFoundError("onnx")

    monkeypatch.setattr(compare, "export_onnx", missing)
    saved, plain, images = pair
    assert len(ways_to_compute(saved, plain, images, tmp_path)) == 3


def test_the_package_imports_without_the_extra():
    code = """
import sys
sys.modules.update(dict.fromkeys(("onnx", "onnxscript", "onnxruntime", "openvino", "qonnx")))
import dsnn_utils.deploy
from dsnn_utils.training import SavedNetwork
try:
    dsnn_utils.export_onnx(SavedNetwork(None, None, (), (), (), (8, 8), {}), "x.onnx")
except ModuleNotFoundError as error:
    print(error.name)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "onnx\n", result.stderr


def test_packed_bytes_by_hand():
    def make(convert, spec):
        network = convert(torch.nn.Sequential(torch.nn.Linear(16, 8)), 1, spec)
        fit_activations(network, torch.randn(4, 16))
        return packed_bytes(network)

    assert packed_bytes(torch.nn.Linear(16, 8)) == 4 * (16 * 8 + 8)
    none = ShiftSpec("PS", 4, 4, 4)
    channel = ShiftSpec("Q", 3, 4, 0, weight_scale="channel", **FITTED)
    assert make(convert_to_shift, none) == 16 * 8 * 4 / 8 + 4 * 8
    assert make(convert_to_shift, channel) == 16 * 8 * 3 / 8 + 8 + 4 * 8
    assert make(convert_to_integer, IntegerSpec(4, 4, 4)) == 16 * 8 * 4 / 8 + 4 * 8 + 4 * 8


def test_memory_is_that_of_a_process_of_its_own(pair, tmp_path):
    saved, _, images = pair
    path = save_network(
        saved.network, tmp_path / "a.safetensors", load_dataset("digits"), "resnet20"
    )
    here = torch.zeros(100_000_000)  # 400 MB in this process, none of which counts
    runtime_mb, all_mb = peak_memory_mb(path, "pytorch", (64, *images.shape[1:]))
    assert 50 < runtime_mb < all_mb < runtime_mb + 400
    assert here.sum() == 0


def test_a_process_that_fails_says_why(tmp_path):
    with pytest.raises(RuntimeError, match="must be a file that save_network wrote"):
        peak_memory_mb(tmp_path / "none.safetensors", "pytorch", (1, 1, 8, 8))
