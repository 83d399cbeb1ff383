"""Copies sources that cannot be read like a file (URLs, pipes, remote stores) to a temporary file, within limits."""

import ipaddress
import re
import socket
import tempfile
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from queue import Empty, Full, Queue
from threading import Event, Thread
from types import ModuleType
from typing import IO, Any

from .limits import ReadingLimits

_CHUNK_BYTES = 1 << 20
_LONGEST_NAME = 160
_MINUTE = 60.0
_MOST_REDIRECTS = 10
# Attempts after errors of the server, and seconds before the second and third.
_PAUSES = (0.0, 0.5, 2.0)
_PASSING = {408, 425, 429, 500, 502, 503, 504}
# IPv6 addresses that end in an IPv4 address: of NAT64, and the old "compatible" ones.
_AROUND_IPV4 = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("::/96"))
# NAT64 of a private network.
_PRIVATE = ipaddress.ip_network("64:ff9b:1::/48")


class _Passing(Exception):
    """A failure that the next attempt may not have; its cause is the error to raise if it does."""


def public_name(source: Any) -> str:
    """
    The printed name of a path or an address.

    User, password, query and fragment of an address are removed, because they may hold secrets; an address that cannot
    be parsed is not shown at all. Long names are shortened, and control characters are removed.
    """
    text = str(source)
    if text.lstrip()[:5].lower() == "data:":
        return f"a data: URL of {len(text)} characters"
    links = re.split(r"::(?=[A-Za-z][\w+.-]*://)", text.strip() if "://" in text else text)
    text = "::".join(_public_link(link) for link in links)
    text = "".join(c if unicodedata.category(c)[0] != "C" else "\N{REPLACEMENT CHARACTER}" for c in text)
    return text if len(text) <= _LONGEST_NAME else f"{text[: _LONGEST_NAME // 2]}…{text[-_LONGEST_NAME // 2 :]}"


def _public_link(text: str) -> str:
    scheme, mark, rest = text.partition("://")
    if not mark:
        return re.sub(r"(?is)^(\s*(https?|ftp):).*", r"\1…", text)
    plain = re.split(r"[?#;\\]", rest, maxsplit=1)[0]
    if scheme.lower() in ("hf", "file"):  # no user names here: an @ is followed by a revision
        return f"{scheme}://{plain}"
    authority, slash, path = plain.partition("/")
    _, _, host = authority.rpartition("@")
    unclear = "@" in path or ("@" in rest[len(plain) :] and ":" in authority) or "://" in path
    if unclear or not re.fullmatch(r"[\w.\-\[\]:]*", host):
        return f"{scheme}://…"
    return f"{scheme}://{host}{slash}{path}"


def without_addresses(error: BaseException, *secrets: str) -> str:
    """The message of an error of another library on one line, without any address in it."""
    text = " ".join(str(error).split())
    for secret in sorted((s for s in secrets if s), key=len, reverse=True):
        text = text.replace(secret, "…")
    text = re.sub(r"\S*://\S*", "…", text)
    return text[:200].rstrip(" .") or type(error).__name__


def download(url: str, timeout: float, limits: ReadingLimits) -> IO[bytes]:
    """
    Download an http(s) address to a temporary file.

    Redirects are followed to http(s) addresses only, and credentials are sent only to the host that they were given
    for. If `limits` allow no private addresses, each host's name is looked up once, and exactly these addresses are
    connected to. After a server error or a broken connection there are two more attempts.

    Raises:
        FileNotFoundError: the server answers 404 or 410.
        ValueError: for other failures; the message holds no secrets.
    """
    name = public_name(url)
    deadline = time.monotonic() + limits.max_seconds
    for pause in _PAUSES:
        time.sleep(min(pause, max(0.0, deadline - time.monotonic())))
        transfer = _Transfer(url, name, timeout, limits)
        try:
            return copy_bounded(
                transfer.chunks(), name, limits, silence=2 * timeout + 1, deadline=deadline, stop=transfer.close
            )
        except _Passing as failure:
            error = failure.__cause__
        finally:
            transfer.close()
    assert error is not None
    raise error from None


