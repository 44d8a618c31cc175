"""MNIST on disk and in memory: what is loaded is the true data, or nothing is."""
import contextlib
import functools
import gzip
import http.server
import os
import random
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
import tracemalloc

import pytest
import torch
from conftest import assert_one_line, environment, run, run_step, train
from torchvision import datasets, transforms
from torchvision.transforms.functional import rotate as torchvision_rotate

import common
from harness import cli, mnist
from harness.files import Damaged
from harness.loader import Loader
from study.variants import ROOT, STEPS

# A proxy that refuses at once keeps the public mirrors out of reach wherever the tests run.
OFFLINE = {**{f"{scheme}_proxy": "http://127.0.0.1:9" for scheme in ("http", "https", "HTTP", "HTTPS")},
           "no_proxy": "127.0.0.1"}
ALL_FILES = {*mnist.FILES, *(f"{name}.gz" for name in mnist.FILES)}


@pytest.fixture
def archives(data_dir, tmp_path):
    """A folder with the four .gz files."""
    folder = tmp_path / "the archives"
    folder.mkdir()
    for name in mnist.FILES:
        source = data_dir / "MNIST" / "raw" / name
        if source.with_name(f"{name}.gz").exists():
            shutil.copyfile(source.with_name(f"{name}.gz"), folder / f"{name}.gz")
        else:
            (folder / f"{name}.gz").write_bytes(gzip.compress(source.read_bytes(), 1))
    return folder


@pytest.fixture
def offline(monkeypatch):
    """Keeps the public mirrors, but not those of the tests, out of reach of this process."""
    monkeypatch.setattr(mnist, "MIRRORS", ["http://127.0.0.1:9"])
    monkeypatch.setenv("no_proxy", "127.0.0.1")


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


def equal(loaded, tensors):
    """Whether `loaded` is all of MNIST."""
    return all(torch.equal(ours, true) for ours, true in zip(loaded, tensors, strict=True))


def assert_refused(folder, mirror, *words):
    """Loading from `folder` and `mirror` fails in one line with each of `words` in it, which is returned."""
    with pytest.raises(cli.UserError) as error:
        mnist.load(folder, mirror)
    assert str(error.value).isprintable()
    assert all(str(word) in str(error.value) for word in words), error.value
    return str(error.value)


def fetching(data_dir, mirror):
    """The words of the command that fetches MNIST from `mirror`."""
    return [sys.executable, "-m", "harness.mnist", "--data-dir", str(data_dir), "--mirror", mirror.url]


class Mirror:
    """A web server on 127.0.0.1 that serves `folder`; counts the requests in `asked`, the bytes in `sent`.

    It breaks off after `cut` bytes, and pauses for so many seconds after each half megabyte.
    """

    def __init__(self, folder, cut=None, pause=0):
        mirror = self
        self.asked = self.sent = 0

        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *_):
                mirror.asked += 1

            def copyfile(self, source, outputfile):
                contents = source.read()[:cut]
                with contextlib.suppress(ConnectionError):  # who asks may hang up
                    for start in range(0, len(contents), 2 ** 19):
                        outputfile.write(contents[start:start + 2 ** 19])
                        mirror.sent += 2 ** 19
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


def test_damaged_data_is_refused_in_one_line(copy, tmp_path):
    folder, raw = copy
    name, = spoil(raw, "other images")
    process = run_step("step1_basic", "--dry-run", "--data-dir", folder, "--out-dir", tmp_path / "out",
                       **OFFLINE)
    assert_one_line(process, raw / name, "damaged", "by hand")
    assert "EPOCH" not in process.stdout
    assert names_in(tmp_path / "out") == set()


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_data_stays_as_it_is_where_nothing_can_replace_it(copy, damage, offline):
    folder, raw = copy
    name = spoil(raw, damage)[0]
    damaged = (raw / name).read_bytes()
    assert_refused(folder, None, raw / name, "damaged", *mnist.MIRRORS, "by hand")
    assert (raw / name).read_bytes() == damaged  # whatever it is, it is not ours to delete for nothing
    assert names_in(raw) == set(mnist.FILES)


