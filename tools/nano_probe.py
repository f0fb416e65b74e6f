"""What the nano base can do before any stage: held-out problems asked in four ways, greedily.

`python tools/nano_probe.py MODEL [COUNT]` prints shares of right answers: the last number of a reply is its answer.
"""

import itertools
import re
import sys
from collections.abc import Mapping

from coldforge import modeling
from coldforge.data import ReasoningFormat, Tokenizer
from coldforge.nano import Problem, problems
from coldforge.rollout import SamplingParams, generate

COUNT = 300


def probe(model: modeling.Gemma3, tokenizer: Tokenizer, count: int = COUNT) -> Mapping[str, float]:
    """Way of asking and task → share of right answers.

    "asked" is what the stages do: the instruction, then the question, in a user's turn. "bare" leaves the instruction
    out; "worked" and "step" let it continue plain text: a sum with its steps, and a single step.
    """
    form, some = ReasoningFormat(), list(itertools.islice(problems("heldout", 0), count))

    def chat(text: str) -> list[int]:
        return tokenizer.encode_chat([{"role": "user", "content": text}])

    ways = {
        "asked": [(one, chat(form.ask(one.question)), one.answer) for one in some],
        "bare": [(one, chat(one.question), one.answer) for one in some],
        "worked": [(one, tokenizer.encode(f"{one.subject}\n", add_bos=True), one.answer) for one in some],
        "step": [(one, tokenizer.encode(f"{fact} = ", add_bos=True), result) for one, fact, result in _steps(some)],
    }
    how = SamplingParams(max_new_tokens=64, temperature=0.0, stop_ids=tokenizer.stop_ids)
    shares = {}
    for way, asked in ways.items():
        replies = [tokenizer.decode(sample.tokens) for [sample] in generate(model, [ids for _, ids, _ in asked], how)]
        right = [
            _number(reply, first=way == "step") == wanted for reply, (_, _, wanted) in zip(replies, asked, strict=True)
        ]
        for task in ("chain_sum", "leg_counting"):
            own = [good for good, (one, _, _) in zip(right, asked, strict=True) if one.task == task]
            shares[f"{way} {task}"] = sum(own) / len(own)
        print(f"{way}: {asked[0][0].subject!r} → {replies[0]!r}; {asked[2][0].subject!r} → {replies[2]!r}")
    return shares


def _steps(some: list[Problem]) -> list[tuple[Problem, str, str]]:
    return [(one, fact, result) for one in some for fact, result in [one.steps[-1].split(" = ")]]


def _number(reply: str, *, first: bool) -> str | None:
    found = re.findall(r"-?\d+", reply)
    return found[0 if first else -1] if found else None


if __name__ == "__main__":
    place = sys.argv[1]
    counts = [int(word) for word in sys.argv[2:]]
    for name, share in probe(modeling.load(place, dtype="float32"), Tokenizer.load(place), *counts).items():
        print(f"{name}: {share:.1%}")
