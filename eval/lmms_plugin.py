"""DynFocus as a model of lmms-eval, which finds it by its entry point: `--model dynfocus --model_args pretrained=ID`.

`lmms_eval.models` of the entry points names `manifest`; lmms-eval itself is imported only if it is installed.
"""

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from dynfocus.checkpoints import find_model

from .answering import Answerer, VideoTask
from .benchmarks.base import Question

try:
    from lmms_eval.api.model import lmms as _Base
except ModuleNotFoundError as error:
    if error.name != "lmms_eval":
        raise

    class _Base:  # type: ignore[no-redef]
        def __init__(self) -> None:
            raise ImportError("The plug-in needs lmms-eval, which is not installed: pip install lmms-eval.")


logger = logging.getLogger(__name__)

_SAMPLED = ("temperature", "top_p", "top_k", "min_p", "typical_p")
#: Length of answers for tasks that set none.
_MAX_NEW_TOKENS = 1024


def manifest() -> Any:
    """The entry for lmms-eval's registry of models."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="dynfocus", simple_class_path=f"{__name__}.DynFocusLmms")


class DynFocusLmms(_Base):
    """
    Answers the requests of lmms-eval's tasks with the `video-qa` pipeline's model.

    A video is decoded and encoded once for all questions about it in a process; `batch_size` of these are answered at
    a time. Frames are chosen by the whole prompt of the task, cut to the processor's limit. Several images are the
    frames of one video. With `accelerate launch` or `torchrun`, each process answers the share that lmms-eval assigns
    to it.

    Args (`--model_args`):
        pretrained: folder or Hub id; by default the model that comes with the package.
        revision, trust_remote_code, device, dtype: as in `pipeline`. Without `trust_remote_code` the classes of the
            installed package are used.
        batch_size: questions about one video that are answered at a time (`--batch_size`).
        fps, max_frames, num_frames, decoder, max_visual_tokens: as in [`VideoQAPipeline`].
        on_error: with `"skip"`, answers about a video that cannot be read are empty, with a warning; `"raise"` ends
            the run.

    Raises:
        `ImportError` without lmms-eval; `TypeError` for an unknown argument; `ValueError` for an invalid `batch_size`
        or `on_error`.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str | None = None,
        batch_size: int | str = 1,
        device: str | None = None,
        dtype: str | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        max_batch_size: int | None = None,
        on_error: str = "raise",
        max_visual_tokens: int | None = None,
        **sampling: Any,
    ):
        super().__init__()
        unknown = sorted(sampling.keys() - {"fps", "max_frames", "num_frames", "decoder"})
        if unknown:
            raise TypeError(f"Unknown argument of the model dynfocus: {', '.join(unknown)}.")
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise ValueError(f"batch_size is {batch_size!r}, but must be 1 or more: there is no automatic one.")
        if on_error not in ("raise", "skip"):
            raise ValueError(f"on_error must be 'raise' or 'skip', got {on_error!r}.")
        from accelerate import Accelerator

        self.batch_size = int(batch_size)
        self.on_error = on_error
        self.sampling = sampling
        self.max_visual_tokens = max_visual_tokens
        # lmms-eval gathers the results of all processes with it. Without `cpu`, processes on CPUs would not be
        # connected.
        self.accelerator: Any = Accelerator(cpu=device == "cpu" or not torch.accelerator.is_available())
        started, seen = int(os.environ.get("WORLD_SIZE", 1)), self.accelerator.num_processes
        if started != seen:
            raise ValueError(
                f"{started} processes were started, but accelerate sees {seen}: on CPUs, set ACCELERATE_USE_CPU=true."
            )
        if seen > 1:
            self._rank, self._world_size = self.accelerator.process_index, seen
            device = str(self.accelerator.device)
        options = {"device": device, "dtype": dtype, "revision": revision}
        self.pipe: Any = _load(pretrained, trust_remote_code, options)
        self.device: torch.device = self.pipe.device

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Answers, in order, to requests of context, generation arguments, `doc_to_visual`, document, task, split."""
        answers = [""] * len(requests)
        with _progress(len(requests), self.rank) as progress:
            for generation, numbers in _by_generation(requests):
                stops = generation.pop("until")
                for number, answer in self._answers(requests, numbers, generation):
                    answers[number] = _cut(answer, stops)
                    progress.update()
        return answers

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """`NotImplementedError`: answers are generated."""
        raise NotImplementedError("The model dynfocus generates answers; it has no tasks that compare likelihoods.")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """`NotImplementedError`: a video is asked one question at a time."""
        raise NotImplementedError("The model dynfocus answers one question at a time, without further rounds.")

    def clean(self) -> None:
        """Free the model; lmms-eval computes the scores after all answers."""
        del self.pipe
        super().clean()

    def _answers(
        self, requests: Sequence[Any], numbers: Sequence[int], generation: Mapping[str, Any]
    ) -> Iterator[tuple[int, str]]:
        """Number and answer of each request, grouped by video."""
        of_video: dict[str, list[Question]] = {}
        others = []
        for number in numbers:
            context, _, doc_to_visual, document, task, split = requests[number].args
            media = _media(doc_to_visual(self.task_dict[task][split][document]), task)
            if len(media) == 1 and isinstance(media[0], str):
                question = Question(id=str(number), video=media[0], prompt=context, reference=None)
                of_video.setdefault(media[0], []).append(question)
            else:
                others.append((number, context, media))
        answerer = Answerer(self.pipe, generation, self.sampling, self.max_visual_tokens)
        tasks = [VideoTask(path, _batches(questions, self.batch_size)) for path, questions in of_video.items()]
        for batch, found in answerer.answer(tasks):
            for question, answer in zip(batch, found, strict=True):
                if answer.error is not None:
                    self._fail(requests[int(question.id)], f"{question.video}: {answer.error}")
                yield int(question.id), answer.output or ""
        for number, context, media in others:
            yield number, self._ask(requests[number], context, media, generation)

    def _ask(self, request: Any, context: str, media: Sequence[Any], generation: Mapping[str, Any]) -> str:
        """A question about several videos, frames, or none."""
        content = [{"type": "video", "video": one} for one in media] + [{"type": "text", "text": context}]
        budget = {} if self.max_visual_tokens is None else {"max_visual_tokens": self.max_visual_tokens}
        found = self.pipe(
            [{"role": "user", "content": content}],
            on_error="skip",
            generate_kwargs=dict(generation),
            **(self.sampling | budget if media else {}),
        )
        if found["answer"] is None:
            self._fail(request, found["error"])
        return found["answer"] or ""

    def _fail(self, request: Any, message: str) -> None:
        message = f"Document {request.args[3]} of {request.args[4]}: {message}"
        if self.on_error == "raise":
            raise ValueError(f"{message} (model_args on_error=skip continues with an empty answer.)")
        logger.warning("%s The answer is left empty.", message)


def _load(pretrained: str | None, trust_remote_code: bool, options: Mapping[str, Any]) -> Any:
    from transformers import pipeline

    from dynfocus import VideoQAPipeline

    given = {name: value for name, value in options.items() if value is not None}
    code = {"trust_remote_code": True} if trust_remote_code else {"pipeline_class": VideoQAPipeline}
    make: Any = pipeline  # its overloads list only the tasks of transformers
    return make("video-qa", model=find_model(pretrained), **code, **given)


def _by_generation(requests: Sequence[Any]) -> list[tuple[dict[str, Any], list[int]]]:
    """Numbers of the requests with equal generation arguments, without those that only fill up a process's share."""
    groups: dict[str, tuple[dict[str, Any], list[int]]] = {}
    for number, request in enumerate(requests):
        if not (request.metadata or {}).get("__padding_only__"):
            generation = generation_arguments(request.args[1])
            groups.setdefault(json.dumps(generation, sort_keys=True), (generation, []))[1].append(number)
    return list(groups.values())


