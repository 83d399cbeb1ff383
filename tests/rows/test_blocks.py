"""Blocks of messages: settings of a video are obeyed or refused by name, wherever the message comes from."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import make_tiny_processor
from tiny_models import tiny_config
from videos import barcode_frames, write_video

from dynfocus.processing import DynFocusCollator
from dynfocus.processing.dynfocus_video_qa import DynFocusVideoQA
from dynfocus.processing.pipeline_inputs import is_chat
from dynfocus.processing.reading.decoded_frames import as_rgb_frames
from dynfocus.processing.reading.video_reading import read_video
from dynfocus.processing.rows.blocks import check_root, clean_block
from dynfocus.processing.rows.conversations import as_messages, media_of


@pytest.fixture(scope="module")
def processor():
    return make_tiny_processor()


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """100 frames in 10 seconds."""
    return str(write_video(tmp_path_factory.mktemp("film") / "film.mp4", barcode_frames(100, 24, 32), fps=10))


def chat(film, **settings):
    content = [{"type": "video", "video": film, **settings}, {"type": "text", "text": "which number?"}]
    return [{"role": "user", "content": content}]


def times(processor, messages, **call):
    options = {"return_metadata": True, **call}
    inputs = processor.apply_chat_template(messages, tokenize=True, return_dict=True, processor_kwargs=options)
    return [one.timestamps for one in inputs["video_metadata"]]


WINDOWS = [
    ({"video_start": 4, "video_end": 7}, [4.0, 5.0, 6.0]),
    ({"video_start": 8.5}, [8.5, 9.5]),
    ({"video_start": 4.25, "video_end": 4.55}, [4.2]),
    ({"video_end": 2.0}, [0.0, 1.0]),
    ({"video_end": 99.0, "video_start": 9}, [9.0]),
    ({"fps": 4, "video_start": 2, "video_end": 3}, [2.0, 2.2, 2.5, 2.7]),
    ({"fps": 2.0}, [second / 2 for second in range(20)]),
    ({"nframes": 2}, [2.5, 7.5]),
    ({"num_frames": 2.0, "video_start": 5}, [6.2, 8.7]),
    ({"max_frames": 2}, [2.5, 7.5]),
    ({"min_frames": 20}, [0.25 + second / 2 for second in range(20)]),
    ({"video_end": None, "fps": None}, [float(second) for second in range(10)]),
]


@pytest.mark.parametrize(("settings", "expected"), WINDOWS)
def test_settings_of_a_block_are_obeyed(processor, film, settings, expected):
    (found,) = times(processor, chat(film, **settings))
    assert found == pytest.approx(expected, abs=0.06) and len(found) == len(expected)
    for second in found:
        assert second == pytest.approx(round(second * 10) / 10)
    for call in ({"num_frames": 5}, {"fps": 0.5}, {"sampling": "key_frames"}) if settings.get("fps") else ():
        assert times(processor, chat(film, **settings), **call) == [found]


@pytest.mark.parametrize("name", ["fps", "num_frames", "nframes", "max_frames", "min_frames", "video_start"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), "2", "", True, [2], -1])
def test_numbers_of_a_block_are_numbers(processor, film, name, value):
    with pytest.raises(ValueError, match=f"{name.replace('nframes', '(n|num_)frames')}"):
        times(processor, chat(film, **{name: value}))


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"role": "usr"}, "Message 0 has the role 'usr': it must be one of 'system', 'user', 'assistant'"),
        ({"role": 7}, "Message 0 has the role '7'"),
        ({"role": "tool"}, "chat template has no role 'tool'"),
        ({"speed": 2}, "`speed` of message 0 is not known"),
        ({"fps": 2}, "`fps` of message 0 is not known"),
        ({"name": "Ann"}, "chat template does not read `name` of a message"),
        ({"content": [{"type": "text", "text": "a?", "fps": 2}]}, "`fps` in a text block is not known"),
        ({"content": [{"type": "image", "image": "a.png", "size": 2}]}, "`size` in an image block is not known"),
        ({"content": [{"type": "audio", "audio": "a.wav"}]}, "must have the type 'text', 'video' or 'image'"),
    ],
)
def test_what_a_message_may_hold(processor, message, words):
    with pytest.raises(ValueError, match=words):
        processor.apply_chat_template([{"role": "user", "content": "a?", **message}], tokenize=True)


def test_each_video_has_settings_of_its_own(processor, film):
    messages = chat(film, video_start=3, video_end=5)
    messages[0]["content"][1:1] = [{"type": "video", "path": film}, {"type": "video", "url": film, "nframes": 1}]
    found = times(processor, messages)
    assert found == [[3.0, 4.0], [float(second) for second in range(10)], [5.0]]
    assert times(processor, [messages, chat(film, video_start=9)]) == [*found, [9.0]]


def test_frames_in_memory_and_their_files_have_a_window_as_well(processor, tmp_path):
    frames = barcode_frames(8, 16, 16)
    files = [str(tmp_path / f"{number}.png") for number in range(8)]
    for file, frame in zip(files, frames, strict=True):
        Image.fromarray(frame).save(file)
    for video in (frames, list(frames), [Image.fromarray(frame) for frame in frames], files):
        assert times(processor, chat(video, fps=2, video_start=1, video_end=2.5)) == [[1.0, 1.5, 2.0]]
        assert times(processor, chat(video, nframes=2)) == [[2.0, 6.0]]


def test_all_roads_of_a_chat_see_the_same_frames(processor, film):
    """Template, rows of data sets, the collator's estimate, streams and the interface of the model."""
    expected = processor(text="<video> which number?", videos=film, video_start=4, video_end=6, return_tensors="pt")
    assert expected["video_frame_mask"].tolist() == [[True, True]]
    answer = [{"role": "assistant", "content": "47"}]
    window = {"video_start": 4, "video_end": 6}
    block = {"type": "video", **window, "fps": None, "video": None}
    rows = [
        {"messages": chat(film, **window) + answer},
        {"messages": [{"role": "user", "content": [block, "which number?"]}, *answer], "video": film},
        {"video": film, "question": "which number?", "answer": "47", **window},
        {"video": [film], "question": "which number?", "answer": "47", "video_start": "4", "video_end": "6.0"},
    ]
    collator = DynFocusCollator(processor)
    model = DynFocusVideoQA(SimpleNamespace(config=tiny_config()), processor)
    for row in rows:
        encoded = collator.encode(row)
        assert torch.equal(encoded["pixel_values_videos"], expected["pixel_values_videos"])
        assert collator.estimate_length(row) == len(encoded["input_ids"])
        prepared = model.prepare({**row, "messages": row["messages"][:1]} if "messages" in row else row)
        assert torch.equal(prepared["inputs"]["pixel_values_videos"], expected["pixel_values_videos"])
        assert prepared["frame_times"] == [[4.0, 5.0]]
    ((_, video),) = media_of(as_messages(rows[0]))
    with processor.video_processor.stream(video, max_frames=7) as stream:
        (chunk,) = stream
    assert torch.equal(chunk.pixel_values, expected["pixel_values_videos"][0]) and chunk.times.tolist() == [4.0, 5.0]
    assert stream.sampling["video_start"] == 4.0 and "min_frames" not in stream.sampling


