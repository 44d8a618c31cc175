"""Is B better than A? Trains pairs of seeds until the answer is known.

    python -m study.compare step4_aug_lr step9_mine --jobs 2
    python -m study.compare step4_aug_lr "step4_aug_lr --rotation 0" --jobs 2 -- --epochs 5

A and B are each a step, or a variant of study/variants.py, with options of its own in quotes. Options
after -- are passed to every run. The two runs of a pair have the same seed. Finished runs are kept: started
again, the comparison goes on. Writes compare.md and compare.png.
"""
import argparse
import contextlib
import math
import re
import shlex
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from harness import cli, record
from harness.files import Damaged, atomic_write
from study import plots
from study.evidence import FAILS, HOLDS, LOOKS, MARGINS, MEASURES, UNDECIDED, Part, simulate
from study.sweep import command, parse, run_all, threads_for
from study.tables import markdown
from study.variants import VARIANTS, finished, folder_of

# For each measure: what it is, its unit, decimals, and the standard deviation over seeds of one pair's
# difference, on average over the comparisons of the claims.
SAID = {"last5": ("accuracy, mean of the last five epochs", "points", 3, 0.08),
        "last": ("accuracy of the last epoch", "points", 2, 0.13),
        "loss": ("loss, mean of the last five epochs", "nats", 5, 0.0025)}
WORDS = {HOLDS: "better", FAILS: "worse"}
# A run that diverges counts as what guessing gives.
GUESSING = {"machine": record.machine(), "seconds": math.nan,
            "history": [{"test_accuracy": 10.0, "test_loss": math.log(10), "seconds": math.nan}] * 5}


def side(text):
    """The variant that `text` describes: the name of a step or variant, and options. Raises UserError."""
    try:
        name, *options = shlex.split(text)
    except ValueError:
        raise cli.UserError(f"{text!r} is not a step or a variant, with options") from None
    if name not in VARIANTS:
        raise cli.UserError(f"there is no step or variant {name!r}; there are {', '.join(VARIANTS)}")
    return replace(VARIANTS[name], options=(*VARIANTS[name].options, *options))


def folder_name(text, more):
    """The folder, in seed1/ and so on, of the runs that `text` and the options `more` describe."""
    words = [word.lstrip("-") for word in (*shlex.split(text), *more)]
    return re.sub(r"[^\w.-]+", "_", "_".join(words))


def check(variants, args):
    """Raise UserError if the two `variants` cannot be compared."""
    a, b = (variant.facts(*args.more) for variant in variants)
    for variant, facts in zip(variants, (a, b), strict=True):
        usual = replace(variant, options=()).facts()["arguments"]
        for name in ("seed", "out_dir", "data_dir", "resume"):
            if facts["arguments"][name] != usual[name]:
                raise cli.UserError(f"--{name.replace('_', '-')} is set by the comparison, for A and B alike")
    if {facts["arguments"]["validate"] for facts in (a, b)} != {not args.test}:
        raise cli.UserError("A and B have to be tested on the same images, which --test alone decides; "
                            "leave --validate out of their options")
    if all(a[key] == b[key] for key in ("step", "network", "arguments")):
        raise cli.UserError("A and B are the same recipe")


def choose_seeds(variants, args):
    """The seeds of the pairs, from 1 up; with --test those that no other run in the folder has."""
    folder, used = Path(args.out_dir), set()
    if args.test:
        for path in folder.glob("seed*/**/*.json"):
            seed = path.relative_to(folder).parts[0].removeprefix("seed")
            if not any(path == folder_of(name, seed, folder) / f"{variant.step}.json"
                       and finished(name, variant, seed, folder, args.more)
                       for name, variant in variants.items()):
                used.add(seed)
    return [seed for seed in range(1, args.pairs + len(used) + 1) if str(seed) not in used][:args.pairs]


