"""
A Hub on the loopback interface: as much of its protocol as loading and pushing models takes.

```python
with HubServer() as hub:
    first = hub.add_repo("user/tiny", folder)
    second = hub.commit("user/tiny", {"README.md": "# Tiny"})
    # … HF_ENDPOINT=hub.url HF_HUB_DISABLE_XET=1 HF_TOKEN=hf_user, in a process of its own …
    hub.files("user/tiny")["README.md"]
```
"""

import hashlib
from collections.abc import Callable, Mapping
from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import RLock, Thread
from typing import Any

from hub_protocol import DROP, Commit, Repo, etag_of, handler_of, is_large

Files = Mapping[str, bytes | str]


class HubServer:
    """
    Serves repositories from memory, from construction until `stop` (or the end of a `with` block).

    Args:
        tokens: who a token stands for, and whether it may `"write"` or only `"read"`. A user owns the namespace of
            that name; only the owner sees private and gated repositories.

    Attributes:
        url: for `HF_ENDPOINT`.
        requests: `(method, path)` of all requests, in order.
        fail: is asked before every answer with the method and the path; gives `(status, headers, body)` to send
            instead, `DROP` to lose the connection, or None.
    """

    def __init__(self, tokens: Mapping[str, tuple[str, str]] | None = None):
        self.tokens = {
            "hf_user": ("user", "write"),
            "hf_reader": ("user", "read"),
            "hf_stranger": ("stranger", "write"),
            **(tokens or {}),
        }
        self.requests: list[tuple[str, str]] = []
        self.fail: Callable[[str, str], Any] = lambda method, path: None
        self.stopped = False
        self.lock = RLock()
        self.repos: dict[str, Repo] = {}
        self.large_files: dict[str, bytes] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(self))
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def __enter__(self) -> "HubServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """From now on nothing listens at `url`."""
        self.stopped = True
        self._server.shutdown()
        self._server.server_close()

    def add_repo(
        self, name: str, content: str | Path | Files | None = None, *, private: bool = False, gated: bool = False
    ) -> str:
        """A new repository `user/name` with the files of a folder (or those given) on `main`; returns the commit."""
        if isinstance(content, (str, Path)):
            folder = Path(content)
            content = {
                path.relative_to(folder).as_posix(): path.read_bytes()
                for path in sorted(folder.rglob("*"))
                if path.is_file()
            }
        with self.lock:
            self.repos[name] = Repo(private=private, gated=gated)
            self.repos[name].branches["main"] = self._record(name, {}, "initial commit")
            return self.commit(name, content) if content else self.sha(name)

    def commit(
        self, name: str, files: Mapping[str, bytes | str | None], *, revision: str = "main", message: str = "Upload"
    ) -> str:
        """A commit on a branch that writes `files` (deletes those that are None); returns its hash."""
        with self.lock:
            state = self.files(name, revision)
            for path, data in files.items():
                if data is None:
                    state.pop(path)
                else:
                    state[path] = data.encode() if isinstance(data, str) else bytes(data)
            self.repos[name].branches[revision] = self._record(name, state, message)
            return self.repos[name].branches[revision]

    def tag(self, name: str, tag: str, revision: str = "main") -> None:
        """Gives the commit at `revision` a name that stays."""
        self.repos[name].tags[tag] = self.sha(name, revision)

    def files(self, name: str, revision: str = "main") -> dict[str, bytes]:
        """All files by their paths."""
        return dict(self._at(name, revision).files)

    def sha(self, name: str, revision: str = "main") -> str:
        """The hash of the commit at a branch or tag."""
        return self._at(name, revision).sha

    def history(self, name: str) -> list[str]:
        """The titles of all commits, the oldest first."""
        return [commit.title for commit in self.repos[name].history]

    def requested(self, *methods: str) -> list[str]:
        """The paths of all requests so far, or of those with these methods."""
        return [path for method, path in self.requests if not methods or method in methods]

    def _at(self, name: str, revision: str) -> Commit:
        commit = self.repos[name].find(revision)
        if commit is None:
            raise KeyError(f"{name} has no revision {revision}.")
        return commit

    def _record(self, name: str, files: dict[str, bytes], message: str) -> str:
        history = self.repos[name].history
        content = {path: etag_of(path, data) for path, data in files.items()}
        sha = hashlib.sha1(f"{name} {len(history)} {message} {content}".encode()).hexdigest()
        history.append(Commit(sha, message, files))
        for path, data in files.items():
            if is_large(path, data):
                self.large_files[hashlib.sha256(data).hexdigest()] = data
        return sha


__all__ = ["DROP", "HubServer"]