REFUSED = [
    ({"max_pixels": 4096}, "`max_pixels` in a video block is not supported"),
    ({"total_pixels": 4096}, "`total_pixels` in a video block is not supported"),
    ({"resized_height": 28}, "`resized_height` in a video block is not supported"),
    ({"sample_fps": 2}, "`sample_fps` in a video block is not supported: give `fps`"),
    ({"speed": 2}, "`speed` in a video block is not known"),
    ({"text": "What?"}, "`text` in a video block is not known"),
    ({"url": "b.mp4"}, "A video block holds one video, got `video` and `url`"),
    ({"fps": 0}, "fps is 0"),
    ({"fps": -1.0}, "fps is -1.0: it must be above 0"),
    ({"fps": float("inf")}, "fps is inf"),
    ({"fps": "2"}, "`fps` of a video must be a number, got str"),
    ({"fps": True}, "`fps` of a video must be a number, got bool"),
    ({"nframes": 1.5}, "num_frames is 1.5: it must be a whole number"),
    ({"num_frames": 0}, "num_frames is 0"),
    ({"nframes": 2, "num_frames": 3}, "mean the same"),
    ({"fps": 2, "nframes": 3}, "both `fps` and `num_frames`"),
    ({"min_frames": 8, "max_frames": 4}, "min_frames is 8, more than max_frames, 4"),
    ({"video_start": -1}, "video_start is -1"),
    ({"video_start": 12}, "video_start is 12 s, but the video lasts 10.00 s"),
    ({"video_start": 3, "video_end": 3}, "video_end is 3 s, which is not after video_start"),
]


