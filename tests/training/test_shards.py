"""Parts of batches, and what is drawn for them."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sklearn_cpc.nn import AUGMENTATIONS, ConvEncoder, CPCModel, PatchGrid
from sklearn_cpc.nn.negatives import DRAWN
from sklearn_cpc.training.shards import (
    Shard,
    ShardedAugmentation,
    ShardedFeed,
    cut,
    largest_part,
    own_generator,
)

from .test_feed import numbered, numbers


@given(st.integers(1, 200), st.integers(1, 9), st.none() | st.integers(1, 20))
def test_parts_cover_the_batch_and_their_weights_are_one(n, n_processes, group):
    shards = [Shard.of(n, rank, n_processes, group) for rank in range(n_processes)]
    rows = [i for shard in shards for i in range(n)[shard.rows]]
    assert rows == list(range(n))
    assert sum(shard.weight for shard in shards) == pytest.approx(1)
    assert [len(range(n)[s.rows]) for s in shards] == shards[0].sizes
    ends, unit = cut(n, n_processes, group)
    assert all(end % unit == 0 for end in ends[:-1])
    if n // (group or 1) >= n_processes:
        assert unit == (group or 1)
        whole = [size // unit for size in shards[0].sizes]
        assert max(whole) - min(whole) <= 1


def test_a_weight_is_the_share_of_the_groups():
    shards = [Shard.of(23, rank, 2, 4) for rank in (0, 1)]  # five groups and three images
    assert [shard.sizes for shard in shards] == [[8, 15]] * 2
    assert [shard.weight for shard in shards] == [2 / 5, 3 / 5]


def test_a_feed_gives_each_process_its_rows():
    feed = numbered(20)
    index = np.array([7, 3, 19, 0, 5])
    parts = [ShardedFeed(feed, rank, 2).batch(index) for rank in (0, 1)]
    assert [numbers(part) for part in parts] == [[7, 3], [19, 0, 5]]
    assert len(ShardedFeed(feed, 0, 2)) == 20
    assert ShardedFeed(feed, 0, 2).scale is feed.scale
    assert parts[1].shard.rows == slice(2, 5)
    assert [largest_part(part) for part in parts] == [3, 3]
    assert largest_part(feed.batch(index)) == 5


PER_ROW = {
    "full": AUGMENTATIONS["full"],
    "cpc-v1": AUGMENTATIONS["cpc-v1"],
    "colour": replace(AUGMENTATIONS["full"], colour=0.5, crop=0.2),
    "primitives": replace(AUGMENTATIONS["light"], autoaugment=1, histogram=1),
}


@pytest.mark.parametrize("name", PER_ROW)
def test_parts_are_changed_as_they_are_within_the_batch(name):
    X = torch.rand(7, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    patches = X.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5)  # four of each
    generator = torch.Generator().manual_seed(1)
    whole = PER_ROW[name].images(X, generator, (2, 2))
    whole_patches = PER_ROW[name].patches(patches.flatten(0, 2), generator)
    drawn_next = torch.rand(1, generator=generator)
    for rank in range(3):
        shard = Shard.of(7, rank, 3)
        augmentation = ShardedAugmentation(PER_ROW[name])
        augmentation.shard = shard
        generator = torch.Generator().manual_seed(1)
        part = augmentation.images(X[shard.rows], generator, (2, 2))
        assert torch.equal(part, whole[shard.rows])
        part = augmentation.patches(patches[shard.rows].flatten(0, 2), generator)
        assert torch.equal(part, whole_patches.view(7, 4, 3, 4, 4)[shard.rows].flatten(0, 1))
        assert torch.equal(torch.rand(1, generator=generator), drawn_next)


@pytest.mark.parametrize(
    "change",
    [
        {"elastic": 0.5},
        {"shear": 0.5},
        {"histogram": 0.5},
        {"autoaugment": 0.5},
        {"autoaugment": 1, "primitives": ("SamplePairing", "Invert")},
        {"patch_transform": lambda patches, generator: patches},
        {"image_transform": lambda images, generator: images},
    ],
)
def test_what_draws_for_some_patches_alone_draws_on_its_own_and_leaves_the_rest_in_step(change):
    own = replace(AUGMENTATIONS["light"], **change)
    X, left, parts = torch.rand(6, 3, 8, 8), [], []
    for rank in (0, 1):
        augmentation = ShardedAugmentation(own)
        augmentation.shard = Shard.of(6, rank, 2)
        assert not augmentation.is_exact
        generator = torch.Generator().manual_seed(1)
        parts.append(augmentation.patches(X[:3], generator))
        left.append(torch.rand(1, generator=generator))
    assert torch.equal(*left)
    assert not torch.equal(*parts)


@pytest.mark.parametrize("negatives", ["sampled", "mixed", "queue", "hard", "batch", "groups"])
def test_negatives_of_uneven_parts_leave_the_generators_in_step(negatives):
    """Parts of four and three images draw permutations of other lengths."""
    left, losses = [], []
    for rank in (0, 1):
        model = small_model(negatives=negatives)
        shard = Shard.of(7, rank, 2)
        model.own_generator = partial(own_generator, rank=rank)
        X = torch.rand(7, 3, 16, 16, generator=torch.Generator().manual_seed(0))[shard.rows]
        generator = torch.Generator().manual_seed(1)
        losses.append(model.train()(X, generator).loss.item())
        left.append(generator.get_state())
    assert torch.equal(*left)
    draws = negatives in DRAWN
    assert torch.equal(left[0], torch.Generator().manual_seed(1).get_state()) != draws


def small_model(**settings):
    grid = PatchGrid(16, 16, 4, 4)
    torch.manual_seed(0)
    return CPCModel(
        grid,
        ConvEncoder(3, grid.patch_size, 8, width=4),
        3,
        augmentation=AUGMENTATIONS["none"],
        latent_dim=4,
        negative_images=3,
        n_candidates=10,
        queue_size=20,
        **settings,
    )
