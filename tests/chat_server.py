"""An OpenAI-compatible server on the loopback interface, which replies as a test says.

```python
with ChatServer(lambda row, attempt: '{"correct": "yes", "score": 5}') as server:
    …  # base_url=server.url
```
"""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class ChatServer:
    """
    Args:
        reply: is given the content of the last message (a judge's is JSON, and read), and how many times it was asked
            before. It returns the text of the reply; or a dict, which is put into the answer's `choices[0]`; or
            `(status, headers, body)`.
        seconds: how long every reply takes.
        models: the names at `/models`; a status instead for a server that does not list them.
        usage: what it counts.

    Attributes:
        url: for `base_url`.
        rows: what was asked, in order.
        bodies: the whole requests.
        keys: the keys that came with them.
        most_open: requests that were open at a time.
    """

    def __init__(
        self,
        reply: Callable[[Any, int], Any],
        seconds: float = 0.0,
        models: Sequence[str] | int = 404,
        usage: Mapping[str, Any] | None = None,
    ):
        self.reply = reply
        self.seconds = seconds
        self.models = models
        self.usage = usage
        self.rows: list[Any] = []
        self.bodies: list[dict[str, Any]] = []
        self.keys: set[str] = set()
        self.times: list[float] = []
        self.most_open = 0
        self._open = 0
        self._asked: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def __enter__(self) -> "ChatServer":
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, body: dict[str, Any], key: str) -> tuple[int, Mapping[str, str], Any]:
        content = body["messages"][-1]["content"]
        row, shown = (json.loads(content), content) if isinstance(content, str) else (content, json.dumps(content))
        with self._lock:
            attempt = self._asked[shown]
            self._asked[shown] += 1
            self.rows.append(row)
            self.bodies.append(body)
            self.keys.add(key)
            self.times.append(time.monotonic())
            self._open += 1
            self.most_open = max(self.most_open, self._open)
        try:
            time.sleep(self.seconds)
            reply = self.reply(row, attempt)
        finally:
            with self._lock:
                self._open -= 1
        if isinstance(reply, tuple):
            return reply
        choice = reply if isinstance(reply, dict) else {"message": {"content": reply}}
        choice = {"index": 0, "finish_reason": "stop", **choice, "message": {"role": "assistant", **choice["message"]}}
        answer = {"id": "1", "object": "chat.completion", "created": 0, "model": f"{body['model']}-0801"}
        return 200, {}, {**answer, "choices": [choice], **({"usage": self.usage} if self.usage else {})}


def _handler_of(server: ChatServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.send(*server.answer(body, self.headers["Authorization"].removeprefix("Bearer ")))

        def do_GET(self) -> None:
            if isinstance(server.models, int):
                self.send(server.models, {}, {"error": {"message": "not here"}})
            else:
                names = [{"id": name, "object": "model", "created": 0, "owned_by": ""} for name in server.models]
                self.send(200, {}, {"object": "list", "data": names})

        def send(self, status: int, headers: Mapping[str, str], answer: Any) -> None:
            content = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
            try:
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
            except (BrokenPipeError, ConnectionResetError):
                pass  # who asked has given up

        def log_message(self, *_: object) -> None:
            pass

    return Handler


__all__ = ["ChatServer"]
