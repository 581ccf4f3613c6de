"""Objectives, negatives, greedy training, averaging and outputs, through the estimator."""

import re

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback

from sklearn_cpc import CPCTransformer
from sklearn_cpc.nn import pool

from .toys import images, tiny

X = images(24, 16, 16)
X.setflags(write=False)
GREEDY = {"patch_size": 6, "patch_stride": 3}
VARIANTS = {
    "batch": {"negatives": "batch"},
    "sampled": {"negatives": "sampled", "n_candidates": 64},
    "image": {"negatives": "image"},
    "mixed": {"negatives": "mixed", "n_candidates": 8},
    "uniform": {"negatives": "mixed", "n_candidates": 8, "same_image_fraction": None},
    "queue": {"negatives": "queue", "n_candidates": 64, "queue_size": 50},
    "hard": {"negatives": "hard"},
    "bce": {"objective": "bce"},
    "joint": {"greedy": "joint", **GREEDY},
    "sequential": {"greedy": "sequential", "negatives": "queue", **GREEDY},
    "averaging": {"averaging": 0.9},
    "no projection": {"projection_dim": None, "similarity": "dot"},
    "adam": {"optimizer": "adam", "betas": (0.8, 0.99), "eps": 1e-6, "schedule": "linear"},
    "parts": {"accumulate": 3},
    "contexts": {"output": "both", "pooling": "max+mean"},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_learns_repeats_and_survives_a_file(name, tmp_path):
    pytest.importorskip("safetensors")
    settings = {"directions": ("down", "left"), "n_steps": 2, **VARIANTS[name]}
    X = images(16, 12, 12)
    cpc, again = (tiny(max_epochs=2, **settings).fit(X) for _ in range(2))
    expected = cpc.transform(X)
    assert expected.shape == (16, len(cpc.get_feature_names_out()))
    assert np.isfinite(cpc.score(X))
    np.testing.assert_array_equal(again.transform(X), expected)
    untrained = tiny(max_epochs=0, **settings).fit(X)
    assert np.abs(untrained.transform(X) - expected).max() > 1e-5
    cpc.save(tmp_path / "a")
    other = CPCTransformer.load(tmp_path / "a")
    np.testing.assert_array_equal(other.transform(X), expected)
    assert other.history_ == cpc.history_
    for each in (cpc, other):
        each.partial_fit(X)
    np.testing.assert_array_equal(other.transform(X), cpc.transform(X))
    assert other.score(X) == cpc.score(X)


def test_named_negatives_are_what_the_numbers_choose():
    pairs = [
        ({"negatives": "groups"}, {}),
        ({"negatives": "sampled"}, {"negative_images": None}),
        ({"negatives": "batch"}, {"negative_images": None, "n_candidates": None}),
        ({"negatives": "image"}, {"negative_images": 1}),
    ]
    for named, by_numbers in pairs:
        one, two = (tiny(**settings).fit(X).transform(X) for settings in (named, by_numbers))
        np.testing.assert_array_equal(one, two)


def test_going_in_parts_changes_rounding_only():
    one, two = (tiny(accumulate=n).fit(X) for n in (1, 4))
    assert one.loss_curve_ == pytest.approx(two.loss_curve_, rel=1e-4)
    np.testing.assert_allclose(one.transform(X), two.transform(X), atol=1e-2)
    assert two.set_params(accumulate=2).partial_fit(X).n_iter_ == 2


# Greedy


def test_sequential_stages_have_their_turn_and_their_place_in_the_history():
    cpc = tiny(max_epochs=2, greedy="sequential", **GREEDY).fit(X)
    first, second = cpc.history_
    heads = cpc.net_.module_.heads
    for stage, epoch, other in ((0, first, second), (1, second, first)):
        for head, loss, none in zip(
            heads, epoch["loss_per_head"], other["loss_per_head"], strict=True
        ):
            if head[2] == stage:
                assert loss > 0
                assert none is None
    trained = [loss for loss in first["loss_per_head"] if loss is not None]
    assert first["loss"] == pytest.approx(np.mean(trained))
    assert first["mutual_information"] <= np.log(1024)


def test_joint_stages_are_all_in_the_history():
    cpc = tiny(greedy="joint", **GREEDY).fit(X)
    assert None not in cpc.history_[0]["loss_per_head"]
    assert len(cpc.history_[0]["loss_per_head"]) == len(cpc.net_.module_.heads)


def test_a_greedy_encoder_of_one_stage_is_refused():
    with pytest.raises(ValueError, match=r"greedy: ConvEncoder has 1 stage, .* set greedy=None"):
        tiny(greedy="joint").fit(images())


# Averaging


class Weights(Callback):
    """Notes the weights after every step."""

    seen = []

    def on_batch_end(self, net, **kwargs):
        self.seen.append({n: p.detach().clone() for n, p in net.module_.named_parameters()})

    def __deepcopy__(self, memo):
        return self


def average(steps, decay):
    """The definition, step by step."""
    a = dict(steps[0])
    for t, w in enumerate(steps[1:], 2):
        d = min(decay, (1 + t) / (10 + t))
        a = {name: d * a[name] + (1 - d) * w[name] for name in a}
    return a


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.9999])
def test_the_average_transforms_and_the_weights_train_on(decay):
    Weights.seen = []
    cpc = tiny(max_epochs=2, averaging=decay, callbacks=[Weights()], warm_start=True).fit(X)
    plain = tiny(max_epochs=2).fit(X)
    assert len(Weights.seen) == 6
    close_weights(cpc, average(Weights.seen, decay))
    close_weights(plain, Weights.seen[-1])
    for go_on in (lambda c: c.fit(X), lambda c: c.partial_fit(X)):
        go_on(cpc)
        close_weights(cpc, average(Weights.seen, decay))
    # What is trained on are the weights, not their average.
    plain.set_params(warm_start=True).fit(X).partial_fit(X)
    close_weights(plain, Weights.seen[-1])
    if decay:
        assert np.abs(cpc.transform(X) - plain.transform(X)).max() > 1e-4


