"""Optional dependencies, imported when they are used."""

from importlib import import_module


def import_optional(module, caller, extra):
    """Import `module`, or say who needs it and which extra brings it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{caller} needs {extra}, which is not installed; "
            f'run: pip install "sklearn-cpc[{extra}]"'
        ) from error
