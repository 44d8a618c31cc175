"""Finished runs, read back from the JSON files that records.py writes, whoever wrote them."""
import json
import re
import sys

import checkpoint

RUN = {"step": str, "network": str, "parameters": int, "multiply_adds": int, "arguments": dict, "recipe": str,
       "versions": dict, "device": str, "threads": int, "machine": str, "started": str, "seconds": float, "published": dict,
       "train_accuracy_eval": float, "mistakes": list, "history": list}
LARGEST = 2 ** 22  # bytes; a run of 15 epochs has some 10 KB


def load_runs(paths, program):
    """The runs in the JSON files `paths`, as a list of dicts, and how many of the files hold no run.

    Each of those is named in a line of `program` on stderr.
    """
    runs, strangers = [], 0
    for path in paths:
        try:
            runs.append(load_run(path))
        except (OSError, checkpoint.Damaged) as error:
            print(f"{program}: {path} is no finished run of a step, left out: {error}", file=sys.stderr)
            strangers += 1
    return runs, strangers


def sweep_files(folder):
    """The JSON files of a sweep into `folder`: seed1/<step>.json, seed1/<variant>/<step>.json and so on."""
    return sorted([*folder.glob("seed*/*.json"), *folder.glob("seed*/*/*.json")])


def load_run(path):
    """The dict in a run's JSON file, everything that is used of it checked.

    Raises checkpoint.Damaged if it is another kind of file, OSError if it cannot be read.
    """
    if path.stat().st_size > LARGEST:
        raise checkpoint.Damaged("it is far too large")
    try:
        run = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise checkpoint.Damaged("it is not JSON, or cut off") from None
    checkpoint.check(run, RUN)
    checkpoint.check(run["arguments"], {"epochs": int, "seed": int, "dry_run": bool, "validate": bool})
    checkpoint.check(run["versions"], {"torch": str})
    if run["published"]:  # a step that S5 does not have leaves it empty
        checkpoint.check(run["published"], {"best_train_accuracy": float, "best_test_accuracy": float})
    checkpoint.check_history(run["history"])
    if not all(re.fullmatch(r"[\w.+:-]{1,40}", run[name]) for name in ("step", "network", "device", "started")) \
            or not re.fullmatch(r"[\w.+, -]{1,200}", run["machine"]) or not re.fullmatch(r"[\w.+-]{1,40}", run["versions"]["torch"]) \
            or not all(0 <= run[name] < 2 ** 53 for name in ("parameters", "multiply_adds", "seconds")) \
            or not 0 <= run["train_accuracy_eval"] <= 100 or not all(map(_is_mistake, run["mistakes"])):
        raise checkpoint.Damaged("its figures are not what they should be")
    return run


def _is_mistake(entry):
    """Whether `entry` is what it should be: [number of the test image, true digit, predicted digit]."""
    return (type(entry) is list and len(entry) == 3 and all(type(n) is int for n in entry)
            and 0 <= entry[0] < 10_000 and 0 <= entry[1] < 10 and 0 <= entry[2] < 10)
