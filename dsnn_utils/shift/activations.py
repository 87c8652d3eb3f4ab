"""The input of a shift or integer layer: its number format, fixed beforehand or fitted to data.

A fitted format is chosen by what it costs: the mean squared error of the layer's own input under
each candidate, averaged over the batches it was fitted to.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dsnn_utils.checks import require
from dsnn_utils.shift.modes import eval_mode
from dsnn_utils.shift.quantization import two_complement, uniform
from dsnn_utils.shift.specs import Spec

# A candidate is a format whose values reach up to 2^r, r being one of these.
RANGE_EXPONENTS = tuple(range(-14, 17))
# Formats this close to the best one count as equal, and the widest of them is taken: it leaves room
# for inputs that were not among those it was fitted to.
AS_GOOD_AS_BEST = 1.02
# As does an error below this share of the signal's own power: float32 itself is hardly finer.
NO_ERROR = 2.0**-40
FITTED_IMAGES = 2  # of a batch: tens of thousands of values are plenty for one error
MOVING_AVERAGE = 0.9


class QuantizedLayer(nn.Module):
    """What shift and integer layers share: the format of their input and bias.

    Comes before nn.Conv2d or nn.Linear in a layer's bases. With a fitted format there are two more
    buffers: `activation_errors`, the mean squared error of each candidate (NaN until fitted), and
    `activation_signed`, whether a negative input was seen.
    """

    spec: Spec
    weight: Tensor
    bias: Any  # nn.Conv2d and nn.Linear give it different types
    activation_errors: Tensor
    activation_signed: Tensor
    fitting = False  # whether the next inputs are used to fit the format

    def adopt_activations(self, spec: Spec) -> None:
        self.spec = spec
        self._format: tuple[float, int, int] | None = None  # of `uniform`, once it is known
        self._seen_data = spec.activation_format == "fixed"
        if spec.activation_format == "fitted":
            device = next(self.parameters()).device
            errors = torch.full((len(RANGE_EXPONENTS),), torch.nan, device=device)
            self.register_buffer("activation_errors", errors)
            self.register_buffer(
                "activation_signed", torch.zeros((), dtype=torch.bool, device=device)
            )

    @property
    def is_fitted(self) -> bool:
        """Whether the layer's format is known: it is fixed, or has been fitted."""
        if not self._seen_data:  # asked once a forward pass, and reading makes a GPU wait
            self._seen_data = not self.activation_errors[0].isnan().item()
        return self._seen_data

    def activation_codes(self) -> tuple[float, int, int]:
        """Step and lowest and highest code of the layer's input, the arguments of `uniform`.

        A format that is to be fitted is the fixed one until it has seen data.
        """
        if self._format is None:  # kept, since reading a buffer makes a GPU wait
            spec = self.spec
            fixed = two_complement(spec.activation_integer_bits, spec.activation_fraction_bits)
            self._format = self._best_format() if self._is_to_be_read() else fixed
        return self._format

    def _is_to_be_read(self) -> bool:
        return self.spec.activation_format == "fitted" and self.is_fitted

    def _best_format(self) -> tuple[float, int, int]:
        errors = self.activation_errors.tolist()
        # Under the narrowest format nearly everything is clipped: its error is the power.
        acceptable = max(min(errors) * AS_GOOD_AS_BEST, errors[0] * NO_ERROR)
        # A network that diverges has NaN as all errors, and no range is better than another.
        fine = [i for i, error in enumerate(errors) if error <= acceptable]
        best = max(fine, default=len(errors) - 1)
        return self._candidate(RANGE_EXPONENTS[best], bool(self.activation_signed))

    def _candidate(self, range_exponent: int, signed: bool) -> tuple[float, int, int]:
        bits = self.spec.activation_integer_bits + self.spec.activation_fraction_bits
        step = 2.0 ** (range_exponent - bits + signed)
        codes = 2 ** (bits - signed)
        return step, -codes * signed, codes - 1

    @torch.no_grad()
    def _fit(self, x: Tensor) -> None:
        """Count the input among those the format is fitted to."""
        first = not self.is_fitted
        x = x.detach()
        # Once negative, always signed: the format must hold all inputs there are.
        self.activation_signed |= (x < 0).any()
        signed, spec = bool(self.activation_signed), self.spec
        sample = x[:FITTED_IMAGES].float().flatten()
        # All candidates at once, a row each: one by one they would keep a GPU waiting for launches.
        formats = [self._candidate(exponent, signed) for exponent in RANGE_EXPONENTS]
        step, lowest, highest = sample.new_tensor(formats).T[:, :, None]
        codes = sample / step
        codes = codes.round_() if spec.activation_rounding == "nearest" else codes.floor_()
        quantized = codes.clamp_(lowest, highest).mul_(step)
        errors = quantized.sub_(sample).square_().mean(1)
        known = self.activation_errors
        known.copy_(errors if first else known.lerp(errors, 1 - MOVING_AVERAGE))
        self._format = None

    def quantize_input(self, x: Tensor) -> Tensor:
        """The layer's input in its format."""
        spec = self.spec
        if spec.activation_format == "fitted" and (
            self.fitting or (self.training and not self.is_fitted)
        ):
            self._fit(x)
        return uniform(x, *self.activation_codes(), spec.activation_rounding, spec.clipped_gradient)

    def quantize_bias(self) -> Tensor | None:
        """The bias: in the fixed format, or where it is fitted in that of the accumulator."""
        if self.bias is None:
            return None
        spec = self.spec
        if spec.activation_format == "fixed":
            return uniform(self.bias, *self.activation_codes())
        unit = self.weight_unit() * self.activation_codes()[0]
        bias = self.bias.detach()
        # Eight weight bits reach down to 2^-126: the codes overflow, and the bias is a multiple of
        # so small a unit as it is.
        codes = bias / unit
        rounded = torch.where(codes.isfinite(), codes.round() * unit, bias)
        return rounded + (self.bias - self.bias.detach())  # its gradient goes straight through

    def adopt_spec(self, spec: Any) -> None:
        """Make a plain layer's parameters those of this kind of layer, at the same weights."""
        raise NotImplementedError

    def reset_parameters(self) -> None:
        """Draw the parameters anew, as the plain layer does."""
        super().reset_parameters()  # type: ignore[misc]  # nn.Conv2d's or nn.Linear's

    def effective_weight(self) -> Tensor:
        """The weight used in the forward pass, differentiable."""
        raise NotImplementedError

    def weight_unit(self) -> Tensor | float:
        """What all of the layer's weights are multiples of, one for each output channel or all."""
        raise NotImplementedError

    def _load_from_state_dict(self, *args, **kwargs):
        super()._load_from_state_dict(*args, **kwargs)
        self._format, self._seen_data = None, self.spec.activation_format == "fixed"

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.spec}"


@contextmanager
def fitting(model: nn.Module, now: bool = True) -> Iterator[None]:
    """Batches that run through the network meanwhile are used to fit its activation formats."""
    layers = [m for m in model.modules() if isinstance(m, QuantizedLayer)] if now else []
    try:
        for layer in layers:
            layer.fitting = True
        yield
    finally:
        for layer in layers:
            layer.fitting = False


@torch.no_grad()
def fit_activations(model: nn.Module, images: Tensor) -> None:
    """Fit the activation formats of a network that is not going to be trained.

    `images` are a batch of its input, as it is given to the network (normalised). Layers with a
    fixed format stay as they are. Raises ValueError for an empty batch.
    """
    require(len(images) > 0, "images: must hold at least one image to fit activations to")
    with eval_mode(model), fitting(model):
        model(images)


def check_fitted(model: nn.Module) -> None:
    """ValueError naming the first layer whose format is to be fitted and has not seen data."""
    for name, layer in model.named_modules():
        if isinstance(layer, QuantizedLayer) and not layer.is_fitted:
            raise ValueError(
                f"layer {name!r}: activation_format='fitted' must see data first: train the "
                "network, or call fit_activations(network, images)"
            )
