"""Files that are written completely or not at all, by one process at a time."""
import contextlib
import os

import filelock

from harness.cli import UserError


class Damaged(UserError):
    """A file is not what it should be; the message says how."""


def make_folder(folder):
    """Make `folder`, and those above it, where they are not there. Raises OSError."""
    for part in (folder, *folder.parents):
        if part.is_symlink() and not part.exists():
            raise OSError(f"{part} is a link to {os.readlink(part)}, which is not there")
    folder.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def atomic_write(path):
    """Yields a scratch path to write to, which becomes `path` at the end of the block, or vanishes if it
    fails.

    Raises UserError if the disk cannot take it; what `path` was before is then still there.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}.incomplete")
    try:
        yield scratch
        with open(scratch, "rb+") as file:
            os.fsync(file.fileno())  # on the disk before the old file goes, should the power fail
        os.replace(scratch, path)
    except OSError as error:
        raise UserError(str(error)) from error
    finally:
        with contextlib.suppress(OSError):  # the folder itself may be gone
            scratch.unlink()


@contextlib.contextmanager
def locked(path, wait=False):
    """Holds the lock file `path` for the block; the lock of a process that died, in whatever way, is free.

    The file itself stays. Raises filelock.Timeout if another process holds it, or waits for that one if
    `wait`; OSError if it cannot be written.
    """
    lock = filelock.FileLock(path, mode=0o666)  # in a shared folder others may lock it, too
    with contextlib.suppress(NotImplementedError):  # a file system without locks
        lock.acquire(timeout=-1 if wait else 0)
    try:
        yield
    finally:
        lock.release()
