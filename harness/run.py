"""One training run: its log, its history, a checkpoint after every epoch, and the files at the end."""
import contextlib
import glob
import io
import math
import os
import random
import re
import shlex
import signal
import sys
import tempfile
import time
from pathlib import Path

import filelock
import numpy as np
import torch

from harness import checkpoint, cli, record, results
from harness.cli import UserError
from harness.files import Damaged, atomic_write, locked, make_folder
from harness.loader import predict

ENDINGS = (".log", ".png", "_mistakes.png", ".json", ".pt")  # a finished run's files


class Run:
    """One training run with the network class `net`.

    `args` is the step's parsed command line, `published` the figures of the S5 document to store beside
    ours: a dict with `best_train_accuracy` and `best_test_accuracy` in percent, or an empty one. The run's
    files are named after the script that makes it, or `notebook` where a notebook's cell does.

    A context manager: inside `with`, everything random is seeded, print() also goes to the log, the files
    belong to this process alone, and what a user can cause (bad data, a diverging loss, a full disk, Ctrl-C)
    ends the program with one line on stderr and a non-zero exit status.
    """

    def __init__(self, net, args, published):
        caller = sys._getframe(1)
        script = Path(caller.f_globals.get("__file__", "notebook"))
        self.script, self.step, self.args = script.name, script.stem, args
        self.facts = record.facts(script, caller.f_code, net, args, published)
        self.history, self.pending = [], None  # finished epochs, and the one that log() has just recorded
        self.lines, self.saved = [], None  # what has been printed, and the checkpoint to go on from
        if cli.in_notebook():
            options = " ".join(f"{name}={value}" for name, value in self.facts["arguments"].items())
            self.command = f"In a notebook, with {options}\n"
        else:  # a script that a notebook runs has sys.argv to itself
            words = sys.argv if hasattr(sys, "ps1") else sys.orig_argv[1:]
            self.command = f"$ python {shlex.join(words)}\n"
        self.start = time.perf_counter()

    def path(self, ending):
        """Where this run's file `<step><ending>` belongs."""
        return Path(self.args.out_dir) / f"{self.step}{ending}"

    def __enter__(self):
        with contextlib.ExitStack() as exits:
            exits.enter_context(cli.sigterm_raises())
            try:
                exits.enter_context(own_folder(self.args.out_dir, self.step))
                if self.args.resume:
                    self.saved = checkpoint.find(self.path(".ckpt"), self.facts)
                    self._stop_if_finished()
                exits.enter_context(contextlib.redirect_stdout(_Tee(sys.stdout, self.lines)))
                threads, versions = self.facts["threads"], self.facts["versions"]
                print(f"{self.command}seed {self.args.seed}, device {self.args.device}, {threads} CPU "
                      f"thread{'s' * (threads > 1)}, Python {versions['python']}, torch {versions['torch']}, "
                      f"{self.facts['started']}\n")
                seed_everything(self.args)
            except BaseException as error:
                self._explain(error)
                raise
            self.exits = exits.pop_all()
        return self

    def __exit__(self, kind, error, traceback):
        if isinstance(error, KeyboardInterrupt):  # a second one must not cut off the first
            if hasattr(sys, "ps1"):  # a notebook or a prompt, which lives on
                self.exits.callback(signal.signal, signal.SIGINT, signal.getsignal(signal.SIGINT))
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
        with self.exits:
            self._explain(error)

    def _explain(self, error):
        """End the program in one line if a user can have caused `error`; else leave it alone."""
        done = len(self.history or (self.saved or {}).get("history", []))
        message, status = str(error), 1
        if isinstance(error, cli.Diverged):
            message, status = f"epoch {done}, {error}", error.status
        elif isinstance(error, KeyboardInterrupt):
            status = 143 if isinstance(error, cli.Terminated) else 130
            message = (f"interrupted after {done} of {self.args.epochs} epochs; "
                       if done < self.args.epochs else "interrupted while writing the results; ")
            message += ("the same command with --resume goes on from there" if done else
                        "no epoch is complete, so nothing was written")
        elif isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and re.search(
                "out of memory|can't allocate memory", str(error))):
            message = f"out of memory; try a smaller --batch-size or network ({cli.one_line(error, 200)})"
        elif not isinstance(error, UserError):  # no error, or a bug, which keeps its traceback
            return
        if self.lines and not self.lines[-1].endswith("\n"):
            self.lines.append("\n")  # it came in the middle of a line
        self.lines.append(f"error: {message}\n")
        # A run that never got to train leaves the files of an earlier one alone.
        if self.history or isinstance(error, cli.Diverged):
            with contextlib.suppress(UserError):
                self._write_log()
                message += f"; the log so far is in {self.path('.log')}"
        cli.fail(message, status, self.script)

    def _stop_if_finished(self):
        saved = self.saved
        if saved and saved["finished"] and self.args.epochs == saved["facts"]["arguments"]["epochs"] \
                and all(self.path(ending).exists() for ending in ENDINGS):
            history = saved["history"]
            print(f"{self.script}: finished before, nothing left to do: {len(history)} epochs, last test "
                  f"accuracy {history[-1]['test_accuracy']:.2f} %, see {self.path('.log')}")
            sys.exit()

    def epochs(self, model, optimizer, scheduler=None, *others):
        """Yields the number of each epoch to train, from 0 or from where --resume goes on.

        When the loop's body is over, the epoch is stored: log, and a checkpoint of `model`, `optimizer`,
        `scheduler`, `others` (whatever else has a state_dict: a second optimizer, an average of the weights)
        and everything random. Raises UserError if a checkpoint does not fit or the disk is full.
        """
        self.trained = model, optimizer, scheduler, others, self.args.device
        if self.saved:
            self._go_on()
        self.log_so_far = "".join(self.lines)
        for epoch in range(len(self.history), self.args.epochs):
            self.lap, self.lr = time.perf_counter(), optimizer.param_groups[0]["lr"]
            print(f"EPOCH: {epoch}\nLearning rate: {self.lr:g}")
            yield epoch
            self._end_epoch()

    def _go_on(self):
        """Put everything where the checkpoint was."""
        checkpoint.restore(self.path(".ckpt"), self.saved, *self.trained, self.args.epochs)
        self.history = self.saved["history"]
        print(f"Going on after epoch {self.history[-1]['epoch']}, from {self.path('.ckpt')}\n")
        self.lines[:] = [self.saved["log"]]
        if self.args.epochs != self.saved["facts"]["arguments"]["epochs"]:
            self.lines.append(f"{self.command}\n")
        self.facts["started"] = self.saved["facts"]["started"]
        self.start = time.perf_counter() - self.saved["seconds"]

    def log(self, train_result, test_result):
        """Note what came of this epoch: `(loss, accuracy in percent)` in training and in the test."""
        (train_loss, train_accuracy), (test_loss, test_accuracy) = train_result, test_result
        self.pending = {"epoch": len(self.history), "lr": float(self.lr),
                        "train_loss": float(train_loss), "train_accuracy": float(train_accuracy),
                        "test_loss": float(test_loss), "test_accuracy": float(test_accuracy),
                        "seconds": round(time.perf_counter() - self.lap, 3)}
        for name, figure in self.pending.items():
            if not math.isfinite(figure):
                raise cli.Diverged(f"its {name} became {figure}; a smaller --lr may help")

    def _end_epoch(self):
        if not self.pending:
            raise RuntimeError("an epoch went by without run.log(train_result, test_result)")
        self.history.append(self.pending)
        self.pending, self.log_so_far = None, "".join(self.lines)
        self._write_checkpoint(finished=False)
        self._write_log()  # complete after every epoch, in case the run is killed before the last
        if len(self.history) == 1:  # now, rather than when it is needed
            try:
                checkpoint.read(self.path(".ckpt"))
            except Damaged as error:
                cli.warn(f"this run cannot be resumed: {error}", self.script)

    def _write_checkpoint(self, finished):
        # Its log ends with the last epoch: a run that goes on for more epochs has a closing table of its own.
        checkpoint.write(self.path(".ckpt"), {
            "facts": self.facts, "history": self.history, "log": self.log_so_far, "finished": finished,
            "seconds": time.perf_counter() - self.start, **checkpoint.capture(*self.trained)})

    def _write_log(self):
        with atomic_write(self.path(".log")) as path:
            path.write_text("".join(self.lines), encoding="utf-8", errors="backslashreplace")

    def finish(self, model, train_loader, test_loader, **figures):
        """Print the closing table and write all files, with `figures` of the step's own in the JSON by name.

        Raises UserError if the disk cannot take them.
        """
        if self.pending:  # the loop was left by a break
            self._end_epoch()
        checkpoint.write(self.path(".pt"), {name: value.cpu() if isinstance(value, torch.Tensor) else value
                                            for name, value in model.state_dict().items()})
        log_probabilities = predict(model, test_loader).cpu()
        figures |= results.final_figures(model, train_loader, test_loader, log_probabilities)
        result = self.facts | figures | {
            "seconds": round(time.perf_counter() - self.start, 3), "history": self.history}
        print(results.closing_table(result, test_loader.split))
        record.write(self.path(".json"), result)
        images, labels, split = test_loader.images.cpu(), test_loader.labels.cpu(), test_loader.split
        drawn = results.draw([
            (self.path(".png"), "curves", self.history, split),
            (self.path("_mistakes.png"), "mistakes", images, labels, log_probabilities.exp(), split),
        ], self.step, self.script)
        endings = [ending for ending in ENDINGS if not ending.endswith("png") or self.path(ending) in drawn]
        print(f"Written: {self.path('')}{' '.join(endings)}")
        self._write_log()
        self._write_checkpoint(finished=True)


