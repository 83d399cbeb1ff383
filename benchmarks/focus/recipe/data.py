"""
Stage 2 of the tiny recipe: many videos, as question-free features of the trained tower, and questions about them.
"""

import re
import shutil
import tempfile
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from transformers import PreTrainedTokenizerFast

from dynfocus.eval.synthetic.questions import KINDS, UNANSWERABLE, Question, make_questions
from dynfocus.eval.synthetic.world import (
    COLORS,
    SHAPES,
    Episode,
    Event,
    plural,
    render,
    sample_episode,
    truth_table,
)
from dynfocus.modeling_dynfocus import DynFocusForConditionalGeneration
from dynfocus.processing import DynFocusProcessor
from dynfocus.processing.token_plan import TokenPlan
from dynfocus.states.video_state import VideoState

from .chats import QUESTION_MULTIPLE, ChatWriter, padded
from .vision import IMAGE_SIZE, NAMES, as_pixels, degrade, draw_qualities


@dataclass(frozen=True)
class VideoSet:
    """`count` videos of `num_frames` frames, drawn from `seed`; these numbers determine their content."""

    seed: int
    count: int
    num_frames: int
    num_events: tuple[int, int] | None = None

    def episode(self, index: int) -> Episode:
        rng = np.random.default_rng((self.seed, index))
        return sample_episode(rng, self.num_frames, "train", self.num_events)


#: A kind asked only in training: questions without an answer, about a number that the video does not show.
ABSENT_NUMBER = "absent number"
#: How often each kind is asked: most often the kinds that take longest to learn. "story" is asked only in training.
KIND_WEIGHTS = {
    "color": 1.5,
    "shape": 1.5,
    "number": 1.5,
    "order": 2.0,
    "first_last": 2.0,
    "motion": 2.0,
    "count": 1.2,
    "existence": 1.5,
    "locating": 1.5,
    "story": 0.5,
}
#: The same for later turns, whose events the selector was not asked for: only kinds that can be answered from the
#: rods.
LATER_WEIGHTS = {
    "order": 2.0,
    "first_last": 1.5,
    "motion": 2.0,
    "count": 1.2,
    "existence": 1.0,
    "locating": 1.5,
    "story": 0.8,
}


def tell_story(episode: Episode) -> Question:
    """All events in order: one answer that trains as much as a dozen, above all for order and motion."""
    told = [f"{event.name} {event.motion}" for event in episode.events]
    frames = tuple(frame for event in episode.events for frame in event.frames)
    return Question("What happens in the video?", ", ".join(told), "story", tuple(range(len(told))), frames)


def draw_question(episode: Episode, rng: np.random.Generator, kind: str) -> list[Question]:
    """A question of a kind, if the episode allows one; also of the kinds that are asked only in training."""
    if kind == "story":
        return [tell_story(episode)]
    if kind != ABSENT_NUMBER:
        return make_questions(episode, rng, kinds=[kind])
    drawn = (make_questions(episode, rng, kinds=[UNANSWERABLE]) for _ in range(20))
    return next((one for one in drawn if one and any(map(str.isdigit, one[0].question))), [])


def needs_cones(question: Question) -> bool:
    """Whether a question asks for the number of an event, or names an event by its number."""
    asks = question.answer.isdigit() and question.kind != "count"
    return asks or any(character.isdigit() for character in question.question)


def frame_labels(episode: Episode) -> dict[str, np.ndarray]:
    """Labels of each frame in the form of `sample_single_frames`: arrays `(T,)`."""
    table = truth_table(episode)
    labels = {name: np.full(len(table), -100) for name in NAMES}
    labels |= {name: np.zeros(len(table), dtype=np.float32) for name in ("x", "y")}
    labels["present"] = np.array([int(truth is not None) for truth in table])
    for time, truth in enumerate(table):
        if truth is not None:
            color, shape = tuple(COLORS).index(truth.color), tuple(SHAPES).index(truth.shape)
            numbers = (color, shape, *map(int, str(truth.number)), truth.x, truth.y)
            for name, value in zip((*NAMES, "x", "y"), numbers, strict=True):
                labels[name][time] = value
    return labels


