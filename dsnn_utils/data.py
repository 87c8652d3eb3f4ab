"""Image classification data: held in memory as uint8, split once and for all by a seed.

``load_dataset`` knows scikit-learn's digits (nothing to download), CIFAR-10 and Fashion-MNIST
(torchvision), and any directory or ``.zip`` with ``train/<class>/`` images and, if it has one,
``test/<class>/``. Three parts come out: *train*, *validation* (to compare configurations with)
and *test* (for the one evaluation at the end).
"""

import hashlib
import io
import os
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from numbers import Integral, Real
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision import datasets
from torchvision.transforms.v2 import functional as transforms
from tqdm import tqdm

KNOWN_DATASETS = ("digits", "cifar10", "fashion_mnist")
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp"}
TEST_SHARE = 0.2  # split off where a data set brings no test part


@dataclass(frozen=True, eq=False, repr=False)
class ImageSet:
    """Images, uint8 (N, C, H, W), and their class numbers, int64 (N,)."""

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices) -> "ImageSet":
        """The images at ``indices`` (a tensor of integers or a slice), as an ImageSet."""
        return ImageSet(self.images[indices], self.labels[indices])

    def __repr__(self) -> str:
        images, labels = (tuple(tensor.shape) for tensor in (self.images, self.labels))
        return f"ImageSet(images=uint8 {images}, labels=int64 {labels})"


