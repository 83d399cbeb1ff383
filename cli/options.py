"""What several commands take alike, and what can be chosen of."""

from enum import StrEnum
from typing import Annotated

import typer


class Decoder(StrEnum):
    """What reads the file."""

    auto = "auto"
    pyav = "pyav"
    decord = "decord"
    torchcodec = "torchcodec"


class Truncated(StrEnum):
    """What to do about a file that is cut off or damaged."""

    error = "error"
    warn = "warn"


class Coarse(StrEnum):
    """How frames that are no key frames are shown to a stock model."""

    low = "low"
    panels = "panels"
    none = "none"


class Split(StrEnum):
    """Which textures and pairs of colour and shape the videos draw from."""

    train = "train"
    test = "test"


VideoArgument = Annotated[
    str, typer.Argument(help="A video file, its URL, or a saved state (.safetensors).", show_default=False)
]
DecoderOption = Annotated[Decoder, typer.Option(help="What reads the file.")]
ModelOption = Annotated[
    str | None, typer.Option("--model", "-m", help="A folder or a Hub id.", show_default="the embedded model")
]
RevisionOption = Annotated[
    str | None, typer.Option(help="Branch, tag or commit of the model on the Hub.", show_default="main")
]
TokensOption = Annotated[
    int | None, typer.Option(help="Spend so many visual tokens at most.", show_default="as the model was saved")
]
FpsOption = Annotated[
    float | None, typer.Option(help="Frames to look at per second.", show_default="as the model was saved")
]
FramesOption = Annotated[
    int | None, typer.Option(help="Frames to look at, at most.", show_default="as the model was saved")
]
TruncatedOption = Annotated[
    Truncated, typer.Option(help="For a file that is cut off: an error, or a warning and what can be read.")
]
RuleOption = Annotated[
    str | None,
    typer.Option(
        help="How frames are chosen: peaks, uniform, topk, its, aks or mmr.",
        show_default="the model's own scores; peaks for a stock model",
    ),
]
DualEncoderOption = Annotated[
    str | None,
    typer.Option(
        help="For a stock model: what looks at all frames; a Hub id, a folder, or open_clip:NAME/TAG.",
        show_default="google/siglip2-base-patch16-224",
    ),
]
CoarseOption = Annotated[
    Coarse | None,
    typer.Option(
        help="For a stock model: how frames that are no key frames are shown.", show_default="as suits the model"
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
    str | None, typer.Option(help="Such as cpu, cuda or cuda:1.", show_default="an accelerator if there is one")
]
DtypeOption = Annotated[
    str | None, typer.Option(help="float32, bfloat16 or float16.", show_default="as the model was saved")
]
AnswerOption = Annotated[int, typer.Option(min=1, help="Tokens of the answer, at most.")]
TrustOption = Annotated[bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", "-v", help="Show libraries' messages, and where an error comes from.")
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
