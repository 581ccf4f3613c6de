"""Encoders that were trained elsewhere, and go on from there."""

import numpy as np
import pytest
import torch
from torch import nn

from sklearn_cpc import CPCTransformer

from .toys import images, tiny

X = images(height=16, width=16)
NORMS = {"batch": nn.BatchNorm2d, "instance": lambda n: nn.InstanceNorm2d(n, affine=True)}


def pretrained(norm=nn.BatchNorm2d):
    """A network with statistics of its own training."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 16, 3), norm(16), nn.ReLU(), nn.Conv2d(16, 8, 2))
        for _ in range(5):
            net(3 * torch.randn(64, 3, 4, 4) + 1)
    return net.eval()


def encoder_of(net, **settings):
    cpc = tiny(encoder=net, n_components=None, patch_size=4, device="cpu", **settings)
    return cpc.fit(X)


def patches(seed=0):
    return torch.randn(50, 3, 4, 4, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def features(encoder):
    return encoder(patches())


def test_a_pretrained_network_starts_as_it_was_where_its_norms_are_frozen():
    net = pretrained()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    cpc = encoder_of(net, encoder_norm="frozen", max_epochs=0)
    expected = features(net).mean((2, 3))
    torch.testing.assert_close(features(cpc.encoder_), expected)
    torch.testing.assert_close(features(cpc.encoder_.train()), expected)
    trained = encoder_of(net, encoder_norm="frozen")
    assert not torch.allclose(features(trained.encoder_), expected)
    for name, value in net.state_dict().items():  # the user's own is not changed
        assert torch.equal(value, before[name])
    norm, was = trained.encoder_.body[1], net[1]
    assert not torch.equal(norm.weight, was.weight)  # it learns
    assert torch.equal(norm.running_var, was.running_var)  # and its statistics stay


def test_frozen_norms_do_not_mix_patches_in_training():
    encoder = encoder_of(pretrained(), encoder_norm="frozen").encoder_.train()
    other = patches(1)
    other[0] = patches()[0]
    torch.testing.assert_close(encoder(other)[0], encoder(patches())[0])


def test_weights_are_kept_where_norms_become_group_norms():
    net = pretrained()
    with pytest.warns(UserWarning, match="if it is pretrained, encoder_norm='frozen', which keeps"):
        cpc = encoder_of(net, max_epochs=0)
    mine, own = cpc.encoder_.body.state_dict(), net.state_dict()
    assert mine.keys() == {name for name in own if not name.startswith("1.") or name[2] in "wb"}
    for name in mine:
        assert torch.equal(mine[name], own[name]), name


def test_a_layer_on_top_leaves_the_weights_below():
    cpc = tiny(encoder=pretrained(), encoder_norm="frozen", patch_size=4, n_components=5)
    body = cpc.set_params(max_epochs=0).fit(X).encoder_.body
    assert torch.equal(body[0].weight, pretrained()[0].weight)
    assert cpc.transform(X).shape == (20, 5)


def test_frozen_instance_norm_keeps_its_statistics():
    net = pretrained(lambda n: nn.InstanceNorm2d(n, affine=True, track_running_stats=True))
    cpc = encoder_of(net, encoder_norm="frozen", max_epochs=0)
    torch.testing.assert_close(features(cpc.encoder_), features(net).mean((2, 3)))


def test_norms_without_statistics_cannot_be_frozen():
    net = pretrained(lambda n: nn.BatchNorm2d(n, track_running_stats=False))
    message = "encoder=Sequential: BatchNorm2d has collected no statistics .*; pass encoder_norm='a"
    with pytest.raises(ValueError, match=message):
        encoder_of(net, encoder_norm="frozen")


def test_named_encoders_have_no_frozen_norms():
    with pytest.raises(ValueError, match="'frozen' is for an encoder of your own"):
        tiny(encoder="resnet18", encoder_norm="frozen").fit(X)


def test_it_is_saved_and_loaded_with_the_network_given_again(tmp_path):
    pytest.importorskip("safetensors")
    cpc = encoder_of(pretrained(), encoder_norm="frozen")
    cpc.save(tmp_path / "a")
    other = CPCTransformer.load(tmp_path / "a", encoder=pretrained())
    np.testing.assert_array_equal(other.transform(X), cpc.transform(X))


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_networks_of_the_libraries(library):
    module = pytest.importorskip(library)
    if library == "timm":
        net = module.create_model("resnet18", in_chans=3, num_classes=0)
    else:
        net = module.models.resnet18()
        net.fc = nn.Identity()
    cpc = CPCTransformer(
        None, encoder=net, encoder_norm="frozen", patch_size=32, max_epochs=0, device="cpu"
    ).fit(images(4, 64, 64))
    assert cpc.transform(images(4, 64, 64)).shape == (4, 512)
    rows = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(cpc.encoder_(rows), net.eval()(rows))