def copy_bounded(
    chunks: Iterator[bytes],
    name: str,
    limits: ReadingLimits,
    silence: float,
    deadline: float | None = None,
    stop: Callable[[], object] = lambda: None,
) -> IO[bytes]:
    """
    Writes chunks to a temporary file, within the size and time that `limits` allow.

    The chunks are read in a thread, so that a stalled source blocks only that thread.

    Args:
        chunks: of bytes, until the end.
        name: the source's name in errors.
        silence: seconds without a chunk after which the source counts as stalled.
        deadline: by `time.monotonic`; default `limits.max_seconds` from now.
        stop: called if the copy ends early, to wake the thread up.

    Raises:
        ValueError: a limit is reached. Errors of `chunks` are raised as well.
    """
    queue: Queue[tuple[bytes, BaseException | None]] = Queue(2)
    stopped = Event()

    def put(item: tuple[bytes, BaseException | None]) -> None:
        while not stopped.is_set():
            with suppress(Full):
                return queue.put(item, timeout=0.2)

    def produce() -> None:
        error = None
        try:
            for chunk in chunks:
                if chunk:
                    put((chunk, None))
                if stopped.is_set():
                    return
        except BaseException as raised:
            error = raised
        put((b"", error))

    now = time.monotonic()
    deadline = now + limits.max_seconds if deadline is None else deadline
    copy = tempfile.TemporaryFile()
    size, minute, size_then = 0, now + _MINUTE, 0
    Thread(target=produce, name="dynfocus-download", daemon=True).start()
    try:
        while True:
            now = time.monotonic()
            try:
                chunk, error = queue.get(timeout=max(0.0, min(silence, deadline - now)))
            except Empty:
                if time.monotonic() >= deadline:
                    raise ValueError(_too_long(name, limits)) from None
                raise ValueError(f"{name}: stalled for {silence:g} s; try again later, or raise `timeout`.") from None
            if error is not None:
                raise error
            if not chunk:
                break
            if limits.given_up is not None and limits.given_up.is_set():
                raise ValueError(f"{name}: was given up.")
            size += len(chunk)
            if size > limits.max_bytes:
                raise ValueError(too_large(name, limits))
            try:
                copy.write(chunk)
            except OSError as full:
                cause = full.strerror or type(full).__name__
                raise ValueError(
                    f"{name}: cannot be copied to {tempfile.gettempdir()}: {cause}; free some space, or set TMPDIR."
                ) from None
            now = time.monotonic()
            if now > deadline:
                raise ValueError(_too_long(name, limits))
            if now > minute:
                if size - size_then < limits.min_bytes_per_minute:
                    raise ValueError(
                        f"{name}: stalled: only {size - size_then} bytes came within a minute; try again later, or "
                        "lower ReadingLimits(min_bytes_per_minute=…)."
                    )
                minute, size_then = now + _MINUTE, size
    except BaseException:
        stopped.set()
        stop()
        copy.close()  # otherwise an exception that is kept would keep it open
        raise
    return copy


def too_large(name: str, limits: ReadingLimits) -> str:
    return f"{name}: is larger than {limits.max_bytes} bytes; raise ReadingLimits(max_bytes=…) to read it."


def _too_long(name: str, limits: ReadingLimits) -> str:
    return f"{name}: took longer than {limits.max_seconds:g} s; raise ReadingLimits(max_seconds=…) to wait for it."


def http_client() -> ModuleType:
    """The HTTP client that huggingface_hub depends on."""
    try:
        return import_module("httpx2")
    except ImportError:
        return import_module("httpx")


