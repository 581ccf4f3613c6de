"""The step of CPC as it is usually written: what `throughput.py` compares the package with.

Loops over directions, steps and rows; a few negatives sampled for each pair and gathered; patches
cut and augmented one by one with Pillow by a DataLoader on the CPU. The network, its weights and
the way they are trained are the package's own: what differs is how the step is put together. Plain
on purpose, and to be kept so; nothing in the package uses it.
"""

import numpy as np
import torch
from augmentation import augment_with_pillow
from PIL import Image, ImageEnhance
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from sklearn_cpc.nn import AUGMENTATIONS
from sklearn_cpc.nn.patches import DIRECTIONS


class PatchDataset(Dataset):
    """Images as grids of patches, each cut and augmented on its own.

    Parameters
    ----------
    images : uint8 array of shape (n, height, width, 3)
    model : CPCModel
        Its grid and its moments of pixels are used.
    augment : {"full", "cpc-v2"} or None
        A flip of the image and, for each patch, the changes of `Augmentation()`: jitter,
        brightness, contrast, grey, dropped channels; or those of CPC v2, see `augmentation.py`.
    """

    def __init__(self, images, model, augment="full"):
        self.images = images
        self.grid = model.grid
        self.mean = model.pixel_mean.view(-1, 1, 1).cpu()
        self.std = model.pixel_std.view(-1, 1, 1).cpu()
        self.augment = augment

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image = Image.fromarray(self.images[index])
        if self.augment and np.random.rand() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        (height, width), (down, across) = self.grid.patch_size, self.grid.patch_stride
        top, _, left, _ = self.grid.margins
        rows = []
        for i in range(self.grid.shape[0]):
            row = []
            for j in range(self.grid.shape[1]):
                x, y = left + j * across, top + i * down
                patch = image.crop((x, y, x + width, y + height))
                row.append(self.to_tensor(patch))
            rows.append(torch.stack(row))
        return torch.stack(rows)  # (rows, cols, channels, height, width)

    def to_tensor(self, patch):
        if self.augment == "full":
            patch = change(patch)
        elif self.augment:
            setting = AUGMENTATIONS[self.augment]
            patch = augment_with_pillow(np.asarray(patch), np.random, setting)
        pixels = torch.from_numpy(np.array(patch)).permute(2, 0, 1).float() / 255
        if self.augment == "full" and np.random.rand() < 0.25:
            dropped = np.random.permutation(3)[:2]
            pixels[dropped] = self.mean[dropped]
        return (pixels - self.mean) / self.std


def change(patch):
    """Jitter, brightness, contrast and loss of colour of one patch."""
    reach = round(0.125 * patch.width)
    dx, dy = np.random.randint(-reach, reach + 1, 2)
    patch = patch.transform(patch.size, Image.Transform.AFFINE, (1, 0, dx, 0, 1, dy))
    patch = ImageEnhance.Brightness(patch).enhance(np.random.uniform(0.8, 1.2))
    patch = ImageEnhance.Contrast(patch).enhance(np.random.uniform(0.6, 1.4))
    if np.random.rand() < 0.25:
        patch = patch.convert("L").convert("RGB")
    return patch


def loader(images, model, batch_size, n_workers=0, augment="full"):
    """Batches of patches, (batch, rows, cols, channels, height, width), standardised."""
    dataset = PatchDataset(images, model, augment)
    shuffle = augment is not None
    return DataLoader(dataset, batch_size, shuffle=shuffle, num_workers=n_workers, drop_last=True)


def literal_loss(model, patches, n_negatives=16):
    """InfoNCE in nats, the mean over directions, steps and places.

    Parameters
    ----------
    model : CPCModel
        The network.
    patches : Tensor of shape (batch, rows, cols, channels, height, width)
        Standardised.
    n_negatives : int, dict of (direction, step) -> int, or None, default=16
        Drawn for each pair, with replacement, among all patches of the batch. None: each target
        is told from all patches of the batch.
    """
    drawn = (
        n_negatives if isinstance(n_negatives, dict) else dict.fromkeys(model.heads, n_negatives)
    )
    batch, rows, cols = patches.shape[:3]
    z = model.latent(model.encoder(patches.flatten(0, 2)))
    z = z.view(batch, rows, cols, -1)
    losses = []
    for direction, steps in model.plan.items():
        turned = torch.rot90(z, DIRECTIONS[direction], (1, 2))
        context = model.context_of(direction)(turned)
        for W_k, k in zip(model.W[direction], steps, strict=True):
            target_map = model.targets[direction]
            n = drawn[direction, k]
            losses.append(step_loss(model, turned, context, k, W_k, target_map, n))
    return sum(losses) / len(losses)


def step_loss(model, z, context, k, W_k, target_map, n_negatives):
    """The loss of predicting k rows on."""
    rows, losses = z.shape[1], []
    candidates = score_form(model, target_map(z.flatten(0, 2)))
    for row in range(rows - k):
        prediction = score_form(model, W_k(context[:, row].flatten(0, 1)))
        target = score_form(model, target_map(z[:, row + k].flatten(0, 1)))
        if n_negatives is None:
            logits = prediction @ candidates.T
            place = torch.arange(len(z))[:, None] * z.shape[1:3].numel()
            place = place + (row + k) * z.shape[2] + torch.arange(z.shape[2])
            positive = place.flatten().to(z.device)
        else:
            index = torch.randint(len(candidates), (len(target), n_negatives), device=z.device)
            negatives = candidates[index]  # (batch * cols, negatives, projection)
            every = torch.cat([target[:, None], negatives], 1)
            logits = (every @ prediction[:, :, None])[:, :, 0]
            positive = torch.zeros(len(target), dtype=torch.long, device=z.device)
        losses.append(F.cross_entropy(logits.float() / model.temperature, positive))
    return sum(losses) / len(losses)


def score_form(model, vectors):
    """What the scores are products of."""
    return F.normalize(vectors.float(), dim=-1) if model.similarity == "cosine" else vectors
