"""The summary of the runs in a folder."""
import json
import sys

import matplotlib.image
import pytest

import summary
from conftest import ROOT, assert_one_line, run


def history(*test_accuracies):
    return [{"epoch": i, "lr": 0.1, "train_loss": 0.1, "train_accuracy": 98.0 + i / 100, "test_loss": 0.05,
             "test_accuracy": accuracy, "seconds": 10.0} for i, accuracy in enumerate(test_accuracies)]


def stored(step, *test_accuracies):
    return {"step": step, "parameters": 7852, "arguments": {"dry_run": False}, "seconds": 90,
            "published": {"best_train_accuracy": 99.32, "best_test_accuracy": 99.46},
            "history": history(*test_accuracies)}


def test_row_holds_best_and_last_and_the_earliest_of_equal_bests():
    assert summary.row(stored("step4_aug_lr", 99.0, 99.41, 99.41, 99.3)) == [
        "step4_aug_lr", "7,852", "98.03 (3)", "98.03", "99.41 (1)", "99.30", "99.32", "99.46", "4", "1.5"]


def test_files_that_are_no_runs_are_named_and_the_rest_reported(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(stored("a", 98.5, 99.0)))
    (tmp_path / "b.json").write_text(json.dumps(stored("b", 99.2, 100.0)))
    (tmp_path / "cut.json").write_text(json.dumps(stored("cut", 99.0))[:-40])
    (tmp_path / "foreign.json").write_text("[1, 2]")
    (tmp_path / "empty.json").write_text(json.dumps({**stored("empty"), "history": []}))
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\0")
    process = run(sys.executable, ROOT / "summary.py", "--out-dir", tmp_path)
    assert process.returncode == 1
    named = [line.split()[1].split("/")[-1] for line in process.stderr.splitlines()]
    assert named == ["bytes.json", "cut.json", "empty.json", "foreign.json"]
    rows = (tmp_path / "summary.md").read_text().splitlines()
    assert [row.split()[1] for row in rows] == ["step", rows[1].split()[1], "a", "b"]
    assert len({len(row) for row in rows}) == 1  # aligned
    pixels = matplotlib.image.imread(tmp_path / "summary.png")[..., :3]
    assert (pixels < 0.5).any(axis=2).mean() > 0.005


@pytest.mark.parametrize("folder", ["empty", "absent"])
def test_nothing_to_report(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    process = run(sys.executable, ROOT / "summary.py", "--out-dir", tmp_path / folder)
    assert_one_line(process, "no finished run", tmp_path / folder)
