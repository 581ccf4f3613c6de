"""Small JPEG files streamed to batches, beside pillow alone on the same cores.

    OMP_NUM_THREADS=1 python benchmarks/streaming.py --threads 1

Makes files (200,000 of 32x32 pixels, in 200 folders) in a temporary folder and takes, block by
block in turn, so that both meet the same load of the machine: pillow's open and load in as many
threads, in random order as well (the ceiling), and passes of `TrainingBatches` over `ImageFiles`,
which bring into arrays, check, batch and map to floats, too. Files are read once before, so that
all come from the page cache. The claims: at least 80 % of the ceiling, and memory that does not
grow from the first pass to the last. Appends a JSON line.

    OMP_NUM_THREADS=1 python benchmarks/streaming.py --worker-kind thread,process --resize 64

compares kinds of workers instead, pass by pass in turn with pillow alone (which scales, too), and
for `--slow-ms` items of a Dataset that is slow in plain Python, by 1 worker and by `--threads` of
them. What it takes to start them, until the first batch is there, is a number of its own.
"""

import argparse
import json
import os
import platform
import resource
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import Image
from torch.utils.data import Dataset

import sklearn_cpc
from sklearn_cpc.training import ImageFeed, ImageFiles, PixelScale, as_images, workers_ended
from sklearn_cpc.training.decoded import DatasetImages
from sklearn_cpc.training.feed import TrainingBatches


def make_files(folder, n, size, seed=0):
    """Smooth random images with some noise, which compress as photographs do."""
    rng = np.random.RandomState(seed)
    paths = []
    for i in range(n):
        coarse = Image.fromarray(rng.randint(0, 256, (4, 4, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC), dtype=np.int16)
        pixels = pixels + rng.randint(-12, 13, pixels.shape, dtype=np.int16)
        path = folder / f"{i % 200:03}" / f"{i:07}.jpg"
        if i < 200:
            path.parent.mkdir()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=90)
        paths.append(str(path))
    return paths


def decode(paths):
    """What pillow takes, and nothing else."""
    for path in paths:
        with Image.open(path) as image:
            image.load()


def share_out(act, paths, threads):
    """Act in threads, each on a share."""
    if threads == 1:
        return act(paths)
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(act, [paths[i::threads] for i in range(threads)]))


def per_image(images, act, *arguments):
    """Seconds on the clock, and of the processor, for each image."""
    wall, cpu = time.perf_counter(), time.process_time()
    act(*arguments)
    seconds = np.array([time.perf_counter() - wall, time.process_time() - cpu])
    return seconds / len(images)


