"""A directory or .zip of images, one folder per class: decoded once, then read from a cache."""

import hashlib
import io
import os
import warnings
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from PIL import Image
from torchvision.transforms.v2 import functional as transforms
from tqdm import tqdm

from dsnn_utils.checks import require
from dsnn_utils.training.cache import read_cache, write_cache

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp"}


class ImageSet:
    """Images, uint8 (N, C, H, W), and their class numbers, int64 (N,).

    A part of it, `image_set[indices]`, shares its pixels: they are only gathered when `images` is
    asked for, each time anew. `shape` is that of one image and costs nothing.
    """

    def __init__(self, images: torch.Tensor, labels: torch.Tensor):
        self._pixels, self.labels = images, labels
        self._rows: torch.Tensor | None = None  # of the pixels; None: all
        self._cache: tuple[Path, str] | None = None  # which file they are mapped from, and its key

    @property
    def images(self) -> torch.Tensor:
        return self._pixels if self._rows is None else self._pixels[self._rows]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        channels, height, width = self._pixels.shape[1:]
        return channels, height, width

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices) -> "ImageSet":
        """The images at `indices` (a tensor of integers or a slice), as an ImageSet."""
        part = ImageSet(self._pixels, self.labels[indices])
        part._cache = self._cache
        if self._rows is not None:
            part._rows = self._rows[indices]
        elif not isinstance(indices, slice):
            part._rows = indices
        elif self._cache is not None:
            part._rows = torch.arange(len(self))[indices]
        else:
            part._pixels = self._pixels[indices]
        return part

    def __reduce__(self):
        # Sent to another process, mapped images are only named: it maps the same file. Clones,
        # since of a part PyTorch would send the whole.
        labels = self.labels.clone()
        if self._cache is None:
            return ImageSet, (self.images.clone(), labels)
        return _from_cache, (
            *self._cache,
            labels,
            None if self._rows is None else self._rows.clone(),
        )

    def to(self, device: torch.device) -> "ImageSet":
        """The same on a device, the pixels gathered there; on a CPU it is this one."""
        if self._pixels.device == device:
            return self
        return ImageSet(self.images.to(device), self.labels.to(device))

    def __repr__(self) -> str:
        count = len(self)
        return f"ImageSet(images=uint8 {(count, *self.shape)}, labels=int64 {(count,)})"


def _from_cache(cache: Path, key: str, labels: torch.Tensor, rows: torch.Tensor | None) -> ImageSet:
    found = read_cache(cache, key)
    if found is None:
        raise FileNotFoundError(
            f"{cache}.images: must be there, unchanged, for every worker; on several machines, the "
            "folder given as root of load_dataset has to be a shared one"
        )
    part = ImageSet(found[0], labels)
    part._rows, part._cache = rows, (cache, key)
    return part


DECODING = 2  # changed with what is made of a file, so that older caches are decoded again


def _load_folder(path: Path, root: Path, image_size: int | None):
    """Images of a directory or zip, from the cache under `root` as long as nothing changed."""
    zipped = path.is_file()
    files = [path] if zipped else _files_below(path)
    status = [(str(file.relative_to(path)), file.stat()) for file in files]
    stamps = [(name, s.st_size, s.st_mtime_ns) for name, s in status]
    key = hashlib.sha256(f"{DECODING} {stamps}".encode()).hexdigest()
    place = hashlib.sha256(f"{path.resolve()} {image_size}".encode()).hexdigest()[:12]
    cache = root / "cache" / f"{path.stem}-{place}"

    found = read_cache(cache, key)
    if found is None:
        if zipped:
            must = f"name_or_path='{path}': must be a .zip file that can be read"
            require(zipfile.is_zipfile(path), must)
            with zipfile.ZipFile(path) as archive:
                found = _decode_all(path, archive.namelist(), archive.read, image_size, cache, key)
        else:
            names = [file.relative_to(path).as_posix() for file in files]
            read = lambda name: (path / name).read_bytes()  # noqa: E731
            found = _decode_all(path, names, read, image_size, cache, key)
    images, about = found
    labels, end = torch.tensor(about["labels"]), about["train_images"]
    everything = ImageSet(images, labels)
    if read_cache(cache, key) is not None:  # and not only in memory
        everything._cache = cache.resolve(), key
    return about["classes"], everything[:end], everything[end:] if end < len(labels) else None


def _files_below(path: Path) -> list[Path]:
    """The files of train/ and test/; ValueError for a class that is empty or cannot be read."""

    def refuse(error: OSError):  # os.walk would pass over it
        where = f"name_or_path='{path}': must be readable, {error.filename} is not"
        raise ValueError(f"{where} ({error.strerror})") from error

    parts = [path / part for part in ("train", "test") if (path / part).is_dir()]
    found = [
        Path(folder, name)
        for part in parts
        for folder, _, names in os.walk(part, onerror=refuse, followlinks=True)
        for name in names
        if not name.startswith(".")
    ]
    files = sorted(file for file in found if file.is_file())  # a link may lead nowhere
    inhabited = {folder for file in files for folder in file.parents}
    classes = sorted(c for part in parts for c in part.iterdir() if c.is_dir())
    empty = [c for c in classes if c not in inhabited and not c.name.startswith(".")]
    none = empty[0].relative_to(path).as_posix() if empty else ""
    must = f"name_or_path='{path}': must have images in every class"
    require(not (files and empty), f"{must}, {none} is empty")
    return files


