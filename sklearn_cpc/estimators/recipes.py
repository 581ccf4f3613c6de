"""The settings of the papers and implementations, as parameters of `CPCTransformer`."""

from difflib import get_close_matches
from math import ceil

from ..nn import Augmentation, PatchGrid, check_name
from .transformer import CPCTransformer

__all__ = ["RECIPES", "image_size", "recipe"]

ALL = ("down", "up", "right", "left")
# Encoders from the largest to the smallest; a scale of 1/2, 1/4, ... goes down by one each.
LADDER = ("resnet161", "resnet101", "resnet50", "resnet34", "resnet18", "conv")
# Networks that have no norms to choose.
WITHOUT_NORM = ("conv",)
WIDTHS = ("n_components", "latent_dim", "context_dim")
PLAIN_ADAM = {
    "optimizer": "adam",
    "weight_decay": 0.0,
    "schedule": "constant",
    "warmup": None,
    "clip_norm": None,
}
# Side of the images that the papers cut into patches.
SIDES = {
    "cpc-v1": 256,
    "cpc-v2": 260,
    "cpc-v2-resnet50": 260,
    "greedy-infomax": 64,
    "colour-mnist": 64,
    "cpc-gru": 64,
    "small-images": 32,
}


def _cpc_v1():
    """CPC v1 on ImageNet. A. van den Oord, Y. Li, O. Vinyals, "Representation Learning with
    Contrastive Predictive Coding", 2018, https://arxiv.org/abs/1807.03748, section 3.2.

    As there: a 7x7 grid of 64-pixel patches at stride 32 on 256x256 pixels; ResNet-v2-101 without
    batch normalisation, third stage, mean-pooled to 1024 numbers, which are z; a PixelCNN-style
    context; five rows predicted from top to bottom, each by a matrix W_k of its own, as
    exp(z W_k c) without temperature; Adam at 2e-4, batches of 512; mean pooling for the probe.

    Departs: crops of 256 from 300 pixels are left to who prepares the images, `augment` moves them
    instead. Unclear in the paper, and chosen here: width 256 and depth 5 of the context (CPC v2's);
    all other targets of the batch as negatives, also those that were on other GPUs (32 of 16
    images each); the number of epochs, 200; no decay, clipping or schedule; initialisation.
    """
    return PLAIN_ADAM | {
        "n_components": 1024,
        "patch_size": 64,
        "patch_stride": 32,
        "transform_stride": 32,
        "encoder": "resnet101",
        "encoder_norm": "none",
        "context": "pixelcnn",
        "context_dim": 256,
        "context_depth": 5,
        "latent_dim": None,
        "projection_dim": None,
        "directions": ("down",),
        "n_steps": 5,
        "similarity": "dot",
        "temperature": 1.0,
        "negatives": "batch",
        "augment": "cpc-v1",
        "pooling": "mean",
        "max_epochs": 200,
        "batch_size": 512,
        "learning_rate": 2e-4,
    }


