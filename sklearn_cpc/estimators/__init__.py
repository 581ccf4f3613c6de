"""The scikit-learn face."""

from .transformer import CPCTransformer

__all__ = ["CPCTransformer"]
