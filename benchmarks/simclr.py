"""SimCLR as a transformer: what CPC is compared with, in the same minutes on the same images.

T. Chen, S. Kornblith, M. Norouzi and G. Hinton, "A Simple Framework for Contrastive Learning of
Visual Representations", ICML 2020, https://arxiv.org/abs/2002.05709: two random views of an image
are to be told from those of the other images of the batch.

As there, for CIFAR-10 (appendix B.9): views are random crops resized to the image, mirrored by
halves, with changed colours (half of the strength used on ImageNet), no blur; the network is a
ResNet with a first convolution of 3x3 pixels and no maximum after it; a projection head of one
hidden layer with 128 outputs; the features are those before the head. Departs: Adam with decoupled
decay in place of LARS, which is for batches of thousands; the learning rate falls by a cosine of
the time that is spent, because minutes are what is given; hues are turned in the YIQ plane in place
of HSV, which keeps an image's colour changes one matrix; the network may be narrower and shallower.
"""

import math
from collections import deque

import numpy as np
import torch
import torch.nn.functional as F
from measuring import CLOCKS, synchronize
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state, gen_batches
from sklearn.utils.validation import check_is_fitted
from torch import nn

# ITU-R BT.601: brightness and two axes of colour, from red, green and blue.
YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))
WARM_UP = 0.05  # share of the time


def nt_xent(z, temperature):
    """Equation 1, as the mean over both directions of all pairs.

    Parameters
    ----------
    z : Tensor of shape (2n, dim)
        Rows i and n + i are projections of two views of one image.
    temperature : float
    """
    z = F.normalize(z.float(), dim=1)
    logits = z @ z.T / temperature
    logits.fill_diagonal_(-torch.inf)
    partners = torch.arange(len(z), device=z.device).roll(len(z) // 2)
    return F.cross_entropy(logits, partners)


def uniform(n, low, high, generator):
    return torch.rand(n, generator=generator, device=generator.device) * (high - low) + low


def random_crops(images, least_area, generator):
    """A random rectangle of each image, mirrored by halves, at the size of the image.

    Areas are uniform from `least_area` to 1, ratios of width to height from 3/4 to 4/3, even in
    their logarithm; a side that would be longer than the image is as long as it.
    """
    n = len(images)
    area = uniform(n, least_area, 1, generator)
    ratio = uniform(n, math.log(3 / 4), math.log(4 / 3), generator).exp()
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    x, y = (uniform(n, -1, 1, generator) * (1 - side) for side in (width, height))
    mirror = uniform(n, -1, 1, generator).sign()
    zero = torch.zeros_like(x)
    maps = torch.stack([width * mirror, zero, x, zero, height, y], 1).view(n, 2, 3)
    grid = F.affine_grid(maps, images.shape, align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def random_colours(images, strength, generator):
    """Brightness, contrast, saturation and hue (four in five images), and grey (one in five)."""
    n = len(images)
    change = uniform(n, 0, 1, generator) < 0.8
    light, contrast, saturation = (
        torch.where(change, uniform(n, 1 - 0.8 * strength, 1 + 0.8 * strength, generator), 1.0)
        for _ in range(3)
    )
    turn = uniform(n, -0.2 * strength, 0.2 * strength, generator) * change
    saturation = saturation * (uniform(n, 0, 1, generator) >= 0.2)
    return change_colours(images, light, contrast, saturation, turn)


def change_colours(images, light, contrast, saturation, turn):
    """Colours multiplied, drawn apart from the image's mean brightness, saturated and turned.

    No step but the last clips, as in the paper's appendix A, so that all are one matrix and one
    number per image: that mean is a grey, and saturation and hue leave greys as they are.

    Parameters
    ----------
    images : Tensor of shape (n, 3, height, width), in [0, 1]
    light, contrast, saturation, turn : Tensor of shape (n,)
        Factors, and the share of a full turn of the hues.
    """
    n, yiq = len(images), torch.tensor(YIQ, device=images.device)
    angle = 2 * math.pi * turn
    cos, sin = saturation * angle.cos(), saturation * angle.sin()
    zero, one = torch.zeros_like(cos), torch.ones_like(cos)
    chroma = torch.stack([one, zero, zero, zero, cos, -sin, zero, sin, cos], 1).view(n, 3, 3)
    colours = (light * contrast).view(n, 1, 1) * (yiq.inverse() @ chroma @ yiq)
    mean = torch.einsum("nchw,c->n", images, yiq[0]) / images[0, 0].numel()
    changed = colours @ images.flatten(2) + ((1 - contrast) * light * mean).view(n, 1, 1)
    return changed.view_as(images).clamp(0, 1)


class Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, n_in, n_out, stride):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(n_out),
            nn.ReLU(),
            nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False),
            nn.BatchNorm2d(n_out),
        )
        self.shortcut = nn.Identity()
        if stride != 1 or n_in != n_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out)
            )

    def forward(self, x):
        return F.relu(self.body(x) + self.shortcut(x))


