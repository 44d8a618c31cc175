"""Accuracy against size: steps 5 and 7 in several widths."""
import importlib
import json
import re
import sys

import matplotlib.image
import pytest
from conftest import a_run, assert_one_line, run

from harness import record
from study import frontier
from study.variants import LADDER, WIDTHS, by_variant


def test_there_is_a_width_for_each_size():
    def size(variant):
        net = importlib.import_module(variant.step).Net(float(variant.options[1]))
        return sum(p.numel() for p in net.parameters())

    sizes = [[size(variant) for variant in WIDTHS.values() if variant.step == step]
             for step in ("step5_beyond", "step7_small")]
    assert sizes == [sorted(set(of_step)) for of_step in sizes]
    assert sizes[0][0] <= 1000 and 9000 < sizes[0][-1] < 10000
    assert sizes[1][0] <= 500 and {810, 1938} <= set(sizes[1])


def test_frontier_draws_what_is_there_and_names_the_smallest(tmp_path):
    for step, more in (("step5_beyond", 0), ("step7_small", 0.3)):
        for seed in (1, 2, 3):
            for channels in (5, 8, 16):
                width = channels / 16 if step == "step5_beyond" else (0.67, 1.0, 1.9)[channels // 8]
                folder = tmp_path / "frontier" / f"seed{seed}" / f"{step[:5]}_width_{width}"
                folder.mkdir(parents=True)
                test = [98.0, 98.7 + channels / 20 + seed / 100 + more]
                one = a_run(step, seed, test=test, width=width)
                one["parameters"] = channels * 100
                if more:
                    one["test_accuracy_without_tta"] = 98.5 + seed / 100
                (folder / f"{step}.json").write_text(json.dumps(one))
    (tmp_path / "seed1").mkdir()
    for step in LADDER:
        (tmp_path / "seed1" / f"{step}.json").write_text(json.dumps(a_run(step)))
    process = run(sys.executable, "-m", "study.frontier", "--out-dir", tmp_path)
    assert process.returncode == 0, process.stderr
    for goal, size, step in ((99.0, 500, 7), (99.4, 800, 7), (99.5, 1600, 5)):
        assert re.search(rf"smallest whose mean is at or above {goal} % has {size:,} parameters, "
                         rf"{4 * size:,} bytes at 4 a parameter \(step{step}_", process.stdout)
    table = " ".join(process.stdout.split())
    assert "| step5_beyond | 500 | 2,000 | 3 | 98.97 | 98.96 | 98.98 | |" in table
    assert "| step7_small | 500 | 2,000 | 3 | 99.27 | 99.26 | 99.28 | 98.52 |" in table
    pixels = matplotlib.image.imread(tmp_path / "frontier.png")[..., :3]
    assert (pixels < 0.5).any(axis=2).mean() > 0.005


def test_a_figure_of_a_steps_own_is_checked():
    one = a_run("step7_small") | {"test_accuracy_without_tta": 98.5}
    assert record.checked(one) == one
    with pytest.raises(record.Damaged, match="its test_accuracy_without_tta is not what it should be"):
        record.checked(one | {"test_accuracy_without_tta": "98.5"})


def test_frontier_without_runs(tmp_path):
    assert_one_line(run(sys.executable, "-m", "study.frontier", "--out-dir", tmp_path),
                    "study.frontier: error: no finished run", tmp_path)


def test_frontier_commands(tmp_path):
    process = run(sys.executable, "-m", "study.sweep", "--frontier", "--seeds", "1 2 3",
                  "--out-dir", tmp_path)
    commands = process.stdout.splitlines()
    assert len(set(commands)) == 3 * len(WIDTHS)
    assert all("step5_beyond.py --width" in line or "step7_small.py --width" in line for line in commands)


def test_widths_are_no_strangers_to_their_own_list_only():
    plain, wide = a_run("step5_beyond", 1), a_run("step5_beyond", 2, width=0.5)
    found, others = by_variant([plain, wide])
    assert found["step5_beyond"] == {1: plain} and others == [wide]
    sizes = frontier.by_size([plain, wide, a_run("step4_aug_lr")])
    assert sizes.keys() == {"step5_beyond"} and sizes["step5_beyond"].keys() == {7852}
    assert sorted(map(str, sizes["step5_beyond"][7852])) == sorted(map(str, [plain, wide]))
