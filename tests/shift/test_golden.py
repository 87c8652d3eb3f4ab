"""Agreement with numbers recorded from the DeepShift reference (mostafaelhoushi/DeepShift).

The files are found through the environment variable DSNN_GOLDEN_DIR and described in their README.
Where the reference has a known defect they also hold the corrected numbers (`altB`).
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from dsnn_utils import ShiftConv2d, ShiftLinear, ShiftSpec, convert_to_shift, shiftable_layers
from dsnn_utils.shift import (
    build_model,
    fixed_point,
    quantize_ps,
    quantize_q,
    round_to_power_of_two,
)

DIRECTORY = os.environ.get("DSNN_GOLDEN_DIR")
pytestmark = pytest.mark.skipif(not DIRECTORY, reason="DSNN_GOLDEN_DIR is not set")

STRICT = {f"{type}_conv_0{n}" for type in ("Q", "PS") for n in (1, 2, 4, 5, 6)}
STRICT |= {"Q_linear_01", "Q_linear_02", "Q_linear_08", "PS_linear_08"}
CORRECTED = {f"{type}_conv_0{n}" for type in ("Q", "PS") for n in (3, 7, 8, 9)}
CORRECTED |= {f"Q_linear_0{n}" for n in range(3, 8)} | {f"PS_linear_0{n}" for n in range(1, 8)}
BITS = (2, 3, 4, 5, 8)


@pytest.fixture(scope="module")
def layers():
    return np.load(Path(DIRECTORY) / "golden_layers.npz")


@pytest.fixture(scope="module")
def rounding():
    return np.load(Path(DIRECTORY) / "golden_rounding.npz")


class Case:
    """A recorded layer: its arrays by name, and our layer with the same parameters."""

    def __init__(self, file, name):
        self.meta = next(c for c in json.loads(str(file["__meta__"]))["cases"] if c["id"] == name)
        prefix = name + "/"
        self.arrays = {
            key.removeprefix(prefix): torch.from_numpy(file[key])
            for key in file.files
            if key.startswith(prefix)
        }
        self.layer = self._layer()

    def __getitem__(self, name):
        return self.arrays[name]

    def _layer(self):
        meta, bias = self.meta, "bias_raw" in self.arrays
        bits = (meta["weight_bits"], meta["act_integer_bits"], meta["act_fraction_bits"])
        spec = ShiftSpec(meta["type"], *bits)
        assert list(spec.shift_range) == meta["shift_range"]
        if meta["op"] == "conv":
            out_channels, in_channels = meta["w_shape"][:2]
            geometry = {key: meta[key] for key in ("stride", "padding", "dilation", "groups")}
            in_channels *= meta["groups"]
            size = meta["kernel_size"]
            layer = ShiftConv2d(in_channels, out_channels, size, bias=bias, spec=spec, **geometry)
        else:
            layer = ShiftLinear(*meta["w_shape"][::-1], bias=bias, spec=spec)
        state = {name: self.arrays[f"{name}_raw"] for name in layer.state_dict()}
        layer.load_state_dict(state)
        return layer

    def forward_backward(self):
        x = self["x"].clone().requires_grad_()
        y = self.layer(x)
        y.backward(self["gy"])
        gradients = {name: parameter.grad for name, parameter in self.layer.named_parameters()}
        return y.detach(), x.grad, gradients

    def tolerance(self):
        """1e-5 (sum |w||x| + |b|) per output: float32 rounds relative to the terms of the sum."""
        spec = self.layer.spec
        bits = (spec.activation_integer_bits, spec.activation_fraction_bits)
        with torch.no_grad():
            weight = self.layer.effective_weight().abs()
            bias = self.layer.bias
            bias = None if bias is None else fixed_point(bias, *bits).abs()
            x = fixed_point(self["x"], *bits).abs()
            if self.meta["op"] == "conv":
                return 1e-5 * self.layer._conv_forward(x, weight, bias)
            return 1e-5 * torch.nn.functional.linear(x, weight, bias)


def assert_within(actual, expected, tolerance):
    assert actual.shape == expected.shape
    assert ((actual - expected).abs() <= tolerance).all()


@pytest.mark.parametrize("name", sorted(STRICT))
def test_strict_parity(layers, name):
    """Outputs and all gradients are the reference's."""
    case = Case(layers, name)
    y, g_x, gradients = case.forward_backward()
    with torch.no_grad():
        assert torch.equal(case.layer.effective_weight(), case["w_eff"])
    assert_within(y, case["y"], case.tolerance() + 1e-30)
    torch.testing.assert_close(g_x, case["g_x"], rtol=1e-5, atol=1e-5)
    assert gradients.keys() == {n[2:] for n in case.arrays if n.startswith("g_")} - {"x"}
    for parameter, gradient in gradients.items():
        scale = case[f"g_{parameter}"].abs().max()
        assert_within(gradient, case[f"g_{parameter}"], 1e-5 * scale)


