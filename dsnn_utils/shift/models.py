"""Five networks for small images (8 to 64 pixels), randomly initialised from PyTorch's generator.

Each takes a float batch (N, in_channels, H, W) and returns logits (N, num_classes). ResNet20 is the
network of He et al. (CVPR 2016) for CIFAR-10. The others are torchvision's, with the strides and
pools at the input removed that only make sense for large images: the resolution falls by 8
(MobileNetV2, GoogLeNet), 16 (EfficientNetV2-S) or 32 (VGG19) instead of by 32.
torchvision is imported when a network is built, since importing it takes a second.
"""

from collections import OrderedDict
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from dsnn_utils.checks import require, require_choice
from dsnn_utils.limits import MODELS, REGISTERED, choices, limited_integer


def build_model(name: str, num_classes: int, in_channels: int = 3) -> nn.Module:
    """A new network by its name: one of MODELS, or one that `register_model` was told of.

    Raises ValueError for an unknown name, fewer than 2 classes or fewer than 1 channel.
    """
    check_model(name)
    num_classes = limited_integer("num_classes", num_classes)
    in_channels = limited_integer("in_channels", in_channels)
    return (_BUILDERS | own_models())[name](num_classes, in_channels)


def register_model(name: str, build: Callable[[int, int], nn.Module]) -> None:
    """Let a network of one's own go by a name, in recipes, searches and files.

    `build(num_classes, in_channels)` returns it untrained; its random weights come from PyTorch's
    generator. It is known to this process and to the workers that it starts: register it again
    where a run is continued or read. Raises ValueError for the name of a network there is.
    """
    require(
        isinstance(name, str) and name.isidentifier() and name not in MODELS,
        f"name={name!r}: must be a name of letters, digits and _, other than {', '.join(MODELS)}",
    )
    REGISTERED["model"][name] = build


def check_model(name: str) -> None:
    """ValueError for a network that is neither in MODELS nor registered."""
    require_choice("model", name, choices("model"))


def own_models() -> dict[str, Callable[[int, int], nn.Module]]:
    """The networks registered by `register_model`."""
    return REGISTERED["model"]


def _resnet20(num_classes: int, in_channels: int) -> nn.Module:
    from torchvision.models.resnet import BasicBlock

    def stage(width_in: int, width: int) -> nn.Module:
        stride = width // width_in
        shortcut = _PaddedShortcut() if stride == 2 else None
        first = BasicBlock(width_in, width, stride, shortcut)
        return nn.Sequential(first, BasicBlock(width, width), BasicBlock(width, width))

    layers = OrderedDict(
        conv1=_conv3x3(in_channels, 16),
        bn1=nn.BatchNorm2d(16),
        relu=nn.ReLU(inplace=True),
        layer1=stage(16, 16),
        layer2=stage(16, 32),
        layer3=stage(32, 64),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        linear=nn.Linear(64, num_classes),
    )
    return _kaiming(nn.Sequential(layers))


class _PaddedShortcut(nn.Module):
    """Shortcut without parameters ("option A"): every second pixel, new channels are zero."""

    def forward(self, x: Tensor) -> Tensor:
        half = x.shape[1] // 2
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, half, half))


def _mobilenetv2(num_classes: int, in_channels: int) -> nn.Module:
    from torchvision.models import mobilenet_v2

    # Expansion, channels, repeats, stride: the published table, but for stride 1 in the second row.
    blocks = [
        [1, 16, 1, 1],
        [6, 24, 2, 1],
        [6, 32, 3, 2],
        [6, 64, 4, 2],
        [6, 96, 3, 1],
        [6, 160, 3, 2],
        [6, 320, 1, 1],
    ]
    model = mobilenet_v2(num_classes=num_classes, inverted_residual_setting=blocks)
    model.features[0][0] = _conv3x3(in_channels, 32)
    return model


def _googlenet(num_classes: int, in_channels: int) -> nn.Module:
    from torchvision.models import googlenet

    model = googlenet(num_classes=num_classes, aux_logits=False, init_weights=False)
    model.conv1.conv = _conv3x3(in_channels, 64)
    model.maxpool1 = nn.Identity()
    return model


def _vgg19(num_classes: int, in_channels: int) -> nn.Module:
    from torchvision.models.vgg import cfgs, make_layers

    features = make_layers(cfgs["E"], batch_norm=True)
    features[0] = nn.Conv2d(in_channels, 64, 3, padding=1)
    for layer in features:
        if isinstance(layer, nn.MaxPool2d):
            layer.ceil_mode = True  # five halvings of 8 pixels must not end at 0
    layers = OrderedDict(
        features=features,
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        classifier=nn.Linear(512, num_classes),
    )
    return _kaiming(nn.Sequential(layers))


def _efficientnetv2(num_classes: int, in_channels: int) -> nn.Module:
    from torchvision.models import efficientnet_v2_s

    model = efficientnet_v2_s(num_classes=num_classes)
    model.features[0][0] = _conv3x3(in_channels, 24)
    return model


def _conv3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    layer = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    _kaiming(layer)
    return layer


def _kaiming(model: nn.Module) -> nn.Module:
    """Draw the weights of all convolutions as He et al. do; biases start at 0."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return model


_BUILDERS: dict[str, Callable[[int, int], nn.Module]] = {
    "resnet20": _resnet20,
    "mobilenetv2": _mobilenetv2,
    "googlenet": _googlenet,
    "vgg19": _vgg19,
    "efficientnetv2": _efficientnetv2,
}
