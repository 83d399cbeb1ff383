"""The `video-qa` pipeline: videos and questions in; answers out, with the frames on which they rest."""

import copy
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset
from transformers import GenerationConfig, Pipeline
from transformers.pipelines.pt_utils import PipelineDataset, PipelineIterator

from .collator import merge_rows, pad_token_id
from .conversations import as_messages
from .decoded_frames import is_video, restated
from .video_answers import event_list, key_frame_list, sequence_scores

_SAMPLING = ("fps", "max_frames", "num_frames", "max_visual_tokens", "decoder")
_VIDEO_INPUTS = (
    "pixel_values_videos",
    "video_state",
    "video_frame_mask",
    "video_token_plan",
    "question_input_ids",
    "question_attention_mask",
)
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


class VideoQAPipeline(Pipeline):
    """
    Answers questions about videos.

    A call takes a video and `question=`, a row `{"video": …, "question": …}` (several videos: a list of them), a chat
    (`messages`), or a `VideoState` and `question=`; and lists, generators and data sets of these. A list gives a list,
    a generator or a data set an iterator. Several questions (`question=[…]`) about one video encode it once.

    Parameters, of the pipeline or of a call:
        question (`str` or `list[str]`): the question, or one for each video of a list.
        fps, max_frames, num_frames, decoder: see [`DynFocusVideoProcessor`].
        max_visual_tokens (`int`): visual tokens of a video at most, see [`TokenBudget`].
        on_error (`"raise"` or `"skip"`, defaults to `"raise"`):
            with `"skip"`, a row that cannot be read gives `{"answer": None, "error": …}` and costs nothing else.
        return_details (`bool`, defaults to `False`): return more, see below.
        max_new_tokens (`int`, defaults to 64), do_sample, num_beams, …: parameters of `generate`, by themselves or as
            `generate_kwargs={…}`.
        batch_size (`int`, defaults to 1), num_workers (`int`): rows that the model answers at once; processes that
            decode.

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
    >>> pipe = pipeline("video-qa", model="checkpoints/dynfocus-tiny", trust_remote_code=True)
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
            "decoder": decoder,
            "on_error": on_error,
        }
        postprocess = {} if return_details is None else {"return_details": return_details}
        forward = {"generate_kwargs": given} if given else {}
        return {name: value for name, value in preprocess.items() if value is not None}, forward, postprocess

    def __call__(self, inputs: Any, question: Any = None, **kwargs: Any) -> Any:  # type: ignore[override]
        """Answers for `inputs`, which the class describes; `question` is a string or a list of them."""
        several = question is not None and not isinstance(question, str)
        if several and (_is_one_video(inputs) or (isinstance(inputs, Mapping) and "messages" not in inputs)):
            return self._ask_many(inputs, list(question or ()), **kwargs)
        if isinstance(inputs, Mapping) or _is_chat(inputs) or _is_one_video(inputs):
            return super().__call__(_as_row(inputs, question), **kwargs)
        if several and not isinstance(inputs, (list, tuple)):
            raise ValueError("A list of questions goes with one video, or with a list of as many videos.")
        if isinstance(inputs, (list, tuple)):
            questions = list(question or ()) if several else [question] * len(inputs)
            if len(questions) != len(inputs):
                raise ValueError(f"There are {len(questions)} questions for {len(inputs)} videos.")
            rows = [_as_row(one, q, i) for i, (one, q) in enumerate(zip(inputs, questions, strict=True))]
            return super().__call__(rows, **kwargs) if rows else []
        if hasattr(inputs, "__getitem__") and hasattr(inputs, "__len__"):
            return super().__call__(_RowsOf(inputs, question), **kwargs)
        if isinstance(inputs, Iterable):
            return super().__call__((_as_row(one, question, i) for i, one in enumerate(inputs)), **kwargs)
        raise ValueError(f"Cannot make a video out of {type(inputs).__name__}.")

    def _ask_many(self, video: Any, questions: list[str], **kwargs: Any) -> list[dict[str, Any]]:
        """Several questions about one video, which is encoded once."""
        video = video["video"] if isinstance(video, Mapping) and "video" in video else video
        settings = {**self._preprocess_params, **kwargs}
        if not hasattr(video, "frame_mask"):
            sampling = {name: settings[name] for name in _SAMPLING if name != "max_visual_tokens" and name in settings}
            try:
                video = self.encode_video(video, **sampling)
            except (ValueError, OSError) as error:
                if settings.get("on_error") != "skip":
                    raise
                return [{"answer": None, "error": str(error)} for _ in questions]
        return self([{"video": video, "question": question} for question in questions], **kwargs)

    def encode_video(self, video: Any, **sampling: Any) -> Any:
        """
        What can be known of a video before any question (a `VideoState` with the times of its frames), to be asked
        later: `pipe(state, question=…)`.

        Args:
            video: one video in any form.
            sampling: `fps`, `max_frames`, `num_frames`, `decoder`.
        """
        inputs = self.processor.video_processor(video, return_metadata=True, return_tensors="pt", **sampling)
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
        times = [one.timestamps for one in metadata] if state is None else _times_of_state(state)
        # Offsets and the like are of no use to the model.
        names = {"input_ids", "attention_mask", *_VIDEO_INPUTS}
        return {
            "inputs": {name: value for name, value in inputs.items() if name in names},
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
        with_state = [index for index in readable if "video_state" in rows[index]["inputs"]]
        together = [index for index in readable if index not in with_state]
        # States keep their own padding, so they are asked one at a time.
        for group in [together, *([index] for index in with_state)]:
            if group:
                for index, result in zip(group, self._answer([rows[i] for i in group], options), strict=True):
                    results[index] = result
        return {"rows": results}

    def _answer(self, rows: list[dict[str, Any]], options: dict[str, Any]) -> list[dict[str, Any]]:
        inputs = [row["inputs"] for row in rows]
        batch: dict[str, Any] = dict(merge_rows(inputs, pad_token_id(self.processor.tokenizer), "left"))
        if "video_state" in inputs[0]:
            batch["video_state"] = inputs[0]["video_state"]
        video_inputs = {name: batch.pop(name) for name in _VIDEO_INPUTS if name in batch}

        start = self._now()
        features: Any = self.model.get_video_features(**video_inputs) if video_inputs else None
        # Counted now: beam search repeats the features where they are.
        tokens = [len(visual_tokens) for visual_tokens in features.pooler_output] if features else []
        encoded = self._now()
        if features is not None:
            # Encoded already: `generate` need not know of videos.
            batch["mm_encoder_outputs"] = {"video": features}
        output = self.model.generate(**batch, **options)
        done = self._now()

        new_tokens = output.sequences[:, batch["input_ids"].shape[1] :]
        answers = self.processor.post_process_generation(new_tokens)
        scores = sequence_scores(self.model, output, new_tokens, self._end_tokens(options))
        results, video = [], 0
        for row, answer, score in zip(rows, answers, scores, strict=True):
            videos = range(video, video + len(row["frame_times"]))
            video += len(videos)
            results.append(
                {
                    "answer": answer,
                    "score": score,
                    "frame_times": row["frame_times"],
                    "num_visual_tokens": sum(tokens[i] for i in videos),
                    "selection": [
                        {
                            name: features[name][i]
                            for name in ("key_frames", "event_of_frame", "event_scores", "event_medoids")
                        }
                        for i in videos
                    ],
                    "timings": {
                        "decode": row["decode"],
                        "encode": (encoded - start) / len(rows),
                        "generate": (done - encoded) / len(rows),
                    },
                }
            )
        return results

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
        """Save model and processor (which the base class leaves out). `push_to_hub` comes through here as well."""
        super().save_pretrained(save_directory, **kwargs)
        hub = ("push_to_hub", "repo_id", "token", "private", "commit_message")
        self.processor.save_pretrained(save_directory, **{name: kwargs[name] for name in hub if name in kwargs})


class _RowsOf(Dataset):
    """A data set's rows, in the form of the pipeline, made when they are asked for."""

    def __init__(self, rows: Any, question: Any):
        self.rows = rows
        self.question = question

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return _as_row(self.rows[index], self.question, index)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))


