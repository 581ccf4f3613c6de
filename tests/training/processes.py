"""What each of several processes does in `test_distributed`; run by torchrun, or called alone."""

import contextlib
import io
import json
import os
import pickle
import signal
import sys
import warnings
from pathlib import Path

import joblib
import numpy as np
import torch
from skorch.callbacks import Callback

from sklearn_cpc import CPCTransformer
from sklearn_cpc.estimators.collections import transform_shared
from sklearn_cpc.training.distributed import alone, is_main_process, join

from . import failing_processes, kept_processes

SETTINGS = {
    "n_components": 8,
    "latent_dim": 4,
    "projection_dim": 4,
    "context_dim": 4,
    "context_depth": 1,
    "max_epochs": 2,
    "batch_size": 8,
    "negative_images": 2,
    "n_candidates": 40,
    "eps": 1e-4,  # small gradients are not blown up to steps of full length: rounding stays small
    "random_state": 0,
    "device": "cpu",
}
N = 22  # batches of 8, 7 and 7
GATHERED = {"gather_negatives": True}
CASES = {
    "groups": {},
    "image": {"negatives": "image", "augment": "none"},
    "gathered groups": {"negatives": "groups", "negative_images": 3} | GATHERED,
    "batch": {"negatives": "batch", "augment": "none"} | GATHERED,
    "sampled": {"negatives": "sampled"} | GATHERED,
    "place": {"negatives": "place", "augment": "light"} | GATHERED,
    "mixed": {"negatives": "mixed"} | GATHERED,
    "queue": {"negatives": "queue", "queue_size": 64} | GATHERED,
    "hard": {"negatives": "hard", "objective": "bce"} | GATHERED,
    "cpc-v1": {"augment": "cpc-v1", "similarity": "dot", "clip_norm": 0.1, "averaging": 0.9},
    "greedy": {"greedy": "joint", "image": 24, "patch_size": 8, "accumulate": 2} | GATHERED,
    "stages": {"greedy": "sequential", "image": 24, "patch_size": 8},
}


class FirstGradient(Callback):
    """Keeps the gradient of the first batch."""

    kept = None

    def on_grad_computed(self, net, named_parameters, **kwargs):
        if FirstGradient.kept is None:
            FirstGradient.kept = flat([p.grad for _, p in named_parameters if p.grad is not None])


def flat(tensors):
    return torch.cat([t.detach().flatten() for t in tensors]).numpy()


def pixels(size=8):
    return np.random.RandomState(1).randint(0, 256, (N, size, size, 3)).astype(np.uint8)


def fitted(settings):
    settings = dict(settings)
    X = pixels(settings.pop("image", 8))
    FirstGradient.kept = None
    cpc = CPCTransformer(**SETTINGS | settings, callbacks=[FirstGradient()]).fit(X)
    return cpc.set_params(callbacks=None), X


def fitted_weights():
    return flat(fitted({})[0].net_.module_.parameters())


def result(settings):
    """Numbers that must not depend on the number of processes."""
    cpc, X = fitted(settings)
    module = cpc.net_.module_
    return {
        "gradient": FirstGradient.kept,
        "weights": flat(module.parameters()),
        "buffers": flat(b.double() for n, b in module.named_buffers() if "queue" not in n),
        "loss": np.array(cpc.loss_curve_),
        "bound": np.array([r["mutual_information_per_head"] for r in cpc.history_], float),
        "held_out": np.array([r.get("validation_mutual_information", 0.0) for r in cpc.history_]),
        "features": cpc.transform(X),
        "score": np.array(cpc.score(X)),
    }


def spoiled(rank):
    """What a fit says in which one process's loss is no number."""

    class Spoil(Callback):
        def on_batch_begin(self, net, **kwargs):
            if rank == 1:
                next(net.module_.encoder.parameters()).data.fill_(torch.nan)

    return refusal(callbacks=[Spoil()])


