"""Claims of one or more comparisons: their verdicts, one by one and all together, and their tables."""
from dataclasses import dataclass

from study.evidence import FAILS, HOLDS, LEVEL, NO_DIFFERENCE, UNDECIDED, mean_and_error

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


def all_of(verdicts):
    """The verdict on a claim that holds if all its parts do."""
    for verdict in (FAILS, NO_DIFFERENCE):
        if verdict in verdicts:
            return verdict
    return HOLDS if set(verdicts) == {HOLDS} else UNDECIDED


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


def questions_of(claims):
    """All `claims` with their parts, once by the measure as printed and once by that in eval mode."""
    return ([(claim, claim.parts) for claim in claims],
            [(claim, claim.by_eval or claim.parts) for claim in claims])


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


def numbered(number, parts, measure):
    """The `parts` of a claim with their numbers, as 7a and 7b; `measure` is put behind them."""
    for i, part in enumerate(parts):
        yield f"{number}{'abcdef'[i] * (len(parts) > 1)}{measure}", part


def table_rows(claims, found):
    """The rows of a table of all claims: what was compared, both sides, the difference, the verdict."""
    rows = [["", "claim", "compared", "first", "second", "difference", "n", "verdict"]]
    for number, claim in enumerate(claims, start=1):
        for measure, parts in ((", as printed", claim.parts), (", eval", claim.by_eval or [])):
            measure, sentence = measure if claim.by_eval else "", claim.sentence
            for label, part in numbered(number, parts, measure):
                rows.append([label, sentence, part.question(), *cells(part, part.result(found))])
                sentence = ""
            if len(parts) > 1:
                rows.append([f"{number}{measure}", "", "all of these", "", "", "", "",
                             f"**{claim.verdict(found, parts)}**"])
            elif parts:
                rows[-1][-1] = f"**{rows[-1][-1]}**"
    return rows


def comparisons(claims, found):
    """Each comparison as plots.forest takes it, with the number of its claim."""
    for number, claim in enumerate(claims, start=1):
        for measure, parts in (("", claim.parts), (" eval", claim.by_eval or [])):
            for label, part in numbered(number, parts, measure):
                if (result := part.result(found)) and result["bounds"]:
                    than, margin = ((0, part.than) if part.wanted == "within"
                                    else (part.than, None if result["share"] else result["margin"]))
                    yield (f"{label}  {part.question()}", result["difference"], result["bounds"],
                           than, margin, result["verdict"])


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
    for questions in questions_of(claims):
        strict = corrected(questions, found)
        alone = [claim.verdict(found, parts) for claim, parts in questions]
        columns.append([verdict + f" ({other} with Holm's correction)" * (other != verdict)
                        for verdict, other in zip(alone, strict, strict=True)])
    for number, (claim, printed, by_eval) in enumerate(zip(claims, *columns, strict=True), start=1):
        rows.append([str(number), claim.sentence, printed if printed == by_eval else
                     f"{printed} as printed, {by_eval} in eval mode"])
    return rows
