"""From images to a trained model."""

from .checkpoint import CheckpointKeeper, trained_weights
from .checkpoint_files import CheckpointFolder, digest
from .feed import ImageFeed
from .held_out import HeldOut, held_out_bound, split_rows
from .images import Images, PixelScale, as_images
from .logs import CSVLog, ProgressBar, TensorBoardLog
from .net import CPCNet, TrainingSettings, train
from .probe_recorder import ProbeRecorder

__all__ = [
    "CPCNet",
    "CSVLog",
    "CheckpointFolder",
    "CheckpointKeeper",
    "HeldOut",
    "ImageFeed",
    "Images",
    "PixelScale",
    "ProbeRecorder",
    "ProgressBar",
    "TensorBoardLog",
    "TrainingSettings",
    "as_images",
    "digest",
    "held_out_bound",
    "split_rows",
    "train",
    "trained_weights",
]
