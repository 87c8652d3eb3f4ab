"""A directory or .zip of images, one folder per class: decoded once, then read from a cache."""

import hashlib
import io
import os
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as transforms
from tqdm import tqdm

from dsnn_utils.checks import require

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp"}


@dataclass(frozen=True, eq=False, repr=False)
class ImageSet:
    """Images, uint8 (N, C, H, W), and their class numbers, int64 (N,)."""

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices) -> "ImageSet":
        """The images at `indices` (a tensor of integers or a slice), as an ImageSet."""
        return ImageSet(self.images[indices], self.labels[indices])

    def __repr__(self) -> str:
        images, labels = (tuple(tensor.shape) for tensor in (self.images, self.labels))
        return f"ImageSet(images=uint8 {images}, labels=int64 {labels})"


DECODING = 2  # changed with what is made of a file, so that older caches are decoded again


def _load_folder(path: Path, root: Path, image_size: int | None):
    """Images of a directory or zip, from the cache under `root` as long as nothing changed."""
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


def _decode_all(path: Path, names: list[str], read, image_size: int | None) -> dict:
    """Class names and, for each part there is, its decoded images and labels."""
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
                opaque = _on_white(image) if image.has_transparency_data else image
                pixels = torch.from_numpy(np.array(opaque.convert("L" if grey else "RGB")))
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
