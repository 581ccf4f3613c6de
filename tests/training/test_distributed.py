"""Several processes train what one would: two of them, started by torchrun, on the CPU."""

import csv
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from sklearn_cpc.estimators import building
from sklearn_cpc.estimators.building import resolve_device
from sklearn_cpc.estimators.collections import read_shared
from sklearn_cpc.training import distributed
from sklearn_cpc.training import in_step as in_step_module
from sklearn_cpc.training.distributed import World, alone, join, smallest_part
from sklearn_cpc.training.in_step import FailedElsewhereError, agreed, in_step

from . import processes
from .kept_processes import HELD_OUT, KEPT, ROOM, gone_on
from .processes import CASES, fitted, fitted_weights, pixels, refusal, result

pytestmark = pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()),
    reason="needs torch.distributed with Gloo",
)
ROOT = Path(__file__).parents[2]
# Sums in another order, through six steps of the optimiser.
ATOL = {"gradient": 2e-6, "weights": 3e-4, "buffers": 0, "loss": 2e-5, "bound": 1e-4}
ATOL |= {"held_out": 1e-4, "features": 5e-5, "score": 2e-5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What two processes wrote."""
    return run(tmp_path_factory.mktemp("processes"))


def run(folder, *device):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*command, "-m", processes.__name__, str(folder), *device],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture
def told(folder):
    """What was said in each process."""
    return [json.loads((folder / f"told-{rank}.json").read_text()) for rank in (0, 1)]


@pytest.fixture
def others(folder):
    """Weights of further fits in each process."""
    return [dict(np.load(folder / f"others-{rank}.npz")) for rank in (0, 1)]


@pytest.mark.parametrize("case", CASES)
def test_two_processes_end_as_one_does(case, folder):
    one = result(CASES[case])
    first, second = (dict(np.load(folder / f"{case}-{rank}.npz")) for rank in (0, 1))
    assert one["gradient"].size > 1000
    for name, expected in one.items():
        np.testing.assert_allclose(first[name], expected, rtol=0, atol=ATOL[name], err_msg=name)
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def test_a_single_process_goes_on_where_two_were(folder):
    with open(folder / "fitted-1.pickle", "rb") as file:
        two = pickle.load(file)
    one, X = fitted({})
    for cpc in (one, two):
        cpc.partial_fit(X)
    np.testing.assert_allclose(two.transform(X), one.transform(X), atol=5e-5)
    np.testing.assert_allclose(two.loss_curve_, one.loss_curve_, atol=2e-5)
    assert two.n_iter_ == 3


@pytest.mark.parametrize("name", ["interrupted", "first", "second", "elastic", "queue"])
def test_all_processes_end_alike_where_they_are_unlike_one(name, others):
    np.testing.assert_array_equal(others[0][name], others[1][name])
    assert np.isfinite(others[0][name]).all()


def test_dropout_draws_in_every_process_and_the_weights_stay_equal(others):
    np.testing.assert_array_equal(others[0]["dropped_out"], others[1]["dropped_out"])


def test_without_a_seed_one_fit_differs_from_the_next(others):
    assert (others[0]["first"] != others[0]["second"]).any()


def test_ctrl_c_in_one_process_ends_the_training_of_all(told, others):
    for each in told:
        assert each["interrupted"] == [
            "Training was interrupted in epoch 1; the estimator is fitted with what it had "
            "learned by then."
        ]
    assert (others[0]["interrupted"] != fitted_weights()).any()


def test_a_loss_that_is_no_number_in_one_process_ends_the_training_of_all(told):
    assert told[1]["spoiled"].startswith("FloatingPointError: The loss is nan in epoch 1, batch 1")
    assert told[0]["spoiled"].startswith(
        "FloatingPointError: The loss is not finite in another process, in epoch 1, batch 1"
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("unequal", "ValueError: process 1 has images=21 and process 0 22; all processes must be"),
        ("few", "ValueError: a batch of 1 images cannot be shared by 2 processes, each of which"),
        ("lonely", "ValueError: batch_size=2 with n_samples=22 makes a batch of one image, and"),
    ],
)
def test_what_cannot_be_shared_is_refused_by_all(name, message, told):
    for each in told:
        assert each[name].startswith(message)


def test_process_0_prints_and_the_others_are_silent(told):
    assert told[0]["printed"].count("\n") == 2
    assert told[1]["printed"] == ""
    assert [each["main"] for each in told] == [True, False]


def test_worker_processes_and_what_is_alone_do_not_take_part(told, folder):
    assert [each["in workers"] for each in told] == [2, 2]
    assert [each["in a worker process"] for each in told] == [1, 1]
    assert [each["alone"] for each in told] == [1, 1]
    one = result(CASES["groups"] | {"batch_size": 7})
    np.testing.assert_array_equal(np.load(folder / "alone-1.npz")["weights"], one["weights"])


def test_features_are_shared_out_and_brought_together(folder):
    cpc, X = fitted({})
    for rank in (0, 1):
        gathered = np.load(folder / f"gathered-{rank}.npy")
        np.testing.assert_allclose(gathered, cpc.transform(X), atol=5e-5)
    parts = read_shared(folder / "shards")
    assert [len(part) for part in parts] == [5, 5, 5, 5, 2]
    np.testing.assert_allclose(np.concatenate(parts), cpc.transform(X), atol=5e-5)


@pytest.fixture
def kept(folder):
    """What was said about checkpoints and memory in each process."""
    return [json.loads((folder / f"kept-{rank}.json").read_text()) for rank in (0, 1)]


def assert_close(found, expected):
    for name in expected.keys() - {"gradient"}:
        np.testing.assert_allclose(
            found[name], expected[name], rtol=0, atol=ATOL[name], err_msg=name
        )


@pytest.mark.parametrize("before", ["two", "one"])
def test_two_processes_go_on_from_a_checkpoint_as_one_that_was_never_broken_off(before, folder):
    first, second = (dict(np.load(folder / f"from {before}-{rank}.npz")) for rank in (0, 1))
    assert_close(first, result(KEPT))
    for name, expected in first.items():
        np.testing.assert_array_equal(second[name], expected, err_msg=name)
    once_more = [np.load(folder / f"once more-{rank}.npz")[before] for rank in (0, 1)]
    for weights in once_more:  # the end was read
        np.testing.assert_array_equal(weights, first["weights"])


def test_one_process_goes_on_from_a_checkpoint_of_two(folder):
    trained = len(list((folder / "two").glob("*.safetensors")))
    assert trained == 2
    assert_close(gone_on(folder / "two"), result(KEPT))


def test_one_process_goes_on_where_two_were_interrupted(folder, kept):
    assert_close(result({"checkpoint": folder / "interrupted"}), result({}))
    for rank, each in enumerate(kept):
        assert each["interrupted"] == [
            "Training was interrupted in epoch 1; the estimator is fitted with what it had "
            "learned by then; fit with the same settings and images goes on from the last "
            f"checkpoint in {str(folder / f'disk-{rank}' / 'interrupted')!r}."
        ]


def test_process_0_alone_reads_and_writes(folder, kept):
    assert kept[0]["disk"] == ["file", "interrupted", "none", "one", "two"]
    assert kept[1]["disk"] == []
    assert (folder / "log-0.csv").read_text().count("\n") == 3
    assert not (folder / "log-1.csv").exists()


def test_the_log_has_the_losses_of_all_images(folder):
    with open(folder / "log-0.csv", newline="") as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    np.testing.assert_allclose(losses, result({"batch_size": 64})["loss"], atol=ATOL["loss"])


def test_process_0_alone_looks_at_held_out_images(kept):
    assert kept[0]["held out"] == kept[1]["held out"]
    np.testing.assert_allclose(
        kept[0]["held out"], result(HELD_OUT)["held_out"], rtol=0, atol=ATOL["held_out"]
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "other",
            "ValueError: checkpoint='{disk}/two' holds a training with learning_rate=",
        ),
        ("file", "ValueError: checkpoint='{disk}/file' must be a folder that can be written to"),
        ("unkept", "callbacks/Unkept 1/is=<object object at "),
    ],
)
def test_what_process_0_refuses_is_refused_by_all(name, message, folder, kept):
    for each in kept:
        assert each[name].startswith(message.format(disk=folder / "disk-0"))


def test_a_folder_for_process_0_alone_is_refused_by_all(kept):
    for each, given in zip(kept, ("'", "None here"), strict=True):
        assert each["some"].startswith(f"ValueError: checkpoint={given}")
        assert "not alike in all processes: a folder, or None, must be given" in each["some"]


def test_an_error_of_an_unusual_kind_is_told_as_a_runtime_error(kept):
    assert [each["failed"] for each in kept] == [
        "KeyError('unknown')",
        "RuntimeError(\"'unknown'\")",
    ]


def test_layers_draw_apart_where_a_training_is_gone_on_with(kept):
    assert kept[0]["drawn"] != kept[1]["drawn"]


def test_the_batch_that_auto_gives_is_that_of_process_0(kept):
    assert [each["auto"] for each in kept] == [64, 64]


@pytest.mark.parametrize("name", ROOM)
def test_memory_that_is_too_small_in_one_process_makes_smaller_parts_in_all(name, folder, kept):
    first, second = (np.load(folder / f"rooms-{rank}.npz")[name] for rank in (0, 1))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first, result(ROOM[name])["weights"], rtol=0, atol=ATOL["weights"])
    for each in kept:
        parts = [message.split("batches in ")[1][:7] for message in each["rooms"][name]]
        assert parts == ["2 parts", "4 parts"]


@pytest.fixture
def failing(folder):
    """What each process said about errors in one."""
    return [json.loads((folder / f"failing-{rank}.json").read_text()) for rank in (0, 1)]


ELSEWHERE = "FailedElsewhereError: Process {} of 2 has failed, and the others end with it: "
MISSING = "BrokenImageError: 1 of 1 images cannot be read. The first: none.png is no file; check"
ANOTHERS = "ValueError: path="
OTHER_PIXELS = "ValueError: X has images of 1x1 pixels, smaller than the patches of the fit"


@pytest.mark.parametrize("gather", [False, True])
@pytest.mark.parametrize("event", ["train", "batch", "last", "epoch", "end"])
def test_an_error_in_one_process_ends_all_and_is_told(event, gather, failing):
    error = f"ArithmeticError: lost in {event}"
    assert failing[1][f"{event} {gather}"] == error
    assert failing[0][f"{event} {gather}"] == ELSEWHERE.format(1) + error


@pytest.mark.parametrize(
    ("name", "failed", "message"),
    [
        ("header", 1, MISSING),
        ("number 0", 0, MISSING),
        ("data", 1, "BrokenImageError: dataset["),
        ("log", 0, ANOTHERS),
        ("memory", 1, OTHER_PIXELS),
        ("shards", 1, OTHER_PIXELS),
    ],
)
def test_an_error_in_the_images_of_one_process_ends_all(name, failed, message, failing):
    assert failing[failed][name].startswith(message)
    assert failing[1 - failed][name].startswith(ELSEWHERE.format(failed) + message)


def test_an_error_of_all_processes_is_each_ones_own(failing):
    for each in failing:
        assert each["both"].startswith(MISSING)


def test_a_second_ctrl_c_in_one_process_ends_the_others_with_an_error(failing):
    assert failing[1]["interrupt"] == "fitted ['Training was interrupted']"
    assert failing[0]["interrupt"] == ELSEWHERE.format(1) + "KeyboardInterrupt"


def test_processes_are_in_step_after_errors(folder):
    for rank in (0, 1):
        np.testing.assert_allclose(
            np.load(folder / f"after failing-{rank}.npy"), fitted_weights(), atol=ATOL["weights"]
        )


class Line:
    """What process 0 of two sends; `act` does what else happens meanwhile."""

    def __init__(self):
        self.votes, self.said, self.act = [], [], lambda votes: None

    def all_reduce(self, votes, operation):
        assert operation == torch.distributed.ReduceOp.MAX
        self.votes.append(votes.tolist())
        self.act(votes)

    def broadcast_object_list(self, said, source):
        if source == 0:
            self.said += said
        else:
            said[0] = "lost there"


@pytest.fixture
def line(monkeypatch):
    line = Line()
    monkeypatch.setattr(in_step_module, "join", lambda: World(0, 2))
    monkeypatch.setattr(torch.distributed, "get_backend_config", lambda: "cpu:gloo")
    for name in ("all_reduce", "broadcast_object_list"):
        monkeypatch.setattr(torch.distributed, name, getattr(line, name))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield line
    handler = signal.signal(signal.SIGINT, before)
    assert handler is signal.default_int_handler


def test_a_process_that_does_not_answer_is_told_of(line):
    def lost(votes):
        raise RuntimeError("Connection closed by peer")

    line.act = lost
    message = r"Another process does not answer, it has died or cannot be reached \(Connection cl"
    with pytest.raises(FailedElsewhereError, match=message), in_step():
        pass
    assert line.votes == [[0, 0]]  # and is not asked again, which may take half an hour
    with pytest.raises(ZeroDivisionError), in_step():  # what was wrong here is what is said
        _ = 1 / 0


def test_ctrl_c_waits_until_what_is_sent_is_sent(line):
    sent = []
    line.act = lambda votes: signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), agreed():
        sent.append("all")
    assert sent == ["all"]


def test_ctrl_c_while_another_fails_is_what_the_other_says(line):
    def fails(votes):
        signal.raise_signal(signal.SIGINT)
        votes[0] = 2

    line.act = fails
    message = r"Process 1 of 2 has failed, .*: lost there$"
    either = FailedElsewhereError, KeyboardInterrupt  # which would end the tests
    with pytest.raises(either, match=message), in_step():
        pass
    assert line.votes == [[0, 0]]


def test_a_ctrl_c_that_ends_a_process_is_told_once(line):
    with pytest.raises(KeyboardInterrupt), in_step(), in_step():  # one within another
        raise KeyboardInterrupt
    assert line.votes == [[1, 0]]
    assert line.said == ["KeyboardInterrupt"]


def test_one_failure_is_not_the_next(line):
    for said in ("3", "4"):
        with pytest.raises(ValueError, match=said), in_step():
            raise ValueError(said)
    assert line.said == ["ValueError: 3", "ValueError: 4"]
    with in_step():
        pass
    assert line.votes == [[1, 0], [1, 0], [0, 0]]


def test_what_is_told_is_one_line_of_some_length(line):
    with pytest.raises(ValueError, match="first"), in_step():
        raise ValueError("first\nsecond" + 1000 * "x")
    (said,) = line.said
    assert said.startswith("ValueError: first secondxxx")
    assert len(said) == 500


def test_a_thread_may_send(line):
    sent = []

    def send():
        with in_step(), agreed():
            sent.append("all")

    thread = threading.Thread(target=send)
    thread.start()
    thread.join()
    assert sent == ["all"]


def test_votes_are_sent_from_where_the_group_can(monkeypatch):
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    for config, device in (("cpu:gloo,cuda:nccl", "cpu"), ("cuda:nccl", "cuda:3")):
        monkeypatch.setattr(torch.distributed, "get_backend_config", lambda config=config: config)
        assert in_step_module._device() == torch.device(device)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("case", ["groups", "sampled"])
def test_two_gpus_end_as_one_does(case, tmp_path):
    one = result(CASES[case] | {"device": "cuda", "precision": "float32"})
    run(tmp_path, "auto")
    first, second = (dict(np.load(tmp_path / f"{case}-{rank}.npz")) for rank in (0, 1))
    for name in ("weights", "features", "loss"):
        np.testing.assert_array_equal(first[name], second[name])
    # TF32 may be on in convolutions: 10 bits of mantissa.
    np.testing.assert_allclose(first["loss"], one["loss"], rtol=1e-2)


def test_each_process_takes_the_gpu_of_its_number(monkeypatch):
    taken = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(building, "_check_device", lambda device: None)
    assert resolve_device("auto") == resolve_device("cuda") == "cuda"  # alone
    monkeypatch.setattr(distributed, "join", lambda: World(3, 4))
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert resolve_device("auto") == resolve_device("cuda") == "cuda:1"
    monkeypatch.setenv("LOCAL_RANK", "2")  # more processes than devices
    assert resolve_device("auto") == "cuda:0"
    assert taken == [1, 1, 0]
    assert resolve_device("cuda:1") == "cuda:1"
    assert resolve_device("cpu") == "cpu"


@pytest.mark.parametrize("missing", ["RANK", "MASTER_ADDR", "MASTER_PORT"])
def test_half_an_environment_is_refused(missing, monkeypatch):
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv(missing)
    with pytest.raises(ValueError, match=rf"WORLD_SIZE=2 .* but {missing} must be there, too; st"):
        join()
    with alone():
        assert join() == World(0, 1)


def test_an_environment_of_one_process_changes_nothing(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert join() == World(0, 1)
    assert smallest_part(5) == 5
    assert refusal(pixels(), max_epochs=0) == "none"
