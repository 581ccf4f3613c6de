"""Reading the next while this is worked on."""

from collections import deque
from concurrent.futures import ThreadPoolExecutor

__all__ = ["read_ahead"]


def read_ahead(read, indices, n_ahead=2):
    """What `read` gives for each index, in order, read by another thread before it is asked for.

    Parameters
    ----------
    read : callable
        Called by one thread at a time, in the order of `indices`.
    indices : iterable
    n_ahead : int, default=2
        How many are read, or being read, beyond the one that is worked on.

    Yields
    ------
    result : object
        An error that `read` raised is raised here, in its turn.
    """
    with ThreadPoolExecutor(1) as reader:
        waiting = deque()
        try:
            for index in indices:
                waiting.append(reader.submit(read, index))
                if len(waiting) > n_ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            # Where training ends early, what nobody asks for is not read.
            for each in waiting:
                each.cancel()
