# %% [markdown]
# # Fine-tuning on a folder and a CSV file
#
# Runs offline on a CPU, in about three minutes of processor time: the included demo model learns a kind of question
# that it cannot answer. Needs `pip install "dynfocus[train]"`. The cells open as a notebook in VS Code, PyCharm,
# Spyder or with jupytext; `python examples/finetune_on_a_folder.py` runs them.

# %%
import csv
import json
import sys
from pathlib import Path

from transformers import pipeline

from dynfocus.eval.synthetic.builder import synthesize
from dynfocus.training.recipe import load_recipe
from dynfocus.training.train import train

work = Path("runs/example-training")
steps = int(sys.argv[1]) if sys.argv[1:] else 80

# %% [markdown]
# ## A folder of videos and two tables
#
# Here the videos are generated; yours take their place. A table has the columns `video`, `question` and `answer`, and
# paths start from its folder. Rows of known kinds are mixed in, so that the model does not forget them.


# %%
def write_table(name: str, *sets: dict) -> Path:
    rows = []
    for number, settings in enumerate(sets):
        folder = work / f"{name}-{number}"
        questions = synthesize(folder, num_frames=16, **settings)
        for line in questions.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            video = (folder / row["video"]).relative_to(work)
            rows.append({"video": video, "question": row["question"], "answer": row["answer"]})
    with open(work / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return work / f"{name}.csv"


new = {"kinds": ["object"], "questions_per_kind": 4}
training = write_table(
    "train",
    {"seed": 5, "split": "train", "num_videos": 72, **new},
    {"seed": 5, "split": "train", "num_videos": 12},
)
held_out = write_table("held-out", {"seed": 6, "split": "test", "num_videos": 30, **new})
print(training.read_text(encoding="utf-8").splitlines()[:3])

# %% [markdown]
# ## Train
#
# `tiny` is a recipe for the demo model; `lora` and `instruct` are for real ones (`docs/finetuning.md`). Settings of a
# recipe are replaced as on the command line. The held-out rows are answered before and after. The same call continues
# an interrupted run.

# %%
recipe = load_recipe(
    "tiny",
    [
        f"data.train={training}",
        f"data.eval={held_out}",
        f"training.output_dir={work / 'run'}",
        f"training.max_steps={steps}",
    ],
)
trained = train(recipe)

# %% [markdown]
# ## Ask the trained model

# %%
pipe = pipeline("video-qa", model=str(work / "run" / "model"))
with open(held_out, newline="", encoding="utf-8") as file:
    for row in list(csv.DictReader(file))[:5]:
        answer = pipe(str(work / row["video"]), question=row["question"])
        print(f"{row['question']} {answer['answer']} (expected: {row['answer']})")
