"""DynFocus: a vision tower, DPE and CCE, and any causal language model, as transformers classes."""

import copy
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import transformers
from torch import nn
from torch.nn import functional as F
from transformers import Cache, GenerationMixin
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.integrations.fsdp import is_fsdp_managed_module
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import can_return_tuple, logging, torch_compilable_check

from .configuration_dynfocus import DynFocusConfig
from .encoding.cooperative_encoding import CooperativeEncoder
from .encoding.event_prototypes import EventPrototypeEstimator
from .encoding.patch_grouping import group_patches, pool_patches
from .encoding.question_encoder import FrameQueries, QuestionEncoder
from .encoding.released_code import ReleasedEncoder, ReleasedEstimator
from .language_model import build_language_model
from .logit_scaling import scale_logits
from .modeling_outputs_dynfocus import (
    CACHE_NAME,
    DynFocusCausalLMOutputWithPast,
    DynFocusModelOutputWithPast,
    DynFocusVideoFeatures,
    one_cache,
)
from .pretrained_dynfocus import DynFocusPreTrainedModel
from .selecting.focus import Focus
from .states.encoding import encode_stream, finite_pixels
from .states.fingerprint import model_fingerprint, with_pixel_settings
from .states.progress import Progress
from .states.video_state import VideoState
from .towers.vision_tower import VisionTower, joined_outputs
from .video_inputs import check_token_plan, checked_frame_mask, pad_rows, without_padding

logger = logging.get_logger(__name__)

# What callers may ask for besides the outputs.
_CAPTURED = ("output_hidden_states", "output_attentions")
_CHUNKS_LOSE_VIDEOS = tuple(map(int, transformers.__version__.split(".")[:2])) < (5, 23)


