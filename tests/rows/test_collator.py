"""Training batches: labels, questions, token plans that fit, bad rows, prompts for evaluation, length estimates."""

import copy
import logging
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from forked import at_once
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny import make_tiny_processor
from tiny_models import of_videos, tiny_model
from torch.utils.data import DataLoader
from videos import barcode_frames, cut_file, write_video

from dynfocus.processing import DynFocusCollator, TokenBudget, video_processing_dynfocus
from dynfocus.processing.rows.fitting import fitting_plans


@pytest.fixture(scope="module")
def processor():
    return make_tiny_processor()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`a film ü.mp4`, 40 frames in 4 seconds, `long.mp4`, 90 in 9; the broken `cut.mp4`, `noise.mp4`; `a.png`."""
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "a film ü.mp4", barcode_frames(40), fps=10)
    write_video(folder / "long.mp4", barcode_frames(90), fps=10)
    cut_file(folder / "long.mp4", 0.6, folder / "cut.mp4")
    (folder / "noise.mp4").write_bytes(bytes(range(256)) * 9)
    Image.new("RGB", (8, 8), "red").save(folder / "a.png")
    return folder


@pytest.fixture(autouse=True)
def warnings_are_seen(caplog):
    for name in ("bad_rows", "collator"):
        logger = logging.getLogger(f"dynfocus.processing.{name}")
        logger.propagate = True
        logger.setLevel(logging.WARNING)


def frames_of(num_frames, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (num_frames, 24, 40, 3), dtype=np.uint8)


def chat(*videos, text="which number?", answer=None):
    content = [{"type": "video", "video": video} for video in videos] + [{"type": "text", "text": text}]
    messages = [{"role": "user", "content": content}]
    return messages if answer is None else [*messages, {"role": "assistant", "content": answer}]


def learned(processor, row):
    labels = row["labels"]
    assert torch.equal(labels[labels >= 0], row["input_ids"][labels >= 0])
    return processor.tokenizer.decode(labels[labels >= 0])


def asked(processor, inputs, video=0):
    ids, mask = inputs["question_input_ids"][video], inputs["question_attention_mask"][video]
    return processor.tokenizer.decode(ids[mask.bool()])


def in_row(batch, row):
    return {name: tensor[row] for name, tensor in batch.items() if len(tensor) == len(batch["input_ids"])}


# --- batches


def test_labels_are_the_answers_alone(processor, folder):
    rows = [
        {"video": str(folder / "a film ü.mp4"), "question": "which number?", "answer": "47"},
        {"messages": [*chat(frames_of(3), frames_of(2), text="a?", answer="yes"), *chat(text="b?", answer="no, no")]},
        {"messages": chat(text="hello", answer="red")},
        {"video": [frames_of(2), frames_of(3)], "question": "which?", "answer": 12},
        {
            "image": "a.png",
            "conversations": [{"from": "human", "value": "<image>\nred?"}, {"from": "gpt", "value": "yes"}],
        },
    ]
    collator = DynFocusCollator(processor, processor_kwargs={"max_visual_tokens": 60}, media_root=folder)
    batch = collator(rows)
    expected = [" 47</s>", " yes</s> no, no</s>", " red</s>", " 12</s>", " yes</s>"]
    assert [learned(processor, in_row(batch, row)) for row in range(5)] == expected
    frames = [4, 3, 2, 2, 3, 1]
    assert batch["video_frame_mask"].sum(1).tolist() == frames
    # Padded on the right.
    assert batch["attention_mask"][:, 0].all()
    assert (batch["labels"][batch["attention_mask"] == 0] == -100).all()
    counts = (batch["input_ids"] == processor.video_token_id).sum()
    assert counts == sum(processor.token_budget(max_visual_tokens=60).plan(t).num_visual_tokens for t in frames)
    assert collator.rows_seen == 5 and collator.rows_bad == 0
    # Each row is what it is alone, and before the answer what generation is given.
    for index, row in enumerate(rows):
        alone = collator.encode(row)
        assert torch.equal(in_row(batch, index)["labels"][: len(alone["labels"])], alone["labels"])
        prompt, answer = collator.encode_prompt(row)
        length = len(prompt["input_ids"])
        assert torch.equal(alone["input_ids"][:length], prompt["input_ids"])
        assert expected[index].endswith(f" {answer}</s>") and "labels" not in prompt
        if "messages" in row:
            asked_alone = processor.apply_chat_template(
                [row["messages"][:-1]],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                max_visual_tokens=60,
            )
            assert asked_alone.keys() == prompt.keys()
            assert all(torch.equal(asked_alone[name].reshape(prompt[name].shape), prompt[name]) for name in prompt)


def test_prompts_are_padded_on_the_left(processor, folder):
    rows = [
        {"video": "long.mp4", "question": "what is this?", "answer": "yes"},
        {"video": "noise.mp4", "question": "what?", "answer": "no"},
        {"messages": [*chat(text="a?", answer="red"), *chat(text="b?", answer="blue")]},
    ]
    collator = DynFocusCollator(processor, "skip", media_root=folder)
    batch, answers, kept = collator.collate_prompts(rows)
    assert answers == ["yes", "blue"] and kept == [0, 2] and collator.rows_bad == 1
    assert batch["attention_mask"][:, -1].all() and "labels" not in batch
    text = processor.tokenizer.decode(batch["input_ids"][1][batch["attention_mask"][1].bool()])
    assert text == "<s>user: a?\nassistant: red</s>user: b?\nassistant:"
    assert collator.collate_prompts(rows[1:2]) == ({}, [], [])
    with pytest.raises(ValueError, match="Row 1 of the batch: .*noise.mp4"):
        DynFocusCollator(processor, media_root=folder).collate_prompts(rows)


def test_settings_are_checked(processor, tmp_path):
    for settings_, message in (
        ({"on_error": "ignore"}, "'raise' or 'skip', got 'ignore'"),
        ({"on_too_long": "cut"}, "'raise' or 'shrink', got 'cut'"),
        ({"learn_from": "first"}, "'all' or 'last', got 'first'"),
        ({"media_root": tmp_path / "none"}, "media_root .*none: there is no such folder"),
        ({"max_length": 0}, "`max_length` must be at least 1, got 0"),
        ({"max_bad_fraction": 1.5}, "`max_bad_fraction` must lie between 0 and 1, got 1.5"),
        ({"processor_kwargs": {"max_visual_tokens": 3}}, "max_visual_tokens=3"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            DynFocusCollator(processor, **settings_)


# --- questions


def test_the_question_of_a_row(processor):
    video = frames_of(2)
    turns = [*chat(video, text="first?", answer="yes"), *chat(text="last?", answer="no")]
    assert asked(processor, DynFocusCollator(processor).encode({"messages": turns})) == "first?\nlast?"
    assert asked(processor, DynFocusCollator(processor, learn_from="last").encode({"messages": turns})) == "last?"
    assert asked(processor, DynFocusCollator(processor).encode_prompt({"messages": turns})[0]) == "last?"
    assert asked(processor, DynFocusCollator(processor).encode({"messages": turns[:2]})) == "first?"
    with pytest.raises(ValueError, match="question is empty"):
        DynFocusCollator(processor).encode({"messages": chat(video, text=" ", answer="yes")})
    # A turn of nothing but a video asks nothing.
    turns = [*chat(video, text=" ", answer="yes"), *chat(text="last?", answer="no")]
    assert asked(processor, DynFocusCollator(processor).encode({"messages": turns})) == "last?"


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.text("ab c?\n", min_size=1, max_size=60).filter(str.strip), min_size=1, max_size=5), st.integers(1, 30)
)
def test_questions_are_cut_to_what_the_processor_reads(texts, limit):
    processor = make_tiny_processor(max_question_tokens=limit)
    turns = [turn for text in texts for turn in chat(text=text, answer="yes")]
    turns[0]["content"].insert(0, {"type": "video", "video": frames_of(1)})
    row = DynFocusCollator(processor).encode({"messages": turns})
    found, stripped = asked(processor, row), [text.strip() for text in texts]
    assert row["question_attention_mask"].sum() <= limit

    def length(text):
        return len(processor.tokenizer(text, add_special_tokens=False)["input_ids"])

    # The last turns that fit, or else the begin of the last one.
    fitting = [n for n in range(1, len(texts) + 1) if length("\n".join(stripped[-n:])) <= limit]
    if fitting:
        assert found == "\n".join(stripped[-max(fitting) :])
    else:
        assert stripped[-1].startswith(found) and length(stripped[-1][: len(found) + 6]) >= limit
    assert learned(processor, row) == " yes</s>" * len(texts)


# --- lengths

BUDGETS = st.builds(
    TokenBudget,
    num_prototypes=st.integers(1, 12),
    key_ratio=st.floats(0.1, 1),
    cone_tokens=st.integers(3, 9),
    rod_tokens=st.integers(1, 2),
    rods_on_key_frames=st.booleans(),
    max_visual_tokens=st.none() | st.integers(11, 120),
)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), BUDGETS, st.integers(0, 400))
def test_plans_that_fit_are_the_largest(num_frames, budget, room):
    def cost(limit):
        limit = min(limit, budget.max_visual_tokens or limit)
        return sum(replace(budget, max_visual_tokens=limit).plan(t).num_visual_tokens for t in num_frames)

    limits = range(budget.cone_tokens + budget.rod_tokens, 500)
    costs = [cost(limit) for limit in limits]
    assert costs == sorted(costs)
    if costs[0] > room:
        with pytest.raises(ValueError, match=rf"{len(num_frames)} videos cost {costs[0]} visual tokens"):
            fitting_plans(num_frames, budget, room)
        return
    plans = fitting_plans(num_frames, budget, room)
    assert sum(plan.num_visual_tokens for plan in plans) == max(one for one in costs if one <= room)
    assert [plan.num_frames for plan in plans] == num_frames
    for plan in plans:
        assert plan.num_visual_tokens == budget.cost(plan.num_frames, plan.num_key_frames, plan.num_rod_groups)


@pytest.mark.parametrize("kept", [True, False])
def test_long_rows_shrink_to_what_fits(kept):
    processor = make_tiny_processor(rods_on_key_frames=kept)
    model = tiny_model("default" if kept else "released_code")
    two = chat(frames_of(12), text="a", answer="yes")
    two[0]["content"].insert(1, {"type": "video", "video": frames_of(3, seed=1)})
    rows = [{"messages": chat(frames_of(9), answer="47")}, {"messages": two}]
    for row, least in zip(rows, (40, 80), strict=True):
        whole = DynFocusCollator(processor).encode(row)
        is_text = whole["input_ids"] != processor.video_token_id
        num_text = int(is_text.sum())
        for max_length in [*range(num_text + least, len(whole["input_ids"]), 23), len(whole["input_ids"])]:
            collator = DynFocusCollator(processor, max_length=max_length, on_too_long="shrink")
            found = collator.encode(row)
            assert len(found["input_ids"]) <= max_length and len(found["labels"]) == len(found["input_ids"])
            assert collator.estimate_length(row) == len(found["input_ids"])
            text = found["input_ids"] != processor.video_token_id
            assert torch.equal(found["input_ids"][text], whole["input_ids"][is_text])
            assert torch.equal(found["labels"][text], whole["labels"][is_text])
            assert torch.equal(found["pixel_values_videos"], whole["pixel_values_videos"])
            with torch.no_grad():
                features = model.get_video_features(**of_videos(found)).pooler_output
            assert sum(map(len, features)) == int((~text).sum())
            if len(features) == 1:
                # Any larger plan would not have fitted.
                limits = range(len(features[0]), 500)
                costs = {processor.token_budget(max_visual_tokens=n).plan(9).num_visual_tokens for n in limits}
                assert all(num_text + cost > max_length for cost in costs - {len(features[0])})
        assert torch.equal(found["input_ids"], whole["input_ids"])
        for setting in ({"on_too_long": "shrink"}, {}):
            with pytest.raises(
                ValueError, match=rf"visual and {num_text} text tokens.*max_length={num_text + least - 1}"
            ):
                DynFocusCollator(processor, max_length=num_text + least - 1, **setting).encode(row)
        prompt, _ = DynFocusCollator(processor, max_length=num_text + least, on_too_long="shrink").encode_prompt(row)
        assert len(prompt["input_ids"]) <= num_text + least


def test_a_shrunk_batch_goes_through_the_model(processor):
    model = tiny_model()
    rows = [{"messages": chat(frames_of(9), answer="47")}, {"messages": chat(frames_of(4), answer="yes")}]
    batch = DynFocusCollator(processor, max_length=130, on_too_long="shrink")(rows)
    assert batch["input_ids"].shape[1] <= 130
    assert torch.isfinite(model(**batch).loss)


def test_text_is_never_cut(processor):
    row = {"messages": chat(text="word " * 30, answer="yes")}
    with pytest.raises(ValueError, match="0 visual and .* text tokens, but `max_length=20`"):
        DynFocusCollator(processor, max_length=20, on_too_long="shrink").encode(row)


@pytest.mark.parametrize(
    "sampling",
    [{}, {"fps": 3}, {"fps": 100}, {"num_frames": 7}, {"fps": 5, "max_frames": 6}, {"do_sample_frames": False}],
)
def test_estimated_lengths_are_true(processor, folder, sampling, monkeypatch):
    rows = [
        {"video": "long.mp4", "question": "what is this?", "answer": "yes"},
        {"video": ["a film ü.mp4", "long.mp4"], "question": "same?", "answer": "no"},
        {"video": (folder / "long.mp4").read_bytes(), "question": "what?", "answer": "no"},
        {"image": "a.png", "question": "red?", "answer": "yes"},
        {"messages": [*chat(frames_of(9), text="a?", answer="red"), *chat(text="b?", answer="blue")]},
        {"messages": chat(text="hello", answer="red")},
    ]
    collator = DynFocusCollator(processor, processor_kwargs={**sampling, "max_visual_tokens": 400}, media_root=folder)
    lengths = [len(collator.encode(row)["input_ids"]) for row in rows]
    broken = {"video": "noise.mp4", "question": "what?", "answer": "no"}
    monkeypatch.setattr(video_processing_dynfocus, "read_video", None)
    assert [collator.estimate_length(row) for row in rows] == lengths
    with pytest.raises(ValueError, match="noise.mp4"):
        collator.estimate_length(broken)
    assert 0 < DynFocusCollator(processor, "skip", media_root=folder).estimate_length(broken) < 40
    # Asked again, files are not even opened.
    monkeypatch.setattr("dynfocus.processing.rows.counts.open_source", None)
    assert [collator.estimate_length(row) for row in rows[:2]] == lengths[:2]


def test_a_rate_of_the_call_overrules_a_saved_number_of_frames(folder):
    processor = make_tiny_processor()
    processor.video_processor.num_frames = 3
    row = {"video": "long.mp4", "question": "what?", "answer": "no"}
    for setting, frames in ({"fps": 2}, 18), ({}, 3), ({"fps": 2, "num_frames": 5}, 5):
        collator = DynFocusCollator(processor, processor_kwargs=setting, media_root=folder)
        encoded = collator.encode(row)
        assert encoded["video_frame_mask"].sum() == frames
        assert collator.estimate_length(row) == len(encoded["input_ids"])


def test_estimates_of_rows_that_are_too_long(processor, folder):
    row = {"video": "long.mp4", "question": "what?", "answer": "no"}
    whole = len(DynFocusCollator(processor, media_root=folder).encode(row)["input_ids"])
    for setting in ("raise", "shrink"):
        collator = DynFocusCollator(processor, media_root=folder, max_length=30, on_too_long=setting)
        assert collator.estimate_length(row) == whole
        with pytest.raises(ValueError, match="`max_length=30`"):
            collator.encode(row)


def test_a_row_may_name_its_own_folder(processor, folder, tmp_path):
    row = {"video": "long.mp4", "question": "what?", "answer": "no"}
    assert DynFocusCollator(processor).encode({**row, "media_root": folder})["video_frame_mask"].sum() == 9
    collator = DynFocusCollator(processor, media_root=folder)
    assert collator.encode({**row, "media_root": None})["video_frame_mask"].sum() == 9
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        collator.encode({**row, "media_root": str(tmp_path)})


# --- bad rows


def test_rows_that_cannot_be_learned(processor, folder):
    good = {"video": "long.mp4", "question": "which?", "answer": "47"}
    bad = {"video": "no.mp4", "question": "which?", "answer": "47", "id": "v7"}
    collator = DynFocusCollator(processor, media_root=folder)
    with pytest.raises(FileNotFoundError, match=r"Row 1 of the batch \(id 'v7'\): .*/no.mp4"):
        collator([good, bad])
    with pytest.raises(FileNotFoundError, match=r"Row \(id 'v7'\): .*/no.mp4"):
        collator.encode(bad)
    with pytest.raises(ValueError, match="cut.mp4: .*is cut off"):
        collator([{**good, "video": "cut.mp4"}])
    with pytest.raises(ValueError, match="has no answer to learn from"):
        collator([{"video": frames_of(1), "question": "a?"}])
    with pytest.raises(ValueError, match="got the keys .*'clip'"):
        collator([{"clip": 3}])
    for role, number in (("question", 0), ("answer", 1)):
        with pytest.raises(ValueError, match=rf"id 'v7'.*text of turn {number} holds '<video>'"):
            collator([{**good, "id": "v7", role: "a <video>?"}])
    with pytest.raises(ValueError, match=r"id 'v7', .*long.mp4.*The row has \d+ visual"):
        DynFocusCollator(processor, media_root=folder, max_length=40)([{**good, "id": "v7"}])


EMPTY_ANSWERS = {
    "a table": {"question": "a?", "answer": " "},
    "LLaVA": {"conversations": [{"from": "human", "value": "a?"}, {"from": "gpt", "value": ""}]},
    "chat": {"messages": [{"role": "user", "content": "a?"}, {"role": "assistant", "content": None}]},
    "blocks": {
        "messages": [
            {"role": "user", "content": "a?"},
            {"role": "assistant", "content": [{"type": "text", "text": " \n"}]},
            {"role": "user", "content": "b?"},
            {"role": "assistant", "content": "b"},
        ]
    },
}


@pytest.mark.parametrize("form", EMPTY_ANSWERS)
def test_an_empty_answer_is_a_bad_row_in_every_form(processor, form):
    row = {"id": "v7", **EMPTY_ANSWERS[form]}
    with pytest.raises(ValueError, match="id 'v7'.*(no answer to learn from|turn 1 is empty)"):
        DynFocusCollator(processor).encode(row)
    with pytest.raises(ValueError, match="id 'v7'.*(no answer to learn from|turn 1 is empty)"):
        DynFocusCollator(processor).encode_prompt(row)
    patient = DynFocusCollator(processor, "skip", max_bad_fraction=1)
    patient([row, {"question": "a?", "answer": "b"}])
    assert (patient.rows_seen, patient.rows_bad) == (2, 1)


def test_a_call_of_a_tool_is_an_answer_without_words(processor, monkeypatch):
    call = {"type": "function", "function": {"name": "seek", "arguments": {"second": 3}}}
    turn = {"role": "assistant", "content": "", "tool_calls": [call]}
    last = {"role": "assistant", "content": "b"}
    row = {"messages": [{"role": "user", "content": "a?"}, turn, {"role": "user", "content": "b?"}, last]}
    collator = DynFocusCollator(processor, learn_from="last")
    with pytest.raises(ValueError, match="chat template does not read `tool_calls` of a message"):
        collator.encode(row)
    end = "{%- if message['role'] == 'assistant' -%}{{- eos_token"
    template = processor.chat_template.replace(end, "{{- message.tool_calls|tojson if message.tool_calls -}}" + end)
    monkeypatch.setattr(processor, "chat_template", template)
    assert (collator.encode(row)["labels"] != -100).any()


def test_bad_rows_are_left_out_counted_and_told_once(processor, folder, caplog):
    good = {"video": "long.mp4", "question": "which?", "answer": "47"}
    bad = {"video": "noise.mp4", "question": "which?", "answer": "47", "id": "v7"}
    collator = DynFocusCollator(processor, "skip", media_root=folder)
    batch = collator([bad, good, bad])
    assert torch.equal(batch["input_ids"][0], collator([good])["input_ids"][0]) and len(batch["input_ids"]) == 1
    collator([good, bad])
    assert (collator.rows_seen, collator.rows_bad) == (6, 3)
    messages = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert len(messages) == 1 and "id 'v7'" in messages[0] and "noise.mp4" in messages[0]
    with pytest.raises(ValueError, match=r"6 of 9 rows .*max_bad_fraction=0.1.*noise.mp4.*or raise"):
        collator([bad, bad, bad])
    patient = DynFocusCollator(processor, "skip", media_root=folder, max_bad_fraction=1)
    patient([bad] * 60)
    assert patient.rows_bad == 60
    too_long = DynFocusCollator(processor, "skip", media_root=folder, max_length=40)
    assert (too_long([good])["labels"] == -100).all() and too_long.rows_bad == 1


def test_a_batch_of_bad_rows_teaches_nothing(processor, folder):
    bad = {"video": "noise.mp4", "question": "which?", "answer": "47"}
    batch = DynFocusCollator(processor, "skip", media_root=folder)([bad, bad])
    assert batch.keys() == {"input_ids", "attention_mask", "labels"}
    assert batch["input_ids"].shape == (1, 2) and batch["attention_mask"].all() and (batch["labels"] == -100).all()
    with torch.no_grad():
        assert torch.isfinite(tiny_model()(**batch).logits).all()


@pytest.mark.parametrize(("start", "num_workers"), [("fork", 2), ("forkserver", 1)])
def test_workers_count_together(processor, folder, start, num_workers):
    good = {"video": "a film ü.mp4", "question": "which?", "answer": "47"}
    bad = {**good, "video": "noise.mp4"}
    rows = [bad if index % 4 == 1 else good for index in range(12)]
    collator = DynFocusCollator(processor, "skip", {"num_frames": 2}, media_root=folder, max_bad_fraction=0.15)
    loader = DataLoader(
        rows,
        batch_size=2,
        collate_fn=collator,
        num_workers=num_workers,
        persistent_workers=True,
        multiprocessing_context=start,
    )
    expected = [len(collator(rows[index : index + 2])["labels"]) for index in range(0, 12, 2)]
    with at_once():
        assert [len(batch["labels"]) for batch in loader] == expected == [1, 2] * 3 == expected
    assert (collator.rows_seen, collator.rows_bad) == (24, 6)
    # Seven bad rows are allowed; what the workers counted counts here too.
    collator([bad])
    with pytest.raises(ValueError, match="8 of 26 rows could not be used"):
        collator([bad])


def test_copies_count_on_their_own(processor, folder):
    collator = DynFocusCollator(processor, "skip", media_root=folder, learn_from="last")
    row = {"video": "a film ü.mp4", "question": "which?", "answer": "47"}
    first = collator([row])
    for twin in (copy.deepcopy(collator), pickle.loads(pickle.dumps(collator))):
        assert twin.rows_seen == 1 and twin.learn_from == "last"
        found = twin([row])
        assert all(torch.equal(found[name], first[name]) for name in first)
        list(DataLoader([row] * 2, collate_fn=twin, num_workers=1, multiprocessing_context="fork"))
        assert (twin.rows_seen, collator.rows_seen) == (4, 1)
