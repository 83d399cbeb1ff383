"""Subtitles: what a viewer of the sampled frames would read."""

import json
import sys

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


@pytest.mark.parametrize("empty", ["", "\ufeff", " \n", b"", "WEBVTT", "WEBVTT\n\n", "[]"])
def test_a_file_without_subtitles_shows_none(empty):
    assert subtitle_text(empty, [0.0, 1.5]) == ""


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("no subtitles at all", "no subtitles in a known form, and begins with 'no subtitles at all'"),
        ("1\n00:00:01,000 --> \nlost", "no subtitles in a known form"),
        ("[{", "no subtitles in a known form"),
        ("[1, 2]", "no subtitles in a known form"),
        ('[{"start": "soon", "end": "later", "line": "lost"}]', "no subtitles in a known form"),
        ('[{"line": "lost"}]', "no subtitles in a known form"),
        ("{25}{50}frames of an unknown length", "no subtitles in a known form"),
        ("<tt xmlns='http://www.w3.org/ns/ttml'><body>", "Its subtitles cannot be read"),
        (
            "<tt xmlns='http://www.w3.org/ns/ttml'><body><div><p begin='soon' end='late'>x</p></div></body></tt>",
            "cannot",
        ),
        (b"\x06Hell\xb7 there\x1d\x80", "It holds bytes that are not text"),
        (bytes(range(256)) * 4, "It holds bytes that are not text|cannot be decoded"),
    ],
)
def test_what_cannot_be_read_is_an_error_and_not_silence(broken, message):
    with pytest.raises(ValueError, match=message):
        subtitle_text(broken, [0.0, 1.5])


def test_cues_without_readable_times_are_left_out():
    for broken in ("1\n00:00:01,000 --> \nlost", "7\nsoon --> later\nlost"):
        assert subtitle_text(f"{broken}\n\n{SRT}", [1.5]) == "Good & early"
    assert subtitle_text(f"{SRT}\n\n4\n00:00:01,000 --> ?\nlost", [1.5, 3600.5]) == "Good & early\nThe end"
    assert subtitle_text('[{"line": "lost"}, {"start": 1, "end": 2, "line": "kept"}]', [1.5]) == "kept"


@pytest.mark.parametrize(
    "text",
    [
        "1\n00:00:01,123456 --> 00:00:02,500000\nHello\n\n2\n00:00:03,000000 --> 00:00:04,000000\nWorld",
        "1\n00:00:01,000 --> 00:00:02,000\n\nHello\n\n2\n00:00:03,000 --> 00:00:04,000\n\n\nWorld",
        "00:00:01,000 --> 00:00:02,000\nHello\n\n00:00:03,000 --> 00:00:04,000\nWorld",
        "1\n00:00:01 --> 00:00:02\nHello\n\n2\n00:00:03.5 --> 00:00:04.25\nWorld",
        "1\n0:0:1, 000 --> 0:0:2, 000\nHello\n\n2\n00:03,000 --> 00:04,000 X1:100 X2:200 Y1:1 Y2:3\nWorld",
        "1\r00:00:01,000 --> 00:00:02,000\rHello\r\r2\r00:00:03,000 --> 00:00:04,000\rWorld",
        "WEBVTT\n\n00:01.000 --> 00:02.000 align:start\n<v Bob>Hello\n\n00:03.000 --> 00:04.000\n<c.red>World</c>",
        "WEBVTT - a title\nKind: captions\n\nSTYLE\n::cue {}\n\nfirst\n00:01.000 --> 00:02.000\nHello\n\n"
        "NOTE between\nthe cues\n\nsecond one\n00:03.000 --> 00:04.000\nWorld",
        "WEBVTT\n00:00:01.000 --> 00:00:02.000\nHello<00:00:01.200><c> </c><00:00:01.500>\n\n"
        "00:00:03.000 --> 00:00:04.000\n<00:00:03.100>Wor<00:00:03.500>ld",
        "0:00:01.000,0:00:02.000\nHello\n\n0:00:03.000,0:00:04.000\nWorld",
        "[10][20]Hello\n[30][40]/World",
        "[Script Info]\nScriptType: v4.00+\n\n[V4+ Styles]\n\n[Events]\n"
        "Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\n"
        "Dialogue: 0,0:00:01.00,0:00:02.00,Default,,0,0,0,,{\\b1}Hello{\\b0}{a remark}\n"
        "Comment: 0,0:00:01.00,0:00:02.00,Default,,0,0,0,,hidden\n"
        "Dialogue: 0,0:00:03.00,0:00:04.00,Default,,0,0,0,,{\\an8}World",
        "<tt xmlns='http://www.w3.org/ns/ttml'><body><div><p begin='00:00:01.000' end='00:00:02.000'>Hello</p>"
        "<p begin='00:00:03.000' end='00:00:04.000'>World</p></div></body></tt>",
    ],
    ids=[
        "microseconds",
        "a blank line before the text",
        "no numbers",
        "whole seconds",
        "spaces and places",
        "line ends of old Macs",
        "WebVTT",
        "WebVTT with names and notes",
        "WebVTT with times of words",
        "SubViewer",
        "MPL2",
        "SubStation Alpha",
        "TTML",
    ],
)
def test_no_cue_vanishes(text):
    assert subtitle_text(text, [1.7]) == "Hello"
    assert subtitle_text(text, [1.9, 3.9]) == "Hello\nWorld"
    assert subtitle_text(text, [0.5, 2.75, 5.0]) == ""


