"""Image classification data: held in memory as uint8, split once and for all by a seed.

`load_dataset` knows scikit-learn's digits (nothing to download), CIFAR-10 and Fashion-MNIST
(torchvision), and any directory or `.zip` with `train/<class>/` images and, if it has one,
`test/<class>/`. Three parts come out: `train`, `validation` (to compare configurations with)
and `test` (for the one evaluation at the end).
"""

from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path

import numpy as np
import torch
from torchvision import datasets

from dsnn_utils.checks import require
from dsnn_utils.limits import KNOWN_DATASETS, check_limits, limited_integer
from dsnn_utils.training.images import ImageSet, _load_folder, _resize_all

TEST_SHARE = 0.2  # split off where a data set brings no test part


@dataclass(frozen=True, eq=False)
class Dataset:
    """The three parts of a data set and what is needed to feed them to a network.

    `mean` and `std` are per channel on the 0..1 scale. `flip` says whether a mirrored image
    still shows its class: False for digits, True otherwise. For images of your own where it does
    not hold (text, say): `dataclasses.replace(dataset, flip=False)`.
    """

    name: str
    classes: tuple[str, ...]
    train: ImageSet
    validation: ImageSet
    test: ImageSet | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip: bool = True

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def in_channels(self) -> int:
        return self.train.shape[0]

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        _, height, width = self.train.shape
        return height, width


