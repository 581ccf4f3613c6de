"""Pickle, joblib, copies and the project's own files."""

import copy
import json
import pickle
from dataclasses import fields

import joblib
import numpy as np
import pytest
import torch
from skorch.callbacks import Callback
from skorch.exceptions import DeviceWarning

from sklearn_cpc import CPCTransformer
from sklearn_cpc.nn import Augmentation

from .toys import images, tiny

pytest.importorskip("safetensors")
X = images()
X.setflags(write=False)


def by_pickle(cpc, folder):
    return pickle.loads(pickle.dumps(cpc))


def by_joblib(cpc, folder):
    joblib.dump(cpc, folder / "cpc.joblib", compress=1)
    return joblib.load(folder / "cpc.joblib")


def by_copy(cpc, folder):
    return copy.deepcopy(cpc)


def by_file(cpc, folder):
    cpc.save(folder / "cpc.safetensors")
    return CPCTransformer.load(folder / "cpc.safetensors")


WAYS = [by_pickle, by_joblib, by_copy, by_file]
SETTINGS = [
    {},
    {"max_epochs": 0},
    {"optimizer": "adam", "random_state": np.int64(3), "patch_size": np.int64(4)},
    {"augment": "cpc-v2", "transform_flip": True},
    {"augment": Augmentation(flip=0.0), "directions": ["down"], "pooling": "quadrants"},
    {"learning_rate": np.float32(1e-3), "patch_size": (np.int64(4), np.int32(4))},
    {"betas": [np.float32(0.8), np.float64(0.9)], "transform_flip": np.True_},
    {"projection_dim": 3, "latent_dim": None, "n_candidates": None, "n_steps": None},
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("settings", SETTINGS)
def test_a_round_trip_gives_equal_outputs_and_goes_on_identically(way, settings, tmp_path):
    cpc = tiny(**settings).fit(X)
    other = way(cpc, tmp_path)
    np.testing.assert_array_equal(other.transform(X), cpc.transform(X))
    np.testing.assert_array_equal(other.embed_patches(X), cpc.embed_patches(X))
    assert other.score(X) == cpc.score(X)
    assert other.history_ == cpc.history_
    for each in (cpc, other):
        each.partial_fit(X).partial_fit(X[::-1])
    np.testing.assert_array_equal(other.transform(X), cpc.transform(X))
    assert other.loss_curve_ == cpc.loss_curve_


@pytest.mark.parametrize("way", WAYS)
def test_a_round_trip_keeps_attributes_and_parameters(way, tmp_path):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X.reshape(20, -1)).add_prefix("p")
    cpc = tiny(image_shape=(8, 8, 3), max_epochs=2, patch_size=(2, 4), warm_start=True).fit(frame)
    other = way(cpc, tmp_path)
    assert other.get_params() == cpc.get_params()
    assert vars(other).keys() == vars(cpc).keys()
    assert list(other.feature_names_in_) == list(frame.columns)
    for name in ("image_shape_", "grid_", "pixel_scale_", "channels_first_", "n_features_in_"):
        assert getattr(other, name) == getattr(cpc, name), name
    assert other.n_iter_ == 2
    assert other.fit(frame).loss_curve_ == cpc.fit(frame).loss_curve_
    assert other.n_iter_ == 4


@pytest.mark.parametrize("way", WAYS)
def test_a_round_trip_of_images_with_channels_first(way, tmp_path):
    first = X.transpose(0, 3, 1, 2)
    other = way(tiny().fit(first), tmp_path)
    np.testing.assert_array_equal(other.transform(first), tiny().fit(first).transform(first))
    assert not hasattr(other, "feature_names_in_")


def test_an_unfitted_estimator_pickles():
    assert pickle.loads(pickle.dumps(tiny())).get_params() == tiny().get_params()


def test_a_copy_does_not_share_the_net():
    cpc = tiny().fit(X)
    expected = cpc.transform(X)
    other = copy.deepcopy(cpc)
    with torch.no_grad():
        for parameter in other.net_.module_.parameters():
            parameter.zero_()
    np.testing.assert_array_equal(cpc.transform(X), expected)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_pickle_that_asks_for_cuda_loads_without_it():
    cpc = tiny().fit(X)
    expected = cpc.transform(X)
    cpc.net_.device = "cuda"
    stored = pickle.dumps(cpc)
    with pytest.warns(DeviceWarning):
        other = pickle.loads(stored)
    assert torch.device(other.net_.device).type == "cpu"
    np.testing.assert_array_equal(other.transform(X), expected)


