"""Finds the files of a benchmark's videos."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from unicodedata import normalize

from dynfocus.processing.reading.sources import existing_path

from .benchmarks.base import Benchmark, Question
from .benchmarks.subtitles import subtitle_text

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
#: From this share of missing files on, the folder is taken to be wrong.
_NEARLY_ALL = 0.9
_NUM_EXAMPLES = 3


def find_videos(
    benchmark: Benchmark, questions: Iterable[Question], folder: str | os.PathLike[str] | None
) -> dict[str, str | None]:
    """
    The file (or URL) of each `Question.video`, `None` if it is missing.

    A file is searched by its path in `folder`, then anywhere in it by its name, if only one file has this name and it
    is not meant by another path, because archives unpack into folders of their own.

    Raises:
        `ValueError`: nearly all files are missing, or there is no folder to look in.
    """
    videos = list(dict.fromkeys(question.video for question in questions))
    if folder is not None and not Path(folder).is_dir():
        raise ValueError(f"--videos {folder}: there is no such folder; {benchmark.title} needs {_count(videos)}.")
    lookup = _Lookup(benchmark, folder)
    found = lookup.find_all(videos)
    missing = [benchmark.video_candidates(video)[0] for video, path in found.items() if path is None]
    if missing and len(missing) >= _NEARLY_ALL * len(videos):
        examples = ", ".join(missing[:_NUM_EXAMPLES]) + (", …" if len(missing) > _NUM_EXAMPLES else "")
        if folder is None:
            raise ValueError(
                f"{benchmark.title} needs {_count(videos)} ({examples}): say with --videos in which folder they are."
            )
        raise ValueError(
            f"--videos {folder}: lacks {len(missing)} of the {_count(videos)} that {benchmark.title} needs "
            f"({examples}): name the folder that they were unpacked into."
        )
    return found


def subtitle_file(question: Question, folder: str | os.PathLike[str] | None) -> Path | None:
    """The file with a question's subtitles, if there are any and the file exists."""
    if question.subtitles is None or folder is None:
        return None
    path = Path(existing_path(str(Path(folder) / question.subtitles)))
    return path if path.is_file() else None


def check_subtitles(questions: Iterable[Question], folder: str | os.PathLike[str] | None) -> None:
    """
    Check that the questions' subtitles can be read.

    Raises:
        `ValueError`: questions have subtitles, but none of the files exists.
        `ImportError`: the packages that read them are not installed.
    """
    wanted = [question for question in questions if question.subtitles is not None]
    if wanted:
        subtitle_text(b"", ())
    if wanted and all(subtitle_file(question, folder) is None for question in wanted):
        raise ValueError(
            f"--videos {folder}: holds none of the files with subtitles ({wanted[0].subtitles}, …): put them there, "
            "or ask without --subtitles."
        )


def group_by_video(questions: Sequence[Question]) -> dict[str, list[Question]]:
    """Questions by video, both in their order in the data set."""
    groups: dict[str, list[Question]] = {}
    for question in questions:
        groups.setdefault(question.video, []).append(question)
    return groups


class _Lookup:
    def __init__(self, benchmark: Benchmark, folder: str | os.PathLike[str] | None):
        self.benchmark = benchmark
        self.folder = None if folder is None else Path(folder)
        self._by_name: Mapping[str, list[str]] | None = None

    def find_all(self, videos: Iterable[str]) -> dict[str, str | None]:
        found, by_name = {video: self._by_path(video) for video in videos}, {}
        for video in [video for video, path in found.items() if path is None]:
            by_name[video] = found[video] = self._by_its_name(video)
        # Data sets start numbering again in each of their folders.
        parents: dict[str | None, set[str]] = {}
        for video, path in found.items():
            parents.setdefault(path, set()).add(os.path.dirname(video))
        return {video: None if video in by_name and len(parents[path]) > 1 else path for video, path in found.items()}

    def _by_path(self, video: str) -> str | None:
        if _URL.match(video):
            return video
        candidates = self.benchmark.video_candidates(video)
        if not os.path.isabs(video):
            if self.folder is None:
                return None
            candidates = [str(self.folder / candidate) for candidate in candidates]
        found = map(existing_path, candidates)
        return next((path for path in found if os.path.isfile(path)), None)

    def _by_its_name(self, video: str) -> str | None:
        if self.folder is None or os.path.isabs(video):
            return None
        for candidate in self.benchmark.video_candidates(video):
            same_name = self._names().get(normalize("NFC", os.path.basename(candidate)), [])
            if len(same_name) == 1:
                return same_name[0]
        return None

    def _names(self) -> Mapping[str, list[str]]:
        if self._by_name is None:
            names: dict[str, list[str]] = {}
            for root, _, files in os.walk(str(self.folder)):
                for name in files:
                    names.setdefault(normalize("NFC", name), []).append(os.path.join(root, name))
            self._by_name = names
        return self._by_name


def _count(videos: Sequence[str]) -> str:
    return f"{len(videos)} video file{'s' * (len(videos) != 1)}"


__all__ = ["check_subtitles", "find_videos", "group_by_video", "subtitle_file"]
