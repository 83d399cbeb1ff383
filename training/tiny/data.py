"""Stage 2 of the tiny recipe: many videos, as question-free features of the trained tower, and questions on them."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast

from dynfocus.eval.synthetic.questions import KINDS, Question, make_questions
from dynfocus.eval.synthetic.world import Episode, render, sample_episode
from dynfocus.modeling_dynfocus import DynFocusForConditionalGeneration
from dynfocus.processing import DynFocusProcessor
from dynfocus.video_state import VideoState

from .vision import IMAGE_SIZE, as_pixels, degrade


@dataclass(frozen=True)
class VideoSet:
    """`count` videos of `num_frames` frames, drawn from `seed`; nothing but these numbers decides what they show."""

    seed: int
    count: int
    num_frames: int
    num_events: tuple[int, int]

    def episode(self, index: int) -> Episode:
        rng = np.random.default_rng((self.seed, index))
        return sample_episode(rng, num_frames=self.num_frames, num_events=self.num_events, split="train")


#: How often each kind is asked: those that take longest to learn, most. "story" is asked in training alone.
KIND_WEIGHTS = {
    "color": 0.7,
    "shape": 0.7,
    "number": 1.0,
    "order": 2.0,
    "first_last": 1.5,
    "motion": 2.0,
    "count": 1.2,
    "existence": 1.5,
    "story": 1.5,
}


def tell_story(episode: Episode) -> Question:
    """All that happens, in order: one answer that teaches as much as a dozen, about order and motion above all."""
    told = [f"{event.name} {event.number} {event.motion}" for event in episode.events]
    frames = tuple(frame for event in episode.events for frame in event.frames)
    return Question("What happens in the video?", ", ".join(told), "story", tuple(range(len(told))), frames)


@dataclass
class FeatureSet:
    """The states of a video set in half precision, and its episodes."""

    state: VideoState
    episodes: list[Episode]

    def batch(self, rows: np.ndarray, device: str) -> VideoState:
        index = torch.from_numpy(rows)
        tensors = {name: tensor[index].to(device) for name, tensor in self.state.tensors().items()}
        tensors["parent_of_token"] = tensors["parent_of_token"].long()
        features = {name: tensors[name].float() for name in ("frame_features", "grouped_tokens")}
        return VideoState(**{**tensors, **features})


@torch.no_grad()
def encode_videos(
    model: DynFocusForConditionalGeneration, videos: VideoSet, path: Path, device: str, log: Callable[[str], None]
) -> FeatureSet:
    """Render, compress, encode; kept in `path`, which is read back where it exists."""
    episodes = [videos.episode(index) for index in range(videos.count)]
    if not path.exists():
        model.eval()
        names = [field.name for field in fields(VideoState) if field.name not in ("patches", "frame_times")]
        parts: dict[str, list[torch.Tensor]] = {name: [] for name in names}
        block = max(1, 512 // videos.num_frames)
        for start in range(0, videos.count, block):
            rng = np.random.default_rng((videos.seed, videos.count, start))
            chunk = episodes[start : start + block]
            frames = np.stack([degrade(render(episode, size=2 * IMAGE_SIZE), rng) for episode in chunk])
            pixels = as_pixels(frames.reshape(-1, *frames.shape[2:])).unflatten(0, frames.shape[:2])
            state = model.encode_video(pixels.to(device)).to("cpu", torch.float16)
            state.parent_of_token = state.parent_of_token.to(torch.uint8)
            for name in names:
                parts[name].append(getattr(state, name))
            if (start // block) % 25 == 0:
                log(f"encoded {start}/{videos.count} videos of {videos.num_frames} frames")
        save_file({name: torch.cat(tensors) for name, tensors in parts.items()}, path)
    return FeatureSet(VideoState(**load_file(path)), episodes)


class QuestionBatches:
    """Batches of the model's inputs: random videos of a feature set, each with a random question of `kinds`."""

    def __init__(
        self,
        features: FeatureSet,
        processor: DynFocusProcessor,
        num_frames: int,
        kinds: dict[str, float] | None = None,
    ):
        self.features = features
        self.tokenizer: PreTrainedTokenizerFast = processor.tokenizer
        self.plan = processor.token_budget().plan(num_frames)
        before, after = self._template(processor)
        self.before, self.after = self._ids(before), after
        kinds = kinds or dict.fromkeys(KINDS, 1.0)
        self.kinds, weights = tuple(kinds), np.array(list(kinds.values()))
        self.kind_shares = weights / weights.sum()

    @staticmethod
    def _template(processor: DynFocusProcessor) -> tuple[str, str]:
        content = [{"type": "video"}, {"type": "text", "text": "QUESTION"}]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        before, after = text.split(processor.video_token)
        return before, after

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def draw(self, rng: np.random.Generator, size: int) -> tuple[np.ndarray, list[Question]]:
        """Rows of the feature set and a question for each."""
        rows: list[int] = []
        questions: list[Question] = []
        while len(rows) < size:
            row = int(rng.integers(len(self.features.episodes)))
            kind = self.kinds[int(rng.choice(len(self.kinds), p=self.kind_shares))]
            episode = self.features.episodes[row]
            found = [tell_story(episode)] if kind == "story" else make_questions(episode, rng, kinds=[kind])
            if found:
                rows.append(row)
                questions.append(found[0])
        return np.array(rows), questions

    def collate(self, rows: np.ndarray, questions: list[Question], device: str) -> dict:
        """Inputs of the model with labels on the answers, and `asked` `(B, T)`: the frames that an answer rests on."""
        pad, video = self.tokenizer.pad_token_id, self.tokenizer.get_vocab()["<video>"]
        sequences, starts, question_ids = [], [], []
        for question in questions:
            prompt = self.before + [video] * self.plan.num_visual_tokens
            prompt = prompt + self._ids(self.after.replace("QUESTION", question.question))
            answer = self._ids(f" {question.answer}") + [self.tokenizer.eos_token_id]
            sequences.append(prompt + answer)
            starts.append(len(prompt))
            question_ids.append(self._ids(question.question))
        longest, longest_question = max(map(len, sequences)), max(map(len, question_ids))
        input_ids = torch.full((len(rows), longest), pad)
        labels = torch.full((len(rows), longest), -100)
        mask = torch.zeros(len(rows), longest, dtype=torch.long)
        question_input_ids = torch.full((len(rows), longest_question), pad)
        question_mask = torch.zeros_like(question_input_ids)
        asked = torch.zeros(len(rows), self.plan.num_frames)
        for row, (ids, start, q_ids) in enumerate(zip(sequences, starts, question_ids, strict=True)):
            input_ids[row, : len(ids)] = torch.tensor(ids)
            labels[row, start : len(ids)] = torch.tensor(ids[start:])
            mask[row, : len(ids)] = 1
            question_input_ids[row, : len(q_ids)] = torch.tensor(q_ids)
            question_mask[row, : len(q_ids)] = 1
            asked[row, list(questions[row].frames)] = 1
        inputs = {
            "input_ids": input_ids,
            "attention_mask": mask,
            "labels": labels,
            "question_input_ids": question_input_ids,
            "question_attention_mask": question_mask,
            "video_token_plan": torch.tensor([self.plan.as_row()] * len(rows)),
        }
        inputs = {name: tensor.to(device) for name, tensor in inputs.items()}
        return {**inputs, "video_state": self.features.batch(rows, device), "asked": asked.to(device)}


__all__ = ["FeatureSet", "KIND_WEIGHTS", "QuestionBatches", "VideoSet", "encode_videos", "tell_story"]
