"""Questions put to the policy, replies judged beside the sampler, and written down as soon as they are. Imports JAX.

    model = load_policy(inputs, config, mesh)
    with Judge(…) as judge, SampleLog(directory, jax.process_index()) as log:
        done = sample(model, inputs, config, mesh, todo, judge, log, bars, stop)

A sample is a function of (policy, seed, question, its number), so neither what is done already nor who else takes part
changes one. Samples of a question are asked for a few at a time (`PIECE`): what is finished and judged is never made
again, and a sample waits at most for the others of its piece. With several processes the sampler's mesh spans them and
gives all samples to all; each judges and writes down those of its share of the questions.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from coldforge import modeling, training
from coldforge.apps.reject.config import RejectConfig
from coldforge.apps.reject.inputs import Inputs
from coldforge.apps.reject.judge import Judge
from coldforge.apps.reject.progress import Bar
from coldforge.data.rejection import SampleLog, SampleLogs
from coldforge.rollout import Engine, EngineConfig, Group, Request, SamplingParams
from coldforge.stages.devices import leave_the_others, use
from coldforge.stages.model import check_size, load_base, model_config, read_config, with_adapter

PIECE = 8  # samples of a question that are asked for, judged and written down together
JUDGES = 2  # pieces that are judged at a time
WAITING = 256  # pieces that may wait for that


class Piece(NamedTuple):
    """Samples of a question: its number, that of the first sample, how many."""

    question: int
    first: int
    samples: int


def pieces(questions: int, samples: int) -> Iterator[Piece]:
    """All that is to be sampled, in order."""
    for question in range(questions):
        for first in range(0, samples, PIECE):
            yield Piece(question, first, min(PIECE, samples - first))


def left(questions: int, samples: int, logs: SampleLogs) -> list[Piece]:
    """What is not there yet."""
    return [piece for piece in pieces(questions, samples) if not logs.has(piece.question, piece.first)]


def sampling(config: RejectConfig, stop_ids: tuple[int, ...] = ()) -> tuple[SamplingParams, EngineConfig]:
    """How is sampled, and in what room.

    Raises:
        ValueError: An option is out of its range.
    """
    options = config.sampling
    return SamplingParams(
        max_new_tokens=options.max_new_tokens, temperature=options.temperature, stop_ids=stop_ids
    ), EngineConfig(
        max_prompt_tokens=options.max_prompt_tokens, slots=options.slots, memory_gib=options.memory_gib,
        prefill_chunk=options.prefill_chunk, kv=options.kv, weights=options.weights,
    )  # fmt: skip


def check(inputs: Inputs, config: RejectConfig) -> None:
    """Makes sure that options can be meant, before weights are read.

    Raises:
        ValueError: One cannot; it is named, with what was wanted.
    """
    sampling(config)
    options = config.sampling
    if options.samples < 1:
        raise ValueError(f"sampling.samples is {options.samples}; wanted at least 1")
    if options.temperature <= 0:
        raise ValueError(
            f"sampling.temperature is {options.temperature}; wanted above 0, as samples of a question must differ"
        )
    if not 0 <= config.seed < 2**32:
        raise ValueError(f"seed is {config.seed}; wanted 0 to {2**32 - 1}")
    weights = inputs.policy.weights
    stored = None if weights is None else read_config(weights)
    if stored is not None and weights is not None:
        check_size(stored, config.model, weights)
    sizes = stored or model_config(config.model, inputs.tokenizer.vocab_size)
    if config.longest > sizes.max_seq_len:
        raise ValueError(
            f"sampling.max-prompt-tokens + sampling.max-new-tokens = {config.longest} exceed the model's context of "
            f"{sizes.max_seq_len}; lower one of them"
        )


def load_policy(inputs: Inputs, config: RejectConfig, mesh: Mesh | None) -> modeling.Gemma3:
    """The policy on the mesh: base and adapter, or the whole model that its run has trained.

    Raises:
        RunError: The base is not the one that the adapter was trained on.
        ValueError: The weights are of another size.
    """
    policy = inputs.policy
    base = load_base(policy.weights, config.model, policy.tokenizer.vocab_size, mesh)
    if policy.adapter is not None:
        training.require_identity(policy.manifest, {"base": modeling.fingerprint(base)})
    return with_adapter(base, policy.adapter, quantize=policy.manifest.base.get("quantize", "none"))


def sample(
    model: modeling.Gemma3, inputs: Inputs, config: RejectConfig, mesh: Mesh | None, todo: list[Piece], judge: Judge,
    log: SampleLog, bar: Bar, stop: Callable[[], bool],
) -> bool:  # fmt: skip
    """Samples, judges and writes down what is to be done.

    Args:
        model, inputs, config, mesh: Of the policy.
        todo: The same in all processes.
        judge, log: This process's.
        bar: Told how far it is.
        stop: Asked after each piece, in all processes alike, whether to stop.

    Returns:
        Whether all of it is done.

    Raises:
        OSError: The log cannot be written.
    """

    def keep(piece: Piece, group: Group) -> None:
        judged = judge(inputs.questions[piece.question], group.samples)
        log.append(piece.question, piece.first, judged)
        bar.judged(judged)

    def requests() -> Iterator[Request]:
        for number, piece in enumerate(todo):
            prompt = inputs.prompt(inputs.questions[piece.question])
            yield Request(id=number, prompt=prompt, n=piece.samples, seed=config.seed, first=piece.first)

    engine = Engine(model, *sampling(config, inputs.tokenizer.stop_ids))
    own, of = jax.process_index(), jax.process_count()
    threads, waiting, done = ThreadPoolExecutor(JUDGES), deque[Future[None]](), 0
    try:
        with use(mesh):
            for group in engine.run(requests()):
                piece, done = todo[group.id], done + 1
                if piece.question % of == own:
                    waiting.append(threads.submit(keep, piece, group))
                while waiting and (waiting[0].done() or len(waiting) > WAITING):
                    waiting.popleft().result()
                bar.sampled(piece.samples, sum(len(one.tokens) for one in group.samples))
                if stop():
                    break
        for future in waiting:
            future.result()
    except Exception:
        leave_the_others()
        raise
    finally:
        threads.shutdown(wait=True, cancel_futures=True)
        log.sync()
    return done == len(todo)