@pytest.mark.parametrize("damage, source", [*((damage, "archive") for damage in DAMAGES),
                                            ("altered", "mirror"), ("swapped", "mirror")])
def test_damaged_data_is_replaced(copy, archives, tensors, damage, source, offline, capsys):
    folder, raw = copy
    names = spoil(raw, damage)
    if source == "archive":
        shutil.copytree(archives, raw, dirs_exist_ok=True)
    (raw / f".{names[0]}.gz.123.incomplete").touch()  # left by a process that was killed
    with Mirror(archives) as mirror:
        assert equal(mnist.load(folder, mirror.url), tensors)
        assert mirror.asked == (len(names) if source == "mirror" else 0)
    said = capsys.readouterr().out
    for name in names:
        assert f"{raw / name} is damaged" in said
    assert equal(mnist.load(folder), tensors)
    whole = damage in ("altered", "other images", "swapped")  # and so perhaps somebody's data
    asides = {f"{name}.aside1" for name in names if whole}
    assert asides <= names_in(raw) <= ALL_FILES | asides


def test_what_cannot_be_replaced_is_named(copy, archives, offline):
    folder, raw = copy
    path = raw / "t10k-labels-idx1-ubyte"
    path.unlink()
    path.mkdir()  # no file can take its place
    assert_refused(folder, archives, "directory", path)
    assert path.is_dir()


def test_another_data_set_under_the_names_of_mnist_is_set_aside(copy, archives, tensors, offline, capsys):
    folder, raw = copy
    images, labels = raw / "t10k-images-idx3-ubyte", raw / "t10k-labels-idx1-ubyte"
    images_gz, labels_gz = (path.with_name(f"{path.name}.gz") for path in (images, labels))
    earlier = raw / f"{images.name}.aside1"
    larger = struct.pack(">IIII", 0x803, 20000, 28, 28) + bytes(20000 * 28 * 28)
    theirs = {images: images.read_bytes()[:16] + bytes(7840000), images_gz: gzip.compress(larger, 1),
              labels: struct.pack(">II", 0x801, 3) + b"123", labels_gz: gzip.compress(larger, 1)[:-9],
              earlier: b""}
    for path, contents in theirs.items():
        path.write_bytes(contents)
    with Mirror(archives) as mirror:
        assert equal(mnist.load(folder, mirror.url), tensors)
    said = capsys.readouterr().out
    for path, n in ((images, 2), (images_gz, 1), (labels, 1)):
        aside = raw / f"{path.name}.aside{n}"
        assert aside.read_bytes() == theirs[path]
        assert f"{path} is damaged: its SHA-256 sum is not that of MNIST; renamed to {aside.name}\n" in said
    assert f"{labels_gz} is damaged: " in said and "; replaced\n" in said  # it was not whole
    assert earlier.read_bytes() == b"" and len(list(raw.glob("*.aside*"))) == 4
    assert equal(mnist.load(folder), tensors)


def test_files_under_other_names_and_packed_anew(data_dir, tensors, tmp_path, offline, capsys):
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    true = {name: (data_dir / "MNIST" / "raw" / name).read_bytes() for name in mnist.FILES}
    (raw / "train-images.idx3-ubyte").write_bytes(true["train-images-idx3-ubyte"])
    (raw / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(true["train-labels-idx1-ubyte"], 1))
    (raw / "t10k-images.idx3-ubyte.gz").write_bytes(gzip.compress(true["t10k-images-idx3-ubyte"], 1))
    (raw / "t10k-labels.idx1-ubyte").write_bytes(b"not MNIST's")  # which need not be in the way
    (raw / "t10k-labels.idx1-ubyte.gz").write_bytes(gzip.compress(true["t10k-labels-idx1-ubyte"], 1))
    given = names_in(raw)
    assert equal(mnist.load(tmp_path / "data"), tensors)
    assert names_in(raw) == given | set(mnist.FILES)
    assert capsys.readouterr().out == ""
    assert torch.equal(datasets.MNIST(tmp_path / "data", train=False).data, tensors[2])


