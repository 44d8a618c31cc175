"""Is B better than A? The verdict, what is trained for it, and what is refused."""
import argparse
import json
import sys

import pytest
from conftest import a_run, assert_one_line, run

from harness import record
from study import compare
from study.variants import VARIANTS

COMPARE = [sys.executable, "-m", "study.compare"]


def put(folder, name, seed, last, step="step4_aug_lr", **changed):
    """Put a finished run where a comparison looks for it."""
    path = folder / f"seed{seed}" / name / f"{step}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    made_up = a_run(step, seed, test=[last] * 5, **changed) | {"recipe": VARIANTS[step].facts()["recipe"]}
    path.write_text(json.dumps(made_up))
    return path


def test_finished_pairs_give_their_verdict_and_nothing_is_trained(tmp_path):
    for seed in range(1, 10):
        put(tmp_path, "step4_aug_lr_validate", seed, 99.4 + seed / 100, validate=True)
        put(tmp_path, "step4_aug_lr_lr_0.02_validate", seed, 99.2 + seed / 101, validate=True, lr=0.02)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    process = run(*COMPARE, "step4_aug_lr", "step4_aug_lr --lr 0.02", "--out-dir", tmp_path)
    assert (process.returncode, process.stderr) == (0, "")
    lines = process.stdout.splitlines()
    assert lines[3] == "A pair takes about 3.4 minutes."  # two runs of 101 s
    assert [line for line in lines if line.startswith("seed")][0] == (
        "seed   1: A 99.410, B 99.210, B - A -0.200")
    assert len([line for line in lines if line.startswith("seed")]) == 4  # the fifth is not needed
    assert lines[-2] == "B is worse than A: -0.200 points, 99 % interval [-0.201, -0.200], after 4 pairs."
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")} == before
    text = (tmp_path / "compare.md").read_text()
    assert f"**{lines[-2]}**" in text and "opened the test set: 0" in text
    assert (tmp_path / "compare.png").read_bytes().startswith(b"\x89PNG")

    other_way = run(*COMPARE, "step4_aug_lr --lr 0.02", "step4_aug_lr", "--out-dir", tmp_path)
    assert "B is better than A: +0.200 points" in other_way.stdout
    margin = run(*COMPARE, "step4_aug_lr --lr 0.02", "step4_aug_lr", "--out-dir", tmp_path, "--margin", 0.3)
    assert "B is better than A, though by less than 0.3: +0.200 points" in margin.stdout
    loss = run(*COMPARE, "step4_aug_lr", "step4_aug_lr --lr 0.02", "--out-dir", tmp_path, "--measure", "loss")
    assert "No difference that matters: +0.00000 nats, 99 % interval" in loss.stdout


def test_a_lower_loss_is_better(tmp_path):
    for seed in range(1, 5):
        put(tmp_path, "step4_aug_lr_validate", seed, 99.4, validate=True)
        path = put(tmp_path, "step4_aug_lr_lr_0.02_validate", seed, 99.4, validate=True, lr=0.02)
        lower = json.loads(path.read_text())
        for epoch in lower["history"]:
            epoch["test_loss"] = 0.05 + seed / 1000
        path.write_text(json.dumps(lower))
    process = run(*COMPARE, "step4_aug_lr", "step4_aug_lr --lr 0.02", "--out-dir", tmp_path,
                  "--measure", "loss")
    assert "B is better than A: -0.04750 nats" in process.stdout


@pytest.mark.slow
def test_a_copy_with_another_comment_makes_no_difference(tree, data_dir):
    script = tree / "step4_aug_lr.py"
    copy = tree / "step9_mine.py"
    copy.write_text(script.read_text().replace("# -> 24x24, receptive field 5", "# twenty-four"))
    words = [*COMPARE, "step4_aug_lr", "step9_mine", "--jobs", 2, "--data-dir", data_dir,
             "--", "--dry-run", "--epochs", 2]
    first = run(*words, cwd=tree)
    assert first.returncode == 0, first.stderr
    lines = first.stdout.splitlines()
    assert lines[-2] == ("No difference that matters: +0.000 points, 99 % interval [+0.000, +0.000], "
                         "after 4 pairs.")
    results = tree / "results" / "compare"
    written = {path: path.stat().st_mtime_ns for path in results.rglob("step*.json")}
    assert len(written) == 8
    # One of them undone: it alone is trained again.
    undone = results / "seed3" / "step9_mine_dry-run_epochs_2_validate" / "step9_mine.json"
    undone.unlink()
    again = run(*words, cwd=tree)
    assert again.stdout.splitlines()[-2] == lines[-2]
    changed = {path for path in written if path.stat().st_mtime_ns != written[path]}
    assert changed == {undone}
    # Trained on another machine: it is trained anew, so that both of its pair are from this one.
    elsewhere = results / "seed2" / "step4_aug_lr_dry-run_epochs_2_validate" / "step4_aug_lr.json"
    stored = json.loads(elsewhere.read_text())
    elsewhere.write_text(json.dumps(stored | {"machine": "another"}))
    assert run(*words, cwd=tree).returncode == 0
    assert json.loads(elsewhere.read_text())["machine"] == record.machine() == stored["machine"]


