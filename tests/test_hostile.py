"""Files made by somebody else, of any bytes: one clear refusal, no code run, no memory taken."""
import contextlib
import io
import json
import pickle
import shutil
import struct
import sys
import tracemalloc
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import checkpoint
import claims
import evidence
import mnist
import report
import runs
import summary
from conftest import ROOT, a_run, assert_one_line, run, run_step

MANY = settings(max_examples=500, deadline=None, database=None,
                suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def history(epochs):
    return [{"epoch": i, "lr": 0.1, "train_loss": 0.1, "train_accuracy": 98.5, "test_loss": 0.05,
             "test_accuracy": 99.0, "seconds": 10.0} for i in range(epochs)]


STATE = {"step": "step4_aug_lr", "recipe": "0" * 64, "arguments": {"epochs": 15, "lr": 0.1, "device": "cpu"},
         "torch": "2", "threads": 2, "started": "now", "seconds": 1.5, "history": history(2), "log": "a log\n",
         "finished": False, "scheduler_steps": 2, "model": {"weight": torch.ones(3, 2)},
         "optimizer": {0: {"momentum_buffer": torch.zeros(3, 2)}}, "random": {"cpu": torch.get_rng_state()}}
RUN = a_run(mistakes=[[7, 3, 5], [8, 1, 7]])


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """The bytes of a sound checkpoint."""
    path = tmp_path_factory.mktemp("good") / "good.ckpt"
    checkpoint.write(path, STATE)
    return path.read_bytes()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Somewhere to put bytes."""
    return tmp_path_factory.mktemp("hostile") / "file"


@contextlib.contextmanager
def little_memory():
    """Fails if Python allocates more than 16 MB in the block."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 2 ** 24
    finally:
        tracemalloc.stop()


def read_checkpoint(path, contents):
    """True if `contents` are taken for a checkpoint; anything but that and Damaged is an error."""
    path.write_bytes(contents)
    try:
        state = checkpoint.read(path)
    except checkpoint.Damaged as error:
        assert str(error) and str(error).isprintable()
        return False
    assert state.keys() >= checkpoint.STATE.keys()
    return True


def with_pickle(good, data):
    """The checkpoint `good` with `data` for its pickle, and everything else right."""
    changed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(good)) as archive, zipfile.ZipFile(changed, "w") as anew:
        for entry in archive.infolist():
            anew.writestr(entry.filename, data if entry.filename.endswith("data.pkl") else archive.read(entry))
    return changed.getvalue()


def test_a_sound_checkpoint_is_read(good, path):
    assert read_checkpoint(path, good)
    state = checkpoint.read(path)
    assert state["log"] == "a log\n" and torch.equal(state["model"]["weight"], torch.ones(3, 2))


@MANY
@given(st.binary(max_size=400))
def test_any_bytes_as_a_checkpoint(path, contents):
    assert not read_checkpoint(path, contents)


@MANY
@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=4)), min_size=1, max_size=3),
       st.sampled_from([0, 0, 1, 50]))
def test_a_checkpoint_with_some_bytes_changed(good, path, changes, cut):
    contents = bytearray(good)
    for where, what in changes:
        start = int(where * len(contents))
        contents[start:start + len(what)] = what
    read_checkpoint(path, bytes(contents[:len(contents) - cut]))


@MANY
@given(st.data())
def test_a_checkpoint_whose_pickle_was_changed(good, path, data):
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        original = archive.read("archive/data.pkl")
    contents = bytearray(original)
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(contents) - 1))
        stop = start + data.draw(st.integers(0, 3))
        contents[start:stop] = data.draw(st.binary(max_size=3))
    read_checkpoint(path, with_pickle(good, bytes(contents)))


scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5))
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3))


@MANY
@given(st.sampled_from(sorted(STATE)), values)
def test_a_checkpoint_with_a_wrong_value(path, key, value):
    contents = io.BytesIO()
    torch.save({**STATE, key: value}, contents)
    read_checkpoint(path, contents.getvalue())


