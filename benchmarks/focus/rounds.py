"""
The rounds that train the model from which all rows start, in the layouts of all rows by turns, and the round that
makes the demo checkpoint from it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from recipe.answers import AnswerTraining
from recipe.data import ABSENT_NUMBER, KIND_WEIGHTS
from recipe.reading import DETAIL_WEIGHTS
from row_training import Guidance

from dynfocus.eval.synthetic.questions import UNANSWERABLE


@dataclass(frozen=True)
class Round:
    """
    Args:
        name (`str`): name of the file with the unfinished training.
        mixture (`dict`): share of the steps in the layout of each row, so that no layout is new to the rows.
        kinds, later (`dict`): how often each kind is asked, in the first turn and in the later ones.
        settings (`AnswerTraining`), guidance (`Guidance`): settings of the training.
        counts (`float`): share of chats that have only questions how many there are of something.
    """

    name: str
    mixture: Mapping[str, float]
    kinds: dict[str, float]
    later: dict[str, float]
    settings: AnswerTraining
    guidance: Guidance = Guidance()
    counts: float = 0.0


MIXTURE = {
    "dynfocus": 0.2,
    "blind": 0.05,
    "uniform": 0.15,
    "random": 0.1,
    "oracle": 0.2,
    "rods_only": 0.1,
    "dense": 0.1,
    "cones_only": 0.05,
    "pooled": 0.05,
}

#: Shares of the layouts in later rounds: more with key frames of the selector, and less with given ones.
MIXTURE_AFTERWARDS = {**MIXTURE, "dynfocus": 0.3, "random": 0.05, "oracle": 0.15}
#: Kinds that take longest to learn are asked most.
KINDS_AFTERWARDS = {**KIND_WEIGHTS, "color": 2.0, "shape": 2.0, "order": 2.5, "motion": 1.0, "locating": 2.5}
LATER_AFTERWARDS = {
    **DETAIL_WEIGHTS,
    "color": 1.5,
    "shape": 1.5,
    "number": 2.0,
    "order": 3.0,
    "motion": 1.0,
    "count": 2.0,
    "locating": 3.0,
}
SETTINGS_AFTERWARDS = AnswerTraining(
    learning_rate=1e-3, matrix_learning_rate=3e-3, score_rate=10.0, warm_up=50, save_every=100
)
#: In layouts with embedded scores, half of the steps have only the question of the selector: for the other questions
#: of a chat the scores would be misleading.
GUIDANCE_AFTERWARDS = Guidance(alone=0.5)

ROUNDS = (
    Round(
        "base",
        MIXTURE,
        KIND_WEIGHTS,
        DETAIL_WEIGHTS,
        AnswerTraining(learning_rate=1.2e-3, warm_up=50, save_every=100),
    ),
    *(
        Round(name, MIXTURE_AFTERWARDS, KINDS_AFTERWARDS, LATER_AFTERWARDS, SETTINGS_AFTERWARDS, GUIDANCE_AFTERWARDS)
        for name in ("base-again", "base-once-more")
    ),
)

#: From the shared start to the demo checkpoint, only in its layout: first with more questions that are hard in long
#: videos, then, after the selector has learned that nothing may fit, also with questions that have no answer. Counting
#: is learned slowly: in the last rounds, half of the chats or more have counts alone.
_KINDS_OF_CHECKPOINT = {**KINDS_AFTERWARDS, "order": 3.0, "locating": 3.5}
_CHECKPOINT = Round(
    "checkpoint",
    {"dynfocus": 1.0},
    _KINDS_OF_CHECKPOINT,
    LATER_AFTERWARDS,
    replace(SETTINGS_AFTERWARDS, learning_rate=6e-4, matrix_learning_rate=1.5e-3, warm_up=30, save_every=50),
    GUIDANCE_AFTERWARDS,
)
_WITH_ABSENCE = replace(
    _CHECKPOINT,
    name="checkpoint-absence",
    kinds={**_KINDS_OF_CHECKPOINT, "count": 2.5, UNANSWERABLE: 3.0, ABSENT_NUMBER: 1.2},
    guidance=replace(GUIDANCE_AFTERWARDS, counting=0.5),
)
COUNTING = replace(
    _WITH_ABSENCE,
    name="checkpoint-counting",
    kinds={**_WITH_ABSENCE.kinds, UNANSWERABLE: 2.8, ABSENT_NUMBER: 0.6},
    settings=replace(_CHECKPOINT.settings, learning_rate=1e-3, matrix_learning_rate=3e-3),
    guidance=replace(_WITH_ABSENCE.guidance, alone=0.35),
    counts=0.6,
)
#: The heads that count have found the events; now they learn to give equal attention to short and long ones. *Order*
#: needs the same heads, and is asked more in the end.
_FIRST_FRAMES = replace(
    COUNTING, name="checkpoint-first-frames", guidance=replace(COUNTING.guidance, first_frames=True)
)
_FIRST_FRAMES_AGAIN = replace(
    _FIRST_FRAMES,
    name="checkpoint-first-frames-again",
    kinds={**_FIRST_FRAMES.kinds, "order": 4.5},
    later={**_FIRST_FRAMES.later, "order": 4.5},
    counts=0.5,
)
_LARGE_NUMBERS = replace(
    _FIRST_FRAMES_AGAIN,
    name="checkpoint-large-numbers",
    settings=replace(COUNTING.settings, learning_rate=5e-4, matrix_learning_rate=1.5e-3),
    guidance=replace(_FIRST_FRAMES_AGAIN.guidance, large_numbers=True),
)
CHECKPOINT = (_CHECKPOINT, _WITH_ABSENCE, COUNTING, _FIRST_FRAMES, _FIRST_FRAMES_AGAIN, _LARGE_NUMBERS)
#: What the selector is asked after the first of these rounds. A shown number needs a high score: where it is only 0.5
#: to 0.8, as for some numbers in 512 frames, the language model refuses to answer.
KINDS_OF_ABSENCE = {
    "color": 3.0,
    "shape": 3.0,
    "number": 1.5,
    "order": 3.0,
    "first_last": 2.0,
    "motion": 1.0,
    "count": 1.0,
    "existence": 1.5,
    "locating": 2.0,
    UNANSWERABLE: 4.5,
    ABSENT_NUMBER: 1.5,
}

__all__ = ["CHECKPOINT", "COUNTING", "KINDS_OF_ABSENCE", "ROUNDS", "Round"]
