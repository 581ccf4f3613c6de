"""CPCClassifier: what it learns from, what it keeps, what it refuses."""

import copy
import pickle
import signal

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from sklearn_cpc import (
    CPCClassifier,
    CPCTransformer,
    LabelFractionSplit,
    label_efficiency_curve,
)
from sklearn_cpc.estimators import classifier as module
from sklearn_cpc.estimators import fine_tuning
from sklearn_cpc.estimators.fine_tuning import FineTuning
from sklearn_cpc.nn import Augmentation

from .toys import images, same_state, tiny

X = images(60)
X[::2, :, :, 0] //= 4  # two classes: less red, more red
X.setflags(write=False)
y = np.arange(60) % 2
PARTLY = np.where(np.arange(60) < 40, y, -1)
CPC = tiny().fit(X)


def small(transformer=CPC, **settings):
    return CPCClassifier(transformer, **{"max_epochs": 2, "random_state": 0, **settings})


def weights(cpc):
    return {name: value.clone() for name, value in cpc.net_.module_.state_dict().items()}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def accuracy(model, rows):
    return np.mean(model.predict(X[rows]) == y[rows])


@pytest.fixture(autouse=True)
def _few_penalties(monkeypatch):
    monkeypatch.setattr(fine_tuning, "C_GRID", (1.0, 10.0))


# What is learned from what


def test_a_fitted_transformer_is_used_as_it_is_and_left_alone():
    before, state = weights(CPC), vars(CPC).copy()
    for given in (CPC, FrozenEstimator(CPC)):
        model = small(given).fit(X, y)
        assert same_state(state, vars(CPC))
        assert same(before, weights(CPC))
        after = weights(model.transformer_)
        assert {
            name.split(".")[0] for name in before if not torch.equal(before[name], after[name])
        } == {"encoder"}
        assert model.transformer_.loss_curve_ == CPC.loss_curve_


def test_an_unfitted_transformer_is_cloned_and_fitted_on_all_images():
    given = tiny()
    model = small(given, fine_tune=False).fit(X, PARTLY)
    assert not hasattr(given, "net_")
    assert same(weights(model.transformer_), weights(CPC))
    fewer = small(given, fine_tune=False).fit(X[:40], y[:40])
    assert not same(weights(model.transformer_), weights(fewer.transformer_))


@pytest.mark.parametrize("given", [tiny(), tiny(random_state=None), CPC, FrozenEstimator(CPC)])
def test_pretraining_apart_gives_what_one_fit_gives(given):
    whole = small(given).fit(X, PARTLY)
    apart = small(given).pretrained(X)
    assert not hasattr(apart, "classes_")
    own = clone(apart).fit(X, PARTLY)
    np.testing.assert_array_equal(own.coef_, whole.coef_)
    assert own.transformer.estimator is apart.transformer.estimator is not CPC


def test_from_scratch_there_is_nothing_to_pretrain(monkeypatch):
    monkeypatch.setattr(CPCTransformer, "fit", None)
    assert small(init="random").pretrained(X).init == "random"


def test_a_curve_pretrains_once_per_split_on_all_its_images(monkeypatch):
    pretrained, fit = [], CPCTransformer.fit

    def noted(self, X, y=None):
        pretrained.append(len(X))
        return fit(self, X)

    monkeypatch.setattr(CPCTransformer, "fit", noted)
    params = {"label_fractions": (8, 16), "cv": 2, "n_repeats": 2, "random_state": 0}
    curve = label_efficiency_curve(small(tiny(), max_epochs=1), X, y, **params)
    assert pretrained == [30, 30]
    assert curve.scores.shape == (2, 2, 2)
    train, test, subsets = next(
        LabelFractionSplit((8, 16), cv=2, n_repeats=2, random_state=0).nested_splits(X, y)
    )
    labels = np.full(30, -1)
    labels[subsets[1][0]] = y[train][subsets[1][0]]
    alone = small(tiny(), max_epochs=1).fit(X[train], labels)
    assert curve.scores[0, 0, 1] == alone.score(X[test], y[test])


