"""Our pipeline against the notebook pipeline, side by side: `make bench`.

For each step, with all threads and with one, in turn ours, notebook, ours, notebook, ...,
each measurement in a process of its own: seconds per training epoch (from a slice of one,
after a few batches to warm up), seconds per test pass, peak resident memory, and seconds
from the start of the process to the end of the first batch. Prints the processor and a
table of medians with the ratio ours / notebook (of the medians, and from the lowest to the
highest of the rounds), and writes all measurements to `bench/bench.json`.

With `--size target` instead: the seconds of training that it takes to 99.4 %, test passes
not counted, by whole runs over seeds, of step 4 both ways, step 5 and step 6.
"""
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
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
STEPS = ("step1_basic", "step2_dropout", "step3_gap", "step4_aug_lr")

# The fewest epochs after which the last one's test accuracy is at least 99.40 % on average over seeds, by
# the runs in docs/runs. Step 4's schedule does not depend on their number, so its first epochs are those of
# 15; step 5's does, so docs/runs/fast has runs of 2, 3 and 4. Step 6 is made for it, and runs as it is.
TO_TARGET = {
    "step 4, notebook pipeline": ("notebook_era", "step4_aug_lr", "--epochs", "11"),
    "step 4": ("step4_aug_lr", "--epochs", "11"),
    "step 5": ("step5_beyond", "--epochs", "3", "--batch-size", "64"),
    "step 6": ("step6_fast",),
}

FIGURES = {"epoch": "training epoch (s)", "test": "test pass (s)",
           "memory": "peak memory (MB)", "start": "to first batch (s)"}
BATCH_SIZE, BATCHES = 128, 469  # 469 of them are an epoch
WARM_UP = 10  # batches before the clock runs
SIZES = {"full": (100, 5), "quick": (40, 2)}  # batches timed, rounds
TARGET_SEEDS = (1, 2, 3)


def measure(pipeline, step, batches, data_dir, threads, started):
    """Run a slice of `step` in this process and return the figures; `started` is time.time() at its start."""
    import torch
    torch.set_num_threads(threads)
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
    import notebook_era as era
    import torch

    import common
    lr, rotation, _ = era.recipe(step)
    args = common.command_line(__doc__).parse_args([f"--data-dir={data_dir}", "--device", "cpu"])
    train_loader, test_loader = common.loaders(args, common.RandomRotation(rotation) if rotation else None)
    model = importlib.import_module(step).Net()

    def batch_slice(n):
        images, labels = train_loader.images[:n * BATCH_SIZE], train_loader.labels[:n * BATCH_SIZE]
        return common.Loader(images, labels, BATCH_SIZE, shuffle=True, augment=train_loader.augment)

    return (model, torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9), common.train, common.test,
            batch_slice, test_loader)


def in_process_of_its_own(function, *arguments):
    """What `function(*arguments)` returns in a fresh Python."""
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def ratio(rounds, figure):
    """Ours / notebook of one figure over `rounds`, pairs of measurements: of the medians, lowest, highest."""
    ours, notebook = ([pair[i][figure] for pair in rounds] for i in (0, 1))
    single = [a / b for a, b in zip(ours, notebook, strict=True)]
    return statistics.median(ours) / statistics.median(notebook), min(single), max(single)


def table(measurements):
    """A Markdown table of the `measurements`, threads -> step -> list of (ours, notebook); "all four" is the
    sum over the steps.
    """
    lines = ["| what | threads | step | ours | notebook | ratio | lowest to highest |",
             "| --- | ---: | --- | ---: | ---: | ---: | ---: |"]
    for figure, (threads, steps) in itertools.product(FIGURES, measurements.items()):
        rows = dict(steps)
        if figure in ("epoch", "test"):
            rows["all four"] = [tuple({figure: sum(pair[i][figure] for pair in pairs)} for i in (0, 1))
                                for pairs in zip(*steps.values(), strict=True)]
        for step, pairs in rows.items():
            ours, notebook = (statistics.median(pair[i][figure] for pair in pairs) for i in (0, 1))
            middle, low, high = ratio(pairs, figure)
            lines.append(f"| {FIGURES[figure]} | {threads} | {step} | {ours:.2f} | {notebook:.2f} "
                         f"| {middle:.2f} | {low:.2f} to {high:.2f} |")
    return "\n".join(lines)


