"""The scikit-learn face."""

from .classifier import CPCClassifier
from .transformer import CPCTransformer

__all__ = ["CPCClassifier", "CPCTransformer"]
