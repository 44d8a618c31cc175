"""Each script as its user meets it: a process with arguments, output, files and an exit status."""
import argparse
import fcntl
import importlib
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios

import matplotlib.image
import pytest
import torch
from conftest import assert_one_line, environment, run, run_step, train

import common
from harness import cli
from harness.loader import Loader
from study.variants import LADDER, ROOT, STEPS

ENDINGS = [".log", ".json", ".png", "_mistakes.png", ".pt", ".ckpt"]


def files_in(folder):
    """The names of the files in `folder`, but for the lock that stays after a run."""
    return sorted(path.name for path in folder.iterdir() if not re.fullmatch(r"\.step\w+\.lock", path.name))


def checked_out():
    """The commit of the project; "" where it is no git repository."""
    return run("git", "rev-parse", "HEAD").stdout.strip()


@pytest.fixture(scope="module", params=STEPS)
def dry_run(request, data_dir, tmp_path_factory):
    """A finished dry run of each step: its name, its process, its folder."""
    folder = tmp_path_factory.mktemp(request.param)
    process = run_step(request.param, "--dry-run", "--epochs", 3, "--seed", 4,
                       "--data-dir", data_dir, "--out-dir", folder, "--device", "cpu")
    assert process.returncode == 0, process.stderr
    return request.param, process, folder


def test_files_are_those_promised(dry_run):
    step, _, folder = dry_run
    assert files_in(folder) == sorted(step + ending for ending in ENDINGS)


def test_log_is_what_was_printed_and_parses(dry_run):
    step, process, folder = dry_run
    log = (folder / f"{step}.log").read_text()
    assert log == process.stdout
    assert process.stderr == "" and "\r" not in log and "\x1b" not in log
    assert re.match(rf"\$ python .*{step}\.py --dry-run --epochs 3 --seed 4 .*\n"
                    r"seed 4, device cpu, .*Python 3\.\S+, torch \S+", log)
    epochs = re.findall(
        r"^EPOCH: (\d+)\nLearning rate: (\S+)\n"
        r"Loss=(\d+\.\d{4}) Batch_id=0 Accuracy=(\d+\.\d\d)\n"
        r"Test set: Average loss: (\d+\.\d{4}), Accuracy: (\d+)/125 \((\d+\.\d\d)%\)$", log, re.MULTILINE)
    history = json.loads((folder / f"{step}.json").read_text())["history"]
    assert [int(e[0]) for e in epochs] == [0, 1, 2]
    for printed, stored in zip(epochs, history, strict=True):
        assert float(printed[1]) == pytest.approx(stored["lr"], rel=1e-5)
        assert float(printed[3]) == pytest.approx(stored["train_accuracy"], abs=0.0051)
        assert float(printed[4]) == pytest.approx(stored["test_loss"], abs=5e-5)
        assert int(printed[5]) == round(1.25 * stored["test_accuracy"])

    for split in ("train", "test"):
        accuracies = [e[f"{split}_accuracy"] for e in history]
        top = max(accuracies)
        assert re.search(rf"^{split.title()} accuracy +{top:.2f} % \( {accuracies.index(top)}\)"
                         rf" +{accuracies[-1]:.2f} % \( 2\)$", log, re.MULTILINE)
    assert re.search(r"^Parameters: [\d,]+\nWall time: \d+\.\d s$", log, re.MULTILINE)


def test_json_is_complete(dry_run):
    step, process, folder = dry_run
    run = json.loads((folder / f"{step}.json").read_text())
    assert run["step"] == step and run["device"] == "cpu" and run["seconds"] > 0
    assert f"{run['parameters']:,}" in re.search("Total params: (.*)", process.stdout)[1]
    assert run["arguments"]["seed"] == 4 and run["arguments"]["dry_run"] is True
    assert {"python", "torch"} <= run["versions"].keys()
    assert run["commit"].removesuffix("-dirty") == checked_out()
    assert [e["epoch"] for e in run["history"]] == [0, 1, 2]
    for epoch in run["history"]:
        assert epoch.keys() >= {"epoch", "lr", "train_loss", "train_accuracy",
                                "test_loss", "test_accuracy", "seconds"}
        assert 0 <= epoch["test_accuracy"] <= 100 and 0 <= epoch["train_accuracy"] <= 100
    published = {"best_train_accuracy", "best_test_accuracy"} if step in LADDER else set()
    assert run["published"].keys() == published


