"""`compile=True`: the same training, and no obstacle where it fails."""

import io

import joblib
import numpy as np
import pytest
import torch
from skorch.callbacks import Callback

from .toys import images, tiny

COLOUR = images(6)


@pytest.fixture
def compile_with(monkeypatch):
    """Let `Module.compile` have this backend, which needs no C++ compiler."""

    def use(backend):
        torch.compiler.reset()
        plain = torch.nn.Module.compile

        def compile(module, *args, **kwargs):
            plain(module, *args, backend=backend, **kwargs)

        monkeypatch.setattr(torch.nn.Module, "compile", compile)

    yield use
    torch.compiler.reset()


def test_the_compiled_encoder_is_trained_alike(compile_with):
    calls = []

    def backend(graph, inputs):
        calls.append(graph)
        return graph.forward

    compile_with(backend)
    plain, cpc = tiny().fit(COLOUR), tiny(compile=True).fit(COLOUR)
    assert calls
    np.testing.assert_array_equal(cpc.transform(COLOUR), plain.transform(COLOUR))
    assert list(cpc.net_.module_.state_dict()) == list(plain.net_.module_.state_dict())
    stored = io.BytesIO()
    joblib.dump(cpc, stored)
    stored.seek(0)
    again = joblib.load(stored).partial_fit(COLOUR)
    np.testing.assert_array_equal(
        again.transform(COLOUR), cpc.partial_fit(COLOUR).transform(COLOUR)
    )


def test_all_sizes_are_compiled_before_the_training_and_none_for_a_look(compile_with):
    """Batches of 4 and 3 images; then held-out images and the features in the end."""
    shapes, is_training = [], []

    def backend(graph, inputs):
        def call(*args):
            if not is_training:
                shapes.append(len(args[-1]))
            return graph.forward(*args)

        return call

    class Begun(Callback):
        def on_epoch_begin(self, net, **kwargs):
            is_training.append(True)

    compile_with(backend)
    torch._dynamo.utils.counters.clear()
    many = images(9)
    settings = {"batch_size": 4, "early_stopping": True, "validation_fraction": 0.2}
    cpc = tiny(compile=True, callbacks=[Begun()], **settings).fit(many)
    assert len(is_training) == 1
    assert len(shapes) == 2
    assert cpc.history_[0]["validation_mutual_information"] is not None


def test_a_backend_that_fails_only_when_called_is_no_obstacle(compile_with):
    def backend(graph, inputs):
        raise OSError("no C++ compiler")

    compile_with(backend)
    with pytest.warns(RuntimeWarning, match=r"torch.compile failed here \(.*no C\+\+ compiler"):
        cpc = tiny(compile=True).fit(COLOUR)
    np.testing.assert_array_equal(cpc.transform(COLOUR), tiny().fit(COLOUR).transform(COLOUR))
