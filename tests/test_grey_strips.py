"""The benchmark on grey strips: what they show, and its table."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parent.parent


@pytest.fixture
def strips(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    n_threads = torch.get_num_threads()
    yield importlib.import_module("grey_strips")
    torch.set_num_threads(n_threads)
    sys.modules.pop("grey_strips", None)


def test_strips_are_grey_not_square_and_the_same_for_a_seed(strips):
    X, y = strips.grey_strips(30, 20, random_state=0)
    assert X.shape == (50, 24, 48)
    assert X.dtype == np.uint16
    assert 255 < X.max() <= 4095
    assert set(y) <= set(range(10))
    np.testing.assert_array_equal(strips.grey_strips(30, 20, random_state=0)[0], X)
    assert (strips.grey_strips(30, 20, random_state=1)[0] != X).any()


def test_no_digit_is_in_both_parts(strips, monkeypatch):
    """Nor is a fragment of one: what is drawn is told by numbering the digits' pixels."""
    drawn = []
    monkeypatch.setattr(strips, "_draw", lambda *args: drawn.append(args[:2]) or np.zeros(1))
    strips.grey_strips(2000, 700)
    train, test = (
        {d.tobytes() for part in parts for d in part.reshape(-1, 8, 8)} for parts in drawn
    )
    digits = strips.load_digits().images / 16
    twins = len(digits) - len({d.tobytes() for d in digits})
    assert len(train & test) <= twins
    assert len(train) > 1200
    assert len(test) > 450


def test_the_whole_digit_is_on_each_strip(strips, rng):
    digit, others = rng.uniform(0.2, 1, (8, 8)), rng.uniform(0.2, 1, (3, 8, 8))
    ink = strips._ink(digit, others, rng)
    assert ink.shape == (24, 48)
    large = strips.zoom(digit, 2, order=1)
    places = np.lib.stride_tricks.sliding_window_view(ink, large.shape)
    assert np.isclose(places, large).all((2, 3)).sum() == 1


def test_the_table_has_all_rivals(strips, capsys):
    small = ["--n-train", "80", "--n-test", "20", "--epochs", "1", "--threads", "1"]
    strips.main([*small, "--label-fractions", "0.2", "1.0", "--settings", "demo"])
    printed = capsys.readouterr().out
    networks = ["CPC, max, demo", "CPC, quadrants, demo", "untrained, max, demo"]
    others = ["untrained, quadrants, demo", "patch k-means, max", "patch k-means, quadrants"]
    for name in [*networks, *others, "PCA", "raw pixels"]:
        assert f"\n| {name} " in printed
    assert "for the accuracy of untrained, quadrants, demo with all labels:" in printed
    assert "seconds of the process" in printed
