"""Decoded images in a file that all processes of a machine map into memory and so share.

`NAME.images` has the pixels, nothing else, and `NAME.json` says what they are: made of what (a
key), shape, size and hash. Pages that are not in use take no memory, so the images may be more than
the machine has.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch


def read_cache(place: Path, key: str) -> tuple[torch.Tensor, dict] | None:
    """The images, mapped, and what was said about them; None where there are none or others.

    A file of another size is damaged. One that was touched since it was written has to have the
    hash it had then; reading all of it each time would take minutes for large data sets.
    """
    pixels, description = _files(place)
    try:
        known = json.loads(description.read_text())
        status = pixels.stat()
        untouched = status.st_mtime_ns == known["written_ns"]
        if known["key"] != key or status.st_size != np.prod(known["shape"]):
            return None
        if not untouched:
            if _sha256(pixels) != known["sha256"]:
                return None
            with suppress(OSError):  # so that the next reader need not do that again
                os.utime(pixels, ns=(known["written_ns"], known["written_ns"]))
        # "c": writing to it would change this process's copy only, and PyTorch insists on "could".
        images = np.memmap(pixels, np.uint8, "c", shape=tuple(known["shape"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return torch.from_numpy(images), known["about"]


def write_cache(
    place: Path,
    key: str,
    shape: tuple[int, ...],
    images_from: Callable[[int], Iterator[np.ndarray]],
    about: dict,
) -> None:
    """Write the images one after another; raises OSError where that cannot be done.

    `shape` is that of all of them, `images_from` gives those from a number on: what another process
    wrote before it was killed is kept. A reader sees the old files or the new ones. Only one
    process at a time may write.
    """
    pixels, description = _files(place)
    size = int(np.prod(shape[1:]))
    part = place.with_name(f"{place.name}.{key[:12]}-{shape[1]}.part")
    done = part.stat().st_size // size if part.exists() else 0
    digest = hashlib.sha256()
    try:
        with open(part, "r+b" if done else "w+b") as file:
            for _ in range(done):
                digest.update(file.read(size))
            file.truncate()
            for image in images_from(done):
                content = image.tobytes()
                digest.update(content)
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if _sha256(part) != digest.hexdigest():
            raise OSError(f"{part} is not what was written to it")
    except OSError:
        part.unlink(missing_ok=True)  # a full disk is full because of it
        raise
    known = {
        "key": key,
        "shape": shape,
        "written_ns": part.stat().st_mtime_ns,
        "sha256": digest.hexdigest(),
        "about": about,
    }
    described = description.with_suffix(".json.part")
    described.write_text(json.dumps(known))
    os.replace(part, pixels)
    os.replace(described, description)
    for other in place.parent.glob(f"{place.name}.*.part"):  # of files that have changed since
        other.unlink(missing_ok=True)


def _files(place: Path) -> tuple[Path, Path]:
    return place.with_name(f"{place.name}.images"), place.with_name(f"{place.name}.json")


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
