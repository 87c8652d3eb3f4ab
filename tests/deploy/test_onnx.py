"""Exported networks in ONNX Runtime, OpenVINO and QONNX: what the emulation computes."""

import pytest
import torch
from hypothesis import given, settings
from torch import nn

from dsnn_utils import ShiftSpec, convert_to_shift, export_onnx, shiftable_layers
from dsnn_utils.deploy import int8_parts, load_onnx, weight_codes, with_integer_layers
from dsnn_utils.shift import IntegerSpec, build_model, convert_to_integer, fit_activations
from dsnn_utils.training import SavedNetwork
from test_reference import REMEDIES, layers_and_inputs

onnx = pytest.importorskip("onnx", reason="the extra `deploy` is not installed")
RUNTIMES = ("onnxruntime", "openvino")
W3A4 = ShiftSpec("Q", 3, 4, 0, weight_scale="channel", **REMEDIES)


def as_saved(network, shape=(3, 32, 32)):
    classes = tuple("0123456789")
    return SavedNetwork(network, None, classes, (0.5,) * shape[0], (0.25,) * shape[0], shape[1:], {})


def run(network, x, path, runtime, form="qdq"):
    pytest.importorskip(runtime, reason=f"{runtime} is not installed")
    export_onnx(as_saved(network, tuple(x.shape[1:])), path, form)
    return load_onnx(path, runtime, 1).network(x)


def settle(network, x):
    """Batch norms that have seen data, and formats that fit: like after a training."""
    with torch.no_grad():
        for _ in range(20):
            network.train()(x)
    fit_activations(network, x)
    return network.eval()


def assert_agrees(found, expected, share_of_logits):
    """The same predictions; where float batch norms round otherwise, a code may differ by one.

    Such a step reaches few logits: all but `share_of_logits` of them have to be equal.
    """
    different = (found - expected).abs() > 1e-4 * expected.std()
    assert different.float().mean() <= share_of_logits
    assert (found - expected).abs().max() <= 0.5 * expected.std()
    assert (found.argmax(1) == expected.argmax(1)).float().mean() >= 0.999


# ------------------------------------------------------------------------- single layers


class Alone(nn.Module):
    """The layer, and as an export needs it, the same number of logits for each image."""

    def __init__(self, layers):
        super().__init__()
        self.layers = layers

    def forward(self, x):
        return self.layers(x)


@pytest.mark.parametrize("runtime", RUNTIMES)
@settings(deadline=None, max_examples=12)
@given(layers_and_inputs(kinds=("Q", "PS"), weight_bits=(2, 4), integer_bits=(2, 4)))
def test_a_shift_layer_equals_emulation_and_integers_to_the_last_bit(tmp_path_factory, runtime, case):
    network, x = case
    with torch.no_grad():
        expected = network(x)
    assert torch.equal(with_integer_layers(network)(x), expected)
    path = tmp_path_factory.mktemp("layer") / "layer.onnx"
    assert torch.equal(run(network, x, path, runtime), expected)


# ------------------------------------------------------------------------------ networks


class Own(nn.Module):
    """A network of a user: residuals, depthwise and grouped layers, flattened pixels."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1, padding_mode="reflect")
        self.depthwise = nn.Conv2d(16, 16, 3, padding=2, dilation=2, groups=16, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.grouped = nn.Conv2d(16, 16, 1, groups=4)
        self.pool = nn.MaxPool2d(4)
        self.hidden = nn.Linear(16 * 4 * 4, 24)
        self.last = nn.Linear(24, 10)

    def forward(self, x):
        x = self.stem(x).relu()
        x = x + self.norm(self.depthwise(x))
        x = x + self.grouped(x.relu())
        x = self.pool(x).flatten(1)
        return self.last(self.hidden(x).relu())


def prepared(name, spec, depth=None):
    torch.manual_seed(0)
    network = Own() if name == "own" else build_model(name, 10)
    depth = len(shiftable_layers(network)) if depth is None else depth
    change = convert_to_integer if isinstance(spec, IntegerSpec) else convert_to_shift
    # Smooth images: noise would come out of the pooling as nothing.
    x = nn.functional.interpolate(torch.randn(64, 3, 6, 6), (32, 32), mode="bicubic")
    return settle(change(network, depth, spec), x[:32]), x


@pytest.mark.parametrize("name", ["resnet20", "mobilenetv2", "vgg19", "own"])
def test_networks(tmp_path, name):
    network, x = prepared(name, W3A4)
    with torch.no_grad():
        expected = network(x)
    for runtime in RUNTIMES:
        assert_agrees(run(network, x, tmp_path / "n.onnx", runtime), expected, 0.05)


@pytest.mark.parametrize("depth", [0, 1, 6, 13])
def test_any_depth(tmp_path, depth):
    network, x = prepared("resnet20", W3A4, depth)
    with torch.no_grad():
        expected = network(x)
    for runtime in RUNTIMES:
        assert_agrees(run(network, x, tmp_path / "n.onnx", runtime), expected, 0.05)


@pytest.mark.parametrize(
    "spec",
    [
        ShiftSpec("PS", 4, 4, 4),
        ShiftSpec("Q", 5, 4, 4, activation_format="fitted"),
        ShiftSpec("Q", 2, 4, 0, weight_scale="layer", **REMEDIES),
        IntegerSpec(4, 4, 0, **REMEDIES),
        IntegerSpec(8, 4, 4, "layer", activation_format="fitted"),
    ],
)
def test_number_formats(tmp_path, spec):
    network, x = prepared("resnet20", spec)
    with torch.no_grad():
        expected = network(x)
    for runtime in RUNTIMES:
        assert_agrees(run(network, x, tmp_path / "n.onnx", runtime), expected, 0.1)


# --------------------------------------------------------------------------- the file


def test_weights_are_int8_and_no_shifted_layer_reads_float_weights(tmp_path):
    network, x = prepared("resnet20", W3A4)
    run(network, x, tmp_path / "n.onnx", "onnxruntime")
    graph = onnx.load(tmp_path / "n.onnx").graph
    made_by = {name: node.op_type for node in graph.node for name in node.output}
    layers = [node for node in graph.node if node.op_type in ("Conv", "MatMul", "Gemm")]
    assert len(layers) == 20
    for node in layers:
        assert [made_by.get(name) for name in node.input[:2]] == ["DequantizeLinear"] * 2
    kinds = [onnx.numpy_helper.to_array(t).dtype.name for t in graph.initializer if len(t.dims) > 1]
    assert set(kinds) <= {"int8"}


def test_openvino_computes_the_shifted_layers_in_int8(tmp_path):
    pytest.importorskip("openvino", reason="openvino is not installed")
    network, x = prepared("resnet20", W3A4)
    export_onnx(as_saved(network), tmp_path / "n.onnx")
    compiled = load_onnx(tmp_path / "n.onnx", "openvino", 1).network.compiled
    facts = [op.get_rt_info() for op in compiled.get_runtime_model().get_ops()]
    kinds = [
        fact["runtimePrecision"].astype(str)
        for fact in facts
        if fact["layerType"].astype(str) in ("Convolution", "FullyConnected", "MatMul")
    ]
    assert len(kinds) == 20 and set(kinds) <= {"u8", "i8"}, kinds