class Runs:
    """Pickled, it is code to be run by whoever reads it."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("bomb", [Runs(print, "code was run"), Runs(bytearray, 2 ** 36), Runs(torch.Tensor, 2 ** 34),
                                  Runs(torch.Size, [1]), Runs(eval, "print('code was run')")])
def test_a_pickle_that_calls_something(good, path, bomb, capsys):
    state = {**STATE, "model": bomb, "optimizer": {}, "random": {}}
    with little_memory():
        assert not read_checkpoint(path, with_pickle(good, pickle.dumps(state, protocol=2)))
    assert capsys.readouterr().out == ""


def test_a_compressed_bomb(good, path):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(2 ** 28))
    with little_memory():
        assert not read_checkpoint(path, packed.getvalue())


def test_a_checkpoint_of_any_size_is_not_read(path):
    with open(path, "wb") as file:
        file.truncate(2 ** 40)  # a hole: no such disk is needed
    with pytest.raises(checkpoint.Damaged, match="large"):
        checkpoint.read(path)
    path.unlink()


DRY = ["--dry-run", "--epochs", 2]


@pytest.fixture(scope="module")
def unfinished(data_dir, tmp_path_factory):
    """The folder of a dry run that was stopped before its pictures were drawn."""
    folder = tmp_path_factory.mktemp("unfinished")
    assert run_step("step4_aug_lr", *DRY, "--data-dir", data_dir, "--out-dir", folder).returncode == 0
    path = folder / "step4_aug_lr.ckpt"
    checkpoint.write(path, {**checkpoint.read(path), "finished": False})
    return folder


@pytest.mark.parametrize("change", [
    {"model": {}}, {"model": {"block1.0.weight": torch.ones(2)}}, {"model": {"block1.0.weight": 3}},
    {"optimizer": {0: {"momentum_buffer": torch.ones(1)}}}, {"optimizer": {0: {"momentum_buffer": "x"}}},
    {"optimizer": {999: {}}}, {"optimizer": {"a": 1}}, {"scheduler_steps": 10 ** 12}, {"scheduler_steps": -1},
    {"random": {"cpu": torch.zeros(5056, dtype=torch.uint8)}}, {"random": {}},
    {"log": "\ud800"}, {"history": []}, {"history": history(2)[::-1]}, {"arguments": {}}, {"step": "step1_basic"}])
def test_a_checkpoint_that_does_not_fit_ends_the_step_in_one_line(change, unfinished, data_dir, tmp_path):
    shutil.copytree(unfinished, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "step4_aug_lr.ckpt"
    checkpoint.write(path, {**checkpoint.read(path), **change})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert_one_line(run_step("step4_aug_lr", *DRY, "--data-dir", data_dir, "--out-dir", tmp_path, "--resume"),
                    "cannot resume", path)
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


# ------------------------------------------------------------------------ JSON


def read_run(path, contents):
    """True if `contents` are taken for a run's JSON, which must then do for the tables of summary and report."""
    path.write_bytes(contents)
    try:
        run = runs.load_run(path)
    except checkpoint.Damaged as error:
        assert str(error) and str(error).isprintable()
        return False
    assert summary.table([run]).count("\n") == 3
    found, _ = claims.by_variant([run])
    evidence.table_rows(claims.CLAIMS, found)
    report.provenance([run])
    report.ladder_rows({"a step": [run]})
    return True


@MANY
@given(st.binary(max_size=400))
def test_any_bytes_as_json(path, contents):
    assert not read_run(path, contents)


@MANY
@given(values)
def test_any_json(path, value):
    assert not read_run(path, json.dumps(value).encode())


@MANY
@given(st.data(), values)
def test_a_run_with_a_wrong_value(path, data, value):
    run = json.loads(json.dumps(RUN))
    place = run
    while True:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if not isinstance(place[key], (dict, list)) or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = value
    read_run(path, json.dumps(run).encode())


@MANY
@given(st.data())
def test_a_run_with_some_bytes_changed(path, data):
    contents = bytearray(json.dumps(RUN).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(contents) - 1))
        contents[start:start + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    read_run(path, bytes(contents))


def test_json_that_goes_deep_or_far(path):
    assert read_run(path, json.dumps(RUN).encode())
    assert not read_run(path, b"[" * 100_000)
    assert not read_run(path, json.dumps({**RUN, "parameters": 1}).encode().replace(b": 1,", b": " + b"9" * 5000 + b","))
    assert not read_run(path, json.dumps({**RUN, "seconds": float("nan")}).encode())
    with open(path, "wb") as file:
        file.truncate(2 ** 40)
    with pytest.raises(checkpoint.Damaged, match="large"):
        runs.load_run(path)
    path.unlink()


def test_the_report_names_a_hostile_file_and_ends_with_an_error(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(RUN))
    (tmp_path / "b.json").write_text("[" * 100_000)
    process = run(sys.executable, ROOT / "summary.py", "--out-dir", tmp_path)
    assert_one_line(process, tmp_path / "b.json")
    assert "step4_aug_lr" in process.stdout


# ------------------------------------------------------------------------- idx


@MANY
@given(st.sampled_from(sorted(mnist.FILES)), st.binary(max_size=100))
def test_any_bytes_as_mnist(path, name, contents):
    path = path.with_name(name)
    path.write_bytes(contents)
    with pytest.raises(mnist.DataError, match=name):
        mnist.read(path)


@settings(MANY, max_examples=50)
@given(data=st.data())
def test_mnist_with_some_bytes_changed(path, data_dir, data):
    name = "t10k-labels-idx1-ubyte"
    true = (data_dir / "MNIST" / "raw" / name).read_bytes()
    contents = bytearray(true)
    contents[data.draw(st.integers(0, len(contents) - 1))] ^= data.draw(st.integers(1, 255))
    path = path.with_name(name)
    path.write_bytes(contents)
    with pytest.raises(mnist.DataError, match=name):
        mnist.read(path)


@pytest.mark.parametrize("size", [0, 7840016, 2 ** 40])
def test_a_header_that_claims_four_billion_images(tmp_path, size):
    path = Path(tmp_path / "t10k-images-idx3-ubyte")
    with open(path, "wb") as file:
        file.write(struct.pack(">IIII", 0x803, 2 ** 32 - 1, 28, 28))
        file.truncate(max(size, 16))
    with little_memory(), pytest.raises(mnist.DataError, match="damaged"):
        mnist.read(path)
