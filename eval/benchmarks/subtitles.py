"""The subtitles that a viewer of the sampled frames would see."""

import html
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

#: What stands in the prompt where a video has no subtitles.
NO_SUBTITLES = "No subtitles available"

_TIME = r"(?:(\d+):)?(\d{1,2}):(\d{1,2})(?:[.,](\d{1,3}))?"
_CUE = re.compile(rf"\s*{_TIME}\s*-->\s*{_TIME}.*")
_TAG = re.compile(r"<[^<>]*>|\{\\[^{}]*\}")

_Cue = tuple[float, float, str]


def subtitle_text(srt: str, times: Sequence[float]) -> str:
    """
    The lines that are shown at `times`, each once, in the order in which they appear.

    Args:
        srt: the content of a SubRip (.srt) or WebVTT (.vtt) file, or of a JSON list of `{"start", "end", "line"}` or
            `{"timestamp": [start, end], "text"}`. Cues that cannot be read are left out.
        times: of the sampled frames, in seconds. A cue is shown from its start until just before its end.

    Returns:
        The text without tags, a line a cue; `""` if nothing is shown.
    """
    text = srt.lstrip("\ufeff").strip()
    cues = sorted(_json_cues(text) if text.startswith("[") else _text_cues(text), key=lambda cue: cue[:2])
    shown = [line for start, end, line in cues if line and any(start <= time < end for time in times)]
    return "\n".join(shown)


def _text_cues(text: str) -> Iterator[_Cue]:
    start = end = 0.0
    lines: list[str] | None = None
    # The blank line at the end closes the last cue.
    for line in [*text.splitlines(), ""]:
        match = _CUE.fullmatch(line)
        if match:
            if lines:
                # No blank line before it, but perhaps the number of the new cue.
                yield start, end, _plain(" ".join(lines[:-1] if lines[-1].strip().isdecimal() else lines))
            start, end, lines = _seconds(*match.groups()[:4]), _seconds(*match.groups()[4:]), []
        elif lines is not None and line.strip():
            lines.append(line)
        elif lines is not None:
            yield start, end, _plain(" ".join(lines))
            lines = None


def _json_cues(text: str) -> Iterator[_Cue]:
    try:
        rows: list[Any] = json.loads(text)
    except json.JSONDecodeError:
        return
    for row in rows:
        try:
            start, end = row["timestamp"] if "timestamp" in row else (row["start"], row["end"])
            # The last cue of some files has no end: it stays.
            yield _as_seconds(start), float("inf") if end is None else _as_seconds(end), _plain(_line_of(row))
        except (KeyError, TypeError, ValueError):
            continue


def _line_of(row: dict[str, Any]) -> str:
    return str(row["line"] if "line" in row else row["text"])


def _as_seconds(value: Any) -> float:
    if isinstance(value, str):
        match = re.fullmatch(_TIME, value.strip())
        if match is None:
            raise ValueError(f"{value!r} is no time.")
        return _seconds(*match.groups())
    return float(value)


def _seconds(hours: str | None, minutes: str, seconds: str, fraction: str | None) -> float:
    return int(hours or 0) * 3600 + int(minutes) * 60 + float(f"{seconds}.{fraction or 0}")


def _plain(text: str) -> str:
    return " ".join(html.unescape(_TAG.sub("", text)).split())


__all__ = ["NO_SUBTITLES", "subtitle_text"]
