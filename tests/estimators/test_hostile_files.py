"""Model files that are old, broken or meant to do harm: loaded, or refused by a ValueError."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sklearn_cpc import CPCTransformer
from sklearn_cpc.estimators import building, file_checks

from .toys import images, tiny

pytest.importorskip("safetensors")
# Written by version 0.1.0: an average of the weights, a queue, two epochs.
OLD = Path(__file__).parent / "data" / "model-of-0.1.0.safetensors"
FEATURES_OF_OLD = [
    [2.5934269, 1.4679122, 1.2441959, 1.3913512, 2.2857239, 3.2715511, 0.5244966, 1.1924565],
    [2.5401509, 1.5033708, 1.2118092, 1.6305900, 2.5753696, 3.3977556, 0.6598277, 1.1698542],
]


def test_a_file_of_the_first_version_is_loaded():
    X = images(n_channels=1)
    cpc = CPCTransformer.load(OLD)
    np.testing.assert_allclose(cpc.transform(X[:2]), FEATURES_OF_OLD, rtol=1e-4)
    assert cpc.loss_curve_ == [4.850127220153809, 3.4478919506073]
    assert cpc.averaging == 0.9
    assert cpc.checkpoint is None
    # Goes on from its optimiser, its raw weights and its random state, and with a copy of the
    # network for the queue's targets, which that version did not have (3.2998 without).
    assert cpc.partial_fit(X).loss_curve_[-1] == pytest.approx(3.3612396717, rel=1e-3)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Header and tensors of a small saved file, and its bytes."""
    from safetensors import safe_open

    path = tmp_path_factory.mktemp("saved") / "a"
    tiny(averaging=0.9, directions=["down"], n_steps=1).fit(images()).save(path)
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["sklearn_cpc"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return header, tensors, path.read_bytes()


def written(path, header, tensors):
    from safetensors.torch import save_file

    text = header if isinstance(header, str) else json.dumps(header)
    save_file(tensors, path, {"sklearn_cpc": text})
    return path


def changed(parts, path, change):
    header, tensors = json.loads(json.dumps(parts[0])), dict(parts[1])
    change(header, tensors)
    return written(path, header, tensors)


HUGE = 10**9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h, t: h["params"].update(n_components=HUGE), "size mismatch for .*1000000000"),
        (lambda h, t: h["params"].update(latent_dim=HUGE), "size mismatch for"),
        (lambda h, t: h["params"].update(context_dim=10**6), "size mismatch for"),
        (lambda h, t: h["params"].update(context_depth=HUGE), "context_depth=1000000000 with"),
        (
            lambda h, t: h["params"].update(negatives="queue", queue_size=HUGE),
            r"Missing key\(s\): \['queues",
        ),
        (
            lambda h, t: (
                h.update(image_shape=[2**22, 8, 3], n_features_in=2**22 * 24),
                h["params"].update(n_steps=None, patch_size=2),
            ),
            "n_steps=4194301 with",
        ),
        (
            lambda h, t: t.update({"model.latent.weight": t["model.latent.weight"].double()}),
            "size mismatch for latent.weight: torch.float64",
        ),
        (lambda h, t: t.update({"model.more": torch.zeros(2)}), r"Unexpected key\(s\): \['more'\]"),
    ],
)
def test_what_is_not_of_the_settings_is_refused_before_a_network_is_built(
    change, message, parts, tmp_path, monkeypatch
):
    def build_net(*args):
        raise AssertionError("built")

    path = changed(parts, tmp_path / "a", change)
    monkeypatch.setattr(building, "build_net", build_net)
    with pytest.raises(ValueError, match=rf"a does not hold the weights of its set.*: {message}"):
        CPCTransformer.load(path)


def own_encoder(n_channels):
    return torch.nn.Conv2d(n_channels, 4, 2)


