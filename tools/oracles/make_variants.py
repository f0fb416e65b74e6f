"""Makes tiny Gemma3 checkpoints from random weights, each with what Hugging Face transformers computes from them.

Coldforge's tests compare against these files, so that neither transformers nor torch is needed to run the tests. Run
this only to make the files anew, in an environment of its own (Python 3.11+; transformers 5.23, torch 2.13 CPU,
safetensors):

    python tools/oracles/make_variants.py packages/modeling/tests/data

For every variant below, in this order: draw weights from a seed (every norm weight too: transformers would start them
at zero, where `w` and `1 + w` cannot be told from a missing norm), save them, write the config a second time in the
style of the configs on the hub, load both from disk in f32 with eager attention, check that both give the same bits,
compute the oracle, and check that it is worth having: each mistake named in `Variant.mistakes` must move the logits
by `MIN_EFFECT`, a hundred times the tolerance of the tests.

Left out: the vision tower, dropout, and anything trained. Contents of the files:
packages/modeling/tests/data/README.md.
"""

import argparse
import copy
import dataclasses
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig
from transformers.utils import logging

NEW_TOKENS = 16
FIRST_PLAIN_ID = 4  # 0-3 are pad, eos, bos, unk; pad must not occur: torch gives its embedding row no gradient
MIN_EFFECT = 1e-2  # a mistake changes some logit by this much or the variant does not test for it
MIN_MARGIN = 1e-3  # greedy steps closer than this could flip on rounding: choose another seed
BIG_FILE = 500_000  # bytes; a directory of fixtures stays below this

