"""An OpenAI-compatible server: address, key, retries, and one-sentence errors."""

import importlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

_OPENAI = "https://api.openai.com/v1"
_QUOTED = 200  # longest quote of a server in a message, in characters
_NAMES = 8  # most models in a message


class ServerError(ConnectionError):
    """
    Raised if a server could not be reached or did not answer correctly, after all attempts.

    Args:
        message: one sentence.
        quote: the message of the server or the connection.
        status: status of the reply; `None` if there was none.
        code: the server's code of the error, such as `"content_filter"`.
    """

    def __init__(self, message: str, quote: str, status: int | None = None, code: str | None = None):
        super().__init__(message)
        self.quote, self.status, self.code = quote, status, code


@dataclass(frozen=True)
class Reply:
    """
    The reply of a model.

    Args:
        text: the text, possibly empty.
        refusal: the refusal of the model or the server, if any.
        is_cut: whether the text ends at its largest length.
        served_model: the server's name of the model, often more exact than the requested name.
        log_probs: logarithms of the tokens' probabilities, if the server returns them.
        num_prompt_tokens, num_image_tokens: of the whole prompt, and of its pictures, where the server counts them.
    """

    text: str
    refusal: str | None = None
    is_cut: bool = False
    served_model: str | None = None
    log_probs: Sequence[float] | None = None
    num_prompt_tokens: int | None = None
    num_image_tokens: int | None = None


