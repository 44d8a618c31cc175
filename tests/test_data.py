"""MNIST on disk and in memory: what is loaded is the true data, or nothing is."""
import functools
import gzip
import http.server
import shutil
import sys
import threading

import pytest
import torch
from torchvision import datasets, transforms
from torchvision.transforms.functional import rotate as torchvision_rotate

import common
import mnist
from conftest import assert_one_line, run, run_step

# A proxy that refuses at once keeps the public mirrors out of reach wherever the tests run.
OFFLINE = {**{f"{scheme}_proxy": "http://127.0.0.1:9" for scheme in ("http", "https", "HTTP", "HTTPS")},
           "no_proxy": "127.0.0.1"}


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


class Mirror:
    """A web server on 127.0.0.1 that serves `folder`; `asked` counts the requests."""

    def __init__(self, folder, cut=None):
        mirror = self
        self.asked = 0

        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *_):
                mirror.asked += 1

            def copyfile(self, source, outputfile):
                outputfile.write(source.read()[:cut])

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
    for images, labels, train in ((*tensors[:2], True), (*tensors[2:], False)):
        reference = datasets.MNIST(data_dir, train=train)
        assert torch.equal(images, reference.data) and torch.equal(labels, reference.targets)
        assert images.dtype == torch.uint8 and labels.dtype == torch.int64


def test_normalised_as_the_notebooks_did(data_dir, tensors):
    reference = datasets.MNIST(data_dir, train=True, transform=transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))]))
    data = torch.cat([data for data, _ in common.Loader(tensors[0], tensors[1], 1000)])
    assert abs(data.mean()) < 1e-3 and abs(data.std() - 1) < 1e-3
    for i in range(0, 60000, 6007):
        assert torch.allclose(data[i], reference[i][0], atol=1e-6)


def test_loader_yields_every_image_once_with_its_label(tensors):
    labels = tensors[1][:1000]
    loader = common.Loader(tensors[0][:1000], labels, 128, shuffle=True)
    batches = list(loader)
    assert len(loader) == len(batches) == 8
    assert [len(target) for _, target in batches] == [128] * 7 + [104]
    shuffled, targets = (torch.cat(parts) for parts in zip(*batches))
    assert not torch.equal(targets, labels)

    def in_one_order(data, labels):
        return sorted(zip(data.flatten(1).tolist(), labels.tolist()))

    in_turn = torch.cat([data for data, _ in common.Loader(tensors[0][:1000], labels, 1000)])
    assert in_one_order(shuffled, targets) == in_one_order(in_turn, labels)
    again = torch.cat([target for _, target in loader])
    assert not torch.equal(again, targets)  # another order every epoch


def test_rotation_is_torchvisions(tensors):
    torch.manual_seed(0)
    images = tensors[0][:500].unsqueeze(1) / 255
    angles = torch.empty(500).uniform_(-7, 7)
    angles[:4] = torch.tensor([0.0, 90.0, -45.0, 180.0])
    for image, angle, rotated in zip(images, angles, common.rotate(images, angles)):
        assert (rotated - torchvision_rotate(image, angle.item())).abs().max() < 1e-4


def test_rotation_fills_with_the_background(tensors):
    ink = torch.ones(1, 1, 28, 28)
    loader = common.Loader(torch.full((1, 28, 28), 255, dtype=torch.uint8), torch.zeros(1), 1,
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


@pytest.mark.parametrize("name", mnist.FILES)
def test_one_altered_byte_is_found(copy, name):
    folder, raw = copy
    contents = bytearray((raw / name).read_bytes())
    contents[len(contents) // 2] ^= 1
    (raw / name).write_bytes(contents)
    with pytest.raises(mnist.DataError, match=name):
        mnist.load(folder)


@pytest.mark.parametrize("damage", ["altered", "truncated"])
def test_a_step_refuses_damaged_data_in_one_line(copy, tmp_path, damage):
    folder, raw = copy
    path = raw / "t10k-images-idx3-ubyte"
    contents = path.read_bytes()
    path.write_bytes(contents[:-1] if damage == "truncated" else contents[:-1] + b"\7")
    process = run_step("step1_basic", "--dry-run", "--data-dir", folder, "--out-dir", tmp_path / "out")
    assert_one_line(process, path, "damaged")
    assert list((tmp_path / "out").iterdir()) == []


def test_archives_put_there_by_hand_are_unpacked_without_a_download(archives, tmp_path):
    raw = tmp_path / "data" / "MNIST" / "raw"
    shutil.copytree(archives, raw)
    process = run_step("step1_basic", "--dry-run", "--epochs", 1, "--data-dir", tmp_path / "data",
                       "--out-dir", tmp_path / "out", **OFFLINE)
    assert process.returncode == 0, process.stderr
    assert "Downloading" not in process.stdout
    assert {path.name for path in raw.iterdir()} == {*mnist.FILES, *(f"{name}.gz" for name in mnist.FILES)}


@pytest.mark.parametrize("by", ["option", "variable"])
def test_downloads_from_a_mirror(archives, tmp_path, by):
    with Mirror(archives) as mirror:
        how = ["--mirror", mirror.url] if by == "option" else []
        process = run_step("step1_basic", "--dry-run", "--epochs", 1, "--data-dir", tmp_path / "data",
                           "--out-dir", tmp_path / "out", *how,
                           **OFFLINE, **({} if how else {"MNIST_MIRROR": mirror.url + "/"}))
        assert process.returncode == 0, process.stderr
        assert process.stderr == ""  # no bar where no terminal is
        assert mirror.asked >= 4
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
    assert {path.name for path in raw.iterdir()} <= {"train-images-idx3-ubyte", "train-images-idx3-ubyte.gz"}


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
    process = run_step("step1_basic", "--dry-run", "--data-dir", tmp_path / "file", "--out-dir", tmp_path, **OFFLINE)
    assert_one_line(process, tmp_path / "file")


def test_verifying_alone(copy):
    folder, raw = copy
    good = run(sys.executable, "mnist.py", "--data-dir", folder)
    assert good.returncode == 0 and "60,000 training images, 10,000 test images" in good.stdout
    (raw / "t10k-labels-idx1-ubyte").write_bytes(b"")
    assert_one_line(run(sys.executable, "mnist.py", "--data-dir", folder), raw / "t10k-labels-idx1-ubyte")
