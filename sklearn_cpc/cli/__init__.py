"""The command line, for people with a folder of images."""

from .main import main

__all__ = ["main"]
