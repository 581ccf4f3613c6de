"""Self-supervised image features for scikit-learn: Contrastive Predictive Coding."""

from .estimators import CPCClassifier, CPCTransformer, recipe
from .evaluation import (
    EmbeddingMapDisplay,
    IgnoreUnlabeled,
    LabelEfficiencyDisplay,
    LabelFractionSplit,
    NearestNeighborsDisplay,
    PretrainingDisplay,
    ProbeHistoryDisplay,
    TrainingHistoryDisplay,
    knn_probe,
    label_efficiency_curve,
    label_saving,
    linear_probe,
    pretraining_curve,
    select_to_label,
)
from .training import CSVLog, ProbeRecorder, ProgressBar, TensorBoardLog

__version__ = "0.1.0"

__all__ = [
    "CPCClassifier",
    "CPCTransformer",
    "CSVLog",
    "EmbeddingMapDisplay",
    "IgnoreUnlabeled",
    "LabelEfficiencyDisplay",
    "LabelFractionSplit",
    "NearestNeighborsDisplay",
    "PretrainingDisplay",
    "ProbeHistoryDisplay",
    "ProbeRecorder",
    "ProgressBar",
    "TensorBoardLog",
    "TrainingHistoryDisplay",
    "knn_probe",
    "label_efficiency_curve",
    "label_saving",
    "linear_probe",
    "pretraining_curve",
    "recipe",
    "select_to_label",
]
