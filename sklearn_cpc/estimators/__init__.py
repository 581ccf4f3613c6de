"""The scikit-learn face."""

from .recipes import recipe
from .transformer import CPCTransformer

__all__ = ["CPCTransformer", "recipe"]
