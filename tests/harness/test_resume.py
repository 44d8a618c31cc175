"""Runs that are killed, stopped, doubled, or find the disk full: nothing is lost, no figure changes."""
import importlib
import itertools
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import assert_one_line, environment, run, run_step, train

from harness import checkpoint, mnist
from study.variants import ROOT

EPOCHS = 30  # of one batch each: some two seconds
NUMBERS = itertools.count()
ENDINGS = (".log", ".json", ".png", "_mistakes.png", ".pt", ".ckpt")


def command(data_dir, folder, *more, step=ROOT / "step4_aug_lr.py", epochs=EPOCHS):
    return [sys.executable, step, "--dry-run", "--batch-size", 256, "--epochs", epochs,
            "--data-dir", data_dir, "--out-dir", folder, *more]


def start(words):
    """A process of its own, which gets SIGINT as one in a terminal does."""
    return subprocess.Popen([str(word) for word in words], cwd=ROOT, env=environment(), text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))


def wait_for(process, line):
    """Read what `process` prints up to `line`."""
    for printed in process.stdout:
        if printed.rstrip("\n") == line:
            return
    raise AssertionError(f"{line!r} never came: {process.stderr.read()}")


def figures(folder, step="step4_aug_lr"):
    """What must not depend on how often a run was stopped: history, log and weights, without the times."""
    run = json.loads((folder / f"{step}.json").read_text())
    history = [{key: value for key, value in epoch.items() if key != "seconds"} for epoch in run["history"]]
    log = (folder / f"{step}.log").read_text()
    log = re.sub(r"(Wall time:|Training took) .*", "", log.split("\n", 2)[2]).replace(str(folder), "")
    return history, log, (folder / f"{step}.pt").read_bytes()


def contents(folder):
    """The files in `folder` and what is in them, but for those of locks, which stay."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".lock"}


@pytest.fixture(scope="module")
def unstopped(data_dir, tmp_path_factory):
    """The folder of a run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("unstopped")
    process = run(*command(data_dir, folder))
    assert process.returncode == 0, process.stderr
    return folder


@pytest.fixture
def finished(unstopped, tmp_path):
    """A copy of it, to be spoilt."""
    return shutil.copytree(unstopped, tmp_path / "finished")


@pytest.fixture
def few_images(tensors, monkeypatch):
    """Makes the steps see 600 training images, five batches, and 1,000 test images."""
    some = tensors[0][:600], tensors[1][:600], tensors[2][:1000], tensors[3][:1000]
    monkeypatch.setattr(mnist, "load_training", lambda *_: some[:2])
    monkeypatch.setattr(mnist, "load_test", lambda *_: some[2:])
    return some


@pytest.fixture
def edited(few_images, tmp_path, monkeypatch):
    """A function that puts an edited copy of a step beside the others; returns its name, as train() takes it.

    Each of the `changes` is (old, new), where `old` is there once.
    """
    monkeypatch.syspath_prepend(tmp_path)

    def edit(step, *changes):
        text = (ROOT / f"{step}.py").read_text()
        for old, new in changes:
            assert text.count(old) == 1
            text = text.replace(old, new)
        name = f"edited_{next(NUMBERS)}"
        (tmp_path / f"{name}.py").write_text(text)
        return name
    return edit


# ------------------------------------------------------------------ repeatable


@pytest.mark.slow
def test_the_same_command_on_two_threads(data_dir, tmp_path):
    for folder in (tmp_path / "once", tmp_path / "again"):
        process = run_step("step4_aug_lr", "--data-dir", data_dir, "--out-dir", folder, "--epochs", 2,
                           "--dry-run", "--batch-size", 2000,  # large enough for both threads to have a part
                           OMP_NUM_THREADS="2")
        assert process.returncode == 0, process.stderr
    assert figures(tmp_path / "once") == figures(tmp_path / "again")


@pytest.mark.parametrize("step", ["step1_basic", "step4_aug_lr", "step5_beyond", "step6_fast",
                                  "step7_small"])
