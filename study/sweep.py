"""The runs over seeds that are not finished: run here, or printed for another machine to run.

    python -m study.sweep --seeds "1 2 3" --jobs 2           # runs the steps, two at a time
    python -m study.sweep --seeds "1 2 3" --claims           # prints commands, for the variants of the claims
    python -m study.sweep --claims --slurm | sbatch          # the same as one array job
    python -m study.sweep --claims --collect docs/runs       # finished runs into a file for each variant

A run is finished if its JSON file is there, complete, and records the same code and options.
Options after -- are passed to every run, as in `python -m study.sweep --seeds 1 --jobs 1 -- --epochs 5`.
"""
import concurrent.futures
import contextlib
import os
import shlex
import subprocess
import sys
import threading
from pathlib import Path

from tqdm import tqdm

from harness import cli, record
from harness.files import Damaged, make_folder
from study.variants import LADDER, ROOT, STEPS, VARIANTS, WIDTHS, can_resume, finished, folder_of

# One thread, and twice the memory that step 1 takes. After a requeue the run goes on, and so does its log.
SLURM = """\
#!/bin/sh
#SBATCH --job-name=mnist
#SBATCH --array=1-{runs}%{at_a_time}
#SBATCH --cpus-per-task=1
#SBATCH --mem=2G
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output={logs}/%A_%a.log
case $SLURM_ARRAY_TASK_ID in
{cases}
*) echo "there is no run $SLURM_ARRAY_TASK_ID" >&2; exit 1 ;;
esac"""


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
    script = [str(ROOT / f"{variant.step}.py")]
    if variant.net:
        script = ["-m", "study.variants", next(key for key in VARIANTS if VARIANTS[key].net is variant.net)]
    folders = ["--data-dir", str(Path(args.data_dir).resolve()),
               "--out-dir", str(folder_of(name, seed, args.out_dir).resolve())]
    resume = ["--resume"] if can_resume(name, variant, seed, args.out_dir, args.more, threads) else []
    return {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": path}, [
        sys.executable, *script, *variant.options, "--seed", str(seed), *folders, *resume, *args.more]


def run_all(commands, jobs):
    """Run `commands`, `jobs` at a time; yields (which of them, exit status, stderr) whenever one ends.

    A signal ends them all, and so does a caller that closes this generator.
    """
    running, stopping = set(), threading.Event()

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
        tasks = {pool.submit(run, *one): number for number, one in enumerate(commands)}
        for task in concurrent.futures.as_completed(tasks):
            yield tasks[task], *task.result()
    except BaseException:
        stopping.set()
        pool.shutdown(wait=False, cancel_futures=True)
        for process in list(running):
            process.terminate()
        raise
    finally:
        pool.shutdown()


def train(wanted, args):
    """Train those of the runs `wanted`, as (name, variant, seed), that are not finished, args.jobs at a time.

    Shows how far it has come. Raises UserError if a run fails, after the others.
    """
    threads = threads_for(args.jobs)
    commands = [command(*run, args, threads) for run in wanted
                if not finished(*run, args.out_dir, args.more)]
    done, failures = len(wanted) - len(commands), []
    print(f"{done} of {len(wanted)} runs are finished already; {args.jobs} at a time, "
          f"{threads} CPU thread{'s' * (threads > 1)} each", flush=True)
    with (tqdm(total=len(wanted), initial=done, unit="run", disable=None) as bar,
          contextlib.closing(run_all(commands, args.jobs)) as ended):
        for number, status, stderr in ended:
            text = as_text(*commands[number])
            if status:
                why = stderr.strip() or f"exit status {status}"
                failures.append(f"failed: {text}\n    {why.splitlines()[-1]}")
            done += 1
            bar.update()
            tqdm.write(f"{done} of {len(wanted)} runs{' (failed)' * bool(status)}: {text}")
            sys.stdout.flush()  # for a pipe
    if failures:
        print(*failures, sep="\n", file=sys.stderr)
        raise cli.UserError(f"{len(failures)} of {len(wanted)} runs failed")


def as_text(environment, words):
    """A command as a line for a shell."""
    variables = (f"{name}={shlex.quote(value)}" for name, value in environment.items())
    return " ".join([*variables, shlex.join(words)])


def made_folder(folder, option):
    """`folder`, which `option` names, made if it is not there. Raises UserError."""
    try:
        make_folder(folder)
    except OSError as error:
        raise cli.UserError(f"cannot write into {option}: {error}") from None
    return folder