def _cpc_v2():
    """CPC v2 on ImageNet. O. Hénaff et al., "Data-Efficient Image Recognition with Contrastive
    Predictive Coding", ICML 2020, https://arxiv.org/abs/1905.09272, section 4.1 and appendix.

    As there: a 6x6 grid of 80-pixel patches at stride 36 on 260x260 pixels; ResNet-161 with layer
    normalisation, 4096 numbers as z; the masked-convolution context of five blocks of 256 channels,
    one for each of four directions; 64-d targets and predictions, predictions times 0.1, softmax
    over all targets of the batch; Adam at 4e-4, betas (0.8, 0.999), eps 1e-8, gradients clipped to
    0.01, weights averaged with 0.9999, batches of 512, 200 epochs; the patch augmentation with
    colour dropping; mean pooling for the probe.

    Departs: crops of 260 from 300 pixels are left to who prepares the images; the 1x1 convolutions
    to 64 numbers have no bias here. Unclear: the steps. The appendix's pseudo-code ignores steps 1
    and 2 and predicts step 3 (steps_to_ignore=2, steps_to_predict=3), which is the first at which
    patches share no pixel, and that is what is done here; whether the published runs predicted
    farther is not said. Whether the averaging was corrected in the beginning, and a schedule, are
    not said either. The gradient is clipped over all weights together.
    """
    return PLAIN_ADAM | {
        "n_components": 4096,
        "patch_size": 80,
        "patch_stride": 36,
        "transform_stride": 36,
        "encoder": "resnet161",
        "encoder_norm": "layer",
        "context": "pixelcnn",
        "context_dim": 256,
        "context_depth": 5,
        "latent_dim": None,
        "projection_dim": 64,
        "directions": ALL,
        "n_steps": 1,
        "similarity": "dot",
        "temperature": 10.0,
        "negatives": "batch",
        "augment": "cpc-v2",
        "pooling": "mean",
        "max_epochs": 200,
        "batch_size": 512,
        "learning_rate": 4e-4,
        "betas": (0.8, 0.999),
        "eps": 1e-8,
        "clip_norm": 0.01,
        "averaging": 0.9999,
    }


def _cpc_v2_resnet50():
    """CPC v2 with the smaller network of its table of linear probes (63.8 % top-1).

    O. Hénaff et al., ICML 2020, section 4.1: "cpc-v2" with ResNet-50, third stage, 1024 numbers.
    Departs as "cpc-v2" does. Unclear: whether its optimiser differed from the larger network's.
    """
    return _cpc_v2() | {"encoder": "resnet50", "n_components": 1024}


def _greedy_infomax():
    """Greedy InfoMax on STL-10. S. Löwe, P. O'Connor, B. Veeling, "Putting An End to End-to-End",
    NeurIPS 2019, https://arxiv.org/abs/1905.11786, section 4.1, and the authors' code.

    As there: a 7x7 grid of 16-pixel patches at stride 8 on 64x64 pixels; ResNet-50 v2 without norms
    in three gradient-isolated stages, each trained on its own mean-pooled maps, which predict
    themselves two to six rows down by matrices W_k without bias; 16 negatives of each pair's own
    from the step's targets in the batch; Adam at 2e-4, batches of 32, 300 epochs; mean pooling.

    Departs: crops of 64 from 96 pixels are left to who prepares the images; patches are augmented
    lightly ("light") where the paper flips and greys whole images. Negatives are drawn without
    replacement and never are the positive; in the authors' code they may be. Unclear: the batch
    of the paper's runs; 32 is the default of the code.
    """
    return PLAIN_ADAM | {
        "n_components": 1024,
        "patch_size": 16,
        "patch_stride": 8,
        "transform_stride": 8,
        "encoder": "resnet50",
        "encoder_norm": "none",
        "greedy": "joint",
        "latent_dim": None,
        "projection_dim": None,
        "directions": ("down",),
        "n_steps": 5,
        "similarity": "dot",
        "temperature": 1.0,
        "negatives": "mixed",
        "n_candidates": 17,
        "same_image_fraction": None,
        "augment": "light",
        "pooling": "mean",
        "max_epochs": 300,
        "batch_size": 32,
        "learning_rate": 2e-4,
    }


