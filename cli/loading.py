"""Pipelines and video states from options of the command line, with a one-sentence error for each mistake."""

import math
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from dynfocus.checkpoints import find_model

from .terminal import UserError, print_note, shown_warnings

STATE_ENDING = ".safetensors"

_LONGEST_REASON = 400
_DTYPES = {
    "float32": "float32",
    "fp32": "float32",
    "bfloat16": "bfloat16",
    "bf16": "bfloat16",
    "float16": "float16",
    "fp16": "float16",
    "auto": "auto",
}


def load_pipeline(
    model: str | None,
    device: str | None,
    dtype: str | None,
    revision: str | None,
    trust_remote_code: bool,
    adoption: Mapping[str, Any] | None = None,
) -> Any:
    """
    A `video-qa` pipeline of a DynFocus model, or of a stock video language model of transformers. Without
    `trust_remote_code`, only the classes of this package and of transformers are used.

    Args:
        model: by default the demo model of the package.
        adoption: `dual_encoder` and `coarse` for a stock model, see `FocusedModel`; also `server` and `processor` for
            a model on a server, see `ServedModel`.

    Raises:
        `UserError`: for a device, dtype or model that does not exist.
    """
    from transformers import AutoConfig, pipeline

    from dynfocus import VideoQAPipeline
    from dynfocus.hub.folder_check import check_folder

    given = {name: value for name, value in (adoption or {}).items() if value is not None}
    if "server" in given:
        if revision is not None:
            raise UserError(f"--revision {revision}: the server decides which weights it loads; leave it out.")
        return VideoQAPipeline(_served(model, device, dtype, given))
    if "processor" in given:
        raise UserError(f"--processor {given['processor']}: goes with --server; a model here brings its own.")
    model = find_model(model)
    options: dict[str, Any] = {"dtype": find_dtype(dtype)} if dtype is not None else {}
    if device is not None:
        options["device"] = find_device(device)
    check_model_name(model)
    if revision is not None and Path(model).is_dir():
        raise UserError(f"--revision {revision}: is for models on the Hub, and {model} is a folder; leave it out.")
    hub = {"revision": revision, "trust_remote_code": trust_remote_code}
    if Path(model).is_dir():
        try:
            check_folder(model)
        except ValueError as error:
            raise UserError(f"--model {error}") from error
    with loading_errors(model, revision):
        config = AutoConfig.from_pretrained(model, **hub)
        if config.model_type == "dynfocus" and given:
            raise UserError(
                f"--{next(iter(given)).replace('_', '-')} is for stock video language models; {model} is a DynFocus "
                "model, which chooses frames by its own scores: leave it out."
            )
        if config.model_type != "dynfocus":
            check_stock_kind(model, config)
            options.update(given)
        if Path(model).is_dir() and not any(Path(model).glob("*.safetensors*")):
            raise UserError(
                f"--model {model}: its weights are missing or damaged: the folder has no model.safetensors, and "
                "pickles are not read."
            )
        if not trust_remote_code:
            options["pipeline_class"] = VideoQAPipeline
        make: Any = pipeline  # its overloads list only the tasks of transformers
        pipe = make("video-qa", model=model, **hub, **options)
        pipe.video_qa  # noqa: B018  # checks a stock model
    if config.model_type != "dynfocus":
        load_dual_encoder(pipe, given.get("dual_encoder"))
    return pipe


def _served(model: str | None, device: str | None, dtype: str | None, given: Mapping[str, Any]) -> Any:
    """A model on a server, which must be reachable, with its dual encoder."""
    from dynfocus.adoption.served_model import ServedModel

    options = dict(given)
    if not (address := options.pop("server").strip()):
        raise UserError("--server is empty: give the address of a server, such as http://localhost:8000/v1.")
    served = ServedModel(address, model or "", **options)
    # A mistake about the server is found before a dual encoder is downloaded.
    names = served.models()
    if not model:
        offered = f"; it offers {', '.join(names[:8])}" if names else ""
        raise UserError(f"--server {served.url}: name one of its models by --model{offered}.")
    encoder = load_encoder(options.get("dual_encoder"), device, dtype)
    served.focus_processor = served.focus_processor.with_dual_encoder(encoder)
    return served


def load_encoder(name: str | None, device: str | None, dtype: str | None) -> Any:
    """Load a dual encoder."""
    from dynfocus.towers.dual_encoder import DEFAULT_DUAL_ENCODER, DualEncoder

    name = name or DEFAULT_DUAL_ENCODER
    options: dict[str, Any] = {} if dtype is None else {"dtype": find_dtype(dtype)}
    if device is not None:
        options["device"] = find_device(device)
    try:
        with shown_warnings():
            return DualEncoder.from_pretrained(name, **options)
    except (OSError, ValueError, ImportError) as error:
        words = str(error).strip().partition("\n")[0]
        raise UserError(f"--dual-encoder {name}: {words}") from error


