"""What the tests share: the real MNIST, and the scripts run as processes."""
import html
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

# Tests run side by side, and torch's threads stall each other where there are more of them than cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from harness import cli, mnist  # noqa: E402  (after the number of threads)
from study.variants import ROOT  # noqa: E402


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


@pytest.fixture
def tree(tmp_path):
    """A copy of the project without data, results, runs or environment."""
    return shutil.copytree(ROOT, tmp_path / "copy", ignore=shutil.ignore_patterns(
        ".git", ".venv", "data", "results", "runs", "__pycache__", ".*_cache", ".hypothesis"))


def train(folder, step, *arguments):
    """Run the main() of `step` in this process, on whatever `mnist` gives; returns the history."""
    importlib.import_module(step).main(["--out-dir", str(folder), *map(str, arguments)])
    return json.loads((folder / f"{step}.json").read_text())["history"]


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


@pytest.fixture
def assert_fails(monkeypatch, capsys):
    """As assert_one_line, for a program's `main` that is called here, in less time than a process takes."""
    def check(main, name, *arguments, words):
        monkeypatch.setattr(sys.modules["__main__"], "__spec__", SimpleNamespace(name=name), raising=False)
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.run(main)
        (line,) = capsys.readouterr().err.splitlines()
        assert ended.value.code and line.startswith(f"{name}: error: ")
        for word in words:
            assert word in line
    return check


def in_chromium(page, folder, probe, size=(1000, 800)):
    """What the script `probe` returns at the end of the HTML `page`; the test is skipped without Chromium.

    `folder` takes the page, and a profile for the browser; `size` is that of the window in pixels.
    """
    names = "chromium", "chromium-browser", "google-chrome"
    browser = next((path for name in names if (path := shutil.which(name))), None)
    if not browser:
        pytest.skip("no Chromium on this machine")
    path = folder / "elsewhere" / "page.html"  # away from other files: it must need none
    path.parent.mkdir(exist_ok=True)
    path.write_text(page.replace("</html>", f"""<script>onload = () => (async () => {{ {probe} }})().then(
        found => document.documentElement.setAttribute("data-found", JSON.stringify(found)),
        error => document.documentElement.setAttribute("data-found", JSON.stringify(String(error.stack))))
        </script></html>"""))
    process = subprocess.run(
        [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
         f"--window-size={size[0]},{size[1]}", f"--user-data-dir={folder / 'profile'}",
         "--virtual-time-budget=5000", "--dump-dom", path.as_uri()],
        capture_output=True, text=True, timeout=120)
    found = re.search(r'data-found="(.+?)"', process.stdout)
    assert found, process.stderr
    return json.loads(html.unescape(found[1]))


def a_run(step="step4_aug_lr", seed=1, test=(99.0,) * 5, train=99.0, eval=99.5, network="Net", mistakes=(),
          **changed):
    """What record.read returns for a run whose figures are known."""
    module = importlib.import_module(step)
    arguments = {**vars(module.command_line().parse_args([])), "device": "cpu", "seed": seed, **changed}
    return {"step": step, "network": network, "parameters": 7852, "multiply_adds": 900598,
            "arguments": arguments, "recipe": "0", "versions": {"torch": "2"}, "device": "cpu", "threads": 1,
            "machine": "a machine, 2 cores", "started": "2026-11-24T18:00:00+00:00", "seconds": 100 + seed,
            "published": module.S5, "train_accuracy_eval": eval, "mistakes": list(mistakes),
            "history": [{"epoch": i, "lr": 0.1, "train_loss": 0.1, "train_accuracy": train, "test_loss": 0.1,
                         "test_accuracy": accuracy, "seconds": 9.0} for i, accuracy in enumerate(test)]}
