"""MNIST on disk and in memory: what is loaded is the true data, or nothing is."""
import contextlib
import functools
import gzip
import http.server
import random
import shutil
import subprocess
import sys
import threading
import time

import pytest
import torch
from conftest import assert_one_line, environment, run, run_step, train
from torchvision import datasets, transforms
from torchvision.transforms.functional import rotate as torchvision_rotate

import common
from harness import mnist
from harness.files import Damaged
from harness.loader import Loader
from study.variants import ROOT, STEPS

# A proxy that refuses at once keeps the public mirrors out of reach wherever the tests run.
OFFLINE = {**{f"{scheme}_proxy": "http://127.0.0.1:9" for scheme in ("http", "https", "HTTP", "HTTPS")},
           "no_proxy": "127.0.0.1"}
ALL_FILES = {*mnist.FILES, *(f"{name}.gz" for name in mnist.FILES)}


@pytest.fixture
def archives(data_dir, tmp_path):
    """A folder with the four canonical .gz files."""
    folder = tmp_path / "archives"
    folder.mkdir()
    for name in mnist.FILES:
        source = data_dir / "MNIST" / "raw" / name
        if source.with_name(name + ".gz").exists():
            shutil.copy(source.with_name(name + ".gz"), folder)
        else:
            pytest.skip(f"{source}.gz is not there: MNIST came unpacked")
    return folder


@pytest.fixture
def copy(data_dir, tmp_path):
    """A data folder of its own with the four unpacked files, to be damaged; returns (folder, raw)."""
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in mnist.FILES:
        shutil.copy(data_dir / "MNIST" / "raw" / name, raw)
    return tmp_path / "data", raw


def names_in(folder):
    """The names of all files in `folder`, but for those of locks, which stay."""
    return {path.name for path in folder.iterdir()} - {".lock", ".step1_basic.lock"}


def fetching(data_dir, mirror):
    """The words of the command that fetches MNIST from `mirror`."""
    return [sys.executable, "-m", "harness.mnist", "--data-dir", str(data_dir), "--mirror", mirror.url]


class Mirror:
    """A web server on 127.0.0.1 that serves `folder`; `asked` counts the requests, two for each download:
    torchvision asks once more to learn where a redirection leads.

    It breaks off after `cut` bytes, and pauses for so many seconds after each half megabyte.
    """

    def __init__(self, folder, cut=None, pause=0):
        mirror = self
        self.asked = 0

        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *_):
                mirror.asked += 1

            def copyfile(self, source, outputfile):
                contents = source.read()[:cut]
                with contextlib.suppress(ConnectionError):  # who asks may hang up
                    for start in range(0, len(contents), 2 ** 19):
                        outputfile.write(contents[start:start + 2 ** 19])
                        time.sleep(pause)

        self.server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), functools.partial(Handler, directory=folder))
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


def test_loads_what_torchvision_loads(data_dir, tensors):
    for images, labels, training in ((*tensors[:2], True), (*tensors[2:], False)):
        reference = datasets.MNIST(data_dir, train=training)
        assert torch.equal(images, reference.data) and torch.equal(labels, reference.targets)
        assert images.dtype == torch.uint8 and labels.dtype == torch.int64


def test_normalised_as_the_notebooks_did(data_dir, tensors):
    reference = datasets.MNIST(data_dir, train=True, transform=transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))]))
    data = torch.cat([data for data, _ in Loader(tensors[0], tensors[1], 1000)])
    assert abs(data.mean()) < 1e-3 and abs(data.std() - 1) < 1e-3
    for i in range(0, 60000, 6007):
        assert torch.allclose(data[i], reference[i][0], atol=1e-6)


def test_loader_yields_every_image_once_with_its_label(tensors):
    labels = tensors[1][:1000]
    loader = Loader(tensors[0][:1000], labels, 128, shuffle=True)
    batches = list(loader)
    assert len(loader) == len(batches) == 8
    assert [len(target) for _, target in batches] == [128] * 7 + [104]
    shuffled, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert not torch.equal(targets, labels)

    def in_one_order(data, labels):
        return sorted(zip(data.flatten(1).tolist(), labels.tolist(), strict=True))

    in_turn = torch.cat([data for data, _ in Loader(tensors[0][:1000], labels, 1000)])
    assert in_one_order(shuffled, targets) == in_one_order(in_turn, labels)
    again = torch.cat([target for _, target in loader])
    assert not torch.equal(again, targets)  # another order every epoch


