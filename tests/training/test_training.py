"""Training and evaluation."""

import copy
import pickle
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dsnn_utils import ShiftSpec, convert_to_shift, shiftable_layers
from dsnn_utils.shift import build_model
from dsnn_utils.training import (
    OPTIMIZERS,
    Diverged,
    ImageSet,
    evaluate,
    load_dataset,
    predict,
    seed_everything,
    train,
)
from dsnn_utils.training.loop import Ranger, _augment, _bfloat16, _normaliser


@pytest.fixture(scope="module")
def digits():
    return load_dataset()


@pytest.fixture(scope="module")
def few():
    return load_dataset(train_size=200)


def small_network(shift_type: str | None = None, rounding="deterministic", seed=0) -> nn.Module:
    seed_everything(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128, 10),
    )
    if shift_type is None:
        return model
    return convert_to_shift(model, 2, ShiftSpec(shift_type=shift_type, rounding=rounding))


def without_durations(history: list[dict]) -> list[dict]:
    return [{k: v for k, v in row.items() if k != "duration_s"} for row in history]


# --- it learns


@pytest.mark.parametrize(
    ("shift_type", "optimizer"), [("Q", "SGD"), ("PS", "RAdam")], ids=["Q", "PS"]
)
def test_resnet20_learns_digits_at_full_depth(digits, shift_type, optimizer):
    seed_everything(0)
    plain = build_model("resnet20", 10, 1)
    model = convert_to_shift(plain, len(shiftable_layers(plain)), ShiftSpec(shift_type=shift_type))
    history = train(
        model, digits, optimizer=optimizer, lr=0.1, batch_size=32, epochs=4, augment=False
    )
    assert [row["epoch"] for row in history] == [1, 2, 3, 4]
    assert history[-1]["validation_accuracy"] > 0.9
    assert evaluate(model, digits.test, digits)["accuracy"] > 0.9


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("schedule", ["one_cycle", "constant"])
def test_every_optimizer_lowers_the_loss(few, name, schedule):
    lr = {"SGD": 0.05, "Adadelta": 1.0}.get(name, 0.02)
    model = small_network()
    before = evaluate(model, few.validation, few)["cross_entropy"]
    history = train(
        model, few, optimizer=name, lr=lr, batch_size=20, epochs=8, schedule=schedule, augment=False
    )
    assert history[-1]["validation_loss"] < 0.8 * before
    if schedule == "constant":
        assert {row["lr"] for row in history} == {lr}
    else:
        assert history[1]["lr"] > history[4]["lr"] > history[7]["lr"] < 0.01 * lr


