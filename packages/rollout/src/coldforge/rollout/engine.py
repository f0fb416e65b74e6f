"""The engine: continuous batching with shapes, programs and weights that outlive a call.

    engine = Engine(model, SamplingParams(max_new_tokens=1024), EngineConfig(max_prompt_tokens=256, memory_gib=6))
    for group in engine.run([Request(id=7, prompt=ids, n=16, seed=3), ...], weights=adapter):
        group.id, group.samples                          # as soon as its n samples are done

A fixed number of slots decodes together; a slot whose sample has ended takes the next one that waits. Nothing is
compiled anew for other requests or weights. How a run goes is in `batcher`, what is compiled in `programs`, how many
slots there are in `sizes`.
"""

import dataclasses
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.stages import Lowered

from coldforge.modeling import Gemma3, model_mesh, quantized, set_lora, with_params
from coldforge.rollout.ahead import lower
from coldforge.rollout.batcher import Batch, Stats
from coldforge.rollout.requests import Group, Request, Work, check_request
from coldforge.rollout.sampling import SamplingParams
from coldforge.rollout.sizes import Demand, describe, make_sizes, round_up, slots_in

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """What the engine is built for.

    Attributes:
      max_prompt_tokens: of a request; longer ones are refused by name.
      max_new_tokens: of a sample, for which caches have room; None takes that of the sampling parameters.
      max_tokens: of a prompt and its sample together, where that is less than both limits: long prompts with short
        samples beside short prompts with long ones. None is their sum.
      slots: samples that run at the same time; None takes as many as the memory holds, 128 (CPU) or 256 for each device
        that shares the rows at most.
      memory_gib: what the engine may take on each device beside the weights, while it runs; None is 70 % of what is
        free, or 2 where the device does not say (CPU).
      prefill_chunk: tokens of one prefill call.
      kv: how caches hold keys and values: "model" as the model computes them, "bf16", or "int8" with a scale for each
        token and head.
      weights: "model" samples from the model's own weights, "int8" from a copy of its projections in int8, under the
        same adapter. With either int8 the log-probabilities are those of another model than the one that is trained:
        the README says how far off they are; correct for it (truncated importance sampling).
      shrink: as the queue runs dry, go on in programs of fewer rows.
      share: prefill once what the prompts that wait begin with alike (few-shot examples, an instruction), where that
        saves half of the work. The samples are the same.
    """

    max_prompt_tokens: int
    max_new_tokens: int | None = None
    max_tokens: int | None = None
    slots: int | None = None
    memory_gib: float | int | None = None
    prefill_chunk: int = 2048
    kv: Literal["model", "bf16", "int8"] = "model"
    weights: Literal["model", "int8"] = "model"
    shrink: bool = True
    share: bool = True

    def __post_init__(self) -> None:
        for name in ("max_prompt_tokens", "max_new_tokens", "max_tokens", "slots", "memory_gib", "prefill_chunk"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if self.kv not in ("model", "bf16", "int8"):
            raise ValueError(f"kv must be 'model', 'bf16' or 'int8', got {self.kv!r}")
        if self.weights not in ("model", "int8"):
            raise ValueError(f"weights must be 'model' or 'int8', got {self.weights!r}")


class Engine:
    """Samples from one model, for as many runs as wanted.

    Args:
      model: with or without LoRA, on a mesh or not. Its arrays are shared, not copied; it is not changed, nor does a
        later change of it (`set_lora`) reach the engine: that is what `use` is for.
      params: how to sample.
      config: what the engine is built for.

    Attributes:
      sizes: slots, lengths and buckets as they were decided.
      stats: what it has done so far.

    On a mesh of several processes, each makes the same engine and runs the same requests, and gets all samples.

    Raises:
      ValueError: for sizes that exceed the model's context or the memory; nothing is compiled before that.
    """

    def __init__(self, model: Gemma3, params: SamplingParams, config: EngineConfig):
        new = params.max_new_tokens if config.max_new_tokens is None else config.max_new_tokens
        tokens = config.max_prompt_tokens + new
        if config.max_tokens is not None:
            tokens = min(tokens, config.max_tokens)
        if tokens > model.config.max_seq_len:
            raise ValueError(
                f"max_prompt_tokens={config.max_prompt_tokens} and max_new_tokens={new} together exceed the model's "
                f"context of {model.config.max_seq_len}"
                + ("" if config.max_tokens is None else f", and so does max_tokens={config.max_tokens}")
            )
        if config.max_prompt_tokens >= tokens:
            raise ValueError(
                f"max_tokens={config.max_tokens} leaves nothing for a sample beside "
                f"max_prompt_tokens={config.max_prompt_tokens}"
            )
        if params.max_new_tokens > new:
            raise ValueError(
                f"the sampling parameters ask for {params.max_new_tokens} new tokens, the engine is built for {new}"
            )
        self.params, self.config, self.stats = params, config, Stats()
        self._new, self._tokens = new, tokens
        demand = Demand(
            model=model.config,
            prompt_tokens=config.max_prompt_tokens,
            length=round_up(tokens, 64),
            dtype=model.dtype,
            kv={"model": model.dtype, "bf16": jnp.bfloat16, "int8": jnp.int8}[config.kv],
            mesh=model_mesh(model),
            prefill_chunk=config.prefill_chunk,
            share=config.share,
        )
        slots = slots_in(config.memory_gib, demand) if config.slots is None else config.slots
        self.sizes = make_sizes(demand, slots=slots, shrink=config.shrink)
        self._graph, weights = nnx.split(quantized(model) if config.weights == "int8" else model)
        self._weights = _own(weights)
        log.info("%s", describe(self.sizes))

    @property
    def compiles(self) -> int:
        """Programs compiled for this engine so far; it stays as it is once each size has come up."""
        return self.stats.compiles

    def use(self, weights: nnx.State) -> None:
        """Other weights from the next run on, without compiling: an adapter's, or, of a model without one, parameters.

        An adapter is copied, as it is small, so a training step may donate its own. Parameters are shared where they
        have the model's dtype.

        Raises:
          ValueError: if names, shapes or dtypes differ from the model's; the message lists them.
        """
        model = nnx.merge(self._graph, _own(self._weights))
        if model.lora is not None:
            set_lora(model, jax.tree.map(jnp.copy, weights))
        else:
            model = with_params(model, weights)
        self._weights = nnx.state(model)

    def run(self, requests: Iterable[Request], weights: nnx.State | None = None) -> Iterator[Group]:
        """The samples of all requests, each group as soon as it is whole, in order of completion.

        Args:
          requests: a sequence, checked as a whole before anything is done; or an iterator, from which requests are
            taken (and checked) as slots become free.
          weights: as for `use`.

        Raises:
          ValueError: if there are none, an id comes twice, or the engine cannot run one (`check_request`); the message
            names it.
          FloatingPointError: if the model gives NaN.
        """
        if isinstance(requests, Sequence):
            if not requests:
                raise ValueError("there are no requests")
            queue: Iterator[Work] = iter(list(self._checked(requests)))
        else:
            queue = self._checked(requests)
        if weights is not None:
            self.use(weights)
        return self._groups(queue, self._weights)

    def lowered(self) -> dict[str, Lowered]:
        """The programs `prefill`, `admit` and `decode` in their largest sizes, to compile ahead of time and to measure.

        The model may be abstract (`coldforge.modeling.abstract_model`), on a mesh of devices that are not there.
        """
        return lower(self.sizes, self._graph, self._weights, self.params)

    def _groups(self, queue: Iterator[Work], weights) -> Iterator[Group]:
        before = self.stats.samples
        yield from Batch(self.sizes, self._graph, weights, queue, self.params, self.stats).run()
        if self.stats.samples == before:
            raise ValueError("there are no requests")

    def _checked(self, requests: Iterable[Request]) -> Iterator[Work]:
        seen: set[int] = set()
        for request in requests:
            if request.id in seen:
                raise ValueError(f"request {request.id} comes twice: ids name the groups of a run")
            seen.add(request.id)
            yield check_request(
                request,
                vocab=self.sizes.demand.model.vocab_size,
                max_prompt_tokens=self.config.max_prompt_tokens,
                max_new_tokens=self._new,
                max_tokens=self._tokens,
                limit=self.params.max_new_tokens,
            )


def _own(weights: nnx.State) -> nnx.State:
    """The same arrays in variables of their own: `nnx.update` changes variables in place, wherever they are shared."""
    return jax.tree.map(lambda x: x, weights)