def test_without_a_transformer_there_is_the_default_one(monkeypatch):
    fitted = []

    def fit(cpc, X):
        fitted.append(cpc)
        return vars(cpc).update(vars(CPC)) or cpc

    monkeypatch.setattr(CPCTransformer, "fit", fit)
    CPCClassifier(fine_tune=False).fit(X, y)
    assert type(fitted[0]) is CPCTransformer


def test_random_is_the_same_network_without_pretraining():
    for given in (tiny(), CPC, FrozenEstimator(CPC)):
        model = small(given, init="random", fine_tune=False).fit(X, y)
        expected = weights(tiny(max_epochs=0).fit(X))
        assert same(weights(model.transformer_), expected)
        assert model.C_ is None
        assert not model.coef_.any()


def test_random_learns_from_scratch():
    model = small(init="random", max_epochs=40).fit(X, PARTLY)
    assert accuracy(model, np.arange(40, 60)) > 0.9
    assert model.history_[-1]["loss"] < 0.5 < model.history_[1]["loss"]


def test_frozen_equals_a_logistic_regression_on_standardised_features():
    labeled = slice(40)
    for target in (y, np.arange(60) % 3):
        model = small(fine_tune=False).fit(X, np.where(np.arange(60) < 40, target, -1))
        pipe = make_pipeline(StandardScaler(), LogisticRegression(C=model.C_, max_iter=2000))
        pipe.fit(CPC.transform(X[labeled]), target[labeled])
        np.testing.assert_allclose(
            model.predict_proba(X), pipe.predict_proba(CPC.transform(X)), atol=1e-4
        )
        assert (model.history_, model.n_iter_, model.best_epoch_) == ([], 0, 0)
        assert same(weights(model.transformer_), weights(CPC))


@pytest.mark.parametrize("class_weight", ["balanced", {1: 5.0}])
def test_class_weights_are_those_of_the_logistic_regression(class_weight):
    rare = np.where(np.arange(60) < 40, np.arange(60) % 4 == 0, -1)
    model = small(fine_tune=False, class_weight=class_weight).fit(X, rare)
    linear = LogisticRegression(C=model.C_, class_weight=class_weight, max_iter=2000)
    pipe = make_pipeline(StandardScaler(), linear).fit(CPC.transform(X[:40]), rare[:40])
    np.testing.assert_allclose(
        model.predict_proba(X), pipe.predict_proba(CPC.transform(X)), atol=1e-4
    )
    plain = small(fine_tune=False).fit(X, rare)
    assert model.predict_proba(X)[:, 1].mean() > plain.predict_proba(X)[:, 1].mean()


@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_held_out_scores_are_weighted(class_weight, monkeypatch):
    """Of noise, one class in six rare, plain accuracy is best where the rare one is never seen."""
    logits = []
    log = FineTuning.logits

    def keep(self, head, rows):
        logits.append((log(self, head, rows), self.target[rows]))
        return logits[-1][0]

    monkeypatch.setattr(FineTuning, "logits", keep)
    rare = np.arange(60) % 6 == 0
    model = small(class_weight=class_weight, validation_fraction=0.4).fit(X, rare)
    found, target = logits[0]
    recalls = [(found.argmax(1) == target)[target == c] for c in (0, 1)]
    plain, balanced = np.concatenate(recalls).mean(), np.mean([np.mean(r) for r in recalls])
    expected = balanced if class_weight else plain
    assert model.history_[0]["held_out_accuracy"] == pytest.approx(expected, abs=1e-6)
    assert plain != pytest.approx(balanced, abs=0.01)


