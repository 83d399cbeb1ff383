"""Tests a trained row on the questions of a test set, with one record for each question."""

from typing import Any

import numpy as np
import torch
from layouts import Layout, choice_of, video_features
from recipe.answers import exact_answers
from recipe.attention import choose_attention
from recipe.data import QuestionBatches

from dynfocus.eval.synthetic.questions import Question
from dynfocus.modeling_dynfocus import DynFocusForConditionalGeneration


@torch.no_grad()
def answer_set(
    model: DynFocusForConditionalGeneration,
    layout: Layout,
    batches: QuestionBatches,
    questions: list[list[Question]],
    *,
    num_frames: int,
    num_key: int,
    device: str,
    batch_tokens: int = 16_384,
) -> list[dict[str, Any]]:
    """
    `{"video", "kind", "right", "found"}` of each question: whether the greedy answer is the expected one, and whether
    every asked event has a key frame (`None` if no event is asked for). A greedy answer is right exactly if each of
    its tokens is the most likely one after the right ones before it.
    """
    model.eval()
    choose_attention(model)
    plan = layout.plan(num_frames, num_key)
    size = max(1, batch_tokens // (plan.num_visual_tokens + 32))
    asked_of = [(video, question) for video, several in enumerate(questions) for question in several]
    records: list[dict[str, Any]] = []
    for start in range(0, len(asked_of), size):
        part = asked_of[start : start + size]
        inputs: dict[str, Any] = batches.collate(
            np.array([video for video, _ in part]), [[question] for _, question in part], device, plan
        )
        asked = inputs.pop("asked")
        text = {name: inputs.pop(name) for name in ("input_ids", "attention_mask", "labels")}
        found = video_features(model, choice_of(layout, asked, num_key, (num_frames, start)), inputs)
        outputs = model(**text, mm_encoder_outputs={"video": found})
        right = exact_answers(outputs.logits, text["labels"])
        key_frames = found.key_frames
        for row, (video, question) in enumerate(part):
            episode = batches.features.episodes[video]
            keys = set(key_frames[row].tolist())
            events = [set(episode.events[index].frames) for index in question.event_ids]
            found = all(keys & frames for frames in events) if events and layout.cones and not layout.pooled else None
            records.append({"video": video, "kind": question.kind, "right": right[row], "found": found})
    return records


__all__ = ["answer_set"]
