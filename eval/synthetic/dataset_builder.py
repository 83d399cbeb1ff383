"""
The synthetic world as a builder of `datasets`: train and test splits of any size, made on demand.

```python
from dynfocus.eval.synthetic.dataset_builder import SyntheticVideos, load_synthetic

rows = load_synthetic("long-128", "test", num_videos=20, seed=3)
rows[0]  # {"video": {"path": "….mp4", "bytes": None}, "question": …, "answer": …, "kind": …, "events": [[3, 6]]}

builder = SyntheticVideos(config_name="long-32", cache_dir="cache")
builder.download_and_prepare()
rows = builder.as_dataset(split="train")
```

`datasets` no longer runs scripts from the Hub, so the class is imported from here. `dynfocus synth` writes a folder
that `datasets.load_dataset` reads without it.
"""

import hashlib
import inspect
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any

import datasets

from . import builder, drawing, other_questions, questions, video_file, world

_PRESETS = {"long-32": 32, "long-128": 128, "long-512": 512}


@dataclass
class SyntheticConfig(datasets.BuilderConfig):
    """
    Settings of the splits; see `synthesize` for those that are not listed here.

    Args:
        num_videos (`int`, *optional*, defaults to 50): of the test split; 0 for none.
        num_train_videos (`int`, *optional*, defaults to 200): of the train split; 0 for none.
    """

    seed: int = 0
    num_videos: int = 50
    num_train_videos: int = 200
    num_frames: int = 32
    num_events: tuple[int, int] | None = None
    questions_per_kind: int = 1
    size: int = 128
    fps_container: int = 8

    def create_config_id(self, config_kwargs: dict[str, Any], custom_features: Any = None) -> str:
        """
        The folder's name is made from the settings that differ from the configuration, so that equal settings share a
        folder.
        """
        usual = _CONFIGS.get(self.name, SyntheticConfig())
        different = {name: value for name, value in self.settings().items() if value != usual.settings()[name]}
        return super().create_config_id(different, custom_features)

    def settings(self) -> dict[str, Any]:
        """All settings by name, with the number of events derived from the others."""
        found = {name: value for name, value in asdict(self).items() if name in _SETTINGS}
        return found | {"num_events": tuple(self.num_events or world.events_for(self.num_frames))}

    def splits(self) -> dict[str, int]:
        """Number of videos of each split."""
        return {"train": self.num_train_videos, "test": self.num_videos}

    def recipe(self, split: str) -> builder.Recipe:
        """The recipe of a split. Raises a `ValueError` for invalid settings."""
        settings = self.settings()
        return builder.make_recipe(split=split, **{name: settings[name] for name in settings if name not in _NUMBERS})


_NUMBERS = ("num_videos", "num_train_videos")
_SETTINGS = tuple(field.name for field in fields(SyntheticConfig) if field.name in SyntheticConfig.__annotations__)
_CONFIGS = {
    name: SyntheticConfig(name=name, description=f"videos of {num_frames} s", num_frames=num_frames)
    for name, num_frames in _PRESETS.items()
}


def _code_hash() -> str:
    """Hash of all code that determines a set's content: a data set is made again if it changes."""
    modules = (builder, drawing, other_questions, questions, video_file, world)
    sources = (inspect.getsource(module) for module in modules)
    return hashlib.sha256("\n".join(sources).encode()).hexdigest()[:16]


class SyntheticVideos(datasets.GeneratorBasedBuilder):
    """
    Rows of `video` (a file, not decoded), `question`, `answer`, `kind` and `events` (`[start, end]` in seconds of each
    event that the question needs).

    `config_name` is one of `long-32`, `long-128` and `long-512`, and every field of `SyntheticConfig` is a
    keyword. The videos are in the cache folder, beside the rows, and equal those of `synthesize`.
    """

    BUILDER_CONFIG_CLASS = SyntheticConfig
    BUILDER_CONFIGS = list(_CONFIGS.values())

    def __init__(self, **options: Any):
        options = {"dataset_name": "synthetic_videos", "hash": _code_hash(), **options}
        super().__init__(**options)

    def _info(self) -> datasets.DatasetInfo:
        config = self.config
        for name in _NUMBERS:
            number = config.settings()[name]
            if number < 0:
                raise ValueError(f"{name} is {number}, but a split has 0 videos (then there is none of it) or more.")
        if not any(config.splits().values()):
            raise ValueError("num_videos and num_train_videos are both 0, which leaves no split; raise one of them.")
        for split, number in config.splits().items():
            if number:
                config.recipe(split)  # raises an error for settings that cannot be made
        videos = f"videos of {config.num_frames} s"
        return datasets.DatasetInfo(
            description=f"A synthetic world of events, with known answers: {videos}.",
            license="apache-2.0",
            features=datasets.Features(
                {
                    "video": datasets.Video(decode=False),
                    "question": datasets.Value("string"),
                    "answer": datasets.Value("string"),
                    "kind": datasets.Value("string"),
                    "events": datasets.List(datasets.List(datasets.Value("int64"))),
                }
            ),
        )

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        made = []
        for split, number in self.config.splits().items():
            if number:
                folder = os.path.abspath(f"{self.cache_dir}-videos/{split}")
                builder.synthesize(folder, num_videos=number, **self._arguments(split))
                made.append(datasets.SplitGenerator(name=split, gen_kwargs={"folder": folder}))
        return made

    def _arguments(self, split: str) -> dict[str, Any]:
        return {name: value for name, value in asdict(self.config.recipe(split)).items() if name != "version"}

    def _generate_examples(self, folder: str) -> Iterator[tuple[int, dict[str, Any]]]:
        with open(f"{folder}/{builder.QUESTIONS_FILE}", encoding="utf-8") as lines:
            for number, line in enumerate(lines):
                row = json.loads(line)
                yield number, row | {"video": f"{folder}/{row['video']}"}


def load_synthetic(
    name: str = "long-128", split: str = "test", cache_dir: str | None = None, **settings: Any
) -> datasets.Dataset:
    """
    Load one split, which is made if it is not in the cache yet.

    Args:
        name (`str`, *optional*, defaults to `"long-128"`): `"long-32"`, `"long-128"` or `"long-512"`.
        split (`str`, *optional*, defaults to `"test"`): `"train"` or `"test"`.
        cache_dir (`str`, *optional*): where rows and videos are kept; the cache of `datasets` by default.
        settings: fields of `SyntheticConfig` in place of the configuration's own; `num_videos` is that of this split.

    Raises:
        `ValueError`: a name, a split or a setting is unknown or invalid.
    """
    if name not in _CONFIGS:
        raise ValueError(f"There is no configuration {name!r}; choose one of {', '.join(_CONFIGS)}.")
    if split not in world.SPLITS:
        raise ValueError(f"split must be one of {', '.join(world.SPLITS)}, not {split!r}.")
    known = [setting for setting in _SETTINGS if setting != "num_train_videos"]
    for setting in settings:
        if setting not in known:
            raise ValueError(f"There is no setting {setting!r}; there are {', '.join(known)}.")
    if split == "train":
        number = settings.pop("num_videos", SyntheticConfig.num_train_videos)
        settings |= {"num_videos": 0, "num_train_videos": number}
    else:
        settings |= {"num_train_videos": 0}
    made = SyntheticVideos(config_name=name, cache_dir=cache_dir, **settings)
    made.download_and_prepare()
    return made.as_dataset(split=split)


__all__ = ["SyntheticConfig", "SyntheticVideos", "load_synthetic"]
