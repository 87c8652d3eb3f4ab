"""Loading, splitting and caching of images."""

import dataclasses
import gzip
import os
import shutil
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision import datasets

from dsnn_utils.training import Dataset, ImageSet, load_dataset, take_fraction

IDX_FILES = Path("/usr/share/datasets/fashion-mnist")  # Debian's dataset-fashion-mnist


def rows(images: ImageSet) -> list[bytes]:
    """One value per image, to compare parts with."""
    return [image.numpy().tobytes() for image in images.images]


def draw_folder(
    path: Path, size=12, per_class=10, classes=("cat", "dog"), parts=("train",)
) -> Path:
    """A directory in ImageFolder layout with random colour images."""
    generator = np.random.default_rng(0)
    for part in parts:
        for label in classes:
            (path / part / label).mkdir(parents=True)
            for i in range(per_class):
                pixels = generator.integers(0, 256, (size, size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(path / part / label / f"{i}.png")
    return path


def zip_folder(source: Path, target: Path, top: str = "") -> Path:
    with zipfile.ZipFile(target, "w") as archive:
        for file in sorted(source.rglob("*.*")):
            archive.write(file, Path(top, file.relative_to(source)))
    return target


# --- digits


def test_digits():
    digits = load_dataset()
    assert digits.name == "digits" and digits.classes == tuple("0123456789")
    assert (digits.num_classes, digits.in_channels, digits.image_size) == (10, 1, (8, 8))
    assert not digits.flip
    parts = (digits.train, digits.validation, digits.test)
    assert [len(part) for part in parts] == [1150, 288, 359]
    for part in parts:
        assert part.images.dtype == torch.uint8 and part.images.is_contiguous()
        assert part.images.shape == (len(part), 1, 8, 8) and part.labels.shape == (len(part),)
        assert part.labels.dtype == torch.int64
        assert part.images.min() == 0 and part.images.max() == 255
        counts = part.labels.bincount() / len(part)
        assert (counts - 0.1).abs().max() < 0.01
    together = sorted(sum(map(rows, parts), []))
    from sklearn.datasets import load_digits

    images = np.rint(load_digits().images * 255 / 16).astype(np.uint8)
    assert together == sorted(image.tobytes() for image in images)


def test_mean_and_std_are_those_of_all_training_images():
    digits, few = load_dataset(), load_dataset(train_size=20)
    pixels = digits.train.images.double() / 255
    assert digits.mean == pytest.approx((pixels.mean().item(),), rel=1e-12)
    assert digits.std == pytest.approx((pixels.std(correction=0).item(),), rel=1e-9)
    assert (few.mean, few.std) == (digits.mean, digits.std)


def test_splits_follow_the_seed():
    first, again, other = load_dataset(seed=1), load_dataset(seed=1), load_dataset(seed=2)
    for part in ("train", "validation", "test"):
        assert rows(getattr(first, part)) == rows(getattr(again, part))
    assert set(rows(first.validation)) != set(rows(other.validation))
    assert rows(first.test) == rows(other.test)


def test_train_size_changes_the_training_part_only():
    small, large, full = (load_dataset(train_size=n) for n in (10, 100, None))
    assert small.train.labels.bincount().tolist() == [1] * 10
    assert large.train.labels.bincount(minlength=10).tolist() == [10] * 10
    assert set(rows(small.train)) < set(rows(large.train)) < set(rows(full.train))
    assert rows(small.validation) == rows(full.validation) and rows(small.test) == rows(full.test)
    assert large.train.labels.tolist() != sorted(large.train.labels.tolist())  # mixed


@given(
    counts=st.lists(st.integers(1, 30), min_size=2, max_size=6),
    fraction=st.floats(0.001, 1),
    seed=st.integers(0, 5),
)
def test_fractions_are_stratified_and_nested(counts, fraction, seed):
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    images = torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1, 1)  # each its own number
    part = ImageSet(images, labels)
    dataset = Dataset("numbers", tuple("abcdef"[: len(counts)]), part, part, None, (0.5,), (0.2,))

    taken = take_fraction(dataset, fraction, seed)
    size = len(taken.train)
    assert size == max(len(counts), round(fraction * len(labels)))
    numbers = taken.train.images.flatten().tolist()
    assert len(set(numbers)) == size and labels[numbers].tolist() == taken.train.labels.tolist()
    for count, found in zip(counts, taken.train.labels.bincount().tolist(), strict=True):
        share = count / len(labels)
        assert found >= 1
        assert (size - len(counts)) * share - 1e-9 <= found <= size * share + 1 + 1e-9
    half = take_fraction(dataset, fraction / 2, seed).train.images.flatten().tolist()
    assert set(half) <= set(numbers)
    assert taken.validation is dataset.validation


@pytest.mark.parametrize("fraction", [0, -0.5, 1.5, "0.5", float("nan")])
def test_bad_fraction(fraction):
    with pytest.raises(ValueError, match=r"^fraction=.*: must be a number above 0 and up to 1"):
        take_fraction(load_dataset(train_size=10), fraction)


# --- directories and zip files


def test_folder_and_zip_hold_the_same(tmp_path):
    folder = draw_folder(tmp_path / "pets", parts=("train", "test"))
    (folder / "train" / "cat" / "notes.txt").write_text("not an image")
    (folder / "train" / "dog" / "._0.png").write_text("a Mac's shadow of 0.png")
    plain = load_dataset(folder, root=tmp_path)
    zipped = load_dataset(str(zip_folder(folder, tmp_path / "pets.zip", "top")), root=tmp_path)
    for dataset in (plain, zipped):
        assert dataset.name == "pets" and dataset.classes == ("cat", "dog") and dataset.flip
        assert [len(p) for p in (dataset.train, dataset.validation, dataset.test)] == [16, 4, 20]
        assert dataset.train.images.shape[1:] == (3, 12, 12)
        assert dataset.validation.labels.bincount().tolist() == [2, 2]
    for part in ("train", "validation", "test"):
        assert rows(getattr(plain, part)) == rows(getattr(zipped, part))
    with Image.open(folder / "test" / "dog" / "3.png") as image:
        assert torch.equal(plain.test.images[13].permute(1, 2, 0), torch.tensor(np.array(image)))
    assert plain.test.labels.tolist() == [0] * 10 + [1] * 10


def test_folder_without_test_part_gives_up_some(tmp_path):
    dataset = load_dataset(draw_folder(tmp_path / "pets"), root=tmp_path, seed=7)
    assert [len(p) for p in (dataset.train, dataset.validation, dataset.test)] == [13, 3, 4]
    assert not set(rows(dataset.test)) & set(rows(dataset.train) + rows(dataset.validation))


def test_grey_images_have_one_channel_unless_mixed_with_colour(tmp_path):
    folder = draw_folder(tmp_path / "grey")
    for file in folder.rglob("*.png"):
        with Image.open(file) as image:
            image.convert("L").save(file)
    assert load_dataset(folder, root=tmp_path).in_channels == 1
    draw_folder(folder, classes=("colour",))
    mixed = load_dataset(folder, root=tmp_path)
    assert mixed.in_channels == 3
    grey = mixed.train.images[mixed.train.labels == mixed.classes.index("cat")]
    assert torch.equal(grey[:, 0], grey[:, 2])


def test_image_size_resizes(tmp_path):
    folder = draw_folder(tmp_path / "pets", size=12)
    Image.new("RGB", (40, 20), (200, 100, 50)).save(folder / "train" / "cat" / "wide.jpg")
    with pytest.raises(ValueError, match=r"^image_size=None: must be given .*\(12, 12\)"):
        load_dataset(folder, root=tmp_path)
    dataset = load_dataset(folder, root=tmp_path, image_size=10)
    assert dataset.image_size == (10, 10)
    everything = torch.cat([dataset.train.images, dataset.validation.images, dataset.test.images])
    wide = torch.tensor([200, 100, 50]).view(3, 1, 1)
    assert ((everything - wide).abs() < 6).flatten(1).all(1).sum() == 1

    larger = load_dataset(image_size=16)  # digits, as a batch
    assert larger.image_size == (16, 16) and larger.test.images.shape == (359, 1, 16, 16)
    original = load_dataset().train.images.double().mean().item()
    assert larger.train.images.double().mean().item() == pytest.approx(original, rel=0.02)


def test_a_constant_channel_does_not_divide_by_zero(tmp_path):
    folder = tmp_path / "red"
    for label in "ab":
        (folder / "train" / label).mkdir(parents=True)
        for i in range(5):
            Image.new("RGB", (4, 4), (10 * i, 0, 255)).save(folder / "train" / label / f"{i}.png")
    dataset = load_dataset(folder, root=tmp_path)
    assert dataset.mean[1:] == (0.0, 1.0) and min(dataset.std) > 0


# --- bad input: one clear error


def test_bad_folders(tmp_path):
    def load(path):
        return load_dataset(path, root=tmp_path)

    with pytest.raises(ValueError, match="digits, cifar10, fashion_mnist, or an existing dir"):
        load("cifar100")
    with pytest.raises(ValueError, match=r"name_or_path='.*missing': must be one of digits"):
        load(tmp_path / "missing")
    with pytest.raises(ValueError, match="name_or_path=3: must be a name or a path"):
        load(3)
    (tmp_path / "empty" / "train" / "cat").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"empty': must have images in train/<class>/"):
        load(tmp_path / "empty")
    one = draw_folder(tmp_path / "one", classes=("cat",))
    with pytest.raises(ValueError, match=r"at least 2 classes, found only \['cat'\]"):
        load(one)
    other = draw_folder(tmp_path / "other")
    draw_folder(other, classes=("cow",), parts=("test",))
    with pytest.raises(ValueError, match=r"test classes in train, \['cow'\] are missing"):
        load(other)
    few = draw_folder(tmp_path / "few")
    draw_folder(few, classes=("rare",), per_class=1)
    with pytest.raises(ValueError, match=r"validation_share=0\.2: must leave .* 'rare'"):
        load(few)
    broken = draw_folder(tmp_path / "broken")
    (broken / "train" / "dog" / "1.png").write_bytes(b"\x89PNG nothing")
    with pytest.raises(ValueError, match=r"train/dog/1\.png: must be a readable image"):
        load(broken)
    Image.fromarray(np.zeros((12, 12), np.uint16)).save(broken / "train" / "dog" / "1.png")
    with pytest.raises(ValueError, match=r"dog/1\.png.*more than 8 bits"):
        load(broken)
    (tmp_path / "text.zip").write_text("not a zip")
    with pytest.raises(ValueError, match=r"text\.zip': must be a \.zip file that can be read"):
        load(tmp_path / "text.zip")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train_size": 9}, r"train_size=9: must be from 10 .* to 1150"),
        ({"train_size": 1151}, r"train_size=1151: must be from 10 .* to 1150"),
        ({"train_size": 0}, "train_size=0: must be an integer from 1 to 1000000000 or None"),
        (
            {"train_size": 100.0},
            r"train_size=100\.0: must be an integer from 1 to 1000000000 or None",
        ),
        (
            {"validation_share": 0},
            "validation_share=0: must be a number from 0 to 1, but not 0 or 1",
        ),
        (
            {"validation_share": 1.0},
            r"validation_share=1\.0: must be a number from 0 to 1, but not 0 or 1",
        ),
        ({"validation_share": "0.2"}, r"validation_share='0\.2': must be a number from"),
        ({"validation_share": 0.001}, r"validation_share=0\.001: must leave an image of each"),
        ({"image_size": -8}, "image_size=-8: must be an integer from 1 to 1024 or None"),
        ({"seed": -1}, "seed=-1: must be an integer from 0 to"),
        ({"seed": True}, "seed=True: must be an integer from 0 to"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        load_dataset(**arguments)


# --- torchvision's data sets


def test_failed_download_says_what_to_do(tmp_path, monkeypatch):
    nowhere = "http://127.0.0.1:9/"  # refuses at once
    monkeypatch.setattr(datasets.CIFAR10, "url", nowhere + "cifar-10-python.tar.gz")
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [nowhere])
    with pytest.raises(RuntimeError, match=r"cifar10: no usable files .*127\.0\.0\.1.*python.tar"):
        load_dataset("cifar10", root=tmp_path)
    with pytest.raises(RuntimeError, match=r"fashion_mnist: .*127\.0\.0\.1.*FashionMNIST.raw"):
        load_dataset("fashion_mnist", root=tmp_path)