def run_to_target(command, seed, data_dir):
    """Train by `command` in this process; returns the seconds in its train() and the last test accuracy."""
    program, *options = command
    # What trains: a step uses common's functions, the notebook pipeline its own.
    functions = importlib.import_module("notebook_era" if program == "notebook_era" else "common")
    train, seconds = functions.train, []

    def timed(*arguments):
        clock = time.perf_counter()
        result = train(*arguments)
        seconds.append(time.perf_counter() - clock)
        return result

    functions.train = timed
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        options += ["--seed", str(seed), f"--data-dir={data_dir}"]
        if program == "notebook_era":
            sys.argv = [program, *options, "--out", f"{folder}/run.json"]
            functions.main()
        else:
            importlib.import_module(program).main([*options, "--out-dir", folder])
        history = json.loads(next(Path(folder).glob("*.json")).read_bytes())["history"]
    return sum(seconds), history[-1]["test_accuracy"]


def target_table(measurements):
    """A Markdown table of `measurements`, what -> list of (seconds, test accuracy in percent) over seeds."""
    lines = ["| time to 99.4 % | seconds | lowest to highest | last test accuracy | seeds |",
             "| --- | ---: | --- | ---: | ---: |"]
    for what, pairs in measurements.items():
        seconds, accuracies = zip(*pairs, strict=True)
        lines.append(f"| {what} | {statistics.fmean(seconds):.1f} | {min(seconds):.1f} to {max(seconds):.1f} "
                     f"| {statistics.fmean(accuracies):.2f} | {len(pairs)} |")
    return "\n".join(lines)


def main():
    import torch  # all of these here, or every process measured would import them before its clock

    from harness import cli, mnist, record
    from harness.files import atomic_write

    parser = cli.Parser(__doc__)
    parser.add_argument("--size", choices=[*SIZES, "target"], default="full",
                        help="full takes about twelve minutes, quick three; target, to 99.4 %%, twenty")
    parser.add_argument("--out-dir", default="results", metavar="DIR", type=cli.folder,
                        help="folder for bench/bench.json")
    mnist.add_arguments(parser)
    args = parser.parse_args()
    try:  # downloaded if need be, and in the file cache for both
        mnist.load(args.data_dir, args.mirror)
    except cli.UserError as error:
        cli.fail(error)
    all_threads = torch.get_num_threads()
    print(f"{record.processor()}, torch {torch.__version__}")
    if args.size == "target":
        measurements = {what: [] for what in TO_TARGET}
        for seed, (what, command) in itertools.product(TARGET_SEEDS, TO_TARGET.items()):
            measurements[what].append(in_process_of_its_own(run_to_target, command, seed, args.data_dir))
            print(f"seed {seed}, {what}: {measurements[what][-1][0]:.1f} s, "
                  f"{measurements[what][-1][1]:.2f} %", flush=True)
        print(f"\n{all_threads} threads\n\n{target_table(measurements)}")
        return
    batches, rounds = SIZES[args.size]
    measurements = {threads: {step: [] for step in STEPS} for threads in dict.fromkeys((all_threads, 1))}
    for turn, threads, step in itertools.product(range(rounds), measurements, STEPS):
        pair = [in_process_of_its_own(measure, pipeline, step, batches, args.data_dir, threads, time.time())
                for pipeline in ("ours", "notebook")]
        measurements[threads][step].append(pair)
        print(f"round {turn + 1} of {rounds}, {step}, threads {threads}: ours {pair[0]['epoch']:.1f} s "
              f"an epoch, notebook {pair[1]['epoch']:.1f} s", flush=True)

    machine = {"processor": record.processor(), "system": platform.platform(),
               "torch": torch.__version__, "python": platform.python_version()}
    print(f"\nMedians of {rounds} rounds of {batches} batches\n\n{table(measurements)}")
    path = Path(args.out_dir) / "bench" / "bench.json"  # in a folder of its own: it is no run for report.py
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as scratch:
        scratch.write_text(json.dumps({"machine": machine, "batches": batches,
                                       "measurements": measurements}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
