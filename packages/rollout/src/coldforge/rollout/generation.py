"""Generation: token ids in, samples out.

    samples = generate(model, prompts, SamplingParams(max_new_tokens=64), n=4)     # samples[i][j]: sample j of prompt i

Both functions are one run of the loop that `Engine` keeps for many (`batcher`): prompts are packed and prefilled, each
once; its keys and values are copied to a slot for each of its samples; all slots decode together. Here there is a slot
for every sample as far as they are not too many, and shapes are rounded up to a few sizes, so that calls of similar
size share their compilation.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from flax import nnx

from coldforge.modeling import Gemma3, model_mesh
from coldforge.rollout.batcher import Batch, Stats
from coldforge.rollout.requests import Prompt, Sample, Work, check_prompt
from coldforge.rollout.sampling import SamplingParams
from coldforge.rollout.sizes import Demand, bucket_length, make_sizes

PREFILL_TOKENS = 2048  # per call of the prefill program
MOST_SLOTS = 256


def generate(model: Gemma3, prompts: Sequence[Prompt], params: SamplingParams, *, n: int = 1) -> list[list[Sample]]:
    """`n` samples for each prompt.

    Args:
      model: with or without LoRA; on a mesh, rows are split over `data` and `fsdp`. On a mesh of several processes,
        each calls this with the same arguments and gets all samples.
      prompts: token ids, of any mixture of lengths.
      params: sampling parameters, the same for all.

    Raises:
      ValueError: for an empty prompt, an id outside the vocabulary, or a prompt that with `max_new_tokens` exceeds the
        model's context; the message names the prompt.
    """
    groups = dict(_start(model, prompts, params, n).run())
    return [groups[i] for i in range(len(prompts))]


def stream(model: Gemma3, prompt: Prompt, params: SamplingParams) -> Iterator[int]:
    """The tokens of one sample as they are made, the stop token included. Same tokens as `generate`."""
    batch = _start(model, [prompt], params, 1)
    batch.fill()
    while batch.live:
        made = batch.decode(1)
        batch.collect(made)
        yield int(made.tokens[0, 0])


def check_prompts(model: Gemma3, prompts: Sequence[Prompt], params: SamplingParams, n: int) -> list[np.ndarray]:
    """The prompts as int32 arrays, or a ValueError that names the first bad one."""
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    if not prompts:
        raise ValueError("there are no prompts")
    config, arrays = model.config, []
    for i, prompt in enumerate(prompts):
        ids = check_prompt(prompt, config.vocab_size, f"prompt {i}")
        if ids.size + params.max_new_tokens > config.max_seq_len:
            raise ValueError(
                f"prompt {i} has {ids.size} tokens; with max_new_tokens={params.max_new_tokens} that exceeds the "
                f"model's context of {config.max_seq_len}: shorten the prompt or lower max_new_tokens"
            )
        arrays.append(ids)
    return arrays


def _start(model: Gemma3, prompts: Sequence[Prompt], params: SamplingParams, n: int) -> Batch:
    ids = check_prompts(model, prompts, params, n)
    longest = max(p.size for p in ids)
    demand = Demand(
        model=model.config,
        prompt_tokens=longest,
        length=bucket_length(longest + params.max_new_tokens),
        dtype=model.dtype,
        kv=model.dtype,
        mesh=model_mesh(model),
        prefill_chunk=PREFILL_TOKENS,
    )
    samples = len(ids) * n
    # for fewer than 32 samples, programs of fewer rows are seldom worth their compilation
    sizes = make_sizes(demand, slots=min(samples, MOST_SLOTS), shrink=samples >= 32)
    return Batch(sizes, *nnx.split(model), _numbered(ids, params, n), params, Stats())


def _numbered(prompts: list[np.ndarray], params: SamplingParams, n: int) -> Iterator[Work]:
    """A prompt that comes again goes on with the numbers of its samples."""
    seen: dict[bytes, int] = {}
    for i, prompt in enumerate(prompts):
        text = prompt.tobytes()
        first = seen.get(text, 0)
        seen[text] = first + n
        yield Work(i, prompt, n, params.seed, [params.max_new_tokens] * n, first, None)
