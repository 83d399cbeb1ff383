"""The protocol of `dynfocus serve`: OpenAI's chat completions, with videos as `video_url`."""

import asyncio
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any, Literal

import torch
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from dynfocus.processing.reading.limits import ReadingLimits
from dynfocus.processing.video_qa import find_rule

from .served_answers import Answerer, Asked, Feed, Given, GivenUp, for_a_client, read_media

_MIB = 1 << 20
_BODY_SECONDS = 60.0
_SHUTDOWN_SECONDS = 30
_LONGEST_PAUSE = 60  # seconds; clients do not wait for longer
_LOG = logging.getLogger("dynfocus.serve")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """
    What one request may cost, and all of them.

    Args:
        folders: whose files may be read by `file://` addresses.
        private_addresses: whether videos may come from this machine or its local networks.
        max_body, max_download, keep_bytes: in bytes.
        max_waiting: requests beside the one that is answered.
        timeout: seconds for a request, waiting included.
        max_new_tokens: of an answer; also what requests without a length get.
        keep_videos: number of states that are kept.
        sampling: `fps`, `max_frames`, … of requests without them; requests cannot exceed `max_frames`.
        max_visual_tokens: of requests without them, which cannot exceed them.
        rule: of requests without one.
    """

    api_key: str | None = None
    folders: tuple[Path, ...] = ()
    private_addresses: bool = False
    max_body: int = 64 * _MIB
    max_download: int = 2048 * _MIB
    max_waiting: int = 32
    timeout: float = 600.0
    max_new_tokens: int = 512
    keep_videos: int = 16
    keep_bytes: int = 2048 * _MIB
    sampling: dict[str, Any] = field(default_factory=dict)
    max_visual_tokens: int | None = None
    rule: str | None = None


class RequestError(Exception):
    """An error in the form of OpenAI's protocol."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str):
        super().__init__(message)
        kind = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}.get(
            status, "invalid_request_error" if status < 500 else "server_error"
        )
        self.status, self.headers = status, {name.replace("_", "-"): value for name, value in headers.items()}
        self.content = {"error": {"message": message, "type": kind, "param": None, "code": code}}

    def response(self) -> JSONResponse:
        return JSONResponse(self.content, self.status, self.headers)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: Any) -> Any:
        # Clients send null for what was not set.
        if not isinstance(given, dict):
            return given
        return {name: value for name, value in given.items() if value is not None}


class Message(_Strict):
    role: Literal["system", "user", "assistant"]
    content: str | list[dict[str, Any]] = Field(min_length=1)


class StreamOptions(_Strict):
    include_usage: bool = False


class ChatRequest(_Strict):
    """The fields that a request may have: those of the protocol, and the settings of `dynfocus ask`."""

    model: str
    messages: list[Message] = Field(min_length=1)
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: str | list[str] | None = None
    n: Literal[1] = 1
    logprobs: bool = False
    user: str | None = None
    # As many clients send them; other values are not supported.
    frequency_penalty: float = Field(0, ge=0, le=0)
    presence_penalty: float = Field(0, ge=0, le=0)
    max_visual_tokens: int | None = Field(None, ge=1)
    fps: float | None = Field(None, gt=0)
    num_frames: int | None = Field(None, ge=1)
    max_frames: int | None = Field(None, ge=1)
    rule: str | None = None
    coarse: str | None = None
    question: str | None = None

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    def asked(self, limits: Limits) -> Asked:
        """
        The request without its messages, within the limits.

        Raises:
            `ValueError`: a limit is exceeded, or two fields contradict each other.
        """
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ValueError("`max_tokens` and `max_completion_tokens` mean the same: give one of them.")
        if self.fps is not None and self.num_frames is not None:
            raise ValueError("A request has both `fps` and `num_frames`: give one of them.")
        if len(self.stops) > 4 or not all(self.stops):
            raise ValueError("`stop` is a text or up to 4 of them, none of which is empty.")
        if self.rule not in (None, "dpe"):
            find_rule(self.rule)
        length = self.max_completion_tokens or self.max_tokens or limits.max_new_tokens
        within("max_tokens", length, limits.max_new_tokens)
        within("max_visual_tokens", self.max_visual_tokens, limits.max_visual_tokens)
        given = {name: getattr(self, name) for name in ("fps", "num_frames", "max_frames")}
        sampling = {**limits.sampling, **{name: value for name, value in given.items() if value is not None}}
        if self.num_frames is not None:
            sampling.pop("fps", None)
        check_frames(sampling, limits)
        generate: dict[str, Any] = {"max_new_tokens": length}
        if self.temperature == 0:
            generate["do_sample"] = False
        elif self.temperature is not None or (self.top_p or 1) < 1:
            generate |= {"do_sample": True, "temperature": self.temperature or 1.0, "top_p": self.top_p or 1.0}
        return Asked(
            messages=[one.model_dump() for one in self.messages],
            sampling=sampling,
            generate=generate,
            seed=self.seed,
            max_visual_tokens=self.max_visual_tokens or limits.max_visual_tokens,
            rule=self.rule or limits.rule,
            coarse=self.coarse,
            question=self.question,
        )


def within(name: str, value: float | None, most: float | None) -> None:
    """Raises a `ValueError` for a number above the server's limit."""
    if value is not None and most is not None and value > most:
        raise ValueError(f"`{name}` is {value}: this server allows at most {most}.")


