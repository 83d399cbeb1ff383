"""Small random models of the stock classes, and their stock processors with a tokenizer of bytes.

Settings of pictures are those of published checkpoints (patch, merge, limits), and not the classes' defaults, which
differ; only widths and depths are small. Chat templates are short ones in the form of each family's own.
"""

import warnings
from collections.abc import Callable
from functools import cache, partial
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


def glm4v(version: str = "Glm4v") -> Stock:
    tok = tokenizer(
        "<|image|>", "<|video|>", "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>"
    )
    limits = {"shortest_edge": 12544, "longest_edge": 47040000}
    processor = getattr(tf, f"{version}Processor")(
        getattr(tf, f"{version}ImageProcessor")(size={"shortest_edge": 12544, "longest_edge": 9633792}),
        tok,
        getattr(tf, f"{version}VideoProcessor")(size=limits),
        chat_template=chat_template(
            "<|begin_of_image|><|image|><|end_of_image|>", "<|begin_of_video|><|video|><|end_of_video|>"
        ),
    )
    rope = {
        "rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 0], "partial_rotary_factor": 0.5,
    }  # fmt: skip
    config = getattr(tf, f"{version}Config")(
        text_config={**TEXT, "model_type": "glm4v_text", "vocab_size": len(tok), "rope_parameters": rope},
        vision_config={
            **VISION, "model_type": "glm4v_vision", "depth": 2, "patch_size": 14, "image_size": 112,
            "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": 32,
        },
        **_ids(tok, image_token_id="<|image|>", video_token_id="<|video|>"),
        **_ids(tok, image_start_token_id="<|begin_of_image|>", image_end_token_id="<|end_of_image|>"),
        **_ids(tok, video_start_token_id="<|begin_of_video|>", video_end_token_id="<|end_of_video|>"),
    )  # fmt: skip
    return Stock(getattr(tf, f"{version}ForConditionalGeneration")(config), processor)


def video_llama_3() -> Stock:
    tok = tokenizer(*QWEN_MARKS)
    # The template of the checkpoints needs to know how many pictures a video has.
    template = chat_template("<|image_pad|>", "{{ '<|video_pad|>' * part['num_frames'] }}")
    processor = tf.VideoLlama3Processor(
        tf.VideoLlama3ImageProcessor(size=QWEN2_SIZE),
        tok,
        tf.VideoLlama3VideoProcessor(size=QWEN2_SIZE),
        chat_template=template,
    )
    config = tf.VideoLlama3Config(
        text_config={"model_type": "qwen2", **TEXT, "vocab_size": len(tok)},
        vision_config={**SMALL_VISION, "patch_size": 14},
        **_ids(tok, image_token_id="<|image_pad|>", video_token_id="<|video_pad|>"),
    )
    return Stock(tf.VideoLlama3ForConditionalGeneration(config), processor)


def llava_next_video() -> Stock:
    tok = tokenizer("<image>", "<video>", image_token="<image>", video_token="<video>")
    # 336 pixels in patches of 14 in the checkpoints; 112 here.
    size = {"size": {"shortest_edge": 112}, "crop_size": {"height": 112, "width": 112}}
    processor = tf.LlavaNextVideoProcessor(
        tf.LlavaNextVideoVideoProcessor(**size),
        tf.LlavaNextImageProcessor(**size, image_grid_pinpoints=[[112, 112]]),
        tok,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat_template("<image>\n", "<video>\n"),
    )
    config = tf.LlavaNextVideoConfig(
        text_config={"model_type": "llama", **TEXT, "head_dim": 8, "vocab_size": len(tok)},
        vision_config={"model_type": "clip_vision_model", **SMALL_VISION, "image_size": 112, "patch_size": 14},
        image_grid_pinpoints=[[112, 112]],
        spatial_pool_stride=2,
        vision_feature_layer=-1,
        **_ids(tok, image_token_index="<image>", video_token_index="<video>"),
    )
    return Stock(tf.LlavaNextVideoForConditionalGeneration(config), processor)


