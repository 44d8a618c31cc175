"""Is one recipe better than another? Differences between pairs of runs, intervals, verdicts by rule."""
import functools
import itertools
import math
import statistics
from dataclasses import dataclass

import numpy as np
from scipy import stats

from harness.record import TARGET, best

# A comparison is judged after so many pairs, each time by its 99 % interval, until there is a verdict. With
# 95 % each, seven looks would find a difference between equals in one comparison of six. With 99 % all looks
# together are wrong in one of twenty at most (simulate() counts).
LOOKS = (4, 6, 9, 13, 18, 24, 48)
LEVEL = 0.01
HOLDS, FAILS, NO_DIFFERENCE, UNDECIDED = "holds", "does not hold", "no difference that matters", "undecided"


def mean_and_error(values):
    """Mean of `values` and its standard error, sd / sqrt(n) with n - 1 in the sd; None for one value."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return statistics.fmean(values), error


def interval(values, level=LEVEL):
    """The confidence interval (low, high) of the mean of `values`, wrong with probability `level`.

    Student, "The probable error of a mean", Biometrika 6 (1908); of True and False, Wilson's score interval
    of their share (E. B. Wilson, "Probable inference, the law of succession, and statistical inference",
    JASA 22, 1927). None where there are not two values.
    """
    n = len(values)
    if n < 2:
        return None
    if type(values[0]) is bool:
        share = stats.binomtest(sum(values), n).proportion_ci(1 - level, method="wilson")
        return float(share.low), float(share.high)
    mean, half = float(np.mean(values)), float(_quantile(level, n) * np.std(values, ddof=1)) / math.sqrt(n)
    return mean - half, mean + half


@functools.cache
def _quantile(level, n):
    return stats.t.ppf(1 - level / 2, n - 1)


def judge(bounds, wanted, than, margin=0.0):
    """The verdict on "it is more (less) than `than`", or "within" it, given the interval `bounds` or None.

    There is no difference that matters where the whole interval lies within `margin` of `than`.
    """
    if bounds is None:
        return UNDECIDED
    low, high = bounds
    if wanted == "within":
        holds, fails = -than < low and high < than, low > than or high < -than
    elif wanted == "less":
        holds, fails = high < than, low > than
    else:
        holds, fails = low > than, high < than
    if holds or fails:
        return HOLDS if holds else FAILS
    return NO_DIFFERENCE if than - margin < low and high < than + margin else UNDECIDED


def decide(values, wanted, than, margin, level=LEVEL):
    """Judge `values`, one for each pair, at each of LOOKS that they reach, until there is a verdict.

    Returns how many values the last look had, their interval, and the verdict; before the first look, those
    of all values, and undecided.
    """
    looks = [n for n in LOOKS if n <= len(values)]
    if not looks:
        return len(values), interval(values, level), UNDECIDED
    for n in looks:
        bounds = interval(values[:n], level)
        verdict = judge(bounds, wanted, than, margin)
        if verdict != UNDECIDED:
            break
    return n, bounds, verdict


def simulate(difference, spread, margin, trials=2000, most=24):
    """What decide() would say, were the true difference known: verdict -> share of `trials`, median of pairs.

    `spread` is the standard deviation of one pair's difference. At most `most` pairs are taken.
    """
    rng, verdicts, pairs = np.random.default_rng(0), [], []
    for values in rng.normal(difference, spread, (trials, most)):
        n, _, verdict = decide(values, "more", 0, margin)
        verdicts.append(verdict)
        pairs.append(n)
    shares = {v: verdicts.count(v) / trials for v in (HOLDS, FAILS, NO_DIFFERENCE, UNDECIDED)}
    return shares, statistics.median(pairs)


def without_tta(runs):
    """Test accuracies (percent) of `runs` without test-time augmentation; [] if one has none stored."""
    found = [run["test_accuracy_without_tta"] for run in runs if "test_accuracy_without_tta" in run]
    return found if len(found) == len(runs) else []


def last_five(figure):
    """A measure of a run: the mean of `figure(epoch)` over its last five epochs."""
    return lambda run: statistics.fmean(figure(epoch) for epoch in run["history"][-5:])


def last(run):
    return run["history"][-1]["test_accuracy"]


def fluctuation(run):
    """The mean change of test accuracy, up or down, from one epoch to the next, over the last ten."""
    accuracies = [epoch["test_accuracy"] for epoch in run["history"][-11:]]
    return statistics.fmean(abs(b - a) for a, b in itertools.pairwise(accuracies))


MEASURES = {
    "last5": last_five(lambda epoch: epoch["test_accuracy"]),
    "last": last,
    "loss": last_five(lambda epoch: epoch["test_loss"]),
    "best test": lambda run: best(run["history"], "test_accuracy")["test_accuracy"],
    "best training": lambda run: best(run["history"], "train_accuracy")["train_accuracy"],
    "gap": last_five(lambda epoch: epoch["train_accuracy"] - epoch["test_accuracy"]),
    "gap, eval": lambda run: run["train_accuracy_eval"] - last(run),
    "fluctuation": fluctuation,
    "last three epochs at the target":
        lambda run: min(e["test_accuracy"] for e in run["history"][-3:]) >= TARGET,
    "last epoch at the target": lambda run: last(run) >= TARGET,
}
# What does not matter: 0.05 points of accuracy are five test images, and as much as two seeds of one recipe
# differ by. 0.002 nats are what 0.05 points come to between the steps. By 0.02 points does step 4's test
# accuracy fluctuate from one epoch to the next at its end.
MARGINS = {"loss": 0.002, "fluctuation": 0.02} | dict.fromkeys(
    ("last5", "last", "best test", "best training", "gap", "gap, eval"), 0.05)


@dataclass
class Part:
    """One comparison: MEASURES[`measure`] of variant `a` minus that of `b`, which is a variant, or a number.

    `wanted` is more, less or within, and `than` the threshold. A measure that is true or false is a share of
    seeds, and is itself compared with `than`. Differences up to `margin` do not matter; by default that of
    MARGINS.
    """
    measure: str
    a: str
    b: object = None
    wanted: str = "more"
    than: float = 0.0
    margin: float = None

    def result(self, found, level=LEVEL):
        """What came of it in the runs `found` (variant -> seed -> run), a dict; None if no seed has both.

        The two runs of a pair come from one machine: others round differently.
        """
        runs = found[self.a]
        others = found[self.b] if isinstance(self.b, str) else runs
        seeds = [seed for seed in sorted(runs.keys() & others.keys())
                 if runs[seed]["machine"] == others[seed]["machine"]]
        if not seeds:
            return None
        measure = MEASURES[self.measure]
        a = [measure(runs[seed]) for seed in seeds]
        b = [measure(others[seed]) if isinstance(self.b, str) else self.b or 0 for seed in seeds]
        share = type(a[0]) is bool
        values = a if share else [x - y for x, y in zip(a, b, strict=True)]
        margin = MARGINS.get(self.measure, 0) if self.margin is None else self.margin
        n, bounds, verdict = decide(values, self.wanted, self.than, margin, level)
        return {"n": n, "a": a[:n], "b": b[:n], "share": share, "margin": margin,
                "difference": statistics.fmean(values[:n]), "bounds": bounds, "verdict": verdict}

    def question(self):
        """What is compared, in words."""
        if self.b is None:
            return f"{self.measure}: share in {self.a} {self.wanted} than {self.than:g}"
        minus, than = f" minus {self.b}" if self.b else "", "" if self.wanted == "within" else " than"
        return f"{self.measure}: {self.a}{minus}, {self.wanted}{than} {self.than:g}"
