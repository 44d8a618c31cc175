"""How a claim is judged: means over seeds, their 95 % intervals, and verdicts by rule.

What is claimed, and of which runs, stands in claims.py.
"""
import math
import statistics
from dataclasses import dataclass

from common import TARGET
from records import best

CONFIDENCE = 0.95
HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot be told"


def mean_and_error(values):
    """Mean of `values` and its standard error, sd / sqrt(n) with n - 1 in the sd; the error of one value is None."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return statistics.fmean(values), error


def interval(values):
    """The 95 % confidence interval of the mean of `values` by Student's t, (low, high); one value has none: None.

    Student, "The probable error of a mean", Biometrika 6 (1908).
    """
    mean, error = mean_and_error(values)
    if error is None:
        return None
    half = t_quantile((1 + CONFIDENCE) / 2, len(values) - 1) * error
    return mean - half, mean + half


def share_interval(hits, n):
    """The 95 % interval of a share of which `hits` in `n` were seen: Wilson's score interval, (low, high).

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    """
    z, share = statistics.NormalDist().inv_cdf((1 + CONFIDENCE) / 2), hits / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def t_quantile(p, freedom):
    """The number that Student's t with `freedom` degrees of freedom stays below with probability `p` (0.5 <= p < 1)."""
    low, high = 0.0, 1.0
    while _t_below(high, freedom) < p:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_below(middle, freedom) < p else (low, middle)
    return high


def _t_below(t, freedom):
    """P(T < t) for t >= 0: with t = sqrt(freedom) tan(angle), the density is a power of the cosine. Simpson's rule."""
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)
    angle, n = math.atan(t / math.sqrt(freedom)), 400
    total = sum((1 if i in (0, n) else 4 if i % 2 else 2) * math.cos(i * angle / n) ** (freedom - 1)
                for i in range(n + 1))
    return 0.5 + scale * total * angle / n / 3


def more_than(bounds, threshold):
    """The verdict on "it is more than `threshold`", from the interval `bounds`: which side of it is all of it on?"""
    if bounds is None or bounds[0] <= threshold <= bounds[1]:
        return OPEN
    return HOLDS if bounds[0] > threshold else FAILS


def within(bounds, margin):
    """The verdict on "it is as good as nothing": is all of the interval `bounds` closer to 0 than `margin`, or farther?"""
    if bounds is None:
        return OPEN
    low, high = bounds
    if -margin < low and high < margin:
        return HOLDS
    return FAILS if low > margin or high < -margin else OPEN


def all_of(verdicts):
    """The verdict on a claim that holds if all its parts do."""
    for verdict in (FAILS, OPEN):
        if verdict in verdicts:
            return verdict
    return HOLDS if verdicts else OPEN


# -------------------------------------------------------------------- measures


def last_test(run):
    return run["history"][-1]["test_accuracy"]


def spread(run):
    return statistics.stdev(epoch["test_accuracy"] for epoch in run["history"][-5:])


MEASURES = {
    "test": last_test,
    "best test": lambda run: best(run["history"], "test_accuracy")["test_accuracy"],
    "best training": lambda run: best(run["history"], "train_accuracy")["train_accuracy"],
    "gap": lambda run: run["history"][-1]["train_accuracy"] - last_test(run),
    "gap, eval": lambda run: run["train_accuracy_eval"] - last_test(run),
    "spread": spread,
    "last three epochs at the target": lambda run: min(e["test_accuracy"] for e in run["history"][-3:]) >= TARGET,
    "last epoch at the target": lambda run: last_test(run) >= TARGET,
}

RULE = """\
Accuracies are in percent, of the last epoch unless "best" stands there, differences in
points. "gap" is training minus test accuracy: as printed (taken during the epoch, on rotated
and dropped-out input, by weights still moving) or, where "eval" stands, by the final weights
in eval mode on the plain training images. "spread" is the standard deviation of the test
accuracy over the last five epochs, "at the target" at or above 99.40. ± is the standard error
of a mean over n seeds. In brackets: the 95 % interval of the difference, by Student's t from
the differences paired by seed; of a share, Wilson's.

A claim of "more" ("less") than x holds if all of the interval lies above (below) x, does not
hold if all of it lies on the other side, and cannot be told otherwise. A claim of "within x"
holds if all of the interval lies between -x and x, does not hold if all of it lies beyond one
of them. A claim of several parts holds if all of them do, and does not hold if one does not.
Nothing is corrected for asking many questions: of twenty intervals one is expected to miss."""