def test_class_weights_that_cannot_be_are_refused_before_the_pretraining(monkeypatch):
    monkeypatch.setattr(CPCTransformer, "fit", lambda *_: pytest.fail("pretrained"))
    for weight in (-1.0, 0.0, np.nan, "much"):
        with pytest.raises(ValueError, match="must be a finite number above 0"):
            small(tiny(), class_weight={1: weight}).fit(X, y)
    with pytest.raises(ValueError, match="not in class_weight"):
        small(tiny(), class_weight={"1": 2.0}).fit(X, y)


def test_rows_without_a_label_teach_the_classifier_nothing():
    other = X.copy()
    other[40:] = 255 - other[40:]
    one, two = (small().fit(images_, PARTLY) for images_ in (X, other))
    np.testing.assert_array_equal(one.coef_, two.coef_)
    assert same(weights(one.transformer_), weights(two.transformer_))
    three = small().fit(X[:40], y[:40])
    np.testing.assert_array_equal(one.coef_, three.coef_)


@pytest.mark.parametrize("class_weight", [None, {0: 0.2, 1: 5.0}])
def test_fine_tuning_starts_at_the_minimum_of_the_penalised_loss(class_weight, monkeypatch):
    """Its first step would not move the classifier, were the encoder left as it is."""
    grads = []
    step = torch.optim.AdamW.step

    def watch(self, *args, **kwargs):
        grads.append([p.grad.abs().max().item() for p in self.param_groups[2]["params"]])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", watch)
    one_step = {"batch_size": 60, "max_epochs": 1, "validation_fraction": 0.01}
    for target in (y, np.arange(60) % 3):
        small(augment="none", class_weight=class_weight, **one_step).fit(X, target)
    assert len(grads) == 2
    # The gradient of the loss alone is near 0.1.
    assert max(map(max, grads)) < 2e-3


def test_recurrent_layers_are_in_training_mode_for_their_gradient(monkeypatch):
    """CuDNN gives none in evaluation mode; nothing in them differs between the two."""
    modes, step = [], FineTuning._step

    def watch(self, *args):
        layers = [m for m in self.parts.modules() if isinstance(m, torch.nn.RNNBase)]
        modes.append({layer.training for layer in layers})
        return step(self, *args)

    monkeypatch.setattr(FineTuning, "_step", watch)
    cpc = tiny(context="gru", output="c").set_params(transform_stride=2, patch_stride=2)
    model = small(cpc.fit(X), max_epochs=1).fit(X, y)
    assert modes[0] == {True}
    assert not any(m.training for m in model.transformer_.net_.module_.modules())


def test_learning_rates_are_the_encoders_and_the_classifiers_own():
    frozen_encoder = small(encoder_learning_rate=1e-30, classifier_learning_rate=0.1).fit(X, y)
    assert same(weights(frozen_encoder.transformer_), weights(CPC))
    started = small(fine_tune=False).fit(X, y)
    assert np.abs(frozen_encoder.coef_ - started.coef_).max() > 0.01
    frozen_head = small(
        classifier_learning_rate=1e-30, encoder_learning_rate=0.01, validation_fraction=0.01
    ).fit(X, y)
    np.testing.assert_array_equal(frozen_head.coef_, started.coef_)
    assert not same(weights(frozen_head.transformer_), weights(CPC))


def test_augmentation_is_the_transformers_or_ones_own(monkeypatch):
    used = []
    change = Augmentation.images
    monkeypatch.setattr(
        Augmentation, "images", lambda a, *args: (used.append(a), change(a, *args))[1]
    )
    mine = Augmentation(shift=0.5, flip=0)
    theirs = tiny(augment=Augmentation(flip=0.3)).fit(X)
    for augment, expected in (("auto", theirs.augment), (mine, mine), ("full", Augmentation())):
        used.clear()
        small(theirs, augment=augment).fit(X, y)
        assert set(used) == {expected}


# Holding out


