# %% [markdown]
# # Evaluating and comparing
#
# Runs offline with the included demo model: generates a small test set, evaluates two rules of choice on it, and
# compares the runs. With your model and one of the 14 benchmarks, only the settings change (`docs/evaluation.md`). The
# cells open as a notebook in VS Code, PyCharm, Spyder or with jupytext; `python examples/evaluate_and_compare.py` runs
# them.

# %%
from pathlib import Path

from rich.console import Console

from dynfocus.eval.benchmarks import get_benchmark
from dynfocus.eval.compare import compare_runs, print_comparison
from dynfocus.eval.report import print_summary, write_report
from dynfocus.eval.run import EvalSettings, evaluate
from dynfocus.eval.synthetic.builder import synthesize

work = Path("runs/example")
console = Console()

# %% [markdown]
# ## A test set
#
# Ten videos of two minutes, with questions of each kind. The same seed gives the same set.

# %%
videos = work / "test-set"
print(synthesize(videos, seed=11, num_videos=10, num_frames=128))

# %% [markdown]
# ## Two runs
#
# A run is a folder: its settings, every answer with its key frames, and the scores. Run the cell again after an
# interruption, and it continues; settings that differ from those of the folder are refused.

# %%
runs = {}
for name, rule in (("learned", None), ("uniform", "uniform")):
    settings = EvalSettings(get_benchmark("synthetic"), videos=str(videos), rule=rule, out=work / name)
    runs[name] = evaluate(settings)
    print_summary(console, runs[name])

# %% [markdown]
# ## Is the difference more than chance?
#
# Intervals and p-values treat the questions of one video as one cluster.

# %%
print_comparison(console, compare_runs(runs["uniform"], runs["learned"]))

# %% [markdown]
# ## A page for the folder

# %%
for path in write_report(runs["learned"]):
    print(path)
