"""The Hub's protocol: what is answered to each request, from the repositories of a `HubServer`."""

import base64
import fnmatch
import hashlib
import json
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

#: What `HubServer.fail` gives to lose the connection: in the middle of what the client sends, or else of the answer.
DROP = object()

_LARGE = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.mp4", "*.png")
_DATE = "2026-01-01T00:00:00.000Z"
_ID, _REVISION = r"(?P<id>[^/]+(?:/[^/]+)?)", r"(?P<revision>[^/]+)"
_API = f"/api/models/{_ID}"
_ROUTES: list[tuple[str, str, str]] = [
    ("HEAD|GET", rf"/{_ID}/resolve/{_REVISION}/(?P<path>.+)", "resolve"),
    ("GET", "/api/whoami-v2", "whoami"),
    ("POST", "/api/repos/create", "create"),
    ("DELETE", "/api/repos/delete", "delete"),
    ("POST", "/api/validate-yaml", "validate_card"),
    ("GET", rf"{_API}/revision/{_REVISION}", "info"),
    ("GET", rf"{_API}/tree/{_REVISION}(?:/(?P<path>.+))?", "tree"),
    ("POST", rf"{_API}/paths-info/{_REVISION}", "paths_info"),
    ("GET", rf"{_API}/refs", "refs"),
    ("GET", rf"{_API}/commits/{_REVISION}", "commits"),
    ("POST", rf"{_API}/branch/(?P<branch>[^/]+)", "create_branch"),
    ("POST", rf"{_API}/preupload/{_REVISION}", "preupload"),
    ("POST", rf"{_API}/commit/{_REVISION}", "commit"),
    ("GET", _API, "info"),
    ("POST", rf"/{_ID}\.git/info/lfs/objects/batch", "lfs_batch"),
    ("PUT", "/lfs/objects/(?P<oid>[0-9a-f]{64})", "lfs_upload"),
    ("POST", "/lfs/verify", "lfs_verify"),
]


@dataclass
class Commit:
    """A state of a repository."""

    sha: str
    title: str
    files: dict[str, bytes]


@dataclass
class Repo:
    """A model's repository; what others than its owner may read of a gated one is its card."""

    private: bool
    gated: bool
    history: list[Commit] = field(default_factory=list)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def find(self, revision: str) -> Commit | None:
        sha = self.branches.get(revision) or self.tags.get(revision) or revision
        return next((commit for commit in self.history if commit.sha == sha), None)


class Refusal(Exception):
    """An answer other than 200: its status, its sentence, and the code by which the client knows it."""

    def __init__(self, status: int, message: str, code: str | None = None, sha: str | None = None):
        super().__init__(message)
        self.status = status
        self.headers = {"X-Error-Message": message}
        if code is not None:
            self.headers["X-Error-Code"] = code
        if sha is not None:
            self.headers["X-Repo-Commit"] = sha


def is_large(path: str, sample: bytes) -> bool:
    """Whether the Hub keeps a file in its large file storage: by its name, or because it is no text."""
    return any(fnmatch.fnmatch(path, pattern) for pattern in _LARGE) or b"\0" in sample[:512]


def etag_of(path: str, data: bytes) -> str:
    """The name of a file's content: SHA-256 of a large file, else git's hash."""
    if is_large(path, data):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _entry(path: str, data: bytes) -> dict[str, Any]:
    oid = etag_of(path, data)
    entry = {"type": "file", "path": path, "size": len(data), "oid": oid}
    return {**entry, "lfs": {"oid": oid, "size": len(data), "pointerSize": 134}} if is_large(path, data) else entry


def handler_of(hub: Any) -> type[BaseHTTPRequestHandler]:
    class Handler(_Handler):
        pass

    Handler.hub = hub
    return Handler


