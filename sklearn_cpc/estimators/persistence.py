"""Fitted estimators as one safetensors file: weights, and settings as JSON in its header."""

import json
from contextlib import contextmanager
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from skorch.history import History

from ..nn import Augmentation, name_of
from ..training import PixelScale
from ..training.tensor_files import read_tensors
from . import building, file_checks
from .card import model_card
from .files import written_whole
from .runs import keep_net, keep_start

FORMAT = "sklearn-cpc 1"
# Parameters that may be a module or what makes one.
OWN_NETWORKS = ("encoder", "context")
# Parameters that are not read from a file: they call code, or write to folders.
NOT_KEPT = ("callbacks", "checkpoint")
# What settings of a wrong kind may lead to.
FAULTS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)


def save(estimator, path):
    """See `CPCTransformer.save`."""
    safetensors = _safetensors("CPCTransformer.save")
    tensors, optimizer = _tensors(estimator.net_)
    header = {
        "format": FORMAT,
        "params": _plain_params(estimator, estimator._built_from),
        "pixel_scale": asdict(estimator.pixel_scale_),
        "image_shape": estimator.image_shape_,
        "channels_first": estimator.channels_first_,
        "n_features_in": int(estimator.n_features_in_),
        "feature_names_in": getattr(estimator, "feature_names_in_", np.array([])).tolist(),
        "history": building.epochs(estimator.net_.history),
        "optimizer": optimizer,
        "random_state": _plain_state(estimator.net_.random_state),
        "n_averaged": getattr(estimator.net_, "n_averaged_", 0),
        "training_data": getattr(estimator, "training_data_", None),
        "model_card": model_card(estimator),
        "batch_size": estimator.net_.batch_size,  # that of "auto"
    }
    metadata = {"sklearn_cpc": json.dumps(header, default=_plain)}
    with written_whole(path) as temporary:
        # save_file would make it unreadable for others, whatever the umask.
        temporary.write_bytes(safetensors.save(tensors, metadata))


def load(cls, path, device, own):
    """See `CPCTransformer.load`."""
    _safetensors("CPCTransformer.load")
    header, tensors = _read(path)
    # What a module of the user's own does wrong is no fault of the file.
    is_own = any(value is not None for value in own.values())
    kinds = () if is_own else FAULTS
    try:
        return _load(cls, path, device, own, header, tensors)
    except kinds as error:
        if isinstance(error, ValueError):
            raise  # says what is wrong
        raise ValueError(
            f"{path} is not a file that CPCTransformer.save wrote: {error!r:.300}"
        ) from error


def _load(cls, path, device, own, header, tensors):
    building.resolve_device(device)
    params = _known_params(cls, path, header, own)
    try:
        file_checks.check_header(header)
        file_checks.check_names(tensors)
    except FAULTS as error:
        raise ValueError(
            f"{path} is not a file that CPCTransformer.save wrote: it has {error}"
        ) from error
    estimator = cls(**params)
    estimator._validate_params()
    scale = header["pixel_scale"]
    scale = PixelScale(scale["low"], scale["high"], tuple(scale["mean"]), tuple(scale["std"]))
    random_state = np.random.RandomState()
    placed = cls(**params | {"device": device})
    is_own = any(value is not None for value in own.values())
    if estimator.negatives == "queue" and not estimator.greedy:
        tensors = _with_slow_targets(tensors)
    with _weights_of(path):
        file_checks.check_before_building(placed, header, scale, tensors, is_own)
    net = building.build_net(placed, tuple(header["image_shape"]), scale, random_state)
    with _weights_of(path):
        _restore(net, header, tensors)
    net.batch_size = header.get("batch_size", net.batch_size)
    random_state.set_state(tuple(header["random_state"]))
    keep_start(estimator, tuple(header["image_shape"]), header["channels_first"], scale)
    keep_net(estimator, net)
    if header.get("training_data"):  # files of 0.1.0 have none
        estimator.training_data_ = header["training_data"]
    estimator.grid_ = net.module_.grid
    estimator.n_features_in_ = header["n_features_in"]
    if header["feature_names_in"]:
        estimator.feature_names_in_ = np.array(header["feature_names_in"], dtype=object)
    return estimator


def _known_params(cls, path, header, own):
    """Parameters of the estimator; those that touch the machine are not a file's to choose."""
    params = header["params"]
    unknown = sorted(set(params) - set(cls().get_params(deep=False)))
    if unknown:
        raise ValueError(
            f"{path} has parameters {unknown}, which this version of sklearn_cpc does not know; "
            "load it with the version that wrote it, or a newer one."
        )
    if isinstance(params.get("augment"), dict):
        params["augment"] = Augmentation(**_with_tuples(params["augment"]))
    params |= _given_again(path, params, own)
    return _with_tuples(params) | dict.fromkeys(NOT_KEPT)


@contextmanager
def _weights_of(path):
    try:
        yield
    except (ValueError, RuntimeError, KeyError) as error:
        raise ValueError(f"{path} does not hold the weights of its settings: {error}") from error


