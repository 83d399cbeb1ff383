"""The processor: prepares text, videos and questions for the model."""

import re
from importlib import import_module
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature
from transformers.processing_utils import MultiModalData, ProcessingKwargs, ProcessorMixin, TextKwargs, Unpack

from dynfocus.hub.with_code import SavedWithCode

from .questions import question_ids, without_control_tokens
from .reading.chat_video import ChatVideo
from .reading.decoded_frames import flatten_videos, is_state, is_video
from .rows.blocks import as_text, clean_message
from .rows.conversations import checked_question, load_media
from .templates import check_template
from .token_plan import TokenBudget
from .video_processing_dynfocus import DynFocusVideoProcessorKwargs

# An assistant's turn ends with the end-of-sequence token and nothing after it, which training has to teach.
DEFAULT_CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
    {%- if message['role'] == 'assistant' -%}{{- 'ASSISTANT: ' -}}
    {%- elif message['role'] == 'user' -%}{{- 'USER: ' -}}
    {%- endif -%}
    {%- if message['content'] is string -%}
        {{- message['content'] -}}
    {%- else -%}
        {%- for block in message['content'] if block['type'] == 'video' -%}{{- '<video>\\n' -}}
        {%- endfor -%}
        {{- message['content'] | selectattr('type', 'equalto', 'text') | map(attribute='text') | join(' ') -}}
    {%- endif -%}
    {%- if message['role'] == 'assistant' -%}{{- eos_token -}}{%- else -%}{{- '\\n' -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'ASSISTANT:' -}}{%- endif -%}
