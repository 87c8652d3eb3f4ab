"""A folder of images, classified by a trained network."""

from pathlib import Path

import pandas as pd
import torch

from dsnn_utils.checks import require
from dsnn_utils.shift.modes import eval_mode
from dsnn_utils.training.images import IMAGE_SUFFIXES, Decoding
from dsnn_utils.training.networks import SavedNetwork


@torch.no_grad()
def classify(saved: SavedNetwork, folder: str | Path) -> pd.DataFrame:
    """What the network takes each image of a folder (and of those below it) for.

    `saved` comes from `load_network` or `load_onnx`. Images are cropped to the central square and
    resized to what the network was trained on. Columns: `file`, `class`, `probability` (0..1).
    Raises ValueError for a folder without images, and for colour images where it knows grey ones.
    """
    folder = Path(folder)
    name = f"folder={str(folder)!r}"
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    require(files, f"{name}: must be a folder with images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    height, width = saved.image_size
    require(height == width, f"saved: must be a network of square images, not {saved.image_size}")
    names = [path.relative_to(folder).as_posix() for path in files]
    decoding = Decoding(names, lambda name: (folder / name).read_bytes(), height, folder.name)
    images = decoding.into_memory()
    channels = len(saved.mean)
    fits = images.shape[1] in (1, channels)
    require(fits, f"{name}: must hold images of {channels} channel, not of {images.shape[1]}")
    mean, std = (torch.tensor(x).view(-1, 1, 1) for x in (saved.mean, saved.std))
    with eval_mode(saved.network):
        batches = images.expand(-1, channels, -1, -1).split(128)
        logits = torch.cat([saved.network((b.float() / 255 - mean) / std) for b in batches])
    probability, number = logits.softmax(1).max(1)
    classes = [saved.classes[i] for i in number.tolist()]
    return pd.DataFrame({"file": names, "class": classes, "probability": probability.numpy()})