@pytest.mark.parametrize("how", ["path", "URL", "home", "variable"])
def test_a_folder_as_mirror(archives, tensors, tmp_path, how, offline, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MNIST_MIRROR", "~/the archives" if how == "variable" else "nonsense")
    words = {"path": ["--mirror", "the archives"], "URL": ["--mirror", archives.as_uri()],
             "home": ["--mirror=~/the archives"], "variable": []}[how]
    parser = cli.Parser("A test.")
    mnist.add_arguments(parser)
    args = parser.parse_args(["--data-dir=~/data", *words])
    assert equal(mnist.load(args.data_dir, args.mirror), tensors)
    assert names_in(tmp_path) == {"data", "the archives"}
    assert names_in(tmp_path / "data" / "MNIST" / "raw") == set(mnist.FILES)


@pytest.mark.parametrize("umask, files, folders", [(0o077, 0o644, 0o755), (0o002, 0o664, 0o775)])
def test_others_may_read_what_is_written(archives, tmp_path, umask, files, folders, offline):
    before = os.umask(umask)
    try:
        with Mirror(archives) as mirror:
            mnist.load(tmp_path / "new" / "data", mirror.url)
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    written = [path for path in (tmp_path / "new").rglob("*") if path.name != ".lock"]
    assert len(written) == 11
    for path in written:
        assert path.stat().st_mode & 0o777 == (folders if path.is_dir() else files), path


def test_a_folder_of_somebody_else(archives, tmp_path):
    mortal = []
    if os.geteuid() == 0:  # permissions do not bind root, unless it gives up that privilege
        mortal = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
        if not shutil.which("setpriv") or run(*mortal, "true").returncode:
            pytest.skip("run by root, and setpriv cannot take its privileges away")
    read_only, locked = (tmp_path / name / "MNIST" / "raw" for name in ("read-only", "locked"))
    for raw in (read_only, locked):
        shutil.copytree(archives, raw)
    (locked / ".lock").touch(0o000)
    (locked / "t10k-labels-idx1-ubyte").touch(0o000)  # perhaps a good one, but only for its owner
    read_only.chmod(0o555)
    process = run(*mortal, sys.executable, "-c", "import sys; from harness import mnist; "
                  "[mnist.load(folder) for folder in sys.argv[1:]]",
                  tmp_path / "read-only", tmp_path / "locked", **OFFLINE)
    read_only.chmod(0o755)
    assert process.returncode == 0 and process.stdout == process.stderr == "", process
    assert {path.name for path in read_only.iterdir()} == ALL_FILES - set(mnist.FILES)
    assert names_in(locked) == ALL_FILES
    assert (locked / "t10k-labels-idx1-ubyte").read_bytes() == b""


def test_a_dangling_link(archives, tensors, tmp_path, offline):
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "t10k-labels-idx1-ubyte").symlink_to("gone")
    assert equal(mnist.load(tmp_path / "data", archives), tensors)
    assert names_in(raw) == set(mnist.FILES)
    for part in (tmp_path / "data", tmp_path / "data" / "MNIST", raw):
        part.rename(tmp_path / "away")
        part.symlink_to("gone")
        assert_refused(tmp_path / "data", archives, f"{part} is a link to gone")
        part.unlink()
        (tmp_path / "away").rename(part)