def close_weights(cpc, expected):
    for name, parameter in cpc.net_.module_.named_parameters():
        torch.testing.assert_close(parameter.detach(), expected[name], rtol=1e-4, atol=1e-6)


def test_an_interrupted_training_keeps_its_average():
    class Stop(Weights):
        def on_batch_end(self, net, **kwargs):
            super().on_batch_end(net)
            if len(self.seen) == 4:
                raise KeyboardInterrupt

    Weights.seen = []
    cpc = tiny(max_epochs=3, averaging=0.99, callbacks=[Stop()]).fit(X)
    close_weights(cpc, average(Weights.seen, 0.99))
    assert cpc.net_.n_averaged_ == 4


def test_without_epochs_there_is_no_average():
    cpc = tiny(max_epochs=0, averaging=0.9).fit(X)
    np.testing.assert_array_equal(cpc.transform(X), tiny(max_epochs=0).fit(X).transform(X))
    assert cpc.partial_fit(X).net_.n_averaged_ == 3


# Outputs


@pytest.mark.parametrize(("output", "width"), [("features", 8), ("z", 4), ("c", 16), ("both", 20)])
@pytest.mark.parametrize("pooling", ["max", "flatten"])
def test_width_and_names_of_outputs(output, width, pooling):
    cpc = tiny(output=output, pooling=pooling, transform_stride=2).fit(X)
    patches = cpc.embed_patches(X)
    assert patches.shape == (24, 7, 7, width)
    features = cpc.transform(X)
    np.testing.assert_allclose(features, pool(torch.from_numpy(patches), pooling), atol=1e-6)
    assert features.shape[1] == len(cpc.get_feature_names_out())


def test_outputs_are_the_parts_of_the_model():
    cpc = tiny(output="both", max_epochs=2, directions=("left", "down")).fit(X)
    model = cpc.net_.module_
    with torch.inference_mode():
        pixels = cpc.pixel_scale_.apply(torch.from_numpy(X.transpose(0, 3, 1, 2).copy()))
        z = model.latent(model.encode_patches(model.grid.extract(pixels)))
        left = model.contexts["left"](z.rot90(1, (1, 2))).rot90(-1, (1, 2))
        expected = torch.cat([z, left, model.contexts["down"](z)], -1)
    np.testing.assert_allclose(cpc.embed_patches(X), expected, atol=1e-4)


@pytest.mark.parametrize(("direction", "seen"), [("down", (0, 3)), ("right", (3, 0))])
def test_a_context_knows_what_comes_before_and_not_after(direction, seen):
    cpc = tiny(output="c", directions=(direction,), max_epochs=0).fit(X)
    other = X.copy()
    other[:, -4:, -4:] = 255 - other[:, -4:, -4:]  # the last corner
    changed = np.abs(cpc.embed_patches(X) - cpc.embed_patches(other)).max((0, 3)) > 0
    assert changed[-1, -1]
    rows, cols = np.nonzero(changed)
    assert (rows if direction == "down" else cols).min() >= 5