class OpenAIServer:
    """
    An OpenAI-compatible server.

    Redirects are not followed, so that neither the key nor the question is sent to another host.

    Args:
        base_url: address up to `/v1`; by default `OPENAI_BASE_URL`, or OpenAI's own.
        owner: the server's user, with which messages begin, such as `"The judge"`.
        api_key: by default `OPENAI_API_KEY`. It is never written to a file. A server other than OpenAI's may need
            none.
        max_retries: further attempts after a rate limit (as late as `Retry-After` says, up to 2 minutes), a server's
            error or a timeout, with growing pauses.
        timeout: seconds that one attempt may take.

    Raises:
        `ValueError` for an address that is invalid or holds a password, or a key that is missing or invalid;
        `ImportError` without `openai`.
    """

    def __init__(
        self, base_url: str | None, *, owner: str, api_key: str | None = None, max_retries: int, timeout: float
    ):
        try:
            self._openai: Any = importlib.import_module("openai")
        except ImportError:
            raise ImportError(
                f"{owner} on a server needs the `openai` package: pip install 'dynfocus[eval]'."
            ) from None
        self.owner, self.timeout, self._attempts = owner, timeout, max_retries + 1
        base_url = base_url or os.environ.get("OPENAI_BASE_URL") or _OPENAI
        parts = _split(base_url)
        if parts is None or not parts.hostname or parts.scheme not in ("http", "https"):
            raise ValueError(f"{owner}'s base URL has no host: give one like http://localhost:8000/v1.")
        if parts.username or parts.password:
            raise ValueError(
                f"{owner}'s base URL holds a user name or password: give the key by OPENAI_API_KEY instead."
            )
        if parts.query or parts.fragment:
            raise ValueError(f"{owner}'s base URL has a ? or #: give one like http://localhost:8000/v1.")
        #: Host and port, and the whole address; neither holds a secret.
        self.address = parts.netloc
        self.url = f"{parts.scheme}://{parts.netloc}{parts.path}"
        self._key = (api_key or os.environ.get("OPENAI_API_KEY") or "").strip()
        if not self._key and base_url == _OPENAI:
            raise ValueError(f"{owner} has no key: set OPENAI_API_KEY, or OPENAI_BASE_URL for a server of your own.")
        if not (self._key.isascii() and self._key.isprintable()):
            raise ValueError(
                f"{owner}'s key holds characters that no key has, such as a line break: set OPENAI_API_KEY again."
            )
        # The client requires a key, even if the server needs none.
        self._client = self._openai.OpenAI(
            api_key=self._key or "none",
            base_url=base_url,
            max_retries=max_retries,
            timeout=timeout,
            http_client=self._openai.DefaultHttpxClient(follow_redirects=False),
        )

    def chat(self, model: str, messages: Sequence[Any], request: Mapping[str, Any]) -> Reply:
        """
        Request one reply; may be called from several threads.

        Args:
            model: its name on the server.
            messages: in the form of the protocol.
            request: further fields, such as `max_tokens`.

        Raises:
            `ValueError` for a key or a model that the server does not accept; [`ServerError`] for all other errors.
        """
        openai = self._openai
        try:
            response = self._client.chat.completions.create(model=model, messages=messages, **request)
        # The chain of exceptions would hold the request, and with it the key.
        except openai.NotFoundError as error:
            raise self._unknown(model, error) from None
        except (openai.OpenAIError, ValueError, TypeError) as error:
            raise self._error(error, model) from None
        try:
            return self._reply(response)
        except (AttributeError, IndexError, TypeError):
            raise self._no_reply(response) from None

    def models(self) -> list[str] | None:
        """
        The names of its models; `None` if it does not list them.

        Raises:
            `ValueError` for a key that it does not accept; [`ServerError`] if it cannot be reached.
        """
        openai = self._openai
        try:
            return [self.clean(one.id) for one in self._client.models.list().data]
        except (openai.AuthenticationError, openai.PermissionDeniedError, openai.APIConnectionError) as error:
            raise self._error(error) from None
        except (openai.OpenAIError, ValueError, TypeError, AttributeError):
            return None

    def clean(self, text: object) -> str:
        """`text` without the key, which servers repeat in their errors."""
        # Shorter keys are placeholders ("none", "EMPTY"), and may be words of the reply.
        return str(text).replace(self._key, "[key]") if len(self._key) >= 8 else str(text)

    def _reply(self, response: Any) -> Reply:
        choice = response.choices[0]
        message, text = choice.message, self.clean(choice.message.content or "")
        refusal = self.clean(message.refusal) if message.refusal else None
        if choice.finish_reason == "content_filter":
            refusal = refusal or text
        return Reply(
            text=text,
            refusal=refusal,
            is_cut=choice.finish_reason == "length",
            served_model=self.clean(response.model) if response.model else None,
            log_probs=_log_probs(choice),
            num_prompt_tokens=response.usage.prompt_tokens if response.usage else None,
            num_image_tokens=_image_tokens(response.usage),
        )

    def _error(self, error: Exception, model: str = "") -> Exception:
        """The error of a failed request, in one sentence."""
        openai, server = self._openai, f"{self.owner}'s server {self.url}"
        if isinstance(error, openai.APITimeoutError):
            return ServerError(
                f"{server} did not answer within {self.timeout:g} seconds: see whether it is busy or still loading "
                "its model, and ask again.",
                self.clean(error),
            )
        if isinstance(error, openai.APIConnectionError):
            return ServerError(
                f"{server} cannot be reached ({_reason(error)}): start it, or give the address of a running one.",
                self.clean(error),
            )
        if not isinstance(error, openai.APIStatusError):
            return ServerError(
                f"{server} sent no chat completion but {self._quoted(error)}: is its address right up to /v1?",
                self.clean(error),
            )
        status, quote = error.status_code, self._quoted(_said(error))
        if status in (401, 403):
            wanted = f" for {model}" if model else ""
            return ValueError(
                f"{self.owner}'s server {self.address} refuses the key (status {status}): set OPENAI_API_KEY to one "
                f"that it accepts{wanted}."
            )
        if 300 <= status < 400:
            target = _public(error.response.headers.get("location", ""))
            message = f"{server} redirects to {target or 'another address'}: give that address if you trust it."
        elif status < 500 and status not in (408, 409, 429):
            message = f"{server} refuses the request (status {status}): {quote}."
        else:
            tries = "after 1 attempt" if self._attempts == 1 else f"after {self._attempts} attempts"
            message = f"{server} failed {tries} (status {status}): {quote}; ask again later, or look into its log."
            names = self._names() if model and status >= 500 else None
            if names and model not in names:
                message = f"{message.rstrip('.')}. It does not list {model} among its models ({_listed(names)})."
        return ServerError(message, self.clean(error), status, error.code)

    def _unknown(self, model: str, error: Exception) -> ValueError:
        names = self._names()
        start = f"{self.owner}'s server {self.address} has no model {model}"
        if names and model not in names:
            return ValueError(f"{start}: it offers {_listed(names)}.")
        return ValueError(f"{start}, or the base URL is wrong: {self._quoted(_said(error))}.")

    def _names(self) -> list[str] | None:
        """As `models`, for a message about something else."""
        try:
            return self.models()
        except (ValueError, ServerError):
            return None

    def _no_reply(self, response: Any) -> ServerError:
        return ServerError(
            f"{self.owner}'s server {self.url} sent no chat completion but {self._quoted(response)}: is its address "
            "right up to /v1?",
            self.clean(response),
        )

    def _quoted(self, said: object) -> str:
        text = " ".join(self.clean(said).split())
        return f'"{text if len(text) <= _QUOTED else text[: _QUOTED - 1] + "…"}"'


def _split(url: str) -> SplitResult | None:
    try:
        return urlsplit(url)
    except ValueError:
        return None


def _public(url: str) -> str:
    """An address without its secret parts."""
    parts = _split(url)
    if parts is None or not parts.hostname:
        return ""
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NAMES
    return ", ".join(names[:_NAMES]) + (f" and {more} more" if more > 0 else "")


def _reason(error: BaseException) -> str:
    """The innermost cause of a failed connection, such as "Connection refused"."""
    while error.__cause__ is not None:
        error = error.__cause__
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _said(error: Any) -> object:
    """The server's message in an error, in any of the usual forms."""
    body = error.body
    while isinstance(body, dict):
        body = next((body[name] for name in ("message", "error", "detail") if body.get(name)), json.dumps(body))
    return body or error.response.text or error.response.reason_phrase


def _image_tokens(usage: Any) -> int | None:
    # A field of newer versions of the client, which few servers fill.
    return getattr(getattr(usage, "prompt_tokens_details", None), "image_tokens", None)


def _log_probs(choice: Any) -> list[float] | None:
    """The logarithms of probabilities of a reply's tokens, if all are there."""
    try:
        found = [float(token.logprob) for token in choice.logprobs.content]
    except (AttributeError, TypeError, ValueError):
        return None
    return found or None


__all__ = ["OpenAIServer", "Reply", "ServerError"]
