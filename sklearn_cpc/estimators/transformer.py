"""CPCTransformer: pretraining on unlabelled images, pooled patch features out."""

from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils._param_validation import InvalidParameterError
from sklearn.utils.validation import check_is_fitted

from ..nn import n_pooled, pool_images
from ..training import ImageFeed, held_out_bound, workers_ended
from ..training.memory import blocks_that_fit
from . import building, inputs, planning, runs
from .constraints import CONSTRAINTS
from .guards import fitting, own_torch, threads
from .names import with_near_miss
from .shipping import Shipping

__all__ = ["CPCTransformer"]

# Numbers of float32 that the features, or the first maps, of one block of images may hold at
# transform: 128 MiB on a device; 16 MiB on a CPU, which is a tenth faster in what its caches hold.
TRANSFORM_BUDGETS = {"cuda": 2**25, "cpu": 2**22}


class CPCTransformer(Shipping, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Image features learned without labels by Contrastive Predictive Coding (CPC).

    `fit` cuts every image into a grid of overlapping patches, encodes each patch on its own, and
    trains the encoder so that the patches of some rows (or columns) tell which patches follow
    a few rows on, among the patches of the other images and places. `transform` pools
    the encoder's features over the patches of an image.

    Parameters
    ----------
    n_components : int or None, default=1024
        Number of features of a patch, rectified; what is pooled. With `pooling` "max" or "mean"
        it is the number of output features, unless `output` says otherwise. None: the encoder's own
        width, and no layer is added.
    image_shape : tuple of int or None, default=None
        (height, width), (height, width, channels) or (channels, height, width) of flat rows.
        None: a square where the length of a row is a square number, else a single row of pixels.
    channels : {"auto", "first", "last"}, default="auto"
        Channel axis of 4-D images and of an `image_shape` of three numbers. "auto": the shorter of
        the first and the last. Image files have them last, tensors of a dataset first.
    resize : int, (int, int) or None, default=None
        Height and width that image files and items of datasets are brought to: the largest part
        in the middle that has this aspect ratio is scaled to this size (bilinear, over all
        pixels that a new one covers). A single number makes squares: the shorter side is scaled
        to it, and the longer one cropped. None: images of mixed sizes are refused. Arrays are left
        as they are.
    broken_images : {"raise", "skip"}, default="raise"
        What is done about files, or items of datasets, that cannot be read. "raise": they are
        refused, by a check of all headers before anything else is done. "skip": `fit`,
        `partial_fit` and `score` read every image once before they begin, and leave out those that
        cannot be read; in `transform` and `embed_patches` their features are NaN. Both warn, with
        the number.
    mixed_channels : {"raise", "widen"}, default="raise"
        What is done about image files of which some are grey, RGB, or with transparency, and others
        not. "raise": they are refused. "widen": all become what holds each of them without loss,
        which the headers tell before anything else is done: grey is repeated in three channels
        where any file has colour, and where any has transparency the others are opaque. Later
        files are brought to the channels of `fit`, or refused where those cannot hold them. Files
        of 8 and of 16 bits stay apart, and so do channels that are no colours, as a TIFF's pages.
    n_workers : int or None, default=None
        Workers that decode image files, ahead of the training; the result is the same for any
        number. None: one for each core, at most 16.
    worker_kind : {"thread", "process"}, default="thread"
        "thread": files are decoded in threads of this process, which is right for them, and items
        of a dataset are asked for by a single one. "process": either is read in `n_workers`
        processes, which is faster where a dataset's own Python code takes the time. They start in
        seconds, without a copy of this process, for each call on images, and hold a copy of the
        dataset each, which must pickle. The result is the same for either kind, unless items
        draw random numbers: in processes these follow from the pass and the row, for any number
        of them; a thread draws from the global generators.
    patch_size : int, (int, int) or "auto", default="auto"
        Pixels of a patch. "auto": about 7x7 patches at half overlap, see
        `sklearn_cpc.nn.PatchGrid`.
    patch_stride : int, (int, int) or "auto", default="auto"
        Distance of neighbouring patches in `fit`. "auto": half of the patch.
    transform_stride : int, (int, int) or "auto", default="auto"
        Distance of neighbouring patches in `transform`. "auto": half of the training stride; the
        training stride itself where `output` has contexts, which need it.
    transform_flip : bool, default=False
        Whether `transform` gives the mean of the pooled features of an image and of its mirror
        image, left for right: twice the time, and better features where a mirrored image is as
        likely as the image. Not for digits or letters.
    encoder : {"conv", "dictionary", "resnet18", "resnet34", "resnet50", "resnet101", "resnet161", \
            "wrn28-2"}, Module or callable, default="conv"
        Network for patches. "conv" is small and fast on CPUs; "dictionary" is two wide
        layers, the first of which starts as a k-means of whitened patches: the strongest in minutes
        of a CPU on small natural images, and even untrained it is not random. The ResNets are
        pre-activation, up to the third stage ("resnet161": CPC v2); "wrn28-2" is wide and for small
        images. None uses batch statistics. Your own: a module, whose weights are copied, or what
        gives one for the number of channels, such as a class. It maps patches (n, channels, height,
        width) to (n, width), or to (n, width, rows, cols), of which the mean is taken. BatchNorm in
        it becomes GroupNorm, with a warning: what leaks from patch to patch spoils the learning;
        see `encoder_norm` for pretrained ones. Pixels come to it with zero mean and unit variance.
    encoder_norm : {"auto", "none", "group", "layer", "frozen"}, default="auto"
        Norm inside a named ResNet: over the channels of each pixel ("layer"), over the patch in
        groups of channels, or none. "auto": "layer". "frozen", for an encoder of your own: its
        BatchNorm keeps the statistics that it has collected, and a pretrained one starts as it was.
    context : {"pixelcnn", "gated-pixelcnn", "gru", "transformer"}, Module or callable, \
            default="pixelcnn"
        Network that sums up the rows seen so far. Your own: a module, or what gives one for the
        width of the latents, that maps (batch, rows, cols, latent) to the same shape and looks at
        no lower row, which is checked.
    context_dim : int, default=64
        Channels inside the context network's blocks (256 in CPC v2).
    context_depth : int, default=3
        Number of its residual blocks or layers (5 in CPC v2).
    shared_context : bool, default=False
        One context network for all directions instead of one for each.
    latent_dim : int or None, default=256
        Width of the latents z that the context sees, linear in the features. None: the features
        themselves.
    projection_dim : int or None, default=64
        Width of targets and predictions in the loss. None: the targets are the latents, as in
        CPC v1.
    directions : sequence of {"down", "up", "right", "left"}, default=all four
        Directions of prediction. Those for which the grid has no room are left out.
    n_steps : int or None, default=3
        Steps predicted in each direction, from the first one on at which the target shares no
        pixel with the context. None: all that the grid has room for.
    similarity : {"cosine", "dot"}, default="cosine"
        Score of a prediction and a target.
    temperature : float, default=0.1
        Divides the scores. "dot" with 10 is the factor 0.1 of CPC v2.
    n_candidates : int or None, default=1024
        Pairs of context and target, drawn at random from the batch for each direction and step;
        each one's target is told from those of the others. None: every pair against all
        targets of the batch, as in CPC v2. Counts only where `negative_images` is None, or where
        `negatives` says so.
    negative_images : int or None, default=8
        Cut the batch into groups of this many images and tell each target from all others of its
        group, in place of `n_candidates`. A small number makes more of the negatives other places
        of the same image: what a whole image shares, such as a background, is then of little use.
    negatives : {"auto", "batch", "sampled", "groups", "image", "place", "mixed", "queue", \
            "hard"}, default="auto"
        What a target is told from. "batch": all targets of the batch. "sampled": the targets of
        `n_candidates` pairs. "groups": all of `negative_images` images. "image": those of its own
        image. "place": those at its own place of the grid in all other images: what tells places
        apart, such as the blocks of JPEG files or the shading of a lens, is then of no use.
        "mixed": `n_candidates` - 1 drawn for each pair, the share `same_image_fraction` of them
        from its own image. "queue": as "sampled", and the targets of earlier batches of the pass.
        "hard": the share `hard_fraction` with the greatest scores of those of "sampled". "queue"
        and "hard" take all targets of the batch where `n_candidates` is None. The positive is never
        among the negatives. "auto": "groups", "sampled" or "batch", after which of
        `negative_images` and `n_candidates` is a number.
    same_image_fraction : float or None, default=0.75
        See `negatives`. None: all targets of the batch are as likely.
    queue_size : int, default=4096
        Targets that "queue" keeps for each direction. The queue starts every pass empty, lest an
        image meet itself, and `score` does without it.
    queue_momentum : float, default=0.99
        Of the copy of the network that makes all targets of "queue" (0.999 in MoCo, He et al.
        2020, equation 2), from 0 to below 1: what it keeps of itself after every batch. It costs
        a second encoding of each patch, without a gradient. Without such a copy, targets would be
        told apart by their age, and the network collapse; greedy networks have none.
    hard_fraction : float, default=0.25
        See `negatives`. `fit` begins with all of them and comes to this share in a straight line:
        a network that knows nothing yet collapses on the hardest. `partial_fit`, which does not
        know its end, has this share throughout; let it follow a `fit`.
    objective : {"infonce", "bce"}, default="infonce"
        Which candidate is the target (InfoNCE), or, of each candidate, is it the target (binary
        cross-entropy, the target as heavy as all negatives together).
    greedy : {"joint", "sequential"} or None, default=None
        Greedy InfoMax: the encoder is cut into stages that no gradient passes between, each with
        its own loss on its own mean-pooled maps; `context` and `latent_dim` are then of no account.
        "joint" trains all stages on every batch, "sequential" one after the other, each for an
        equal share of the batches. Either needs the memory of one stage.
    augment : {"full", "light", "none", "cpc-v1", "cpc-v2"} or Augmentation, default="full"
        Random changes of images and patches in training; the last two names are the papers'.
    output : {"features", "z", "c", "both"}, default="features"
        What is pooled: the `n_components` features; the latents z; the contexts c of all
        directions side by side; or z and c.
    pooling : {"max", "mean", "max+mean", "quadrants", "quadrant-means", "pyramid", "flatten", \
            "none"}, default="max"
        How `transform` sums up an image's patches: maximum, mean, or both (2 * n_components
        features); maxima or means over four quadrants (4 * n_components); maxima over the whole,
        2x2 and 4x4 parts (21 * n_components); "flatten", or "none": not at all.
    max_epochs : int, default=20
        Passes over the images. 0 keeps the random encoder, the baseline to beat.
    batch_size : int or "auto", default=64
        Images per batch. "auto": 64 on a CPU; on CUDA up to 256, as long as a pass has 200 batches
        and half of the free memory holds what the encoder keeps of one. Where that does not hold
        64, the encoder takes them in parts, see `accumulate`.
    learning_rate : float or "auto", default="auto"
        Peak learning rate. "auto": 2e-3 for encoders of at most 10 layers with weights, such as
        "conv" and "dictionary"; 5e-4 up to 20 layers ("resnet18"), and 3e-4 for deeper ones, which
        collapse at a higher rate in the first steps of a training of few hundred batches (a
        ConvergenceWarning tells). `verbose=2` says what was chosen.
    optimizer : {"adamw", "adam"}, default="adamw"
        Algorithm.
    betas : (float, float), default=(0.9, 0.999)
        How much the averages of the gradient and of its square keep at each step.
    eps : float, default=1e-8
        Added to the root of the average square.
    weight_decay : float, default=0.01
        Of weights; biases and the gains of norms do not decay.
    schedule : {"cosine", "linear", "step", "constant"}, default="cosine"
        The learning rate after its rise: half a cosine or a straight line down to zero, a tenth
        after three fifths and a hundredth after four fifths of the rest, or the same throughout.
    warmup : float or None, default=0.05
        Share of the training in which the learning rate rises. None: it is constant, whatever the
        `schedule`.
    clip_norm : float or None, default=5.0
        Largest norm of the gradient.
    averaging : float or None, default=None
        Decay per step of an average of the weights (Polyak averaging; 0.9999 in CPC v2), shorter
        in the beginning. The average is what transforms and scores; the weights themselves are
        kept to be trained on. None: no average.
    accumulate : int, default=1
        Parts in which the encoder goes through a batch, for the memory of a part. The gradient is
        that of the whole batch whatever the negatives, for a third more time. Where the device runs
        out of memory, training goes on with twice as many, with a warning.
    early_stopping : bool, default=False
        Hold out images in `fit`, and end it when the bound on these no longer grows. The weights of
        the best epoch are kept. Not in `partial_fit`.
    validation_fraction : float, default=0.1
        Share of the images held out, the same ones in every fit on as many images.
    n_iter_no_change : int, default=10
        The training ends after more than this many epochs in a row without a better bound.
    tol : float, default=1e-4
        By which a bound is better, in nats.
    checkpoint : str, Path or None, default=None
        A folder where `fit` keeps its state, see the Notes; needs safetensors. Each training has
        one of its own. Not in `partial_fit`.
    checkpoint_every : float, default=600
        Seconds from one checkpoint to the next within an epoch. One more is at the end of
        each epoch. Of several processes, the clock of process 0 decides for all.
    gather_negatives : bool, default=False
        For training by several processes, see Notes. True: the loss is that of the whole batch,
        whatever the negatives, at the price of sending latents and contexts. False: each process
        takes negatives from its own part of the batch; with "groups" and "image" that is the same,
        as long as there is a group for every process.
    device : str, default="auto"
        "cpu", "cuda", "cuda:1", ... "auto": CUDA where there is a device, else the CPU. Where the
        next fit trains; set to another one after a fit, the training that goes on from it does so
        there. `load` puts a trained model elsewhere at once.
    precision : {"auto", "float32", "bf16"}, default="auto"
        Of matrix products, in training and after. "auto": bf16 on CUDA, float32 on the CPU. CPUs
        with bf16 instructions (AVX512-BF16, AMX) train faster with "bf16".
    compile : bool, default=False
        Compile the encoder with `torch.compile` in training, which takes a compiler and up to
        minutes at the start of each; not with `greedy`, nor where patches share their computation
        (`augment="none"` with encoder="conv"). Where it fails, training goes on without it, with
        a warning that says why. The results differ by rounding.
    n_jobs : int or None, default=None
        CPU threads of torch. None: torch's own choice. -1: one for each core, -2: one less, ...
    warm_start : bool, default=False
        Continue from the last fit instead of starting anew.
    callbacks : list of skorch callbacks or None, default=None
        Called while training; copied, not changed. See `ProgressBar`, `CSVLog`, `TensorBoardLog`
        and `ProbeRecorder`.
    random_state : int, RandomState or None, default=None
        Fixes initial weights, order, augmentation and candidates. With an int, two fits on the same
        CPU give identical features.
    verbose : int, default=0
        1: a line per epoch. 2: what was decided about device, precision and batches, too.

    Attributes
    ----------
    net_ : CPCNet
        The skorch net.
    encoder_ : torch.nn.Module
        The trained encoder.
    image_shape_ : tuple of int
        Height, width and channels of the training images.
    grid_ : PatchGrid
        Geometry in training.
    training_data_ : dict
        Number of images, dtype and shape of an image in the first training, as they were handed in.
    n_features_in_ : int
        Numbers in a training image.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Where X had column names.
    n_iter_ : int
        Epochs trained.
    history_ : list of dict
        For each epoch the loss (nats), the accuracy and the mutual-information bound (nats), in the
        mean and for each of `net_.module_.heads`, the learning rate, seconds and images per second;
        with `early_stopping` also "validation_mutual_information", the bound on the images held
        out, without augmentation.
    loss_curve_ : list of float
        Loss of each epoch, in nats.

    Notes
    -----
    The loss of a guess is the logarithm of the number of candidates.

    What is predictable in the images is what gets learned. Where neighbouring patches share
    something of no interest, such as a background, let `augment` change it patch by patch.

    With `checkpoint`, a fit that was killed, interrupted or ran into an error is gone on with by
    the same call on the same images: on a CPU the weights are then, bit for bit, those of a fit
    that was never interrupted. A fit that had come to its end is read at once. Of other
    settings or other images the folder's training is refused, and nothing in it is changed. The
    folder holds the last two checkpoints, in safetensors and JSON; what is broken is set aside
    with a warning, and where the disk is full the training goes on without. Callbacks of other
    libraries start anew when a training is gone on with, unless they have `state_dict` and
    `load_state_dict`.

    Several devices and machines: start the same script with ``torchrun --nproc_per_node=N``, and
    give every process all images. `fit` and `partial_fit` then train together, each process on its
    part of every batch (`batch_size` is that of the whole) and on its own GPU where there are
    some; all end with the same weights, as a single process would have them, and process 0 prints.
    Another number of processes may go on from there, also from a `checkpoint`: process 0 alone
    reads and writes the folder, so it may be on a disk of its machine. See
    `sklearn_cpc.training.distributed.is_main_process` for what only one of them should do, and
    `alone` there for a fit that is not shared.

    References
    ----------
    A. van den Oord, Y. Li, O. Vinyals, "Representation Learning with Contrastive Predictive
    Coding", 2018, https://arxiv.org/abs/1807.03748.
    O. Hénaff et al., "Data-Efficient Image Recognition with Contrastive Predictive Coding",
    ICML 2020, https://arxiv.org/abs/1905.09272.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn_cpc import CPCTransformer
    >>> X, y = load_digits(return_X_y=True)
    >>> cpc = CPCTransformer(32, latent_dim=16, max_epochs=1, random_state=0)
    >>> cpc.fit_transform(X[:100]).shape
    (100, 32)
    >>> pipe = make_pipeline(cpc, LogisticRegression(max_iter=1000)).fit(X[:100], y[:100])

    Going on from a network that was trained elsewhere, such as ``timm.create_model("resnet18",
    pretrained=True, in_chans=1, num_classes=0)`` or the trunk of one of torchvision's:

    >>> from torch import nn
    >>> trunk = nn.Sequential(nn.Conv2d(1, 16, 2), nn.BatchNorm2d(16), nn.ReLU())  # pretrained
    >>> mine = CPCTransformer(None, encoder=trunk, encoder_norm="frozen", max_epochs=1)
    >>> mine.fit_transform(X[:100]).shape  # as many features as it has itself
    (100, 16)
    """

    _parameter_constraints = CONSTRAINTS

    def __init__(
        self,
        n_components=1024,
        *,
        image_shape=None,
        channels="auto",
        resize=None,
        broken_images="raise",
        mixed_channels="raise",
        n_workers=None,
        worker_kind="thread",
        patch_size="auto",
        patch_stride="auto",
        transform_stride="auto",
        transform_flip=False,
        encoder="conv",
        encoder_norm="auto",
        context="pixelcnn",
        context_dim=64,
        context_depth=3,
        shared_context=False,
        latent_dim=256,
        projection_dim=64,
        directions=("down", "up", "right", "left"),
        n_steps=3,
        similarity="cosine",
        temperature=0.1,
        n_candidates=1024,
        negative_images=8,
        negatives="auto",
        same_image_fraction=0.75,
        queue_size=4096,
        queue_momentum=0.99,
        hard_fraction=0.25,
        objective="infonce",
        greedy=None,
        augment="full",
        output="features",
        pooling="max",
        max_epochs=20,
        batch_size=64,
        learning_rate="auto",
        optimizer="adamw",
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0.01,
        schedule="cosine",
        warmup=0.05,
        clip_norm=5.0,
        averaging=None,
        accumulate=1,
        early_stopping=False,
        validation_fraction=0.1,
        n_iter_no_change=10,
        tol=1e-4,
        checkpoint=None,
        checkpoint_every=600,
        gather_negatives=False,
        device="auto",
        precision="auto",
        compile=False,
        n_jobs=None,
        warm_start=False,
        callbacks=None,
        random_state=None,
        verbose=0,
    ):
        self.n_components = n_components
        self.image_shape = image_shape
        self.channels = channels
        self.resize = resize
        self.broken_images = broken_images
        self.mixed_channels = mixed_channels
        self.n_workers = n_workers
        self.worker_kind = worker_kind
        self.patch_size = patch_size
        self.patch_stride = patch_stride
        self.transform_stride = transform_stride
        self.transform_flip = transform_flip
        self.encoder = encoder
        self.encoder_norm = encoder_norm
        self.context = context
        self.context_dim = context_dim
        self.context_depth = context_depth
        self.shared_context = shared_context
        self.latent_dim = latent_dim
        self.projection_dim = projection_dim
        self.directions = directions
        self.n_steps = n_steps
        self.similarity = similarity
        self.temperature = temperature
        self.n_candidates = n_candidates
        self.negative_images = negative_images
        self.negatives = negatives
        self.same_image_fraction = same_image_fraction
        self.queue_size = queue_size
        self.queue_momentum = queue_momentum
        self.hard_fraction = hard_fraction
        self.objective = objective
        self.greedy = greedy
        self.augment = augment
        self.output = output
        self.pooling = pooling
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.optimizer = optimizer
        self.betas = betas
        self.eps = eps
        self.weight_decay = weight_decay
        self.schedule = schedule
        self.warmup = warmup
        self.clip_norm = clip_norm
        self.averaging = averaging
        self.accumulate = accumulate
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.checkpoint = checkpoint
        self.checkpoint_every = checkpoint_every
        self.gather_negatives = gather_negatives
        self.device = device
        self.precision = precision
        self.compile = compile
        self.n_jobs = n_jobs
        self.warm_start = warm_start
        self.callbacks = callbacks
        self.random_state = random_state
        self.verbose = verbose

    # Fitting

    def fit(self, X, y=None):
        """Pretrain on images.

        Parameters
        ----------
        X : array-like of shape (n, n_pixels), (n, height, width), (n, height, width, channels) or \
                (n, channels, height, width), or paths
            Images of one size: bool, integer or float arrays, memory maps or torch tensors. uint8
            is kept as uint8 until it is on the device. Values are mapped to [0, 1] from
            0..255 for uint8, else from the least to the greatest of X.

            Images that are not in memory are read batch by batch, ahead of the training: arrays of
            zarr, HDF5 or another kind that is read in slices; a torch `Dataset` of images, or of
            tuples that begin with one; and paths of image files, as a list, an array or a column
            of a data frame. PNG, JPEG, TIFF, BMP, GIF, WebP, PPM and JPEG 2000 are read by pillow,
            and by tifffile what of TIFF pillow cannot. The pages of a TIFF are channels; palettes
            become RGB, or RGBA where they have transparency; CMYK becomes RGB; black and white
            becomes 0 and 255. Colour PNGs of 16 bits are read by imagecodecs where it is
            installed, else with 8 bits and a warning. Channels may differ with `mixed_channels`.
        y : None
            Ignored.

        Returns
        -------
        self : CPCTransformer

        Raises
        ------
        ValueError
            If a parameter, the geometry, a pixel or the checkpoint is not acceptable; an earlier
            fit is kept.
        TypeError
            If a callback is none.
        FloatingPointError
            If the loss is not finite; an earlier fit is kept.
        """
        self._validate_params()
        with fitting(self), threads(self.n_jobs):
            if self.warm_start and hasattr(self, "net_"):
                return runs.go_on(self, X, self.max_epochs, self.warmup)
            return runs.start(self, X, self.max_epochs, self.warmup)

    def partial_fit(self, X, y=None):
        """One more pass, over these images, at a constant learning rate.

        Parameters
        ----------
        X : array-like
            As in `fit`. The first call fixes the size and the range of pixel values.
        y : None
            Ignored.

        Returns
        -------
        self : CPCTransformer
        """
        self._validate_params()
        with fitting(self), threads(self.n_jobs):
            if hasattr(self, "net_"):
                return runs.go_on(self, X, 1, None, is_pass=True)
            return runs.start(self, X, 1, None, is_pass=True)

    # Using

    def transform(self, X):
        """Pooled features of images.

        Parameters
        ----------
        X : array-like
            As in `fit`. Images with axes may be of another size than in `fit`, as long as a patch
            fits; with `pooling="flatten"` they may not. Pixels of the same range as in `fit`.

        Returns
        -------
        features : ndarray of shape (n, n_features_out), float32
        """
        with self._using(n_wrappers=1):  # set_output's
            images, grid = inputs.images_and_grid(self, X)
            width = n_pooled(self.pooling, grid.shape, self._n_patch_outputs)
            if width != self._n_features_out:
                raise ValueError(
                    f"pooling={self.pooling!r} gives {width} features for images of "
                    f"{grid.height}x{grid.width} pixels and {self._n_features_out} for those of "
                    "fit; pass images of one size, or pooling='max'."
                )
            out = np.empty((len(images), width), dtype=np.float32)
            for rows, features in self._embedded(images, grid, self._pooled):
                out[rows] = features.cpu().numpy()
            inputs.mark_broken(images, out, stacklevel=4)
            return out

    def embed_patches(self, X):
        """Features of every patch, before pooling.

        Parameters
        ----------
        X : array-like
            As in `transform`.

        Returns
        -------
        features : ndarray of shape (n, rows, cols, n_components), float32
            Or as wide as `output` says. On the grid of `transform_stride`; pooling over rows and
            columns gives `transform`, but for the mirror images of `transform_flip`.
        """
        with self._using():
            images, grid = inputs.images_and_grid(self, X)
            out = np.empty((len(images), *grid.shape, self._n_patch_outputs), dtype=np.float32)
            for rows, features in self._embedded(images, grid, self._on_grid):
                out[rows] = features.cpu().numpy()
            inputs.mark_broken(images, out, stacklevel=3)
            return out

    def score(self, X, y=None):
        """Lower bound on the mutual information of contexts and targets, in nats.

        Parameters
        ----------
        X : array-like
            Images of the size of `fit`. They are compared in the order of a fixed permutation, so
            that sorted images make no easier negatives.
        y : None
            Ignored.

        Returns
        -------
        bound : float
            log N - L_N (van den Oord et al. 2018, appendix), the mean over directions and steps,
            without augmentation; the greater the better, and never above the logarithm of
            the number N of candidates. 0 where the grid leaves nothing to predict.
        """
        with self._using():
            images = inputs.check_images(self, X, reset=False)
            if images.shape != self.image_shape_:
                raise ValueError(
                    f"X has images of shape {images.shape}, fit had {self.image_shape_}; score "
                    "needs images of the same size."
                )
            model = self.net_.module_
            if not model.plan:
                return 0.0
            feed = ImageFeed(images, self.pixel_scale_, self.net_.device)
            batch_size = self.net_.batch_size if self.batch_size == "auto" else self.batch_size
            rows = np.arange(len(images))
            return held_out_bound(self.net_, feed, rows, batch_size, self._precision)

    def get_feature_names_out(self, input_features=None):
        """Names of the columns of `transform`.

        Parameters
        ----------
        input_features : array-like of str or None, default=None
            Not used but for its length: that of an image's pixels, or of one column of paths.

        Returns
        -------
        names : ndarray of str
            "cpctransformer0", "cpctransformer1", ...
        """
        # To a ColumnTransformer a column of paths is one feature, whatever the images' size.
        is_column = input_features is not None and len(input_features) == 1
        return super().get_feature_names_out(None if is_column else input_features)

    @property
    def encoder_(self):
        """The trained encoder: patches (n, channels, height, width) -> (n, n_components)."""
        check_is_fitted(self)
        return self.net_.module_.encoder

    @property
    def _n_features_out(self):
        check_is_fitted(self)
        return n_pooled(self.pooling, inputs.transform_grid(self).shape, self._n_patch_outputs)

    @property
    def _n_patch_outputs(self):
        return self.net_.module_.n_outputs(self.output)

    # Inner workings

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.input_tags.three_d_array = True
        tags.transformer_tags.preserves_dtype = ["float32"]
        tags.non_deterministic = False
        return tags

    def _validate_params(self):
        try:
            super()._validate_params()
        except InvalidParameterError as error:
            raise with_near_miss(error, self) from None

    @contextmanager
    def _using(self, n_wrappers=0):
        """A call on images that leaves the estimator as it is."""
        check_is_fitted(self)
        self._validate_params()  # which may have been set since
        # Past this generator, contextlib and the method, to its caller.
        planning.warn_of_slow_bf16(self._precision, self.net_.device, stacklevel=4 + n_wrappers)
        with own_torch(), workers_ended(), threads(self.n_jobs):
            yield

    @property
    def _precision(self):
        return building.resolve_precision(self.precision, self.net_.device)

    def _on_grid(self, pixels, grid):
        """Features of every patch of pixels in [0, 1]."""
        return self.net_.module_.embed(pixels, grid, self.output).float()

    def _pooled(self, pixels, grid):
        """What `transform` gives for pixels in [0, 1]."""
        embed = partial(self._on_grid, grid=grid)
        return pool_images(embed, pixels, self.pooling, self.transform_flip)

    def _embedded(self, images, grid, features_of):
        """Blocks of images as (rows, what one of the two methods above makes of them)."""
        model = self.net_.module_
        feed = ImageFeed(images, self.pixel_scale_, self.net_.device)
        numbers = inputs.largest_map(model, grid, self._n_patch_outputs)
        kind = torch.device(self.net_.device).type
        budget = TRANSFORM_BUDGETS.get(kind, TRANSFORM_BUDGETS["cuda"])
        size = max(1, min(256, budget // numbers))
        with torch.inference_mode(), self.net_.autocast(self._precision):
            yield from blocks_that_fit(feed, size, partial(features_of, grid=grid))
