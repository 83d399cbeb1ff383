"""
What the demo checkpoint answers, and the numbers that lead to it: none of them changes unnoticed.

The values are in `golden.json`. `python tests/test_golden.py` writes them anew, after a change that is meant to change
them, and says which ones differ.
"""

import json
import math
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
    SiglipVisionModel,
    pipeline,
)

import dynfocus

ROOT = Path(__file__).resolve().parent.parent
VALUES = Path(__file__).resolve().parent / "golden.json"

# A detail, an order of events in a longer video, existence in a video with more frames than event prototypes.
QUESTIONS = {
    "detail": ("events.mp4", "Which number is shown with the red star?"),
    "order": ("shapes.mp4", "Which comes right after the yellow heart?"),
    "existence": ("long.mp4", "Is there a white heart?"),
}
# Of `events.mp4`: an absent object, an absent number that is like a shown one, a question of another kind; then the
# same words about what is shown.
WITHOUT_ANSWER = (
    "Which number is shown with the green triangle?",
    "What color is the shape with number 473?",
    "What is the weather like?",
)
WITH_ANSWER = {
    "Which number is shown with the red star?": "472",
    "What color is the shape with number 472?": "red",
    "What is the first shape?": "circle",
    "How many shapes appear?": "5",
    "How many stars appear?": "2",
}
# Weights of the saved checkpoint, and with them the modules that own them, keep their names.
SCORER = "model.event_prototypes.question_scorer"
SCORE_EMBEDDING = "model.cooperative_encoder.score_embedding"
OUTPUT_OF = {
    "blind scores": "model.event_prototypes.scorer.out_proj",
    "event order": f"{SCORER}.event_order",
    "event attention": f"{SCORER}.event_attention",
    "question scores": f"{SCORER}.out_proj",
    "score embedding of rods": f"{SCORE_EMBEDDING}.rods",
    "score embedding of cones": f"{SCORE_EMBEDDING}.cones",
}
INPUT_OF = {
    "scorer's input": f"{SCORER}.in_proj",
    "scorer's last input": f"{SCORER}.out_proj",
    "embeddings of the prompt": "model.language_model.layers.0.input_layernorm",
}
NUM_TIME_FEATURES = 4
TENSORS = [*OUTPUT_OF, "late interaction", "late interaction, last", "time features", "embeddings of the prompt"]
# Matrix kernels of other processors round otherwise, which changes these numbers by up to a tenth of this.
RTOL = 1e-4
# Rounding may also decide which group a patch of one frame belongs to.
RTOL_OF = {"embeddings of the prompt": 2e-3}


def load() -> Any:
    return pipeline(
        "video-qa",
        model=str(ROOT / "checkpoints" / "dynfocus-tiny"),
        pipeline_class=dynfocus.VideoQAPipeline,
        device="cpu",
    )