def test_a_random_state_instance_goes_on_from_where_it_was(tmp_path):
    cpc = tiny(random_state=np.random.RandomState(7)).fit(X)
    other = by_file(cpc, tmp_path)
    assert other.random_state is None
    np.testing.assert_array_equal(
        other.partial_fit(X).transform(X), cpc.partial_fit(X).transform(X)
    )


def test_the_device_of_loading_does_not_replace_the_parameter(tmp_path):
    tiny(device="cpu").fit(X).save(tmp_path / "a")
    other = CPCTransformer.load(tmp_path / "a", device="cpu")
    assert other.device == "cpu"
    assert torch.device(other.net_.device).type == "cpu"


def test_load_refuses_a_device_that_is_none(tmp_path):
    tiny().fit(X).save(tmp_path / "a")
    with pytest.raises(ValueError, match="device='gpu' is unknown"):
        CPCTransformer.load(tmp_path / "a", device="gpu")


def test_save_takes_strings_and_overwrites(tmp_path):
    path = tmp_path / "a.safetensors"
    tiny().fit(X).save(str(path))
    second = tiny(random_state=1).fit(X)
    second.save(str(path))
    other = CPCTransformer.load(str(path))
    np.testing.assert_array_equal(other.transform(X), second.transform(X))
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_saved_file_has_the_permissions_of_any_other(tmp_path):
    tiny().fit(X).save(tmp_path / "a")
    (tmp_path / "b").write_text("")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


