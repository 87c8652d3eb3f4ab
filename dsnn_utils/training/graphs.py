"""Training steps on a GPU as CUDA graphs: recorded once and replayed.

A step of a network of shift layers is many small kernels. Launching them one by one from Python
takes longer than computing them; a recording is launched as a whole.
"""

import gc
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from dsnn_utils.shift.activations import QuantizedLayer

# What else a process does on the GPU can spoil a recording; the next one then succeeds.
ATTEMPTS = 3


class Replayed:
    """Calls a network in training mode, by replaying recordings of its two passes.

    A recording holds for one shape of the input and for the activation formats it was made with, so
    it is made anew once a fitted format has changed. While formats are being fitted, for the
    smaller last batch of an epoch, and where recording fails (with a warning), the network is
    called as it is. An autocast around the call must have no cache.
    """

    def __init__(self, model: nn.Module):
        self._model = model
        self._layers = [m for m in model.modules() if isinstance(m, QuantizedLayer)]
        self._forward: Callable[[Tensor], Tensor] | None = None
        self._shape: torch.Size | None = None
        self._formats: list = []
        self._attempts = ATTEMPTS

    def __call__(self, x: Tensor) -> Tensor:
        self._shape = self._shape or x.shape
        is_fitting = any(layer.fitting or not layer.is_fitted for layer in self._layers)
        if not self._attempts or is_fitting or x.shape != self._shape:
            return self._model(x)
        formats = [layer.activation_codes() for layer in self._layers]
        if self._forward is None or formats != self._formats:
            self._forward, self._formats = self._recorded(x), formats
        return self._model(x) if self._forward is None else self._forward(x)

    def _recorded(self, x: Tensor) -> Callable[[Tensor], Tensor] | None:
        # The passes made to warm up must not count in the statistics of batch normalisation.
        before = [buffer.clone() for buffer in self._model.buffers()]
        collecting = gc.isenabled()
        gc.disable()  # what is freed meanwhile may make the driver give up the recording
        try:
            torch.cuda.make_graphed_callables(self._model, (x.clone(),), allow_unused_input=True)
            self._attempts = ATTEMPTS
            # Left in place, the recording would also answer while formats are being fitted.
            return self._model.__dict__.pop("forward")
        except RuntimeError as error:
            self._attempts -= 1
            if not self._attempts:
                warnings.warn(f"training goes on without CUDA graphs: {error}", stacklevel=3)
            return None
        finally:
            if collecting:
                gc.enable()
            for buffer, value in zip(self._model.buffers(), before, strict=True):
                buffer.copy_(value)
