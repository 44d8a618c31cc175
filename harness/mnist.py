"""MNIST on disk: find, download, verify, repair, load as tensors.

    python -m harness.mnist --data-dir data     # download and verify, nothing more

The four files lie under `<data-dir>/MNIST/raw/`, where torchvision puts them too. Each is compared with its
canonical SHA-256 sum before it is used: nothing but the true images is ever trained on.
"""
import contextlib
import gzip
import hashlib
import http.client
import io
import itertools
import math
import os
import struct
import urllib.request
import zlib
from pathlib import Path

import torch
from tqdm import tqdm

from harness import cli
from harness.files import Damaged, atomic_write, locked, make_folder

# The four files, unpacked: size in bytes and SHA-256 sum.
FILES = {
    "train-images-idx3-ubyte": (47040016, "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
    "train-labels-idx1-ubyte": (60008, "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
    "t10k-images-idx3-ubyte": (7840016, "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
    "t10k-labels-idx1-ubyte": (10008, "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
}
MIRRORS = "https://ossci-datasets.s3.amazonaws.com/mnist", "http://yann.lecun.com/exdb/mnist"
# Test images, counted from 0, whose label is wrong or that annotators disagree on: Northcutt, Athalye and
# Mueller, "Pervasive label errors in test sets destabilize machine learning benchmarks" (arXiv:2103.14749).
DISPUTED = {947, 1621, 1901, 2130, 2462, 2597, 2654, 3520, 3558, 5937, 6651, 6783, 8527, 9679, 9729}
NOT_A_GZ = gzip.BadGzipFile, EOFError, zlib.error  # what gzip raises if it cannot unpack a file


def load(data_dir, mirror=None):
    """All of MNIST, as the next two functions return it: training and test images, each with their labels."""
    return (*load_training(data_dir, mirror), *load_test(data_dir, mirror))


def load_training(data_dir, mirror=None):
    """The 60,000 training images and their labels in `data_dir`, first fetching what is missing or damaged.

    Returns `(images, labels)`: uint8 images (N, 28, 28) with 0 for background and 255 for full ink, int64
    labels (N,). `mirror`, a folder or the URL of one, is asked before the public mirrors.

    Raises UserError if a file is missing or damaged and no mirror has it, or if `data_dir` cannot be read, or
    written when it must be.
    """
    return _load("train", data_dir, mirror)


def load_test(data_dir, mirror=None):
    """`load_training` for the 10,000 test images."""
    return _load("t10k", data_dir, mirror)


def _load(split, data_dir, mirror):
    raw = Path(data_dir) / "MNIST" / "raw"
    images = read_or_fetch(raw / f"{split}-images-idx3-ubyte", mirror)
    labels = read_or_fetch(raw / f"{split}-labels-idx1-ubyte", mirror)
    # The headers end at 16 and at 8: https://yann.lecun.com/exdb/mnist/ describes the format. Labels index
    # the log-probabilities, for which torch wants int64.
    return (torch.frombuffer(images, dtype=torch.uint8, offset=16).reshape(-1, 28, 28),
            torch.frombuffer(labels, dtype=torch.uint8, offset=8).long())


def read_or_fetch(path, mirror=None):
    """What `read` returns, after fetching the file if it is missing or damaged. Raises UserError."""
    with contextlib.suppress(Damaged, OSError):
        return read(path)
    raw = path.parent
    try:
        with contextlib.ExitStack() as stack:
            # Others may share the folder: let them read what we write, whatever our umask.
            stack.callback(os.umask, umask := os.umask(0o022))
            os.umask(umask & 0o022)
            make_folder(raw)
            with contextlib.suppress(OSError):  # do without another user's lock: it only saves a download
                stack.enter_context(locked(raw / ".lock", wait=True))
                for killed in raw.glob(f".{path.name}*.incomplete"):
                    killed.unlink()
            return fetch(path, mirror)
    except OSError as error:
        raise cli.UserError(str(error)) from None


def read(path, packed=None):
    """The unpacked bytes, header and all, of one of the four files, `path`, which may be a .gz.

    If `packed`, an open file, is given, it is read as that .gz. Raises Damaged if it is not MNIST's, OSError
    if it cannot be read.
    """
    size, sha256 = FILES[path.name.removesuffix(".gz").replace(".idx", "-idx")]
    try:
        with gzip.open(packed or path) if path.suffix == ".gz" else open(path, "rb") as file:
            contents = bytearray(file.read(size + 1))  # a wrong file may be of any size
        if hashlib.sha256(contents).hexdigest() != sha256:
            raise ValueError("its SHA-256 sum is not that of MNIST")
    except (ValueError, *NOT_A_GZ) as error:
        raise Damaged(f"{path} is damaged: {error}") from None
    return contents


def fetch(path, mirror=None):
    """Write the file `path` from where it is first found: its own folder, `mirror`, the public mirrors.

    Returns what `read` returns, even where its own folder has it and cannot be written. Raises UserError.
    """
    tried = []
    for place in map(str, filter(None, (path.parent, mirror, *MIRRORS))):
        try:
            contents, archive = _get(path.name, place)
            break
        except (cli.UserError, OSError, ValueError, http.client.HTTPException) as error:
            tried.append(f"{place}: {error}")
    else:
        raise cli.UserError(f"no mirror has {path.name}.gz (tried {'; '.join(tried)}); "
                            f"put the four .gz files into {path.parent} by hand, or name a --mirror")
    at_hand = not tried  # in its own folder, where the next run will find it again
    with contextlib.suppress(*(cli.UserError, OSError) * at_hand):
        if archive:
            _put(path.with_name(f"{path.name}.gz"), archive)
        _put(path, contents)
    return contents


def _get(name, place):
    """The unpacked bytes of the file `name` in `place`, a folder or its URL; and the .gz, if downloaded."""
    if place.startswith(("http://", "https://")):
        url, archive = f"{place.rstrip('/')}/{name}.gz", bytearray()
        print(f"Downloading {url}", flush=True)
        with urllib.request.urlopen(url, timeout=20) as response, tqdm.wrapattr(
                response, "read", total=response.length, leave=False, disable=None) as file:
            while len(archive) < 2 * FILES[name][0] and (chunk := file.read(2 ** 15)):  # it may be endless
                archive += chunk
        return read(Path(f"{name}.gz"), io.BytesIO(archive)), archive
    if place.startswith("file://"):
        place = urllib.request.url2pathname(place.removeprefix("file://"))
    problems, dotted = [], name.replace("-idx", ".idx")
    for form in (name, dotted, f"{name}.gz", f"{dotted}.gz"):
        try:
            return read(Path(place, form)), None
        except FileNotFoundError:
            pass
        except (Damaged, OSError) as error:
            problems.append(str(error))
    raise cli.UserError("; ".join(problems) or ("not in it" if Path(place).is_dir() else "no such folder"))


def _put(path, contents):
    """Write `contents` to `path`. What else is there is replaced, but renamed if it is another data set's."""
    with atomic_write(path) as scratch:
        scratch.write_bytes(contents)
        try:
            read(path)
        except FileNotFoundError:
            pass
        except Damaged as damage:
            fate = "replaced"
            if _is_whole(path):
                names = (path.with_name(f"{path.name}.aside{n}") for n in itertools.count(1))
                aside = path.rename(next(name for name in names if not name.exists()))
                fate = f"renamed to {aside.name}"
            print(f"{damage}; {fate}", flush=True)


def _is_whole(path):
    """Whether `path` is an idx file of bytes, or the .gz of one, that is as long as its header says."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            kind, dimensions = struct.unpack(">3sB", file.read(4))
            size = math.prod(struct.unpack(f">{dimensions}I", file.read(4 * dimensions)))
            file.seek(3 + 4 * dimensions + min(size, 2 ** 40))
            return kind == b"\0\0\x08" and len(file.read(2)) == 1
    except (struct.error, *NOT_A_GZ):
        return False


def add_arguments(parser):
    """Add the options that say where the data is, `--data-dir` and `--mirror`, to an argparse parser."""
    parser.add_argument("--data-dir", default="data", metavar="DIR", type=os.path.expanduser,
                        help="folder that holds MNIST/raw/, filled by a download if it is not there")
    parser.add_argument("--mirror", default=os.environ.get("MNIST_MIRROR"), metavar="URL|DIR",
                        type=os.path.expanduser,
                        help="folder with the four .gz files, on a web server or on disk, asked before the "
                             "public mirrors; the environment variable MNIST_MIRROR does the same")


def main():
    parser = cli.Parser("Download and verify MNIST.")
    add_arguments(parser)
    args = parser.parse_args()
    train_images, _, test_images, _ = load(args.data_dir, args.mirror)
    print(f"MNIST in {args.data_dir} is complete and verified: "
          f"{len(train_images):,} training images, {len(test_images):,} test images")


if __name__ == "__main__":
    cli.run(main)
