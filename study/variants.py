"""Which runs there are: the steps, their variants, where a run's files lie, and which runs are finished.

    python -m study.variants step2_with_pooling --seed 1     # trains one with a network of its own
"""
import contextlib
import importlib
import math
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

import step2_dropout
from harness import checkpoint, cli, record
from harness.files import Damaged

ROOT = Path(__file__).resolve().parent.parent
LADDER = ("step1_basic", "step2_dropout", "step3_gap", "step4_aug_lr")  # the steps of S5
# A copy such as "step1_basic copy.py" is no step: `make` cannot have such a target.
STEPS = tuple(sorted(path.stem for path in ROOT.glob("step*_*.py") if re.fullmatch(r"[\w-]+", path.stem)))


class WithoutBatchNorm(step2_dropout.Net):
    """Step 2 with each batch norm taken out, and its shift left to a bias in the convolution before it."""

    def __init__(self, dropout):
        super().__init__(dropout)
        for block in (self.block1, self.block2):
            for i, layer in enumerate(block):
                if isinstance(layer, nn.BatchNorm2d):
                    block[i] = nn.Identity()
                    block[i - 1].bias = nn.Parameter(torch.zeros(block[i - 1].out_channels))


class WithPooling(step2_dropout.Net):
    """Step 2 with global average pooling and a 1x1 convolution for its 5x5 kernel: 4,464 parameters."""

    def __init__(self, dropout):
        super().__init__(dropout)
        self.last = nn.Sequential(nn.AvgPool2d(5), nn.Conv2d(10, 10, 1, bias=False))


@dataclass
class Variant:
    """One recipe: a step, options that differ from its defaults, a network if it is not the step's own."""
    step: str
    options: tuple = ()
    net: type = None

    def facts(self, *more):
        """What record.facts says of a run with these options and `more`, as far as it is known before."""
        module = importlib.import_module(self.step)
        net = self.net or module.Net
        return {"step": self.step, "network": net.__name__, "recipe": record.recipe(module, net),
                "arguments": record.plain(module.command_line().parse_args([*self.options, *more])),
                "versions": {"torch": str(torch.__version__)}}

    def matches(self, run, facts, but=()):
        """Whether `run` is one of this variant, whose `facts` are given, arguments named in `but` aside."""
        names = facts["arguments"].keys() - record.NOT_IN_RECIPE - {"device", *but}
        return (run["step"] == facts["step"] and run["network"] == facts["network"]
                and all(run["arguments"].get(name) == facts["arguments"][name] for name in names))

    def train(self, argv):
        """Run the step with the options `argv` and this variant's network in place of its own."""
        module = importlib.import_module(self.step)
        if self.net:
            module.Net = self.net
        module.main([*self.options, *argv])


VARIANTS = {step: Variant(step) for step in STEPS} | {
    "step1_lr_0.00333": Variant("step1_basic", ("--lr", "0.00333")),
    "step2_dropout_0": Variant("step2_dropout", ("--dropout", "0")),
    "step2_without_batch_norm": Variant("step2_dropout", net=WithoutBatchNorm),
    "step2_with_pooling": Variant("step2_dropout", net=WithPooling),
    "step3_dropout_0.1": Variant("step3_gap", ("--dropout", "0.1")),
    "step3_dropout_0": Variant("step3_gap", ("--dropout", "0")),
    "step4_rotation_0": Variant("step4_aug_lr", ("--rotation", "0")),
    "step4_lr_0.01": Variant("step4_aug_lr", ("--lr", "0.01")),
    "step4_gamma_1": Variant("step4_aug_lr", ("--gamma", "1")),
}
# Step 5 with 5 to 18 channels where it has 16, step 7 with 6 to 47 where it has 9: 486 to 9,810 parameters.
WIDTHS = {f"step{step[4]}_width_{width}": Variant(step, ("--width", width)) for step, widths in (
    ("step5_beyond", ("0.3125", "0.375", "0.5", "0.625", "0.75", "0.875", "1", "1.125")),
    ("step7_small", ("0.67", "0.89", "1", "1.45", "1.9", "2.45", "3.1", "3.9", "4.67", "5.22")),
) for width in widths}


