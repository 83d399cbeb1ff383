"""Small random models of the stock classes, and their stock processors with a tokenizer of bytes.

Settings of pictures are those of published checkpoints (patch, merge, limits), and not the classes' defaults, which
differ; only widths and depths are small. Chat templates are short ones in the form of each family's own.
"""

import warnings
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers as tf
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.video_utils import VideoMetadata

warnings.filterwarnings("ignore", message=".*cap_pixels_per_frame.*")


class Stock(NamedTuple):
    model: Any
    processor: Any


def tokenizer(*special: str, **named: str) -> PreTrainedTokenizerFast:
    """One token a byte, and marks."""
    vocabulary = {char: i for i, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    marks = ["<pad>", "<eos>", "<|im_start|>", "<|im_end|>", *special]
    inner.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in marks])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", padding_side="left", extra_special_tokens=named
    )


def chat_template(image: str, video: str) -> str:
    """Turns with their contents in place, between `<|im_start|>role` and `<|im_end|>`."""
    return (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
        f"{{% if part['type'] == 'image' %}}{image}{{% elif part['type'] == 'video' %}}{video}"
        "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "pad_token_id": 256,
    "bos_token_id": None,
    "eos_token_id": 257,
}
VISION = {"hidden_size": 32, "intermediate_size": 48, "num_heads": 4}
SMALL_VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
SIGLIP = {"model_type": "siglip_vision_model", **SMALL_VISION, "image_size": 384, "patch_size": 14}
QWEN_MARKS = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
QWEN_CHAT = chat_template(*(f"<|vision_start|>{mark}<|vision_end|>" for mark in QWEN_MARKS[:2]))
# Of published checkpoints: pixels of a whole video, and of a frame.
QWEN3_VIDEO = {
    "size": {"shortest_edge": 4096, "longest_edge": 25165824},
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
    "cap_pixels_per_frame": False,
}
QWEN2_SIZE = {"shortest_edge": 3136, "longest_edge": 12845056}


def _ids(tok: PreTrainedTokenizerFast, **names: str) -> dict[str, int]:
    return {key: tok.convert_tokens_to_ids(token) for key, token in names.items()}