def test_the_best_epoch_on_held_out_images_is_kept(monkeypatch):
    # By accuracy, of equal ones by the loss: the third; then two without a better one.
    scores, seen = [(0.1, 2.0), (0.6, 0.1), (0.8, 0.9), (0.8, 0.7), (0.8, 0.8), (0.7, 0.1)], []

    def scripted(tuning, rows):
        seen.append(weights(tuning.transformer) | {"head": tuning.head.weight.detach().clone()})
        accuracy, loss = scores[len(seen) - 1]
        return {"held_out_accuracy": accuracy, "held_out_loss": loss}

    monkeypatch.setattr(FineTuning, "_held_out_scores", scripted)
    model = small(init="random", max_epochs=9, patience=2, validation_fraction=0.4).fit(X, y)
    assert (model.best_epoch_, model.n_iter_) == (3, 5)
    assert [row["epoch"] for row in model.history_] == list(range(6))
    kept = weights(model.transformer_)
    assert same(kept, seen[3])
    assert not same(kept, seen[5])
    scale = seen[3]["head"].numpy() / model.coef_
    np.testing.assert_allclose(scale[0], scale[1], rtol=1e-5)


def held_out_rows(monkeypatch):
    """Notes the rows that are held out, as they are drawn."""
    drawn = []
    split = module.train_test_split
    monkeypatch.setattr(
        module, "train_test_split", lambda *a, **k: (drawn.append(split(*a, **k)), drawn[-1])[1]
    )
    return drawn


def test_never_less_accurate_on_held_out_images_than_the_frozen_classifier(monkeypatch):
    drawn = held_out_rows(monkeypatch)
    # Steps so large that fine-tuning destroys the encoder.
    model = small(encoder_learning_rate=1.0, validation_fraction=0.3).fit(X, y)
    assert model.best_epoch_ == 0
    assert accuracy(model, drawn[0][1]) >= model.history_[0]["held_out_accuracy"]
    assert same(weights(model.transformer_), weights(CPC))
    # And what was held out is learned from as well, then.
    everything = make_pipeline(StandardScaler(), LogisticRegression(C=model.C_, max_iter=2000))
    everything.fit(CPC.transform(X), y)
    np.testing.assert_array_equal(model.predict(X), everything.predict(CPC.transform(X)))


def test_held_out_images_are_stratified_and_not_trained_on(monkeypatch):
    drawn, seen = held_out_rows(monkeypatch), []
    step = FineTuning._step
    monkeypatch.setattr(
        FineTuning, "_step", lambda self, rows, g: (seen.extend(rows), step(self, rows, g))[1]
    )
    small(validation_fraction=0.25).fit(X, np.where(np.arange(60) < 48, y, -1))
    train, held_out = drawn[0]
    assert np.bincount(y[held_out]).tolist() == [6, 6]
    assert set(seen) == set(train) == set(range(48)) - set(held_out)


def test_with_few_labels_nothing_is_held_out_and_epochs_are_few():
    model = small(max_epochs=100).fit(X, PARTLY)
    assert model.n_iter_ == model.best_epoch_ == module.FEW_EPOCHS
    assert all("held_out_loss" not in row for row in model.history_)
    assert model.temperature_ == 1.0
    # From scratch there is all to be learned.
    assert small(init="random", max_epochs=30).fit(X, PARTLY).n_iter_ == 30


@pytest.mark.parametrize("init", ["pretrained", "random"])
def test_one_label_per_class(init):
    few = np.full(60, -1)
    few[:2] = 0, 1
    model = small(init=init).fit(X, few)
    assert model.predict_proba(X).shape == (60, 2)
    assert accuracy(model, slice(2)) == 1
    assert (1 / 8 if init == "pretrained" else None) == model.C_


def test_a_class_with_a_single_image_cannot_be_held_out_from():
    target = y.copy()
    target[0] = 2
    model = small(validation_fraction=0.3, max_epochs=1).fit(X, target)
    assert model.predict_proba(X).shape == (60, 3)
    assert "held_out_loss" not in model.history_[-1]


