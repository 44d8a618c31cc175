"""The table of layers, for networks of other kinds than the steps'."""
import pytest
import torch
from torch import nn

from harness import layer_table


class Recurrent(nn.Module):
    """Row by row through an LSTM, which answers with a tensor and a tuple of two."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(28, 32, batch_first=True)
        self.last = nn.Linear(32, 10)

    def forward(self, x):
        rows, _ = self.lstm(x.squeeze(1))
        return self.last(rows[:, -1])


class Twice(nn.Module):
    """One convolution and one ReLU, each used twice."""

    def __init__(self):
        super().__init__()
        self.conv, self.relu = nn.Conv2d(1, 1, 3, padding=1, bias=False), nn.ReLU()

    def forward(self, x):
        return self.relu(self.conv(self.relu(self.conv(x))))


class Odd(nn.Module):
    """A layer that answers with `answer`, whatever it is asked."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x):
        return self.answer


def table(model, capsys):
    """The rows of the table as (layer, shape, parameters), and what stands below them by name."""
    layer_table.summary(model)
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split(maxsplit=1) for line in lines if "[-1" in line]
    totals = dict(line.split(": ") for line in lines if ": " in line)
    return [(name, *rest.replace("]", "]|").split("|")) for name, rest in rows], totals


def test_a_layer_that_answers_with_a_tuple(capsys):
    rows, totals = table(Recurrent(), capsys)
    assert [(name, shape, int(number.replace(",", ""))) for name, shape, number in rows] == [
        ("LSTM-1", "[-1, 28, 32]", 4 * 32 * (28 + 32 + 2)), ("Linear-2", "[-1, 10]", 330)]
    assert totals["Total params"] == "8,266"


def test_layers_used_twice(capsys):
    rows, totals = table(Twice(), capsys)
    assert [name for name, *_ in rows] == ["Conv2d-1", "ReLU-2", "Conv2d-3", "ReLU-4"]
    assert totals["Total params"] == "9"  # counted once
    images = torch.zeros(5, 1, 28, 28)
    assert layer_table.multiply_adds(Twice(), images) == 2 * 9 * 28 * 28  # computed twice, for each image
    assert layer_table.multiply_adds(Twice(), images[..., :20]) == 2 * 9 * 28 * 20


def test_no_parameters(capsys):
    rows, totals = table(nn.Sequential(nn.Flatten(), nn.Softmax(dim=1)), capsys)
    assert [row[:2] for row in rows] == [("Flatten-1", "[-1, 784]"), ("Softmax-2", "[-1, 784]")]
    assert totals["Total params"] == "0"


@pytest.mark.parametrize("answer, shape", [({"scores": [torch.ones(1, 5)]}, "[-1, 5]"), (None, "[-1]"),
                                           ((3, torch.ones(1, 4)), "[-1, 4]")])
def test_a_layer_with_an_answer_of_another_kind(answer, shape, capsys):
    assert table(Odd(answer), capsys)[0][0][:2] == ("Odd-1", shape)
