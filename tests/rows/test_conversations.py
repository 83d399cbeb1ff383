"""Rows of all forms as conversations: what becomes of texts, media, marks, paths and empty cells."""

import io
import math

import numpy as np
import pytest
from datasets import Dataset, Video
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dynfocus.processing.rows.conversations import (
    as_messages,
    load_media,
    media_of,
    row_label,
    text_of,
    without_media,
)


def said(messages):
    """(role, contents) with media as their values and texts as ("text", …)."""
    return [
        (m["role"], [b["text"] if b["type"] == "text" else (b["type"], b.get(b["type"])) for b in m["content"]])
        for m in messages
    ]


def llava(*values, **columns):
    return {
        **columns,
        "conversations": [{"from": ("human", "gpt")[index % 2], "value": value} for index, value in enumerate(values)],
    }


@pytest.mark.parametrize(
    ("value", "content"),
    [
        ("<image>\nWhat?", [("video", "a.mp4"), "What?"]),
        ("<video>\nWhat?", [("video", "a.mp4"), "What?"]),
        ("<video>What?", [("video", "a.mp4"), "What?"]),
        ("What?\n<video>", ["What?", ("video", "a.mp4")]),
        ("Look at <video> and\ntell.", ["Look at ", ("video", "a.mp4"), " and\ntell."]),
        ("What?", [("video", "a.mp4"), "What?"]),
        ("<video>", [("video", "a.mp4")]),
        (" one\n\n<image>\n\ntwo ", [" one\n\n", ("video", "a.mp4"), "\n\ntwo "]),
    ],
)
def test_marks_of_llava_rows(value, content):
    messages = as_messages(llava(value, "A cat.\n<video> is a word", video="a.mp4"))
    assert said(messages)[0] == ("user", content)
    assert said(messages)[1] == ("assistant", ["A cat.\n<video> is a word"])


def test_media_of_several_turns_and_kinds():
    row = llava("<image>\n<image>\nSame?", "No.", "And <video>?", "Yes.", image=["a.jpg", "b.jpg"], video="c.mp4")
    assert said(as_messages(row)) == [
        ("user", [("image", "a.jpg"), ("image", "b.jpg"), "Same?"]),
        ("assistant", ["No."]),
        ("user", ["And ", ("video", "c.mp4"), "?"]),
        ("assistant", ["Yes."]),
    ]
    # Videos marked as images, in the order of the media.
    row = llava("<image>\n<image>\nSame?", "No.", video=["a.mp4", "b.mp4"])
    assert media_of(as_messages(row)) == [("video", "a.mp4"), ("video", "b.mp4")]
    # Without marks, all come first.
    row = llava("Same?", "No.", "Sure?", "Yes.", video=["a.mp4", "b.mp4"])
    assert said(as_messages(row))[0] == ("user", [("video", "a.mp4"), ("video", "b.mp4"), "Same?"])


def test_roles_of_llava_rows():
    names = [("system", "Be kind."), ("user", "a"), ("assistant", "b"), ("human", "c"), ("GPT", "d")]
    messages = as_messages({"conversations": [{"from": name, "value": value} for name, value in names]})
    assert [m["role"] for m in messages] == ["system", "user", "assistant", "user", "assistant"]
    assert [text_of(m) for m in messages] == ["Be kind.", "a", "b", "c", "d"]
    with pytest.raises(ValueError, match="Turn 1 needs `from`, one of 'human'.* got 'tool'"):
        as_messages({"conversations": [{"from": "human", "value": "a"}, {"from": "tool", "value": "b"}]})
    with pytest.raises(ValueError, match="Turn 0 needs .* `value`"):
        as_messages({"conversations": [{"from": "human", "text": "a"}]})


@pytest.mark.parametrize(
    ("row", "numbers"),
    [
        (llava("<video> <video>?", "a", video="a.mp4"), "2 marks .* has 1 videos"),
        (llava("<video>?", "a", video=["a.mp4", "b.mp4"]), "1 marks .* has 2 videos"),
        (llava("<image>?", "a"), "1 marks .* has 0 videos"),
        (
            {"messages": [{"role": "user", "content": [{"type": "video"}]}], "videos": ["a.mp4", "b.mp4"]},
            "1 video or image blocks .* 2 videos",
        ),
        (llava(video="a.mp4") | {"conversations": [{"from": "gpt", "value": "a"}]}, "no user turn"),
    ],
)
def test_marks_that_do_not_fit_the_media(row, numbers):
    with pytest.raises(ValueError, match=numbers):
        as_messages(row)


