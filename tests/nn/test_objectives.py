"""The losses on candidates that are shared, hard or drawn, against slow twins."""

from math import log

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from sklearn_cpc.nn import OBJECTIVES, contrast, contrast_drawn, info_nce
from sklearn_cpc.nn.loss import n_hardest
from tests import reference

from .test_loss import LargestTensor, problem
from .toys import generator

# float32 sums of a few dozen logits of size about ten.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def drawn(n, n_targets, n_candidates, seed=0):
    """Distinct candidates of each prediction, in any order."""
    g = generator(seed)
    return torch.stack([torch.randperm(n_targets, generator=g)[:n_candidates] for _ in range(n)])


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(OBJECTIVES),
    st.one_of(st.none(), st.integers(1, 12)),
    st.integers(1, 7),
    st.integers(1, 9),
    st.integers(0, 99),
)
def test_shared_and_hard_candidates_are_their_slow_twin(objective, n_hard, n, n_targets, seed):
    predictions, targets, positives = problem(n, n_targets, seed=seed)
    got = contrast(predictions, targets, positives, objective=objective, n_hard=n_hard)
    scores = reference.scores_of(reference.array(predictions), reference.array(targets))
    expected = reference.contrast(scores, positives.tolist(), objective, n_hard)
    np.testing.assert_allclose([t.item() for t in got], expected, **CLOSE)


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(OBJECTIVES),
    st.integers(1, 6),
    st.integers(1, 30),
    st.integers(1, 30),
    st.integers(0, 99),
)
def test_drawn_candidates_are_their_slow_twin(objective, n, n_targets, n_candidates, seed):
    """Both ways of picking: few of many targets, and many of few."""
    n_candidates = min(n_candidates, n_targets)
    predictions, targets, _ = problem(n, n_targets, seed=seed)
    index = drawn(n, n_targets, n_candidates, seed)
    got = contrast_drawn(
        predictions, targets, lambda a, b: index[a:b], n_candidates, objective=objective
    )
    scores = reference.scores_of(reference.array(predictions), reference.array(targets))
    rows = [[row[i] for i in chosen] for row, chosen in zip(scores, index.tolist(), strict=True)]
    expected = reference.contrast(rows, [n_candidates - 1] * n, objective)
    np.testing.assert_allclose([t.item() for t in got], expected, **CLOSE)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("n_hard", [None, 1, 4])
@pytest.mark.parametrize("logits_budget", [1, 30, 10_000])
def test_gradients_of_shared_candidates_are_those_of_the_plain_formula(
    objective, n_hard, logits_budget
):
    predictions, targets, positives = problem()
    loss, *_ = contrast(
        predictions,
        targets,
        positives,
        objective=objective,
        n_hard=n_hard,
        logits_budget=logits_budget,
    )
    rows = plain_rows(predictions @ targets.T, positives, n_hard)
    check_gradients(loss, plain(rows, objective), predictions, targets)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("n_candidates", [2, 3, 20])
@pytest.mark.parametrize("logits_budget", [1, 90, 10_000])
def test_gradients_of_drawn_candidates_are_those_of_the_plain_formula(
    objective, n_candidates, logits_budget
):
    predictions, targets, _ = problem(n_targets=40)
    index = drawn(7, 40, n_candidates)
    loss, *_ = contrast_drawn(
        predictions,
        targets,
        lambda a, b: index[a:b],
        n_candidates,
        objective=objective,
        logits_budget=logits_budget,
    )
    scores = torch.einsum("ip,inp->in", predictions, targets[index])
    check_gradients(loss, plain(scores.flip(1), objective), predictions, targets)


def plain_rows(scores, positives, n_hard):
    """Rows with the positive first and, after it, the hardest of the others."""
    rows = []
    for row, positive in zip(scores, positives.tolist(), strict=True):
        others = torch.cat([row[:positive], row[positive + 1 :]]).sort(descending=True).values
        rows.append(torch.cat([row[positive, None], others[:n_hard]]))
    return torch.stack(rows)


def plain(rows, objective):
    if objective == "infonce":
        return F.cross_entropy(rows, torch.zeros(len(rows), dtype=torch.long))
    own, others = rows[:, 0], rows[:, 1:]
    return (F.softplus(-own).mean() + F.softplus(others).mean()) / 2


