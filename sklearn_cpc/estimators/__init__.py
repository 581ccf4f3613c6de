"""The scikit-learn face."""

from .classifier import CPCClassifier
from .recipes import recipe
from .transformer import CPCTransformer

__all__ = ["CPCClassifier", "CPCTransformer", "recipe"]
