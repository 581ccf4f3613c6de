"""CPC as torch modules: tensors in, tensors out. Knows torch alone."""

from .augment import AUGMENTATIONS, Augmentation
from .context import CONTEXTS, PixelCNN, make_context
from .encoders import ENCODERS, ChannelNorm, ConvEncoder, ResNetEncoder, check_name, make_encoder
from .greedy import GREEDY, encoder_stages
from .heads import ContrastiveHeads, CPCOutput, first_row_first
from .loss import OBJECTIVES, contrast, contrast_drawn, info_nce
from .model import OUTPUTS, CPCModel, plan_heads
from .negatives import NEGATIVES, OwnNegatives, TargetQueue, choose_negatives
from .patches import DIRECTIONS, PatchGrid
from .pooling import POOLINGS, n_pooled, pool

__all__ = [
    "AUGMENTATIONS",
    "CONTEXTS",
    "DIRECTIONS",
    "ENCODERS",
    "GREEDY",
    "NEGATIVES",
    "OBJECTIVES",
    "OUTPUTS",
    "POOLINGS",
    "Augmentation",
    "CPCModel",
    "CPCOutput",
    "ChannelNorm",
    "ContrastiveHeads",
    "ConvEncoder",
    "OwnNegatives",
    "PatchGrid",
    "PixelCNN",
    "ResNetEncoder",
    "TargetQueue",
    "check_name",
    "choose_negatives",
    "contrast",
    "contrast_drawn",
    "encoder_stages",
    "first_row_first",
    "info_nce",
    "make_context",
    "make_encoder",
    "n_pooled",
    "plan_heads",
    "pool",
]
