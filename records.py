"""What one run leaves behind: log, JSON, curves, mistakes, weights, and a checkpoint to go on from.

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
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch

import checkpoint
import common
import mnist
from files import locked, whole
from loader import Loader

ENDINGS = (".log", ".png", "_mistakes.png", ".json", ".pt")  # a finished run's files
ELSEWHERE = {"data_dir", "mirror", "out_dir", "resume"}  # arguments that change nothing in a run's figures


class Terminated(BaseException):
    """SIGTERM has come."""


class Run:
    """One training run: copies what is printed into the log, collects the history, writes the files.

    `script` is the step's `__file__`, `net` its network's class, `args` its parsed command
    line, `published` the figures of the S5 document to store beside ours: a dict with
    `best_train_accuracy` and `best_test_accuracy` in percent.

    A context manager: inside `with`, print() also goes to the log, the files belong to
    this process alone, and what a user can cause (bad data, a diverging loss, a full
    disk, Ctrl-C) ends the program with one line on stderr and a non-zero exit status.
    """

    def __init__(self, script, net, args, published):
        self.script, self.step = Path(script).name, Path(script).stem
        self.args, self.published = args, published
        self.network, self.recipe = net.__name__, checkpoint.recipe(script, net)
        self.history, self.lines, self.saved = [], [], None
        self.command = f"$ python {shlex.join(sys.orig_argv[1:])}"
        self.versions = {"python": platform.python_version(),
                         "torch": str(torch.__version__),
                         "torchvision": importlib.metadata.version("torchvision")}
        self.threads = torch.get_num_threads()
        self.started = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        self.start = self.lap = time.perf_counter()

    def path(self, ending):
        """Where this run's file `<step><ending>` belongs."""
        return Path(self.args.out_dir) / f"{self.step}{ending}"

    def __enter__(self):
        with contextlib.ExitStack() as exits:
            exits.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, _terminate))
            try:
                self.begin(exits)
            except (KeyboardInterrupt, Terminated) as error:
                self.explain(error)
            self.exits = exits.pop_all()
        return self

    def begin(self, exits):
        """Take the folder, look for a checkpoint, open the log; what is to be undone at the end goes on `exits`."""
        try:  # now, rather than after a quarter of an hour of training
            Path(self.args.out_dir).mkdir(parents=True, exist_ok=True)
            exits.enter_context(locked(self.path(".lock")))
            tempfile.TemporaryFile(dir=self.args.out_dir).close()
            for killed in Path(self.args.out_dir).glob(f".{self.step}[._]*.incomplete"):
                killed.unlink()
        except BlockingIOError:
            sys.exit(f"{self.script}: error: another process is writing {self.path('')}.*; "
                     "wait for it, or name another --out-dir")
        except OSError as error:
            sys.exit(f"{self.script}: error: cannot write into --out-dir: {error}")
        if self.args.resume:
            self.saved = self.find_checkpoint()
        exits.enter_context(contextlib.redirect_stdout(_Tee(sys.stdout, self.lines)))
        print(self.command)
        print(f"seed {self.args.seed}, device {self.args.device}, "
              f"{self.threads} CPU thread{'s' * (self.threads > 1)}, Python {self.versions['python']}, "
              f"torch {self.versions['torch']}, torchvision {self.versions['torchvision']}, {self.started}\n")

    def __exit__(self, kind, error, traceback):
        if isinstance(error, (KeyboardInterrupt, Terminated)):  # a second one must not cut off the first
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
        with self.exits:
            self.explain(error)

    def explain(self, error):
        """End the program in one line if `error` is something that a user can cause; else leave it alone."""
        done, status = len(self.saved["history"] if self.saved and not self.history else self.history), 1
        if isinstance(error, FloatingPointError):
            message = f"epoch {done}, {error}; a smaller --lr may help"
        elif isinstance(error, (KeyboardInterrupt, Terminated)):
            status = 130 if isinstance(error, KeyboardInterrupt) else 143
            message = f"interrupted in epoch {done} of {self.args.epochs}" if done < self.args.epochs else \
                "interrupted while writing the results"
            message += "; the same command with --resume goes on from there" if done else \
                "; no epoch is complete, so nothing was written"
        elif isinstance(error, (checkpoint.Damaged, mnist.DataError, OSError)):
            message = str(error)
        else:  # no error, or one of the programmer's, who wants the traceback
            return
        if self.lines and not self.lines[-1].endswith("\n"):
            self.lines.append("\n")  # it came in the middle of a line
        self.lines.append(f"error: {message}\n")
        # A run that never got to train leaves the files of an earlier one alone.
        if self.history or isinstance(error, FloatingPointError):
            with contextlib.suppress(OSError):
                self.write_log()
                message += f"; the log so far is in {self.path('.log')}"
        print(f"{self.script}: error: {message}", file=sys.stderr)
        try:
            sys.stdout.flush()
        except OSError:  # nobody reads it any more: without this, Python would say so once again at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno())
        sys.exit(status)

    def find_checkpoint(self):
        """The state that --resume goes on from, or None if there is none.

        Ends the program if there is nothing left to do, or if what is there belongs to another experiment.
        """
        path = self.path(".ckpt")

        def refuse(why):
            sys.exit(f"{self.script}: error: cannot resume from {path}: {why}; without --resume it starts afresh")

        try:
            saved = checkpoint.read(path)
        except FileNotFoundError:
            return None
        except checkpoint.Damaged as error:
            refuse(f"it is damaged ({error})")
        except OSError as error:
            sys.exit(f"{self.script}: error: cannot resume: {error}")
        before, now = saved["arguments"], plain(self.args)
        for name in sorted(now.keys() - ELSEWHERE - {"epochs"}):
            if before.get(name) != now[name]:
                refuse(f"--{name.replace('_', '-')} is {now[name]!r} here and was {before.get(name)!r:.40} there")
        if saved["step"] != self.step or saved["recipe"] != self.recipe:
            refuse(f"{self.script} or its network has changed since")
        if saved["torch"] != self.versions["torch"]:
            refuse(f"this is torch {self.versions['torch']}, that was {saved['torch']!r:.40}")
        if saved["threads"] != self.threads and now["device"] == "cpu":
            refuse(f"this process has {self.threads} CPU threads, that one had {saved['threads']}, "
                   f"and sums would be rounded otherwise (OMP_NUM_THREADS={saved['threads']} sets it)")
        if self.args.epochs < max(before["epochs"], len(saved["history"])):
            refuse(f"--epochs can be raised, not lowered: it was {before['epochs']}")
        if saved["finished"] and self.args.epochs == before["epochs"] and all(
                self.path(ending).exists() for ending in ENDINGS):
            print(f"{self.script}: finished before, nothing left to do: {len(saved['history'])} epochs, last test "
                  f"accuracy {saved['history'][-1]['test_accuracy']:.2f} %, see {self.path('.log')}")
            sys.exit()
        return saved

    def resume(self, model, optimizer, scheduler=None):
        """Name what each checkpoint is to hold; with --resume, put all of it where the last checkpoint was.

        Returns the number of the epoch to go on with, 0 without a checkpoint. Raises
        checkpoint.Damaged if its tensors do not fit.
        """
        self.trained = model, optimizer, scheduler, self.args.device
        if self.saved:
            try:
                checkpoint.restore(self.saved, *self.trained)
            except checkpoint.Damaged as error:
                raise checkpoint.Damaged(f"cannot resume from {self.path('.ckpt')}: it is damaged ({error}); "
                                         "without --resume it starts afresh") from None
            self.history = self.saved["history"]
            print(f"Going on after epoch {self.history[-1]['epoch']}, from {self.path('.ckpt')}\n")
            self.lines[:] = [self.saved["log"]]
            if self.args.epochs != self.saved["arguments"]["epochs"]:
                self.lines.append(f"{self.command}\n\n")
            self.started = self.saved["started"]
            self.start = time.perf_counter() - self.saved["seconds"]
            self.lap = time.perf_counter()
        return len(self.history)

    def epoch(self, lr, train, test):
        """Note one more epoch: its learning rate, and `(loss, accuracy in percent)` in training and test."""
        now = time.perf_counter()
        self.history.append({"epoch": len(self.history), "lr": lr,
                             "train_loss": train[0], "train_accuracy": train[1],
                             "test_loss": test[0], "test_accuracy": test[1],
                             "seconds": round(now - self.lap, 3)})
        self.lap = now
        self.write_checkpoint(self.lines, finished=False)
        self.write_log()  # whole after every epoch, should the run not live to see the last

    def write_checkpoint(self, lines, finished):
        """Replace the checkpoint by one of now, with `lines` for the log that a resumed run continues."""
        checkpoint.write(self.path(".ckpt"), {
            "step": self.step, "recipe": self.recipe, "arguments": plain(self.args),
            "torch": self.versions["torch"], "threads": self.threads, "started": self.started,
            "seconds": time.perf_counter() - self.start, "history": self.history,
            "log": "".join(lines), "finished": finished, **checkpoint.capture(*self.trained)})

    def finish(self, model, train_loader, test_loader):
        """Print the closing table and write every file, given the trained `model` and the loaders, as `common.loaders` made them."""
        import pictures  # here, not above: matplotlib would hold up the first epoch by a second

        lines = list(self.lines)  # without what follows, should a run with more epochs go on from here
        as_they_are = Loader(train_loader.images, train_loader.labels, common.TEST_BATCH)
        fitted = common.predict(model, as_they_are).argmax(dim=1) == as_they_are.labels
        train_accuracy_eval = 100 * fitted.sum().item() / len(fitted)
        log_probabilities, labels = common.predict(model, test_loader).cpu(), test_loader.labels.cpu()
        predicted = log_probabilities.argmax(dim=1)
        mistakes = [[i, labels[i].item(), predicted[i].item()]
                    for i in (predicted != labels).nonzero().flatten().tolist()]

        seconds = time.perf_counter() - self.start
        parameters = sum(p.numel() for p in model.parameters())
        print(f"{'':20}{'best (epoch)':>16}{'last (epoch)':>16}")
        for name, figure in (("train", "train_accuracy"), (test_loader.split, "test_accuracy")):
            top, last = best(self.history, figure), self.history[-1]
            print(f"{name.title() + ' accuracy':20}" + "".join(
                f"{e[figure]:8.2f} % ({e['epoch']:2})".rjust(16) for e in (top, last)))
        print(f"Training images as they are, nothing dropped: {train_accuracy_eval:.2f} %")
        print(f"Parameters: {parameters:,}\nWall time: {seconds:.1f} s\n")

        weights = io.BytesIO()
        torch.save({name: value.cpu() for name, value in model.state_dict().items()}, weights)
        with whole(self.path(".pt")) as path:
            path.write_bytes(weights.getbuffer())
        with whole(self.path(".png")) as path:
            pictures.curves(path, self.step, self.history, test_loader.split)
        with whole(self.path("_mistakes.png")) as path:
            pictures.mistakes(path, self.step, test_loader.images.cpu(), labels, log_probabilities.exp(),
                              test_loader.split)
        with whole(self.path(".json")) as path:
            path.write_text(as_json({
                "step": self.step, "network": self.network, "parameters": parameters,
                "multiply_adds": common.multiply_adds(model), "arguments": plain(self.args),
                "recipe": self.recipe, "versions": self.versions, "device": str(self.args.device),
                "threads": self.threads, "machine": f"{platform.platform()}, {os.cpu_count()} cores", "started": self.started, "seconds": round(seconds, 3),
                "published": self.published, "train_accuracy_eval": train_accuracy_eval,
                "mistakes": mistakes, "history": self.history}))
        print(f"Written: {self.path('')}.log .png _mistakes.png .json .pt")
        self.write_log()
        self.write_checkpoint(lines, finished=True)

    def write_log(self):
        """Put what has been printed so far into the log file."""
        with whole(self.path(".log")) as path:
            path.write_text("".join(self.lines))


def best(history, figure):
    """The epoch of `history` with the highest `figure`, the earliest of equals."""
    return max(history, key=lambda epoch: epoch[figure])


def plain(args):
    """The command line `args` as a dict of what JSON and a checkpoint can hold."""
    return {name: value if isinstance(value, (int, float, type(None))) else str(value)
            for name, value in vars(args).items()}


def as_json(run):
    """`run` as JSON text with a line for each entry, and for each epoch of its history."""
    lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in run.items() if key != "history"]
    epochs = ",\n".join(f"  {json.dumps(epoch)}" for epoch in run["history"])
    return "{\n" + ",\n".join([*lines, f' "history": [\n{epochs}\n ]']) + "\n}\n"


def _terminate(*_):
    raise Terminated


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
