"""MNIST on disk: download, verify, repair, load as tensors.

The four files lie unpacked under `<data-dir>/MNIST/raw/`, where torchvision
puts them too. Each is compared with its canonical SHA-256 sum before a byte of
it is used, so nothing but the true 60,000 + 10,000 images is ever trained on.

    python mnist.py --data-dir data     # download and verify, nothing more
"""
import argparse
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

from files import locked

# What is in each file: shape of the array behind the idx header, SHA-256 of the
# unpacked file, MD5 of the .gz. https://yann.lecun.com/exdb/mnist/ describes the format.
FILES = {
    "train-images-idx3-ubyte": (
        (60000, 28, 28), "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
    "train-labels-idx1-ubyte": (
        (60000,), "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "d53e105ee54ea40749a09fcbcd1e9432"),
    "t10k-images-idx3-ubyte": (
        (10000, 28, 28), "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "9fb629c4189551a2d022fa330f9573f3"),
    "t10k-labels-idx1-ubyte": (
        (10000,), "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        "ec29112dd5afa0611ce80d1b7f02629c"),
}


class DataError(Exception):
    """MNIST cannot be had or is not what it should be; the message says which file and why."""


def load(data_dir, mirror=None):
    """Read all of MNIST: `(train_images, train_labels, test_images, test_labels)`.

    Shapes, arguments and what is raised are those of `load_training` and `load_test`.
    """
    return (*load_training(data_dir, mirror), *load_test(data_dir, mirror))


def load_training(data_dir, mirror=None):
    """Read the 60,000 training images and their labels from `data_dir`, fetching first what is not there or is damaged.

    Returns `(images, labels)`: uint8 images of shape (N, 28, 28) with 0 for background and
    255 for full ink, int64 labels of shape (N,). `mirror` is the URL of a folder that
    holds the four .gz files; it is asked before the public ones.

    Raises DataError if a file is not there or damaged and no mirror has it, OSError if
    `data_dir` cannot be read, or written when it must be.
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
    """What `read` returns, after replacing the file if it is damaged, with a line on stdout, or missing.

    Raises DataError if no true one can be had, OSError if the folder cannot be written.
    """
    damage = None
    try:
        return read(path)
    except FileNotFoundError:
        pass
    except DataError as error:
        damage = error
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.parent / ".lock", wait=True):
            with contextlib.suppress(FileNotFoundError, DataError):
                return read(path)  # another process has fetched it while we waited
            if damage:
                print(f"{damage}; fetching it afresh", flush=True)
            for killed in path.parent.glob(".incomplete-*"):
                shutil.rmtree(killed, ignore_errors=True)
            fetch(path.name, path.parent, mirror)
            return read(path)
    except (DataError, OSError) as error:
        if damage:
            raise DataError(f"{damage}, and cannot be replaced: {error}") from None
        raise


def read(path):
    """The verified contents of one unpacked file as a uint8 tensor of its true shape.

    Raises DataError if its length or its SHA-256 sum is not the canonical one,
    OSError if it cannot be read.
    """
    shape, sha256, _ = FILES[path.name]
    header = 4 + 4 * len(shape)  # magic number, then one 32-bit size per dimension
    expected, size = header + int(np.prod(shape)), path.stat().st_size
    if size != expected:  # before reading: a wrong file may be of any size
        raise DataError(f"{path} is damaged: {size:,} bytes instead of {expected:,}")
    contents = bytearray(size)  # writable, as torch wants the memory it shares
    with open(path, "rb") as file:
        file.readinto(contents)
    if hashlib.sha256(contents).hexdigest() != sha256:
        raise DataError(f"{path} is damaged: its SHA-256 sum is not that of MNIST")
    return torch.frombuffer(contents, dtype=torch.uint8, offset=header).reshape(shape)


def fetch(name, raw, mirror=None):
    """Put the unpacked file `name` into the folder `raw`: from the .gz beside it, else from a mirror.

    Raises DataError if neither is good, OSError if `raw` cannot be written.
    """
    # Here, not above: torchvision takes a second to import and is only needed once.
    from torchvision.datasets import MNIST
    from torchvision.datasets.utils import check_integrity, download_url, extract_archive

    md5, archive = FILES[name][2], raw / f"{name}.gz"
    socket.setdefaulttimeout(20)  # torchvision sets none: a silent mirror would hang us for ever
    # In a folder of its own, moved into place when complete: no half a file under a true name.
    with tempfile.TemporaryDirectory(dir=raw, prefix=".incomplete-") as workshop:
        if not check_integrity(archive, md5):
            mirrors = ([mirror.rstrip("/") + "/"] if mirror else []) + MNIST.mirrors
            tried = [f"{archive}: wrong MD5 sum"] if archive.exists() else []
            for url in (base + archive.name for base in mirrors):
                print(f"Downloading {url}", flush=True)
                try:
                    with hidden_bar():
                        download_url(url, workshop, md5=md5)
                    os.replace(Path(workshop) / archive.name, archive)
                    break
                except (OSError, RuntimeError, ValueError, http.client.HTTPException) as error:
                    tried.append(f"{url}: {error}")
                    (Path(workshop) / archive.name).unlink(missing_ok=True)
            else:
                raise DataError(f"no mirror has {archive.name} (tried {'; '.join(tried)}); "
                                f"put the four .gz files into {raw} by hand, or name a --mirror")
        extract_archive(str(archive), workshop)
        os.replace(Path(workshop) / name, raw / name)


def hidden_bar():
    """Keeps torchvision's download bar off anything that is not a terminal."""
    return contextlib.nullcontext() if sys.stderr.isatty() else contextlib.redirect_stderr(io.StringIO())


def add_arguments(parser):
    """Add the options that say where the data is, `--data-dir` and `--mirror`, to an argparse parser."""
    parser.add_argument("--data-dir", default="data", metavar="DIR",
                        help="folder that holds MNIST/raw/, filled by a download if it is not there")
    parser.add_argument("--mirror", default=os.environ.get("MNIST_MIRROR"), metavar="URL",
                        help="folder on a web server with the four .gz files, asked before the public "
                             "mirrors; the environment variable MNIST_MIRROR does the same")


def main():
    parser = argparse.ArgumentParser(description="Download and verify MNIST.",
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add_arguments(parser)
    args = parser.parse_args()
    try:
        train_images, _, test_images, _ = load(args.data_dir, args.mirror)
    except (DataError, OSError) as error:
        sys.exit(f"mnist.py: error: {error}")
    except KeyboardInterrupt:
        print("mnist.py: error: interrupted; run it again, it goes on with the file it was at", file=sys.stderr)
        sys.exit(130)
    print(f"MNIST in {args.data_dir} is complete and verified: "
          f"{len(train_images):,} training images, {len(test_images):,} test images")


if __name__ == "__main__":
    main()