class _Handler(BaseHTTPRequestHandler):
    hub: Any
    protocol_version = "HTTP/1.1"
    # Head and body of an answer go out in two packets: the second must not wait for the first to be acknowledged.
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def _answer(self) -> None:
        address = urlsplit(self.path)
        path, self.query = unquote(address.path), parse_qs(address.query)
        if self.hub.stopped:
            return self._drop()
        self.hub.requests.append((self.command, path))
        failure = self.hub.fail(self.command, path)
        length = int(self.headers.get("Content-Length", 0))
        if failure is DROP and length:
            self.rfile.read(length // 2)
            return self._drop()
        # Whatever the answer: what is left unread would be taken for the next request.
        self.body = (
            self._read_chunks() if self.headers.get("Transfer-Encoding") == "chunked" else self.rfile.read(length)
        )
        if failure is not None and failure is not DROP:
            return self._send(*failure)
        try:
            with self.hub.lock:
                status, headers, body = self._route(address.path)
        except Refusal as refusal:
            status, headers, body = refusal.status, refusal.headers, {"error": str(refusal)}
        self._send(status, headers, body, cut=failure is DROP)

    def _read_chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _route(self, path: str) -> tuple[int, dict[str, str], Any]:
        for methods, pattern, name in _ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in methods.split("|"):
                found = {key: unquote(value) for key, value in match.groupdict().items() if value is not None}
                result = getattr(self, f"_{name}")(**found)
                return result if isinstance(result, tuple) else (200, {}, result)
        raise Refusal(404, f"{self.command} {path}: there is no such route.")

    def _send(self, status: int, headers: Mapping[str, str], body: Any, cut: bool = False) -> None:
        if not isinstance(body, bytes):
            headers = {"Content-Type": "application/json", **headers}
            body = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:
            self._drop()

    def _drop(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    # Who asks, and what they may see

    def _user(self) -> tuple[str | None, str]:
        """Name (None: anonymous) and role."""
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        if not token:
            return None, "read"
        if scheme != "Bearer" or token not in self.hub.tokens:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return self.hub.tokens[token]

    def _repo(self, name: str) -> Repo:
        user, _ = self._user()
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and user != name.partition("/")[0]):
            # To those without a token the Hub does not even say that there is nothing.
            raise Refusal(401 if user is None else 404, "Repository not found", "RepoNotFound")
        return repo

    def _commit_at(self, name: str, revision: str) -> Commit:
        commit = self._repo(name).find(revision)
        if commit is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def _check_writable(self, name: str) -> None:
        user, role = self._user()
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        if user != name.partition("/")[0]:
            raise Refusal(403, f'You don\'t have the rights to write under the namespace "{name.partition("/")[0]}"')
        if role != "write":
            raise Refusal(403, "You must use a token with write access")

    def _json(self) -> Any:
        return json.loads(self.body)

    # Reading

    def _resolve(self, id: str, revision: str, path: str) -> tuple[int, dict[str, str], bytes]:
        commit, user = self._commit_at(id, revision), self._user()[0]
        if self.hub.repos[id].gated and user != id.partition("/")[0] and path not in ("README.md", ".gitattributes"):
            sentence = f"Access to model {id} is restricted. You must have access to it and be authenticated."
            raise Refusal(401 if user is None else 403, sentence, "GatedRepo", commit.sha)
        if path not in commit.files:
            raise Refusal(404, "Entry not found", "EntryNotFound", commit.sha)
        data = commit.files[path]
        headers = {
            "Content-Type": "application/octet-stream",
            "ETag": f'"{etag_of(path, data)}"',
            "X-Repo-Commit": commit.sha,
            "Accept-Ranges": "bytes",
        }
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            return 200, headers, data
        start, end = int(wanted[1]), min(int(wanted[2] or len(data)), len(data) - 1)
        if start > end:
            raise Refusal(416, "Range not satisfiable")
        return 206, {**headers, "Content-Range": f"bytes {start}-{end}/{len(data)}"}, data[start : end + 1]

    def _info(self, id: str, revision: str = "main") -> dict[str, Any]:
        commit, repo = self._commit_at(id, revision), self.hub.repos[id]
        card = re.match(r"---\n(.*?)\n---", commit.files.get("README.md", b"").decode(errors="replace"), re.DOTALL)
        described = yaml.safe_load(card[1]) if card else {}
        return {
            "_id": id,
            "id": id,
            "modelId": id,
            "author": id.partition("/")[0],
            "sha": commit.sha,
            "lastModified": _DATE,
            "createdAt": _DATE,
            "private": repo.private,
            "gated": "manual" if repo.gated else False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": described.get("tags", []),
            **{name: described[name] for name in ("library_name", "pipeline_tag") if name in described},
            "cardData": described,
            "siblings": [{"rfilename": path} for path in commit.files],
        }

    def _tree(self, id: str, revision: str, path: str = "") -> list[dict[str, Any]]:
        commit, recursive = self._commit_at(id, revision), self.query.get("recursive", ["false"])[0].lower() == "true"
        inside = f"{path}/" if path else ""
        files = {name: data for name, data in commit.files.items() if name.startswith(inside)}
        if path and not files:
            raise Refusal(404, f"{path} does not exist on {revision}", "EntryNotFound", commit.sha)
        folders = {str(parent) for name in files for parent in Path(name).parents}
        folders = {name for name in folders if name != "." and name.startswith(inside)}

        def is_shown(name: str) -> bool:
            return recursive or "/" not in name.removeprefix(inside)

        shown = [{"type": "directory", "path": name, "size": 0, "oid": "0" * 40} for name in sorted(folders)]
        shown += [_entry(name, data) for name, data in sorted(files.items())]
        return [entry for entry in shown if is_shown(entry["path"])]

    def _paths_info(self, id: str, revision: str) -> list[dict[str, Any]]:
        if self.headers.get("Content-Type", "").startswith("application/json"):
            paths = self._json()["paths"]
        else:
            paths = parse_qs(self.body.decode()).get("paths", [])
        files = self._commit_at(id, revision).files
        return [_entry(path, files[path]) for path in paths if path in files]

    def _refs(self, id: str) -> dict[str, Any]:
        repo = self._repo(id)

        def listed(names: dict[str, str], kind: str) -> list[dict[str, str]]:
            return [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": sha} for name, sha in names.items()]

        return {"branches": listed(repo.branches, "heads"), "converts": [], "tags": listed(repo.tags, "tags")}

    def _commits(self, id: str, revision: str) -> list[dict[str, Any]]:
        self._commit_at(id, revision)
        listed = {"message": "", "authors": [], "date": _DATE}
        return [{"id": one.sha, "title": one.title, **listed} for one in reversed(self.hub.repos[id].history)]

    def _whoami(self) -> dict[str, Any]:
        user, role = self._user()
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        return {
            "type": "user",
            "name": user,
            "orgs": [],
            "auth": {"type": "access_token", "accessToken": {"role": role}},
        }

    # Writing

    def _create(self) -> Any:
        asked = self._json()
        name = f"{asked.get('organization') or self._user()[0]}/{asked['name']}"
        self._check_writable(name)
        found = {"url": f"{self.hub.url}/{name}", "name": name, "id": name}
        if name in self.hub.repos:
            return 409, {"X-Error-Message": "You already created this model repo"}, {**found, "error": "It exists"}
        self.hub.add_repo(name, private=asked.get("visibility") == "private" or bool(asked.get("private")))
        return found

    def _delete(self) -> dict[str, Any]:
        asked = self._json()
        name = f"{asked.get('organization') or self._user()[0]}/{asked['name']}"
        self._check_writable(name)
        self._repo(name)
        del self.hub.repos[name]
        return {}

    def _create_branch(self, id: str, branch: str) -> dict[str, Any]:
        self._check_writable(id)
        repo = self._repo(id)
        if branch in repo.branches:
            raise Refusal(409, f"Reference already exists: refs/heads/{branch}")
        start = self._json().get("startingPoint", "main") if self.body else "main"
        repo.branches[branch] = self._commit_at(id, start).sha
        return {}

    def _validate_card(self) -> tuple[int, dict[str, str], dict[str, Any]]:
        card = re.match(r"---\n(.*?)\n---", self._json()["content"], re.DOTALL)
        if card is None:
            return 200, {}, {"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}]}
        try:
            described = yaml.safe_load(card[1])
        except yaml.YAMLError as error:
            return 400, {}, {"errors": [{"message": f"YAML: {error}"}], "warnings": []}
        if not isinstance(described, dict):
            return 400, {}, {"errors": [{"message": '"value" must be of type object'}], "warnings": []}
        return 200, {}, {"errors": [], "warnings": []}

    def _preupload(self, id: str, revision: str) -> dict[str, Any]:
        files = self._commit_at(id, revision).files
        self._check_writable(id)

        def planned(file: dict[str, Any]) -> dict[str, Any]:
            path = file["path"]
            large = is_large(path, base64.b64decode(file["sample"])) or file["size"] > 10_000_000
            oid = etag_of(path, files[path]) if path in files else None
            return {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": oid}

        return {"files": [planned(file) for file in self._json()["files"]]}

    def _commit(self, id: str, revision: str) -> dict[str, Any]:
        head = self._commit_at(id, revision)
        self._check_writable(id)
        header: dict[str, Any] = {}
        changes: dict[str, bytes | None] = {}
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            match item["key"]:
                case "header":
                    header = value
                case "file":
                    changes[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    if value["oid"] not in self.hub.large_files:
                        raise Refusal(400, f"{value['path']}: the object {value['oid']} was never uploaded")
                    changes[value["path"]] = self.hub.large_files[value["oid"]]
                case "deletedFile":
                    if value["path"] not in head.files:
                        raise Refusal(404, "A file with this name doesn't exist", "EntryNotFound", head.sha)
                    changes[value["path"]] = None
                case "deletedFolder":
                    inside = f"{value['path'].rstrip('/')}/"
                    changes |= {path: None for path in head.files if path.startswith(inside)}
                case key:
                    raise Refusal(400, f"An operation {key} is not known here")
        if header.get("parentCommit") not in (None, head.sha):
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        sha = self.hub.commit(id, changes, revision=revision, message=header["summary"])
        return {"success": True, "commitOid": sha, "commitUrl": f"{self.hub.url}/{id}/commit/{sha}", "hookOutput": ""}

    def _lfs_batch(self, id: str) -> dict[str, Any]:
        self._repo(id)
        self._check_writable(id)

        def planned(wanted: dict[str, Any]) -> dict[str, Any]:
            entry = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] in self.hub.large_files:
                return entry
            actions = {
                "upload": {"href": f"{self.hub.url}/lfs/objects/{wanted['oid']}", "header": {}},
                "verify": {"href": f"{self.hub.url}/lfs/verify", "header": {}},
            }
            return {**entry, "authenticated": True, "actions": actions}

        return {"transfer": "basic", "objects": [planned(wanted) for wanted in self._json()["objects"]]}

    def _lfs_upload(self, oid: str) -> tuple[int, dict[str, str], bytes]:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Refusal(400, "The content does not match its hash")
        self.hub.large_files[oid] = self.body
        return 200, {"ETag": f'"{oid}"'}, b""

    def _lfs_verify(self) -> dict[str, Any]:
        asked = self._json()
        if len(self.hub.large_files.get(asked["oid"], b"")) != asked["size"]:
            raise Refusal(404, "The object is not there", "EntryNotFound")
        return {"success": True}


__all__ = ["DROP", "Commit", "Repo", "etag_of", "handler_of", "is_large"]
