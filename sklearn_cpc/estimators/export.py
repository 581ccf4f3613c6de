"""Fitted estimators as plain torch modules and as ONNX files."""

import logging
import warnings
from contextlib import contextmanager
from importlib import import_module

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from ..nn import ImageFeatures, name_of
from . import inputs
from .files import written_whole

OPSET = 18
SAME = 1e-4  # of the largest feature; another network is another by far more


def feature_module(estimator, image_size=None):
    """See `CPCTransformer.feature_module`."""
    check_is_fitted(estimator)
    grid = inputs.transform_grid(estimator)
    if image_size is not None:
        height, width = image_size
        if height < grid.patch_size[0] or width < grid.patch_size[1]:
            raise ValueError(
                f"image_size={tuple(image_size)} must be at least the patches of the fit, "
                f"{grid.patch_size}; pass a larger one."
            )
        grid = grid.with_size(height, width)
        trained = inputs.transform_grid(estimator).shape
        if estimator.pooling in ("flatten", "none") and grid.shape != trained:
            raise ValueError(
                f"image_size={tuple(image_size)} gives another number of features than fit with "
                f"pooling={estimator.pooling!r}; leave it out, or pool by 'max'."
            )
    return ImageFeatures(
        estimator.net_.module_,
        grid,
        estimator.pixel_scale_.apply,
        estimator.image_shape_[2],
        estimator.channels_first_,
        estimator.pooling,
        estimator.output,
        estimator.transform_flip,
    ).cpu()


def to_onnx(estimator, path, image_size=None, dtype=None):
    """See `CPCTransformer.to_onnx`."""
    check_is_fitted(estimator)
    _require_onnx()
    module = feature_module(estimator, image_size)
    example = example_images(estimator, module.grid, dtype)
    with written_whole(path) as temporary:
        try:
            _export(module, example, temporary)
            _check_same(module, example, temporary)
        except Exception as error:  # whatever the exporter meets in networks of other people
            raise ValueError(
                f"encoder={_name(estimator.encoder)}, context={_name(estimator.context)}, "
                f"pooling={estimator.pooling!r} cannot be written as ONNX: {_first_line(error)}; "
                "use feature_module() and torch.export, or another encoder."
            ) from error


def _export(module, example, path):
    with _quiet():
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["images"],
            output_names=["features"],
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
            verbose=False,
        )
    program.save(path, external_data=False)


def _check_same(module, example, path):
    """Compare the file with the module on other images and another number of them, if possible."""
    try:
        runtime = import_module("onnxruntime")
    except ImportError:
        return
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, *example.shape[1:], generator=generator)
    images = (images * module.to_unit.__self__.high).to(example.dtype)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (features,) = session.run(None, {"images": images.numpy()})
    expected = module(images).numpy()
    scale = max(1.0, np.abs(expected).max())
    difference = np.abs(features - expected).max() / scale
    if not difference < SAME:
        raise ValueError(f"its features differ by {difference:.2g} from those here")


def example_images(estimator, grid, dtype=None):
    """Two black images in the layout of the training images."""
    dtype = dtype or getattr(estimator, "training_data_", {}).get("dtype", "uint8")
    channels = estimator.image_shape_[2]
    size = (grid.height, grid.width)
    shape = (channels, *size) if estimator.channels_first_ else (*size, channels)
    n_dims = len(getattr(estimator, "training_data_", {}).get("image_shape", shape))
    if n_dims == 1:
        shape = (int(np.prod(shape)),)
    elif n_dims == 2:
        shape = size
    return torch.zeros(2, *shape, dtype=_torch_dtype(dtype))


def _torch_dtype(dtype):
    name = str(dtype).removeprefix("torch.") if isinstance(dtype, torch.dtype) else None
    name = name or np.dtype(dtype).name
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise ValueError(
            f"dtype={name!r} must be one that torch knows; pass dtype='uint8' or 'float32'."
        )
    return found


def _require_onnx():
    for name in ("onnx", "onnxscript"):
        try:
            import_module(name)
        except ImportError as error:
            raise ImportError(
                f"CPCTransformer.to_onnx needs {name}, which is not installed; "
                'run: pip install "sklearn-cpc[export]"'
            ) from error


@contextmanager
def _quiet():
    """The exporter warns of libraries that it could export, too, and of its own inner parts."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _name(value):
    return repr(value) if isinstance(value, str) else name_of(value)


def _first_line(error):
    cause = error.__cause__ or error
    return f"{type(cause).__name__}: {str(cause).strip().splitlines()[0] if str(cause) else ''}"
