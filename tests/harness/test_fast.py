"""Our dropout is dropout, exactly, our batch norm is torch's, to rounding, and a model does not keep them."""
import contextlib
import copy
import functools
import importlib
import inspect
import math
import statistics

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import swa_utils

import common
from harness import cli, fast
from harness.loader import Loader
from study.variants import STEPS

# ----------------------------------------------------------------- our dropout

PROBABILITIES = [0.007, 0.1, 0.5, 0.9]


def dropout(p, x):
    return fast.dropout(nn.Dropout(p), x)


def within(count, n, p):
    """`count` of `n` is what probability `p` gives, to five standard deviations."""
    return abs(count - n * p) <= 5 * math.sqrt(n * p * (1 - p))


@pytest.mark.parametrize("p", PROBABILITIES)
def test_drops_with_probability_p_and_scales_the_survivors(p):
    torch.manual_seed(0)
    x = torch.full((200, 8, 26, 26), 3.0)
    y = dropout(p, x)
    assert within((y == 0).sum().item(), y.numel(), p)
    assert torch.allclose(y[y != 0], torch.tensor(3 / (1 - p)))
    assert (x == 3).all()  # the input is left alone


@pytest.mark.parametrize("p", [0.007, 0.1, 0.5])
def test_every_place_is_dropped_with_the_same_probability(p):
    torch.manual_seed(1)
    rounds, images = 40, 128
    dropped = sum((dropout(p, torch.ones(images, 6, 5, 5)) == 0).sum(dim=0) for _ in range(rounds)).flatten()
    n = rounds * images
    # A chi-squared of 150 places: mean 150, standard deviation sqrt(2 * 150).
    chi2 = ((dropped - n * p) ** 2 / (n * p * (1 - p))).sum().item()
    assert abs(chi2 - 150) < 5 * math.sqrt(300)


@pytest.mark.parametrize("p", [0.007, 0.1, 0.5])
@pytest.mark.parametrize("neighbour", ["pixel", "channel", "image", "batch"])
def test_places_are_independent(p, neighbour):
    torch.manual_seed(2)
    first, second = ((dropout(p, torch.ones(400, 8, 20, 20)) == 0) for _ in range(2))
    pairs = {"pixel": (first[..., 1:], first[..., :-1]), "channel": (first[:, 1:], first[:, :-1]),
             "image": (first[1:], first[:-1]), "batch": (first, second)}[neighbour]
    both = (pairs[0] & pairs[1]).sum().item()
    assert within(both, pairs[0].numel(), p * p)


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_number_dropped_varies_as_it_should(p):
    torch.manual_seed(3)
    n = 1000
    counts = torch.tensor([(dropout(p, torch.ones(n)) == 0).sum().item() for _ in range(2000)]).double()
    assert counts.mean().item() == pytest.approx(n * p, abs=5 * math.sqrt(n * p * (1 - p) / 2000))
    assert counts.var().item() == pytest.approx(n * p * (1 - p), rel=5 * math.sqrt(2 / 2000))


@pytest.mark.parametrize("p", PROBABILITIES)
def test_gradient_flows_through_the_survivors_only(p):
    torch.manual_seed(4)
    x = torch.randn(50, 8, 10, 10, requires_grad=True)
    y = dropout(p, x)
    gradient = torch.randn_like(y)
    y.backward(gradient)
    assert torch.allclose(x.grad, torch.where(y != 0, gradient / (1 - p), 0.0))


def test_identity_in_eval_mode_and_at_p_zero():
    x = torch.randn(10, 3, 4, 4)
    assert torch.equal(fast.dropout(nn.Dropout(0.5).eval(), x), x)
    assert torch.equal(dropout(0.0, x), x)


def test_seed_repeats_it():
    def draw(seed):
        torch.manual_seed(seed)
        return dropout(0.1, torch.ones(1000))

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


@pytest.mark.parametrize("layout", [
    lambda x: x.contiguous(memory_format=torch.channels_last), lambda x: x, lambda x: x.permute(3, 1, 0, 2),
    lambda x: x[:, 1::2, 2:], lambda x: x[:, :1].expand(-1, 8, -1, -1)])
def test_dropout_of_any_memory_layout(layout):
    torch.manual_seed(5)
    x = layout(torch.rand(64, 8, 10, 10).add(1))
    y = dropout(0.1, x)
    assert y.stride() == F.dropout(x, 0.1).stride()
    assert within((y == 0).sum().item(), y.numel(), 0.1)
    assert torch.equal(y[y != 0], (x * torch.tensor(1 / 0.9))[y != 0])


# -------------------------------------------------------------- our batch norm


def pair(channels):
    """A batch norm, and another in double precision with the same weights."""
    ours, reference = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels).double()
    nn.init.uniform_(ours.weight, 0.5, 2)
    nn.init.uniform_(ours.bias, -1, 1)
    reference.load_state_dict(ours.state_dict())
    return ours, reference


