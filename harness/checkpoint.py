"""The checkpoint that a run leaves after every epoch, from which --resume goes on: torch.save and
torch.load.
"""
import io
import math
import random
import warnings
import zipfile

import numpy as np
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from harness.cli import UserError, one_line
from harness.files import Damaged, atomic_write
from harness.record import NOT_IN_RECIPE, check, check_history

REFUSAL = "cannot resume from {}: {}; without --resume it starts afresh"
LARGEST = 2 ** 32  # bytes; no network that is trained on MNIST comes near it
STATE = {"facts": dict, "history": list, "log": str, "seconds": float, "finished": bool,
         "model": dict, "optimizer": dict, "others": list, "random": dict}
FACTS = {"step": str, "network": str, "recipe": str, "arguments": dict, "versions": dict, "threads": int,
         "started": str}


def capture(model, optimizer, scheduler, others, device):
    """What training needs to go on, as torch gives it: a state's entries from model to random."""
    name, keys, *rest = np.random.get_state()
    generators = {"cpu": torch.get_rng_state(), "python": random.getstate(),
                  "numpy": (name, keys.tolist(), *rest)}
    if device.type == "cuda":
        generators["device"] = torch.cuda.get_rng_state(device)
    if device.type == "mps":
        generators["device"] = torch.mps.get_rng_state()
    return {"model": dict(model.state_dict()), "optimizer": _loadable(optimizer.state_dict()),
            "scheduler": _loadable(scheduler.state_dict()) if scheduler else {},
            "others": [_loadable(dict(other.state_dict())) for other in others], "random": generators}


def _loadable(state):
    """`state` without what torch does not load again: functions, which a fresh schedule has, too, and NumPy's
    numbers, which become Python's.
    """
    if type(state) is dict:
        return {name: _loadable(value) for name, value in state.items() if not callable(value)}
    if type(state) in (list, tuple):
        return type(state)(map(_loadable, state))
    return state.item() if isinstance(state, np.generic) else state


def write(path, state):
    """Put `state`, a dict as STATE has it or of weights, into the file `path`. Raises UserError."""
    contents = io.BytesIO()  # torch.save on a file raises a bare RuntimeError when the disk is full
    torch.save(state, contents)
    with atomic_write(path) as scratch:
        scratch.write_bytes(contents.getvalue())


def read(path):
    """The state that `write` put into the file `path`, its tensors on the CPU; no code in it is run.

    Raises FileNotFoundError if there is none, Damaged if it cannot be read or is anything else.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise Damaged("it is far too large")
        with zipfile.ZipFile(path) as archive:  # torch does not compare checksums
            if archive.testzip():
                raise Damaged("a checksum in it is wrong")
        state = torch.load(path, map_location="cpu", weights_only=True)
        check(state, STATE)
        check(state["facts"], FACTS)
        check(state["facts"]["arguments"], {"epochs": int})
        check(state["facts"]["versions"], {"torch": str})
        check_history(state["history"])
    except FileNotFoundError:
        raise
    except Exception as error:  # any exception: a damaged file can raise anything
        raise Damaged(one_line(error, 200)) from None
    return state


def mismatch(state, facts):
    """Why a run with these `facts` (record.facts) cannot go on from `state`, in a clause; None if it can."""
    then, arguments, before = state["facts"], facts["arguments"], state["facts"]["arguments"]
    for name in sorted(arguments.keys() - NOT_IN_RECIPE - {"epochs"}):
        if before.get(name) != arguments[name]:
            return f"--{name.replace('_', '-')} is {arguments[name]!r} here, {before.get(name)!r:.40} there"
    if any(then[name] != facts[name] for name in ("step", "network", "recipe")):
        return f"{facts['step']}.py or its network has changed since"
    if then["versions"]["torch"] != facts["versions"]["torch"]:
        return f"this is torch {facts['versions']['torch']}, that was {then['versions']['torch']!r:.40}"
    if then["threads"] != facts["threads"] and arguments["device"] == "cpu":
        return (f"this process has {facts['threads']} CPU threads, that one had {then['threads']}, "
                f"and sums would be rounded differently (OMP_NUM_THREADS={then['threads']} sets it)")
    if arguments["epochs"] < max(before["epochs"], len(state["history"])):
        return f"--epochs can be raised, not lowered: it was {before['epochs']}"
    return None


def find(path, facts):
    """The state in `path` that a run with these `facts` can go on from, or None. Raises UserError."""
    try:
        state = read(path)
        why = mismatch(state, facts)
    except FileNotFoundError:
        return None
    except Damaged as error:
        why = f"it is damaged ({error})"
    if why:
        raise UserError(REFUSAL.format(path, why))
    return state


def restore(path, state, model, optimizer, scheduler, others, device, epochs):
    """Put freshly made model, optimizer, scheduler and others, and all that is random, into the saved state.

    Where the run is to have more `epochs` than before, the scheduler is stepped there instead of being
    loaded, so that a schedule that depends on their number follows the new number. Raises UserError if that
    is impossible, or if the `state`, which was read from `path`, does not fit.
    """
    try:
        model.load_state_dict(state["model"])
        fresh = optimizer.state_dict()["param_groups"]
        _restore_optimizer(optimizer, state["optimizer"])
        before = state["facts"]["arguments"]["epochs"]
        if scheduler and (epochs == before or isinstance(scheduler, ReduceLROnPlateau)):
            scheduler.load_state_dict(state["scheduler"])
        elif scheduler:
            for group, first in zip(optimizer.param_groups, fresh, strict=True):
                group.update({name: value for name, value in first.items() if name != "params"})
            _replay(scheduler, state["scheduler"], epochs / len(state["history"]))
        for other, saved in zip(others, state["others"], strict=True):
            other.load_state_dict(saved)
        random.setstate(state["random"]["python"])
        np.random.set_state(state["random"]["numpy"])
        torch.set_rng_state(state["random"]["cpu"])
        if device.type == "cuda":
            torch.cuda.set_rng_state(state["random"]["device"], device)
        if device.type == "mps":
            torch.mps.set_rng_state(state["random"]["device"])
    except UserError:
        raise
    except Exception as error:  # as in read()
        raise UserError(REFUSAL.format(path, f"it does not fit ({one_line(error, 200)})")) from None


def _restore_optimizer(optimizer, saved):
    """Load the state `saved` with every tensor in the format it had: torch gives all that of the weights."""
    optimizer.load_state_dict(saved)
    for group, numbers in zip(optimizer.param_groups, saved["param_groups"], strict=True):
        for parameter, number in zip(group["params"], numbers["params"], strict=True):
            for name, value in saved["state"].get(number, {}).items():
                if isinstance(value, torch.Tensor):
                    loaded = optimizer.state[parameter][name]
                    optimizer.state[parameter][name] = value.to(loaded.device, copy=True)


def _replay(scheduler, saved, longer):
    """Step the fresh `scheduler` as often as the `saved` one was; the run gets `longer` by that factor."""
    kind = type(scheduler).__name__
    try:
        steps = saved["last_epoch"] if "last_epoch" in saved else saved["_schedulers"][0]["last_epoch"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the scheduler steps before the optimizer does
            for _ in range(steps):
                scheduler.step()
    except Exception as error:  # any: it may be of the user's making
        raise UserError(f"--epochs cannot be raised: the schedule {kind} cannot be stepped to where it was "
                        f"({one_line(error, 200)})") from None
    if steps * longer > getattr(scheduler, "total_steps", math.inf):
        raise UserError(f"--epochs cannot be raised so far: the schedule {kind} ends after "
                        f"{scheduler.total_steps} steps")
