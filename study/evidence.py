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
        return share.low, share.high
    mean, half = np.mean(values), _quantile(level, n) * np.std(values, ddof=1) / math.sqrt(n)
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
    """What decide() would say, were the true difference known: verdict -> share of `trials`, median of pairs,
    and the share in which some look's interval misses the truth, decided or not.

    `spread` is the standard deviation of one pair's difference. At most `most` pairs are taken.
    """
    rng, verdicts, pairs, missed = np.random.default_rng(0), [], [], 0
    for values in rng.normal(difference, spread, (trials, most)):
        n, _, verdict = decide(values, "more", 0, margin)
        verdicts.append(verdict)
        pairs.append(n)
        intervals = [interval(values[:n]) for n in LOOKS if n <= most]
        missed += any(not low <= difference <= high for low, high in intervals)
    shares = {v: verdicts.count(v) / trials for v in (HOLDS, FAILS, NO_DIFFERENCE, UNDECIDED)}
    return shares, statistics.median(pairs), missed / trials


def all_of(verdicts):
    """The verdict on a claim that holds if all its parts do."""
    for verdict in (FAILS, NO_DIFFERENCE):
        if verdict in verdicts:
            return verdict
    return HOLDS if set(verdicts) == {HOLDS} else UNDECIDED


def last_epochs(figure, n=5):
    """A measure of a run: the mean of `figure(epoch)` over its last `n` epochs."""
    return lambda run: statistics.fmean(figure(epoch) for epoch in run["history"][-n:])


def last(run):
    return run["history"][-1]["test_accuracy"]


def fluctuation(run):
    """The mean change of test accuracy, up or down, from one epoch to the next, over the last ten."""
    accuracies = [epoch["test_accuracy"] for epoch in run["history"][-11:]]
    return statistics.fmean(abs(b - a) for a, b in itertools.pairwise(accuracies))


