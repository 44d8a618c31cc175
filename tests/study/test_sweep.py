"""Runs over seeds: which are missing, and how they are started, stopped and gone on with."""
import datetime
import importlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time

import filelock
import pytest
from conftest import a_run, assert_one_line, environment, run

from study import sweep
from study.variants import ROOT, STEPS, VARIANTS, by_variant, finished, load_runs, sweep_files

SWEEP = [sys.executable, "-m", "study.sweep"]

@pytest.fixture
def tree(tree):
    """A copy of the project with three steps only, so that a sweep of it is short."""
    for step in set(STEPS) - {"step2_dropout", "step3_gap", "step4_aug_lr"}:
        (tree / f"{step}.py").unlink()
    return tree


def written(tree):
    """When each run of the sweep wrote its JSON file."""
    return {str(path.relative_to(tree / "results").with_suffix("")): path.stat().st_mtime_ns
            for path in (tree / "results").glob("seed*/*.json")}


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.slow
def test_a_sweep_stopped_and_started_again_redoes_only_what_was_unfinished(tree, data_dir):
    folder = tree / "results" / "seed5"
    words = [*SWEEP, "--seeds", "5", "--jobs", "2", "--data-dir", data_dir,
             "--", "--dry-run", "--epochs", "60"]
    process = subprocess.Popen(words, cwd=tree, env=environment(PYTHONUNBUFFERED=""), stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline().startswith("0 of 3 runs are finished already; 2 at a time, ")
    assert re.match("1 of 3 runs: .*python.* --seed 5 ", process.stdout.readline())  # while others still run
    wait_for(lambda: len(list(folder.glob("*.ckpt"))) == 3)  # the third run begins when one is finished
    stopped = time.time()
    process.send_signal(signal.SIGTERM)  # to the sweep alone, which has to end what it has started
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 143 and stderr.startswith("study.sweep: error: interrupted"), stderr
    for lock in folder.glob(".*.lock"):
        filelock.FileLock(lock).acquire(timeout=0)  # no run holds it any more
    first = written(tree)
    halfway = [path.stem for path in folder.glob("*.ckpt") if not path.with_suffix(".json").exists()]
    assert first and halfway

    again = run(*words, cwd=tree)
    assert again.returncode == 0, again.stderr
    assert again.stdout.startswith(f"{len(first)} of 3 runs are finished already")
    second = written(tree)
    assert sorted(second) == ["seed5/step2_dropout", "seed5/step3_gap", "seed5/step4_aug_lr"]
    assert {name: second[name] for name in first} == first
    for step in halfway:  # gone on with, not begun again
        started = json.loads((folder / f"{step}.json").read_text())["started"]
        assert datetime.datetime.fromisoformat(started).timestamp() < stopped

    # Another recipe is not finished, and is begun afresh; other words are no other recipe.
    script = tree / "step3_gap.py"
    script.write_text(script.read_text().replace("momentum=0.9", "momentum=0.8"))
    other = tree / "step2_dropout.py"
    text = other.read_text().replace('help="learning rate"', 'help="how far to go"')
    other.write_text(text.replace("import torch.nn as nn", "import os  # a thought\nimport torch.nn as nn"))
    third = run(*words, cwd=tree)
    assert third.returncode == 0, third.stderr
    assert third.stdout.startswith("2 of 3 runs are finished already")
    (command,) = re.findall("^3 of 3 runs: (.*)", third.stdout, re.MULTILINE)
    assert "step3_gap.py --seed 5" in command and "--resume" not in command
    assert {name for name, when in written(tree).items() if when != second[name]} == {"seed5/step3_gap"}


def test_a_run_that_is_just_being_started_is_ended_too():
    code = """if True:
        import subprocess, time
        from harness import cli
        from study import sweep

        class Slow(subprocess.Popen):
            def __init__(self, *words, **more):
                super().__init__(*words, **more)
                print("started", flush=True)
                time.sleep(1)

        subprocess.Popen = Slow
        cli.run(lambda: list(sweep.run_all([({}, ["sleep", "60"])], 1)))"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment(),
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == b"started\n"
    process.send_signal(signal.SIGTERM)
    try:
        process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 143


@pytest.mark.slow
def test_a_run_that_fails_is_named_and_the_others_go_on(tree, data_dir):
    script = tree / "step3_gap.py"
    script.write_text(script.read_text().replace("model = Net(", "raise SystemExit('a line\\nbroken')\n"
                                                 "        model = Net("))
    process = run(*SWEEP, "--seeds", 1, "--jobs", 2, "--data-dir", data_dir,
                  "--", "--dry-run", "--epochs", 1, cwd=tree)
    assert process.returncode == 1
    assert sorted(written(tree)) == ["seed1/step2_dropout", "seed1/step4_aug_lr"]
    assert len(re.findall(r"^\d of 3 runs: ", process.stdout, re.MULTILINE)) == 2
    (command,) = re.findall(r"^\d of 3 runs \(failed\): (.*step3_gap.*)", process.stdout, re.MULTILINE)
    failed, line, last = process.stderr.splitlines()
    assert failed == f"failed: {command}" and line.strip() == "broken"
    assert last == "study.sweep: error: 1 of 3 runs failed"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no such call")
def test_runs_share_the_cores_that_the_sweep_may_use(tree, data_dir):
    for step in ("step3_gap", "step4_aug_lr"):
        (tree / f"{step}.py").unlink()
    ours = os.sched_getaffinity(0)
    for seed, cores in ((1, ours), (2, {min(ours)})):
        restrict = f"import os, sys; os.sched_setaffinity(0, {cores}); os.execv(sys.argv[1], sys.argv[1:])"
        process = run(sys.executable, "-c", restrict, *SWEEP, "--seeds", seed, "--jobs", 1,
                      "--data-dir", data_dir, "--", "--dry-run", "--epochs", 1, cwd=tree, OMP_NUM_THREADS="")
        assert process.returncode == 0, process.stderr
        assert f"1 at a time, {len(cores)} CPU thread" in process.stdout
        stored = json.loads((tree / "results" / f"seed{seed}" / "step2_dropout.json").read_text())
        assert stored["threads"] == len(cores)


def test_threads_are_shared_between_jobs_and_never_none(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [sweep.threads_for(jobs) for jobs in (1, 2, 3, 8, 9)] == [8, 4, 2, 1, 1]
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)  # a system that tells nothing
    assert sweep.threads_for(2) == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert sweep.threads_for(2) == 3


def test_the_reason_of_a_failure_in_bytes_that_are_no_text():
    ((number, status, stderr),) = sweep.run_all([({}, ["sh", "-c", r"printf 'no \377 here' >&2; exit 3"])], 1)
    assert (number, status, stderr) == (0, 3, r"no \xff here")


def test_a_caller_that_stops_listening_ends_the_runs():
    ended = sweep.run_all([({}, ["true"]), ({}, ["sleep", "60"])], 2)
    assert next(ended)[:2] == (0, 0)
    start = time.monotonic()
    ended.close()
    assert time.monotonic() - start < 30


@pytest.mark.slow
def test_printed_commands_run_from_anywhere(data_dir, tmp_path):
    folder, elsewhere = tmp_path / "a b", tmp_path / "elsewhere"
    elsewhere.mkdir()
    process = run(*SWEEP, "--seeds", "1 2 3", "--claims", "--data-dir", os.path.relpath(data_dir, ROOT),
                  "--out-dir", os.path.relpath(folder, ROOT), "--", "--dry-run", "--epochs", 1,
                  PYTHONPATH="/own")
    assert process.returncode == 0, process.stderr
    commands = process.stdout.splitlines()
    assert len(commands) == len(set(commands)) == 3 * (len(VARIANTS) - 3)  # steps 5 to 7 are in no claim
    for line in commands:
        assert line.startswith(f"OMP_NUM_THREADS=1 PYTHONPATH={shlex.quote(f'{ROOT}:/own')} ")
        assert f"--data-dir {data_dir} --out-dir '{folder}/seed" in line
        assert line.endswith(" --resume --dry-run --epochs 1")
    assert not folder.exists()

    (step,) = [line for line in commands if f"{ROOT}/step4_aug_lr.py --rotation 0 --seed 2 " in line]
    (variant,) = [line for line in commands if "-m study.variants step2_without_batch_norm --seed 3 " in line]
    for line in (step, variant):
        process = run("sh", "-c", line, cwd=elsewhere, PYTHONSAFEPATH="1")
        assert process.returncode == 0, process.stderr
    stored = json.loads((folder / "seed2" / "step4_rotation_0" / "step4_aug_lr.json").read_text())
    assert stored["arguments"]["rotation"] == 0 and stored["arguments"]["seed"] == 2
    stored = json.loads((folder / "seed3" / "step2_without_batch_norm" / "step2_dropout.json").read_text())
    assert stored["network"] == "WithoutBatchNorm" and stored["arguments"]["seed"] == 3
    assert list(elsewhere.iterdir()) == []
    rest = run(*SWEEP, "--seeds", "1 2 3", "--claims", "--out-dir", folder, "--", "--dry-run", "--epochs", 1)
    expected = {line.split(" --data-dir ")[0].replace(":/own", "") for line in commands
                if line not in (step, variant)}
    assert {line.split(" --data-dir ")[0] for line in rest.stdout.splitlines()} == expected


@pytest.mark.slow
def test_a_batch_script_for_slurm(data_dir, tmp_path):
    """What Slurm would do with it: read the lines of #SBATCH, then run the script once for each number."""
    options = "--seeds", "1", "--out-dir", tmp_path / "a b", "--data-dir", data_dir
    dry = "--", "--dry-run", "--epochs", 2
    script = run(*SWEEP, *options, "--slurm", *dry).stdout
    said = dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)", script, re.MULTILINE))
    runs = len(STEPS)
    assert said["array"] == f"1-{runs}%50" and said["cpus-per-task"] == "1" and "requeue" in said
    logs = said["output"]
    assert os.path.dirname(logs) == f"{tmp_path}/a b/slurm" and os.path.isdir(os.path.dirname(logs))

    def task(number, **changes):
        return run("sh", "-c", script, cwd="/", SLURM_ARRAY_TASK_ID=str(number), **changes)

    assert task(4).returncode == 0
    stored = json.loads((tmp_path / "a b" / "seed1" / "step4_aug_lr.json").read_text())
    assert stored["threads"] == 1 and stored["arguments"]["seed"] == 1
    assert "finished before" in task(4).stdout  # requeued after its end
    assert_one_line(task(runs + 1), f"there is no run {runs + 1}")
    # A list written anew has other numbers; the script that waits keeps its own.
    assert "step4_aug_lr.py" not in run(*SWEEP, *options, "--slurm", *dry).stdout

    # A checkpoint of other code is not gone on with, unless it is the job's own, after a requeue.
    checkpoint = tmp_path / "a b" / "seed1" / "step4_aug_lr.ckpt"
    again = run(*SWEEP, *options, "--slurm", "--", "--dry-run", "--epochs", 2, "--batch-size", 64).stdout
    (line,) = [line for line in again.splitlines() if "step4_aug_lr.py" in line]
    number = line.partition(")")[0]
    before = checkpoint.read_bytes()
    assert run("sh", "-c", again, SLURM_ARRAY_TASK_ID=number).returncode == 0
    assert checkpoint.read_bytes() != before
    assert "finished before" in run("sh", "-c", again, SLURM_ARRAY_TASK_ID=number,
                                    SLURM_RESTART_COUNT="1").stdout


