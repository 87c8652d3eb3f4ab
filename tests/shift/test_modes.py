"""The state networks are run in: evaluation mode, denormal numbers flushed to zero."""

import pytest
import torch
from torch import nn

from dsnn_utils.energy import EnergyMeter, measure_inference
from dsnn_utils.shift import denormals_flushed, eval_mode
from dsnn_utils.training import evaluate, load_dataset, train

pytestmark = pytest.mark.skipif(
    not torch.set_flush_denormal(False), reason="this processor cannot flush denormals"
)


def flushed() -> bool:
    return (torch.tensor(1e-40) * 1).item() == 0


class Watching(nn.Linear):
    """Notes at every pass whether denormals are flushed."""

    def __init__(self, features: int = 64):
        super().__init__(features, 10)
        self.seen = set()

    def forward(self, x):
        self.seen.add(flushed())
        return super().forward(x.flatten(1))


@pytest.mark.parametrize("before", [False, True])
def test_denormals_are_flushed_and_the_state_before_is_given_back(before):
    torch.set_flush_denormal(before)
    try:
        with pytest.raises(KeyError), denormals_flushed():
            assert flushed()
            raise KeyError
        assert flushed() is before
    finally:
        torch.set_flush_denormal(False)


def test_every_module_gets_its_own_mode_back():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout())
    model[0].eval()
    with pytest.raises(KeyError), eval_mode(model):
        assert not any(module.training for module in model.modules())
        raise KeyError
    assert [module.training for module in model.modules()] == [True, False, True]


def test_trainings_evaluations_and_measurements_flush_denormals():
    digits, model = load_dataset("digits", train_size=64), Watching()
    train(model, digits, epochs=1)
    evaluate(model, digits.test, digits)
    measure_inference(model, digits.test, EnergyMeter(), window_s=0.5, min_windows=2, max_windows=2)
    assert model.seen == {True}
    assert not flushed()


def test_a_dead_channel_is_zero_in_evaluation():
    """Its running mean gets stuck just above zero, and makes the next layer very slow."""
    dead = nn.BatchNorm1d(1)
    dead.running_mean.fill_(1.0)
    for _ in range(1200):
        dead(torch.zeros(2, 1))
    assert 0 < dead.running_mean.item() < torch.finfo(torch.float32).tiny
    assert dead.eval()(torch.zeros(1, 1)).item() != 0
    with eval_mode(dead):
        assert dead(torch.zeros(1, 1)).item() == 0