def test_max_batches_ends_training_in_whole_epochs():
    for max_batches, n_epochs in ((1, 1), (4, 2), (5, 2), (8, 4)):
        model = small(
            init="random", max_epochs=9, max_batches=max_batches, batch_size=20, patience=9
        ).fit(X, PARTLY)
        assert model.n_iter_ == n_epochs


# Probabilities


def brier(probabilities, target):
    return np.square(probabilities - np.eye(probabilities.shape[1])[target]).sum(axis=1).mean()


def test_temperature_brings_certainty_down_where_it_is_too_high():
    rng = np.random.RandomState(0)
    noisy = images(200, height=4, width=4, n_channels=1, seed=1)
    target = rng.randint(2, size=200)  # nothing to learn
    noisy[target == 1] += np.uint8(8)
    cpc = tiny(max_epochs=0).fit(noisy)
    model = CPCClassifier(
        cpc, init="random", max_epochs=30, validation_fraction=0.5, patience=30, random_state=0
    ).fit(noisy[:120], target[:120])
    scaled = model.predict_proba(noisy[120:])
    model.temperature_, fitted = 1.0, model.temperature_
    unscaled = model.predict_proba(noisy[120:])
    assert fitted != 1.0
    assert brier(scaled, target[120:]) <= brier(unscaled, target[120:]) + 0.01


def test_probabilities_are_those_of_the_scaled_logits():
    model = small(validation_fraction=0.3).fit(X, y)
    model.temperature_ = 2.0
    logits = model.transformer_.transform(X) @ model.coef_.T + model.intercept_
    expected = np.exp(logits / 2) / np.exp(logits / 2).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(model.predict_proba(X), expected, atol=1e-6)
    assert model.predict_proba(X).dtype == np.float32


# Labels


def test_logarithms_of_probabilities():
    model = small(fine_tune=False).fit(X, y)
    np.testing.assert_allclose(
        model.predict_log_proba(X), np.log(model.predict_proba(X)), rtol=1e-4, atol=1e-6
    )
    model.coef_ = 1e4 * model.coef_
    with np.errstate(divide="ignore"):
        assert np.isneginf(np.log(model.predict_proba(X))).any()
    assert np.isfinite(model.predict_log_proba(X)).all()


def test_labels_may_be_text_or_objects_with_a_sign_for_none():
    expected = small().fit(X, PARTLY)
    names = np.array(["less", "more"])[y]
    mixed = names.astype(object)
    mixed[40:] = -1
    empty = np.where(PARTLY == -1, "", names)
    text = np.where(PARTLY == -1, "-1", names)  # what NumPy makes of a list of texts and -1
    given = (mixed, -1), (empty, ""), (PARTLY.astype(float), -1), (text, -1), (text, "-1")
    for labels, unlabeled in given:
        model = small(unlabeled=unlabeled).fit(X, labels)
        np.testing.assert_array_equal(model.coef_, expected.coef_)
    assert small().fit(X, names).classes_.tolist() == ["less", "more"]
    assert small(unlabeled="").fit(X, empty).predict(X[:1]) in ("less", "more")


def test_minus_one_and_one_alone_are_two_classes_with_a_warning():
    signs = 2 * y - 1
    with pytest.warns(UserWarning, match=r"y holds -1 and 1 alone, .* pass unlabeled=None\."):
        model = small().fit(X, signs)
    assert model.classes_.tolist() == [-1, 1]
    assert model.score(X, signs) == np.mean(model.predict(X) == signs)
    quiet = small(unlabeled=None).fit(X, signs)
    np.testing.assert_array_equal(model.coef_, quiet.coef_)


def test_more_of_minus_one_than_of_one_is_a_single_class():
    with pytest.raises(ValueError, match=r"y has 1 class in 29 labelled images \(-1 means unlab"):
        small().fit(X, np.where(np.arange(60) < 29, 1, -1))