@pytest.mark.parametrize("where", ["safetensors.torch.save", "os.replace"])
def test_a_failing_write_leaves_the_earlier_file_and_nothing_else(where, tmp_path, monkeypatch):
    cpc = tiny().fit(X)
    cpc.save(tmp_path / "a")
    before = (tmp_path / "a").read_bytes()

    def full(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(where, full)
    with pytest.raises(OSError, match="No space left"):
        cpc.partial_fit(X).save(tmp_path / "a")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == before


def test_save_refuses_callbacks_and_leaves_the_earlier_file(tmp_path):
    cpc = tiny().fit(X)
    cpc.save(tmp_path / "a")
    before = (tmp_path / "a").read_bytes()
    cpc.set_params(callbacks=[Callback()])
    message = r"callbacks=\[.*\] cannot be written as JSON; set_params\(callbacks=None\), or"
    with pytest.raises(TypeError, match=message):
        cpc.save(tmp_path / "a")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == before


def blurred(x, generator):
    return x


@pytest.mark.parametrize("name", ["image_transform", "patch_transform"])
def test_save_refuses_an_own_transform_that_pickle_keeps(name, tmp_path):
    cpc = tiny(augment=Augmentation(**{name: blurred})).fit(X)
    message = rf"augment has {name}=<function blurred .*>, which cannot be .*{name}=None\)\."
    with pytest.raises(TypeError, match=message):
        cpc.save(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []
    assert getattr(by_joblib(cpc, tmp_path).augment, name) is blurred


def test_every_field_of_an_augmentation_is_kept(tmp_path):
    fractions = {f.name: 0.25 for f in fields(Augmentation) if f.type is float}
    augment = Augmentation(**fractions, primitives=("Rotate", "Invert"), n_primitives=1)
    tiny(augment=augment).fit(X).save(tmp_path / "a")
    assert CPCTransformer.load(tmp_path / "a").augment == augment


def test_an_augmentation_of_an_earlier_version_is_loaded(tmp_path):
    """Its file names the first eight fields only."""
    names = [
        "shift",
        "flip",
        "jitter",
        "brightness",
        "contrast",
        "channel",
        "greyscale",
        "channel_drop",
    ]
    augment = Augmentation(flip=0.0)
    old = {name: getattr(augment, name) for name in names}
    path = rewritten(tmp_path, lambda h, t: h["params"].update(augment=old))
    assert CPCTransformer.load(path).augment == augment


def test_save_without_safetensors_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "safetensors.torch", None)
    with pytest.raises(ImportError, match=r"CPCTransformer.save needs safetensors.*pip install"):
        tiny().fit(X).save(tmp_path / "a")
    with pytest.raises(ImportError, match=r"CPCTransformer.load needs safetensors.*pip install"):
        CPCTransformer.load(tmp_path / "a")


def rewritten(tmp_path, change):
    """A saved file whose header or tensors were changed."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    path = tmp_path / "a.safetensors"
    tiny().fit(X).save(path)
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["sklearn_cpc"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(header, tensors)
    save_file(tensors, path, {"sklearn_cpc": json.dumps(header)})
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h, t: h.update(format="sklearn-cpc 9"), "has format 'sklearn-cpc 9'; .* reads"),
        (lambda h, t: h.pop("format"), "has format None; this version"),
        (lambda h, t: h["params"].update(colour=3), r"has parameters \['colour'\], which this v"),
        (lambda h, t: h["params"].update(n_components=9), "does not hold the weights of its set"),
        (lambda h, t: t.pop("model.latent.weight"), "does not hold the weights .*latent.weight"),
        (
            lambda h, t: t.update({"model.latent.bias": torch.zeros(5)}),
            "does not hold the weights of its settings: .*size mismatch for latent.bias",
        ),
    ],
)
def test_load_refuses_other_files_of_the_kind(change, message, tmp_path):
    path = rewritten(tmp_path, change)
    with pytest.raises(ValueError, match=rf"(?s)a\.safetensors {message}"):
        CPCTransformer.load(path)


def test_load_validates_parameters(tmp_path):
    path = rewritten(tmp_path, lambda h, t: h["params"].update(temperature=-1.0))
    with pytest.raises(ValueError, match="'temperature' parameter"):
        CPCTransformer.load(path)


@pytest.mark.parametrize("share", [0, 4, 200, -8])
def test_load_refuses_a_truncated_file(share, tmp_path):
    path = tmp_path / "a.safetensors"
    tiny().fit(X).save(path)
    path.write_bytes(path.read_bytes()[:share])
    with pytest.raises(ValueError, match=r"a\.safetensors is not a file that CPCTransformer.save"):
        CPCTransformer.load(path)


@pytest.mark.parametrize("content", [b"a plain text of more than eight bytes\n", b"\x80\x04N."])
def test_load_refuses_what_is_no_such_file(content, tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.safetensors is not a file that CPCTransformer.save"):
        CPCTransformer.load(path)


def test_load_refuses_another_programs_tensors(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(2)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"a\.safetensors has format None"):
        CPCTransformer.load(tmp_path / "a.safetensors")


def test_load_of_nothing(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing does not exist; pass a file that"):
        CPCTransformer.load(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match=f"{tmp_path.name} is a folder; pass a file that"):
        CPCTransformer.load(tmp_path)


def test_save_to_what_is_no_place_for_a_file(tmp_path):
    cpc = tiny(max_epochs=0).fit(X)
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*none; make it first"):
        cpc.save(tmp_path / "none" / "model")
    with pytest.raises(IsADirectoryError, match=f"{tmp_path.name} is a folder; pass the name of a"):
        cpc.save(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("way", WAYS)
def test_the_optimizer_still_steps_the_weights_of_the_module(way, tmp_path):
    net = way(tiny().fit(X), tmp_path).net_
    stepped = [id(p) for group in net.optimizer_.param_groups for p in group["params"]]
    assert sorted(stepped) == sorted(id(p) for p in net.module_.parameters())


def test_an_empty_list_of_callbacks_is_saved_as_none(tmp_path):
    tiny(callbacks=[]).fit(images()).save(tmp_path / "model")
    assert CPCTransformer.load(tmp_path / "model").callbacks is None


@pytest.mark.parametrize("way", WAYS)
def test_a_shape_of_an_array_is_kept_as_numbers(way, tmp_path):
    cpc = tiny(image_shape=np.array([8, 8, 3])).fit(X.reshape(20, -1))
    assert [type(n) for n in cpc.image_shape_] == [int] * 3
    other = way(cpc, tmp_path)
    np.testing.assert_array_equal(other.transform(X), cpc.transform(X))
    other.partial_fit(X.reshape(20, -1))
