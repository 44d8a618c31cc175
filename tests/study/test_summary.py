"""The summary of the runs in a folder."""
import json
import re
import sys

import matplotlib.image
import pytest
from conftest import a_run, assert_one_line, run

from study import summary


def summarise(folder):
    return run(sys.executable, "-m", "study.summary", "--out-dir", folder)


def test_row_holds_best_and_last_and_the_earliest_of_equal_bests():
    run = a_run("step4_aug_lr", test=[99.0, 99.41, 99.41, 99.3], train=98.5)
    run["history"][2]["train_accuracy"] = 98.53
    run["seconds"] = 90
    assert summary.row(run) == [
        "step4_aug_lr", "7,852", "98.53 (2)", "98.50", "99.41 (1)", "99.30", "99.32", "99.46", "4", "1.5"]


def test_files_that_are_no_runs_are_named_and_the_rest_reported(tmp_path):
    (tmp_path / "step1_a.json").write_text(json.dumps(a_run("step1_basic", test=[98.5, 99.0])))
    (tmp_path / "step1_b.json").write_text(json.dumps(a_run("step2_dropout", test=[99.2, 100.0])))
    (tmp_path / "step2_cut.json").write_text(json.dumps(a_run())[:-40])
    (tmp_path / "step3_foreign.json").write_text("[1, 2]")
    (tmp_path / "step4_empty.json").write_text(json.dumps(a_run(test=[])))
    (tmp_path / "step5_bytes.json").write_bytes(b"\xff\xfe\0")
    process = summarise(tmp_path)
    assert process.returncode == 1
    named = re.findall(r"^study.summary: left out: .*/(\w+)\.json: it is no finished run", process.stderr,
                       re.MULTILINE)
    assert named == ["step2_cut", "step3_foreign", "step4_empty", "step5_bytes"]
    assert len(process.stderr.splitlines()) == 4
    rows = (tmp_path / "summary.md").read_text().splitlines()
    assert [row.split()[1] for row in rows] == ["step", rows[1].split()[1], "step1_basic", "step2_dropout"]
    assert len({len(row) for row in rows}) == 1  # aligned
    pixels = matplotlib.image.imread(tmp_path / "summary.png")[..., :3]
    assert (pixels < 0.5).any(axis=2).mean() > 0.005


def test_dry_runs_are_in_it_and_what_others_write_there_is_no_stranger(tmp_path):
    (tmp_path / "step1_basic.json").write_text(json.dumps(a_run("step1_basic", test=[9.0], dry_run=True)))
    (tmp_path / "step2_dropout.json").write_text(json.dumps(a_run("step2_dropout")))
    (tmp_path / "robustness.json").write_text('{"step1_basic": {"1": [99.0]}}')
    process = summarise(tmp_path)
    assert process.returncode == 0 and process.stderr == ""
    assert "1 (dry run)" in process.stdout and "step2_dropout" in process.stdout


@pytest.mark.parametrize("folder", ["empty", "absent"])
def test_nothing_to_report(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    assert_one_line(summarise(tmp_path / folder), "study.summary: error: no finished run", tmp_path / folder)
