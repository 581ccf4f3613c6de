"""The one door for packages that are not required."""

from importlib import import_module


def import_optional(module, caller, extra):
    """Import `module`, or say who needs it and which extra brings it."""
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(
            f"{caller} needs {package}, which is not installed; "
            f'run: pip install "sklearn-cpc[{extra}]"'
        ) from error