@pytest.mark.parametrize("step", STEPS)
def test_validate_never_opens_the_test_set(data_dir, tmp_path, step, capsys):
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for split in ("images-idx3", "labels-idx1"):
        (raw / f"train-{split}-ubyte").symlink_to(data_dir / "MNIST" / "raw" / f"train-{split}-ubyte")
        (raw / f"t10k-{split}-ubyte").mkdir()  # which nobody can open as a file
    arguments = ["--data-dir", tmp_path / "data", "--dry-run", "--epochs", 1]
    with pytest.raises(SystemExit, match="1"):
        train(tmp_path / "out", step, *arguments)
    assert "t10k" in capsys.readouterr().err
    train(tmp_path / "out", step, "--validate", *arguments)
    printed = capsys.readouterr().out
    assert "Validation set: Average loss" in printed and "Test" not in printed


def test_validate_holds_back_the_last_10000_training_images(data_dir, tensors):
    args = common.command_line("A test.").parse_args(
        ["--validate", "--data-dir", str(data_dir), "--device", "cpu"])
    train_loader, validation_loader = common.loaders(args, augment=lambda images: images)
    assert torch.equal(train_loader.images, tensors[0][:50000])
    assert torch.equal(train_loader.labels, tensors[1][:50000])
    assert torch.equal(validation_loader.images, tensors[0][50000:])
    assert torch.equal(validation_loader.labels, tensors[1][50000:])
    assert validation_loader.augment is None and not validation_loader.shuffle


def test_rotation_is_torchvisions(tensors):
    torch.manual_seed(0)
    images = tensors[0][:500].unsqueeze(1) / 255
    angles = torch.empty(500).uniform_(-7, 7)
    angles[:4] = torch.tensor([0.0, 90.0, -45.0, 180.0])
    for image, angle, rotated in zip(images, angles, common.rotate(images, angles), strict=True):
        assert (rotated - torchvision_rotate(image, angle.item())).abs().max() < 1e-4


def test_rotation_fills_with_the_background(tensors):
    ink = torch.ones(1, 1, 28, 28)
    loader = Loader(torch.full((1, 28, 28), 255, dtype=torch.uint8), torch.zeros(1), 1,
                    augment=lambda images: common.rotate(images, torch.tensor([45.0])))
    corner = next(iter(loader))[0][0, 0, 0, 0]
    assert corner == pytest.approx((0 - 0.1307) / 0.3081)  # black, normalised: what surrounds every digit
    assert common.rotate(ink, torch.tensor([45.0]))[0, 0, 14, 14] == 1


def test_random_rotation_gives_each_image_an_angle_of_its_own(monkeypatch):
    drawn = []
    monkeypatch.setattr(common, "rotate", lambda images, angles: drawn.append(angles) or images)
    for _ in range(2):
        common.RandomRotation(7)(torch.zeros(2000, 1, 28, 28))
    angles = torch.cat(drawn)
    assert len(angles.unique()) > 3900  # of 4,000, in single precision
    assert -7 <= angles.min() < -6.9 and 6.9 < angles.max() <= 7
    assert abs(angles.mean()) < 0.3 and abs(angles.std() - 7 / 3 ** 0.5) < 0.1


DAMAGES = ["altered", "truncated", "other images", "swapped", "empty"]


def spoil(raw, damage):
    """Damage one file in `raw`, or swap two, and return the names."""
    path = raw / "t10k-images-idx3-ubyte"
    contents = path.read_bytes()
    if damage == "altered":
        path.write_bytes(contents[:5000] + bytes([contents[5000] ^ 1]) + contents[5001:])
    if damage == "truncated":
        path.write_bytes(contents[:-1])
    if damage == "other images":  # of the same number and size, as Fashion-MNIST's are
        path.write_bytes(contents[:16] + bytes(255 - b for b in contents[16:]))
    if damage == "empty":
        path.write_bytes(b"")
    if damage == "swapped":
        labels = raw / "t10k-labels-idx1-ubyte"
        path.write_bytes(labels.read_bytes())
        labels.write_bytes(contents)
        return path.name, labels.name
    return path.name,