def test_the_same_command_gives_the_same_figures_and_weights(step, few_images, tmp_path):
    def make(name, seed):
        train(tmp_path / name, step, "--device", "cpu", "--epochs", 2, "--seed", seed)
        return figures(tmp_path / name, step)

    once, again, other = make("once", 7), make("again", 7), make("other", 8)
    assert once == again
    assert other[0] != once[0] and other[2] != once[2]


def test_the_number_of_test_images_does_not_touch_training(few_images, monkeypatch, tmp_path):
    train(tmp_path / "many", "step4_aug_lr", "--device", "cpu", "--epochs", 2)
    monkeypatch.setattr(mnist, "load_test", lambda *_: (few_images[2][:300], few_images[3][:300]))
    train(tmp_path / "few", "step4_aug_lr", "--device", "cpu", "--epochs", 2)
    many, few = figures(tmp_path / "many"), figures(tmp_path / "few")
    assert many[2] == few[2]
    assert many[0][-1]["test_accuracy"] != few[0][-1]["test_accuracy"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_the_same_command_on_a_gpu(data_dir, tmp_path):
    for folder in (tmp_path / "once", tmp_path / "again"):
        process = run_step("step4_aug_lr", "--epochs", 2, "--device", "cuda",
                           "--data-dir", data_dir, "--out-dir", folder)
        assert process.returncode == 0, process.stderr
    assert figures(tmp_path / "once") == figures(tmp_path / "again")


# ---------------------------------------------------------------------- resume


@pytest.mark.slow
def test_killed_at_random_moments_and_resumed(unstopped, data_dir, tmp_path):
    words = command(data_dir, tmp_path, "--resume")
    seed = random.randrange(10 ** 6)
    moments = random.Random(seed)
    ready = 0
    for _ in range(6):
        process = start(words)
        wait_for(process, f"EPOCH: {ready}")
        time.sleep(moments.uniform(0, 0.6))
        process.kill()
        process.communicate()
        if (tmp_path / "step4_aug_lr.ckpt").exists():
            ready = len(checkpoint.read(tmp_path / "step4_aug_lr.ckpt")["history"])
        assert ready < EPOCHS, f"seed {seed}: it was to be killed before its end"
    process = run(*words)
    assert process.returncode == 0, process.stderr
    assert ready == 0 or f"Going on after epoch {ready - 1}," in process.stdout
    ours, theirs = figures(tmp_path), figures(unstopped)
    assert ours == theirs, f"seed {seed}"
    assert sorted(contents(tmp_path)) == sorted(f"step4_aug_lr{ending}" for ending in ENDINGS)


def test_killed_while_writing_the_results(unstopped, finished, data_dir):
    saved = checkpoint.read(finished / "step4_aug_lr.ckpt")
    checkpoint.write(finished / "step4_aug_lr.ckpt", {**saved, "finished": False})  # as before the pictures
    for ending in (".json", "_mistakes.png"):
        (finished / f"step4_aug_lr{ending}").unlink()
    (finished / ".step4_aug_lr.png.123.incomplete").write_bytes(b"half a picture")
    process = run(*command(data_dir, finished, "--resume"))
    assert process.returncode == 0, process.stderr
    assert figures(finished) == figures(unstopped)
    assert sorted(contents(finished)) == sorted(f"step4_aug_lr{ending}" for ending in ENDINGS)


def test_a_finished_run_says_so(finished, data_dir):
    before = contents(finished)
    process = run(*command("/nowhere", finished, "--resume"))
    assert process.returncode == 0 and process.stderr == ""
    assert len(process.stdout.splitlines()) == 1
    assert "finished before" in process.stdout and f"{EPOCHS} epochs" in process.stdout
    assert contents(finished) == before


@pytest.mark.slow
def test_more_epochs(unstopped, data_dir, tmp_path):
    assert run(*command(data_dir, tmp_path, epochs=9)).returncode == 0
    process = run(*command(data_dir, tmp_path, "--resume"))
    assert process.returncode == 0, process.stderr
    (ours, log, weights), (theirs, _, whole_weights) = figures(tmp_path), figures(unstopped)
    assert ours == theirs and weights == whole_weights
    assert re.findall(r"^EPOCH: (\d+)", log, re.MULTILINE) == [str(i) for i in range(EPOCHS)]
    assert log.count("Parameters: ") == 1 and f"--epochs {EPOCHS}" in log
    assert json.loads((tmp_path / "step4_aug_lr.json").read_text())["arguments"]["epochs"] == EPOCHS


LOOP = """\
            train_result = common.train(model, train_loader, optimizer)
            test_result = common.test(model, test_loader)
            scheduler.step()
            run.log(train_result, test_result)
"""
LOOPS = {"epoch": LOOP, "batch": LOOP.replace("            scheduler.step()\n", "").replace(
    "loader, optimizer)", "loader, optimizer, scheduler)"),
    "metric": LOOP.replace("scheduler.step()", "scheduler.step(test_result[0])")}
SGD = "optim.SGD(model.parameters(), lr=args.lr, momentum=0.9)"
ADAM = "optim.Adam(model.parameters(), lr=args.lr)"
STEP_LR = "StepLR(optimizer, step_size=args.step_size, gamma=args.gamma)"
COSINE = "optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=args.epochs)"
ONE_CYCLE = ("optim.lr_scheduler.OneCycleLR(optimizer, max_lr=args.lr, epochs=args.epochs, "
             "steps_per_epoch=len(train_loader))")
PLATEAU = "optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=9)"
# In an odd epoch: the learning rate falls after every second one.
KILLED = "            if epoch == 1 and not args.resume: raise RuntimeError('killed')\n"


def assert_resumes(name, tmp_path, epochs=3):
    """The edited step `name`, killed where it says so and gone on with, ends as if nothing had happened."""
    with pytest.raises(RuntimeError, match="killed"):
        train(tmp_path / "killed", name, "--device", "cpu", "--epochs", epochs)
    train(tmp_path / "killed", name, "--device", "cpu", "--epochs", epochs, "--resume")
    train(tmp_path / "unstopped", name, "--device", "cpu", "--epochs", epochs, "--resume")
    assert figures(tmp_path / "killed", name) == figures(tmp_path / "unstopped", name)


@pytest.mark.parametrize("order, where", [
    ((0, 1, 2, 3), 0), ((0, 1, 2, 3), 4), ((0, 1, 3, 2), 3), ((0, 1, 3, 2), 4), ((0, 2, 1, 3), 4),
    ((1, 0, 3, 2), 4), ((2, 1, 0, 3), 4)])
@pytest.mark.filterwarnings("ignore:Detected call of")  # of scheduler.step() before optimizer.step()
def test_the_lines_of_the_loop_may_be_in_any_order(order, where, edited, tmp_path):
    lines = LOOP.splitlines(keepends=True)
    lines = [lines[i] for i in order]
    lines.insert(where, KILLED)
    assert_resumes(edited("step4_aug_lr", (LOOP, "".join(lines))), tmp_path)


@pytest.mark.parametrize("optimizer, scheduler, by", [
    (ADAM, STEP_LR, "epoch"), (SGD, COSINE, "epoch"), (ADAM, COSINE, "epoch"),
    (SGD, ONE_CYCLE, "batch"), (ADAM, ONE_CYCLE, "batch"), (SGD, PLATEAU, "metric")])
def test_any_of_torchs_optimizers_and_schedules_resumes(optimizer, scheduler, by, edited, tmp_path):
    changes = (SGD, optimizer), (STEP_LR, scheduler), (LOOP, LOOPS[by] + KILLED)
    assert_resumes(edited("step4_aug_lr", *changes), tmp_path)


def test_whatever_random_numbers_an_augmentation_draws(edited, tmp_path):
    augment = "lambda images: images * random.random() + np.random.rand() / 9"
    name = edited("step4_aug_lr", ("common.RandomRotation(args.rotation)", augment), (LOOP, LOOP + KILLED),
                  ("import common\n", "import random\nimport numpy as np\nimport common\n"))
    assert_resumes(name, tmp_path)


def test_whatever_else_is_handed_over(edited, tmp_path):
    start = "        for epoch in run"
    average = "        ema = optim.swa_utils.AveragedModel(model, avg_fn=lambda a, b, n: 0.9 * a + 0.1 * b)\n"
    loop = LOOP + "            ema.update_parameters(model)\n" + KILLED
    name = edited("step4_aug_lr", (LOOP, loop), (start, average + start),
                  ("epochs(model, optimizer, scheduler)", "epochs(model, optimizer, scheduler, ema)"),
                  ("run.finish(model,", "run.finish(ema,"))
    assert_resumes(name, tmp_path)


def test_a_run_that_could_not_be_resumed_says_so_at_once(edited, tmp_path, capsys):
    table = "        scheduler.table = torch.arange(3).numpy()\n"
    name = edited("step4_aug_lr", ("        for epoch in run", table + "        for epoch in run"),
                  ("import common\n", "import common, torch\n"))
    train(tmp_path / "out", name, "--epochs", 2)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "this run cannot be resumed" in said[0]


def test_figures_of_ones_own_that_are_no_numbers_end_the_run(edited, tmp_path, capsys):
    name = edited("step4_aug_lr", ("            run.log(train_result, test_result)\n",
                                   "            run.log((float('nan'), 9.0), test_result) if epoch else "
                                   "run.log((torch.tensor(2.0), np.float32(9)), test_result)\n"),
                  ("import common\n", "import common, numpy as np, torch\n"))
    with pytest.raises(SystemExit, match="3"):
        train(tmp_path / "out", name, "--epochs", 2)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "epoch 1, its train_loss became nan" in said[0]
    history = checkpoint.read(tmp_path / "out" / f"{name}.ckpt")["history"]
    assert [(epoch["train_loss"], epoch["train_accuracy"]) for epoch in history] == [(2, 9)]


@pytest.mark.parametrize("schedule, by", [
    ("optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1 - epoch / args.epochs)", "epoch"),
    (COSINE, "epoch"), (ONE_CYCLE, "batch")])
def test_a_schedule_over_all_epochs_is_that_of_the_new_number(schedule, by, edited, tmp_path):
    name = edited("step4_aug_lr", (STEP_LR, schedule), (LOOP, LOOPS[by]))
    lrs = {}
    for folder, epochs, more in (("a", 8, ()), ("b", 4, ()), ("b", 8, ("--resume",))):
        history = train(tmp_path / folder, name, "--device", "cpu", "--epochs", epochs, *more)
        lrs[folder, epochs] = [epoch["lr"] for epoch in history]
    assert lrs["b", 8] == lrs["b", 4] + lrs["a", 8][4:]
    assert lrs["b", 4][3] < 0.6 * lrs["a", 8][3]


@pytest.mark.parametrize("line", ["        model.shifts = common.SHIFTS[:1]", "        run.finish("])
def test_step_5_killed_after_its_last_epoch_still_says_what_one_look_gives(line, edited, tmp_path):
    killed = "        if not args.resume: raise RuntimeError('killed')\n"
    name = edited("step5_beyond", (line, killed + line))
    assert_resumes(name, tmp_path, epochs=2)
    log = (tmp_path / "killed" / f"{name}.log").read_text()
    assert len(re.findall("Without test-time augmentation:\nTest set: Average loss", log)) == 1


def test_step_6_resumes_with_its_own_optimizer(edited, tmp_path):
    line = "            start = time.perf_counter()\n"
    assert_resumes(edited("step6_fast", (line, KILLED + line)), tmp_path)


def test_an_epoch_without_its_figures_is_the_programmers_mistake(edited, tmp_path):
    name = edited("step4_aug_lr", ("            run.log(train_result, test_result)\n", ""))
    with pytest.raises(RuntimeError, match="run.log"):
        train(tmp_path / "out", name, "--epochs", 2)
    assert contents(tmp_path / "out") == {}


def test_an_error_of_the_programmers_shows_its_traceback(edited, tmp_path):
    name = edited("step4_aug_lr", (LOOP, LOOP + "            open('/nowhere/at/all')\n"))
    with pytest.raises(FileNotFoundError):
        train(tmp_path / "out", name, "--epochs", 2)


@pytest.mark.parametrize("early", [LOOP + "            if epoch == 2: break\n",
                                   "            if epoch == 3: break\n" + LOOP])
def test_a_loop_left_by_break_is_a_finished_run(early, edited, tmp_path, capsys):
    name = edited("step4_aug_lr", (LOOP, early))
    assert len(train(tmp_path / "out", name, "--epochs", 6)) == 3
    before = contents(tmp_path / "out")
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        train(tmp_path / "out", name, "--epochs", 6, "--resume")
    assert not end.value.code and "finished before" in capsys.readouterr().out
    assert contents(tmp_path / "out") == before


def test_nothing_to_resume(data_dir, tmp_path):
    process = run(*command(data_dir, tmp_path, "--resume", epochs=1))
    assert process.returncode == 0 and "EPOCH: 0" in process.stdout, process.stderr


@pytest.mark.parametrize("change, word", [
    (["--lr", "0.2"], "--lr"), (["--seed", "2"], "--seed"), (["--batch-size", "100"], "--batch-size"),
    (["--dropout", "0"], "--dropout"), (["--rotation", "8"], "--rotation"), (["--gamma", "0.5"], "--gamma"),
    (["--epochs", str(EPOCHS - 1)], "--epochs")])
def test_another_experiment_is_not_resumed(change, word, finished, data_dir):
    before = contents(finished)
    assert_one_line(run(*command(data_dir, finished, "--resume", *change)), "cannot resume", word, "ckpt")
    assert contents(finished) == before


@pytest.mark.parametrize("old, new, refused", [
    ("nn.Conv2d(8, 26, 3, bias=False)", "nn.Conv2d(8, 26, 3, bias=False, padding_mode='reflect')", True),
    ("momentum=0.9", "momentum=0.8", True),
    ("# one score per digit", "# ten scores", False)])
def test_a_changed_script_is_not_resumed_a_changed_comment_is(old, new, refused, edited, tmp_path, capsys):
    name = edited("step4_aug_lr")
    train(tmp_path / "out", name, "--epochs", 1)
    before = contents(tmp_path / "out")
    changed = edited("step4_aug_lr", (old, new))
    (tmp_path / f"{changed}.py").rename(tmp_path / f"{name}.py")
    del sys.modules[name]
    importlib.invalidate_caches()
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        train(tmp_path / "out", name, "--epochs", 1, "--resume")
    said = capsys.readouterr()
    if refused:
        assert end.value.code == 1 and "cannot resume" in said.err and "has changed" in said.err
    else:
        assert not end.value.code and "finished" in said.out
    assert contents(tmp_path / "out") == before


def test_other_threads_would_round_otherwise(finished, data_dir):
    path = finished / "step4_aug_lr.ckpt"
    saved = checkpoint.read(path)
    checkpoint.write(path, {**saved, "facts": {**saved["facts"], "threads": saved["facts"]["threads"] + 1}})
    before = contents(finished)
    assert_one_line(run(*command(data_dir, finished, "--resume")), "cannot resume",
                    f"OMP_NUM_THREADS={saved['facts']['threads'] + 1}")
    assert contents(finished) == before


def test_another_version_of_torch_would_round_otherwise(finished, data_dir):
    path = finished / "step4_aug_lr.ckpt"
    saved = checkpoint.read(path)
    checkpoint.write(path, {**saved, "facts": {**saved["facts"], "versions": {"torch": "1.0"}}})
    assert_one_line(run(*command(data_dir, finished, "--resume")), "cannot resume", "1.0", torch.__version__)


@pytest.mark.parametrize("damage", ["a byte", "cut off", "empty", "weights", "folder"])
def test_a_damaged_checkpoint_is_refused(damage, finished, data_dir):
    path = finished / "step4_aug_lr.ckpt"
    good = path.read_bytes()
    if damage == "a byte":
        path.write_bytes(good[:5000] + bytes([good[5000] ^ 1]) + good[5001:])
    if damage == "cut off":
        path.write_bytes(good[:-100])
    if damage == "empty":
        path.write_bytes(b"")
    if damage == "weights":
        shutil.copy(finished / "step4_aug_lr.pt", path)
    if damage == "folder":
        path.unlink()
        path.mkdir()
    log, names = finished / "step4_aug_lr.log", {path.name for path in finished.iterdir()}
    before = log.read_bytes()
    assert_one_line(run(*command(data_dir, finished, "--resume")), "cannot resume", path)
    assert log.read_bytes() == before and {path.name for path in finished.iterdir()} == names


# --------------------------------------------------------------------- signals


@pytest.mark.slow
@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_says_how_to_go_on(number, status, unstopped, data_dir, tmp_path):
    process = start(command(data_dir, tmp_path))
    wait_for(process, "EPOCH: 5")
    process.send_signal(number)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == status
    done = len(checkpoint.read(tmp_path / "step4_aug_lr.ckpt")["history"])
    assert done >= 5
    assert len(stderr.splitlines()) == 1 and "--resume" in stderr
    assert re.search(rf"interrupted after {done} of {EPOCHS} epochs;", stderr)
    log = (tmp_path / "step4_aug_lr.log").read_text()
    assert log.splitlines()[-1].startswith("error: interrupted")
    assert sorted(contents(tmp_path)) == ["step4_aug_lr.ckpt", "step4_aug_lr.log"]

    process = start(command(data_dir, tmp_path, "--resume"))
    while not process.stdout.readline().startswith("Going on after"):
        assert process.poll() is None  # not before: a library that is being imported may swallow a signal
    process.send_signal(number)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == status, stderr
    assert "--resume goes on" in stderr and len(stderr.splitlines()) == 1
    assert run(*command(data_dir, tmp_path, "--resume")).returncode == 0
    assert figures(tmp_path) == figures(unstopped)


def test_stopped_before_it_has_got_to_where_it_was(edited, tmp_path, monkeypatch, capsys):
    start = "        for epoch in run"
    stop = "        if args.resume: raise KeyboardInterrupt\n"
    name = edited("step4_aug_lr", (LOOP, LOOP + KILLED), (start, stop + start))
    arguments = [tmp_path / "out", name, "--epochs", 3]
    with pytest.raises(RuntimeError, match="killed"):
        train(*arguments)
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)  # as at a prompt, which lives on
    before = signal.getsignal(signal.SIGINT), contents(tmp_path / "out")
    with pytest.raises(SystemExit, match="130"):
        train(*arguments, "--resume")
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "interrupted after 1 of 3 epochs; the same command with --resume goes on" in said[0]
    assert before == (signal.getsignal(signal.SIGINT), contents(tmp_path / "out"))


