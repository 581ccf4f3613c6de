"""CPCTransformer: pretraining on unlabelled images, pooled patch features out."""

import copy

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import InvalidParameterError
from sklearn.utils.validation import check_is_fitted

from ..nn import n_pooled, pool
from ..training import ImageFeed, PixelScale, TrainingSettings, train
from ..training.memory import blocks_that_fit
from . import building, inputs, planning
from .constraints import CONSTRAINTS
from .guards import all_or_nothing, threads
from .names import with_near_miss

__all__ = ["CPCTransformer"]

# Numbers of float32 that the features, or the first maps, of one block of images may hold at
# transform: 128 MiB.
TRANSFORM_BUDGET = 2**25


class CPCTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
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
        the first and the last.
    patch_size : int, (int, int) or "auto", default="auto"
        Pixels of a patch. "auto": about 7x7 patches at half overlap, see
        `sklearn_cpc.nn.PatchGrid`.
    patch_stride : int, (int, int) or "auto", default="auto"
        Distance of neighbouring patches in `fit`. "auto": half of the patch.
    transform_stride : int, (int, int) or "auto", default="auto"
        Distance of neighbouring patches in `transform`. "auto": half of the training stride; the
        training stride itself where `output` has contexts, which need it.
    encoder : {"conv", "dictionary", "resnet18", "resnet34", "resnet50", "resnet101", "resnet161", \
            "wrn28-2"}, Module or callable, default="conv"
        Network for patches. "conv" is small and fast on CPUs; "dictionary" is two wide
        layers, the first of which starts as a k-means of whitened patches: the strongest in minutes
        of a CPU on small natural images, and even untrained it is not random. The ResNets are
        pre-activation, up to the third stage ("resnet161": CPC v2); "wrn28-2" is wide and for small
        images. None uses batch statistics. Your own: a module, whose weights are copied, or what
        gives one for the number of channels, such as a class. It maps patches (n, channels, height,
        width) to (n, width), or to (n, width, rows, cols), of which the mean is taken. BatchNorm in
        it becomes GroupNorm, with a warning: what leaks from patch to patch spoils the learning.
    encoder_norm : {"auto", "none", "group", "layer"}, default="auto"
        Norm inside a named ResNet: over the channels of each pixel ("layer"), over the patch in
        groups of channels, or none. "auto": "layer".
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
    hard_fraction : float, default=0.25
        See `negatives`.
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
    learning_rate : float, default=2e-3
        Peak learning rate.
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
    device : str, default="auto"
        "cpu", "cuda", "cuda:1", ... "auto": CUDA where there is a device, else the CPU.
    precision : {"auto", "float32", "bf16"}, default="auto"
        Of matrix products, in training and after. "auto": bf16 on CUDA, float32 on the CPU. CPUs
        with bf16 instructions (AVX512-BF16, AMX) train faster with "bf16".
    compile : bool, default=False
        Compile the encoder with `torch.compile` in training; falls back with a warning.
    n_jobs : int or None, default=None
        CPU threads of torch. None: torch's own choice.
    warm_start : bool, default=False
        Continue from the last fit instead of starting anew.
    callbacks : list of skorch callbacks or None, default=None
        Called while training; copied, not changed.
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
    n_features_in_ : int
        Numbers in a training image.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Where X had column names.
    n_iter_ : int
        Epochs trained.
    history_ : list of dict
        For each epoch the loss (nats), the accuracy and the mutual-information bound (nats), in the
        mean and for each of `net_.module_.heads`, the learning rate, seconds and images per second.
    loss_curve_ : list of float
        Loss of each epoch, in nats.

    Notes
    -----
    The loss of a guess is the logarithm of the number of candidates.

    What is predictable in the images is what gets learned. Where neighbouring patches share
    something of no interest, such as a background, let `augment` change it patch by patch.

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
    """

    _parameter_constraints = CONSTRAINTS

    def __init__(
        self,
        n_components=1024,
        *,
        image_shape=None,
        channels="auto",
        patch_size="auto",
        patch_stride="auto",
        transform_stride="auto",
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
        hard_fraction=0.25,
        objective="infonce",
        greedy=None,
        augment="full",
        output="features",
        pooling="max",
        max_epochs=20,
        batch_size=64,
        learning_rate=2e-3,
        optimizer="adamw",
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0.01,
        schedule="cosine",
        warmup=0.05,
        clip_norm=5.0,
        averaging=None,
        accumulate=1,
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
        self.patch_size = patch_size
        self.patch_stride = patch_stride
        self.transform_stride = transform_stride
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
                (n, channels, height, width)
            Images of one size: bool, integer or float arrays, memory maps or torch tensors. uint8
            is kept as uint8 until it is on the device. Values are mapped to [0, 1] from
            0..255 for uint8, else from the least to the greatest of X.
        y : None
            Ignored.

        Returns
        -------
        self : CPCTransformer

        Raises
        ------
        ValueError
            If a parameter, the geometry or a pixel is not acceptable; an earlier fit is kept.
        FloatingPointError
            If the loss is not finite; an earlier fit is kept.
        """
        self._validate_params()
        with all_or_nothing(self), threads(self.n_jobs):
            if self.warm_start and hasattr(self, "net_"):
                return self._continue(X, self.max_epochs, self.warmup)
            return self._start(X, self.max_epochs, self.warmup)

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
        with all_or_nothing(self), threads(self.n_jobs):
            if hasattr(self, "net_"):
                return self._continue(X, 1, None)
            return self._start(X, 1, None)

    def _start(self, X, n_epochs, warmup):
        images = inputs.check_images(self, X, reset=True)
        random_state = check_random_state(self.random_state)
        building.check_batch(self, images, n_epochs)
        scale = PixelScale.of(images)
        net = building.build_net(self, images.shape, scale, random_state)
        building.check_plan(self, net, n_epochs)
        self.grid_ = net.module_.grid
        # What cannot be transformed is refused before the training.
        net.module_.n_outputs(self.output)
        inputs.transform_grid(self)
        building.start_encoder(net, images, scale)
        self._train(net, ImageFeed(images, scale, net.device), n_epochs, warmup)
        self._keep_start(images.shape, images.channels_first, scale)
        return self

    def _keep_start(self, image_shape, channels_first, scale):
        """What the first training fixes for all later ones; `load` calls it too."""
        self.image_shape_ = image_shape
        self.channels_first_ = channels_first
        self.pixel_scale_ = scale
        self._built_from = {name: getattr(self, name) for name in building.BUILT_FROM}

    def _continue(self, X, n_epochs, warmup):
        images = inputs.check_images(self, X, reset=False)
        if images.shape != self.image_shape_:
            raise ValueError(
                f"X has images of shape {images.shape} (height, width, channels), but training "
                f"began with {self.image_shape_}; bring them to that shape, or fit anew with "
                "warm_start=False."
            )
        building.check_same_build(self, self._built_from)
        building.check_batch(self, images, n_epochs)
        net = copy.deepcopy(self.net_)
        net.lr = self.learning_rate
        self._train(net, ImageFeed(images, self.pixel_scale_, net.device), n_epochs, warmup)
        return self

    def _train(self, net, feed, n_epochs, warmup):
        if n_epochs and net.module_.plan:
            batch_size, accumulate = planning.batch_and_parts(self, net, len(feed))
            settings = TrainingSettings(
                n_epochs,
                batch_size,
                warmup,
                self.clip_norm,
                self.verbose,
                tuple(self.callbacks or ()),
                self.schedule,
                self.averaging,
                accumulate,
            )
            if self.verbose >= 2:
                print(planning.described(net, feed, settings), flush=True)
            with building.own_generators(net), building.compiled(self.compile, net, feed):
                train(net, feed, settings)
        self._keep_net(net)

    def _keep_net(self, net):
        """What every training gives; `load` calls it too."""
        net.module_.eval()
        self.net_ = net
        self.history_ = building.epochs(net.history)
        self.n_iter_ = len(self.history_)
        self.loss_curve_ = [epoch["loss"] for epoch in self.history_]

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
        images, grid = inputs.images_and_grid(self, X)
        width = n_pooled(self.pooling, grid.shape, self._n_patch_outputs)
        if width != self._n_features_out:
            raise ValueError(
                f"pooling={self.pooling!r} gives {width} features for images of "
                f"{grid.height}x{grid.width} pixels and {self._n_features_out} for those of "
                "fit; pass images of one size, or pooling='max'."
            )
        out = np.empty((len(images), width), dtype=np.float32)
        for rows, features in self._embedded(images, grid):
            out[rows] = pool(features, self.pooling).cpu().numpy()
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
            columns gives `transform`.
        """
        images, grid = inputs.images_and_grid(self, X)
        out = np.empty((len(images), *grid.shape, self._n_patch_outputs), dtype=np.float32)
        for rows, features in self._embedded(images, grid):
            out[rows] = features.cpu().numpy()
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
        check_is_fitted(self)
        images = inputs.check_images(self, X, reset=False)
        if images.shape != self.image_shape_:
            raise ValueError(
                f"X has images of shape {images.shape}, fit had {self.image_shape_}; score needs "
                "images of the same size."
            )
        model = self.net_.module_
        if not model.plan:
            return 0.0
        feed = ImageFeed(images, self.pixel_scale_, self.net_.device)
        generator = torch.Generator(feed.device).manual_seed(0)
        batch_size = self.net_.batch_size if self.batch_size == "auto" else self.batch_size
        total = 0.0
        with threads(self.n_jobs), torch.inference_mode(), self.net_.autocast():
            order = np.random.RandomState(0).permutation(len(images))
            for index in np.array_split(order, -(-len(images) // batch_size)):
                block = feed.batch(index)
                total += len(block) * model(block, generator).bounds.mean().item()
        return total / len(images)

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

    # Keeping

    def save(self, path):
        """Write the fitted estimator to a file without pickles.

        Parameters
        ----------
        path : str or Path
            One safetensors file: weights and the optimiser's state, and settings as JSON in its
            header. It appears whole or not at all.

        Raises
        ------
        ImportError
            If safetensors is not installed.
        TypeError
            If a parameter cannot be written as JSON, such as `callbacks`. An encoder or context
            network of your own is written with its weights and its name alone.
        """
        from .persistence import save

        check_is_fitted(self)
        save(self, path)

    @classmethod
    def load(cls, path, device="auto", *, encoder=None, context=None):
        """Read what `save` wrote; no code in the file is run.

        Parameters
        ----------
        path : str or Path
        device : str, default="auto"
            Where the model is put.
        encoder, context : Module, callable or None, default=None
            Where they were your own: the same again. Their weights come from the file.

        Returns
        -------
        estimator : CPCTransformer
            Fitted; `partial_fit` continues as if it had not been saved.

        Raises
        ------
        ValueError
            If the file is of another kind, is broken, or needs the `encoder` or `context`.
        """
        from .persistence import load

        return load(cls, path, device, {"encoder": encoder, "context": context})

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

    def _embedded(self, images, grid):
        """Blocks of images as (rows, features on the grid)."""
        model = self.net_.module_
        feed = ImageFeed(images, self.pixel_scale_, self.net_.device)
        numbers = inputs.largest_map(model, grid, self._n_patch_outputs)
        size = max(1, min(256, TRANSFORM_BUDGET // numbers))

        def embed(block):
            return model.embed(block, grid, self.output).float()

        with threads(self.n_jobs), torch.inference_mode(), self.net_.autocast():
            yield from blocks_that_fit(feed, size, embed)
