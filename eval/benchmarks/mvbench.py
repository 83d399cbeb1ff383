"""
MVBench: 20 tasks of 200 questions with 2 to 5 options each; the score is the mean of the tasks' accuracies.

Fields, configurations, split ("train"), folders and prompt as lmms-eval's tasks `mvbench_*`, on the Hub's revision
"video", whose clips are cut already.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .base import Benchmark, Question
from .multiple_choice import index_of, lettered, steering

#: Where the videos of each task lie, once unpacked.
_FOLDERS = {
    "action_sequence": "star/Charades_segment",
    "moving_count": "clevrer/video_validation",
    "action_prediction": "star/Charades_segment",
    "episodic_reasoning": "tvqa/video_fps3_hq_segment",
    "action_antonym": "ssv2_video_mp4",
    "action_count": "perception/videos",
    "scene_transition": "scene_qa/video",
    "object_shuffle": "perception/videos",
    "object_existence": "clevrer/video_validation",
    "fine_grained_pose": "nturgbd_convert",
    "unexpected_action": "FunQA_test/test",
    "moving_direction": "clevrer/video_validation",
    "state_change": "perception/videos",
    "object_interaction": "star/Charades_segment",
    "character_order": "perception/videos",
    "action_localization": "sta/sta_video_segment",
    "counterfactual_inference": "clevrer/video_validation",
    "fine_grained_action": "Moments_in_Time_Raw/videos",
    "moving_attribute": "clevrer/video_validation",
    "egocentric_navigation": "vlnqa",
}


def read(rows: Iterable[Mapping[str, Any]]) -> Iterator[Question]:
    counts: dict[str, int] = {}
    for row in rows:
        task, options = row["_config"], tuple(row["candidates"])
        counts[task] = counts.get(task, -1) + 1
        choices = lettered(options, "({letter}) {option}")
        yield Question(
            id=f"{task}-{counts[task]:03d}",
            video=f"{_FOLDERS[task]}/{row['video']}",
            prompt=f"Question:{row['question']}\nOption:\n{choices}\nOnly give the best option.\n",
            reference=index_of(row["answer"], options),
            question=steering(row["question"], options),
            options=options,
            groups={"task": task},
        )


BENCHMARK = Benchmark(
    name="mvbench",
    title="MVBench",
    url="https://arxiv.org/abs/2311.17005",
    dataset="OpenGVLab/MVBench",
    revision="video",
    configs=tuple(_FOLDERS),
    split="train",
    metric="multiple_choice_accuracy",
    read=read,
    fields=("video", "question", "candidates", "answer"),
    main_score="macro",
    groups=("task",),
    gated=True,
    notes="lmms-eval leaves empty answers out of a task's accuracy; here they count as wrong.",
)


__all__ = ["BENCHMARK"]
