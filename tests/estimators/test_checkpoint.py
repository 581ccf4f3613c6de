"""Trainings that are broken off and gone on with, to the last bit."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from skorch.callbacks import Callback, EarlyStopping

from sklearn_cpc import CPCClassifier, CPCTransformer
from sklearn_cpc.estimators import planning, resuming
from sklearn_cpc.training import checkpoint_files

from .killed import CASES, EARLY, EndAt, EndedError, KillAt, X, transformer
from .toys import images, tiny

pytest.importorskip("safetensors")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A folder with the checkpoints of each case."""
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    folder = tmp_path_factory.mktemp("killed")
    command = [sys.executable, "-m", "tests.estimators.killed", folder]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=1200)
    return folder


def assert_same_training(cpc, expected):
    """Weights, optimiser, history and what is drawn next are equal to the bit."""
    ours, theirs = cpc.net_.module_.state_dict(), expected.net_.module_.state_dict()
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name
    ours, theirs = cpc.net_.optimizer_.state_dict(), expected.net_.optimizer_.state_dict()
    assert ours["param_groups"] == theirs["param_groups"]
    assert ours["state"].keys() == theirs["state"].keys()
    for index, entry in ours["state"].items():
        for name, value in entry.items():
            assert torch.equal(value, theirs["state"][index][name]), (index, name)
    assert without_times(cpc.history_) == without_times(expected.history_)
    counts = [row["train_batch_count"] for row in cpc.net_.history]
    assert counts == [row["train_batch_count"] for row in expected.net_.history]
    drawn = [each.partial_fit(X).transform(X) for each in (cpc, expected)]
    np.testing.assert_array_equal(*drawn)


def without_times(history):
    times = ("seconds", "images_per_second")
    return [{k: v for k, v in row.items() if k not in times} for row in history]


@pytest.mark.parametrize("case", CASES)
def test_a_training_that_was_killed_goes_on_as_if_it_had_not_been(case, killed):
    _, event, _ = CASES[case]
    names = sorted(path.name for path in (killed / case).glob("checkpoint-*"))
    assert len(names) <= 3
    assert bool(names) == (case not in ("first batch", "writing the first"))
    assert any((killed / case).glob(".checkpoint-*.part")) == (event in ("open", "replace"))
    resumed = transformer(case, killed / case).fit(X)
    assert_same_training(resumed, transformer(case, None).fit(X))
    left = sorted(path.name for path in (killed / case).iterdir())
    assert len(left) == 3
    assert left[0] == ".lock"


def kept(folder, **settings):
    """A transformer that keeps its training after every batch."""
    own = {"checkpoint": folder, "checkpoint_every": 0, "max_epochs": 2, "device": "cpu"}
    return tiny(**own | settings)


def broken_off(folder, batch=5, **settings):
    """Leaves the checkpoints of a training that came to the given batch."""
    with pytest.raises(EndedError):
        kept(folder, callbacks=[EndAt("begin", batch)], **settings).fit(X)
    return sorted(folder.glob("checkpoint-*.safetensors"))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_checkpoints_change_nothing_and_two_are_kept(tmp_path):
    cpc = kept(tmp_path / "made" / "here").fit(X)
    names = sorted(path.name for path in (tmp_path / "made" / "here").iterdir())
    assert names == [".lock", "checkpoint-00000006.safetensors", "checkpoint-00000007.safetensors"]
    assert_same_training(cpc, kept(None).fit(X))


def test_without_checkpoint_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny().fit(X)
    tiny(max_epochs=0, checkpoint="never").fit(X)
    tiny(checkpoint="never").partial_fit(X)
    assert list(tmp_path.iterdir()) == []


def test_a_training_at_its_end_is_read_and_trains_no_more(tmp_path):
    first = kept(tmp_path, averaging=0.9).fit(X)
    before = contents(tmp_path)
    again = kept(tmp_path, averaging=0.9, callbacks=[EndAt("begin", 0)]).fit(X)
    assert contents(tmp_path) == before
    assert again.history_ == first.history_
    again.set_params(callbacks=None)
    assert_same_training(again, first)