def test_stopped_before_an_epoch_was_complete(data_dir, tmp_path):
    process = start([sys.executable, "step1_basic.py", "--data-dir", data_dir, "--out-dir", tmp_path])
    wait_for(process, "EPOCH: 0")
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 143
    assert stderr == ("step1_basic.py: error: interrupted after 0 of 15 epochs; no epoch is complete, "
                      "so nothing was written\n")
    assert contents(tmp_path) == {}


def test_nobody_reads_the_output_any_more(data_dir, tmp_path):
    process = start(command(data_dir, tmp_path))
    wait_for(process, "EPOCH: 3")
    process.stdout.close()
    stderr = process.stderr.read()
    assert process.wait(timeout=30) == 1
    assert len(stderr.splitlines()) == 1 and "Broken pipe" in stderr
    assert checkpoint.read(tmp_path / "step4_aug_lr.ckpt")


# ----------------------------------------------------------------- two at once


@pytest.mark.slow
def test_a_second_process_is_refused_while_the_first_lives(data_dir, tmp_path):
    first = start(command(data_dir, tmp_path, epochs=10_000))
    wait_for(first, "EPOCH: 1")
    first.send_signal(signal.SIGSTOP)  # it lives, and leaves the cores to the others
    for more in ((), ("--resume",)):
        assert_one_line(run(*command(data_dir, tmp_path, *more, epochs=10_000)), "another process", tmp_path)
    other = run_step("step1_basic", "--dry-run", "--epochs", 1, "--data-dir", data_dir, "--out-dir", tmp_path)
    assert other.returncode == 0, other.stderr  # another step may share the folder
    assert first.poll() is None
    first.kill()
    first.communicate()
    process = run(*command(data_dir, tmp_path, epochs=1))
    assert process.returncode == 0, process.stderr