@pytest.mark.parametrize(("settings", "message"), REFUSED)
def test_what_is_not_obeyed_is_refused_by_name(processor, film, settings, message):
    with pytest.raises(ValueError, match=message):
        times(processor, chat(film, **settings))
    row = {"messages": [*chat(film, **settings), {"role": "assistant", "content": "47"}]}
    with pytest.raises(ValueError, match=message):
        DynFocusCollator(processor).encode(row)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"type": "image", "image": "a.png", "max_pixels": 9}, "`max_pixels` in an image block is not supported"),
        ({"type": "image", "image": "a.png", "fps": 9}, "`fps` in an image block: it is for videos"),
        ({"type": "image", "image": ["a.png", "b.png"]}, "An image block holds one image, got list of 2"),
        ({"type": "image", "image": np.zeros((2, 4, 4, 3), np.uint8)}, "An image block holds one image"),
        ({"type": "image_url", "image_url": {"url": "a.png", "detail": "low"}}, "`detail` in the dict of an image"),
        ({"type": "video", "video": {"path": "a.mp4", "start": 3}}, "`start` in the dict of a video is not known"),
        ({"type": "text", "text": "a", "color": "red"}, "`color` in a text block is not known"),
        ({"type": "text", "text": b"a"}, "A text must be a string, got bytes"),
        ({"type": "text", "text": ["a"]}, "A text must be a string, got list"),
        ({"type": "audio", "audio": "a.wav"}, "'text', 'video' or 'image', got 'audio'"),
        ({"text": "a"}, "'text', 'video' or 'image', got None"),
        (7, "must be a dict, a dataclass or a pydantic model, got int"),
    ],
)
def test_blocks_that_cannot_be_meant(processor, block, message):
    messages = [{"role": "user", "content": [block, {"type": "text", "text": "which?"}]}]
    for read in (lambda: as_messages({"messages": messages}), lambda: processor.apply_chat_template(messages)):
        with pytest.raises(ValueError, match=message):
            read()


def test_a_window_of_a_row_is_for_its_one_video():
    row = {"question": "?", "video_start": 3}
    with pytest.raises(ValueError, match="`video_start` in a row is for its one video, and this row has 2"):
        as_messages({"videos": ["a.mp4", "b.mp4"], **row})
    with pytest.raises(ValueError, match="and this row has 0"):
        as_messages({"messages": chat("a.mp4"), **row})
    with pytest.raises(ValueError, match="`video_end` holds seconds, got 'soon'"):
        as_messages({"video": "a.mp4", "question": "?", "video_end": "soon"})
    assert media_of(as_messages({"video": "a.mp4", "question": "?", "video_end": None})) == [("video", "a.mp4")]