@dataclass(frozen=True, eq=False)
class Dataset:
    """The three parts of a data set and what is needed to feed them to a network.

    ``mean`` and ``std`` are per channel on the 0..1 scale. ``flip`` says whether a mirrored image
    still shows its class: False for digits, True otherwise. For images of your own where it does
    not hold (text, say): ``dataclasses.replace(dataset, flip=False)``.
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
        return self.train.images.shape[1]

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return tuple(self.train.images.shape[2:])


def require(condition, message: str) -> None:
    """Raise ``ValueError(message)`` unless the condition holds."""
    if not condition:
        raise ValueError(message)


def require_bools(**flags) -> None:
    """ValueError naming the first that is neither True nor False: a text would count as true."""
    for name, value in flags.items():
        require(isinstance(value, bool), f"{name}={value!r}: must be True or False")


def is_integer(value, minimum: int) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and value >= minimum


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

    ``name_or_path`` is ``digits``, ``cifar10``, ``fashion_mnist``, or the path of a directory or
    ``.zip`` that holds ``train/<class>/*.png`` (or jpg, ...) and possibly ``test/<class>/*``.
    ``root`` is where torchvision keeps its files and where decoded images are cached.
    ``image_size`` (pixels) crops to the central square and resizes. Images are read as 8-bit grey
    or colour, transparent ones on white.

    All splits are stratified. ``validation_share`` of the training images, drawn with ``seed``,
    become the validation part; ``train_size`` keeps that many of the rest, so the validation
    part is the same for every ``train_size``, and a smaller training part is contained in a
    larger one. A data set without a test part (digits is one) gives up 20 % of its images as its
    test part, always the same ones whatever the seed. ``mean`` and ``std`` come from all training
    images left by the validation split, so that they do not depend on ``train_size`` either.

    Raises ValueError for a bad argument or unusable images, RuntimeError for a failed download.
    """
    require(isinstance(name_or_path, str | Path), f"{name_or_path=}: must be a name or a path")
    for name, value in (("train_size", train_size), ("image_size", image_size)):
        valid = value is None or is_integer(value, 1)
        require(valid, f"{name}={value!r}: must be a positive integer or None")
    valid = isinstance(validation_share, Real) and 0 < validation_share < 1
    require(valid, f"{validation_share=}: must be a number between 0 and 1, both excluded")
    require(is_integer(seed, 0), f"{seed=}: must be an integer of at least 0")

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
    mean, std = _channel_statistics(train.images, rest)
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
    """The data set with a stratified ``fraction`` of its training part, everything else the same.

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


# --- Sources: each gives the class names, the training images and the test images or None


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
    return list(parts[0].classes), *sets


DECODING = 2  # changed with what is made of a file, so that older caches are decoded again


def _load_folder(path: Path, root: Path, image_size: int | None):
    """Images of a directory or zip, from the cache under ``root`` as long as nothing changed."""
    zipped = path.is_file()
    files = [path] if zipped else _files_below(path)
    status = [(str(file.relative_to(path)), file.stat()) for file in files]
    stamps = [(name, s.st_size, s.st_mtime_ns) for name, s in status]
    key = hashlib.sha256(f"{DECODING} {stamps}".encode()).hexdigest()
    place = hashlib.sha256(f"{path.resolve()} {image_size}".encode()).hexdigest()[:12]
    cache = root / "cache" / f"{path.stem}-{place}.pt"

    content = _read_cache(cache, key)
    if content is None:
        if zipped:
            must = f"name_or_path='{path}': must be a .zip file that can be read"
            require(zipfile.is_zipfile(path), must)
            with zipfile.ZipFile(path) as archive:
                content = _decode_all(path, archive.namelist(), archive.read, image_size)
        else:
            names = [file.relative_to(path).as_posix() for file in files]
            content = _decode_all(path, names, lambda n: (path / n).read_bytes(), image_size)
        _write_cache(cache, content | {"key": key})
        content = _read_cache(cache, key) or content  # mapped: unused pages take no memory
    return content["classes"], *(
        ImageSet(*content[part]) if part in content else None for part in ("train", "test")
    )


def _files_below(path: Path) -> list[Path]:
    found = (
        Path(folder, name)
        for part in ("train", "test")
        for folder, _, names in os.walk(path / part, followlinks=True)
        for name in names
        if not name.startswith(".")
    )
    return sorted(file for file in found if file.is_file())  # a link may lead nowhere


def _decode_all(path: Path, names: list[str], read, image_size: int | None) -> dict:
    """Class names and, for each part there is, its decoded images and labels."""
    members = {"train": [], "test": []}  # part -> [(file, class name)]
    must, seen = f"name_or_path='{path}': must", set()
    for name, folders in _without_wrapper(names, must):
        if len(folders) >= 2 and folders[0] in members:
            seen.add(tuple(folders[:2]))
            if Path(name).suffix.lower() in IMAGE_SUFFIXES:
                members[folders[0]].append((name, folders[1]))

    empty = sorted(seen - {(part, label) for part in members for _, label in members[part]})
    known = ", ".join(sorted(IMAGE_SUFFIXES))
    none = "/".join(empty[0]) if empty else ""
    require(not empty, f"{must} have images ({known}) in every class, {none} has none")
    classes = sorted({label for _, label in members["train"]})
    unknown = sorted({label for _, label in members["test"]} - set(classes))
    require(classes, f"{must} have images in train/<class>/, found none")
    require(len(classes) > 1, f"{must} have at least 2 classes, found only {classes}")
    require(not unknown, f"{must} have all its test classes in train, {unknown} are missing there")

    number = {label: i for i, label in enumerate(classes)}
    files = members["train"] + members["test"]
    images = _decode([name for name, _ in files], read, image_size, path.name)
    labels = torch.tensor([number[label] for _, label in files])
    end = len(members["train"])
    content = {"classes": classes, "train": (images[:end], labels[:end])}
    return content | ({"test": (images[end:], labels[end:])} if members["test"] else {})


def _without_wrapper(names: list[str], must: str) -> list[tuple[str, list[str]]]:
    """Each file that is not hidden, and its folders without the one a zip may have around all."""
    visible = [n for n in names if not (n.startswith(("__MACOSX", ".")) or "/." in n)]
    folders = [name.split("/")[:-1] for name in visible if not name.endswith("/")]
    visible = [name for name in visible if not name.endswith("/")]
    parts = ("train", "test")
    wrappers = {f[0] for f in folders if len(f) > 2 and f[1] in parts and f[0] not in parts}
    require(len(wrappers) < 2, f"{must} hold one train/, found several in {sorted(wrappers)}")
    around = {f[0] for f in folders if len(f) > 1}
    if len(around) == 1 and all(len(f) > 2 and f[1] in parts for f in folders if len(f) > 1):
        wrappers = around  # even if it is called train itself
    return [
        (name, f[1:] if f and f[0] in wrappers else f)
        for name, f in zip(visible, folders, strict=True)
    ]


def _decode(names: list[str], read, image_size: int | None, what: str) -> torch.Tensor:
    def decode(name: str) -> torch.Tensor:
        try:
            content = read(name)
            with Image.open(io.BytesIO(content)) as image:
                # Pillow cuts 16-bit colour to 8 bits; the header of a PNG has the depth there.
                deep = image.format == "PNG" and content[24] > 8
                require(image.mode[0] not in "IF" and not deep, "more than 8 bits per channel")
                grey = image.mode in ("1", "L", "LA")
                if image.has_transparency_data:
                    image = image.convert("RGBA")
                    white = Image.new("RGBA", image.size, "white")
                    image = Image.alpha_composite(white, image)
                pixels = torch.from_numpy(np.array(image.convert("L" if grey else "RGB")))
        except Exception as error:  # of many kinds, but always about this one file
            raise ValueError(f"{what}, {name}: must be a readable image ({error})") from error
        pixels = pixels[None] if grey else pixels.permute(2, 0, 1).contiguous()
        return pixels if image_size is None else _resize(pixels, image_size)

    with ThreadPoolExecutor() as pool:
        images = list(tqdm(pool.map(decode, names), f"decoding {what}", len(names), unit=" images"))
    sizes = sorted({tuple(image.shape[1:]) for image in images})
    require(
        len(sizes) == 1,
        f"image_size=None: must be given (in pixels) for images of different sizes; {what} has "
        f"{len(sizes)} sizes from {sizes[0]} to {sizes[-1]}",
    )
    channels = max(image.shape[0] for image in images)  # grey ones among colour ones
    return torch.stack([image.expand(channels, -1, -1) for image in images])


def _resize(images: torch.Tensor, size: int) -> torch.Tensor:
    """The central square of uint8 images (..., C, H, W), scaled to ``size`` pixels."""
    if images.shape[-2:] == (size, size):
        return images
    square = transforms.center_crop(images, [min(images.shape[-2:])])
    return transforms.resize(square, [size, size], antialias=True)


def _resize_all(images: ImageSet, size: int) -> ImageSet:
    if images.images.shape[-2:] == (size, size):
        return images
    chunks = images.images.split(1024)  # resizing goes through float: keep that small
    return ImageSet(torch.cat([_resize(chunk, size) for chunk in chunks]), images.labels)


def _read_cache(cache: Path, key: str) -> dict | None:
    try:
        content = torch.load(cache, mmap=True, weights_only=True)
        return content if content["key"] == key else None
    except Exception:  # missing, cut short or of another kind: decode again
        return None


def _write_cache(cache: Path, content: dict) -> None:
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        temporary = cache.with_suffix(f".{os.getpid()}.tmp")
        torch.save(content, temporary)
        os.replace(temporary, cache)  # a reader sees the old file or the whole new one
    except (OSError, RuntimeError) as error:
        warnings.warn(f"decoded images are not cached: {error}", stacklevel=2)


# --- Splits and statistics


def _stratified_order(labels: torch.Tensor, seed: int) -> torch.Tensor:
    """A random order of which every beginning is stratified and, if long enough, has all classes.

    The images of a class of n, shuffled, take the positions 0, 1/n, 2/n, ...; sorting all images
    by position, ties at random, mixes the classes in proportion.
    """
    labels = labels.numpy()
    random = np.random.default_rng(seed).random(len(labels))
    position = np.empty(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        position[members[np.argsort(random[members])]] = np.arange(len(members)) / len(members)
    return torch.from_numpy(np.lexsort((random, position)))


def _split(
    labels: torch.Tensor, indices: torch.Tensor, share: float, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """``indices`` in two stratified parts, the first with ``share`` of them."""
    order = indices[_stratified_order(labels[indices], seed)]
    size = round(share * len(order))
    return order[:size], order[size:]


def _channel_statistics(
    images: torch.Tensor, indices: torch.Tensor
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel on the 0..1 scale, from the counts of 0..255."""
    channels = images.shape[1]
    counts = torch.zeros(channels, 256, dtype=torch.float64)
    for part in indices.split(1024):  # counting widens the values: keep that small
        for channel, pixels in enumerate(images[part].unbind(1)):
            counts[channel] += torch.bincount(pixels.flatten(), minlength=256)
    weights = counts / counts.sum(1, keepdim=True)
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = weights @ values
    std = (weights @ values**2 - mean**2).clamp(min=0).sqrt()
    std[std < 1 / 255] = 1.0  # a constant channel: nothing to divide by
    return tuple(mean.tolist()), tuple(std.tolist())