def qwen3_vl(classes: str = "Qwen3VL") -> Stock:
    tok = tokenizer(*QWEN_MARKS)
    processor = tf.Qwen3VLProcessor(
        tf.Qwen2VLImageProcessor(patch_size=16, size={"shortest_edge": 65536, "longest_edge": 16777216}),
        tok,
        tf.Qwen3VLVideoProcessor(**QWEN3_VIDEO),
        chat_template=QWEN_CHAT,
    )
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1], "mrope_interleaved": True}
    text = {**TEXT, "head_dim": 8, "vocab_size": len(tok), "rope_parameters": rope}
    vision = {
        **VISION, "depth": 2, "patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2,
        "out_hidden_size": 32, "num_position_embeddings": 64,
    }  # fmt: skip
    if classes.startswith("Qwen3VL"):
        vision["deepstack_visual_indexes"] = [0, 1]
    if "Moe" in classes:
        text |= {"moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2}
    if classes.startswith("Qwen3_5"):
        text |= {
            "layer_types": ["linear_attention", "full_attention"],
            "linear_key_head_dim": 8, "linear_value_head_dim": 8,
            "linear_num_key_heads": 2, "linear_num_value_heads": 4,
            "rope_parameters": {**rope, "partial_rotary_factor": 1.0},
        }  # fmt: skip
        if "Moe" in classes:
            text |= {"shared_expert_intermediate_size": 16}
    config = getattr(tf, classes + "Config")(
        text_config=text,
        vision_config=vision,
        **_ids(tok, image_token_id="<|image_pad|>", video_token_id="<|video_pad|>"),
        **_ids(tok, vision_start_token_id="<|vision_start|>", vision_end_token_id="<|vision_end|>"),
    )
    return Stock(getattr(tf, classes + "ForConditionalGeneration")(config), processor)


def qwen2_vl(classes: str = "Qwen2_5_VL") -> Stock:
    tok = tokenizer(*QWEN_MARKS)
    processor = getattr(tf, f"{classes.replace('Qwen2_VL', 'Qwen2VL')}Processor")(
        tf.Qwen2VLImageProcessor(size=QWEN2_SIZE),
        tok,
        tf.Qwen2VLVideoProcessor(size=QWEN2_SIZE, cap_pixels_per_frame=False),
        chat_template=QWEN_CHAT,
    )
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
    vision = {"depth": 2, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2, "num_heads": 4}
    if classes == "Qwen2_5_VL":
        vision |= {
            "hidden_size": 32, "intermediate_size": 48, "window_size": 56, "out_hidden_size": 32,
            "fullatt_block_indexes": [1], "tokens_per_second": 2,
        }  # fmt: skip
    else:
        vision |= {"embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2}
    classes = classes.replace("Qwen2_VL", "Qwen2VL")
    config = getattr(tf, classes + "Config")(
        text_config={**TEXT, "vocab_size": len(tok), "rope_parameters": rope},
        vision_config=vision,
        **_ids(tok, image_token_id="<|image_pad|>", video_token_id="<|video_pad|>"),
        **_ids(tok, vision_start_token_id="<|vision_start|>", vision_end_token_id="<|vision_end|>"),
    )
    return Stock(getattr(tf, classes + "ForConditionalGeneration")(config), processor)


def smolvlm() -> Stock:
    tok = tokenizer("<image>", "<video>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>")
    template = (
        "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
        "{% if message['content'] is string %}{{ ': ' + message['content'] }}{% else %}{{ ': ' }}"
        "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}"
        "{% elif line['type'] == 'image' %}{{ '<image>' }}{% else %}{{ '<video>' }}{% endif %}{% endfor %}{% endif %}"
        "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
    )
    # 64 tokens a frame of 512 pixels in SmolVLM2; 4 of 128 here.
    processor = tf.SmolVLMProcessor(
        tf.SmolVLMImageProcessor(
            size={"longest_edge": 512}, max_image_size={"longest_edge": 128}, do_image_splitting=False
        ),
        tok,
        tf.SmolVLMVideoProcessor(
            size={"longest_edge": 512}, max_image_size={"longest_edge": 128}, fps=1, num_frames=64
        ),
        image_seq_len=4,
        chat_template=template,
    )
    config = tf.SmolVLMConfig(
        text_config={"model_type": "llama", **TEXT, "head_dim": 8, "vocab_size": len(tok)},
        vision_config={**SMALL_VISION, "image_size": 128, "patch_size": 16},
        scale_factor=4,
        pad_token_id=256,
        **_ids(tok, image_token_id="<image>"),
    )
    return Stock(tf.SmolVLMForConditionalGeneration(config), processor)


def llava_onevision() -> Stock:
    tok = tokenizer("<image>", "<video>", image_token="<image>", video_token="<video>")
    # 27 x 27 patches of 14 pixels in the checkpoints; 7 x 7 here.
    size = {"height": 98, "width": 98}
    processor = tf.LlavaOnevisionProcessor(
        tf.LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=[[98, 98]]),
        tok,
        tf.LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=49,
        vision_feature_select_strategy="full",
        chat_template=chat_template("<image>\n", "<video>\n"),
    )
    config = tf.LlavaOnevisionConfig(
        text_config={"model_type": "qwen2", **TEXT, "vocab_size": len(tok)},
        vision_config={**SIGLIP, "image_size": 98, "vision_use_head": False},
        image_grid_pinpoints=[[98, 98]],
        **_ids(tok, image_token_index="<image>", video_token_index="<video>"),
    )
    return Stock(tf.LlavaOnevisionForConditionalGeneration(config), processor)


FAMILIES = {
    "qwen3_vl": qwen3_vl,
    "qwen2_5_vl": qwen2_vl,
    "smolvlm": smolvlm,
    "llava_onevision": llava_onevision,
}


@cache
def stock(name: str) -> Stock:
    """A model and its processor; weights large enough that a wrong token or position shows."""
    torch.manual_seed(0)
    model, processor = FAMILIES[name]()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight_name, weight in model.named_parameters():
            if weight.ndim >= 2:
                weight.copy_(torch.randn(weight.shape, generator=generator) * weight[0].numel() ** -0.5)
            elif "norm" in weight_name and weight_name.endswith("weight"):
                weight.add_(torch.randn(weight.shape, generator=generator) * 0.1)
            else:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.2)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 256
    # A generated mark of a picture would stand for one that is not there.
    model.generation_config.suppress_tokens = list(range(256, len(processor.tokenizer)))
    return Stock(model.eval(), processor)


def random_frames(num_frames: int, size: tuple[int, int] = (96, 128), seed: int = 0) -> np.ndarray:
    """`(num_frames, H, W, 3)` uint8."""
    return np.random.default_rng(seed).integers(0, 255, (num_frames, *size, 3), dtype=np.uint8)


def dense_call(name: str, frames: np.ndarray, fps: float, question: str) -> Any:
    """What the stock processor makes of a whole video that is sampled already."""
    model, processor = stock(name)
    text = [{"type": "text", "text": question}]
    if not hasattr(processor, "video_processor"):
        messages = [{"role": "user", "content": [{"type": "image"}] * len(frames) + text}]
        prompt = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return processor(text=[prompt], images=[[Image.fromarray(frame) for frame in frames]], return_tensors="pt")
    messages = [{"role": "user", "content": [{"type": "video", "num_frames": 1}, *text]}]
    prompt = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    metadata = VideoMetadata(
        total_num_frames=len(frames), fps=fps, frames_indices=list(range(len(frames))), duration=len(frames) / fps
    )
    return processor(
        text=[prompt],
        videos=[torch.from_numpy(frames).permute(0, 3, 1, 2)],
        videos_kwargs={"do_sample_frames": False, "video_metadata": [metadata]},
        return_tensors="pt",
    )


def logits(model: Any, inputs: Any) -> torch.Tensor:
    """`(rows, S, vocabulary)`; what an earlier call left on the model is forgotten."""
    if hasattr(model.base_model, "rope_deltas"):
        model.base_model.rope_deltas = None
    with torch.no_grad():
        return model(**inputs).logits


def greedy(model: Any, inputs: Any, **settings: Any) -> list[list[int]]:
    """Six generated tokens of each row."""
    ids = model.generate(**inputs, max_new_tokens=6, do_sample=False, **settings)
    return ids[:, inputs["input_ids"].shape[1] :].tolist()
