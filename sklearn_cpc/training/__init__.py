"""From images to a trained model."""

from .decoded import ImageFiles
from .feed import ImageFeed
from .images import Images, PixelScale, as_images
from .lazy import LazyImages
from .net import CPCNet, TrainingSettings, train
from .probe_recorder import ProbeRecorder
from .sources import open_images

__all__ = [
    "CPCNet",
    "ImageFeed",
    "ImageFiles",
    "Images",
    "LazyImages",
    "PixelScale",
    "ProbeRecorder",
    "TrainingSettings",
    "as_images",
    "open_images",
    "train",
]
