"""Decoded images on disk: shared, resumed, and made again when anything is wrong with them."""

import errno
import json
import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dsnn_utils.training import ImageSet, cache, images, load_dataset


@pytest.fixture
def pets(tmp_path) -> Path:
    generator = np.random.default_rng(0)
    for label in ("cat", "dog"):
        folder = tmp_path / "pets" / "train" / label
        folder.mkdir(parents=True)
        for number in range(10):
            pixels = generator.integers(0, 256, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "pets"


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """The names of the files that are decoded from now on."""
    names: list[str] = []
    decode = images.Decoding._decode

    def recorded(self, name):
        names.append(name)
        return decode(self, name)

    monkeypatch.setattr(images.Decoding, "_decode", recorded)
    return names


def load(pets: Path) -> torch.Tensor:
    return load_dataset(pets, root=pets.parent).train.images


def files(pets: Path) -> dict[str, Path]:
    return {path.suffix: path for path in (pets.parent / "cache").iterdir()}


def test_it_is_used(pets, decoded, monkeypatch):
    first = load(pets)
    assert set(files(pets)) - {".lock"} == {".images", ".json"}
    decoded.clear()
    assert torch.equal(load(pets), first) and not decoded
    monkeypatch.chdir(pets.parent)  # the same place by another name
    assert torch.equal(load_dataset("pets", root=".").train.images, first) and not decoded


def test_a_changed_image_is_seen(pets, decoded):
    before = load(pets)
    Image.new("RGB", (12, 12)).save(pets / "train" / "cat" / "0.png")
    decoded.clear()
    load_dataset(pets, root=pets.parent)
    assert len(set(decoded)) == 20
    assert set(files(pets)) - {".lock"} == {".images", ".json"}
    assert before.float().std() > 0  # the old data set still has its pixels


def flip_a_byte(content: bytes) -> bytes:
    return content[:50] + bytes([content[50] ^ 1]) + content[51:]


@pytest.mark.parametrize("suffix", [".images", ".json"])
@pytest.mark.parametrize(
    "damage",
    [
        flip_a_byte,
        lambda content: content[:-1],
        lambda content: b"",
        lambda content: content + b"0",
    ],
    ids=["wrong hash", "truncated", "empty", "longer"],
)
def test_a_damaged_one_is_made_again(pets, decoded, suffix, damage):
    first = load(pets).clone()
    path = files(pets)[suffix]
    content = path.read_bytes()
    path.write_bytes(damage(content))
    if suffix == ".images":
        os.utime(path, ns=(1, 1))
    decoded.clear()
    assert torch.equal(load(pets), first) and decoded
    if suffix == ".images":
        assert path.read_bytes() == content


def test_a_copied_one_is_good_if_its_hash_is(pets, decoded):
    first = load(pets)
    os.utime(files(pets)[".images"], ns=(1, 1))
    decoded.clear()
    assert torch.equal(load(pets), first) and not decoded


def test_a_description_of_another_kind(pets, decoded):
    first = load(pets)
    path = files(pets)[".json"]
    for content in ("[]", "{}", json.dumps(json.loads(path.read_text()) | {"shape": [1, 2]})):
        path.write_text(content)
        decoded.clear()
        assert torch.equal(load(pets), first) and decoded


def test_decoding_goes_on_where_it_was_killed(pets, decoded, monkeypatch):
    class Killed(BaseException):
        pass

    read = Path.read_bytes

    def killed_at_last(path):
        if path.match("dog/7.png"):
            raise Killed
        return read(path)

    monkeypatch.setattr(images.Decoding, "AHEAD", 4)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", killed_at_last)
        with pytest.raises(Killed):
            load(pets)
    part = files(pets)[".part"]
    with open(part, "ab") as file:
        file.write(b"half an image")
    decoded.clear()
    resumed = load(pets)
    assert 0 < len(set(decoded)) < 10 and ".part" not in files(pets)
    for path in files(pets).values():
        path.unlink()
    assert torch.equal(load(pets), resumed)


def test_two_processes_at_once_decode_once(pets):
    code = (
        "import sys, threading; from dsnn_utils.training import images, load_dataset\n"
        "decode, names = images.Decoding._decode, set()\n"
        "images.Decoding._decode = lambda self, n: names.add(n) or decode(self, n)\n"
        "print('ready', flush=True); input()\n"
        f"data = load_dataset({str(pets)!r}, root={str(pets.parent)!r})\n"
        "print(len(names), data.train.images.long().sum().item())"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    both = [subprocess.Popen([sys.executable, "-c", code], text=True, **pipes) for _ in range(2)]
    for process in both:
        process.stdout.readline()
    for process in both:
        process.stdin.write("\n")
        process.stdin.flush()
    counts, sums = zip(*(process.communicate()[0].split() for process in both), strict=True)
    # Each decodes the first image, to know its size; the rest only one of them.
    assert sorted(map(int, counts)) in ([0, 20], [1, 20]) and sums[0] == sums[1]


def one_warning(pets: Path) -> str:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert load(pets).shape == (13, 3, 12, 12)
    (warning,) = caught
    return str(warning.message)


def test_a_read_only_folder(pets, monkeypatch):
    folder = pets.parent / "cache"
    folder.mkdir()
    folder.chmod(0o500)
    if os.access(folder, os.W_OK):  # root may write everywhere

        def refused(*_):
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(images, "FileLock", refused)
    assert "not cached, nor shared between processes: " in one_warning(pets)
    assert not list(folder.iterdir())


def test_no_folder_can_be_made(pets):
    (pets.parent / "cache").write_text("a file")
    assert "not cached" in one_warning(pets)


def test_a_full_disk(pets, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache.os, "fsync", full)
    assert "No space left on device" in one_warning(pets)
    assert not set(files(pets)) - {".lock"}  # what was written is gone


def test_a_read_only_folder_with_a_good_cache_is_used(pets, decoded, monkeypatch):
    first = load(pets)
    monkeypatch.setattr(images, "FileLock", lambda _: pytest.fail("locked"))
    decoded.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(load(pets), first) and not decoded


def test_another_process_is_told_the_file_and_maps_it(pets):
    dataset = load_dataset(pets, root=pets.parent)
    sent = pickle.dumps(dataset.train[:5])
    assert len(sent) < dataset.train[:5].images.nbytes  # no pixels in it
    received = pickle.loads(sent)
    assert torch.equal(received.images, dataset.train.images[:5])
    assert torch.equal(received.labels, dataset.train.labels[:5])
    files(pets)[".images"].unlink()
    with pytest.raises(FileNotFoundError, match="must be there, unchanged, for every worker"):
        pickle.loads(sent)


def test_of_images_in_memory_only_the_part_is_sent():
    digits = load_dataset("digits")
    sent = pickle.dumps(digits.train[:5])
    assert len(sent) < 3000
    assert torch.equal(pickle.loads(sent).images, digits.train.images[:5])


def test_parts_share_their_pixels():
    pixels = torch.arange(40, dtype=torch.uint8).view(10, 1, 2, 2)
    whole = ImageSet(pixels, torch.arange(10))
    part = whole[torch.tensor([7, 3, 5])]
    assert part[1:].labels.tolist() == [3, 5] and torch.equal(part[1:].images, pixels[[3, 5]])
    assert torch.equal(part[torch.tensor([2])].images, pixels[5:6])
    assert whole[2:4].images.data_ptr() == pixels[2:].data_ptr()
    pixels[7] = 255  # through to the part: it holds no copy
    assert part.images[0].min() == 255
    assert part.shape == (1, 2, 2) and part.to(torch.device("cpu")) is part
