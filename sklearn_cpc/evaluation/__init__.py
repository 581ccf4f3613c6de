"""How much unlabelled images are worth: protocol, baselines and pictures; knows no CPC."""

from .baselines import FlattenImages, PatchKMeans
from .curves import curve_table, curves_to_frame, label_saving
from .display import LabelEfficiencyDisplay, PretrainingDisplay
from .embedding_display import EmbeddingMapDisplay, NearestNeighborsDisplay
from .history_display import ProbeHistoryDisplay, TrainingHistoryDisplay
from .label_efficiency import label_efficiency_curve
from .pretraining import pretraining_curve
from .splits import LabelFractionSplit, nested_label_subsets

__all__ = [
    "EmbeddingMapDisplay",
    "FlattenImages",
    "LabelEfficiencyDisplay",
    "LabelFractionSplit",
    "NearestNeighborsDisplay",
    "PatchKMeans",
    "PretrainingDisplay",
    "ProbeHistoryDisplay",
    "TrainingHistoryDisplay",
    "curve_table",
    "curves_to_frame",
    "label_efficiency_curve",
    "label_saving",
    "nested_label_subsets",
    "pretraining_curve",
]