def draw_questions(
    episode: Episode, rng: np.random.Generator, turns: Sequence[tuple[tuple[str, ...], np.ndarray]]
) -> list[Question]:
    """
    Draw at most one question for each turn, without repeated texts; there may be none.

    turns: the kinds and their shares for each turn. A story ends the chat, because it would answer later questions. A
        first question without an answer is the only one: its scores say that nothing fits.
    """
    asked: dict[str, Question] = {}
    for kinds, shares in turns:
        kind = kinds[int(rng.choice(len(kinds), p=shares))]
        for question in draw_question(episode, rng, kind):
            asked.setdefault(question.question, question)
    questions = list(asked.values())
    if questions and questions[0].kind in ("story", UNANSWERABLE):
        return questions[:1]
    return sorted(questions, key=lambda one: one.kind == "story")


def draw_counts(episode: Episode, rng: np.random.Generator, most: int) -> list[Question]:
    """
    Draw at most `most` questions how many there are of something, as many with large answers as with small ones if
    the episode allows it: an answer of up to 4, or a larger one, is drawn before its question.
    """
    of_answer: dict[int, list[Question]] = {}
    for question in make_questions(episode, rng, 16, ["count"]):
        of_answer.setdefault(min(int(question.answer), 5), []).append(question)
    drawn: list[Question] = []
    while of_answer and len(drawn) < most:
        answer = sorted(of_answer)[int(rng.integers(len(of_answer)))]
        drawn.append(of_answer[answer].pop())
        of_answer = {answer: questions for answer, questions in of_answer.items() if questions}
    return drawn


def answerable(questions: Sequence[Question], key_frames: Container[int]) -> list[Question]:
    """The questions that need no cones, or whose events have a key frame."""
    return [one for one in questions if not needs_cones(one) or any(frame in key_frames for frame in one.frames)]


def counted_events(question: Question, episode: Episode) -> list[Event]:
    """The events whose number is the answer to a question of the kind `count`: those that show what it names."""
    words = set(re.findall(r"[a-z]+", question.question))
    colors, shapes = words & COLORS.keys(), {name for name in SHAPES if words & {name, plural(name)}}
    return [
        event
        for event in episode.events
        if (not colors or event.color in colors) and (not shapes or event.shape in shapes)
    ]


def stacked_labels(episodes: Sequence[Episode], device: str = "cpu") -> dict[str, torch.Tensor]:
    """`frame_labels` of videos of one length, `(V, T)` each."""
    found = [frame_labels(episode) for episode in episodes]
    return {name: torch.from_numpy(np.stack([one[name] for one in found])).to(device) for name in found[0]}


@dataclass
class FeatureSet:
    """The states of a video set in half precision, and its episodes."""

    state: VideoState
    episodes: list[Episode]

    def batch(self, rows: np.ndarray, device: str) -> VideoState:
        index = torch.from_numpy(rows)
        tensors: dict[str, Any] = {name: tensor[index].to(device) for name, tensor in self.state.tensors().items()}
        tensors["parent_of_token"] = tensors["parent_of_token"].long()
        features = {name: tensors[name].float() for name in ("frame_features", "grouped_tokens")}
        return VideoState(**{**tensors, **features})


