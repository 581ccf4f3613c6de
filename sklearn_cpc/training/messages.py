"""Other people's errors, told in a message of ours."""

__all__ = ["in_one_line"]


def in_one_line(error):
    """Kind and text of an error, without its line breaks."""
    return " ".join(f"{type(error).__name__}: {error}".split())
