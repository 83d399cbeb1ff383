"""A language model that judges free answers: on any OpenAI-compatible server, or a local one of transformers.

```python
judge = Judge("gpt-4o-mini", cache="runs/a/verdicts.jsonl")
verdicts = judge.verdicts([{"id": "7", "question": "What is it?", "reference": "a dog", "prediction": "dog"}])
verdicts[0].correct, verdicts[0].score, judge.record()
```
"""

import hashlib
import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dynfocus.adoption.openai_server import OpenAIServer, ServerError

from .judge_prompts import JudgePrompt, get_prompt, is_refusal, parse_verdict

LOCAL = "local:"


@dataclass(frozen=True)
class Verdict:
    """
    The judge's verdict on one answer.

    Attributes:
        id: the row's.
        status: `"judged"`, `"refused"` (the judge declined), `"malformed"` (the reply holds no verdict) or `"failed"`
            (there was no reply; the next run asks again).
        correct: None if the answer was not judged, and with prompts that ask only for a score.
        score: 0 to 5; None if the answer was not judged.
        reply: the judge's reply, or the error of a failure.
        date: day of the verdict, in UTC.
        served_model: the server's name of the model, often more exact than the requested name.
    """

    id: str
    status: str
    correct: bool | None = None
    score: float | None = None
    reply: str = ""
    date: str = ""
    served_model: str | None = None

    @property
    def prediction(self) -> dict[str, Any]:
        """The verdict in the form of the metric `judged_video_qa`."""
        return {"status": self.status, "correct": self.correct, "score": self.score}