@pytest.mark.parametrize("name", mnist.FILES)
def test_one_altered_byte_is_found(copy, name):
    _, raw = copy
    contents = bytearray((raw / name).read_bytes())
    contents[len(contents) // 2] ^= 1
    (raw / name).write_bytes(contents)
    with pytest.raises(Damaged, match=name):
        mnist.read(raw / name)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_data_is_refused_in_one_line_where_nothing_can_replace_it(copy, tmp_path, damage):
    folder, raw = copy
    name = spoil(raw, damage)[0]
    damaged = (raw / name).read_bytes()
    process = run_step("step1_basic", "--dry-run", "--data-dir", folder, "--out-dir", tmp_path / "out",
                       **OFFLINE)
    assert_one_line(process, raw / name, "damaged", "by hand")
    assert "EPOCH" not in process.stdout
    assert names_in(tmp_path / "out") == set()
    assert (raw / name).read_bytes() == damaged  # whatever it is, it is not ours to delete for nothing


@pytest.mark.parametrize("damage, source", [*((damage, "archive") for damage in DAMAGES),
                                            ("altered", "mirror"), ("swapped", "mirror")])
def test_damaged_data_is_replaced(copy, archives, tensors, damage, source, tmp_path):
    folder, raw = copy
    names = spoil(raw, damage)
    if source == "archive":
        shutil.copytree(archives, raw, dirs_exist_ok=True)
    with Mirror(archives) as mirror:
        process = run_step("step1_basic", "--dry-run", "--epochs", 1, "--data-dir", folder,
                           "--out-dir", tmp_path / "out", "--mirror", mirror.url, **OFFLINE)
        assert process.returncode == 0, process.stderr
        assert mirror.asked == (2 * len(names) if source == "mirror" else 0)
    for name in names:
        assert f"{raw / name} is damaged" in process.stdout
    assert all(torch.equal(ours, true) for ours, true in zip(mnist.load(folder), tensors, strict=True))
    assert names_in(raw) <= ALL_FILES


def test_damaged_data_that_cannot_be_replaced_is_named(copy, archives):
    folder, raw = copy
    path = raw / "t10k-labels-idx1-ubyte"
    path.unlink()
    path.mkdir()  # no file can take its place
    shutil.copytree(archives, raw, dirs_exist_ok=True)
    process = run(sys.executable, "-m", "harness.mnist", "--data-dir", folder, **OFFLINE)
    assert_one_line(process, "harness.mnist: error:", f"{path} is damaged", "cannot be replaced")


@pytest.mark.slow
@pytest.mark.parametrize("source", ["archives", "mirror"])
def test_killed_at_any_moment_of_fetching_the_next_run_repairs_it(archives, tensors, tmp_path, source):
    raw = tmp_path / "data" / "MNIST" / "raw"
    seed = random.randrange(10 ** 6)
    moments = random.Random(seed)
    with Mirror(archives, pause=0.02) as mirror:
        for _ in range(3):
            shutil.rmtree(raw, ignore_errors=True)
            if source == "archives":
                shutil.copytree(archives, raw)
            words = fetching(tmp_path / "data", mirror)
            process = subprocess.Popen(words, cwd=ROOT, env=environment(**OFFLINE),
                                       stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            while process.poll() is None and not list(raw.glob(".incomplete-*")):
                time.sleep(0.001)  # until it is at it
            time.sleep(moments.uniform(0, 0.5))
            process.kill()
            process.communicate()
            again = run(*words, **OFFLINE)
            assert again.returncode == 0, f"seed {seed}: {again.stderr}"
            loaded = mnist.load(tmp_path / "data")
            assert all(torch.equal(ours, true) for ours, true in zip(loaded, tensors, strict=True))
            assert names_in(raw) == ALL_FILES


@pytest.mark.slow
def test_two_processes_fetch_once(archives, tmp_path):
    with Mirror(archives, pause=0.01) as mirror:
        both = [subprocess.Popen(fetching(tmp_path / "data", mirror), cwd=ROOT, env=environment(**OFFLINE),
                                 stdout=subprocess.PIPE, text=True) for _ in range(2)]
        said = [process.communicate()[0] for process in both]
        assert [process.returncode for process in both] == [0, 0]
        assert mirror.asked == 8
    assert all("verified" in text for text in said)


def test_archives_put_there_by_hand_are_unpacked_without_a_download(archives, tmp_path):
    raw = tmp_path / "data" / "MNIST" / "raw"
    shutil.copytree(archives, raw)
    process = run_step("step1_basic", "--dry-run", "--epochs", 1, "--data-dir", tmp_path / "data",
                       "--out-dir", tmp_path / "out", **OFFLINE)
    assert process.returncode == 0, process.stderr
    assert "Downloading" not in process.stdout
    assert names_in(raw) == ALL_FILES


@pytest.mark.slow
@pytest.mark.parametrize("by", ["option", "variable"])
def test_downloads_from_a_mirror(archives, tmp_path, by):
    with Mirror(archives) as mirror:
        how = ["--mirror", mirror.url] if by == "option" else []
        process = run_step("step1_basic", "--dry-run", "--epochs", 1, "--data-dir", tmp_path / "data",
                           "--out-dir", tmp_path / "out", *how,
                           **OFFLINE, **({} if how else {"MNIST_MIRROR": mirror.url + "/"}))
        assert process.returncode == 0, process.stderr
        assert process.stderr == ""  # no bar where no terminal is
        assert mirror.asked == 8
        asked = mirror.asked
        mnist.load(tmp_path / "data", mirror.url)  # what came is whole, and is not fetched again
        assert mirror.asked == asked


@pytest.mark.parametrize("failure", ["absent", "no server", "no address", "damaged", "broken off"])
def test_a_mirror_that_fails_is_named_in_one_line(archives, tmp_path, failure):
    name = "train-labels-idx1-ubyte.gz"
    if failure == "absent":
        (archives / name).unlink()
    if failure == "damaged":
        contents = bytearray((archives / name).read_bytes())
        contents[1000] ^= 255
        (archives / name).write_bytes(contents)
    shutil.copytree(archives, tmp_path / "served")
    raw = tmp_path / "data" / "MNIST" / "raw"
    with Mirror(tmp_path / "served", cut=5000 if failure == "broken off" else None) as mirror:
        url = {"no server": "http://127.0.0.1:9", "no address": "nonsense"}.get(failure, mirror.url)
        process = run_step("step1_basic", "--dry-run", "--data-dir", tmp_path / "data",
                           "--out-dir", tmp_path / "out", "--mirror", url, **OFFLINE)
    assert_one_line(process, "by hand", url, raw)
    if failure in ("absent", "damaged"):
        assert name in process.stderr
        assert "train-images-idx3-ubyte.gz" not in process.stderr  # that one was served well
    # Nothing half-done lies about, under a true name or another.
    assert names_in(raw) <= {"train-images-idx3-ubyte", "train-images-idx3-ubyte.gz"}


def test_a_damaged_archive_is_replaced_from_a_mirror(archives, tmp_path):
    raw = tmp_path / "data" / "MNIST" / "raw"
    shutil.copytree(archives, raw)
    (raw / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"not MNIST"))
    offline = run_step("step1_basic", "--dry-run", "--data-dir", tmp_path / "data",
                       "--out-dir", tmp_path / "out", **OFFLINE)
    assert_one_line(offline, raw / "train-labels-idx1-ubyte.gz", "wrong MD5")
    with Mirror(archives) as mirror:
        mnist.load(tmp_path / "data", mirror.url)


def test_data_dir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    process = run_step("step1_basic", "--dry-run", "--data-dir", tmp_path / "file", "--out-dir", tmp_path,
                       **OFFLINE)
    assert_one_line(process, tmp_path / "file")


@pytest.mark.slow
def test_verifying_alone(copy):
    folder, raw = copy
    good = run(sys.executable, "-m", "harness.mnist", "--data-dir", folder)
    assert good.returncode == 0 and "60,000 training images, 10,000 test images" in good.stdout
    (raw / "t10k-labels-idx1-ubyte").write_bytes(b"")
    bad = run(sys.executable, "-m", "harness.mnist", "--data-dir", folder, **OFFLINE)
    assert_one_line(bad, raw / "t10k-labels-idx1-ubyte")
