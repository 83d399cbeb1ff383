"""Subtitles: what a viewer of the sampled frames would read."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynfocus.eval.benchmarks import subtitle_text

SRT = """1
00:00:01,000 --> 00:00:03,000
<font color="white" size=".72c">Good &amp; early</font>

2
00:00:02,500 --> 00:00:06,000
<i>it</i> begins
{\\an8}slowly

3
01:00:00,000 --> 01:00:01,500
The end
"""


def clock(seconds, mark):
    milliseconds = round(seconds * 1000)
    return (
        f"{milliseconds // 3600000:02d}:{milliseconds // 60000 % 60:02d}:{milliseconds // 1000 % 60:02d}"
        f"{mark}{milliseconds % 1000:03d}"
    )


@pytest.mark.parametrize(
    "times, text",
    [
        ([0.0], ""),
        ([], ""),
        ([1.0], "Good & early"),
        ([2.0, 2.4], "Good & early"),
        ([2.75], "Good & early\nit begins slowly"),
        # A cue ends before its end, and one that is shown at several frames is read once.
        ([3.0, 4.0, 5.0], "it begins slowly"),
        ([6.0], ""),
        # In the order of the video, whatever that of the times.
        ([3600.5, 1.0], "Good & early\nThe end"),
    ],
)
def test_what_is_shown_at_the_frames(times, text):
    assert subtitle_text(SRT, times) == text


def test_cues_without_a_blank_line_between_them():
    crowded = "\n".join(line for line in SRT.splitlines() if line)
    assert subtitle_text(crowded, [2.75, 3600.5]) == subtitle_text(SRT, [2.75, 3600.5])


@given(
    st.lists(st.tuples(st.integers(0, 4000), st.integers(1, 900)), max_size=8, unique_by=lambda cue: cue[0]),
    st.lists(st.integers(0, 5000), max_size=6),
)
def test_every_form_says_the_same(spans, times):
    cues = [(start / 2, (start + length) / 2, f"line {start}") for start, length in spans]
    srt = "\r\n".join(
        f"{number}\r\n{clock(start, ',')} --> {clock(end, ',')}\r\n{line}\r\n"
        for number, (start, end, line) in enumerate(cues, 1)
    )
    vtt = "WEBVTT\n\n" + "\n".join(
        f"{clock(start, '.')} --> {clock(end, '.')} align:start\n{line}\n" for start, end, line in cues
    )
    rows = [{"start": clock(start, "."), "end": clock(end, "."), "line": line} for start, end, line in cues]
    spans_in_seconds = [{"timestamp": [start, end], "text": line} for start, end, line in cues]
    seconds = [time / 2 for time in times]
    expected = "\n".join(line for start, end, line in sorted(cues) if any(start <= time < end for time in seconds))
    for text in (srt, vtt, json.dumps(rows), json.dumps(spans_in_seconds)):
        assert subtitle_text(text, seconds) == expected


def test_a_cue_without_an_end_stays():
    assert subtitle_text('[{"timestamp": [2.5, null], "text": "on and on"}]', [99.0]) == "on and on"


@pytest.mark.parametrize(
    "broken",
    [
        "",
        "\ufeff",
        "no subtitles at all",
        "1\n00:00:01,000 --> \nlost",
        "00:00:01,000 --> 00:00:02,000",
        "[{",
        "[1, 2]",
        '[{"start": "soon", "end": "later", "line": "lost"}]',
        '[{"line": "lost"}]',
    ],
)
def test_what_cannot_be_read_is_left_out(broken):
    assert subtitle_text(broken, [0.0, 1.5]) == ""
    if not broken.startswith("["):
        assert subtitle_text(f"{broken}\n\n{SRT}", [1.5]) == "Good & early"


def test_marks_at_the_beginning_and_line_ends_do_not_matter():
    assert subtitle_text("\ufeff" + SRT.replace("\n", "\r\n"), [2.75]) == subtitle_text(SRT, [2.75])
