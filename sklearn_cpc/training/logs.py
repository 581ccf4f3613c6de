"""Callbacks that show or write how far a training is; of several processes, in number 0."""

import csv
import io
import os
import warnings
from contextlib import suppress
from pathlib import Path

from skorch.callbacks import Callback

from ._optional import import_optional

__all__ = ["CSVLog", "ProgressBar", "TensorBoardLog"]


class ProgressBar(Callback):
    """A bar of the training with the time left, in a terminal or a notebook; needs tqdm.

    For `CPCTransformer(callbacks=[ProgressBar()])`. It counts batches and shows the epoch and the
    loss and bound of the last one.

    Examples
    --------
    >>> from sklearn_cpc import CPCTransformer, ProgressBar
    >>> cpc = CPCTransformer(callbacks=[ProgressBar()])
    """

    is_for_main_process = True

    def initialize(self):
        self._tqdm = import_optional("tqdm.auto", "ProgressBar", "progress").tqdm
        return self

    def on_train_begin(self, net, **kwargs):
        self.n_before_ = len(net.history)
        self.bar_ = None

    def on_epoch_begin(self, net, **kwargs):
        self._show(net)

    def on_batch_end(self, net, **kwargs):
        self._show(net)

    def on_epoch_end(self, net, **kwargs):
        row = net.history[-1]
        values = {"loss": f"{row['loss']:.3f}", "bound": f"{row['mutual_information']:.3f}"}
        if "validation_mutual_information" in row:
            values["held_out"] = f"{row['validation_mutual_information']:.3f}"
        self.bar_.set_postfix(values)

    def on_train_end(self, net, **kwargs):
        if self.bar_ is not None:
            self.bar_.close()

    def _show(self, net):
        epoch = len(net.history) - self.n_before_
        # A training that goes on from a checkpoint may begin in the midst of an epoch.
        n_done = (epoch - 1) * len(net.batches_) + len(net.history[-1]["batches"])
        if self.bar_ is None:
            total = net.max_epochs * len(net.batches_)
            self.bar_ = self._tqdm(total=total, initial=n_done, unit="batch")
        self.bar_.set_description(f"epoch {epoch}/{net.max_epochs}", refresh=False)
        self.bar_.update(n_done - self.bar_.n)

    def state_dict(self):
        return {"n_before": self.n_before_}

    def load_state_dict(self, state):
        self.n_before_ = state["n_before"]


class CSVLog(Callback):
    """A table of the epochs as a CSV file, written anew after each: it is whole at any moment.

    For `CPCTransformer(callbacks=[CSVLog("log.csv")])`. Rows of earlier epochs stay, so that
    a training that goes on, by `partial_fit`, `warm_start` or a checkpoint, has each of its epochs
    once; a training from the start begins a new table. A file that cannot be written, as on
    a full disk, is warned of, and the training goes on.

    Parameters
    ----------
    path : str or Path

    Examples
    --------
    >>> from sklearn_cpc import CPCTransformer, CSVLog
    >>> cpc = CPCTransformer(callbacks=[CSVLog("log.csv")])
    """

    is_for_main_process = True

    def __init__(self, path):
        self.path = path

    def initialize(self):
        self._rows_before(1)
        return self

    def on_epoch_end(self, net, **kwargs):
        row = _numbers(net.history[-1])
        rows = [*self._rows_before(row["epoch"]), row]
        names = list(dict.fromkeys(name for each in rows for name in each))
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        self._write(table.getvalue())

    def _write(self, text):
        path = Path(self.path)
        temporary = path.with_name(f".{path.name}.part")
        try:
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, path)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            warnings.warn(
                f"CSVLog could not write {path} ({error}); the training goes on.",
                RuntimeWarning,
                stacklevel=8,
            )

    def _rows_before(self, epoch):
        path = Path(self.path)
        if not path.exists():
            return []
        try:
            with open(path, newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
            return [row for row in rows if int(row["epoch"]) < epoch]
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            raise ValueError(
                f"path={str(path)!r} is a file that CSVLog has not written ({error!r:.200}); pass "
                "another path."
            ) from error


class TensorBoardLog(Callback):
    """The numbers of each epoch as TensorBoard scalars; needs tensorboard.

    For `CPCTransformer(callbacks=[TensorBoardLog("runs/1")])`, and `tensorboard --logdir runs`. As
    with `CSVLog`, epochs that are trained once more take the place of the earlier ones.

    Parameters
    ----------
    folder : str or Path

    Examples
    --------
    >>> from sklearn_cpc import CPCTransformer, TensorBoardLog
    >>> cpc = CPCTransformer(callbacks=[TensorBoardLog("runs/1")])
    """

    is_for_main_process = True

    def __init__(self, folder):
        self.folder = folder

    def initialize(self):
        import_optional("tensorboard", "TensorBoardLog", "tensorboard")
        module = import_optional("torch.utils.tensorboard", "TensorBoardLog", "tensorboard")
        self._make = module.SummaryWriter
        return self

    def on_train_begin(self, net, **kwargs):
        self.writer_ = None

    def on_epoch_end(self, net, **kwargs):
        row = _numbers(net.history[-1])
        epoch = row.pop("epoch")
        if self.writer_ is None:
            self.writer_ = self._make(str(self.folder), purge_step=epoch)
        for name, value in row.items():
            self.writer_.add_scalar(name, value, epoch)
        self.writer_.flush()

    def on_train_end(self, net, **kwargs):
        if self.writer_ is not None:
            self.writer_.close()


def _numbers(row):
    """What an epoch has one number of, without skorch's own notes."""
    return {
        name: value
        for name, value in row.items()
        if isinstance(value, int | float) and name not in ("train_batch_count",)
    }
