"""
A few rows of every benchmark, with the fields and types of the true data sets (their contents are made up), and the
files in which they lie on the Hub.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from hub_datasets import data_card, json_file, jsonl_file, parquet_file

from dynfocus.eval.benchmarks import Benchmark, get_benchmark

Row = dict[str, Any]


def _video_mme(number: int, video: str, duration: str, task: str, answer: str) -> Row:
    return {
        "video_id": f"{number:03d}",
        "duration": duration,
        "domain": "Knowledge",
        "sub_category": "Astronomy",
        "url": f"https://www.youtube.com/watch?v={video}",
        "videoID": video,
        "question_id": f"{number:03d}-1",
        "task_type": task,
        "question": "Which planet is shown at last?",
        "options": ["A. Mars.", "B. The ring of Saturn.", "C. Venus.", "D. None of the above."],
        "answer": answer,
    }


def _mlvu(video: str, task: str, answer: str) -> Row:
    candidates = ["A red car", "A blue car", "A bicycle", "Nobody"]
    listed = "\n".join(f"({letter}) {text}" for letter, text in zip("ABCD", candidates, strict=True))
    return {
        "video_name": video,
        "duration": 480.5,
        "question": f"What stops in front of the house?\n{listed}",
        "candidates": candidates,
        "answer": answer,
        "task_type": task,
    }


def _lvbench(video: str, uid: str, answer: str) -> Row:
    return {
        "video_path": f"{video}.mp4",
        "uid": uid,
        "question": "What year appears first?\n(A) 1636\n(B) 1366\n(C) 1363\n(D) 1633",
        "answer": answer,
        "question_type": ["key information retrieval", "event understanding"],
        "time_reference": "00:15-00:19",
    }


def _nextqa_video(video: int, qid: int, question: str) -> Row:
    return {"video": video, "frame_count": 369, "width": 640, "height": 480, "question": question, "qid": qid}


def _nextqa_mc(video: int, qid: int, answer: int) -> Row:
    return {
        **_nextqa_video(video, qid, "why does the boy clap his hands "),
        "answer": answer,
        "type": "CW" if qid else "TN",
        "a0": "he is cold",
        "a1": "to cheer",
        "a2": "dance",
        "a3": "to call the dog ",
        "a4": "play",
    }


def _longvideobench(name: str, answer: int, pads: int, group: int) -> Row:
    options = ["A man in a black hat", "A woman", "A dog", "A sign", "Nothing"]
    options = [*options[: 5 - pads], *["N/A"] * pads]
    return {
        "video_id": name,
        "id": f"{name}_0",
        "video_path": f"{name}.mp4",
        "subtitle_path": f"{name}_en.json",
        "correct_choice": answer,
        "question": "When the narrator says 'here we are', what is on the left?",
        **{f"option{index}": option for index, option in enumerate(options)},
        "duration": 12.5,
        "duration_group": group,
        "question_category": "T2O",
        "topic_category": "NP-News-Programs",
        "starting_timestamp_for_subtitles": 0.0,
    }


def _mvbench(task: str) -> list[Row]:
    return [
        {
            "video": f"{task}_{number}.mp4",
            "question": "What happened before the person sat down?",
            "candidates": ["Closed the door.", "Took the cup.", "Opened the book."][: 2 + number],
            "answer": ("Took the cup.", "Opened the book.")[number],
        }
        for number in range(2)
    ]


def _llava(number: int, video: str, question: str, answer: str) -> Row:
    return {
        "id": f"{video}_{number}",
        "video": f"frames/{video}",
        "conversations": [
            {"from": "human", "value": f"<video>\n{question}"},
            {"from": "gpt", "value": answer},
        ],
    }


def _hallucination(video: str, other: str) -> Row:
    return {
        "basic": {"video": video, "question": "Is there a baby in the video?", "answer": "yes"},
        "hallucination": {"video": other, "question": "Is there a doll in the video?", "answer": "no"},
        "type": "subject",
    }


#: By benchmark, by configuration ("" where there is one only).
ROWS: Mapping[str, Mapping[str, Sequence[Row]]] = {
    "activitynet_qa": {
        "": [
            {
                "video_name": "1QIUV7WYKXg",
                "question_id": "v_1QIUV7WYKXg_3",
                "question": "is the athlete wearing Trousers",
                "answer": "yes",
                "type": "3",
            },
            {
                "video_name": "1QIUV7WYKXg",
                "question_id": "v_1QIUV7WYKXg_4",
                "question": "what is the color of the mat",
                "answer": "blue",
                "type": "4",
            },
        ]
    },
    "egoschema": {
        "Subset": [
            {
                "question_idx": "13",
                "question": "What is the overarching goal of c?",
                "video_idx": f"0074f737-11cb-497d-8d07-77c3a8127{answer}",
                "option": ["A. C cooks.", "B. C eats.", "C. C orders food.", "D. C burns it.", "E. C forgets it."],
                "answer": answer,
            }
            for answer in ("3", "0")
        ]
    },
    "longvideobench": {"": [_longvideobench("86CxyhFV9MI", 1, 1, 15), _longvideobench("d_WjiWq9DTE", 4, 0, 3600)]},
    "lvbench": {"": [_lvbench("Cm73ma6Ibcs", "0", "D"), _lvbench("Cm73ma6Ibcs", "1", "A")]},
    "mlvu_dev": {
        "": [
            # Some names have their ending, some have not.
            _mlvu(f"{task}_{number}" + ".mp4" * (number == 0), task, "ABCD"[number % 4])
            for task in ("anomaly_reco", "count", "ego", "needle", "order", "plotQA", "topic_reasoning")
            for number in range(2)
        ]
    },
    "msrvtt_qa": {
        "": [
            _llava(0, "video7010", "what is a man doing?", "talk"),
            _llava(1, "video7010", "who sings?", "woman"),
        ]
    },
    "msvd_qa": {
        "": [
            _llava(0, "klteYv1Uv9A_27_33", "what is chewing on a nut?", "squirrel"),
            _llava(1, "klteYv1Uv9A_27_33", "is it brown?", "yes"),
        ]
    },
    "mvbench": {task: _mvbench(task) for task in get_benchmark("mvbench").configs},
    "nextqa": {"MC": [_nextqa_mc(4010069381, 0, 1), _nextqa_mc(4010069381, 6, 4)]},
    "nextqa_oe": {
        "OE": [
            {
                **_nextqa_video(4010069381, 6, "how do the two men play the instrument"),
                "answer": "roll the handle",
                "type": "CH",
                "additional_ref_answer": "by turning it",
            }
        ]
    },
    "synthetic": {
        "": [
            {
                "video": f"videos/{number:06d}.mp4",
                "question": "What color is the shape with number 7?",
                "answer": "red",
                "kind": "color",
                "events": [[2, 5]],
            }
            for number in range(2)
        ]
    },
    "video_chatgpt": {
        "Generic": [{"video_name": "v_p1QGn0IzfW0", "question": "What is happening?", "answer": "A boat race."}],
        "Temporal": [{"video_name": "v_p1QGn0IzfW0", "question": "What comes first?", "answer": "The start."}],
        "Consistency": [
            {
                "video_name": "v_p1QGn0IzfW0",
                "question_1": "Where is the boat?",
                "question_2": "None",
                "answer": "On a lake.",
            },
            {
                "video_name": "v_p1QGn0IzfW0",
                "question_1": "None",
                "question_2": "On what does the boat swim?",
                "answer": "On a lake.",
            },
        ],
    },
    "video_mme": {
        "videomme": [
            _video_mme(1, "fFjv93ACGo8", "short", "Counting Problem", "C"),
            _video_mme(2, "N1cdUjctpG8", "medium", "OCR Problems", "B"),
            _video_mme(3, "rfOwKhlbuWw", "long", "OCR Problems", "A"),
        ]
    },
    "videohallucer": {
        category: [_hallucination("1052.mp4", "1052.mp4"), _hallucination("0024_a.mp4", "0024_b.mp4")]
        for category in get_benchmark("videohallucer").configs
    },
}


def rows_of(name: str) -> list[Row]:
    """The rows of a benchmark as its reader gets them."""
    many = bool(get_benchmark(name).configs)
    return [{**row, "_config": config} if many else dict(row) for config, rows in ROWS[name].items() for row in rows]


def files_of(benchmark: Benchmark) -> dict[str, bytes | str]:
    """The files of a benchmark's data set: Parquet, but for those that are JSON on the Hub."""
    if benchmark.data_files and benchmark.data_files.endswith(".jsonl"):
        return {benchmark.data_files: jsonl_file(ROWS[benchmark.name][""])}
    # Two benchmarks may be configurations of one data set.
    sharing = [name for name in ROWS if get_benchmark(name).dataset == benchmark.dataset]
    rows = {config: found for name in sharing for config, found in ROWS[name].items()}
    if benchmark.data_files:
        return {benchmark.data_files.format(config=config): json_file(rows[config]) for config in rows}
    if benchmark.name == "mvbench":
        card = data_card({config: f"json/{config}.json" for config in rows}, benchmark.split)
        return {"README.md": card, **{f"json/{config}.json": json_file(rows[config]) for config in rows}}
    paths = {config or "default": f"{config or 'data'}/{benchmark.split}-00000-of-00001.parquet" for config in rows}
    card = data_card(paths, benchmark.split)
    return {"README.md": card, **{paths[config or "default"]: parquet_file(rows[config]) for config in rows}}


__all__ = ["ROWS", "files_of", "rows_of"]
