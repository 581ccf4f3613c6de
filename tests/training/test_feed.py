"""Batches: dtype, order and size."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sklearn_cpc.training import ImageFeed, PixelScale, as_images
from sklearn_cpc.training import feed as feed_module
from sklearn_cpc.training.feed import TrainingBatches

from ..estimators.toys import images


def feed_of(X):
    found = as_images(X)
    return ImageFeed(found, PixelScale.of(found), "cpu")


def numbered(n):
    """n images of one pixel, the i-th with the value i."""
    return feed_of(np.arange(n, dtype=np.uint8).reshape(n, 1, 1))


def passes(feed, batch_size, seed=0):
    return TrainingBatches(feed, batch_size, np.random.RandomState(seed))


def numbers(batch):
    return (batch * 255).round().int().flatten().tolist()


def test_pixels_keep_their_dtype_until_they_are_on_the_device(monkeypatch):
    seen = []
    apply = PixelScale.apply
    monkeypatch.setattr(PixelScale, "apply", lambda s, x: (seen.append(x.dtype), apply(s, x))[1])
    batch = feed_of(images()).batch(np.array([3, 1]))
    assert seen == [torch.uint8]
    assert batch.dtype == torch.float32


def test_a_batch_is_the_chosen_images_in_0_to_1():
    X = images()
    expected = X[[3, 1, 3]].transpose(0, 3, 1, 2) / 255
    np.testing.assert_allclose(feed_of(X).batch(np.array([3, 1, 3])), expected, atol=1e-6)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "uint32", "uint64", "float32"])
@pytest.mark.parametrize("layout", ["first", "last", "flipped"])
def test_resident_images_are_the_same_and_take_no_more_room(dtype, layout, monkeypatch):
    """As on a CUDA device, where they are sent once, here in blocks of a few."""
    monkeypatch.setattr(feed_module, "BLOCK_BYTES", 2000)
    rng = np.random.RandomState(0)
    top = 1e6 if dtype == "float32" else np.iinfo(dtype).max
    X = (rng.uniform(size=(9, 7, 6, 3)) * float(top)).astype(dtype)
    X[0, 0, 0] = top
    X = {"first": X.transpose(0, 3, 1, 2), "last": X, "flipped": X[:, ::-1]}[layout]
    found = as_images(X, channels="first" if layout == "first" else "last")
    feed = ImageFeed(found, PixelScale.of(found), "cpu")
    expected = [feed.batch(index) for index in (slice(0, 9), np.array([3, 1, 3]))]
    feed.resident = feed._send_all()
    assert feed.resident.nbytes == X.nbytes
    for index, batch in zip((slice(0, 9), np.array([3, 1, 3])), expected, strict=True):
        assert torch.equal(feed.batch(index), batch)


@pytest.mark.parametrize("flip", [np.s_[:, ::-1], np.s_[:, :, ::-1], np.s_[..., ::-1]])
def test_flipped_views_are_read(flip):
    X = images()[flip]
    np.testing.assert_allclose(feed_of(X).batch(slice(2, 5)), feed_of(X.copy()).batch(slice(2, 5)))


def test_reading_a_batch_never_hands_out_the_users_memory():
    X = images(dtype=np.float32)
    before = X.copy()
    feed_of(X).batch(slice(0, 4)).zero_()
    np.testing.assert_array_equal(X, before)


def test_blocks_hold_all_images_in_order():
    blocks = [numbers(block) for block in numbered(10).blocks(4)]
    assert blocks == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


@given(n=st.integers(1, 60), batch_size=st.integers(1, 70))
def test_a_pass_shows_every_image_once_in_batches_of_nearly_one_size(n, batch_size):
    batches = [numbers(batch) for batch, _ in passes(numbered(n), batch_size)]
    sizes = [len(batch) for batch in batches]
    assert sorted(number for batch in batches for number in batch) == list(range(n))
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1
    assert len(batches) == len(passes(numbered(n), batch_size)) == -(-n // batch_size)


def test_passes_differ_from_one_another_and_repeat_with_the_seed():
    batches = passes(numbered(30), 10)
    first, second = [[numbers(b) for b, _ in batches] for _ in range(2)]
    assert first != second
    assert [numbers(b) for b, _ in passes(numbered(30), 10)] == first
    assert [numbers(b) for b, _ in passes(numbered(30), 10, seed=1)] != first


def test_the_generator_goes_on_from_batch_to_batch():
    draws = [torch.rand(1, generator=generator).item() for _, generator in passes(numbered(30), 10)]
    assert len(set(draws)) == 3