@pytest.mark.parametrize(
    ("settings", "way_out"),
    [
        ({}, "write -1 there, or leave them out"),
        ({"unlabeled": "none"}, "write 'none' there, or leave them out"),
        ({"unlabeled": None}, "label those rows, or leave them out"),
    ],
)
@pytest.mark.parametrize("missing", [None, np.nan])
def test_a_missing_label_is_no_label_and_no_sign_for_none(settings, way_out, missing):
    labels = np.array(["a", "b"] * 30, dtype=object)
    labels[7] = missing
    message = rf"^Input y contains NaN or None \(first in row 7\); {way_out}.$"
    with pytest.raises(ValueError, match=message):
        small(**settings).fit(X, labels)
    with pytest.raises(ValueError, match="Input y contains infinity"):
        small(**settings).fit(X, np.where(np.arange(60) == 7, np.inf, 1.0))


def test_score_leaves_out_what_is_unlabelled():
    model = small(fine_tune=False).fit(X, PARTLY)
    right = model.predict(X)[:40] == y[:40]
    assert model.score(X, PARTLY) == right.mean()
    assert model.score(X, PARTLY, np.arange(60)) == pytest.approx(
        np.average(right, weights=np.arange(40))
    )
    with pytest.raises(ValueError, match="y has no label, -1 means unlabelled; score needs"):
        model.score(X[40:], PARTLY[40:])


def test_score_refuses_labels_of_another_kind_or_length():
    """Text against numbers was never equal: an accuracy of 0 without a word."""
    model = small(fine_tune=False).fit(X, PARTLY)
    with pytest.raises(ValueError, match="type"):
        model.score(X, np.where(y, "dog", "cat"))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        model.score(X, y[:20])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        model.score(X, y, np.ones(20))
    with pytest.raises(ValueError, match="y contains NaN or None"):
        model.score(X, np.where(y, np.nan, 1.0))


# In scikit-learn


def test_in_pipelines_searches_and_cross_validation():
    pipe = make_pipeline(FunctionTransformer(), small(FrozenEstimator(CPC), fine_tune=False))
    assert cross_val_score(pipe, X, y, cv=3, error_score="raise").mean() > 0.7
    grid = {"transformer__pooling": ["max", "quadrants"]}
    one = small(tiny(max_epochs=0), fine_tune=False)
    search = GridSearchCV(one, grid, cv=2, error_score="raise").fit(X, PARTLY)
    pooling = search.best_params_["transformer__pooling"]
    assert search.best_estimator_.transformer_.pooling == pooling


def test_clone_pickle_and_seeds():
    model = small(validation_fraction=0.3).fit(X, y)
    expected = model.predict_proba(X)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict_proba(X), expected)
    np.testing.assert_array_equal(model.fit(X, y).predict_proba(X), expected)
    torch.manual_seed(5)
    again = small(FrozenEstimator(CPC), validation_fraction=0.3)
    np.testing.assert_array_equal(clone(again).fit(X, y).predict_proba(X), expected)
    other = small(validation_fraction=0.3, random_state=1).fit(X, y)
    assert not np.array_equal(other.predict_proba(X), expected)
    # Pretraining is seeded, too, unless the transformer has a seed of its own.
    one, two = (small(tiny(random_state=None)).fit(X, y).predict_proba(X) for _ in range(2))
    np.testing.assert_array_equal(one, two)


def test_the_global_generators_are_left_alone():
    torch.manual_seed(5)
    np.random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    small(init="random").fit(X, y)
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])


def test_layouts_agree_and_other_sizes_are_classified():
    expected = small().fit(X, y).predict_proba(X)
    flat = small(tiny(image_shape=(8, 8, 3)).fit(X.reshape(60, -1)))
    np.testing.assert_array_equal(
        flat.fit(X.reshape(60, -1), y).predict_proba(X.reshape(60, -1)), expected
    )
    assert small().fit(X, y).predict(images(3, height=12)).shape == (3,)


