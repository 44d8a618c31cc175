"""Any optimizer, schedule and network of torch's goes on from a checkpoint, bit for bit."""
import copy
import random

import numpy as np
import pytest
import torch
from torch import nn, optim
from torch.nn import functional as F
from torch.optim import lr_scheduler as schedules
from torch.optim.swa_utils import SWALR

from harness import checkpoint
from harness.cli import UserError

CPU = torch.device("cpu")
FACTS = {"step": "a_step", "network": "Net", "recipe": "0", "arguments": {"epochs": 4, "device": "cpu"},
         "versions": {"torch": "2"}, "threads": 1, "started": "now"}
EPOCH = {"lr": 0.1, "train_loss": 0.1, "train_accuracy": 99.0, "test_loss": 0.1, "test_accuracy": 99.0,
         "seconds": 9.0}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 5)
        self.last = nn.Linear(3, 10)

    def forward(self, x):
        return F.log_softmax(self.last(F.dropout(self.conv(x).mean(dim=(2, 3)), 0.2)), dim=1)


def train(model, optimizer, scheduler=None, *metric, batches=3):
    """Some batches of random images; a line of the schedule after each."""
    for _ in range(batches):
        def closure():
            optimizer.zero_grad()
            images = torch.rand(8, 1, 12, 12) + random.random() + np.random.rand()
            loss = F.nll_loss(model(images.to(next(model.parameters()).dtype)), torch.arange(8))
            loss.backward()
            return loss
        optimizer.step(closure)
        if scheduler:
            scheduler.step(*metric)


def through_a_file(path, model, optimizer, scheduler=None, epochs=2):
    """The state of a run of so many epochs, written and read again."""
    history = [EPOCH | {"epoch": number} for number in range(epochs)]
    checkpoint.write(path, {"facts": FACTS, "history": history, "log": "", "seconds": 1.0, "finished": False,
                            **checkpoint.capture(model, optimizer, scheduler, [], CPU)})
    return checkpoint.read(path)


def assert_goes_on(path, make, *metric):
    """What `make` returns (model, optimizer, scheduler) trains on from a file as if nothing had happened."""
    torch.manual_seed(1)
    first = make()
    train(*first, *metric)
    state = through_a_file(path, *first)
    train(*first, *metric)
    again = make()
    checkpoint.restore(path, state, *again, [], CPU, 4)
    train(*again, *metric)
    assert_equal(first[0].state_dict(), again[0].state_dict())
    assert_equal(first[1].state_dict(), again[1].state_dict())
    assert not first[2] or first[2].get_last_lr() == again[2].get_last_lr()


def assert_equal(one, other):
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_equal(a, b)
    else:
        assert one == other