def perception_lm() -> Stock:
    tok = tokenizer("<|image|>", "<|video|>", image_token="<|image|>", video_token="<|video|>")
    size = {"height": 112, "width": 112}
    processor = tf.PerceptionLMProcessor(
        tf.PerceptionLMVideoProcessor(size=size, do_resize=True, resample=3),
        tf.PerceptionLMImageProcessor(tile_size=112, max_num_tiles=1),
        tok,
        patch_size=14,
        pooling_ratio=2,
        chat_template=chat_template("<|image|>", "<|video|>"),
    )
    vision = {
        "embed_dim": 32, "img_size": [112, 112], "depth": 2, "num_heads": 4, "ref_feat_shape": [8, 8],
        "use_post_transformer_norm": False, "patch_size": [14, 14], "global_pool": "",
    }  # fmt: skip
    config = tf.PerceptionLMConfig(
        text_config={"model_type": "llama", **TEXT, "head_dim": 8, "vocab_size": len(tok)},
        vision_config={
            "model_type": "timm_wrapper", "architecture": "vit_pe_core_tiny_patch16_384", "do_pooling": False,
            "model_args": vision,
        },
        vision_use_cls_token=True,
        projector_pooling_ratio=2,
        **_ids(tok, image_token_id="<|image|>", video_token_id="<|video|>"),
    )  # fmt: skip
    return Stock(tf.PerceptionLMForConditionalGeneration(config), processor)


def internvl() -> Stock:
    marks = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    tok = tokenizer(*marks.values(), "<video>", **marks, video_token="<video>")
    # 448 pixels in patches of 14 and 256 tokens in the checkpoints; 112 pixels and 16 tokens here.
    size = {"height": 112, "width": 112}
    processor = tf.InternVLProcessor(
        tf.GotOcr2ImageProcessor(size=size, max_patches=1),
        tok,
        tf.InternVLVideoProcessor(size=size),
        image_seq_length=16,
        chat_template=chat_template("<IMG_CONTEXT>\n", "<video>\n"),
    )
    config = tf.InternVLConfig(
        text_config={"model_type": "qwen2", **TEXT, "vocab_size": len(tok)},
        vision_config={**SMALL_VISION, "image_size": [112, 112], "patch_size": [14, 14]},
        image_seq_length=16,
        **_ids(tok, image_token_id="<IMG_CONTEXT>"),
    )
    return Stock(tf.InternVLForConditionalGeneration(config), processor)


