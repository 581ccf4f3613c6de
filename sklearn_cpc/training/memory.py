"""What a batch needs and a device has; going on in smaller parts where that is not enough."""

import os
import warnings

import torch

__all__ = [
    "OutOfMemory",
    "blocks_that_fit",
    "free_bytes",
    "held_per_image",
    "is_out_of_memory",
    "smaller_parts",
]

# torch before 2.5 has it under cuda alone.
OutOfMemory = getattr(torch, "OutOfMemoryError", torch.cuda.OutOfMemoryError)


def free_bytes(device):
    """Memory that is free on the device; of the CPU, in the machine; None where it is not known."""
    device = torch.device(device)
    if device.type == "cuda":
        # What torch holds without using it is as free as what the device has left.
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def is_out_of_memory(error):
    """Whether a device has run out of memory; cuBLAS and cuDNN say so in errors of their own."""
    return isinstance(error, OutOfMemory) or "ALLOC_FAILED" in str(error)


def held_per_image(model):
    """Bytes that the encoder keeps of one image more for the backward pass.

    What it keeps whatever the batch, such as its weights in the precision of the products, is not
    counted.

    Parameters
    ----------
    model : CPCModel
        Its encoder sees grids of zeros, in the autocast that the caller is in.
    """
    return _held(model, 2) - _held(model, 1)


def _held(model, n_images):
    """Bytes kept of so many images, storages counted once."""
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    held = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    grid, was_training = model.grid, model.training
    shape = (n_images, len(model.pixel_mean), grid.height, grid.width)
    pixels = model.pixel_mean.new_zeros(shape)
    try:
        # Nothing is drawn at random in evaluation; the gradient's needs are the same.
        model.eval()
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
            features = model.encode_patches(grid.extract(pixels))
    finally:
        model.train(was_training)
    return sum(held.values()) + features.nbytes


def smaller_parts(model, n_images, error):
    """Let the encoder go through batches in twice as many parts after an error of memory.

    Raises
    ------
    OutOfMemory
        If they are of one image already.
    """
    if model.accumulate >= n_images:
        raise OutOfMemory(
            f"Out of memory with a batch of {n_images} images, of which the encoder takes one at a "
            "time: what is left are the context networks and the loss; pass a smaller batch_size, "
            f"n_steps or context_dim. The estimator is as it was before this call. ({error!s:.200})"
        )
    model.accumulate = min(2 * model.accumulate, n_images)
    warnings.warn(
        f"Out of memory; training goes on with the encoder taking batches in {model.accumulate} "
        "parts, with the same gradient and a third more time. Set accumulate="
        f"{model.accumulate} to begin with that, or a smaller batch_size.",
        RuntimeWarning,
        stacklevel=2,
    )
    _empty_cache()


def blocks_that_fit(feed, size, embed):
    """Blocks of images through `embed`, halved where the device has no room for them.

    Parameters
    ----------
    feed : ImageFeed
    size : int
        Images of a block to begin with.
    embed : callable
        Images (batch, channels, height, width) -> tensor of as many rows.

    Yields
    ------
    rows : slice
    features : Tensor

    Raises
    ------
    OutOfMemory
        If a single image does not fit.
    """
    start, size = 0, min(size, len(feed))
    while start < len(feed):
        # What failed must not be held by its exception while the rest is tried again.
        failed = False
        try:
            for block in feed.blocks(size, start):
                features = embed(block)
                yield slice(start, start + len(block)), features
                start += len(block)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if size == 1:
                raise OutOfMemory(
                    "Out of memory with a single image; pass a larger transform_stride, smaller "
                    f"images, or device='cpu'. ({error!s:.200})"
                ) from error
            failed = True
        if failed:
            size //= 2
            warnings.warn(
                f"Out of memory; going on with blocks of {size} images.",
                RuntimeWarning,
                stacklevel=2,
            )
            _empty_cache()


def _empty_cache():
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