# All of torch.optim but SparseAdam, which wants sparse gradients, and Muon, which wants matrices.
OPTIMIZERS = sorted(name for name, kind in vars(optim).items() if isinstance(kind, type)
                    and issubclass(kind, optim.Optimizer)
                    and name not in ("Optimizer", "SparseAdam", "Muon"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_any_optimizer(name, dtype, tmp_path):
    def make():
        model = Net().to(dtype)
        return model, getattr(optim, name)(model.parameters(), lr=0.05), None
    assert_goes_on(tmp_path / "ckpt", make)


@pytest.mark.skipif(not hasattr(optim, "Muon"), reason="this torch has no Muon")
def test_muon(tmp_path):
    def make():
        model = nn.Sequential(nn.Flatten(), nn.Linear(144, 10, bias=False), nn.LogSoftmax(dim=1))
        return model, optim.Muon(model.parameters(), lr=0.05), None
    assert_goes_on(tmp_path / "ckpt", make)


SCHEDULES = {
    "LambdaLR": lambda o: schedules.LambdaLR(o, lambda i: np.cos(i / 9)),  # NumPy's numbers, too
    "MultiplicativeLR": lambda o: schedules.MultiplicativeLR(o, lambda i: 0.9),
    "StepLR": lambda o: schedules.StepLR(o, 2),
    "MultiStepLR": lambda o: schedules.MultiStepLR(o, [1, 4]),
    "ConstantLR": lambda o: schedules.ConstantLR(o, total_iters=4),
    "LinearLR": lambda o: schedules.LinearLR(o, total_iters=5),
    "ExponentialLR": lambda o: schedules.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: schedules.PolynomialLR(o, 9),
    "CosineAnnealingLR": lambda o: schedules.CosineAnnealingLR(o, 9),
    "CosineAnnealingWarmRestarts": lambda o: schedules.CosineAnnealingWarmRestarts(o, 2),
    "CyclicLR": lambda o: schedules.CyclicLR(o, 0.01, 0.1, 2, scale_fn=lambda x: 0.9 ** x),
    "OneCycleLR": lambda o: schedules.OneCycleLR(o, 0.1, total_steps=12),
    "ReduceLROnPlateau": lambda o: schedules.ReduceLROnPlateau(o, patience=1),
    "SequentialLR": lambda o: schedules.SequentialLR(
        o, [schedules.LinearLR(o, total_iters=2), schedules.LambdaLR(o, lambda i: 0.8 ** i)], [2]),
    "ChainedScheduler": lambda o: schedules.ChainedScheduler(
        [schedules.ConstantLR(o, total_iters=4), schedules.ExponentialLR(o, 0.9)]),
    "SWALR": lambda o: SWALR(o, 0.01, anneal_epochs=5),
}


def test_no_schedule_is_forgotten():
    ours = {name for name, kind in vars(schedules).items() if isinstance(kind, type)
            and issubclass(kind, schedules.LRScheduler) and not name.endswith("LRScheduler")}
    assert ours <= SCHEDULES.keys()


@pytest.mark.parametrize("name", SCHEDULES)
def test_any_schedule(name, tmp_path):
    def make():
        model = Net()
        optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        return model, optimizer, SCHEDULES[name](optimizer)
    assert_goes_on(tmp_path / "ckpt", make, *([1.0] if name == "ReduceLROnPlateau" else []))


@pytest.mark.parametrize("name", SCHEDULES)
def test_any_schedule_goes_on_to_more_epochs(name, tmp_path):
    metric = [1.0] if name == "ReduceLROnPlateau" else []
    model = Net()
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = SCHEDULES[name](optimizer)
    train(model, optimizer, scheduler, *metric)
    state = through_a_file(tmp_path / "ckpt", model, optimizer, scheduler)
    other = copy.deepcopy(model)
    again = optim.SGD(other.parameters(), lr=0.1, momentum=0.9)
    follows = SCHEDULES[name](again)  # not one of the number of epochs: it has to be where it was
    checkpoint.restore(tmp_path / "ckpt", state, other, again, follows, [], CPU, 6)
    for _ in range(3):
        train(model, optimizer, scheduler, *metric, batches=1)
        train(other, again, follows, *metric, batches=1)
        assert again.param_groups[0]["lr"] == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6)


class MetricSchedule(schedules.LRScheduler):
    """One of a user's own, whose step needs to be told something."""

    def step(self, metric=None):
        if metric is None and self.last_epoch >= 0:
            raise TypeError("what is the metric?")
        super().step()

    def get_lr(self):
        return [0.9 * group["lr"] for group in self.optimizer.param_groups]


@pytest.mark.parametrize("make, metric, words", [
    (MetricSchedule, [1.0], ["MetricSchedule", "what is the metric?"]),
    (lambda o: schedules.OneCycleLR(o, 0.1, total_steps=6), [], ["OneCycleLR", "6 steps"])])
def test_more_epochs_than_a_schedule_can_follow_is_refused_in_a_line(make, metric, words, tmp_path):
    model = Net()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    scheduler = make(optimizer)
    train(model, optimizer, scheduler, *metric)
    state = through_a_file(tmp_path / "ckpt", model, optimizer, scheduler)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(UserError, match="--epochs") as error:
        checkpoint.restore(tmp_path / "ckpt", state, model, optimizer, make(optimizer), [], CPU, 8)
    assert all(word in str(error.value) for word in words)


def test_a_checkpoint_of_more_than_64_mb(tmp_path):
    def make():
        layers = nn.Flatten(), nn.Linear(144, 70_000), nn.Linear(70_000, 10), nn.LogSoftmax(dim=1)
        model = nn.Sequential(*layers)
        return model, optim.SGD(model.parameters(), lr=0.01, momentum=0.9), None
    assert_goes_on(tmp_path / "ckpt", make)
    assert (tmp_path / "ckpt").stat().st_size > 64 * 2 ** 20
