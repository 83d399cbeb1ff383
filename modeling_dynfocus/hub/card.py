"""The default model card of a model on the Hub."""

from typing import Any

from huggingface_hub import ModelCardData

from ..configuration_dynfocus import DynFocusConfig

_BODY = """
# {title}

A [DynFocus](https://arxiv.org/abs/2411.12355) video question-answering model. For each question it finds the few
frames that matter, gives those many visual tokens and every other frame {rod_tokens}, and answers.

## Use

```python
from transformers import pipeline

pipe = pipeline("video-qa", model="{title}", trust_remote_code=True, revision="…")
pipe("video.mp4", question="What happens?")
# {{"answer": …, "score": …, "key_frames": [{{"index": …, "time": …, "score": …}}, …], "num_visual_tokens": …}}
```

`trust_remote_code=True` runs the code in this repository: read it, and pin the commit that you have read as
`revision`. With `pip install dynfocus` and `import dynfocus` the package's own classes are used, and no remote code is
needed.

## Architecture

| part | |
|---|---|
| vision tower | {vision} |
| language model | {language} |
| events | {events} at most, {key_share} of them key frames |
| tokens | {rod_tokens} a frame, and {cone_tokens} more a key frame |

## Results

Nothing was measured yet.

## Limits and risks

Answers can be wrong, above all about videos that differ from the training data, and the score is not the probability
that an answer is right. Check answers against their key frames.
"""


def make_model_card(config: DynFocusConfig, processor: Any, title: str = "user/name") -> str:
    """
    Markdown with the Hub's front matter, made from the settings.

    Args:
        config: the model's configuration.
        processor ([`DynFocusProcessor`]): its token plan goes into the table.
        title: name of the model on the page and in its examples.
    """
    backbones = [name for part in (_tower(config), config.text_config) if (name := _hub_id(part)) is not None]
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="video-text-to-text",
        base_model=backbones or None,
        tags=["video-question-answering", "long-video", "token-reduction", "dynfocus"],
    )
    body = _BODY.format(
        title=title,
        rod_tokens=config.rod_tokens,
        cone_tokens=config.pooling_grid**2 + sum(config.spatial_clusters),
        vision=_describe(_tower(config)),
        language=_describe(config.text_config),
        events=processor.num_prototypes,
        key_share=f"{processor.key_ratio:.0%}",
    )
    return f"---\n{data.to_yaml()}\n---\n{body}"


def _tower(config: DynFocusConfig) -> Any:
    vision = config.vision_config
    return vision.backbone_config if vision.backbone_config is not None else vision


def _hub_id(config: Any) -> str | None:
    """`user/name` of the model that a configuration was loaded from, if it came from the Hub."""
    name = getattr(config, "_name_or_path", "") or ""
    return name if name.count("/") == 1 and not name.startswith((".", "/")) else None


def _describe(config: Any) -> str:
    kind = getattr(config, "open_clip_model", None) or config.model_type
    layers = getattr(config, "num_hidden_layers", None)
    width = getattr(config, "hidden_size", None)
    sizes = [f"{layers} layers" if layers else "", f"width {width}" if width else ""]
    return ", ".join([_hub_id(config) or kind, *(size for size in sizes if size)])


__all__ = ["make_model_card"]
