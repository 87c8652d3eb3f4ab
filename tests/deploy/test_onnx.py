"""Exported networks in ONNX Runtime, OpenVINO and QONNX: what the emulation computes."""

from contextlib import nullcontext

import pytest
import torch
from hypothesis import assume, given, settings
from test_reference import REMEDIES, layers_and_inputs
from torch import nn

from dsnn_utils import (
    ShiftSpec,
    convert_to_shift,
    export_onnx,
    load_network,
    save_network,
    shiftable_layers,
)
from dsnn_utils.deploy import (
    int8_parts,
    load_onnx,
    measure_exported,
    runtimes,
    weight_codes,
    with_integer_layers,
)
from dsnn_utils.energy import EnergyMeter, operation_counts
from dsnn_utils.runs.columns import EXPORTED
from dsnn_utils.shift import IntegerSpec, build_model, convert_to_integer, fit_activations
from dsnn_utils.training import SavedNetwork, evaluate, load_dataset, train

onnx = pytest.importorskip("onnx", reason="the extra `deploy` is not installed")
pytest.importorskip("onnxscript", reason="the extra `deploy` is not installed")
RUNTIMES = ("onnxruntime", "openvino")
W3A4 = ShiftSpec("Q", 3, 4, 0, weight_scale="channel", **REMEDIES)


def as_saved(network, shape=(3, 32, 32)):
    classes = tuple("0123456789")
    return SavedNetwork(
        network, None, classes, (0.5,) * shape[0], (0.25,) * shape[0], shape[1:], {}
    )


def run(network, x, path, runtime, form="qdq"):
    pytest.importorskip(runtime, reason=f"{runtime} is not installed")
    export_onnx(as_saved(network, tuple(x.shape[1:])), path, form)
    return load_onnx(path, runtime, 1).network(x)