@pytest.mark.skipif(not IDX_FILES.is_dir(), reason=f"no idx files in {IDX_FILES}")
def test_fashion_mnist_from_local_files(tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for file in IDX_FILES.glob("*.gz"):
        with gzip.open(file) as packed, open(raw / file.stem, "wb") as plain:
            shutil.copyfileobj(packed, plain)
    dataset = load_dataset("fashion_mnist", root=tmp_path, train_size=1000)
    assert dataset.classes[9] == "Ankle boot" and dataset.image_size == (28, 28)
    assert [len(p) for p in (dataset.train, dataset.validation, dataset.test)] == [
        1000,
        12000,
        10000,
    ]
    assert dataset.train.labels.bincount().tolist() == [100] * 10
    assert dataset.mean == pytest.approx((0.286,), abs=0.002)  # the usual constants
    assert dataset.std == pytest.approx((0.353,), abs=0.002)


@pytest.mark.skipif("DSNN_CIFAR10" not in os.environ, reason="DSNN_CIFAR10 is not set")
def test_cifar10_at_hand(pytestconfig):
    root = pytestconfig.cache.mkdir("cifar10")  # stays: decoding takes some 10 seconds
    load_dataset(os.environ["DSNN_CIFAR10"], root=root)
    before = private_memory_mb()
    dataset = load_dataset(os.environ["DSNN_CIFAR10"], root=root)
    assert private_memory_mb() - before < 400
    assert dataset.classes[0] == "airplane" and dataset.classes[9] == "truck"
    assert dataset.image_size == (32, 32) and dataset.in_channels == 3
    for part, per_class in (
        (dataset.train, 4000),
        (dataset.validation, 1000),
        (dataset.test, 1000),
    ):
        assert part.images.dtype == torch.uint8
        assert part.labels.bincount().tolist() == [per_class] * 10
    assert dataset.mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=0.002)
    assert dataset.std == pytest.approx((0.2470, 0.2435, 0.2616), abs=0.002)


