"""What one run leaves behind: log, JSON, curves, mistakes, checkpoint.

Every file is written beside its final name and moved there when complete, so
under its own name it is whole or not there at all.
"""
import contextlib
import datetime
import importlib.metadata
import io
import json
import os
import platform
import shlex
import sys
import tempfile
import time
from pathlib import Path

import torch

import common
import mnist


class Run:
    """One training run: copies what is printed into the log, collects the history, writes the files.

    `script` is the step's `__file__`, `args` its parsed command line, `published`
    the figures of the S5 document to store beside ours: a dict with
    `best_train_accuracy` and `best_test_accuracy` in percent.

    A context manager: inside `with`, print() also goes to the log, and what a
    user can cause (bad data, a diverging loss, a full disk, Ctrl-C) ends the
    program with one line on stderr and a non-zero exit status.
    """

    def __init__(self, script, args, published):
        self.script, self.step = Path(script).name, Path(script).stem
        self.args, self.published = args, published
        self.history, self.lines = [], []
        self.versions = {"python": platform.python_version(),
                         "torch": torch.__version__,
                         "torchvision": importlib.metadata.version("torchvision")}
        self.started = datetime.datetime.now().astimezone().isoformat(timespec="seconds")

    def path(self, ending):
        """Where this run's file `<step><ending>` belongs."""
        return Path(self.args.out_dir) / f"{self.step}{ending}"

    def __enter__(self):
        self.start = self.lap = time.perf_counter()
        try:  # now, rather than after a quarter of an hour of training
            Path(self.args.out_dir).mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.args.out_dir).close()
        except OSError as error:
            sys.exit(f"{self.script}: error: cannot write into --out-dir: {error}")
        self.tee = contextlib.redirect_stdout(_Tee(sys.stdout, self.lines))
        self.tee.__enter__()
        print(f"$ python {shlex.join(sys.argv)}")
        threads = torch.get_num_threads()
        print(f"seed {self.args.seed}, device {self.args.device}, {threads} CPU thread{'s' * (threads > 1)}, "
              f"Python {self.versions['python']}, torch {self.versions['torch']}, "
              f"torchvision {self.versions['torchvision']}, {self.started}\n")
        return self

    def __exit__(self, kind, error, traceback):
        self.tee.__exit__(kind, error, traceback)
        status = 1
        if isinstance(error, FloatingPointError):
            message = f"epoch {len(self.history)}, {error}; a smaller --lr may help"
        elif isinstance(error, KeyboardInterrupt):
            message, status = f"interrupted in epoch {len(self.history)}", 130
        elif isinstance(error, (mnist.DataError, OSError)):
            message = str(error)
        else:  # no error, or one of the programmer's, who wants the traceback
            return
        self.lines.append(f"error: {message}\n")
        # A run that never got to train leaves the files of an earlier one alone.
        if self.history or isinstance(error, FloatingPointError):
            with contextlib.suppress(OSError):
                self.write_log()
                message += f"; the log so far is in {self.path('.log')}"
        print(f"{self.script}: error: {message}", file=sys.stderr)
        sys.exit(status)

    def epoch(self, lr, train, test):
        """Note one more epoch: its learning rate, and `(loss, accuracy in percent)` in training and test."""
        now = time.perf_counter()
        self.history.append({"epoch": len(self.history), "lr": lr,
                             "train_loss": train[0], "train_accuracy": train[1],
                             "test_loss": test[0], "test_accuracy": test[1],
                             "seconds": round(now - self.lap, 3)})
        self.lap = now
        self.write_log()  # whole after every epoch, should the run not live to see the last

    def finish(self, model, test_loader):
        """Print the closing table and write every file, given the trained `model` and the test loader."""
        import pictures  # here, not above: matplotlib would hold up the first epoch by a second

        seconds = time.perf_counter() - self.start
        parameters = sum(p.numel() for p in model.parameters())
        print(f"{'':16}{'best (epoch)':>16}{'last (epoch)':>16}")
        for split in ("train", "test"):
            top, last = best(self.history, f"{split}_accuracy"), self.history[-1]
            print(f"{split.title() + ' accuracy':16}" + "".join(
                f"{e[f'{split}_accuracy']:8.2f} % ({e['epoch']:2})".rjust(16) for e in (top, last)))
        print(f"Parameters: {parameters:,}\nWall time: {seconds:.1f} s\n")

        with whole(self.path(".pt")) as path:
            torch.save({name: value.cpu() for name, value in model.state_dict().items()}, path)
        with whole(self.path(".png")) as path:
            pictures.curves(path, self.step, self.history)
        with whole(self.path("_mistakes.png")) as path:
            pictures.mistakes(path, self.step, test_loader.images.cpu(), test_loader.labels.cpu(),
                              common.predict(model, test_loader).exp().cpu())
        with whole(self.path(".json")) as path:
            path.write_text(json.dumps({
                "step": self.step, "parameters": parameters,
                "arguments": {name: value if isinstance(value, (int, float, type(None))) else str(value)
                              for name, value in vars(self.args).items()},
                "versions": self.versions, "device": str(self.args.device), "started": self.started,
                "seconds": round(seconds, 3), "published": self.published, "history": self.history,
            }, indent=1) + "\n")
        print(f"Written: {self.path('')}.log .png _mistakes.png .json .pt")
        self.write_log()

    def write_log(self):
        """Put what has been printed so far into the log file."""
        with whole(self.path(".log")) as path:
            path.write_text("".join(self.lines))


def best(history, figure):
    """The epoch of `history` with the highest `figure`, the earliest of equals."""
    return max(history, key=lambda epoch: epoch[figure])


@contextlib.contextmanager
def whole(path):
    """Yields a scratch path to write to, which becomes `path` at the end of the block, or vanishes if it fails."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield scratch
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


class _Tee(io.TextIOBase):
    """A text stream that passes everything on to `stream`, at once, and keeps a copy in `lines`."""

    def __init__(self, stream, lines):
        self.stream, self.lines = stream, lines

    def write(self, text):
        self.lines.append(text)
        self.stream.write(text)
        self.stream.flush()  # or a redirected log would arrive in one piece at the end
        return len(text)

    def flush(self):
        self.stream.flush()

    def isatty(self):
        return self.stream.isatty()
