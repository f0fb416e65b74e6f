"""Held-out prompts put to a model: a few as samples on the way, all of them for the gate. Imports JAX.

    base = base_replies(built, inputs, run, options)       # once; kept in the run
    tuned = ask(built.sampler(params), inputs, built.config, tick=progress)

The prompt's tokens are those that training saw. All processes of a run ask together and get the same replies.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Sequence
from itertools import batched

import jax
import jax.numpy as jnp
from flax import nnx

from coldforge import modeling, training
from coldforge.apps.sft.build import Built
from coldforge.apps.sft.config import SftConfig
from coldforge.apps.sft.grade import grade
from coldforge.apps.sft.inputs import Inputs, prompt_ids
from coldforge.data import Record
from coldforge.rollout import Sample, SamplingParams, generate
from coldforge.sft import Graded
from coldforge.stages.devices import everybodys
from coldforge.stages.gate import read_replies, write_replies
from coldforge.stages.model import load_base


def sampling(config: SftConfig, inputs: Inputs) -> SamplingParams:
    """How the gate samples."""
    gate = config.gate
    return SamplingParams(
        max_new_tokens=gate.max_new_tokens, temperature=gate.temperature, top_p=gate.top_p,
        stop_ids=inputs.tokenizer.stop_ids,
    )  # fmt: skip


def check_context(model: modeling.Gemma3, inputs: Inputs, config: SftConfig) -> None:
    """Makes sure that prompts and replies fit into the model's context.

    Raises:
        ValueError: One does not.
    """
    longest = max(len(prompt_ids(record)) for record in inputs.prompts)
    if longest + config.gate.max_new_tokens > model.config.max_seq_len:
        raise ValueError(
            f"the longest held-out prompt has {longest} tokens; with gate.max-new-tokens = "
            f"{config.gate.max_new_tokens} that exceeds the model's context of {model.config.max_seq_len}. Lower it"
        )


def ask(
    model: modeling.Gemma3, inputs: Inputs, config: SftConfig, *, tick: Callable[[int], None] | None = None
) -> list[Graded]:
    """One graded reply to each of the gate's prompts.

    Args:
        model: To ask.
        inputs: With the prompts.
        config: The configuration.
        tick: Told how many replies have been made, after each lot of them.
    """
    samples: list[Sample] = []
    params = sampling(config, inputs)
    for lot in batched(inputs.prompts, config.gate.rows):
        # A last, smaller lot is filled up with its first prompt: another number of rows would compile anew.
        filled = [*lot, *[lot[0]] * (min(config.gate.rows, len(inputs.prompts)) - len(lot))]
        found = generate(model, [prompt_ids(record) for record in filled], params)
        samples += [sample for [sample] in found[: len(lot)]]
        if tick is not None:
            tick(len(samples))
    return graded(inputs.prompts, samples, inputs, config)


def graded(records: Sequence[Record], samples: Sequence[Sample], inputs: Inputs, config: SftConfig) -> list[Graded]:
    """Samples as text, without what ended them, and what they are worth."""
    ended = [sample.finish_reason == "stop" for sample in samples]
    texts = [
        inputs.tokenizer.decode(sample.tokens[: len(sample.tokens) - end], skip_special=False)
        for sample, end in zip(samples, ended, strict=True)
    ]
    lengths = [len(sample.tokens) for sample in samples]
    return grade(records, texts, lengths, ended, inputs.dataset.form, timeout=config.gate.timeout)


def base_replies(
    built: Built, inputs: Inputs, run: training.Run, *, again: bool, tick: Callable[[int], None]
) -> list[Graded]:
    """The base model's graded replies: those kept in the run, or new ones, which are kept.

    With adapters the base is the same model with adapters of zeros; trained in full, it is loaded once more.
    """
    file = run.path / "gate" / f"base-{_key(inputs, built.config, run)}.jsonl"
    if everybodys(file.is_file() and not again):
        return read_replies(file)
    if built.config.model.train == "full":
        model = load_base(inputs.weights, built.config.model, inputs.tokenizer.vocab_size, built.mesh)
    else:
        model = built.sampler(_zeros(built))
    replies = ask(model, inputs, built.config, tick=tick)
    write_replies(file, replies)
    return replies


def sample_texts(built: Built, params: nnx.State, inputs: Inputs) -> dict[str, str]:
    """Replies to the first few prompts, with their questions, for people."""
    records = inputs.prompts[: built.config.loop.samples]
    how = dataclasses.replace(
        sampling(built.config, inputs),
        max_new_tokens=min(built.config.loop.sample_tokens, built.config.gate.max_new_tokens),
    )
    found = generate(built.sampler(params), [prompt_ids(record) for record in records], how)
    texts = [inputs.tokenizer.decode(sample.tokens, skip_special=False) for [sample] in found]
    pairs = enumerate(zip(records, texts, strict=True))
    return {f"samples/{i}": f"{record.question}\n\n{text}\n\n(wanted: {record.answer})" for i, (record, text) in pairs}


def _key(inputs: Inputs, config: SftConfig, run: training.Run) -> str:
    """What the base's replies depend on, in 12 characters."""
    asked = [(record.source, record.index) for record in inputs.prompts]
    gate = {name: getattr(config.gate, name) for name in ("max_new_tokens", "temperature", "top_p", "timeout")}
    grader = importlib.metadata.version("coldforge-rewards")  # both models are graded by the same
    parts = [dict(run.manifest.identity), config.lora.quantize, asked, gate, grader]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def _zeros(built: Built) -> nnx.State:
    shardings = jax.tree.map(lambda x: x.sharding, built.state.params)
    make = jax.jit(
        lambda: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), built.state.params), out_shardings=shardings
    )
    return make()
