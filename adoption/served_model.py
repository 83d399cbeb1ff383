"""
A video language model on an OpenAI-compatible server, with the interface `VideoQA`: frames are chosen locally, and the
server (vLLM, SGLang, `transformers serve`, a hosted one) gets a chat with pictures and their times.

    model = ServedModel("http://localhost:8000/v1", "Qwen/Qwen3-VL-4B-Instruct")
    state = model.encode_video("lecture.mp4")
    (answer,) = model.answer([(state, "When does she draw the second graph?")])
"""

import math
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoProcessor,
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from dynfocus.hub.load_errors import unusable
from dynfocus.processing.generation_settings import check_generation
from dynfocus.processing.video_qa import DEFAULT_NEW_TOKENS, Said, Shown
from dynfocus.selecting.rules import Rule
from dynfocus.states.video_state import VideoState
from dynfocus.towers.dual_encoder import DualEncoder

from .families import Family
from .focus_processor import FocusProcessor
from .focused_model import FocusedModel
from .openai_server import OpenAIServer, Reply, ServerError

_AT_ONCE = 8  # requests; servers make batches of them
# A picture costs more tokens than these, and a token of text seldom has more bytes.
_LEAST_PER_PICTURE, _MOST_BYTES = 12, 4
# Texts of chat templates between turns and for pictures. The server's own template is not known here.
_MARKS = (
    *("<s>", "</s>", "<bos>", "<eos>", "<pad>", "<unk>", "<|endoftext|>", "<|begin_of_text|>", "<|end_of_text|>"),
    *("<|im_start|>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|start_header_id|>", "<|end_header_id|>"),
    *("<start_of_turn>", "<end_of_turn>", "<end_of_utterance>", "[INST]", "[/INST]", "<|turn>", "<turn|>"),
    *("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>", "<|channel|>", "<|message|>", "<|end|>"),
    *("<image>", "<video>", "<|image|>", "<|video|>", "<|image_pad|>", "<|video_pad|>", "<|image>", "<image|>"),
    *("<|vision_start|>", "<|vision_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<fake_token_around_image>"),
    *("<start_of_image>", "<end_of_image>", "<image_soft_token>", "[IMG]", "[IMG_BREAK]", "[IMG_END]"),
    *("<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>"),
)
_ABOUT_PICTURES = re.compile(r"image|picture|vision|multi-?modal|content type", re.IGNORECASE)
_ABOUT_LENGTH = re.compile(r"context|too long|too large|maximum.{0,20}(?:length|tokens)|max_model_len", re.IGNORECASE)


class DoubtfulAnswer(UserWarning):
    """Warns about an answer of a server that is empty, a refusal, or not based on the pictures."""