def generation_arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """
    A task's generation arguments in the form of `generate`, and `until`, a list of texts that end an answer. A
    temperature of 0 means no sampling; unknown parameters are left out.
    """
    from transformers import GenerationConfig

    known = {name for name in vars(GenerationConfig()) if not name.startswith("_")}
    arguments = {name: value for name, value in given.items() if name in known and value is not None}
    arguments.setdefault("max_new_tokens", given.get("max_gen_toks") or _MAX_NEW_TOKENS)
    warm = (arguments.get("temperature") or 0) > 0
    arguments["do_sample"] = bool(arguments.get("do_sample", warm)) and arguments.get("temperature") != 0
    if not arguments["do_sample"]:
        arguments = {name: value for name, value in arguments.items() if name not in _SAMPLED}
    until = given.get("until") or []
    return {**arguments, "until": [until] if isinstance(until, str) else list(until)}


def _media(visuals: Any, task: str) -> list[Any]:
    """Videos (paths, or lists of frames) from the result of a task's `doc_to_visual`."""
    from PIL import Image

    visuals = list(visuals or [])
    if visuals and all(isinstance(visual, Image.Image) for visual in visuals):
        return [visuals]
    media = []
    for visual in visuals:
        if isinstance(visual, Mapping) and not {"video_start", "video_end"} & visual.keys():
            visual = visual.get("url") or visual.get("path")
        if not isinstance(visual, str):
            raise ValueError(
                f"The task {task} shows {visual!r}, but the model dynfocus reads whole videos and images."
            )
        media.append(visual)
    return media


def _batches(questions: Sequence[Question], size: int) -> list[Sequence[Question]]:
    return [questions[start : start + size] for start in range(0, len(questions), size)]


def _cut(answer: str, stops: Sequence[str]) -> str:
    for stop in filter(None, stops):
        answer = answer.split(stop)[0]
    return answer


def _progress(total: int, rank: int) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, desc="Model Responding", disable=rank != 0)


__all__ = ["DynFocusLmms", "generation_arguments", "manifest"]
