"""A Gemma3 on this machine's devices as what `coldforge.eval` wants of a model: asks in, replies out. Imports JAX.

    found = find_local(options)                      # weights, adapter, tokenizer, form; nothing is loaded
    local = load_local(found, options)               # on the mesh
    for place, replies in local.generate(asks): ...

All asks run in one engine, whatever their tasks: slots that one task frees are taken by the next. Texts that end a
reply are looked for while it is made. Every process of a mesh samples alike; the first one says what is asked
(`generate`), the others do it too (`follow`).
"""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from coldforge import modeling
from coldforge.apps.evaluate.options import LocalOptions
from coldforge.apps.evaluate.stops import cut, until
from coldforge.data import ReasoningFormat, Tokenizer
from coldforge.data.embedded import gemma3_270m
from coldforge.eval import Ask, Reply
from coldforge.rollout import Engine, EngineConfig, Request, Sample, SamplingParams
from coldforge.stages.devices import from_first, leave_the_others, platform_of, use
from coldforge.stages.find import (
    adapter_hash,
    find_tokenizer,
    form_of,
    own_tokenizer,
    require_tokenizer,
    whole_model,
)
from coldforge.stages.model import with_adapter

if TYPE_CHECKING:
    from coldforge import training


@dataclasses.dataclass(frozen=True)
class Found:
    """What a model is made of, before anything is loaded.

    Attributes:
        weights: Where the base is, or all of the model.
        adapter: In PEFT's format; None: none.
        tokenizer: That of the adapter's run, or that which lies with the weights.
        form: Of replies, as the run has taught it; the project's own where there is no run.
        manifest: Of the adapter's run; None: the adapter is no run's, or there is none.
    """

    weights: Path
    adapter: Path | None
    tokenizer: Tokenizer
    form: ReasoningFormat
    manifest: "training.Manifest | None"


def find_local(options: LocalOptions) -> Found:
    """Finds what is to be loaded. `--adapter` takes a run of any stage, or a directory in PEFT's format.

    Raises:
        FileNotFoundError: Something is not there.
        ModuleNotFoundError: No weights are named, and the extra that brings the 270M's is not installed.
        ValueError: The tokenizer is not the one that the run was trained with, or a run has trained all of the model
            and --model names another.
    """
    from coldforge import training

    manifest, adapter = None, options.adapter
    if adapter is not None and not adapter.is_dir():
        raise FileNotFoundError(
            f"there is no directory {adapter}; --adapter takes a run, or an adapter in PEFT's format"
        )
    if adapter is not None and (adapter / "manifest.json").is_file():
        manifest = training.read_manifest(adapter)
        adapter = manifest.adapter_path
    weights = options.model
    if manifest is not None and adapter is None:
        weights = _whole_model(manifest, weights)
    if weights is not None and not weights.exists():
        raise FileNotFoundError(f"there is nothing at {weights}; --model takes a path on this machine")
    weights = gemma3_270m() if weights is None else weights
    tokenizer = find_tokenizer(options.tokenizer or own_tokenizer(adapter or weights), weights)
    if manifest is not None:
        require_tokenizer(manifest, tokenizer)
    form = ReasoningFormat() if manifest is None else form_of(manifest)
    return Found(weights, adapter, tokenizer, form, manifest)


def _whole_model(manifest: "training.Manifest", named: Path | None) -> Path:
    """The model that a run has trained as a whole."""
    place = whole_model(manifest)
    if named is not None:
        raise ValueError(f"{manifest.directory} has trained all of the model, and --model names {named}: leave it out")
    return place


