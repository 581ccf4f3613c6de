"""How cost grows: images on disk, images of a batch, candidates of the loss.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --device cuda --loss-batch 1024 --loss-heads 12

Three parts, a line of JSON for each measurement. "images": seconds and memory of a pass of training
and of `transform` on memory-mapped uint8 images, from a thousand to a million, of 8x8 pixels and
with a network of one layer, so that what is seen is the way of the images and not the network.
"batch": memory of a training step, which should be a straight line. "loss": InfoNCE of every pair
against all targets of the batch, in bounded memory and with all logits at once. Memory is what is
taken beyond what was held before; in "images" without the pages of mapped files.
"""

import argparse
import datetime
import json
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch
from cifar10 import environment
from measuring import CLOCKS, in_rounds, peak_bytes
from throughput import build, training_step
from torch import nn
from torch.nn import functional as F

from sklearn_cpc import CPCTransformer
from sklearn_cpc.nn import info_nce


class OneLayer(nn.Module):
    """Patches of 4x4 pixels -> 16 features."""

    def __init__(self, n_channels):
        super().__init__()
        self.linear = nn.Linear(16 * n_channels, 16)

    def forward(self, patches):
        return F.relu(self.linear(patches.flatten(1)))


class AnonymousPeak:
    """The most memory that is no file's, looked at every few milliseconds."""

    def __enter__(self):
        self.before = self.most = self._now()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._is_over.set()
        self._thread.join()

    @property
    def mib(self):
        return (self.most - self.before) / 2**20

    def _watch(self):
        while not self._is_over.wait(0.005):
            self.most = max(self.most, self._now())

    @staticmethod
    def _now():
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def over_images(options, folder):
    """Rows of fits and transforms of ever more images on disk."""
    path, rng = Path(folder) / "images.npy", np.random.RandomState(0)
    most = max(options.images)
    X = np.lib.format.open_memmap(path, "w+", np.uint8, (most, 8, 8, 1))
    for start in range(0, most, 100_000):
        part = X[start : start + 100_000]
        part[:] = rng.randint(0, 256, part.shape, dtype=np.uint8)
    del X, part
    X = np.load(path, mmap_mode="r")
    cpc = CPCTransformer(
        16,
        encoder=OneLayer,
        patch_size=4,
        patch_stride=4,
        latent_dim=8,
        projection_dim=8,
        context_dim=8,
        context_depth=1,
        directions="down",
        augment="none",
        batch_size=1024,
        max_epochs=1,
        device=options.device,
        random_state=0,
    )
    cpc.fit(X[:1000]).transform(X[:1000])  # what is loaded late
    now = CLOCKS[options.clock]
    for n in options.images:
        row = {"what": "images", "n": n}
        for name, call in (("fit", cpc.fit), ("transform", cpc.transform)):
            with AnonymousPeak() as peak:
                start = now()
                result = call(X[:n])
                seconds = now() - start
            row[f"{name}_us_per_image"] = 1e6 * seconds / n
            row[f"{name}_mib"] = peak.mib
        row["features_mib"] = result.nbytes / 2**20
        del result
        yield row


def over_batches(options):
    """Rows of the memory of a step."""
    for batch in options.batches:
        X = np.random.RandomState(0).randint(0, 256, (batch, 32, 32, 3), dtype=np.uint8)
        cpc = build("conv", X, "float32", options.device, batch)
        step = training_step(cpc, X, batch)
        step()
        peak = peak_bytes(step, options.device)
        mib = None if peak is None else peak / 2**20
        yield {"what": "batch", "batch": batch, "mib": mib, "mib_per_image": mib and mib / batch}


def over_loss(options):
    """The row of the loss, bounded and with all logits."""
    n, generator = options.loss_batch, torch.Generator(options.device).manual_seed(0)

    def vectors(n_vectors):
        x = torch.randn(n_vectors, 64, generator=generator, device=options.device)
        return (F.normalize(x, dim=1) * 10**0.5).requires_grad_()

    # Two rows ahead on a grid of 7x7: 5x7 contexts an image, whose targets are the lower rows.
    heads = [(vectors(n * 35), vectors(n * 49)) for _ in range(options.loss_heads)]
    positives = torch.arange(n * 49, device=options.device).view(n, 7, 7)[:, 2:].flatten()

    def bounded():
        losses = [info_nce(*pair, positives)[0] for pair in heads]
        sum(losses).backward()
        clear()

    def unbounded():
        for predictions, targets in heads:
            logits = predictions @ targets.T
            F.cross_entropy(logits, positives).backward()
            (logits.detach().argmax(1) == positives).float().mean()
        clear()

    def clear():
        for pair in heads:
            for x in pair:
                x.grad = None

    row = {"what": "loss", "batch": n, "heads": len(heads), "candidates": n * 49}
    calls = {"bounded": bounded}
    if 4 * 35 * 49 * n * n <= options.most_logits:
        calls["unbounded"] = unbounded
    seconds = in_rounds(calls, device=options.device, clock=options.clock, n_rounds=options.rounds)
    for name, call in calls.items():
        row[f"{name}_seconds"] = float(np.median(seconds[name]))
        peak = peak_bytes(call, options.device)
        row[f"{name}_mib"] = None if peak is None else peak / 2**20
    if "unbounded" in seconds:
        row["times_unbounded"] = float(np.median(seconds["bounded"] / seconds["unbounded"]))
    yield row


def numbers(text):
    return [int(part) for part in text.split(",")]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--parts", default="images,batch,loss")
    parser.add_argument("--images", type=numbers, default=[1_000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--batches", type=numbers, default=[32, 64, 128, 256])
    parser.add_argument("--loss-batch", type=int, default=64)
    parser.add_argument("--loss-heads", type=int, default=1)
    parser.add_argument("--most-logits", type=float, default=4e9, help="bytes of the unbounded")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="see throughput.py")
    parser.add_argument("--out", type=Path, default=Path("scaling.jsonl"))
    options = parser.parse_args(argv)
    names = options.parts.split(",")
    if unknown := sorted(set(names) - {"images", "batch", "loss"}):
        parser.error(f"--parts: {unknown} are unknown; there are images, batch and loss.")
    head = {"what": "run", "threads": torch.get_num_threads(), "clock": options.clock}
    head |= {"date": datetime.date.today().isoformat(), **environment()}
    with options.out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(head) + "\n")
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        parts = {
            "images": lambda: over_images(options, folder),
            "batch": lambda: over_batches(options),
            "loss": lambda: over_loss(options),
        }
        for name in names:
            for row in parts[name]():
                print(json.dumps(row), flush=True)
                with options.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
    print(f"{time.perf_counter() - started:.0f} s in all")


if __name__ == "__main__":
    main()
