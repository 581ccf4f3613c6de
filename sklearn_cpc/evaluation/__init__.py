"""How much unlabelled images are worth: protocol, baselines and pictures; knows no CPC."""

from .baselines import FlattenImages, PatchKMeans
from .curves import curve_table, curves_to_frame, label_saving
from .display import LabelEfficiencyDisplay
from .hog import HogFeatures
from .label_efficiency import label_efficiency_curve
from .splits import LabelFractionSplit, nested_label_subsets

__all__ = [
    "FlattenImages",
    "HogFeatures",
    "LabelEfficiencyDisplay",
    "LabelFractionSplit",
    "PatchKMeans",
    "curve_table",
    "curves_to_frame",
    "label_efficiency_curve",
    "label_saving",
    "nested_label_subsets",
]