class DynFocusModel(DynFocusPreTrainedModel):
    """Vision tower, DPE, CCE and language model, without the language-modelling head."""

    def __init__(self, config: DynFocusConfig):
        super().__init__(config)
        self.vision_tower = VisionTower(config.vision_config)
        self.question_encoder = QuestionEncoder(config)
        is_released = config.preset == "released_code"
        self.event_prototypes = (ReleasedEstimator if is_released else EventPrototypeEstimator)(config)
        self.cooperative_encoder = (ReleasedEncoder if is_released else CooperativeEncoder)(config)
        self.language_model = build_language_model(config.text_config)
        # Once the videos are read, the rest is the language model's.
        self._can_compile_fullgraph = self.language_model._can_compile_fullgraph
        #: Standard deviation of the selection noise while training; a schedule may lower it, 0 selects hard.
        self.selection_sigma = config.selection_sigma
        #: Source of that noise: called with the numbers of events `(V,)` and of samples, it returns standard normal
        #: `(V, samples, max L)`. `None` uses torch's global generator.
        self.selection_noise: Callable[[torch.Tensor, int], torch.Tensor] | None = None
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        self.language_model.set_input_embeddings(value)

    def encode_video(
        self,
        video: Any,
        video_frame_mask: torch.Tensor | None = None,
        *,
        processor: Any = None,
        save_to: str | os.PathLike | None = None,
        progress: Progress = False,
        dtype: torch.dtype | None = None,
        **sampling: Any,
    ) -> VideoState:
        """
        Encode videos before any question, for questions later.

        With `processor`, one video of any length is read, prepared and encoded chunk by chunk (`frames_per_chunk` of
        the vision tower). A frame takes `(g² + fine + coarse groups)·D` numbers, 38·D by default, and 31 bytes more.
        Without it, `video` is pixels.

        Args:
            video: a video in any form (a path, a URL, bytes, an array, …) with `processor`, else `pixel_values_videos`
                (`torch.Tensor` of shape `(V, T, 3, H, W)`).
            video_frame_mask (`torch.Tensor` of shape `(V, T)`, bool, *optional*): the real frames of pixels; all by
                default.
            processor ([`DynFocusProcessor`], *optional*): reads and prepares the video.
            save_to, progress: see [`encode_stream`].
            dtype (`torch.dtype`, *optional*): dtype of the state's features, such as `torch.float16`; by default the
                model's.
            sampling: `fps`, `num_frames`, `max_frames`, `sampling`, `decoder`, `on_truncated`, …: settings of the
                video processor for this call.

        Raises:
            `ValueError`: if a pixel is NaN or infinite, a video has no frames or cannot be read, or an interrupted
                encoding in `save_to` is of another video, sampling or model.
            `FileNotFoundError`: if a video does not exist. `OSError`: if `save_to` cannot be written.
        """
        if processor is not None:
            if video_frame_mask is not None:
                raise ValueError("`video_frame_mask` goes with pixels: with `processor`, leave it out.")
            chunk_frames, on_gpu = self.config.vision_config.frames_per_chunk, self.device.type == "cuda"
            stream = processor.video_processor.stream(video, chunk_frames, pin_memory=on_gpu, **sampling)
            return self.encode_frames(stream, save_to=save_to, progress=progress, dtype=dtype)
        options = {**sampling, "save_to": save_to, "progress": progress or None, "dtype": dtype}
        if given := sorted(name for name, value in options.items() if value is not None):
            raise ValueError(f"`{given[0]}` needs `processor=`, which reads the video.")
        if not isinstance(video, torch.Tensor):
            raise ValueError(f"To encode a {type(video).__name__}, give `processor=`, which reads the video.")
        state = self.encode_pixels(video, video_frame_mask)
        state.fingerprint = self.video_fingerprint()
        return state

    def encode_frames(
        self,
        stream: Any,
        *,
        save_to: str | os.PathLike | None = None,
        progress: Progress = False,
        dtype: torch.dtype | None = None,
    ) -> VideoState:
        """`encode_video` for one video that is already open: a `FrameStream` of the video processor."""
        weight = next(self.vision_tower.parameters())
        # Weights that accelerate has offloaded are on meta until their own module runs.
        device = torch.device("cpu") if weight.is_meta else weight.device

        def columns_of(pixels: torch.Tensor) -> dict[str, torch.Tensor]:
            seen = self.vision_tower(pixels.to(device, non_blocking=True), return_dict=True)
            return self._columns_to_keep(seen.last_hidden_state)

        return encode_stream(
            stream,
            columns_of,
            dtype=dtype or self.vision_tower.dtype,
            fingerprint=self.video_fingerprint(),
            save_to=save_to,
            progress=progress,
        )

    def encode_pixels(
        self, pixel_values_videos: torch.Tensor, video_frame_mask: torch.Tensor | None = None
    ) -> VideoState:
        """`encode_video` for pixels, without a fingerprint, as in each training step."""
        return self._encode_pixels(pixel_values_videos, video_frame_mask)[0]

    def _encode_pixels(
        self, pixel_values_videos: torch.Tensor, video_frame_mask: torch.Tensor | None, **captured: Any
    ) -> tuple[VideoState, BaseModelOutput]:
        """The state of pixels, and what `captured` asks of the vision tower: its hidden states and attentions."""
        mask = checked_frame_mask(pixel_values_videos, video_frame_mask)

        def chunks() -> Iterator[torch.Tensor]:
            # The pixels of a long video are never in memory twice.
            for places in mask.nonzero().split(self.config.vision_config.frames_per_chunk):
                yield finite_pixels(pixel_values_videos[places[:, 0], places[:, 1]])

        def columns_of(output: Any) -> tuple[dict[str, torch.Tensor], BaseModelOutput]:
            rest = BaseModelOutput(hidden_states=output.hidden_states, attentions=output.attentions)
            return self._columns(output.last_hidden_state), rest

        def padded(parts: list[torch.Tensor]) -> torch.Tensor:
            tensor = torch.cat(parts)
            return tensor.new_zeros(*mask.shape, *tensor.shape[1:]).index_put(mask.nonzero(as_tuple=True), tensor)

        found = self.vision_tower(chunks(), columns_of, return_dict=True, **captured)
        columns = {name: padded([chunk[name] for chunk, _ in found]) for name in found[0][0]}
        return VideoState(columns, frame_mask=mask), joined_outputs([rest for _, rest in found])

    def video_fingerprint(self, processor: Any = None) -> str | None:
        """
        Fingerprint of the tower's weights and of all settings on which a state depends, with `processor` also those of
        pixels; `None` if not all weights are in this process.

        It does not depend on the precision. States carry it, and a model with another one refuses them.
        """
        config = self.config
        vision = config.vision_config
        settings = {
            "encoder": "open_clip" if vision.is_open_clip else vision.backbone_config.model_type,
            "geometry": list(vision.geometry),
            "layers": vision.num_layers_run,
            "pooling_grid": config.pooling_grid,
            "spatial_clusters": config.spatial_clusters,
            "spatial_neighbors": config.spatial_neighbors,
        }
        pixels = None if processor is None else processor.video_processor.pixel_fingerprint()
        return with_pixel_settings(model_fingerprint(self.vision_tower, settings), pixels)

    def check_state(self, state: VideoState, processor: Any = None) -> None:
        """
        Raises a `ValueError` if `state` is damaged or was encoded by a different model or, with `processor`, from
        different pixels. `get_video_features` checks every state.
        """
        config = self.config
        vision, groups = config.vision_config, config.spatial_clusters
        state.check()
        if state.fingerprint is not None:
            state.check_fingerprint(self.video_fingerprint(processor))
        expected = {
            "frame_features": (config.pooling_grid**2, vision.hidden_size),
            "grouped_tokens": (sum(groups), vision.hidden_size),
            "parent_of_token": (sum(groups),),
        }
        # A state may have patches that this model does not use.
        if state.patches is not None:
            expected["patches"] = (vision.num_patches, vision.hidden_size)
        elif config.question_context == "patches":
            raise ValueError("This video state lacks the patches that `question_context='patches'` needs.")
        state.check(expected, num_groups=groups[1])

    def _columns(self, patches: torch.Tensor) -> dict[str, torch.Tensor]:
        """
        The patches `(n, P, D)` of n frames, pooled and grouped; also the patches themselves if the model uses them.
        """
        config = self.config
        pooled = pool_patches(patches, config.vision_config.grid_size, config.pooling_grid)
        grouped, parents = group_patches(patches, config.spatial_clusters, config.spatial_neighbors)
        columns = {"frame_features": pooled, "grouped_tokens": grouped, "parent_of_token": parents}
        return {**columns, "patches": patches} if config.question_context == "patches" else columns

    def _columns_to_keep(self, patches: torch.Tensor) -> dict[str, torch.Tensor]:
        """`_columns` in fewer bytes: a group's number usually fits into one byte."""
        columns = self._columns(patches)
        if self.config.spatial_clusters[1] <= 256:
            columns["parent_of_token"] = columns["parent_of_token"].to(torch.uint8)
        return columns

    @can_return_tuple
    def get_video_features(
        self,
        pixel_values_videos: torch.Tensor | None = None,
        video_state: VideoState | None = None,
        video_frame_mask: torch.Tensor | list[torch.Tensor] | None = None,
        video_token_plan: torch.Tensor | None = None,
        question_input_ids: torch.Tensor | list[torch.Tensor] | None = None,
        question_attention_mask: torch.Tensor | list[torch.Tensor] | None = None,
        choose: Callable[..., Focus] | None = None,
        **kwargs,
    ) -> DynFocusVideoFeatures:
        """
        The visual tokens of videos, given as pixels or as a state, for their questions: choose frames, then show them.

        Args:
            pixel_values_videos (`torch.Tensor` of shape `(V, T, 3, H, W)`, *optional*): processed frames.
            video_state (`VideoState`, *optional*): the result of `encode_video` for these videos.
            video_frame_mask (`torch.Tensor` of shape `(V, T)`, bool, *optional*): the real frames; all by default.
            video_token_plan (`torch.Tensor` of shape `(V, 3)`, int64):
                L events, K key frames and R rod groups of each video, from the processor's plan.
            question_input_ids (`torch.Tensor` of shape `(V, Q)`): the question for each video.
            question_attention_mask (`torch.Tensor` of shape `(V, Q)`, *optional*): 0 on its padding.
            choose (`Callable`, *optional*):
                the rule of choice, called as `choose(estimator, state, queries, plan, sigma=…, noise=…)`; returns a
                [`Focus`]. By default [`EventPrototypeEstimator.choose`].

            output_hidden_states, output_attentions (`bool`, *optional*): of the vision tower, where pixels go in.

        Questions and masks may also be lists of rows of different lengths, as vLLM passes those of several requests.

        Raises:
            `ValueError`: if inputs are missing, or the plan does not fit the videos.
        """
        state, queries, plan, seen = self._prepare(
            pixel_values_videos,
            video_state,
            video_frame_mask,
            video_token_plan,
            question_input_ids,
            question_attention_mask,
            **{name: kwargs[name] for name in _CAPTURED if name in kwargs},
        )
        focus = self._choose(state, queries, plan, choose)
        tokens = self.cooperative_encoder(state, queries, focus)
        num_prototypes = focus.events.mask.sum(1)
        return DynFocusVideoFeatures(
            last_hidden_state=state.frame_features,
            pooler_output=tokens,
            hidden_states=seen.hidden_states,
            attentions=seen.attentions,
            key_frames=without_padding(focus.key_frames, focus.key_mask.sum(1)),
            event_of_frame=without_padding(focus.events.event_of_frame, state.frame_mask.sum(1)),
            event_scores=None if focus.scores is None else without_padding(focus.scores, num_prototypes),
            event_medoids=without_padding(focus.events.medoids, num_prototypes),
        )

    def choose(
        self,
        video_state: VideoState,
        video_token_plan: torch.Tensor,
        question_input_ids: torch.Tensor,
        question_attention_mask: torch.Tensor | None = None,
        choose: Callable[..., Focus] | None = None,
    ) -> Focus:
        """Choose frames for questions about the videos of a state; arguments as of `get_video_features`."""
        state, queries, plan, _ = self._prepare(
            None, video_state, None, video_token_plan, question_input_ids, question_attention_mask
        )
        return self._choose(state, queries, plan, choose)

    def _prepare(
        self,
        pixel_values_videos: torch.Tensor | None,
        video_state: VideoState | None,
        video_frame_mask: torch.Tensor | list[torch.Tensor] | None,
        video_token_plan: torch.Tensor | None,
        question_input_ids: torch.Tensor | list[torch.Tensor] | None,
        question_attention_mask: torch.Tensor | list[torch.Tensor] | None,
        *,
        allow_chunks: bool = True,
        **captured: Any,
    ) -> tuple[VideoState, FrameQueries, torch.Tensor, BaseModelOutput]:
        """
        The state of the videos, what the question encoder sees in them, their checked plans, and what `captured` asks
        of the vision tower. Without `allow_chunks`, the question encoder's output is kept for all frames.
        """
        if (pixel_values_videos is None) == (video_state is None):
            raise ValueError("Give exactly one of `pixel_values_videos` and `video_state`.")
        if video_token_plan is None or question_input_ids is None:
            missing = "video_token_plan" if video_token_plan is None else "question_input_ids"
            raise ValueError(f"Videos came without `{missing}`: pass on everything that the processor returns.")
        if video_state is None:
            pixels: Any = pixel_values_videos
            state, seen = self._encode_pixels(pixels, pad_rows(video_frame_mask), **captured)
        else:
            state, seen = video_state, BaseModelOutput()
            self.check_state(state)
        # Features are moved to the device and dtype of the weights (`device_map`, half precision), which a quantised
        # layer would not report.
        reference = self.question_encoder.query_tokens
        # Weights that accelerate has offloaded are on meta until their own module runs.
        placed = (weight.device for weight in (reference, *self.parameters()) if not weight.is_meta)
        device = next(placed, state.frame_mask.device)
        plan = video_token_plan.to(device)
        questions = pad_rows(question_input_ids).to(device)
        if question_attention_mask is None:
            question_attention_mask = [torch.ones_like(row) for row in question_input_ids]
        check_token_plan(plan, questions, state)
        # Frames are moved, cast and encoded in chunks. Not with gradients, which keep everything anyway, and not with
        # sharded weights, which are then gathered once for all frames.
        is_sharded = is_deepspeed_zero3_enabled() or is_fsdp_managed_module(self)
        is_long = int(state.frame_mask.sum()) > self.question_encoder.frames_per_chunk
        in_chunks = allow_chunks and is_long and not torch.is_grad_enabled() and not is_sharded
        if not in_chunks:
            state = state.to(device=device, dtype=reference.dtype)
        frame_mask, frame_tokens = state.frame_mask.to(device), state.grouped_tokens
        if self.config.question_context == "patches":
            frame_tokens = state.patches
        queries = FrameQueries(
            self.question_encoder,
            questions,
            pad_rows(question_attention_mask).to(device),
            frame_tokens,
            frame_mask,
            in_chunks,
        )
        return state, queries, plan, seen

    def _choose(
        self,
        state: VideoState,
        queries: FrameQueries,
        plan: torch.Tensor,
        choose: Callable[..., Focus] | None,
    ) -> Focus:
        sigma, noise = self.selection_sigma if self.training else 0.0, None
        if sigma > 0 and torch.is_grad_enabled() and self.selection_noise is not None:
            noise = self.selection_noise(plan[:, 0], self.config.selection_samples).to(plan.device)
        # Bound, and not of its type: where peft trains the whole part, it wraps it.
        own = self.event_prototypes.choose if choose is None else partial(choose, self.event_prototypes)
        return own(state, queries, plan, sigma=sigma, noise=noise)

    def get_placeholder_mask(
        self, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor, num_features: int
    ) -> torch.Tensor:
        """The places of visual tokens, `(batch, tokens, 1)`; a `ValueError` if there are not `num_features` places."""
        if input_ids is not None:
            mask = input_ids == self.config.video_token_id
        else:
            token_id = torch.tensor(self.config.video_token_id, device=inputs_embeds.device)
            mask = (inputs_embeds == self.get_input_embeddings()(token_id)).all(-1)
        found = mask.sum()
        torch_compilable_check(
            found == num_features,
            lambda: (
                f"The prompt has {int(found)} video placeholder tokens, but the videos have {num_features} visual "
                "tokens: use one processor call for the text and its videos, and do not truncate its result."
            ),
        )
        return mask[..., None].to(inputs_embeds.device)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        video_state: VideoState | None = None,
        video_frame_mask: torch.Tensor | None = None,
        video_token_plan: torch.Tensor | None = None,
        question_input_ids: torch.Tensor | None = None,
        question_attention_mask: torch.Tensor | None = None,
        mm_encoder_outputs: dict[str, DynFocusVideoFeatures] | None = None,
        use_cache: bool | None = None,
        **kwargs,
    ) -> DynFocusModelOutputWithPast:
        """
        Args:
            input_ids (`torch.Tensor` of shape `(batch, tokens)`) or inputs_embeds (`(batch, tokens, H)`): exactly one.
            attention_mask (`torch.Tensor` of shape `(batch, tokens)`, *optional*): 0 on padding.
            past_key_values, cache (`Cache`, *optional*):
                the key-value cache, by its older and its newer name (since transformers 5.24), of which one is given.
            mm_encoder_outputs (`dict`, *optional*): `{"video": features}` of `get_video_features`, instead of videos.
            pixel_values_videos, video_state, video_frame_mask, video_token_plan: see `get_video_features`; videos in
                the order of their placeholders.
            question_input_ids, question_attention_mask: see `get_video_features`.
        """
        cache = one_cache(past_key_values, cache)
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give exactly one of `input_ids` and `inputs_embeds`.")
        has_videos = pixel_values_videos is not None or video_state is not None
        features: Any = (mm_encoder_outputs or {}).get("video")
        if has_videos and features is not None:
            raise ValueError("Give videos or `mm_encoder_outputs`, not both.")
        if has_videos:
            features = self.get_video_features(
                pixel_values_videos=pixel_values_videos,
                video_state=video_state,
                video_frame_mask=video_frame_mask,
                video_token_plan=video_token_plan,
                question_input_ids=question_input_ids,
                question_attention_mask=question_attention_mask,
                return_dict=True,
                **{name: kwargs[name] for name in _CAPTURED if name in kwargs},
            )
        # Also before the words are embedded, because sharded weights are gathered in the order of the modules.
        blank = self._blank_video() if features is None and self._others_may_have_videos(cache) else None
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        if features is not None:
            visual_tokens = torch.cat(features.pooler_output).to(inputs_embeds.device, inputs_embeds.dtype)
            mask = self.get_placeholder_mask(input_ids, inputs_embeds, len(visual_tokens))
            inputs_embeds = inputs_embeds.masked_scatter(mask, visual_tokens)
        elif blank is not None:
            inputs_embeds = inputs_embeds + 0 * blank.to(inputs_embeds)
        outputs = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=use_cache,
            return_dict=True,
            **{CACHE_NAME: cache},
            **kwargs,
        )
        return DynFocusModelOutputWithPast(
            last_hidden_state=outputs.last_hidden_state,
            **{CACHE_NAME: outputs.get(CACHE_NAME)},
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            video_outputs=features,
        )

    def _others_may_have_videos(self, cache: Cache | None) -> bool:
        """Whether other processes may wait for this one to run the modules for videos, although it has no videos."""
        if self.training and torch.is_grad_enabled():
            return True
        is_sharded = is_deepspeed_zero3_enabled() or is_fsdp_managed_module(self)
        # During generation, videos are processed with the prompt only.
        return is_sharded and (cache is None or cache.get_seq_length() == 0)

    def _blank_video(self) -> torch.Tensor:
        """
        The sum of a blank frame's visual tokens, a scalar.

        It is added with weight 0 to a batch without videos, so that every process runs the same modules and has
        gradients of the same parameters. Otherwise training on several processes would hang.
        """
        side = self.config.vision_config.image_size
        features = self.get_video_features(
            pixel_values_videos=torch.zeros(1, 1, 3, side, side, device=self.device),
            video_token_plan=torch.ones(1, 3, dtype=torch.long),
            question_input_ids=torch.zeros(1, 1, dtype=torch.long),
            return_dict=True,
        )
        return features.pooler_output[0].sum()


