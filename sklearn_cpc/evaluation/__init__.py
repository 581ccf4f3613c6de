"""How much unlabelled images are worth: protocol, baselines and pictures; knows no CPC."""

from .baselines import FlattenImages, PatchKMeans
from .curves import curve_table, curves_to_frame, label_saving
from .display import LabelEfficiencyDisplay, PretrainingDisplay
from .embedding_display import EmbeddingMapDisplay, NearestNeighborsDisplay
from .history_display import ProbeHistoryDisplay, TrainingHistoryDisplay
from .hog import HogFeatures
from .label_efficiency import label_efficiency_curve
from .pretraining import pretraining_curve
from .probes import LinearProbeClassifier, knn_probe, linear_probe
from .selection import select_to_label, selected_label_subsets
from .splits import LabelFractionSplit, nested_label_subsets
from .unlabeled import IgnoreUnlabeled, ignore_unlabeled_scorer

__all__ = [
    "EmbeddingMapDisplay",
    "FlattenImages",
    "HogFeatures",
    "IgnoreUnlabeled",
    "LabelEfficiencyDisplay",
    "LabelFractionSplit",
    "LinearProbeClassifier",
    "NearestNeighborsDisplay",
    "PatchKMeans",
    "PretrainingDisplay",
    "ProbeHistoryDisplay",
    "TrainingHistoryDisplay",
    "curve_table",
    "curves_to_frame",
    "ignore_unlabeled_scorer",
    "knn_probe",
    "label_efficiency_curve",
    "label_saving",
    "linear_probe",
    "nested_label_subsets",
    "pretraining_curve",
    "select_to_label",
    "selected_label_subsets",
]