def memory():
    """Resident now, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def feed_of(paths, threads):
    """The feed, and how long the check of all headers took."""
    start = time.process_time()
    files = ImageFiles(paths, n_workers=threads)
    seconds = time.process_time() - start
    images = as_images(files, channels="last")
    return ImageFeed(images, PixelScale.of(images), "cpu"), seconds


def consume(feed, batch_size, seed):
    for _ in TrainingBatches(feed, batch_size, np.random.RandomState(seed)):
        pass


def measure(paths, options):
    """Medians over blocks of the seconds per image, of both in turn."""
    decode(paths)  # into the page cache, and pillow's plugins into memory
    size = max(1, len(paths) // options.blocks)
    blocks = [paths[start : start + size] for start in range(0, len(paths), size)]
    feeds = [feed_of(block, options.threads) for block in blocks]
    for feed, _ in feeds[:1]:
        consume(feed, options.batch_size, 0)
    ceiling, ours = [], []
    for seed, (block, (feed, _)) in enumerate(zip(blocks, feeds, strict=True)):
        order = np.random.RandomState(seed).permutation(len(block))
        shuffled = [block[row] for row in order]
        ceiling.append(per_image(block, share_out, decode, shuffled, options.threads))
        ours.append(per_image(block, consume, feed, options.batch_size, seed))
    ceiling, ours = np.array(ceiling), np.array(ours)
    return {
        "pillow_images_per_second": round(float(1 / np.median(ceiling[:, 0]))),
        "feed_images_per_second": round(float(1 / np.median(ours[:, 0]))),
        "share": round(float(np.median(ceiling[:, 0] / ours[:, 0])), 3),
        "share_of_processor_time": round(float(ceiling[:, 1].sum() / ours[:, 1].sum()), 3),
        "check_images_per_processor_second": round(len(paths) / sum(s for _, s in feeds)),
    }


def memory_of_passes(paths, options):
    """Resident memory after each pass over all files, in MiB."""
    feed, _ = feed_of(paths, options.threads)
    found = [memory()]
    for seed in range(options.passes):
        consume(feed, options.batch_size, seed)
        found.append(memory())
    return [round(each, 1) for each in found]


class SlowItems(Dataset):
    """Items that each take so many steps of plain Python, which threads cannot share."""

    def __init__(self, n, milliseconds):
        self.n = n
        self.n_steps = 1
        while (seconds := self._seconds()) < 0.02:
            self.n_steps *= 2
        self.n_steps = int(self.n_steps * milliseconds / 1000 / seconds)

    def _seconds(self):
        start = time.thread_time()
        self[0]
        return time.thread_time() - start

    def __len__(self):
        return self.n

    def __getitem__(self, row):
        total = 0
        for step in range(self.n_steps):
            total += step % 3
        return np.full((8, 8, 3), (total + row) % 256, np.uint8)


def scaled(paths, size):
    """What pillow takes to decode and to scale."""
    for path in paths:
        with Image.open(path) as image:
            image.resize((size, size), Image.Resampling.BILINEAR)


def compare_kinds(name, sources, alone, options):
    """Images per second of each kind in turn, and seconds until its first batch."""
    rates, starts = {}, {}
    with workers_ended():
        feeds = {}
        for kind, make in sources.items():
            start = time.perf_counter()
            images = as_images(make(), channels="last")
            feeds[kind] = ImageFeed(images, PixelScale(0.0, 255.0, (0,) * 3, (1,) * 3), "cpu")
            feeds[kind].batch(slice(options.batch_size))
            starts[kind] = round(time.perf_counter() - start, 2)
        for seed in range(options.passes):
            turns = {} if alone is None else {"pillow": alone}
            turns |= {
                kind: lambda feed=feed: consume(feed, options.batch_size, seed)  # noqa: B023
                for kind, feed in feeds.items()
            }
            for kind, act in turns.items():
                rate = 1 / per_image(range(len(next(iter(feeds.values())))), act)[0]
                rates.setdefault(kind, []).append(round(rate, 1))
    medians = {kind: float(np.median(each)) for kind, each in rates.items()}
    print(f"{name}: images/s {medians}, seconds to the first batch {starts}")
    return {"images_per_second": rates, "seconds_to_first_batch": starts}


def kinds_of_workers(folder, options):
    """Files by each kind of workers, and slow items by each kind and number."""
    kinds, n = options.worker_kind.split(","), options.threads
    paths = make_files(folder, options.n_images, options.size)
    decode(paths)
    size = None if options.resize is None else (options.resize, options.resize)
    sources = {k: lambda k=k: ImageFiles(paths, size, n_workers=n, worker_kind=k) for k in kinds}
    act = decode if size is None else lambda paths: scaled(paths, options.resize)
    alone = lambda: share_out(act, paths, n)  # noqa: E731
    found = {"files": compare_kinds("files", sources, alone, options)}
    if options.slow_ms:
        slow = SlowItems(max(64, options.n_images // 4), options.slow_ms)
        sources = {
            f"{k} x {m}": lambda k=k, m=m: DatasetImages(slow, n_workers=m, worker_kind=k)
            for k in kinds
            for m in ((1,) if k == "thread" else sorted({1, n}))
        }
        found["slow_items"] = compare_kinds("slow items", sources, None, options)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--n-images", type=int, default=200_000)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--blocks", type=int, default=20)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--worker-kind", help="thread,process: compare these instead")
    parser.add_argument("--resize", type=int, help="with --worker-kind")
    parser.add_argument("--slow-ms", type=float, default=5.0, help="with --worker-kind")
    default = Path(__file__).parent / "results" / "streaming.jsonl"
    parser.add_argument("--out", type=Path, default=default)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if options.worker_kind is not None:
            row = kinds_of_workers(Path(folder), options)
            return add_row(options, {"what": "kinds of workers", "resize": options.resize, **row})
        paths = make_files(Path(folder), options.n_images, options.size)
        n_bytes = sum(os.path.getsize(path) for path in paths)
        row = measure(paths, options)
        row["memory_after_passes"] = memory_of_passes(paths, options)
    row = {
        "what": "streaming",
        "mean_bytes": round(n_bytes / options.n_images),
        "decoded_mib": round(options.n_images * options.size**2 * 3 / 2**20),
        **row,
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
    add_row(options, row)
    print(
        f"pillow alone {row['pillow_images_per_second']} images/s, the feed "
        f"{row['feed_images_per_second']} ({100 * row['share']:.0f} %; by processor time "
        f"{100 * row['share_of_processor_time']:.0f} %); resident after each pass "
        f"{row['memory_after_passes']} MiB of {row['decoded_mib']} MiB decoded. Added to "
        f"{options.out}"
    )


def add_row(options, row):
    """Append what was found, by what and where."""
    row = {
        "n_images": options.n_images,
        "size": options.size,
        "batch_size": options.batch_size,
        "threads": options.threads,
        **row,
        "date": time.strftime("%Y-%m-%d"),
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "pillow": PIL.__version__,
        "sklearn_cpc": sklearn_cpc.__version__,
        "torch": torch.__version__,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("a") as file:
        file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
