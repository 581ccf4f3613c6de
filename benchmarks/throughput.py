"""How fast the training step and `transform` are, and how near to what the machine can do.

    python benchmarks/throughput.py
    python benchmarks/throughput.py --encoders resnet18,resnet50 --sides 64 --batches 64 \
        --precision bf16
    python benchmarks/throughput.py --device cuda --precision bf16 --sides 32,64,96,256 \
        --batches 32,64,128,256,512,1024

Every row is measured beside, and in turns with, (a) a large product of two matrices in the same
precision, the machine's ceiling; (b) the same step as it is usually written, `literal_cpc.py`;
(c) the encoder alone, forward and backward on the same patches, without which no step can do; and
for `transform` each patch encoded on its own. Ratios are medians over rounds, within each of
which all take turns. FLOP are counted from the shapes, of the package's own step. "by FLOP" is what
the counts alone make of a ratio: the step's over the encoder's, which no implementation of the same
networks comes below at the same rate, and those of single patches over `transform`'s. A line per
measurement is printed and appended as JSON to `--out`, and a picture is drawn beside it.

The step is that of `CPCNet` with the default parameters: batch from uint8, augmentation, loss,
gradient, clipping, optimiser; with `--augment cpc-v2` both change patches as CPC v2 does. The
literal step draws 16 negatives for each pair. "x plain, equal" is beside one that draws as many as
the default step's pairs have, up to 279, and "step, 16 negatives" is the package's step with the
literal one's. `--clock process` counts the seconds of this process alone, for a machine shared with
others; with one thread only.
"""

import argparse
import datetime
import gc
import json
from pathlib import Path

import numpy as np
import torch
from cifar10 import environment
from measuring import CLOCKS, count_flop, in_rounds, peak_bytes, product
from skorch.callbacks import GradientNormClipping

from sklearn_cpc import CPCTransformer
from sklearn_cpc.estimators.inputs import transform_grid
from sklearn_cpc.nn import ENCODERS, pool
from sklearn_cpc.training import ImageFeed, as_images
from sklearn_cpc.training.feed import TrainingBatches
from sklearn_cpc.training.memory import is_out_of_memory

N_NEGATIVES = 16
COLUMNS = (
    ("encoder", "encoder", "{}"),
    ("side", "px", "{}"),
    ("batch", "batch", "{}"),
    ("precision", "precision", "{}"),
    ("what", "what", "{}"),
    ("images_per_second", "images/s", "{:.1f}"),
    ("gflop_per_second", "GFLOP/s", "{:.1f}"),
    ("share_of_ceiling", "of ceiling", "{:.2f}"),
    ("times_encoder_alone", "x encoder alone", "{:.2f}"),
    ("times_faster_than_plain", "x plain", "{:.2f}"),
    ("times_faster_than_equal", "x plain, equal", "{:.2f}"),
    ("by_flop", "by FLOP", "{:.2f}"),
    ("peak_mib", "peak MiB", "{:.0f}"),
)


def build(encoder, X, precision, device, batch, **settings):
    """An untrained transformer whose net is ready for steps."""
    cpc = CPCTransformer(
        encoder=encoder,
        n_components=1024 if encoder in ("conv", "dictionary") else None,
        max_epochs=0,
        batch_size=batch,
        precision=precision,
        device=device,
        random_state=0,
        **settings,
    ).fit(X)
    cpc.net_.callbacks_ = [("clip", GradientNormClipping(cpc.clip_norm).initialize())]
    return cpc


def endless(batches):
    while True:
        yield from batches


def training_step(cpc, X, batch):
    """A call that trains on the next batch."""
    net = cpc.net_
    feed = ImageFeed(as_images(X), cpc.pixel_scale_, net.device)
    batches = TrainingBatches(feed, batch, np.random.RandomState(0))
    stream = endless(batches)

    def call():
        net.train_step(next(stream))

    return call


def numbers_of_negatives(cpc, X, batch):
    """(direction, step) -> negatives of a pair in the step of this transformer."""
    model = cpc.net_.module_.train()
    feed = ImageFeed(as_images(X[:batch]), cpc.pixel_scale_, cpc.net_.device)
    with torch.no_grad():
        output = model(feed.batch(slice(batch)), torch.Generator(cpc.net_.device))
    return dict(zip(model.heads, (output.n_candidates.long() - 1).tolist(), strict=True))


def literal_step(cpc, X, batch, n_negatives, n_workers, augment):
    """A call that takes the plain step on the next batch."""
    from literal_cpc import literal_loss, loader  # needs Pillow

    net = cpc.net_
    model, optimizer = (
        net.module_,
        torch.optim.AdamW(net.module_.parameters(), lr=net.lr),
    )
    batches = loader(X, model, batch, n_workers, augment)
    stream = endless(batches)

    def call():
        patches = next(stream)
        model.train()
        optimizer.zero_grad()
        with net.autocast():
            loss = literal_loss(model, patches.to(net.device), n_negatives)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), cpc.clip_norm)
        optimizer.step()

    return call


