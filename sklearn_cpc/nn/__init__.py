"""CPC as torch modules: tensors in, tensors out. Knows torch alone."""

from .augment import AUGMENTATIONS, Augmentation
from .context import CONTEXTS, GatedPixelCNN, PixelCNN, make_context
from .custom import AdoptedEncoder, adopt_context, adopt_encoder, name_of
from .encoders import ENCODERS, ConvEncoder, make_encoder
from .layers import NORMS, ChannelNorm
from .loss import info_nce
from .model import CPCModel, CPCOutput, first_row_first, plan_heads
from .names import check_name
from .patches import DIRECTIONS, PatchGrid
from .pooling import POOLINGS, n_pooled, pool
from .resnets import ResNetEncoder, WideResNetEncoder
from .sequence_contexts import RowGRU, RowTransformer

__all__ = [
    "AUGMENTATIONS",
    "CONTEXTS",
    "DIRECTIONS",
    "ENCODERS",
    "NORMS",
    "POOLINGS",
    "AdoptedEncoder",
    "Augmentation",
    "CPCModel",
    "CPCOutput",
    "ChannelNorm",
    "ConvEncoder",
    "GatedPixelCNN",
    "PatchGrid",
    "PixelCNN",
    "ResNetEncoder",
    "RowGRU",
    "RowTransformer",
    "WideResNetEncoder",
    "adopt_context",
    "adopt_encoder",
    "check_name",
    "first_row_first",
    "info_nce",
    "make_context",
    "make_encoder",
    "n_pooled",
    "name_of",
    "plan_heads",
    "pool",
]