def test_history_and_callback(few):
    seen = []
    model = small_network()
    history = train(model, few, epochs=2, lr=0.05, on_epoch=seen.append)
    assert seen == history
    assert list(history[0]) == [
        "epoch",
        "train_loss",
        "train_accuracy",
        "validation_loss",
        "validation_accuracy",
        "lr",
        "duration_s",
    ]
    result = evaluate(model, few.validation, few)
    assert result["accuracy"] == history[-1]["validation_accuracy"]
    assert result["cross_entropy"] == pytest.approx(history[-1]["validation_loss"], rel=1e-6)

    def stop(row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(model, few, on_epoch=stop)


def test_training_loss_is_the_mean_over_all_images(few):
    data = replace(few, train=few.train[:150])  # batches of 128 and 22
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    (row,) = train(model, data, epochs=1, lr=1e-12, augment=False, precision="float32")
    result = evaluate(model, data.train, data)
    assert row["train_loss"] == pytest.approx(result["cross_entropy"], rel=1e-5)
    assert row["train_accuracy"] == result["accuracy"]


def test_no_epochs_leave_the_model_alone(few):
    model = small_network()
    before = copy.deepcopy(model.state_dict())
    assert train(model, few, epochs=0) == []
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


# --- repeatable


@pytest.mark.parametrize("shift_type", [None, "Q", "PS"])
def test_same_seed_same_weights_and_history(few, shift_type):
    def run(seed):
        model = small_network(shift_type, "stochastic")
        history = train(model, few, epochs=2, seed=seed, optimizer="RAdam", device="cpu")
        return model.state_dict(), without_durations(history)

    (weights, history), (weights_again, history_again), (_, other) = run(3), run(3), run(4)
    assert history == history_again != other
    assert all(torch.equal(weights[name], weights_again[name]) for name in weights)


def test_batches_do_not_depend_on_what_the_model_draws(few):
    # A plain and a stochastically rounded network see the same images in the same order.
    class Recorder(nn.Module):
        def __init__(self, draws):
            super().__init__()
            self.linear, self.draws, self.seen = nn.Linear(64, 10), draws, []

        def forward(self, x):
            torch.rand(self.draws)
            self.seen += [x.sum().item()] if self.training else []
            return self.linear(x.flatten(1))

    first, second = Recorder(1), Recorder(5)
    for model in (first, second):
        train(model, few, epochs=2, device="cpu")
    assert first.seen == second.seen and len(first.seen) == 4


# --- optimizers


def test_weight_decay_spares_shift_sign_and_vectors(few):
    def one_step(weight_decay):
        seed_everything(0)
        plain = small_network()
        model = nn.ModuleDict({"plain": plain, "ps": small_network("PS"), "q": small_network("Q")})
        model.forward = lambda x: model["plain"](x) + model["ps"](x) + model["q"](x)
        train(
            model,
            few,
            batch_size=200,
            epochs=1,
            lr=0.01,
            momentum=0,
            weight_decay=weight_decay,
            schedule="constant",
        )
        return dict(model.named_parameters())

    without, decayed = one_step(0.0), one_step(0.5)
    changed = {name for name in without if not torch.equal(without[name], decayed[name])}
    assert changed == {"plain.0.weight", "plain.4.weight", "q.0.weight", "q.4.weight"}


def test_ranger_is_radam_with_lookahead():
    torch.manual_seed(0)
    start, target = torch.randn(5, 3), torch.randn(5, 3)

    def loss(p):
        return (p - target).square().sum()

    fast = nn.Parameter(start.clone())
    radam = torch.optim.RAdam([fast], lr=0.1)
    slow = start.clone()
    p = nn.Parameter(start.clone())
    unused = nn.Parameter(torch.ones(2))  # never has a gradient
    ranger = Ranger([p, unused], lr=0.1)
    for step in range(1, 21):
        radam.zero_grad()
        loss(fast).backward()
        radam.step()
        if step % 6 == 0:
            slow += 0.5 * (fast.data - slow)
            fast.data.copy_(slow)
        ranger.zero_grad()
        loss(p).backward()
        ranger.step()
        torch.testing.assert_close(p, fast)
    assert torch.equal(unused, torch.ones(2))


def test_ranger_state_dict_continues_exactly():
    torch.manual_seed(0)
    target = torch.randn(4)

    def steps(p, optimizer, count):
        for _ in range(count):
            optimizer.zero_grad()
            (p - target).square().sum().backward()
            optimizer.step()

    p = nn.Parameter(torch.zeros(4))
    ranger = Ranger([p], lr=0.1)
    steps(p, ranger, 8)
    q = nn.Parameter(p.detach().clone())
    resumed = Ranger([q], lr=0.1)
    resumed.load_state_dict(copy.deepcopy(ranger.state_dict()))
    steps(p, ranger, 9)
    steps(q, resumed, 9)
    assert torch.equal(p, q)


# --- divergence


def test_divergence_is_a_clear_failure(few):
    with pytest.raises(Diverged, match=r"loss not finite in epoch 1, step [2-9]") as caught:
        train(small_network(), few, lr=1e30, batch_size=20, schedule="constant")
    assert isinstance(caught.value, RuntimeError) and caught.value.epoch == 1
    copied = pickle.loads(pickle.dumps(caught.value))  # as a worker process hands it over
    assert (copied.epoch, copied.step) == (1, caught.value.step)
    assert str(copied) == str(caught.value)


def test_divergence_seen_in_validation_only(few):
    class BadInEvaluation(nn.Linear):
        def forward(self, x):
            y = super().forward(x.flatten(1))
            return y if self.training else y * float("nan")

    with pytest.raises(Diverged, match="epoch 1, step 2"):
        train(BadInEvaluation(64, 10), few)


# --- batches


def test_a_last_batch_of_one_image_is_left_out():
    data = load_dataset(train_size=33)
    sizes = []
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10))
    model[0].register_forward_hook(lambda m, _, y: sizes.append(len(y)) if m.training else None)
    assert len(train(model, data, batch_size=16, epochs=2)) == 2
    assert sizes == [16, 16] * 2
    sizes.clear()
    train(model, data, batch_size=31, epochs=1)
    assert sizes == [31, 2]


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("shape", [(3, 32, 24), (1, 8, 8), (2, 5, 6)])
def test_augmentation_is_crop_and_flip_and_nothing_else(shape, flip):
    channels, height, width = shape
    border_y, border_x = max(1, height // 8), max(1, width // 8)
    images = torch.randint(1, 256, (4, *shape), dtype=torch.uint8)
    indices = torch.tensor([2, 0, 3, 1]).repeat(200)
    batch = _augment(images[indices], flip, torch.Generator().manual_seed(0))
    assert batch.shape == (800, *shape) and batch.dtype == torch.uint8

    padded = F.pad(images, (border_x, border_x, border_y, border_y))
    crops = {}  # bytes of every image that may come out -> (image, offset, mirrored)
    for i in range(4):
        for y in range(2 * border_y + 1):
            for x in range(2 * border_x + 1):
                crop = padded[i, :, y : y + height, x : x + width]
                crops[crop.numpy().tobytes()] = (i, y, x, False)
                if flip:
                    crops[crop.flip(2).numpy().tobytes()] = (i, y, x, True)
    found = [crops[image.numpy().tobytes()] for image in batch]
    assert [i for i, *_ in found] == indices.tolist()
    assert {y for _, y, _, _ in found} == set(range(2 * border_y + 1))
    assert {x for _, _, x, _ in found} == set(range(2 * border_x + 1))
    mirrored = sum(m for *_, m in found)
    assert (300 < mirrored < 500) if flip else mirrored == 0


def test_images_are_normalised_into_channels_last():
    images = torch.randint(0, 256, (4, 3, 6, 5), dtype=torch.uint8)
    part = ImageSet(images, torch.zeros(4, dtype=torch.int64))
    dataset = replace(load_dataset(), train=part, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.1))
    pixels = _normaliser(dataset, torch.device("cpu"))(images)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (dataset.mean, dataset.std))
    torch.testing.assert_close(pixels, (images / 255 - mean) / std)
    assert pixels.is_contiguous(memory_format=torch.channels_last)