# ----------------------------------------------- disk full, folder gone, no permission


def assert_lost_nothing(process, data_dir, folder, unstopped, word):
    """The run ended in one line, its last checkpoint is good, and it can be gone on with to the same end."""
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert len(stderr.splitlines()) == 1 and word in stderr, stderr
    assert len(checkpoint.read(folder / "step4_aug_lr.ckpt")["history"]) >= 3
    assert not list(folder.glob(".*.incomplete"))
    log = (folder / "step4_aug_lr.log").read_text()
    assert log.endswith("\n") and "EPOCH: 2" in log


@pytest.mark.slow
def test_disk_full(unstopped, data_dir, tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    mount = run("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder)
    if mount.returncode:
        pytest.skip(f"no small disk to be had: {mount.stderr.strip()}")
    try:
        process = start(command(data_dir, folder))
        wait_for(process, "EPOCH: 3")
        with pytest.raises(OSError), open(folder / "filler", "wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))
        assert_lost_nothing(process, data_dir, folder, unstopped, "No space left")
        (folder / "filler").unlink()
        assert run(*command(data_dir, folder, "--resume")).returncode == 0
        assert figures(folder) == figures(unstopped)
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="only Linux limits another process")
def test_file_size_limit(unstopped, data_dir, tmp_path):
    process = start(command(data_dir, tmp_path))
    wait_for(process, "EPOCH: 3")
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1000, 1000))
    assert_lost_nothing(process, data_dir, tmp_path, unstopped, "File too large")
    assert run(*command(data_dir, tmp_path, "--resume")).returncode == 0
    assert figures(tmp_path) == figures(unstopped)


