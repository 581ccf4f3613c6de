"""Model cards."""

import json
import re

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError

from sklearn_cpc import CPCTransformer
from sklearn_cpc.estimators.card import curve

from .toys import images, tiny

X = images()


def test_a_card_says_what_the_model_is():
    cpc = tiny(max_epochs=3, pooling="quadrants").fit(X)
    card = cpc.model_card()
    assert card.startswith("# CPCTransformer: 32 features per image\n")
    assert "- 20 images, uint8, handed in with shape (8, 8, 3) each." in card
    assert "- Height 8, width 8, 3 channels (last)." in card
    assert "- Pixels from 0 to 255 are mapped to 0 to 1; there their mean is 0." in card
    assert "pooled by `'quadrants'`, named `cpctransformer0` to `cpctransformer31`" in card
    assert f"Loss {cpc.loss_curve_[0]:.4g} nats in the first" in card
    assert f"| 3 | {cpc.loss_curve_[2]:.4f} |" in card
    assert f"- torch {torch.__version__}" in card
    assert "CPCTransformer.load(" in card
    for name, value in cpc.get_params(deep=False).items():
        row = re.search(rf"^\| `{name}` \| (.*) \|$", card, re.M)
        assert row, name
        if value is None or isinstance(value, (int, float, str)):
            assert row[1] == f"`{value!r}`", name


@pytest.mark.parametrize("n_epochs", [1, 2, 19, 20, 21, 200])
def test_long_trainings_are_summed_up_with_their_ends(n_epochs):
    cpc = tiny().fit(X)
    row = cpc.history_[0]
    cpc.history_ = [row | {"epoch": i + 1} for i in range(n_epochs)]
    cpc.loss_curve_ = [5.0 - i / n_epochs for i in range(n_epochs)]
    shown = [int(n) for n in re.findall(r"^\| (\d+) \| \d", cpc.model_card(), re.M)]
    assert shown[0] == 1
    assert shown[-1] == n_epochs
    assert len(shown) == min(20, n_epochs)


def test_a_curve_of_signs():
    assert curve([4.0, 3, 2, 1]) == "█▆▃▁"
    assert curve([2.0]) == "▁"
    assert curve([1.0, 1.0]) == "▁▁"
    assert len(curve(range(1000))) == 60


def test_an_untrained_model_has_a_card():
    assert "None: the encoder is as it was started." in tiny(max_epochs=0).fit(X).model_card()


def test_networks_of_ones_own_are_named():
    cpc = tiny(encoder=torch.nn.Flatten(), n_components=None, max_epochs=0).fit(X)
    card = cpc.model_card()
    assert "| `encoder` | `Flatten` |" in card
    assert 'CPCTransformer.load("model.safetensors", encoder=Flatten)' in card


def test_a_card_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    cpc = tiny().fit(X)
    path = tmp_path / "card.md"
    assert cpc.model_card(path) == path.read_text(encoding="utf-8")
    monkeypatch.setattr("os.replace", lambda *args: 1 / 0)
    path.write_text("earlier")
    with pytest.raises(ZeroDivisionError):
        cpc.model_card(path)
    assert path.read_text() == "earlier"
    assert [p.name for p in tmp_path.iterdir()] == ["card.md"]


def test_a_saved_model_has_its_card_and_its_data(tmp_path):
    safetensors = pytest.importorskip("safetensors")
    cpc = tiny().fit(X)
    cpc.save(tmp_path / "a")
    with safetensors.safe_open(tmp_path / "a", framework="np") as file:
        header = json.loads(file.metadata()["sklearn_cpc"])
    assert header["model_card"] == cpc.model_card()
    other = CPCTransformer.load(tmp_path / "a")
    assert other.training_data_ == cpc.training_data_
    assert other.model_card() == cpc.model_card()


def test_what_is_not_fitted_has_no_card():
    with pytest.raises(NotFittedError):
        tiny().model_card()


def test_many_channels_are_cut_short():
    card = tiny(max_epochs=0, channels="last").fit(np.repeat(X, 7, 3)).model_card()
    assert "21 channels (last)" in card
    assert ", ... per channel" in card
