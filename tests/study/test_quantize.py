"""Weights rounded to int8."""
import re
import sys

import pytest
import torch
from conftest import assert_one_line, run, train

import step7_small
from study import quantize


def test_each_filter_has_at_most_255_values_and_keeps_its_largest():
    torch.manual_seed(0)
    model, before = step7_small.Net(), step7_small.Net()
    before.load_state_dict(model.state_dict())
    filters = 9 * 8 + 10
    assert quantize.quantize(model) == 738 + 4 * filters + 4 * 72  # weights, scales, batch norm
    for old, new in zip(before.parameters(), model.parameters(), strict=True):
        if old.dim() == 1:
            assert torch.equal(old, new)
            continue
        for was, is_now in zip(old.flatten(1), new.flatten(1), strict=True):
            scale = was.abs().max() / 127
            assert torch.allclose(is_now / scale, (is_now / scale).round(), atol=1e-3)
            assert (is_now - was).abs().max() <= scale * 0.501
    once = {name: value.clone() for name, value in model.state_dict().items()}
    quantize.quantize(model)  # what is rounded stays as it is
    assert all(torch.allclose(value, once[name], atol=1e-6) for name, value in model.state_dict().items())


def test_a_table_of_what_the_frontier_left(first_6000, monkeypatch, capsys, tmp_path):
    train(tmp_path / "frontier" / "seed1" / "step7_width_1", "step7_small", "--epochs", 1)
    (tmp_path / "frontier" / "seed1" / "damaged.json").write_text("{")
    monkeypatch.setattr(sys, "argv", ["quantize", "--out-dir", str(tmp_path)])
    with pytest.raises(SystemExit, match="1"):  # the table is there, and a file is missing from it
        quantize.main()
    said = capsys.readouterr()
    assert "left out: " in said.err and "damaged.json" in said.err
    cells = re.search(r"^[|] step7_small .*", said.out, re.MULTILINE)[0].strip("| ").split("|")
    step, parameters, size, size8, seeds, accuracy, accuracy8, loss, loss8 = (cell.strip() for cell in cells)
    assert (parameters, size, size8, seeds) == ("810", "3,240", "1,354", "1")
    assert 30 < float(accuracy) < 100 and abs(float(accuracy) - float(accuracy8)) < 3
    assert float(loss) != float(loss8) and float(loss) == pytest.approx(float(loss8), rel=0.1)


def test_no_runs_to_quantize(data_dir, tmp_path):
    program = [sys.executable, "-m", "study.quantize"]
    assert_one_line(run(*program, "--out-dir", tmp_path, "--data-dir", data_dir),
                    "study.quantize: error: no finished run", tmp_path)
