"""The bar, the table, TensorBoard, and skorch's own callbacks."""

import csv
import re

import numpy as np
import pytest
from skorch import callbacks as skorch_callbacks

from sklearn_cpc import CSVLog, ProgressBar, TensorBoardLog
from sklearn_cpc.training import logs, net

from ..estimators.killed import EndAt, EndedError
from ..estimators.toys import images, tiny

X = images()  # three batches
X.setflags(write=False)
COLUMNS = [
    "epoch",
    "loss",
    "accuracy",
    "mutual_information",
    "learning_rate",
    "seconds",
    "images_per_second",
]


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_has_a_row_per_epoch(tmp_path):
    cpc = tiny(max_epochs=3, callbacks=[CSVLog(tmp_path / "log.csv")]).fit(X)
    rows = table(tmp_path / "log.csv")
    assert set(rows[0]) == set(COLUMNS)
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [float(row["loss"]) for row in rows] == cpc.loss_curve_
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]


def test_the_table_goes_on_with_the_training_and_begins_anew_with_it(tmp_path):
    cpc = tiny(max_epochs=2, callbacks=[CSVLog(str(tmp_path / "log.csv"))]).fit(X)
    cpc.partial_fit(X)
    assert [row["epoch"] for row in table(tmp_path / "log.csv")] == ["1", "2", "3"]
    cpc.fit(X)
    assert [float(row["loss"]) for row in table(tmp_path / "log.csv")] == cpc.loss_curve_


@pytest.mark.parametrize(
    ("make", "needed"),
    [(CSVLog, "csv"), (ProgressBar, "tqdm"), (TensorBoardLog, "tensorboard")],
)
def test_processes_other_than_number_0_write_nothing(make, needed, tmp_path, monkeypatch, capsys):
    pytest.importorskip(needed)
    monkeypatch.setattr(net, "is_main_process", lambda: False)
    log = make() if make is ProgressBar else make(tmp_path / "log")
    tiny(callbacks=[log]).fit(X)
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("event", "batch"), [("begin", 5), ("epoch", 6)])
def test_a_training_that_goes_on_has_each_epoch_once(event, batch, tmp_path):
    pytest.importorskip("safetensors")
    settings = {"max_epochs": 3, "checkpoint": tmp_path / "kept"}
    log = CSVLog(tmp_path / "log.csv")
    with pytest.raises(EndedError):
        tiny(callbacks=[log, EndAt(event, batch)], **settings).fit(X)
    assert len(table(tmp_path / "log.csv")) == (2 if event == "epoch" else 1)
    cpc = tiny(callbacks=[log], **settings).fit(X)
    rows = table(tmp_path / "log.csv")
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [float(row["loss"]) for row in rows] == cpc.loss_curve_
    assert cpc.loss_curve_ == tiny(max_epochs=3).fit(X).loss_curve_


def test_columns_that_come_later_are_taken_in(tmp_path):
    log = CSVLog(tmp_path / "log.csv")
    cpc = (
        tiny(callbacks=[log], batch_size=4).fit(X).set_params(early_stopping=True, warm_start=True)
    )
    cpc.fit(X)
    bounds = [row["validation_mutual_information"] for row in table(tmp_path / "log.csv")]
    assert bounds[0] == ""
    assert float(bounds[1]) == cpc.history_[1]["validation_mutual_information"]


@pytest.mark.parametrize("content", ["a,b\n1,2\n", "epoch,loss\nx,2\n", "epoch\n\x00\n"])
def test_a_file_of_something_else_is_refused_and_kept(content, tmp_path):
    (tmp_path / "mine.csv").write_text(content)
    cpc = tiny(callbacks=[CSVLog(tmp_path / "mine.csv")])
    with pytest.raises(
        ValueError, match=r"mine.csv' is a file that CSVLog has not written \(.*; p"
    ):
        cpc.fit(X)
    assert (tmp_path / "mine.csv").read_text() == content


def test_a_table_that_cannot_be_written_is_no_end_of_the_training(tmp_path, monkeypatch):
    cpc = tiny(callbacks=[CSVLog(tmp_path / "log.csv")]).fit(X)
    before = (tmp_path / "log.csv").read_bytes()

    def full(*args):
        raise OSError("No space left on device")

    monkeypatch.setattr(logs.os, "replace", full)
    with pytest.warns(RuntimeWarning, match=r"CSVLog could not write .*log.csv \(No space left"):
        cpc.partial_fit(X)
    assert cpc.n_iter_ == 2
    assert (tmp_path / "log.csv").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]


