"""Torch's global generators, which all threads share: whoever draws from them has them alone."""

import copy
import os
import threading
from contextlib import contextmanager

import torch

from ..nn.checks import draws_at_random
from ..training import LazyImages
from ..training.distributed import cuda_indices, join

__all__ = ["own_generators", "seeded"]

_turn = threading.RLock()


def _renew():
    global _turn
    _turn = threading.RLock()


if hasattr(os, "register_at_fork"):  # a child of a fork has no thread that would let it go
    os.register_at_fork(after_in_child=_renew)


@contextmanager
def seeded(seed, cuda=()):
    """Within it the global generators follow a seed, and no other fit touches them.

    Parameters
    ----------
    seed : int
    cuda : sequence of int, default=()
        Devices whose generators count, too.
    """
    with _turn, torch.random.fork_rng(devices=list(cuda)):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed CUDA, too
        for index in cuda:
            torch.cuda.default_generators[index].manual_seed(seed)
        yield


@contextmanager
def own_generators(net, settings, feed, keeper=None):
    """Let what draws from the global generators, such as Dropout, follow the net's seed.

    The net's random state is read, not drawn from. Where nothing does, fits in several threads
    need not wait for one another.

    Parameters
    ----------
    net : CPCNet
    settings : CPCTransformer
        Whose `callbacks` and `compile` count.
    feed : ImageFeed
    keeper : CheckpointKeeper or None, default=None
        It keeps and sets the state of the global generators.
    """
    others = settings.callbacks or settings.compile or keeper is not None or join().size > 1
    # Items of a dataset may draw, too.
    if not (others or isinstance(feed.images.data, LazyImages) or _may_draw(net.module_)):
        yield
        return
    with seeded(copy.deepcopy(net.random_state).randint(2**31 - 1), cuda_indices(net.device)):
        yield


def _may_draw(model):
    """Whether training may: what this package has itself draws from generators it is handed."""
    augmentation = model.augmentation
    if augmentation.image_transform is not None or augmentation.patch_transform is not None:
        return True
    return draws_at_random(model)