def check_gradients(loss, expected, *inputs):
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    got, wanted = (torch.autograd.grad(value, inputs) for value in (loss, expected))
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("objective", "expected"), [("infonce", log(9)), ("bce", log(2))])
def test_equal_scores(objective, expected):
    zeros, ones = torch.zeros(5, 3), torch.ones(9, 3)
    positives = torch.arange(5)
    loss, _, nce = contrast(zeros, ones, positives, objective=objective)
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    assert nce.item() == pytest.approx(log(9), abs=1e-6)
    index = drawn(5, 9, 9)
    loss, accuracy, nce = contrast_drawn(
        zeros, ones, lambda a, b: index[a:b], 9, objective=objective
    )
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    assert nce.item() == pytest.approx(log(9), abs=1e-6)
    assert accuracy == 0  # a tie is no hit


def test_equal_scores_of_hard_candidates_give_the_log_of_those_kept():
    loss, _, _ = contrast(torch.zeros(5, 3), torch.ones(9, 3), torch.arange(5), n_hard=3)
    assert loss.item() == pytest.approx(log(4), abs=1e-6)


def test_one_positive_and_one_negative_are_the_binary_cross_entropy_of_both():
    predictions, targets, _ = problem(1, 2)
    logits = (predictions @ targets.T)[0]
    loss, *_ = contrast(predictions, targets, torch.tensor([0]), objective="bce")
    expected = F.binary_cross_entropy_with_logits(logits, torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_huge_scores_stay_finite(objective):
    predictions = torch.tensor([[1e4], [-1e4]], requires_grad=True)
    targets, positives = torch.tensor([[1.0], [0.0]]), torch.tensor([1, 0])
    loss, *_ = contrast(predictions, targets, positives, objective=objective, n_hard=1)
    loss.backward()
    assert torch.isfinite(loss)
    assert (predictions.grad.sign().flatten() == torch.tensor([1.0, -1.0])).all()


def test_the_harder_negatives_are_the_greater_loss_than_as_many_drawn():
    predictions, targets, positives = problem(50, 40)
    hard, *_ = contrast(predictions, targets, positives, n_hard=5)
    index = drawn(50, 40, 40)
    keep = index != positives[:, None]
    index = torch.stack([row[k][:5] for row, k in zip(index, keep, strict=True)])
    index = torch.cat([index, positives[:, None]], 1)
    drawn_loss, *_ = contrast_drawn(predictions, targets, lambda a, b: index[a:b], 6)
    assert hard > drawn_loss


@pytest.mark.parametrize(
    ("share", "n_candidates", "expected"),
    [(1.0, 17, 16), (0.25, 17, 4), (0.01, 17, 1), (0.5, 8, 4), (0.5, 2, 1)],
)
def test_number_of_the_hardest(share, n_candidates, expected):
    assert n_hardest(share, n_candidates) == expected


def test_info_nce_is_contrast_without_more():
    torch.testing.assert_close(info_nce(*problem()), contrast(*problem())[:2])


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_no_tensor_of_hard_candidates_exceeds_the_budget(objective):
    predictions, targets, positives = problem(400, 500, width=2)
    with LargestTensor() as largest:
        loss, *_ = contrast(
            predictions, targets, positives, objective=objective, n_hard=50, logits_budget=2_600
        )
        loss.backward()
    assert largest.n_elements == 2_500


@pytest.mark.parametrize(("n_candidates", "expected"), [(20, 2_600), (200, 2_500)])
def test_no_tensor_of_drawn_candidates_exceeds_the_budget(n_candidates, expected):
    predictions, targets, _ = problem(400, 500, width=2)
    index = drawn(8, 500, n_candidates)
    with LargestTensor() as largest:
        loss, *_ = contrast_drawn(
            predictions,
            targets,
            lambda a, b: index[torch.arange(a, b) % 8],
            n_candidates,
            logits_budget=2_600,
        )
        loss.backward()
    assert largest.n_elements == expected


def test_half_precision_is_computed_in_single():
    predictions, targets, positives = problem()
    with torch.autocast("cpu", torch.bfloat16):
        loss, *_ = contrast(predictions.bfloat16(), targets.bfloat16(), positives, objective="bce")
    assert loss.dtype == torch.float32


def test_no_gradient_where_none_is_wanted():
    results = contrast(*(t.detach() for t in problem()), objective="bce")
    assert not any(t.requires_grad for t in results)


def test_only_the_loss_has_a_gradient():
    assert [t.requires_grad for t in contrast(*problem())] == [True, False, False]