# --- precision and evaluation


def test_training_computes_in_the_precision_asked_for_and_evaluation_in_float32(few):
    used = {True: set(), False: set()}
    model = small_network("Q")
    model[0].register_forward_hook(lambda m, _, y: used[m.training].add(y.dtype))
    train(model, few, epochs=1, precision="bfloat16")
    assert used == {True: {torch.bfloat16}, False: {torch.float32}}
    used[True].clear()
    train(model, few, epochs=1, precision="float32")
    assert used == {True: {torch.float32}, False: {torch.float32}}
    with torch.autocast("cpu", torch.bfloat16):
        evaluate(model, few.test, few, device="cpu")
    assert used[False] == {torch.float32}
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_automatic_precision_asks_the_cpu(monkeypatch):
    cpu = torch.device("cpu")
    for capabilities, expected in (({"avx512_bf16": True}, True), ({"avx2": True}, False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda c=capabilities: c, raising=False)
        assert _bfloat16("auto", cpu) == expected
    assert _bfloat16("bfloat16", cpu) and not _bfloat16("float32", cpu)


def test_evaluate_is_the_mean_over_all_images(few):
    model = small_network()
    model.train()
    model[1].eval()  # a frozen batch normalisation stays frozen
    statistics = model[1].running_mean.clone()
    result = evaluate(model, few.test, few, device="cpu")
    assert [m.training for m in model] == [True, False, True, True, True]
    assert torch.equal(statistics, model[1].running_mean)

    logits = copy.deepcopy(model).eval()((few.test.images / 255 - few.mean[0]) / few.std[0])
    assert result["accuracy"] == (logits.argmax(1) == few.test.labels).double().mean().item()
    expected = F.cross_entropy(logits, few.test.labels).item()
    assert result["cross_entropy"] == pytest.approx(expected, rel=1e-5)
    probabilities = predict(model, few.test, few, device="cpu")
    torch.testing.assert_close(probabilities, logits.softmax(1))
    for batch_size in (1, 100, 1000):
        other = evaluate(model, few.test, few, batch_size=batch_size)
        assert other["cross_entropy"] == pytest.approx(result["cross_entropy"], rel=1e-5)


def test_mode_is_restored_after_an_error(few):
    model = nn.Sequential(nn.Flatten(), nn.Linear(5, 10)).train()
    with pytest.raises(RuntimeError):
        evaluate(model, few.test, few)
    assert model.training and model[1].training


# --- bad input: one clear error, before any compute


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"optimizer": "sgd"}, "optimizer='sgd': must be one of SGD, Adam, Adadelta"),
        ({"lr": 0}, "lr=0: must be a number above 0"),
        ({"lr": "1e-3"}, "lr='1e-3': must be a number above 0"),
        ({"lr": float("nan")}, "lr=nan: must be a number above 0"),
        ({"momentum": 1.0}, r"momentum=1\.0: must be in \[0, 1\)"),
        ({"momentum": None}, r"momentum=None: must be in \[0, 1\)"),
        ({"weight_decay": -1e-4}, r"weight_decay=-0\.0001: must be a finite number of at least 0"),
        ({"batch_size": 1}, "batch_size=1: must be an integer of at least 2"),
        ({"batch_size": 32.0}, r"batch_size=32\.0: must be an integer of at least 2"),
        ({"epochs": -1}, "epochs=-1: must be an integer of at least 0"),
        ({"epochs": 1.5}, r"epochs=1\.5: must be an integer of at least 0"),
        ({"schedule": "cosine"}, "schedule='cosine': must be one of one_cycle, constant"),
        ({"label_smoothing": 1}, r"label_smoothing=1: must be in \[0, 1\)"),
        ({"precision": "fp16"}, "precision='fp16': must be one of auto, float32, bfloat16"),
        ({"device": "gpu"}, "device='gpu': must be auto, cpu, or cuda"),
        ({"device": 1.5}, r"device=1\.5: must be auto, cpu, or cuda"),
        ({"device": "meta"}, "device='meta': must be auto, cpu, or cuda"),
        ({"seed": -1}, "seed=-1: must be an integer of at least 0"),
    ],
)
def test_bad_arguments(few, arguments, message):
    model = small_network()
    model.forward = lambda x: pytest.fail("computed something")
    with pytest.raises(ValueError, match=f"^{message}"):
        train(model, few, **arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_absent_gpu(few):
    with pytest.raises(ValueError, match="device='cuda': must be auto, cpu, or cuda on a machine"):
        train(small_network(), few, device="cuda")


def test_bad_evaluation(few):
    with pytest.raises(ValueError, match="batch_size=0: must be an integer of at least 1"):
        evaluate(small_network(), few.test, few, batch_size=0)
    with pytest.raises(ValueError, match="images: must hold at least one image"):
        evaluate(small_network(), few.test[:0], few)


def test_numpy_numbers_are_numbers(few):
    import numpy as np  # what ConfigSpace samples

    train(
        small_network(),
        few,
        optimizer=np.str_("SGD"),
        lr=np.float64(0.05),
        batch_size=np.int64(64),
        epochs=np.int64(1),
        seed=np.int64(1),
    )


class Viewing(nn.Module):
    """The reshaping of many tutorials, which only contiguous images allow."""

    def __init__(self):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.Linear(128, 10)

    def forward(self, x):
        return self.linear(self.conv(x).relu().view(-1, 128))


def test_networks_that_reshape_with_view_are_trained(few):
    seed_everything(0)
    model = convert_to_shift(Viewing(), 2, ShiftSpec(shift_type="Q"))
    history = train(model, few, epochs=3, batch_size=32, augment=False)
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    result = evaluate(model, few.validation, few)
    assert result["accuracy"] == pytest.approx(history[-1]["validation_accuracy"])
    with pytest.raises(RuntimeError, match="shape"):  # other mistakes stay what they are
        evaluate(nn.Sequential(nn.Flatten(), nn.Linear(5, 10)), few.validation, few)


@pytest.mark.parametrize("size, epochs", [(40, 1), (40, 2)])
def test_a_training_of_one_or_two_steps_learns(few, size, epochs):
    data = replace(few, train=few.train[:size])
    model = small_network()
    before = copy.deepcopy(model.state_dict())
    history = train(model, data, epochs=epochs, batch_size=64, lr=0.1)
    assert history[-1]["lr"] == 0.1
    change = (model[0].weight - before["0.weight"]).abs().max()
    assert change > 1e-4


def test_cuda_graphs_need_a_gpu(digits):
    with pytest.raises(ValueError, match="cuda_graphs=True: must be False on a CPU"):
        train(
            nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), digits, cuda_graphs=True, device="cpu"
        )
