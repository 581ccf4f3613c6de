"""Random changes of images and patches, batched, on the tensor's own device."""

from .augmentation import AUGMENTATIONS, Augmentation
from .autoaugment import PRIMITIVES

__all__ = ["AUGMENTATIONS", "PRIMITIVES", "Augmentation"]