def test_z_takes_a_finer_stride_and_contexts_do_not():
    assert tiny(output="z").fit(X).embed_patches(X).shape == (24, 13, 13, 4)
    assert tiny(output="c").fit(X).embed_patches(X).shape == (24, 7, 7, 16)
    message = (
        "transform_stride=1 must be the patch_stride of fit, (2, 2), with output='c': contexts "
        "were trained on patches at that distance; pass transform_stride='auto', or output='z'."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        tiny(output="c", transform_stride=1).fit(X)


def test_contexts_of_images_of_another_size():
    cpc = tiny(output="c").fit(X)
    assert cpc.embed_patches(images(2, 20, 12)).shape == (2, 9, 5, 16)


@pytest.mark.parametrize(
    ("settings", "size", "why"),
    [
        ({"greedy": "joint", **GREEDY}, 16, "greedy has no context network"),
        ({"max_epochs": 0, "channels": "last"}, 1, "no direction has room"),
    ],
)
@pytest.mark.parametrize("output", ["c", "both"])
def test_contexts_where_there_are_none(settings, size, why, output):
    message = f"output='{output}' needs contexts, and there are none: {why}; pass output='features'"
    with pytest.raises(ValueError, match=message):
        tiny(output=output, **settings).fit(images(8, size, size))


# Refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"negatives": "sampled", "n_candidates": None}, "n_candidates=None must be a number with"),
        ({"negatives": "groups", "negative_images": None}, "negative_images=None must be a number"),
        ({"betas": (0.9, 1.0)}, r"betas=\(0.9, 1.0\) must be two numbers from 0 to below 1; pass"),
        ({"betas": (0.9,)}, r"betas=\(0.9,\) must be two numbers"),
        ({"betas": ("a", 0.9)}, r"betas=\('a', 0.9\) must be two numbers"),
        ({"negatives": "imge"}, r"(?s)negatives.*Did you mean 'image'"),
        ({"objective": "infonec"}, r"(?s)objective.*Did you mean 'infonce'"),
        ({"greedy": "jiont"}, r"(?s)greedy.*Did you mean 'joint'"),
        ({"schedule": "cosin"}, r"(?s)schedule.*Did you mean 'cosine'"),
        ({"output": "featurs"}, r"(?s)output.*Did you mean 'features'"),
        ({"averaging": 1.0}, "'averaging' parameter"),
        ({"accumulate": 0}, "'accumulate' parameter"),
        ({"hard_fraction": 0.0}, "'hard_fraction' parameter"),
        ({"same_image_fraction": 1.5}, "'same_image_fraction' parameter"),
        ({"queue_size": 0}, "'queue_size' parameter"),
    ],
)
def test_settings_that_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        tiny(**settings).fit(X)


@pytest.mark.parametrize("settings", [{"negatives": "image"}, {"negative_images": 1}])
def test_an_image_of_one_row_of_patches_has_no_negatives_of_its_own(settings):
    ((name, value),) = settings.items()
    message = f"{name}={value!r}: a batch of one image with a grid of 1x4 patches has no negatives"
    row = images(9, height=1, width=5, n_channels=1)[..., 0]
    with pytest.raises(ValueError, match=message):
        tiny(patch_size=(1, 2), patch_stride=1, **settings).fit(row)


@pytest.mark.parametrize(
    ("name", "value"),
    [("negatives", "batch"), ("objective", "bce"), ("averaging", 0.5), ("betas", (0.5, 0.9))],
)
def test_a_training_is_not_continued_in_another_way(name, value):
    cpc = tiny().fit(X).set_params(**{name: value})
    with pytest.raises(ValueError, match=rf"{name}=.* must be .* as in the fit that is continued"):
        cpc.partial_fit(X)


@pytest.mark.parametrize("betas", [(0, 0.99), [0, 0]])
def test_betas_may_be_whole_numbers(betas):
    one, two = (tiny(betas=each).fit(X) for each in (betas, tuple(map(float, betas))))
    np.testing.assert_array_equal(one.transform(X), two.transform(X))
    assert one.betas is betas