def test_with_a_network_of_ones_own_widths_are_checked_first(tmp_path, monkeypatch):
    from safetensors import safe_open

    path = tmp_path / "a"
    tiny(encoder=own_encoder).fit(images()).save(path)
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["sklearn_cpc"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    cpc = CPCTransformer.load(path, encoder=own_encoder)
    assert cpc.transform(images()).shape == (20, 8)
    header["params"]["n_components"] = HUGE
    monkeypatch.setattr(building, "build_net", lambda *args: pytest.fail("built"))
    with pytest.raises(ValueError, match="n_components=1000000000, and no tensor is as wide"):
        CPCTransformer.load(written(path, header, tensors), encoder=own_encoder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h, t: h.update(image_shape=[8, 8, -3]), r"it has image_shape=\[8, 8, -3\]"),
        (lambda h, t: h.update(image_shape=[8.0, 8, 3]), r"it has image_shape=\[8.0, 8, 3\]"),
        (lambda h, t: h.update(n_features_in=7), "it has n_features_in=7 of image_shape"),
        (lambda h, t: h.update(feature_names_in=["a"]), r"it has feature_names_in=\['a'\]"),
        (lambda h, t: h.update(channels_first="no"), "it has channels_first='no'"),
        (lambda h, t: h["pixel_scale"].update(low=300.0), "it has pixel_scale="),
        (lambda h, t: h["pixel_scale"].update(std=[0.0, 1.0, 1.0]), "it has pixel_scale="),
        (lambda h, t: h["pixel_scale"].update(high=float("inf")), "it has the number inf in its"),
        (lambda h, t: h["params"].update(temperature=float("nan")), "it has the number nan in"),
        (lambda h, t: h.update(n_averaged="many"), "it has n_averaged='many'"),
        (lambda h, t: h["history"].append({"epoch": 2}), r"it has a row of history has \['epoch'"),
        (lambda h, t: h["history"][0].update(batches=3), "it has a row of history has"),
        (lambda h, t: h.pop("random_state"), r"is not a file .* wrote: KeyError\('random_state'\)"),
        (lambda h, t: h["params"].update(directions=[[]]), "is not a file .* wrote: TypeError"),
        (lambda h, t: h["params"].update(augment={"zoom": 1}), "is not a file .* wrote: TypeError"),
        (lambda h, t: t.update(more=torch.zeros(2)), r"it has Unexpected key\(s\): \['more'\]"),
        (lambda h, t: t.pop("raw.latent.bias"), r"weights .*Missing key\(s\): \['latent.bias'\]"),
        (
            lambda h, t: t.update({"optimizer.0.exp_avg": torch.zeros(1)}),
            "does not hold the weights of its settings: size mismatch for exp_avg",
        ),
        (
            lambda h, t: t.pop("optimizer.0.step"),
            r"does not hold the weights of its settings: Missing key\(s\): \['step'\]",
        ),
        (
            lambda h, t: t.update({"optimizer.99.step": torch.zeros(())}),
            "does not hold the weights of its settings: optimizer.99 of",
        ),
    ],
)
def test_settings_of_another_kind_are_refused(change, message, parts, tmp_path):
    path = changed(parts, tmp_path / "a", change)
    with pytest.raises(ValueError, match=rf"a .*{message}"):
        CPCTransformer.load(path)


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "3", '"a"', "{", "", '{"format": [1]}'])
def test_json_that_is_no_header_is_refused(text, parts, tmp_path):
    with pytest.raises(ValueError, match=r"a (is not a file that|has format)"):
        CPCTransformer.load(written(tmp_path / "a", text, parts[1]))


@pytest.mark.parametrize("declared", [2**63, 2**40, 10**8, 10**6])
def test_a_declared_length_that_is_not_there_is_refused(declared, parts, tmp_path):
    path = tmp_path / "a"
    path.write_bytes(struct.pack("<Q", declared) + parts[2][8:])
    with pytest.raises(ValueError, match=r"a is not a file that CPCTransformer\.save"):
        CPCTransformer.load(path)


def test_a_file_names_no_callbacks_and_no_folders(parts, tmp_path):
    change = lambda h, t: h["params"].update(callbacks=["os.system"], checkpoint="/etc")  # noqa: E731
    cpc = CPCTransformer.load(changed(parts, tmp_path / "a", change))
    assert cpc.callbacks is None
    assert cpc.checkpoint is None


def test_a_folder_of_checkpoints_is_not_saved(tmp_path):
    cpc = tiny(checkpoint=tmp_path / "run").fit(images())
    cpc.save(tmp_path / "a")
    assert b"run" not in (tmp_path / "a").read_bytes()[:4000]
    assert CPCTransformer.load(tmp_path / "a").checkpoint is None


FUZZ = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def loads_or_refuses(path):
    try:
        cpc = CPCTransformer.load(path)
    except ValueError:
        return
    assert cpc.n_features_in_ == np.prod(cpc.image_shape_)


@FUZZ
@given(data=st.data())
def test_flipped_and_missing_bytes(data, parts, tmp_path):
    content = bytearray(parts[2])
    # Most of it is numbers of the weights; what can go wrong is in the header.
    last = data.draw(st.sampled_from([16, 6000, len(content)]))
    for place in data.draw(st.lists(st.integers(0, last - 1), max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    end = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
    path = tmp_path / "a"
    path.write_bytes(content[:end])
    loads_or_refuses(path)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.sampled_from(["", "cpu", "down", "queue", "resnet18", "\ud800", "../../x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@FUZZ
@given(data=st.data())
def test_any_value_in_the_place_of_any_other(data, parts, tmp_path):
    header = json.loads(json.dumps(parts[0]))
    place, name = header, data.draw(st.sampled_from(sorted(header)))
    while isinstance(place[name], dict) and place[name] and data.draw(st.integers(0, 9)):
        place = place[name]
        name = data.draw(st.sampled_from(sorted(place)))
    place[name] = data.draw(VALUES)
    loads_or_refuses(written(tmp_path / "a", header, parts[1]))


def test_the_moments_of_both_optimisers_are_known():
    for name in building.OPTIMIZERS:
        net = tiny(optimizer=name).fit(images()).net_
        assert all(entry.keys() == file_checks.MOMENTS for entry in net.optimizer_.state.values())


def test_a_model_stays_as_it_was_when_its_file_changes(parts, tmp_path):
    path = tmp_path / "a"
    path.write_bytes(parts[2])
    cpc = CPCTransformer.load(path)
    with open(path, "r+b") as file:  # in its place, as cp does it
        file.write(bytes(len(parts[2])))
    expected = CPCTransformer.load(written(tmp_path / "b", *parts[:2]))
    X = images()
    np.testing.assert_array_equal(
        cpc.partial_fit(X).transform(X), expected.partial_fit(X).transform(X)
    )
