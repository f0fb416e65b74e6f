r"""Rows for a cold start on sums: reasoning-gym's chain_sum questions, each with its steps worked out and its answer.

    uv run --extra reasoning-gym python tools/arithmetic_rows.py 2500 rows.jsonl --terms 2 4 --digits 1 2
    coldforge-prepare rows.jsonl --out DATA --heldout-rows 150

"…: 98 + 93 - 77 =" gets the solution "98 + 93 = 191\n191 - 77 = 114\n#### 114": short, so that replies are short and
a model that learns the form from few rows does not learn all the sums with it.

Question i of reasoning-gym is drawn from `seed + i`: rows of seed 0 and questions of seed 1 are the same but for one.
So the seed here is far from what one takes for other questions. Short sums come again by chance all the same, as there
are only so many; coldforge-prepare drops what comes twice among the rows.
"""

import argparse
import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

SEED = 1_000_000


def steps(expression: str) -> list[str]:
    """The steps of a sum from left to right.

    >>> steps("98 + 93 - 77")
    ['98 + 93 = 191', '191 - 77 = 114']

    Raises:
        ValueError: It is not a sum of at least two whole numbers.
    """
    if not re.fullmatch(r"\d+( [+-] \d+)+", expression):
        raise ValueError(f"{expression!r} is no sum; wanted whole numbers with ' + ' or ' - ' between them.")
    first, *rest = expression.split()
    total, lines = int(first), []
    for sign, term in zip(rest[::2], rest[1::2], strict=True):
        result = total + int(sign + term)
        lines.append(f"{total} {sign} {term} = {result}")
        total = result
    return lines


def rows(count: int, terms: tuple[int, int], digits: tuple[int, int], seed: int = SEED) -> Iterator[dict[str, str]]:
    """Rows with `question`, `solution` and `answer`.

    Raises:
        ValueError: The steps do not come to reasoning-gym's own answer.
    """
    with warnings.catch_warnings():  # a package that it imports compares with `is`
        warnings.simplefilter("ignore", SyntaxWarning)
        import reasoning_gym
    options = {"min_terms": terms[0], "max_terms": terms[1], "min_digits": digits[0], "max_digits": digits[1]}
    for item in reasoning_gym.create_dataset("chain_sum", size=count, seed=seed, **options):
        question, answer, worked = item["question"], item["answer"], steps(item["metadata"]["expression"])
        if worked[-1].split(" = ")[1] != answer:
            raise ValueError(f"{question!r}: the steps end with {worked[-1]!r}, reasoning-gym's answer is {answer!r}.")
        yield {"question": question, "solution": "\n".join([*worked, f"#### {answer}"]), "answer": answer}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int)
    parser.add_argument("path", type=Path)
    parser.add_argument("--terms", type=int, nargs=2, default=(2, 4), metavar=("LEAST", "MOST"))
    parser.add_argument("--digits", type=int, nargs=2, default=(1, 2), metavar=("LEAST", "MOST"))
    parser.add_argument("--seed", type=int, default=SEED)
    args = parser.parse_args()
    unfinished = args.path.with_name(args.path.name + ".unfinished")
    with unfinished.open("w", encoding="utf-8") as file:
        for row in rows(args.count, tuple(args.terms), tuple(args.digits), args.seed):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    unfinished.replace(args.path)


if __name__ == "__main__":
    main()
