"""The programs where names, locale, interpreter and terminal are not the usual ones."""
import json
import os
import re
import shlex
import subprocess
import sys

import pytest
from conftest import a_run, environment, run

from study.variants import ROOT

ODD = os.fsdecode(b"-x [a]*\"'$HOME\n" + b"\xff" * (sys.platform != "darwin"))  # where names have to be text
UNUSUAL = {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1", "PYTHONIOENCODING": "ascii"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with an unusual name and runs for all programs in it."""
    folder = tmp_path_factory.mktemp("odd") / ODD
    for place, some in ((".", a_run("step1_basic")), ("seed1", a_run("step1_basic", 1)),
                        ("seed2", a_run("step1_basic", 2)),
                        ("frontier/seed1/step5_width_1", a_run("step5_beyond"))):
        (folder / place).mkdir(parents=True, exist_ok=True)
        (folder / place / f"{some['step']}.json").write_text(json.dumps(some))
    return folder


def words_of(program, folder, *options):
    return [sys.executable, *options, "-m", f"study.{program}", f"--out-dir={folder.name}"]


@pytest.mark.parametrize("program, says, files", [
    ("summary", "| step1_basic", ["summary.md", "summary.png"]),
    ("report", "Written: -x [a]*", ["report.md", "report.html"]),
    ("claims", r" 0.000 \xb1 0.000 ", [])])
def test_names_and_characters_that_the_terminal_lacks(program, says, files, folder):
    process = run(*words_of(program, folder, "-X", "warn_default_encoding"), cwd=folder.parent, **UNUSUAL)
    assert process.returncode == 0, process.stderr
    assert says in process.stdout
    # Nowhere is it left to the locale how text becomes bytes.
    assert not re.search(rf"^{re.escape(str(ROOT))}/(\w+/)?\w+\.py:.*EncodingWarning", process.stderr, re.M)
    assert all((folder / name).stat().st_size for name in files)


def test_printed_commands_have_names_byte_for_byte(folder):
    process = subprocess.run(words_of("sweep", folder), cwd=folder.parent, env=environment(**UNUSUAL),
                             stdout=subprocess.PIPE, check=True)
    assert f"{folder}/seed1" in shlex.split(os.fsdecode(process.stdout))


def test_nobody_is_listening(folder):
    process = run("sh", "-c", 'exec "$@" >&- 2>&-', "sh", *words_of("frontier", folder),
                  cwd=folder.parent, **UNUSUAL)
    assert process.returncode == 0 and (folder / "frontier.png").exists()
