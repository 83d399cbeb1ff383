"""`dynfocus serve`: a model on a server of its own."""

import logging
import socket
import sys
from dataclasses import dataclass

import uvicorn

from dynfocus.checkpoints import DEFAULT_MODEL

from .ask import Setup, check_options, open_pipeline
from .chat_completions import Limits, make_app
from .loading import note_demo
from .served_answers import Answerer, KeptStates
from .terminal import UserError, print_note, quiet

_SHUTDOWN_SECONDS = 30


@dataclass(frozen=True, kw_only=True)
class Request:
    """
    The command line of `dynfocus serve`.

    Args:
        name: of the model, for clients; by default as it was given.
        setup: model and settings; it has no video.
    """

    host: str
    port: int
    name: str | None
    setup: Setup
    limits: Limits


def run(request: Request) -> None:
    """Serve until a signal. Raises a `UserError` for a port that is taken, or a model that cannot be loaded."""
    setup, limits = request.setup, request.limits
    check_options(setup)
    for folder in limits.folders:
        if not folder.is_dir():
            raise UserError(f"--allow-files {folder}: there is no such folder.")
    listening = _listening(request.host, request.port)
    with listening:
        with quiet(setup.verbose):
            pipe = open_pipeline(setup)
            note_demo(setup.model, "serve", option="")
            pipe.video_qa.fingerprint()  # computed once, before the first request
        answerer = Answerer(pipe, KeptStates(limits.keep_videos, limits.keep_bytes))
        name = request.name or setup.model or DEFAULT_MODEL
        _log_to_stderr(setup.verbose)
        host, port = listening.getsockname()[:2]
        print_note(
            f"{name} answers at http://{f'[{host}]' if ':' in host else host}:{port}/v1; Ctrl-C stops it.", "serving"
        )
        app = make_app(answerer, name, limits)
        config = uvicorn.Config(
            app,
            lifespan="off",
            log_config=None,
            access_log=setup.verbose,
            timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
        )
        try:
            uvicorn.Server(config).run(sockets=[listening])
        finally:
            # A second Ctrl-C leaves work behind; after other signals the process has ended.
            app.state.desk.close()


def _listening(host: str, port: int) -> socket.socket:
    """Taken before the model is loaded, which may take minutes."""
    try:
        (family, *_, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        found = socket.socket(family, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen()
    except OSError as error:
        raise UserError(
            f"--host {host} --port {port}: cannot be listened on ({error.strerror or error}): choose another port, or "
            "stop what uses it."
        ) from None
    return found


def _log_to_stderr(verbose: bool) -> None:
    """Errors of the server, and with `verbose` every request."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for name in ("dynfocus", "uvicorn"):
        log = logging.getLogger(name)
        log.addHandler(handler)
        log.setLevel(logging.INFO if verbose else logging.WARNING)


__all__ = ["Request", "run"]