class _Transfer:
    """One attempt at a download."""

    def __init__(self, url: str, name: str, timeout: float, limits: ReadingLimits):
        self.http = http_client()
        self.name, self.timeout, self.limits = name, timeout, limits
        try:
            self.url = self.http.URL(url.strip())
            if not self.url.host:
                raise ValueError
        except (self.http.InvalidURL, ValueError, UnicodeError, TypeError):
            raise ValueError(
                f"{name}: is not a valid address; write special characters in user, password and path as %XX."
            ) from None
        # A proxy would look up names by itself.
        self.client = self.http.Client(timeout=timeout, trust_env=limits.allow_private_addresses)

    def close(self) -> None:
        with suppress(Exception):
            self.client.close()

    def chunks(self) -> Iterator[bytes]:
        http = self.http
        received = 0
        response = None
        try:
            response = self._follow()
            declared = response.headers.get("content-length", "")
            if declared.isdigit() and int(declared) > self.limits.max_bytes:
                raise ValueError(too_large(self.name, self.limits))
            for chunk in response.iter_bytes():
                received = response.num_bytes_downloaded
                yield chunk
            if declared.isdigit() and response.num_bytes_downloaded < int(declared):
                raise http.RemoteProtocolError("")
        except FileNotFoundError:
            raise
        except ValueError as error:
            if str(error).startswith(self.name):
                raise
            raise ValueError(f"{self.name}: leads to what is not a valid address.") from None
        except http.ConnectTimeout:
            raise _Passing from ValueError(f"{self.name}: cannot be reached: no answer for {self.timeout:g} s.")
        except http.TimeoutException:
            raise ValueError(f"{self.name}: the download stalled for {self.timeout:g} s.") from None
        except http.ConnectError as error:
            raise _Passing from ValueError(f"{self.name}: cannot be reached: {self._cause(error)}.")
        except http.DecodingError:
            raise ValueError(f"{self.name}: the server's compression is damaged.") from None
        except (http.HTTPError, http.StreamError, OSError) as error:
            if response is not None and (declared := response.headers.get("content-length", "")).isdigit():
                received = response.num_bytes_downloaded
                message = f"{self.name}: the download broke off after {received} of {declared} bytes."
            else:
                message = f"{self.name}: the download failed: {self._cause(error)}."
            raise _Passing from ValueError(message)
        except http.InvalidURL:
            raise ValueError(f"{self.name}: leads to what is not a valid address.") from None
        finally:
            if response is not None:
                response.close()

    def _cause(self, error: Exception) -> str:
        return without_addresses(error, str(self.url), self.url.password, self.url.query.decode("ascii", "replace"))

    def _follow(self) -> Any:
        """The response of the last server in a chain of redirects."""
        url, credentials, home = self.url, None, None
        for _ in range(_MOST_REDIRECTS):
            if url.scheme not in ("http", "https") or not url.host:
                raise ValueError(f"{self.name}: leads to a {url.scheme}:// address; only http(s) is followed.")
            origin = url.scheme, url.host, url.port
            if url.userinfo:
                credentials, home = (url.username, url.password), origin
            response = self._send(url, credentials if origin == home else None)
            if response.status_code in (301, 302, 303, 307, 308) and "location" in response.headers:
                response.close()
                url = url.copy_with(userinfo=b"").join(response.headers["location"])
                continue
            return self._checked(response)
        raise ValueError(f"{self.name}: redirects more than {_MOST_REDIRECTS} times.")

    def _send(self, url: Any, credentials: tuple[str, str] | None) -> Any:
        plain = url.copy_with(userinfo=b"", fragment=None)
        headers = {"User-Agent": "dynfocus", "Accept-Encoding": "identity"}
        addresses: list[str | None] = [None]
        if not self.limits.allow_private_addresses:
            addresses = [*self._public_addresses(plain)]
            headers["Host"] = plain.netloc.decode("ascii")
        for last, address in zip([False] * (len(addresses) - 1) + [True], addresses, strict=True):
            target = plain if address is None else plain.copy_with(host=address)
            extensions = {} if address is None else {"sni_hostname": plain.raw_host.decode("ascii")}
            request = self.client.build_request("GET", target, headers=headers, extensions=extensions)
            try:
                return self.client.send(request, stream=True, auth=credentials)
            except self.http.ConnectError:
                if last:
                    raise
        raise AssertionError

    def _public_addresses(self, url: Any) -> list[str]:
        """The addresses of a host, if all of them are outside of this machine and its networks."""
        port = url.port or {"http": 80, "https": 443}[url.scheme]
        try:
            found = socket.getaddrinfo(url.host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise _Passing from ValueError(f"{self.name}: cannot be reached: {self._cause(error)}.")
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        for address in addresses:
            if not _is_public(address):
                raise ValueError(
                    f"{self.name}: leads to the private address {address}; pass ReadingLimits("
                    "allow_private_addresses=True) where the one who gave the address may read from there."
                )
        return addresses

    def _checked(self, response: Any) -> Any:
        status = response.status_code
        if status == 200:
            return response
        reason = f" ({response.reason_phrase[:60]})" if response.reason_phrase.isprintable() else ""
        message = f"{self.name}: the server answered {status}{reason}."
        if status in (404, 410):
            raise FileNotFoundError(message)
        if status in _PASSING:
            raise _Passing from ValueError(message)
        raise ValueError(message)


def _is_public(address: str) -> bool:
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo or (None, None))[1]
        if inner is None and any(ip in network for network in _AROUND_IPV4):
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            ip = inner
        elif ip in _PRIVATE or ip.is_site_local:
            return False
    return ip.is_global and not ip.is_multicast


__all__ = ["copy_bounded", "download", "http_client", "public_name", "too_large", "without_addresses"]