@pytest.mark.slow
def test_a_run_that_diverges_counts_as_guessing_and_is_named(data_dir, tmp_path):
    process = run(*COMPARE, "step1_basic", "step1_basic --lr 1e6", "--jobs", 2, "--pairs", 4, "--out-dir",
                  tmp_path, "--data-dir", data_dir, "--", "--dry-run", "--epochs", 2)
    assert process.returncode == 0, process.stderr
    pairs = [line for line in process.stdout.splitlines() if line.startswith("seed")]
    assert len(pairs) == 4 and all(line.endswith("B diverged") and "B 10.000" in line for line in pairs)
    assert "10.000 (diverged)" in (tmp_path / "compare.md").read_text()


@pytest.mark.slow
def test_a_mistake_in_a_step_shows_its_traceback(tree, data_dir):
    text = (tree / "step4_aug_lr.py").read_text()
    (tree / "step9_mine.py").write_text(text.replace("model = Net(", "model = Nett("))
    process = run(*COMPARE, "step4_aug_lr", "step9_mine", "--data-dir", data_dir, cwd=tree)
    lines = process.stderr.splitlines()
    assert process.returncode == 1 and lines[0].startswith("Traceback")
    assert lines[-1].startswith("study.compare: error: a run of step9_mine")
    assert "name 'Nett' is not defined" in lines[-1]
    assert not (tree / "results" / "compare" / "seed1").exists()


@pytest.mark.parametrize("words, says", [
    (["step4_aug_lr", "step44"], "there is no step or variant 'step44'; there are step1_basic"),
    (["step4_aug_lr", ""], "'' is not a step or a variant"),
    (["step4_aug_lr", "it's"], "is not a step or a variant"),
    (["step4_aug_lr"], "B"),
    (["step4_aug_lr", "step4_aug_lr"], "the same recipe"),
    (["step4_aug_lr", "step4_aug_lr --rotation 7"], "the same recipe"),  # which is its default
    (["step4_aug_lr", "step4_rotation_0", "--", "--rotation", "3"], "the same recipe"),
    (["step4_aug_lr", "step3_gap --seed 3"], "--seed is set by the comparison"),
    (["step4_aug_lr", "step3_gap", "--", "--out-dir", "x"], "--out-dir is set by the comparison"),
    (["step4_aug_lr", "step3_gap --validate", "--test"], "tested on the same images"),
    (["step4_aug_lr", "step3_gap", "--test", "--", "--validate"], "tested on the same images"),
    (["step4_aug_lr", "step3_gap --lr fast"], "--lr"),
    (["step4_aug_lr", "step3_gap", "--pairs", "3"], "--pairs: with fewer than 4"),
    (["step4_aug_lr", "step3_gap", "--margin", "-1"], "--margin"),
])
def test_what_cannot_be_compared_is_one_line(words, says, tmp_path):
    process = run(*COMPARE, "--out-dir", tmp_path, *words)
    assert_one_line(process, "study.compare: error:", says)
    assert list(tmp_path.iterdir()) == []


def test_the_test_set_is_opened_with_seeds_that_no_other_run_has(tmp_path):
    a, b = VARIANTS["step4_aug_lr"], compare.side("step4_aug_lr --lr 0.02")
    variants = {"step4_aug_lr": a, "step4_aug_lr_lr_0.02": b}
    args = argparse.Namespace(test=True, out_dir=tmp_path, pairs=4, more=[])
    assert compare.choose_seeds(variants, args) == [1, 2, 3, 4]
    put(tmp_path, "step4_aug_lr_validate", 1, 99.4, validate=True)  # what was chosen by
    put(tmp_path, "step3_gap", 3, 99.4, step="step3_gap")
    assert compare.choose_seeds(variants, args) == [2, 4, 5, 6]
    put(tmp_path, "", 2, 99.4)  # of this comparison: it goes on
    assert compare.choose_seeds(variants, args) == [2, 4, 5, 6]
    path = put(tmp_path, "", 4, 99.4)
    path.write_text(path.read_text().replace(a.facts()["recipe"], "0"))  # A as it was before an edit
    assert compare.choose_seeds(variants, args) == [2, 5, 6, 7]
    assert compare.opened("step4_aug_lr", tmp_path) == 2
    args.test = False
    assert compare.choose_seeds(variants, args) == [1, 2, 3, 4]
