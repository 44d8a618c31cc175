"""How a claim is judged: means over seeds, their 95 % intervals, and verdicts by rule."""
import math
import statistics
from dataclasses import dataclass

from scipy import stats

from harness.record import TARGET, best

CONFIDENCE = 0.95
HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"


def mean_and_error(values):
    """Mean of `values` and its standard error, sd / sqrt(n) with n - 1 in the sd; None for one value."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return statistics.fmean(values), error


def interval(values):
    """The 95 % confidence interval (low, high) of the mean of `values`; None for one value.

    Student, "The probable error of a mean", Biometrika 6 (1908).
    """
    mean, error = mean_and_error(values)
    if error is None:
        return None
    half = stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * error
    return mean - half, mean + half


def share_interval(hits, n):
    """The 95 % interval of a share of which `hits` in `n` were seen: Wilson's score interval, (low, high).

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    """
    bounds = stats.binomtest(hits, n).proportion_ci(CONFIDENCE, method="wilson")
    return bounds.low, bounds.high


def judge(bounds, wanted, than):
    """The verdict on "it is more (less) than `than`", or "within" it, given the interval `bounds` or None."""
    if bounds is None:
        return UNDECIDED
    low, high = bounds
    if wanted == "within":
        holds, fails = -than < low and high < than, low > than or high < -than
    elif wanted == "less":
        holds, fails = high < than, low > than
    else:
        holds, fails = low > than, high < than
    return HOLDS if holds else FAILS if fails else UNDECIDED


def all_of(verdicts):
    """The verdict on a claim that holds if all its parts do."""
    return FAILS if FAILS in verdicts else HOLDS if set(verdicts) == {HOLDS} else UNDECIDED


def last_test(run):
    return run["history"][-1]["test_accuracy"]


MEASURES = {
    "test": last_test,
    "best test": lambda run: best(run["history"], "test_accuracy")["test_accuracy"],
    "best training": lambda run: best(run["history"], "train_accuracy")["train_accuracy"],
    "gap": lambda run: run["history"][-1]["train_accuracy"] - last_test(run),
    "gap, eval": lambda run: run["train_accuracy_eval"] - last_test(run),
    "spread": lambda run: statistics.stdev(e["test_accuracy"] for e in run["history"][-5:]),
    "last three epochs at the target":
        lambda run: min(e["test_accuracy"] for e in run["history"][-3:]) >= TARGET,
    "last epoch at the target": lambda run: last_test(run) >= TARGET,
}

RULE = """\
Accuracies are in percent and of the last epoch, unless marked "best"; differences are in
points. "gap" is training minus test accuracy: as printed (taken during the epoch, on rotated
and dropped-out images, by weights that are still changing) or, where it says "eval", by the final
weights in eval mode on the plain training images. "spread" is the standard deviation of the test
accuracy over the last five epochs, "at the target" at or above 99.40. ± is the standard error
of a mean over n seeds. In brackets is the 95 % interval of the difference, by Student's t from
the differences paired by seed; that of a share is Wilson's.

A claim of "more" ("less") than x holds if all of the interval lies above (below) x, does not
hold if all of it lies on the other side, and is undecided otherwise. A claim of "within x"
holds if all of the interval lies between -x and x, does not hold if all of it lies beyond one
of them. A claim of several parts holds if all of them do, and does not hold if one does not.
There is no correction for multiple comparisons: one interval in twenty is expected to miss."""


@dataclass
class Part:
    """One comparison: MEASURES[`measure`] of variant `a` minus that of `b`, which is a variant, or a number.

    `wanted` is more, less or within, and `than` the threshold. A measure that is true or false is a share of
    seeds, and is itself compared with `than`.
    """
    measure: str
    a: str
    b: object = None
    wanted: str = "more"
    than: float = 0.0

    def result(self, found):
        """What came of it in the runs `found` (variant -> seed -> run), a dict; None if no seed has both."""
        def values(name):
            return {seed: MEASURES[self.measure](run) for seed, run in found[name].items()
                    if len(run["history"]) >= 5}

        a = values(self.a)
        b = values(self.b) if isinstance(self.b, str) else dict.fromkeys(a, self.b or 0)
        seeds = sorted(a.keys() & b.keys())
        if not seeds:
            return None
        a, b = [a[seed] for seed in seeds], [b[seed] for seed in seeds]
        differences = [x - y for x, y in zip(a, b, strict=True)]
        share = type(a[0]) is bool
        bounds = share_interval(sum(a), len(a)) if share else interval(differences)
        return {"n": len(seeds), "a": a, "b": b, "share": share, "difference": statistics.fmean(differences),
                "bounds": bounds, "verdict": judge(bounds, self.wanted, self.than)}

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

    def verdict(self, found, parts=None):
        """The verdict on all of `parts`, by default those by the measure as printed."""
        results = [part.result(found) for part in parts or self.parts]
        return all_of([result["verdict"] if result else UNDECIDED for result in results])


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
    """The rows of a short table: each claim and its verdict, by both measures where they disagree."""
    rows = [["", "claim", "verdict"]]
    for number, claim in enumerate(claims, start=1):
        verdict = claim.verdict(found)
        other = claim.verdict(found, claim.by_eval)
        rows.append([str(number), claim.sentence, verdict if other == verdict else
                     f"{verdict} as printed, {other} in eval mode"])
    return rows
