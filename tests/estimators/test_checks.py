"""scikit-learn's own estimator checks, none expected to fail."""

import pytest
from sklearn.utils.estimator_checks import (
    check_dataframe_column_names_consistency,
    check_param_validation,
    check_set_output_transform,
    check_set_output_transform_pandas,
    check_transformer_get_feature_names_out,
    check_transformer_get_feature_names_out_pandas,
    parametrize_with_checks,
)

from sklearn_cpc import CPCTransformer

SETTINGS = [
    CPCTransformer(max_epochs=2),  # the default, but for twenty epochs
    CPCTransformer(
        16,
        latent_dim=8,
        context_dim=4,
        context_depth=1,
        pooling="mean",
        max_epochs=2,
        random_state=1,
    ),
    CPCTransformer(
        8,
        latent_dim=None,
        projection_dim=4,
        context_dim=4,
        pooling="none",
        directions=("left", "down"),
        n_steps=1,
        n_candidates=None,
        negative_images=None,
        similarity="dot",
        temperature=10.0,
        optimizer="adam",
        max_epochs=1,
        augment="none",
        random_state=2,
    ),
    CPCTransformer(8, encoder="resnet18", latent_dim=4, pooling="quadrants", max_epochs=0),
]


@parametrize_with_checks(SETTINGS)
def test_scikit_learn_check(estimator, check):
    check(estimator)


# The pandas check mixes data frames and arrays between fit and transform on purpose.
@pytest.mark.filterwarnings("ignore:X does not have valid feature names:UserWarning")
@pytest.mark.filterwarnings("ignore:X has feature names:UserWarning")
@pytest.mark.parametrize(
    "check",
    [
        check_set_output_transform,
        check_set_output_transform_pandas,
        check_transformer_get_feature_names_out,
        check_transformer_get_feature_names_out_pandas,
        check_dataframe_column_names_consistency,
        check_param_validation,
    ],
)
def test_checks_beyond_the_standard_set(check):
    small = CPCTransformer(8, latent_dim=4, context_dim=4, max_epochs=1, random_state=0)
    check("CPCTransformer", small)
