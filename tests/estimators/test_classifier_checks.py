"""scikit-learn's own checks of a classifier, none expected to fail."""

import pytest
from sklearn.utils.estimator_checks import (
    check_dataframe_column_names_consistency,
    check_param_validation,
    parametrize_with_checks,
)

from sklearn_cpc import CPCClassifier
from sklearn_cpc.estimators import fine_tuning

from .toys import tiny

# Each feature is a pixel, and which one it is counts: no pooling over places.
SMALL = tiny(
    n_components=16,
    pooling="none",
    augment="none",
    directions=("right",),
    n_steps=1,
    batch_size=64,
    random_state=None,
)


@pytest.fixture(autouse=True)
def _few_penalties(monkeypatch):
    monkeypatch.setattr(fine_tuning, "C_GRID", (1.0, 10.0))


@parametrize_with_checks(
    [
        CPCClassifier(SMALL, max_epochs=2),
        CPCClassifier(SMALL, init="random", max_batches=50, unlabeled=None),
    ]
)
def test_scikit_learn_check(estimator, check):
    check(estimator)


@pytest.mark.parametrize(
    "check", [check_dataframe_column_names_consistency, check_param_validation]
)
@pytest.mark.filterwarnings("ignore:X does not have valid feature names:UserWarning")
def test_checks_beyond_the_standard_set(check):
    check("CPCClassifier", CPCClassifier(SMALL, max_epochs=1, random_state=0))