"""


# Qwen3 writes such a block before an answer, even if it is empty.
_THOUGHTS = re.compile(r"^\s*<think>.*?</think>", re.DOTALL)


class DynFocusVideosKwargs(DynFocusVideoProcessorKwargs, total=False):
    """
    Keyword arguments about videos that [`DynFocusProcessor`] takes, besides those of its video processor.

    Args:
        question (`str` or `list[str]`, *optional*): the question, or one for each row of text.
        max_visual_tokens (`int`, *optional*): visual tokens of a video at most.
        num_prototypes (`int`, *optional*): events of a video at most.
        key_ratio (`float`, *optional*): key frames as a part of the events.
    """

    question: str | list[str | None] | None
    max_visual_tokens: int | None
    num_prototypes: int | None
    key_ratio: float | None


class DynFocusProcessorKwargs(ProcessingKwargs, total=False):
    """Keyword arguments of [`DynFocusProcessor`]."""

    _defaults = {}  # type: ignore[misc]  # transformers up to 5.20 reads it
    videos_kwargs: DynFocusVideosKwargs  # type: ignore[misc]  # a wider dictionary than the base class has


class DynFocusProcessor(SavedWithCode, ProcessorMixin):
    r"""
    Joins a video processor and a tokenizer, and makes the token plan.

    Each `<video>` mark in the text becomes exactly as many placeholder tokens as the video's plan has visual tokens.
    The question of a video is `question`, or else the text of the last user turn (`apply_chat_template`), or else the
    text without its marks and special tokens.

    Args:
        video_processor ([`DynFocusVideoProcessor`]): prepares the frames.
        tokenizer (`PreTrainedTokenizerBase`): must have `video_token` as one token.
        chat_template (`str`, *optional*): Jinja template that writes `video_token` for each video; a plain one by
            default.
        num_prototypes, key_ratio, cone_tokens, rod_tokens, rods_on_key_frames, max_visual_tokens:
            settings of the token plan, see [`TokenBudget`]. `max_visual_tokens` applies to each video.
        max_question_tokens (`int`, defaults to 128): length of the longest question for the choice of frames.
        video_token (`str`, defaults to `"<video>"`): the mark of a video in the text, and the placeholder token.

    Example:

    ```python
    >>> content = [{"type": "video", "video": "holiday.mp4"}, {"type": "text", "text": "Where is this?"}]
    >>> inputs = processor.apply_chat_template(
    ...     [{"role": "user", "content": content}],
    ...     add_generation_prompt=True,
    ...     tokenize=True,
    ...     return_dict=True,
    ...     return_tensors="pt",
    ... )
    >>> answers = processor.post_process_generation(model.generate(**inputs), inputs["input_ids"])
    ```
    """

    valid_processor_kwargs: Any = DynFocusProcessorKwargs
    skip_tensor_conversion = ["video_metadata", "text_replacement_offsets", "video_state"]

    # Positional arguments only: transformers reads the accepted names from there when it loads a processor.
    def __init__(
        self,
        video_processor=None,
        tokenizer=None,
        chat_template: str | None = None,
        num_prototypes: int = 25,
        key_ratio: float = 0.8,
        cone_tokens: int = 38,
        rod_tokens: int = 2,
        rods_on_key_frames: bool = True,
        max_visual_tokens: int | None = None,
        max_question_tokens: int = 128,
        video_token: str = "<video>",
    ):
        self.num_prototypes = num_prototypes
        self.key_ratio = key_ratio
        self.cone_tokens = cone_tokens
        self.rod_tokens = rod_tokens
        self.rods_on_key_frames = rods_on_key_frames
        self.max_visual_tokens = max_visual_tokens
        self.max_question_tokens = max_question_tokens
        self.video_token = video_token
        # Looked up in the vocabulary: conversion would silently give the id of the unknown token.
        self.video_token_id = tokenizer.get_vocab().get(video_token)
        if self.video_token_id is None:
            raise ValueError(
                f"The tokenizer has no token {video_token!r}: add it with `tokenizer.add_special_tokens("
                f"{{'additional_special_tokens': [{video_token!r}]}})` and resize the model's embeddings."
            )
        if chat_template is None:
            chat_template = DEFAULT_CHAT_TEMPLATE.replace("<video>", video_token)
        super().__init__(video_processor, tokenizer, chat_template=chat_template)
        for name in ("num_prototypes", "cone_tokens", "rod_tokens", "max_question_tokens"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"`{name}` must be a whole number of at least 1, got {value!r}.")
        if not isinstance(rods_on_key_frames, bool):
            raise ValueError(f"`rods_on_key_frames` must be true or false, got {rods_on_key_frames!r}.")
        self.token_budget()

    def token_budget(self, **settings: Any) -> TokenBudget:
        """The rule of the token plan, with `settings` in place of the saved ones; `ValueError` if they are invalid."""
        names = ("num_prototypes", "key_ratio", "cone_tokens", "rod_tokens", "rods_on_key_frames", "max_visual_tokens")
        given = {name: value for name, value in settings.items() if value is not None}
        return TokenBudget(**{**{name: getattr(self, name) for name in names}, **given})

    def __call__(
        self,
        images: Any = None,
        text: str | list[str] | None = None,
        videos: Any = None,
        **kwargs: Unpack[DynFocusProcessorKwargs],
    ) -> BatchFeature:
        """
        Args:
            text (`str` or `list[str]`): with one `<video>` mark for each video.
            videos: one video, or videos in any nesting of lists, in the order of their marks; or one `VideoState`.
            images: only without `videos`: one image, or images in any nesting of lists, each with its own mark; an
                image is a video of one frame.
            kwargs: settings for this call: `question`, `max_visual_tokens`, `fps`, `num_frames`, `max_frames`,
                `padding` (rows are padded to the longest unless `False`), `return_tensors`, …

        Returns:
            `BatchFeature` with `input_ids` and `attention_mask`, and for videos `pixel_values_videos`,
            `video_frame_mask`, `video_token_plan` (`(num_videos, 3)` int64, rows of L, K, R), `question_input_ids` and
            `question_attention_mask` (`(num_videos, Q)`, one question for each video).

        Raises:
            `ValueError`: for unequal numbers of marks and videos, an empty or too long question, a budget that is too
                small, or a video that cannot be read.
        """
        options: dict[str, Any] = dict(kwargs)
        if options.pop("audio", None) is not None:
            raise ValueError("Audio inputs are not supported; omit `audio`.")
        if images is not None:
            if videos is not None:
                raise ValueError("Give `images` or `videos`, not both: put images among the videos as [image].")
            videos = _single_frames(images)
        rows = [text] if isinstance(text, str) else text
        for row in rows if isinstance(rows, (list, tuple)) else ():
            if isinstance(row, str):
                as_text(row)
        sources = flatten_videos(videos)
        if rows is not None:
            if len(rows) > 1 and "padding" not in options and "padding" not in options.get("text_kwargs", {}):
                options["padding"] = True
            num_videos = sum(len(one) if is_state(one) else 1 for one in sources)
            counts = self._count_marks(rows, videos, num_videos)
            nested = options.get("videos_kwargs") or {}
            if sources and "question" not in nested:
                options["question"] = self._questions_of_videos(options.get("question"), rows, counts)
        if not sources:
            options.pop("question", None)
        return super().__call__(text=text, videos=sources or None, **options)

    def apply_chat_template(  # type: ignore[override]
        self, conversation: Any, chat_template: str | None = None, question: Any = None, **kwargs: Any
    ) -> Any:
        """
        As in transformers. The question of a conversation with videos is `question` (one, or one for each
        conversation), by default the text of its last user turn. Images count as videos of one frame.
        """
        # `transformers serve` asks for the sound of all videos, which no DynFocus model hears.
        kwargs.pop("load_audio_from_video", None)
        conversation = getattr(conversation, "messages", conversation)
        if not isinstance(conversation, (list, tuple)) or not conversation:
            raise ValueError("A conversation is a list of messages, with one of them at least.")
        is_batched = isinstance(conversation[0], (list, tuple)) or hasattr(conversation[0], "messages")
        conversations = [
            # Text alone needs no videos and images: nothing is opened or downloaded for it.
            self._plain(_images_as_videos(one, load=bool(kwargs.get("tokenize"))))
            for one in (conversation if is_batched else [conversation])
        ]
        if kwargs.get("tokenize"):
            options = dict(kwargs.pop("processor_kwargs", None) or {})
            known = {
                *TextKwargs.__annotations__,
                *DynFocusVideosKwargs.__annotations__,
                "text_kwargs",
                "videos_kwargs",
            }
            known -= {"return_tensors", "question"}
            options.update({name: kwargs.pop(name) for name in known & kwargs.keys()})
            if question is None:
                question = options.pop("question", None)
            if question is None:
                question = [_last_question(one) for one in conversations]
            elif isinstance(question, str):
                question = [question] * len(conversations)
            elif not isinstance(question, (list, tuple)):
                checked_question(question)
            kwargs["processor_kwargs"] = {**options, "question": question}
        for one in conversations:
            self._check_template(chat_template, one, kwargs)
        return super().apply_chat_template(
            conversations if is_batched else conversations[0], chat_template=chat_template, **kwargs
        )

    def _check_template(self, chosen: str | None, conversation: list[dict[str, Any]], kwargs: dict[str, Any]) -> None:
        """`ValueError` for a template that does not end, or refuses the conversation."""
        own = self.chat_template
        template = own if chosen is None else own.get(chosen, chosen) if isinstance(own, dict) else chosen
        given = {name: value for name, value in kwargs.items() if name != "processor_kwargs"}
        given = {"tools": None, "documents": None, "add_generation_prompt": False, **given}
        try:
            check_template(template, conversation, **{**self.tokenizer.special_tokens_map, **given})
        except (TypeError, import_module("jinja2.exceptions").TemplateError) as error:
            raise ValueError(f"The chat template refuses this conversation: {error}.") from None

    def _plain(self, conversation: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """A copy of a conversation without control tokens in its texts: only the template writes these."""
        blocks = [
            block for one in conversation if isinstance(one["content"], (list, tuple)) for block in one["content"]
        ]
        # Without video blocks, the marks of videos are in the texts.
        keep = () if any(block.get("type") == "video" for block in blocks) else (self.video_token,)

        def plain(content: Any) -> Any:
            if isinstance(content, str):
                return without_control_tokens(content, self.tokenizer, keep)
            if isinstance(content, (list, tuple)):
                return [
                    {**one, "text": plain(one["text"])} if isinstance(one.get("text"), str) else one for one in content
                ]
            return content

        return [{**message, "content": plain(message["content"])} for message in conversation]

    def validate_inputs(self, images=None, text=None, videos=None, audio=None, **kwargs) -> None:
        """
        Checks that there is an input. Marks and videos are counted in `__call__`, which handles all forms of video.
        """
        if text is None and videos is None:
            raise ValueError("Give `text`, `videos`, or both.")
        if text is not None and not all(isinstance(row, str) for row in text):
            raise ValueError("`text` must be a string or a list of strings.")

    def _process_videos(self, videos: Any, **kwargs: Any) -> tuple[BatchFeature, list[str]]:
        """Frames, plans and questions of videos, and the text that takes the place of each mark."""
        question = kwargs.pop("question", None)
        # An hour of video must not be decoded for a question that is refused.
        self._encode_questions([question] if question is None or isinstance(question, str) else question)
        names = ("max_visual_tokens", "num_prototypes", "key_ratio")
        budget = self.token_budget(**{name: kwargs.pop(name, None) for name in names})
        state = next((video for video in videos if is_state(video)), None)
        if state is None:
            inputs = self.video_processor(videos, **kwargs)
        elif len(videos) == 1:
            state.check()
            inputs = BatchFeature({"video_state": state, "video_frame_mask": state.frame_mask})
        else:
            raise ValueError(
                "A video state cannot be combined with other videos: give all videos of a call as one state, or none."
            )
        num_frames = [int(row.sum()) for row in torch.as_tensor(inputs["video_frame_mask"])]
        questions = [question] * len(num_frames) if question is None or isinstance(question, str) else question
        inputs.update(self._plan_and_question(num_frames, questions, budget))
        replacements = [self.replace_video_token(inputs, index) for index in range(len(num_frames))]
        if state is not None:
            # The state has its own mask.
            inputs.pop("video_frame_mask")
        return inputs, replacements

    def _plan_and_question(
        self, num_frames: list[int], questions: list[str | None], budget: TokenBudget
    ) -> dict[str, torch.Tensor]:
        if len(questions) != len(num_frames):
            raise ValueError(f"There are {len(questions)} questions for {len(num_frames)} videos.")
        rows = [budget.plan(count).as_row() for count in num_frames]
        input_ids, attention_mask = self._encode_questions(questions)
        return {
            "video_token_plan": torch.tensor(rows, dtype=torch.int64),
            "question_input_ids": input_ids,
            "question_attention_mask": attention_mask,
        }

    def replace_video_token(self, video_inputs: dict, video_idx: int, **kwargs: Any) -> str:
        """The placeholder tokens of one video."""
        num_frames = int(torch.as_tensor(video_inputs["video_frame_mask"][video_idx]).sum())
        if "video_token_plan" in video_inputs:
            _, num_key_frames, num_rod_groups = (int(number) for number in video_inputs["video_token_plan"][video_idx])
            return self.video_token * self.token_budget().cost(num_frames, num_key_frames, num_rod_groups)
        return self.video_token * self.token_budget().plan(num_frames).num_visual_tokens

    def _get_num_multimodal_tokens(self, image_sizes=None, video_sizes=None, **kwargs: Any) -> MultiModalData:
        """
        Numbers of placeholder tokens of videos, from their sizes only.

        Args:
            image_sizes (`list[tuple[int, int]]`, *optional*): (height, width) of each image: a video of one frame.
            video_sizes (`list[tuple[int, int, int]]`, *optional*): (frames, height, width) of each decoded video.
            kwargs: the settings of a call that change the number: `max_visual_tokens`, `num_frames`, `max_frames`,
                `do_sample_frames`, …
        """
        found = MultiModalData()
        names = ("max_visual_tokens", "num_prototypes", "key_ratio")
        budget = self.token_budget(**{name: kwargs.get(name) for name in names})
        if image_sizes is not None:
            found.num_image_tokens = [budget.plan(1).num_visual_tokens] * len(image_sizes)
            found.num_image_patches = [1] * len(image_sizes)
        if video_sizes is not None:
            settings = ("fps", "num_frames", "max_frames", "do_sample_frames")
            sampling = {name: kwargs[name] for name in settings if name in kwargs}
            kept = [self.video_processor.planned_frames(size[0], **sampling) for size in video_sizes]
            found.num_video_tokens = [budget.plan(count).num_visual_tokens for count in kept]
        return found

    @property
    def model_input_names(self) -> list[str]:
        return [
            *self.tokenizer.model_input_names,
            *self.video_processor.model_input_names,
            "video_token_plan",
            "question_input_ids",
            "question_attention_mask",
        ]

    def post_process_generation(
        self, generated_ids: Any, input_ids: Any = None, skip_special_tokens: bool = True, **kwargs: Any
    ) -> list[str]:
        """
        Answers from the output of `generate`, without the think blocks that some language models begin with.

        Args:
            generated_ids (`torch.Tensor` of shape `(batch, tokens)`).
            input_ids (`torch.Tensor` of shape `(batch, prompt tokens)`, *optional*): the prompt, which is cut off.
        """
        start = 0 if input_ids is None else input_ids.shape[-1]
        new_ids = [row[start:] for row in generated_ids]
        texts = self.tokenizer.batch_decode(new_ids, skip_special_tokens=skip_special_tokens, **kwargs)
        return [_THOUGHTS.sub("", text).strip() for text in texts]

    def post_process_image_text_to_text(
        self, generated_outputs: Any, skip_special_tokens: bool = True, **kwargs: Any
    ) -> list[str]:
        """`post_process_generation` without a prompt to cut off, under the name that stock pipelines call."""
        return self.post_process_generation(generated_outputs, skip_special_tokens=skip_special_tokens, **kwargs)

    def _count_marks(self, rows: list[str], videos: Any, num_videos: int) -> list[int]:
        """Number of videos of each row of text, by its marks."""
        counts = [row.count(self.video_token) for row in rows]
        if sum(counts) != num_videos:
            raise ValueError(
                f"The text has {sum(counts)} {self.video_token} marks, but {num_videos} videos were given: write one "
                "mark for each video."
            )
        # Nested lists also determine the row of each video.
        is_nested = isinstance(videos, (list, tuple)) and len(videos) == len(rows) and len(rows) > 1
        if is_nested and all(isinstance(group, (list, tuple)) and not is_video(group) for group in videos):
            given = [len(flatten_videos(group)) for group in videos]
            if given != counts:
                raise ValueError(
                    f"The rows of text have {counts} {self.video_token} marks, but {given} videos were given for them."
                )
        return counts

    def _questions_of_videos(self, question: Any, rows: list[str], counts: list[int]) -> list[str | None]:
        if question is None or isinstance(question, str):
            per_row: list[str | None] = [question] * len(rows)
        else:
            per_row = list(question) if isinstance(question, (list, tuple)) else [question]
            for one in per_row:
                if one is not None:
                    checked_question(one)
            if len(per_row) != len(rows):
                raise ValueError(f"There are {len(per_row)} questions for {len(rows)} rows of text.")
        per_row = [self._question_in(row) if one is None else one for one, row in zip(per_row, rows, strict=True)]
        return [one for one, count in zip(per_row, counts, strict=True) for _ in range(count)]

    def _question_in(self, text: str) -> str | None:
        """The words of a prompt; `None` where it has none."""
        marks = sorted({self.video_token, *self.tokenizer.all_special_tokens}, key=len, reverse=True)
        words = re.sub("|".join(map(re.escape, marks)), " ", text).split()
        return " ".join(words) or None

    def _encode_questions(self, questions: list[str | None]) -> tuple[torch.Tensor, torch.Tensor]:
        """`(num_videos, Q)` ids and mask, padded on the right."""
        tokenizer = self.tokenizer
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0
        rows = []
        for question in questions:
            if question is None:
                # No question at all (a caption, a warm-up run): one neutral token, so that attention has something to
                # attend to.
                rows.append([pad])
                continue
            rows.append(question_ids(question, tokenizer, self.max_question_tokens))
        longest = max(map(len, rows))
        input_ids = torch.full((len(rows), longest), pad, dtype=torch.int64)
        mask = torch.zeros_like(input_ids)
        for index, ids in enumerate(rows):
            input_ids[index, : len(ids)] = torch.tensor(ids)
            mask[index, : len(ids)] = 1
        return input_ids, mask


def _images_as_videos(conversation: Any, load: bool) -> list[dict[str, Any]]:
    """
    A conversation whose images are videos of one frame, and whose videos stay whole; without `load`, with empty blocks
    in their places.
    """
    conversation = getattr(conversation, "messages", conversation)
    messages = [clean_message(number, message) for number, message in enumerate(conversation)]
    for message in messages:
        if isinstance(message["content"], list):
            message["content"] = [_as_video_block(block, load) for block in message["content"]]
    return messages


def _as_video_block(block: dict[str, Any], load: bool) -> dict[str, Any]:
    kind = block["type"]
    if kind == "text" or kind not in block or not load:
        return block if kind == "text" else {"type": "video"}
    (video,) = load_media(kind, block[kind])
    if kind == "image":
        video = [video]
    return {"type": "video", "video": ChatVideo(video) if is_state(video) else video}


def _single_frames(images: Any) -> list[Any]:
    """Videos of one frame, in the same nesting of lists."""
    if isinstance(images, (list, tuple)):
        nested = [_single_frames(image) for image in images]
        # Of several rows, each has its images in a list.
        is_nested = any(isinstance(image, (list, tuple)) for image in images)
        return nested if is_nested else [video for videos in nested for video in videos]
    if isinstance(images, (np.ndarray, torch.Tensor)) and images.ndim > 3:
        return [video for image in images for video in _single_frames(image)]
    return [load_media("image", images)]


def _last_question(conversation: list[dict[str, Any]]) -> str | None:
    """Text of the last user turn of a conversation with videos; empty if it has none, `None` without videos."""
    blocks = [b for m in conversation if isinstance(m.get("content"), list) for b in m["content"]]
    if not any(block.get("type") == "video" for block in blocks):
        return None
    for message in reversed(conversation):
        if message.get("role") == "user":
            content = message.get("content") or ""
            if isinstance(content, str):
                return content
            return " ".join(block["text"] for block in content if block.get("type") == "text")
    return ""


__all__ = ["DEFAULT_CHAT_TEMPLATE", "DynFocusProcessor", "DynFocusProcessorKwargs", "DynFocusVideosKwargs"]