def test_chat_rows_are_kept():
    video, image = np.zeros((2, 4, 4, 3), np.uint8), Image.new("RGB", (4, 4))
    content = [
        {"type": "video", "video": video, "text": None},
        {"type": "text", "text": "and", "video": None},
        {"type": "image", "image": image},
        {"type": "image_url", "image_url": {"url": "http://x/y.png"}},
        {"type": "video", "url": "http://x/y.mp4"},
        {"type": "video", "path": "z.mp4"},
    ]
    messages = [{"role": "user", "content": content, "name": None}, {"role": "assistant", "content": "yes"}]
    found = as_messages({"messages": messages, "question": "unused", "video": None})
    assert found[1] == messages[1] and found[0].keys() == {"role", "content"}
    kinds = [("video", video), ("image", image), ("image", "http://x/y.png")]
    assert media_of(found) == [*kinds, ("video", "http://x/y.mp4"), ("video", "z.mp4")]
    assert found[0]["content"][1] == {"type": "text", "text": "and"} and content[0]["text"] is None
    assert [b["type"] for b in without_media(found)[0]["content"]] == ["video", "text", *["video"] * 4]
    with pytest.raises(ValueError, match="type 'text', 'video' or 'image', got 'audio'"):
        as_messages({"messages": [{"role": "user", "content": [{"type": "audio", "audio": "a.wav"}]}]})
    with pytest.raises(ValueError, match="Message 0 needs `role` and `content`"):
        as_messages({"messages": [{"from": "human", "value": "a"}]})


def test_media_beside_the_messages():
    blocks = [{"type": "image"}, {"type": "video", "video": None}, {"type": "text", "text": "Same?"}]
    row = {"messages": [{"role": "user", "content": blocks}], "videos": ["a.mp4"], "image": "b.jpg"}
    assert said(as_messages(row)) == [("user", [("image", "b.jpg"), ("video", "a.mp4"), "Same?"])]
    # Blocks that have their videos leave no place for others.
    full = [{"type": "video", "video": "a.mp4"}, {"type": "text", "text": "What?"}]
    with pytest.raises(ValueError, match="0 video or image blocks .* 1 videos"):
        as_messages({"messages": [{"role": "user", "content": full}], "video": "b.mp4"})
    for content in ("What?", [{"type": "text", "text": "What?"}]):
        row = {
            "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": content}],
            "video": "a.mp4",
        }
        assert said(as_messages(row)[1:]) == [("user", [("video", "a.mp4"), "What?"])]
    assert row["messages"][1]["content"] == [{"type": "text", "text": "What?"}]


def test_marks_in_the_strings_of_chat_rows():
    messages = [{"role": "user", "content": "<video>What?"}, {"role": "assistant", "content": "A <video>."}]
    row = {"messages": messages, "videos": ["a.mp4"]}
    assert said(as_messages(row)) == [("user", [("video", "a.mp4"), "What?"]), ("assistant", ["A <video>."])]
    assert messages[0]["content"] == "<video>What?" and as_messages({"messages": messages}) == messages
    with pytest.raises(ValueError, match="1 marks .* has 2 videos"):
        as_messages({**row, "videos": ["a.mp4", "b.mp4"]})


def test_tables_fill_what_is_missing():
    """Rows of several forms in one Arrow table, whose missing keys become `None`; and the same from pandas."""
    text, video = {"type": "text", "text": "What?"}, {"type": "video", "video": "a.mp4"}
    rows = [
        {"messages": [{"role": "user", "content": [video, text]}, {"role": "assistant", "content": [text]}]},
        {"video": "b.mp4", "question": "How many?", "answer": "3"},
        llava("<image>Red?", "yes", image=["c.png"]),
    ]
    expected = [said(as_messages(row)) for row in rows]
    table = Dataset.from_list([{**dict.fromkeys(name for row in rows for name in row), **row} for row in rows])
    assert table[1]["messages"] is None and "video" in table[0]["messages"][0]["content"][1]
    assert [said(as_messages(row)) for row in table] == expected
    assert [said(as_messages(row)) for row in table.to_pandas().to_dict("records")] == expected
    videos = Dataset.from_list([{"video": "a.mp4", "question": "?"}]).cast_column("video", Video(decode=False))
    assert media_of(as_messages(videos[0], "/x")) == [("video", "/x/a.mp4")]


EMPTY = [None, math.nan, np.float64("nan"), "", "  "]


@pytest.mark.parametrize("empty", EMPTY)
def test_cells_of_tables(empty):
    row = {"video": empty, "videos": empty, "question": "How many?", "answer": 12, "messages": empty}
    assert said(as_messages(row)) == [("user", ["How many?"]), ("assistant", ["12"])]
    for answer, text in ((3.0, "3"), (0.5, "0.5"), (np.int64(7), "7"), (0, "0"), ("no", "no")):
        assert text_of(as_messages({"question": "1", "answer": answer})[1]) == text
    assert len(as_messages({"question": "a?", "answer": empty})) == 1
    assert said(as_messages(llava("a", "b", video=empty, image=[]))) == [("user", ["a"]), ("assistant", ["b"])]
    assert said(as_messages({"video": ["a.mp4", empty], "question": "?"})) == [("user", [("video", "a.mp4"), "?"])]