def resnet(n_channels, width, n_blocks, stem_stride):
    """A ResNet for small images; `n_blocks` of (2, 2, 2, 2) at width 64 is ResNet-18."""
    layers = [
        nn.Conv2d(n_channels, width, 3, stem_stride, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    ]
    n_in = width
    for stage, n in enumerate(n_blocks):
        for block in range(n):
            n_out = width * 2**stage
            layers.append(Block(n_in, n_out, 2 if stage and not block else 1))
            n_in = n_out
    return nn.Sequential(*layers), n_in


class SimCLR(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Features of a network that learned to tell views of an image from those of others.

    Parameters
    ----------
    width, n_blocks, stem_stride : int, tuple of int, int
        Channels of the first stage, which double from stage to stage; blocks of each stage; pixels
        from one place of the first convolution to the next.
    temperature, least_area, strength : float
        Of the loss; the smallest crop's share of the image; of the changes of colour.
    batch_size, learning_rate, weight_decay : int, float, float
    max_seconds : float, default=60
        How long `fit` trains.
    clock : {"wall", "process"}, default="wall"
        "process" counts the seconds of all cores, on a machine that has other work.
    pooling : {"mean", "quadrants"}, default="mean"
        Of the last map, at `transform`.
    precision : {"float32", "bf16"}, default="float32"
    device : str, default=None
        None takes a GPU if there is one.
    random_state : int, RandomState or None, default=None
    verbose : int, default=0

    Attributes
    ----------
    encoder_ : torch module
    n_images_ : int
        How many images were seen, each in two views.
    seconds_, loss_ : float
        What the training took, and its mean loss over the last hundred steps.
    """

    def __init__(
        self,
        width=64,
        n_blocks=(2, 2, 2, 2),
        stem_stride=1,
        *,
        temperature=0.5,
        least_area=0.08,
        strength=0.5,
        batch_size=256,
        learning_rate=1e-3,
        weight_decay=1e-4,
        max_seconds=60,
        clock="wall",
        pooling="mean",
        precision="float32",
        device=None,
        random_state=None,
        verbose=0,
    ):
        self.width = width
        self.n_blocks = n_blocks
        self.stem_stride = stem_stride
        self.temperature = temperature
        self.least_area = least_area
        self.strength = strength
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.max_seconds = max_seconds
        self.clock = clock
        self.pooling = pooling
        self.precision = precision
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X, y=None):
        """Learn from images of shape (n, height, width, channels), uint8, for `max_seconds`."""
        seed = check_random_state(self.random_state).randint(2**31 - 1)
        self._device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.encoder_, self._n_maps = resnet(
                X.shape[-1], self.width, self.n_blocks, self.stem_stride
            )
            head = nn.Sequential(
                nn.Linear(self._n_maps, self._n_maps),
                nn.BatchNorm1d(self._n_maps),
                nn.ReLU(),
                nn.Linear(self._n_maps, 128),
            )
        self.encoder_.to(self._device, memory_format=torch.channels_last)
        self._train(self._on_device(X), head.to(self._device), seed)
        self.encoder_.eval()
        return self

    def _train(self, images, head, seed):
        now, start = CLOCKS[self.clock], CLOCKS[self.clock]()
        generator = torch.Generator(self._device).manual_seed(seed)
        weights = [*self.encoder_.parameters(), *head.parameters()]
        optimizer = torch.optim.AdamW(weights, weight_decay=self.weight_decay)
        batches = endless_batches(len(images), self.batch_size, generator)
        n_steps, losses, report = 0, deque(maxlen=100), 0.1
        while (spent := now() - start) < self.max_seconds:
            share = spent / self.max_seconds
            rate = min(share / WARM_UP + 0.01, 1) * (1 + math.cos(math.pi * share)) / 2
            optimizer.param_groups[0]["lr"] = self.learning_rate * rate
            batch = images[next(batches)]
            loss = self._loss(torch.cat([self._view(batch, generator) for _ in range(2)]), head)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            n_steps += 1
            if self.verbose and share > report:
                n = n_steps * self.batch_size
                print(f"{share:4.0%} {n:9,} images, loss {losses[-1]:.3f}", flush=True)
                report += 0.1
        synchronize(self._device)
        self.seconds_ = now() - start
        self.n_images_ = n_steps * min(self.batch_size, len(images))
        self.loss_ = float(np.mean(losses)) if losses else math.nan

    def _loss(self, views, head):
        with self._autocast():
            z = head(self.encoder_(views).float().mean((2, 3)))
        return nt_xent(z, self.temperature)

    def _view(self, batch, generator):
        view = random_crops(batch.float() / 255, self.least_area, generator)
        return random_colours(view, self.strength, generator).to(memory_format=torch.channels_last)

    def transform(self, X):
        """The last maps, pooled: (n, n_features), float32."""
        check_is_fitted(self)
        features = []
        with torch.inference_mode(), self._autocast():
            for rows in gen_batches(len(X), 500):
                pixels = self._on_device(X[rows]).float() / 255
                maps = self.encoder_(pixels.to(memory_format=torch.channels_last)).float()
                side = 2 if self.pooling == "quadrants" else 1
                features.append(F.adaptive_avg_pool2d(maps, side).flatten(1).cpu().numpy())
        return np.concatenate(features)

    @property
    def _n_features_out(self):
        return self._n_maps * (4 if self.pooling == "quadrants" else 1)

    def _on_device(self, X):
        X = np.ascontiguousarray(np.moveaxis(X, -1, 1))
        return torch.from_numpy(X).to(self._device)

    def _autocast(self):
        enabled = self.precision == "bf16"
        return torch.autocast(torch.device(self._device).type, torch.bfloat16, enabled=enabled)


def endless_batches(n, size, generator):
    """Rows of whole batches, in a new order for each pass; few rows are one batch."""
    while True:
        order = torch.randperm(n, generator=generator, device=generator.device)
        yield from order[: n - n % size].split(size) if n >= size else [order]
