"""The Makefile, in a copy of the tree."""
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys

import pytest
from conftest import environment, run

from study.variants import LADDER, STEPS

SHARE = max(1, len(os.sched_getaffinity(0)) // 2)  # of the cores, for each of two
DRY = ["ARGS=--dry-run", "EPOCHS=2", f"PYTHON={sys.executable}"]


@pytest.fixture
def short_tree(tree):
    """A copy of the project with the first three steps only, so that `make all` is short."""
    for step in STEPS[3:]:
        (tree / f"{step}.py").unlink()
    return tree


def test_make_alone_lists_every_target_with_a_line(tree):
    process = run("make", cwd=tree)
    assert process.returncode == 0
    for target in ("all", "step1", "step2", "step3", "step4", "step5", "step6", "step7", "sweep", "claims",
                   "frontier", "robustness", "report", "help", "data", "bench", "check", "lint", "test",
                   "clean", "distclean"):
        assert re.search(rf"^ +{target} +\w.+", process.stdout, re.MULTILINE), target
    assert not (tree / ".venv").exists()


def test_all_runs_the_steps_in_order_and_reports(tree, data_dir):
    (tree / "results").mkdir()
    (tree / "results" / "robustness.json").write_text('{"step1_basic": {}}')  # our own, and no run of a step
    process = run("make", "all", *DRY, f"DATA_DIR={data_dir}", cwd=tree)
    assert process.returncode == 0 and process.stderr == "", process.stderr
    assert tuple(re.findall(r"^\$ python (\w+)\.py", process.stdout, re.MULTILINE)) == STEPS
    results = tree / "results"
    assert {path.suffix for path in results.glob("step*")} == {".log", ".json", ".png", ".pt", ".ckpt"}
    summary = (results / "summary.md").read_text()
    assert summary in process.stdout
    for step, published in zip(LADDER, ("99.75", "99.02", "99.40", "99.32"), strict=True):
        assert re.search(rf"^\| {step} .*\| +{published} \|.* 2 \(dry run\) \|", summary, re.MULTILINE)
    assert (results / "summary.png").read_bytes().startswith(b"\x89PNG")

    (results / "own_notes.txt").write_text("not ours to remove")
    assert run("make", "clean", cwd=tree).returncode == 0
    assert [path.name for path in results.iterdir()] == ["own_notes.txt"]


def test_all_in_parallel_mixes_nothing(short_tree, data_dir):
    process = run("make", "-j2", "all", *DRY, f"DATA_DIR={data_dir}", cwd=short_tree, OMP_NUM_THREADS="")
    assert process.returncode == 0, process.stderr
    for step in STEPS[:3]:
        log = (short_tree / "results" / f"{step}.log").read_text()
        assert log in process.stdout  # in one piece
        assert f", {SHARE} CPU thread" in log and log.count("EPOCH: ") == 2
    summary = (short_tree / "results" / "summary.md").read_text()
    assert tuple(row.split()[1] for row in summary.splitlines()[2:]) == STEPS[:3]


def test_variables_pass_through(tree, data_dir, tmp_path):
    (tmp_path / "data").symlink_to(data_dir)
    folders = ["DATA_DIR=~/data", "OUT_DIR=~/else where"]
    process = run("make", "step2", *DRY, *folders, "SEED=7", "DEVICE=cpu", "ARGS=--dry-run --dropout 0.2",
                  cwd=tree, HOME=str(tmp_path))
    assert process.returncode == 0, process.stderr
    assert "seed 7, device cpu" in process.stdout
    assert "--epochs 2" in process.stdout and "--dropout 0.2" in process.stdout
    assert (tmp_path / "else where" / "step2_dropout.json").exists()
    assert run("make", "clean", *folders, cwd=tree, HOME=str(tmp_path)).returncode == 0
    assert not (tmp_path / "else where").exists() and not (tree / "~").exists()


def test_folders_of_any_name_reach_every_command_whole(tree):
    data, out = "it's \"d\"  [a]*", "-o'; echo $HOME"
    process = run("make", "-n", "all", "sweep", "claims", "frontier", "robustness", "report", "data", "bench",
                  "check", "test", "distclean", f"PYTHON={sys.executable}", f"DATA_DIR={data}",
                  f"OUT_DIR={out.replace('$', '$$')}", cwd=tree)
    assert process.returncode == 0, process.stderr
    words = shlex.split(process.stdout)
    named = [word.partition("=") for word in words if word.startswith(("--data-dir=", "--out-dir=", "DATA_"))]
    assert {(name, folder) for name, _, folder in named} == {
        ("--data-dir", data), ("DATA_DIR", data), ("--out-dir", out), ("--out-dir", f"{out}/frontier")}
    assert [word for word in words if word.endswith(".lock")] == [f"{out}/.step*.lock"]


def test_a_failing_step_stops_all_and_what_finished_stays(tree, data_dir):
    (tree / "step3_gap.py").write_text("raise SystemExit('step3_gap.py: error: broken by the test')\n")
    process = run("make", "all", *DRY, f"DATA_DIR={data_dir}", cwd=tree)
    assert process.returncode != 0 and "broken by the test" in process.stderr
    assert sorted(path.name for path in (tree / "results").glob("*.json")) == [
        "step1_basic.json", "step2_dropout.json"]
    assert "step4" not in process.stdout


def test_all_interrupted_goes_on_with_resume(short_tree, data_dir):
    words = ["make", "all", *DRY, f"DATA_DIR={data_dir}", "EPOCHS=30"]
    process = subprocess.Popen(words, cwd=short_tree, env=environment(), text=True, start_new_session=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    for line in process.stdout:
        if line.startswith("$ python step2_dropout.py"):
            break
    for line in process.stdout:
        if line == "EPOCH: 4\n":
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does at Ctrl-C: to make and what it started
            break
    rest, stderr = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "step2_dropout.py: error: interrupted after" in stderr and "Traceback" not in stderr
    assert "step3" not in rest

    again = run(*words, "ARGS=--dry-run --resume", cwd=short_tree)
    assert again.returncode == 0, again.stderr
    assert "step1_basic.py: finished before" in again.stdout and "Going on after epoch" in again.stdout
    assert tuple(re.findall(r"^\$ python (\w+)\.py", again.stdout, re.MULTILINE)) == STEPS[1:3]
    log = (short_tree / "results" / "step2_dropout.log").read_text()
    assert re.findall(r"^EPOCH: (\d+)", log, re.MULTILINE) == [str(epoch) for epoch in range(30)]


def test_data_verifies(tree, data_dir):
    process = run("make", "data", f"PYTHON={sys.executable}", f"DATA_DIR={data_dir}", cwd=tree)
    assert process.returncode == 0 and "verified" in process.stdout


def test_a_step_of_ones_own_is_a_target_and_part_of_all(tree, data_dir):
    no_targets = "step1_basic copy", "step2_mine (1)", "step1_basic(2)", "step1.x_y"
    for name in ("step1_mine", "step9_mine", *no_targets):
        shutil.copy(tree / "step1_basic.py", tree / f"{name}.py")
    first = run("make", "-n", "step1", f"PYTHON={sys.executable}", cwd=tree)
    assert "step1_basic.py" in first.stdout and "mine" not in first.stdout
    one = run("make", "step1_mine", *DRY, f"DATA_DIR={data_dir}", cwd=tree)
    assert one.returncode == 0, one.stderr
    assert [path.stem for path in (tree / "results").glob("*.json")] == ["step1_mine"]
    every = run("make", "-n", "all", f"PYTHON={sys.executable}", cwd=tree).stdout
    assert re.findall(r"\b(step\d_\w+)\.py", every) == sorted((*STEPS, "step1_mine", "step9_mine"))


def test_a_sweep_runs_jobs_at_a_time(short_tree, data_dir):
    words = ["SEEDS=5", "JOBS=2", *DRY, f"DATA_DIR={data_dir}", "OUT_DIR=it's here"]
    process = run("make", "sweep", *words, cwd=short_tree, OMP_NUM_THREADS="", PYTHONSAFEPATH="1")
    assert process.returncode == 0, process.stderr
    assert f"2 at a time, {SHARE} CPU thread" in process.stdout
    assert {path.stem for path in (short_tree / "it's here" / "seed5").glob("*.json")} == set(STEPS[:3])
    process = run("make", "report", *words, cwd=short_tree, PYTHONSAFEPATH="1")
    assert "it's here/seed5/step1_basic.json: it is a dry run" in process.stderr


def test_distclean_removes_our_own_data_and_no_other(tree, tmp_path):
    for folder in (tree / "data", tmp_path / "shared"):
        (folder / "MNIST" / "raw").mkdir(parents=True)
    assert run("make", "distclean", f"DATA_DIR={tmp_path / 'shared'}", cwd=tree).returncode == 0
    assert (tmp_path / "shared" / "MNIST" / "raw").exists() and not (tree / "data").exists()


def test_environment_is_made_once_and_again_when_the_requirements_change(tree):
    # Nothing to install, so that this needs no network; what pip is told is the point.
    (tree / "requirements.txt").write_text("# nothing\n")
    (tree / "step1_basic.py").write_text("import sys; print('ran in', sys.prefix)\n")
    first = run("make", "step1", cwd=tree)
    assert first.returncode == 0, first.stderr
    assert f"ran in {tree / '.venv'}" in first.stdout
    assert "pip install" in first.stdout

    assert "pip install" not in run("make", "step1", cwd=tree).stdout
    later = os.stat(tree / ".venv" / "installed").st_mtime + 5
    os.utime(tree / "requirements.txt", (later, later))
    assert "pip install" in run("make", "step1", cwd=tree).stdout

    assert run("make", "distclean", cwd=tree).returncode == 0
    assert not (tree / ".venv").exists()


def fake_python(path, script):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_an_environment_whose_python_is_gone_is_made_anew(tree):
    (tree / "requirements.txt").write_text("# nothing\n")
    (tree / "step1_basic.py").write_text("import sys; print('ran in', sys.prefix)\n")
    assert run("make", "step1", cwd=tree).returncode == 0
    for path in (tree / ".venv" / "bin").glob("python*"):
        path.unlink()
        path.symlink_to("/nowhere/python3")
    process = run("make", "step1", cwd=tree)
    assert process.returncode == 0, process.stderr
    assert f"ran in {tree / '.venv'}" in process.stdout


def test_an_old_python_is_refused_before_anything_is_installed(tree, tmp_path):
    old = fake_python(tmp_path / "old" / "python3", 'case "$*" in -V) echo Python 3.9.1;; *) exit 1;; esac')
    process = run("make", "step1", cwd=tree, PATH=f"{old.parent}:{os.environ['PATH']}")
    assert process.returncode != 0
    assert "Python 3.10 or newer is needed, and python3 is Python 3.9.1" in process.stderr.splitlines()[0]
    assert not (tree / ".venv").exists()


def test_an_active_environment_is_used_if_it_has_the_versions_that_are_needed(tree, tmp_path):
    (tree / "step1_basic.py").write_text("import sys; print('ran in', sys.prefix)\n")
    active = tmp_path / "it's active"
    python = fake_python(active / "bin" / "python", f'exec "{sys.executable}" "$@"')
    process = run("make", "step1", cwd=tree, VIRTUAL_ENV=str(active))
    assert f"ran in {sys.prefix}" in process.stdout, process.stderr

    # One with too old a package is not: here the newest there is, of a requirement that no release can meet.
    (tree / "requirements.txt").write_text("tqdm>=999\n")
    process = run("make", "-n", "step1", cwd=tree, VIRTUAL_ENV=str(active))
    assert ".venv/bin/python -m pip install" in process.stdout, process.stderr
    (tree / "requirements.txt").write_text("# nothing\n")
    fake_python(python, "exit 1")  # one that does not even start
    process = run("make", "step1", cwd=tree, VIRTUAL_ENV=str(active))
    assert f"ran in {tree / '.venv'}" in process.stdout, process.stderr


def test_a_named_python_without_torch_is_refused_in_a_sentence(tree, tmp_path):
    bare = fake_python(tmp_path / "bare", f'exec "{sys.executable}" -S -E "$@"')  # -S: no installed packages
    process = run("make", "step1", f"PYTHON={bare}", cwd=tree)
    assert process.returncode != 0
    assert "lacks torch" in process.stderr and "Traceback" not in process.stderr