class DynFocusForConditionalGeneration(DynFocusPreTrainedModel, GenerationMixin):
    """[`DynFocusModel`] with a language-modelling head, which generates answers to questions about videos."""

    def __init__(self, config: DynFocusConfig):
        super().__init__(config)
        self.model = DynFocusModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        # Families name their input embeddings differently (`embed_tokens`, `wte`, `decoder.embed_tokens`, …).
        embeddings = self.get_input_embeddings()
        name = next(name for name, module in self.named_modules() if module is embeddings)
        self._tied_weights_keys = {"lm_head.weight": f"{name}.weight"}
        self._can_compile_fullgraph = self.model._can_compile_fullgraph
        self.post_init()
        # They may be one tensor: a plan divides both among processes, or neither.
        if name in self.tp_plan:
            self.tp_plan["lm_head"] = "colwise_gather_output"

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Module):
        self.lm_head = new_embeddings

    def encode_video(self, video: Any, video_frame_mask: torch.Tensor | None = None, **options) -> VideoState:
        """See [`DynFocusModel.encode_video`]."""
        return self.model.encode_video(video, video_frame_mask, **options)

    def video_fingerprint(self, processor: Any = None) -> str | None:
        """See [`DynFocusModel.video_fingerprint`]."""
        return self.model.video_fingerprint(processor)

    def check_state(self, state: VideoState, processor: Any = None) -> None:
        """See [`DynFocusModel.check_state`]."""
        self.model.check_state(state, processor)

    def get_video_features(
        self,
        pixel_values_videos: torch.Tensor | None = None,
        video_state: VideoState | None = None,
        video_frame_mask: torch.Tensor | list[torch.Tensor] | None = None,
        video_token_plan: torch.Tensor | None = None,
        question_input_ids: torch.Tensor | list[torch.Tensor] | None = None,
        question_attention_mask: torch.Tensor | list[torch.Tensor] | None = None,
        choose: Callable[..., Focus] | None = None,
        **kwargs,
    ) -> DynFocusVideoFeatures:
        """See [`DynFocusModel.get_video_features`]."""
        return self.model.get_video_features(
            pixel_values_videos=pixel_values_videos,
            video_state=video_state,
            video_frame_mask=video_frame_mask,
            video_token_plan=video_token_plan,
            question_input_ids=question_input_ids,
            question_attention_mask=question_attention_mask,
            choose=choose,
            **kwargs,
        )

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        video_state: VideoState | None = None,
        video_frame_mask: torch.Tensor | None = None,
        video_token_plan: torch.Tensor | None = None,
        question_input_ids: torch.Tensor | None = None,
        question_attention_mask: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        mm_encoder_outputs: dict[str, DynFocusVideoFeatures] | None = None,
        **kwargs,
    ) -> DynFocusCausalLMOutputWithPast:
        """
        Args:
            labels (`torch.Tensor` of shape `(batch, tokens)`, *optional*): token ids; -100 where no loss is wanted.
            shift_labels (`torch.Tensor` of shape `(batch, tokens)`, *optional*):
                the token that follows each position, instead of `labels`: what sequence parallelism gives, where the
                next token may be in another process.
            logits_to_keep (`int` or `torch.Tensor`, defaults to 0):
                the last n positions, or the given ones; 0 keeps all. The loss is also computed from these only.
            num_items_in_batch (`int`, *optional*): divisor of the summed loss, instead of the number of labels here.
            The others: see [`DynFocusModel.forward`].
        """
        loss_kwargs = {name: kwargs.pop(name) for name in ("num_items_in_batch",) if name in kwargs}
        shift_labels: torch.Tensor | None = kwargs.pop("shift_labels", None)
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=one_cache(past_key_values, cache),
            inputs_embeds=inputs_embeds,
            pixel_values_videos=pixel_values_videos,
            video_state=video_state,
            video_frame_mask=video_frame_mask,
            video_token_plan=video_token_plan,
            question_input_ids=question_input_ids,
            question_attention_mask=question_attention_mask,
            mm_encoder_outputs=mm_encoder_outputs,
            use_cache=use_cache,
            return_dict=True,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = scale_logits(self.lm_head(outputs.last_hidden_state[:, kept]), self.config.text_config)
        if labels is not None and shift_labels is None:
            shift_labels = F.pad(labels, (0, 1), value=-100)[:, 1:]
        loss = None
        if shift_labels is not None:
            targets = shift_labels[:, kept]
            if not (targets != -100).any():
                # No labels: a loss of 0 instead of the mean of nothing, NaN.
                loss_kwargs["num_items_in_batch"] = 1
            vocab_size = self.config.text_config.vocab_size
            loss = self.loss_function(
                logits=logits, labels=labels, shift_labels=targets.contiguous(), vocab_size=vocab_size, **loss_kwargs
            )
        return DynFocusCausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            **{CACHE_NAME: outputs.get(CACHE_NAME)},
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            video_outputs=outputs.video_outputs,
        )

    @torch.no_grad()
    def generate(self, *args, video_state: VideoState | None = None, **kwargs):
        """
        `GenerationMixin.generate`, in which `video_state` or `mm_encoder_outputs` may replace `pixel_values_videos`.
        """
        if video_state is not None:
            # `generate` encodes pixels once by itself, but does not support states.
            names = ("video_token_plan", "question_input_ids", "question_attention_mask")
            inputs = {name: kwargs.pop(name, None) for name in names}
            kwargs["mm_encoder_outputs"] = {"video": self.get_video_features(video_state=video_state, **inputs)}
        elif (features := kwargs.get("mm_encoder_outputs")) is not None:
            # `generate` repeats the features for beams in place, and the caller's must not change.
            kwargs["mm_encoder_outputs"] = {name: replace(output) for name, output in features.items()}
        return super().generate(*args, **kwargs)

    # The two methods below correct errors of `generate` with videos in transformers before 5.23. They can be removed
    # when 5.23 is the oldest supported version.

    def _expand_multimodal_outputs(self, input_ids, mm_encoder_output, *args, **kwargs):
        # transformers 5.18 repeats the videos of a prompt one by one, which changes their order; as one tensor for
        # each prompt they stay together.
        features = mm_encoder_output.get("video")
        if features is not None:
            tokens = torch.cat(features.pooler_output)
            has_ids = input_ids is not None and input_ids.numel() > 0
            where = (input_ids, tokens) if has_ids else (None, kwargs["inputs_embeds"])
            counts = self.model.get_placeholder_mask(*where, len(tokens)).sum((1, 2))
            features.pooler_output = list(tokens.split(counts.tolist()))
        # transformers declares another type for `self`.
        return super()._expand_multimodal_outputs(input_ids, mm_encoder_output, *args, **kwargs)  # type: ignore[misc]

    def _prefill(self, input_ids, generation_config, model_kwargs, *args, **kwargs):
        if generation_config.prefill_chunk_size and model_kwargs.get("mm_encoder_outputs") and _CHUNKS_LOSE_VIDEOS:
            logger.warning_once(
                f"transformers {transformers.__version__} cannot prefill prompts with videos in chunks: they go in as "
                "a whole. The answers are the same; transformers 5.23 needs less memory."
            )
            generation_config = copy.deepcopy(generation_config)
            generation_config.prefill_chunk_size = None
        return super()._prefill(input_ids, generation_config, model_kwargs, *args, **kwargs)  # type: ignore[misc]


__all__ = ["DynFocusForConditionalGeneration", "DynFocusModel", "DynFocusPreTrainedModel"]