def test_nothing_left_to_do(tmp_path):
    for step in STEPS:
        path = tmp_path / "seed1" / f"{step}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(a_run(step, 1) | {"recipe": VARIANTS[step].facts()["recipe"]}))
    for how in ([], ["--slurm"]):
        process = run(*SWEEP, "--seeds", "1", "--out-dir", tmp_path, *how)
        assert (process.returncode, process.stdout) == (0, "")
        assert process.stderr == f"study.sweep: nothing left to do: all {len(STEPS)} runs are finished\n"


def test_a_reader_that_has_read_enough():
    words = shlex.join([*SWEEP, "--seeds", " ".join(map(str, range(1, 400)))])
    process = run("bash", "-c", f"{words} | head -1; exit ${{PIPESTATUS[0]}}")
    assert_one_line(process, "study.sweep: error: nobody reads the output any more")


def test_runs_collected_in_one_file_for_each_variant(tmp_path):
    sweep_folder, target = tmp_path / "sweep", tmp_path / "collected"
    recipe = VARIANTS["step4_aug_lr"].facts()["recipe"]

    def put(seed, name="", **changed):
        path = sweep_folder / f"seed{seed}" / name / "step4_aug_lr.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(a_run(seed=seed, **changed) | {"recipe": recipe}))

    def collect(seeds):
        return run(*SWEEP, "--claims", "--seeds", seeds, "--out-dir", sweep_folder, "--collect", target)

    put(10)
    put(2)
    put(2, "step4_rotation_0", rotation=0)
    assert collect("10 2 3").returncode == 0
    assert sorted(path.name for path in target.iterdir()) == ["step4_aug_lr.jsonl", "step4_rotation_0.jsonl"]
    lines = (target / "step4_aug_lr.jsonl").read_text().splitlines()
    assert [json.loads(line)["arguments"]["seed"] for line in lines] == [2, 10]
    assert json.loads(lines[0])["arguments"]["out_dir"] == "results/seed2"  # and no path of this machine
    put(3)
    put(10, test=[98.0] * 5)
    assert "3 runs, 2 before" in collect("3 10").stdout
    runs, unreadable = load_runs(sweep_files(target))
    assert not unreadable
    found, others = by_variant(runs)
    assert not others and list(found["step4_aug_lr"]) == [2, 3, 10] and list(found["step4_rotation_0"]) == [2]
    assert found["step4_aug_lr"][10]["history"][-1]["test_accuracy"] == 98  # the newer one
    assert finished("step4_aug_lr", VARIANTS["step4_aug_lr"], 3, target, [])  # a sweep there would skip it
    assert not finished("step4_aug_lr", VARIANTS["step4_aug_lr"], 4, target, [])

    (target / "step4_aug_lr.jsonl").write_text(lines[0] + "\n" + lines[1][:-9] + "\n")
    before = (target / "step4_aug_lr.jsonl").read_bytes()
    assert_one_line(collect("3"), "study.sweep: error:", "step4_aug_lr.jsonl is no file of runs: line 2")
    assert (target / "step4_aug_lr.jsonl").read_bytes() == before


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_run_of_other_epochs_or_options_is_not_finished(tmp_path, dry_run):
    (tmp_path / "seed1").mkdir()
    some = a_run("step4_aug_lr", 1, dry_run=dry_run)
    some["recipe"] = VARIANTS["step4_aug_lr"].facts()["recipe"]
    (tmp_path / "seed1" / "step4_aug_lr.json").write_text(json.dumps(some))
    same = ["--dry-run"] if dry_run else []
    name, variant = "step4_aug_lr", VARIANTS["step4_aug_lr"]
    assert finished(name, variant, 1, tmp_path, same)
    for more in ([*same, "--epochs", "16"], [*same, "--batch-size", "64"], [] if dry_run else ["--dry-run"]):
        assert not finished(name, variant, 1, tmp_path, more), more
    process = run(*SWEEP, "--seeds", "1", "--out-dir", tmp_path, "--", *same)
    assert process.returncode == 0 and "step4_aug_lr.py" not in process.stdout
    assert len(process.stdout.splitlines()) == len(STEPS) - 1


@pytest.mark.parametrize("program", ["sweep", "compare", "claims", "report", "summary",
                                     "robustness", "frontier", "quantize"])
def test_an_unknown_option_is_one_line(program, assert_fails):
    recipes = ["step3_gap", "step4_aug_lr"] if program == "compare" else []
    main = importlib.import_module(f"study.{program}").main
    assert_fails(main, f"study.{program}", *recipes, "--no-such-thing", words=["--no-such-thing"])


@pytest.mark.parametrize("seeds", ["", "one", "1,2", "-1"])
def test_seeds_that_are_none(seeds, assert_fails):
    assert_fails(sweep.main, "study.sweep", f"--seeds={seeds}", words=["error: --seeds", repr(seeds)])
