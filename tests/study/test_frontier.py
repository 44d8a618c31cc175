"""Accuracy against size: step 5 in several widths."""
import json
import sys

import matplotlib.image
from conftest import a_run, assert_one_line, run

import step5_beyond
from study import frontier
from study.variants import LADDER, WIDTHS, by_variant


def test_there_is_a_width_for_each_size():
    sizes = [sum(p.numel() for p in step5_beyond.Net(float(variant.options[1])).parameters())
             for variant in WIDTHS.values()]
    assert sizes == sorted(set(sizes)) and sizes[0] <= 1000 and 9000 < sizes[-1] < 10000


def test_frontier_draws_what_is_there_and_names_the_smallest(tmp_path):
    for seed in (1, 2, 3):
        for channels in (5, 8, 16):
            folder = tmp_path / "frontier" / f"seed{seed}" / f"width_{channels}"
            folder.mkdir(parents=True)
            test = [98.0, 99.0 + channels / 20 + seed / 100]
            some = a_run("step5_beyond", seed, test=test, width=channels / 16)
            some["parameters"] = channels * 100
            (folder / "step5_beyond.json").write_text(json.dumps(some))
    (tmp_path / "seed1").mkdir()
    for step in LADDER:
        (tmp_path / "seed1" / f"{step}.json").write_text(json.dumps(a_run(step)))
    process = run(sys.executable, "-m", "study.frontier", "--out-dir", tmp_path)
    assert process.returncode == 0, process.stderr
    assert "smallest whose mean is at or above 99.4 % has 800 parameters, 3,200 bytes" in process.stdout
    assert "| 500 | 2,000 | 3 | 99.27 | 99.26 | 99.28 |" in " ".join(process.stdout.split())
    pixels = matplotlib.image.imread(tmp_path / "frontier.png")[..., :3]
    assert (pixels < 0.5).any(axis=2).mean() > 0.005


def test_frontier_without_runs(tmp_path):
    assert_one_line(run(sys.executable, "-m", "study.frontier", "--out-dir", tmp_path),
                    "study.frontier: error: no finished run", tmp_path)


def test_frontier_commands(tmp_path):
    process = run(sys.executable, "-m", "study.sweep", "--frontier", "--seeds", "1 2 3",
                  "--out-dir", tmp_path)
    commands = process.stdout.splitlines()
    assert len(set(commands)) == 24 and all("step5_beyond.py --width" in line for line in commands)


def test_widths_are_no_strangers_to_their_own_list_only():
    plain, wide = a_run("step5_beyond", 1), a_run("step5_beyond", 2, width=0.5)
    found, others = by_variant([plain, wide])
    assert found["step5_beyond"] == {1: plain} and others == [wide]
    assert frontier.by_size([plain, wide, a_run("step4_aug_lr")]) == {7852: [99.0, 99.0]}