@pytest.mark.parametrize(
    "settings", [EARLY, {"callbacks": [EarlyStopping("loss", patience=2, threshold=1e9)]}]
)
def test_a_training_that_was_ended_early_is_at_its_end(settings, tmp_path):
    first = kept(tmp_path, **settings | {"max_epochs": 9}).fit(X)
    assert first.n_iter_ < 9
    again = kept(tmp_path, **settings | {"max_epochs": 9, "callbacks": [EndAt("begin", 0)]})
    assert again.fit(X).history_ == first.history_


@pytest.mark.parametrize("free", [7, 16])
def test_the_batch_that_auto_has_chosen_stays_however_much_memory_is_free(
    free, tmp_path, monkeypatch
):
    def chosen(estimator, net, n_images, size=None):
        return (size or sizes[0]), 1

    monkeypatch.setattr(planning, "_chosen", chosen)
    sizes = [8]
    broken_off(tmp_path, batch_size="auto")
    sizes = [free]
    one = kept(tmp_path, batch_size="auto").fit(X)
    sizes = [8]
    other = tiny(batch_size="auto", max_epochs=2, device="cpu").fit(X)
    assert_same_training(one.set_params(checkpoint=None), other)


def test_a_dataset_of_random_items_goes_on(tmp_path):
    """Their pixels are no sign of another collection, but their number is."""

    class Flipping(torch.utils.data.Dataset):
        def __init__(self, n):
            self.n = n

        def __len__(self):
            return self.n

        def __getitem__(self, row):
            item = X[row].copy()
            return item[:, ::-1] if torch.rand(()) < 0.5 else item

    with pytest.raises(EndedError):
        kept(tmp_path, callbacks=[EndAt("begin", 5)]).fit(Flipping(len(X)))
    with pytest.raises(ValueError, match="n_samples"):
        kept(tmp_path).fit(Flipping(len(X) - 1))
    assert kept(tmp_path).fit(Flipping(len(X))).n_iter_ == 2


def test_without_a_random_state_a_training_goes_on_as_well(tmp_path):
    broken_off(tmp_path, random_state=None)
    cpc = kept(tmp_path, random_state=None).fit(X)
    other = kept(tmp_path, random_state=None).fit(X)
    np.testing.assert_array_equal(cpc.transform(X), other.transform(X))


def test_a_random_state_instance_is_told_by_its_state(tmp_path):
    broken_off(tmp_path, random_state=np.random.RandomState(3))
    cpc = kept(tmp_path, random_state=np.random.RandomState(3)).fit(X)
    expected = kept(None, random_state=np.random.RandomState(3)).fit(X)
    assert_same_training(cpc, expected)
    with pytest.raises(ValueError, match=r"random_state={'RandomState': "):
        kept(tmp_path, random_state=np.random.RandomState(4)).fit(X)


@pytest.mark.parametrize(
    ("change", "X", "message"),
    [
        ({"batch_size": 4}, X, "batch_size=8, and this one has batch_size=4; set it back"),
        ({"random_state": 1}, X, "random_state=0, and this one has 1"),
        ({"augment": "none"}, X, "augment='full', and this one has 'none'"),
        ({"max_epochs": 5}, X, "max_epochs=2, and this one has 5"),
        ({}, X[:10], "n_samples=20, and this one has 10; .*pixels="),
        ({}, X[:, :7], r"shape=\[8, 8, 3\], and this one has \[7, 8, 3\]"),
        ({}, images(20, seed=1), "mean=.*pixels="),
        ({}, X.astype(np.int16), "dtype='uint8', and this one has 'int16'"),
    ],
)
def test_a_training_of_something_else_is_refused_and_kept(change, X, message, tmp_path):
    broken_off(tmp_path)
    before = contents(tmp_path)
    message = message.replace("batch_size=4;", "4;")
    pattern = f"holds a training with .*{message}.*pass another folder, or delete this one"
    with pytest.raises(ValueError, match=f"checkpoint='.*' {pattern}"):
        kept(tmp_path, **change).fit(X)
    assert contents(tmp_path) == before


def test_what_does_not_change_the_training_may_change(tmp_path):
    broken_off(tmp_path)
    free = {"verbose": 1, "pooling": "mean", "checkpoint_every": 9, "n_jobs": 1}
    cpc = kept(tmp_path, **free).fit(X)
    assert_same_training(cpc.set_params(pooling="max"), kept(None).fit(X))


