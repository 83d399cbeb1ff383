"""Recipes: all settings of a fine-tuning run, in one file."""

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator, model_validator

from dynfocus.processing.video_qa import find_rule

from .rows import Source

RECIPES = Path(__file__).parent / "recipes"


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class ModelSettings(_Settings):
    """
    The model to train: either `checkpoint`, or `vision` and `language_model`, from which a DynFocus model is made.

    Args:
        checkpoint: folder or Hub id of a DynFocus model, or of a stock video language model such as Qwen3-VL.
        revision: of the checkpoint on the Hub.
        vision, language_model: see [`from_backbones`].
        vision_revision, language_model_revision: of the backbones on the Hub.
        preset: `default` or `released_code`.
        dtype: dtype of the weights: `float32` (for training in mixed precision), `bfloat16`, or `auto`.
        seed: seed of the weights of new parts.
        trust_remote_code: run code that comes with the language model.
        config: further fields of the model's configuration.
        processor: further settings of [`DynFocusProcessor`], or, for a stock model, of [`FocusProcessor`], such as
            `tokens_per_key_frame`.
        dual_encoder: for a stock model: folder or Hub id of the dual encoder; by default as in [`FocusProcessor`].
    """

    checkpoint: str | None = None
    revision: str | None = None
    vision: str | None = None
    language_model: str | None = None
    vision_revision: str | None = None
    language_model_revision: str | None = None
    preset: Literal["default", "released_code"] = "default"
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "float32"
    seed: int = 0
    trust_remote_code: bool = False
    config: dict[str, Any] = Field(default_factory=dict)
    processor: dict[str, Any] = Field(default_factory=dict)
    dual_encoder: str | None = None

    @model_validator(mode="after")
    def _one_start(self) -> "ModelSettings":
        backbones = (self.vision, self.language_model)
        if (self.checkpoint is None) == (None in backbones) or (self.checkpoint and any(backbones)):
            raise ValueError(
                "give either `checkpoint`, or both `vision` and `language_model`, as in "
                "model.checkpoint=Qwen/Qwen3-VL-4B-Instruct"
            )
        return self

    @property
    def start(self) -> str:
        """The names of what the run starts from."""
        return self.checkpoint or f"{self.vision} and {self.language_model}"


