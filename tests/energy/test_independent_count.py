"""Multiply-accumulates of torchvision's and timm's networks against PyTorch's own counter.

Networks and images are on the meta device: shapes and no values, so that this takes seconds.
"""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dsnn_utils.energy import modelled_energy, operation_counts
from dsnn_utils.shift import ShiftSpec, convert_to_shift, shiftable_layers

NAMES = (
    ("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_b1")
    + ("efficientnet_v2_s", "googlenet", "inception_v3", "maxvit_t", "mnasnet0_5", "mnasnet1_0")
    + ("mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small", "regnet_x_400mf")
    + ("regnet_y_400mf", "regnet_y_800mf", "resnet18", "resnet34", "resnet50", "resnext50_32x4d")
    + ("shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "squeezenet1_0", "squeezenet1_1", "swin_t")
    + ("swin_v2_t", "vgg11", "vgg13_bn", "vgg16", "vit_b_16", "vit_b_32", "wide_resnet50_2")
)


def build(name):
    torchvision = pytest.importorskip("torchvision")
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    # RegNets draw their initial weights by a value they read, which the meta device does not have.
    with torch.device("cpu" if name.startswith("regnet") else "meta"):
        return torchvision.models.get_model(name, weights=None, **options).eval()


# Ten designs that torchvision does not have: ghost modules, poolings and multilayer perceptrons as
# token mixers, local and channel attention, parallel branches of several resolutions.
TIMM = ("botnet26t_256", "edgenext_xx_small", "ghostnet_050", "halonet26t", "hrnet_w18_small") + (
    "levit_128s",
    "mixer_s32_224",
    "poolformer_s12",
    "repvgg_a0",
    "xcit_nano_12_p16_224",
)


@pytest.mark.parametrize("name", NAMES)
def test_multiply_accumulates_are_those_of_torchs_counter(name):
    compare(build(name).to("meta"), 299 if name == "inception_v3" else 224)


@pytest.mark.parametrize("name", TIMM)
def test_multiply_accumulates_of_timm_are_those_of_torchs_counter(name):
    """No difference to explain: both see each convolution and each product of matrices."""
    timm = pytest.importorskip("timm", reason="timm is not installed (pip install timm)")
    with torch.device("meta"):
        network = timm.create_model(name, pretrained=False).eval()
    compare(network, network.default_cfg["input_size"][1])


def compare(network, side):
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network(torch.zeros(1, 3, side, side, device="meta"))
    found = modelled_energy(network, (3, side, side)).macs_per_image
    assert 2 * found == counter.get_total_flops()  # it counts product and sum as one each


def test_where_the_two_counters_differ():
    """PyTorch's counter does not know a vector's product; ours does."""

    class Vector(nn.Module):
        def forward(self, x):
            return torch.mv(torch.ones(3, 4, device=x.device), x.flatten())

    counter = FlopCounterMode(display=False)
    with counter:
        Vector()(torch.zeros(1, 4))
    assert counter.get_total_flops() == 0
    assert operation_counts(Vector(), (4,))["macs"].tolist() == [12]


def test_a_vision_transformer_can_be_converted():
    """Its linear layers shift, products of activations and PyTorch's own projections stay float."""
    network = build("vit_b_32")
    shifted = convert_to_shift(network, len(shiftable_layers(network)), ShiftSpec("Q"))
    found, plain = (modelled_energy(n, (3, 224, 224)) for n in (shifted, network))
    assert found.macs_per_image == plain.macs_per_image
    assert 0.5 * plain.macs_per_image < found.shift_macs_per_image < plain.macs_per_image
    assert found.energy_modelled_j_per_image < plain.energy_modelled_j_per_image
