"""What each target is told from: names, draws, the queue, and the whole model in each way."""

import copy
from math import log

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sklearn_cpc.nn import (
    NEGATIVES,
    OBJECTIVES,
    ContrastiveHeads,
    OwnNegatives,
    PatchGrid,
    SlowTargets,
    TargetQueue,
    choose_negatives,
    contrast,
    first_row_first,
    heads,
)
from sklearn_cpc.nn.loss import contrast_within
from tests import reference

from .toys import asymmetric_grid, generator, normal, random, small_model

CLOSE = {"rtol": 1e-4, "atol": 1e-4}
CPU = torch.device("cpu")
# Every way of choosing candidates, small enough for a batch of three on a grid of 4 x 6.
WAYS = {
    "batch": {"negatives": "batch", "n_candidates": 10},
    "sampled": {"negatives": "sampled", "n_candidates": 10},
    "groups": {"negatives": "groups", "negative_images": 2},
    "image": {"negatives": "image"},
    "place": {"negatives": "place"},
    "mixed": {"negatives": "mixed", "n_candidates": 8, "same_image_fraction": 0.5},
    "uniform": {"negatives": "mixed", "n_candidates": 8, "same_image_fraction": None},
    "queue": {"negatives": "queue", "queue_size": 30},
    "hard": {"negatives": "hard", "hard_fraction": 0.3},
    "hard of sampled": {"negatives": "hard", "n_candidates": 10},
}
ways = pytest.mark.parametrize("way", WAYS)


# Names


@pytest.mark.parametrize(
    ("given", "n_candidates", "negative_images", "expected"),
    [
        ("auto", 1024, 8, "groups"),
        ("auto", 1024, None, "sampled"),
        ("auto", None, None, "batch"),
        ("auto", None, 8, "groups"),
        ("batch", 1024, 8, "batch"),
        ("image", None, None, "image"),
        ("place", 1024, 8, "place"),
        ("queue", None, None, "queue"),
    ],
)
def test_the_name_behind_auto(given, n_candidates, negative_images, expected):
    assert choose_negatives(given, n_candidates, negative_images) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("imge", 1, 1), "negatives='imge' is unknown; it must be one of .* Did you mean 'image'"),
        (("sampled", None, 8), "n_candidates=None must be a number with negatives='sampled'; pass"),
        (("mixed", None, 8), "n_candidates=None must be a number with negatives='mixed'"),
        (("groups", 8, None), "negative_images=None must be a number with negatives='groups'"),
    ],
)
def test_names_that_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        choose_negatives(*arguments)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "infonec"}, "objective='infonec' is unknown; .* Did you mean 'infonce'?"),
        ({"greedy": "jiont"}, "greedy='jiont' is unknown; it must be one of .*'joint'"),
    ],
)
def test_other_names_that_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        small_model(asymmetric_grid(), **settings)


