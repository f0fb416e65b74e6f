"""Pairs of answers from Math-Verify's own tests, with the verdicts that they want: facts, none of their code.

They lie in its source distribution (0.9.0; Copyright 2024 The HuggingFace Team, Apache-2.0, test_all.py MIT):

    pip download --no-deps --no-binary :all: -d /tmp math-verify==0.9.0
    tar -xzf /tmp/math_verify-0.9.0.tar.gz -C /tmp
    python tools/oracles/math_verify_cases.py /tmp/math_verify-0.9.0/tests /tmp/cases.json

Read are the tuples of `pytest.mark.parametrize` that hold a right answer, an answer and a verdict; tests of single
functions and of parsing (configs, timeouts, gamma) are left out, and so are texts of more than 200 characters. Written
is a list of [file, function, right answer, answer, verdict, further arguments by name].
"""

import argparse
import ast
import json
from pathlib import Path

LONGEST = 200  # characters: longer ones are whole solutions, of which Math-Verify takes the last expression
GOLD, ANSWER, VERDICT = "gold", ("pred", "target"), ("expected", "result")


def cases(path: Path) -> list[list]:
    found = []
    for node in ast.parse(path.read_text()).body:
        if not isinstance(node, ast.FunctionDef):
            continue
        for mark in node.decorator_list:
            if not (isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.parametrize"):
                continue
            names = [name.strip() for name in ast.literal_eval(mark.args[0]).split(",")]
            if GOLD not in names:
                continue
            for row in mark.args[1].elts:
                try:
                    values = dict(zip(names, ast.literal_eval(row), strict=True))
                except ValueError:  # it calls something
                    continue
                answer = next(values.pop(name) for name in ANSWER if name in values)
                verdict = next(values.pop(name) for name in VERDICT if name in values)
                gold = values.pop(GOLD)
                if max(len(gold), len(answer)) <= LONGEST:
                    found.append([path.name, node.name, gold, answer, bool(verdict), values])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tests", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    found = [case for path in sorted(options.tests.glob("test_*.py")) for case in cases(path)]
    options.out.write_text("[\n" + ",\n".join(json.dumps(case, ensure_ascii=False) for case in found) + "\n]\n")


if __name__ == "__main__":
    main()
