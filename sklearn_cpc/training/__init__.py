"""From images to a trained model."""

from .feed import ImageFeed
from .images import Images, PixelScale, as_images
from .net import CPCNet, TrainingSettings, train
from .probe_recorder import ProbeRecorder

__all__ = [
    "CPCNet",
    "ImageFeed",
    "Images",
    "PixelScale",
    "ProbeRecorder",
    "TrainingSettings",
    "as_images",
    "train",
]