def check_frames(sampling: Any, limits: Limits) -> None:
    for name in ("num_frames", "max_frames", "min_frames"):
        within(name, sampling.get(name), limits.sampling.get("max_frames"))


class Job:
    """
    One request: texts, and at the end what was given or an error, come out of `events`.

    Args:
        asked: without its media.
    """

    def __init__(self, asked: Asked, request: ChatRequest, answerer: Answerer):
        self.asked, self.request = asked, request
        self.events: asyncio.Queue[str | Given | RequestError] = asyncio.Queue()
        self.given_up = Event()
        self.loop = asyncio.get_running_loop()
        self.work: asyncio.Task[None] | None = None
        self.feed: Feed = answerer.feed(request.stops, self._send if request.stream else None, self.given_up)

    def _send(self, text: str) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self.loop.call_soon_threadsafe(self.events.put_nowait, text)

    def give_up(self, *_: Any) -> None:
        """End the work, whatever its state; nobody waits for the answer."""
        self.given_up.set()
        if self.work is not None:
            self.work.cancel()


class Desk:
    """Takes requests, has their media read by several threads, and answered by one."""

    def __init__(self, answerer: Answerer, limits: Limits):
        self.answerer, self.limits = answerer, limits
        self.reading = ReadingLimits(
            max_bytes=limits.max_download,
            max_seconds=limits.timeout,
            allow_private_addresses=limits.private_addresses,
        )
        self.readers = ThreadPoolExecutor(limits.max_waiting + 1, thread_name_prefix="read")
        self.model = ThreadPoolExecutor(1, thread_name_prefix="answer")
        self.jobs: set[Job] = set()
        self.places_taken = 0
        self.seconds = 1.0  # of an answer, about

    def take_place(self) -> None:
        """Raises a [`RequestError`] if too many wait."""
        if self.places_taken > self.limits.max_waiting:
            pause = min(_LONGEST_PAUSE, max(1, round(self.seconds * self.places_taken / 2)))
            raise RequestError(
                429,
                f"{self.places_taken} requests wait already: ask again in {pause} s.",
                "queue_full",
                retry_after=str(pause),
            )
        self.places_taken += 1

    def leave_place(self) -> None:
        self.places_taken -= 1

    def start(self, job: Job, gone: asyncio.Task[None]) -> None:
        """Begin the work for a job, in a place that was taken. It is given up when `gone` ends."""
        self.jobs.add(job)
        job.work = asyncio.create_task(self._work(job))
        gone.add_done_callback(job.give_up)

        def ended(_: Any) -> None:
            gone.cancel()
            job.given_up.set()
            self.jobs.discard(job)
            self.leave_place()
            # If it was given up, `_work` may not even have begun.
            job.events.put_nowait(RequestError(499, "The request was given up.", "given_up"))

        job.work.add_done_callback(ended)

    async def _work(self, job: Job) -> None:
        limits = self.limits
        try:
            async with asyncio.timeout(limits.timeout):
                check = partial(check_frames, limits=limits)
                reading = replace(self.reading, given_up=job.given_up)
                read = job.asked.messages, reading, limits.folders, check
                messages = await job.loop.run_in_executor(self.readers, read_media, *read)
                asked = replace(job.asked, messages=messages)
                found = await job.loop.run_in_executor(self.model, self._answer, asked, job.feed)
            job.events.put_nowait(found)
        except TimeoutError:
            # A client would ask again, and wait as long again.
            job.events.put_nowait(
                RequestError(
                    504, f"The answer was not ready within {limits.timeout:g} s.", "timeout", x_should_retry="false"
                )
            )
        except Exception as error:
            job.events.put_nowait(as_request_error(error))

    def _answer(self, asked: Asked, feed: Feed) -> Given:
        start = time.monotonic()
        found = self.answerer.answer(asked, feed)
        self.seconds = 0.8 * self.seconds + 0.2 * (time.monotonic() - start)
        return found

    def close(self) -> None:
        """Give up all jobs, and wait for the threads."""
        for job in [*self.jobs]:
            job.given_up.set()
        self.readers.shutdown(wait=False, cancel_futures=True)
        self.model.shutdown(wait=True, cancel_futures=True)