@dataclass
class Part:
    """One comparison: MEASURES[`measure`] of variant `a` minus that of `b`, which is a variant, or a number.

    `wanted` is more, less or within, and `than` the threshold. A measure that is
    true or false is a share of seeds, and is itself compared with `than`.
    """
    measure: str
    a: str
    b: object = None
    wanted: str = "more"
    than: float = 0.0

    def result(self, found):
        """What came of it in the runs `found` (variant -> seed -> run), as a dict; None if no seed has what it takes.

        The dict holds n, a and b (values by seed), difference, bounds (None for one seed) and verdict.
        """
        measure = MEASURES[self.measure]
        a = {seed: measure(run) for seed, run in found[self.a].items() if len(run["history"]) >= 5}
        if isinstance(self.b, str):
            b = {seed: measure(run) for seed, run in found[self.b].items() if len(run["history"]) >= 5}
        else:
            b = dict.fromkeys(a, self.b or 0)
        seeds = sorted(a.keys() & b.keys())
        if not seeds:
            return None
        a, b = [a[seed] for seed in seeds], [b[seed] for seed in seeds]
        differences = [x - y for x, y in zip(a, b)]
        share = type(a[0]) is bool
        bounds = share_interval(sum(a), len(a)) if share else interval(differences)
        if self.wanted == "within":
            verdict = within(bounds, self.than)
        elif self.wanted == "less":
            verdict = more_than(bounds and (-bounds[1], -bounds[0]), -self.than)
        else:
            verdict = more_than(bounds, self.than)
        return {"n": len(seeds), "a": a, "b": b, "share": share, "difference": statistics.fmean(differences),
                "bounds": bounds, "verdict": verdict}

    def question(self):
        """What is compared, in words."""
        if self.b is None:
            return f"{self.measure}: share in {self.a} {self.wanted} than {self.than:g}"
        minus = f" minus {self.b}" if self.b else ""
        return f"{self.measure}: {self.a}{minus}, {self.wanted}{'' if self.wanted == 'within' else ' than'} {self.than:g}"


@dataclass
class Claim:
    """A sentence and the parts it takes; `by_eval` are those by the other measure of training accuracy."""
    sentence: str
    parts: list
    by_eval: list = None

    def verdict(self, found, parts=None):
        """The verdict on all of `parts`, by default those by the measure as printed."""
        results = [part.result(found) for part in parts or self.parts]
        return all_of([result["verdict"] if result else OPEN for result in results])


# ---------------------------------------------------------------------- tables


def table_rows(claims, found):
    """The rows of a table of all claims: what was compared, both sides, the difference, the verdict."""
    rows = [["", "claim", "compared", "first", "second", "difference", "n", "verdict"]]
    for number, claim in enumerate(claims, start=1):
        for measure, parts in ((", as printed", claim.parts), (", eval", claim.by_eval)):
            if not parts:
                continue
            measure, sentence = measure if claim.by_eval else "", claim.sentence
            for letter, part in zip("abcdef" if len(parts) > 1 else [""], parts):
                rows.append([f"{number}{letter}{measure}", sentence, part.question(), *cells(part, part.result(found))])
                sentence = ""
            if len(parts) > 1:
                rows.append([f"{number}{measure}", "", "all of these", "", "", "", "", f"**{claim.verdict(found, parts)}**"])
            else:
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
    """The rows of a short table: each claim and its verdict."""
    rows = [["", "claim", "verdict"]]
    for number, claim in enumerate(claims, start=1):
        verdict = claim.verdict(found)
        other = claim.verdict(found, claim.by_eval) if claim.by_eval else verdict
        rows.append([str(number), claim.sentence, verdict if other == verdict else
                     f"{verdict} as printed, {other} in eval mode"])
    return rows


def disagreements(claims, found):
    """A sentence for each claim on which the two measures of training accuracy lead to different verdicts."""
    return [f"Claim {number} {claim.verdict(found)} by the training accuracy as printed, and "
            f"{claim.verdict(found, claim.by_eval)} by that of the final weights on the plain training images: "
            "there the measuring makes the difference."
            for number, claim in enumerate(claims, start=1)
            if claim.by_eval and claim.verdict(found) != claim.verdict(found, claim.by_eval)]
