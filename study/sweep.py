"""The runs over seeds that are not finished: run here, or printed as independent commands.

    python -m study.sweep --seeds "1 2 3" --jobs 2    # runs the steps, two at a time
    python -m study.sweep --seeds "1 2 3" --claims    # prints commands, for the variants of the claims too

A run is finished if its JSON file is there, complete, and records the same code and options.
Options after -- are passed to every run, as in `python -m study.sweep --seeds 1 --jobs 1 -- --epochs 5`.
"""
import concurrent.futures
import os
import shlex
import subprocess
import sys
import threading
from pathlib import Path

from tqdm import tqdm

from harness import cli
from study.variants import ROOT, STEPS, VARIANTS, WIDTHS, can_resume, finished, folder_of


def threads_for(jobs):
    """The number of threads for each of `jobs` runs side by side: a share of the cores we may use."""
    if os.environ.get("OMP_NUM_THREADS", "").isdecimal():
        return int(os.environ["OMP_NUM_THREADS"])
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, available // jobs)


def command(name, variant, seed, args, threads):
    """The command of that run: environment variables in front, then the words, with absolute paths."""
    # Before what the user has there: where PYTHONSAFEPATH is set, not even a script finds its neighbours.
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    script = [str(ROOT / f"{variant.step}.py"), *variant.options]
    if variant.net:
        script = ["-m", "study.variants", name]
    folders = ["--data-dir", str(Path(args.data_dir).resolve()),
               "--out-dir", str(folder_of(name, seed, args.out_dir).resolve())]
    resume = ["--resume"] if can_resume(name, variant, seed, args.out_dir, args.more, threads) else []
    return {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": path}, [
        sys.executable, *script, "--seed", str(seed), *folders, *resume, *args.more]


def run_all(commands, jobs, done, total):
    """Run `commands`, `jobs` at a time; returns a text on each that failed. A signal ends them all."""
    running, failures, stopping = set(), [], threading.Event()

    def run(environment, words):
        process = subprocess.Popen(words, env=os.environ | environment, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.PIPE, encoding=sys.stderr.encoding,  # the run's, too
                                   errors="backslashreplace")
        running.add(process)
        if stopping.is_set():  # too late for the loop below
            process.terminate()
        _, stderr = process.communicate()
        running.discard(process)
        return process.returncode, stderr

    pool = concurrent.futures.ThreadPoolExecutor(jobs)
    try:
        with tqdm(total=total, initial=done, unit="run", disable=None) as bar:
            tasks = {pool.submit(run, *one): one for one in commands}
            for task in concurrent.futures.as_completed(tasks):
                status, stderr = task.result()
                if status:
                    why = stderr.strip() or f"exit status {status}"
                    failures.append(f"failed: {as_text(*tasks[task])}\n    {why.splitlines()[-1]}")
                done += 1
                bar.update()
                tqdm.write(f"{done} of {total} runs{' (failed)' * bool(status)}: {as_text(*tasks[task])}")
                sys.stdout.flush()  # for a pipe
    except BaseException:
        stopping.set()
        pool.shutdown(wait=False, cancel_futures=True)
        for process in list(running):
            process.terminate()
        raise
    finally:
        pool.shutdown()
    return failures


def as_text(environment, words):
    """A command as a line for a shell."""
    variables = (f"{name}={shlex.quote(value)}" for name, value in environment.items())
    return " ".join([*variables, shlex.join(words)])


def main():
    parser = cli.Parser(__doc__)
    parser.add_argument("--seeds", default="1 2 3 4 5", help="as in '1 2 3 4 5'")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--claims", action="store_true", help="the variants that the claims need, too")
    which.add_argument("--frontier", action="store_true", help="step 5 in several widths, instead")
    parser.add_argument("--jobs", type=cli.positive_int, metavar="N", help="run N at a time, else print them")
    parser.add_argument("--out-dir", default="results", metavar="DIR", type=cli.folder,
                        help="folder for seed1/ and so on")
    parser.add_argument("--data-dir", default="data", metavar="DIR", type=cli.folder,
                        help="folder that holds MNIST/raw/")
    parser.add_argument("more", nargs="*", help="options for every run, after --")
    args = parser.parse_args()
    if not args.seeds.split() or not all(seed.isdecimal() for seed in args.seeds.split()):
        raise cli.UserError(f"--seeds: {args.seeds!r} is not a list of whole numbers")
    steps = {step: VARIANTS[step] for step in STEPS}
    variants = WIDTHS if args.frontier else VARIANTS if args.claims else steps
    wanted = [(name, variant, int(seed)) for seed in dict.fromkeys(args.seeds.split())
              for name, variant in variants.items()]
    unfinished = [run for run in wanted if not finished(*run, args.out_dir, args.more)]
    # Printed commands get one thread each: a job scheduler starts one for each core.
    threads = threads_for(args.jobs or sys.maxsize)
    commands = [command(*run, args, threads) for run in unfinished]
    if not args.jobs:
        # Names byte for byte, as a shell needs them.
        sys.stdout.reconfigure(encoding=sys.getfilesystemencoding(), errors="surrogateescape")
        print(*(as_text(*one) for one in commands), sep="\n", end="\n" * bool(commands))
        return
    done = len(wanted) - len(commands)
    print(f"{done} of {len(wanted)} runs are finished already; {args.jobs} at a time, "
          f"{threads} CPU thread{'s' * (threads > 1)} each", flush=True)
    failures = run_all(commands, args.jobs, done, len(wanted))
    if failures:
        print(*failures, sep="\n", file=sys.stderr)
        raise cli.UserError(f"{len(failures)} of {len(wanted)} runs failed")


if __name__ == "__main__":
    cli.run(main)
