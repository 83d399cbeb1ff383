"""
Processes that need not import anything: a server has done so once, and they are forked from it.

A new interpreter takes seconds until it has imported torch and transformers. A process of this file starts with them,
at the entry point of a command. It shares no state with the tests: its environment, arguments and streams are those
that it is given.
"""

import contextlib
import importlib
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from multiprocessing import connection, forkserver
from pathlib import Path
from typing import Any
from unittest import mock

_CONTEXT = multiprocessing.get_context("forkserver")


class _Forked(forkserver.ForkServer):
    """A server that is forked from another one, and has imported `modules` besides; each starts when it is needed."""

    def __init__(self, server: forkserver.ForkServer, modules: list[str]):
        super().__init__()
        self._server, self._modules, self._process = server, modules, None

    def ensure_running(self) -> None:
        if self._process is not None and self._process.is_alive():
            return
        address = connection.arbitrary_address("AF_UNIX")
        self._process = _CONTEXT.Process(target=_serve, args=(address, self._modules), daemon=True)
        with mock.patch.object(forkserver, "connect_to_new_process", self._server.connect_to_new_process):
            self._process.start()
        while not os.path.exists(f"{address}.ready"):
            self._process.join(0.02)
            assert self._process.exitcode is None, "the server of processes ended"
        self._forkserver_address = address
        # It ends with the process that has started it, whatever its own processes do.
        self._forkserver_alive_fd = os.open(os.devnull, os.O_RDONLY)


def _serve(address: str, modules: list[str]) -> None:
    for name in modules:
        importlib.import_module(name)
    parent = multiprocessing.parent_process()
    assert parent is not None
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    Path(f"{address}.ready").touch()
    forkserver.main(listener.detach(), parent.sentinel, [])


_LIBRARIES = forkserver.ForkServer()
# What reads no variable of the Hub when it is imported, and is not the package.
_LIBRARIES.set_forkserver_preload(
    ["torch._dynamo", "torch.distributed.tensor", "torchvision", "pandas", "pyarrow.dataset", "scipy.stats", "sympy"]
    + ["tokenizers", "safetensors.torch", "httpx", "jinja2", "yaml", "av", "PIL.Image"]
)
_PACKAGE = _Forked(_LIBRARIES, ["dynfocus.training.train", "dynfocus.eval.run", "dynfocus.cli.app"])


class Forked:
    """
    A process, in a session of its own. At the end of a `with` block it is killed.

    Args:
        entry (`str` or `Path`): `"module:function"`, which is called and whose result is the exit status; or a
            script, or a folder with a `__main__.py`, which is run as one.
        arguments: what follows on the command line.
        package (`bool`): whether the package and transformers are imported already. False where it cannot be
            imported, or variables are set that libraries read when they are imported (`HF_HOME`, `HF_ENDPOINT`).
        environment (`Mapping`): all its variables.
        folder (`Path`, *optional*): where it runs.
        stdin, stdout, stderr (`str` or `Path`, *optional*): files that it opens by their names: a regular file, a
            FIFO, a terminal. By default it reads nothing, and `output` is what it prints to both.
    """

    def __init__(
        self,
        entry: str | Path,
        *arguments: Any,
        package: bool = True,
        environment: Mapping[str, str] = os.environ,
        folder: str | Path | None = None,
        stdin: str | Path = os.devnull,
        stdout: str | Path | None = None,
        stderr: str | Path | None = None,
    ):
        self._scratch = tempfile.TemporaryDirectory()
        self._output = Path(self._scratch.name) / "output"
        streams = tuple(str(name) for name in (stdin, stdout or self._output, stderr or self._output))
        words = [str(entry), *map(str, arguments)]
        self._process = _CONTEXT.Process(target=_run, args=(words, dict(environment), folder or os.getcwd(), streams))
        server = _PACKAGE if package else _LIBRARIES
        with mock.patch.object(forkserver, "connect_to_new_process", server.connect_to_new_process):
            self._process.start()

    def __enter__(self) -> "Forked":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._scratch.cleanup()

    @property
    def sentinel(self) -> int:
        """Ready as soon as the process has ended."""
        return self._process.sentinel

    @property
    def output(self) -> str:
        """What it has printed until now."""
        return self._output.read_text(encoding="utf-8") if self._output.exists() else ""

    def wait(self, timeout: float | None = None) -> int | None:
        """Its exit status, that of a signal negative; None if it runs on after `timeout` seconds."""
        self._process.join(timeout)
        return self._process.exitcode

    def until(self, condition: Callable[[], bool]) -> None:
        """Waits for what the process is to bring about, however long that takes; fails if it ends before."""
        while not condition():
            assert self.wait(0.02) is None, self.output

    def signal(self, number: int) -> None:
        """To the process and all that it has started, as from a terminal."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def kill(self) -> None:
        self._process.kill()
        self.signal(signal.SIGKILL)
        self.wait()


def _run(words: list[str], environment: dict[str, str], folder: str | Path, streams: tuple[str, ...]) -> None:
    import torch

    # Its own processes start as those of a new interpreter do.
    multiprocessing.set_start_method(multiprocessing.get_all_start_methods()[0], force=True)
    os.setsid()
    for number, name in enumerate(streams):
        # A terminal that is opened first becomes that of the session.
        descriptor = os.open(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT if number else os.O_RDONLY)
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdin, sys.stdout = open(0, encoding="utf-8", closefd=False), open(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = open(2, "w", buffering=1, encoding="utf-8", closefd=False)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    tempfile.tempdir = None  # that of its own variables
    torch.set_num_threads(1)
    sys.argv = words
    if Path(words[0]).exists():
        if words[0].endswith(".py"):
            sys.path.insert(0, str(Path(words[0]).parent))
        runpy.run_path(words[0], run_name="__main__")
    else:
        module, _, function = words[0].partition(":")
        sys.exit(getattr(importlib.import_module(module), function)())


def at_once() -> Any:
    """In a `with` block, processes of the start method `"forkserver"` have imported the package when they start."""
    return mock.patch.object(forkserver, "connect_to_new_process", _PACKAGE.connect_to_new_process)


def run(entry: str | Path, *arguments: Any, **options: Any) -> str:
    """Runs a process to its end, which has to be a success, and returns what it printed."""
    with Forked(entry, *arguments, **options) as process:
        assert process.wait() == 0, process.output
        return process.output


def run_in_two(entry: str | Path, *arguments: Any) -> str:
    """The same of two processes that belong together, as `torchrun` starts them."""
    from torch.distributed import TCPStore

    # It is there before the processes are, so that no other process can take its port.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {
        "GLOO_SOCKET_IFNAME": "lo",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
    }
    with contextlib.ExitStack() as stack:
        processes = []
        for rank in ("0", "1"):
            environment = {**os.environ, **shared, "RANK": rank, "LOCAL_RANK": rank}
            processes.append(stack.enter_context(Forked(entry, *arguments, environment=environment)))
        running = {process.sentinel: process for process in processes}
        # If one fails, the other may wait for it without end.
        while running:
            for sentinel in connection.wait(running):
                assert running.pop(sentinel).wait() == 0, "".join(process.output for process in processes)
        return "".join(process.output for process in processes)


def torchrun(entry: str, *arguments: Any) -> str:
    """The same with new interpreters, started as a user would start them."""
    module = entry.partition(":")[0]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", module]
    # On the interface that every machine has.
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
