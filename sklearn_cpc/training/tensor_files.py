"""Tensors in safetensors files."""

__all__ = ["read_tensors"]


def read_tensors(path):
    """All tensors of a file by name, and its metadata.

    Copies: what safetensors gives is the mapped file itself, which may change.
    """
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        return tensors, file.metadata() or {}
