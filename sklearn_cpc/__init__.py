"""Self-supervised image features for scikit-learn: Contrastive Predictive Coding."""

from .estimators import CPCTransformer, recipe
from .evaluation import (
    LabelEfficiencyDisplay,
    LabelFractionSplit,
    label_efficiency_curve,
    label_saving,
)

__version__ = "0.1.0"

__all__ = [
    "CPCTransformer",
    "LabelEfficiencyDisplay",
    "LabelFractionSplit",
    "label_efficiency_curve",
    "label_saving",
    "recipe",
]