class DataSettings(_Settings):
    """
    The training data, and how videos become tokens.

    Args:
        train, eval: paths, Hub ids, or [`Source`]s, one or several.
        media_root: for sources without one.
        streaming: read rows while they are used; needs `training.max_steps`.
        shuffle_buffer: rows among which a stream is shuffled.
        fps, num_frames, max_frames, max_visual_tokens, num_prototypes, key_ratio: see [`DynFocusProcessor`]; as the
            model was saved by default. A stock model takes `fps` and `max_visual_tokens`.
        rule, coarse: for a stock model: the rule of choice, and the form of coarse frames; see [`FocusProcessor`].
        max_length: tokens of a row at most, visual ones included.
        on_too_long: `shrink` gives longer rows fewer visual tokens, `raise` counts them as bad.
        learn_from: `all` turns of the assistant, or the `last`.
        max_bad_fraction: the run stops if a larger share of the rows cannot be read.
    """

    train: list[Source] = Field(default_factory=list)
    eval: list[Source] = Field(default_factory=list)
    media_root: str | None = None
    streaming: bool = False
    shuffle_buffer: int = Field(default=1000, ge=1)
    fps: float | None = Field(default=None, gt=0)
    num_frames: int | None = Field(default=None, ge=1)
    max_frames: int | None = Field(default=None, ge=1)
    max_visual_tokens: int | None = Field(default=None, ge=1)
    num_prototypes: int | None = Field(default=None, ge=1)
    key_ratio: float | None = Field(default=None, gt=0, le=1)
    rule: str | None = None
    coarse: Literal["low", "panels", "none"] | None = None
    max_length: int | None = Field(default=None, ge=1)
    on_too_long: Literal["raise", "shrink"] = "shrink"
    learn_from: Literal["all", "last"] = "all"
    max_bad_fraction: float = Field(default=0.1, ge=0, le=1)

    @field_validator("train", "eval", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        listed = value if isinstance(value, list) else [] if value is None else [value]
        return [{"path": one} if isinstance(one, str) else one for one in listed]

    @field_validator("rule")
    @classmethod
    def _known_rule(cls, rule: str | None) -> str | None:
        if rule is not None:
            find_rule(rule)
        return rule

    def sources(self, which: Literal["train", "eval"]) -> list[Source]:
        """The sources, each with its media root."""
        found: list[Source] = getattr(self, which)
        return [Source(**{**vars(one), "media_root": one.media_root or self.media_root}) for one in found]

    @property
    def processor_kwargs(self) -> dict[str, Any]:
        """The settings of the processor that are given."""
        names = ("fps", "num_frames", "max_frames", "max_visual_tokens", "num_prototypes", "key_ratio")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


class NoiseSettings(_Settings):
    """See [`SelectionNoiseSchedule`]."""

    start: float | None = Field(default=None, ge=0)
    end: float = Field(default=0.0, ge=0)
    hold: float = Field(default=0.0, ge=0, le=1)


class LoraSettings(_Settings):
    """LoRA on the language model; `target_modules` is a regular expression, all linear layers by default."""

    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: str | None = None


class EvaluationSettings(_Settings):
    """
    Number of rows of `data.eval` that are answered at each evaluation, and largest number of tokens of an answer.
    """

    generate_rows: int = Field(default=200, ge=0)
    max_new_tokens: int = Field(default=32, ge=1)


class Recipe(_Settings):
    """
    A fine-tuning run.

    Args:
        model, data, selection_noise, lora, evaluation: see their classes.
        freeze: parts, modules or patterns that are not trained, see `dynfocus.training.parts.names_in`.
        learning_rates: learning rates of parts, modules or patterns; `training.learning_rate` is used for the others.
        likelihood_weight: weight of the loss with which the selector learns which events make the answers likely, see
            [`likelihood_loss`]; 0 trains it through the answers' own loss alone.
        training: fields of transformers' `TrainingArguments`.
        push_to_hub: name on the Hub to which the trained model is pushed at the end.
        private: whether a new repository there is private.
    """

    model: ModelSettings
    data: DataSettings
    freeze: list[str] = Field(default_factory=lambda: ["vision_tower"])
    learning_rates: dict[str, float] = Field(default_factory=dict)
    selection_noise: NoiseSettings = Field(default_factory=NoiseSettings)
    likelihood_weight: float = Field(default=0.0, ge=0)
    lora: LoraSettings | None = None
    evaluation: EvaluationSettings = Field(default_factory=EvaluationSettings)
    training: dict[str, Any]
    push_to_hub: str | None = None
    private: bool | None = None
    #: Settings that come from a recipe of the package; all others were given by the user.
    _suggested: frozenset[str] = PrivateAttr(default=frozenset())

    @field_validator("training")
    @classmethod
    def _known(cls, training: dict[str, Any]) -> dict[str, Any]:
        from transformers import TrainingArguments

        known = [field.name for field in fields(TrainingArguments) if field.init]
        numbers = [field.name for field in fields(TrainingArguments) if type(field.default) in (int, float)]
        for name in training:
            if name not in known:
                raise ValueError(f"`{name}` is no field of TrainingArguments{_suggestion(name, known)}")
            if isinstance(training[name], str) and name in numbers:
                raise ValueError(f"`{name}` takes a number, not {training[name]!r}")
        # YAML reads `no` as false.
        training = {
            name: "no" if value is False and name.endswith("_strategy") else value for name, value in training.items()
        }
        for name, instead in _OURS.items():
            if training.get(name):
                raise ValueError(f"`{name}` is set by {instead}")
        if not training.get("output_dir"):
            raise ValueError("`output_dir` is missing: the folder for checkpoints and the trained model")
        return training

    @model_validator(mode="after")
    def _fits(self) -> "Recipe":
        if not self.data.train:
            raise ValueError("`data.train` is missing: a file, folder or Hub id with rows to train on")
        if self.data.streaming and self.training.get("max_steps", -1) <= 0:
            raise ValueError("a stream has no end: `data.streaming` needs `training.max_steps`")
        if self.lora is not None and "vision_tower" not in self.freeze:
            raise ValueError("with `lora` the vision tower stays frozen: put `vision_tower` into `freeze`")
        if self.training.get("eval_strategy", "no") not in ("no", False) and not self.data.eval:
            raise ValueError(
                "`training.eval_strategy` needs rows: set `data.eval`, or `training.eval_strategy=no` and "
                "`training.load_best_model_at_end=false`"
            )
        return self

    @property
    def output_dir(self) -> Path:
        return Path(self.training["output_dir"])

    def refuse(self, settings: Sequence[str], why: str) -> None:
        """
        Raises a `ValueError` if the user gave one of these settings, such as `data.key_ratio`. Settings that come from
        a recipe of the package are ignored.

        Args:
            why: the rest of the sentence after their names.
        """
        given = [name for name in settings if not self.is_suggested(name) and _is_given(self, name)]
        if given:
            raise ValueError(f"{', '.join(f'`{name}`' for name in given)} {'are' if given[1:] else 'is'} {why}")

    def is_suggested(self, setting: str) -> bool:
        """Whether this setting, such as `data.max_frames`, comes only from a recipe of the package."""
        return setting in self._suggested


_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
_OF_EVALUATION = ("eval_strategy", "eval_steps", "load_best_model_at_end", "metric_for_best_model")
#: Fields of TrainingArguments that would conflict with settings of the recipe.
_OURS = {
    "push_to_hub": "`push_to_hub` of the recipe itself",
    "resume_from_checkpoint": "the command: a run continues in its `output_dir`",
    "label_smoothing_factor": "nothing here: it needs the logits of all visual tokens",
}


def load_recipe(name: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """
    Load a recipe from a YAML file, or one in `training/recipes/` by its name.

    Args:
        name: a file, or a name such as `"lora"`.
        overrides: such as `"training.max_steps=100"`; the value is read as YAML.

    Raises:
        `FileNotFoundError`: if there is no such file.
        `ValueError`: for an invalid recipe; the message names the key.
    """
    path = recipe_path(name)
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: is not a YAML file: {' '.join(str(error).split())}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path}: is not a recipe, which has the keys {', '.join(Recipe.model_fields)}.")
    if path.parent == RECIPES:
        settings = _suited(settings, overrides)
    suggested = {*settings, *(f"{key}.{name}" for key, below in settings.items() for name in _names(below))}
    for override in overrides:
        _override(settings, override)
    try:
        for name in {"training", "learning_rates"} & settings.keys():
            settings[name] = _numbers(settings[name])
        recipe = Recipe.model_validate(settings)
    except ValidationError as error:
        named = f"The recipe {path.stem}" if path.parent == RECIPES else path
        raise ValueError(f"{named}: {_why_invalid(error)}.") from error
    if path.parent == RECIPES:
        changed = {override.partition("=")[0] for override in overrides}
        recipe._suggested = frozenset(
            name for name in suggested if not any(key == name or key.startswith(f"{name}.") for key in changed)
        )
    return recipe


def recipe_path(name: str | Path) -> Path:
    """The file of a recipe. Raises `FileNotFoundError`, which names the recipes that come with the package."""
    path = Path(name)
    if path.is_file():
        return path
    built_in = RECIPES / f"{name}.yaml"
    if built_in.is_file():
        return built_in
    raise FileNotFoundError(f"{name}: is neither a file nor one of the recipes {', '.join(recipe_names())}.")


def recipe_names() -> list[str]:
    """The recipes that come with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def _override(settings: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ValueError(f"{override!r}: a setting is changed by KEY=VALUE, such as training.max_steps=100.")
    *outer, last = key.split(".")
    inner = settings
    for name in outer:
        below = inner.get(name)
        if below is None:
            below = inner[name] = {}
        if not isinstance(below, dict):
            raise ValueError(f"{override!r}: `{name}` has no settings below it.")
        inner = below
    inner[last] = yaml.safe_load(value)


def _suited(settings: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """
    A recipe of the package without the settings that the user's settings replace: its checkpoint if backbones are
    given, and its evaluation if there are no rows for it.
    """
    given = {override.partition("=")[0] for override in overrides}
    model, training = dict(settings["model"]), dict(settings["training"])
    if {"model.vision", "model.language_model"} & given and "model.checkpoint" not in given:
        model.pop("checkpoint", None)
    has_eval = settings["data"].get("eval") or any(name.startswith("data.eval") for name in given)
    if not has_eval and "training.eval_strategy" not in given:
        for name in _OF_EVALUATION:
            training.pop(name, None)
    return {**settings, "model": model, "training": training}


def _names(settings: Any) -> list[str]:
    return list(settings) if isinstance(settings, Mapping) else []


def _is_given(recipe: Recipe, name: str) -> bool:
    """Whether a setting, such as `freeze` or `data.key_ratio`, differs from the default."""
    found: Any = recipe
    for key in name.split("."):
        if key not in found.model_fields_set:
            return False
        default = type(found).model_fields[key].get_default(call_default_factory=True)
        found = getattr(found, key)
    return found != default


def _numbers(value: Any) -> Any:
    """Converts `1e-4`, which YAML reads as text, to a number."""
    if isinstance(value, Mapping):
        return {key: _numbers(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_numbers(inner) for inner in value]
    if isinstance(value, str) and "e" in value.lower():
        try:
            number = float(value)
        except ValueError:
            return value
        return number if math.isfinite(number) else value
    return value


def _suggestion(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f" (is it `{close[0]}`?)" if close else ""


def _why_invalid(error: ValidationError) -> str:
    """The first mistake, with its key."""
    faults = error.errors()
    # A misspelt key may be why another one is missing.
    fault = next((one for one in faults if one["type"] in _UNKNOWN), faults[0])
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] in _UNKNOWN:
        outer = fault["loc"][:-1]
        known = list(_settings_at(outer))
        return f"unknown key `{key}`{_suggestion(str(fault['loc'][-1]), known) or '; known are ' + ', '.join(known)}"
    if fault["type"] == "missing":
        return f"`{key}` is missing"
    message = fault["msg"].removeprefix("Value error, ")
    return f"`{key}`: {message}" if key else message


def _settings_at(keys: Sequence[Any]) -> list[str]:
    """The known keys below `keys`."""
    if "train" in keys or "eval" in keys:
        return [field.name for field in fields(Source)]
    model: Any = Recipe
    for key in keys:
        annotation = model.model_fields[key].annotation
        options = [annotation, *getattr(annotation, "__args__", ())]
        model = next(one for one in options if isinstance(one, type) and issubclass(one, BaseModel))
    return list(model.model_fields)


__all__ = [
    "RECIPES",
    "DataSettings",
    "EvaluationSettings",
    "LoraSettings",
    "ModelSettings",
    "NoiseSettings",
    "Recipe",
    "load_recipe",
    "recipe_names",
    "recipe_path",
]