def ask(pipe: Any, video: str, question: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The pipeline's result, and the tensors `TENSORS`, each `(rows, width)`, on the way to it."""
    seen: dict[str, list[torch.Tensor]] = {name: [] for name in (*OUTPUT_OF, *INPUT_OF)}
    with ExitStack() as stack:
        for name, module in (OUTPUT_OF | INPUT_OF).items():

            def record(module: Any, args: Any, output: torch.Tensor, name: str = name) -> None:
                seen[name].append(args[0] if name in INPUT_OF else output)

            stack.enter_context(pipe.model.get_submodule(module).register_forward_hook(record))
        result = pipe(str(ROOT / "examples" / video), question=question, return_details=True, decoder="pyav")
    # A module may be called for chunks of frames.
    tensors = {name: torch.cat([one.flatten(0, -2) for one in calls]) for name, calls in seen.items()}
    num_queries = pipe.model.get_parameter("model.question_encoder.query_tokens").shape[1]
    first, last = tensors.pop("scorer's input"), tensors.pop("scorer's last input")
    time_features = first[:, -num_queries - NUM_TIME_FEATURES : -num_queries]
    matches = {"late interaction": first[:, -num_queries:], "late interaction, last": last[:, -num_queries:]}
    return result, {**tensors, **matches, "time features": time_features}


def summary(tensor: torch.Tensor) -> dict[str, Any]:
    """A few numbers that hardly any change of a tensor, or of the order of its entries, leaves as they are."""
    flat = tensor.double().flatten()
    entries = flat[torch.linspace(0, len(flat) - 1, 8).long()]
    wave = torch.arange(len(flat), dtype=torch.float64).cos()
    return {
        "shape": list(tensor.shape),
        "sum": flat.sum().item(),
        "sum of squares": flat.square().sum().item(),
        "wave": (flat * wave).sum().item(),
        "entries": entries.tolist(),
    }


def measure(pipe: Any, video: str, question: str) -> dict[str, Any]:
    result, tensors = ask(pipe, video, question)
    return {
        "answer": result["answer"],
        "score": result["score"],
        "num_visual_tokens": result["num_visual_tokens"],
        "key_frames": [frame["index"] for frame in result["key_frames"]],
        "medoids": [event["medoid"] for event in result["events"]],
        "event_scores": [event["score"] for event in result["events"]],
        "tensors": {name: summary(tensors[name]) for name in TENSORS},
    }


def check_summary(found: dict[str, Any], expected: dict[str, Any], rtol: float) -> None:
    assert found["shape"] == expected["shape"]
    squares = expected["sum of squares"]
    norm, size = math.sqrt(squares), math.sqrt(squares / math.prod(expected["shape"]))
    assert found["sum of squares"] == pytest.approx(squares, rel=rtol)
    # Rounding of single entries adds up as their norm does.
    assert found["sum"] == pytest.approx(expected["sum"], rel=0, abs=rtol * norm)
    assert found["wave"] == pytest.approx(expected["wave"], rel=0, abs=rtol * norm)
    assert found["entries"] == pytest.approx(expected["entries"], rel=rtol, abs=rtol * size)


@pytest.fixture(scope="module")
def pipe():
    return load()


@pytest.fixture(scope="module")
def found(pipe):
    return {name: measure(pipe, *asked) for name, asked in QUESTIONS.items()}


@pytest.fixture(scope="module")
def expected():
    return json.loads(VALUES.read_text())


@pytest.mark.parametrize("name", QUESTIONS)
def test_answers(name, found, expected):
    for field in ("answer", "num_visual_tokens"):
        assert found[name][field] == expected[name][field]
    assert found[name]["score"] == pytest.approx(expected[name]["score"], rel=RTOL)


@pytest.mark.parametrize("name", QUESTIONS)
def test_events_and_key_frames(name, found, expected):
    for field in ("medoids", "key_frames"):
        assert found[name][field] == expected[name][field]
    assert found[name]["event_scores"] == pytest.approx(expected[name]["event_scores"], rel=RTOL, abs=1e-6)


def test_questions_without_an_answer_are_refused_and_no_others(pipe):
    answers = pipe(str(ROOT / "examples" / "events.mp4"), question=[*WITHOUT_ANSWER, *WITH_ANSWER], decoder="pyav")
    found = [answer["answer"] for answer in answers]
    assert found == ["unanswerable"] * len(WITHOUT_ANSWER) + list(WITH_ANSWER.values())


@pytest.mark.parametrize("tensor", TENSORS)
@pytest.mark.parametrize("name", QUESTIONS)
def test_what_leads_to_the_answers(name, tensor, found, expected):
    rtol = RTOL_OF.get(tensor, RTOL)
    check_summary(found[name]["tensors"][tensor], expected[name]["tensors"][tensor], rtol)


def test_words_of_a_new_question_encoder_are_centered(tmp_path):
    """What all words of a language model share says nothing about any of them, and is taken away."""
    num_words = 80
    sizes = {"intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    SiglipVisionModel(SiglipVisionConfig(hidden_size=24, image_size=32, patch_size=4, **sizes)).save_pretrained(
        tmp_path / "vision"
    )
    text = LlamaForCausalLM(LlamaConfig(vocab_size=num_words, hidden_size=128, tie_word_embeddings=False, **sizes))
    embeddings = text.get_input_embeddings().weight.data
    embeddings.normal_().add_(3 * torch.randn(128))
    text.save_pretrained(tmp_path / "language")
    words = {word: number for number, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", *"abcdefgh"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(tmp_path / "language")

    model, _ = dynfocus.from_backbones(tmp_path / "vision", tmp_path / "language")
    words = model.get_parameter("model.question_encoder.qformer.embeddings.word_embeddings.weight").detach()
    assert len(words) == num_words
    # The padding token's embedding is zero.
    words, before = words[words.any(1)], embeddings
    assert len(words) >= num_words - 1
    assert before.mean(0).norm() > 2 * before.std(0).norm()
    assert words.mean(0).norm() < 0.05 * words.std(0).norm()
    # So different words are about orthogonal, where those of the language model are nearly alike.
    assert mean_cosine(before) > 0.8
    assert abs(mean_cosine(words)) < 0.02


def mean_cosine(vectors: torch.Tensor) -> float:
    """Mean cosine of all pairs of different rows."""
    unit = vectors / vectors.norm(dim=1, keepdim=True)
    cosines = unit @ unit.T
    return ((cosines.sum() - cosines.trace()) / (len(unit) * (len(unit) - 1))).item()


def write() -> None:
    """Measure anew, say what differs from the stored values, and store what was measured."""
    torch.set_num_threads(1)
    pipe = load()
    new = {name: measure(pipe, *asked) for name, asked in QUESTIONS.items()}
    old = json.loads(VALUES.read_text()) if VALUES.is_file() else {}
    for name, values in new.items():
        for field, value in {**values, **values["tensors"]}.items():
            before = {**old.get(name, {}), **old.get(name, {}).get("tensors", {})}.get(field)
            if field != "tensors" and before != value:
                print(f"{name}, {field}: {before} -> {value}")
    VALUES.write_text(json.dumps(new, indent=1) + "\n")


if __name__ == "__main__":
    write()
