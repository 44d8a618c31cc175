"""The checkpoint a run leaves after every epoch, from which --resume goes on.

A file written by torch.save. Whoever made the one that is read, whatever bytes are
in it: reading it runs no code, takes no more memory than a few times its size, and
ends in a state whose every part has the type it should have, or in Damaged.
"""
import ast
import hashlib
import inspect
import io
import math
import pickletools
import textwrap
import warnings
import zipfile
from pathlib import Path

import torch

from files import whole

LARGEST = 2 ** 26  # bytes; ours have some 100 KB
# The only names in the pickle of a dict of tensors. torch's own list of safe ones holds
# some that allocate what they are told to, bytearray for one.
NAMES = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2",
         "torch FloatStorage", "torch LongStorage", "torch ByteStorage"}
STATE = {"step": str, "recipe": str, "arguments": dict, "torch": str, "threads": int, "started": str,
         "seconds": float, "history": list, "log": str, "finished": bool,
         "model": dict, "optimizer": dict, "scheduler_steps": int, "random": dict}
EPOCH = {"epoch": int, "lr": float, "train_loss": float, "train_accuracy": float,
         "test_loss": float, "test_accuracy": float, "seconds": float}


class Damaged(Exception):
    """The file is not one that `write` wrote; the message says in what."""


def recipe(script, net):
    """A digest of the code that decides what a run computes: the step's `script` and its network class `net`.

    Comments, docstrings and layout do not count.
    """
    digest = hashlib.sha256()
    for source in (Path(script).read_text(), textwrap.dedent(inspect.getsource(net))):
        tree = ast.parse(source)
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node):
                node.body[0] = ast.Pass()
        digest.update(ast.unparse(tree).encode())
    return digest.hexdigest()


def write(path, state):
    """Put `state`, a dict as STATE describes it, into the file `path`. Raises OSError if the disk cannot take it."""
    contents = io.BytesIO()  # torch.save on a file says RuntimeError, and no more, when the disk is full
    torch.save(state, contents)
    with whole(path) as scratch:
        scratch.write_bytes(contents.getbuffer())


def read(path):
    """The state that `write` put into the file `path`, its tensors on the CPU.

    Raises Damaged if the file is anything else, OSError if it cannot be read.
    """
    if path.stat().st_size > LARGEST:
        raise Damaged("it is far too large")
    contents = path.read_bytes()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about what is odd in the file; we say that it is damaged
            state = torch.load(_plain(contents), map_location="cpu", weights_only=True)
        check(state, STATE)
        check(state["arguments"], {"epochs": int})
        if not all(type(value) in (str, int, float, bool, type(None)) for value in state["arguments"].values()):
            raise Damaged("its arguments are not what they should be")
        check_history(state["history"])
        torch.Generator().set_state(state["random"]["cpu"])
        for text in (state["step"], state["started"], state["log"], state["torch"]):
            text.encode()
    except Exception as error:  # of any kind: what a file of any bytes may lead to is not ours to list
        raise Damaged(_one_line(error)) from None
    return state


def _plain(contents):
    """The zip archive `contents` written anew, as a file object: uncompressed, checked, and with known names only.

    What torch's reader, which is not written in Python, gets to see is then a sound archive.
    """
    plain = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(contents)) as archive, zipfile.ZipFile(plain, "w") as anew:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise Damaged("it is compressed")
        if sum(entry.file_size for entry in entries) > len(contents):
            raise Damaged("its parts overlap")
        for entry in entries:
            part = archive.read(entry)  # checks its CRC
            anew.writestr(entry.filename, part)
            if entry.filename.endswith(".pkl"):
                for opcode, name, _ in pickletools.genops(part):
                    if opcode.name in ("GLOBAL", "INST", "STACK_GLOBAL") and name not in NAMES:
                        raise Damaged("it holds more than numbers and text")
    plain.seek(0)
    return plain


def check(entries, types):
    """Raise Damaged unless the dict `entries` has all keys of `types`, each of its type; floats must be finite.

    A whole number will do for a float. Further keys do not matter.
    """
    if type(entries) is not dict:
        raise Damaged("it is no dictionary")
    for key, wanted in types.items():
        if key not in entries:
            raise Damaged(f"it has no {key}")
        value = entries[key]
        if wanted is float and type(value) is int and abs(value) < 2 ** 53:
            value = float(value)
        if type(value) is not wanted or wanted is float and not math.isfinite(value):
            raise Damaged(f"its {key} is not what it should be")


def check_history(history):
    """Raise Damaged unless `history` is what `records.Run` collects: at least one epoch, counted from 0."""
    if type(history) is not list or not history:
        raise Damaged("it has no epoch")
    for number, epoch in enumerate(history):
        check(epoch, EPOCH)
        if epoch["epoch"] != number or not (0 <= epoch["train_accuracy"] <= 100
                                            and 0 <= epoch["test_accuracy"] <= 100):
            raise Damaged(f"its epoch {number} is not what it should be")


def capture(model, optimizer, scheduler, device):
    """What training needs to go on: the entries model, optimizer, scheduler_steps and random of a state."""
    random = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        random["device"] = getattr(torch, device.type).get_rng_state()
    return {"model": dict(model.state_dict()), "optimizer": optimizer.state_dict()["state"],
            "scheduler_steps": scheduler.last_epoch if scheduler else 0, "random": random}


def restore(state, model, optimizer, scheduler, device):
    """Put freshly made model, optimizer and scheduler where `capture` found others, and the random state too.

    The scheduler walks there step by step instead of being loaded: so a schedule
    that depends on the number of epochs is the one for the number asked for now.
    Raises Damaged if `state` does not fit.
    """
    try:
        ours = model.state_dict()
        for name, value in state["model"].items():
            if value.dtype != ours[name].dtype or value.shape != ours[name].shape:
                raise Damaged(f"its {name} does not fit the network")
        model.load_state_dict(state["model"])

        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for number, entries in state["optimizer"].items():
            parameter = parameters[number]
            for name, value in entries.items():
                like = torch.zeros(()) if name == "step" else parameter
                if value is not None and (value.dtype != like.dtype or value.shape != like.shape):
                    raise Damaged("the state of its optimizer does not fit the network")
        optimizer.load_state_dict({"state": state["optimizer"],
                                   "param_groups": optimizer.state_dict()["param_groups"]})

        steps, epochs = state["scheduler_steps"], len(state["history"])
        if not 0 <= steps <= 60_000 * epochs:  # one per image is the most there can be
            raise Damaged("its scheduler is not where it could be")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the scheduler steps before the optimizer does
            for _ in range(steps):
                scheduler.step()

        torch.set_rng_state(state["random"]["cpu"])
        if device.type != "cpu":
            getattr(torch, device.type).set_rng_state(state["random"]["device"])
    except Exception as error:  # as in read()
        raise Damaged(_one_line(error)) from None


def _one_line(error):
    text = " ".join(str(error).split())[:200] or type(error).__name__
    return "".join(c if c.isprintable() else "?" for c in text)
