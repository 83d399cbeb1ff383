"""What a benchmark says of itself: its data set, its questions, how the answers are scored, and what was published."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

#: In a prompt, the place of the subtitles that are shown at the sampled frames, a line each; see `Question.subtitles`.
SUBTITLES_MARK = "{subtitles}"


@dataclass(frozen=True)
class Question:
    """
    One thing to ask.

    Args:
        id: unique within the benchmark, the same in every run.
        video: the file, relative to the videos folder (with or without its ending); or an absolute path or a URL.
        prompt: the text that the model reads after the video. Where it holds `SUBTITLES_MARK`, the subtitles go there.
        reference: what the metric compares with: a text, or the index of the right option.
        question: what steers the choice of the frames; `None` means the prompt.
        options: without their letters, and without pads such as "N/A".
        groups: `{"duration": "short"}`: accuracy is also reported by each of these.
        pair, half: id shared by the two halves of a hallucination pair, and "basic" or "hallucination".
        aspects: of a judged benchmark, the judge's prompts by which the answer is scored; none means "open_ended". For
            "consistency", two questions share a `pair`, with the halves "first" and "second".
        subtitles: their file, relative to the videos folder; its forms are those of `subtitle_text`.
    """

    id: str
    video: str
    prompt: str
    reference: Any
    question: str | None = None
    options: tuple[str, ...] | None = None
    groups: Mapping[str, str] = field(default_factory=dict)
    pair: str | None = None
    half: str | None = None
    aspects: tuple[str, ...] = ()
    subtitles: str | None = None


@dataclass(frozen=True)
class Benchmark:
    """
    A benchmark, as one file of this folder states it in its `BENCHMARK`.

    Args:
        name, title: "video_mme", and "Video-MME" for readers.
        url: its paper or project page.
        dataset, fallback: id on the Hub, and the one to try where it is gone.
        split, config, configs, revision, data_files: for `datasets.load_dataset`; with `configs`, all of them are read
            in this order, and each row says its own as `"_config"`. `data_files` may hold `{config}`, and makes the
            split "train".
        local: the rows are the `data_files` in the videos folder; `dataset` only names them.
        metric: "multiple_choice_accuracy", "video_qa_accuracy", "judged_video_qa" or "paired_hallucination_accuracy".
        read: makes questions of the data set's rows; the `options` are given to it as keywords.
        fields: that every row must have.
        video_endings: tried in turn where `Question.video` has none of them.
        generation: arguments of `generate`.
        main_score: the key of the metric's result that is quoted.
        groups: names of the groups of its questions, in the order of reports.
        published: scores of others in percent (or in the judge's points), by "model (source)".
        gated: whether the Hub asks for an agreement first.
        notes: traps, which the report repeats.
        options: settings that change the questions, with their defaults, such as `{"subtitles": False}`.
    """

    name: str
    title: str
    url: str
    dataset: str
    split: str
    metric: str
    read: Callable[..., Iterator[Question]]
    fields: tuple[str, ...]
    fallback: str | None = None
    config: str | None = None
    configs: tuple[str, ...] = ()
    revision: str | None = None
    data_files: str | None = None
    local: bool = False
    video_endings: tuple[str, ...] = (".mp4", ".mkv", ".webm", ".avi", ".mov")
    generation: Mapping[str, Any] = field(
        default_factory=lambda: MappingProxyType({"max_new_tokens": 16, "do_sample": False})
    )
    main_score: str = "accuracy"
    groups: tuple[str, ...] = ()
    published: Mapping[str, float] = field(default_factory=dict)
    gated: bool = False
    notes: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    def with_options(self, **options: Any) -> "Benchmark":
        """The same with other options. Raises `ValueError` for one that it does not have."""
        for name in options:
            if name not in self.options:
                known = f"has only {', '.join(self.options)}" if self.options else "has no options"
                raise ValueError(f"{self.title} has no option {name!r}: it {known}.")
        return replace(self, options={**self.options, **options})

    def check_fields(self, found: Iterable[str]) -> None:
        """Raises `ValueError` that names the `fields` which are not among those `found`."""
        found = list(found)
        missing = [name for name in self.fields if name not in found]
        if missing:
            raise ValueError(
                f"{self.dataset} has changed: {self.title} needs the fields {', '.join(missing)}, and there are "
                f"{', '.join(found)}; name a --dataset-revision that has them."
            )

    def questions(self, rows: Iterable[Mapping[str, Any]]) -> list[Question]:
        """
        All questions, in the data set's order.

        Raises:
            `ValueError`: a field is missing, or an id comes twice.
        """
        questions = list(self.read(self._checked(rows), **self.options))
        seen: set[str] = set()
        for question in questions:
            if question.id in seen:
                raise ValueError(f"{self.title} asks {question.id!r} twice: the ids of its questions must differ.")
            seen.add(question.id)
        return questions

    def video_candidates(self, video: str) -> list[str]:
        """The names under which `Question.video` is looked for, the most likely first."""
        if video.lower().endswith(self.video_endings):
            stem = video.rpartition(".")[0]
            return [video, *(stem + ending for ending in self.video_endings if not video.lower().endswith(ending))]
        return [*(video + ending for ending in self.video_endings), video]

    def _checked(self, rows: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
        for row in rows:
            self.check_fields(row)
            yield row


__all__ = ["SUBTITLES_MARK", "Benchmark", "Question"]