@pytest.mark.parametrize("shape", [
    (128, 8, 26, 26), (96, 10, 22, 22), (128, 13, 9, 9), (70, 12, 9, 9), (67, 10, 9, 11),  # by 16, 2, 1
    (128, 16, 12, 12), (128, 50, 5, 5), (3, 13, 9, 9), (1, 7, 3, 5)])  # left to torch
def test_batch_norm_is_torchs(shape):
    torch.manual_seed(6)
    ours, reference = pair(shape[1])
    x = (torch.randn(shape) * 3 + 2).contiguous(memory_format=torch.channels_last).requires_grad_()
    doubled = x.detach().double().requires_grad_()
    for _ in range(2):  # twice, so that the running statistics run
        y, expected = fast.batch_norm(ours, x), reference(doubled)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(y.double(), expected, atol=1e-5)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        got, wanted = getattr(ours, name), getattr(reference, name)
        assert torch.allclose(got.double(), wanted.double(), rtol=1e-5, atol=1e-6)

    gradient = torch.randn(shape)
    y.backward(gradient)
    expected.backward(gradient.double())
    for got, wanted in ((x, doubled), (ours.weight, reference.weight), (ours.bias, reference.bias)):
        assert torch.allclose(got.grad.double(), wanted.grad, rtol=1e-4, atol=1e-4 * wanted.grad.abs().max())

    assert torch.allclose(fast.batch_norm(ours.eval(), x).double(), reference.eval()(doubled), atol=1e-5)


def test_batch_norm_of_a_large_mean_keeps_its_digits():
    x = torch.randn(64, 8, 12, 12).add(1000).contiguous(memory_format=torch.channels_last)
    ours, reference = pair(8)
    assert torch.allclose(fast.batch_norm(ours, x).double(), reference(x.double()), atol=1e-3)


def test_a_step_is_trained_with_our_batch_norm(tensors, monkeypatch):
    seen = []

    def spy(x, *rest, apply=fast._BatchNorm.apply):
        seen.append(x.shape[1])
        return apply(x, *rest)

    monkeypatch.setattr(fast._BatchNorm, "apply", spy)
    train(network("step4_aug_lr"), tensors, images=64)
    assert seen == [8, 8, 8, 13]  # the large maps


# ------------------------------------------------------------- whole networks


def network(step):
    """The step's network, without dropout: ours draws other numbers than torch's."""
    net = importlib.import_module(step).Net
    return net(dropout=0) if "dropout" in inspect.signature(net).parameters else net()


def train(model, tensors, images=256, augment=None):
    """Train `model` on some images, 64 at a time; returns the mean loss."""
    loader = Loader(tensors[0][:images], tensors[1][:images], 64, shuffle=True, augment=augment)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    return common.train(model, loader, optimizer)[0]


def assert_trains_as_torch_does(make, tensors, monkeypatch, rounding=1e-2):
    """What make() returns has the same weights and the same loss whether it is trained fast or not.

    Where an activation is zero to rounding, the gradient of ReLU may be that of either side, and the weights
    then differ by more than rounding; so what is compared here is smooth, as far as it can be. Max pooling is
    not, hence the wide margin, and two of three seeds have to agree.
    """
    def trained(layers, seed):
        monkeypatch.setattr(fast, "layers", layers)
        torch.manual_seed(seed)
        model = make()
        return {"loss": torch.tensor(train(model, tensors))} | model.state_dict()

    def difference(ours, expected):
        assert ours.keys() == expected.keys()
        for name, wanted in expected.items():
            assert ours[name].dtype == wanted.dtype and ours[name].stride() == wanted.stride(), name
        return max(((ours[name] - wanted).float().norm() / wanted.float().norm()).item()
                   for name, wanted in expected.items())

    layers = fast.layers
    differences = [difference(trained(layers, seed), trained(contextlib.nullcontext, seed))
                   for seed in (1, 2, 3)]
    assert statistics.median(differences) < rounding, differences


@pytest.mark.parametrize("step", STEPS)
def test_the_steps_train_as_with_torchs_layers(step, tensors, monkeypatch):
    def smooth():
        model = network(step)
        for block in model.modules():
            for name, layer in block.named_children():
                if isinstance(layer, nn.ReLU):
                    setattr(block, name, nn.Softplus())
        return model

    assert_trains_as_torch_does(smooth, tensors, monkeypatch)


class Small(nn.Module):
    """A network to be edited; it notes whether its weights are channels-last while it is at work."""

    def __init__(self, norm=nn.BatchNorm2d, activation=nn.Softplus, first=3):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 8, first, bias=False), norm(8), activation())
        self.conv = nn.Conv2d(8, 8, 1 if first == 28 else 3, padding=0 if first == 28 else 1, bias=False)
        self.norm, self.last, self.seen = norm(8), nn.Linear(8, 10), []

    def forward(self, x):
        self.seen.append(self.first[0].weight.is_contiguous(memory_format=torch.channels_last)
                         and self.conv.weight.is_contiguous(memory_format=torch.channels_last))
        x = self.first(x)
        x = self.combine(self.norm(self.conv(x)), x)
        return F.log_softmax(self.last(x.mean(dim=(2, 3))), dim=1)

    def combine(self, x, shortcut):
        return x


