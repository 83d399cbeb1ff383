"""The `video-qa` pipeline: answers to questions about videos, with their key frames."""

import importlib
import os
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any

from torch.utils.data import DataLoader, Dataset
from transformers import Pipeline
from transformers.pipelines.pt_utils import PipelineDataset, PipelineIterator

from dynfocus.selecting.focus import Focus
from dynfocus.states.video_state import VideoState

from .dynfocus_video_qa import DynFocusVideoQA
from .generation_settings import check_generation
from .pipeline_inputs import RowsOf, as_row, as_row_of_table, is_chat, is_one_video
from .reading.decoded_frames import is_state, with_message
from .video_qa import GENERATION_PARAMETERS, VideoQA

# Options of a stock model, see `FocusedModel`.
_ADOPTION = (
    "dual_encoder",
    "use_options",
    "keep_frames",
    "tokens_per_key_frame",
    "tokens_per_coarse_frame",
    "coarse",
    "coarse_per_key_frame",
    "num_key_frames",
    "time_words",
)
_LONGEST_REASON = 400
_SAMPLING = ("fps", "max_frames", "num_frames", "sampling", "decoder", "on_truncated")


class VideoQAPipeline(Pipeline):
    """
    Answers questions about videos.

    A call takes a video and `question=`, a row `{"video": …, "question": …}` (several videos: a list of them), a chat
    (`messages`), or a `VideoState` and `question=`; and lists, generators and data sets of these. A list gives a list,
    a generator or a data set an iterator. A row may hold settings of its one video (`fps`, `num_frames`, `max_frames`,
    `min_frames`, `video_start`, `video_end`), which replace those of the call; other keys are an error, except in data
    sets and generators, whose further columns are left out. Several questions (`question=[…]`) about one video encode
    it once.

    Unless noted otherwise, the parameters may be given to the pipeline or to a call.

    Args:
        question (`str` or `list[str]`): the question, or one for each video of a list.
        fps, max_frames, num_frames, sampling, decoder, on_truncated: see [`DynFocusVideoProcessor`].
        max_visual_tokens (`int`): visual tokens of a video at most, see [`TokenBudget`]; by default the processor's
            setting, or else as many as fit into the language model's positions.
        rule (`str` or `Callable`): a rule of choice of `selecting.rules`, such as `"uniform"`; by default the model's
            own.
        dual_encoder, coarse, keep_frames, …: parameters of the pipeline only, for a stock video language model such as
            Qwen3-VL: see `FocusedModel`.
        server (`str`): parameter of this class only (`VideoQAPipeline("NAME", server="http://localhost:8000/v1")`):
            the OpenAI-compatible server whose model `model` answers, see `ServedModel`.
        on_error (`"raise"` or `"skip"`, defaults to `"raise"`):
            with `"skip"`, a row that cannot be read gives `{"answer": None, "error": …}`, and the other rows are
            answered.
        return_details (`bool`, defaults to `False`): return more, see below.
        max_new_tokens (`int`, defaults to 64), do_sample, num_beams, …: parameters of `generate`, by themselves or as
            `generate_kwargs={…}`.
        batch_size (`int`): rows that the model answers at once; 1 by default, and up to 8 for several questions
            (`question=[…]`) about one video, fewer for a long one and on a CPU.
        num_workers (`int`, defaults to 0): processes that decode.

    The result of a row is a dict with

    - `answer` (`str`);
    - `score` (`float`): geometric mean of the model's probabilities of the answer's tokens (end token included);
      `None` if a server does not return them;
    - `key_frames` (`list`): `{"index", "time", "score"}` of each key frame in time order: index among the sampled
      frames, seconds from the start of the video, sigmoid of its event's score. With several videos also `"video"`,
      its number;
    - `num_visual_tokens` (`int`): visual tokens that the language model read; `None` if a server does not return it;

    and with `return_details=True` also

    - `num_frames` (`int`) and `frame_times` (`list[float]`, or one list for each of several videos): the sampled
      frames;
    - `num_dense_tokens` (`int`): visual tokens if every frame were kept in full (cones and rods);
    - `relevance` (`list[float]`) and `coarse_frames` (`list[int]`), for a stock model: how well each sampled frame
      fits the question, and which of them are shown coarsely;
    - `num_prompt_tokens` (`int`), from a server that returns it: tokens of the whole prompt;
    - `events` (`list`): `{"start", "end", "start_index", "end_index", "frames", "medoid", "score", "selected"}`; an
      event may return, so `frames` lists its frames; `end` is the start of the frame after its last one;
    - `timings` (`dict`): seconds of `"decode"` (reading and preparing), `"encode"` and `"generate"`; those of a batch
      are shared equally by its rows.

    Raises:
        TypeError: for an unknown keyword.
        ValueError, FileNotFoundError: for a bad row, with its number in a list.

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
    # Pipelines of transformers that set this prepare `generate`'s arguments in ways that differ between versions; here
    # all of them are handled by `_sanitize_parameters`.
    _pipeline_calls_generate = False

    def __init__(self, model: Any, *args: Any, server: str | None = None, **kwargs: Any):
        if isinstance(reason := getattr(model, "not_loaded", None), Exception):
            if isinstance(reason, (ValueError, OSError)):
                raise reason
            words = " ".join(str(reason).split())[:_LONGEST_REASON]
            raise ValueError(f"The model cannot be loaded: {type(reason).__name__}, {words}") from reason
        self._adoption = {name: kwargs.pop(name) for name in _ADOPTION if name in kwargs}
        self._video_qa: VideoQA | None = None
        if server is not None:
            # Not in a folder of remote code, where all models are of one kind.
            adoption: Any = importlib.import_module("dynfocus.adoption.served_model")
            if not isinstance(model, str):
                raise TypeError(
                    "`server` goes with a model's name there, and nothing is loaded here: write "
                    '`VideoQAPipeline("NAME", server="http://localhost:8000/v1")`.'
                )
            processor = kwargs.pop("processor", None)
            model = adoption.ServedModel(server, model, processor=processor, **self._adoption)
        if isinstance(model, VideoQA):
            super().__init__(model, device=model.device, **kwargs)  # type: ignore[arg-type]
            return
        super().__init__(model, *args, **kwargs)
        if self._adoption and self.model.config.model_type == "dynfocus":
            raise TypeError(
                f"`{next(iter(self._adoption))}` is for stock video language models: a DynFocus model chooses frames "
                "by its own scores."
            )

    def _sanitize_parameters(
        self,
        question: str | None = None,
        fps: float | None = None,
        max_frames: int | None = None,
        num_frames: int | None = None,
        max_visual_tokens: int | None = None,
        rule: Any = None,
        decoder: str | None = None,
        sampling: str | None = None,
        on_truncated: str | None = None,
        on_error: str | None = None,
        return_details: bool | None = None,
        generate_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> tuple[dict, dict, dict]:
        if generate_kwargs is not None and not isinstance(generate_kwargs, Mapping):
            raise ValueError(f"`generate_kwargs` must be a dict, got {type(generate_kwargs).__name__}.")
        given = {**(generate_kwargs or {}), **kwargs}
        unknown = sorted(set(given) - GENERATION_PARAMETERS)
        if unknown:
            raise TypeError(f"Unknown keyword of the video-qa pipeline: {', '.join(unknown)}.")
        if given.get("num_return_sequences", 1) != 1:
            raise ValueError("`num_return_sequences` must be 1: a row has one answer.")
        check_generation(given)
        if on_error not in (None, "raise", "skip"):
            raise ValueError(f"`on_error` must be 'raise' or 'skip', got {on_error!r}.")
        whole = {"max_frames": max_frames, "num_frames": num_frames, "max_visual_tokens": max_visual_tokens}
        for name, value in {"fps": fps, **whole}.items():
            kind, what = (Integral, "an integer") if name in whole else (Real, "a number")
            if value is not None and (isinstance(value, bool) or not isinstance(value, kind)):
                raise ValueError(f"`{name}` must be {what}, got {value!r}.")
        preprocess = {
            "question": question,
            "fps": fps,
            "max_frames": max_frames,
            "num_frames": num_frames,
            "max_visual_tokens": max_visual_tokens,
            # This many of the language model's positions are not available for the video.
            "max_new_tokens": given.get("max_new_tokens"),
            "decoder": decoder,
            "sampling": sampling,
            "on_truncated": on_truncated,
            "on_error": on_error,
        }
        postprocess = {} if return_details is None else {"return_details": return_details}
        forward = {"generate_kwargs": given} if given else {}
        if rule is not None:
            forward["rule"] = rule
        return {name: value for name, value in preprocess.items() if value is not None}, forward, postprocess

    def __call__(self, inputs: Any, question: Any = None, **kwargs: Any) -> Any:  # type: ignore[override]
        """Answers for `inputs`, which the class describes; `question` is a string or a list of them."""
        if question is not None and not isinstance(question, (str, list, tuple)):
            raise ValueError(f"A question must be a string, or a list of strings, got {type(question).__name__}.")
        if isinstance(inputs, (list, tuple)) and not inputs:
            return []
        several = isinstance(question, (list, tuple))
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
            return super().__call__((as_row_of_table(one, question, i) for i, one in enumerate(inputs)), **kwargs)
        raise ValueError(f"Cannot make a video out of {type(inputs).__name__}.")

    def _ask_many(self, video: Any, questions: list[str], **kwargs: Any) -> list[dict[str, Any]]:
        """Several questions about one video, which is encoded once."""
        video = video["video"] if isinstance(video, Mapping) and "video" in video else video
        settings = {**self._preprocess_params, **kwargs}
        # A misspelled keyword is an error before hours of encoding, not after.
        own = ("batch_size", "num_workers")
        self._sanitize_parameters(**{name: value for name, value in kwargs.items() if name not in own})
        if not is_state(video):
            sampling = {name: settings[name] for name in _SAMPLING if name in settings}
            try:
                video = self.encode_video(video, **sampling)
            except (ValueError, OSError) as error:
                if settings.get("on_error") != "skip":
                    raise
                return [{"answer": None, "error": str(error)} for _ in questions]
        if not kwargs.get("batch_size"):
            kwargs["batch_size"] = self._batch_size or self.video_qa.questions_at_once(video, settings)
        # Nothing is left to decode, and a worker would send a copy of the state with each question.
        kwargs["num_workers"] = 0
        return self([{"video": video, "question": question} for question in questions], **kwargs)

    @property
    def video_qa(self) -> VideoQA:
        """The model and its processor, which encode videos, choose frames and answer: see [`VideoQA`]."""
        if isinstance(self.model, VideoQA):  # on a server
            return self.model
        if self._video_qa is None or self._video_qa.model is not self.model:
            if self.model.config.model_type == "dynfocus":
                self._video_qa = DynFocusVideoQA(self.model, self.processor)
            else:
                # Not available in a folder of remote code, which holds a DynFocus model.
                adoption: Any = importlib.import_module("dynfocus.adoption.focused_model")
                self._video_qa = adoption.FocusedModel(self.model, self.processor, **self._adoption)
        return self._video_qa

    def encode_video(self, video: Any, **options: Any) -> VideoState:
        """
        Encode a video before any question, for `pipe(state, question=…)`: a `VideoState` with the times of its frames.
        See [`VideoQA.encode_video`].
        """
        with self.device_placement():
            return self.video_qa.encode_video(video, **options)

    def choose(self, state: VideoState, question: str, **options: Any) -> Focus:
        """Which frames of a video a question is answered from: see [`VideoQA.choose`]."""
        with self.device_placement():
            return self.video_qa.choose(state, question, **options)

    def preprocess(self, input_: Any, on_error: str = "raise", **settings: Any) -> dict[str, Any]:  # type: ignore[override]
        """One row, read and prepared; `{"error": …}` for a bad one with `on_error="skip"`."""
        try:
            return self.video_qa.prepare(input_, **settings)
        except (ValueError, OSError) as error:
            number = input_.get("row_number")
            message = str(error) if number is None else f"Row {number}: {error}"
            if on_error == "skip":
                return {"error": message}
            raise with_message(error, message) from error

    def get_iterator(
        self,
        inputs: Any,
        num_workers: int,
        batch_size: int,
        preprocess_params: dict,
        forward_params: dict,
        postprocess_params: dict,
    ) -> PipelineIterator:
        # As in the base class, except for the collation: rows have any number of videos, and are padded in `_forward`.
        if isinstance(inputs, (list, Dataset)):
            dataset: Any = PipelineDataset(inputs, self.preprocess, preprocess_params)
        else:
            # One worker at most, because each would run through the whole generator.
            num_workers = min(num_workers, 1)
            dataset = PipelineIterator(inputs, self.preprocess, preprocess_params)
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        loader = DataLoader(dataset, num_workers=num_workers, batch_size=batch_size, collate_fn=_as_batch)
        answers = PipelineIterator(loader, self.forward, forward_params, loader_batch_size=batch_size)
        return PipelineIterator(answers, self.postprocess, postprocess_params)

    def _forward(
        self, input_tensors: dict[str, Any], generate_kwargs: dict[str, Any] | None = None, rule: Any = None, **_: Any
    ) -> Any:
        given = generate_kwargs or {}
        if "generation_config" not in given:
            # A `generation_config` of the call replaces the pipeline's parameters.
            given = {**self._forward_params.get("generate_kwargs", {}), **given}
        rows = input_tensors["rows"] if "rows" in input_tensors else [input_tensors]
        results: list[dict[str, Any]] = [{"error": row["error"]} if "error" in row else {} for row in rows]
        readable = [index for index, row in enumerate(rows) if "error" not in row]
        if readable:
            answers = self.video_qa.answer([rows[index] for index in readable], rule=rule, **given)
            for index, answer in zip(readable, answers, strict=True):
                results[index] = {"answer": answer}
        return {"rows": results}

    def postprocess(self, model_outputs: Any, return_details: bool = False, **_: Any) -> dict[str, Any]:  # type: ignore[override]
        """The result of one row, as the class describes it."""
        rows = model_outputs["rows"]
        found = rows if isinstance(rows, dict) else rows[0]
        if "error" in found:
            return {"answer": None, "error": found["error"]}
        return found["answer"].as_dict(return_details)

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Save model and processor, with their code. `push_to_hub` also calls this."""
        self.model.save_pretrained(save_directory, **kwargs)
        hub = ("push_to_hub", "repo_id", "token", "private", "commit_message")
        self.processor.save_pretrained(save_directory, **{name: kwargs[name] for name in hub if name in kwargs})


def _as_batch(rows: list[dict[str, Any]]) -> dict[str, Any]:
    # A single row is not put into a batch: the base class splits batches of one differently.
    return rows[0] if len(rows) == 1 else {"rows": rows}


__all__ = ["VideoQAPipeline"]