def folder_of(name, seed, out_dir):
    """Where the run of variant `name` with `seed` leaves its files; a step's own lies beside its variants."""
    folder = Path(out_dir) / f"seed{seed}"
    return folder if name in STEPS else folder / name


def sweep_files(folder):
    """The files of a sweep into `folder`: seed1/<step>.json, seed1/<variant>/<step>.json and so on.

    Then <variant>.jsonl, where the runs of a variant have been collected, one a line.
    """
    return [*sorted([*folder.glob("seed*/*.json"), *folder.glob("seed*/*/*.json")]),
            *sorted(folder.glob("*.jsonl"))]


def finished(name, variant, seed, out_dir, more):
    """That run, with the further options `more`, if it is there, complete, and made by the current code."""
    runs = []
    with contextlib.suppress(FileNotFoundError, Damaged):
        runs.append(record.read(folder_of(name, seed, out_dir) / f"{variant.step}.json"))
    with contextlib.suppress(FileNotFoundError, Damaged):
        runs += record.read_lines(Path(out_dir) / f"{name}.jsonl")
    if not runs:
        return None
    facts = variant.facts("--seed", str(seed), *more)
    return next((run for run in runs
                 if run["recipe"] == facts["recipe"] and variant.matches(run, facts)), None)


def can_resume(name, variant, seed, out_dir, more, threads):
    """Whether that run can be given --resume: no checkpoint of other code or options is in its way.

    Nor is it finished; that is trained again only because it was on another machine.
    """
    if finished(name, variant, seed, out_dir, more):
        return False
    facts = variant.facts("--seed", str(seed), *more) | {"threads": threads}
    try:
        checkpoint.find(folder_of(name, seed, out_dir) / f"{variant.step}.ckpt", facts)
    except cli.UserError:
        return False
    return True


def load_runs(paths, for_means=True):
    """The runs in the files `paths`, as a list of dicts, and the number of files that hold no run.

    What is left out is named on stderr, with the reason. Where the runs are `for_means`, that includes dry
    runs and those of another number of epochs than most have, where a step's default counts as one number.
    """
    runs, left_out, unreadable = {}, {}, 0
    for path in paths:
        try:
            if path.suffix == ".jsonl":
                runs |= {f"{path}, line {i}": run for i, run in enumerate(record.read_lines(path), start=1)}
            else:
                runs[path] = record.read(path)
        except (FileNotFoundError, Damaged) as error:
            why = "none of its runs is used" if path.suffix == ".jsonl" else "it is no finished run of a step"
            left_out[path], unreadable = f"{why}: {error}", unreadable + 1
    if for_means:
        left_out |= {path: "it is a dry run" for path, run in runs.items() if run["arguments"]["dry_run"]}
        usual = {step: VARIANTS[step].facts()["arguments"]["epochs"] for step in STEPS}
        given = {path: run["arguments"]["epochs"] for path, run in runs.items() if path not in left_out}
        lengths = {path: math.inf if n == usual.get(runs[path]["step"]) else n for path, n in given.items()}
        most = max(lengths.values(), key=lambda n: (list(lengths.values()).count(n), n), default=0)
        others = "their step's default" if most == math.inf else most
        left_out |= {path: f"it has {given[path]} epochs, most have {others}"
                     for path, length in lengths.items() if length != most}
    for path, why in left_out.items():
        cli.warn(f"left out: {path}: {why}")
    return [run for path, run in runs.items() if path not in left_out], unreadable


def by_variant(runs, variants=VARIANTS):
    """`runs` sorted as variant -> seed -> run, and those that match no variant or are duplicates."""
    expected = {name: variant.facts() for name, variant in variants.items()}
    found, others = {name: {} for name in variants}, []
    for run in runs:
        name = next((name for name, variant in variants.items()
                     if variant.matches(run, expected[name], but=("seed", "epochs", "dry_run"))), None)
        seed = run["arguments"]["seed"]
        if name is None or seed in found[name]:
            others.append(run)
        else:
            found[name][seed] = run
    return found, others


def main():
    parser = cli.Parser(__doc__, epilog="Options after the name are passed to the step.")
    parser.add_argument("name", choices=VARIANTS, metavar="NAME", help=", ".join(VARIANTS))
    VARIANTS[parser.parse_args(sys.argv[1:2]).name].train(sys.argv[2:])


if __name__ == "__main__":
    cli.run(main)
