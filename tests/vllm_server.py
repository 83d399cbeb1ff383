"""A real `vllm serve`, for tests marked `vllm`."""

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

#: Marks of a module of such tests. A server starts for minutes on a busy machine.
MARKS = [
    pytest.mark.vllm,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
]


class Server:
    """`vllm serve MODEL` on a free port, as long as the `with` lasts."""

    def __init__(self, model, log, *options):
        self.model, self.log = str(model), log
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.port = found.getsockname()[1]
        # Without `--dtype float32`, vLLM uses bfloat16 for weights in float32.
        command = [sys.executable, "-P", "-m", "vllm.entrypoints.cli.main", "serve", self.model, "--dtype", "float32"]
        command += ["--host", "127.0.0.1", "--port", str(self.port), "--enforce-eager", *options]
        settings = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}
        with log.open("w") as output:
            self.process = subprocess.Popen(
                command, stdout=output, stderr=output, env={**os.environ, **settings}, start_new_session=True
            )

    def __enter__(self):
        for _ in range(600):
            if self.process.poll() is not None:
                break
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5)
                return self
            except OSError:
                time.sleep(2)
        self.__exit__()
        raise RuntimeError(f"vLLM did not start: {self.log.read_text()[-3000:]}")

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                pass
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def post(self, messages, **fields):
        """Status and reply, or the message of an error."""
        body = {"model": self.model, "messages": messages, "temperature": 0, "max_tokens": 32, **fields}
        body |= {"logprobs": True, "return_token_ids": True}
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v1/chat/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=900) as reply:
                return reply.status, json.load(reply)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)["error"]["message"]
