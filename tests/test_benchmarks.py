"""The benchmark compares like with like, and counts right."""
import importlib
import json
import statistics
import time

import bench
import notebook_era
import pytest
import torch
from bench import TO_TARGET
from conftest import train

import step5_beyond
from harness import fast, record
from study.variants import LADDER, ROOT, VARIANTS


@pytest.mark.parametrize("step", LADDER)
def test_the_yardstick_is_the_same_network_computed_by_torch_itself(step):
    torch.manual_seed(1)
    reference, optimizer, _ = notebook_era.network(step)
    torch.manual_seed(1)
    ours = importlib.import_module(step).Net()
    # The same weights; so without dropout the same output and gradient in training, too.
    for model in (ours, reference):
        for layer in model.modules():
            if isinstance(layer, torch.nn.Dropout):
                layer.p = 0.0
    data = torch.randn(64, 1, 28, 28)
    with fast.layers(ours):
        outputs = [model.train()(data) for model in (ours, reference)]
        assert torch.allclose(*outputs, atol=1e-4) and not torch.equal(*outputs)
        for output in outputs:
            output[:, 3].sum().backward()
    for a, b in zip(ours.parameters(), reference.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, rtol=1e-3, atol=1e-3 * b.grad.abs().max() + 1e-6)


@pytest.mark.parametrize("step", LADDER)
def test_recipes_are_those_of_the_steps(step, first_6000, tmp_path):
    train(tmp_path, step, "--dry-run", "--epochs", 3)
    history = json.loads((tmp_path / f"{step}.json").read_text())["history"]
    lr, rotation, gamma = notebook_era.recipe(step)
    assert [epoch["lr"] for epoch in history] == pytest.approx([lr, lr, lr * gamma])
    assert rotation == (7 if step == "step4_aug_lr" else 0)


def test_the_yardstick_without_docstrings(monkeypatch, capsys):
    monkeypatch.setattr(notebook_era, "__doc__", None)  # as python -OO has it
    monkeypatch.setattr("sys.argv", ["notebook_era.py", "--help"])
    with pytest.raises(SystemExit) as ended:
        notebook_era.main()
    assert ended.value.code == 0 and "--epochs" in capsys.readouterr().out


def figures(epoch):
    return {"epoch": epoch, "test": epoch / 10, "memory": 700 + epoch, "start": 2.0}


def test_table_holds_medians_and_the_spread_of_the_rounds():
    rounds = [[figures(10), figures(20)], [figures(12), figures(40)], [figures(11), figures(22)]]
    assert bench.ratio(rounds, "epoch") == (11 / 22, 12 / 40, 0.5)
    rows = bench.table({2: {"a": rounds, "b": rounds}, 1: {"a": rounds[:1], "b": rounds[:1]}}).splitlines()
    assert "| training epoch (s) | 2 | a | 11.00 | 22.00 | 0.50 | 0.30 to 0.50 |" in rows
    assert "| training epoch (s) | 2 | all four | 22.00 | 44.00 | 0.50 | 0.30 to 0.50 |" in rows
    assert "| training epoch (s) | 1 | all four | 20.00 | 40.00 | 0.50 | 0.50 to 0.50 |" in rows
    assert "| peak memory (MB) | 2 | b | 711.00 | 722.00 | 0.98 | 0.96 to 0.99 |" in rows


@pytest.mark.parametrize("pipeline", ["ours", "notebook"])
def test_a_measurement_trains_and_tests(pipeline, data_dir):
    measured = bench.in_process_of_its_own(bench.measure, pipeline, "step4_aug_lr", 2, str(data_dir), 1,
                                           time.time())
    assert measured.keys() == bench.FIGURES.keys()
    assert all(value > 0 for value in measured.values()) and measured["memory"] > 100


def test_seconds_to_the_target(data_dir):
    start = time.perf_counter()
    seconds, accuracy = bench.in_process_of_its_own(
        bench.run_to_target, ("step4_aug_lr", "--epochs", "2", "--dry-run"), 1, str(data_dir))
    assert 0 < seconds < time.perf_counter() - start and 0 <= accuracy <= 100


def test_the_processor_has_a_name():
    assert record.processor().strip() and "\n" not in record.processor()


def test_table_of_the_seconds_to_the_target():
    table = bench.target_table({"a": [(10.0, 99.4), (12.0, 99.5)]})
    assert "| a | 11.0 | 10.0 to 12.0 | 99.45 | 2 |" in table


def test_epochs_to_the_target_are_those_of_the_runs_in_docs():
    folder = ROOT / "docs" / "runs"
    ours = record.read_lines(folder / "step4_aug_lr.jsonl")
    notebook = [json.loads(path.read_text()) for path in (folder / "notebook").glob("*.json")]
    assert len(ours) == 24 and len(notebook) == 5
    for what, runs in (("step 4", ours), ("step 4, notebook pipeline", notebook)):
        histories = [run["history"] for run in runs]
        means = [statistics.fmean(epoch["test_accuracy"] for epoch in epochs)
                 for epochs in zip(*histories, strict=True)]
        assert len(means) == 15
        first = next(i for i, mean in enumerate(means, start=1) if round(mean, 3) >= 99.4)
        assert TO_TARGET[what][-1] == str(first), what


def test_step_5_reaches_the_target_in_no_fewer_epochs():
    command = TO_TARGET["step 5"]
    epochs = int(command[command.index("--epochs") + 1])
    options = step5_beyond.command_line().parse_args(command[1:])
    means = {}
    for n in (epochs - 1, epochs):
        paths = ROOT.glob(f"docs/runs/fast/epochs{n}/seed*/step5_beyond.json")
        runs = [json.loads(path.read_text()) for path in paths]
        assert sorted(run["arguments"]["seed"] for run in runs) == list(range(21, 31))
        assert {len(run["history"]) for run in runs} == {n}
        assert {run["arguments"]["batch_size"] for run in runs} == {options.batch_size}
        assert {run["recipe"] for run in runs} == {VARIANTS["step5_beyond"].facts()["recipe"]}
        means[n] = statistics.fmean(run["history"][-1]["test_accuracy"] for run in runs)
    assert means[epochs - 1] < 99.4 <= means[epochs]