MEASURES = {
    "last5": last_epochs(lambda epoch: epoch["test_accuracy"]),
    "last": last,
    "loss": last_epochs(lambda epoch: epoch["test_loss"]),
    "best test": lambda run: best(run["history"], "test_accuracy")["test_accuracy"],
    "best training": lambda run: best(run["history"], "train_accuracy")["train_accuracy"],
    "gap": last_epochs(lambda epoch: epoch["train_accuracy"] - epoch["test_accuracy"]),
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

RULE = """\
Accuracies are in percent, differences in points. "last5" is test accuracy, the mean of the last
five epochs; "loss" that of the test loss, in nats. "gap" is training minus test accuracy: as
printed (taken during the epoch, on rotated and dropped-out images, by weights that are still
changing; the mean of the last five epochs) or, where it says "eval", by the final weights in eval
mode on the plain training images. "fluctuation" is the mean change of test accuracy from one epoch
to the next, over the last ten; "at the target" is at or above 99.40. ± is the standard error of a
mean over n seeds. In brackets is the 99 % interval of the difference, by Student's t from the
differences paired by seed; that of a share is Wilson's.

A comparison is judged after 4, 6, 9, 13, 18, 24 and 48 pairs, until there is a verdict; n is the
number of pairs that it took. At each look, "more" ("less") than x holds if all of the interval
lies above (below) x, and does not hold if all of it lies on the other side. If it lies on
neither side but within a margin of x, there is no difference that matters; the margin is 0.05 points
of accuracy, 0.02 of fluctuation, 0.002 nats of loss. "Within x" holds if all of the interval
lies between -x and x, and does not hold if all of it lies beyond one of them. Otherwise it is
undecided. A claim of several parts holds if all of them do, and does not hold if one does not.

All looks together are wrong in at most one comparison of twenty. Fourteen claims are fourteen
chances to be wrong: Holm's correction keeps the chance that any of them is at one in twenty. A
verdict that does not survive it is marked."""


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
        return {"n": n, "a": a[:n], "b": b[:n], "share": share, "values": values,
                "difference": statistics.fmean(values[:n]), "bounds": bounds, "verdict": verdict}

    def question(self):
        """What is compared, in words."""
        if self.b is None:
            return f"{self.measure}: share in {self.a} {self.wanted} than {self.than:g}"
        minus, than = f" minus {self.b}" if self.b else "", "" if self.wanted == "within" else " than"
        return f"{self.measure}: {self.a}{minus}, {self.wanted}{than} {self.than:g}"


@dataclass
class Claim:
    """A sentence and its parts; `by_eval` are those by the other measure of training accuracy."""
    sentence: str
    parts: list
    by_eval: list = None

    def verdict(self, found, parts=None, level=LEVEL):
        """The verdict on all of `parts`, by default those by the measure as printed."""
        results = [part.result(found, level) for part in parts or self.parts]
        return all_of([result["verdict"] if result else UNDECIDED for result in results])


def corrected(questions, found):
    """The verdicts on `questions`, pairs of a claim and its parts, with Holm's correction.

    Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6
    (1979): of k open questions those count as decided that are at a level k times as strict, and the rest is
    then judged as if there were no others.
    """
    verdicts = [UNDECIDED] * len(questions)
    while k := verdicts.count(UNDECIDED):
        now = [claim.verdict(found, parts, LEVEL / k) if verdict == UNDECIDED else verdict
               for verdict, (claim, parts) in zip(verdicts, questions, strict=True)]
        if now == verdicts:
            break
        verdicts = now
    return verdicts


def table_rows(claims, found):
    """The rows of a table of all claims: what was compared, both sides, the difference, the verdict."""
    rows = [["", "claim", "compared", "first", "second", "difference", "n", "verdict"]]
    for number, claim in enumerate(claims, start=1):
        for measure, parts in ((", as printed", claim.parts), (", eval", claim.by_eval or [])):
            measure, sentence = measure if claim.by_eval else "", claim.sentence
            for i, part in enumerate(parts):
                letter = "abcdef"[i] if len(parts) > 1 else ""
                rows.append([f"{number}{letter}{measure}", sentence, part.question(),
                             *cells(part, part.result(found))])
                sentence = ""
            if len(parts) > 1:
                rows.append([f"{number}{measure}", "", "all of these", "", "", "", "",
                             f"**{claim.verdict(found, parts)}**"])
            elif parts:
                rows[-1][-1] = f"**{rows[-1][-1]}**"
    return rows


def cells(part, result):
    """Both sides, the difference with its interval, n and the verdict of one `part`, as text."""
    if result is None:
        return ["", "", "", "0", "no runs"]

    def side(values):
        mean, error = mean_and_error(values)
        return f"{mean:.3f}" + (f" ± {error:.3f}" if error is not None else "")

    bounds = "[{:+.3f}, {:+.3f}]".format(*result["bounds"]) if result["bounds"] else "[no interval]"
    if result["share"]:
        first, second = f"{sum(result['a'])} of {result['n']}", ""
        difference = f"{result['difference']:.2f} {bounds.replace('+', '')}"
    else:
        first, second = side(result["a"]), side(result["b"]) if isinstance(part.b, str) else f"{part.b:g}"
        difference = f"{result['difference']:+.3f} {bounds}"
    return [first, second, difference, str(result["n"]), result["verdict"]]


def verdict_rows(claims, found):
    """The rows of a short table: each claim and its verdict, by both measures where they disagree.

    A verdict that Holm's correction does not leave is marked.
    """
    rows, columns = [["", "claim", "verdict"]], []
    for by in ("parts", "by_eval"):
        questions = [(claim, getattr(claim, by) or claim.parts) for claim in claims]
        strict = corrected(questions, found)
        alone = [claim.verdict(found, parts) for claim, parts in questions]
        columns.append([verdict + f" ({other} with Holm's correction)" * (other != verdict)
                        for verdict, other in zip(alone, strict, strict=True)])
    for number, (claim, printed, by_eval) in enumerate(zip(claims, *columns, strict=True), start=1):
        rows.append([str(number), claim.sentence, printed if printed == by_eval else
                     f"{printed} as printed, {by_eval} in eval mode"])
    return rows