def test_numbers_of_blocks_are_those_of_their_media():
    blocks = [{"type": "image", "index": 0, "text": None}, {"type": "image", "index": 1, "text": None}]
    row = {"messages": [{"role": "user", "content": blocks}], "images": ["a.png", "b.png"]}
    assert [value for _, value in media_of(as_messages(row))] == ["a.png", "b.png"]
    blocks[1]["index"] = 0
    with pytest.raises(ValueError, match="`index` is 0 in the block of the image number 1"):
        as_messages(row)


@dataclass
class Message:
    role: str
    content: Any


@dataclass
class Block:
    type: str
    video: Any = None
    text: str | None = None
    fps: float | None = None


class Model:
    """As pydantic has them: what iterates over names and values, and has `model_dump`."""

    def __init__(self, **fields):
        self.fields = fields

    def __iter__(self):
        return iter(self.fields.items())

    def model_dump(self):
        raise AssertionError("takes videos apart")


@dataclass
class Conversation:
    messages: list


def test_messages_may_be_objects(processor, film):
    expected = times(processor, chat(film, fps=0.5))
    blocks = [Block("video", film, fps=0.5), Block("text", text="which number?")]
    models = [Model(type="video", video=film, fps=0.5), Model(type="text", text="which number?", fps=None)]
    for content in (blocks, models, chat(film, fps=0.5)[0]["content"]):
        for message in (Message("user", content), Model(role="user", content=content)):
            assert times(processor, [message]) == times(processor, Conversation([message])) == expected
            assert times(processor, [[message], Conversation([message])]) == expected * 2
            assert is_chat([message]) and is_chat(Conversation([message])) and not is_chat([message, film])
            for messages in ([message], Conversation([message])):
                ((kind, video),) = media_of(as_messages({"messages": messages}))
                assert (kind, video.video, video.settings) == ("video", film, {"fps": 0.5})


@pytest.mark.parametrize("question", [b"which?", 7, 2.5, {"a": 1}, ["which?", b"which?"]])
def test_questions_are_strings(processor, film, question):
    one = question[1] if isinstance(question, list) else question
    message = f"A question must be a string, got {type(one).__name__}"
    with pytest.raises(ValueError, match=message):
        processor.apply_chat_template([chat(film)] * 2, tokenize=True, question=question)
    with pytest.raises(ValueError, match=message):
        processor(text=["<video> which?"] * 2, videos=[film, film], question=question)
    with pytest.raises(ValueError, match=message):
        as_messages({"video": film, "question": one})
    model = DynFocusVideoQA(SimpleNamespace(config=tiny_config()), processor)
    for row in ({"video": film, "question": one}, {"messages": chat(film), "question": one}):
        with pytest.raises(ValueError, match=message):
            model.prepare(row)
    with pytest.raises(ValueError, match=message):
        model.prepare({"video": film}, question=one)


def test_images_have_a_mark_each(processor):
    images = [Image.fromarray(frame) for frame in barcode_frames(3, 16, 16)]
    expected = processor.video_processor([[image] for image in images])["pixel_values_videos"]
    arrays = np.stack([np.asarray(image) for image in images])
    for given in (images, tuple(images), list(arrays), arrays, torch.from_numpy(arrays)):
        found = processor(text="<video><video><video> which?", images=given, return_tensors="pt")
        assert torch.equal(found["pixel_values_videos"], expected)
        with pytest.raises(ValueError, match="The text has 1 <video> marks, but 3 videos were given"):
            processor(text="<video> which?", images=given)
    for given in (images, [images[:1], images[1:]], [[images[0]], (images[1], images[2])]):
        rows = processor(text=["<video> which?", "<video><video> which?"], images=given, return_tensors="pt")
        assert torch.equal(rows["pixel_values_videos"], expected)
    with pytest.raises(ValueError, match=r"have \[1, 2\] <video> marks, but \[2, 1\] videos"):
        processor(text=["<video> which?", "<video><video> which?"], images=[images[:2], images[2:]])


BITS = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
DEEP = {
    "I;16": Image.fromarray(BITS),
    "I": Image.fromarray(BITS.astype(np.int32)),
    "F": Image.fromarray((BITS / 65535).astype(np.float32)),
}