# Drawn negatives


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 4),
    st.integers(1, 7),
    st.integers(1, 40),
    st.one_of(st.none(), st.floats(0, 1)),
    st.integers(0, 99),
)
def test_no_target_is_drawn_twice_and_the_positive_is_last(
    n_images, n_places, n_candidates, share, seed
):
    draw = OwnNegatives(n_images, n_places, n_candidates, share, generator(seed), CPU)
    n = n_images * n_places
    assert draw.n_candidates == min(n_candidates, n)
    index = torch.cat([draw(0, n // 2), draw(n // 2, n)])
    assert index.shape == (n, draw.n_candidates)
    assert index[:, -1].tolist() == list(range(n))
    for row in index.tolist():
        assert len(set(row)) == len(row)
        assert 0 <= min(row) <= max(row) < n


@pytest.mark.parametrize(
    ("n_images", "n_places", "n_candidates", "share", "n_same"),
    [
        (4, 9, 9, 0.75, 6),
        (4, 9, 9, 0.0, 0),
        (4, 9, 9, 1.0, 8),
        (4, 3, 9, 1.0, 2),  # an image has two others: the rest comes from elsewhere
        (2, 9, 17, 0.0, 7),  # the other image has nine: the rest comes from this one
        (1, 9, 5, 0.0, 4),
    ],
)
def test_share_of_the_same_image(n_images, n_places, n_candidates, share, n_same):
    draw = OwnNegatives(n_images, n_places, n_candidates, share, generator(), CPU)
    index = draw(0, n_images * n_places)
    image = index // n_places
    assert ((image[:, :-1] == image[:, -1:]).sum(1) == n_same).all()


@pytest.mark.parametrize("share", [None, 0.5])
def test_every_other_target_is_drawn_as_often(share):
    """1,000 draws of 4 candidates; each of the allowed targets within five standard deviations."""
    counts = np.zeros(12)
    for seed in range(1000):
        draw = OwnNegatives(3, 4, 5, share, generator(seed), CPU)
        counts[draw(5, 6)[0, :-1]] += 1
    same = np.arange(12) // 4 == 1
    assert counts[5] == 0
    chance = np.where(same, 2 / 3, 2 / 8) if share else np.full(12, 4 / 11)
    chance[5] = 0
    spread = np.sqrt(1000 * chance * (1 - chance))
    assert (np.abs(counts - 1000 * chance) <= 5 * spread).all()


# The queue


def test_the_queue_keeps_the_newest_first_and_drops_the_oldest():
    queue = TargetQueue(8, 1)
    assert len(queue.targets()) == 0
    for batch in range(6):
        queue.add(torch.full((5, 1), float(batch)), generator())
    # A quarter of the queue of each batch.
    assert queue.targets().flatten().tolist() == [5, 5, 4, 4, 3, 3, 2, 2]
    queue.clear()
    assert len(queue.targets()) == 0
    queue.add(torch.full((1, 1), 7.0), generator())
    assert queue.targets().flatten().tolist() == [7]


def test_the_queue_takes_different_targets_and_no_gradient():
    queue = TargetQueue(40, 1)
    queue.add(torch.arange(20.0)[:, None].requires_grad_(), generator())
    assert len(set(queue.targets().flatten().tolist())) == 10
    assert not queue.targets().requires_grad


def test_the_queue_is_part_of_the_state():
    queue, other = TargetQueue(8, 2), TargetQueue(8, 2)
    queue.add(normal(2, 2), generator())
    other.load_state_dict(queue.state_dict())
    assert torch.equal(other.targets(), queue.targets())


# The model


@ways
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_predict_is_its_slow_twin(way, objective, monkeypatch):
    """From the projected vectors on, with the candidates that were drawn."""
    model = small_model(asymmetric_grid(), max_steps=2, objective=objective, **WAYS[way])
    seen = record(monkeypatch)
    output = model.predict(normal(3, 4, 6, 6), generator())
    assert len(seen) == len(model.heads)
    for i, candidates in enumerate(seen):
        expected = []
        for z_hat, targets, rows, positives, n_hard in candidates:
            scores = reference.scores_of(reference.array(z_hat), reference.array(targets))
            scores = [[row[j] for j in r] for row, r in zip(scores, rows, strict=True)]
            expected.append(reference.contrast(scores, positives, objective, n_hard))
            n = len(rows[0]) if n_hard is None else n_hard + 1
        loss, accuracy, nce = np.mean(expected, 0)
        np.testing.assert_allclose(output.losses[i], loss, **CLOSE)
        np.testing.assert_allclose(output.accuracies[i], accuracy, rtol=1e-6)
        np.testing.assert_allclose(output.bounds[i], log(n) - nce, **CLOSE)
        assert output.n_candidates[i] == n


def record(monkeypatch):
    """For each head the parts of its loss: vectors, rows of candidates, positives, n_hard."""
    seen, groups = [], []

    def note(z_hat, targets, positives, n_hard=None):
        everything = [list(range(len(targets)))] * len(z_hat)
        groups.append((z_hat, targets, everything, positives.tolist(), n_hard))

    def spy(name, notes):
        original = getattr(heads, name)

        def wrapped(*arguments, **settings):
            notes(*arguments, **settings)
            return original(*arguments, **settings)

        monkeypatch.setattr(heads, name, wrapped)

    def drawn(z_hat, targets, draw, n, **settings):
        before = draw.generator.get_state()
        index = draw(0, len(z_hat)).tolist()
        draw.generator.set_state(before)
        groups.append((z_hat, targets, index, [n - 1] * len(z_hat), None))

    spy("info_nce", note)
    spy("contrast", lambda *a, objective, n_hard=None: note(*a, n_hard=n_hard))
    spy("contrast_drawn", drawn)

    def of_groups(z_hat, targets, **settings):
        for group in zip(z_hat, targets, strict=True):
            note(*group, torch.arange(targets.shape[1]))

    spy("contrast_within", of_groups)
    head = ContrastiveHeads._head

    def one_head(self, *arguments):
        groups.clear()
        result = head(self, *arguments)
        seen.append(list(groups))
        return result

    monkeypatch.setattr(ContrastiveHeads, "_head", one_head)
    return seen


@ways
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_equal_scores_give_the_loss_of_a_guess(way, objective):
    model = small_model(asymmetric_grid(), objective=objective, **WAYS[way])
    for linear in (*model.targets.values(), *(W_k for W in model.W.values() for W_k in W)):
        torch.nn.init.zeros_(linear.weight)
    output = model(random(3, 1, 10, 14), generator())
    expected = output.n_candidates.log() if objective == "infonce" else torch.tensor(log(2))
    torch.testing.assert_close(output.losses, expected.expand(len(model.heads)))
    torch.testing.assert_close(output.bounds, torch.zeros(len(model.heads)), atol=1e-5, rtol=0)


@ways
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_parameter_gets_a_gradient(way, objective):
    model = small_model(asymmetric_grid(), max_steps=2, objective=objective, **WAYS[way])
    model(random(4, 1, 10, 14), generator()).loss.backward()
    for name, parameter in model.named_parameters():
        if way == "queue" and name.startswith(("slow.", "targets.")):
            assert parameter.grad is None  # what makes the targets changes slowly or not at all
            continue
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@ways
def test_a_prediction_shares_no_pixel_with_its_target_and_meets_it_once(way, monkeypatch):
    grid = PatchGrid(8, 10, 4, 2)
    model = small_model(grid, similarity="dot", directions=("down", "left"), **WAYS[way])
    images = random(2, 1, 8, 10).requires_grad_()
    seen = record(monkeypatch)
    # A gradient here alone, to see what targets are made of.
    monkeypatch.setattr(SlowTargets, "latents", SlowTargets.latents.__wrapped__)
    model(images, generator())

    def used(vector):
        return torch.autograd.grad(vector.sum(), images, retain_graph=True)[0] != 0

    for parts in seen:
        z_hat, targets, rows, positives, _ = parts[0]
        for i in range(0, len(z_hat), 3):
            own = targets[rows[i][positives[i]]]
            prediction, target = used(z_hat[i]), used(own)
            assert prediction.any()
            assert target.any()
            assert not (prediction & target).any()
            same = [j for j in rows[i] if torch.equal(targets[j], own)]
            assert same == [rows[i][positives[i]]]


@ways
def test_same_generator_same_losses(way):
    model, images = small_model(asymmetric_grid(), **WAYS[way]).eval(), random(3, 1, 10, 14)
    assert torch.equal(*(model(images, generator(3)).losses for _ in range(2)))


def test_only_the_own_image_counts_among_its_own_negatives():
    model = small_model(asymmetric_grid(), negatives="image")
    z, other = normal(3, 4, 6, 6), normal(3, 4, 6, 6)
    other[0] = z[0]
    parts = [model.predict(latents[:1]).losses for latents in (z, other)]
    assert torch.equal(*parts)
    mean = torch.stack([model.predict(z[i : i + 1]).losses for i in range(3)]).mean(0)
    torch.testing.assert_close(model.predict(z).losses, mean)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("budget", [10, 25, 60, 2**23])
def test_groups_are_each_contrasted_alone_whatever_the_budget(objective, budget):
    leaves = [x.clone().requires_grad_() for x in normal(2, 5, 5, 3)]
    positives = torch.arange(5)
    alone = [contrast(p, t, positives, objective=objective) for p, t in zip(*leaves, strict=True)]
    expected = [torch.stack(part).mean() for part in zip(*alone, strict=True)]
    result = contrast_within(*leaves, objective=objective, logits_budget=budget)
    torch.testing.assert_close(list(result), expected)
    gradients = torch.autograd.grad(result[0], leaves)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected[0], leaves))


def test_the_share_of_hard_negatives_may_be_another_while_training():
    model = small_model(asymmetric_grid(), negatives="hard", hard_fraction=0.25)
    plain = small_model(asymmetric_grid(), negatives="batch")
    z = normal(2, 4, 6, 6)
    assert (model.predict(z).n_candidates == 13).all()  # a quarter of 47, rounded up, and one
    model.hard_share = 1.0
    torch.testing.assert_close(model.predict(z).losses, plain.predict(z).losses)
    assert (model.eval().predict(z).n_candidates == 13).all()


def test_the_queue_adds_the_targets_of_earlier_batches():
    grid = asymmetric_grid()
    model = small_model(grid, negatives="queue", queue_size=400, directions=("down", "left"))
    plain = small_model(grid, negatives="batch", directions=("down", "left"))
    first, second = normal(2, 4, 6, 6), normal(2, 4, 6, 6, seed=1)
    assert torch.equal(model.predict(first, generator()).losses, plain.predict(first).losses)
    queue = model.queues["left"]
    assert len(queue.targets()) == 48
    turned = first_row_first(first, "left").flatten(0, 2)
    known = {tuple(row) for row in plain._projected(turned, plain.targets["left"]).tolist()}
    assert {tuple(row) for row in queue.targets().tolist()} == known
    output = model.predict(second, generator())
    assert (output.n_candidates == 96).all()
    assert (output.losses > plain.predict(second).losses).all()


def test_every_target_beside_a_queue_is_one_of_the_slow_copy():
    """Also the positive, and without a gradient: age tells nothing."""
    grid = asymmetric_grid()
    model = small_model(grid, negatives="queue", queue_size=400, directions=("down",))
    for parameter in model.slow.parameters():
        parameter.data.mul_(1.5)
    pixels = random(2, 1, grid.height, grid.width)
    patches = grid.extract(pixels)
    slow_z = model.slow.latents(model.standardise(patches))
    z = model.latent(model.encode_patches(patches))
    assert not torch.allclose(z, slow_z)
    first, second = model(pixels, generator()), model(pixels, generator())
    kept = model._projected(slow_z.flatten(0, 2), model.targets["down"])
    stored = model.queues["down"].targets()
    assert sorted(stored.tolist()) == sorted(kept.repeat(2, 1).tolist())

    context = model.context_of("down")(z)
    for i, k in enumerate(model.plan["down"]):
        own = kept.view(*slow_z.shape[:3], -1)[:, k:].flatten(0, 2)
        predicted = model._as_predictions(model.W["down"][i](context))[:, :-k].flatten(0, 2)
        for output, candidates in ((first, kept), (second, kept.repeat(2, 1))):
            scores = predicted @ candidates.T
            expected = scores.logsumexp(1) - (predicted * own).sum(1)
            torch.testing.assert_close(output.losses[i], expected.mean().detach())

    second.loss.backward()
    assert all(p.grad is None for p in model.slow.parameters())
    assert all(p.grad is None for p in model.targets.parameters())
    assert all(p.grad is not None for p in model.encoder.parameters())
    model.eval()
    torch.testing.assert_close(model(pixels).losses, model.predict(z).losses)


def test_the_slow_copy_follows_by_its_momentum():
    model = small_model(asymmetric_grid(), negatives="queue")

    def pairs():
        for name in ("encoder", "latent"):
            slow, fast = (getattr(x, name).parameters() for x in (model.slow, model))
            yield from zip(slow, fast, strict=True)

    def change():
        for _, fast in pairs():
            fast.data.add_(normal(*fast.shape, seed=fast.numel()))

    change()
    model.slow.follow(model, 0.9)  # the first time at once
    assert all(torch.equal(slow, fast) for slow, fast in pairs())
    change()
    expected = [0.9 * slow + 0.1 * fast for slow, fast in pairs()]
    model.slow.follow(model, 0.9)
    torch.testing.assert_close([slow for slow, _ in pairs()], expected)


def test_the_queue_neither_serves_nor_grows_in_evaluation():
    model = small_model(asymmetric_grid(), negatives="queue", queue_size=40)
    z = normal(2, 4, 6, 6)
    model.predict(z, generator())
    before = copy.deepcopy(model.queues.state_dict())
    model.eval()
    assert (model.predict(z, generator()).n_candidates == 48).all()
    after = model.queues.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_targets_are_the_latents_without_a_projection():
    model = small_model(asymmetric_grid(), projection_dim=None, similarity="dot")
    assert not list(model.targets.parameters())
    z = normal(2, 4, 6, 6)
    assert torch.equal(model._projected(z, model.targets["up"]), z)
    assert model.W["up"][0].weight.shape == (6, 6)


def test_every_name_is_tried_here():
    assert {w["negatives"] for w in WAYS.values()} == set(NEGATIVES) - {"auto"}