def test_every_parameter_is_compared_or_free():
    settings = resuming.kept_settings(tiny())
    assert settings.keys() | resuming.FREE == tiny().get_params().keys()
    assert settings.keys() & resuming.FREE == {"device"}


def test_another_image_among_the_others_is_noticed(tmp_path):
    broken_off(tmp_path)
    other = X.copy()
    other[-1] = other[-1, ::-1]  # has the same moments
    with pytest.raises(ValueError, match="holds a training with pixels="):
        kept(tmp_path).fit(other)


def test_an_encoder_of_ones_own_is_told_by_its_weights(tmp_path):
    torch.manual_seed(0)
    mine = torch.nn.Conv2d(3, 4, 2)
    broken_off(tmp_path, encoder=mine)
    assert_same_training(kept(tmp_path, encoder=mine).fit(X), kept(None, encoder=mine).fit(X))
    with pytest.raises(ValueError, match=r"encoder={'own': 'Conv2d', 'weights'"):
        kept(tmp_path, encoder=torch.nn.Conv2d(3, 4, 2)).fit(X)


def test_a_continued_training_goes_on_from_its_own_start_only(tmp_path):
    cpc = kept(None).fit(X).set_params(warm_start=True, checkpoint=tmp_path, max_epochs=1)
    cpc.fit(X)
    with pytest.raises(ValueError, match="another start: it began from"):
        cpc.fit(X)
    with pytest.raises(ValueError, match="another start: it began from"):
        kept(tmp_path, max_epochs=1).fit(X)


# Broken files


