r"""Rows in the format of Bespoke-Stratos-17k, with everything in them that has been seen there, and with damage.

    python packages/data/tests/stratos_recipe.py rows.jsonl    # the rows alone, as JSON lines

`rows()` gives 260 rows, each with what is to become of it: the answer and its kind, or the reason why it is refused.
All texts are made here. The mixture is that of the original: most are mathematics with a prose solution that ends in
\boxed{}, a fifth is code, some are science and puzzles; some rows are a few words long, some thousands. The columns are
`system` and `conversations` with user/assistant, the same with human/gpt, or `messages`.
"""

import json
import random
import sys
from pathlib import Path

SYSTEM = (
    "Your role as an assistant is to explore questions in a long thinking process before giving a precise solution. "
    "Write the thoughts between <|begin_of_thought|> and <|end_of_thought|>, then the solution between "
    "<|begin_of_solution|> and <|end_of_solution|>. " + "Analyse, summarise, explore, reassess, reflect, go back. " * 20
)
BOX = "Return your final response within \\boxed{}. "
CODE = "Generate an executable Python function generated from the given prompt. "
STDIN = (
    CODE
    + "The function should take stdin as input and print the output. Simply call the function after the definition. "
)
CALL = CODE + "Return the function body without invoking it at the final solution. "
THINGS = ["apples", "marbles", "stamps", "coins", "pencils", "tickets"]
NAMES = ["Ada", "Ben", "Cleo", "Dan", "Eve", "Finn"]


def thought(draw, text, steps):
    """A trace: it tries, doubts, and checks; no two steps are alike."""
    lines = ["Okay, let me see what is asked.", text]
    for step in range(steps):
        a, b = draw.randrange(10, 9999), draw.randrange(10, 9999)
        lines.append(
            draw.choice(
                [
                    f"Wait, is {a} + {b} really {a + b}? In step {step} I take it for granted, and it is.",
                    f"Alternatively, {a} times {b} would be {a * b}, but {draw.choice(NAMES)} did not multiply.",
                    f"Let me check step {step} once more: {a} − {b} = {a - b}. Hmm, that is of no use for {a % 97}.",
                ]
            )
        )
    return "\n\n".join(lines)


def reply(trace, solution):
    return (
        f"<|begin_of_thought|>\n\n{trace}\n\n<|end_of_thought|>\n\n"
        f"<|begin_of_solution|>\n\n{solution}\n\n<|end_of_solution|>"
    )


def mathematics(draw, serial):
    a, b = draw.randrange(2, 60), draw.randrange(2, 60)
    name, thing = draw.choice(NAMES), draw.choice(THINGS)
    forms = [
        (
            f"{name} has {a} {thing} and finds {b} more (no. {serial}). How many are there?",
            str(a + b),
            str(a + b),
            "number",
        ),
        (f"What is the share of {a} {thing} in {a + b} (no. {serial})?", f"\\frac{{{a}}}{{{a + b}}}", None, "number"),
        (f"Solve $x^2 = {a * a * b}$ for $x > 0$ (no. {serial}).", f"{a}\\sqrt{{{b}}}", None, "expression"),
        (
            f"Which set holds {a} and {a + b} only (no. {serial})?",
            f"\\left\\{{{a}, {a + b}\\right\\}}",
            None,
            "expression",
        ),
        (f"Is {2 * a} even (no. {serial})?", "\\text{Yes}", "Yes", "text"),
        (f"Which is {a}? (A) {a} (B) {b + 99} (no. {serial})", "\\text{A}", "A", "choice"),
    ]
    question, boxed, answer, kind = draw.choice(forms)
    early = draw.choice(["", f"First, \\boxed{{{a - 1}}} is too small.\n\n"])
    solution = f"{early}We add up what {name} has, step by step.\n\n**Final answer**\n\\[\n\\boxed{{{boxed}}}\n\\]"
    steps = draw.choice([2, 5, 12, 40, 200])
    return BOX + question, reply(thought(draw, question, steps), solution), (answer or boxed, kind)


