"""The description of a benchmark: data set, questions, scoring, and published scores."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

#: In a prompt, the place of the subtitles that are shown at the sampled frames, a line each; see `Question.subtitles`.
SUBTITLES_MARK = "{subtitles}"


@dataclass(frozen=True)
class Question:
    """
    A question of a benchmark.

    Args:
        id: unique within the benchmark, the same in every run.
        video: the file, relative to the videos folder (with or without its ending); or an absolute path or a URL.
        prompt: the text that the model reads after the video. `SUBTITLES_MARK` in it is replaced by the subtitles.
        reference: the right answer for the metric: a text, or the index of the right option.
        question: the question by which frames are chosen; `None` means the prompt.
        options: the options without letters, and without fillers such as "N/A".
        groups: `{"duration": "short"}`: accuracy is also reported by each of these.
        pair, half: id shared by the two halves of a hallucination pair, and "basic" or "hallucination".
        aspects: for a judged benchmark, the judge's prompts by which the answer is scored; none means "open_ended".
            For "consistency", two questions share a `pair`, with the halves "first" and "second".
        subtitles: file with subtitles, relative to the videos folder, in a form that `subtitle_text` reads.
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
    A benchmark; each file of this folder defines one as `BENCHMARK`.

    Args:
        name, title: "video_mme", and "Video-MME" for readers.
        url: its paper or project page.
        dataset, fallback: id on the Hub, and another id to try if it does not exist.
        split, config, configs, revision, data_files: for `datasets.load_dataset`; with `configs`, all of them are read
            in this order, and each row has the name of its own as `"_config"`. `data_files` may hold `{config}`, and
            sets the split to "train".
        local: the rows are the `data_files` in the videos folder; `dataset` only names them.
        metric: "multiple_choice_accuracy", "video_qa_accuracy", "judged_video_qa" or "paired_hallucination_accuracy".
        read: converts the data set's rows to questions; called with the `options` as keywords.
        fields: fields that every row must have.
        video_endings: endings to try if `Question.video` has none of them.
        generation: arguments of `generate`.
        main_score: key of the metric's main result.
        groups: names of the groups of questions, in the order of reports.
        published: published scores in percent (or in the judge's points), by "model (source)".
        gated: whether the Hub requires an agreement first.
        notes: caveats, which the report prints.
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
        """This benchmark with other options. Raises a `ValueError` for an unknown option."""
        for name in options:
            if name not in self.options:
                known = f"has only {', '.join(self.options)}" if self.options else "has no options"
                raise ValueError(f"{self.title} has no option {name!r}: it {known}.")
        return replace(self, options={**self.options, **options})

    def check_fields(self, found: Iterable[str]) -> None:
        """Raises a `ValueError` that names missing `fields`."""
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
            `ValueError`: a field is missing, or an id is repeated.
        """
        questions = list(self.read(self._checked(rows), **self.options))
        seen: set[str] = set()
        for question in questions:
            if question.id in seen:
                raise ValueError(f"{self.title} asks {question.id!r} twice: the ids of its questions must differ.")
            seen.add(question.id)
        return questions

    def video_candidates(self, video: str) -> list[str]:
        """Possible file names of `Question.video`, the most likely first."""
        if video.lower().endswith(self.video_endings):
            stem = video.rpartition(".")[0]
            return [video, *(stem + ending for ending in self.video_endings if not video.lower().endswith(ending))]
        return [*(video + ending for ending in self.video_endings), video]

    def _checked(self, rows: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
        for row in rows:
            self.check_fields(row)
            yield row


__all__ = ["SUBTITLES_MARK", "Benchmark", "Question"]