class InPlaceSum(Small):
    def combine(self, x, shortcut):
        x += shortcut
        return x


class WithoutUpdates(Small):
    def __init__(self):
        super().__init__()
        self.norm.track_running_stats = False  # which leaves the statistics that are there as they are


class Scaled(nn.BatchNorm2d):
    def forward(self, x):
        return 3 * super().forward(x)


class Autocast(Small):
    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            return super().forward(x).float()


class Penalised(Small):
    """Its loss holds the square of the gradient with respect to the image."""

    def forward(self, x):
        y = super().forward(x.requires_grad_())
        gradient, = torch.autograd.grad(y[:, 3].sum(), x, create_graph=True)
        return y - 100 * gradient.square().sum(dim=(1, 2, 3)).mean()


class InPlaceDropout(Small):
    def __init__(self):
        super().__init__()
        self.last = nn.Sequential(nn.Dropout(0.3, inplace=True), self.last)


class Frozen(Small):
    def forward(self, x):
        self.norm.eval()
        return super().forward(x)


class WithoutWeightGradients(Small):
    def __init__(self):
        super().__init__()
        self.norm.weight.requires_grad_(False)
        self.first[1].bias.requires_grad_(False)


class Double(Small):
    def __init__(self):
        super().__init__()
        self.double()

    def forward(self, x):
        return super().forward(x.double())


EDITS = {
    "none": Small,
    "ReLU in place": lambda: Small(activation=functools.partial(nn.ReLU, inplace=True)),
    "sum in place": InPlaceSum,
    "momentum": lambda: Small(functools.partial(nn.BatchNorm2d, momentum=0.01)),
    "cumulative average": lambda: Small(functools.partial(nn.BatchNorm2d, momentum=None)),
    "without weights": lambda: Small(functools.partial(nn.BatchNorm2d, affine=False)),
    "without running statistics": lambda: Small(functools.partial(nn.BatchNorm2d, track_running_stats=False)),
    "without updates of running statistics": WithoutUpdates,
    "subclass": lambda: Small(Scaled),
    "one pixel": lambda: Small(first=28),
    "autocast": Autocast,
    "gradient penalty": Penalised,
    "dropout in place": InPlaceDropout,
    "frozen": Frozen,
    "weights that do not learn": WithoutWeightGradients,
    "double precision": Double,
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_network_trains_as_with_torchs_layers(edit, tensors, monkeypatch):
    rounding = 0.1 if edit == "autocast" else 1e-2  # bfloat16 has three digits
    assert_trains_as_torch_does(EDITS[edit], tensors, monkeypatch, rounding)


@pytest.mark.parametrize("norm, channels_last", [
    (nn.BatchNorm2d, True), (nn.GroupNorm, True), (Scaled, False),
    (functools.partial(nn.BatchNorm2d, affine=False), False)])
def test_channels_last_only_where_every_batch_norm_is_ours(norm, channels_last, tensors):
    model = Small(functools.partial(norm, 2) if norm is nn.GroupNorm else norm)
    train(model, tensors, images=64)
    assert model.seen == [channels_last]


# ---------------------------------------------------------------- and afterwards


class Stop(Exception):
    pass


def stop(images):
    raise Stop


@pytest.fixture(params=["trained", "stopped", "diverged"])
def model(request, tensors):
    """A network of torch's layers after common.train, however that ended."""
    torch.manual_seed(0)
    model = importlib.import_module("step4_aug_lr").Net()
    train(model, tensors)
    if request.param == "stopped":
        with pytest.raises(Stop):
            train(model, tensors, augment=stop)
    if request.param == "diverged":
        with pytest.raises(cli.Diverged):
            train(model, tensors, augment=lambda images: images * math.nan)
    return model


def test_after_training_the_network_is_torchs_own(model, tensors, tmp_path):
    fresh = importlib.import_module("step4_aug_lr").Net()
    for layer, other in zip(model.modules(), fresh.modules(), strict=True):
        assert type(layer) is type(other) and layer.__dict__.keys() == other.__dict__.keys()
    assert all(p.is_contiguous() and p.stride() == q.stride()
               for p, q in zip(model.parameters(), fresh.parameters(), strict=True))

    images = next(iter(Loader(*tensors[2:], 50)))[0]
    loader = Loader(tensors[0][:256], tensors[1][:256], 64)
    swa_utils.update_bn(loader, model)
    model.eval()
    expected = model(images)
    torch.save(model, tmp_path / "model.pt")
    for copied in (torch.load(tmp_path / "model.pt", weights_only=False), copy.deepcopy(model),
                   torch.fx.symbolic_trace(model), torch.jit.script(model),
                   torch.export.export(model, (images,)).module()):
        assert torch.allclose(copied(images), expected, atol=1e-5)