def note_demo(model: str | None, command: str, option: str = "--model ") -> None:
    """
    Prints on stderr what the demo model can answer, where no model was named; `command` is the one that was run, and
    `option` how it names a model.
    """
    if model is None:
        print_note(
            f"No {option.strip() or 'model'} was given: the included demo model answers, which has only seen "
            f"generated shapes. For real videos: dynfocus {command} {option}Qwen/Qwen3-VL-4B-Instruct"
        )


def check_kind(model: str, config: Any) -> None:
    """Raises a `UserError` if a configuration is not of a DynFocus model."""
    if config.model_type != "dynfocus":
        raise UserError(f"{model} is a {config.model_type} model: --model needs a DynFocus model.")


def check_stock_kind(model: str, config: Any) -> None:
    """Raises a `UserError` if a stock model cannot read videos or images."""
    from dynfocus.adoption.families import reads_videos

    if not reads_videos(config):
        raise UserError(
            f"{model} is a {config.model_type} model, which reads no videos: --model takes a DynFocus model, or a "
            "video language model such as Qwen/Qwen3-VL-4B-Instruct."
        )


def load_dual_encoder(pipe: Any, name: str | None) -> None:
    """Load the dual encoder of a stock model; a `UserError` if it or the model cannot be used."""
    try:
        with shown_warnings():
            pipe.video_qa.dual_encoder  # noqa: B018  # loads it
    except (OSError, ValueError, ImportError) as error:
        words = str(error).strip().partition("\n")[0]
        where = "" if name is None else f"--dual-encoder {name}: "
        raise UserError(f"{where}{words}") from error


