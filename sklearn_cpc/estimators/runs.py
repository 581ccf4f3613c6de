"""The trainings of a `CPCTransformer`: from the start, or on from where the last one ended."""

import copy

from sklearn.utils import check_random_state

from ..training import ImageFeed, PixelScale, TrainingSettings, train
from ..training.distributed import shared_random_state
from . import building, inputs, planning, resuming
from .generators import own_generators
from .outcome import warn_of_guessing

__all__ = ["go_on", "keep_net", "keep_start", "start"]


def start(estimator, X, n_epochs, warmup, is_pass=False):
    """Train a new network: `fit`, or the first `partial_fit`, of which this is a pass.

    Parameters
    ----------
    estimator : CPCTransformer
    X : array-like
    n_epochs : int
    warmup : float or None
    is_pass : bool

    Returns
    -------
    estimator : CPCTransformer
    """
    resuming.check_callbacks(estimator.callbacks)
    images = inputs.check_images(estimator, X, reset=True)
    run = resuming.LongRun(estimator, images, n_epochs, is_pass)
    random_state = shared_random_state(check_random_state(estimator.random_state))
    scale = PixelScale.of(images)
    net = building.build_net(estimator, images.shape, scale, random_state)
    building.check_plan(estimator, net, n_epochs)
    estimator.grid_ = net.module_.grid
    estimator.training_data_ = inputs.description(images)
    # What cannot be transformed is refused before the training.
    net.module_.n_outputs(estimator.output)
    inputs.transform_grid(estimator)
    with run.checkpoints(net, scale, is_new=True):
        if not run.has_begun:
            building.start_encoder(net, images, scale)
        _train(estimator, net, ImageFeed(images, scale, net.device), n_epochs, warmup, run)
    keep_start(estimator, images.shape, images.channels_first, scale)
    return estimator


def keep_start(estimator, image_shape, channels_first, scale):
    """What the first training fixes for all later ones; `load` calls it too."""
    estimator.image_shape_ = image_shape
    estimator.channels_first_ = channels_first
    estimator.pixel_scale_ = scale
    estimator._built_from = {name: getattr(estimator, name) for name in building.BUILT_FROM}


def go_on(estimator, X, n_epochs, warmup, is_pass=False):
    """Train a copy of the fitted network on, which takes its place in the end: as `start`."""
    resuming.check_callbacks(estimator.callbacks)
    images = inputs.check_images(estimator, X, reset=False)
    if images.shape != estimator.image_shape_:
        raise ValueError(
            f"X has images of shape {images.shape} (height, width, channels), but training "
            f"began with {estimator.image_shape_}; bring them to that shape, or fit anew with "
            "warm_start=False."
        )
    building.check_same_build(estimator, estimator._built_from)
    run = resuming.LongRun(estimator, images, n_epochs, is_pass)
    net = _in_its_place(estimator)
    net.lr = planning.peak_rate(estimator, net.module_.encoder)
    net.precision = building.resolve_precision(estimator.precision, net.device)
    feed = ImageFeed(images, estimator.pixel_scale_, net.device)
    with run.checkpoints(net, estimator.pixel_scale_, is_new=False):
        _train(estimator, net, feed, n_epochs, warmup, run)
    return estimator


def _in_its_place(estimator):
    """A copy of the net, on another device if `device` has been set to one since."""
    given = estimator.device
    moves = given != getattr(estimator, "_placed_by", given)
    device = building.resolve_device(given) if moves else None
    net = copy.deepcopy(estimator.net_)
    if moves:
        net.device = device
        net.module_.to(device)
        net.optimizer_.load_state_dict(net.optimizer_.state_dict())  # follows the weights
    return net


def _train(estimator, net, feed, n_epochs, warmup, run):
    if run.has_ended:
        with own_generators(net, estimator, feed, run.keeper):
            run.keeper.finish_from_found(net)
    elif n_epochs and net.module_.plan:
        # What "auto" has chosen is the training's, however much memory is free now.
        chosen = run.keeper.batch_size if run.keeper is not None else None
        batch_size, accumulate = planning.batch_and_parts(estimator, net, len(feed), chosen)
        settings = TrainingSettings(
            n_epochs,
            batch_size,
            warmup,
            estimator.clip_norm,
            estimator.verbose,
            callbacks=tuple(estimator.callbacks or ()),
            schedule=estimator.schedule,
            averaging=estimator.averaging,
            accumulate=accumulate,
            rows=run.rows,
            held_out=run.held_out,
            gather_negatives=estimator.gather_negatives,
            queue_momentum=estimator.queue_momentum,
        )
        if estimator.verbose >= 2:
            print(planning.described(net, feed, settings), flush=True)
        planning.warn_of_slow_bf16(net.precision, net.device, stacklevel=4)
        compiled = building.compiled(estimator.compile, net, feed, settings)
        with own_generators(net, estimator, feed, run.keeper), compiled:
            train(net, feed, settings, run.keeper)
    keep_net(estimator, net)
    warn_of_guessing(estimator)


def keep_net(estimator, net):
    """What every training gives; `load` calls it too."""
    net.module_.eval()
    estimator.net_ = net
    estimator.history_ = building.epochs(net.history)
    estimator.n_iter_ = len(estimator.history_)
    estimator._placed_by = estimator.device
    estimator.loss_curve_ = [epoch["loss"] for epoch in estimator.history_]
