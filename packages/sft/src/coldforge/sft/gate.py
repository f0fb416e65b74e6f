"""The gate: may the next stage start from this model? Judged on replies to held-out prompts, of base and tuned model.

    result = judge(base, tuned, GateLimits())      # lists of `Graded`: the same prompts, in any order
    result.passed, [check.why for check in result.checks if not check.passed]

It is there for one failure, which a cold start can cause and its loss does not show: a model that writes the form and
has lost the answers (59 % to 0 % in the run that this gate remembers), or that never ends its turn. In this order:
limits, replies, their rates, the paired difference to the base, the verdict.

Every limit is held against what was measured, and every figure comes with its 95 % interval, so that a reader sees
what so many prompts can show. Nothing passes on fewer than `min_prompts`. Standard library only. Left out: asking the
model and grading the replies, which is the app's business; several replies per prompt.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, Literal, NamedTuple

CONFIDENCE = 0.95
POWER = 0.8  # of the drop that a number of prompts can show
_Z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GateLimits:
    """What a tuned model has to keep.

    Attributes:
        format: The least share of well-formed replies.
        ended: The least share of replies whose turn was ended by the model.
        truncated: The largest share of replies that were cut off at the limit of new tokens.
        accuracy_drop: How much of its accuracy the model may lose against the base, on the same prompts: 0.1 allows
            60 % to become 50 %. A dip is expected (DeepSeek-R1, Table 3: AIME 77.9 to 59.0 after the cold start).
        min_prompts: The gate fails on fewer. 73 is the smallest number that can show 95 %: only from there on is the
            lower end of Wilson's interval above 95 % when every reply is well formed.

    Raises:
        ValueError: A share is not in [0, 1], or `min_prompts` is less than 1.
    """

    format: float = 0.95
    ended: float = 0.95
    truncated: float = 0.05
    accuracy_drop: float = 0.1
    min_prompts: int = 73

    def __post_init__(self) -> None:
        for name in ("format", "ended", "truncated", "accuracy_drop"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise ValueError(f"the gate's limit {name} is {value}; wanted a share, from 0 to 1")
        if self.min_prompts < 1:
            raise ValueError(f"the gate's min_prompts is {self.min_prompts}; wanted at least 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Graded:
    """One reply to one prompt, and what a grader found.

    Attributes:
        prompt: Tells prompts apart, and is what base and tuned model are paired by: the question's text or its number.
        text: The reply.
        tokens: How many tokens it has.
        well_formed: Whether it has the form that was taught.
        ended: Whether the model ended its turn.
        truncated: Whether it was cut off at the limit of new tokens.
        correct: Whether its answer is right; None where nothing can be compared (code, proofs).
        fault: In a few words, what is wrong with the form; "" for a well-formed reply. Equal faults are counted.
        found: The answer that the grader took from the reply, "" if none.
        wanted: The right answer.
    """

    prompt: str
    text: str
    tokens: int
    well_formed: bool
    ended: bool
    truncated: bool
    correct: bool | None = None
    fault: str = ""
    found: str = ""
    wanted: str = ""


class Rate(NamedTuple):
    """`hits` of `n`. `Rate(97, 100).text` is "97.0 % (92–99)"."""

    hits: int
    n: int

    @property
    def value(self) -> float:
        """The share; nan for none of none."""
        return self.hits / self.n if self.n else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's interval (E. B. Wilson 1927), which holds also near 0 and 1, where a cold start should end up."""
        if not self.n:
            return 0.0, 1.0
        p, n = self.value, self.n
        middle = p + _Z**2 / (2 * n)
        half = _Z * math.sqrt(p * (1 - p) / n + (_Z / (2 * n)) ** 2)
        scale = 1 + _Z**2 / n
        return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)

    @property
    def text(self) -> str:
        """The share and its interval, in per cent."""
        if not self.n:
            return "none to count"
        low, high = self.interval
        return f"{100 * self.value:.1f} % ({100 * low:.0f}–{100 * high:.0f})"

    def to_dict(self) -> dict[str, Any]:
        """For a manifest."""
        return {"hits": self.hits, "n": self.n, "value": self.value if self.n else None, "interval": self.interval}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rates:
    """What the replies of one model come to. Lengths are means in tokens, None over no replies.

    Attributes:
        format, ended, truncated: Of all replies.
        accuracy: Right answers among replies that can be graded, whatever their form.
        in_form: Right answers in well-formed replies, among those that can be graded: what a strict grader would count.
        length, length_right, length_wrong: Of all replies, of those with a right and with a wrong answer.
        faults: What was wrong with the form, and how often, most frequent first.
    """

    format: Rate
    ended: Rate
    truncated: Rate
    accuracy: Rate
    in_form: Rate
    length: float | None
    length_right: float | None
    length_wrong: float | None
    faults: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """For a manifest."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value.to_dict() if isinstance(value, Rate) else value for name, value in fields.items()}


def rates(replies: Sequence[Graded]) -> Rates:
    """Counts what one model replied."""
    graded = [reply for reply in replies if reply.correct is not None]

    def rate(hits: Sequence[bool]) -> Rate:
        return Rate(sum(hits), len(hits))

    def length(some: Sequence[Graded]) -> float | None:
        return sum(reply.tokens for reply in some) / len(some) if some else None

    return Rates(
        format=rate([reply.well_formed for reply in replies]),
        ended=rate([reply.ended for reply in replies]),
        truncated=rate([reply.truncated for reply in replies]),
        accuracy=rate([bool(reply.correct) for reply in graded]),
        in_form=rate([bool(reply.correct and reply.well_formed) for reply in graded]),
        length=length(replies),
        length_right=length([reply for reply in graded if reply.correct]),
        length_wrong=length([reply for reply in graded if not reply.correct]),
        faults=dict(Counter(reply.fault for reply in replies if reply.fault).most_common()),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Paired:
    """Accuracy of the tuned model minus that of the base, on the same prompts.

    Attributes:
        n: Prompts that can be graded.
        gained: Prompts that only the tuned model has right.
        lost: Prompts that only the base has right.
        difference: (gained − lost) / n; nan for n = 0.
        interval: 95 %: Bonett and Price 2012 (adjusted Wald for paired proportions), which holds for small n and also
            where no prompt changed sides.
        p_value: McNemar's test, exact and two-sided: how likely is as uneven a split of gained and lost by chance.
        detectable: The smallest drop that n prompts would show with a probability of 80 % (Miller, arXiv 2411.00640,
            section 5), as many of them changing sides as did here.
    """

    n: int
    gained: int
    lost: int
    difference: float
    interval: tuple[float, float]
    p_value: float
    detectable: float

    @property
    def text(self) -> str:
        """The difference and its interval, in percentage points."""
        if not self.n:
            return "none to compare"
        low, high = self.interval
        return f"{100 * self.difference:+.1f} ({100 * low:+.0f} to {100 * high:+.0f})"

    def to_dict(self) -> dict[str, Any]:
        """For a manifest."""
        return dataclasses.asdict(self) | {"difference": self.difference if self.n else None}


def paired(base: Sequence[Graded], tuned: Sequence[Graded]) -> Paired:
    """Compares the answers of two models to the same prompts.

    A prompt of which one reply cannot be graded counts for neither.

    Raises:
        ValueError: The prompts are not the same, or one occurs twice.
    """
    pairs = [(old.correct, new.correct) for old, new in _pairs(base, tuned) if None not in (old.correct, new.correct)]
    n, gained, lost = len(pairs), pairs.count((False, True)), pairs.count((True, False))
    # One prompt is added to either side (Bonett and Price), so that no change at all does not look like certainty.
    up, down = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    error = math.sqrt((up + down - (up - down) ** 2) / (n + 2))
    return Paired(
        n=n,
        gained=gained,
        lost=lost,
        difference=(gained - lost) / n if n else math.nan,
        interval=(max(-1.0, up - down - _Z * error), min(1.0, up - down + _Z * error)),
        p_value=_mcnemar(gained, lost),
        detectable=min(1.0, (_Z + NormalDist().inv_cdf(POWER)) * error),
    )


def _pairs(base: Sequence[Graded], tuned: Sequence[Graded]) -> list[tuple[Graded, Graded]]:
    old = {reply.prompt: reply for reply in base}
    new = {reply.prompt: reply for reply in tuned}
    if len(old) != len(base) or len(new) != len(tuned):
        raise ValueError("a prompt occurs twice among the replies; the gate takes one reply for each prompt")
    if old.keys() != new.keys():
        odd = sorted(old.keys() ^ new.keys())
        raise ValueError(
            f"base and tuned model must reply to the same prompts; {len(odd)} have one reply only, "
            f"the first: {odd[0]!r:.80}"
        )
    return [(old[prompt], reply) for prompt, reply in new.items()]


def _mcnemar(gained: int, lost: int) -> float:
    """P(as uneven a split, or more) of `gained + lost` fair coins."""
    changed = gained + lost
    tail = sum(math.comb(changed, k) for k in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / 2**changed)


class Check(NamedTuple):
    """One limit held against one figure.

    Attributes:
        name: The limit's name in `GateLimits`.
        limit: What was wanted, as "≥ 95 %".
        measured: What was found, as "97.0 % (92–99)".
        passed: Whether it holds.
        why: What was seen, and where it failed what the cause may be.
    """

    name: Literal["prompts", "format", "ended", "truncated", "accuracy"]
    limit: str
    measured: str
    passed: bool
    why: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class GateResult:
    """The verdict, and all it rests on.

    Attributes:
        limits: What was wanted.
        base, tuned: What the two models' replies come to.
        accuracy: Their paired difference.
        checks: One per limit.
        notes: What a reader should know that is no failure.
    """

    limits: GateLimits
    base: Rates
    tuned: Rates
    accuracy: Paired
    checks: tuple[Check, ...]
    notes: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether every limit holds."""
        return all(check.passed for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """For a manifest: plain values only, "passed" among them."""
        return {
            "passed": self.passed,
            "limits": dataclasses.asdict(self.limits),
            "checks": [check._asdict() for check in self.checks],
            "base": self.base.to_dict(),
            "tuned": self.tuned.to_dict(),
            "accuracy": self.accuracy.to_dict(),
            "notes": list(self.notes),
        }


def judge(base: Sequence[Graded], tuned: Sequence[Graded], limits: GateLimits) -> GateResult:
    """Holds the limits against the replies of base and tuned model to the same prompts.

    Raises:
        ValueError: The prompts are not the same, or one occurs twice.
    """
    compared, before, after = paired(base, tuned), rates(base), rates(tuned)
    checks = (
        _prompts(len(tuned), limits.min_prompts),
        _format(after, limits.format),
        _share("ended", after.ended, limits.ended, _endless(tuned)),
        _truncated(after, limits.truncated),
        _accuracy(compared, before, after, limits.accuracy_drop),
    )
    return GateResult(
        limits=limits, base=before, tuned=after, accuracy=compared, checks=checks,
        notes=tuple(_notes(compared, before, len(tuned), limits)),
    )  # fmt: skip


def _prompts(n: int, wanted: int) -> Check:
    passed = n >= wanted
    why = f"{n} prompts" + (
        "" if passed else f"; fewer than {wanted} cannot show what the limits ask for: hold out more"
    )
    return Check("prompts", f"≥ {wanted}", str(n), passed, why)


def _share(name: Literal["format", "ended"], rate: Rate, limit: float, hint: str) -> Check:
    passed = rate.n > 0 and rate.value >= limit
    why = f"{rate.hits} of {rate.n} replies" + ("" if passed else f"; {hint}")
    return Check(name, f"≥ {100 * limit:g} %", rate.text, passed, why)


def _format(tuned: Rates, limit: float) -> Check:
    hint = "train longer, or on more rows"
    if tuned.faults:
        fault, count = next(iter(tuned.faults.items()))
        hint = f"most often ({count} times): {fault}"
    return _share("format", tuned.format, limit, hint)


def _endless(tuned: Sequence[Graded]) -> str:
    """Why turns may not end, by what is wrong with those that do not."""
    some = [reply for reply in tuned if not reply.ended]
    if not some:
        return "there are no replies"
    [(fault, count)] = Counter(reply.fault for reply in some).most_common(1)
    return (
        f"of those that do not end, most often ({count} times): {fault or 'a whole reply'}. Where a whole reply "
        "goes on, where to stop was not learnt: is there an <end_of_turn> behind each reply of the data, and has it a "
        "loss weight? Where none becomes whole, the form was not learnt: train longer, or allow more new tokens"
    )


def _truncated(tuned: Rates, limit: float) -> Check:
    rate = tuned.truncated
    passed = rate.n > 0 and rate.value <= limit
    why = f"{rate.hits} of {rate.n} replies were cut off"
    if not passed:
        why += "; allow more new tokens if the data's replies are as long, else look at what is repeated"
    return Check("truncated", f"≤ {100 * limit:g} %", rate.text, passed, why)


def _accuracy(compared: Paired, base: Rates, tuned: Rates, limit: float) -> Check:
    wanted = f"≥ {-100 * limit:+g} points" if limit else "≥ 0 points"
    if not compared.n:
        return Check("accuracy", wanted, compared.text, True, "no prompt has an answer that can be graded: not judged")
    passed = compared.difference >= -limit
    why = f"{100 * base.accuracy.value:.1f} % before, {100 * tuned.accuracy.value:.1f} % after"
    if not passed and compared.p_value < 1 - CONFIDENCE:
        why += f"; not by chance (p = {compared.p_value:.2g}): compare the examples' answers with the data's"
    elif not passed:
        why += f"; this may be chance (p = {compared.p_value:.2g}): ask more prompts"
    return Check("accuracy", wanted, compared.text, passed, why)


def _notes(compared: Paired, base: Rates, n: int, limits: GateLimits) -> list[str]:
    notes = []
    if compared.n and compared.detectable > limits.accuracy_drop:
        notes.append(
            f"{compared.n} graded prompts show a drop of {100 * compared.detectable:.0f} points (4 times in 5), "
            f"not one of {100 * limits.accuracy_drop:g}: ask more prompts to be sure of that."
        )
    if compared.n and base.accuracy.value <= limits.accuracy_drop:
        notes.append(
            f"The base is right {base.accuracy.hits} times of {base.accuracy.n}: it has no accuracy to lose, and the "
            "comparison says nothing."
        )
    if compared.n < n:
        notes.append(f"{n - compared.n} of {n} prompts have an answer that cannot be graded (code, proofs).")
    return notes


def examples(base: Sequence[Graded], tuned: Sequence[Graded], count: int) -> list[tuple[Graded, Graded]]:
    """Up to `count` pairs (base, tuned) for people to look at: failures first, a kind at a time in turn.

    The kinds: not well formed; cut off; wrong where the base is right; wrong; right.
    """
    kinds: list[list[tuple[Graded, Graded]]] = [[] for _ in range(5)]
    for old, new in _pairs(base, tuned):
        if not new.well_formed:
            kind = 1 if new.truncated else 0
        elif new.correct is False:
            kind = 2 if old.correct else 3
        else:
            kind = 4
        kinds[kind].append((old, new))
    turns = [pair for turn in range(max(map(len, kinds))) for kind in kinds for pair in kind[turn : turn + 1]]
    return turns[:count]
