"""The page of the metric's Space, where it can be tried."""

from pathlib import Path

import evaluate
from evaluate.utils import launch_gradio_widget

if __name__ == "__main__":
    launch_gradio_widget(evaluate.load(str(Path(__file__).with_name("judged_video_qa.py"))))

__all__: list[str] = []