class Judge:
    """
    Judges answers against references, each once: verdicts are kept in a file, so that an interrupted run can continue.

    Args:
        model: name of the model on the server, or `local:` and the path or Hub id of a text generation model.
        cache: file of JSON lines, to which verdicts are appended; it may hold verdicts of other models, prompts or
            settings.
        base_url: the server, up to `/v1`; by default `OPENAI_BASE_URL`, or OpenAI's own.
        api_key: by default `OPENAI_API_KEY`. It is never written to a file. A server other than OpenAI's may need
            none.
        prompt: `"open_ended"`, or an aspect of Video-ChatGPT: `"correctness"`, `"detail"`, `"context"`, `"temporal"`,
            `"consistency"`.
        max_retries: further attempts after a rate limit (as late as `Retry-After` says, up to 2 minutes), a server's
            error or a timeout, with growing pauses.
        timeout: seconds that one attempt may take.
        concurrency: largest number of simultaneous requests; a local model takes one.
        request: further fields of the request, by default `{"temperature": 0, "max_tokens": 512}`; some models refuse
            these and need `{}` or others. A local model uses only `max_tokens`, and never samples.
        give_up_after: number of consecutive failures that end the run.

    Raises:
        `ValueError` for an unknown prompt, or a key that is missing or invalid; `ImportError` without `openai`.
    """

    def __init__(
        self,
        model: str,
        *,
        cache: str | os.PathLike[str],
        base_url: str | None = None,
        api_key: str | None = None,
        prompt: str = "open_ended",
        max_retries: int = 5,
        timeout: float = 60.0,
        concurrency: int = 8,
        request: Mapping[str, Any] | None = None,
        give_up_after: int = 8,
    ):
        if concurrency < 1:
            raise ValueError(f"concurrency is {concurrency}, but at least 1 question must be open at a time.")
        self.model = model
        self.prompt: JudgePrompt = get_prompt(prompt)
        self.request = {"temperature": 0, "max_tokens": 512} if request is None else dict(request)
        self.concurrency = concurrency
        self.give_up_after = give_up_after
        self._cache = _VerdictFile(Path(cache))
        self._given: dict[str, Verdict] = {}
        self._backend: _Server | _LocalModel
        if model.startswith(LOCAL):
            self.concurrency = 1
            self._backend = _LocalModel(model.removeprefix(LOCAL))
        else:
            self._backend = _Server(
                OpenAIServer(base_url, owner="The judge", api_key=api_key, max_retries=max_retries, timeout=timeout)
            )

    def verdicts(
        self, rows: Iterable[Mapping[str, Any]], on_progress: Callable[[int, int], None] | None = None
    ) -> list[Verdict]:
        """
        Verdicts on `rows`, in their order.

        Args:
            rows: with `id` and the texts `question`, `reference`, `prediction`; for `"consistency"` also `question_2`
                and `prediction_2`. An empty prediction (or None) is wrong without asking the judge.
            on_progress: progress callback, called with the verdicts so far and their total after each new one.

        Raises:
            `ValueError` for a row without a field, for a key or model that the server does not take; `ConnectionError`
            after `give_up_after` consecutive failures. Verdicts up to then are kept.
        """
        rows = [self._checked(row) for row in rows]
        keys = [self._key(row) for row in rows]
        known = self._cache.verdicts
        asked = zip(keys, rows, strict=True)
        pending = {key: row for key, row in asked if not _is_empty(row) and key not in known}
        found = {key: self._read_again(known[key]) for key in keys if key in known}
        found |= self._ask_all(pending, on_progress)
        wrong = {"status": "judged", "correct": False if self.prompt.decides else None, "score": 0.0}
        result = []
        for key, row in zip(keys, rows, strict=True):
            result.append(Verdict(id=row["id"], **(wrong if _is_empty(row) else found[key])))
        self._given.update((verdict.id, verdict) for verdict in result)
        return result

    def record(self) -> dict[str, Any]:
        """
        The record to keep with the numbers: model, server, prompt and its hash, request, the days of the returned
            verdicts (`2026-08-01`, or `2026-08-01/2026-08-03`), and how many there are of each kind.
        """
        statuses = Counter(verdict.status for verdict in self._given.values())
        dates = sorted({verdict.date for verdict in self._given.values() if verdict.date})
        served = {verdict.served_model for verdict in self._given.values() if verdict.served_model}
        return {
            "model": self.model,
            "served_models": sorted(served),
            "server": self._backend.address,
            "prompt": self.prompt.name,
            "prompt_hash": self.prompt.hash,
            "request": self.request,
            "date": "/".join(dict.fromkeys((dates[0], dates[-1]))) if dates else None,
            **{status: statuses[status] for status in ("judged", "refused", "malformed", "failed")},
        }

    def _checked(self, row: Mapping[str, Any]) -> dict[str, Any]:
        missing = [name for name in ("id", *self.prompt.fields) if name not in row]
        if missing:
            raise ValueError(
                f"A row for the judge ({row.get('id', 'without id')}) lacks {', '.join(missing)}, which its prompt "
                f"{self.prompt.name!r} reads."
            )
        return {"id": str(row["id"]), **{name: row[name] for name in self.prompt.fields}}

    def _key(self, row: Mapping[str, Any]) -> str:
        parts = [self.model, self.prompt.hash, self.request, [row[name] for name in self.prompt.fields]]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _read_again(self, verdict: dict[str, Any]) -> dict[str, Any]:
        """A kept verdict. Its reply is parsed again, because this version may read more forms than an earlier one."""
        read = parse_verdict(verdict["reply"], self.prompt) if verdict["status"] == "malformed" else None
        return verdict if read is None else {**verdict, "status": "judged", "correct": read[0], "score": read[1]}

    def _ask_all(
        self, pending: Mapping[str, Mapping[str, Any]], on_progress: Callable[[int, int], None] | None
    ) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        failures = 0
        pool = ThreadPoolExecutor(self.concurrency, thread_name_prefix="judge")
        try:
            keys = {pool.submit(self._ask, key, row): key for key, row in pending.items()}
            for done in as_completed(keys):
                verdict = found[keys[done]] = done.result()
                failures = failures + 1 if verdict["status"] == "failed" else 0
                if failures >= self.give_up_after:
                    raise ConnectionError(
                        f"The judge {self.model} at {self._backend.address} failed {failures} times in a row, at last "
                        f"with: {verdict['reply']} Its verdicts are kept in {self._cache.path}; run again to continue."
                    )
                if on_progress is not None:
                    on_progress(len(found), len(pending))
        finally:
            # Open requests are already paid for, so their replies are waited for and kept.
            pool.shutdown(wait=True, cancel_futures=True)
        return found

    def _ask(self, key: str, row: Mapping[str, Any]) -> dict[str, Any]:
        reply = self._backend.ask(self.model, self.prompt.messages(row), self.request)
        verdict = parse_verdict(reply.text, self.prompt) if reply.status is None else None
        status = reply.status or ("judged" if verdict else "refused" if is_refusal(reply.text) else "malformed")
        correct, score = verdict or (None, None)
        found = {
            "status": status,
            "correct": correct,
            "score": score,
            "reply": reply.text,
            "date": datetime.now(UTC).date().isoformat(),
            "served_model": reply.served_model,
        }
        if status != "failed":
            shown = {name: row[name] for name in self.prompt.fields}
            asked = {"model": self.model, "prompt": self.prompt.name, "prompt_hash": self.prompt.hash, **shown}
            self._cache.append(key, found, asked)
        return found


