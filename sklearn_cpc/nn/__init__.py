"""CPC as torch modules: tensors in, tensors out. Knows torch alone."""

from .augment import AUGMENTATIONS, Augmentation
from .context import CONTEXTS, GatedPixelCNN, PixelCNN, make_context
from .custom import AdoptedEncoder, adopt_context, adopt_encoder, name_of
from .dictionary import DictionaryEncoder
from .encoders import ENCODERS, ConvEncoder, make_encoder
from .features import ImageFeatures
from .greedy import GREEDY, encoder_stages
from .heads import ContrastiveHeads, CPCOutput, first_row_first
from .layers import NORMS, ChannelNorm
from .loss import OBJECTIVES, contrast, contrast_drawn, info_nce
from .model import OUTPUTS, CPCModel, plan_heads
from .names import check_name
from .negatives import NEGATIVES, OwnNegatives, SlowTargets, TargetQueue, choose_negatives
from .patches import DIRECTIONS, PatchGrid
from .pooling import POOLINGS, n_pooled, pool, pool_images
from .resnets import ResNetEncoder, WideResNetEncoder
from .sequence_contexts import RowGRU, RowTransformer

__all__ = [
    "AUGMENTATIONS",
    "CONTEXTS",
    "DIRECTIONS",
    "ENCODERS",
    "GREEDY",
    "NEGATIVES",
    "NORMS",
    "OBJECTIVES",
    "OUTPUTS",
    "POOLINGS",
    "AdoptedEncoder",
    "Augmentation",
    "CPCModel",
    "CPCOutput",
    "ChannelNorm",
    "ContrastiveHeads",
    "ConvEncoder",
    "DictionaryEncoder",
    "GatedPixelCNN",
    "ImageFeatures",
    "OwnNegatives",
    "PatchGrid",
    "PixelCNN",
    "ResNetEncoder",
    "RowGRU",
    "RowTransformer",
    "SlowTargets",
    "TargetQueue",
    "WideResNetEncoder",
    "adopt_context",
    "adopt_encoder",
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
    "name_of",
    "plan_heads",
    "pool",
    "pool_images",
]