def test_frames_give_their_names_and_set_output_does_not_reach_in():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X.reshape(60, -1)).add_prefix("p")
    given = tiny(image_shape=(8, 8, 3)).set_output(transform="pandas")
    model = small(given).fit(frame, y)
    assert list(model.feature_names_in_) == list(frame.columns)
    assert isinstance(model.predict_proba(frame), np.ndarray)
    model.set_params(transformer=CPC).fit(X, y)
    assert not hasattr(model, "feature_names_in_")


def test_verbose_prints_a_line_per_epoch(capsys):
    small(validation_fraction=0.3, verbose=1).fit(X, y)
    small(verbose=1).fit(X, PARTLY)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("fine-tuning epoch 1/2  loss ")
    assert "  held out: loss " in lines[0]
    assert "held out" not in lines[2]


# Failing


BAD = {
    "label": ({}, X, np.zeros(60), "y has 1 class in 60 labelled images"),
    "no label": ({}, X, np.full(60, -1), "y has no class in 0 labelled images"),
    "no y": ({}, X, None, "requires y to be passed, but the target y is None; .*CPCTransformer"),
    "lengths": ({}, X, y[:5], "inconsistent numbers of samples"),
    "pixels": ({}, images(60, dtype=float) * np.nan, y, "NaN or infinity"),
    "parameter": ({"init": "randon"}, X, y, "Did you mean 'random'"),
    "rate": (
        {"encoder_learning_rate": 1e30, "max_epochs": 2},
        X,
        PARTLY,
        r"In fine-tuning .*; lower encoder_learning_rate=1e\+30 or classifier_learning_rate=0.001",
    ),
}


@pytest.mark.parametrize("why", BAD)
def test_a_failed_refit_leaves_the_earlier_fit(why):
    settings, bad, labels, message = BAD[why]
    model = small().fit(X, y)
    expected, state, params = model.predict_proba(X), vars(model).copy(), model.get_params(False)
    model.set_params(**settings)
    with pytest.raises((ValueError, FloatingPointError), match=message):
        model.fit(bad, labels)
    model.set_params(**params)
    assert same_state(state, vars(model))
    np.testing.assert_array_equal(model.predict_proba(X), expected)


def test_a_last_step_that_blows_up_is_refused():
    with pytest.raises(FloatingPointError, match="In fine-tuning the features are not finite"):
        small(encoder_learning_rate=3e37, max_epochs=1, batch_size=99).fit(X, PARTLY)


def test_another_frozen_estimator_is_refused():
    with pytest.raises(TypeError, match=r"transformer=FrozenEstimator\(StandardScaler\) must hold"):
        small(FrozenEstimator(StandardScaler())).fit(X, y)
    with pytest.raises(NotFittedError):
        small(FrozenEstimator(tiny())).fit(X, y)


# Ctrl-C


def test_ctrl_c_keeps_the_best_by_then(monkeypatch):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        n_steps, step = [], FineTuning._step

        def interrupting(self, rows, generator):
            n_steps.append(len(rows))
            if len(n_steps) == 3:
                signal.raise_signal(signal.SIGINT)
            return step(self, rows, generator)

        monkeypatch.setattr(FineTuning, "_step", interrupting)
        with pytest.warns(RuntimeWarning, match="Fine-tuning was interrupted in epoch 2; the"):
            model = small(max_epochs=5, batch_size=20).fit(X, PARTLY)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert n_steps == [20, 20, 20]
    assert model.n_iter_ == 2
    assert np.isfinite(model.predict_proba(X)).all()


def test_parameters_are_stored_and_not_changed():
    values = {name: object() for name in CPCClassifier().get_params()}
    assert vars(CPCClassifier(**values)) == values
    model = small(tiny())
    before = copy.deepcopy(model.get_params())
    model.fit(X, y)
    after = model.get_params()
    del before["transformer"], after["transformer"]
    assert after == before
    assert isinstance(model.transformer, CPCTransformer)
