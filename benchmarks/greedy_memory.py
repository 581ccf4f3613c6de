"""How much memory Greedy InfoMax saves: the most that one training step holds for its gradient.

    python benchmarks/greedy_memory.py
    python benchmarks/greedy_memory.py --encoder resnet50 --batch 8

Bytes of the tensors that autograd keeps for backward passes, counted by hooks, parameters left
out: end to end by contexts, greedy on all stages at once with each stage's backward pass before the
next stage, and greedy on one stage after the other. A line of JSON for each.
"""

import argparse
import json
import weakref

import torch

from sklearn_cpc.nn import AUGMENTATIONS, ENCODERS, CPCModel, PatchGrid, make_encoder


class HeldBytes(torch.autograd.graph.saved_tensors_hooks):
    """The most bytes held at once for backward passes; storages that are shared count once."""

    def __init__(self, model):
        self.parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
        self.holders, self.now, self.most = {}, 0, 0
        super().__init__(self._pack, lambda held: held.tensor)

    def _pack(self, tensor):
        storage = tensor.untyped_storage()
        held, key, n_bytes = _Held(tensor), storage.data_ptr(), storage.nbytes()
        if key not in self.parameters:
            count = self.holders.get(key, 0)
            self.holders[key] = count + 1
            self.now += 0 if count else n_bytes
            self.most = max(self.most, self.now)
            weakref.finalize(held, self._free, key, n_bytes)
        return held

    def _free(self, key, n_bytes):
        self.holders[key] -= 1
        if not self.holders[key]:
            del self.holders[key]
            self.now -= n_bytes


class _Held:
    def __init__(self, tensor):
        self.tensor = tensor


def most_held(model, images):
    """Bytes that one step holds at most."""
    counter = HeldBytes(model)
    with counter:
        for part in model.parts(images):
            part.loss.backward()
    model.zero_grad(set_to_none=True)
    return counter.most


def measure(encoder, batch, side):
    """(name, bytes) of each way to train."""
    grid = PatchGrid(side, side)
    settings = {"directions": ("down",), "negative_images": 1}
    settings["augmentation"] = AUGMENTATIONS["full"]  # patches of their own, as in a training
    images = torch.rand(batch, 3, side, side)

    def build(greedy):
        return CPCModel(
            grid, make_encoder(encoder, 3, grid.patch_size, None), 3, greedy=greedy, **settings
        )

    yield "end to end", most_held(build(None), images)
    yield "greedy, joint", most_held(build("joint"), images)
    model = build("sequential")
    for stage in range(model.n_stages):
        model.trained_stage = stage
        yield f"greedy, stage {stage + 1} of {model.n_stages} alone", most_held(model, images)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--encoder", choices=ENCODERS, default="resnet18")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--side", type=int, default=32, help="of the images, in pixels")
    options = parser.parse_args()
    torch.manual_seed(0)
    whole = None
    for name, n_bytes in measure(options.encoder, options.batch, options.side):
        whole = whole or n_bytes
        row = vars(options) | {
            "training": name,
            "mib": round(n_bytes / 2**20, 1),
            "share": round(n_bytes / whole, 3),
            "torch": torch.__version__,
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