def settle(network, x):
    """Batch norms that have seen data, and formats that fit: like after a training."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 0.9  # in place of some twenty passes
    with torch.no_grad():
        network.train()(x)
    fit_activations(network, x)
    return network.eval()


def assert_agrees(network, x, path):
    """Both runtimes, where float batch norms may round an activation to the code next to it.

    Such a step spreads through the layers behind it, by little. These networks are not trained, so
    images whose two best logits are about equal tell nothing.
    """
    with torch.no_grad():
        expected = network(x)
    export_onnx(as_saved(network, tuple(x.shape[1:])), path)
    best = expected.topk(2).values
    clear = best[:, 0] - best[:, 1] > 0.1 * expected.std()
    for runtime in RUNTIMES:
        pytest.importorskip(runtime, reason=f"{runtime} is not installed")
        try:
            found = load_onnx(path, runtime, 1).network(x)
        except ValueError as error:  # refused, and not wrong
            assert "has no VNNI" in str(error) and not runtimes.has_vnni()
            continue
        assert (found - expected).abs().mean() <= 0.02 * expected.std(), runtime
        assert torch.equal(found.argmax(1)[clear], expected.argmax(1)[clear]), runtime


def test_the_memory_format_changes_nothing(tmp_path):
    """An evaluation leaves a network in channels_last; once that exported another graph."""
    network = build_model("resnet20", 10).eval()
    files = []
    for layout in (torch.contiguous_format, torch.channels_last):
        network.to(memory_format=layout)
        files.append(export_onnx(as_saved(network), tmp_path / f"{layout}.onnx"))
    assert network.conv1.weight.is_contiguous(memory_format=torch.channels_last)  # left as it was
    graphs = [[node.op_type for node in onnx.load(file).graph.node] for file in files]
    assert graphs[0] == graphs[1] and "Gather" not in graphs[0]


# ------------------------------------------------------------------------- single layers


@pytest.mark.parametrize("runtime", RUNTIMES)
@settings(deadline=None, max_examples=10)
@given(layers_and_inputs(kinds=("Q", "PS"), weight_bits=(2, 4), integer_bits=(2, 4)))
def test_a_shift_layer_equals_emulation_and_integers_to_the_last_bit(
    tmp_path_factory, runtime, case
):
    network, x = case
    if runtime == "openvino":  # it refuses such a file
        assume(getattr(network[0], "padding_mode", "") != "circular")
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
    assert_agrees(*prepared(name, W3A4), tmp_path / "n.onnx")


@pytest.mark.parametrize("depth", [0, 2, 5])
def test_any_depth(tmp_path, depth):
    assert_agrees(*prepared("own", W3A4, depth), tmp_path / "n.onnx")


@pytest.mark.parametrize(
    "spec",
    [
        ShiftSpec("PS", 4, 4, 4),
        ShiftSpec("Q", 5, 4, 4, activation_format="fitted"),
        ShiftSpec("Q", 2, 4, 0, weight_scale="layer", **REMEDIES),
        ShiftSpec("Q", 8, 4, 0, **REMEDIES),
        IntegerSpec(4, 4, 0, **REMEDIES),
        IntegerSpec(8, 4, 4, "layer", activation_format="fitted"),
    ],
)
def test_number_formats(tmp_path, spec):
    assert_agrees(*prepared("own", spec), tmp_path / "n.onnx")


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("rounding", ["floor", "nearest"])
def test_flattened_pixels_and_filters_of_different_scale(tmp_path, runtime, signed, rounding):
    torch.manual_seed(0)
    layers = nn.Flatten(), nn.Linear(3 * 32 * 32, 12), nn.ReLU(), nn.Linear(12, 10)
    network = nn.Sequential(*layers)
    with torch.no_grad():
        network[1].weight *= torch.exp2(torch.arange(12) % 5 - 2.0)[:, None]
    fields = {"activation_format": "fitted", "activation_rounding": rounding}
    spec = ShiftSpec("Q", 3, 4, 0, weight_scale="channel", **fields)
    network = convert_to_shift(network, 2, spec).eval()
    x = torch.randn(16, 3, 32, 32)
    x = x if signed else x.abs()
    fit_activations(network, x)
    with torch.no_grad():
        assert torch.equal(run(network, x, tmp_path / "n.onnx", runtime), network(x))


def test_a_trained_network_predicts_the_same(tmp_path):
    data = load_dataset("digits")
    torch.manual_seed(0)
    network = convert_to_shift(build_model("resnet20", 10, 1), 20, W3A4)
    train(network, data, epochs=4, batch_size=32, optimizer="SGD", lr=0.05, seed=0)
    path = save_network(network, tmp_path / "n.safetensors", data, "resnet20")
    export_onnx(load_network(path), tmp_path / "n.onnx")
    images = data.validation
    expected = evaluate(network, images, data)
    x = (images.images.float() / 255 - data.mean[0]) / data.std[0]
    with torch.no_grad():
        logits = network.eval()(x)
        integers = with_integer_layers(network, "fixed_point")(x)
    assert (integers.argmax(1) == logits.argmax(1)).float().mean() >= 0.98
    for runtime in RUNTIMES:
        pytest.importorskip(runtime, reason=f"{runtime} is not installed")
        saved = load_onnx(tmp_path / "n.onnx", runtime, 1)
        found = saved.network(x)
        assert (found.argmax(1) == logits.argmax(1)).float().mean() >= 0.999
        assert (found - logits).abs().mean() <= 1e-3 * logits.std()
        accuracy = evaluate(saved.network, images, data, device="cpu")["accuracy"]
        assert abs(accuracy - expected["accuracy"]) <= 1 / len(images)


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
    content = (tmp_path / "n.onnx").read_bytes()
    assert len(content) < 1.4 * 272_000  # a byte for each weight, and little else
    assert b".py" not in content  # no stack trace


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


def test_what_export_onnx_did_not_write_is_refused(tmp_path):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    network, x = prepared("own", W3A4)
    path = export_onnx(as_saved(network), tmp_path / "n.onnx")
    whole = path.read_bytes()
    for content in (b"", whole[:-1000], b"not a network", whole.replace(b"Relu", b"Ceil", 1)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is damaged"):
            load_onnx(path)
    with pytest.raises(ValueError, match="must be a file that export_onnx wrote"):
        load_onnx(tmp_path / "absent.onnx")
    path.write_bytes(whole)
    with pytest.raises(ValueError, match="runtime='qonnx': must be onnxruntime or openvino"):
        load_onnx(path, "qonnx")
    with pytest.raises(ValueError, match="runtime='tvm': must be one of onnxruntime"):
        load_onnx(path, "tvm")


def test_a_runtime_that_computes_something_else_is_refused(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    network, x = prepared("own", W3A4)
    path = export_onnx(as_saved(network), tmp_path / "n.onnx")
    forward = runtimes._OnnxRuntime.forward
    monkeypatch.setattr(runtimes._OnnxRuntime, "forward", lambda self, x: forward(self, 2 * x))
    with pytest.raises(ValueError, match="runtime='onnxruntime': computes other logits, off by"):
        load_onnx(path)


def test_what_int8_cannot_hold_is_refused_by_name(tmp_path):
    published = convert_to_shift(Own(), 5, ShiftSpec())
    with pytest.raises(ValueError, match="layer 'stem': has 32 activation bits"):
        export_onnx(as_saved(published), tmp_path / "n.onnx")
    with pytest.raises(ValueError, match="saved=Own: must be what load_network returns"):
        export_onnx(Own(), tmp_path / "n.onnx")
    with pytest.raises(ValueError, match="form='tflite': must be one of qdq, qonnx"):
        export_onnx(as_saved(Own()), tmp_path / "n.onnx", "tflite")

    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(ValueError, match="must be a network that PyTorch can export"):
        export_onnx(as_saved(Branching()), tmp_path / "n.onnx")
    assert not list(tmp_path.iterdir())


@settings(deadline=None, max_examples=80)
@given(layers_and_inputs(kinds=("Q", "PS", "integer"), weight_bits=(2, 8)))
def test_int8_parts_add_up_to_the_weights(case):
    network, _ = case
    codes, unit = weight_codes(network[0])
    parts = int8_parts(network[0])
    shape = (-1, *[1] * (codes.ndim - 1))
    total = sum(part.double() * scale.double().view(shape) for part, scale in parts)
    expected = codes * unit.view(shape)
    if isinstance(network[0].spec, ShiftSpec):
        assert torch.equal(total, expected)
        used = codes[codes != 0].abs().double().log2()
        few = len(used) == 0 or used.max() - used.min() <= 6
        assert len(parts) == 1 if few else len(parts) <= 1 + used.max() // 7
    else:
        torch.testing.assert_close(total, expected, rtol=1e-6, atol=0)
        assert len(parts) == 1


def test_weights_that_span_more_than_64_bits():
    """A decayed weight of Q is the lowest power of two there is, and no zero."""
    layer = convert_to_shift(nn.Sequential(nn.Linear(4, 1)), 1, ShiftSpec("Q", 8, 8, 0))[0]
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.5, -0.25, 2.0**-120, 0.0]]))
    total = sum(part.double() * scale.double() for part, scale in int8_parts(layer))
    assert torch.equal(total, layer.effective_weight().double())
    with pytest.raises(ValueError, match="span 120 powers of two, must be at most 63"):
        weight_codes(layer)


# ------------------------------------------------------------------------------- qonnx


@pytest.mark.parametrize(
    "spec", [W3A4, ShiftSpec("PS", 5, 4, 4), IntegerSpec(4, 4, 0, **REMEDIES)], ids=str
)
def test_qonnx_computes_what_the_emulation_does(tmp_path, spec):
    network, x = prepared("own", spec)
    found = run(network, x[:4], tmp_path / "n.onnx", "qonnx", "qonnx")
    with torch.no_grad():
        expected = network(x[:4])
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    nodes = onnx.load(tmp_path / "n.onnx").graph.node
    quants = [node for node in nodes if node.op_type == "Quant"]
    assert len(quants) == 2 * 5
    from qonnx.util.inference_cost import inference_cost

    counted = inference_cost(str(tmp_path / "n.onnx"), discount_sparsity=False)["total_cost"]
    assert counted["total_macs"] == operation_counts(network, (3, 32, 32))["macs"].sum()
    modes = {a.s.decode() for n in quants for a in n.attribute if a.name == "rounding_mode"}
    assert ("FLOOR" in modes) == (spec.activation_rounding == "floor")


# ------------------------------------------------------------------------- what it takes


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_latency_and_measured_energy_per_image(runtime):
    pytest.importorskip(runtime, reason=f"{runtime} is not installed")
    network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Flatten(), nn.Linear(8 * 6 * 6, 10))
    network = convert_to_shift(network, 2, W3A4)
    fit_activations(network, torch.randn(4, 1, 8, 8))
    saved = as_saved(network.eval(), (1, 8, 8))
    with EnergyMeter("DEU") if runtime == "openvino" else nullcontext() as meter:
        found = measure_exported(saved, runtime, meter)
    latency, joules = (found[name] for name in EXPORTED)
    assert latency > 0 and (joules is None if meter is None else joules > 0)
    assert found["exported_to"] == runtime and found["exported_refused"] is None


def test_a_network_that_cannot_be_exported_has_its_reason():
    class Loop(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, : 10 if x.mean() > 0 else 9]  # the exporter cannot follow this

    found = measure_exported(as_saved(Loop()), "onnxruntime")
    assert found["exported_refused"].startswith("saved: must be a network that PyTorch can export")
    assert found["exported_latency_ms_per_image"] is None
