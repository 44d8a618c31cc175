"""The networks of S5's four steps are those of its tables, as the printed summary shows them."""
import importlib
import inspect
import re

import pytest
import torch
from s5_tables import TABLES

import common
from harness import layer_table
from study.variants import LADDER, STEPS


def network(step):
    """The step's network as it is by default."""
    return importlib.import_module(step).Net()


@pytest.mark.parametrize("step", LADDER)
def test_summary_is_the_table_of_s5(step, capsys):
    rows, total, megabytes = TABLES[step]
    common.summary(network(step))
    printed = capsys.readouterr().out

    layer = re.compile(r"^ *(\w+-\d+) +(\[[-\d, ]+\]) +([\d,]+)$", re.MULTILINE)
    assert layer.findall(printed) == layer.findall(rows)
    assert len(layer.findall(rows)) == len(rows.split("\n")) - 2  # the pattern read every row
    assert f"Total params: {total}\nTrainable params: {total}\nNon-trainable params: 0\n" in printed
    assert re.findall(r"\(MB\): ([\d.]+)$", printed, re.MULTILINE) == list(megabytes)


@pytest.mark.parametrize("step", STEPS)
def test_sizes_and_receptive_fields_in_the_comments(step, monkeypatch):
    module = importlib.import_module(step)
    if hasattr(module, "deskew"):  # step 7, whose comments are on images that are deskewed
        monkeypatch.setattr(module, "deskew", lambda images: images)
    model = module.Net()
    found = {row.layer: row for row in layer_table.layers_with_receptive_fields(model)}
    lines = [line for line in inspect.getsource(type(model)).splitlines()
             if re.search(r"nn\.(?!Module|Sequential)\w+\(", line)]
    layers = [layer for layer in model.modules() if not list(layer.children())]
    checked = 0
    for line, layer in zip(lines, layers, strict=True):
        row = found[layer]
        for size in re.findall(r"-> (\d+x\d+)", line):
            assert size == "x".join(map(str, row.shape[1:])), line
        for field in re.findall(r"receptive field (\d+)", line):
            assert row.field == (int(field), int(field)), line
            checked += 1
        if "the whole image" in line:
            assert row.rows == row.columns == [(0, 27)], line
    assert checked >= 6


@pytest.mark.parametrize("step", LADDER)
def test_convolutions_have_neither_padding_nor_bias(step):
    for layer in network(step).modules():
        if isinstance(layer, torch.nn.Conv2d):
            assert layer.bias is None and layer.padding == (0, 0) and layer.stride == (1, 1)


@pytest.mark.parametrize("step", STEPS)
def test_output_is_a_log_probability_of_ten_classes(step):
    output = network(step).eval()(torch.randn(5, 1, 28, 28))
    assert output.shape == (5, 10)
    assert torch.allclose(output.exp().sum(dim=1), torch.ones(5), atol=1e-5)


@pytest.mark.parametrize("step", STEPS)
def test_a_network_made_without_arguments_is_the_one_that_is_trained(step):
    module = importlib.import_module(step)
    arguments = vars(module.command_line().parse_args([]))
    for name, parameter in inspect.signature(module.Net).parameters.items():
        assert parameter.default == arguments[name], name


def test_summary_leaves_the_model_as_it_was(capsys):
    model = network("step4_aug_lr")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    common.summary(model)
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_summary_counts_frozen_parameters(capsys):
    model = network("step1_basic")
    model.last.weight.requires_grad = False
    common.summary(model)
    printed = capsys.readouterr().out
    assert "Total params: 10,970\nTrainable params: 6,070\nNon-trainable params: 4,900\n" in printed