# Keys that every Gemma3 config on the hub carries, with the values they have there.
HUB_COMMON = {
    "architectures": ["Gemma3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_logit_softcapping": None,
    "bos_token_id": 2,
    "cache_implementation": "hybrid",
    "eos_token_id": 1,
    "final_logit_softcapping": None,
    "hidden_activation": "gelu_pytorch_tanh",
    "initializer_range": 0.02,
    "max_position_embeddings": 32768,
    "model_type": "gemma3_text",
    "pad_token_id": 0,
    "rms_norm_eps": 1e-06,
    "rope_local_base_freq": 10000,
    "rope_theta": 1000000,
    "use_cache": True,
}
SIZE_KEYS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "sliding_window",
    "query_pre_attn_scalar",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
    """One checkpoint: sizes, what its oracle covers, and the misreadings it must expose.

    Attributes:
      sizes: values for `SIZE_KEYS`.
      pattern: every `pattern`-th layer is global.
      rope_factor: linear position scaling of the global layers, or None.
      length: tokens per row; there are always two rows.
      keep: positions whose logits and hidden states are stored; None stores all of them.
      mistakes: name → changes to the config that a wrong reader would make.
      dtype: dtype of the stored weights; the oracle is computed in f32 from what is stored.
      max_shard_size: as for `save_pretrained`; small values give several files and an index.
    """

    sizes: dict[str, int]
    pattern: int = 6
    rope_factor: float | None = None
    length: int
    keep: tuple[int, ...] | None = None
    mistakes: dict[str, dict[str, Any]]
    dtype: torch.dtype = torch.float32
    max_shard_size: str = "1GB"
    seed: int


def sizes(vocab: int, embed: int, mlp: int, layers: int, heads: int, kv: int, head: int, window: int, scalar: int):
    return dict(zip(SIZE_KEYS, (vocab, embed, mlp, layers, heads, kv, head, window, scalar), strict=True))


def rope(factor: float | None, local_factor: float | None = None, theta: float = 1e6) -> dict[str, Any]:
    """`rope_parameters` as transformers 5 writes them; a `local_factor` is a mistake."""

    def one(theta: float, factor: float | None) -> dict[str, Any]:
        kind = {"rope_type": "linear", "factor": factor} if factor else {"rope_type": "default"}
        return {"rope_theta": theta, **kind}

    return {"full_attention": one(theta, factor), "sliding_attention": one(1e4, local_factor)}


VARIANTS = {
    # One kv head, as 270M and 1B have, and a query scale that is not head_dim ** -0.5.
    "kv1_qscale": Variant(
        sizes=sizes(256, 32, 48, 7, 4, 1, 16, 8, 48),
        length=24,
        mistakes={
            "query scale from head_dim": {"query_pre_attn_scalar": 16},
            "query scale from embed / heads": {"query_pre_attn_scalar": 8},
            "window one short": {"sliding_window": 7},
            "window one long": {"sliding_window": 9},
            "all layers local": {"layer_types": ["sliding_attention"] * 7},
            "global theta on all layers": {
                "rope_parameters": {**rope(None), "sliding_attention": rope(None)["full_attention"]}
            },
            "local theta on all layers": {"rope_parameters": rope(None, theta=1e4)},
        },
        seed=101,
    ),
    # As deep as 1B, four periods and two layers over; positions of global layers divided by 8, as from 4B on.
    "rope8_26": Variant(
        sizes=sizes(256, 16, 24, 26, 4, 2, 8, 8, 8),
        rope_factor=8.0,
        length=18,
        mistakes={
            "no factor": {"rope_parameters": rope(None)},
            "factor on local layers too": {"rope_parameters": rope(8.0, 8.0)},
            "every fifth layer global": {
                "layer_types": ["full_attention" if i % 5 == 4 else "sliding_attention" for i in range(26)]
            },
        },
        seed=102,
    ),
    # 900 tokens cross the window of 512 that 270M and 1B have; every second layer is global.
    "long": Variant(
        sizes=sizes(256, 32, 48, 3, 2, 1, 16, 512, 16),
        pattern=2,
        length=900,
        keep=(0, 1, 255, 256, 509, 510, 511, 512, 513, 514, 600, 767, 768, 898, 899),
        mistakes={
            "no window": {"sliding_window": 4096},
            "window one short": {"sliding_window": 511},
            "window one long": {"sliding_window": 513},
            "pattern of six": {"layer_types": ["sliding_attention"] * 3},
        },
        seed=103,
    ),
    # What is odd about 27B: query scale from embed / heads, and heads * head_dim is not embed; in two files.
    "like_27b": Variant(
        sizes=sizes(256, 40, 48, 4, 4, 2, 16, 8, 10),
        pattern=3,
        rope_factor=8.0,
        length=24,
        mistakes={
            "query scale from head_dim": {"query_pre_attn_scalar": 16},
            "no factor": {"rope_parameters": rope(None)},
            "pattern of six": {"layer_types": ["sliding_attention"] * 4},
        },
        max_shard_size="180KB",
        seed=104,
    ),
    # Weights stored in bf16, as on the hub.
    "bf16": Variant(
        sizes=sizes(256, 32, 48, 3, 2, 1, 16, 8, 16),
        pattern=2,
        length=24,
        mistakes={"all layers local": {"layer_types": ["sliding_attention"] * 3}},
        dtype=torch.bfloat16,
        seed=105,
    ),
}


def config_of(v: Variant) -> Gemma3TextConfig:
    return Gemma3TextConfig(
        **v.sizes,
        sliding_window_pattern=v.pattern,
        rope_parameters=rope(v.rope_factor),
        max_position_embeddings=32768,
        attn_implementation="eager",
    )


def hub_style(v: Variant) -> dict[str, Any]:
    """The same config with the keys that Gemma3 configs on the hub have (no `layer_types`, no `rope_parameters`)."""
    scaling = {"factor": v.rope_factor, "rope_type": "linear"} if v.rope_factor else None
    dtype = str(v.dtype).removeprefix("torch.")
    return {**HUB_COMMON, "torch_dtype": dtype, "rope_scaling": scaling, "sliding_window_pattern": v.pattern, **v.sizes}


def draw_weights(model: Gemma3ForCausalLM, rng: np.random.Generator) -> None:
    """Fills the parameters in order of name. Matrices keep activations near 1; norms are 0.3 wide around zero."""
    for name, parameter in sorted(model.named_parameters()):
        if name.endswith("norm.weight"):
            scale = 0.3
        elif "embed_tokens" in name:
            scale = 0.15
        else:
            scale = 1.2 / parameter.shape[1] ** 0.5
        values = scale * rng.standard_normal(tuple(parameter.shape))
        parameter.data = torch.tensor(values, dtype=torch.float32)


def save_checkpoint(v: Variant, out: Path, rng: np.random.Generator) -> None:
    model = Gemma3ForCausalLM(config_of(v))
    draw_weights(model, rng)
    model.tie_weights()
    model.to(v.dtype).save_pretrained(out, max_shard_size=v.max_shard_size)
    (out / "generation_config.json").unlink()  # which nothing here reads
    for file in out.glob("model*"):
        file.chmod(0o644)  # safetensors writes 0600
    (out / "config_hub_style.json").write_text(json.dumps(hub_style(v), indent=1) + "\n")


def load(directory: Path, dtype: torch.dtype = torch.float32, **changes: Any) -> Gemma3ForCausalLM:
    config = Gemma3TextConfig.from_pretrained(directory)
    for key, value in copy.deepcopy(changes).items():
        setattr(config, key, value)
    model = Gemma3ForCausalLM.from_pretrained(directory, config=config, dtype=dtype, attn_implementation="eager")
    model.generation_config.eos_token_id = None  # greedy rows always run their full length
    return model.eval()


def load_hub_style(directory: Path) -> Gemma3ForCausalLM:
    """Loads as from the hub: the weights of `directory` beside the config in hub style."""
    with tempfile.TemporaryDirectory() as tmp:
        for file in directory.glob("model*"):
            shutil.copy(file, tmp)
        shutil.copy(directory / "config_hub_style.json", Path(tmp) / "config.json")
        return load(Path(tmp))


def padded(ids: np.ndarray, side: str) -> dict[str, np.ndarray]:
    """Both rows cut to different lengths and padded on one side; positions count from the first real token."""
    batch, length = ids.shape
    lengths = (length - length // 8, length - length // 3)
    out, mask = np.zeros_like(ids), np.zeros((batch, length), np.int8)
    for row, n in enumerate(lengths):
        where = slice(length - n, length) if side == "left" else slice(0, n)
        out[row, where], mask[row, where] = ids[row, :n], 1
    return {"ids": out, "mask": mask, "pos": np.maximum(np.cumsum(mask, axis=1, dtype=np.int32) - 1, 0) * mask}


@torch.no_grad()
def padded_oracle(model: Gemma3ForCausalLM, ids: np.ndarray, side: str, keep: np.ndarray) -> dict[str, np.ndarray]:
    case = padded(ids, side)
    inputs = {key: torch.tensor(case[key], dtype=torch.long) for key in case}
    logits = model(inputs["ids"], attention_mask=inputs["mask"], position_ids=inputs["pos"]).logits.numpy()
    logits = np.where(case["mask"][..., None] == 1, logits, 0)  # a padding position has no meaning
    return {f"{side}pad_{key}": value for key, value in case.items()} | {f"{side}pad_logits": logits[:, keep]}


@torch.no_grad()
def greedy_oracle(model: Gemma3ForCausalLM, ids: torch.Tensor) -> dict[str, np.ndarray]:
    """Greedy tokens with the cache, checked against one pass without it, and how far the runner-up was behind."""
    length = ids.shape[1]
    all_ids = model.generate(ids, max_new_tokens=NEW_TOKENS, do_sample=False)
    logits = model(all_ids, use_cache=False).logits[:, length - 1 : -1]
    if not torch.equal(logits.argmax(-1), all_ids[:, length:]):
        raise AssertionError("transformers' greedy tokens differ with and without the cache: choose another seed")
    best = logits.topk(2, dim=-1).values
    margin = best[..., 0] - best[..., 1]
    if margin.min() < MIN_MARGIN:
        raise AssertionError(f"a greedy step was decided by {margin.min():.1e} < {MIN_MARGIN}: choose another seed")
    return {"greedy16": all_ids[:, length:].numpy(), "greedy_margin": margin.numpy()}


def gradient_oracle(model: Gemma3ForCausalLM, ids: torch.Tensor) -> dict[str, np.ndarray]:
    """Mean next-token cross-entropy over both rows, in nats, and the 2-norm of its gradient for every parameter."""
    model.zero_grad()
    log_probs = torch.log_softmax(model(ids).logits[:, :-1], dim=-1)
    next_log_probs = log_probs.gather(-1, ids[:, 1:, None])[..., 0]
    loss = -next_log_probs.mean()
    loss.backward()
    grads = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {
        "next_logprobs": next_log_probs.detach().numpy(),
        "ce": loss.detach().numpy(),
        "grad_norm_names": np.array(list(grads)),
        "grad_norms": np.array([grad.norm().item() for grad in grads.values()]),
        "grad_q0": grads["model.layers.0.self_attn.q_proj.weight"].numpy(),
        "grad_qnorm0": grads["model.layers.0.self_attn.q_norm.weight"].numpy(),
    }


def oracle(v: Variant, directory: Path, rng: np.random.Generator) -> dict[str, np.ndarray]:
    model = load(directory)
    ids = rng.integers(FIRST_PLAIN_ID, v.sizes["vocab_size"], (2, v.length))
    ids[:, 0] = 2
    tokens = torch.tensor(ids)
    keep = np.arange(v.length) if v.keep is None else np.array(v.keep)
    with torch.no_grad():
        result = model(tokens, output_hidden_states=True)
        if not torch.equal(result.logits, load_hub_style(directory)(tokens).logits):
            raise AssertionError("the two config styles give different logits")
    out = {
        "ids": ids,
        "at": keep,
        "logits": result.logits[:, keep].numpy(),
        "hidden_states": torch.stack(result.hidden_states)[:, :, keep].numpy(),
        **padded_oracle(model, ids, "left", keep),
        **padded_oracle(model, ids, "right", keep),
        **greedy_oracle(model, tokens),
        **gradient_oracle(model, tokens),
    }
    if v.dtype != torch.float32:
        with torch.no_grad():
            out["logits_low_precision"] = load(directory, v.dtype)(tokens).logits[:, keep].float().numpy()
    narrow = {"int64": np.int32, "float64": np.float32}
    return {key: value.astype(narrow.get(value.dtype.name, value.dtype)) for key, value in out.items()}


def effects(v: Variant, directory: Path, ids: np.ndarray, logits: np.ndarray, keep: np.ndarray) -> dict[str, float]:
    """How far each mistake moves the furthest logit."""
    found = {}
    for name, changes in v.mistakes.items():
        with torch.no_grad():
            wrong = load(directory, **changes)(torch.tensor(ids, dtype=torch.long)).logits[:, keep].numpy()
        found[name] = float(np.abs(wrong - logits).max())
        if found[name] < MIN_EFFECT:
            raise AssertionError(
                f"{name!r} moves no logit by more than {found[name]:.1e}: the fixture cannot expose it"
            )
    return found


def make(name: str, v: Variant, root: Path) -> None:
    out = root / name
    if out.exists():
        shutil.rmtree(out)
    rng = np.random.default_rng(v.seed)
    save_checkpoint(v, out, rng)
    content = oracle(v, out, rng)
    np.savez_compressed(out / "oracle.npz", **content)
    size = sum(file.stat().st_size for file in out.iterdir())
    print(f"{name}: {size:,} bytes, ce {content['ce']:.4f}, smallest margin {content['greedy_margin'].min():.4f}")
    for mistake, effect in effects(v, out, content["ids"], content["logits"], content["at"]).items():
        print(f"  {mistake}: moves a logit by {effect:.3f}")
    if size > BIG_FILE:
        raise AssertionError(f"{name} takes {size:,} bytes, more than {BIG_FILE:,}: shorten its rows")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="directory that gets one sub-directory per variant")
    parser.add_argument("names", nargs="*", default=list(VARIANTS), help=f"which of {', '.join(VARIANTS)} (all)")
    args = parser.parse_args()
    torch.set_num_threads(1)  # one thread, one order of summation: the same bits on every run
    logging.disable_progress_bar()
    for name in args.names:
        make(name, VARIANTS[name], args.out)


if __name__ == "__main__":
    main()