def private_memory_mb() -> float:
    status = Path("/proc/self/status")
    if not status.exists():  # not Linux
        return 0.0
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(lines["RssAnon"].split()[0]) / 1024


def test_a_dataset_is_a_plain_object():
    digits = load_dataset(train_size=10)
    assert repr(digits.train) == "ImageSet(images=uint8 (10, 1, 8, 8), labels=int64 (10,))"
    assert len(repr(digits)) < 500
    assert dataclasses.replace(digits, flip=True).flip
    with pytest.raises(dataclasses.FrozenInstanceError):
        digits.flip = True


# --- odd files


def save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def odd_folder(root: Path, image: Image.Image) -> Path:
    for label in "ab":
        for number in range(5):
            save(image, root / "train" / label / f"{number}.png")
    return root


def test_transparent_images_stand_on_white(tmp_path):
    icon = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    icon.putpixel((0, 0), (200, 10, 20, 255))
    pixels = load_dataset(odd_folder(tmp_path / "icons", icon), root=tmp_path).train.images[0]
    assert pixels[:, 0, 0].tolist() == [200, 10, 20] and pixels[:, 1, 1].tolist() == [255] * 3
    grey = Image.new("LA", (4, 4), (0, 0))
    images = load_dataset(odd_folder(tmp_path / "grey", grey), root=tmp_path).train.images
    assert images.shape[1] == 1 and images.min() == 255