@dataclass(frozen=True)
class _Reply:
    text: str
    served_model: str | None = None
    status: str | None = None  # "refused" or "failed"; None: decided by the text


class _Server:
    """An OpenAI-compatible server."""

    def __init__(self, server: OpenAIServer):
        self._server = server
        self.address = server.address

    def ask(self, model: str, messages: list[dict[str, str]], request: Mapping[str, Any]) -> _Reply:
        try:
            reply = self._server.chat(model, messages, request)
        except ServerError as error:
            return _Reply(error.quote, status="refused" if error.code == "content_filter" else "failed")
        if reply.refusal is not None:
            return _Reply(reply.refusal, reply.served_model, "refused")
        return _Reply(reply.text, reply.served_model)


class _LocalModel:
    """A model of transformers, loaded when it is first needed."""

    address = "local"

    def __init__(self, name: str):
        self.name = name
        self._pipeline: Any = None

    def ask(self, model: str, messages: list[dict[str, str]], request: Mapping[str, Any]) -> _Reply:
        if self._pipeline is None:
            from transformers import pipeline

            self._pipeline = pipeline("text-generation", model=self.name, dtype="auto")
        pipe = self._pipeline
        if pipe.tokenizer.chat_template is None:
            prompt: Any = "\n\n".join(message["content"] for message in messages) + "\n\n"
        else:
            prompt = messages
        output = pipe(prompt, max_new_tokens=request.get("max_tokens", 512), do_sample=False, return_full_text=False)
        return _Reply(output[0]["generated_text"], vars(pipe.model.config).get("_commit_hash"))


class _VerdictFile:
    """Verdicts by the hash of the request, in memory and as JSON lines in a file."""

    def __init__(self, path: Path):
        self.path = path
        self.verdicts: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()
        text = path.read_bytes() if path.exists() else b""
        self._is_cut = bool(text) and not text.endswith(b"\n")
        names = [name for name in Verdict.__dataclass_fields__ if name != "id"]
        for line in text.splitlines():
            # A killed run may have left half a line: that verdict is requested again.
            try:
                found = json.loads(line)
                self.verdicts[found["key"]] = {name: found[name] for name in names}
            except (ValueError, TypeError, KeyError):
                continue

    def append(self, key: str, verdict: dict[str, Any], asked: Mapping[str, Any]) -> None:
        line = (
            json.dumps({"key": key, **verdict, **asked}, ensure_ascii=False).encode("utf-8", "backslashreplace")
            + b"\n"
        )
        with self._lock:
            self.verdicts[key] = verdict
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # In one write, because several processes may share the file.
            with self.path.open("ab", buffering=0) as file:
                file.write(b"\n" + line if self._is_cut else line)
            self._is_cut = False


def _is_empty(row: Mapping[str, Any]) -> bool:
    return not all(str(row[name] or "").strip() for name in row if name.startswith("prediction"))


__all__ = ["LOCAL", "Judge", "Verdict"]
