"""A run's JSON file: what is in it, how it is written, and how it is read back and checked.
"""
import ast
import datetime
import hashlib
import inspect
import json
import math
import os
import platform
import re
import subprocess
import textwrap
from pathlib import Path

import torch

from harness.files import Damaged, atomic_write

TARGET = 99.4  # percent of the test images: the goal of the exercise
LARGEST = 2 ** 22  # bytes; a run of 15 epochs has some 10 KB
NOT_IN_RECIPE = {"data_dir", "mirror", "out_dir", "resume"}  # arguments that do not affect the results
RUN = {"step": str, "network": str, "parameters": int, "multiply_adds": int, "arguments": dict, "recipe": str,
       "versions": dict, "device": str, "threads": int, "machine": str, "started": str, "seconds": float,
       "published": dict, "train_accuracy_eval": float, "mistakes": list, "history": list}
EPOCH = {"epoch": int, "lr": float, "train_loss": float, "train_accuracy": float,
         "test_loss": float, "test_accuracy": float, "seconds": float}


def facts(script, code, net, args, published):
    """What is known of a run before it begins: from its `script`, the code in it that makes the run, the
    network class and the options.
    """
    return {"step": script.stem, "network": getattr(net, "__name__", type(net).__name__),
            "arguments": plain(args), "recipe": recipe(code, net), "commit": commit(script.resolve().parent),
            "versions": {"python": platform.python_version(), "torch": str(torch.__version__)},
            "device": device(args.device), "threads": torch.get_num_threads(),
            "machine": machine(),
            "started": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            "published": published}


def plain(args):
    """The command line `args` as a dict of what JSON and a checkpoint can hold."""
    return {name: value if isinstance(value, (int, float, type(None))) else str(value)
            for name, value in vars(args).items()}


def recipe(code, net):
    """A digest of the code that decides what a run computes: that of the step and of the network class `net`.

    The step's is the whole file, or a notebook's cell, that `code` (a module, function or code object) is in.
    Imports, docstrings, help texts, comments and layout do not count, nor does the version of Python.
    """
    sources = _source(inspect.findsource, code), _source(inspect.getsource, net)
    canonical = "\n".join(_canonical(ast.parse(source)) for source in sources)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _source(find, item):
    """The text that `find` has of `item`; of a class in a cell, that of its functions; else an empty one."""
    try:
        found = find(item)
        return textwrap.dedent(found if isinstance(found, str) else "".join(found[0]))
    except (OSError, TypeError):  # code from a string, or from a keyboard
        functions = filter(inspect.isfunction, getattr(item, "__dict__", {}).values())
        return "\n".join(_source(find, function) for function in functions)


def _canonical(node):
    """The syntax tree `node` as text, without what does not count or only some versions of Python have."""
    if isinstance(node, list):
        return "".join(map(_canonical, node))
    if not isinstance(node, ast.AST):
        return ascii(node)
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return ""
    if isinstance(node, ast.keyword) and node.arg in ("help", "metavar"):
        return ""
    fields = dict(ast.iter_fields(node))
    if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
        fields["body"] = node.body[1:]
    inside = " ".join(f"{name}={_canonical(value)}" for name, value in sorted(fields.items())
                      if value is not None and value != [])
    return f"({type(node).__name__} {inside})"


def device(torch_device):
    """The `torch_device` that a run is trained on, a GPU with its name, as in cuda (NVIDIA H200)."""
    if torch_device.type != "cuda":
        return str(torch_device)
    return f"{torch_device} ({torch.cuda.get_device_name(torch_device)})"


