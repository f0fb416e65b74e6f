"""A real HTTP server that speaks as much of OpenAI's protocol as is asked of it, and misbehaves on demand."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Served:
    """What a test says of the server, and what the server has seen.

    Attributes:
        faults: What the next requests get instead of an answer, first come, first served: a status, a text as it
            stands, "hang", or a mapping sent as JSON.
        requests: (path, body) of all requests.
        at_once: Most requests that were under way at the same time.
    """

    def __init__(self, answer: Callable[[dict[str, Any]], str]) -> None:
        self.answer, self.faults, self.requests = answer, list[Any](), list[tuple[str, dict[str, Any]]]()
        self.at_once, self._now, self._lock = 0, 0, threading.Lock()
        self.stopped = threading.Event()
        self.url = ""

    def take(self, path: str, body: dict[str, Any]) -> Any:
        with self._lock:
            self.requests.append((path, body))
            self._now += 1
            self.at_once = max(self.at_once, self._now)
            return self.faults.pop(0) if self.faults else None

    def leave(self) -> None:
        with self._lock:
            self._now -= 1


@contextmanager
def serving(answer: Callable[[dict[str, Any]], str]) -> Iterator[Served]:
    """The server, while the context is open."""
    served = Served(answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            fault = served.take(self.path, body)
            try:
                self._answer(fault, body)
            finally:
                served.leave()

        def _answer(self, fault: Any, body: dict[str, Any]) -> None:
            if fault == "hang":
                served.stopped.wait(30)
                self.close_connection = True
                return None
            time.sleep(0.01)
            if isinstance(fault, int):
                return self._send(fault, json.dumps({"error": {"message": "out of order"}}))
            if isinstance(fault, str):
                return self._send(200, fault)
            if fault is not None:
                return self._send(200, json.dumps(fault))
            text = served.answer(body)
            chat = self.path.endswith("chat/completions")
            choice: dict[str, Any] = {"index": 0, "finish_reason": "stop"}
            choice |= {"message": {"role": "assistant", "content": text}} if chat else {"text": text, "logprobs": None}
            answer = {"id": "1", "object": "x", "created": 0, "model": body["model"], "choices": [choice]}
            answer["usage"] = {"prompt_tokens": 1, "completion_tokens": 7, "total_tokens": 8}
            return self._send(200, json.dumps(answer))

        def _send(self, status: int, text: str) -> None:
            data = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    served.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        served.stopped.set()
        server.shutdown()
        server.server_close()
        thread.join()
