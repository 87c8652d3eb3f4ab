"""A training that was killed ends with the same bits as one that was not; teachers."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dsnn_utils import ShiftSpec, convert_to_shift
from dsnn_utils.training import evaluate, load_dataset, seed_everything, train
from dsnn_utils.training.loop import _distillation_loss

FITTED = {"activation_format": "fitted", "weight_scale": "channel", "clipped_gradient": "zero"}


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def few():
    return load_dataset(train_size=200)


def network(**spec) -> nn.Module:
    seed_everything(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128, 10),
    )
    return convert_to_shift(model, 2, ShiftSpec("Q", rounding="stochastic", **spec))


def without_durations(history):
    return [{k: v for k, v in row.items() if k != "duration_s"} for row in history]


@pytest.mark.parametrize(
    "arguments",
    [
        {"optimizer": "SGD"},
        {"optimizer": "Ranger", "schedule": "constant"},
        {"optimizer": "RMSprop", "lr": 0.01},
        {"optimizer": "Adam", "lr": 0.01, "spec": FITTED},
    ],
    ids=lambda a: a["optimizer"],
)
def test_a_killed_training_ends_like_one_that_was_not(few, tmp_path, arguments):
    arguments = dict(arguments)
    spec = arguments.pop("spec", {})

    def kill(row):
        if row["epoch"] == 2:
            raise Killed

    whole, interrupted, resumed = (network(**spec) for _ in range(3))
    expected = train(whole, few, epochs=4, **arguments)
    checkpoint = tmp_path / "new folder" / "training.pt"
    with pytest.raises(Killed):
        train(interrupted, few, epochs=4, checkpoint=checkpoint, on_epoch=kill, **arguments)
    seed_everything(99)
    seen = []
    history = train(
        resumed, few, epochs=4, checkpoint=checkpoint, on_epoch=seen.append, **arguments
    )
    assert without_durations(history) == without_durations(expected) and seen == history
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
    assert [path.name for path in checkpoint.parent.iterdir()] == ["training.pt"]


def test_ten_kills_at_random_steps_change_nothing(few, tmp_path):
    epochs, checkpoint = 12, tmp_path / "t.pt"
    whole = network(**FITTED)
    train(whole, few, epochs=epochs, batch_size=20)
    random, kills = np.random.default_rng(0), 0
    while True:
        attempt = network(**FITTED)
        # Within the next epoch or two, and anywhere in it: 10 steps and a validation of 15.
        left = int(random.integers(1, 40)) if kills < 10 else 10**6

        def die(*_):
            nonlocal left
            left -= 1
            if left == 0:
                raise Killed

        attempt.register_forward_pre_hook(die)
        try:
            train(attempt, few, epochs=epochs, batch_size=20, checkpoint=checkpoint)
            break
        except Killed:
            kills += 1
    assert kills == 10
    for name, value in whole.state_dict().items():
        assert torch.equal(attempt.state_dict()[name], value), name


def test_a_finished_training_is_not_trained_further(few, tmp_path):
    first, second = network(), network()
    history = train(first, few, epochs=2, checkpoint=tmp_path / "t.pt")
    assert train(second, few, epochs=2, checkpoint=tmp_path / "t.pt") == history
    assert torch.equal(first[0].weight, second[0].weight)


def test_a_checkpoint_of_another_training_or_a_damaged_one_is_refused(few, tmp_path):
    path = tmp_path / "t.pt"
    train(network(), few, epochs=1, checkpoint=path)
    with pytest.raises(ValueError, match=r"is of a training with epochs=1, this one has 2"):
        train(network(), few, epochs=2, checkpoint=path)
    with pytest.raises(ValueError, match=r"with distillation=None, this one has 0.5"):
        train(network(), few, epochs=1, checkpoint=path, teacher=network())
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"t.pt.*: cannot be read .*; delete it to start anew"):
        train(network(), few, epochs=1, checkpoint=path)


def test_distillation_is_the_divergence_of_softened_predictions():
    logits, wanted = torch.randn(6, 5), torch.randn(6, 5)
    soft, target = (F.softmax(part / 4, 1) for part in (logits, wanted))
    expected = 16 * (target * (target / soft).log()).sum(1).mean()
    assert _distillation_loss(logits, wanted).item() == pytest.approx(expected.item(), rel=1e-5)
    assert _distillation_loss(wanted, wanted).abs() < 1e-6


def test_a_network_learns_from_its_teacher_alone(few):
    seed_everything(1)
    teacher = network()
    train(teacher, few, epochs=12, lr=0.05, augment=False)
    before = copy.deepcopy(teacher.state_dict())
    pupil = network()
    train(pupil, few, epochs=12, lr=0.05, augment=False, teacher=teacher, distillation=1.0)
    assert evaluate(pupil, few.validation, few)["accuracy"] > 0.6
    for name, value in teacher.state_dict().items():  # it only answers
        assert torch.equal(value, before[name])
