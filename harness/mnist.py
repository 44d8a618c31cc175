"""MNIST on disk: download, verify, repair, load as tensors.

    python -m harness.mnist --data-dir data     # download and verify, nothing more

The four files are unpacked under `<data-dir>/MNIST/raw/`, where torchvision puts them too. Each is compared
with its canonical SHA-256 sum before it is used: nothing but the true images is ever trained on.
"""
import contextlib
import hashlib
import http.client
import io
import os
import shutil
import socket
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from harness import cli
from harness.files import Damaged, locked

# What is in each file: the shape of the array behind the idx header, and the SHA-256 sum.
# https://yann.lecun.com/exdb/mnist/ describes the format.
FILES = {
    "train-images-idx3-ubyte": (
        (60000, 28, 28), "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
    "train-labels-idx1-ubyte": (
        (60000,), "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
    "t10k-images-idx3-ubyte": (
        (10000, 28, 28), "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
    "t10k-labels-idx1-ubyte": (
        (10000,), "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
}


def load(data_dir, mirror=None):
    """All of MNIST, as the next two functions return it: training and test images, each with their labels."""
    return (*load_training(data_dir, mirror), *load_test(data_dir, mirror))


def load_training(data_dir, mirror=None):
    """The 60,000 training images and their labels in `data_dir`, first fetching what is missing or damaged.

    Returns `(images, labels)`: uint8 images (N, 28, 28) with 0 for background and 255 for full ink, int64
    labels (N,). `mirror` is the URL of a folder with the four .gz files, asked before the public ones.

    Raises UserError if a file is missing or damaged and no mirror has it, or if `data_dir` cannot be read, or
    written when it must be.
    """
    return _load("train", data_dir, mirror)


def load_test(data_dir, mirror=None):
    """`load_training` for the 10,000 test images."""
    return _load("t10k", data_dir, mirror)


def _load(split, data_dir, mirror):
    raw = Path(data_dir) / "MNIST" / "raw"
    # Labels index the log-probabilities, for which torch wants int64.
    return (read_or_fetch(raw / f"{split}-images-idx3-ubyte", mirror),
            read_or_fetch(raw / f"{split}-labels-idx1-ubyte", mirror).long())


def read_or_fetch(path, mirror=None):
    """What `read` returns, after fetching the file if it is missing or damaged. Raises UserError."""
    damage = None
    try:
        return read(path)
    except FileNotFoundError:
        pass
    except Damaged as error:
        damage = error
    except OSError as error:
        raise cli.UserError(str(error)) from None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.parent / ".lock", wait=True):
            with contextlib.suppress(FileNotFoundError, Damaged):
                return read(path)  # another process has fetched it while we waited
            if damage:
                print(f"{damage}; fetching it afresh", flush=True)
            for killed in path.parent.glob(".incomplete-*"):
                shutil.rmtree(killed, ignore_errors=True)
            fetch(path.name, path.parent, mirror)
            return read(path)
    except (cli.UserError, OSError) as error:
        raise cli.UserError(f"{damage}, and cannot be replaced: {error}" if damage else str(error)) from None


def read(path):
    """The uint8 tensor in an unpacked file. Raises Damaged if it is not MNIST's, OSError if unreadable."""
    shape, sha256 = FILES[path.name]
    header = 4 + 4 * len(shape)  # magic number, then one 32-bit size per dimension
    expected, size = header + int(np.prod(shape)), path.stat().st_size
    if size != expected:  # before reading: a wrong file may be of any size
        raise Damaged(f"{path} is damaged: {size:,} bytes instead of {expected:,}")
    contents = bytearray(size)  # writable, as torch wants the memory it shares
    with open(path, "rb") as file:
        file.readinto(contents)
    if hashlib.sha256(contents).hexdigest() != sha256:
        raise Damaged(f"{path} is damaged: its SHA-256 sum is not that of MNIST")
    return torch.frombuffer(contents, dtype=torch.uint8, offset=header).reshape(shape)


def fetch(name, raw, mirror=None):
    """Put the unpacked file `name` into the folder `raw`: from the .gz beside it, else from a mirror."""
    # Here, not above: torchvision takes a second to import and is only needed once.
    from torchvision.datasets import MNIST
    from torchvision.datasets.utils import check_integrity, download_url, extract_archive

    archive = raw / f"{name}.gz"
    md5 = dict(MNIST.resources)[archive.name]
    socket.setdefaulttimeout(20)  # torchvision sets none: a silent mirror would block us for ever
    # In a folder of its own, moved into place when complete: no partial file has a final name.
    with tempfile.TemporaryDirectory(dir=raw, prefix=".incomplete-") as workshop:
        if not check_integrity(archive, md5):
            mirrors = ([mirror.rstrip("/") + "/"] if mirror else []) + MNIST.mirrors
            tried = [f"{archive}: wrong MD5 sum"] if archive.exists() else []
            for url in (base + archive.name for base in mirrors):
                print(f"Downloading {url}", flush=True)
                try:
                    bar = sys.stderr if sys.stderr.isatty() else io.StringIO()
                    with contextlib.redirect_stderr(bar):
                        download_url(url, workshop, md5=md5)
                    os.replace(Path(workshop) / archive.name, archive)
                    break
                except (OSError, RuntimeError, ValueError, http.client.HTTPException) as error:
                    tried.append(f"{url}: {error}")
                    (Path(workshop) / archive.name).unlink(missing_ok=True)
            else:
                raise cli.UserError(f"no mirror has {archive.name} (tried {'; '.join(tried)}); "
                                f"put the four .gz files into {raw} by hand, or name a --mirror")
        extract_archive(str(archive), workshop)
        os.replace(Path(workshop) / name, raw / name)


def add_arguments(parser):
    """Add the options that say where the data is, `--data-dir` and `--mirror`, to an argparse parser."""
    parser.add_argument("--data-dir", default="data", metavar="DIR",
                        help="folder that holds MNIST/raw/, filled by a download if it is not there")
    parser.add_argument("--mirror", default=os.environ.get("MNIST_MIRROR"), metavar="URL",
                        help="folder on a web server with the four .gz files, asked before the public "
                             "mirrors; the environment variable MNIST_MIRROR does the same")


def main():
    parser = cli.Parser("Download and verify MNIST.")
    add_arguments(parser)
    args = parser.parse_args()
    train_images, _, test_images, _ = load(args.data_dir, args.mirror)
    print(f"MNIST in {args.data_dir} is complete and verified: "
          f"{len(train_images):,} training images, {len(test_images):,} test images")


if __name__ == "__main__":
    cli.run(main)
