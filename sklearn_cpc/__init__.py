"""Self-supervised image features for scikit-learn: Contrastive Predictive Coding."""

from .estimators import CPCTransformer
from .evaluation import (
    IgnoreUnlabeled,
    LabelEfficiencyDisplay,
    LabelFractionSplit,
    knn_probe,
    label_efficiency_curve,
    label_saving,
    linear_probe,
    select_to_label,
)

__version__ = "0.1.0"

__all__ = [
    "CPCTransformer",
    "IgnoreUnlabeled",
    "LabelEfficiencyDisplay",
    "LabelFractionSplit",
    "knn_probe",
    "label_efficiency_curve",
    "label_saving",
    "linear_probe",
    "select_to_label",
]