def _colour_mnist():
    """The colour-MNIST toy of D. Tellez's Keras implementation,
    https://github.com/davidtellez/contrastive-predictive-coding-images.

    As there: a 7x7 grid of 16-pixel patches at stride 8 on 64x64 pixels; 32 numbers as z, no norms;
    a masked-convolution context for each direction, steps 2 to 6, 19 negatives, three quarters of
    them from the same image, dot products; Adam at 1e-3, batches of 8, 5 epochs; the mean
    over the grid for the classifier.

    Departs: the encoder is "conv", with a norm over channels and without padding, in place of six
    convolutions and three dense layers without norms; the context is CPC v2's with 32 channels and
    four blocks in place of four 3x3 convolutions. Negatives are patches of the batch, not encoded
    anew; the augmentation is "full", not its inversions of colour. The learning rate is divided
    by three there whenever the validation loss rests; here it falls in steps. Unclear: four
    directions are written, two are used in the training script, which is what is taken.
    """
    return PLAIN_ADAM | {
        "n_components": 32,
        "patch_size": 16,
        "patch_stride": 8,
        "transform_stride": 8,
        "encoder": "conv",
        "context": "pixelcnn",
        "context_dim": 32,
        "context_depth": 4,
        "latent_dim": 32,
        "projection_dim": None,
        "directions": ("down", "up"),
        "n_steps": 5,
        "similarity": "dot",
        "temperature": 1.0,
        "negatives": "mixed",
        "n_candidates": 20,
        "same_image_fraction": 0.75,
        "augment": "full",
        "pooling": "mean",
        "max_epochs": 5,
        "batch_size": 8,
        "learning_rate": 1e-3,
        "schedule": "step",
        "warmup": 0.0,
    }


def _cpc_gru():
    """The recurrent, binary variant of D. Tellez's Keras implementation,
    https://github.com/davidtellez/contrastive-predictive-coding.

    As there: 128 numbers as z, a GRU of 256 as context, four steps, each with a dense layer of its
    own; the mean of the 128 products, through a sigmoid, into the binary cross-entropy of one
    positive and one negative; Adam at 1e-3, batches of 32, 10 epochs.

    Departs: there the GRU reads sequences of whole 64x64 images; here it goes down the rows of a
    7x7 grid of patches of one, and the steps are the first four that share no pixel. Each
    step has a loss of its own, where products are averaged over the steps there. The negative is a
    target of another image. The encoder is "conv", not four convolutions with batch normalisation,
    whose statistics leak between patches. The learning rate is constant.
    """
    return PLAIN_ADAM | {
        "n_components": 256,
        "patch_size": 16,
        "patch_stride": 8,
        "transform_stride": 8,
        "encoder": "conv",
        "context": "gru",
        "context_dim": 256,
        "context_depth": 1,
        "latent_dim": 128,
        "projection_dim": None,
        "directions": ("down",),
        "n_steps": 4,
        "similarity": "dot",
        "temperature": 128.0,
        "negatives": "mixed",
        "n_candidates": 2,
        "same_image_fraction": 0.0,
        "objective": "bce",
        "augment": "light",
        "pooling": "mean",
        "max_epochs": 10,
        "batch_size": 32,
        "learning_rate": 1e-3,
    }


def _small_images():
    """Photographs of about 32x32 pixels, such as CIFAR-10, in minutes of a CPU.

    No paper: the settings of `benchmarks/cifar10.py`, chosen on held-out training images there. A
    7x7 grid of 8-pixel patches, twice as dense at transform; the dictionary encoder; two
    directions; each target told from those at its place in the other images, because the blocks of
    JPEG files tell places apart; for the same reason images are not shifted; means over quadrants
    of an image and of its mirror image, which do better still under a square root.
    """
    return {
        "n_components": 1024,
        "patch_size": 8,
        "patch_stride": 4,
        "transform_stride": 2,
        "transform_flip": True,
        "encoder": "dictionary",
        "latent_dim": 256,
        "context_dim": 64,
        "augment": Augmentation(shift=0),
        "directions": ("down", "right"),
        "n_steps": 3,
        "negatives": "place",
        "pooling": "quadrant-means",
        "max_epochs": 36,
        "batch_size": 64,
        "learning_rate": 1e-3,
    }


RECIPES = {
    "cpc-v1": _cpc_v1,
    "cpc-v2": _cpc_v2,
    "cpc-v2-resnet50": _cpc_v2_resnet50,
    "greedy-infomax": _greedy_infomax,
    "colour-mnist": _colour_mnist,
    "cpc-gru": _cpc_gru,
    "small-images": _small_images,
}


