"""The subtitles that are shown at the sampled frames."""

import html
import json
import re
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any

#: The text in the prompt for a video without subtitles.
NO_SUBTITLES = "No subtitles available"

_CLOCK = r"(?<![\w:])(?:(\d+):)?(\d{1,2}):(\d{1,2})(?:[.,:] ?(\d+))?"
_TIME_LINE = re.compile(r"^[\d:., \t]*-->.*$", re.MULTILINE)
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>|\{\\[^{}]*\}")
#: Code pages of Latin scripts, the most frequent one first.
_LATIN = ("windows-1252", "windows-1250", "windows-1254", "windows-1257", "iso-8859-2")

_Cue = tuple[float, float, str]


def subtitle_text(subtitles: str | bytes, times: Sequence[float]) -> str:
    """
    The lines that are shown at `times`, each once, in the order in which they appear.

    Args:
        subtitles: the content of a subtitle file: SubRip (.srt), WebVTT (.vtt), SubStation Alpha (.ass, .ssa), SAMI,
            TTML, MicroDVD, MPL2 or TMPlayer, or a JSON list of `{"start", "end", "line"}` or
            `{"timestamp": [start, end], "text"}`. Of bytes, the encoding is detected. Cues whose times cannot be read
            are left out.
        times: of the sampled frames, in seconds. A cue is shown from its start until just before its end.

    Returns:
        The text without tags, a line a cue; `""` if nothing is shown.

    Raises:
        `ValueError`: the content is not empty, and holds no cues in any of these forms, or no text.
        `ImportError`: the extra `dynfocus[eval]` is not installed.
    """
    pysubs2 = _import("pysubs2")
    text = decode_text(subtitles) if isinstance(subtitles, bytes) else subtitles
    text = re.sub(r"\r\n?", "\n", text.lstrip("\ufeff").strip())
    cues = _read_cues(text, pysubs2) if text else []
    shown = [line for start, end, line in sorted(cues) if line and any(start <= time < end for time in times)]
    return "\n".join(shown)


def decode_text(data: bytes) -> str:
    """
    The text of a file in an unknown encoding: Unicode with or without a mark, otherwise the likeliest code page.

    Raises:
        `ValueError`: the content is not text.
    """
    chardet = _import("chardet")
    # UTF-16 without a mark and ISO-2022 may be valid UTF-8, but have zeros and escapes.
    if b"\0" not in data and b"\x1b" not in data:
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError:
            pass
    pages = _LATIN if b"\0" not in data and _is_latin(data) else None
    era = chardet.EncodingEra.ALL if pages else chardet.EncodingEra.MODERN_WEB
    likely = chardet.detect_all(data, include_encodings=pages, encoding_era=era, prefer_superset=True)
    scores = {one["encoding"]: one["confidence"] for one in likely if one["encoding"] is not None}
    if not scores:
        raise ValueError("It holds bytes that are not text: save it as UTF-8.")
    encoding = max(scores, key=lambda name: scores[name] * (1.3 if pages and name == "Windows-1252" else 1))
    try:
        return data.decode(encoding)
    except (ValueError, LookupError) as error:
        raise ValueError(f"Its text cannot be decoded ({error}): save it as UTF-8.") from None


def _is_latin(data: bytes) -> bool:
    """
    Whether bytes beyond ASCII occur singly among ASCII letters, like accented letters. The detector takes some short
    texts with them for Cyrillic or Thai.
    """
    runs = re.findall(rb"[\x80-\xff]+", data)
    single = sum(len(run) == 1 for run in runs)
    return single > 0.7 * len(runs) and sum(map(len, runs)) < 0.7 * len(re.findall(rb"[A-Za-z]", data))