@pytest.mark.parametrize("mode", DEEP)
def test_deep_images_follow_the_rule_of_arrays_in_every_way_in(processor, tmp_path, mode):
    image, suffix = DEEP[mode], "tiff" if mode == "F" else "png"
    file = tmp_path / f"deep.{suffix}"
    (DEEP["I;16"] if mode == "I" else image).save(file)
    array = np.asarray(image)[..., None].repeat(3, axis=-1)
    answer = [{"role": "assistant", "content": "47"}]

    def row(kind, value):
        content = [{"type": kind, kind: value}, {"type": "text", "text": "which?"}]
        return DynFocusCollator(processor).encode({"messages": [{"role": "user", "content": content}, *answer]})

    def column(name, value):
        return DynFocusCollator(processor).encode({name: value, "question": "which?", "answer": "47"})

    ways = [
        lambda: processor.video_processor([image])["pixel_values_videos"],
        lambda: processor(text="<video> which?", images=image, return_tensors="pt")["pixel_values_videos"],
        lambda: row("image", image)["pixel_values_videos"],
        lambda: row("video", [image])["pixel_values_videos"],
        lambda: row("image", str(file))["pixel_values_videos"],
        lambda: row("image", file.read_bytes())["pixel_values_videos"],
        lambda: column("image", str(file))["pixel_values_videos"],
        lambda: column("image", {"path": None, "bytes": file.read_bytes()})["pixel_values_videos"],
        lambda: column("image", image)["pixel_values_videos"],
    ]
    # Of a video in files, each is read alone, so that none can say whether all lie in [0, 1].
    with pytest.raises(ValueError, match="more than 8 bits"):
        column("video", [str(file)])
    if mode == "F":
        expected = processor.video_processor(array[None])["pixel_values_videos"]
        assert int(np.abs(as_rgb_frames([image]).astype(int) - (BITS >> 8)[None, ..., None]).max()) <= 1
        for way in ways:
            torch.testing.assert_close(way(), expected)
        return
    with pytest.raises(ValueError, match="those of more than 8 bits scaled to"):
        processor.video_processor(array[None])
    for way in ways:
        with pytest.raises(ValueError, match="more than 8 bits"):
            way()


def test_a_text_that_is_too_long_is_not_tokenized(processor, film, monkeypatch):
    """Ten million characters, in every way in; and what does not fit the model's 8,192 positions."""
    model = DynFocusVideoQA(SimpleNamespace(config=tiny_config()), processor)
    calls = []
    tokenize = type(processor.tokenizer)._encode_plus
    monkeypatch.setattr(
        type(processor.tokenizer),
        "_encode_plus",
        lambda self, text, *args, **kwargs: calls.append(max(map(len, text))) or tokenize(self, text, *args, **kwargs),
    )
    processor(text="<video> which number?", videos=film)
    assert calls and max(calls) < 7000
    collator = DynFocusCollator(processor)
    answer = [{"role": "assistant", "content": "47"}]
    long, longer = "which? " * 40_000, "which? " * 1_500_000
    for text in (long, longer):
        asks = [
            lambda text=text: processor(text="<video> which?", videos=film, question=text),
            lambda text=text: model.prepare({"video": film, "question": text}),
            lambda text=text: model.prepare({"messages": chat(film), "question": text}),
            lambda text=text: model.prepare({"messages": long_chat(film, text), "question": "which?"}),
        ]
        if text is longer:
            asks += [
                lambda text=text: processor(text=f"<video>{text}", videos=film, question="which?"),
                lambda text=text: processor.apply_chat_template(long_chat(film, text), tokenize=True),
                lambda text=text: collator.encode({"messages": long_chat(film, text) + answer}),
                lambda text=text: collator.encode({"video": film, "question": text, "answer": "47"}),
                lambda text=text: collator.encode({"video": film, "question": "which?", "answer": text}),
                lambda text=text: collator.estimate_length({"video": film, "question": text, "answer": "47"}),
                lambda text=text: collator.encode(
                    {"video": film, "conversations": [{"from": "human", "value": text}, {"from": "gpt", "value": "4"}]}
                ),
            ]
        for ask in asks:
            with pytest.raises(ValueError, match="(too long|have [0-9,]+ characters|has [0-9,]+ characters)"):
                ask()
    assert max(calls) < 7000