def slurm(commands, args):
    """A batch script for Slurm that runs `commands` as one array job; makes the folder for its logs."""
    logs = made_folder(Path(args.out_dir).resolve() / "slurm", "--out-dir")
    # A run that begins afresh, since its checkpoint does not fit, goes on if it is requeued.
    resume = ' ${SLURM_RESTART_COUNT:+"--resume"}'
    cases = (f"{number}) exec env {as_text(*one)}{resume * ('--resume' not in one[1])} ;;"
             for number, one in enumerate(commands, start=1))
    return SLURM.format(runs=len(commands), at_a_time=args.jobs or 50, logs=logs, cases="\n".join(cases))


def collect(wanted, args):
    """Put the finished ones of the runs `wanted` into <variant>.jsonl in the folder args.collect.

    What is there already stays, but for a run of the same seed.
    """
    folder = made_folder(Path(args.collect), "--collect")
    for name, variant in {name: variant for name, variant, _ in wanted}.items():
        path, runs = folder / f"{name}.jsonl", {}
        with contextlib.suppress(FileNotFoundError):
            try:
                runs = {run["arguments"]["seed"]: run for run in record.read_lines(path)}
            except Damaged as error:
                raise cli.UserError(f"{path} is no file of runs: {error}") from None
        before = len(runs)
        for other, _, seed in wanted:
            if other == name and (run := finished(name, variant, seed, args.out_dir, args.more)):
                # Where the files lay says nothing elsewhere.
                places = {"data_dir": "data", "out_dir": str(folder_of(name, seed, "results"))}
                runs[seed] = run | {"arguments": run["arguments"] | places}
        if runs:
            record.write_lines(path, [runs[seed] for seed in sorted(runs)])
            print(f"{path}: {len(runs)} runs, {before} before")


def parse(parser, out_dir="results"):
    """The command line of a program that starts runs: `parser`'s options, what all have, what follows --."""
    parser.add_argument("--jobs", type=cli.positive_int, metavar="N", help="run N at a time")
    parser.add_argument("--out-dir", default=out_dir, metavar="DIR", type=cli.folder,
                        help="folder for seed1/ and so on")
    parser.add_argument("--data-dir", default="data", metavar="DIR", type=cli.folder,
                        help="folder that holds MNIST/raw/")
    words, more = sys.argv[1:], []
    if "--" in words:
        more = words[words.index("--") + 1:]
        words = words[:words.index("--")]
    args = parser.parse_args(words)
    args.more = more
    return args


def main():
    parser = cli.Parser(__doc__, epilog="Options after -- are passed to every run. Without --jobs, "
                                         "commands are printed for a job scheduler.")
    parser.add_argument("--seeds", default="1 2 3 4 5", help="as in '1 2 3 4 5'")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--claims", action="store_true", help="steps 1 to 4, and the variants of the claims")
    which.add_argument("--frontier", action="store_true", help="steps 5 and 7 in several widths, instead")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--slurm", action="store_true", help="print a batch script for Slurm, N runs at a time")
    how.add_argument("--collect", metavar="DIR", type=cli.folder,
                     help="put the finished runs into DIR, a file of JSON lines for each variant")
    args = parse(parser)
    if not args.seeds.split() or not all(seed.isdecimal() for seed in args.seeds.split()):
        raise cli.UserError(f"--seeds: {args.seeds!r} is not a list of whole numbers")
    names = [name for name in VARIANTS if name in LADDER or name not in STEPS] if args.claims else STEPS
    variants = WIDTHS if args.frontier else {name: VARIANTS[name] for name in names}
    wanted = [(name, variant, int(seed)) for seed in dict.fromkeys(args.seeds.split())
              for name, variant in variants.items()]
    if args.collect:
        collect(wanted, args)
    elif args.jobs and not args.slurm:
        train(wanted, args)
    else:
        # One thread each: a job scheduler starts a run for each core.
        threads = threads_for(sys.maxsize)
        commands = [command(*run, args, threads) for run in wanted
                    if not finished(*run, args.out_dir, args.more)]
        if not commands:
            cli.warn(f"nothing left to do: all {len(wanted)} runs are finished")
            return
        # Names byte for byte, as a shell needs them.
        sys.stdout.reconfigure(encoding=sys.getfilesystemencoding(), errors="surrogateescape")
        print(slurm(commands, args) if args.slurm else "\n".join(as_text(*one) for one in commands))


if __name__ == "__main__":
    cli.run(main)
