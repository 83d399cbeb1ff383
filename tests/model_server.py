"""`dynfocus serve` and `transformers serve` on the loopback interface, in threads of the tests' own process."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn

from dynfocus.cli.chat_completions import Limits, make_app
from dynfocus.cli.served_answers import Answerer, KeptStates


class ModelServer:
    """
    Args:
        pipe: the pipeline that answers.
        limits: of [`Limits`].

    Attributes:
        url: for `base_url`.
        desk: of the application.
    """

    def __init__(self, pipe: Any, **limits: Any):
        self.limits = Limits(**limits)
        kept = KeptStates(self.limits.keep_videos, self.limits.keep_bytes)
        self.answerer = Answerer(pipe, kept)
        app = make_app(self.answerer, "tiny", self.limits)
        self.desk = app.state.desk
        listening = socket.create_server(("127.0.0.1", 0))
        self.port = listening.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listening]})

    def __enter__(self) -> "ModelServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()

    def client(self, **options: Any) -> Any:
        import openai

        return openai.OpenAI(base_url=self.url, **{"api_key": "none", "max_retries": 0, "timeout": 120, **options})

    def is_idle(self) -> bool:
        return not self.desk.jobs and not self.desk.places_taken


@contextlib.contextmanager
def transformers_serve() -> Iterator[str]:
    """`transformers serve` in a thread; its address. A model's name there is its folder."""
    from transformers.cli.serve import Serve

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = Serve(host="127.0.0.1", port=port, device="cpu", dtype="float32", non_blocking=True)
    try:
        wait_for(lambda: server.server.started)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.kill_server()


def wait_for(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    """Fails if a condition does not come true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


@contextlib.contextmanager
def held_back(owner: Any, name: str, monkeypatch: Any) -> Iterator[threading.Event]:
    """Calls of a method wait for the event, which is set at the end; `event.calls` counts those that have begun."""
    method, gate = getattr(owner, name), threading.Event()
    gate.calls = 0  # type: ignore[attr-defined]

    def wait(*args: Any, **kwargs: Any) -> Any:
        gate.calls += 1  # type: ignore[attr-defined]
        assert gate.wait(120)
        return method(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, wait)
        try:
            yield gate
        finally:
            gate.set()


__all__ = ["ModelServer", "held_back", "transformers_serve", "wait_for"]