def refusal(X=None, **settings):
    try:
        CPCTransformer(**SETTINGS | settings).fit(pixels() if X is None else X)
    except (ValueError, FloatingPointError) as error:
        return f"{type(error).__name__}: {error}"
    return "none"


class InterruptOne(Callback):
    """Ctrl-C in one process, in the second batch."""

    def __init__(self, rank):
        self.rank = rank

    def on_batch_begin(self, net, **kwargs):
        if self.rank == 1 and len(net.history[-1]["batches"]) == 2:
            os.kill(os.getpid(), signal.SIGINT)


def interrupted(rank, **settings):
    """Weights, and what was said, after a Ctrl-C in one process."""
    cpc = CPCTransformer(**SETTINGS, callbacks=[InterruptOne(rank)], **settings)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        cpc.fit(pixels())
    said = [str(w.message) for w in said if "interrupted" in str(w.message)]
    return flat(cpc.net_.module_.parameters()), said


def printed():
    with contextlib.redirect_stdout(io.StringIO()) as out:
        CPCTransformer(**SETTINGS, verbose=1).fit(pixels())
    return out.getvalue()


def unseeded():
    """Weights of two fits that nobody seeded, from other global generators in each process."""
    np.random.seed(join().rank)
    cpc = CPCTransformer(**SETTINGS | {"random_state": None, "negatives": "queue"})
    return [flat(cpc.fit(pixels()).net_.module_.state_dict().values()) for _ in range(2)]


def dropped_out():
    """A fit whose encoder has Dropout."""
    encoder = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 2), torch.nn.Dropout(0.5))
    cpc = CPCTransformer(**SETTINGS | {"encoder": encoder, "n_components": None})
    return flat(cpc.fit(pixels()).net_.module_.parameters())


def main(folder):
    folder = Path(folder)
    rank = join().rank
    for name, settings in CASES.items():
        np.savez(folder / f"{name}-{rank}.npz", **result(settings))
    cpc, X = fitted({})
    with open(folder / f"fitted-{rank}.pickle", "wb") as file:
        pickle.dump(cpc, file)
    unequal = refusal(pixels()[rank:])
    after = interrupted(rank)
    told = {
        "unequal": unequal,
        "spoiled": spoiled(rank),
        "few": refusal(batch_size=1),
        "lonely": refusal(batch_size=2, negatives="place"),
        "interrupted": after[1],
        "printed": printed(),
        "in workers": joblib.Parallel(n_jobs=1)([joblib.delayed(join)()])[0].size,
        "in a worker process": joblib.Parallel(n_jobs=2)([joblib.delayed(join)()])[0].size,
        "main": is_main_process(),
    }
    with alone():
        told["alone"] = join().size
        np.savez(folder / f"alone-{rank}.npz", **result(CASES["groups"] | {"batch_size": 7}))
    (folder / f"told-{rank}.json").write_text(json.dumps(told))
    kept_processes.main(folder, rank)
    failing = failing_processes.main(folder, rank)
    (folder / f"failing-{rank}.json").write_text(json.dumps(failing))
    first, second = unseeded()
    np.savez(
        folder / f"others-{rank}.npz",
        interrupted=after[0],
        first=first,
        second=second,
        dropped_out=dropped_out(),
        elastic=result({"augment": "cpc-v2"})["weights"],
        queue=result({"negatives": "queue"})["weights"],
    )
    gathered = transform_shared(cpc, X)
    np.save(folder / f"gathered-{rank}.npy", gathered)
    transform_shared(cpc, X, folder / "shards", rows_per_file=5)


if __name__ == "__main__":  # torchrun
    # Python's own handler, also where the tests were started with SIGINT ignored (`make &`).
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    if len(sys.argv) > 2:
        SETTINGS |= {"device": sys.argv[2], "precision": "float32"}
        CASES = {name: CASES[name] for name in ("groups", "sampled")}
    main(sys.argv[1])