def _is_chat(value: Any) -> bool:
    """Whether `value` is a conversation: a non-empty list of messages."""
    if not isinstance(value, (list, tuple)) or not value:
        return False
    return all(isinstance(message, Mapping) and {"role", "content"} <= message.keys() for message in value)


def _is_row(value: Any) -> bool:
    return isinstance(value, Mapping) and bool({"video", "videos", "question", "messages"} & value.keys())


def _is_one_video(value: Any) -> bool:
    return not _is_row(value) and is_video(value)


def _as_row(value: Any, question: Any, number: int | None = None) -> dict[str, Any]:
    """Anything that the pipeline accepts for one answer, as a dict."""
    if _is_row(value):
        row = dict(value)
        if question is not None and row.get("question") is None:
            row["question"] = question
    elif _is_chat(value):
        row = {"messages": value, "question": question}
    else:
        row = {"video": value, "question": question}
    return row if number is None else {**row, "row_number": number}


def _as_batch(rows: list[dict[str, Any]]) -> dict[str, Any]:
    # A single row stays itself: the base class takes batches of one apart differently.
    return rows[0] if len(rows) == 1 else {"rows": rows}


def _times_of_state(state: Any) -> list[list[float]]:
    if state.frame_times is None:
        # A state made without times: one frame a second, the default rate.
        return [[float(second) for second in range(count)] for count in state.num_frames]
    pairs = zip(state.frame_times.tolist(), state.num_frames, strict=True)
    return [times[:count] for times, count in pairs]


__all__ = ["VideoQAPipeline"]
