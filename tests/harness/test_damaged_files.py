"""Files that are damaged, or somebody else's: one clear refusal, and no code in them is run."""
import gzip
import json
import pickle
import random
import shutil
import struct
import sys

import pytest
import torch
from conftest import a_run, assert_one_line, run, train
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness import checkpoint, mnist, record
from harness.files import Damaged
from study import report, summary, verdicts
from study.claims import CLAIMS
from study.variants import by_variant

SOME = settings(max_examples=60, deadline=None, database=None,
                suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
RUN = a_run(mistakes=[[7, 3, 5], [8, 1, 7]])
STATE = {"facts": {"step": "step4_aug_lr", "network": "Net", "recipe": "0" * 64, "arguments": {"epochs": 15},
                   "versions": {"torch": "2"}, "threads": 2, "started": "now"},
         "history": RUN["history"], "log": "a log\n", "seconds": 1.5, "finished": False,
         "model": {"weight": torch.ones(3, 2)}, "optimizer": {"state": {}}, "scheduler": {"last_epoch": 2},
         "others": [], "random": {"cpu": torch.get_rng_state()}}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Somewhere to put bytes."""
    return tmp_path_factory.mktemp("damaged") / "file"


@pytest.fixture(scope="module")
def good(path):
    """The bytes of a sound checkpoint."""
    checkpoint.write(path, STATE)
    return path.read_bytes()


def read(reader, path, contents):
    """What `reader` makes of a file with these `contents`; None if it is Damaged, why in one line."""
    path.write_bytes(contents)
    try:
        return reader(path)
    except Damaged as error:
        assert str(error) and str(error).isprintable()


def with_a_flipped_bit(good, place):
    contents = bytearray(good)
    contents[place] ^= 1 << place % 8
    return bytes(contents)


def sparse(path, size, beginning=b""):
    """Make `path` a file of `size` bytes; most of it is a hole that takes no room on the disk."""
    with open(path, "wb") as file:
        file.write(beginning)
        file.truncate(size)


def test_a_damaged_checkpoint(good, path):
    assert repr(read(checkpoint.read, path, good)) == repr(STATE)
    for length in [*range(0, len(good), 251), len(good) - 1]:
        assert read(checkpoint.read, path, good[:length]) is None, length
    places = [*range(0, len(good), 97), *range(len(good) - 60, len(good))]
    states = [read(checkpoint.read, path, with_a_flipped_bit(good, place)) for place in places]
    assert states.count(None) > len(places) / 2  # the rest is padding and dates
    assert {repr(state) for state in states if state} <= {repr(STATE)}


@SOME
@given(st.binary(max_size=400))
def test_any_bytes_as_a_checkpoint(path, contents):
    assert read(checkpoint.read, path, contents) is None


def test_weights_are_no_checkpoint(path):
    torch.save({"block1.0.weight": torch.ones(8, 1, 3, 3)}, path)
    assert read(checkpoint.read, path, path.read_bytes()) is None


class Runs:
    """Pickled, it is code to be run by whoever reads it."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("code", [Runs(print, "code was run"), Runs(eval, "print('code was run')")])
@pytest.mark.parametrize("save", [torch.save, lambda state, file: file.write(pickle.dumps(state))])
def test_code_in_a_checkpoint_is_not_run(code, save, path, capsys):
    for place in ("facts", "log", "model"):
        with open(path, "wb") as file:
            save({**STATE, place: code}, file)
        assert read(checkpoint.read, path, path.read_bytes()) is None
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("reader", [checkpoint.read, record.read])
def test_a_file_that_is_far_too_large_is_not_read(reader, path):
    sparse(path, 2 ** 40)
    with pytest.raises(Damaged, match="large"):
        reader(path)
    path.unlink()


@pytest.fixture(scope="module")
def unfinished(data_dir, tmp_path_factory):
    """The folder of a dry run that was stopped before its pictures were drawn, and a run of it."""
    folder = tmp_path_factory.mktemp("unfinished")
    arguments = ["--dry-run", "--epochs", 2, "--data-dir", data_dir]
    train(folder, "step4_aug_lr", *arguments)
    path = folder / "step4_aug_lr.ckpt"
    checkpoint.write(path, {**checkpoint.read(path), "finished": False})
    return folder, arguments


@pytest.mark.parametrize("change", [
    {"model": {}}, {"model": {"block1.0.weight": torch.ones(2)}}, {"model": {"block1.0.weight": 3}},
    {"optimizer": {}}, {"optimizer": {"state": {}, "param_groups": []}}, {"scheduler": None},
    {"random": {"cpu": torch.zeros(5056, dtype=torch.uint8)}}, {"random": {}}, {"history": []},
    {"history": RUN["history"][::-1]}, {"facts": {}}, {"facts": {**STATE["facts"], "step": "step1_basic"}}])
def test_a_checkpoint_that_does_not_fit_ends_in_one_line(change, unfinished, tmp_path, capsys):
    folder, arguments = unfinished
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "step4_aug_lr.ckpt"
    checkpoint.write(path, {**checkpoint.read(path), **change})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(SystemExit, match="1"):
        train(tmp_path, "step4_aug_lr", *arguments, "--resume")
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and f"cannot resume from {path}" in said[0]
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


# ------------------------------------------------------------------------ JSON


def read_run(path, contents):
    """Whether `contents` are taken for a run's JSON, which must then do for all tables."""
    run = read(record.read, path, contents)
    if run:
        assert summary.table([run]).count("\n") == 3
        verdicts.table_rows(CLAIMS, by_variant([run])[0])
        report.provenance([run])
        report.ladder_rows({"a step": [run]})
    return run is not None


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
values = st.recursive(scalars, lambda inner: (st.lists(inner, max_size=3)
                                              | st.dictionaries(st.text(max_size=4), inner, max_size=3)))


@SOME
@given(st.binary(max_size=400) | values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_as_json(path, contents):
    assert not read_run(path, contents)


@SOME
@given(st.data(), values)
def test_a_run_with_a_wrong_value(path, data, value):
    run = json.loads(json.dumps(RUN))
    place = run
    while True:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if not place[key] or not isinstance(place[key], (dict, list)) or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = value
    read_run(path, json.dumps(run).encode())


def test_damaged_json(path):
    contents = json.dumps(RUN).encode()
    assert read_run(path, contents)
    assert not any(read_run(path, contents[:length]) for length in range(0, len(contents), 101))
    for place in range(0, len(contents), 17):
        read_run(path, with_a_flipped_bit(contents, place))
    assert not read_run(path, b"[" * 100_000)
    assert not read_run(path, contents.replace(b": 7852,", b": " + b"9" * 5000 + b","))
    assert not read_run(path, json.dumps({**RUN, "seconds": float("nan")}).encode())


def test_the_summary_names_a_damaged_file_and_ends_with_an_error(tmp_path):
    (tmp_path / "step1_basic.json").write_text("[" * 100_000)
    (tmp_path / "step4_aug_lr.json").write_text(json.dumps(RUN))
    process = run(sys.executable, "-m", "study.summary", "--out-dir", tmp_path)
    assert_one_line(process, tmp_path / "step1_basic.json")
    assert "step4_aug_lr" in process.stdout


# ----------------------------------------------------------------------- MNIST


@SOME
@given(st.sampled_from(sorted(mnist.FILES)), st.binary(max_size=100))
def test_any_bytes_as_mnist(path, name, contents):
    assert read(mnist.read, path.with_name(name), contents) is None
    packed = gzip.compress(contents)
    for archive in (packed, packed[:-3], packed[:3] + contents, contents):
        assert read(mnist.read, path.with_name(f"{name}.gz"), archive) is None


@SOME
@given(st.binary(max_size=9) | st.builds(lambda n, rest: b"\0\0\x08" + bytes([n]) + rest,
                                         st.integers(0, 255), st.binary(max_size=1100)))
def test_any_bytes_in_the_place_of_mnist(data_dir, tmp_path_factory, contents):
    path = tmp_path_factory.mktemp("raw") / "t10k-labels-idx1-ubyte"
    shutil.copy(data_dir / "MNIST" / "raw" / path.name, path.with_name("t10k-labels.idx1-ubyte"))
    path.write_bytes(contents)
    mnist.read_or_fetch(path)
    mnist.read(path)
    for aside in path.parent.glob("*.aside1"):
        assert aside.read_bytes() == contents


def test_mnist_with_a_bit_flipped(path, data_dir):
    path = path.with_name("t10k-labels-idx1-ubyte")
    true = (data_dir / "MNIST" / "raw" / path.name).read_bytes()
    for place in [0, len(true) - 1, *random.Random(0).sample(range(len(true)), 30)]:
        assert read(mnist.read, path, with_a_flipped_bit(true, place)) is None


@pytest.mark.parametrize("size", [16, 7840016, 2 ** 40])
def test_a_header_that_claims_four_billion_images(tmp_path, data_dir, size):
    path = tmp_path / "t10k-images-idx3-ubyte"
    sparse(path, size, struct.pack(">IIII", 0x803, 2 ** 32 - 1, 28, 28))
    with pytest.raises(Damaged, match=f"{path.name} is damaged"):
        mnist.read(path)
    shutil.copy(data_dir / "MNIST" / "raw" / path.name, path.with_name("t10k-images.idx3-ubyte"))
    mnist.read_or_fetch(path)  # nor does that file matter where the true one is to be written
    assert path.stat().st_size == 7840016 and len(list(tmp_path.iterdir())) == 3
