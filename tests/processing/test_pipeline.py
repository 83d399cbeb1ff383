"""The `video-qa` pipeline over a tiny random model: every way to call it gives the same answers."""

import io
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import make_tiny_processor
from tiny_models import tiny_model
from transformers import AutoVideoProcessor, GenerationConfig
from videos import barcode_frames, write_video

from dynfocus.configuration_dynfocus import DynFocusConfig
from dynfocus.modeling_dynfocus import DynFocusForConditionalGeneration
from dynfocus.processing import DynFocusProcessor, DynFocusVideoProcessor, VideoQAPipeline


@pytest.fixture(scope="module")
def pipe():
    torch.set_num_threads(1)
    processor = make_tiny_processor(num_prototypes=6, key_ratio=0.5)
    return VideoQAPipeline(model=tiny_model(), processor=processor, device="cpu", max_new_tokens=6)


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """12 seconds, 4 frames a second."""
    return str(write_video(tmp_path_factory.mktemp("films") / "a film.mp4", barcode_frames(48), fps=4))


@pytest.fixture(scope="module")
def rows(film):
    noise = np.random.default_rng(0).integers(0, 256, (2, 9, 24, 24, 3), dtype=np.uint8)
    return [
        {"video": film, "question": "which number?"},
        {"video": noise[0, :3], "question": "what colour is it, red or blue?", "answer": "red"},
        {"video": [noise[1], film], "question": "which shape?"},
        {"messages": [{"role": "user", "content": "hello"}]},
        {"video": noise[0], "question": "yes or no?"},
    ]


@pytest.fixture(scope="module")
def answers(pipe, rows):
    return [pipe(row) for row in rows]


def same(found, expected):
    """Equal, up to rounding in the numbers."""
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(same(found[key], expected[key]) for key in expected)
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(same, found, expected))
    return found == pytest.approx(expected, rel=1e-4) if isinstance(expected, float) else found == expected


def test_what_comes_back(pipe, film):
    result = pipe(film, question="which number?")
    assert set(result) == {"answer", "score", "key_frames", "num_visual_tokens"}
    assert isinstance(result["answer"], str) and 0 < result["score"] <= 1
    plan = pipe.processor.token_budget().plan(12)
    assert result["num_visual_tokens"] == plan.num_visual_tokens
    assert len(result["key_frames"]) == plan.num_key_frames
    for frame in result["key_frames"]:
        assert set(frame) == {"index", "time", "score"}
        assert frame["time"] == float(frame["index"]) and 0 <= frame["score"] <= 1
    assert json.loads(json.dumps(result)) == result


def test_details(pipe, film):
    result = pipe(film, question="which number?", return_details=True, fps=2, max_visual_tokens=150)
    assert result["num_visual_tokens"] <= 150 < result["num_dense_tokens"] == 24 * 40
    assert result["num_frames"] == 24
    assert result["frame_times"] == pytest.approx(np.arange(24) / 2)
    assert set(result["timings"]) == {"decode", "encode", "generate"} and min(result["timings"].values()) > 0
    events = result["events"]
    assert sorted(frame for event in events for frame in event["frames"]) == list(range(24))
    medoids = [event["medoid"] for event in events]
    assert medoids == sorted(medoids)
    assert [e["medoid"] for e in events if e["selected"]] == [frame["index"] for frame in result["key_frames"]]
    selected = [event["score"] for event in events if event["selected"]]
    assert selected == [frame["score"] for frame in result["key_frames"]]
    assert min(selected) >= max(event["score"] for event in events if not event["selected"])
    for event in events:
        assert event["medoid"] in event["frames"]
        assert event["start"] == event["start_index"] / 2 and event["end"] == (event["end_index"] + 1) / 2
    assert json.loads(json.dumps(result)) == result


def test_the_score_is_that_of_the_answer(pipe, rows):
    """Recomputed by one forward pass over prompt and answer."""
    row = pipe.preprocess(rows[0])
    output = pipe.model.generate(**row["inputs"], max_new_tokens=6)
    logits = pipe.model(**{**row["inputs"], "input_ids": output, "attention_mask": torch.ones_like(output)}).logits
    start = row["inputs"]["input_ids"].shape[1]
    new_tokens = output[0, start:].tolist()
    log_probs = logits[0, start - 1 : -1].log_softmax(-1)
    end = new_tokens.index(2) + 1 if 2 in new_tokens else len(new_tokens)
    expected = log_probs[range(end), new_tokens[:end]].mean().exp().item()
    assert pipe(rows[0])["score"] == pytest.approx(expected, rel=1e-4)


