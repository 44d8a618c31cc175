"""Our pipeline against the notebook pipeline, side by side: `make bench`.

For each step, in turn ours, notebook, ours, notebook, ..., each measurement in a
process of its own: seconds per training epoch (from a slice of one, after a few
batches to warm up), seconds per test pass, peak resident memory, and seconds from
the start of the process to the end of the first batch. Prints a table of medians
with the ratio ours / notebook (of the medians, and from the lowest to the highest
of the rounds), and writes all measurements to `bench/bench.json`.

With `--size target` instead: the seconds of training that it takes to 99.4 %, by whole runs
over seeds, of step 4 both ways and of step 5.
"""
import argparse
import concurrent.futures
import contextlib
import importlib
import io
import itertools
import json
import multiprocessing
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from recipes import RECIPES, TO_TARGET

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

FIGURES = {"epoch": "training epoch (s)", "test": "test pass (s)",
           "memory": "peak memory (MB)", "start": "to first batch (s)"}
BATCH_SIZE, BATCHES = 128, 469  # 469 of them are an epoch
WARM_UP = 10  # batches before the clock runs
SIZES = {"full": (160, 5), "quick": (30, 2)}  # batches timed, rounds
TARGET_SEEDS = (1, 2, 3)


def measure(pipeline, step, batches, data_dir, started):
    """Run a slice of `step` in this process and return the figures; `started` is time.time() before its start."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        prepare = {"ours": ours, "notebook": notebook}[pipeline]
        model, optimizer, train, test, batch_slice, test_loader = prepare(step, data_dir)
        train(model, batch_slice(1), optimizer)
        start = time.time() - started
        train(model, batch_slice(WARM_UP), optimizer)
        clock = time.perf_counter()
        train(model, batch_slice(batches), optimizer)
        epoch = (time.perf_counter() - clock) * BATCHES / batches
        clock = time.perf_counter()
        test(model, test_loader)
        test_pass = time.perf_counter() - clock
    unit = 2 ** 20 if sys.platform == "darwin" else 2 ** 10
    return {"epoch": epoch, "test": test_pass, "start": start,
            "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit}


def notebook(step, data_dir):
    """Model, optimizer, train, test, a slice of the training batches, the test loader: the notebook way."""
    import notebook_era as era
    train_loader, test_loader = era.loaders(step, data_dir)
    model, optimizer, _ = era.network(step)
    return model, optimizer, era.train, era.test, lambda n: itertools.islice(train_loader, n), test_loader


def ours(step, data_dir):
    """The same, as the step's main() has it."""
    import torch

    import common
    from loader import Loader
    lr, arguments, rotation, _ = RECIPES[step]
    args = common.command_line(__doc__).parse_args(["--data-dir", data_dir, "--device", "cpu"])
    train_loader, test_loader = common.loaders(args, common.RandomRotation(rotation) if rotation else None)
    model = importlib.import_module(step).Net(*arguments).to(memory_format=torch.channels_last)

    def batch_slice(n):
        some = n * BATCH_SIZE
        return Loader(train_loader.images[:some], train_loader.labels[:some], BATCH_SIZE,
                      shuffle=True, augment=train_loader.augment)

    return (model, torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9), common.train, common.test,
            batch_slice, test_loader)


def in_process_of_its_own(*arguments):
    """What `measure` says in a fresh Python."""
    started = time.time()
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, *arguments, started).result()


def ratio(rounds, figure):
    """Ours / notebook of one figure over `rounds`, pairs of measurements: of the medians, lowest, highest."""
    ours, notebook = ([pair[i][figure] for pair in rounds] for i in (0, 1))
    single = [a / b for a, b in zip(ours, notebook)]
    return statistics.median(ours) / statistics.median(notebook), min(single), max(single)


