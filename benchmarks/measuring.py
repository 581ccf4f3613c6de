"""Seconds, FLOP and memory of a call, beside others in the same rounds."""

import argparse
import ctypes
import gc
import json
import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

CLOCKS = {"wall": time.perf_counter, "process": time.process_time}


def new_file(text):
    """A path on the command line whose folder there is: so it is told before the work."""
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{path.parent} is no folder; make it first")
    return path


def synchronize(device):
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def product(precision, device, side):
    """A call that multiplies two square matrices, and its FLOP."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = torch.randn(2, side, side, device=device).to(dtype)

    def call():
        torch.mm(a, b)

    return call, 2 * side**3


def count_flop(call):
    """Floating-point operations of a call, from the shapes of its products and convolutions."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def in_rounds(calls, *, device, clock="wall", n_rounds=3, max_seconds=60.0):
    """Seconds of each call in each round.

    All calls take turns, so that what else the machine does falls on all of them. After the warm-up
    there are at least two rounds, and no more than `n_rounds` once `max_seconds` are over.

    Returns
    -------
    seconds : dict of name -> ndarray of shape (n_rounds,)
    """
    now, seconds = CLOCKS[clock], {name: [] for name in calls}
    start = time.perf_counter()
    for call in calls.values():
        call()
    synchronize(device)
    for i in range(n_rounds):
        if i >= 2 and time.perf_counter() - start > max_seconds:
            break
        for name, call in calls.items():
            began = now()
            call()
            synchronize(device)
            seconds[name].append(now() - began)
    return {name: np.array(values) for name, values in seconds.items()}


def peak_bytes(call, device):
    """The most memory that a call takes beyond what is held before; None where it is not known."""
    gc.collect()
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    before = _reset_peak()
    call()
    return None if before is None else max(0, _status("VmHWM") - before)


def _reset_peak():
    """Resident bytes, after what is free was given back; the kernel's record starts from there."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")
    except (OSError, AttributeError):
        return None


def _status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))


def process_peak():
    """The most resident bytes of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)


def known_rows(path, keys, names):
    """Keys that have no row yet in a file of JSON lines, and the rows of the others.

    Parameters
    ----------
    path : Path
        Made where it is not there.
    keys : list of dict
    names : sequence of str
        What a row's key consists of.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    missing, rows = list(keys), []
    for row in map(json.loads, path.read_text().splitlines()):
        if (key := {name: row[name] for name in names}) in missing:
            missing.remove(key)
            rows.append(row)
    return missing, rows
