r"""Whether two mathematical expressions are the same, by Math-Verify, in a process of its own that can be ended.

    equal([(r"\frac{1}{2}", "0.5"), ("x + 1", "1 + x")], timeout=5)      # [True, True]

Computer algebra can hang, or eat all memory, on what a model writes. So a child process compares pair after pair: it
may take `timeout` seconds for each and 4 GB; one that takes longer is ended, its pair counts as different (with a
warning), and a new child does the rest. It reads pairs as lines of JSON and writes a line for each:
`python -m coldforge.apps.sft.equality` is that child.
"""

import json
import logging
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence

MEMORY = 4 << 30  # bytes that the child may map
STARTING = 120.0  # seconds for its first answer: importing sympy takes some, on a busy machine many
_LOG = logging.getLogger(__name__)


def equal(pairs: Sequence[tuple[str, str]], *, timeout: float) -> list[bool]:
    """Compares each (right answer, found answer).

    Raises:
        RuntimeError: The child cannot be started or breaks off before its first answer, as when Math-Verify is absent.
    """
    verdicts: list[bool] = []
    while len(verdicts) < len(pairs):
        rest = pairs[len(verdicts) :]
        found = _compare(rest, timeout)
        verdicts += found
        if len(found) < len(rest):
            wanted, answer = rest[len(found)]
            _LOG.warning("no verdict in time on %.60r against %.60r: counted as different", answer, wanted)
            verdicts.append(False)
    return verdicts


def _compare(pairs: Sequence[tuple[str, str]], timeout: float) -> list[bool]:
    """The verdicts of one child, up to the pair that it does not finish."""
    with subprocess.Popen(  # noqa: S603 - this very file
        [sys.executable, "-m", __name__, str(timeout)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as child:  # fmt: skip
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=_receive, args=(child, lines)).start()
        sender = threading.Thread(target=_send, args=(child, pairs))
        sender.start()
        verdicts: list[bool] = []
        ready = False
        try:
            while len(verdicts) < len(pairs):
                line = lines.get(timeout=2 * timeout if ready else STARTING)
                if not line and not ready:
                    raise RuntimeError(f"Math-Verify cannot be run: {child.stderr.read()[-500:]}")
                if not line:
                    break
                if ready:
                    verdicts.append(json.loads(line))
                ready = True
        except queue.Empty:
            pass
        finally:
            child.kill()
        sender.join()
    return verdicts


def _receive(child: "subprocess.Popen[str]", lines: "queue.Queue[str]") -> None:
    assert child.stdout is not None
    for line in child.stdout:
        lines.put(line)
    lines.put("")


def _send(child: "subprocess.Popen[str]", pairs: Sequence[tuple[str, str]]) -> None:
    assert child.stdin is not None
    try:
        for pair in pairs:
            child.stdin.write(json.dumps(pair) + "\n")
        child.stdin.close()
    except BrokenPipeError:
        pass  # the child has ended, which the reader sees


def main() -> None:
    """The child: answers each line of standard input by a line, after one that says it is ready."""
    import resource

    from math_verify import parse, verify

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    timeout = max(1, int(float(sys.argv[1])))
    logging.disable()  # Math-Verify logs what it cannot read; that is a verdict here
    print("ready", flush=True)
    for line in sys.stdin:
        wanted, found = json.loads(line)
        try:
            gold, answer = (parse(f"${text.strip('$')}$", parsing_timeout=timeout) for text in (wanted, found))
            verdict = bool(verify(gold, answer, timeout_seconds=timeout))  # the right one first: it is not symmetric
        except MemoryError:
            verdict = False
        print(json.dumps(verdict), flush=True)


if __name__ == "__main__":
    main()
