"""The command line of every program here: parser, types of arguments, errors in one line."""
import argparse
import contextlib
import functools
import os
import signal
import sys
import threading
import warnings
from pathlib import Path

import torch


class UserError(Exception):
    """Something that the user caused and can put right; the message says what, in one line."""


class Diverged(UserError):
    """A loss became NaN or infinite."""

    status = 3  # of the program that ends with it


class Terminated(KeyboardInterrupt):
    """SIGTERM has arrived."""


def in_notebook():
    """Whether a notebook's cell has called this: the command line is then its kernel's, and not ours."""
    return hasattr(sys, "ps1") and not hasattr(sys.modules["__main__"], "__file__")  # ps1: there is a prompt


def program():
    """The name that this program was started by: `step1_basic.py`, or `study.report` for `python -m ...`."""
    if in_notebook():
        return "notebook"
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name if spec else Path(sys.argv[0]).name


def one_line(message, most=None):
    """The text or exception `message` in one line that can be printed, of at most so many characters."""
    words = str(message).split() or [type(message).__name__]
    return "".join(c if c.isprintable() else "?" for c in " ".join(words))[:most]


def warn(message, name=None):
    """Print `message` in one line on stderr, after the name of the program, by default this one."""
    print(f"{name or program()}: {one_line(message)}", file=sys.stderr)


def fail(message, status=1, name=None):
    """End the program `name`, by default this one, with one line on stderr and the exit status `status`."""
    warn(f"error: {message}", name)
    try:
        sys.stdout.flush()
    except OSError:  # nobody reads it any more: without this, Python would complain once again at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno())
    sys.exit(status)


def run(main):
    """Call `main`. What its user can cause (a UserError, Ctrl-C, SIGTERM) ends the program in one line."""
    try:
        with sigterm_raises():
            main()
            sys.stdout.flush()
    except UserError as error:
        fail(error)
    except BrokenPipeError:
        fail("nobody reads the output any more")
    except KeyboardInterrupt as error:
        fail("interrupted", 143 if isinstance(error, Terminated) else 130)


@contextlib.contextmanager
def sigterm_raises():
    """Within the block SIGTERM raises Terminated, so that what was begun is cleaned up."""
    def terminate(*_):
        raise Terminated

    listens = threading.current_thread() is threading.main_thread()  # no other thread may
    before = listens and signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        if listens:
            signal.signal(signal.SIGTERM, before)


class Parser(argparse.ArgumentParser):
    """An argparse parser that shows defaults in its help, and says in one line what is wrong.

    Called from a notebook's cell without words of its own to parse, it takes none.
    """

    def __init__(self, docstring, **more):
        for name in ("stdout", "stderr"):
            if getattr(sys, name) is None:  # closed by whoever started us
                setattr(sys, name, open(os.devnull, "w"))
        if hasattr(sys.stdout, "reconfigure"):  # a terminal that lacks a character must not end the program
            sys.stdout.reconfigure(errors="backslashreplace")
        super().__init__(prog=program(), description=docstring and docstring.splitlines()[0],  # -OO: None
                         formatter_class=argparse.ArgumentDefaultsHelpFormatter, **more)

    def parse_args(self, args=None, namespace=None):
        return super().parse_args([] if args is None and in_notebook() else args, namespace)

    def error(self, message):
        fail(message, 2, self.prog)


def out_dir_parser(docstring, help):
    """A parser with the option --out-dir; its `help` says what that folder is for."""
    parser = Parser(docstring)
    parser.add_argument("--out-dir", default="results", metavar="DIR", type=folder, help=help)
    return parser


def out_dir(docstring, help):
    """The folder that --out-dir names, on the command line of a program that has no other option."""
    return Path(out_dir_parser(docstring, help).parse_args().out_dir)


def _number(convert, holds, wanted):
    """An argument type: accepts numbers for which `holds` is true, and refuses other text."""
    def number(text):
        try:
            value = convert(text)
        except ValueError:
            value = None
        if value is None or not holds(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
        return value
    return number


positive_int = _number(int, lambda n: n > 0, "a whole number above 0")
positive = _number(float, lambda x: 0 < x <= 1e6, "a number above 0, and at most 1,000,000")
probability = _number(float, lambda p: 0 <= p < 1, "a probability from 0 up to, not including, 1")
angle = _number(float, lambda a: 0 <= a <= 180, "an angle from 0 to 180 degrees")
seed = _number(int, lambda n: 0 <= n < 2 ** 63, "a whole number from 0 to 2^63 - 1")
folder = os.path.expanduser  # the shell leaves the ~ of --out-dir=~/results as it is


@functools.cache  # or a study, which parses many command lines, would be warned as often
def device(name):
    """The torch.device called `name`: cpu, cuda, cuda:1, mps, or auto for a GPU if one works, else the CPU.

    Raises argparse.ArgumentTypeError if there is no such device, or torch cannot compute on it.
    """
    count = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if name == "auto":
        for kind in ("cuda", "mps"):
            try:
                if count[kind]:
                    return device(kind)
            except argparse.ArgumentTypeError as error:
                warn(f"{error}; --device auto takes the CPU")
        return torch.device("cpu")
    kind, _, index = name.partition(":")
    if kind not in count or not (index or "0").isdecimal():
        raise argparse.ArgumentTypeError(f"{name!r} is unknown; choose from auto, cpu, cuda, cuda:1, mps")
    if int(index or 0) >= count[kind]:
        raise argparse.ArgumentTypeError(f"torch finds no {name} device on this machine")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, of several lines, about a GPU it was not built for
            torch.ones(2, device=name).sum().item()
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"torch cannot use {name}: {one_line(error, 200)}") from None
    return torch.device(name)
