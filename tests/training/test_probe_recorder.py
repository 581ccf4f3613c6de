"""Accuracy over the course of training: what is recorded, and that nothing else changes."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_cpc import CPCTransformer, ProbeRecorder

from ..estimators.toys import images, tiny

X = images(40)
X[::2, :, :, 0] //= 4  # two classes: less red, more red
X.setflags(write=False)
y = np.arange(40) % 2


def accuracies(recorder, X_train=X, **settings):
    cpc = tiny(callbacks=[recorder], **{"max_epochs": 2, **settings}).fit(X_train)
    return [row.get("probe_accuracy") for row in cpc.history_]


def at_training_stride(cpc):
    return cpc.set_params(transform_stride=cpc.grid_.patch_stride)


def test_knn_is_the_accuracy_of_neighbours_by_cosine_on_other_images():
    recorder = ProbeRecorder(X[:24], y[:24], X_test=X[24:], y_test=y[24:])
    cpc = at_training_stride(tiny(callbacks=[recorder], max_epochs=1).fit(X))
    knn = KNeighborsClassifier(20, metric="cosine", weights="distance")
    pipe = make_pipeline(StandardScaler(), knn).fit(cpc.transform(X[:24]), y[:24])
    expected = pipe.score(cpc.transform(X[24:]), y[24:])
    assert cpc.history_[0]["probe_accuracy"] == pytest.approx(expected)


def test_logistic_is_cross_validated_where_there_are_no_other_images():
    recorder = ProbeRecorder(X, y, probe="logistic", cv=4, pooling="mean")
    cpc = at_training_stride(tiny(callbacks=[recorder], max_epochs=1, pooling="mean").fit(X))
    folds = StratifiedKFold(4, shuffle=True, random_state=0)
    pipe = make_pipeline(StandardScaler(), LogisticRegression(C=1 / 8, max_iter=1000))
    expected = cross_val_score(pipe, cpc.transform(X), y, cv=folds).mean()
    assert cpc.history_[0]["probe_accuracy"] == pytest.approx(expected)


def test_every_second_epoch_and_over_a_continued_training():
    recorder = ProbeRecorder(X, y, every=2)
    cpc = tiny(callbacks=[recorder], max_epochs=3).fit(X)
    assert ["probe_accuracy" in row for row in cpc.history_] == [False, True, False]
    cpc.partial_fit(X)
    assert ["probe_accuracy" in row for row in cpc.history_] == [False, True, False, True]
    assert pickle.loads(pickle.dumps(cpc)).history_ == cpc.history_


class Dropping(torch.nn.Module):
    """An encoder that draws from the global generator in training."""

    def __init__(self, n_channels):
        super().__init__()
        self.first = torch.nn.Linear(4 * n_channels, 8)
        self.drop = torch.nn.Dropout(0.5)

    def forward(self, patches):
        return self.drop(self.first(patches.flatten(1)).relu())


def test_what_is_probed_is_what_transform_gives_then():
    """Without dropout, and of the average of the weights."""
    own = {"encoder": Dropping, "patch_size": 2, "averaging": 0.9, "max_epochs": 2}
    recorder = ProbeRecorder(X, y, probe="logistic", cv=4)
    cpc = at_training_stride(tiny(callbacks=[recorder], **own).fit(X))
    found = cpc.transform(X)
    folds = StratifiedKFold(4, shuffle=True, random_state=0)
    width = found.shape[1]
    pipe = make_pipeline(StandardScaler(), LogisticRegression(C=1 / width, max_iter=1000))
    expected = cross_val_score(pipe, found, y, cv=folds).mean()
    assert cpc.history_[-1]["probe_accuracy"] == pytest.approx(expected)


def test_the_weights_are_the_same_without_it_where_the_network_draws():
    own = {"encoder": Dropping, "patch_size": 2, "averaging": 0.9, "max_epochs": 2}
    probed = tiny(callbacks=[ProbeRecorder(X, y)], **own).fit(X)
    plain = tiny(**own).fit(X)
    pairs = zip(probed.net_.module_.parameters(), plain.net_.module_.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("probe", ["knn", "logistic"])
def test_the_weights_are_the_same_without_it(probe):
    torch.manual_seed(3)
    np.random.seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    probed = tiny(max_epochs=2, callbacks=[ProbeRecorder(X, y, probe=probe)]).fit(X)
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])
    plain = tiny(max_epochs=2).fit(X)
    for a, b in zip(
        probed.net_.module_.state_dict().values(),
        plain.net_.module_.state_dict().values(),
        strict=True,
    ):
        assert torch.equal(a, b)


def test_rows_without_a_label_are_left_out():
    partly = np.where(np.arange(40) < 30, y, -1)
    assert accuracies(ProbeRecorder(X, partly)) == accuracies(ProbeRecorder(X[:30], y[:30]))
    names = np.array(["less", "more"])[y]
    assert accuracies(ProbeRecorder(X, names)) == accuracies(ProbeRecorder(X, y))


def test_layouts_agree():
    expected = accuracies(ProbeRecorder(X, y))
    flat = X.reshape(40, -1)
    assert accuracies(ProbeRecorder(flat, y)) == expected
    assert accuracies(ProbeRecorder(torch.from_numpy(X.copy()), y)) == expected
    first = np.moveaxis(X, -1, 1)
    assert accuracies(ProbeRecorder(first, y), first) == expected
    flat_first = np.ascontiguousarray(first).reshape(40, -1)
    shaped = {"X_train": flat_first, "image_shape": (3, 8, 8)}
    assert accuracies(ProbeRecorder(flat_first, y), **shaped) == expected
    # "auto" would take the first axis for the channels.
    wide = images(40, 6, 8, 8)
    assert 0 <= accuracies(ProbeRecorder(wide, y), wide, channels="last", max_epochs=1)[0] <= 1


def test_the_images_are_not_copied_and_clone_works():
    recorder = ProbeRecorder(X, y)
    twin = clone(CPCTransformer(callbacks=[recorder])).callbacks[0]
    assert twin.every == 1
    np.testing.assert_array_equal(twin.X, X)
    tiny(callbacks=[recorder]).fit(X)
    assert vars(recorder).keys() == vars(ProbeRecorder(X, y)).keys()


def test_saved_with_the_history(tmp_path):
    pytest.importorskip("safetensors")
    cpc = tiny(callbacks=[ProbeRecorder(X, y)]).fit(X).set_params(callbacks=None)
    cpc.save(tmp_path / "cpc.safetensors")
    assert CPCTransformer.load(tmp_path / "cpc.safetensors").history_ == cpc.history_


@pytest.mark.parametrize(
    ("recorder", "message"),
    [
        (ProbeRecorder(X, y, probe="kn"), "probe='kn' is unknown.* Did you mean 'knn'"),
        (ProbeRecorder(X, y, every=0), "every=0 must be at least 1 epoch"),
        (ProbeRecorder(X, y, X_test=X), "X_test and y_test must be passed both or neither"),
        (ProbeRecorder(X, y[:7]), "X has 40 images and its y 7 labels"),
        (ProbeRecorder(X, y, X_test=X, y_test=y[:7]), "X_test has 40 images and its y 7 labels"),
        (ProbeRecorder(X, y * 0), r"y has \[40\] images of its classes; a probe needs"),
        (ProbeRecorder(X[:3], [0, 0, 1]), r"y has \[2, 1\] images of its classes"),
        (ProbeRecorder(images(4, 9), [0, 0, 1, 1]), r"images of shape \(9, 8, 3\) .* \(8, 8, 3\)"),
        (ProbeRecorder(X, y, pooling="maxx"), "pooling='maxx' is unknown"),
    ],
)
def test_refusals(recorder, message):
    with pytest.raises(ValueError, match=message):
        accuracies(recorder)
