"""What a training has come to."""

import warnings

from sklearn.exceptions import ConvergenceWarning

__all__ = ["warn_of_guessing"]

# From the loss of guessing, in nats; what is learned in some dozens of batches is far above.
GUESSING = 1e-3
FEWEST_BATCHES = 30


def warn_of_guessing(estimator):
    """Say so where in the last epoch no target was told from the other candidates."""
    n_batches = sum(len(epoch.get("batches", ())) for epoch in estimator.net_.history)
    if n_batches < FEWEST_BATCHES:
        return
    bounds = estimator.history_[-1]["mutual_information_per_head"]
    if any(bound is not None and abs(bound) > GUESSING for bound in bounds):
        return
    warnings.warn(
        "The training has learned nothing: in its last epoch the loss is that of guessing, "
        f"log N, to within {GUESSING:g} nats. Either the patches of these images tell nothing of "
        "each other, or the network has collapsed in its first steps and all patches are alike "
        f"to it: pass a learning_rate below {estimator.net_.lr:g} (deep encoders learn at 5e-4 or "
        f"3e-4), or raise warmup={estimator.warmup}.",
        ConvergenceWarning,
        stacklevel=5,
    )
