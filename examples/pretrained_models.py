# %% [markdown]
# # A pretrained model about your own video
#
# **Downloads from the Hugging Face Hub**, once, into its cache: the video language model (by default
# `HuggingFaceTB/SmolVLM2-500M-Video-Instruct`, about 2 GB; `Qwen/Qwen3-VL-4B-Instruct`: about 9 GB) and the dual
# encoder that looks at all frames (`google/siglip2-base-patch16-224`, about 1.5 GB). No code is downloaded, and no
# data is sent. A GPU with 4 GB of memory should be enough for the first model.
#
#     python examples/pretrained_models.py lecture.mp4 "When does she draw the second graph?" --model MODEL

# %%
import argparse

from transformers import pipeline

import dynfocus  # noqa: F401 (registers the pipeline)

parser = argparse.ArgumentParser()
parser.add_argument("video")
parser.add_argument("question")
parser.add_argument("--model", default="HuggingFaceTB/SmolVLM2-500M-Video-Instruct")
parser.add_argument("--dual-encoder", default="google/siglip2-base-patch16-224")
parser.add_argument("--max-visual-tokens", type=int, default=2048)
args = parser.parse_args()

# %% [markdown]
# ## Load
#
# The model is transformers' own, unchanged. `dtype="auto"` loads it as it was saved.

# %%
pipe = pipeline("video-qa", model=args.model, dual_encoder=args.dual_encoder, device_map="auto", dtype="auto")

# %% [markdown]
# ## Look once
#
# The dual encoder looks at one frame a second. Its state serves any number of questions, and is saved beside the
# video.

# %%
state = pipe.encode_video(args.video, save_to=f"{args.video}.safetensors", progress=True)

# %% [markdown]
# ## Ask with chosen frames, and with uniformly spread ones
#
# Both see at most the same number of visual tokens.

# %%
for rule in ("context", "peaks", "uniform"):
    answer = pipe(state, question=args.question, rule=rule, max_visual_tokens=args.max_visual_tokens)
    times = ", ".join(f"{frame['time']:.0f}" for frame in answer["key_frames"])
    print(f"{rule}: {answer['answer']} ({answer['num_visual_tokens']} visual tokens; key frames at {times} s)")