def seconds_for_a_pair(variants, args):
    """How long a pair takes: by finished runs, or else by an epoch of each, in a folder that is deleted.

    Raises UserError if a run fails; it may be one that cannot run at all.
    """
    seconds = {name: next((run["seconds"] for seed in range(1, args.pairs + 1)
                           if (run := finished(name, variant, seed, args.out_dir, args.more))), None)
               for name, variant in variants.items()}
    untried = [name for name, of_run in seconds.items() if of_run is None]
    if not untried:
        return sum(seconds.values())
    print(f"Trying one epoch of {'each' if len(untried) > 1 else 'the one that has no run'} ...", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        brief = {"out_dir": folder, "more": [*args.more, "--epochs", "1", *["--validate"] * args.test]}
        brief = argparse.Namespace(**{**vars(args), **brief})
        for number, run in train([(name, variants[name], 1) for name in untried], brief):
            name = untried[number]
            more_epochs = variants[name].facts(*args.more)["arguments"]["epochs"] - 1
            seconds[name] = run["seconds"] + more_epochs * run["history"][0]["seconds"]
    return sum(seconds.values())


def train(wanted, args):
    """Train the runs `wanted`, as (name, variant, seed); yields (its number, run) when one ends.

    A run that diverges yields GUESSING. Raises UserError for one that fails, after its traceback if any.
    """
    threads = threads_for(args.jobs)
    commands = [command(*one, args, threads) for one in wanted]
    with contextlib.closing(run_all(commands, args.jobs)) as ended:
        for number, status, stderr in ended:
            run = finished(*wanted[number], args.out_dir, args.more)
            if not run and status != cli.Diverged.status:
                *traceback, last = stderr.strip().splitlines() or [f"exit status {status}"]
                print(*traceback, sep="\n", end="\n" * bool(traceback), file=sys.stderr)
                raise cli.UserError(f"a run of {wanted[number][0]} failed: {last}")
            yield number, run or GUESSING


def train_pairs(variants, seeds, args):
    """Train what is not finished of the pairs with `seeds`; yields (seed, run of A, run of B) as they come.

    Both come from one machine: one that another has trained is trained again here.
    """
    pairs, wanted = {}, []
    for seed in seeds:
        pair = pairs[seed] = {name: finished(name, variant, seed, args.out_dir, args.more)
                              for name, variant in variants.items()}
        machines = {run and run["machine"] for run in pair.values()}
        if len(machines) == 1 and None not in machines:
            yield seed, *pair.values()
            continue
        for name, run in pair.items():
            if not run or run["machine"] != record.machine():
                wanted.append((name, variants[name], seed))
                pair[name] = None
    for number, run in train(wanted, args):
        name, _, seed = wanted[number]
        pairs[seed][name] = run
        if None not in pairs[seed].values():
            yield seed, *pairs[seed].values()


def text(value, measure, sign=""):
    """`value` with the decimals of `measure`."""
    return f"{value:{sign}.{SAID[measure][2]}f}"


def outlook(seconds, args):
    """Sentences on how long it will take: a pair, and how many of them."""
    _, unit, _, spread = SAID[args.measure]
    if math.isfinite(seconds):
        yield f"A pair takes about {seconds / 60 / min(args.jobs, 2):.1f} minutes."
    yield "Pairs that it is likely to take:"
    for times in (4, 2, 1, 0):
        shares, pairs = simulate(times * args.margin, spread, args.margin, trials=300, most=args.pairs)
        yield (f"    {pairs:3g} if the true difference is {times * args.margin:g} {unit}"
               + f", and in {shares[UNDECIDED]:.0%} of the cases no verdict" * (shares[UNDECIDED] >= 0.05))


def conclusion(result, args):
    """The verdict in a sentence."""
    verdict, (low, high) = result["verdict"], result["bounds"]
    small = verdict in WORDS and -args.margin < low and high < args.margin
    says = f"B is {WORDS[verdict]} than A" if verdict in WORDS else verdict.capitalize()
    says += f", though by less than {args.margin:g}" * small
    return (f"{says}: {text(result['difference'], args.measure, '+')} {SAID[args.measure][1]}, "
            f"99 % interval {brackets(result, args)}, after {result['n']} pairs.")


def brackets(result, args):
    """The interval of a `result`, as text."""
    return f"[{', '.join(text(bound, args.measure, '+') for bound in result['bounds'])}]"


def opened(step, folder):
    """How many runs of `step` in `folder` were tested on the test images."""
    runs = 0
    for path in folder.glob(f"seed*/**/{step}.json"):
        with contextlib.suppress(FileNotFoundError, Damaged):
            runs += not record.read(path)["arguments"]["validate"]
    return runs


def write(found, looks, steps, args):
    """Write compare.md and compare.png on the runs `found` of `steps` and what came of each look."""
    folder, measure = Path(args.out_dir), MEASURES[args.measure]
    what, unit, *_ = SAID[args.measure]
    pairs = [["seed", "A", "B", "B - A"]]
    both = {seed: (a, found["b"][seed]) for seed, a in found["a"].items()}
    for seed, (a, b) in both.items():
        pairs.append([str(seed), *(text(measure(run), args.measure) + " (diverged)" * (run is GUESSING)
                                   for run in (a, b)),
                      text(measure(b) - measure(a), args.measure, "+")])
    table = [["pairs", "difference", "99 % interval", "verdict"]]
    table += [[str(result["n"]), text(result["difference"], args.measure, "+"), brackets(result, args),
               WORDS.get(result["verdict"], result["verdict"])] for result in looks]
    with atomic_write(folder / "compare.md") as path:
        path.write_text("\n".join([
            "# Is B better than A?\n", f"A: `{args.a}`\n\nB: `{args.b}`\n",
            f"Options of both: `{shlex.join(args.more) or 'none'}`. Measured: {what}, on the "
            f"{'test' if args.test else 'validation'} images. A difference of {args.margin:g} {unit} would "
            "not matter.\n", f"**{conclusion(looks[-1], args)}**\n",
            "![The pairs, and the difference at each look](compare.png)\n", markdown(table), markdown(pairs),
            *(f"Runs of {step} in this folder that opened the test set: {opened(step, folder)}.\n"
              for step in steps), "To repeat this, or to go on with it:\n",
            f"    python {shlex.join(sys.orig_argv[1:])}", ""]), encoding="utf-8")
    plots.compare(folder / "compare.png",
                  [tuple(map(measure, pair)) for pair in both.values() if GUESSING not in pair],
                  [(result["n"], result["difference"], result["bounds"]) for result in looks],
                  args.margin, what, unit)


def main():
    parser = cli.Parser(__doc__, epilog="Options after -- are passed to every run.")
    parser.add_argument("a", metavar="A", help="a step or a variant, with options in quotes")
    parser.add_argument("b", metavar="B", help="the other")
    parser.add_argument("--measure", choices=SAID, default="last5",
                        help="; ".join(f"{name}: {what}" for name, (what, *_) in SAID.items()))
    parser.add_argument("--margin", type=cli.positive, metavar="X", help="a difference that would not matter "
                        f"(default: {MARGINS['last5']:g} points, or {MARGINS['loss']:g} nats)")
    parser.add_argument("--pairs", type=cli.positive_int, default=24, metavar="N",
                        help="the most pairs to train")
    parser.add_argument("--test", action="store_true",
                        help="test on the test images, with seeds that no other run in the folder has")
    args = parse(parser, "results/compare")
    if args.pairs < LOOKS[0]:
        raise cli.UserError(f"--pairs: with fewer than {LOOKS[0]} there is no verdict")
    args.jobs, args.margin = args.jobs or 1, args.margin or MARGINS[args.measure]
    args.more += ["--validate"] * (not args.test)
    sides = [side(words) for words in (args.a, args.b)]
    check(sides, args)
    variants = dict(zip([folder_name(words, args.more) for words in (args.a, args.b)], sides, strict=True))
    images = "test" if args.test else "validation"
    print(f"A: {args.a}\nB: {args.b}\nMeasured: {SAID[args.measure][0]}, on the {images} images")
    print(*outlook(seconds_for_a_pair(variants, args), args), sep="\n", flush=True)

    part = Part(args.measure, "b", "a", "less" if args.measure == "loss" else "more", 0, args.margin)
    measure, seeds = MEASURES[args.measure], choose_seeds(variants, args)
    found, looks = {"a": {}, "b": {}}, []
    for look in [n for n in LOOKS if n <= args.pairs]:
        for seed, a, b in train_pairs(variants, seeds[len(found["a"]):look], args):
            found["a"][seed], found["b"][seed] = a, b
            diverged = "".join(f", {which} diverged" for which, run in zip("AB", (a, b), strict=True)
                               if run is GUESSING)
            print(f"seed {seed:3}: A {text(measure(a), args.measure)}, B {text(measure(b), args.measure)}, "
                  f"B - A {text(measure(b) - measure(a), args.measure, '+')}{diverged}", flush=True)
        looks.append(part.result(found))
        print(conclusion(looks[-1], args), flush=True)
        write(found, looks, dict.fromkeys(variant.step for variant in sides), args)
        if looks[-1]["verdict"] != UNDECIDED:
            break
    print(f"Written: {Path(args.out_dir) / 'compare.md'} {Path(args.out_dir) / 'compare.png'}")


if __name__ == "__main__":
    cli.run(main)
