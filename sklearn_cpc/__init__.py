"""Self-supervised image features for scikit-learn: Contrastive Predictive Coding."""

from .estimators import CPCTransformer
from .evaluation import (
    EmbeddingMapDisplay,
    LabelEfficiencyDisplay,
    LabelFractionSplit,
    NearestNeighborsDisplay,
    PretrainingDisplay,
    ProbeHistoryDisplay,
    TrainingHistoryDisplay,
    label_efficiency_curve,
    label_saving,
    pretraining_curve,
)

__version__ = "0.1.0"

__all__ = [
    "CPCTransformer",
    "EmbeddingMapDisplay",
    "LabelEfficiencyDisplay",
    "LabelFractionSplit",
    "NearestNeighborsDisplay",
    "PretrainingDisplay",
    "ProbeHistoryDisplay",
    "TrainingHistoryDisplay",
    "label_efficiency_curve",
    "label_saving",
    "pretraining_curve",
]