@contextmanager
def loading_errors(model: str, revision: str | None) -> Iterator[None]:
    """Turns errors while a model is loaded into a `UserError` of one sentence."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError("The device's memory is full: use --dtype bfloat16, or --device cpu.") from error
    except UserError:
        raise
    except Exception as error:  # whatever transformers does with what is in the folder
        raise UserError(f"--model {model}: {_why_not_loaded(error, revision)}.") from error


def find_dtype(name: str) -> Any:
    """The torch dtype of a name, or `"auto"`."""
    import torch

    if name not in _DTYPES:
        raise UserError(f"--dtype {name}: is not one of float32, bfloat16, float16 and auto.")
    return "auto" if name == "auto" else getattr(torch, _DTYPES[name])


def find_device(name: str) -> Any:
    """The torch device of a name, if this machine has it."""
    import torch

    try:
        device = torch.device(int(name) if name.isdecimal() else name)
    except RuntimeError as error:
        raise UserError(f"--device {name}: is not a device such as cpu, cuda or cuda:1.") from error
    if device.type in ("cpu", "meta"):
        if device.type == "meta":
            raise UserError("--device meta: computes nothing; use cpu, or an accelerator such as cuda.")
        return device
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None or accelerator.type != device.type:
        found = "no accelerator" if accelerator is None else f"{accelerator.type} only"
        raise UserError(f"--device {name}: is not available, torch finds {found}; use --device cpu.")
    count = torch.accelerator.device_count()
    if device.index is not None and device.index >= count:
        raise UserError(f"--device {name}: there are {count} {device.type} devices, and the first has the number 0.")
    return device


def check_model_name(model: str) -> None:
    """Raises a `UserError` unless a name is the folder of a saved model, or can be a model on the Hub."""
    path = Path(model)
    if not model.strip():
        raise UserError("--model is empty: name a folder or a Hub id, or leave it out for the demo model.")
    if path.is_dir():
        if (path / "adapter_config.json").is_file() and not (path / "config.json").is_file():
            raise UserError(
                f"--model {model}: is an adapter alone; name the folder of a whole model, such as the one that "
                "`dynfocus train` writes beside it."
            )
        if not (path / "config.json").is_file():
            raise UserError(f"--model {model}: the folder has no config.json, so it is not a saved model.")
    elif path.exists():
        raise UserError(f"--model {model}: is a file; name its folder.")
    elif path.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1 or "\\" in model:
        raise UserError(f"--model {model}: there is no such folder.")


def _why_not_loaded(error: Exception, revision: str | None) -> str:
    """The reason, as it follows `--model NAME: ` in a message."""
    from huggingface_hub.errors import HfHubHTTPError
    from safetensors import SafetensorError

    from dynfocus.hub.load_errors import why_not_loaded

    known = why_not_loaded(error, revision)
    text = str(error)
    if known is not None:
        return known
    if re.match("Can't load (image processor|video processor|processor|tokenizer) for", text):
        return "it holds no processor: save one into the same folder, as `dynfocus export` does"
    if "trust_remote_code" in text:
        return "it needs code from its repository; --trust-remote-code runs it, if you trust it"
    # This package's message about incomplete weights, quoted by the pipeline.
    if ours := re.search(
        r"^(?:ValueError: )?.+ ((?:lacks|holds) .+: save or download it again.*)$", text, re.MULTILINE
    ):
        return f"it {ours[1].rstrip('.')}"
    of_weights = (SafetensorError, UnpicklingError, HfHubHTTPError)
    causes = (error, error.__cause__)
    damaged = any(isinstance(cause, of_weights) for cause in causes) or "ignore_mismatched_sizes" in text
    damaged = damaged or (isinstance(error, OSError) and "model.safetensors" in text)
    if damaged or text.startswith("Could not load model"):
        return (
            "its weights are missing or damaged, or were saved for another version of this package (--verbose shows "
            "what transformers says)"
        )
    text = text.removeprefix("The model cannot be loaded: ")
    words = " ".join(text.strip().rstrip(".").split())[:_LONGEST_REASON] or "no reason is given"
    known_family = isinstance(error, (ValueError, OSError, ImportError))
    return f"it cannot be loaded: {words if known_family else f'{type(error).__name__}, {words}'}"


def check_sampling(sampling: Mapping[str, Any]) -> None:
    """Raises a `UserError` for invalid numbers of frames. The token budget is checked by the library."""
    for name in ("fps", "num_frames", "max_frames"):
        value = sampling.get(name)
        if value is not None and not 0 < value < math.inf:
            what = "finite" if value == math.inf else "above 0"
            raise UserError(f"--{name.replace('_', '-')} {value}: must be {what}.")


def check_is_file(video: str) -> None:
    """Raises a `UserError` for a path that is not a file: a pipe can be read only once, and from its beginning."""
    if not video.strip():
        raise UserError("The name of the video is empty: give a file or an address.")
    try:
        mode = Path(video).stat().st_mode
    except (OSError, ValueError):
        if video != "-":
            return
        mode = stat.S_IFIFO
    if stat.S_ISDIR(mode):
        raise UserError(f"{video}: is a folder; name a video file in it.")
    if not stat.S_ISREG(mode):
        raise UserError(f"{video}: a video cannot be read from a pipe; save it to a file, and name that.")


def rate_note(times: Sequence[float], fps: float | None) -> str | None:
    """A note if fewer frames a second were read than requested; `None` otherwise."""
    if fps is None or len(times) < 2 or times[-1] <= times[0]:
        return None
    rate = (len(times) - 1) / (times[-1] - times[0])
    if rate > 0.9 * fps:
        return None
    return (
        f"--fps {fps:g} is more than the video has, or than --max-frames allows: {len(times)} frames were read, "
        f"{rate:.3g} a second."
    )


def is_state(video: str) -> bool:
    """Whether a name on the command line is that of a state rather than of a video."""
    return video.lower().endswith(STATE_ENDING) and "://" not in video


def load_state(path: str) -> Any:
    """The `VideoState` of one video. Raises a `UserError` if the file holds anything else."""
    from dynfocus import VideoState

    try:
        state = VideoState.load(path)
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error
    if len(state) != 1:
        raise UserError(f"{path}: holds {len(state)} videos, and a question is about one: encode each by itself.")
    return state


def check_made_by(state: Any, pipe: Any, path: str) -> None:
    """Raises a `UserError` if a state was not encoded by the model of `pipe`."""
    try:
        pipe.video_qa.check_state(state)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def video_of_state(state: Any, path: str) -> tuple[str | None, str]:
    """The file that a state was encoded from, if it still exists unchanged; otherwise why it cannot be shown."""
    sampling = state.sampling or {}
    source = sampling.get("source")
    if source is None:
        return None, "the state does not name its video"
    for file in (Path(source), Path(path).parent / Path(source).name):
        if file.is_file():
            if sampling.get("size") in (None, file.stat().st_size):
                return str(file), ""
            return None, f"{file} has changed since it was encoded"
    return None, f"{source} is not here"


__all__ = [
    "STATE_ENDING",
    "check_is_file",
    "check_kind",
    "check_made_by",
    "check_model_name",
    "check_sampling",
    "find_device",
    "find_dtype",
    "is_state",
    "load_encoder",
    "load_pipeline",
    "load_state",
    "loading_errors",
    "note_demo",
    "rate_note",
    "video_of_state",
]