def test_pictures_open_and_are_not_blank(dry_run):
    step, _, folder = dry_run
    for ending in (".png", "_mistakes.png"):
        pixels = matplotlib.image.imread(folder / f"{step}{ending}")[..., :3]
        assert pixels.shape[0] >= 200 and pixels.shape[1] >= 800
        assert (pixels < 0.5).any(axis=2).mean() > 0.005  # ink, not a frame alone


def test_weights_are_those_of_the_run(dry_run, tensors):
    step, _, folder = dry_run
    model = importlib.import_module(step).Net()
    model.load_state_dict(torch.load(folder / f"{step}.pt", weights_only=True))
    _, accuracy = common.test(model, Loader(tensors[2][:125], tensors[3][:125], 125))
    last = json.loads((folder / f"{step}.json").read_text())["history"][-1]
    assert accuracy == pytest.approx(last["test_accuracy"], abs=0.81)  # one image, for another thread count


def set_width(terminal, columns):
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))


@pytest.mark.slow
def test_bar_on_a_terminal_only_however_narrow(data_dir, tmp_path):
    ours, theirs = pty.openpty()
    set_width(theirs, 100)
    # A tenth of an epoch lasts long enough: tqdm draws no more than ten times a second.
    code = f"""import step1_basic
from harness import mnist
images, labels = mnist.load_training({str(data_dir)!r}, None)
mnist.load_training = lambda *_: (images[:6000], labels[:6000])
step1_basic.main(["--epochs", "1", "--batch-size", "100", "--data-dir", {str(data_dir)!r},
                  "--out-dir", {str(tmp_path)!r}])"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=theirs, stderr=theirs,
                               env=environment(TERM="xterm"))
    os.close(theirs)
    shown, narrowed = b"", None
    while True:
        try:
            shown += os.read(ours, 65536)
        except OSError:  # the terminal closes with the process
            break
        if narrowed is None and shown.count(b"Batch_id=") == 3:  # in the middle of the epoch
            set_width(ours, 40)
            narrowed = len(shown)
    os.close(ours)
    assert process.wait() == 0
    whole = rb" +\d+%\|\S+ *\| Loss=\d\.\d{4} Batch_id=(\d+) Accuracy=[\d.]+ \[\d\d:\d\d<\d\d:\d\d\]"
    assert re.search(whole, shown[:narrowed])
    # The first line after that clears what the wide one had left, with blanks.
    lines = shown[narrowed:].decode().split("\r")[2:]
    drawn = [line for line in lines if re.match(r" *\d+%\|", line)]
    assert len(set(drawn)) > 3 and all("| Loss=" in line for line in drawn)
    assert max(map(len, drawn)) <= 40
    log = (tmp_path / "step1_basic.log").read_text()
    assert "%|" not in log and "\r" not in log and log.count("Loss=") == 1


def test_help_names_every_option_and_its_default():
    process = run_step("step4_aug_lr", "--help")
    assert process.returncode == 0
    for option in ("epochs", "batch-size", "lr", "seed", "device", "data-dir", "out-dir", "dry-run",
                   "mirror", "resume", "dropout", "rotation", "step-size", "gamma"):
        assert f"--{option}" in process.stdout
    for default in ("15", "128", "0.1", "auto", "data", "results", "0.007", "7.0", "2", "0.6"):
        assert f"(default: {default})" in " ".join(process.stdout.split())


def test_main_takes_its_command_line_as_a_list(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["some_notebook", "--no-option-of-ours"])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module("step4_aug_lr").main(["--help"])
    assert ended.value.code == 0 and "--step-size" in capsys.readouterr().out


def test_a_step_imported_and_called(data_dir, tmp_path):
    arguments = ["--dry-run", "--epochs", "1", "--data-dir", str(data_dir), "--out-dir", str(tmp_path)]
    process = run(sys.executable, "-c", f"import step4_aug_lr; step4_aug_lr.main({arguments!r})")
    assert process.returncode == 0, process.stderr
    assert files_in(tmp_path) == sorted("step4_aug_lr" + ending for ending in ENDINGS)
    assert process.stdout == (tmp_path / "step4_aug_lr.log").read_text()


@pytest.mark.parametrize("arguments, words", [
    (["--epochs", "0"], ["--epochs", "'0'"]),
    (["--epochs", "-3"], ["--epochs"]),
    (["--epochs", "many"], ["--epochs", "'many'"]),
    (["--batch-size", "0"], ["--batch-size"]),
    (["--batch-size", "-1"], ["--batch-size"]),
    (["--lr", "0"], ["--lr"]),
    (["--lr", "-0.1"], ["--lr"]),
    (["--lr", "nan"], ["--lr"]),
    (["--lr", "inf"], ["--lr"]),
    (["--lr", "1e7"], ["--lr"]),
    (["--dropout", "1"], ["--dropout"]),
    (["--dropout", "-0.1"], ["--dropout"]),
    (["--rotation", "nan"], ["--rotation"]),
    (["--step-size", "0"], ["--step-size"]),
    (["--gamma", "0"], ["--gamma"]),
    (["--seed", str(2 ** 70)], ["--seed"]),
    (["--device", "toaster"], ["--device", "toaster"]),
    (["--device", "cuda:99"], ["--device"]),
    (["--epoch-count", "3"], ["--epoch-count"]),
])
def test_bad_arguments(arguments, words, assert_fails, tmp_path):
    main = importlib.import_module("step4_aug_lr").main
    assert_fails(main, "step4_aug_lr.py", *arguments, "--out-dir", str(tmp_path / "out"), words=words)
    assert not (tmp_path / "out").exists()


def test_a_gpu_that_torch_sees_but_cannot_use(monkeypatch, capsys):
    if torch.cuda.is_available():
        pytest.skip("torch can use this one")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)  # where there is no driver
    cli.device.cache_clear()
    assert cli.device("auto") == cli.device("auto") == torch.device("cpu")
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "torch cannot use cuda" in said[0] and "takes the CPU" in said[0]
    with pytest.raises(argparse.ArgumentTypeError, match="torch cannot use cuda:0"):
        cli.device("cuda:0")
    with pytest.raises(argparse.ArgumentTypeError, match="finds no cuda:1"):
        cli.device("cuda:1")


def test_absent_device(tmp_path):
    absent = [name for name, present in (("cuda", torch.cuda.is_available()),
                                         ("mps", torch.backends.mps.is_available())) if not present]
    assert absent  # no machine has both
    for name in absent:
        assert_one_line(run_step("step1_basic", "--device", name, "--out-dir", tmp_path), name)


@pytest.mark.parametrize("step", STEPS)
def test_every_step_checks_its_arguments(step):
    assert_one_line(run_step(step, "--lr", "0"), f"{step}.py: error:", "--lr")


def test_out_dir_that_cannot_be_written(data_dir, tmp_path):
    (tmp_path / "file").write_text("precious")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        assert_one_line(run_step("step1_basic", "--dry-run", "--data-dir", data_dir, "--out-dir", folder),
                        "--out-dir", folder)
    assert (tmp_path / "file").read_text() == "precious"


def test_a_picture_that_cannot_be_drawn_costs_a_line_and_nothing_else(data_dir, tmp_path):
    picture = tmp_path / "step1_basic.png"
    picture.mkdir()  # a folder where the picture should go
    arguments = ["--dry-run", "--epochs", 1, "--data-dir", data_dir, "--out-dir", tmp_path]
    process = run_step("step1_basic", *arguments)
    assert process.returncode == 0
    assert process.stderr.startswith(f"step1_basic.py: cannot draw {picture}: ")
    assert len(process.stderr.splitlines()) == 1
    assert process.stdout.endswith("step1_basic.log _mistakes.png .json .pt\n")
    assert process.stdout == (tmp_path / "step1_basic.log").read_text()
    assert files_in(tmp_path) == sorted("step1_basic" + ending for ending in ENDINGS)

    picture.rmdir()
    process = run_step("step1_basic", *arguments, "--resume")
    assert process.returncode == 0 and process.stderr == ""
    assert picture.is_file()


def test_pictures_are_the_same_whatever_matplotlib_is_told(data_dir, tmp_path):
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nfont.size: 40\nsavefig.bbox: tight\n")
    arguments = ["--dry-run", "--epochs", 2, "--data-dir", data_dir, "--out-dir"]
    # What a notebook hands to every process it starts may name a backend that is not installed there.
    told = run_step("step1_basic", *arguments, tmp_path / "told",
                    MPLBACKEND="absent", MATPLOTLIBRC=tmp_path / "matplotlibrc")
    assert told.returncode == 0 and told.stderr == ""
    assert run_step("step1_basic", *arguments, tmp_path / "plain").returncode == 0
    for ending in (".png", "_mistakes.png"):
        told, plain = ((tmp_path / name / f"step1_basic{ending}").read_bytes() for name in ("told", "plain"))
        assert told == plain


@pytest.mark.parametrize("old, new, words", [
    ("nn.Conv2d(10, 10, 7, bias=False)", "nn.Conv2d(10, 11, 7, bias=False)", "shape (128, 11)"),
    ("F.log_softmax(x.flatten(1), dim=1)", "F.log_softmax(x, dim=1)", "shape (128, 10, 1, 1)"),
    ("F.log_softmax(x.flatten(1), dim=1)", "(F.log_softmax(x.flatten(1), dim=1), x)", "a tuple"),
    ("x = self.last(x)", "x = self.last(x) if self.training else x", "shape (125, 490)"),
    ("x.flatten(1), dim=1)", "x.flatten(1), dim=1).new_empty(2 ** 50)", "out of memory"),
])
def test_a_network_that_cannot_train_is_one_line(old, new, words, data_dir, tmp_path, monkeypatch, capsys):
    text = (ROOT / "step1_basic.py").read_text()
    assert text.count(old) == 1
    (tmp_path / "step1_edited.py").write_text(text.replace(old, new))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "step1_edited", raising=False)
    with pytest.raises(SystemExit, match="1"):
        train(tmp_path / "out", "step1_edited", "--dry-run", "--data-dir", data_dir)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith("step1_edited.py: error: ") and words in said[0]
    assert re.search(r"shape \((128|125), 10\)|--batch-size", said[0])
    assert files_in(tmp_path / "out") == []


def test_diverging_loss_stops_and_keeps_the_log(data_dir, tmp_path):
    process = run_step("step1_basic", "--lr", "1e6", "--data-dir", data_dir, "--out-dir", tmp_path)
    assert_one_line(process, "epoch 0", "batch", "loss", "--lr", tmp_path / "step1_basic.log")
    assert files_in(tmp_path) == ["step1_basic.log"]
    log = (tmp_path / "step1_basic.log").read_text()
    assert "Total params: 10,970" in log and log.splitlines()[-1].startswith("error: epoch 0, batch")


@pytest.mark.slow
def test_earlier_results_survive_a_run_that_never_trains(data_dir, tmp_path):
    arguments = ["--dry-run", "--epochs", 1, "--out-dir", tmp_path, "--data-dir"]
    assert run_step("step1_basic", *arguments, data_dir).returncode == 0
    before = {name: (tmp_path / name).read_bytes() for name in files_in(tmp_path)}
    assert run_step("step1_basic", *arguments, "/dev/null").returncode == 1
    assert {name: (tmp_path / name).read_bytes() for name in files_in(tmp_path)} == before


def test_ctrl_c_is_one_line(data_dir, tmp_path):
    process = subprocess.Popen(
        [sys.executable, ROOT / "step1_basic.py", "--data-dir", data_dir, "--out-dir", tmp_path],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    for line in process.stdout:
        if line == "EPOCH: 0\n":
            process.send_signal(signal.SIGINT)
            break
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr.startswith("step1_basic.py: error: interrupted after 0 of 15 epochs")
    assert len(stderr.splitlines()) == 1
    assert files_in(tmp_path) == []