def load_local(found: Found, options: LocalOptions, mesh: Mesh | None) -> "Local":
    """Loads the model onto the mesh, each process its share.

    Raises:
        RunError: The base weights are not those that the adapter was trained on.
        ConfigError, WeightsError: As `coldforge.modeling.load`.
        ValueError: The tokenizer has more tokens than the model; the adapter does not fit.
    """
    from coldforge import training

    auto = "float32" if platform_of(mesh) == "cpu" else "bfloat16"
    base = modeling.load(found.weights, dtype=auto if options.dtype == "auto" else options.dtype, mesh=mesh)
    if found.tokenizer.vocab_size > base.config.vocab_size:
        raise ValueError(
            f"the tokenizer has {found.tokenizer.vocab_size:,} tokens and the model {base.config.vocab_size:,}. Pass "
            "the model's own with --tokenizer PATH"
        )
    fingerprint = modeling.fingerprint(base)
    if found.manifest is not None and found.adapter is not None:
        training.require_identity(found.manifest, {"base": fingerprint})
    quantize = "none" if found.manifest is None else found.manifest.base.get("quantize", "none")
    model = with_adapter(base, found.adapter, quantize=quantize)
    return Local(model, found, options, mesh, fingerprint)


class StoppedError(Exception):
    """A time box or a signal has ended the sampling; what was made until then is with the caller."""


class Work(NamedTuple):
    """Samples of one prompt, as every process is told of them.

    Attributes:
        id: Names them in what comes back.
        prompt: Token ids.
        max_new_tokens: Where a reply is cut off.
        n, seed, first: As in `coldforge.eval.Ask`.
        stop: Texts at which a reply ends.
    """

    id: int
    prompt: list[int]
    max_new_tokens: int
    n: int = 1
    seed: int = 0
    first: int = 0
    stop: tuple[str, ...] = ()


