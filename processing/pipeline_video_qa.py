"""The `video-qa` pipeline: videos and questions in; answers out, with the frames on which they rest."""

import copy
import os
import time
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info
from transformers import BatchFeature, GenerationConfig, Pipeline
from transformers.pipelines.pt_utils import PipelineDataset, PipelineIterator

from .batched_videos import features_of_rows, room_for_videos
from .pipeline_inputs import RowsOf, as_row, is_chat, is_one_video, times_of_state
from .reading.decoded_frames import describe_video, flatten_videos, is_state, restated
from .rows.collator import merge_rows, pad_token_id
from .rows.conversations import as_messages, media_of
from .video_answers import event_list, key_frame_list, sequence_scores

_SAMPLING = ("fps", "max_frames", "num_frames", "sampling", "max_visual_tokens", "decoder", "on_truncated")
_TEXT_INPUTS = ("input_ids", "attention_mask")
_MODEL_INPUTS = {
    *_TEXT_INPUTS,
    "pixel_values_videos",
    "video_frame_mask",
    "video_state",
    "video_token_plan",
    "question_input_ids",
    "question_attention_mask",
}
# Other arguments of `generate` than the fields of its configuration.
_GENERATE_ARGUMENTS = {
    "generation_config",
    "logits_processor",
    "stopping_criteria",
    "prefix_allowed_tokens_fn",
    "assistant_model",
    "assistant_tokenizer",
    "tokenizer",
    "streamer",
}
_GENERATION_PARAMETERS = {name for name in vars(GenerationConfig()) if not name.startswith("_")} | _GENERATE_ARGUMENTS
_DEFAULT_NEW_TOKENS = 64
_SELECTION = ("key_frames", "event_of_frame", "event_scores", "event_medoids")
# Of questions about one video, if `batch_size` does not say: so many at once, and so many visual tokens of them. More
# of them leave a CPU's cache, and take longer than one by one.
_QUESTIONS_AT_ONCE = 8
_TOKENS_AT_ONCE = {"cpu": 2048}
_TOKENS_AT_ONCE_ELSEWHERE = 16384


