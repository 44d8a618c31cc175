"""Our dropout is dropout, exactly, and our batch norm is torch's, to rounding."""
import math

import pytest
import torch

import layers
from layers import BatchNorm2d, Dropout

PROBABILITIES = [0.007, 0.1, 0.5, 0.9, 0.999]


def within(count, n, p):
    """`count` of `n` is what probability `p` gives, to five standard deviations."""
    return abs(count - n * p) <= 5 * math.sqrt(n * p * (1 - p))


@pytest.mark.parametrize("p", PROBABILITIES)
def test_drops_with_probability_p_and_scales_the_survivors(p):
    torch.manual_seed(0)
    x = torch.full((200, 8, 26, 26), 3.0)
    y = Dropout(p)(x)
    assert within((y == 0).sum().item(), y.numel(), p)
    assert torch.allclose(y[y != 0], torch.tensor(3 / (1 - p)))
    assert (x == 3).all()  # the input is left alone


@pytest.mark.parametrize("p", [0.007, 0.1, 0.5])
def test_every_place_is_dropped_with_the_same_probability(p):
    torch.manual_seed(1)
    layer, rounds, images = Dropout(p), 40, 128
    dropped = sum((layer(torch.ones(images, 6, 5, 5)) == 0).sum(dim=0) for _ in range(rounds)).flatten()
    n = rounds * images
    # A chi-squared of 150 places: mean 150, standard deviation sqrt(2 * 150).
    chi2 = ((dropped - n * p) ** 2 / (n * p * (1 - p))).sum().item()
    assert abs(chi2 - 150) < 5 * math.sqrt(300)


@pytest.mark.parametrize("p", [0.007, 0.1, 0.5])
@pytest.mark.parametrize("neighbour", ["pixel", "channel", "image", "batch"])
def test_places_are_independent(p, neighbour):
    torch.manual_seed(2)
    layer = Dropout(p)
    first, second = ((layer(torch.ones(400, 8, 20, 20)) == 0) for _ in range(2))
    pairs = {"pixel": (first[..., 1:], first[..., :-1]), "channel": (first[:, 1:], first[:, :-1]),
             "image": (first[1:], first[:-1]), "batch": (first, second)}[neighbour]
    both = (pairs[0] & pairs[1]).sum().item()
    assert within(both, pairs[0].numel(), p * p)


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_number_dropped_varies_as_it_should(p):
    torch.manual_seed(3)
    layer, n = Dropout(p), 1000
    counts = torch.tensor([(layer(torch.ones(n)) == 0).sum().item() for _ in range(2000)]).double()
    assert counts.mean().item() == pytest.approx(n * p, abs=5 * math.sqrt(n * p * (1 - p) / 2000))
    assert counts.var().item() == pytest.approx(n * p * (1 - p), rel=5 * math.sqrt(2 / 2000))


@pytest.mark.parametrize("p", PROBABILITIES)
def test_gradient_flows_through_the_survivors_only(p):
    torch.manual_seed(4)
    x = torch.randn(50, 8, 10, 10, requires_grad=True)
    y = Dropout(p)(x)
    gradient = torch.randn_like(y)
    y.backward(gradient)
    assert torch.allclose(x.grad, torch.where(y != 0, gradient / (1 - p), 0.0))


def test_identity_in_eval_mode_and_at_p_zero():
    x = torch.randn(10, 3, 4, 4)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)


def test_seed_repeats_it():
    def draw(seed):
        torch.manual_seed(seed)
        return Dropout(0.1)(torch.ones(1000))

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_rejected_probabilities():
    for p in (-0.1, 1.1):
        with pytest.raises(ValueError):
            Dropout(p)


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_dropout_of_any_memory_format(memory_format):
    torch.manual_seed(5)
    x = torch.rand(64, 8, 10, 10).add(1).contiguous(memory_format=memory_format)
    y = Dropout(0.1)(x)
    assert y.is_contiguous(memory_format=memory_format)
    assert within((y == 0).sum().item(), y.numel(), 0.1)
    assert torch.equal(y[y != 0], (x * torch.tensor(1 / 0.9))[y != 0])


def pair(channels):
    """Our batch norm, and torch's in double precision, with the same weights."""
    ours, reference = BatchNorm2d(channels), torch.nn.BatchNorm2d(channels).double()
    torch.nn.init.uniform_(ours.weight, 0.5, 2)
    torch.nn.init.uniform_(ours.bias, -1, 1)
    reference.load_state_dict(ours.state_dict())
    return ours, reference


@pytest.mark.parametrize("shape", [(128, 8, 26, 26), (96, 10, 22, 22), (128, 50, 5, 5), (3, 13, 9, 9), (1, 7, 3, 5)])
def test_batch_norm_is_torchs(shape):
    torch.manual_seed(6)
    ours, reference = pair(shape[1])
    x = (torch.randn(shape) * 3 + 2).contiguous(memory_format=torch.channels_last).requires_grad_()
    doubled = x.detach().double().requires_grad_()
    for _ in range(2):  # twice, so that the running statistics run
        y, expected = ours(x), reference(doubled)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(y.double(), expected, atol=1e-5)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.allclose(getattr(ours, name).double(), getattr(reference, name).double(), rtol=1e-5, atol=1e-6)

    gradient = torch.randn(shape)
    y.backward(gradient)
    expected.backward(gradient.double())
    for got, wanted in ((x, doubled), (ours.weight, reference.weight), (ours.bias, reference.bias)):
        assert torch.allclose(got.grad.double(), wanted.grad, rtol=1e-4, atol=1e-4 * wanted.grad.abs().max())

    assert torch.allclose(ours.eval()(x).double(), reference.eval()(doubled), atol=1e-5)


def test_batch_norm_of_a_large_mean_keeps_its_digits():
    x = torch.randn(64, 8, 12, 12).add(1000).contiguous(memory_format=torch.channels_last)
    ours, reference = pair(8)
    assert torch.allclose(ours(x).double(), reference(x.double()), atol=1e-3)


def test_steps_run_our_layers_channels_last(monkeypatch):
    import step4_aug_lr
    seen = []

    def spy(x, *rest, apply=layers._Normalise.apply):
        seen.append(x.shape[1])
        return apply(x, *rest)

    monkeypatch.setattr(layers._Normalise, "apply", spy)
    step4_aug_lr.Net(0.007).to(memory_format=torch.channels_last)(torch.randn(32, 1, 28, 28))
    assert seen == [8, 8, 8, 13, 14, 8, 26, 50]
