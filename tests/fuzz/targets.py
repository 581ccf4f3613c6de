"""What is fuzzed: each target has inputs to begin with, and refuses or reads any other."""

import io
import json
import random
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from sklearn_cpc import CPCTransformer
from sklearn_cpc.training import checkpoint_files, decoding
from sklearn_cpc.training.checkpoint_files import CheckpointFolder
from sklearn_cpc.training.tensor_files import read_tensors

from ..estimators.killed import EndAt, EndedError
from ..estimators.toys import images, tiny

VALUES = (
    *(None, True, False, 0, 1, -1, 2, 3, 255, 2**31, 2**63, 2**70, 10**9, -(2**40), 0.5, 1e308),
    *(float("nan"), float("inf"), "", "down", "queue", "resnet18", "cpu", "\ud800", "../../x"),
    *([], {}, [[]], [1, 2, 3], {"$tensor": "0"}, {"own": "x"}),
)


class Target:
    """One kind of file; `run` raises what no file should lead to."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
        self.path = self.folder / "file"

    def run(self, content):
        self.path.write_bytes(content)
        with suppress(ValueError):  # refused
            self.read(self.path)


class Model(Target):
    """The bytes of a model file."""

    def seeds(self):
        for settings in ({"averaging": 0.9, "directions": ["down"], "n_steps": 1}, {}):
            tiny(**settings).fit(images()).save(self.path)
            yield self.path.read_bytes()

    def read(self, path):
        CPCTransformer.load(path)


class Settings(Target):
    """The JSON of a file, with the tensors that it was written with."""

    def keep(self, path, name):
        """Begin with this file, whose JSON has this name."""
        self.tensors, metadata = read_tensors(path)
        self.text = metadata[name]

    def seeds(self):
        yield self.text.encode()

    def run(self, content):
        from safetensors.torch import save

        super().run(save(self.tensors, self.metadata(content.decode("utf-8", "replace"))))

    def mutated(self, content, most, seed):
        return mutated_json(content, most, seed)


class ModelSettings(Settings):
    """The JSON of a model file."""

    def __init__(self):
        super().__init__()
        tiny(averaging=0.9, negatives="queue", queue_size=60).fit(images()).save(self.path)
        self.keep(self.path, "sklearn_cpc")

    def metadata(self, text):
        return {"sklearn_cpc": text}

    def read(self, path):
        CPCTransformer.load(path)


class Checkpoint(Target):
    """The bytes of a checkpoint."""

    def __init__(self):
        super().__init__()
        self.path = self.folder / "checkpoint-00000001.safetensors"

    def seeds(self):
        yield broken_off(self.folder / "seed").read_bytes()

    def read(self, path):
        with CheckpointFolder(self.folder) as folder:
            folder.read()


class CheckpointState(Settings):
    """The JSON of a checkpoint whose digest is right, gone on from by a training."""

    def __init__(self):
        super().__init__()
        self.keep(broken_off(self.folder), "state")
        self.path = self.folder / "checkpoint-00000001.safetensors"

    def metadata(self, text):
        digest = checkpoint_files.digest(self.tensors, text)
        return {"format": checkpoint_files.FORMAT, "state": text, "digest": digest}

    def run(self, content):
        for path in self.folder.glob("checkpoint-*"):
            path.unlink()
        super().run(content)

    def read(self, path):
        tiny(max_epochs=2, checkpoint=self.folder, checkpoint_every=0).fit(images())


class ImageHeader(Target):
    """An image file of which the header is looked at."""

    def seeds(self):
        return image_seeds()

    def read(self, path):
        decoding.examine(path)


class ImagePixels(ImageHeader):
    """An image file that is decoded, and scaled."""

    def read(self, path):
        array = decoding.pixels(path)
        assert array.ndim == 3
        assert 0 < array.size <= decoding.LARGEST
        assert array.dtype.isnative
        if array.dtype.kind in "buif":
            decoding.resized(array, (5, 7))


class DeepPNG(ImagePixels):
    """A PNG file of 16 bits in several channels."""

    def seeds(self):
        import imagecodecs

        for n_channels in (2, 3, 4):
            array = np.random.RandomState(0).randint(0, 2**16, (5, 6, n_channels), np.uint16)
            yield imagecodecs.png_encode(array)


TARGETS = {
    "model": Model,
    "model-settings": ModelSettings,
    "checkpoint": Checkpoint,
    "checkpoint-state": CheckpointState,
    "image-header": ImageHeader,
    "image-pixels": ImagePixels,
    "deep-png": DeepPNG,
}


def broken_off(folder):
    """The newest checkpoint of a training that was ended within its second epoch."""
    cpc = tiny(max_epochs=2, checkpoint=folder, checkpoint_every=0)
    try:
        cpc.set_params(callbacks=[EndAt("begin", 6)]).fit(images())
    except EndedError:
        return max(folder.glob("checkpoint-*"))


def image_seeds():
    """Small files of every format and of most kinds of pixels."""
    import tifffile
    from PIL import Image

    rng = np.random.RandomState(0)
    array = rng.randint(0, 256, (5, 6, 4), np.uint8)
    image = Image.fromarray(array)
    exif = Image.Exif()
    exif[decoding.ORIENTATION] = 6
    kinds = {
        "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
        "JPEG": ("L", "RGB", "CMYK"),
        "TIFF": ("1", "L", "RGB", "RGBA", "CMYK", "F", "I;16"),
        "BMP": ("1", "L", "P", "RGB"),
        "GIF": ("L", "P"),
        "WEBP": ("RGB", "RGBA"),
        "PPM": ("L", "RGB"),
        "JPEG2000": ("L", "RGB"),
    }
    for form, modes in kinds.items():
        for mode in modes:
            turned = {"exif": exif} if form in ("PNG", "JPEG") and mode == "RGB" else {}
            deep = Image.fromarray(array[..., 0].astype(np.uint16) * 257)
            yield encoded(deep if mode == "I;16" else image.convert(mode), form, **turned)
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        yield encoded(image.convert("RGB"), "TIFF", compression=compression)
    yield encoded(image.convert("L"), "TIFF", save_all=True, append_images=[image.convert("L")])
    for kind in (np.uint16, np.float64, np.int8, np.complex64):
        pages = rng.randint(0, 100, (3, 5, 6)).astype(kind)
        for settings in ({}, {"tile": (16, 16)}, {"bigtiff": True}, {"compression": "zlib"}):
            file = io.BytesIO()
            tifffile.imwrite(file, pages, photometric="minisblack", **settings)
            yield file.getvalue()
    file = io.BytesIO()
    tifffile.imwrite(file, rng.randint(0, 2**16, (5, 6, 3), np.uint16), photometric="rgb")
    yield file.getvalue()


def encoded(image, form, **settings):
    file = io.BytesIO()
    image.save(file, form, **settings)
    return file.getvalue()


def mutated_json(content, most, seed):
    """JSON of which one value is another: out of a list, of elsewhere in it, or gone."""
    rng = random.Random(seed)
    try:
        root = json.loads(content)
    except (ValueError, RecursionError):
        import atheris

        return atheris.Mutate(content, most)
    for _ in range(rng.choice((1, 1, 2, 4))):
        places = list(_places(root))
        if not places:
            break
        holder, name = rng.choice(places)
        other, other_name = rng.choice(places)
        act = rng.randrange(4)
        if act == 0:
            holder[name] = rng.choice(VALUES)
        elif act == 1:
            holder[name] = json.loads(json.dumps(other[other_name]))
        elif act == 2:
            del holder[name]
        elif isinstance(holder[name], int | float):
            holder[name] = holder[name] * rng.choice((-1, 0.5, 2, 10**6)) + rng.choice((-1, 0, 1))
    return json.dumps(root).encode()[:most]


def _places(value):
    """(dict or list, name or number) of every value within, each depth alike in number."""
    names = value if isinstance(value, dict) else range(len(value))
    for name in names:
        yield value, name
        if isinstance(value[name], dict | list) and len(value[name]) < 100:
            yield from _places(value[name])


torch.set_num_threads(1)
