"""The pretended device itself, and what a training does on it. Run with the plugin alone."""

import sys

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback

from ..estimators.toys import images, tiny

plugin = sys.modules.get("tests.pretend.plugin")
pytestmark = pytest.mark.skipif(plugin is None, reason="needs -p tests.pretend.plugin")


def test_results_stay_on_the_device_and_are_those_of_the_cpu():
    x = torch.arange(6.0).reshape(2, 3)
    there = x.to("cuda")
    assert there.is_cuda
    found = torch.nn.functional.softmax(there * 2 + 1, 1)
    assert found.device == torch.device("cuda", 0)
    assert torch.equal(found.cpu(), (x * 2 + 1).softmax(1))
    there[:, 1] = 7.0
    assert there.tolist() == [[0, 7, 2], [3, 7, 5]]
    assert x.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_gradients_are_on_the_device():
    layer = torch.nn.Linear(3, 2).to("cuda")
    layer(torch.ones(4, 3, device="cuda")).sum().backward()
    assert layer.weight.grad.is_cuda
    assert layer.weight.grad.tolist() == [[4, 4, 4], [4, 4, 4]]


@pytest.mark.parametrize(
    "mix",
    [
        lambda x: x + torch.ones(3),
        lambda x: torch.ones(3, 3) @ x,
        lambda x: torch.cat([x, torch.zeros(1)]),
        lambda x: x.add_(torch.ones(3)),
        lambda x: x.index_select(0, torch.tensor([1])),
        lambda x: torch.ones(3)[x.long()],
    ],
)
def test_two_devices_are_refused(mix):
    with pytest.raises(RuntimeError, match="same device"):
        mix(torch.ones(3, device="cuda"))


def test_numbers_are_brought_back_first():
    x = torch.ones(3, device="cuda")
    for take in (np.asarray, lambda tensor: tensor.numpy()):
        with pytest.raises(TypeError, match="cpu"):
            take(x)
    assert (x + torch.tensor(2.0)).cpu().numpy().tolist() == [3, 3, 3]


class Waits(Callback):
    """Tells how often each batch waited for the device."""

    def __init__(self, tell):
        self.tell = tell

    def on_batch_begin(self, net, **kwargs):
        plugin.waits.clear()

    def on_batch_end(self, net, training, **kwargs):
        self.tell(list(plugin.waits))


# The patches that a draw changes are looked for, whether the loss is finite is asked, and skorch
# reads it; AutoAugment must know how many patches each primitive has, and a queue how full it is.
@pytest.mark.parametrize(
    ("settings", "at_most"),
    [
        ({}, 3),
        ({"negatives": "sampled", "averaging": 0.9}, 3),
        ({"negatives": "hard"}, 3),
        ({"encoder": "dictionary"}, 3),
        ({"context": "transformer", "objective": "bce"}, 3),
        ({"negatives": "queue", "queue_size": 50, "n_candidates": 64}, 3 + 4),
        ({"augment": "cpc-v2"}, 3 + 3),
    ],
)
def test_a_step_waits_for_the_device_a_few_times_whatever_its_size(settings, at_most):
    X = images(48, 16, 16)
    for batch_size in (8, 16):
        told = []
        callbacks = [Waits(told.append)]
        tiny(callbacks=callbacks, device="cuda", batch_size=batch_size, **settings).fit(X)
        later = told[1:]  # the first batch may bring constants
        assert len(later) == 48 // batch_size - 1
        assert all(0 < len(waits) <= at_most for waits in later), "\n".join(max(later, key=len))


def test_transform_waits_once_for_each_block():
    cpc = tiny(device="cuda", max_epochs=0).fit(images(48, 16, 16))
    plugin.waits.clear()
    cpc.transform(images(48, 16, 16))
    assert len(plugin.waits) <= 3
