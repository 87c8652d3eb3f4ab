"""The state a network is run in, given back afterwards, error or not."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Every module in evaluation mode, and denormals flushed."""
    modes = {module: module.training for module in model.modules()}
    with denormals_flushed():
        try:
            model.eval()
            yield
        finally:
            for module, training in modes.items():
                module.training = training


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """Floats nearer to zero than 1.2e-38 are zero, on CPUs.

    Weights that no gradient reaches decay towards zero, and so does the running mean of a channel
    that died, down to such numbers; processors take up to a hundred times as long for a convolution
    of them. With several threads less is gained: those PyTorch has started before go on as before.
    """
    flushed_before = (torch.tensor(1e-40) * 1).item() == 0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(flushed_before)
