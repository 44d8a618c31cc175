"""What the tests share: the real MNIST, and the scripts run as processes."""
import os
import subprocess
import sys
from pathlib import Path

import pytest

import mnist

ROOT = Path(__file__).resolve().parent.parent
STEPS = ["step1_basic", "step2_dropout", "step3_gap", "step4_aug_lr"]

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
    monkeypatch.setattr(mnist, "load", lambda *_: some)
    return some


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