@contextlib.contextmanager
def own_folder(folder, step):
    """Makes sure that `folder` can be written, and locks the files of `step` in it. Raises UserError."""
    folder = Path(folder)
    with contextlib.ExitStack() as exits:
        try:  # now, rather than after a quarter of an hour of training
            make_folder(folder)
            tempfile.TemporaryFile(dir=folder).close()
            exits.enter_context(locked(folder / f".{step}.lock"))
            for killed in folder.glob(f".{glob.escape(step)}[._]*.incomplete"):
                killed.unlink()
        except filelock.Timeout:
            raise UserError(f"another process is writing {folder / step}.*; "
                            "wait for it, or name another --out-dir") from None
        except OSError as error:
            raise UserError(f"cannot write into --out-dir: {error}") from None
        yield


def seed_everything(args):
    """Seed everything random with `args.seed`, and make a GPU add up in the same order every time."""
    torch.manual_seed(args.seed)
    random.seed(args.seed)
    np.random.seed(args.seed % 2 ** 32)
    if args.device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # which torch asks for
        torch.use_deterministic_algorithms(True, warn_only=True)  # a warning says what cannot be repeated


class _Tee(io.TextIOBase):
    """A text stream that passes everything on to `stream`, at once, and keeps a copy in `lines`."""

    def __init__(self, stream, lines):
        self.lines, self.stream, self.flush, self.isatty = lines, stream, stream.flush, stream.isatty

    def write(self, text):
        self.lines.append(text)
        try:
            self.stream.write(text)
            self.stream.flush()  # or a redirected log would arrive in one piece at the end
        except OSError as error:
            raise UserError(f"cannot print: {error}") from error
        return len(text)

    def close(self):
        """Leave the stream open, which is not ours, when this object goes."""
