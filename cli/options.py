"""Options that several commands share, and their choices."""

from enum import StrEnum
from typing import Annotated

import typer


class Decoder(StrEnum):
    """Decoders of video files."""

    auto = "auto"
    pyav = "pyav"
    decord = "decord"
    torchcodec = "torchcodec"


class Truncated(StrEnum):
    """What to do with a file that is cut off or damaged."""

    error = "error"
    warn = "warn"


class Coarse(StrEnum):
    """How a stock model is shown the frames that are not key frames."""

    low = "low"
    panels = "panels"
    none = "none"


class Split(StrEnum):
    """From which textures and pairs of color and shape the videos are drawn."""

    train = "train"
    test = "test"


VideoArgument = Annotated[
    str, typer.Argument(help="A video file, its URL, or a saved state (.safetensors).", show_default=False)
]
DecoderOption = Annotated[Decoder, typer.Option(help="Decoder of video files.")]
ModelOption = Annotated[
    str | None,
    typer.Option("--model", "-m", help="Model: a folder or a Hub id.", show_default="the included demo model"),
]
RevisionOption = Annotated[
    str | None, typer.Option(help="Branch, tag or commit of the model on the Hub.", show_default="main")
]
TokensOption = Annotated[
    int | None, typer.Option(help="Largest number of visual tokens.", show_default="as the model was saved")
]
FpsOption = Annotated[
    float | None, typer.Option(help="Frames to look at per second.", show_default="as the model was saved")
]
FramesOption = Annotated[
    int | None, typer.Option(help="Largest number of frames to look at.", show_default="as the model was saved")
]
TruncatedOption = Annotated[
    Truncated, typer.Option(help="For a file that is cut off: stop with an error, or warn and use what can be read.")
]
RuleOption = Annotated[
    str | None,
    typer.Option(
        help="Rule that chooses frames: peaks, uniform, topk, its, aks or mmr.",
        show_default="the model's own scores; peaks for a stock model",
    ),
]
DualEncoderOption = Annotated[
    str | None,
    typer.Option(
        help="For a stock model: dual encoder that looks at all frames; a Hub id, a folder, or open_clip:NAME/TAG.",
        show_default="google/siglip2-base-patch16-224",
    ),
]
CoarseOption = Annotated[
    Coarse | None,
    typer.Option(
        help="For a stock model: how frames other than key frames are shown.", show_default="depends on the model"
    ),
]
ServerOption = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Ask a model of an OpenAI-compatible server instead, such as http://localhost:8000/v1; --model is its "
        "name there, and the key is read from OPENAI_API_KEY.",
        show_default=False,
    ),
]
ProcessorOption = Annotated[
    str | None,
    typer.Option(
        help="With --server: the model's own processor, a folder or a Hub id, by which frames are sized and their "
        "times written.",
        show_default="pictures with their times",
    ),
]
DeviceOption = Annotated[
    str | None,
    typer.Option(help="Device, such as cpu, cuda or cuda:1.", show_default="an accelerator if there is one"),
]
DtypeOption = Annotated[
    str | None, typer.Option(help="Precision: float32, bfloat16 or float16.", show_default="as the model was saved")
]
AnswerOption = Annotated[int, typer.Option(min=1, help="Largest number of tokens of the answer.")]
TrustOption = Annotated[bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", "-v", help="Show messages of libraries, and the traceback of an error.")
]


__all__ = [
    "AnswerOption",
    "Coarse",
    "CoarseOption",
    "Decoder",
    "DecoderOption",
    "DeviceOption",
    "DtypeOption",
    "DualEncoderOption",
    "FpsOption",
    "FramesOption",
    "ModelOption",
    "ProcessorOption",
    "RevisionOption",
    "RuleOption",
    "ServerOption",
    "Split",
    "TokensOption",
    "Truncated",
    "TruncatedOption",
    "TrustOption",
    "VerboseOption",
    "VideoArgument",
]
