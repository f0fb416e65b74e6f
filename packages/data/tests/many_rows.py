r"""Rows of word problems with worked answers, as many as one likes, for measurements: no two are alike.

python packages/data/tests/many_rows.py 1000000 rows.jsonl    # 0.5 GB, half a minute
coldforge-prepare rows.jsonl --out set --tokenizer tokenizer.model
"""

import json
import random
import sys
from pathlib import Path

THINGS = ["apples", "marbles", "stamps", "coins", "pencils", "tickets", "cards", "shells", "buttons", "beads"]
NAMES = ["Ada", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gil", "Hana", "Ivo", "Jana"]
STEPS = [
    "At first {name} has {a} {thing}, and {other} has {b}.",
    "Together that makes {a} + {b} = {sum} {thing}.",
    "If each of the {c} {thing} costs {b} cents, they cost {c} × {b} = {product} cents.",
    "Wait, {sum} − {c} is {rest}, which is what remains of the {thing}.",
    "So {name} would have to give {rest} {thing} away, and {other} none.",
]


def row(serial: int) -> dict[str, str]:
    draw = random.Random(serial)
    a, b, c = (draw.randrange(2, 10_000) for _ in range(3))
    name, other, thing = draw.choice(NAMES), draw.choice(NAMES), draw.choice(THINGS)
    values = {"a": a, "b": b, "c": c, "name": name, "other": other, "thing": thing}
    values |= {"sum": a + b, "product": b * c, "rest": a + b - c}
    steps = [step.format(**values) for step in draw.sample(STEPS, k=draw.randrange(2, 6))]
    question = f"{name} has {a} {thing} and finds {b} more (no. {serial}). How many are there?"
    return {"question": question, "solution": "\n".join(steps) + f"\n#### {a + b}", "answer": str(a + b)}


def write(count: int, path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        for serial in range(count):
            file.write(json.dumps(row(serial), ensure_ascii=False) + "\n")


if __name__ == "__main__":
    write(int(sys.argv[1]), Path(sys.argv[2]))
