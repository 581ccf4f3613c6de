"""Names that users pass, and what they may have meant."""

import difflib

__all__ = ["check_name"]


def check_name(parameter, name, table):
    """Refuse a name that is not in the table, with the nearest one that is."""
    if name in table:
        return
    keys = {str(key): key for key in table}
    near = difflib.get_close_matches(str(name), list(keys), n=1, cutoff=0.5)
    hint = f" Did you mean {keys[near[0]]!r}?" if near else ""
    known = ", ".join(repr(key) for key in table)
    raise ValueError(f"{parameter}={name!r} is unknown; it must be one of {known}.{hint}")