def test_deep_colour_is_refused(tmp_path):
    folder = odd_folder(tmp_path / "deep", Image.new("RGB", (4, 4)))
    file = folder / "train" / "a" / "0.png"
    content = bytearray(file.read_bytes())
    content[24] = 16  # the bit depth in the header
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    file.write_bytes(content)
    with pytest.raises(ValueError, match="0.png: must be a readable image.*more than 8 bits"):
        load_dataset(folder, root=tmp_path)


def test_no_class_vanishes_and_none_is_invented(tmp_path):
    folder = odd_folder(tmp_path / "pets", Image.new("RGB", (4, 4)))
    (folder / "train" / "a" / ".#note").symlink_to("nowhere")
    (folder / "train" / "a" / "gone.png").symlink_to("nowhere")
    assert len(load_dataset(folder, root=tmp_path).classes) == 2
    (folder / "train" / "c").mkdir()
    with pytest.raises(ValueError, match="must have images in every class, train/c is empty"):
        load_dataset(folder, root=tmp_path)
    (folder / "train" / "c" / "0.avif").write_text("")
    with pytest.raises(ValueError, match="in every class, train/c has none"):
        load_dataset(folder, root=tmp_path)
    for file in (folder / "train").glob("*/*"):
        if file.suffix == ".avif" or file.is_symlink():
            file.unlink()
    zipped = zip_folder(folder, tmp_path / "a.zip", "train")  # all within a folder called train
    assert load_dataset(zipped, root=tmp_path).classes == ("a", "b")
    with zipfile.ZipFile(zip_folder(folder, tmp_path / "b.zip", "x"), "a") as archive:
        archive.write(folder / "train" / "a" / "0.png", "y/train/a/0.png")
    with pytest.raises(ValueError, match=r"must hold one train/, found several in \['x', 'y'\]"):
        load_dataset(tmp_path / "b.zip", root=tmp_path)