def long_chat(film, text):
    return [{"role": "user", "content": [{"type": "video", "video": film}, {"type": "text", "text": text}]}]


def test_one_video_as_a_list_of_files_in_any_form(processor, tmp_path):
    """Paths, cells of image columns, bytes: in a column, a block, and among several videos."""
    frames = barcode_frames(3, 24, 32)
    paths = [str(tmp_path / f"{number}.png") for number in range(3)]
    for path, frame in zip(paths, frames, strict=True):
        Image.fromarray(frame).save(path)
    data = [Path(path).read_bytes() for path in paths]
    expected = processor.video_processor(frames)["pixel_values_videos"]
    collator = DynFocusCollator(processor)
    told = {"question": "which?", "answer": "47"}
    for video in (
        paths,
        [Path(path) for path in paths],
        [f"file://{path}" for path in paths],
        [{"path": path, "bytes": None} for path in paths],
        [{"path": None, "bytes": one} for one in data],
        data,
    ):
        content = [{"type": "video", "video": video}, {"type": "text", "text": "which?"}]
        chat = [{"role": "user", "content": content}, {"role": "assistant", "content": "47"}]
        for row in ({"video": video, **told}, {"videos": [video], **told}, {"messages": chat}):
            encoded = collator.encode(row)
            assert torch.equal(encoded["pixel_values_videos"], expected)
            assert collator.estimate_length(row) == len(encoded["input_ids"])
    named = collator.encode({"video": [{"path": f"{number}.png", "bytes": None} for number in range(3)], **told,
                             "media_root": str(tmp_path)})  # fmt: skip
    assert torch.equal(named["pixel_values_videos"], expected)


def test_relative_names_are_appended_to_an_address(tmp_path):
    for root, name, whole in (
        ("hf://datasets/a/b@main/films", "c/d.mp4", "hf://datasets/a/b@main/films/c/d.mp4"),
        ("memory://films/", "./d.mp4", "memory://films/d.mp4"),
        ("https://host.test/films", "d 1.mp4", "https://host.test/films/d 1.mp4"),
        ("zip://::memory://films.zip", "d.mp4", "zip://d.mp4::memory://films.zip"),
        ("zip://inner::memory://films.zip", "d.mp4", "zip://inner/d.mp4::memory://films.zip"),
        ("hf://datasets/a/b", "https://host.test/d.mp4", "https://host.test/d.mp4"),
        ("hf://datasets/a/b", "/films/d.mp4", "/films/d.mp4"),
        (str(tmp_path), "d.mp4", str(tmp_path / "d.mp4")),
    ):
        assert check_root(root) == root
        assert clean_block({"type": "video", "video": name}, root)["video"] == whole
        assert clean_block({"type": "image", "url": name}, root)["image"] == whole
    with pytest.raises(FileNotFoundError, match="media_root .*nowhere: there is no such folder"):
        check_root(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"media_root https://host\.test/films: names cannot be appended") as caught:
        check_root("https://host.test/films?token=secret")
    assert "secret" not in str(caught.value)


def test_a_video_at_an_address_is_read_from_its_root(tmp_path):
    import fsspec

    data = write_video(tmp_path / "a.mp4", barcode_frames(6)).read_bytes()
    with fsspec.open("memory://roots/a.mp4", "wb") as file:
        file.write(data)
    ((_, video),) = media_of(as_messages({"video": "a.mp4", "question": "what?"}, media_root="memory://roots"))
    assert len(read_video(video, fps=100.0).frames) == 6
