"""From images to a trained model."""

from .feed import ImageFeed
from .images import Images, PixelScale, as_images
from .net import CPCNet, TrainingSettings, train

__all__ = ["CPCNet", "ImageFeed", "Images", "PixelScale", "TrainingSettings", "as_images", "train"]
