"""Data and training: image sets in memory, and one plain loop over them."""

from dsnn_utils.training.data import Dataset, load_dataset, take_fraction
from dsnn_utils.training.images import ImageSet
from dsnn_utils.training.loop import (
    OPTIMIZERS,
    Diverged,
    evaluate,
    predict,
    seed_everything,
    train,
)
from dsnn_utils.training.networks import SavedNetwork, load_network, plain_copy, save_network

__all__ = [
    "Dataset",
    "Diverged",
    "ImageSet",
    "OPTIMIZERS",
    "SavedNetwork",
    "evaluate",
    "load_dataset",
    "load_network",
    "plain_copy",
    "predict",
    "save_network",
    "seed_everything",
    "take_fraction",
    "train",
]