def table(measurements):
    """A Markdown table of the `measurements`, step -> list of (ours, notebook); the last rows sum the steps."""
    lines = ["| what | step | ours | notebook | ratio | lowest to highest |",
             "| --- | --- | ---: | ---: | ---: | ---: |"]
    everything = dict(measurements)
    rounds = [list(pairs) for pairs in zip(*measurements.values())]
    everything["all four"] = [tuple({f: sum(pair[i][f] for pair in pairs) for f in FIGURES} for i in (0, 1))
                              for pairs in rounds]
    for figure, heading in FIGURES.items():
        for step, pairs in everything.items():
            if step == "all four" and figure in ("memory", "start"):
                continue
            ours, notebook = (statistics.median(pair[i][figure] for pair in pairs) for i in (0, 1))
            middle, low, high = ratio(pairs, figure)
            lines.append(f"| {heading} | {step} | {ours:.2f} | {notebook:.2f} | {middle:.2f} | {low:.2f} to {high:.2f} |")
    return "\n".join(lines)


def run_to_target(command, seed, data_dir):
    """Train by `command` in a process of its own; returns the seconds all epochs took, and the last test accuracy."""
    with tempfile.TemporaryDirectory() as folder:
        where = ["--out", f"{folder}/run.json"] if "notebook" in command[0] else ["--out-dir", folder]
        words = [sys.executable, str(ROOT / command[0]), *command[1:], "--seed", str(seed), "--data-dir", data_dir, *where]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
        history = json.loads(next(Path(folder).glob("*.json")).read_text())["history"]
    return sum(epoch["seconds"] for epoch in history), history[-1]["test_accuracy"]


def target_table(measurements):
    """A Markdown table of `measurements`, what -> list of (seconds, test accuracy in percent), a pair for each seed."""
    lines = ["| time to 99.4 % | seconds | lowest to highest | last test accuracy | seeds |", "| --- | ---: | --- | ---: | ---: |"]
    for what, pairs in measurements.items():
        seconds, accuracies = zip(*pairs)
        lines.append(f"| {what} | {statistics.fmean(seconds):.1f} | {min(seconds):.1f} to {max(seconds):.1f} | "
                     f"{statistics.fmean(accuracies):.2f} | {len(pairs)} |")
    return "\n".join(lines)


def main():
    import torch  # all three here, or every process measured would import them before its clock

    import mnist
    from files import whole

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=[*SIZES, "target"], default="full",
                        help="full takes about seven minutes, quick two; target trains to 99.4 %%, for twenty")
    parser.add_argument("--out-dir", default="results")
    mnist.add_arguments(parser)
    args = parser.parse_args()
    try:  # downloaded if need be, and in the file cache for both
        mnist.load(args.data_dir, args.mirror)
    except (mnist.DataError, OSError) as error:
        sys.exit(f"bench.py: error: {error}")
    if args.size == "target":
        measurements = {what: [] for what in TO_TARGET}
        for seed, (what, command) in itertools.product(TARGET_SEEDS, TO_TARGET.items()):
            measurements[what].append(run_to_target(command, seed, args.data_dir))
            print(f"seed {seed}, {what}: {measurements[what][-1][0]:.1f} s, "
                  f"{measurements[what][-1][1]:.2f} %", flush=True)
        return print(f"\n{torch.get_num_threads()} threads, torch {torch.__version__}\n\n{target_table(measurements)}")
    batches, rounds = SIZES[args.size]
    measurements = {step: [] for step in RECIPES}
    for turn, step in itertools.product(range(rounds), measurements):
        pair = [in_process_of_its_own(pipeline, step, batches, args.data_dir) for pipeline in ("ours", "notebook")]
        measurements[step].append(pair)
        print(f"round {turn + 1} of {rounds}, {step}: ours {pair[0]['epoch']:.1f} s an epoch, "
              f"notebook {pair[1]['epoch']:.1f} s", flush=True)

    machine = {"system": platform.platform(), "threads": torch.get_num_threads(),
               "torch": torch.__version__, "python": platform.python_version()}
    print(f"\nMedians of {rounds} rounds of {batches} batches, {machine['threads']} threads, "
          f"torch {machine['torch']}\n\n{table(measurements)}")
    path = Path(args.out_dir) / "bench" / "bench.json"  # in a folder of its own: it is no run for report.py
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as scratch:
        scratch.write_text(json.dumps({"machine": machine, "batches": batches,
                                       "measurements": measurements}, indent=1) + "\n")


if __name__ == "__main__":
    main()