def encoder_alone(cpc, X, batch):
    """A call that runs the encoder forward and backward on the patches of a batch."""
    net = cpc.net_
    model, feed = net.module_, ImageFeed(as_images(X[:batch]), cpc.pixel_scale_, net.device)
    images = model.standardise(feed.batch(slice(batch)))
    patches = model.grid.extract(images).flatten(0, 2).contiguous()

    def call():
        with net.autocast():
            features = model.encoder(patches)
        features.backward(torch.ones_like(features))

    return call


def compiled(cpc, call):
    """A call with the encoder compiled, as by `compile=True`; other calls find it as it was."""
    encoder = cpc.net_.module_.encoder
    encoder.compile()
    own, encoder._compiled_call_impl = encoder._compiled_call_impl, None

    def call_compiled():
        encoder._compiled_call_impl = own
        try:
            call()
        finally:
            encoder._compiled_call_impl = None

    return call_compiled


def each_patch_alone(cpc, X):
    """A call that transforms as `transform` does, but shares nothing between patches."""
    net, grid = cpc.net_, transform_grid(cpc)
    feed = ImageFeed(as_images(X), cpc.pixel_scale_, net.device)

    def call():
        model = net.module_.eval()
        with torch.inference_mode(), net.autocast():
            for block in feed.blocks(max(1, 4096 // grid.n_patches)):
                features = model.encode_patches(grid.extract(block)).float()
                pool(features, cpc.pooling).cpu().numpy()

    return call


def measure(options, encoder, side, batch, precision):
    """Rows of the step, of the step with few negatives, and of `transform`."""
    device = options.device
    rng = np.random.RandomState(0)
    X = rng.randint(0, 256, (2 * batch, side, side, 3), dtype=np.uint8)
    cpc = build(encoder, X, precision, device, batch, augment=options.augment)
    few = build(
        encoder,
        X,
        precision,
        device,
        batch,
        augment=options.augment,
        negatives="mixed",
        n_candidates=N_NEGATIVES + 1,
        same_image_fraction=None,
    )
    n = min(len(X), options.transform_images)
    ceiling, ceiling_flop = product(precision, device, options.product_side)
    plain = {}
    if not options.no_literal:
        how = options.workers, options.augment
        as_many = numbers_of_negatives(cpc, X, batch)
        plain["literal"] = literal_step(few, X, batch, N_NEGATIVES, *how)
        plain["equal"] = literal_step(cpc, X, batch, as_many, *how)
    step, few_step = training_step(cpc, X, batch), training_step(few, X, batch)
    alone = encoder_alone(cpc, X, batch)
    if options.compile:
        step, few_step, alone = compiled(cpc, step), compiled(few, few_step), compiled(cpc, alone)
    training = {"ceiling": ceiling, "step": step, "few": few_step, "alone": alone, **plain}

    def transform():
        cpc.net_.module_.eval()
        cpc.transform(X[:n])

    features = {"ceiling": ceiling, "transform": transform, "plain": each_patch_alone(cpc, X[:n])}
    settings = {"device": device, "clock": options.clock, "n_rounds": options.rounds}
    settings["max_seconds"] = options.seconds
    seconds = in_rounds(training, **settings)
    common = {"encoder": encoder, "side": side, "batch": batch, "precision": precision}
    alone_flop = count_flop(training["alone"])
    for name, key, call in (("step", "step", step), ("step, 16 negatives", "few", few_step)):
        own = row(name, seconds, key, call, batch, ceiling_flop, "literal", device)
        if key == "step" and plain:
            own["times_faster_than_equal"] = float(np.median(seconds["equal"] / seconds["step"]))
        yield common | own | {"by_flop": own["gflop_per_image"] * batch * 1e9 / alone_flop}
    seconds = in_rounds(features, **settings)
    own = row("transform", seconds, "transform", transform, n, ceiling_flop, "plain", device)
    plain_flop = count_flop(features["plain"])
    yield common | own | {"by_flop": plain_flop / (own["gflop_per_image"] * n * 1e9)}


def measured(options, *setting):
    """The rows of `measure`, as many as the memory allows."""
    try:
        yield from measure(options, *setting)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        print(f"out of memory: {setting}", flush=True)
        gc.collect()
        torch.cuda.empty_cache()


def row(name, seconds, key, call, n_images, ceiling_flop, plain, device):
    """What is printed and kept of one measurement."""
    own = seconds[key]
    flop = count_flop(call)
    peak = peak_bytes(call, device)

    def ratio(other):
        return float(np.median(seconds[other] / own)) if other in seconds else None

    alone = ratio("alone")
    return {
        "what": name,
        "images_per_second": n_images / float(np.median(own)),
        "seconds": [float(s) for s in own],
        "gflop_per_image": flop / n_images / 1e9,
        "gflop_per_second": flop / float(np.median(own)) / 1e9,
        "ceiling_gflop_per_second": ceiling_flop / float(np.median(seconds["ceiling"])) / 1e9,
        "share_of_ceiling": flop / ceiling_flop * ratio("ceiling"),
        "times_encoder_alone": None if alone is None else 1 / alone,
        "times_faster_than_plain": ratio(plain),
        "peak_mib": None if peak is None else peak / 2**20,
    }


def as_text(values):
    cells = [
        pattern.format(values[key]) if values.get(key) is not None else "-"
        for key, _, pattern in COLUMNS
    ]
    return "| " + " | ".join(cells) + " |"


def draw(rows, path):
    """Shares of the ceiling, and times the plain way, as bars."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = [
        f"{r['encoder']}, {r['side']} px, {r['batch']}, {r['precision']}, {r['what']}" for r in rows
    ]
    figure, axes = plt.subplots(
        1, 3, figsize=(13, 1.5 + 0.27 * len(rows)), sharey=True, layout="constrained"
    )
    panels = (
        ("share_of_ceiling", "share of a matrix product's FLOP/s", 1),
        ("times_encoder_alone", "times the encoder alone", 1),
        ("times_faster_than_plain", "times as fast as the plain way", 1),
    )
    colours = {"step": "C0", "step, 16 negatives": "C1", "transform": "C2"}
    for axis, (key, label, mark) in zip(axes, panels, strict=True):
        lengths = [row[key] or 0 for row in rows]
        bars = axis.barh(names, lengths, color=[colours[row["what"]] for row in rows])
        labels = [f"{length:.2f}" if length else "" for length in lengths]
        axis.bar_label(bars, labels, padding=2, fontsize=8)
        axis.axvline(mark, color="0.4", linewidth=0.8)
        axis.set_xlabel(label)
        axis.margins(x=0.15)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].invert_yaxis()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    names = "conv,dictionary,resnet18,resnet50"
    parser.add_argument("--encoders", help=f"of {names}; the default on CUDA, the first three here")
    parser.add_argument("--sides", default="32", help="of the images, in pixels")
    parser.add_argument("--batches", default="32")
    parser.add_argument("--precision", default="float32,bf16")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=5, help="at most, for each measurement")
    parser.add_argument("--seconds", type=float, default=20, help="after which no round begins")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--workers", type=int, default=0, help="of the literal step's DataLoader")
    parser.add_argument("--augment", choices=("full", "cpc-v2"), default="full")
    parser.add_argument("--no-literal", action="store_true")
    parser.add_argument("--compile", action="store_true", help="encoders, but of the literal step")
    parser.add_argument("--transform-images", type=int, default=64)
    parser.add_argument("--product-side", type=int, help="of the matrices of the ceiling")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, default=Path("throughput.jsonl"))
    options = parser.parse_args(argv)
    on_gpu = torch.device(options.device).type == "cuda"
    options.encoders = options.encoders or (names if on_gpu else names.rsplit(",", 1)[0])
    for name, known in (("encoders", list(ENCODERS)), ("precision", ["float32", "bf16"])):
        if unknown := sorted(set(getattr(options, name).split(",")) - set(known)):
            parser.error(f"--{name}: {unknown} are unknown; there are {known}.")
    options.product_side = options.product_side or (8192 if on_gpu else 2048)
    return options


def main(argv=None):
    options = parse(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    head = {
        "what": "run",
        "options": {name: str(value) for name, value in vars(options).items()},
        "threads": torch.get_num_threads(),
        "date": datetime.date.today().isoformat(),
        **environment(),
    }
    with options.out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(head) + "\n")
    if torch.device(options.device).type == "cuda":
        # cuDNN's convolutions have it by default; so the ceiling and linear layers have it, too.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
    print("| " + " | ".join(label for _, label, _ in COLUMNS) + " |")
    print("|" + " --- |" * len(COLUMNS), flush=True)
    rows = []
    for encoder in options.encoders.split(","):
        for side in map(int, options.sides.split(",")):
            for batch in map(int, options.batches.split(",")):
                for precision in options.precision.split(","):
                    for values in measured(options, encoder, side, batch, precision):
                        rows.append(values)
                        print(as_text(values), flush=True)
                        with options.out.open("a", encoding="utf-8") as file:
                            file.write(json.dumps(values) + "\n")
    draw(rows, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