class ServedModel(FocusedModel):
    """
    A model on an OpenAI-compatible server, for which frames are chosen locally; see [`FocusedModel`].

    The key is read from `OPENAI_API_KEY` only. The server may resize pictures, so it determines their real cost; the
    budget counts the pictures as they are sent.

    Args:
        server (`str`): its address up to `/v1`.
        model (`str`): the model's name there.
        dual_encoder, use_options, keep_frames: see [`FocusedModel`].
        processor (`str` or processor, *optional*):
            the model's stock processor, or its folder or Hub id. Sizes, token counts and times of frames are then
            those of the model. By default sizes are multiples of 28 pixels, a square of 28 x 28 pixels and a byte of
            text count as one token each, and `12.5s: ` is written before each frame.
        max_retries, timeout: see [`OpenAIServer`]; the first request to some servers loads the model.
        options: options of [`FocusProcessor`], such as `max_visual_tokens`. Without `processor`, prefer
            `coarse="panels"` to `"low"`, because servers enlarge small pictures.

    Raises:
        `ValueError`: for an invalid address or invalid options. `ImportError`: `openai` is missing.
    """

    def __init__(
        self,
        server: str,
        model: str,
        dual_encoder: str | os.PathLike[str] | DualEncoder | None = None,
        *,
        processor: Any = None,
        use_options: bool = False,
        keep_frames: bool = False,
        max_retries: int = 2,
        timeout: float = 300.0,
        **options: Any,
    ):
        self._server = OpenAIServer(server, owner="The model", max_retries=max_retries, timeout=timeout)
        self.name = model
        #: The server's address, without secrets.
        self.url = self._server.url
        config = None
        if processor is None:
            processor = _PicturesAlone()
            options = {"family": _PICTURES, "time_words": True, **options}
        elif isinstance(processor, (str, os.PathLike)):
            name = str(processor)
            try:
                config, processor = AutoConfig.from_pretrained(name), AutoProcessor.from_pretrained(name)
            except (OSError, ValueError, KeyError) as error:
                raise unusable(f"The processor {name!r} cannot be used", error) from error
        focused = FocusProcessor(processor, config=config, dual_encoder=dual_encoder, **options)
        super().__init__(None, focused, use_options=use_options, keep_frames=keep_frames)
        self._gives_log_probs = True

    @property
    def device(self) -> torch.device:
        """The device of the dual encoder, which is all that is computed locally."""
        return self.dual_encoder.device

    def models(self) -> list[str] | None:
        """
        The names of the server's models; `None` where it does not list them.

        Raises:
            `ConnectionError`, `ValueError`: the server cannot be reached, or does not accept the key.
        """
        return self._server.models()

    def description(self, rule: str | Rule | None, question: str) -> dict[str, Any]:
        return {**super().description(rule, question), "server": self.url}

    def record(self) -> dict[str, Any]:
        return {"revision": None, "dtype": None, "chat_template": ""}

    def questions_at_once(self, state: VideoState, settings: Mapping[str, Any]) -> int:
        return _AT_ONCE

    def show(self, rows: Sequence[dict[str, Any]], rule: str | Rule | None) -> tuple[dict[str, Any], list[Shown]]:
        """Chats for the server, `{"messages": […]}`, and what each row shows; only the server can count its tokens."""
        chats, chosen, shown = self.chosen_for(rows, rule)
        for one in shown:
            one.num_visual_tokens = one.num_dense_tokens = None
        messages = [self.focus_processor.messages(*pair) for pair in zip(chats, chosen, strict=True)]
        return {"messages": messages}, shown

    def generate(self, batch: dict[str, Any], given: dict[str, Any]) -> list[Said]:
        ask = partial(self._ask, request=_request(given))
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="server") as pool:
            return list(pool.map(ask, batch["messages"]))

    def _ask(self, messages: list[dict[str, Any]], request: dict[str, Any]) -> Said:
        parts = [part for turn in messages if isinstance(turn["content"], list) for part in turn["content"]]
        num_pictures = sum(part["type"] == "image_url" for part in parts)
        num_bytes = sum(len(part["text"].encode()) for part in parts if part["type"] == "text")
        try:
            reply = self._reply(messages, request)
        except ServerError as error:
            if error.status in (400, 413, 415, 422):
                raise ServerError(
                    str(error) + self._way_out(error.quote, num_pictures), error.quote, error.status
                ) from None
            raise
        self._warn(reply, _LEAST_PER_PICTURE * num_pictures + num_bytes // _MOST_BYTES)
        return Said(
            text=(reply.text or reply.refusal or "").strip(),
            score=_score(reply.log_probs),
            num_visual_tokens=reply.num_image_tokens,
            num_prompt_tokens=reply.num_prompt_tokens,
            token_log_probs=None if reply.log_probs is None else [*reply.log_probs],
        )

    def _reply(self, messages: list[dict[str, Any]], request: dict[str, Any]) -> Reply:
        if self._gives_log_probs:
            try:
                return self._server.chat(self.name, messages, {**request, "logprobs": True})
            except ServerError as error:
                # Some servers refuse unknown fields, others ignore them.
                if error.status not in (400, 422) or "logprob" not in error.quote:
                    raise
                self._gives_log_probs = False
        return self._server.chat(self.name, messages, request)

    def _way_out(self, quote: str, num_pictures: int) -> str:
        if _ABOUT_LENGTH.search(quote):
            return " Spend fewer tokens (`max_visual_tokens`)."
        if _ABOUT_PICTURES.search(quote):
            return f" Frames are sent as pictures: {self.name} must accept them, {num_pictures} in this prompt."
        return ""

    def _warn(self, reply: Reply, least_tokens: int) -> None:
        """Of answers that are none, and of prompts that had fewer tokens than pictures and words must have."""
        if reply.refusal is not None:
            message = f"{self.name} refused to answer."
        elif not reply.text.strip():
            cut = " at its largest length: raise `max_new_tokens`" if reply.is_cut else ""
            message = f"{self.name} returned an empty answer{cut}."
        elif reply.num_prompt_tokens is not None and reply.num_prompt_tokens < least_tokens:
            message = (
                f"{self.name} seems to ignore pictures: its server counts fewer tokens than they would cost, so that "
                "it answered from the words alone."
            )
        else:
            return
        warnings.warn(message, DoubtfulAnswer, stacklevel=2)


def _request(given: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a request for parameters of `generate`."""
    check_generation(given)
    request: dict[str, Any] = {"max_tokens": DEFAULT_NEW_TOKENS, "temperature": 0}
    for name, value in given.items():
        if name == "max_new_tokens":
            request["max_tokens"] = value
        elif name == "do_sample":
            if value and "temperature" not in given:
                del request["temperature"]  # the server's default
        elif name in ("temperature", "top_p"):
            request[name] = value
        else:
            raise ValueError(
                f"`{name}` is not available with a model on a server, which takes `max_new_tokens`, `do_sample`, "
                "`temperature` and `top_p`: leave it out."
            )
    return request


def _score(log_probs: Sequence[float] | None) -> float | None:
    """The geometric mean of the probabilities of a reply's tokens."""
    if log_probs is None:
        return None
    score = math.exp(min(0.0, math.fsum(log_probs) / len(log_probs)))
    return None if math.isnan(score) else score


_PICTURES = Family("pictures", (), "images", native=True)


class _PicturesAlone:
    """
    Stands in for the stock processor of an unknown model that accepts pictures: a token is 28 x 28 pixels, or a byte
    of text.
    """

    image_token, chat_template = "<image>", None

    def __init__(self) -> None:
        sizes: Any = {"patch_size": 14, "merge_size": 2}
        self.image_processor, self.video_processor = Qwen2VLImageProcessor(**sizes), Qwen2VLVideoProcessor(**sizes)
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        inner = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[]))
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in _MARKS])
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner)

    def replace_image_token(self, pictures: Mapping[str, Any], number: int) -> str:
        return self.image_token


__all__ = ["DoubtfulAnswer", "ServedModel"]