def gemma3() -> Stock:
    marks = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    tok = tokenizer(*marks.values(), **marks)
    # 896 pixels in patches of 14 and 256 tokens in the checkpoints; 112 pixels and 16 tokens here.
    processor = tf.Gemma3Processor(
        tf.Gemma3ImageProcessor(size={"height": 112, "width": 112}, image_mean=[0.5] * 3, image_std=[0.5] * 3),
        tok,
        image_seq_length=16,
        chat_template=chat_template("<start_of_image>", ""),
    )
    config = tf.Gemma3Config(
        text_config={
            **TEXT, "head_dim": 8, "vocab_size": len(tok), "sliding_window": 32, "query_pre_attn_scalar": 8,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        vision_config={**SIGLIP, "image_size": 112, "vision_use_head": False},
        mm_tokens_per_image=16,
        **_ids(tok, boi_token_index="<start_of_image>", eoi_token_index="<end_of_image>"),
        **_ids(tok, image_token_index="<image_soft_token>"),
    )  # fmt: skip
    return Stock(tf.Gemma3ForConditionalGeneration(config), processor)


def gemma4() -> Stock:
    marks = {
        "audio_token": "<|audio|>", "boa_token": "<|audio>", "eoa_token": "<audio|>", "image_token": "<|image|>",
        "boi_token": "<|image>", "eoi_token": "<image|>",
    }  # fmt: skip
    tok = tokenizer(*marks.values(), "<|video|>", **marks)
    processor = tf.Gemma4Processor(
        tf.Gemma4AudioFeatureExtractor(),
        tf.Gemma4ImageProcessor(),
        tok,
        tf.Gemma4VideoProcessor(),
        chat_template=chat_template("\n\n<|image|>\n\n", "\n\n<|video|>\n\n"),
    )
    config = tf.Gemma4Config(
        text_config={
            **TEXT, "head_dim": 8, "global_head_dim": 8, "vocab_size": len(tok), "sliding_window": 32,
            "layer_types": ["sliding_attention", "full_attention"], "use_bidirectional_attention": "vision",
            "vocab_size_per_layer_input": len(tok), "hidden_size_per_layer_input": 8, "num_kv_shared_layers": 0,
        },
        vision_config={
            **SMALL_VISION, "num_key_value_heads": 4, "head_dim": 8, "patch_size": 16, "pooling_kernel_size": 3,
            "position_embedding_size": 64,
        },
        audio_config=None,
        **_ids(tok, boi_token_id="<|image>", eoi_token_id="<image|>", image_token_id="<|image|>"),
        **_ids(tok, video_token_id="<|video|>", audio_token_id="<|audio|>"),
    )  # fmt: skip
    return Stock(tf.Gemma4ForConditionalGeneration(config), processor)


def molmo2() -> Stock:
    marks = [
        "<im_patch>", "<im_col>", "<im_start>", "<low_res_im_start>", "<frame_start>", "<im_end>", "<frame_end>",
        "<im_low>",
    ]  # fmt: skip
    tok = tokenizer("<|image|>", "<|video|>", *marks, image_token="<|image|>", video_token="<|video|>")
    tok.bos_token = "<eos>"
    # 378 pixels in the checkpoints; 126 here.
    size = {"height": 126, "width": 126}
    processor = tf.Molmo2Processor(
        tf.Molmo2ImageProcessor(size=size),
        tf.Molmo2VideoProcessor(size=size),
        tok,
        chat_template=chat_template("<|image|>", "<|video|>"),
    )
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 8}
    config = tf.Molmo2Config(
        text_config={**TEXT, "head_dim": 8, "vocab_size": len(tok), "additional_vocab_size": 0},
        vision_config={
            **SMALL_VISION, **heads, "image_size": [126, 126], "patch_size": 14, "num_position_embeddings": 81,
        },
        adapter_config={
            **heads, "vision_feature_layer": [-1, -2], "hidden_size": 32, "intermediate_size": 48,
            "text_hidden_size": 32,
        },
        **_ids(tok, image_patch_id="<im_patch>", frame_start_token_id="<frame_start>"),
        **_ids(tok, frame_end_token_id="<frame_end>"),
    )  # fmt: skip
    return Stock(tf.Molmo2ForConditionalGeneration(config), processor)


FAMILIES: dict[str, Callable[[], Stock]] = {
    "qwen3_vl": qwen3_vl,
    "qwen3_vl_moe": partial(qwen3_vl, "Qwen3VLMoe"),
    "qwen3_5": partial(qwen3_vl, "Qwen3_5"),
    "qwen3_5_moe": partial(qwen3_vl, "Qwen3_5Moe"),
    "qwen2_5_vl": qwen2_vl,
    "qwen2_vl": partial(qwen2_vl, "Qwen2_VL"),
    "glm4v": glm4v,
    "glm46v": partial(glm4v, "Glm46V"),
    "video_llama_3": video_llama_3,
    "gemma4": gemma4,
    "molmo2": molmo2,
    "llava_onevision": llava_onevision,
    "llava_next_video": llava_next_video,
    "perception_lm": perception_lm,
    "internvl": internvl,
    "smolvlm": smolvlm,
    "gemma3": gemma3,
}
if not hasattr(tf, "Molmo2Config"):  # before 5.24
    del FAMILIES["molmo2"]


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
        videos=[[torch.from_numpy(frames).permute(0, 3, 1, 2)]],
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
