"""From the estimator's parameters to a net, and what must hold before it is trained."""

import warnings
from contextlib import contextmanager
from numbers import Real

import numpy as np
import torch
from sklearn.cluster import MiniBatchKMeans
from sklearn.exceptions import ConvergenceWarning

from ..nn import (
    AUGMENTATIONS,
    DIRECTIONS,
    CPCModel,
    PatchGrid,
    check_name,
    choose_negatives,
    make_encoder,
)
from ..training import CPCNet, ImageFeed
from ..training.distributed import cuda_indices, local_cuda, smallest_part
from ..training.messages import in_one_line
from ..training.net import OPTIMIZERS
from .generators import seeded
from .planning import given_batch_size, peak_rate

# Pixels that the first layer is fitted to: 500 images of 32x32.
WHITENING_PIXELS = 2**19
# Patches that a dictionary is learned from, and that its thresholds are set by.
DICTIONARY_PATCHES = 60_000
ATOM_PATCHES = 5_000

# Targets of a group beyond which the scores, their square, take longer than the encoder.
LARGE_GROUP = 4096

RECORDED = (
    "epoch",
    "loss",
    "accuracy",
    "mutual_information",
    "loss_per_head",
    "accuracy_per_head",
    "mutual_information_per_head",
    "learning_rate",
    "seconds",
    "images_per_second",
    "validation_mutual_information",
    "probe_accuracy",  # of a ProbeRecorder
)


def make_model(**settings):
    """The module of the net, from plain settings, so that the net pickles without it.

    Parameters
    ----------
    settings : dict
        "grid", "encoder", "encoder_norm", "n_channels", "n_components", "pixel_mean", "pixel_std",
        and keywords of `CPCModel`.

    Returns
    -------
    model : CPCModel
    """
    grid, n_channels = settings.pop("grid"), settings.pop("n_channels")
    mean, std = settings.pop("pixel_mean"), settings.pop("pixel_std")
    encoder = make_encoder(
        settings.pop("encoder"),
        n_channels,
        grid.patch_size,
        settings.pop("n_components"),
        settings.pop("encoder_norm"),
    )
    model = CPCModel(grid, encoder, n_channels, **settings)
    model.pixel_mean.copy_(torch.tensor(mean))
    model.pixel_std.copy_(torch.tensor(std))
    return model.to(memory_format=torch.channels_last)


def model_settings(estimator, image_shape, scale):
    """What `make_model` makes a model for images of this shape from.

    Parameters
    ----------
    estimator : CPCTransformer
    image_shape : (int, int, int)
        Height, width, channels.
    scale : PixelScale
    """
    height, width, n_channels = image_shape
    augment = estimator.augment
    directions = estimator.directions
    settings = {
        "grid": PatchGrid(height, width, estimator.patch_size, estimator.patch_stride),
        "encoder": estimator.encoder,
        "encoder_norm": estimator.encoder_norm,
        "n_channels": n_channels,
        "n_components": estimator.n_components,
        "pixel_mean": scale.mean,
        "pixel_std": scale.std,
        "directions": (directions,) if isinstance(directions, str) else tuple(directions),
        "max_steps": estimator.n_steps,
        "latent_dim": estimator.latent_dim,
        "projection_dim": estimator.projection_dim,
        "context": estimator.context,
        "context_settings": {"width": estimator.context_dim, "depth": estimator.context_depth},
        "shared_context": estimator.shared_context,
        "similarity": estimator.similarity,
        "temperature": estimator.temperature,
        "n_candidates": estimator.n_candidates,
        "negative_images": estimator.negative_images,
        "negatives": estimator.negatives,
        "same_image_fraction": estimator.same_image_fraction,
        "queue_size": estimator.queue_size,
        "hard_fraction": estimator.hard_fraction,
        "objective": estimator.objective,
        "greedy": estimator.greedy,
        "augmentation": AUGMENTATIONS[augment] if isinstance(augment, str) else augment,
    }
    if len(set(settings["directions"])) < len(settings["directions"]) or not settings["directions"]:
        raise ValueError(
            f"directions={directions!r} must name at least one direction and none twice; pass "
            f"some of {tuple(DIRECTIONS)}."
        )
    return settings


def build_net(estimator, image_shape, scale, random_state):
    """An initialised net for images of this shape.

    Parameters
    ----------
    estimator, image_shape, scale
        As in `model_settings`.
    random_state : numpy.random.RandomState
        Draws the initial weights, and seeds the epochs from then on.
    """
    settings = model_settings(estimator, image_shape, scale)
    betas = tuple(estimator.betas)
    are_shares = all(isinstance(beta, Real) and 0 <= beta < 1 for beta in betas)
    if len(betas) != 2 or not are_shares:
        raise ValueError(
            f"betas={estimator.betas!r} must be two numbers from 0 to below 1; pass (0.9, 0.999)."
        )
    device = resolve_device(estimator.device)
    net = CPCNet(
        make_model,
        **{f"module__{name}": value for name, value in settings.items()},
        optimizer=OPTIMIZERS[estimator.optimizer],
        optimizer__weight_decay=estimator.weight_decay,
        optimizer__betas=tuple(map(float, betas)),  # torch refuses 0 beside 0.999
        optimizer__eps=estimator.eps,
        batch_size=given_batch_size(estimator),
        precision=resolve_precision(estimator.precision, device),
        random_state=random_state,
        device=device,
    )
    seed = int(random_state.randint(2**31 - 1))
    with seeded(seed):
        net.initialize()
    net.lr = peak_rate(estimator, net.module_.encoder)
    return net


