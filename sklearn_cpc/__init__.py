"""Self-supervised image features for scikit-learn: Contrastive Predictive Coding."""

from .estimators import CPCClassifier, CPCTransformer
from .evaluation import (
    LabelEfficiencyDisplay,
    LabelFractionSplit,
    label_efficiency_curve,
    label_saving,
)
from .training import ProbeRecorder

__version__ = "0.1.0"

__all__ = [
    "CPCClassifier",
    "CPCTransformer",
    "LabelEfficiencyDisplay",
    "LabelFractionSplit",
    "ProbeRecorder",
    "label_efficiency_curve",
    "label_saving",
]