def _import(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        raise ImportError(f"Reading subtitles needs the package {name}: pip install 'dynfocus[eval]'.") from None


def _read_cues(text: str, pysubs2: Any) -> list[_Cue]:
    rows = _json_rows(text)
    try:
        cues = list(_text_cues(text, pysubs2) if rows is None else _json_cues(rows))
    except pysubs2.Pysubs2Error:
        cues = []
    # Errors of the readers for files that are cut off or badly edited; `SyntaxError` comes from XML.
    except (ValueError, LookupError, NotImplementedError, SyntaxError) as error:
        raise ValueError(f"Its subtitles cannot be read ({error}): save them as .srt.") from None
    if not any(start < end for start, end, _ in cues) and text.split() != ["WEBVTT"] and rows != []:
        raise ValueError(f"It holds no subtitles in a known form, and begins with {text[:40]!r}: save them as .srt.")
    return cues


def _text_cues(text: str, pysubs2: Any) -> Iterator[_Cue]:
    form, times = None, list[tuple[float, ...]]()

    def numbered(line: re.Match[str]) -> str:
        """A line with the number of its cue instead of its times, because the readers take no hours above 99."""
        clocks = [_seconds(*match.groups()) for match in re.finditer(_CLOCK, line[0])][:2]
        times.append(tuple(clocks) if len(clocks) == 2 else (0.0, 0.0))
        number = _clock((len(times) - 1) / 1000)
        return f"{number} --> {number}"

    if _TIME_LINE.search(text):
        form = "vtt" if text.startswith("WEBVTT") else "srt"
        # WebVTT has times within lines.
        text = _TIME_LINE.sub(numbered, re.sub(r"<\d[\d:.]*>", "", text))
        # The reader takes a number at the end of a cue's lines for the number of the next cue.
        text = (_without_notes(text) if form == "vtt" else text) + "\n\n0\n"
    found = pysubs2.SSAFile.from_string(text, format_=form, keep_html_tags=True)
    for event in found:
        if event.is_text:
            said = event.plaintext if found.format in ("ass", "ssa") else re.sub(r"\\[Nnh]", " ", event.text)
            start, end = times[event.start] if times else (event.start / 1000, event.end / 1000)
            yield start, end, _plain(said)


def _clock(seconds: float) -> str:
    milliseconds = round(1000 * seconds)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{milliseconds // 1000:02d}.{milliseconds % 1000:03d}"


def _without_notes(text: str) -> str:
    """The cues of a WebVTT file, with numbers as names; without its header, comments and styles."""
    blocks: list[str] = []
    for block in re.split(r"\n[ \t]*\n", text):
        cue = re.match(r"(?:WEBVTT.*\n(?:.+\n)*?|.*\n)??(?=[\d:.]+ -->)", block)
        if cue:
            blocks.append(f"{len(blocks) + 1}\n{block[cue.end() :]}")
        elif not re.match(r"\s*(?:WEBVTT|NOTE|STYLE|REGION)\b", block):
            blocks.append(block)
    return "WEBVTT\n\n" + "\n\n".join(blocks)


def _json_rows(text: str) -> list[Any] | None:
    """The list in a JSON text; `None` for other texts."""
    try:
        rows = json.loads(text)
    except ValueError:
        return None
    return rows if isinstance(rows, list) else None


def _json_cues(rows: list[Any]) -> Iterator[_Cue]:
    for row in rows:
        try:
            start, end = row["timestamp"] if "timestamp" in row else (row["start"], row["end"])
            # The last cue of some files has no end: it is shown until the end of the video.
            yield _as_seconds(start), float("inf") if end is None else _as_seconds(end), _plain(_line_of(row))
        except (KeyError, TypeError, ValueError):
            continue


def _line_of(row: dict[str, Any]) -> str:
    return str(row["line"] if "line" in row else row["text"])


def _as_seconds(value: Any) -> float:
    if isinstance(value, str):
        match = re.fullmatch(_CLOCK, value.strip())
        if match is None:
            raise ValueError(f"{value!r} is no time.")
        return _seconds(*match.groups())
    return float(value)


def _seconds(hours: str | None, minutes: str, seconds: str, fraction: str | None) -> float:
    return int(hours or 0) * 3600 + int(minutes) * 60 + float(f"{seconds}.{fraction or 0}")


def _plain(text: str) -> str:
    return " ".join(html.unescape(_TAG.sub("", text)).split())


__all__ = ["NO_SUBTITLES", "decode_text", "subtitle_text"]
