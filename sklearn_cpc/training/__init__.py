"""From images to a trained model."""

from .checkpoint import CheckpointKeeper, trained_weights
from .checkpoint_files import CheckpointFolder, digest
from .decoded import ImageFiles
from .feed import ImageFeed
from .held_out import HeldOut, held_out_bound, split_rows
from .images import Images, PixelScale, as_images
from .lazy import LazyImages, LazyPart
from .logs import CSVLog, ProgressBar, TensorBoardLog
from .net import CPCNet, TrainingSettings, train
from .probe_recorder import ProbeRecorder
from .sources import open_images
from .workers import WorkerError, workers_ended

__all__ = [
    "CPCNet",
    "CSVLog",
    "CheckpointFolder",
    "CheckpointKeeper",
    "HeldOut",
    "ImageFeed",
    "ImageFiles",
    "Images",
    "LazyImages",
    "LazyPart",
    "PixelScale",
    "ProbeRecorder",
    "ProgressBar",
    "TensorBoardLog",
    "TrainingSettings",
    "WorkerError",
    "as_images",
    "digest",
    "held_out_bound",
    "open_images",
    "split_rows",
    "train",
    "trained_weights",
    "workers_ended",
]
