"""What the patch augmentation of CPC v2 costs, beside pillow and within a training step.

    python benchmarks/augmentation.py
    python benchmarks/augmentation.py --patch-size 80 --image-size 260 --batch-size 16

The batch is augmented with the setting "cpc-v2" (a) as a share of a training step of a ResNet-18
encoder with CPC's loss in four directions, on the device; (b) against a loop over patches on the
CPU that does the same steps with pillow (scipy for the elastic deformation), each on the
patches that draw it. The loop is timed on `--n-pillow` patches and scaled to the batch; pixels are
handed to it as arrays of 8 bits, which is not timed. Times are medians of `--repeats` after one
that is not counted; on a CPU with one thread they are times of the processor, so that other
programs do not count. One line of JSON is added to a file of results.

Where the batch is some megabytes large, glibc gives the memory of intermediate results back to the
system at every step, and getting it again costs a quarter of the time at 16x16 pixels; with
MALLOC_TRIM_THRESHOLD_=1000000000 and MALLOC_MMAP_THRESHOLD_=1000000000 in the environment it is
kept.
"""

import argparse
import json
import math
import os
import platform
import time
from pathlib import Path

import numpy as np
import PIL
import scipy
import torch
from PIL import Image, ImageDraw, ImageEnhance, ImageOps
from scipy.ndimage import gaussian_filter, map_coordinates

from sklearn_cpc.nn import AUGMENTATIONS, CPCModel, PatchGrid, ResNetEncoder

GREY = (128, 128, 128)


def shifted_affine(image, x_in, y_in):
    """Image.transform about the middle."""
    width, height = image.size
    data = []
    for (a, b, c), side in ((x_in, width), (y_in, height)):
        data += [a, b, c + side / 2 - a * width / 2 - b * height / 2]
    method, resample = Image.Transform.AFFINE, Image.Resampling.BILINEAR
    return image.transform(image.size, method, data, resample=resample, fillcolor=GREY)


