"""The configuration of DynFocus: its three backbones, and the parts between them (DPE and CCE)."""

from typing import Any, Literal, TypeAlias, get_args

from transformers import AutoConfig, InstructBlipQFormerConfig, PreTrainedConfig

from .hub.with_code import SavedWithCode
from .towers.configuration_vision_tower import VisionTowerConfig

Preset: TypeAlias = Literal["default", "released_code"]
PRESETS: tuple[Preset, ...] = get_args(Preset)
#: Settings by which configurations of earlier versions distinguished the presets.
_EARLIER_SETTINGS: dict[str, tuple[Any, Any]] = {
    "event_clustering": ("dpc_knn", "kmeans"),
    "cone_source": ("medoid", "centroid"),
    "cluster_gate": ("bounded", "softmax"),
    "question_aware_score": (True, False),
    "rods_on_key_frames": (True, False),
}
# Settings that count something, and what none of them reaches.
_COUNTS = (
    "pooling_grid",
    "spatial_clusters",
    "spatial_neighbors",
    "temporal_neighbors",
    "num_question_queries",
    "rod_tokens",
    "selection_samples",
    "frames_per_chunk",
)
_MOST = 1 << 31


class DynFocusConfig(SavedWithCode, PreTrainedConfig):
    r"""
    Configuration of [`DynFocusModel`] and [`DynFocusForConditionalGeneration`].

    The number of events, key frames and rod groups is not a model setting: it arrives with each video as
    `video_token_plan`, which the processor computes.

    Args:
        vision_config (`VisionTowerConfig` or `dict`, *optional*):
            The vision tower: any vision model of transformers or of open_clip. Its `hidden_size` is D.
        text_config (`PreTrainedConfig` or `dict`, *optional*, defaults to a Llama):
            The language model: any causal model of transformers with 1-D positions. Its `hidden_size` is H.
        question_config (`InstructBlipQFormerConfig` or `dict`, *optional*):
            The question encoder, a Q-Former that reads the question next to each frame.
        video_token_id (`int`, defaults to 0):
            Id of the placeholder token that visual tokens overwrite.
        pooling_grid (`int`, defaults to 4):
            Side g of the grid to which a frame's patches are pooled: g² prototype tokens.
        spatial_clusters (`list[int]`, defaults to `[16, 6]`):
            Numbers of clusters of the two rounds of patch grouping (S-DPC, paper section 3.3).
        spatial_neighbors (`list[int]`, defaults to `[8, 3]`):
            Nearest neighbours (the point itself counts) in the density of the two rounds.
        temporal_neighbors (`int`, defaults to 5):
            Nearest neighbours in the density of the clustering over time (T-DPC).
        num_question_queries (`int`, defaults to 32):
            Learned queries of the question encoder.
        rod_tokens (`int`, defaults to 2):
            Coarse tokens of a frame: the mean of its grouped tokens, and `rod_tokens - 1` tokens that the question
            attends to.
        preset (`"default"` or `"released_code"`, defaults to `"default"`):
            the paper's method, or that of the authors' released code (see `encoding/released_code.py`).
        question_context (`"grouped"` or `"patches"`, *optional*):
            what the question encoder reads of a frame: its grouped tokens (in the default preset) or all its patches
            (in `"released_code"`).
        selection_sigma (`float`, defaults to 0.05):
            Standard deviation of the selection noise in training, on scores normalised to [0, 1]. 0 selects hard.
        selection_samples (`int`, defaults to 100):
            Monte-Carlo samples of the perturbed top-K.
        frames_per_chunk (`int`, defaults to 64):
            Frames that the question encoder takes at once outside training; changes the memory needed, never the
            results.
        projector_hidden_act (`str`, defaults to `"gelu"`):
            Activation of the projector.
        initializer_range (`float`, defaults to 0.02):
            Standard deviation of the normal initialisation of DPE's and CCE's weights.
        tie_word_embeddings (`bool`, *optional*):
            Whether input and output embeddings are one tensor; defaults to the value in `text_config`.

    Raises:
        `ValueError`: if settings contradict each other (see the messages), or the language model has M-RoPE positions.

    Example:

    ```python
    >>> config = DynFocusConfig(preset="released_code", video_token_id=32000)
    ```
    """

    model_type = "dynfocus"
    # `Trainer.predict` would gather the visual tokens of the whole data set.
    keys_to_ignore_at_inference = ["past_key_values", "cache", "video_outputs"]
    sub_configs = {
        "vision_config": VisionTowerConfig,
        "text_config": AutoConfig,
        "question_config": InstructBlipQFormerConfig,
    }

    # Dicts become configurations in __post_init__.
    vision_config: Any = None
    text_config: Any = None
    question_config: Any = None
    video_token_id: int = 0
    pooling_grid: int = 4
    spatial_clusters: list[int] | tuple[int, ...] = (16, 6)
    spatial_neighbors: list[int] | tuple[int, ...] = (8, 3)
    temporal_neighbors: int = 5
    num_question_queries: int = 32
    rod_tokens: int = 2
    preset: Preset = "default"
    question_context: Literal["grouped", "patches"] | None = None
    selection_sigma: float = 0.05
    selection_samples: int = 100
    frames_per_chunk: int = 64
    projector_hidden_act: str = "gelu"
    initializer_range: float = 0.02
    tie_word_embeddings: bool | None = None

    def __post_init__(self, **kwargs):
        if self.preset not in PRESETS:
            raise ValueError(f"Unknown preset {self.preset!r}: choose one of {', '.join(map(repr, PRESETS))}.")
        self._take_earlier_settings(kwargs)
        if self.question_context is None:
            self.question_context = "patches" if self.preset == "released_code" else "grouped"
        if not isinstance(self.vision_config, PreTrainedConfig):
            self.vision_config = VisionTowerConfig(**(self.vision_config or {}))
        if not isinstance(self.text_config, PreTrainedConfig):
            self.text_config = AutoConfig.for_model(**{"model_type": "llama", **(self.text_config or {})})
        if not isinstance(self.question_config, PreTrainedConfig):
            width = {"encoder_hidden_size": self.vision_config.hidden_size}
            self.question_config = InstructBlipQFormerConfig(**{**width, **(self.question_config or {})})
        if __name__.startswith("dynfocus."):
            # These classes are used even if there is code beside the settings, so `pipeline` need not ask whether to
            # trust it.
            kwargs = {name: value for name, value in kwargs.items() if name not in ("auto_map", "custom_pipelines")}
        super().__post_init__(**kwargs)
        # Lists, as JSON returns them: a configuration that is saved and loaded must compare equal.
        self.spatial_clusters = list(self.spatial_clusters)
        self.spatial_neighbors = list(self.spatial_neighbors)
        if self.tie_word_embeddings is None:
            self.tie_word_embeddings = bool(getattr(self.text_config, "tie_word_embeddings", False))
        self._check()

    def _take_earlier_settings(self, kwargs: dict[str, Any]) -> None:
        """Converts the single settings that earlier versions saved into a preset."""
        given = {name: kwargs.pop(name) for name in _EARLIER_SETTINGS if name in kwargs}
        fitting = [
            preset
            for number, preset in enumerate(PRESETS)
            if all(_EARLIER_SETTINGS[name][number] == value for name, value in given.items())
        ]
        if given and fitting:
            self.preset = fitting[0]
        elif given:
            raise ValueError(
                f"The settings {given} are of no preset: choose one of {', '.join(map(repr, PRESETS))} as `preset`."
            )

    def _check_numbers(self):
        for name in _COUNTS:
            values = getattr(self, name)
            for value in values if isinstance(values, list) else [values]:
                if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < _MOST:
                    raise ValueError(f"`{name}` is {values!r}: it must be whole and at least 1.")
        for name in ("selection_sigma", "initializer_range"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
                raise ValueError(f"`{name}` must be a number of at least 0, got {value!r}.")
        if self.question_context not in ("grouped", "patches"):
            raise ValueError(f"`question_context` must be 'grouped' or 'patches', got {self.question_context!r}.")
        if isinstance(self.video_token_id, bool) or not isinstance(self.video_token_id, int):
            raise ValueError(f"`video_token_id` must be a token's id, got {self.video_token_id!r}.")

    def _check(self):
        self._check_numbers()
        vision, text, question = self.vision_config, self.text_config, self.question_config
        rope = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
        if "mrope_section" in rope:
            raise ValueError(
                f"A language model of type `{text.model_type}` with M-RoPE positions is not supported: DynFocus gives "
                "its visual tokens plain 1-D positions. Choose a text-only model (Llama, Qwen3, SmolLM, Gemma, …)."
            )
        if question.encoder_hidden_size != vision.hidden_size:
            raise ValueError(
                f"`question_config.encoder_hidden_size` is {question.encoder_hidden_size}, but the vision tower's "
                f"`hidden_size` is {vision.hidden_size}: the question encoder attends to the tower's features, so set "
                f"`encoder_hidden_size={vision.hidden_size}`."
            )
        if len(self.spatial_clusters) != 2 or len(self.spatial_neighbors) != 2:
            raise ValueError(
                f"`spatial_clusters` and `spatial_neighbors` need two numbers each (fine, coarse), got "
                f"{self.spatial_clusters} and {self.spatial_neighbors}."
            )
        fine, coarse = self.spatial_clusters
        if not 1 <= coarse <= fine <= vision.num_patches:
            raise ValueError(
                f"`spatial_clusters` must fall from the tower's {vision.num_patches} patches to the fine to the "
                f"coarse groups, got {fine} and {coarse}."
            )
        if not 1 <= self.pooling_grid <= min(vision.grid_size):
            raise ValueError(
                f"`pooling_grid` is {self.pooling_grid}, but must lie between 1 and the side of the tower's patch "
                f"grid {tuple(vision.grid_size)}."
            )
        groups = self.rod_tokens - 1
        if groups < 1 or self.num_question_queries % groups:
            raise ValueError(
                f"`rod_tokens` is {self.rod_tokens}: it must be at least 2, and `num_question_queries` "
                f"({self.num_question_queries}) must be divisible by `rod_tokens - 1`."
            )

    @property
    def rods_on_key_frames(self) -> bool:
        """Whether key frames keep their rods besides their cones. The processor's plan must agree."""
        return self.preset == "default"

    @property
    def cone_tokens(self) -> int:
        """Fine tokens of a key frame: g² + the two numbers of groups (38 by default)."""
        return self.pooling_grid**2 + sum(self.spatial_clusters)

    @classmethod
    def from_preset(cls, preset: Preset = "default", **kwargs) -> "DynFocusConfig":
        """A configuration in one of the presets `"default"` and `"released_code"`."""
        return cls(preset=preset, **kwargs)


__all__ = ["PRESETS", "DynFocusConfig", "VisionTowerConfig"]
