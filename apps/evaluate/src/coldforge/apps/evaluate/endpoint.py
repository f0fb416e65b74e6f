"""A served model as what `coldforge.eval` wants of one: any endpoint that speaks OpenAI's protocol. Imports no JAX.

    served = Endpoint(EndpointOptions(endpoint="http://localhost:8000/v1", model="mine"))
    for place, replies in served.generate(asks): ...

Each sample is a request of its own, so many at a time; what is done is handed on at once. Messages go to
`chat/completions`, raw text to `completions`. The client (openai's) repeats what fails in transport, is refused for the
moment (408, 409, 429) or fails on the server (5xx), with growing pauses; what still fails, and what comes back and is
no reply, ends the evaluation with the question named. What came before is kept, and the same command asks for the rest.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any
from urllib.parse import urlsplit

import openai

from coldforge.apps.evaluate.options import EndpointOptions
from coldforge.apps.evaluate.stops import cut
from coldforge.eval import Ask, Reply

log = logging.getLogger(__name__)

REASONS = ("stop", "length", "content_filter")
"""Why a server ends a reply that counts. What was filtered is one that was cut off, as the next try would be too."""


class EndpointError(RuntimeError):
    """An endpoint does not answer, or not as it should."""


class Endpoint:
    """A model behind a URL.

    Attributes:
        identity: What its results are filed under; no key is among it.

    Raises:
        ValueError: The URL is none, or an option is out of its range.
    """

    def __init__(self, options: EndpointOptions) -> None:
        parts = urlsplit(options.endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"--endpoint is {options.endpoint!r}; wanted a URL like http://localhost:8000/v1")
        if options.concurrency < 1 or options.timeout <= 0 or options.retries < 0:
            raise ValueError(
                f"served.concurrency is {options.concurrency}, served.timeout {options.timeout}, served.retries "
                f"{options.retries}; wanted at least 1, more than 0, and 0 or more"
            )
        self._options = options
        self._counts = True  # whether the server counts tokens
        place = f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path}"
        self.identity: dict[str, Any] = {"name": options.model, "endpoint": place}

    def generate(self, asks: Sequence[Ask]) -> Iterator[tuple[int, list[Reply]]]:
        """Replies, as soon as all of an ask's are there.

        Raises:
            EndpointError: A request failed for good, or what came back is no reply; the question is named.
        """
        options = self._options
        key = os.environ.get(options.key_variable) or "none"
        with openai.OpenAI(
            base_url=options.endpoint, api_key=key, timeout=options.timeout, max_retries=options.retries
        ) as client:  # closed at an error too: what is under way ends then, not when its time is up
            yield from self._all(client, asks)

    def _all(self, client: openai.OpenAI, asks: Sequence[Ask]) -> Iterator[tuple[int, list[Reply]]]:
        todo = ((place, i) for place, ask in enumerate(asks) for i in range(ask.n))
        found: dict[int, dict[int, Reply]] = {}
        running: dict[Future[Reply], tuple[int, int]] = {}
        pool = ThreadPoolExecutor(self._options.concurrency, thread_name_prefix="endpoint")
        try:
            while True:
                for place, i in todo:  # no more than run at a time: a pool's own queue would hold them all
                    running[pool.submit(self._reply, client, asks[place], asks[place].first + i)] = place, i
                    if len(running) >= self._options.concurrency:
                        break
                if not running:
                    return
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in sorted(done, key=lambda each: each.exception() is not None):  # what failed comes last
                    place, i = running.pop(future)
                    replies = found.setdefault(place, {})
                    replies[i] = future.result()
                    if len(replies) == asks[place].n:
                        yield place, [found[place][j] for j in range(asks[place].n)]
                        del found[place]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _reply(self, client: openai.OpenAI, ask: Ask, number: int) -> Reply:
        how = ask.sampling
        arguments: dict[str, Any] = {
            "model": self._options.model, "temperature": how.temperature, "top_p": how.top_p,
            "max_tokens": how.max_new_tokens, "seed": (ask.seed + number) % 2**31,
        }  # fmt: skip
        if ask.stop:
            arguments["stop"] = list(ask.stop[:4])  # as many as the protocol takes; `cut` sees to the others
        if how.top_k:
            arguments["extra_body"] = {"top_k": how.top_k}
        what = f"sample {number} of question {ask.question} of {ask.task}"
        try:
            if isinstance(ask.prompt, str):
                answer: Any = client.completions.create(prompt=ask.prompt, **arguments)
            else:
                messages: list[Any] = list(ask.prompt)
                answer = client.chat.completions.create(messages=messages, **arguments)
            return self._read(answer, ask)
        except EndpointError as error:
            raise EndpointError(f"{what}: {error}") from error
        except openai.APIStatusError as error:
            raise EndpointError(
                f"{what}: the endpoint answers {error.status_code} after {self._options.retries} retries: "
                f"{error.response.text:.300}"
            ) from error
        except openai.APITimeoutError as error:
            raise EndpointError(
                f"{what}: the endpoint does not answer within {self._options.timeout:g} s, after "
                f"{self._options.retries} retries. Raise --served.timeout, or lower --served.concurrency or "
                "--max-new-tokens"
            ) from error
        except (openai.OpenAIError, ValueError, TypeError, AttributeError) as error:  # no connection; what is no JSON
            raise EndpointError(f"{what}: {type(error).__name__}: {error} ({error.__cause__})") from error

    def _read(self, answer: Any, ask: Ask) -> Reply:
        """A reply out of what the endpoint sent, which may be anything."""
        choices = getattr(answer, "choices", None)
        if not choices:
            raise EndpointError(f"the endpoint sent no choices, but {_shown(answer)}")
        first = choices[0]
        text, reason = _text_of(first), getattr(first, "finish_reason", None)
        if text is None and reason in REASONS:
            text = ""  # all tokens went into what is not shown, or the model said nothing
        if not isinstance(text, str):
            raise EndpointError(f"the endpoint sent a choice without text: {_shown(first)}")
        if reason not in REASONS:
            raise EndpointError(
                f"the endpoint ended a reply with finish_reason {reason!r}; wanted one of {', '.join(REASONS)}"
            )
        whole, text = text, cut(text, ask.stop)
        tokens = getattr(getattr(answer, "usage", None), "completion_tokens", None)
        if not isinstance(tokens, int):
            if self._counts:
                self._counts = False
                log.warning("the endpoint counts no tokens (usage.completion_tokens): words are counted instead")
            tokens = len(whole.split())
        return Reply(text, tokens, ended=reason == "stop" or len(text) < len(whole))


def _text_of(choice: Any) -> Any:
    """What a choice says, None for nothing; reasoning that a server has taken out stands in front, between its tags.

    It is named `reasoning_content` by some servers and versions, `reasoning` by others.
    """
    message = getattr(choice, "message", None)
    if message is None:
        return getattr(choice, "text", ...)  # `...` is no text: there is neither
    content = getattr(message, "content", None)
    for name in ("reasoning_content", "reasoning"):
        reasoning = getattr(message, name, None)
        if isinstance(reasoning, str) and reasoning:
            return f"<think>\n{reasoning}\n</think>\n{content or ''}"
    return content


def _shown(what: Any) -> str:
    return f"{what!r:.200}"
