"""CPC as torch modules: tensors in, tensors out. Knows torch alone."""

from .augment import AUGMENTATIONS, Augmentation
from .context import CONTEXTS, PixelCNN, make_context
from .encoders import ENCODERS, ChannelNorm, ConvEncoder, ResNetEncoder, check_name, make_encoder
from .loss import info_nce
from .model import CPCModel, CPCOutput, first_row_first, plan_heads
from .patches import DIRECTIONS, PatchGrid
from .pooling import POOLINGS, n_pooled, pool

__all__ = [
    "AUGMENTATIONS",
    "CONTEXTS",
    "DIRECTIONS",
    "ENCODERS",
    "POOLINGS",
    "Augmentation",
    "CPCModel",
    "CPCOutput",
    "ChannelNorm",
    "ConvEncoder",
    "PatchGrid",
    "PixelCNN",
    "ResNetEncoder",
    "check_name",
    "first_row_first",
    "info_nce",
    "make_context",
    "make_encoder",
    "n_pooled",
    "plan_heads",
    "pool",
]