def cover(image, rng):
    size = round(rng.uniform(0, 60 / 331) * min(image.size))
    left, top = (int(rng.uniform(0, side)) - size // 2 for side in image.size)
    if size:
        ImageDraw.Draw(image).rectangle((left, top, left + size - 1, top + size - 1), fill=GREY)
    return image


def factor(enhance):
    return lambda image, rng: enhance(image).enhance(rng.uniform(0.1, 1.9))


PRIMITIVES = [
    lambda image, rng: shifted_affine(image, (1, rng.uniform(-0.3, 0.3), 0), (0, 1, 0)),
    lambda image, rng: shifted_affine(image, (1, 0, 0), (rng.uniform(-0.3, 0.3), 1, 0)),
    lambda image, rng: shifted_affine(
        image, (1, 0, rng.uniform(-150, 150) / 331 * image.width), (0, 1, 0)
    ),
    lambda image, rng: shifted_affine(
        image, (1, 0, 0), (0, 1, rng.uniform(-150, 150) / 331 * image.height)
    ),
    lambda image, rng: image.rotate(
        rng.uniform(-30, 30), Image.Resampling.BILINEAR, fillcolor=GREY
    ),
    lambda image, rng: ImageOps.autocontrast(image),
    lambda image, rng: ImageOps.invert(image),
    lambda image, rng: ImageOps.equalize(image),
    lambda image, rng: ImageOps.solarize(image, round(rng.uniform(0, 256))),
    lambda image, rng: ImageOps.posterize(image, round(rng.uniform(4, 8))),
    factor(ImageEnhance.Contrast),
    factor(ImageEnhance.Color),
    factor(ImageEnhance.Brightness),
    factor(ImageEnhance.Sharpness),
    cover,
]


def bend(image, rng, is_bent, is_sheared):
    """Elastic deformation and shear in one sampling of each channel."""
    width, height = image.size
    y, x = np.mgrid[:height, :width].astype(np.float32)
    shear = rng.uniform(-0.2, 0.2, 2) * is_sheared
    x, y = x + shear[0] * (y - height / 2 + 0.5), y + shear[1] * (x - width / 2 + 0.5)
    if is_bent:
        sigma = 4 / 29 * height
        for places, side in ((x, width), (y, height)):
            noise = gaussian_filter(rng.uniform(-1, 1, (height, width)), sigma)
            places += 1.38 / 29 * side * noise / max(noise.std(), 1e-9)
    pixels = np.asarray(image)
    for_channel = [
        map_coordinates(c, [y, x], order=1, mode="nearest") for c in pixels.T.swapaxes(1, 2)
    ]
    return Image.fromarray(np.stack(for_channel, 2))


def turn_hue(image, rng):
    hue, saturation, value = image.convert("HSV").split()
    turn = round(255 * rng.uniform(-0.2, 0.2))
    hue = hue.point([(h + turn) % 256 for h in range(256)])
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


def add_brightness(image, rng):
    added = round(rng.uniform(-32, 32))
    return image.point([min(255, max(0, v + added)) for v in range(256)] * 3)


COLOURS = [
    add_brightness,
    lambda image, rng: ImageEnhance.Color(image).enhance(rng.uniform(0.5, 1.5)),
    turn_hue,
    lambda image, rng: ImageEnhance.Contrast(image).enhance(rng.uniform(0.5, 1.5)),
]


def change_histogram(image, rng):
    table = []
    for _ in range(3):
        rise = np.exp(0.5 * rng.normal(size=4))
        knots = np.concatenate([[0], np.cumsum(rise) / rise.sum()])
        table += np.interp(np.arange(256) / 255, np.linspace(0, 1, 5), 255 * knots).round().tolist()
    return image.point([int(value) for value in table])


def augment_with_pillow(patch, rng, setting):
    """One patch, (height, width, 3) uint8, through the steps of a setting."""
    image = Image.fromarray(patch)
    for kind in rng.permutation(len(PRIMITIVES))[: setting.n_primitives]:
        image = PRIMITIVES[kind](image, rng)
    is_bent, is_sheared = rng.uniform(size=2) < (setting.elastic, setting.shear)
    if is_bent or is_sheared:
        image = bend(image, rng, is_bent, is_sheared)
    if rng.uniform() < setting.histogram:
        image = change_histogram(image, rng)
    if rng.uniform() < setting.colour:
        for kind in rng.permutation(4):
            image = COLOURS[kind](image, rng)
    if rng.uniform() < setting.greyscale:
        image = image.convert("L").convert("RGB")
    if rng.uniform() < setting.channel_drop:
        kept, channels = rng.randint(3), image.split()
        empty = Image.new("L", image.size, 128)
        image = Image.merge("RGB", [channels[i] if i == kept else empty for i in range(3)])
    return np.asarray(image)


def median_seconds(function, repeats, device):
    """Of the processor on a CPU with one thread; else of the clock, the device's queue emptied."""
    is_cuda = device.type == "cuda"
    clock = time.perf_counter if is_cuda or torch.get_num_threads() > 1 else time.process_time
    seconds = []
    for _ in range(repeats + 1):
        if is_cuda:
            torch.cuda.synchronize()
        start = clock()
        function()
        if is_cuda:
            torch.cuda.synchronize()
        seconds.append(clock() - start)
    return float(np.median(seconds[1:]))


def time_step(model, images, generator, repeats, *, setting):
    """Seconds of forward, backward and optimiser step."""
    model.augmentation = AUGMENTATIONS[setting]
    optimizer = torch.optim.Adam(model.parameters(), 4e-4)
    device = images.device
    bf16 = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")

    def step():
        optimizer.zero_grad()
        with bf16:
            loss = model(images, generator).loss
        loss.backward()
        optimizer.step()

    return median_seconds(step, repeats, device)


def environment(device):
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU only",
        "machine": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "pillow": PIL.__version__,
        "scipy": scipy.__version__,
        "numpy": np.__version__,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--patch-size", type=int, default=16)
    parser.add_argument("--setting", choices=AUGMENTATIONS, default="cpc-v2")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--n-pillow", type=int, default=400, help="patches of the pillow loop")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "augmentation.jsonl"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device, cpu = torch.device(options.device), torch.device("cpu")
    setting = AUGMENTATIONS[options.setting]
    size, side = options.patch_size, options.image_size
    grid = PatchGrid(side, side, size, math.ceil(size * 0.45))
    images = torch.rand(options.batch_size, 3, side, side)
    patches = grid.extract(images).flatten(0, 2)
    n = len(patches)

    on_cpu = torch.Generator()
    batched = median_seconds(lambda: setting.patches(patches, on_cpu), options.repeats, cpu)
    rng = np.random.RandomState(0)
    some = (patches[: options.n_pillow] * 255).byte().permute(0, 2, 3, 1).contiguous().numpy()

    def loop():
        for patch in some:
            augment_with_pillow(patch, rng, setting)

    one_by_one = median_seconds(loop, options.repeats, cpu) * n / len(some)

    model = CPCModel(grid, ResNetEncoder(3, grid.patch_size), 3).to(device).train()
    images, generator = images.to(device), torch.Generator(device)
    there = grid.extract(images).flatten(0, 2)
    own = median_seconds(lambda: setting.patches(there, generator), options.repeats, device)
    step = time_step(model, images, generator, options.repeats, setting=options.setting)
    row = {
        "what": "augmentation",
        "setting": options.setting,
        "batch_size": options.batch_size,
        "patch_size": size,
        "n_patches": n,
        "cpu_us_per_patch": round(1e6 * batched / n, 1),
        "pillow_us_per_patch": round(1e6 * one_by_one / n, 1),
        "times_faster": round(one_by_one / batched, 1),
        "n_pillow": len(some),
        "augment_seconds": round(own, 5),
        "step_seconds": round(step, 5),
        "share_of_step": round(own / step, 4),
        "repeats": options.repeats,
        "date": time.strftime("%Y-%m-%d"),
        **environment(device),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(f"{n} patches of {size}x{size}, on {row['device']}, {row['threads']} thread(s)\n")
    print("| | us per patch, CPU | times faster | seconds of a step | share of the step |")
    print("|---|---|---|---|---|")
    print(f"| pillow, one by one | {row['pillow_us_per_patch']} | 1 | | |")
    print(
        f"| batched | {row['cpu_us_per_patch']} | {row['times_faster']:.0f} | "
        f"{own:.4f} of {step:.3f} | {row['share_of_step']:.1%} |"
    )
    print(f"\nAdded to {options.out}")


if __name__ == "__main__":
    main()