def recipe(name, *, scale=1.0, **changes):
    """Parameters of `CPCTransformer` that follow a paper or an implementation.

    Where each comes from, and every point on which it departs or its source is unclear, is in the
    docstring of `RECIPES[name]`: `help(sklearn_cpc.estimators.recipes.RECIPES["cpc-v2"])`.

    Parameters
    ----------
    name : {"cpc-v1", "cpc-v2", "cpc-v2-resnet50", "greedy-infomax", "colour-mnist", "cpc-gru", \\
            "small-images"}
    scale : float, default=1.0
        From above 0 to 1. Below 1 the recipe is shrunk: patches are `scale` times as large, at the
        stride nearest in proportion at which the grid and the first safe step stay the same (images
        of `image_size(name, scale)` pixels then give the same grid and the same heads); the
        widths of features, latents and context are `scale` times as large, in multiples of 8;
        batches are `scale` times as large, 8 images at least; the encoder goes down the ladder
        resnet161, 101, 50, 34, 18, "conv" by one for each halving. What is no size stays, such as
        steps, projection, candidates, rate and epochs.
    **changes
        Parameters set after all this.

    Returns
    -------
    params : dict
        A fresh copy: `CPCTransformer(**recipe("cpc-v2", scale=0.125, random_state=0))`.

    Raises
    ------
    ValueError
        If the name or that of a change is unknown, or the scale out of range.

    Examples
    --------
    >>> from sklearn_cpc import recipe
    >>> params = recipe("cpc-v2", batch_size=64)
    >>> params["patch_size"], params["encoder"], params["batch_size"]
    (80, 'resnet161', 64)
    """
    check_name("name", name, RECIPES)
    if not 0 < scale <= 1:
        raise ValueError(f"scale={scale!r} must be above 0 and at most 1; pass scale=1.0.")
    known = CPCTransformer().get_params(deep=False)
    for change in changes.keys() - known.keys():
        near = get_close_matches(change, known, 1)
        way_out = f"did you mean {near[0]!r}?" if near else "see help(CPCTransformer)."
        raise ValueError(f"CPCTransformer has no parameter {change!r} to change; {way_out}")
    params = RECIPES[name]()
    if scale < 1:
        _shrink(params, scale)
    return params | changes


def image_size(name, scale=1.0):
    """Side, in pixels, of the images that a recipe is made for.

    Parameters
    ----------
    name : str
    scale : float, default=1.0

    Returns
    -------
    side : int
        At scale 1 that of the source; below, the smallest with the same grid.
    """
    params = recipe(name, scale=scale)
    if scale == 1:
        return SIDES[name]
    full = RECIPES[name]()
    n = PatchGrid(SIDES[name], SIDES[name], full["patch_size"], full["patch_stride"]).shape[0]
    return params["patch_size"] + (n - 1) * params["patch_stride"]


def _shrink(params, scale):
    size, stride = _smaller_patch(params["patch_size"], params["patch_stride"], scale)
    params["transform_stride"] = max(
        1, round(params["transform_stride"] * stride / params["patch_stride"])
    )
    params["patch_size"], params["patch_stride"] = size, stride
    for name in WIDTHS:
        if params.get(name) is not None:
            params[name] = 8 * ceil(scale * params[name] / 8)
    params["batch_size"] = max(8, round(scale * params["batch_size"]))
    if params["encoder"] in LADDER:
        place = LADDER.index(params["encoder"])
        lower = place + sum(scale <= 0.5**k for k in range(1, len(LADDER)))
        params["encoder"] = LADDER[min(lower, len(LADDER) - 1)]
    if params.get("greedy") and params["encoder"] == "conv":
        params["encoder"] = "resnet18"  # on small patches "conv" has no stages
    if params["encoder"] in WITHOUT_NORM:
        params.pop("encoder_norm", None)


def _smaller_patch(size, stride, scale):
    """The nearest patch, from four pixels on, and its stride with the same first safe step."""
    safe = ceil(size / stride)
    smaller = max(4, round(scale * size))
    while True:
        strides = [s for s in range(1, smaller + 1) if ceil(smaller / s) == safe]
        if strides:
            return smaller, min(strides, key=lambda s: abs(s - stride * smaller / size))
        smaller += 1
