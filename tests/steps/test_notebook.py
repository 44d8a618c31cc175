"""The steps in a notebook: imported, run, pasted into a cell, edited there, in a thread."""
import json
import re
import sys

import nbclient
import nbformat
import pytest
from conftest import run

from study.variants import ROOT

PASTED = (ROOT / "step4_aug_lr.py").read_text(encoding="utf-8")
BRIEFLY = "['--dry-run', '--epochs', '1']"
FEW_IMAGES = """
import sys; sys.path.insert(0, {root!r})
from harness import mnist
images, labels, test_images, test_labels = mnist.load({data!r})
mnist.load_training = lambda *_: (images[:600], labels[:600])
mnist.load_test = lambda *_: (test_images[:500], test_labels[:500])
"""
CELLS = {
    "no arguments": "import step4_aug_lr; step4_aug_lr.main()",  # 15 epochs of a hundredth of the images
    "arguments": f"step4_aug_lr.main({BRIEFLY})",
    "bad arguments": "step4_aug_lr.main(['--lr', '0'])",
    "script": "%run {root}/step2_dropout.py --dry-run --epochs 1 --data-dir {data}",
    "thread": f"""
import threading
thread = threading.Thread(target=step4_aug_lr.main, args=({BRIEFLY},))
thread.start(); thread.join()""",
    "pasted": PASTED.replace("    main()\n", f"    main({BRIEFLY})\n"),
    "resumed": f"main({BRIEFLY} + ['--resume'])",
    "another network": f"""
class Net(Net):
    def forward(self, x):
        return super().forward(-x)
main({BRIEFLY} + ['--resume'])""",
    "interrupted": f"""
import common, signal
def interrupted(*_): signal.raise_signal(signal.SIGINT)
common.train, kept = interrupted, common.train
before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
try: main({BRIEFLY})
finally: common.train = kept""",
    "afterwards": """
print(before == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)))
import matplotlib; print(matplotlib.get_backend())""",
}


@pytest.fixture(scope="module")
def notebook(data_dir, tmp_path_factory):
    """A notebook that has run: what each cell printed, by the names above, and the folder it ran in."""
    folder = tmp_path_factory.mktemp("notebook")

    def cell(code):
        return nbformat.v4.new_code_cell(code.replace("{root}", str(ROOT)).replace("{data}", str(data_dir)))

    first = cell(FEW_IMAGES.format(root=str(ROOT), data=str(data_dir)))
    cells = {name: cell(code) for name, code in CELLS.items()}
    client = nbclient.NotebookClient(nbformat.v4.new_notebook(cells=[first, *cells.values()]), timeout=300,
                                     allow_errors=True, resources={"metadata": {"path": str(folder)}})
    client.execute()
    return {name: cell.outputs for name, cell in cells.items()}, folder


def printed(outputs, stream="stdout"):
    return "".join(output.text for output in outputs if output.get("name") == stream)


def assert_ran(outputs):
    assert not [output.evalue for output in outputs if output.output_type == "error"]
    assert re.search(r"^Written: results/\S+\.log \.png _mistakes\.png \.json \.pt$", printed(outputs), re.M)


def test_imported_and_called(notebook):
    outputs, folder = notebook
    assert_ran(outputs["no arguments"])
    head = printed(outputs["no arguments"]).splitlines()[0]
    assert head.startswith("In a notebook, with epochs=15 batch_size=128 seed=1 ")
    assert "EPOCH: 14" in printed(outputs["no arguments"])
    assert_ran(outputs["arguments"])
    assert "EPOCH: 1\n" not in printed(outputs["arguments"])
    assert json.loads((folder / "results" / "step4_aug_lr.json").read_text())["step"] == "step4_aug_lr"


def test_bar(notebook):
    assert re.search(r"\d+%\|.*\| Loss=", printed(notebook[0]["no arguments"], "stderr"))


def test_bad_arguments_are_one_line(notebook):
    said = printed(notebook[0]["bad arguments"], "stderr").splitlines()
    assert said[0] == "notebook: error: argument --lr: '0' is not a number above 0, and at most 1,000,000"


def test_a_script_that_is_run_has_a_head_that_repeats_it(notebook, data_dir):
    outputs, _ = notebook
    assert_ran(outputs["script"])
    head = printed(outputs["script"]).splitlines()[0]
    assert head == f"$ python {ROOT}/step2_dropout.py --dry-run --epochs 1 --data-dir {data_dir}"


def test_ipython_merely_imported_is_no_notebook(data_dir, tmp_path):
    code = "import IPython, step1_basic; step1_basic.main()"
    process = run(sys.executable, "-c", code, "--dry-run", "--epochs", 1, "--data-dir", data_dir,
                  "--out-dir", tmp_path)
    assert process.returncode == 0 and process.stdout.startswith("$ python -c ")
    assert (tmp_path / "step1_basic.json").exists()


def test_in_a_thread(notebook):
    assert_ran(notebook[0]["thread"])


def test_pasted_into_a_cell(notebook):
    outputs, folder = notebook
    assert_ran(outputs["pasted"])
    assert (folder / "results" / "notebook.log").read_text() == printed(outputs["pasted"])
    assert printed(outputs["resumed"]).startswith("notebook: finished before")


def test_a_network_changed_in_a_cell_is_another(notebook):
    assert "cannot resume" in printed(notebook[0]["another network"], "stderr")
    assert "has changed since" in printed(notebook[0]["another network"], "stderr")


def test_an_interrupted_run_leaves_the_notebook_as_it_was(notebook):
    outputs, _ = notebook
    assert "interrupted after 0 of 1 epochs" in printed(outputs["interrupted"], "stderr")
    signals, backend = printed(outputs["afterwards"]).splitlines()
    assert signals == "True" and "inline" in backend
