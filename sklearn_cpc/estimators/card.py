"""Model cards: what a fitted estimator is, in Markdown."""

import platform
from importlib.metadata import PackageNotFoundError, version

import numpy as np
from sklearn.utils.validation import check_is_fitted

from ..nn import name_of
from .files import written_whole

LIBRARIES = ("sklearn-cpc", "scikit-learn", "torch", "skorch", "numpy")
BARS = "▁▂▃▄▅▆▇█"
ROWS = 20  # of the table of epochs
CURVE = 60  # signs


def model_card(estimator, path=None):
    """See `CPCTransformer.model_card`."""
    check_is_fitted(estimator)
    parts = (_head, _data, _training, _settings, _versions, _use)
    card = "\n\n".join(part(estimator) for part in parts) + "\n"
    if path is not None:
        with written_whole(path) as temporary:
            temporary.write_text(card, encoding="utf-8")
    return card


def _head(estimator):
    encoder = estimator.net_.module_.encoder
    n_weights = sum(p.numel() for p in encoder.parameters())
    grid = estimator.grid_
    rows, cols = grid.shape
    return (
        f"# {type(estimator).__name__}: {estimator._n_features_out} features per image\n\n"
        "Image features learned without labels by Contrastive Predictive Coding.\n\n"
        f"- Encoder: {_text(estimator.encoder)}, {n_weights:,} weights, "
        f"{encoder.n_components} features per patch.\n"
        f"- Patches in training: {rows}x{cols} of {grid.patch_size[0]}x{grid.patch_size[1]} "
        f"pixels, {grid.patch_stride[0]} and {grid.patch_stride[1]} apart.\n"
        f"- Features: {_text(estimator.output)}, pooled by {_text(estimator.pooling)}, named "
        f"{_names(estimator)}; float32."
    )


def _names(estimator):
    names = estimator.get_feature_names_out()
    return f"`{names[0]}` to `{names[-1]}`" if len(names) > 1 else f"`{names[0]}`"


def _data(estimator):
    data = getattr(estimator, "training_data_", {})
    height, width, n_channels = estimator.image_shape_
    scale = estimator.pixel_scale_
    lines = ["## Data", ""]
    if data:
        lines.append(
            f"- {data['n_images']:,} images, {data['dtype']}, handed in with shape "
            f"{tuple(data['image_shape'])} each."
        )
    order = "first" if estimator.channels_first_ else "last"
    lines += [
        f"- Height {height}, width {width}, {n_channels} channel{'s' * (n_channels > 1)}"
        f"{f' ({order})' * (n_channels > 1)}.",
        f"- Pixels from {scale.low:g} to {scale.high:g} are mapped to 0 to 1; there their mean is "
        f"{_numbers(scale.mean)} and their standard deviation {_numbers(scale.std)} per channel.",
    ]
    return "\n".join(lines)


def _numbers(values):
    shown = ", ".join(f"{value:.3g}" for value in values[:12])
    return shown + (", ..." if len(values) > 12 else "")


def _training(estimator):
    history = estimator.history_
    if not history:
        return "## Training\n\nNone: the encoder is as it was started."
    first, last = history[0], history[-1]
    seconds = sum(row["seconds"] for row in history)
    lines = [
        "## Training",
        "",
        f"{len(history)} epochs in {seconds:.0f} s. Loss {first['loss']:.4g} nats in the first and "
        f"{last['loss']:.4g} in the last; lower bound on the mutual information "
        f"{last['mutual_information']:.4g} nats, accuracy of the guesses {last['accuracy']:.3g}.",
        "",
        f"Loss: {curve(estimator.loss_curve_)}",
        "",
        "| epoch | loss | bound | accuracy | learning rate | images/s |",
        "| ----: | ---: | ----: | -------: | ------------: | -------: |",
    ]
    for i in np.unique(np.linspace(0, len(history) - 1, min(ROWS, len(history))).round()):
        row = history[int(i)]
        lines.append(
            f"| {row['epoch']} | {row['loss']:.4f} | {row['mutual_information']:.4f} | "
            f"{row['accuracy']:.4f} | {row['learning_rate']:.3g} | "
            f"{row['images_per_second']:.0f} |"
        )
    return "\n".join(lines)


def curve(values):
    """A line of bars between the least and the greatest value, at most 60 of them."""
    values = np.asarray(values, float)
    values = np.array([part.mean() for part in np.array_split(values, min(CURVE, len(values)))])
    span = np.ptp(values) or 1.0
    heights = ((values - values.min()) / span * (len(BARS) - 1)).round().astype(int)
    return "".join(BARS[i] for i in heights)


def _settings(estimator):
    lines = ["## Settings", "", "| parameter | value |", "| :-- | :-- |"]
    for name, value in sorted(estimator.get_params(deep=False).items()):
        lines.append(f"| `{name}` | {_text(value)} |")
    return "\n".join(lines)


def _text(value):
    named = value if isinstance(value, (str, int, float, list, tuple, type(None))) else None
    text = repr(value) if named is not None or value is None else name_of(value)
    return f"`{' '.join(text.split())}`".replace("|", "\\|")


def _versions(estimator):
    lines = ["## Versions", "", f"- Python {platform.python_version()}"]
    for name in LIBRARIES:
        try:
            lines.append(f"- {name} {version(name)}")
        except PackageNotFoundError:  # not installed, but on the path
            lines.append(f"- {name}, of no known version")
    return "\n".join(lines)


def _use(estimator):
    needs = [
        f", {name}={_text(getattr(estimator, name)).strip('`')}"
        for name in ("encoder", "context")
        if not isinstance(getattr(estimator, name), str)
    ]
    return (
        "## Use\n\n```python\nfrom sklearn_cpc import CPCTransformer\n\n"
        f'cpc = CPCTransformer.load("model.safetensors"{"".join(needs)})\n'
        "features = cpc.transform(images)  # images as described under Data\n```"
    )