@torch.no_grad()
def encode_pixels(model: DynFocusForConditionalGeneration, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """The features of videos `(V, T, 3, H, W)` by their names in a state: on the CPU, in half precision."""
    state = model.encode_video(pixels.to(model.device)).to("cpu", torch.float16)
    state.parent_of_token = state.parent_of_token.to(torch.uint8)
    return {
        name: getattr(state, name) for name in ("frame_features", "grouped_tokens", "parent_of_token", "frame_mask")
    }


class EncodedVideos(FeatureSet):
    """
    The features of a video set, each video rendered, compressed and encoded when a batch first needs it.

    Args:
        model (`DynFocusForConditionalGeneration`): encodes the videos; on its device.
        videos (`VideoSet`).
        folder (`Path`): keeps the features in files that grow with the videos; several processes may share them.
    """

    def __init__(self, model: DynFocusForConditionalGeneration, videos: VideoSet, folder: Path):
        self.model, self.videos = model.eval(), videos
        self.episodes = [videos.episode(index) for index in range(videos.count)]
        if not folder.exists():
            self._create(folder)
        self.arrays = {path.stem: np.load(path, mmap_mode="r+") for path in sorted(folder.glob("*.npy"))}
        self.encoded = self.arrays.pop("encoded")
        tensors: dict[str, Any] = {name: torch.from_numpy(array) for name, array in self.arrays.items()}
        self.state = VideoState(**tensors)

    def batch(self, rows: np.ndarray, device: str) -> VideoState:
        self.encode(rows)
        return super().batch(rows, device)

    def encode(self, rows: np.ndarray) -> None:
        """Make the features of those videos that have none yet."""
        missing = [int(row) for row in np.unique(rows) if not self.encoded[row]]
        # A mark is set after the features are written, so that a stop leaves no video half encoded.
        for begin in range(0, len(missing), self._block):
            chunk = missing[begin : begin + self._block]
            for name, features in self._features(chunk).items():
                self.arrays[name][chunk] = features
            self.encoded[chunk] = True

    @property
    def _block(self) -> int:
        """Number of videos that are encoded at once; the compression of their frames is drawn for all of them."""
        return max(1, 512 // self.videos.num_frames)

    def _features(self, rows: list[int]) -> dict[str, np.ndarray]:
        pixels = torch.stack([self._pixels(row) for row in rows])
        with torch.autocast(self.model.device.type, enabled=False):
            return {name: tensor.numpy() for name, tensor in encode_pixels(self.model, pixels).items()}

    def _pixels(self, row: int) -> torch.Tensor:
        """The frames of a video, `(T, 3, H, W)`."""
        before = row % self._block
        rng = np.random.default_rng((self.videos.seed, self.videos.count, row - before))
        draw_qualities(rng, before * self.videos.num_frames)
        return as_pixels(degrade(render(self.episodes[row], size=2 * IMAGE_SIZE), rng))

    def _create(self, folder: Path) -> None:
        """Files for all videos, which take space only for those that are encoded."""
        new = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}."))
        first = {**self._features([0]), "encoded": np.zeros(1, dtype=bool)}
        for name, of_one in first.items():
            shape = (self.videos.count, *of_one.shape[1:])
            open_memmap(new / f"{name}.npy", mode="w+", dtype=of_one.dtype, shape=shape)
        try:
            new.rename(folder)
        except OSError:
            # Another process has made them in the meantime.
            shutil.rmtree(new)


def kind_shares(weights: dict[str, float]) -> tuple[tuple[str, ...], np.ndarray]:
    values = np.array(list(weights.values()))
    return tuple(weights), values / values.sum()


class QuestionBatches:
    """
    Batches of the model's inputs: random videos of a feature set, each with random questions of `kinds`.

    With several `turns`, a chat has several questions about a video: the selector sees only the first question, but
    the language model learns from all answers, for little more than the cost of one. `counts` is the share of chats
    that have only questions of `draw_counts`.
    """

    def __init__(
        self,
        features: FeatureSet,
        processor: DynFocusProcessor,
        num_frames: int,
        kinds: dict[str, float] | None = None,
        turns: int = 1,
        later_kinds: dict[str, float] = LATER_WEIGHTS,
        counts: float = 0.0,
    ):
        self.counts = counts
        self.features = features
        self.writer = ChatWriter(processor)
        self.tokenizer: PreTrainedTokenizerFast = processor.tokenizer
        self.plan = processor.token_budget().plan(num_frames)
        #: The kinds and their shares for each turn.
        self.turns = [kind_shares(kinds or dict.fromkeys(KINDS, 1.0)), *[kind_shares(later_kinds)] * (turns - 1)]

    def draw(
        self, rng: np.random.Generator, size: int, later_cones: bool = False
    ) -> tuple[np.ndarray, list[list[Question]]]:
        """
        Draw rows of the feature set and the questions for each, without repeated texts.

        later_cones: whether later turns may also ask questions that need the cones of their events; see `answerable`.
        """
        rows: list[int] = []
        turns: list[list[Question]] = []
        while len(rows) < size:
            row = int(rng.integers(len(self.features.episodes)))
            questions = self._draw_chat(self.features.episodes[row], rng)
            questions = questions[:1] + [one for one in questions[1:] if later_cones or not needs_cones(one)]
            if questions:
                rows.append(row)
                turns.append(questions)
        return np.array(rows), turns

    def _draw_chat(self, episode: Episode, rng: np.random.Generator) -> list[Question]:
        # Without such chats nothing is drawn for them, so that all else is drawn as in rounds that have none.
        if self.counts and rng.random() < self.counts:
            return draw_counts(episode, rng, len(self.turns))
        return draw_questions(episode, rng, self.turns)

    def labels(self, rows: np.ndarray, device: str) -> dict[str, torch.Tensor]:
        """Labels of each frame of the videos, `(B, T)` each; -100 if there is nothing to name."""
        return stacked_labels([self.features.episodes[row] for row in rows], device)

    def asked(self, turns: list[list[Question]], num_frames: int) -> torch.Tensor:
        """1 on the frames on which the first answer of each chat depends, `(B, T)`."""
        asked = torch.zeros(len(turns), num_frames)
        for row, (first, *_) in zip(asked, turns, strict=True):
            row[list(first.frames)] = 1
        return asked

    def counted(self, rows: np.ndarray, turns: list[list[Question]], num_frames: int) -> torch.Tensor:
        """
        For the questions of each chat, `(B, Q, T)`: 1, 2, … on the frames of the first, second, … event that is
        counted, 0 on others; -1 where a question asks for other things that the video shows.
        """
        counted = torch.full((len(turns), max(map(len, turns)), num_frames), -1)
        for row, index, questions in zip(counted, rows, turns, strict=True):
            episode = self.features.episodes[index]
            for frames, question in zip(row, questions, strict=False):
                if question.kind == "count":
                    frames[:] = 0
                    for number, event in enumerate(counted_events(question, episode), start=1):
                        frames[list(event.frames)] = number
                elif not question.frames:
                    frames[:] = 0
        return counted

    def videos(
        self, rows: np.ndarray, turns: list[list[Question]], device: str, plan: TokenPlan | None = None
    ) -> dict:
        """The model's inputs for the videos and the first question of each chat."""
        pad = self.tokenizer.pad_token_id
        asked = [self.writer.ids(questions[0].question) for questions in turns]
        question_input_ids = padded(asked, pad, QUESTION_MULTIPLE)
        inputs = {
            "question_input_ids": question_input_ids,
            "question_attention_mask": (question_input_ids != pad).long(),
            "video_token_plan": torch.tensor([(plan or self.plan).as_row()] * len(rows)),
        }
        inputs = {name: tensor.to(device) for name, tensor in inputs.items()}
        return {**inputs, "video_state": self.features.batch(rows, device)}

    def collate(
        self, rows: np.ndarray, turns: list[list[Question]], device: str, plan: TokenPlan | None = None
    ) -> dict:
        """
        Inputs of the model with labels on the answers, and `asked` `(B, T)`: the frames on which the first answer
        depends.
        """
        plan = plan or self.plan
        chats = self.writer.write(turns, plan.num_visual_tokens, plan.num_frames)
        asked = self.asked(turns, plan.num_frames).to(device)
        return {**chats.inputs(device), **self.videos(rows, turns, device, plan), "asked": asked}


__all__ = [
    "ABSENT_NUMBER",
    "EncodedVideos",
    "FeatureSet",
    "KIND_WEIGHTS",
    "LATER_WEIGHTS",
    "QuestionBatches",
    "VideoSet",
    "answerable",
    "counted_events",
    "draw_counts",
    "draw_questions",
    "encode_pixels",
    "frame_labels",
    "kind_shares",
    "needs_cones",
    "stacked_labels",
    "tell_story",
]
