"""The scripts on machines, on terminals and in folders of other kinds than ours."""
import contextlib
import importlib
import io
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from conftest import run, run_step

import common
from study.variants import ROOT, STEPS

BRIEFLY = ["--dry-run", "--epochs", "1"]
ENDINGS = [".ckpt", ".json", ".log", ".png", ".pt", "_mistakes.png"]


def assert_all_written(folder, step="step1_basic"):
    assert sorted(name for name in os.listdir(folder) if not name.startswith(".")) \
        == [step + ending for ending in ENDINGS]


def test_any_name_of_a_folder_on_any_terminal(data_dir, tmp_path):
    folder = os.fsdecode(b"-\xff \n[a]*it's $HOME/" + "результаты".encode())
    words = [ROOT / "step1_basic.py", *BRIEFLY, "--data-dir", data_dir, f"--out-dir={folder}"]
    # Python says where it is left to a locale how a file is encoded: in none of ours.
    process = run(sys.executable, "-X", "warn_default_encoding", *words, cwd=tmp_path,
                  PYTHONIOENCODING="cp1252")
    assert process.returncode == 0
    ours = re.escape(str(ROOT))
    assert not re.search(rf"{ours}/(step|common|harness)\S*: EncodingWarning", process.stderr)
    assert_all_written(tmp_path / folder)
    log = (tmp_path / folder / "step1_basic.log").read_bytes()
    name = folder.encode(errors="backslashreplace")
    assert log.endswith(b"Written: %b/step1_basic.log .png _mistakes.png .json .pt\n" % name)
    again = run(sys.executable, *words, "--resume", cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert again.returncode == 0 and again.stderr == "" and "finished before" in again.stdout
    wrong = run(sys.executable, *words, "--resume", "--lr", "9", cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert wrong.returncode == 1 and len(wrong.stderr.splitlines()) == 1 and "cannot resume" in wrong.stderr


def test_any_text_may_be_printed(first_6000, tmp_path, monkeypatch):
    step = importlib.import_module("step1_basic")
    monkeypatch.setattr(common, "summary", lambda model: print("lone \ud800, lost \udcff"))
    with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO(), "ascii", "backslashreplace")):
        step.main([*BRIEFLY, "--out-dir", str(tmp_path)])
    assert r"lone \ud800, lost \udcff" in (tmp_path / "step1_basic.log").read_text()


def test_a_copy_with_a_blank_in_its_name(tree, data_dir, tmp_path):
    shutil.copy(tree / "step1_basic.py", tree / "step1_basic copy.py")
    process = run(sys.executable, "step1_basic copy.py", *BRIEFLY, "--data-dir", data_dir,
                  "--out-dir", tmp_path / "out", cwd=tree)
    assert process.returncode == 0 and process.stderr == ""
    assert_all_written(tmp_path / "out", "step1_basic copy")


@pytest.mark.parametrize("step", STEPS)
def test_without_docstrings_as_under_python_OO(step, first_6000, tmp_path):
    script = ROOT / f"{step}.py"
    module = {"__name__": step, "__file__": str(script), "__doc__": None}
    exec(compile(script.read_bytes(), script, "exec", optimize=2), module)
    module["main"]([*BRIEFLY, "--out-dir", str(tmp_path)])
    assert_all_written(tmp_path, step)


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-"])
def test_closed_streams(closed, data_dir, tmp_path):
    command = ["sh", "-c", f'exec "$0" "$@" {closed}', sys.executable, ROOT / "step1_basic.py"]
    process = run(*command, *BRIEFLY, "--data-dir", data_dir, "--out-dir", tmp_path)
    assert process.returncode == 0 and process.stderr == ""
    assert_all_written(tmp_path)
    assert "Written: " in (tmp_path / "step1_basic.log").read_text()
    assert run(*command, "--lr", "0").returncode == 2


def test_a_folder_in_ones_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    args = common.command_line("A test.").parse_args(["--out-dir=~/results", "--data-dir=~/data"])
    assert (args.out_dir, args.data_dir) == ("/home/somebody/results", "/home/somebody/data")
    assert common.command_line("A test.").parse_args([]).out_dir == "results"


@pytest.mark.skipif(not shutil.which("taskset"), reason="there is no taskset")
def test_threads_are_counted_from_the_cores_that_a_process_may_use(data_dir, tmp_path):
    one_core = ["taskset", "-c", min(os.sched_getaffinity(0)), "env", "-u", "OMP_NUM_THREADS"]
    process = run(*one_core, sys.executable, ROOT / "step1_basic.py", *BRIEFLY,
                  "--data-dir", data_dir, "--out-dir", tmp_path)
    assert process.returncode == 0 and ", 1 CPU thread, " in process.stdout


def test_a_link_that_leads_nowhere_as_out_dir(data_dir, tmp_path):
    Path(tmp_path / "link").symlink_to(tmp_path / "gone")
    process = run_step("step1_basic", *BRIEFLY, "--data-dir", data_dir, "--out-dir", tmp_path / "link")
    assert process.returncode == 1 and len(process.stderr.splitlines()) == 1
    assert f"{tmp_path / 'link'} is a link to {tmp_path / 'gone'}, which is not there" in process.stderr