def test_without_lzma_and_with_a_torchvision_that_does_not_fit(archives, tmp_path):
    shutil.copytree(archives, tmp_path / "data" / "MNIST" / "raw")
    (tmp_path / "broken" / "torchvision").mkdir(parents=True)
    (tmp_path / "broken" / "lzma.py").write_text("raise ImportError('No module named _lzma')")
    (tmp_path / "broken" / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')")
    process = run(sys.executable, "-m", "harness.mnist", "--data-dir", tmp_path / "data",
                  PYTHONPATH=str(tmp_path / "broken"), **OFFLINE)
    assert process.returncode == 0 and "verified" in process.stdout, process.stderr


def test_no_mirror_and_no_archive_can_fill_the_memory(tmp_path, offline):
    name = "t10k-labels-idx1-ubyte.gz"
    with open(tmp_path / name, "wb") as file:
        file.write(gzip.compress(bytes(2 ** 26))[:2 ** 14])
        file.truncate(2 ** 26)
    with Mirror(tmp_path) as mirror:
        with pytest.raises(cli.UserError, match=f"{mirror.url}: {name} is damaged"):
            mnist.read_or_fetch(tmp_path / "data" / "t10k-labels-idx1-ubyte", mirror.url)
    assert mirror.sent < 2 ** 25
    tracemalloc.start()
    with pytest.raises(Damaged):
        mnist.read(tmp_path / name)
    assert tracemalloc.get_traced_memory()[1] < 2 ** 22
    tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.parametrize("source", ["archives", "mirror"])
def test_killed_at_any_moment_of_fetching_the_next_run_repairs_it(archives, tensors, tmp_path, source,
                                                                  offline):
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
            while process.poll() is None and not (raw / ".lock").exists():
                time.sleep(0.001)  # until it is at it
            time.sleep(moments.uniform(0, 1))
            process.kill()
            process.communicate()
            assert equal(mnist.load(tmp_path / "data", mirror.url), tensors), f"seed {seed}"
            assert names_in(raw) == ALL_FILES, f"seed {seed}"


@pytest.mark.slow
def test_two_processes_fetch_once(archives, tmp_path):
    with Mirror(archives, pause=0.01) as mirror:
        both = [subprocess.Popen(fetching(tmp_path / "data", mirror), cwd=ROOT, env=environment(**OFFLINE),
                                 stdout=subprocess.PIPE, text=True) for _ in range(2)]
        said = [process.communicate()[0] for process in both]
        assert [process.returncode for process in both] == [0, 0]
        assert mirror.asked == 4
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
def test_downloads_from_a_mirror(archives, tmp_path, offline):
    with Mirror(archives) as mirror:
        process = run_step("step1_basic", "--dry-run", "--epochs", 1, "--data-dir", tmp_path / "data",
                           "--out-dir", tmp_path / "out", **OFFLINE, MNIST_MIRROR=mirror.url + "/")
        assert process.returncode == 0, process.stderr
        assert process.stderr == ""  # no bar where no terminal is
        assert f"Downloading {mirror.url}/t10k-images-idx3-ubyte.gz\n" in process.stdout
        assert mirror.asked == 4
        mnist.load(tmp_path / "data", mirror.url)  # what came is whole, and is not fetched again
        assert mirror.asked == 4
    assert names_in(tmp_path / "data" / "MNIST" / "raw") == ALL_FILES  # .gz and all, for others to be served


@pytest.mark.parametrize("failure", ["absent", "no server", "no folder", "damaged", "broken off"])
def test_a_mirror_that_fails_is_named_in_one_line(archives, tmp_path, failure, offline):
    name = "train-labels-idx1-ubyte.gz"
    if failure == "absent":
        (archives / name).unlink()
    if failure == "damaged":
        contents = bytearray((archives / name).read_bytes())
        contents[1000] ^= 255
        (archives / name).write_bytes(contents)
    raw = tmp_path / "data" / "MNIST" / "raw"
    with Mirror(archives, cut=5000 if failure == "broken off" else None) as mirror:
        place = {"no server": "http://127.0.0.1:9", "no folder": "nonsense"}.get(failure, mirror.url)
        said = assert_refused(tmp_path / "data", place, "by hand", place, raw)
    if failure in ("absent", "damaged"):
        assert name in said
        assert "train-images-idx3-ubyte.gz" not in said  # that one was served well
    # Nothing half-done lies about, under a true name or another.
    assert names_in(raw) <= {"train-images-idx3-ubyte", "train-images-idx3-ubyte.gz"}


def test_a_damaged_archive_is_replaced_from_a_mirror(archives, tmp_path, offline):
    raw = tmp_path / "data" / "MNIST" / "raw"
    shutil.copytree(archives, raw)
    archive = raw / "train-labels-idx1-ubyte.gz"
    archive.write_bytes(gzip.compress(b"not MNIST"))
    assert_refused(tmp_path / "data", None, f"{archive} is damaged")
    with Mirror(archives) as mirror:
        mnist.load(tmp_path / "data", mirror.url)
    mnist.read(archive)
    assert socket.getdefaulttimeout() is None  # which would hold for whatever this process does next


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