def test_batches_lists_generators_and_data_sets(pipe, rows, answers):
    assert same(pipe(rows), answers)
    assert same(pipe(rows, batch_size=2), answers)
    assert same(pipe(rows, batch_size=5), answers)
    generated = pipe((row for row in rows), batch_size=2)
    assert not isinstance(generated, list)
    assert same(list(generated), answers)

    class Table:
        """A data set as `datasets.Dataset` is one: length and rows."""

        def __len__(self):
            return len(rows)

        def __getitem__(self, index):
            return rows[index]

    assert same(list(pipe(Table(), batch_size=3)), answers)
    assert pipe([]) == []


def test_workers_decode(pipe, rows, answers):
    assert same(pipe(rows, batch_size=2, num_workers=1), answers)


def test_data_set_rows(pipe, rows, film, answers):
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_list([{"video": film, "question": "which number?", "kind": "number"}] * 2)
    assert same(list(pipe(table)), [answers[0]] * 2)
    assert same(list(pipe(table.to_iterable_dataset())), [answers[0]] * 2)


def test_every_way_to_ask(pipe, rows, film, answers):
    question = "which number?"
    with open(film, "rb") as file:
        data = file.read()
    content = [{"type": "video", "video": film}, {"type": "text", "text": question}]
    chat = [{"role": "user", "content": content}]
    for call in (
        lambda: pipe(film, question=question),
        lambda: pipe(film, question),
        lambda: pipe(data, question=question),
        lambda: pipe(io.BytesIO(data), question=question),
        lambda: pipe({"video": film}, question=question),
        lambda: pipe(chat),
        lambda: pipe({"messages": chat}),
        lambda: pipe([chat, chat])[1],
        lambda: pipe([film, film], question=question)[1],
        lambda: pipe([film, rows[4]["video"]], question=[question, "a?"])[0],
        lambda: pipe(film, question=[question, "what else?"])[0],
        lambda: pipe({"video": film}, question=["what else?", question])[1],
        lambda: pipe(pipe.encode_video(film), question=question),
        lambda: pipe([{"video": pipe.encode_video(film), "question": question}, rows[4]], batch_size=2)[0],
    ):
        assert same(call(), answers[0])
    images = [Image.fromarray(frame) for frame in rows[1]["video"]]
    assert same(pipe(images, question=rows[1]["question"]), answers[1])
    assert same(pipe(torch.from_numpy(rows[4]["video"]), question="yes or no?"), answers[4])


def test_a_video_is_encoded_once_for_many_questions(pipe, film, monkeypatch):
    calls = []
    tower = pipe.model.model.vision_tower
    monkeypatch.setattr(tower, "forward", lambda *a, _inner=tower.forward, **k: calls.append(1) or _inner(*a, **k))
    questions = ["which number?", "what colour?", "which number?"]
    found = pipe(film, question=questions, fps=2, return_details=True)
    assert len(calls) == 1
    assert found[0]["answer"] == found[2]["answer"] and found[0]["key_frames"] == found[2]["key_frames"]
    assert found[0]["frame_times"] == pytest.approx(np.arange(24) / 2)


def test_several_videos_in_one_question(pipe, rows, answers):
    result = answers[2]
    assert {frame["video"] for frame in result["key_frames"]} == {0, 1}
    budget = pipe.processor.token_budget()
    assert result["num_visual_tokens"] == sum(budget.plan(t).num_visual_tokens for t in (9, 12))
    details = pipe(rows[2], return_details=True)
    assert [len(times) for times in details["frame_times"]] == [9, 12]
    assert details["num_frames"] == 21
    asked_together = pipe({"video": rows[2]["video"]}, question=[rows[2]["question"], "what else?"])
    assert same(asked_together[0], answers[2])
    assert answers[3]["key_frames"] == [] and answers[3]["num_visual_tokens"] == 0


def test_sampling_and_budget(pipe, film):
    def frames(**kwargs):
        return pipe(film, question="a?", return_details=True, **kwargs)["num_frames"]

    assert (frames(fps=0.5), frames(num_frames=5), frames(max_frames=4), frames(decoder="pyav")) == (6, 5, 4, 12)
    assert pipe(film, question="a?", max_visual_tokens=44)["num_visual_tokens"] == 44
    quick = VideoQAPipeline(model=pipe.model, processor=pipe.processor, device="cpu", fps=0.5, max_new_tokens=2)
    assert quick(film, question="a?", return_details=True)["num_frames"] == 6
    assert quick(film, question="a?", fps=1, return_details=True)["num_frames"] == 12


