"""On a GPU the same numbers, or close ones, as on the CPU; skipped where there is none."""

import copy
import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
import torch
import torch.nn.functional as F

from dsnn_utils import ShiftSpec, convert_to_shift, shiftable_layers
from dsnn_utils.energy import modelled_energy
from dsnn_utils.search import Recipe, complete_points, run_trial
from dsnn_utils.shift import (
    IntegerSpec,
    build_model,
    convert_to_integer,
    effective_weights,
    fit_activations,
)
from dsnn_utils.training import evaluate, load_dataset, seed_everything, train
from dsnn_utils.training.graphs import Replayed

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

REMEDIES = {
    "activation_integer_bits": 4,
    "activation_fraction_bits": 0,
    "activation_format": "fitted",
    "activation_rounding": "nearest",
    "clipped_gradient": "zero",
}
SPECS = {
    "Q": ShiftSpec("Q"),
    "PS": ShiftSpec("PS"),
    "Q, few bits": ShiftSpec("Q", 3, weight_scale="channel", **REMEDIES),
    "PS, few bits": ShiftSpec("PS", 3, weight_scale="layer", **REMEDIES),
    "integer": IntegerSpec(4, **REMEDIES),
}
ALL = pytest.mark.parametrize("name", SPECS)


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits", train_size=400)


@pytest.fixture(autouse=True)
def exact_float32(monkeypatch):
    """No TF32: it has 10 bits of fraction, and what is compared here has 23."""
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def network(name: str) -> torch.nn.Module:
    seed_everything(0)
    plain = build_model("resnet20", 10, 1)
    spec = SPECS[name]
    convert = convert_to_integer if isinstance(spec, IntegerSpec) else convert_to_shift
    converted = convert(plain, len(shiftable_layers(plain)), spec)
    fit_activations(converted, torch.rand(16, 1, 8, 8))
    return converted


@ALL
def test_weights_are_the_same_and_outputs_close(name):
    on_cpu = network(name).eval()
    on_gpu = copy.deepcopy(on_cpu).cuda()
    same = effective_weights(on_gpu).cpu().isclose(effective_weights(on_cpu), rtol=1e-5)
    # The step of integers is a multiple of a mean, so of a sum: an edge of rounding may move.
    assert same.float().mean() > 0.999 if name == "integer" else same.all()
    x = torch.rand(32, 1, 8, 8)
    for layer in ("conv1", "linear"):
        pair = [net.get_submodule(layer).activation_codes() for net in (on_cpu, on_gpu)]
        assert pair[0] == pair[1]
    first = on_cpu.conv1.quantize_input(x)
    assert torch.equal(on_gpu.conv1.quantize_input(x.cuda()).cpu(), first)
    # Sums are taken in another order, so a value next to a rounding edge may go the other way.
    difference = (on_gpu(x.cuda()).cpu() - on_cpu(x)).abs()
    assert difference.median() < 0.05 * on_cpu(x).std()


@ALL
def test_gradients_are_close(name):
    on_cpu = network(name).eval()  # without the noise of batch statistics
    on_gpu = copy.deepcopy(on_cpu).cuda()
    x, y = torch.rand(32, 1, 8, 8), torch.arange(32) % 10
    F.cross_entropy(on_cpu(x), y).backward()
    F.cross_entropy(on_gpu(x.cuda()), y.cuda()).backward()
    for (label, one), other in zip(on_cpu.named_parameters(), on_gpu.parameters(), strict=True):
        if one.grad.norm() > 1e-6:
            cosine = F.cosine_similarity(one.grad.flatten(), other.grad.cpu().flatten(), dim=0)
            assert cosine > 0.9, label


@ALL
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_a_network_learns(digits, name, precision, cuda_graphs):
    net = network(name)
    optimizer = {"optimizer": "RAdam", "lr": 0.02} if "PS" in name else {"lr": 0.05}
    history = train(
        net, digits, batch_size=32, epochs=8, augment=False, precision=precision, device="cuda",
        cuda_graphs=cuda_graphs,
        **optimizer,
    )  # fmt: skip
    assert next(net.parameters()).is_cuda
    assert history[-1]["validation_accuracy"] > 0.6
    on_gpu = evaluate(net, digits.validation, digits, device="cuda")
    on_cpu = evaluate(net, digits.validation, digits, device="cpu")
    assert abs(on_gpu["accuracy"] - on_cpu["accuracy"]) < 0.05


def test_the_same_seed_learns_the_same_up_to_the_order_of_sums(digits):
    accuracies = []
    for _ in range(2):
        net = network("Q, few bits")
        history = train(net, digits, batch_size=32, epochs=3, seed=5, lr=0.05, device="cuda")
        accuracies.append(history[-1]["train_loss"])
    assert accuracies[0] == pytest.approx(accuracies[1], rel=0.1)


def test_a_training_goes_on_from_its_checkpoint(digits, tmp_path):
    class Killed(Exception):
        pass

    def kill(row):
        if row["epoch"] == 2:
            raise Killed

    arguments = {"batch_size": 32, "epochs": 3, "lr": 0.05, "device": "cuda"}
    arguments["checkpoint"] = tmp_path / "training.pt"
    with pytest.raises(Killed):
        train(network("Q, few bits"), digits, on_epoch=kill, **arguments)
    history = train(network("Q, few bits"), digits, **arguments)
    assert [row["epoch"] for row in history] == [1, 2, 3]


def test_counting_operations_works_where_the_network_is():
    on_cpu = network("Q")
    assert modelled_energy(copy.deepcopy(on_cpu).cuda(), (1, 8, 8)) == modelled_energy(
        on_cpu, (1, 8, 8)
    )


def _trial(seed: int) -> dict:
    digits = load_dataset("digits", train_size=200)
    (point,) = complete_points([{"shift_type": "Q"}], 20, 1)
    point.pop("label")
    return run_trial(point, digits, Recipe(device="cuda"), seed)[0]


def test_two_processes_share_a_gpu():
    # Spawned, since CUDA does not survive a fork.
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        rows = list(pool.map(_trial, [0, 1]))
    assert [row["status"] for row in rows] == ["SUCCESS", "SUCCESS"]


@ALL
def test_recorded_steps_learn_as_steps_called_one_by_one(digits, name):
    arguments = {"batch_size": 32, "epochs": 2, "lr": 0.01, "precision": "float32"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of a recording that failed
        recorded = train(network(name), digits, device="cuda", cuda_graphs=True, **arguments)
    called = train(network(name), digits, device="cuda", **arguments)
    for one, other in zip(recorded, called, strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=0.05)


def test_a_recording_leaves_the_network_as_it_was():
    net = network("Q, few bits").cuda().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    x = torch.rand(32, 1, 8, 8, device="cuda")
    replayed = Replayed(net)
    recording = replayed._recorded(x)
    after = net.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert "forward" not in net.__dict__
    one, other = recording(x), copy.deepcopy(net)(x)
    torch.testing.assert_close(one, other, rtol=0.02, atol=0.05)


def test_evaluation_is_in_full_float32(digits, monkeypatch):
    # As by default, where convolutions of float32 are rounded to 10 bits of fraction.
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    seed_everything(0)
    plain = build_model("resnet20", 10, 1)
    on_gpu, on_cpu = (
        evaluate(plain, digits.validation, digits, device=device)["cross_entropy"]
        for device in ("cuda", "cpu")
    )
    assert on_gpu == pytest.approx(on_cpu, rel=2e-5)