class VideoQAPipeline(Pipeline):
    """
    Answers questions about videos.

    A call takes a video and `question=`, a row `{"video": …, "question": …}` (several videos: a list of them), a chat
    (`messages`), or a `VideoState` and `question=`; and lists, generators and data sets of these. A list gives a list,
    a generator or a data set an iterator. Several questions (`question=[…]`) about one video encode it once.

    Parameters, of the pipeline or of a call:
        question (`str` or `list[str]`): the question, or one for each video of a list.
        fps, max_frames, num_frames, sampling, decoder, on_truncated: see [`DynFocusVideoProcessor`].
        max_visual_tokens (`int`): visual tokens of a video at most, see [`TokenBudget`]; by default what the processor
            says, or else what the language model's positions have room for.
        on_error (`"raise"` or `"skip"`, defaults to `"raise"`):
            with `"skip"`, a row that cannot be read gives `{"answer": None, "error": …}` and costs nothing else.
        return_details (`bool`, defaults to `False`): return more, see below.
        max_new_tokens (`int`, defaults to 64), do_sample, num_beams, …: parameters of `generate`, by themselves or as
            `generate_kwargs={…}`.
        batch_size (`int`): rows that the model answers at once; 1 by default, and up to 8 for several questions
            (`question=[…]`) about one video, fewer for a long one and on a CPU.
        num_workers (`int`, defaults to 0): processes that decode.

    Returns, for each row, a dict:
        answer (`str`).
        score (`float`): geometric mean of the probabilities that the model gave to the answer's tokens (its end
            included).
        key_frames (`list`): `{"index", "time", "score"}` of each key frame in time order: index among the sampled
            frames, seconds from the start of the video, sigmoid of its event's score. With several videos also
            `"video"`, its number.
        num_visual_tokens (`int`): what the language model read of the videos.
        With `return_details=True` also:
        num_frames (`int`) and frame_times (`list[float]`, or one list for each of several videos): the sampled frames.
        num_dense_tokens (`int`): visual tokens if every frame were kept in full (cones and rods).
        events (`list`): `{"start", "end", "start_index", "end_index", "frames", "medoid", "score", "selected"}`; an
            event may return, so `frames` lists its frames; `end` is when the frame after its last one begins.
        timings (`dict`): seconds of `"decode"` (reading and preparing), `"encode"` and `"generate"`; those of a batch
            are shared equally by its rows.

    Raises:
        `TypeError` for an unknown keyword. `ValueError`, `FileNotFoundError` for a bad row, with its number in a list.

    Example:

    ```python
    >>> pipe = pipeline("video-qa", model="checkpoints/dynfocus-tiny")
    >>> pipe("holiday.mp4", question="What is on the beach?")
    ```
    """

    model: Any
    processor: Any

    _load_processor: Any = True
    _load_image_processor: Any = False
    _load_video_processor: Any = False
    _load_feature_extractor: Any = False
    _load_tokenizer: Any = False
    # The pipelines of transformers that set this prepare `generate`'s arguments in ways that differ between versions;
    # all of them come through `_sanitize_parameters` instead.
    _pipeline_calls_generate = False

    def _sanitize_parameters(
        self,
        question: str | None = None,
        fps: float | None = None,
        max_frames: int | None = None,
        num_frames: int | None = None,
        max_visual_tokens: int | None = None,
        decoder: str | None = None,
        sampling: str | None = None,
        on_truncated: str | None = None,
        on_error: str | None = None,
        return_details: bool | None = None,
        generate_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> tuple[dict, dict, dict]:
        given = {**(generate_kwargs or {}), **kwargs}
        unknown = sorted(set(given) - _GENERATION_PARAMETERS)
        if unknown:
            raise TypeError(f"Unknown keyword of the video-qa pipeline: {', '.join(unknown)}.")
        if given.get("num_return_sequences", 1) != 1:
            raise ValueError("`num_return_sequences` must be 1: a row has one answer.")
        if on_error not in (None, "raise", "skip"):
            raise ValueError(f"`on_error` must be 'raise' or 'skip', got {on_error!r}.")
        preprocess = {
            "question": question,
            "fps": fps,
            "max_frames": max_frames,
            "num_frames": num_frames,
            "max_visual_tokens": max_visual_tokens,
            # So much of the language model's positions is not for the video.
            "max_new_tokens": given.get("max_new_tokens"),
            "decoder": decoder,
            "sampling": sampling,
            "on_truncated": on_truncated,
            "on_error": on_error,
        }
        postprocess = {} if return_details is None else {"return_details": return_details}
        forward = {"generate_kwargs": given} if given else {}
        return {name: value for name, value in preprocess.items() if value is not None}, forward, postprocess

    def __call__(self, inputs: Any, question: Any = None, **kwargs: Any) -> Any:  # type: ignore[override]
        """Answers for `inputs`, which the class describes; `question` is a string or a list of them."""
        several = question is not None and not isinstance(question, str)
        if several and (is_one_video(inputs) or (isinstance(inputs, Mapping) and "messages" not in inputs)):
            return self._ask_many(inputs, list(question or ()), **kwargs)
        if isinstance(inputs, Mapping) or is_chat(inputs) or is_one_video(inputs):
            return super().__call__(as_row(inputs, question), **kwargs)
        if several and not isinstance(inputs, (list, tuple)):
            raise ValueError("A list of questions goes with one video, or with a list of as many videos.")
        if isinstance(inputs, (list, tuple)):
            questions = list(question or ()) if several else [question] * len(inputs)
            if len(questions) != len(inputs):
                raise ValueError(f"There are {len(questions)} questions for {len(inputs)} videos.")
            rows = [as_row(one, q, i) for i, (one, q) in enumerate(zip(inputs, questions, strict=True))]
            return super().__call__(rows, **kwargs) if rows else []
        if hasattr(inputs, "__getitem__") and hasattr(inputs, "__len__"):
            return super().__call__(RowsOf(inputs, question), **kwargs)
        if isinstance(inputs, Iterable):
            return super().__call__((as_row(one, question, i) for i, one in enumerate(inputs)), **kwargs)
        raise ValueError(f"Cannot make a video out of {type(inputs).__name__}.")

    def _ask_many(self, video: Any, questions: list[str], **kwargs: Any) -> list[dict[str, Any]]:
        """Several questions about one video, which is encoded once."""
        video = video["video"] if isinstance(video, Mapping) and "video" in video else video
        settings = {**self._preprocess_params, **kwargs}
        # A misspelt keyword shall not be found after an hour of encoding.
        own = ("batch_size", "num_workers")
        self._sanitize_parameters(**{name: value for name, value in kwargs.items() if name not in own})
        if not is_state(video):
            sampling = {name: settings[name] for name in _SAMPLING if name != "max_visual_tokens" and name in settings}
            try:
                video = self.encode_video(video, **sampling)
            except (ValueError, OSError) as error:
                if settings.get("on_error") != "skip":
                    raise
                return [{"answer": None, "error": str(error)} for _ in questions]
        kwargs["batch_size"] = kwargs.get("batch_size") or self._questions_at_once(video, settings)
        # Nothing is left to decode, and from a worker each question would come with a state of its own.
        kwargs["num_workers"] = 0
        return self([{"video": video, "question": question} for question in questions], **kwargs)

    def _questions_at_once(self, state: Any, settings: Mapping[str, Any]) -> int:
        if self._batch_size is not None:
            return self._batch_size
        try:
            budget = self.processor.token_budget(max_visual_tokens=self._max_visual_tokens(settings, len(state)))
            num_tokens = sum(budget.plan(count).num_visual_tokens for count in state.num_frames)
        except ValueError:
            # Each question will say it.
            return 1
        most = _TOKENS_AT_ONCE.get(self.device.type, _TOKENS_AT_ONCE_ELSEWHERE)
        return max(1, min(_QUESTIONS_AT_ONCE, most // num_tokens))

    def _max_visual_tokens(self, settings: Mapping[str, Any], num_videos: int) -> int | None:
        """Of each video; if nobody says, what the language model's positions have room for beside the words."""
        for limit in (settings.get("max_visual_tokens"), self.processor.max_visual_tokens):
            if limit is not None:
                return limit
        # Not every family counts its positions.
        positions = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if positions is None or not num_videos:
            return None
        new_tokens = max(settings.get("max_new_tokens") or 0, _DEFAULT_NEW_TOKENS)
        least = self.processor.cone_tokens + self.processor.rod_tokens
        return room_for_videos(positions, new_tokens, num_videos, least)

    def read_video(self, video: Any, **sampling: Any) -> BatchFeature:
        """
        One video, decoded and prepared for `encode_video`, which takes it in place of the video: to be called in
        another thread while the model is at work.

        Args:
            video: one video in any form.
            sampling: `fps`, `max_frames`, `num_frames`, `decoder`.

        Raises:
            `ValueError`, `FileNotFoundError`: a video that cannot be read.
        """
        return self.processor.video_processor(video, return_metadata=True, return_tensors="pt", **sampling)

    def encode_video(self, video: Any, **options: Any) -> Any:
        """
        What can be known of a video before any question (a `VideoState` with the times of its frames), to be asked
        later: `pipe(state, question=…)`. The video is read and encoded chunk by chunk, however long it is.

        Args:
            video: a video in any form, a list of videos, or what `read_video` made of one.
            options: `fps`, `max_frames`, `num_frames`, `sampling`, `decoder`, `on_truncated`, and `save_to`,
                `progress` and `dtype`; see [`DynFocusModel.encode_video`].
        """
        if isinstance(video, BatchFeature):
            return self._encode_prepared(video)
        videos = flatten_videos(video)
        if not videos or (len(videos) > 1 and options.get("save_to") is not None):
            raise ValueError(f"There are {len(videos)} videos: give one (or several without `save_to`).")
        states = []
        for index, one in enumerate(videos):
            try:
                with self.device_placement():
                    states.append(self.model.encode_video(one, processor=self.processor, **options))
            except (ValueError, OSError) as error:
                if len(videos) == 1:
                    raise
                where = f"Video {index} of {len(videos)} ({describe_video(one)})"
                raise restated(error, f"{where}: {error}") from error
        return states[0] if len(states) == 1 else type(states[0]).stack(states)

    def _encode_prepared(self, inputs: BatchFeature) -> Any:
        with self.device_placement(), torch.no_grad():
            pixels, mask = (inputs[name].to(self.device) for name in ("pixel_values_videos", "video_frame_mask"))
            state = self.model.encode_video(pixels, mask)
        state.frame_times = torch.zeros(mask.shape, dtype=torch.float64)
        for row, metadata in enumerate(inputs["video_metadata"]):
            state.frame_times[row, : len(metadata.timestamps)] = torch.tensor(metadata.timestamps, dtype=torch.float64)
        return state

    def preprocess(self, input_: Any, on_error: str = "raise", **settings: Any) -> dict[str, Any]:  # type: ignore[override]
        """One row, read and prepared; `{"error": …}` for a bad one with `on_error="skip"`."""
        try:
            return self._prepare(input_, **settings)
        except (ValueError, OSError) as error:
            number = input_.get("row_number")
            message = str(error) if number is None else f"Row {number}: {error}"
            if on_error == "skip":
                return {"error": message}
            raise restated(error, message) from error

    def _prepare(self, row: Mapping[str, Any], question: str | None = None, **settings: Any) -> dict[str, Any]:
        start = time.perf_counter()
        own: str | None = row.get("question")
        if "messages" not in row:
            if own is None and question is None:
                raise ValueError("There is no question: give `question=`, or rows with `question`.")
            row = {**row, "question": question if own is None else own, "answer": None}
        messages = as_messages(row)
        given = [video for _, video in media_of(messages)]
        num_videos = sum(len(video) if is_state(video) else 1 for video in given)
        settings["max_visual_tokens"] = self._max_visual_tokens(settings, num_videos)
        settings.pop("max_new_tokens", None)
        is_begun = messages[-1]["role"] == "assistant"
        inputs = self.processor.apply_chat_template(
            [messages],
            question=question if own is None else own,
            add_generation_prompt=not is_begun,
            continue_final_message=is_begun,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={**settings, "return_metadata": True},
        )
        metadata = inputs.pop("video_metadata", None) or []
        state = inputs.get("video_state")
        if state is not None and get_worker_info() is None:
            # The model itself would refuse all rows of a batch. It cannot be asked from a worker.
            state.check_fingerprint(self.model.video_fingerprint(self.processor))
        times = [one.timestamps for one in metadata] if state is None else times_of_state(state)
        # Offsets and the like are of no use to the model.
        return {
            "inputs": {name: value for name, value in inputs.items() if name in _MODEL_INPUTS},
            "frame_times": times,
            "decode": time.perf_counter() - start,
        }

    def get_iterator(
        self,
        inputs: Any,
        num_workers: int,
        batch_size: int,
        preprocess_params: dict,
        forward_params: dict,
        postprocess_params: dict,
    ) -> PipelineIterator:
        # As the base class, but for the collation: rows have any number of videos, and are padded in `_forward`.
        if isinstance(inputs, (list, Dataset)):
            dataset: Any = PipelineDataset(inputs, self.preprocess, preprocess_params)
        else:
            # One worker at most: each would run through the whole generator.
            num_workers = min(num_workers, 1)
            dataset = PipelineIterator(inputs, self.preprocess, preprocess_params)
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        loader = DataLoader(dataset, num_workers=num_workers, batch_size=batch_size, collate_fn=_as_batch)
        answers = PipelineIterator(loader, self.forward, forward_params, loader_batch_size=batch_size)
        return PipelineIterator(answers, self.postprocess, postprocess_params)

    def _forward(self, input_tensors: dict[str, Any], generate_kwargs: dict[str, Any] | None = None, **_: Any) -> Any:
        options = self._generate_options(generate_kwargs or {})
        rows = input_tensors["rows"] if "rows" in input_tensors else [input_tensors]
        results: list[dict[str, Any]] = [{"error": row["error"]} if "error" in row else {} for row in rows]
        readable = [index for index, row in enumerate(rows) if "error" not in row]
        if readable:
            answers = self._answer([rows[index] for index in readable], options)
            for index, answer in zip(readable, answers, strict=True):
                results[index] = answer
        return {"rows": results}

    def _answer(self, rows: list[dict[str, Any]], options: dict[str, Any]) -> list[dict[str, Any]]:
        start = self._now()
        pad = pad_token_id(self.processor.tokenizer)
        videos, features = features_of_rows(self.model, [row["inputs"] for row in rows], pad)
        # Counted now: beam search repeats the features where they are.
        num_tokens = [sum(len(video["pooler_output"]) for video in own) for own in videos]
        encoded = self._now()
        texts = [{name: row["inputs"][name] for name in _TEXT_INPUTS} for row in rows]
        batch: dict[str, Any] = dict(merge_rows(texts, pad, "left"))
        if features is not None:
            # Encoded already: `generate` need not know of videos.
            batch["mm_encoder_outputs"] = {"video": features}
        output = self.model.generate(**batch, **options)
        done = self._now()

        new_tokens = output.sequences[:, batch["input_ids"].shape[1] :]
        answers = self.processor.post_process_generation(new_tokens)
        scores = sequence_scores(self.model, output, new_tokens, self._end_tokens(options))
        return [
            {
                "answer": answer,
                "score": score,
                "frame_times": row["frame_times"],
                "num_visual_tokens": count,
                "selection": [{name: video[name] for name in _SELECTION} for video in own],
                "timings": {
                    "decode": row["decode"],
                    "encode": (encoded - start) / len(rows),
                    "generate": (done - encoded) / len(rows),
                },
            }
            for row, own, count, answer, score in zip(rows, videos, num_tokens, answers, scores, strict=True)
        ]

    def _generate_options(self, given: dict[str, Any]) -> dict[str, Any]:
        """Arguments of `generate`. A `generation_config` of the call takes the place of the pipeline's parameters."""
        if "generation_config" not in given:
            given = {**self._forward_params.get("generate_kwargs", {}), **given}
        named: dict[str, Any] = {"return_dict_in_generate": True, "output_logits": True}
        config = given.get("generation_config")
        current = self.model.generation_config if config is None else config
        if current.pad_token_id is None:
            named["pad_token_id"] = pad_token_id(self.processor.tokenizer)
        # 20 is the library's own default, which nobody set.
        has_length = {"max_new_tokens", "max_length"} & given.keys() or current.max_length not in (None, 20)
        if not has_length and current.max_new_tokens is None:
            named["max_new_tokens"] = _DEFAULT_NEW_TOKENS
        if config is None:
            return {**named, **given}
        # Both a configuration and parameters by themselves would be too many for `generate`.
        config = copy.deepcopy(config)
        config.update(**named, **{name: value for name, value in given.items() if name not in _GENERATE_ARGUMENTS})
        return {**{name: given[name] for name in _GENERATE_ARGUMENTS & given.keys()}, "generation_config": config}

    def _end_tokens(self, options: dict[str, Any]) -> list[int]:
        config = options.get("generation_config", self.model.generation_config)
        ends = options.get("eos_token_id", config.eos_token_id)
        return [] if ends is None else [ends] if isinstance(ends, int) else list(ends)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def postprocess(self, model_outputs: Any, return_details: bool = False, **_: Any) -> dict[str, Any]:  # type: ignore[override]
        """The result of one row, as the class describes it."""
        rows = model_outputs["rows"]
        found = rows if isinstance(rows, dict) else rows[0]
        if "error" in found:
            return {"answer": None, "error": found["error"]}
        times, selection = found["frame_times"], found["selection"]
        result = {
            "answer": found["answer"],
            "score": found["score"],
            "key_frames": key_frame_list(selection, times),
            "num_visual_tokens": found["num_visual_tokens"],
        }
        if return_details:
            num_frames = sum(map(len, times))
            full_price = self.processor.cone_tokens + self.processor.rod_tokens
            result |= {
                "num_frames": num_frames,
                "frame_times": times[0] if len(times) == 1 else times,
                "num_dense_tokens": num_frames * full_price,
                "events": event_list(selection, times),
                "timings": found["timings"],
            }
        return result

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Save model and processor, with their code. `push_to_hub` comes through here as well."""
        self.model.save_pretrained(save_directory, **kwargs)
        hub = ("push_to_hub", "repo_id", "token", "private", "commit_message")
        self.processor.save_pretrained(save_directory, **{name: kwargs[name] for name in hub if name in kwargs})


def _as_batch(rows: list[dict[str, Any]]) -> dict[str, Any]:
    # A single row stays itself: the base class takes batches of one apart differently.
    return rows[0] if len(rows) == 1 else {"rows": rows}


__all__ = ["VideoQAPipeline"]
