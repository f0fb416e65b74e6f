"""Our model under lm-evaluation-harness, so that all of its tasks run on a Gemma3 with an adapter. Needs `lm-eval`.

    coldforge-evaluate lm-eval run --model coldforge --model_args adapter=RUN --tasks arc_easy,gsm8k

What the command line says behind `lm-eval` is lm-eval's own; the model is `coldforge`, its arguments are those of
`LocalOptions`, with `data`, `fsdp` and `tensor` for the mesh. Texts are encoded as the harness's Hugging Face backend
does it for Gemma (<bos> in front, control tokens in a text count), so that both give the same numbers.

Likelihoods come from `scoring`, texts from the engine: requests of one kind run together, whatever their lengths, so
there is no batch size. Answers are handed to the harness's cache (`--use_cache`) one by one, as they come.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import lm_eval.utils
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from rich.progress import track

from coldforge.apps.evaluate.local import Local, Work, find_local, load_local
from coldforge.apps.evaluate.options import LocalOptions
from coldforge.apps.evaluate.scoring import Scorer
from coldforge.data import render_chat
from coldforge.rollout import SamplingParams
from coldforge.stages.devices import make_mesh
from coldforge.stages.options import MeshConfig

PATHS = ("model", "adapter", "tokenizer")
MESH = ("data", "fsdp", "tensor")
IGNORED = ("batch_size", "max_batch_size", "device")  # what the harness adds for every model


@register_model("coldforge")
class ColdforgeLM(TemplateLM):
    """A Gemma3 with or without an adapter, for lm-eval.

    Args:
        max_length: Most tokens of a text; None: the model's context.
        max_gen_toks: Of a reply, where a task does not say.
        options: Fields of `LocalOptions`, and of the mesh.

    Raises:
        ValueError: An argument is unknown; as `find_local` and `load_local`.
    """

    def __init__(self, max_length: int | None = None, max_gen_toks: int = 256, **options: Any) -> None:
        super().__init__()
        if jax.process_count() > 1:
            raise ValueError("lm-eval runs in one process; use a mesh of this host's devices")
        local, mesh = _options(options)
        self.local: Local = load_local(find_local(local), local, make_mesh(mesh))
        self.scorer = Scorer(self.local.model, self.local.mesh)
        context = self.local.model.config.max_seq_len
        if max_length is not None and not 2 <= int(max_length) <= context:
            raise ValueError(f"max_length is {max_length}; wanted 2 to {context}, the model's context")
        self.max_length = context if max_length is None else int(max_length)
        self.max_gen_toks = int(max_gen_toks)
        self.encoder = self.local.found.tokenizer

    @property
    def eot_token_id(self) -> int:
        """What ends a text: <eos>."""
        return self.encoder.eos_id

    @property
    def prefix_token_id(self) -> int:
        """What stands before an empty context: <bos>."""
        return self.encoder.bos_id

    @property
    def tokenizer_name(self) -> str:
        """The tokenizer's fingerprint, for the harness's cache of requests."""
        return self.encoder.fingerprint

    def chat_template(self, chat_template: bool | str = False) -> str:
        """A name for the harness's records; the template itself is `coldforge.data.render_chat`."""
        return "gemma3" if chat_template else ""

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as Gemma's template writes it; without the prompt, its last message stays open."""
        text = render_chat(chat_history, add_generation_prompt=add_generation_prompt)
        return text if add_generation_prompt else text.removesuffix("<end_of_turn>\n")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Token ids as Hugging Face's tokenizer gives them: with <bos>, unless the text has it or none is wanted."""
        bos = self.encoder.bos_id
        ids = self.encoder.encode_template(string)
        wanted = add_special_tokens if add_special_tokens is not None else ids[:1] != [bos]
        return [bos, *ids] if wanted else ids

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        """Σ log p of each continuation, and whether it is the greedy one; contexts are cut at their beginning."""
        pairs = [self._fitted(context, continuation) for _, context, continuation in requests]
        found: dict[int, tuple[float, bool]] = {}
        scored = track(self.scorer.score(pairs), "likelihoods", total=len(pairs), disable=disable_tqdm)
        for place, (logprobs, greedy) in scored:
            found[place] = float(logprobs.astype("float64").sum()), greedy
            key = requests[place][0]
            if key is not None:
                self.cache_hook.add_partial("loglikelihood", key, found[place])
        return [found[place] for place in range(len(requests))]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """The log p of whole texts, in windows of `max_length` tokens that do not overlap."""
        windows: list[tuple[None, list[int], list[int]]] = []
        owners: list[int] = []
        for place, (text,) in enumerate(request.args for request in requests):
            for pair in lm_eval.utils.get_rolling_token_windows(
                self.tok_encode(text), self.prefix_token_id, self.max_length, context_len=1
            ):
                windows.append((None, *lm_eval.utils.make_disjoint_window(pair)))
                owners.append(place)
        totals = [0.0] * len(requests)
        found = self._loglikelihood_tokens(windows, disable_tqdm) if windows else []
        for place, (logprob, _) in zip(owners, found, strict=True):
            totals[place] += logprob
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Texts, each up to the first of its stop texts; prompts are cut at their beginning to leave room."""
        kinds: dict[str, list[int]] = {}
        for place, request in enumerate(requests):
            kinds.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(place)
        texts: dict[int, str] = {}
        for places in kinds.values():
            self._generate_kind([requests[place] for place in places], places, texts, disable_tqdm)
        return [texts[place] for place in range(len(requests))]

    def _generate_kind(
        self, requests: Sequence[Instance], places: Sequence[int], texts: dict[int, str], disable_tqdm: bool
    ) -> None:
        """Requests of the same arguments; fills `texts` by place."""
        stated = requests[0].args[1]
        arguments = dict(normalize_gen_kwargs(stated, self.max_gen_toks))
        new, stops, params = self._sampling(arguments)
        room = self.max_length - new
        if room < 1:
            raise ValueError(
                f"max_gen_toks is {new} and max_length {self.max_length}: nothing is left for a "
                "prompt. Lower one or raise the other"
            )
        works = [
            Work(place, self.tok_encode(request.args[0])[-room:], new, seed=place % 2**31, stop=tuple(stops))
            for place, request in zip(places, requests, strict=True)
        ]
        by_place = dict(zip(places, requests, strict=True))
        made = self.local.sample(params, works)
        for place, (reply,) in track(made, "replies", total=len(works), disable=disable_tqdm):
            texts[place] = postprocess_generated_text(reply.text, stops, None)
            self.cache_hook.add_partial("generate_until", by_place[place].args, texts[place])

    def _sampling(self, arguments: dict[str, Any]) -> tuple[int, list[str], SamplingParams]:
        """How long texts get, where they end, and how they are sampled, of the harness's arguments.

        Raises:
            ValueError: An argument that changes texts is not known here.
        """
        stops = handle_stop_sequences(arguments.pop("until", None), eos=self.encoder.token(self.eot_token_id))
        new = int(arguments.pop("max_gen_toks"))
        sample = bool(arguments.pop("do_sample", False))
        temperature = float(arguments.pop("temperature", 1.0 if sample else 0.0))
        nucleus, best = float(arguments.pop("top_p", 1.0)), int(arguments.pop("top_k", 0))
        if arguments:
            raise ValueError(
                f"the task wants {', '.join(f'{k}={v}' for k, v in arguments.items())}, which is not known here; wanted"
                " until, max_gen_toks, do_sample, temperature, top_p, top_k"
            )
        if not sample:
            temperature, nucleus, best = 0.0, 1.0, 0
        return new, stops, SamplingParams(temperature=temperature, top_p=nucleus, top_k=best)

    def _fitted(self, context: list[int], continuation: list[int]) -> tuple[list[int], list[int]]:
        """The pair, its context cut at the beginning where both are too long.

        Raises:
            ValueError: The continuation alone is too long.
        """
        if len(continuation) > self.max_length:
            raise ValueError(
                f"a continuation has {len(continuation)} tokens, more than max_length = {self.max_length}: its "
                "likelihood cannot be had in one piece"
            )
        excess = len(context) + len(continuation) - (self.max_length + 1)
        return context[max(0, excess) :], continuation


def _options(given: Mapping[str, Any]) -> tuple[LocalOptions, MeshConfig]:
    known = {field.name for field in dataclasses.fields(LocalOptions)}
    given = {name: value for name, value in given.items() if name not in IGNORED}
    if unknown := set(given) - known - set(MESH):
        raise ValueError(f"unknown model arguments {sorted(unknown)}; wanted some of {sorted(known | set(MESH))}")
    local: dict[str, Any] = {k: Path(v) if k in PATHS else v for k, v in given.items() if k in known}
    mesh: dict[str, Any] = {k: int(v) for k, v in given.items() if k in MESH}
    return LocalOptions(**local), MeshConfig(**mesh)


def run(args: Sequence[str]) -> None:
    """lm-eval's own command line, with this model in its list."""
    import sys

    from lm_eval.__main__ import cli_evaluate

    sys.argv = ["coldforge-evaluate lm-eval", *args]
    cli_evaluate()
