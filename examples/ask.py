# %% [markdown]
# # Asking about a video
#
# Runs offline with the included demo model, which has only seen generated shapes. The cells open as a notebook in VS
# Code, PyCharm, Spyder or with jupytext; `python examples/ask.py` runs them from the top.

# %%
from pathlib import Path

from transformers import pipeline

import dynfocus
from dynfocus.checkpoints import embedded_model

here = Path(__file__).parent if "__file__" in globals() else Path("examples")
video = str(here / "events.mp4")
pipe = pipeline("video-qa", model=str(embedded_model()))
print("DynFocus", dynfocus.__version__)

# %% [markdown]
# ## One question
#
# The answer comes with its score, the frames on which it is based, and what it cost.

# %%
answer = pipe(video, question="Which number is shown with the red star?")
print(answer["answer"], f"(score {answer['score']:.2f}), {answer['num_visual_tokens']} visual tokens")
for frame in answer["key_frames"]:
    print(f"  frame {frame['index']} at {frame['time']:.0f} s, event score {frame['score']:.2f}")

# %% [markdown]
# ## Several questions
#
# The video is read and encoded once. Each question has key frames of its own.

# %%
questions = ["Which comes right after the red star?", "Which number is shown with the blue circle?"]
for question, answer in zip(questions, pipe(video, question=questions), strict=True):
    times = ", ".join(f"{frame['time']:.0f}" for frame in answer["key_frames"])
    print(f"{question} {answer['answer']} (key frames at {times} s)")

# %% [markdown]
# ## Long videos
#
# `encode_video` reads a file chunk by chunk, in constant memory, and saves its state; an interrupted one continues.
# Questions about the state do not read the video again.

# %%
state = pipe.encode_video(str(here / "long.mp4"), save_to="long.safetensors")
print(f"{state.num_frames[0]} frames of {state.frame_times[0, -1] / 60:.1f} minutes")
answer = pipe(state, question="Which number is shown with the red heart?")
print(answer["answer"], [round(frame["time"]) for frame in answer["key_frames"]])

# %% [markdown]
# ## The steps
#
# Choosing frames and answering can be called by themselves; a rule of choice is a parameter.

# %%
model = pipe.video_qa
for rule in (None, "uniform"):
    focus = model.choose(state, "Which number is shown with the red heart?", rule=rule)
    (answer,) = model.answer([(state, "Which number is shown with the red heart?")], rule=rule)
    print(rule or "learned scores", focus.key_frames.tolist(), answer.answer, f"{answer.score:.2f}")