class Local:
    """A model that can be asked.

    Attributes:
        model: The base, with the adapter on it.
        found: What it was made of.
        identity: What its results are filed under.
        engine: The last engine; None before the first ask.
        stopper: Asked after each prompt's samples, by all processes; None: nothing stops it.
    """

    def __init__(
        self, model: modeling.Gemma3, found: Found, options: LocalOptions, mesh: Mesh | None, fingerprint: str
    ) -> None:
        self.model, self.found, self.mesh = model, found, mesh
        self._options = options
        self._sampling = False
        self.engine: Engine | None = None
        self.stopper: training.Stopper | None = None
        self.identity: dict[str, Any] = {
            "model": str(options.model or "gemma3-270m"), "base": fingerprint, "dtype": str(model.dtype),
            "tokenizer": found.tokenizer.fingerprint,
        }  # fmt: skip
        # Caches or weights in other numbers are another model. As the model has them, nothing is said, as ever.
        how = {"kv": options.kv, "weights": options.weights}
        self.identity |= {name: kind for name, kind in how.items() if kind != "model"}
        if found.adapter is not None:
            self.identity |= {"adapter": str(options.adapter), "adapter_sha256": adapter_hash(found.adapter)}
        if found.manifest is not None:
            self.identity["stage"] = found.manifest.stage

    def generate(self, asks: Sequence[Ask]) -> Iterator[tuple[int, list[Reply]]]:
        """Replies, as soon as all of an ask's are made. With several processes the others `follow`, until `finish`.

        Raises:
            ValueError: A prompt and its reply do not fit into the model's context.
            StoppedError: The stopper says so.
        """
        kinds: dict[tuple[float, float, int], list[Work]] = {}
        for place, ask in enumerate(asks):
            how, ids = ask.sampling, self.encode(ask.prompt)
            kinds.setdefault((how.temperature, how.top_p, how.top_k), []).append(
                Work(place, ids, how.max_new_tokens, ask.n, ask.seed, ask.first, ask.stop)
            )
        for (temperature, top_p, top_k), works in kinds.items():
            yield from self.sample(SamplingParams(temperature=temperature, top_p=top_p, top_k=top_k), works)

    def sample(self, params: SamplingParams, works: Sequence[Work]) -> Iterator[tuple[int, list[Reply]]]:
        """Replies to prompts that are token ids already; likewise. Of `params` temperature, top_p and top_k count."""
        _tell([[params.temperature, params.top_p, params.top_k], works])
        self._sampling = True
        yield from self._run(params, works)
        self._sampling = False
        if self._stopped:
            raise StoppedError

    @property
    def _stopped(self) -> bool:
        return self.stopper is not None and self.stopper.reason is not None

    def finish(self) -> None:
        """Lets the other processes go.

        After an error in the midst of sampling they wait for this one's part of a step and would hear nothing.
        """
        if self._stopped:
            return  # the others have stopped at the same sample
        if not self._sampling:
            _tell(None)
        else:
            leave_the_others()

    def follow(self) -> bool:
        """Samples what the first process is asked, until it is done; False where the stopper has ended it."""
        while not self._stopped and (told := _heard()) is not None:
            for _ in self._run(*told):
                pass
        return not self._stopped

    def encode(self, prompt: Any) -> list[int]:
        """Token ids of a prompt: messages in the chat template, a text as it stands after <bos>."""
        tokenizer = self.found.tokenizer
        return tokenizer.encode(prompt, add_bos=True) if isinstance(prompt, str) else tokenizer.encode_chat(prompt)

    def _run(self, params: SamplingParams, works: Sequence[Work]) -> Iterator[tuple[int, list[Reply]]]:
        engine = self.engine = self._engine(params, works)
        tokenizer, stops = self.found.tokenizer, {work.id: work.stop for work in works}
        requests = [
            Request(
                id=w.id, prompt=w.prompt, n=w.n, seed=w.seed, first=w.first, until=until(tokenizer, w.stop),
                max_new_tokens=min(w.max_new_tokens, self.model.config.max_seq_len - len(w.prompt)),
            )
            for w in works
        ]  # fmt: skip
        with use(self.mesh):
            for group in engine.run(requests):
                yield group.id, [self._reply(sample, stops[group.id]) for sample in group.samples]
                if self.stopper is not None and self.stopper.should_stop():
                    return

    def _engine(self, params: SamplingParams, works: Sequence[Work]) -> Engine:
        """An engine for the longest prompt and the longest reply; the context bounds each pair of them by itself."""
        context = self.model.config.max_seq_len
        longest = max((work.prompt for work in works), key=len)
        if len(longest) >= context:
            raise ValueError(
                f"a prompt has {len(longest)} tokens, and the model's context is {context}: leave the "
                f"question out. It begins {self.found.tokenizer.decode(longest[:30])!r}"
            )
        new = min(max(work.max_new_tokens for work in works), context - 1)
        # Few sizes, so that an evaluation that goes on compiles nothing anew.
        prompt = min(-(-len(longest) // 64) * 64, context - 1)
        params = dataclasses.replace(params, max_new_tokens=new, stop_ids=self.found.tokenizer.stop_ids)
        options = self._options
        config = EngineConfig(
            max_prompt_tokens=prompt, max_tokens=min(prompt + new, context), slots=options.slots,
            memory_gib=options.memory_gib, kv=options.kv, weights=options.weights,
        )  # fmt: skip
        if self.engine is not None and (self.engine.params, self.engine.config) == (params, config):
            return self.engine
        return Engine(self.model, params, config)

    def _reply(self, sample: Sample, stops: tuple[str, ...]) -> Reply:
        ended = sample.finish_reason == "stop"
        ids = sample.tokens
        if ended and ids.size and ids[-1] in self.found.tokenizer.stop_ids:
            ids = ids[:-1]
        text = self.found.tokenizer.decode(ids, skip_special=False)
        return Reply(cut(text, stops), len(sample.tokens), ended)


def _tell(what: list[Any] | None) -> None:
    """Tells the other processes what is sampled; None: nothing more."""
    if jax.process_count() > 1:
        said = json.dumps(what).encode()
        from_first(np.int64(len(said)))
        from_first(np.frombuffer(said, np.uint8))


def _heard() -> tuple[SamplingParams, list[Work]] | None:
    size = int(from_first(np.int64(0)))
    said = json.loads(from_first(np.zeros(size, np.uint8)).tobytes())
    if said is None:
        return None
    works = [Work(*fields) for fields in said[1]]
    temperature, top_p, top_k = said[0]
    params = SamplingParams(temperature=temperature, top_p=top_p, top_k=top_k)
    return params, [work._replace(stop=tuple(work.stop)) for work in works]