def half(data):
    return data[: len(data) // 2]


def flipped(data):
    return data[:-100] + bytes([data[-100] ^ 1]) + data[-99:]


@pytest.mark.parametrize("spoil", [half, flipped, lambda data: b"", lambda data: b"\x80\x04N."])
def test_a_broken_checkpoint_is_set_aside_and_the_one_before_serves(spoil, tmp_path):
    before, newest = broken_off(tmp_path)
    newest.write_bytes(spoiled := spoil(newest.read_bytes()))
    message = f"{newest.name} is broken .*; training goes on from {before.name}, and the broken"
    with pytest.warns(RuntimeWarning, match=message):
        cpc = kept(tmp_path).fit(X)
    assert_same_training(cpc, kept(None).fit(X))
    assert (tmp_path / f"{newest.name}.broken").read_bytes() == spoiled


def test_without_a_whole_checkpoint_nothing_is_trained_and_nothing_changes(tmp_path):
    from safetensors.torch import save_file

    first, second = broken_off(tmp_path)
    first.write_bytes(half(first.read_bytes()))
    save_file({"a": torch.zeros(2)}, second)  # another program's
    before = contents(tmp_path)
    message = (
        r"has no checkpoint that can be read \(checkpoint-00000004.safetensors: not a checkpoint "
        "of sklearn_cpc, or .*; checkpoint-00000003.safetensors: no safetensors file: .*; pass "
        "another folder, or delete these files"
    )
    with pytest.raises(ValueError, match=message):
        kept(tmp_path).fit(X)
    assert contents(tmp_path) == before


def rewrite(path, change):
    state = checkpoint_files._from_file(path)
    change(state)
    path.write_bytes(checkpoint_files._to_bytes(state))


def test_another_versions_checkpoint_is_refused_and_kept(tmp_path, monkeypatch):
    _, newest = broken_off(tmp_path)
    monkeypatch.setattr(checkpoint_files, "FORMAT", "sklearn-cpc checkpoint 9")
    newest.write_bytes(checkpoint_files._to_bytes({}))
    monkeypatch.undo()
    before = contents(tmp_path)
    with pytest.raises(ValueError, match="has format 'sklearn-cpc checkpoint 9'; this version of"):
        kept(tmp_path).fit(X)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.clear(), "KeyError"),
        (lambda s: s["about"]["settings"].update(batch_size=torch.zeros(2)), "RuntimeError"),
        (lambda state: state["model"].popitem(), "other tensors"),
        (lambda state: state["model"].update({"latent.bias": torch.zeros(9)}), "latent.bias is"),
        (lambda state: state["model"].update({"latent.bias": 3}), "AttributeError"),
        (lambda state: state["optimizer"]["state"].update({"99": {}, "x": {}}), "ValueError|KeyE"),
        (lambda state: state["optimizer"]["state"]["0"].pop("exp_avg"), r"state 0 has \['exp_av"),
        (lambda state: state["optimizer"]["groups"][0].update(eps="x"), "optimizer's eps='x'"),
        (lambda state: state["optimizer"]["groups"][0].update(betas=[1, None]), "betas=None"),
        (lambda state: state["batches"].update(n_given=99), "n_given=99 of 3 batches"),
        (lambda state: state["batches"].update(n_batches=2), "2 batches, and here 3"),
        (lambda state: state.update(batch_size=-1), "batch_size=-1"),
        (lambda state: state["batches"].update(generator=torch.zeros(3)), "Error"),
        (lambda state: state["generators"].update(numpy=[1, 2]), "Error"),
        (lambda state: state["callbacks"].update({"EpochRecord 1": {}}), "KeyError"),
        (lambda state: state.update(history=[3]), "AttributeError"),
        (lambda state: state.update(n_before=9), "1 epochs after 9"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_kept(change, message, tmp_path):
    _, newest = broken_off(tmp_path)
    rewrite(newest, change)
    before = contents(tmp_path)
    pattern = f"does not hold the state of this training .*({message}).*; pass another folder"
    with pytest.raises(ValueError, match=pattern):
        kept(tmp_path).fit(X)
    assert contents(tmp_path) == before


@pytest.fixture(scope="module")
def checkpoint_bytes(tmp_path_factory):
    _, newest = broken_off(tmp_path_factory.mktemp("kept"))
    return newest.read_bytes()


@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_any_changed_byte_is_noticed(data, checkpoint_bytes, tmp_path):
    content = bytearray(checkpoint_bytes)
    last = data.draw(st.sampled_from([16, 9000, len(content)]))
    place = data.draw(st.integers(0, last - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    end = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
    path = tmp_path / "checkpoint-00000001.safetensors"
    path.write_bytes(content[:end])
    with pytest.raises(ValueError, match=r"has no checkpoint that can be read|has format"):
        checkpoint_files.CheckpointFolder(tmp_path).read()


def test_a_state_that_cannot_be_kept_is_named():
    with pytest.raises(TypeError, match=r"callbacks/Mine 1=<object .* cannot be kept in a check"):
        checkpoint_files.pack({"callbacks": {"Mine 1": object()}})


def test_packing_keeps_what_it_is_given():
    tied = torch.arange(4.0).view(2, 2)
    state = {"a": [1, None, {"b": tied}], "c/d": {"e": tied.T}, "f": (True, 2.5, "x")}
    other = checkpoint_files.unpack(*checkpoint_files.pack(state))
    assert torch.equal(other["a"][2]["b"], tied)
    assert torch.equal(other["c/d"]["e"], tied.T)
    assert other["a"][:2] == [1, None]
    assert other["f"] == [True, 2.5, "x"]


# Folders and disks


def test_a_folder_that_cannot_be_one(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(
        ValueError, match=r"file' must be a folder that can be written to \(.*; pass"
    ):
        kept(tmp_path / "file").fit(X)
    assert (tmp_path / "file").read_text() == "mine"


def test_two_trainings_do_not_share_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint_files, "LOCK_SECONDS", 0.1)
    with (
        checkpoint_files.CheckpointFolder(tmp_path),
        pytest.raises(ValueError, match="is in use by another training; pass each its own folder"),
    ):
        kept(tmp_path).fit(X)
    assert kept(tmp_path).fit(X).n_iter_ == 2


def test_without_safetensors_it_is_said_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(ImportError, match=r"checkpoint needs safetensors.*pip install"):
        kept(tmp_path).fit(X)


class FullDisk:
    """Takes a few bytes of the files that are opened, and then no more."""

    def __init__(self, path, mode):
        self.file = open(path, mode)  # noqa: SIM115

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.file.close()

    def write(self, data):
        self.file.write(data[:100])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_on_a_full_disk_training_goes_on_and_earlier_checkpoints_stay(tmp_path, monkeypatch):
    broken_off(tmp_path)
    before = contents(tmp_path)
    monkeypatch.setattr(
        checkpoint_files,
        "open",
        lambda path, mode: (FullDisk if mode == "wb" else open)(path, mode),
        raising=False,
    )
    with pytest.warns(
        RuntimeWarning, match="no checkpoint could be written .*No space left"
    ) as seen:
        cpc = kept(tmp_path).fit(X)
    assert len(seen) == 1
    assert contents(tmp_path) == before
    assert_same_training(cpc, kept(None).fit(X))


# Interrupts and errors


class CtrlC(KillAt):
    def _kill_at(self, event):
        if event == self.event and self.n_done == self.batch:
            signal.raise_signal(signal.SIGINT)


@pytest.fixture
def python_handler():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("python_handler")
@pytest.mark.parametrize(("batch", "warm_start"), [(1, False), (6, False), (4, True)])
def test_after_ctrl_c_the_same_estimator_goes_on(batch, warm_start, tmp_path):
    settings = {"averaging": 0.9, "checkpoint_every": 1000, "warm_start": warm_start}
    start = kept(None, **settings).fit(X) if warm_start else kept(None, **settings)
    start.set_params(checkpoint=tmp_path, callbacks=[CtrlC("begin", batch)])
    message = "interrupted in epoch .* by then; fit with the same settings and images goes on from"
    with pytest.warns(RuntimeWarning, match=message):
        start.fit(X)
    assert np.isfinite(start.transform(X)).all()
    start.set_params(callbacks=None).fit(X)
    expected = kept(None, **settings).fit(X)
    assert_same_training(start, expected.fit(X) if warm_start else expected)


def test_after_a_loss_that_is_not_finite_the_last_finite_state_is_there(tmp_path):
    class Spoil(Callback):
        def on_batch_begin(self, net, **kwargs):
            if len(net.history) == 2:
                with torch.no_grad():
                    next(net.module_.parameters()).fill_(float("nan"))

    cpc = kept(tmp_path, callbacks=[Spoil()])
    with pytest.raises(FloatingPointError, match="The loss is nan in epoch 2"):
        cpc.fit(X)
    assert not hasattr(cpc, "net_")
    assert_same_training(cpc.set_params(callbacks=None).fit(X), kept(None).fit(X))


def test_weights_that_are_not_finite_are_not_kept(tmp_path):
    class Spoil(Callback):
        def on_batch_end(self, net, **kwargs):
            if len(net.history) == 2:
                with torch.no_grad():
                    next(net.module_.parameters()).fill_(float("nan"))

    with pytest.raises(FloatingPointError):
        kept(tmp_path, callbacks=[Spoil()]).fit(X)
    newest = sorted(tmp_path.glob("checkpoint-*"))[-1]
    state = checkpoint_files._from_file(newest)
    assert len(state["history"]) == 1
    assert all(w.isfinite().all() for w in state["model"].values())


def test_a_callback_of_ones_own_is_kept_with_its_state(tmp_path):
    counts = []

    class Counts(Callback):
        def on_train_begin(self, net, **kwargs):
            self.n = 0

        def on_batch_end(self, net, **kwargs):
            self.n += 1
            counts.append(self.n)

        def state_dict(self):
            return {"n": self.n}

        def load_state_dict(self, state):
            self.n = state["n"]

    with pytest.raises(EndedError):
        kept(tmp_path, callbacks=[Counts(), EndAt("begin", 5)]).fit(X)
    kept(tmp_path, callbacks=[Counts()]).fit(X)
    assert counts == [1, 2, 3, 4, 5, 6]


# In other estimators


def test_the_pretraining_of_a_classifier_goes_on(tmp_path):
    y = np.arange(20) % 2
    settings = {"fine_tune": False, "random_state": 0}
    broken_off(tmp_path)
    resumed = CPCClassifier(kept(tmp_path), **settings).fit(X, y)
    expected = CPCClassifier(kept(None), **settings).fit(X, y)
    np.testing.assert_array_equal(resumed.predict_proba(X), expected.predict_proba(X))


def test_a_transformer_with_a_folder_is_saved_without_it(tmp_path):
    cpc = kept(tmp_path / "run").fit(X)
    cpc.save(tmp_path / "model")
    other = CPCTransformer.load(tmp_path / "model")
    assert other.checkpoint is None
    np.testing.assert_array_equal(other.transform(X), cpc.transform(X))


def test_a_finished_training_leaves_the_callers_generators_alone(tmp_path):
    kept(tmp_path).fit(X)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    kept(tmp_path).fit(X)
    assert torch.equal(torch.get_rng_state(), before)
