"""What values the parameters of the estimator may have, for scikit-learn's validation."""

import os
from numbers import Integral, Real

import torch
from sklearn.utils._param_validation import Interval, StrOptions

from ..nn import (
    AUGMENTATIONS,
    CONTEXTS,
    DIRECTIONS,
    ENCODERS,
    GREEDY,
    NEGATIVES,
    NORMS,
    OBJECTIVES,
    OUTPUTS,
    POOLINGS,
    Augmentation,
)
from ..training.callbacks import SCHEDULES

POSITIVE_INT = Interval(Integral, 1, None, closed="left")
NEGATIVE_INT = Interval(Integral, None, -1, closed="right")
POSITIVE = Interval(Real, 0, None, closed="neither")
SHARE = Interval(Real, 0, 1, closed="both")

CONSTRAINTS = {
    "n_components": [POSITIVE_INT, None],
    "image_shape": ["array-like", None],
    "channels": [StrOptions({"auto", "first", "last"})],
    "resize": [POSITIVE_INT, tuple, list, None],
    "broken_images": [StrOptions({"raise", "skip"})],
    "mixed_channels": [StrOptions({"raise", "widen"})],
    "n_workers": [POSITIVE_INT, None],
    "worker_kind": [StrOptions({"thread", "process"})],
    "patch_size": [Integral, tuple, list, StrOptions({"auto"})],
    "patch_stride": [Integral, tuple, list, StrOptions({"auto"})],
    "transform_stride": [Integral, tuple, list, StrOptions({"auto"})],
    "transform_flip": ["boolean"],
    "encoder": [StrOptions(set(ENCODERS)), torch.nn.Module, callable],
    "encoder_norm": [StrOptions({"auto", *NORMS, "frozen"})],
    "context": [StrOptions(set(CONTEXTS)), torch.nn.Module, callable],
    "context_dim": [POSITIVE_INT],
    "context_depth": [POSITIVE_INT],
    "shared_context": ["boolean"],
    "latent_dim": [POSITIVE_INT, None],
    "projection_dim": [POSITIVE_INT, None],
    "directions": [tuple, list, StrOptions(set(DIRECTIONS))],
    "n_steps": [POSITIVE_INT, None],
    "similarity": [StrOptions({"cosine", "dot"})],
    "temperature": [POSITIVE],
    "n_candidates": [Interval(Integral, 2, None, closed="left"), None],
    "negative_images": [POSITIVE_INT, None],
    "negatives": [StrOptions(set(NEGATIVES))],
    "same_image_fraction": [SHARE, None],
    "queue_size": [POSITIVE_INT],
    "queue_momentum": [Interval(Real, 0, 1, closed="left")],
    "hard_fraction": [Interval(Real, 0, 1, closed="right")],
    "objective": [StrOptions(set(OBJECTIVES))],
    "greedy": [StrOptions(set(GREEDY)), None],
    "augment": [StrOptions(set(AUGMENTATIONS)), Augmentation],
    "output": [StrOptions(set(OUTPUTS))],
    "pooling": [StrOptions(set(POOLINGS))],
    "max_epochs": [Interval(Integral, 0, None, closed="left")],
    "batch_size": [POSITIVE_INT, StrOptions({"auto"})],
    "learning_rate": [POSITIVE, StrOptions({"auto"})],
    "optimizer": [StrOptions({"adamw", "adam"})],
    "betas": [tuple, list],
    "eps": [Interval(Real, 0, None, closed="left")],
    "weight_decay": [Interval(Real, 0, None, closed="left")],
    "schedule": [StrOptions(set(SCHEDULES))],
    "warmup": [SHARE, None],
    "clip_norm": [POSITIVE, None],
    "averaging": [Interval(Real, 0, 1, closed="left"), None],
    "accumulate": [POSITIVE_INT],
    "early_stopping": ["boolean"],
    "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
    "n_iter_no_change": [POSITIVE_INT],
    "tol": [Interval(Real, 0, None, closed="left")],
    "checkpoint": [str, os.PathLike, None],
    "checkpoint_every": [Interval(Real, 0, None, closed="left")],
    "gather_negatives": ["boolean"],
    "device": [str],
    "precision": [StrOptions({"auto", "float32", "bf16"})],
    "compile": ["boolean"],
    "n_jobs": [POSITIVE_INT, NEGATIVE_INT, None],
    "warm_start": ["boolean"],
    "callbacks": [list, None],
    "random_state": ["random_state"],
    "verbose": ["verbose"],
}