def as_request_error(error: Exception) -> RequestError:
    """What a client is told of an error: what it can mend, or nothing but that the server failed."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, GivenUp):
        return RequestError(503, "The server is being stopped.", "given_up")
    if isinstance(error, (ValueError, OSError)):
        return RequestError(400, str(for_a_client(error)))
    if isinstance(error, torch.OutOfMemoryError):
        message = "The device's memory is full: ask with fewer `max_visual_tokens`, or about a shorter video."
        return RequestError(503, message, "out_of_memory", x_should_retry="false")
    _LOG.error("A request failed.", exc_info=error)
    return RequestError(500, "The server failed on this request; its log says why.", x_should_retry="false")


def make_app(answerer: Answerer, name: str, limits: Limits) -> FastAPI:
    """
    The application of one model.

    Args:
        name: of the model.
    """
    desk, started = Desk(answerer, limits), int(time.time())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(desk.close)

    # Pages about the protocol would load scripts from elsewhere.
    app = FastAPI(lifespan=lifespan, openapi_url=None)
    app.state.desk = desk
    card = {"id": name, "object": "model", "created": started, "owned_by": "dynfocus"}

    @app.exception_handler(RequestError)
    async def as_error(request: Request, error: RequestError) -> Response:
        return error.response()

    @app.exception_handler(HTTPException)
    async def as_http_error(request: Request, error: HTTPException) -> Response:
        return RequestError(error.status_code, f"{request.method} {request.url.path}: {error.detail}.").response()

    def check_key(request: Request) -> None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if limits.api_key and not secrets.compare_digest(given.encode(), limits.api_key.encode()):
            raise RequestError(401, "The API key is missing or wrong.", "invalid_api_key")

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "requests": desk.places_taken, "kept_videos": len(answerer.kept)}

    @app.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        check_key(request)
        return {"object": "list", "data": [card]}

    @app.get("/v1/models/{wanted:path}")
    async def model(request: Request, wanted: str) -> dict[str, Any]:
        check_key(request)
        check_model(wanted)
        return card

    def check_model(wanted: str) -> None:
        if wanted != name:
            shown = wanted if len(wanted) <= 100 else f"{wanted[:100]}…"
            raise RequestError(404, f"There is no model {shown} here: this server has {name}.", "model_not_found")

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        check_key(request)
        desk.take_place()
        try:
            asked = read_request(await body_of(request, limits.max_body))
            check_model(asked.model)
            job = Job(asked.asked(limits), asked, answerer)
        except BaseException as error:
            desk.leave_place()
            if isinstance(error, ClientDisconnect):
                return Response(status_code=499)
            if isinstance(error, ValueError):
                raise RequestError(400, str(error)) from None
            raise
        desk.start(job, asyncio.create_task(disconnected(request)))
        try:
            # Errors until the first text get their own status.
            first = await job.events.get()
        except asyncio.CancelledError:
            job.give_up()
            raise as_request_error(GivenUp()) from None
        if isinstance(first, RequestError):
            raise first
        if asked.stream:
            headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
            chunks = streamed(job, first, Reply(name, answerer))
            return StreamingResponse(chunks, media_type="text/event-stream", headers=headers)
        assert isinstance(first, Given)
        return JSONResponse(Reply(name, answerer).whole(first, asked.logprobs))

    return app


async def disconnected(request: Request) -> None:
    """Ends when the client is gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def body_of(request: Request, most: int) -> bytes:
    """The body, which must be JSON by its header: pages of other sites cannot send that without being allowed to."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise RequestError(415, "A request is JSON: send it with `Content-Type: application/json`.")
    too_large = RequestError(
        413, f"The request is larger than {most} bytes: send the address of the video instead.", "too_large"
    )
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > most:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > most:
                    raise too_large
    except TimeoutError:
        raise RequestError(408, f"The request did not arrive within {_BODY_SECONDS:g} s.") from None
    return bytes(body)


def read_request(body: bytes) -> ChatRequest:
    """Raises a [`RequestError`] that names what is wrong."""
    try:
        return ChatRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            raise RequestError(400, f"`{where[:200]}` is not supported by this server: leave it out.") from None
        what = f"`{where[:200]}`: {first['msg']}" if where else first["msg"]
        raise RequestError(400, f"{what.rstrip('.')}.") from None


class Reply:
    """The parts of one response."""

    def __init__(self, name: str, answerer: Answerer):
        self.answerer = answerer
        self.head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": name}

    def whole(self, given: Given, with_log_probs: bool) -> dict[str, Any]:
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": given.text},
            "finish_reason": _finish_reason(given),
            "logprobs": self._log_probs(given) if with_log_probs else None,
        }
        rest = {"usage": _usage(given), "dynfocus": _details(given)}
        return {**self.head, "object": "chat.completion", "choices": [choice], **rest}

    def chunk(self, delta: dict[str, Any], **rest: Any) -> str:
        return self.event([{"index": 0, "delta": delta, "finish_reason": None}], **rest)

    def last(self, given: Given, with_log_probs: bool) -> str:
        choice = {"index": 0, "delta": {}, "finish_reason": _finish_reason(given)}
        if with_log_probs:
            choice["logprobs"] = self._log_probs(given)
        return self.event([choice], dynfocus=_details(given))

    def event(self, choices: list[dict[str, Any]], **rest: Any) -> str:
        return _event({**self.head, "object": "chat.completion.chunk", "choices": choices, **rest})

    def _log_probs(self, given: Given) -> dict[str, Any]:
        content = []
        for token, log_prob in zip(given.tokens, given.answer.token_log_probs or [], strict=False):
            text = self.answerer.token_text(token)
            content.append({"token": text, "logprob": log_prob, "bytes": [*text.encode()], "top_logprobs": []})
        return {"content": content}


async def streamed(job: Job, first: str | Given | RequestError, reply: Reply) -> AsyncIterator[str]:
    """Server-sent events: the text in pieces, what was given, and the usage if it is asked for."""
    options, event = job.request.stream_options or StreamOptions(), first
    try:
        yield reply.chunk({"role": "assistant", "content": ""})
        while isinstance(event, str):
            yield reply.chunk({"content": event})
            event = await job.events.get()
        if isinstance(event, RequestError):
            yield _event(event.content)
            return
        yield reply.last(event, job.request.logprobs)
        if options.include_usage:
            yield reply.event([], usage=_usage(event))
        yield "data: [DONE]\n\n"
    finally:
        job.give_up()


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content)}\n\n"


def _finish_reason(given: Given) -> str:
    return "length" if given.is_cut else "stop"


def _usage(given: Given) -> dict[str, int]:
    counts = given.num_prompt_tokens, len(given.tokens)
    return {"prompt_tokens": counts[0], "completion_tokens": counts[1], "total_tokens": sum(counts)}


def _details(given: Given) -> dict[str, Any]:
    """What OpenAI's protocol has no place for."""
    answer = given.answer
    names = ("score", "key_frames", "num_visual_tokens", "num_dense_tokens", "timings")
    found = {name: getattr(answer, name) for name in names}
    return {**found, "videos": given.videos, **({"warnings": given.warnings} if given.warnings else {})}


__all__ = ["ChatRequest", "Limits", "make_app"]
