"""Files that are whole or not there, and that one process writes at a time."""
import contextlib
import os

try:
    import fcntl
except ImportError:  # Windows has no flock: there, nobody keeps two processes apart
    fcntl = None


@contextlib.contextmanager
def whole(path):
    """Yields a scratch path to write to, which becomes `path` at the end of the block, or vanishes if it fails.

    Raises OSError if the disk cannot take it; what `path` was before is then still there.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}.incomplete")
    try:
        yield scratch
        with open(scratch, "rb+") as file:
            os.fsync(file.fileno())  # on the disk before the old file goes, should the power fail
        os.replace(scratch, path)
    finally:
        with contextlib.suppress(OSError):  # the folder itself may be gone
            scratch.unlink()


@contextlib.contextmanager
def locked(path, wait=False):
    """Holds the lock file `path` for the block; a lock whose owner died, in whatever way, is free.

    Raises BlockingIOError if another process holds it, or waits for that one if `wait`.
    """
    while True:
        file = open(path, "a")
        try:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.close()
            raise
        except OSError:
            pass  # a file system that knows no locks
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                break
        file.close()  # its owner has removed it since we opened it: that lock is nobody's, try the next
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)
        file.close()