def processor():
    """The name of this machine's processor, as far as its system tells."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(encoding="utf-8", errors="replace") if cpuinfo.exists() else ""
    names = re.findall(r"^model name\s*: (.+)", text, re.MULTILINE)
    return names[0] if names else platform.processor() or platform.machine()


def machine():
    """This machine, as far as its system tells: processor, cores, system."""
    return f"{processor()}, {os.cpu_count()} cores, {platform.platform()}"


def commit(folder):
    """The commit checked out in `folder`, with "-dirty" if files have changed since; "" without git."""
    try:
        words = ["git", "-C", folder, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(words, capture_output=True, text=True, encoding="utf-8").stdout.strip()
    except OSError:
        return ""


def write(path, run):
    """Put `run`, a dict as RUN has it, into the file `path`. Raises UserError if the disk cannot take it."""
    lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in run.items() if key != "history"]
    epochs = ",\n".join(f"  {json.dumps(epoch)}" for epoch in run["history"])
    with atomic_write(path) as scratch:
        scratch.write_text("{\n" + ",\n".join([*lines, f' "history": [\n{epochs}\n ]']) + "\n}\n",
                           encoding="utf-8")


def read(path):
    """The run in the JSON file `path` as a dict, after a check of every field that is used.

    Raises FileNotFoundError if there is none, Damaged if it cannot be read or is another kind of file.
    """
    return checked(read_json(path))


def read_lines(path):
    """The runs in a file of JSON lines, as write_lines leaves it, checked. Raises as read() does."""
    def run(number, line):
        try:
            return checked(json.loads(line))
        except (Damaged, ValueError, RecursionError) as error:
            raise Damaged(f"line {number}: {error}") from None

    return [run(*line) for line in enumerate(_content(path).splitlines(), start=1)]


def write_lines(path, runs):
    """Put `runs` into the file `path`, one a line. Raises UserError if the disk cannot take it."""
    with atomic_write(path) as scratch:
        scratch.write_text("".join(f"{json.dumps(run)}\n" for run in runs), encoding="utf-8")


def checked(run):
    """`run`, as a JSON file has it, if every field that is used is what it should be; else raises Damaged."""
    check(run, RUN)
    check(run["arguments"], {"epochs": int, "seed": int, "dry_run": bool, "validate": bool})
    check(run["versions"], {"torch": str})
    if "test_accuracy_without_tta" in run:  # a step's own figure
        check(run, {"test_accuracy_without_tta": float})
    if run["published"]:  # empty in a step that S5 does not have
        check(run["published"], {"best_train_accuracy": float, "best_test_accuracy": float})
    check_history(run["history"])
    if not all(type(entry) is list and [type(n) for n in entry] == [int, int, int]
               and entry[0] in range(10_000) and {*entry[1:]} <= {*range(10)} for entry in run["mistakes"]):
        raise Damaged("its mistakes are not lists of test image, true digit, predicted digit")
    return run


def read_json(path):
    """What is in the JSON file `path`. Raises FileNotFoundError or, if it cannot be read, Damaged."""
    try:
        return json.loads(_content(path))
    except (ValueError, RecursionError):
        raise Damaged("it is not JSON, or cut off") from None


def _content(path):
    """The bytes of the file `path`, if it is there, can be read, and is of a likely size."""
    try:
        if path.stat().st_size > LARGEST:
            raise Damaged("it is far too large")
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Damaged(str(error)) from None


def check(entries, types):
    """Raise Damaged unless the dict `entries` has all keys of `types`, of those types; floats are finite."""
    if type(entries) is not dict:
        raise Damaged("it is not a dictionary")
    for key, wanted in types.items():
        value = entries.get(key)
        if wanted is float and type(value) is int and abs(value) < 2 ** 53:
            value = float(value)  # a whole number will do
        if type(value) is not wanted or wanted is float and not math.isfinite(value):
            raise Damaged(f"its {key} is {'missing' if key not in entries else 'not what it should be'}")


def check_history(history):
    """Raise Damaged unless `history` is what a run collects: at least one epoch, counted from 0."""
    if type(history) is not list or not history:
        raise Damaged("it has no epoch")
    for number, epoch in enumerate(history):
        check(epoch, EPOCH)
        if epoch["epoch"] != number:
            raise Damaged(f"its epoch {number} is not what it should be")


def best(history, figure):
    """The epoch of `history` with the highest `figure`, the earliest of equals."""
    return max(history, key=lambda epoch: epoch[figure])