@pytest.mark.parametrize("name", sorted(CORRECTED))
def test_corrected_parity(layers, name):
    """Outputs and weight gradients are those without the reference's defects."""
    case = Case(layers, name)
    assert case.meta["altB_differs"]
    y, g_x, gradients = case.forward_backward()
    assert_within(y, case["altB_y"], case.tolerance() + 1e-30)
    g_weight = case["altB_gW"]
    expected = {"weight": g_weight, "sign": g_weight}
    if case.meta["type"] == "PS":
        expected["shift"] = g_weight * case["w_eff"] * np.log(2)
    for parameter, gradient in gradients.items():
        if parameter != "bias":
            scale = expected[parameter].abs().max()
            assert_within(gradient, expected[parameter], 1e-5 * scale)
    # What flows through W and the bias is not touched by the defects.
    assert_within(g_x, case["g_x"], 1e-5 * case["g_x"].abs().max())
    if "bias" in gradients:
        assert_within(gradients["bias"], case["g_bias"], 1e-5 * case["g_bias"].abs().max())


def test_every_case_is_covered(layers):
    cases = json.loads(str(layers["__meta__"]))["cases"]
    assert {case["id"] for case in cases} == STRICT | CORRECTED
    assert len(STRICT) == 14 and not STRICT & CORRECTED


@pytest.mark.parametrize(
    ("i", "f"), [(16, 16), (4, 4), (3, 5), (2, 8), (8, 8), (2, 2), (8, 0), (12, 4), (32, 32)]
)
def test_fixed_point(rounding, i, f):
    key = f"fixed/i{i}_f{f}"
    x = torch.from_numpy(rounding[f"{key}/x"]).requires_grad_()
    y = fixed_point(x, i, f)
    np.testing.assert_array_equal(y.detach().numpy(), rounding[f"{key}/y_altB"])
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), rounding[f"{key}/grad"])


def test_power_of_two(rounding):
    y = round_to_power_of_two(torch.from_numpy(rounding["pow2/x"]))
    np.testing.assert_array_equal(y.numpy(), rounding["pow2/y_exact"])


@pytest.mark.parametrize("bits", BITS)
def test_quantiser_q(rounding, bits):
    low, _ = ShiftSpec("Q", bits).shift_range
    weight = quantize_q(torch.from_numpy(rounding[f"q/b{bits}/w"]), low)
    np.testing.assert_array_equal(weight.numpy(), rounding[f"q/b{bits}/w_eff"])


@pytest.mark.parametrize("bits", BITS)
def test_quantiser_ps(rounding, bits):
    low, _ = ShiftSpec("PS", bits).shift_range
    shift, sign = (
        torch.from_numpy(rounding[f"ps/b{bits}/{name}"]).requires_grad_()
        for name in ("shift", "sign")
    )
    weight = quantize_ps(shift, sign, low)
    weight.sum().backward()
    np.testing.assert_array_equal(weight.detach().numpy(), rounding[f"ps/b{bits}/w_eff"])
    np.testing.assert_allclose(shift.grad, rounding[f"ps/b{bits}/dw_dshift"], rtol=1e-6, atol=0)
    np.testing.assert_array_equal(sign.grad, rounding[f"ps/b{bits}/dw_dsign"])


# Stochastic rounding against analytic means. By Bernstein's inequality, which holds for every
# bounded distribution, a correct implementation fails on one value with probability below 1e-9;
# there are fewer than 1,000 values, so the false-alarm rate of the whole is below 1e-6.

DRAWS = 100_000