def test_generation_parameters(pipe, rows):
    row = rows[0]
    assert len(pipe(row, max_new_tokens=1)["answer"]) <= len(pipe(row)["answer"])
    assert same(pipe(row, generate_kwargs={"max_new_tokens": 1}), pipe(row, max_new_tokens=1))
    config = GenerationConfig(max_new_tokens=1, pad_token_id=0, eos_token_id=2, bos_token_id=1)
    assert same(pipe(row, generation_config=config), pipe(row, max_new_tokens=1))
    beams = pipe(rows[:3], num_beams=2, batch_size=3)
    assert same(beams, [pipe(one, num_beams=2) for one in rows[:3]])
    assert all(0 < one["score"] <= 1 for one in beams)
    torch.manual_seed(0)
    first = [pipe(row, do_sample=True, temperature=3.0)["answer"] for _ in range(4)]
    assert len(set(first)) > 1


def test_default_length_without_any_setting(pipe, rows, monkeypatch):
    bare = VideoQAPipeline(model=pipe.model, processor=pipe.processor, device="cpu")
    assert pipe.model.generation_config.max_new_tokens is None
    lengths, generate = [], pipe.model.generate

    def measured(**kwargs):
        output = generate(**kwargs)
        lengths.append(output.sequences.shape[1] - kwargs["input_ids"].shape[1])
        return output

    monkeypatch.setattr(pipe.model, "generate", measured)
    # Nothing ends the answer but its length.
    bare(rows[1], eos_token_id=63, suppress_tokens=[63])
    assert lengths == [64]


def test_a_chat_may_begin_the_answer(pipe, film):
    content = [{"type": "video", "video": film}, {"type": "text", "text": "which number?"}]
    begun = [{"role": "user", "content": content}, {"role": "assistant", "content": "it is"}]
    ids = pipe.preprocess({"messages": begun})["inputs"]["input_ids"][0]
    assert pipe.processor.tokenizer.decode(ids).endswith("assistant: it is")
    assert isinstance(pipe(begun)["answer"], str)


# --- errors


@pytest.mark.parametrize("settings", [{"fps": 2}, {"num_frames": 3}, {"max_frames": 2}, {"video_start": 1}])
def test_settings_of_a_row_are_those_of_its_video(pipe, film, settings):
    def times(found):
        return found["frame_times"]

    row = {"video": film, "question": "a?", **settings}
    block = {"type": "video", "video": film, **settings}
    chat = [{"role": "user", "content": [block, {"type": "text", "text": "a?"}]}]
    options = {"max_new_tokens": 1, "return_details": True, "fps": 1}
    whole, expected = (times(pipe(one, **options)) for one in ({"video": film, "question": "a?"}, chat))
    assert times(pipe(row, **options)) == expected != whole
    (listed,) = pipe([row], **options)
    # A data set's columns of other names describe its rows.
    (of_table,) = pipe(({**row, "category": "birds", "min_frames": float("nan")} for row in [row]), **options)
    assert times(listed) == times(of_table) == expected


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"fps": float("nan")}, "fps is nan"),
        ({"fps": "2"}, "`fps` of a video must be a number, got str"),
        ({"fps": True}, "`fps` of a video must be a number, got bool"),
        ({"max_new_tokens": 3}, "`max_new_tokens` in a row is not read: give it to the call"),
        ({"max_visual_tokens": 300}, "`max_visual_tokens` in a row is not read: give it to the call"),
        ({"temprature": 3}, "`temprature` in a row is not known: leave it out; a row may have `video`, "),
        ({"messages": [{"role": "user", "content": "a?"}], "video": None, "fps": 2}, "give it in the video's block"),
    ],
)
def test_keys_of_a_row_are_read_or_refused(pipe, film, row, words):
    with pytest.raises(ValueError, match=words):
        pipe({"video": film, "question": "a?", **row})
    (found,) = pipe([{"video": film, "question": "a?", **row}], on_error="skip")
    assert found["answer"] is None and re.search(words, found["error"])


