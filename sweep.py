"""Which runs over seeds are not finished, as commands that do not depend on each other.

    python sweep.py --seeds "1 2 3 4 5"            # of the steps
    python sweep.py --seeds "1 2 3 4 5" --claims   # and of the variants that the claims need
    python sweep.py --seeds "1 2 3" --frontier     # of step 5 in several widths

A run is finished if its JSON file is there, whole, and tells of the same code and
arguments; one whose recipe has changed since is listed anew. What stands behind --
goes to every run, as in `python sweep.py --seeds 1 -- --epochs 5`.
"""
import shlex
import sys
import time
from pathlib import Path

import checkpoint
import frontier
from claims import STEPS, VARIANTS
from common import Parser
from files import whole
from runs import load_run


def folder_of(name, seed, out_dir):
    """Where the run of variant `name` with `seed` leaves its files; a step's plain run lies beside its variants."""
    folder = Path(out_dir) / f"seed{seed}"
    return folder if name in STEPS else folder / name


def finished(name, variant, seed, out_dir, more):
    """Whether that run is there, complete, and of the code and the arguments of now (`more` being given to it too)."""
    try:
        run = load_run(folder_of(name, seed, out_dir) / f"{variant.step}.json")
    except (OSError, checkpoint.Damaged):
        return False
    return run["recipe"] == variant.recipe() and variant.matches(run, variant.arguments("--seed", str(seed), *more))


def command(name, variant, seed, out_dir, data_dir, more):
    """The command that makes that run, as a list of words."""
    script = [f"{variant.step}.py", *variant.options] if not variant.net else ["claims.py", name]
    return [sys.executable, *script, "--seed", str(seed), "--data-dir", data_dir,
            "--out-dir", str(folder_of(name, seed, out_dir)), *more]


def makefile(commands, total, path, out_dir):
    """The text of a makefile, to lie at `path`, that runs `commands`, each followed by a line on how far the sweep is."""
    before, now = total - len(commands), int(time.time())
    # A JSON file newer than the makefile is a run that was finished since; their pace tells how long the others take.
    progress = (f"new=$$(find {shlex.quote(out_dir)}/seed* -name '*.json' -newer {shlex.quote(path)} | wc -l); "
                f'echo "$$(({before} + new)) of {total} runs done, about '
                f"$$((($$(date +%s) - {now}) * ({len(commands)} - new) / (new > 0 ? new : 1) / 60)) min left\"")
    rules = [f"run{i}:\n\t@{shlex.join(words).replace('$', '$$')} > /dev/null\n\t@{progress}\n"
             for i, words in enumerate(commands)]
    return "\n".join([f"all: {' '.join(f'run{i}' for i in range(len(commands)))}\n\t@:\n", *rules])


def main():
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="1 2 3 4 5", help="as in '1 2 3 4 5', the default")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--claims", action="store_const", dest="variants", const=VARIANTS,
                       default={step: VARIANTS[step] for step in STEPS}, help="the variants that the claims need, too")
    which.add_argument("--frontier", action="store_const", dest="variants", const=frontier.VARIANTS,
                       help="step 5 in several widths, instead")
    parser.add_argument("--out-dir", default="results", help="default: results")
    parser.add_argument("--data-dir", default="data", help="default: data")
    parser.add_argument("--make", metavar="FILE", help="write a makefile that runs the commands, instead of printing them")
    parser.add_argument("more", nargs="*", help="options for every run, after --")
    args = parser.parse_args()
    if not args.seeds.split() or not all(seed.isdecimal() for seed in args.seeds.split()):
        sys.exit(f"sweep.py: error: --seeds: {args.seeds!r} is not a list of whole numbers")
    wanted = [(name, variant, int(seed)) for seed in dict.fromkeys(args.seeds.split())
              for name, variant in args.variants.items()]
    commands = [command(*run, args.out_dir, args.data_dir, args.more) for run in wanted
                if not finished(*run, args.out_dir, args.more)]
    if args.make:
        print(f"{len(wanted) - len(commands)} of {len(wanted)} runs done")
        try:
            Path(args.make).parent.mkdir(parents=True, exist_ok=True)
            with whole(Path(args.make)) as path:
                path.write_text(makefile(commands, len(wanted), args.make, args.out_dir))
        except OSError as error:
            sys.exit(f"sweep.py: error: {error}")
    else:
        for words in commands:
            print(shlex.join(words))


if __name__ == "__main__":
    main()
