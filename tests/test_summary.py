"""The summary of the runs in a folder."""
import json
import sys

import matplotlib.image
import pytest

import summary
from conftest import ROOT, a_run, assert_one_line, run


def test_row_holds_best_and_last_and_the_earliest_of_equal_bests():
    run = a_run("step4_aug_lr", test=[99.0, 99.41, 99.41, 99.3], train=98.5)
    run["history"][2]["train_accuracy"] = 98.53
    run["seconds"] = 90
    assert summary.row(run) == [
        "step4_aug_lr", "7,852", "98.53 (2)", "98.50", "99.41 (1)", "99.30", "99.32", "99.46", "4", "1.5"]


def test_files_that_are_no_runs_are_named_and_the_rest_reported(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(a_run("step1_basic", test=[98.5, 99.0])))
    (tmp_path / "b.json").write_text(json.dumps(a_run("step2_dropout", test=[99.2, 100.0])))
    (tmp_path / "cut.json").write_text(json.dumps(a_run())[:-40])
    (tmp_path / "foreign.json").write_text("[1, 2]")
    (tmp_path / "empty.json").write_text(json.dumps(a_run(test=[])))
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\0")
    process = run(sys.executable, ROOT / "summary.py", "--out-dir", tmp_path)
    assert process.returncode == 1
    named = [line.split()[1].split("/")[-1] for line in process.stderr.splitlines()]
    assert named == ["bytes.json", "cut.json", "empty.json", "foreign.json"]
    rows = (tmp_path / "summary.md").read_text().splitlines()
    assert [row.split()[1] for row in rows] == ["step", rows[1].split()[1], "step1_basic", "step2_dropout"]
    assert len({len(row) for row in rows}) == 1  # aligned
    pixels = matplotlib.image.imread(tmp_path / "summary.png")[..., :3]
    assert (pixels < 0.5).any(axis=2).mean() > 0.005


@pytest.mark.parametrize("folder", ["empty", "absent"])
def test_nothing_to_report(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    process = run(sys.executable, ROOT / "summary.py", "--out-dir", tmp_path / folder)
    assert_one_line(process, "no finished run", tmp_path / folder)
