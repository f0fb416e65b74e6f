"""`python -m coldforge.nano DIR`: writes the rows that the stages read, and says where the model is."""

import argparse
from pathlib import Path

from coldforge.nano.model import model_dir
from coldforge.nano.rows import write_cold_start, write_questions


def main(args: list[str] | None = None) -> None:
    """The program. `args`: instead of the command line's."""
    parser = argparse.ArgumentParser(prog="python -m coldforge.nano", description=__doc__)
    parser.add_argument("directory", type=Path, help="where cold-start.jsonl, rl.jsonl and heldout.jsonl go")
    parser.add_argument("--cold-start", type=int, default=1500, metavar="ROWS")
    parser.add_argument("--rl", type=int, default=6000, metavar="ROWS")
    parser.add_argument("--heldout", type=int, default=300, metavar="ROWS")
    parser.add_argument("--seed", type=int, default=0, help="another one gives other rows of the same splits")
    given = parser.parse_args(args)
    print(model_dir())
    print(write_cold_start(given.directory / "cold-start.jsonl", given.cold_start, seed=given.seed))
    for split in ("rl", "heldout"):
        path = given.directory / f"{split}.jsonl"
        print(write_questions(path, getattr(given, split), split=split, seed=given.seed))


if __name__ == "__main__":
    main()
