"""Asks a stock model about a test set, by the interface that users have, and keeps a record for each question."""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any

import torch
from grid import Row
from made_sets import MadeSet
from torch import Tensor
from transformers.video_utils import VideoMetadata

from dynfocus.adoption.families import token_side
from dynfocus.adoption.focused_model import FocusedModel
from dynfocus.adoption.looking import frame_numbers, frames_of
from dynfocus.eval.synthetic.questions import Question
from dynfocus.eval.synthetic.score import normalize_answer
from dynfocus.selecting.rules import Rule
from dynfocus.states.video_state import VideoState

#: Tokens of the prompts of a batch.
BATCH_TOKENS = 4096
NEW_TOKENS = 16


def told(events: Sequence[Iterable[int]]) -> Rule:
    """
    A rule that knows the frames of the asked events. It takes a frame of each event in turn, from the middle of the
    event outward, and fills up with evenly spread frames; of more events than key frames, evenly spread ones.
    """

    def rule(relevance: Tensor, num_key: int, *, features: Tensor, times: Tensor) -> Tensor:
        length = len(relevance)
        wanted = min(num_key, length)
        from_middle = []
        for event in events:
            frames = [frame for frame in event if frame < length]
            from_middle.append(sorted(frames, key=lambda frame: (abs(frame - frames[len(frames) // 2]), frame)))
        if len(from_middle) > wanted:
            from_middle = [from_middle[place] for place in spread(len(from_middle), wanted)]
        longest = max(map(len, from_middle), default=0)
        in_turn = [event[place] for place in range(longest) for event in from_middle if place < len(event)]
        chosen = list(dict.fromkeys(in_turn))[:wanted]
        others = sorted(set(range(length)) - set(chosen))
        chosen += [others[place] for place in spread(len(others), wanted - len(chosen))]
        return torch.tensor(sorted(chosen), dtype=torch.int64)

    return rule


def spread(length: int, count: int) -> list[int]:
    """The places in the middle of `count` equal parts, like the rule `uniform`."""
    return [(2 * place + 1) * length // (2 * count) for place in range(count)]


def in_turn(rules: Iterable[Rule]) -> Rule:
    """A rule that is another one for each row of a batch, in their order."""
    rest = iter(rules)
    return lambda *values, **more: next(rest)(*values, **more)


def question_of_other(questions: Sequence[Sequence[Question]], video: int, kind: str) -> str:
    """
    A question about another video, of the same kind if there is one; it need not fit this video.

    Raises:
        `ValueError`: if there is no other video.
    """
    after = [question for step in range(1, len(questions)) for question in questions[(video + step) % len(questions)]]
    if not after:
        raise ValueError("Texts of another video need at least two videos.")
    return next((question for question in after if question.kind == kind), after[0]).question


def answer_row(model: FocusedModel, row: Row, made: MadeSet) -> list[dict[str, Any]]:
    """
    A record for each question.

    Returns:
        `{"video", "kind", "right", "found", "tokens", "dense_tokens", "key_frames"}`: whether the answer is the
        expected one apart from case, punctuation and articles; whether every asked event has a key frame (`None` if no
        event is asked for); tokens that the video adds to the prompt, and those of all frames in full; number of key
        frames.

    Raises:
        `DoesNotFit`: if the budget has no room for a key frame, or for a coarse picture where the row has some.
        `RuntimeError`: if a question cost more than its budget, or `dense` is not what the stock processor makes.
    """
    asked = [(video, question) for video, several in enumerate(made.questions) for question in several]
    most = model.token_range(made.states[0])[2]
    limit = most if row.budget == "dense" else int(Fraction(row.budget) * most)
    check_room(model, row, made.states[0], limit)
    if row.budget == "dense":
        check_dense(model, made.states[0], asked[0][1].question, limit)
    size = max(1, BATCH_TOKENS // (limit + 32))
    records = []
    for start in range(0, len(asked), size):
        part = asked[start : start + size]
        rule: str | Rule = row.rule
        if row.rule == "told":
            rule = in_turn([told([made.episodes[video].events[i].frames for i in q.event_ids]) for video, q in part])
        rows: list[dict[str, Any]] = []
        for video, question in part:
            by = question.question
            if row.signal == "other":
                by = question_of_other(made.questions, video, question.kind)
            messages = [{"role": "user", "content": question.question}]
            rows.append({"video": made.states[video], "messages": messages, "question": by})
        answers = model.answer(rows, rule=rule, max_visual_tokens=limit, max_new_tokens=NEW_TOKENS, do_sample=False)
        for (video, question), answer in zip(part, answers, strict=True):
            if answer.num_visual_tokens > limit:
                raise RuntimeError(f"{row.name}: {answer.num_visual_tokens} tokens, but the budget is {limit}.")
            keys = {key_frame["index"] for key_frame in answer.key_frames}
            events = [set(made.episodes[video].events[index].frames) for index in question.event_ids]
            records.append(
                {
                    "video": video,
                    "kind": question.kind,
                    "right": normalize_answer(answer.answer) == normalize_answer(question.answer),
                    "found": all(keys & frames for frames in events) if events else None,
                    "tokens": answer.num_visual_tokens,
                    "dense_tokens": answer.num_dense_tokens,
                    "key_frames": len(keys),
                }
            )
    return records


class DoesNotFit(Exception):
    """A row whose budget has no room for what it is to show."""


def check_room(model: FocusedModel, row: Row, state: VideoState, limit: int) -> None:
    """Raises a `DoesNotFit` if no key frame fits, or no coarse picture beside the key frames where there should be."""
    try:
        plan = model.focus_processor.plan(frames_of(state), frame_numbers(state), limit)
    except ValueError as error:
        raise DoesNotFit(str(error)) from error
    if row.coarse != "none" and plan.num_coarse == 0:
        raise DoesNotFit(f"beside {plan.num_key_frames} key frames, {limit} tokens have no room for a coarse picture.")


def check_dense(model: FocusedModel, state: VideoState, question: str, limit: int) -> None:
    """
    Compares the inputs with all frames as key frames with those of the stock processor for the same frames.

    Raises:
        `RuntimeError`: if ids or pixels differ.
    """
    prepared = model.prepare({"video": state, "question": question}, max_visual_tokens=limit)
    ours, _ = model.show([prepared], "uniform")
    stock = stock_inputs(model, state, question)
    for name in stock:
        if not torch.equal(ours[name].float(), stock[name].float()):
            raise RuntimeError(f"With all frames, {name} differs from that of the stock processor.")


def stock_inputs(model: FocusedModel, state: VideoState, question: str) -> dict[str, Tensor]:
    """What the stock processor makes of the sampled frames of a video; in a model of pairs, each with the next one."""
    focused, processor = model.focus_processor, model.processor
    video, numbers = frames_of(state), frame_numbers(state)
    if focused.pair_seconds is not None:
        pairs = [(number, video.shown_at(float(video.times[number]) + focused.pair_seconds)) for number in numbers]
        numbers = [number for pair in pairs for number in pair]
    frames = dict(video.read(sorted(set(numbers))))
    pixels = torch.stack([torch.from_numpy(frames[number]).permute(2, 0, 1) for number in numbers])
    rate = len(video) / video.duration
    metadata = VideoMetadata(
        total_num_frames=len(video), fps=rate, frames_indices=numbers, duration=video.duration
    )  # fmt: skip
    settings: dict[str, Any] = {"do_sample_frames": False, "video_metadata": [metadata]}
    if focused.family.native:
        # So that the stock processor shrinks frames to the size of a key frame.
        area = focused.tokens_per_key_frame * token_side(processor) ** 2
        settings["size"] = {"shortest_edge": token_side(processor) ** 2, "longest_edge": len(numbers) * area}
    content = [{"type": "video"}, {"type": "text", "text": question}]
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    found = processor(text=[prompt], videos=[[pixels]], videos_kwargs=settings, return_tensors="pt")
    return {name: value for name, value in found.items() if name in ("input_ids", "pixel_values_videos")}


__all__ = ["DoesNotFit", "answer_row", "check_dense", "in_turn", "question_of_other", "stock_inputs", "told"]