def test_rows_of_no_known_form():
    for question in ("", " ", math.nan):
        with pytest.raises(ValueError, match="question is empty"):
            as_messages({"video": "a.mp4", "question": question, "answer": "yes"})
    with pytest.raises(ValueError, match="A row needs"):
        as_messages({"messages": None, "conversations": [], "question": None})
    with pytest.raises(ValueError, match=r"`messages`, `conversations`, or .* got the keys \['clip'\]"):
        as_messages({"clip": 3})


def test_relative_paths_belong_to_the_media_root(tmp_path):
    paths = {
        "a.mp4": str(tmp_path / "a.mp4"),
        "b/ü.mp4": str(tmp_path / "b/ü.mp4"),
        "/x/c.mp4": "/x/c.mp4",
        "https://x/d.mp4": "https://x/d.mp4",
        "file:///x/e.mp4": "file:///x/e.mp4",
    }
    rows = [
        {"video": list(paths), "question": "?"},
        {"video": [{"path": path, "bytes": None} for path in paths], "question": "?"},
        llava("?", "!", video=list(paths)),
        {"messages": [{"role": "user", "content": [{"type": "video", "video": path} for path in paths]}]},
        {"messages": [{"role": "user", "content": "?"}], "videos": list(paths)},
    ]
    for row in rows:
        for root in (tmp_path, str(tmp_path)):
            assert [value for _, value in media_of(as_messages(row, root))] == list(paths.values())
        assert [value for _, value in media_of(as_messages(row))] == list(paths)
    stored = {"path": "gone.mp4", "bytes": b"data"}
    assert media_of(as_messages({"video": stored, "question": "?"}, tmp_path)) == [("video", b"data")]
    with pytest.raises(ValueError, match="needs `path` or `bytes`"):
        as_messages({"video": {"path": None, "bytes": None}, "question": "?"})


def test_images_are_loaded_as_videos_of_one_frame(tmp_path):
    Image.new("RGB", (6, 4), "red").save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    for value in (
        "a.png",
        {"path": "a.png", "bytes": None},
        {"path": None, "bytes": data},
        Image.open(io.BytesIO(data)),
    ):
        ((kind, found),) = media_of(as_messages({"image": value, "question": "?"}, tmp_path))
        (frame,) = load_media(kind, found)
        assert kind == "image" and frame.convert("RGB").getpixel((0, 0)) == (255, 0, 0)
    (tmp_path / "b.png").write_bytes(data[:20] + b"no image")
    with pytest.raises(ValueError, match="b.png.*cannot be read as an image"):
        load_media("image", str(tmp_path / "b.png"))
    with pytest.raises(FileNotFoundError, match="c.png: there is no such image file"):
        load_media("image", str(tmp_path / "c.png"))
    row = as_messages({"image": {"bytes": b"none", "path": None}, "question": "?"})
    with pytest.raises(ValueError, match="the image given as bytes: cannot be read as an image"):
        load_media(*media_of(row)[0])


def test_what_a_row_is_called():
    assert row_label({"id": 7, "video": "a.mp4", "question": "?"}) == "id 7, 'a.mp4'"
    assert row_label({"id": "x", "video": "a.mp4", "question": "?"}, "a.mp4: is empty") == "id 'x'"
    assert row_label({"question": "?"}) == "" and row_label({"clip": 3, "id": math.nan}) == ""


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from(["<video>", "<image>", "\n", "a", "what? ", "<b>"]), max_size=7),
        min_size=1,
        max_size=4,
    )
)
def test_all_words_and_media_come_through_in_order(texts):
    """But for newlines next to marks, the texts with values for marks are the blocks in a row."""
    values = ["".join(parts) for parts in texts]
    num_marks = sum(value.count("<video>") + value.count("<image>") for value in values)
    media = [f"{index}.mp4" for index in range(num_marks)]
    messages = as_messages({"conversations": [{"from": "human", "value": v} for v in values], "video": media})
    assert [value for _, value in media_of(messages)] == media
    numbers = iter(media)
    for message, value in zip(messages, values, strict=True):
        words = value.replace("<image>", "<video>")
        while "<video>" in words:
            words = words.replace("<video>", f"[{next(numbers)}]", 1)
        blocks = [b["text"] if b["type"] == "text" else f"[{b['video']}]" for b in message["content"]]
        assert "".join(blocks).replace("\n", "") == words.replace("\n", "")
        assert all(block for block in blocks)
