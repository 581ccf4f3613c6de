"""What "auto" makes of the device, the network and the data, and a line that says so."""

import warnings

import torch

from ..training.distributed import from_main
from ..training.memory import free_bytes, held_per_image

__all__ = [
    "SMALLEST_AUTO_BATCH",
    "batch_and_parts",
    "described",
    "given_batch_size",
    "peak_rate",
    "warn_of_slow_bf16",
]

# A batch costs no more per image than a larger one on CPUs; a GPU needs some thousand patches.
SMALLEST_AUTO_BATCH, LARGEST_AUTO_BATCH = 64, 256
# A larger batch makes fewer steps of a pass, which must stay many.
STEPS_PER_PASS = 200
SHARE_OF_FREE_MEMORY = 0.5
# Peak learning rates of encoders of at most so many layers with weights. At the rate of shallow
# ones, deep ones collapse within the first steps of a training of some hundred batches.
PEAK_RATES = {10: 2e-3, 20: 5e-4}
DEEPEST_RATE = 3e-4


def peak_rate(estimator, encoder):
    """The learning rate given, or what "auto" chooses for an encoder of this depth."""
    if not isinstance(estimator.learning_rate, str):
        return float(estimator.learning_rate)  # of float32 it would fall in float32
    n_layers = sum(parameter.ndim > 1 for parameter in encoder.parameters())
    return next((rate for most, rate in PEAK_RATES.items() if n_layers <= most), DEEPEST_RATE)


def given_batch_size(estimator):
    """The number given, or the smallest that "auto" chooses."""
    is_auto = isinstance(estimator.batch_size, str)
    return SMALLEST_AUTO_BATCH if is_auto else estimator.batch_size


def batch_and_parts(estimator, net, n_images, batch_size=None):
    """Images of a batch, and the parts in which the encoder takes them.

    Parameters
    ----------
    estimator : CPCTransformer
        Numbers that it has are left alone.
    net : CPCNet
        Initialised.
    n_images : int
        Of the training.
    batch_size : int or None, default=None
        What "auto" has chosen in an earlier part of the training.

    Returns
    -------
    batch_size, accumulate : int
        With `batch_size="auto"`: 64 on a CPU; on CUDA doubled up to 256 as long as a pass has 200
        batches and half of the free memory holds what the encoder keeps of one. Where not even 64
        fit into that, the encoder takes them in parts.
    """
    if not isinstance(estimator.batch_size, str):
        return estimator.batch_size, estimator.accumulate
    # Several processes need one answer, and have not the same memory.
    return from_main(lambda: _chosen(estimator, net, n_images, batch_size))


def _chosen(estimator, net, n_images, size=None):
    with net.autocast():
        held = held_per_image(net.module_)
    free = free_bytes(net.device)
    fitting = LARGEST_AUTO_BATCH if free is None else SHARE_OF_FREE_MEMORY * free / held
    if size is None:
        size = SMALLEST_AUTO_BATCH
        is_cuda = torch.device(net.device).type == "cuda"
        most = min(LARGEST_AUTO_BATCH, n_images / STEPS_PER_PASS, fitting) if is_cuda else size
        while 2 * size <= most:
            size *= 2
    n_parts = min(size, -(-size // max(1, int(fitting))))
    return size, max(estimator.accumulate, n_parts)


def described(net, feed, settings):
    """What a training was decided to be like, in one line."""
    device = torch.device(net.device)
    where = str(device)
    if device.type == "cuda":
        where += f" ({torch.cuda.get_device_name(device)})"
    else:
        where += f" ({torch.get_num_threads()} threads)"
    parts = "at once" if settings.accumulate == 1 else f"in {settings.accumulate} parts"
    precision = net.precision
    if device.type == "cpu" and precision == "float32" and _has_bf16():
        precision += " (precision='bf16' is faster on this CPU)"
    images = "read batch by batch" if feed.resident is None else "resident on the device"
    return (
        f"device {where}, precision {precision}, batches of {settings.batch_size} of "
        f"{len(feed)} images, encoded {parts}, peak learning rate {net.lr:g}; images {images}"
    )


def warn_of_slow_bf16(precision, device, stacklevel):
    """Say so where products of bfloat16 are asked of a CPU that has to imitate them."""
    if precision != "bf16" or torch.device(device).type != "cpu" or _has_bf16():
        return
    warnings.warn(
        "precision='bf16' on a CPU without instructions for it (AVX512-BF16, AMX) is many times "
        "slower than float32; pass precision='auto' or 'float32', after fit by set_params.",
        RuntimeWarning,
        stacklevel=stacklevel + 1,
    )


def _has_bf16():
    """Whether the CPU has instructions for products of bfloat16."""
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    known = (getattr(torch.cpu, name, None) for name in names)
    return any(is_supported() for is_supported in known if is_supported is not None)