def _decode_all(
    path: Path, names: list[str], read, image_size: int | None, cache: Path, key: str
) -> tuple[torch.Tensor, dict]:
    """All images, those for training first, and class names, labels and how many are for training.

    They are decoded into the cache, by one process at a time, or into memory where it has no place.
    """
    members: dict[str, list[tuple[str, str]]] = {"train": [], "test": []}  # (file, class name)
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
    labels = [number[label] for _, label in files]
    about = {"classes": classes, "labels": labels, "train_images": len(members["train"])}
    decoding = Decoding([name for name, _ in files], read, image_size, path.name)
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(cache.with_name(f"{cache.name}.lock")):
            found = read_cache(cache, key)  # by the process that was waited for
            if found is None:
                for shape in decoding.shapes():
                    with suppress(_Coloured):
                        write_cache(cache, key, shape, decoding.images_from, about)
                        break
                found = read_cache(cache, key)
        if found is not None:
            return found
        error: Exception = OSError("they changed while they were written")
    except OSError as refused:
        error = refused
    warnings.warn(
        f"decoded images are not cached, nor shared between processes: {error}", stacklevel=2
    )
    return decoding.into_memory(), about


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


class _Coloured(Exception):
    """The first image was grey, this one is not: all have to have three channels."""


class Decoding:
    """Images of the same size and number of channels, made of files by several threads."""

    AHEAD = 1024  # images that may be decoded before they are asked for

    def __init__(self, names: list[str], read, image_size: int | None, what: str):
        self.names, self.read, self.image_size, self.what = names, read, image_size, what
        self.first = self._decode(names[0])
        self.channels = self.first.shape[0]

    def shapes(self) -> Iterator[tuple[int, ...]]:
        """The shape of all images; if they turn out to be coloured, that with three channels."""
        size = self.first.shape[1:]
        yield len(self.names), self.channels, *size
        self.channels = 3
        yield len(self.names), 3, *size

    def images_from(self, start: int) -> Iterator[np.ndarray]:
        """Images number `start` and on, uint8 (C, H, W)."""
        progress = tqdm(
            desc=f"decoding {self.what}", total=len(self.names), initial=start, unit=" images"
        )
        with ThreadPoolExecutor() as pool, progress:
            for chunk in range(start, len(self.names), self.AHEAD):
                for image in pool.map(self._decode, self.names[chunk : chunk + self.AHEAD]):
                    if image.shape[1:] != self.first.shape[1:]:
                        self._refuse_sizes()
                    if image.shape[0] > self.channels:
                        raise _Coloured
                    yield image.expand(self.channels, -1, -1).numpy()
                    progress.update()

    def into_memory(self) -> torch.Tensor:
        for shape in self.shapes():
            images = torch.empty(shape, dtype=torch.uint8)
            with suppress(_Coloured):
                for number, image in enumerate(self.images_from(0)):
                    images[number] = torch.from_numpy(image)
                break
        return images

    def _decode(self, name: str) -> torch.Tensor:
        with self._open(name) as image:
            grey = image.mode in ("1", "L", "LA")
            opaque = _on_white(image) if image.has_transparency_data else image
            pixels = torch.from_numpy(np.array(opaque.convert("L" if grey else "RGB")))
        pixels = pixels[None] if grey else pixels.permute(2, 0, 1).contiguous()
        return pixels if self.image_size is None else _resize(pixels, self.image_size)

    @contextmanager
    def _open(self, name: str) -> Iterator[Image.Image]:
        try:
            content = self.read(name)
            with Image.open(io.BytesIO(content)) as image:
                # Pillow cuts 16-bit colour to 8 bits; the header of a PNG has the depth there.
                deep = image.format == "PNG" and content[24] > 8
                require(image.mode[0] not in "IF" and not deep, "more than 8 bits per channel")
                yield image
        except Exception as error:  # of many kinds, but always about this one file
            raise ValueError(f"{self.what}, {name}: must be a readable image ({error})") from error

    def _refuse_sizes(self) -> None:
        def size(name: str) -> tuple[int, int]:
            with self._open(name) as image:
                return image.height, image.width

        with ThreadPoolExecutor() as pool:
            sizes = sorted(set(pool.map(size, self.names)))
        raise ValueError(
            f"image_size=None: must be given (in pixels) for images of different sizes; "
            f"{self.what} has {len(sizes)} sizes from {sizes[0]} to {sizes[-1]}"
        )


def _on_white(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def _resize(images: torch.Tensor, size: int) -> torch.Tensor:
    """The central square of uint8 images (..., C, H, W), scaled to `size` pixels."""
    if images.shape[-2:] == (size, size):
        return images
    square = transforms.center_crop(images, [min(images.shape[-2:])])
    return transforms.resize(square, [size, size], antialias=True)


def _resize_all(images: ImageSet, size: int) -> ImageSet:
    if images.shape[1:] == (size, size):
        return images
    chunks = torch.arange(len(images)).split(1024)  # resizing goes through float: keep that small
    resized = torch.cat([_resize(images[chunk].images, size) for chunk in chunks])
    return ImageSet(resized, images.labels)
