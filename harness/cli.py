"""The command line of every program here: parser, types of arguments, errors in one line."""
import argparse
import contextlib
import math
import os
import signal
import sys
import threading
from pathlib import Path

import torch


class UserError(Exception):
    """Something that the user caused and can put right; the message says what, in one line."""


class Diverged(UserError):
    """A loss became NaN or infinite."""


class Terminated(KeyboardInterrupt):
    """SIGTERM has arrived."""


def program():
    """The name that this program was started by: `step1_basic.py`, or `study.report` for `python -m ...`."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name if spec else Path(sys.argv[0]).name


def fail(message, status=1, name=None):
    """End the program `name`, by default this one, with one line on stderr and the exit status `status`."""
    print(f"{name or program()}: error: {message}", file=sys.stderr)
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
    """An argparse parser that shows defaults in its help, and says in one line what is wrong."""

    def __init__(self, docstring, **more):
        super().__init__(prog=program(), description=docstring.splitlines()[0],
                         formatter_class=argparse.ArgumentDefaultsHelpFormatter, **more)

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message}\n")


def out_dir(docstring, help):
    """The folder that --out-dir names, on the command line of a program that has no other option."""
    parser = Parser(docstring)
    parser.add_argument("--out-dir", default="results", metavar="DIR", type=Path, help=help)
    return parser.parse_args().out_dir


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
positive = _number(float, lambda x: 0 < x < math.inf, "a number above 0")
probability = _number(float, lambda p: 0 <= p < 1, "a probability from 0 up to, not including, 1")
angle = _number(float, lambda a: 0 <= a <= 180, "an angle from 0 to 180 degrees")
seed = _number(int, lambda n: 0 <= n < 2 ** 63, "a whole number from 0 to 2^63 - 1")


def device(name):
    """The torch.device called `name`, which may be auto; raises argparse.ArgumentTypeError if absent."""
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next(kind for kind in ("cuda", "mps", "cpu") if present[kind])
    if name not in present:
        raise argparse.ArgumentTypeError(f"{name!r} is unknown; choose from auto, {', '.join(present)}")
    if not present[name]:
        raise argparse.ArgumentTypeError(f"torch finds no {name} device on this machine")
    return torch.device(name)