def _given_again(path, params, own):
    """The user's own networks, of which a file knows the name alone."""
    for name, value in own.items():
        stored = params.get(name)
        if isinstance(stored, dict) and value is None:
            raise ValueError(
                f"{path} was saved with {name}={stored['own']} of your own, whose code is not in "
                f"the file; pass the same as CPCTransformer.load(path, {name}=...)."
            )
        if not isinstance(stored, dict) and value is not None:
            raise ValueError(
                f"{path} was saved with {name}={stored!r}, not with {name}={name_of(value)}; leave "
                f"{name} out."
            )
    return {name: value for name, value in own.items() if value is not None}


def _safetensors(caller):
    try:
        return import_module("safetensors.torch")
    except ImportError as error:
        raise ImportError(
            f"{caller} needs safetensors, which is not installed; "
            'run: pip install "sklearn-cpc[safetensors]"'
        ) from error


def _read(path):
    from safetensors import SafetensorError

    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise FileNotFoundError(f"{path} {what}; pass a file that CPCTransformer.save wrote.")
    try:
        tensors, metadata = read_tensors(path)
        header = json.loads(metadata.get("sklearn_cpc", "{}"))
    except (SafetensorError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a file that CPCTransformer.save wrote: {error}") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        header = header if isinstance(header, dict) else {}
        raise ValueError(
            f"{path} has format {header.get('format')!r}; this version of sklearn_cpc reads "
            f"{FORMAT!r} only."
        )
    return header, tensors


def _plain_params(estimator, built_from):
    plain = {}
    for name, value in (estimator.get_params(deep=False) | built_from).items():
        if isinstance(value, Augmentation):
            value = _plain_augmentation(value)
        if name in OWN_NETWORKS and not isinstance(value, str):
            value = {"own": name_of(value)}
        if isinstance(value, np.random.RandomState) or name == "checkpoint":
            value = None  # its state at this point is kept apart, and a folder is this machine's
        try:
            json.dumps(value, default=_plain)
        except TypeError as error:
            raise TypeError(
                f"{name}={value!r} cannot be written as JSON; set_params({name}=None), or use "
                "joblib.dump."
            ) from error
        plain[name] = value
    return plain


def _plain(value):
    """NumPy's numbers, as searches draw them, as Python's."""
    if isinstance(value, np.generic | np.ndarray) and value.dtype.kind in "biufU":
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def _plain_augmentation(augmentation):
    for name in ("image_transform", "patch_transform"):
        if (transform := getattr(augmentation, name)) is not None:
            raise TypeError(
                f"augment has {name}={transform!r}, which cannot be written as JSON; use "
                f"joblib.dump, or set augment to dataclasses.replace(augment, {name}=None)."
            )
    return asdict(augmentation)


def _with_tuples(params):
    """JSON knows lists only."""
    return {name: tuple(v) if isinstance(v, list) else v for name, v in params.items()}


def _plain_state(random_state):
    kind, keys, position, has_gauss, gauss = random_state.get_state()
    return [kind, keys.tolist(), position, has_gauss, gauss]


def _tensors(net):
    """Weights by their names and the optimiser's tensors by number; its numbers apart."""
    tensors = {f"model.{k}": v for k, v in net.module_.state_dict().items()}
    tensors |= {f"raw.{k}": v for k, v in getattr(net, "raw_weights_", {}).items()}
    state = net.optimizer_.state_dict()
    for index, entry in state["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in entry.items()}
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    return tensors, {"param_groups": state["param_groups"]}


def _with_slow_targets(tensors):
    """Files of 0.1.0 have no slow copy of the network: it is what the network was."""
    if any(name.startswith("model.slow.") for name in tensors):
        return tensors
    copies = {}
    for name, value in tensors.items():
        kind, _, rest = name.partition(".")
        if kind in ("model", "raw") and rest.startswith(("encoder.", "latent.")):
            copies[f"{kind}.slow.{rest}"] = value
    copies["model.slow.has_followed"] = torch.ones((), dtype=torch.bool)
    return tensors | copies


def _restore(net, header, tensors):
    weights = file_checks.of_kind(tensors, "model")
    file_checks.check_like(net.module_.state_dict(), weights)
    net.module_.load_state_dict(weights)
    raw = file_checks.of_kind(tensors, "raw")
    has_raw = bool(header.get("n_averaged"))
    file_checks.check_like(dict(net.module_.named_parameters()) if has_raw else {}, raw)
    if has_raw:
        net.raw_weights_ = raw
        net.n_averaged_ = header["n_averaged"]
    state = file_checks.optimizer_state(net.optimizer_, tensors)
    # Its settings are those of the parameters, which were validated.
    groups = net.optimizer_.state_dict()["param_groups"]
    net.optimizer_.load_state_dict({"state": state, "param_groups": groups})
    net.history_ = History()
    for row in header["history"]:
        net.history_.new_epoch()
        for name, value in row.items():
            net.history_.record(name, value)