def code(draw, serial):
    request = draw.choice([STDIN, CALL])
    question = f"{request}Add {serial} to a number and print it {draw.randrange(2, 9)} times."
    solution = f"The function reads and adds.\n\n```python\ndef solve(n):\n    return n + {serial}\n```"
    if draw.random() < 0.2:
        solution = f"def solve(n):\n    return n + {serial}"
    return question, reply(thought(draw, f"We add {serial}.", 6), solution), (solution, "code")


def science(draw, serial):
    form = draw.randrange(3)
    name = draw.choice(NAMES)
    if form == 0:  # the plain case: nothing but the value
        return (
            f"What is {serial} times 2?",
            reply(thought(draw, "Twice.", 2), str(2 * serial)),
            (str(2 * serial), "number"),
        )
    if form == 1:
        question = f"Prove that {2 * serial} is even, as {name} says."
        solution = f"It is twice the integer {serial}, and so even by definition.\n\nThis completes the argument."
        return question, reply(thought(draw, "By definition.", 3), solution), (solution, "proof")
    question = f"At which pole is {name} in winter no. {serial}: north or south?"
    return (
        question,
        reply(thought(draw, "It is cold.", 3), "It is cold.\n\nThe answer is **south**."),
        ("south", "text"),
    )


def damaged(draw, serial):
    """Fourteen kinds of damage, in turn: columns and the reason that is to be given."""
    question, text, _ = mathematics(draw, serial)
    user, assistant = {"from": "user", "value": question}, {"from": "assistant", "value": text}
    empty = text[: text.index("<|begin_of_solution|>")]
    kinds = [
        ({"conversations": []}, "empty-conversation"),
        ({"conversations": None}, "empty-conversation"),
        ({"conversations": [assistant, user]}, "wrong-roles"),
        ({"conversations": [user]}, "wrong-roles"),
        ({"conversations": [user, {"from": "tool", "value": "x"}]}, "wrong-roles"),
        ({"conversations": [user, assistant, user, assistant]}, "several-turns"),
        ({"conversations": [user, assistant | {"value": text.replace("<|end_of_thought|>", "")}]}, "broken-tags"),
        ({"conversations": [user, assistant | {"value": text[:-30]}]}, "broken-tags"),
        (
            {
                "conversations": [
                    user,
                    assistant | {"value": reply("A thought.", "A long story, and no end to it at all.")},
                ]
            },
            "no-answer",
        ),
        ({"conversations": [user, assistant | {"value": reply("A thought.", "")}]}, "empty-answer"),
        (
            {"conversations": [user, assistant | {"value": reply("A thought.", "Thus \\boxed{\\frac{1}{2}")}]},
            "broken-box",
        ),
        ({"conversations": [user, assistant | {"value": None}]}, "bad-content"),
        ({"conversations": [user, assistant | {"value": text.replace("Okay", "Ok\ufffdy", 1)}]}, "bad-unicode"),
        ({"text": empty}, "unknown-schema"),
    ]
    return kinds[serial % len(kinds)]


def rows(seed=0):
    """260 (columns, outcome): an outcome is (answer, kind) or a reason."""
    draw = random.Random(seed)
    made = []
    for serial in range(232):
        make = draw.choices([mathematics, code, science], [12, 5, 2])[0]
        question, text, outcome = make(draw, serial)
        names = draw.choice([("user", "assistant"), ("human", "gpt"), None])
        if names is None:
            system = draw.choice([[{"role": "system", "content": SYSTEM}], []])
            turns = [{"role": "user", "content": question}, {"role": "assistant", "content": text}]
            made.append(({"messages": system + turns}, outcome))
        else:
            turns = [{"from": names[0], "value": question}, {"from": names[1], "value": text}]
            made.append(({"system": SYSTEM, "conversations": turns}, outcome))
    made += [(({"system": SYSTEM} | columns), reason) for columns, reason in (damaged(draw, n) for n in range(28))]
    draw.shuffle(made)
    return made


if __name__ == "__main__":
    Path(sys.argv[1]).write_text("".join(json.dumps(columns) + "\n" for columns, _ in rows()), encoding="utf-8")
