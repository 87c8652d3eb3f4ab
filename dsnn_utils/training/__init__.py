"""Data and training: image sets in memory, and one plain loop over them."""

from dsnn_utils.training.data import Dataset, load_dataset, take_fraction
from dsnn_utils.training.images import ImageSet
from dsnn_utils.training.loop import OPTIMIZERS, Diverged, evaluate, seed_everything, train

__all__ = [
    "Dataset",
    "Diverged",
    "ImageSet",
    "OPTIMIZERS",
    "evaluate",
    "load_dataset",
    "seed_everything",
    "take_fraction",
    "train",
]