def load_dataset(
    name_or_path: str | Path = "digits",
    *,
    root: str | Path = "data",
    train_size: int | None = None,
    validation_share: float = 0.2,
    image_size: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Load a data set and split it.

    `name_or_path` is `digits`, `cifar10`, `fashion_mnist`, or the path of a directory or
    `.zip` that holds `train/<class>/*.png` (or jpg, ...) and possibly `test/<class>/*`.
    `root` is where torchvision keeps its files and where decoded images are cached.
    `image_size` (pixels) crops to the central square and resizes. Images are read as 8-bit grey
    or colour, transparent ones on white.

    All splits are stratified. `validation_share` of the training images, drawn with `seed`,
    become the validation part; `train_size` keeps that many of the rest, so the validation
    part is the same for every `train_size`, and a smaller training part is contained in a
    larger one. A data set without a test part (digits is one) gives up 20 % of its images as its
    test part, always the same ones whatever the seed. `mean` and `std` come from all training
    images left by the validation split, so that they do not depend on `train_size` either.

    Raises ValueError for a bad argument or unusable images, RuntimeError for a failed download.
    """
    require(isinstance(name_or_path, str | Path), f"{name_or_path=}: must be a name or a path")
    for name, value in (("train_size", train_size), ("image_size", image_size)):
        if value is not None:
            limited_integer(name, value, why=" or None")
    check_limits(validation_share=validation_share)
    limited_integer("seed", seed)

    root, path = Path(root), Path(name_or_path)
    if name_or_path == "digits":
        classes, train, test = _load_digits()
    elif name_or_path in KNOWN_DATASETS:
        classes, train, test = _load_torchvision(name_or_path, root)
    else:
        require(
            path.is_dir() or (path.is_file() and path.suffix.lower() == ".zip"),
            f"name_or_path='{name_or_path}': must be one of {', '.join(KNOWN_DATASETS)}, or an "
            "existing directory or .zip file with images in train/<class>/",
        )
        classes, train, test = _load_folder(path, root, image_size)
    if image_size is not None:
        train, test = _resize_all(train, image_size), test and _resize_all(test, image_size)

    rest = torch.arange(len(train))
    if test is None:
        of_test, rest = _split(train.labels, rest, TEST_SHARE, seed=0)
        test = train[of_test]
    of_validation, rest = _split(train.labels, rest, validation_share, seed)
    for part in (of_validation, rest):
        counts = torch.bincount(train.labels[part], minlength=len(classes)).tolist()
        require(
            min(counts) > 0,
            f"{validation_share=}: must leave an image of each class for training and one for "
            f"validation; class {classes[counts.index(min(counts))]!r} has too few images",
        )
    mean, std = _channel_statistics(train[rest])
    if train_size is not None:
        require(
            len(classes) <= train_size <= len(rest),
            f"{train_size=}: must be from {len(classes)} (one image per class) to {len(rest)} "
            f"(images left for training by {validation_share=})",
        )
        rest = rest[_stratified_order(train.labels[rest], seed)[:train_size]]
    return Dataset(
        name=path.resolve().name.removesuffix(".zip"),
        classes=tuple(classes),
        train=train[rest],
        validation=train[of_validation],
        test=test,
        mean=mean,
        std=std,
        flip=name_or_path != "digits",
    )


def take_fraction(dataset: Dataset, fraction: float, seed: int = 0) -> Dataset:
    """The data set with a stratified `fraction` of its training part, everything else the same.

    At least one image per class stays. With the same seed, smaller fractions are contained in
    larger ones. Raises ValueError for a fraction outside (0, 1].
    """
    valid = isinstance(fraction, Real) and 0 < fraction <= 1
    require(valid, f"{fraction=}: must be a number above 0 and up to 1")
    if fraction == 1:
        return dataset
    size = max(dataset.num_classes, round(fraction * len(dataset.train)))
    order = _stratified_order(dataset.train.labels, seed)
    return replace(dataset, train=dataset.train[order[:size]])


def _load_digits() -> tuple[list[str], ImageSet, None]:
    from sklearn.datasets import load_digits  # here, because importing it takes a second

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[:, None]
    labels = torch.from_numpy(digits.target.astype(np.int64))
    return list("0123456789"), ImageSet(torch.from_numpy(images), labels), None


def _load_torchvision(name: str, root: Path) -> tuple[list[str], ImageSet, ImageSet]:
    if name == "cifar10":
        source, address = datasets.CIFAR10, datasets.CIFAR10.url
        by_hand = f"cifar-10-python.tar.gz into {root}"
    else:
        source, address = datasets.FashionMNIST, " and ".join(datasets.FashionMNIST.mirrors)
        by_hand = f"the four *-ubyte files or their .gz into {root / 'FashionMNIST' / 'raw'}"
    try:  # complete local files are used without asking the network
        parts = [source(root, train=train, download=True) for train in (True, False)]
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise RuntimeError(
            f"{name}: no usable files under root={str(root)!r}, and the download from {address} "
            f"failed ({reason}). Put {by_hand}, or give load_dataset the path of a directory or "
            ".zip with train/<class>/ and test/<class>/ images in place of the name."
        ) from error
    sets = []
    for part in parts:
        images = torch.as_tensor(part.data)  # uint8, (N, H, W, 3) or (N, H, W)
        images = images.permute(0, 3, 1, 2) if images.ndim == 4 else images[:, None]
        sets.append(ImageSet(images.contiguous(), torch.as_tensor(part.targets)))
    train, test = sets
    return list(parts[0].classes), train, test


def _stratified_order(labels: torch.Tensor, seed: int) -> torch.Tensor:
    """A random order of which every beginning is stratified and, if long enough, has all classes.

    The images of a class of n, shuffled, take the positions 0, 1/n, 2/n, ...; sorting all images
    by position, ties at random, mixes the classes in proportion.
    """
    classes = labels.numpy()
    random = np.random.default_rng(seed).random(len(classes))
    position = np.empty(len(classes))
    for label in np.unique(classes):
        members = np.flatnonzero(classes == label)
        position[members[np.argsort(random[members])]] = np.arange(len(members)) / len(members)
    return torch.from_numpy(np.lexsort((random, position)))


def _split(
    labels: torch.Tensor, indices: torch.Tensor, share: float, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """`indices` in two stratified parts, the first with `share` of them."""
    order = indices[_stratified_order(labels[indices], seed)]
    size = round(share * len(order))
    return order[:size], order[size:]


def _channel_statistics(images: ImageSet) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel on the 0..1 scale, from the counts of 0..255."""
    channels = images.shape[0]
    counts = torch.zeros(channels, 256, dtype=torch.float64)
    for part in torch.arange(len(images)).split(1024):  # counting widens the values
        for channel, pixels in enumerate(images[part].images.unbind(1)):
            counts[channel] += torch.bincount(pixels.flatten(), minlength=256)
    weights = counts / counts.sum(1, keepdim=True)
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = weights @ values
    std = (weights @ values**2 - mean**2).clamp(min=0).sqrt()
    std[std < 1 / 255] = 1.0  # a constant channel: nothing to divide by
    return tuple(mean.tolist()), tuple(std.tolist())
