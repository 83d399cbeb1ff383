"""
MSRVTT-QA: questions with answers of one word about clips of ten to thirty seconds, judged by a language model.

lmms-eval has no such task. The data set is LLaVA-Hound's, whose own code reads the rows' fields and asks the question
alone; it is a sample of about 5000 test questions.
"""

from functools import partial

from .base import Benchmark
from .short_answers import read

BENCHMARK = Benchmark(
    name="msrvtt_qa",
    title="MSRVTT-QA",
    url="http://staff.ustc.edu.cn/~hexn/papers/mm17-videoQA.pdf",
    dataset="ShareGPTVideo/test_video_and_instruction",
    data_files="video_instruction/test/msrvtt.qa.official.jsonl",
    split="train",
    metric="judged_video_qa",
    read=partial(read, number_prefix="video"),
    # Rows have one of two forms, which `read` distinguishes.
    fields=(),
    generation={"max_new_tokens": 64, "do_sample": False},
    groups=("question_word",),
    published={
        "DynFocus-7B (paper)": 62.8,
        "ST-LLM (quoted by DynFocus)": 63.2,
        "LLaMA-VID-7B (quoted by DynFocus)": 57.7,
    },
    notes=(
        "About 5000 of the test questions (published numbers: all of them; the sample's authors found less than 0.3 "
        "points of difference). Numbers of different judges do not compare: one version of GPT-3.5 for another "
        "moves them by 10 points."
    ),
)


__all__ = ["BENCHMARK"]
