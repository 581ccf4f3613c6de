"""Inside pipelines, searches and unions."""

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import FeatureUnion, make_pipeline, make_union
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from sklearn_cpc import CPCTransformer

from .toys import images, tiny

X = images(24)
X[::2, :, :, 0] //= 4  # two classes: less red, more red
X.setflags(write=False)
y = np.arange(24) % 2


def classifier(**settings):
    return make_pipeline(tiny(**settings), StandardScaler(), LogisticRegression())


def test_a_pipeline_fits_and_predicts_from_4_d_images():
    pipe = classifier().fit(X, y)
    assert pipe.score(X, y) > 0.8
    assert pipe[:-1].get_feature_names_out()[0] == "cpctransformer0"


def test_cross_val_score_over_4_d_images():
    assert cross_val_score(classifier(), X, y, cv=2, error_score="raise").mean() > 0.6


def test_cross_val_score_of_the_transformer_itself_uses_its_bound():
    scores = cross_val_score(tiny(), X, cv=2, error_score="raise")
    expected = [tiny().fit(X[12:]).score(X[:12]), tiny().fit(X[:12]).score(X[12:])]
    np.testing.assert_allclose(scores, expected, atol=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_grid_search_in_two_processes_equals_one():
    grid = {"cpctransformer__pooling": ["max", "mean"], "cpctransformer__n_components": [4, 8]}
    pipe = classifier(n_jobs=1, max_epochs=0)
    one, two = (
        GridSearchCV(pipe, grid, cv=2, n_jobs=n, error_score="raise").fit(X, y) for n in (1, 2)
    )
    assert one.best_params_ == two.best_params_
    np.testing.assert_allclose(
        one.cv_results_["mean_test_score"], two.cv_results_["mean_test_score"]
    )


def test_set_output_gives_frames_with_names():
    pd = pytest.importorskip("pandas")
    cpc = tiny().set_output(transform="pandas").fit(X)
    frame = cpc.transform(X)
    assert isinstance(frame, pd.DataFrame)
    assert list(frame.columns) == [f"cpctransformer{i}" for i in range(8)]
    np.testing.assert_array_equal(frame, tiny().fit(X).transform(X))


def test_a_frame_of_flat_rows_keeps_its_index_and_names():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X.reshape(24, -1), index=np.arange(24) + 100).add_prefix("p")
    cpc = tiny(image_shape=(8, 8, 3)).set_output(transform="pandas").fit(frame)
    assert list(cpc.transform(frame).index) == list(frame.index)
    assert list(cpc.feature_names_in_) == list(frame.columns)
    with pytest.raises(ValueError, match="feature names should match"):
        cpc.transform(frame[frame.columns[::-1]])


def test_a_union_with_another_view_of_4_d_images():
    flat = make_pipeline(FunctionTransformer(lambda X: X.reshape(len(X), -1) / 255.0), PCA(3))
    union = make_union(tiny(), flat)
    assert union.fit_transform(X).shape == (24, 11)
    names = FeatureUnion([("a", tiny()), ("b", tiny(pooling="quadrants"))]).fit(X)
    assert len(names.get_feature_names_out()) == 8 + 32


def test_a_frozen_transformer_is_not_fitted_again():
    cpc = tiny().fit(X)
    net = cpc.net_
    pipe = make_pipeline(FrozenEstimator(cpc), LogisticRegression()).fit(X[:12], y[:12])
    assert cpc.net_ is net
    np.testing.assert_array_equal(pipe[0].transform(X), cpc.transform(X))


def test_y_is_ignored():
    np.testing.assert_array_equal(tiny().fit(X, y).transform(X), tiny().fit(X, 1 - y).transform(X))


def test_the_constructor_stores_and_does_nothing_else():
    values = {name: object() for name in CPCTransformer().get_params()}
    cpc = CPCTransformer(**values)
    assert vars(cpc) == values