def test_folder_gone(data_dir, tmp_path):
    folder = tmp_path / "out"
    process = start(command(data_dir, folder))
    wait_for(process, "EPOCH: 3")
    folder.rename(tmp_path / "elsewhere")
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert len(stderr.splitlines()) == 1 and str(folder) in stderr
    assert len(checkpoint.read(tmp_path / "elsewhere" / "step4_aug_lr.ckpt")["history"]) >= 3


@pytest.mark.slow
def test_no_permission(data_dir, tmp_path):
    mortal = []
    if os.geteuid() == 0:  # permissions do not bind root, unless it gives up that privilege
        mortal = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
        if not shutil.which("setpriv") or run(*mortal, "true").returncode:
            pytest.skip("run by root, and setpriv cannot take its privileges away")
    process = start([*mortal, *command(data_dir, tmp_path)])
    wait_for(process, "EPOCH: 3")
    tmp_path.chmod(0o555)
    _, stderr = process.communicate(timeout=60)
    before = sorted(contents(tmp_path))
    again = run(*mortal, *command(data_dir, tmp_path, "--resume"))
    tmp_path.chmod(0o755)
    assert process.returncode == 1
    assert len(stderr.splitlines()) == 1 and "Permission denied" in stderr
    assert len(checkpoint.read(tmp_path / "step4_aug_lr.ckpt")["history"]) >= 3
    assert (tmp_path / "step4_aug_lr.log").read_text().endswith("\n")
    assert_one_line(again, "--out-dir", "Permission denied")
    assert sorted(contents(tmp_path)) == before
