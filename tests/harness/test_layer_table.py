"""The table of layers, for networks of other kinds than the steps'."""
import importlib
import re
import sys

import pytest
import torch
from conftest import assert_one_line, run
from torch import nn

from harness import layer_table
from study.variants import STEPS

TABLE = sys.executable, "-m", "harness.layer_table"


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


# ---------------------------------------------------------------- receptive fields


class Winding(nn.Module):
    """Padding, strides and dilation, other in height than in width, a detour, and what is no layer."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 3, (3, 5), stride=(1, 2), padding=2)
        self.detour = nn.Sequential(nn.Conv2d(3, 3, 3, padding=2, dilation=2), nn.BatchNorm2d(3), nn.ReLU())
        self.pool = nn.MaxPool2d(3, stride=2)
        self.last = nn.Conv2d(6, 2, (1, 3))

    def forward(self, x):
        x = self.first(x[..., 2:])
        x = self.pool(torch.cat([x, x + self.detour(x)], dim=1))
        return self.last(x).amax(dim=(2, 3))


def by_gradients(model, number, y, x):
    """The rows and columns of the image on which layer `number` depends at row y and column x of its map."""
    torch.manual_seed(number)
    model = model.double().eval()
    # Many, since max pooling and ReLU pass on other pixels in each.
    images = torch.rand(100, 1, 28, 28, dtype=torch.double, requires_grad=True)
    maps = []
    leaves = [layer for layer in model.modules() if not list(layer.children())]
    hooks = [layer.register_forward_hook(lambda *call: maps.append(call[-1])) for layer in leaves]
    model(images)
    for hook in hooks:
        hook.remove()
    places = maps[number][:100, :, y, x]
    (places * torch.rand_like(places)).sum().backward()
    touched = images.grad.abs().sum(dim=(0, 1)) > 0
    return [(hit[0].item(), hit[-1].item())
            for hit in (touched.any(dim=1).nonzero(), touched.any(dim=0).nonzero())]


@pytest.mark.parametrize("net", [Winding, *(importlib.import_module(step).Net for step in STEPS)])
def test_receptive_fields_are_those_of_the_gradients(net):
    torch.manual_seed(1)
    model = net()
    checked = 0
    for number, layer in enumerate(layer_table.layers_with_receptive_fields(model)):
        if not isinstance(layer.layer, (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)):
            continue
        height, width = layer.shape[1:]
        for y, x in {(0, 0), (height // 2, width // 3), (height - 1, width - 1)}:
            assert [layer.rows[y], layer.columns[x]] == by_gradients(model, number, y, x), (layer.name, y, x)
            checked += 1
    assert checked >= 10


class Padded(nn.Sequential):
    """As VGG is built: the border cuts off most of the receptive fields in an image of 28x28."""

    def __init__(self):
        layers = []
        for channels in (1, 4, 4):
            layers += [nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU(),
                       nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        super().__init__(*layers, nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10), nn.LogSoftmax(dim=1))


def test_strides_and_receptive_fields_as_worked_out_by_hand():
    found = layer_table.layers_with_receptive_fields(Padded())
    assert [(layer.stride[0], layer.field[0]) for layer in found if layer.rows] == [
        (1, 3), (1, 3), (1, 5), (1, 5), (2, 6), (2, 10), (2, 10), (2, 14), (2, 14), (4, 16),
        (4, 24), (4, 24), (4, 32), (4, 32), (8, 36), (8, 52), (8, 68), (None, None)]
    assert [layer.rows[0] for layer in found if layer.rows][-4:] == [(0, 21), (0, 27), (0, 27), (0, 27)]


def table_with_fields(*words, **more):
    """What `python -m harness.layer_table` prints: layer -> the words of its row, and the rest."""
    process = run(*TABLE, *words, **more)
    assert process.returncode == 0 and process.stderr == "", process.stderr
    assert not re.search("[^\\n]{111}", process.stdout)
    rows, rest = process.stdout.split("\n\n")
    return {name: row for name, *row in map(str.split, rows.splitlines())}, rest


def test_the_table_with_receptive_fields():
    rows, rest = table_with_fields("step4")
    assert rows["Conv2d-14"] == ["13x9x9", "936", "11.9%", "75,816", "2", "12"]
    assert rows["MaxPool2d-13"] == ["8x11x11", "2", "8"]
    assert rows["AvgPool2d-34"] == ["50x1x1", "10", "28"]
    assert len(rows) == 1 + 35
    assert rest.startswith("7,852 parameters, 900,598 multiply-adds.\n")


def test_a_file_of_ones_own(tmp_path):
    (tmp_path / "mine.py").write_text("""
from torch import nn
class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(1, 4, (3, 5)), nn.Flatten(), nn.Linear(4 * 26 * 24, 10))
""")
    rows, rest = table_with_fields(tmp_path / "mine.py")
    assert rows["Conv2d-1"] == ["4x26x24", "64", "0.3%", "37,440", "1", "3x5"]
    assert rows["Linear-3"] == ["10", "24,970", "99.7%", "24,960"]
    assert "25,034 parameters, 62,400 multiply-adds." in rest


def test_a_network_that_takes_only_its_own_precision_and_size(tmp_path):
    (tmp_path / "random.py").write_text("""
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.last = nn.Conv2d(1, 4, 3), nn.Linear(4 * 26 * 26, 10)
    def forward(self, x):
        return self.last(self.conv(x.float()).view(-1, 4 * 26 * 26))
""")
    rows, _ = table_with_fields(tmp_path / "random.py")
    assert rows["Conv2d-1"] == ["4x26x26", "40", "0.1%", "24,336"]  # its field cannot be tried out


@pytest.mark.parametrize("name", ["step9", "step", "", ".", "/", "README.md"])
def test_no_such_step(name):
    assert_one_line(run(*TABLE, name), f"there is no step or file {name!r}")


def test_a_file_without_a_network(tmp_path):
    (tmp_path / "mine.py").write_text("")
    assert_one_line(run(*TABLE, tmp_path / "mine.py"), "has no class Net")
