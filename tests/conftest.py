"""What the tests share: the real MNIST, and the scripts run as processes."""
import importlib
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

# Tests run side by side, and torch's threads stall each other where there are more of them than cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import mnist

ROOT = Path(__file__).resolve().parent.parent
SHARE = max(1, (os.cpu_count() or 1) // 2)  # of the cores, for each of two
LADDER = ["step1_basic", "step2_dropout", "step3_gap", "step4_aug_lr"]  # the steps of S5
STEPS = [*LADDER, "step5_beyond"]


@pytest.fixture(scope="session")
def data_dir():
    """Absolute path of the folder that holds the real MNIST, downloaded if need be."""
    folder = (ROOT / os.environ.get("DATA_DIR", "data")).resolve()
    mnist.load(folder, os.environ.get("MNIST_MIRROR"))
    return folder


@pytest.fixture(scope="session")
def tensors(data_dir):
    """The real MNIST as `mnist.load` returns it."""
    return mnist.load(data_dir)


@pytest.fixture
def first_6000(tensors, monkeypatch):
    """Makes the steps see the first 6,000 training images and the first 2,000 test images."""
    some = tensors[0][:6000], tensors[1][:6000], tensors[2][:2000], tensors[3][:2000]
    monkeypatch.setattr(mnist, "load_training", lambda *_: some[:2])
    monkeypatch.setattr(mnist, "load_test", lambda *_: some[2:])
    return some


def network(step):
    """An untrained network of `step`, with some dropout where it has any."""
    net = importlib.import_module(step).Net
    return net(0.1) if "dropout" in inspect.signature(net).parameters else net()


def environment(**changes):
    """This process's environment without what `make` or a user may have set for our programs."""
    ours = {"EPOCHS", "SEED", "DEVICE", "DATA_DIR", "OUT_DIR", "ARGS", "PYTHON", "MNIST_MIRROR",
            "MAKEFLAGS", "MAKELEVEL", "MFLAGS", "VIRTUAL_ENV", "CONDA_PREFIX"}
    return {**{k: v for k, v in os.environ.items() if k not in ours}, **changes}


def run(*command, cwd=ROOT, **changes):
    """Run `command` in `cwd` and return the finished process, its stdout and stderr as text."""
    return subprocess.run([str(word) for word in command], cwd=cwd, env=environment(**changes),
                          capture_output=True, text=True, timeout=300)


def run_step(step, *arguments, **changes):
    """Run the script of `step` as a user does."""
    return run(sys.executable, ROOT / f"{step}.py", *arguments, **changes)


def assert_one_line(process, *words):
    """The process failed with one clear line on stderr that contains each of `words`."""
    assert process.returncode not in (0, None), process.stdout
    lines = process.stderr.splitlines()
    assert len(lines) == 1, process.stderr
    for word in words:
        assert str(word) in lines[0]


def a_run(step="step4_aug_lr", seed=1, test=(99.0,) * 5, train=99.0, eval=99.5, network="Net", mistakes=(), **changed):
    """What load_run returns for a run whose figures are known."""
    module = importlib.import_module(step)
    arguments = {**vars(module.command_line().parse_args([])), "device": "cpu", "seed": seed, **changed}
    return {"step": step, "network": network, "parameters": 7852, "multiply_adds": 900598, "arguments": arguments,
            "recipe": "0", "versions": {"torch": "2"}, "device": "cpu", "threads": 1, "machine": "a machine, 2 cores",
            "started": "2026-11-24T18:00:00+00:00", "seconds": 100 + seed, "published": module.S5,
            "train_accuracy_eval": eval, "mistakes": list(mistakes),
            "history": [{"epoch": i, "lr": 0.1, "train_loss": 0.1, "train_accuracy": train, "test_loss": 0.1,
                         "test_accuracy": accuracy, "seconds": 9.0} for i, accuracy in enumerate(test)]}