@pytest.mark.parametrize("opening", ["", "WEBVTT\n\n"])
def test_lines_that_are_numbers_or_follow_a_blank_line_are_kept(opening):
    text = opening + (
        "1\n00:00:01.000 --> 00:00:02.000\nThe year is\n1984\n\n2\n00:00:03.000 --> 00:00:04.000\nfirst\n\nthen\n\n"
        "3\n00:00:05.000 --> 00:00:06.000\n42"
    )
    assert subtitle_text(text, [1.5, 3.5, 5.5]) == "The year is 1984\nfirst then\n42"


def test_less_than_is_no_tag():
    assert subtitle_text("1\n00:00:01,000 --> 00:00:02,000\n<i>a < b</i> and c > d", [1.5]) == "a < b and c > d"


#: A few lines each, as a subtitle file has them at least.
LANGUAGES = [
    ("Où est-il passé ? Je ne l'ai pas vu depuis l'été.", ["cp1252", "latin-1"]),
    ("Das ist für später, schöne Grüße aus dem kühlen Süden.", ["cp1252", "latin-1"]),
    ("¿Dónde está el niño? Mañana iremos a la montaña.", ["cp1252"]),
    ("Não sei, irmão. Amanhã nós vamos à praia.", ["cp1252"]),
    ("Déjà vu, naïve café", ["cp1252", "latin-1"]),
    ("He said “hello” — it’s a café.", ["cp1252"]),
    ("Gdzie on poszedł? Nie widziałem go, będzie trudno.", ["cp1250"]),
    ("Bunu anneme açıklamak zor olacak. Şimdi gidelim, çocuğum.", ["cp1254"]),
    ("Куда он делся? Я не видел его со вчерашнего дня.", ["cp1251", "koi8-r"]),
    ("Πού πήγε; Δεν τον έχω δει από χθες.", ["cp1253"]),
    ("לאן הוא הלך? לא ראיתי אותו מאתמול.", ["cp1255"]),
    ("إلى أين ذهب؟ لم أره منذ أمس.", ["cp1256"]),
    ("他去哪儿了？我从昨天起就没见过他。", ["gb18030"]),
    ("他去哪兒了？我從昨天起就沒見過他。", ["big5"]),
    ("彼はどこへ行ったの？昨日から見ていない。", ["shift_jis", "euc-jp", "iso2022_jp"]),
    ("그는 어디로 갔어? 어제부터 못 봤어.", ["euc-kr"]),
]


@pytest.mark.parametrize(("line", "pages"), LANGUAGES)
def test_the_encoding_is_detected(line, pages):
    text = f"1\n00:00:01,000 --> 00:00:02,000\n{line}\n\n2\n00:00:03,000 --> 00:00:04,000\n{line}\n"
    for encoding in (*pages, "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"):
        assert subtitle_text(text.encode(encoding), [1.5, 3.5]) == f"{line}\n{line}", encoding
    for encoding, mark in (("utf-16-le", b"\xff\xfe"), ("utf-16-be", b"\xfe\xff")):
        assert subtitle_text(mark + text.encode(encoding), [1.5]) == line


@pytest.mark.parametrize("name", ["pysubs2", "chardet"])
def test_a_missing_reader_is_named_with_its_installation(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf"needs the package {name}: pip install 'dynfocus\[eval\]'"):
        subtitle_text(SRT.encode("utf-16"), [1.0])


def test_marks_at_the_beginning_and_line_ends_do_not_matter():
    assert subtitle_text("\ufeff" + SRT.replace("\n", "\r\n"), [2.75]) == subtitle_text(SRT, [2.75])


@pytest.mark.parametrize("mark", [",", "."])
def test_hours_above_99(mark):
    cues = f"100:00:01{mark}000 --> 100:00:02{mark}500\nlate\n\n1234:59:58{mark}5 --> 1235:00:00{mark}0\nlater\n"
    for text in (cues, f"1\n{cues}", f"WEBVTT\n\n{cues}"):
        late = 100 * 3600 + 1
        assert [subtitle_text(text, [late + shift]) for shift in (-0.1, 0.0, 1.4, 1.5)] == ["", "late", "late", ""]
        assert subtitle_text(text, [1.5, 1235 * 3600 - 1]) == "later"