def test_the_bar_counts_batches_and_shows_the_epoch(capsys):
    pytest.importorskip("tqdm")
    cpc = tiny(max_epochs=2, callbacks=[ProgressBar()]).fit(X)
    shown = capsys.readouterr().err
    assert re.search(r"epoch 2/2: 100%.*6/6 .*bound=-?\d\.\d{3}", shown), shown
    assert f"loss={cpc.loss_curve_[-1]:.3f}" in shown
    cpc.partial_fit(X)
    assert re.search(r"epoch 1/1: 100%.*3/3", capsys.readouterr().err)


def test_the_bar_of_a_training_that_goes_on_begins_where_it_was(tmp_path, capsys):
    pytest.importorskip("tqdm")
    pytest.importorskip("safetensors")
    settings = {"max_epochs": 2, "checkpoint": tmp_path, "checkpoint_every": 0}
    with pytest.raises(EndedError):
        tiny(callbacks=[EndAt("begin", 6)], **settings).fit(X)
    bar = ProgressBar()
    seen = []

    class Look(skorch_callbacks.Callback):
        def on_batch_end(self, net, **kwargs):
            seen.append(next(c.bar_.n for _, c in net.callbacks_ if isinstance(c, ProgressBar)))

        def __deepcopy__(self, memo):
            return self

    tiny(callbacks=[bar, Look()], **settings).fit(X)
    assert seen == [6]
    assert "6/6" in capsys.readouterr().err


def test_tensorboard_gets_each_epoch_once(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    cpc = tiny(max_epochs=2, callbacks=[TensorBoardLog(tmp_path)]).fit(X)
    cpc.partial_fit(X)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert set(events.Tags()["scalars"]) == set(COLUMNS) - {"epoch"}
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3]
    np.testing.assert_allclose([e.value for e in events.Scalars("loss")], cpc.loss_curve_, 1e-6)


@pytest.mark.parametrize(
    ("make", "module", "extra"),
    [
        (ProgressBar, "tqdm.auto", "progress"),
        (lambda: TensorBoardLog("never"), "tensorboard", "tensorboard"),
    ],
)
def test_what_is_not_installed_is_named_before_the_training(make, module, extra, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(ImportError, match=rf'which is not installed; run: pip .*\[{extra}\]"'):
        tiny(callbacks=[make()]).fit(X)


def test_skorchs_own_callbacks_work(tmp_path, capsys):
    own = [
        skorch_callbacks.EarlyStopping("loss", patience=2, threshold=1e9),
        skorch_callbacks.PrintLog(keys_ignored=["learning_rate"]),
        skorch_callbacks.Freezer("encoder*"),
        skorch_callbacks.Checkpoint(monitor=None, dirname=tmp_path, f_history=None),
        skorch_callbacks.LRScheduler("ExponentialLR", gamma=0.5, monitor="loss"),
        skorch_callbacks.PassthroughScoring("train_loss", on_train=True),
    ]
    cpc = tiny(max_epochs=9, warmup=None, learning_rate=0.01, callbacks=own).fit(X)
    assert cpc.n_iter_ == 3
    assert [row["learning_rate"] for row in cpc.history_] == [0.01, 0.005, 0.0025]
    assert (tmp_path / "params.pt").exists()
    assert "mutual_information" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (3, r"callbacks\[1\]=3 must be a skorch callback; pass an instance of skorch.callbacks.C"),
        (print, "must be a skorch callback; pass an instance of skorch"),
        (ProgressBar, r"callbacks\[1\]=<class .* must be .*; pass an instance, ProgressBar\(...\)"),
        (("log", CSVLog("a")), "must be a skorch callback; pass the callback without a name"),
    ],
)
def test_what_is_no_callback_is_refused(callback, message):
    cpc = tiny(callbacks=[CSVLog("never"), callback])
    for fit in (cpc.fit, cpc.partial_fit):
        with pytest.raises(TypeError, match=message):
            fit(X)
