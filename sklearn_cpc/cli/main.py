"""What is typed, and what is told: arguments, messages and exit codes."""

import argparse
import os
import re
import sys
import warnings

from ..estimators.recipes import RECIPES
from . import commands
from .outputs import FEATURE_FILES, UsageError

__all__ = ["main"]

EPILOG = "Exit codes: 0 done, 1 failed (one line on stderr says why), 2 wrong usage."


def main(argv=None):
    """Run a command; give its exit code.

    Parameters
    ----------
    argv : list of str or None, default=None
        Arguments, without the name of the program. None: those of this process.

    Returns
    -------
    code : int
        0 where all was done, 1 where it failed.

    Raises
    ------
    SystemExit
        With code 2 where the arguments are wrong, with code 0 after help.
    """
    parser = _parser()
    options = parser.parse_args(argv)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            commands.COMMANDS[options.command](options)
        return 0
    except UsageError as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        return _failed("interrupted; nothing was written.")
    except BrokenPipeError:
        # Whoever read the table has seen enough; Python would complain once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except commands.InterruptedFitError as error:
        return _failed(str(error))
    except Exception as error:
        if options.traceback:
            raise
        return _failed(str(error) or type(error).__name__)


# Ways out that the package names, as this command has them.
IN_OPTIONS = {
    r"\bbroken_images='skip'": "--skip-broken",
    r"\bmixed_channels='widen'": "--set mixed_channels=widen",
    r"\bresize=(\d+)": r"--resize \1",
}


def _failed(message):
    message = _one_line(message)
    for parameter, option in IN_OPTIONS.items():
        message = re.sub(parameter, option, message)
    print(f"sklearn-cpc: error: {message}", file=sys.stderr)
    return 1


def _show_warning(message, category, filename, lineno, file=None, line=None):
    print(f"sklearn-cpc: warning: {_one_line(message)}", file=sys.stderr)


def _one_line(message):
    return " ".join(str(message).split())


def _parser():
    parser = argparse.ArgumentParser(
        prog="sklearn-cpc",
        description="Image features learned without labels, by Contrastive Predictive Coding.",
        epilog=EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"sklearn-cpc {commands.version()}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_fit(subparsers)
    _add_transform(subparsers)
    _add_curve(subparsers)
    return parser


def _add_command(subparsers, name, summary, description):
    return subparsers.add_parser(name, help=summary, description=description, epilog=EPILOG)


def _add_fit(subparsers):
    parser = _add_command(
        subparsers,
        "fit",
        "learn from a folder of images",
        "Learn from all images below FOLDER, without labels, and write the model. Ctrl-C ends the "
        "training after the batch and writes what was learned by then (exit code 1).",
    )
    parser.add_argument("folder", metavar="FOLDER", help="folder of images, at any depth")
    parser.add_argument("-o", "--output", required=True, metavar="MODEL", help="file to write")
    parser.add_argument(
        "--recipe", choices=sorted(RECIPES), help="settings of a paper; default: those of the class"
    )
    parser.add_argument(
        "--epochs", type=_n_epochs, help="passes over the images; 0: the untrained encoder"
    )
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument(
        "--resume",
        metavar="CHECKPOINT_FOLDER",
        help="keep checkpoints in this folder, and go on from what is there",
    )
    _add_shared(parser)


def _add_transform(subparsers):
    parser = _add_command(
        subparsers,
        "transform",
        "write the features of a folder of images",
        "Write a row of features for each image below FOLDER, in the order of the sorted paths. "
        "Parquet and CSV have the path in the first column; beside FILE.npy, FILE.paths.csv has "
        "the paths. An image that --skip-broken skips has NaN.",
    )
    _add_model_and_folder(parser)
    parser.add_argument(
        "-o", "--output", required=True, metavar="FILE", help="*" + ", *".join(FEATURE_FILES)
    )
    _add_shared(parser)


def _add_curve(subparsers):
    parser = _add_command(
        subparsers,
        "curve",
        "accuracy against the number of labels",
        "Print accuracy against the number of labels, for classifiers on the model's features and "
        "on those of the untrained network; write it as CSV, and as PNG where matplotlib is "
        "installed. The model is taken as it is: if it has learned from these images, test images "
        "are among those that it has seen, without labels.",
    )
    _add_model_and_folder(parser)
    parser.add_argument(
        "--labels",
        metavar="CSV",
        help="file with the columns path (below FOLDER) and label; images that are not in it, or "
        "have no label, are left out. Default: the folders of FOLDER are the classes",
    )
    parser.add_argument("-o", "--output", default="curve.csv", metavar="CSV", help="curve.csv")
    parser.add_argument(
        "--fractions",
        type=float,
        nargs="+",
        metavar="F",
        help="shares of the training labels, or numbers of them above 1",
    )
    parser.add_argument("--cv", type=_positive, default=5, help="splits; default: 5")
    parser.add_argument("--repeats", type=_positive, default=3, help="label subsets; default: 3")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    _add_shared(parser)


def _add_model_and_folder(parser):
    parser.add_argument("model", metavar="MODEL", help="file that fit has written")
    parser.add_argument("folder", metavar="FOLDER", help="folder of images, at any depth")


def _add_shared(parser):
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any parameter of CPCTransformer, such as pooling=quadrants; may be repeated",
    )
    parser.add_argument(
        "--resize", type=_positive, metavar="N", help="scale and crop to NxN pixels"
    )
    parser.add_argument(
        "--skip-broken", action="store_true", help="go on without images that cannot be read"
    )
    parser.add_argument("--workers", type=_positive, metavar="N", help="workers that decode images")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ...; default: cuda where there is one")
    parser.add_argument("--traceback", action="store_true", help="for a report of a fault")


def _positive(text):
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number") from None
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} must be at least 1")
    return number


def _n_epochs(text):
    return 0 if text.strip() == "0" else _positive(text)