def test_a_bad_row_costs_itself_alone(pipe, rows, answers, tmp_path):
    garbage = tmp_path / "garbage.mp4"
    garbage.write_bytes(b"no video" * 100)
    bad = [
        {"video": "/no/such.mp4", "question": "a?"},
        {"video": str(garbage), "question": "a?"},
        {"video": np.full((2, 8, 8, 3), np.nan), "question": "a?"},
        {"video": rows[1]["video"], "question": " "},
        {"video": rows[1]["video"]},
        {"clip": 3, "question": "a?", "video": 3.5},
    ]
    mixed = [bad[0], rows[0], bad[1], bad[2], rows[1], *bad[3:], rows[4]]
    for batch_size in (1, 2, 9):
        found = pipe(mixed, batch_size=batch_size, on_error="skip")
        assert same([found[i] for i in (1, 4, 8)], [answers[i] for i in (0, 1, 4)])
        errors = [found[i] for i in (0, 2, 3, 5, 6, 7)]
        assert all(error["answer"] is None and set(error) == {"answer", "error"} for error in errors)
        causes = [
            "Row 0: /no/such.mp4",
            "garbage.mp4",
            "Row 3: .*NaN",
            "empty",
            "Row 6: There is no question",
            "`clip` in a row is not known",
        ]
        for error, cause in zip(errors, causes, strict=True):
            assert re.search(cause, error["error"])
    with pytest.raises(FileNotFoundError, match="Row 1: /no/such.mp4"):
        pipe([rows[0], bad[0]])
    with pytest.raises(ValueError, match="^The video has 0 frames"):
        pipe(np.zeros((0, 8, 8, 3), np.uint8), question="a?")
    assert pipe("/no/such.mp4", question=["a?", "b?"], on_error="skip")[1]["answer"] is None
    with pytest.raises(FileNotFoundError):
        pipe("/no/such.mp4", question=["a?", "b?"])


def test_calls_that_cannot_be_meant(pipe, film):
    with pytest.raises(TypeError, match="Unknown keyword of the video-qa pipeline: max_frame"):
        pipe(film, question="a?", max_frame=3)
    with pytest.raises(TypeError, match="Unknown keyword of the video-qa pipeline: frames"):
        VideoQAPipeline(model=pipe.model, processor=pipe.processor, device="cpu", frames=3)
    with pytest.raises(ValueError, match="There is no question"):
        pipe(film)
    with pytest.raises(ValueError, match="question is empty"):
        pipe(film, question="")
    for question, kind in ((3, "int"), (b"a?", "bytes")):
        with pytest.raises(ValueError, match=f"question must be a string, or a list of strings, got {kind}"):
            pipe(film, question=question)
    for name, value, kind in (
        ("fps", "2", "a number"),
        ("max_frames", 2.5, "an integer"),
        ("num_frames", True, "an int"),
    ):
        with pytest.raises(ValueError, match=f"^`{name}` must be {kind}[a-z]*, got {value!r}\\.$"):
            pipe(film, question="a?", **{name: value})
    assert pipe([], question="a?") == []
    with pytest.raises(ValueError, match="1 questions for 2 videos"):
        pipe([film, film], question=["a?"])
    with pytest.raises(ValueError, match="Cannot make a video out of int"):
        pipe(3, question="a?")
    with pytest.raises(ValueError, match="'raise' or 'skip', got 'maybe'"):
        pipe(film, question="a?", on_error="maybe")
    with pytest.raises(ValueError, match="one answer"):
        pipe(film, question="a?", do_sample=True, num_return_sequences=2)
    with pytest.raises(ValueError, match="max_visual_tokens=10"):
        pipe(film, question="a?", max_visual_tokens=10)
    with pytest.raises(ValueError, match="There is no rule of choice 3: choose one of 'context', "):
        pipe(film, question="a?", rule=3)


@pytest.mark.parametrize("empty", ["", " ", None, float("nan"), []])
def test_an_empty_video_is_not_answered_from_nothing(pipe, rows, empty):
    """An empty cell of a table, or an unset variable; a row without the column is a question without a video."""
    bad = {"video": empty, "question": "a?"}
    (skipped, _) = pipe([bad, rows[0]], on_error="skip")
    assert skipped["answer"] is None and "There is no video: `video` is " in skipped["error"]
    if isinstance(empty, str):
        with pytest.raises(ValueError, match="There is no video: `video` is ' *'; name a file or an address."):
            pipe(empty, question="a?")
    assert pipe({"question": "a?"})["num_visual_tokens"] == 0


def test_no_rows_have_no_answers(pipe):
    assert pipe.video_qa.answer([]) == []


def test_save_and_load(pipe, rows, answers, tmp_path):
    AutoVideoProcessor.register(DynFocusConfig, DynFocusVideoProcessor, exist_ok=True)
    pipe.save_pretrained(tmp_path)
    again = VideoQAPipeline(
        model=DynFocusForConditionalGeneration.from_pretrained(tmp_path),
        processor=DynFocusProcessor.from_pretrained(tmp_path),
        device="cpu",
        max_new_tokens=6,
    )
    assert same([again(row) for row in rows[:2]], answers[:2])