def sampled(quantise, *tensors):
    torch.manual_seed(0)
    columns = [torch.from_numpy(t).expand(DRAWS, -1) for t in tensors]
    return quantise(*columns).double().numpy()


def assert_mean(draws, mean, variance, largest):
    """Means of the columns, given each column's variance and largest distance from its mean."""
    log, bound = np.log(2 / 1e-9), np.broadcast_to(largest, mean.shape)
    linear = bound * log / 3
    allowed = (linear + np.sqrt(linear**2 + 2 * DRAWS * variance * log)) / DRAWS
    exact = variance <= 1e-12 * mean**2  # always the same value
    assert (np.abs(draws.mean(0) - mean) <= np.where(exact, 1e-6 * np.abs(mean), allowed)).all()


def assert_probability(hits, p):
    assert_mean(hits, p, p * (1 - p), 1)


def test_stochastic_power_of_two(rounding):
    w, p = rounding["stoch_pow2/w"], rounding["stoch_pow2/p_up"]
    draws = sampled(lambda t: round_to_power_of_two(t, stochastic=True), w)
    below = 2.0 ** rounding["stoch_pow2/shift_lo"]
    assert np.isin(np.abs(draws) / below, (1, 2)).all()
    assert_probability(np.abs(draws) == 2 * below, p)
    assert_mean(draws, rounding["stoch_pow2/mean"], below**2 * p * (1 - p), below)


def test_stochastic_sign(rounding):
    s = rounding["stoch_sign/s"]
    draws = sampled(lambda t: quantize_ps(torch.zeros_like(t), t, 0, True), s)
    for value, name in ((-1, "p_neg"), (0, "p_zero"), (1, "p_pos")):
        assert_probability(draws == value, rounding[f"stoch_sign/{name}"])


@pytest.mark.parametrize("bits", BITS)
def test_stochastic_q(rounding, bits):
    low, _ = ShiftSpec("Q", bits).shift_range
    w, p = rounding[f"stoch_q/b{bits}/w"], rounding[f"stoch_q/b{bits}/p_up"]
    draws = sampled(lambda t: quantize_q(t, low, True), w)
    below = 2.0 ** rounding[f"stoch_q/b{bits}/shift_lo"]
    assert np.isin(np.abs(draws) / below, (1, 2)).all()
    assert_mean(draws, rounding[f"stoch_q/b{bits}/mean"], below**2 * p * (1 - p), below)


@pytest.mark.parametrize("bits", BITS)
def test_stochastic_ps(rounding, bits):
    low, _ = ShiftSpec("PS", bits).shift_range
    names = ("shift", "sign", "shift_clamped", "mean")
    shift, sign, clamped, mean = (rounding[f"stoch_ps/b{bits}/{name}"] for name in names)
    draws = sampled(lambda a, b: quantize_ps(a, b, low, True), shift, sign)
    clamped, sign = clamped.astype(float), sign.astype(float)
    up = clamped - np.floor(clamped)
    square = 4.0 ** np.floor(clamped) * (1 + 3 * up)  # E[4^shift]
    up = sign - np.floor(sign)
    nonzero = (1 - up) * (np.floor(sign) != 0) + up * (np.floor(sign) != -1)
    largest = 2 * 2.0 ** np.ceil(clamped)
    assert_mean(draws, mean, np.maximum(square * nonzero - mean**2, 0), largest)


@pytest.mark.parametrize("shift_type", ["Q", "PS"])
def test_conversion_order(shift_type):
    recorded = json.loads((Path(DIRECTORY) / "conversion_order.json").read_text())["arch"]
    recorded = recorded["resnet20"]
    model = build_model("resnet20", num_classes=10)
    assert shiftable_layers(model) == recorded["full_conversion_order"]
    # convert_all_linear_false counts linear layers, as we do
    for depth, expected in recorded["convert_all_linear_false"][shift_type].items():
        depth = min(int(depth), len(shiftable_layers(model)))
        converted = convert_to_shift(model, depth, ShiftSpec(shift_type))
        names = [
            name
            for name, module in converted.named_modules()
            if isinstance(module, ShiftConv2d | ShiftLinear)
        ]
        assert names[::-1] == expected["converted"]
        assert len(names) == expected["returned_count"]
