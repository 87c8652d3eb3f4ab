"""Sizes of the networks against published or separately counted values; every image size runs."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from dsnn_utils import ShiftSpec, convert_to_shift, shiftable_layers
from dsnn_utils.shift import MODELS, build_model


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def macs_per_image(model, size):
    """Multiply-accumulates of convolutions and linear layers, counted from output shapes."""
    total = 0

    def count(layer, _, output):
        nonlocal total
        total += output[0].numel() * layer.weight[0].numel()

    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, size, size))
    return total


# torchvision publishes the parameter counts of its networks for 1,000 classes.
VGG19_WIDTHS = [64] * 2 + [128] * 2 + [256] * 4 + [512] * 8


def vgg19_parameters(classes):
    """Convolutions with bias and two batch norm vectors each, one linear layer."""
    pairs = zip([3, *VGG19_WIDTHS], VGG19_WIDTHS, strict=False)
    return sum(9 * a * b + 3 * b for a, b in pairs) + 513 * classes


@pytest.mark.parametrize(
    ("name", "classes", "expected"),
    [
        ("resnet20", 10, 269_722),  # He et al. 2016: 0.27 million
        ("mobilenetv2", 1000, 3_504_872),
        ("googlenet", 1000, 6_624_904 - 3 * 64 * (7 * 7 - 3 * 3)),  # first kernel 3x3, not 7x7
        ("efficientnetv2", 1000, 21_458_488),
        ("vgg19", 10, vgg19_parameters(10)),
    ],
)
def test_parameter_counts(name, classes, expected):
    assert parameters(build_model(name, classes)) == expected


@pytest.mark.parametrize(
    ("name", "convolutions"),
    [
        ("resnet20", 1 + 3 * 3 * 2),
        ("mobilenetv2", 1 + 2 + 16 * 3 + 1),  # stem, first block, 16 blocks of three, head
        ("googlenet", 3 + 9 * 6),
        ("vgg19", 16),
        ("efficientnetv2", 1 + 2 * 1 + 8 * 2 + 30 * 5 + 1),  # squeeze-excitation counts two
    ],
)
def test_shiftable_layers(name, convolutions):
    names = shiftable_layers(build_model(name, 10))
    assert len(names) == convolutions + 1  # and the linear layer, the first to be converted
    assert names[0].split(".")[0] in ("linear", "classifier", "fc")


def test_macs_of_resnet20():
    stem, head = 32 * 32 * 16 * 27, 64 * 10
    same_width = 32 * 32 * 16 * 16 * 9  # the same in all three stages: half the pixels, twice wide
    assert macs_per_image(build_model("resnet20", 10), 32) == (
        stem + (6 + 5 + 5) * same_width + 2 * same_width // 2 + head
    )
    assert macs_per_image(build_model("resnet20", 10), 32) == 40_551_040  # 40.55 million


def test_macs_of_vgg19():
    sizes = [32] * 2 + [16] * 2 + [8] * 4 + [4] * 4 + [2] * 4
    layers = zip([3, *VGG19_WIDTHS], VGG19_WIDTHS, sizes, strict=False)
    expected = sum(9 * a * b * size**2 for a, b, size in layers) + 512 * 10
    assert macs_per_image(build_model("vgg19", 10), 32) == expected


def test_resnet20_shortcut_takes_every_second_pixel_and_adds_zero_channels_on_both_sides():
    shortcut = build_model("resnet20", 10).layer2[0].downsample
    x = torch.randn(1, 16, 4, 6)
    y = shortcut(x)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2])
    assert y.shape == (1, 32, 2, 3) and not y[:, :8].any() and not y[:, 24:].any()


def test_downsampling():
    for name, factor in (("mobilenetv2", 8), ("googlenet", 8), ("efficientnetv2", 16)):
        model = build_model(name, 10).eval()
        layer = model.inception5b if name == "googlenet" else model.features
        shapes = []
        layer.register_forward_hook(lambda _, __, output, s=shapes: s.append(output.shape[-1]))
        model(torch.zeros(1, 3, 32, 32))
        assert shapes == [32 // factor]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("size", "channels"), [(8, 1), (32, 3), (64, 1)])
def test_forward_and_backward(name, size, channels):
    torch.manual_seed(0)
    model = build_model(name, 5, in_channels=channels)
    logits = model(torch.randn(2, channels, size, size))
    assert logits.shape == (2, 5)
    logits.square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("size", [8, 9, 28])
def test_inference_of_one_image(name, size):
    model = build_model(name, 5, in_channels=3).eval()
    with torch.inference_mode():
        assert model(torch.randn(1, 3, size, size)).shape == (1, 5)


@pytest.mark.parametrize("name", MODELS)
def test_fully_shifted_network_trains(name):
    torch.manual_seed(0)
    model = build_model(name, 5)
    shifted = convert_to_shift(model, len(shiftable_layers(model)), ShiftSpec("PS"))
    shifted(torch.randn(2, 3, 8, 8)).square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in shifted.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_the_seed_decides_the_weights(name):
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(torch.cat([p.flatten() for p in build_model(name, 5).parameters()]))
    assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])


def test_bad_input():
    with pytest.raises(
        ValueError, match="^model='foo': must be one of resnet20, mobilenetv2, goog"
    ):
        build_model("foo", 10)
    with pytest.raises(ValueError, match="^num_classes=1: must be an integer from 2 to "):
        build_model("resnet20", 1)
    with pytest.raises(ValueError, match="^in_channels=0: must be an integer from 1 to "):
        build_model("resnet20", 10, 0)


def test_importing_the_package_imports_no_torchvision():
    code = "import sys, dsnn_utils.shift.models; sys.exit('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