# What the network, the loss and the optimiser are built from.
BUILT_FROM = (
    "n_components",
    "patch_size",
    "patch_stride",
    "encoder",
    "encoder_norm",
    "context",
    "context_dim",
    "context_depth",
    "shared_context",
    "latent_dim",
    "projection_dim",
    "directions",
    "n_steps",
    "similarity",
    "temperature",
    "n_candidates",
    "negative_images",
    "negatives",
    "same_image_fraction",
    "queue_size",
    "hard_fraction",
    "objective",
    "greedy",
    "augment",
    "optimizer",
    "betas",
    "eps",
    "weight_decay",
    "averaging",
)


def check_same_build(estimator, params):
    """Refuse to continue a training whose network was built from other parameters."""
    for name in BUILT_FROM:
        if _as_built(getattr(estimator, name)) != _as_built(params[name]):
            raise ValueError(
                f"{name}={getattr(estimator, name)!r} must be {params[name]!r} as in the fit that "
                "is continued; set it back, or fit anew with warm_start=False."
            )


def _as_built(value):
    return tuple(value) if isinstance(value, list) else value


def start_encoder(net, images, scale):
    """Fit the encoder's first layer to the pixels, where it has a way to."""
    encoder = net.module_.encoder
    if not hasattr(encoder, "whiten_"):
        return
    n = max(1, min(len(images), WHITENING_PIXELS // (images.shape[0] * images.shape[1])))
    chosen = np.linspace(0, len(images) - 1, n).round().astype(int)
    feed = ImageFeed(images, scale, "cpu")
    pixels = net.module_.standardise(feed.batch(chosen).to(net.device))
    encoder.whiten_(pixels)
    if hasattr(encoder, "set_atoms_"):
        _learn_atoms(encoder, pixels, net.random_state.randint(2**31 - 1))


def _learn_atoms(encoder, pixels, seed):
    """Start an encoder as the k-means of patches."""
    rows = encoder.draw_patches(pixels, DICTIONARY_PATCHES, torch.Generator().manual_seed(seed))
    n_atoms = min(encoder.n_components, len(rows))
    kmeans = MiniBatchKMeans(
        n_atoms, init="random", n_init=1, max_iter=20, batch_size=4096, random_state=seed
    )
    with warnings.catch_warnings():
        # Equal patches, as of blank images, make fewer clusters; the atoms are then repeated.
        warnings.simplefilter("ignore", ConvergenceWarning)
        kmeans.fit(rows.cpu().numpy())
    encoder.set_atoms_(torch.from_numpy(kmeans.cluster_centers_).to(rows), rows[:ATOM_PATCHES])


def resolve_device(device):
    """ "auto" is CUDA where there is a device; what is not there is refused."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device).type
    except RuntimeError:
        check_name("device", device, ("auto", "cpu", "cuda"))
        raise
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device={device!r} must be a device of this machine, and torch finds no CUDA device; "
            "pass device='auto'."
        )
    device = local_cuda() if device == "cuda" else device
    _check_device(device)
    return device


def _check_device(device):
    """Refuse what torch knows by name but cannot compute on here."""
    try:
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, NotImplementedError, AssertionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"device={device!r} must be a device of this machine that torch can compute on: "
            f"{reason:.200}; pass device='auto'."
        ) from error


def resolve_precision(precision, device):
    """ "auto" is bf16 on CUDA and float32 elsewhere."""
    if precision == "auto":
        return "bf16" if torch.device(device).type == "cuda" else "float32"
    return precision


def check_batch(estimator, images, n_epochs, n_samples=None):
    """Refuse batches in which no positive has a negative; `n_samples` of the images are used."""
    if not n_epochs:
        return
    n_samples = n_samples or len(images)
    batch_size = given_batch_size(estimator)
    n = n_samples // -(-n_samples // batch_size)  # the smallest batch
    negatives = choose_negatives(
        estimator.negatives, estimator.n_candidates, estimator.negative_images
    )
    of_few = {"groups": estimator.negative_images, "image": 1}.get(negatives)
    n = smallest_part(n, estimator.gather_negatives, of_few)
    if negatives == "place" and n == 1:
        raise ValueError(
            f"batch_size={batch_size} with n_samples={n_samples} makes a batch of one "
            "image, and negatives='place' takes them from other images; pass at least two images "
            "and a larger batch_size."
        )
    n = min(n, of_few or n)
    height, width, _ = images.shape
    grid = PatchGrid(height, width, estimator.patch_size, estimator.patch_stride)
    rows, cols = grid.shape
    # In the longest step the pairs are those of one row or one column.
    if n == 1 and rows * cols > 1 and min(rows, cols) == 1:
        what = f"batch_size={batch_size} with n_samples={n_samples}"
        if of_few == 1:
            what = "negative_images=1" if negatives == "groups" else "negatives='image'"
        raise ValueError(
            f"{what}: a batch of one image with a grid of {rows}x{cols} patches has no negatives; "
            "pass at least two images and a larger batch_size or negative_images."
        )


def check_plan(estimator, net, n_epochs):
    """Say so where the grid leaves nothing to predict, or so much that it takes for ever."""
    grid, plan = net.module_.grid, net.module_.plan
    if not n_epochs:
        return
    if plan:
        _warn_of_large_groups(estimator, net.module_)
        return
    rows, cols = grid.shape
    what = (
        f"patches of {grid.patch_size} at stride {grid.patch_stride} on images of "
        f"{grid.height}x{grid.width} pixels make a grid of {rows}x{cols}, which has no two patches "
        f"in directions={estimator.directions!r} that share no pixel"
    )
    if estimator.patch_size == "auto" and estimator.patch_stride == "auto" and rows * cols == 1:
        warnings.warn(
            f"Nothing to learn from: {what}. The encoder keeps its random weights; max_epochs=0 "
            "says that this is meant.",
            UserWarning,
            stacklevel=4,
        )
        return
    needed = " or ".join(
        f"{k + 1} {axis}" for k, axis in zip(grid.first_safe_step, ("rows", "columns"), strict=True)
    )
    has_all = set(DIRECTIONS) == set(np.atleast_1d(estimator.directions))
    more = "" if has_all else ", or more directions"
    raise ValueError(
        f"patch_size={estimator.patch_size!r}, patch_stride={estimator.patch_stride!r}: {what}; "
        f"CPC needs at least {needed} of such patches: pass a smaller patch_size with a "
        f"patch_stride of about half of it{more}."
    )


def _warn_of_large_groups(estimator, model):
    if model.negatives not in ("groups", "image"):
        return
    n_images = min(model.negative_images, given_batch_size(estimator))
    n_targets = n_images * model.grid.n_patches
    if n_targets <= LARGE_GROUP:
        return
    rows, cols = model.grid.shape
    warnings.warn(
        f"The grid has {rows}x{cols} patches, and each is told from all others of {n_images} "
        f"images: up to {n_targets} squared scores for each direction and step, which may take "
        "far longer than all else. Pass negatives='sampled', or a larger patch_size and "
        "patch_stride.",
        UserWarning,
        stacklevel=5,
    )


def epochs(history):
    """skorch's history without its batches, as plain dictionaries."""
    return [{name: row[name] for name in RECORDED if name in row} for row in history]


@contextmanager
def compiled(wanted, net, feed, settings):
    """Compile the encoder while training, if that is wanted and possible.

    The call is compiled, not the module: names of weights and what is pickled stay as they are.
    """
    encoder = net.module_.encoder
    if wanted and not net.module_.greedy:  # whose stages are called one by one
        try:
            encoder.compile()
            encoder._compiled_call_impl = _in_training_alone(encoder)
            _try_gradients(net, feed, settings)
        except Exception as error:
            encoder._compiled_call_impl = None
            reason = in_one_line(error)
            warnings.warn(
                f"compile=True: torch.compile failed here ({reason:.200}); training goes on "
                "without it.",
                RuntimeWarning,
                stacklevel=5,
            )
    try:
        yield
    finally:
        encoder._compiled_call_impl = None


def _in_training_alone(encoder):
    """A call that is compiled where a gradient is taken; a look at features is not worth it."""
    compiled_call = encoder._compiled_call_impl

    def call(*args, **kwargs):
        if encoder.training and torch.is_grad_enabled():
            return compiled_call(*args, **kwargs)
        return encoder._call_impl(*args, **kwargs)

    return call


def _try_gradients(net, feed, settings):
    """Run the encoder forward and backward once on batches of each of the sizes to come.

    What is compiled is compiled here, then, and a failure is known before anything is trained.
    """
    model = net.module_.train()
    n_images = len(feed) if settings.rows is None else len(settings.rows)
    n_batches = -(-n_images // settings.batch_size)
    sizes = sorted({-(-n_images // n_batches), n_images // n_batches}, reverse=True)
    buffers = {name: buffer.clone() for name, buffer in model.encoder.named_buffers()}
    parts, model.accumulate = model.accumulate, settings.accumulate
    try:
        with torch.random.fork_rng(devices=cuda_indices(net.device)):
            for size in sizes:
                _try_gradient(net, feed.batch(slice(size)))
    finally:
        model.accumulate = parts
    model.encoder.load_state_dict(buffers, strict=False)


def _try_gradient(net, images):
    model = net.module_
    with net.autocast():
        features = model.encode_patches(model.grid.extract(images))
    weights = [p for p in model.encoder.parameters() if p.requires_grad]
    torch.autograd.grad(features.sum(), weights, allow_unused=True)
