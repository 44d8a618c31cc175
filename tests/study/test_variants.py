"""Which runs there are, how they are known again, and that a step of one's own is among them."""
import ast
import contextlib
import hashlib
import importlib
import inspect
import json
import re
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import a_run, assert_one_line, run

import step2_dropout
from harness import record
from study import plots, robustness, variants
from study.variants import ROOT, STEPS


def test_networks_of_the_variants():
    torch.manual_seed(1)
    plain = step2_dropout.Net(0.1)
    torch.manual_seed(1)
    without = variants.WithoutBatchNorm(0.1)
    pooled = variants.WithPooling(0.1)
    sizes = [sum(p.numel() for p in net.parameters()) for net in (plain, without, pooled)]
    assert sizes == [6864, 6806, 4464]
    assert not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in without.modules())
    assert torch.equal(plain.block2[8].weight, without.block2[8].weight)  # the same start, so that seeds pair
    for net in (without, pooled):
        assert net(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize("name", variants.VARIANTS)
def test_a_run_is_known_by_what_it_is(name):
    variant = variants.VARIANTS[name]
    changed = {"step1_lr_0.00333": {"lr": 0.00333}, "step2_dropout_0": {"dropout": 0.0},
               "step3_dropout_0.1": {"dropout": 0.1}, "step3_dropout_0": {"dropout": 0.0},
               "step4_rotation_0": {"rotation": 0.0}, "step4_lr_0.01": {"lr": 0.01},
               "step4_gamma_1": {"gamma": 1.0}}.get(name, {})
    network = variant.net.__name__ if variant.net else "Net"
    found, others = variants.by_variant([a_run(variant.step, 3, network=network, **changed)])
    assert list(found[name]) == [3] and not others
    stranger = a_run(variant.step, 3, network=network, **{**changed, "batch_size": 64})
    twice = a_run(variant.step, 3, network=network, **changed)
    found, others = variants.by_variant([twice, stranger, twice])
    assert list(found[name]) == [3] and others == [stranger, twice]


@pytest.mark.slow
def test_a_variant_is_trained_by_one_command(data_dir, tmp_path):
    process = run(sys.executable, "-m", "study.variants", "step2_with_pooling", "--dry-run", "--epochs", 1,
                  "--seed", 2, "--data-dir", data_dir, "--out-dir", tmp_path)
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith("$ python -m study.variants step2_with_pooling --dry-run")
    assert "AvgPool2d" in process.stdout
    stored = json.loads((tmp_path / "step2_dropout.json").read_text())
    assert stored["network"] == "WithPooling" and stored["parameters"] == 4464
    plain = run(sys.executable, "step2_dropout.py", "--dry-run", "--epochs", 1, "--seed", 2, "--resume",
                "--data-dir", data_dir, "--out-dir", tmp_path)
    # Another network, though the script is the same.
    assert_one_line(plain, "step2_dropout.py: error:", "changed since")


# --------------------------------------------------------------- runs left out


@pytest.fixture
def mixed(tmp_path):
    """A sweep's folder with three runs of five epochs, and three files of which no mean is taken."""
    for seed, some in enumerate((a_run(seed=1), a_run(seed=2), a_run(seed=3, test=[99.0] * 3, epochs=3),
                                 a_run(seed=4, dry_run=True), a_run(seed=5)), start=1):
        folder = tmp_path / f"seed{seed}"
        folder.mkdir()
        (folder / "step4_aug_lr.json").write_text(json.dumps(some))
    return tmp_path


def test_runs_that_are_not_alike_are_named_and_left_out(mixed, capsys):
    (mixed / "seed5" / "step4_aug_lr.json").write_text("{")
    paths = variants.sweep_files(mixed)
    runs, unreadable = variants.load_runs(paths)
    assert [run["arguments"]["seed"] for run in runs] == [1, 2] and unreadable == 1
    lines = sorted(capsys.readouterr().err.splitlines())
    assert len(lines) == 3
    reasons = ("it has 3 epochs, most have their step's default", "it is a dry run",
               "it is no finished run of a step")
    for line, path, why in zip(lines, paths[2:], reasons, strict=True):
        assert f": left out: {path}: {why}" in line
    runs, unreadable = variants.load_runs(paths, for_means=False)
    assert [run["arguments"]["seed"] for run in runs] == [1, 2, 3, 4] and unreadable == 1
    capsys.readouterr()
    (mixed / "step4_aug_lr.jsonl").write_text(f"{json.dumps(runs[0])}\n{{\n")
    assert variants.load_runs([mixed / "step4_aug_lr.jsonl"]) == ([], 1)
    assert "step4_aug_lr.jsonl: none of its runs is used: line 2: " in capsys.readouterr().err


@pytest.mark.slow
def test_only_what_cannot_be_read_is_an_error(mixed):
    def claims():
        return run(sys.executable, "-m", "study.claims", "--out-dir", mixed)

    process = claims()
    assert process.returncode == 0 and len(process.stderr.splitlines()) == 2
    assert process.stderr.startswith(f"study.claims: left out: {mixed}/seed")
    (mixed / "seed5" / "step4_aug_lr.json").write_text("{")
    process = claims()
    assert process.returncode == 1 and len(process.stderr.splitlines()) == 3
    assert "| last epoch at the target: share in step4_aug_lr more than 0.5" in process.stdout


# ----------------------------------------------------------- a step of one's own


COUNT_LINES = """if True:
    import contextlib, sys
    from study import plots, report
    drawing = plots.drawing

    @contextlib.contextmanager
    def counted(path, *words, **more):
        with drawing(path, *words, **more) as (figure, axes):
            yield figure, axes
            for axes in figure.axes[:1]:
                print(path.name, *(line.get_label() for line in axes.get_lines()), len(axes.get_xticks()))

    plots.drawing = counted
    report.main()"""


@pytest.mark.slow
def test_a_step_of_ones_own_is_in_the_sweep_and_in_the_report(tree):
    for name in ("step9_mine.py", "step9_mine copy.py", "step9_mine.v2.py"):  # the latter two being no steps
        shutil.copy(tree / "step1_basic.py", tree / name)
    commands = run(sys.executable, "-m", "study.sweep", "--seeds", "1", cwd=tree).stdout.splitlines()
    assert len(commands) == len(STEPS) + 1 and f"{tree}/step9_mine.py --seed 1 " in commands[-1]

    folder = tree / "results" / "seed1"
    folder.mkdir(parents=True)
    for step in STEPS:
        (folder / f"{step}.json").write_text(json.dumps(a_run(step)))
    mine = a_run("step1_basic") | {"step": "step9_mine", "parameters": 1234}
    (folder / "step9_mine.json").write_text(json.dumps(mine))
    accuracies = {step: {"1": [90.0] * len(robustness.columns())} for step in (*STEPS, "step9_mine")}
    (tree / "results" / "robustness.json").write_text(json.dumps(accuracies))
    process = run(sys.executable, "-c", COUNT_LINES, cwd=tree)
    assert process.returncode == 0, process.stderr
    report = (tree / "results" / "report.md").read_text()
    assert "| step9_mine | 1,234 |" in " ".join(report.split()) and "further runs" not in report
    drawn = {re.search(r"report_\w+", line)[0]: line.split() for line in process.stdout.splitlines()[:-1]}
    assert int(drawn["report_ladder"][-1]) == len(STEPS) + 1
    for picture in ("report_epochs", "report_robustness"):
        assert [word for word in drawn[picture] if word.startswith("step")] == [*STEPS, "step9_mine"]


@pytest.fixture
def figures(monkeypatch):
    """The figures that are drawn, as a list."""
    figures = []

    @contextlib.contextmanager
    def kept(*words, drawing=plots.drawing, **more):
        with drawing(*words, **more) as (figure, axes):
            yield figure, axes
        figures.append(figure)

    monkeypatch.setattr(plots, "drawing", kept)
    return figures


def test_epochs_are_whole_numbers_even_where_there_is_one(tmp_path, figures):
    for epochs in (1, 3):
        plots.summary(tmp_path / "a.png", [a_run(test=[99.0] * epochs)])
    shown = [(axes.get_xticks(), *axes.get_xlim()) for figure in figures for axes in figure.axes]
    assert [[tick for tick in ticks if low < tick < high] for ticks, low, high in shown] == [[0], [0, 1, 2]]


def test_seven_steps_are_seven_lines(tmp_path, figures):
    names = [f"step{number}_x" for number in range(1, 8)]
    runs = [a_run() | {"step": name} for name in names]
    plots.summary(tmp_path / "a.png", runs)
    plots.bands(tmp_path / "b.png", {run["step"]: [run["history"]] for run in runs})
    plots.robustness(tmp_path / "c.png", robustness.DISTORTIONS,
                     {name: [90.0] * len(robustness.columns()) for name in names})
    panels = [axes for figure in figures for axes in figure.axes]
    assert len(panels) == 2 + 3
    for axes in panels:
        labels = [line.get_label() for line in axes.get_lines() if line.get_label().startswith("step")]
        assert [label.split(",")[0] for label in labels] == names


# -------------------------------------------------------- the digest of a recipe


@pytest.fixture
def digest(tmp_path, monkeypatch):
    """A function: the digest of step 1 with one text in it replaced by another."""
    monkeypatch.syspath_prepend(tmp_path)
    original = (ROOT / "step1_basic.py").read_text()

    def digest(old="", new=""):
        assert old in original
        name = f"changed{len(list(tmp_path.glob('*.py')))}"
        (tmp_path / f"{name}.py").write_text(original.replace(old, new, 1) if old else original)
        monkeypatch.delitem(sys.modules, name, raising=False)
        module = importlib.import_module(name)
        return record.recipe(module, module.Net)

    return digest


@pytest.mark.parametrize("old, new", [
    ("import torch.nn as nn\n", "import os\nfrom pathlib import Path\nimport torch.nn as nn\n"),
    ('"""Step 1: the basic setup', '"""Step 1: another word'),
    ('    """10,970 parameters', '    """Some parameters'),
    ("def __init__(self):\n", 'def __init__(self):\n        """The layers."""\n'),
    ("def main(argv=None):\n", 'def main(argv=None):\n    """Train."""\n'),
    ('help="learning rate"', 'help="how far to go", metavar="X"'),
    (', help="learning rate"', ""),
    ("# 28x28 -> 26x26, receptive field 3", "# smaller"),
    ("nn.Conv2d(1, 10, 3, bias=False)", "nn.Conv2d(\n                1, 10, 3,\n                bias=False)"),
    ('"--lr"', "'--lr'"),
    ("default=0.01", "default=1e-2"),
])
def test_words_are_no_other_recipe(digest, old, new):
    assert digest(old, new) == digest()


@pytest.mark.parametrize("old, new", [
    ("nn.Conv2d(1, 10, 3, bias=False)", "nn.Conv2d(1, 10, 5, bias=False)"),
    ("            nn.BatchNorm2d(10),\n", ""),
    ("bias=False", "bias=True"),
    ("x.flatten(1), dim=1", "x.flatten(1), dim=-1"),
    ("default=0.01", "default=0.02"),
    ("momentum=0.9", "momentum=0.8"),
    ("momentum=0.9", "momentum=0.9, nesterov=True"),
    ("optim.SGD", "optim.Adam"),
])
def test_what_is_computed_is_the_recipe(digest, old, new):
    assert digest(old, new) != digest()


def test_the_network_is_part_of_the_recipe():
    digests = {record.recipe(step2_dropout.__file__, net)
               for net in (step2_dropout.Net, variants.WithPooling, variants.WithoutBatchNorm)}
    assert len(digests) == 3


@pytest.mark.parametrize("version", range(10, 16))
def test_every_python_finds_the_same_digest(version):
    python = shutil.which(f"python3.{version}")
    if not python or subprocess.run([python, "-c", ""], capture_output=True).returncode:
        pytest.skip(f"no Python 3.{version} on this machine")
    files = [*(ROOT / f"{step}.py" for step in STEPS), ROOT / "study" / "variants.py"]
    code = f"""import ast, hashlib, sys
{inspect.getsource(record._canonical)}
for path in sys.argv[1:]:
    with open(path, encoding="utf-8") as file:
        print(hashlib.sha256(_canonical(ast.parse(file.read())).encode()).hexdigest())"""
    process = run(python, "-c", code, *files)
    assert process.returncode == 0, process.stderr
    assert process.stdout.split() == [
        hashlib.sha256(record._canonical(ast.parse(path.read_text())).encode()).hexdigest() for path in files]
