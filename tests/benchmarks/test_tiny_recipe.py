"""The tiny checkpoint's recipe: what the model is shown, and what it is asked to say."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from recipe.absence import learn_absence
from recipe.answers import AnswerTraining, build_optimizers, set_learning_rates
from recipe.chats import ChatWriter
from recipe.data import (
    ABSENT_NUMBER,
    KIND_WEIGHTS,
    FeatureSet,
    QuestionBatches,
    counted_events,
    draw_counts,
    draw_question,
    frame_labels,
    tell_story,
)
from recipe.guidance import FIRST_TOKEN, counting_loss, preceding_loss
from recipe.model import add_embeddings, build_config, build_processor, start_plurals
from recipe.naming import NAMES, Naming, named_in
from recipe.teaching import ask, teach_scores
from recipe.tokenizer import add_word, build_tokenizer
from recipe.words import MATCH_BIAS, MATCH_SCALE, fix_words, learn_words, word_losses
from sizes import Part
from transformers import AutoTokenizer

from dynfocus import DynFocusForConditionalGeneration
from dynfocus.eval.synthetic.other_questions import OTHER_QUESTIONS
from dynfocus.eval.synthetic.questions import Question, make_questions
from dynfocus.eval.synthetic.world import COLORS, SHAPES, sample_episode, truth_table
from dynfocus.processing.token_plan import TokenPlan
from dynfocus.states.video_state import VideoState
from dynfocus.training.likelihood import answer_likelihoods


@pytest.fixture(scope="module")
def processor():
    return build_processor(build_tokenizer(episodes=40))


@pytest.fixture(scope="module")
def episodes():
    return [sample_episode(np.random.default_rng(seed), 16, "train", (2, 3)) for seed in range(6)]


class NoState:
    """Stands for the states of videos, which these tests do not look at."""

    def tensors(self):
        return {}


def batches_of(processor, episodes, monkeypatch, kinds=KIND_WEIGHTS, **kwargs) -> QuestionBatches:
    features = FeatureSet(NoState(), episodes)
    monkeypatch.setattr(features, "batch", lambda rows, device: None)
    return QuestionBatches(features, processor, 16, kinds, **kwargs)


def test_labels_say_what_the_frames_show(episodes):
    for episode in episodes:
        labels = frame_labels(episode)
        for time, truth in enumerate(truth_table(episode)):
            assert labels["present"][time] == (truth is not None)
            if truth is None:
                assert all(labels[name][time] == -100 for name in NAMES)
                continue
            assert list(COLORS)[labels["color"][time]] == truth.color
            assert list(SHAPES)[labels["shape"][time]] == truth.shape
            digits = [labels[name][time] for name in ("hundreds", "tens", "ones")]
            assert 100 * digits[0] + 10 * digits[1] + digits[2] == truth.number
            assert (labels["x"][time], labels["y"][time]) == pytest.approx((truth.x, truth.y))


@pytest.mark.parametrize(
    ("question", "named"),
    [
        ("What is the color of the shape numbered 471?", {"hundreds 4", "tens 7", "ones 1"}),
        ("Which comes first, the red star or the blue cross?", {"red", "star", "blue", "cross"}),
        ("How many crosses appear?", {"cross"}),
        ("What is the first number?", set()),
    ],
)
def test_what_a_question_names(question, named):
    places = ("hundreds", "tens", "ones")
    words = [*COLORS, *SHAPES, *(f"{place} {digit}" for place in places for digit in range(10))]
    found = named_in(question)
    assert {word for word, there in zip(words, found, strict=True) if there} == named
    assert len(found) == sum(NAMES.values())


def test_labels_are_the_answers_and_their_ends(processor, episodes, monkeypatch):
    batches = batches_of(processor, episodes, monkeypatch, turns=5)
    rows, turns = batches.draw(np.random.default_rng(0), 12)
    inputs = batches.collate(rows, turns, "cpu")
    assert max(len(questions) for questions in turns) == 5
    tokenizer, eos = processor.tokenizer, processor.tokenizer.eos_token
    for row, questions in enumerate(turns):
        labels = inputs["labels"][row]
        wanted = "".join(f" {question.answer}{eos}" for question in questions)
        assert tokenizer.decode(labels[labels != -100]) == wanted
        real = inputs["input_ids"][row][inputs["attention_mask"][row].bool()]
        assert torch.equal(labels[labels != -100], inputs["input_ids"][row][labels != -100])
        asked = tokenizer.decode(inputs["question_input_ids"][row], skip_special_tokens=True)
        assert asked == questions[0].question
        # The same text that the chat template gives for the whole conversation.
        chat = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": questions[0].question}]}]
        for before, after in zip(questions, questions[1:], strict=False):
            chat += [{"role": "assistant", "content": before.answer}, {"role": "user", "content": after.question}]
        chat.append({"role": "assistant", "content": questions[-1].answer})
        text = processor.apply_chat_template(chat)
        video = processor.video_token
        assert tokenizer.decode(real).replace(batches.plan.num_visual_tokens * video, video) == text


def test_a_story_comes_last_as_it_would_answer_the_others(processor, episodes, monkeypatch):
    batches = batches_of(processor, episodes, monkeypatch, turns=6)
    _, turns = batches.draw(np.random.default_rng(1), 40)
    places = [
        [question.kind for question in questions].index("story")
        for questions in turns
        if any(question.kind == "story" for question in questions)
    ]
    lengths = [len(questions) for questions in turns if questions[-1].kind == "story"]
    assert len(places) > 10 and places == [length - 1 for length in lengths]
    assert all(tell_story(episode).answer.count(",") == len(episode.events) - 1 for episode in episodes)


def test_frames_asked_about_are_those_of_the_first_question(processor, episodes, monkeypatch):
    batches = batches_of(processor, episodes, monkeypatch, turns=3)
    rows, turns = batches.draw(np.random.default_rng(2), 8)
    asked = batches.collate(rows, turns, "cpu")["asked"]
    assert [row.nonzero()[:, 0].tolist() for row in asked] == [sorted(questions[0].frames) for questions in turns]


def test_counted_events_are_as_many_as_the_answer_says(processor, monkeypatch):
    rng = np.random.default_rng(4)
    drawn = [sample_episode(rng, 32, "train") for _ in range(60)]
    questions = [make_questions(episode, rng, 3, ["count"]) for episode in drawn]
    for episode, asked in zip(drawn, questions, strict=True):
        for question in asked:
            events = counted_events(question, episode)
            assert len(events) == int(question.answer)
            assert not question.question.startswith("How often") or set(question.event_ids) == {
                episode.events.index(event) for event in events
            }
    batches = batches_of(processor, drawn, monkeypatch)
    other = Question("Who is there?", "unanswerable", "unanswerable", (), ())
    shown = Question("Which shape appears first?", "star", "first_last", (0,), tuple(drawn[7].events[0].frames))
    counted = batches.counted(np.array([7]), [[other, shown, *questions[7]]], 32)[0]
    assert (counted[0] == 0).all() and (counted[1] == -1).all()
    assert [row.amax().item() for row in counted[2:]] == [int(question.answer) for question in questions[7]]


def test_large_numbers_are_counted_as_often_as_small_ones():
    rng = np.random.default_rng(7)
    few, one_each = [0] * 6, 0
    for _ in range(60):
        episode = sample_episode(rng, 64, "train", (7, 8))
        questions = draw_counts(episode, rng, 4)
        assert 1 <= len(questions) <= 4 and {one.kind for one in questions} == {"count"}
        assert len({one.question for one in questions}) == len(questions)
        for question in questions:
            few[min(int(question.answer), 5)] += 1
        one_each += int(draw_counts(episode, rng, 1)[0].answer) >= 5
    # Drawn as they come, all events are asked for in a third of the questions, and in two texts only.
    assert few[5] >= 0.15 * sum(few) and max(few) <= 0.35 * sum(few)
    assert one_each >= 10


def test_some_chats_have_counts_alone(processor, episodes, monkeypatch):
    def kinds_of_chats(counts):
        batches = batches_of(processor, episodes, monkeypatch, {"motion": 1.0}, turns=3, counts=counts)
        _, turns = batches.draw(np.random.default_rng(3), 40)
        return [{question.kind for question in chat} for chat in turns]

    assert all(kinds == {"count"} for kinds in kinds_of_chats(1.0))
    assert not any(kinds == {"count"} for kinds in kinds_of_chats(0.0))
    assert 10 <= sum(kinds == {"count"} for kinds in kinds_of_chats(0.5)) <= 30


def test_a_head_that_counts_attends_to_each_event_as_to_the_first_token(processor):
    """Two questions about a video of four frames with two tokens each: two events are counted, then none."""
    asked = [
        Question(f"How many {name}?", answer, "count", (), ()) for name, answer in (("stars", "2"), ("rings", "0"))
    ]
    writer = ChatWriter(processor)
    chats, start = writer.write([asked], 8, 4), len(writer.before)
    counted = torch.tensor([[[1, 1, 0, 2], [0, 0, 0, 0]]])
    frames = torch.arange(4).repeat_interleave(2)[None]
    length, turns = chats.input_ids.shape[1], chats.turn_of_token[0, 1:]

    def loss(first, *of_frames):
        """With these shares of attention, all of it on the first token for the second question."""
        shares = torch.zeros(1, 1, length, length)
        for place in (turns == 0).nonzero()[:, 0]:
            shares[0, 0, place, 0] = first
            shares[0, 0, place, start : start + 8] = torch.tensor(of_frames).repeat_interleave(2) / 2
        shares[0, 0, (turns == 1).nonzero()[:, 0], 0] = 1
        return counting_loss([shares] * 4, chats, counted, frames, start).item()

    even = loss(1 / 3, 1 / 3, 0.0, 0.0, 1 / 3)
    assert even == pytest.approx(0, abs=1e-3)
    assert loss(1 / 3, 0.2, 0.133, 0.0, 1 / 3) == pytest.approx(even, abs=1e-3), "any frame of an event"
    for other in (
        (0.0, 0.5, 0.0, 0.0, 0.5),
        (0.6, 0.2, 0.0, 0.0, 0.2),
        (1 / 3, 0.5, 0.0, 0.0, 1 / 6),
        (0.2, 0.2, 0, 0.4, 0.2),
    ):
        assert loss(*other) > even + 0.02
    # Nothing is asked of other answers.
    nothing = torch.full_like(counted, -1)
    assert counting_loss([torch.zeros(1, 1, length, length)] * 4, chats, nothing, frames, start) == 0


def test_a_head_that_counts_first_frames_attends_to_their_rods_alone(processor):
    """Two events in five frames, of which the second has a cone, too: frames 0 and 1, and frame 3."""
    asked, writer = [Question("How many stars?", "2", "count", (), ())], ChatWriter(processor)
    chats, start = writer.write([asked], 11, 5), len(writer.before)
    counted = torch.tensor([[[1, 1, 0, 2, 0]]])
    frames = torch.tensor([[0, 0, 1, 1, 1, 2, 2, 3, 3, 4, 4]])
    length, places = chats.input_ids.shape[1], (chats.turn_of_token[0, 1:] == 0).nonzero()[:, 0]

    def loss(first, large_numbers=False, **of_tokens):
        """With these shares of attention of the tokens `t0` to `t10`."""
        shares = torch.zeros(1, 1, length, length)
        shares[0, 0, places, 0] = first
        for name, share in of_tokens.items():
            shares[0, 0, places, start + int(name[1:])] = share
        return counting_loss([shares] * 4, chats, counted, frames, start, True, large_numbers).item()

    event, first = 1 / (FIRST_TOKEN + 2), FIRST_TOKEN / (FIRST_TOKEN + 2)
    assert loss(first, t0=event / 2, t1=event / 2, t7=event) == pytest.approx(0, abs=5e-3), "any rod of the frame"
    for others in (
        {"t3": event / 2, "t0": event / 2, "t7": event},  # an event that goes on
        {"t0": event, "t5": event},  # no counted event
        {"t0": 1.5 * event, "t7": event / 2},
    ):
        assert loss(first, **others) > 0.03, others
    for other in (first - 0.2, first + 0.2):
        rest = (1 - other) / 2
        assert loss(other, t0=rest, t7=rest) > 0.1
        assert loss(other, large_numbers=True, t0=rest, t7=rest) > 1.5 * loss(other, t0=rest, t7=rest)


def test_each_frame_is_guided_to_the_one_before():
    frames = torch.tensor([[0, 0, 1, 1, 1, 2, 2]])  # Frame 1 has a cone before its rods.

    def loss(*pairs):
        attention = torch.zeros(1, 1, 9, 9)
        for query, key in pairs:
            attention[0, 0, 2 + query, 2 + key] = 1
        return preceding_loss([attention] * 4, frames, 2).item()

    assert loss((3, 0), (4, 1), (5, 3), (6, 4)) == pytest.approx(0, abs=1e-3)
    for other in ([(3, 3), (4, 4), (5, 5), (6, 6)], [(3, 0), (4, 1), (5, 2), (6, 0)], []):
        assert loss(*other) > 1


def test_tokens_that_say_the_right_words_have_the_smallest_loss(processor, episodes):
    """Sums of a frame's directions are what the naming losses ask for; any other frame's are worse."""
    from dynfocus import DynFocusForConditionalGeneration

    model = DynFocusForConditionalGeneration(build_config(processor.tokenizer))
    naming = Naming(model, processor.tokenizer, seed=0)
    labels = {name: torch.from_numpy(values)[None] for name, values in frame_labels(episodes[0]).items()}
    shown = labels["present"][0].bool()
    tokens = torch.zeros(1, 16, model.config.text_config.hidden_size)
    for name in ("color", "shape"):
        tokens[0, shown] += naming.codes[name][labels[name][0, shown]]
    tokens[0, shown] += naming.present
    right = naming.rods(tokens, labels)
    wrong = naming.rods(tokens.flip(1), labels)
    for name in ("rod color", "rod shape", "rod present"):
        assert right[name] < 0.2 and right[name] < wrong[name]


def test_questions_of_other_kinds_are_read_to_their_end(processor):
    texts = [text.format("magenta triangle") for several in OTHER_QUESTIONS.values() for text in several]
    assert max(len(ids) for ids in processor.tokenizer(texts)["input_ids"]) <= processor.max_question_tokens


def test_a_new_word_is_one_token_and_all_other_text_keeps_its_tokens(tmp_path):
    tokenizer = build_tokenizer(episodes=20)
    texts = ["USER: \nWhich number has the red star?\nASSISTANT: 472</s>", "able un answer", "unanswerable"]
    before, size = tokenizer(texts)["input_ids"], len(tokenizer)
    assert len(tokenizer(" unanswerable")["input_ids"]) > 1
    add_word(tokenizer, "unanswerable")
    tokenizer.save_pretrained(tmp_path)
    for one in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        assert one(texts)["input_ids"] == before
        assert one("ASSISTANT: unanswerable</s>")["input_ids"][-2:] == [size, one.eos_token_id]
        assert one.decode(one("A: unanswerable")["input_ids"]) == "A: unanswerable"


def test_new_embeddings_leave_those_of_other_words_as_they_are(processor):
    model = DynFocusForConditionalGeneration(build_config(processor.tokenizer))
    size = len(processor.tokenizer)

    def words():
        names = ("model.language_model.embed_tokens", "model.question_encoder.qformer.embeddings.word_embeddings")
        return [model.get_parameter(f"{name}.weight").detach().clone() for name in names]

    before = words()
    add_embeddings(model, size + 1, seed=1)
    for one, known in zip(words(), before, strict=True):
        assert len(one) == size + 1 and torch.equal(one[:size], known)
        assert one[size].norm() == pytest.approx(known[4:].norm(dim=1).mean().item(), rel=0.3)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert model.config.text_config.vocab_size == model.config.question_config.vocab_size == size + 1


def test_plurals_start_as_their_singulars(processor):
    tokenizer = processor.tokenizer
    model = DynFocusForConditionalGeneration(build_config(tokenizer))

    def of(text):
        ids = tokenizer(f" {text}", add_special_tokens=False)["input_ids"]
        assert len(ids) == 1
        vocabularies = model.get_input_embeddings(), model.model.question_encoder.qformer.embeddings.word_embeddings
        return [embeddings.weight[ids[0]].detach().clone() for embeddings in vocabularies]

    stars, shapes = of("star"), of("shapes")
    start_plurals(model, tokenizer)
    for plural, singular in (("stars", "star"), ("squares", "square")):
        assert all(map(torch.equal, of(plural), of(singular)))
    assert all(map(torch.equal, of("star"), stars)) and all(map(torch.equal, of("shapes"), shapes))
    assert not any(map(torch.equal, of("stars"), of("square")))


def test_a_question_without_answer_is_the_only_one_of_its_chat(processor, episodes, monkeypatch):
    kinds = {"unanswerable": 1.0, ABSENT_NUMBER: 1.0, "color": 1.0}
    batches = batches_of(processor, episodes, monkeypatch, kinds=kinds, turns=4)
    _, turns = batches.draw(np.random.default_rng(3), 60)
    refused = [chat for chat in turns if chat[0].answer == "unanswerable"]
    assert 20 < len(refused) < 60 and all(len(chat) == 1 for chat in refused)
    assert any(len(chat) > 1 for chat in turns)
    rng = np.random.default_rng(5)
    for episode in episodes:
        (question,) = draw_question(episode, rng, ABSENT_NUMBER)
        assert question.answer == "unanswerable"
        assert not any(str(event.number) in question.question for event in episode.events)
        assert any(map(str.isdigit, question.question))


def test_only_the_selector_learns_that_nothing_fits(processor, episodes, tmp_path):
    torch.manual_seed(0)
    model = DynFocusForConditionalGeneration(build_config(processor.tokenizer))
    with torch.no_grad():
        features = FeatureSet(model.encode_video(torch.randn(len(episodes), 16, 3, 64, 64)), episodes)
    batches = QuestionBatches(features, processor, 16, {"color": 1.0, ABSENT_NUMBER: 1.0})
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    logged: list[str] = []
    learn_absence(
        model,
        [(Part(16, 1, 1, 4, ()), batches)],
        tmp_path / "absence.partial",
        steps=2,
        learning_rate=1e-3,
        seed=1,
        device="cpu",
        log=logged.append,
    )
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert {name.split(".")[1] for name in changed} == {"question_encoder", "event_prototypes"}
    assert "best score without answer" in logged[-1] and "best event is asked" in logged[-1]


def test_the_plan_of_the_recipe_is_the_one_in_the_documents(processor):
    plan = processor.token_budget().plan(32)
    assert isinstance(plan, TokenPlan)
    assert plan.num_visual_tokens == 216


def test_the_score_embedding_learns_at_its_own_rate(processor):
    model = DynFocusForConditionalGeneration(build_config(processor.tokenizer))
    telling = {id(one) for one in model.model.cooperative_encoder.score_embedding.parameters()}

    def rates(settings):
        optimizers = build_optimizers(model, settings)
        set_learning_rates(optimizers, settings, 4, 100)
        found = {id(one): group["lr"] for each in optimizers for group in each.param_groups for one in group["params"]}
        assert found.keys() == {id(one) for one in model.parameters() if one.requires_grad}
        return found

    common = AnswerTraining(warm_up=10)
    assert set(rates(common).values()) == {0.5 * common.learning_rate, 0.5 * common.matrix_learning_rate}
    found = rates(AnswerTraining(warm_up=10, score_rate=10.0))
    assert {found[one] for one in telling} == {5 * common.learning_rate}
    assert {rate for one, rate in found.items() if one not in telling} == set(rates(common).values())


def test_chats_are_padded_to_few_lengths(processor, episodes, monkeypatch):
    batches = batches_of(processor, episodes, monkeypatch, turns=3)
    for seed in range(5):
        rows, turns = batches.draw(np.random.default_rng(seed), 2)
        inputs = batches.collate(rows, turns, "cpu")
        assert inputs["input_ids"].shape == inputs["labels"].shape == inputs["attention_mask"].shape
        assert inputs["input_ids"].shape[1] % 32 == 0
        read = inputs["attention_mask"].sum(1)
        assert all(
            inputs["input_ids"].shape[1] - 32 < read.max() and (mask[:n] == 1).all()
            for mask, n in zip(inputs["attention_mask"], read, strict=True)
        )


def state_of(num_videos, width) -> VideoState:
    generator = torch.Generator().manual_seed(0)
    return VideoState(
        frame_features=torch.randn(num_videos, 16, 16, width, generator=generator),
        grouped_tokens=torch.randn(num_videos, 16, 22, width, generator=generator),
        parent_of_token=torch.zeros(num_videos, 16, 22, dtype=torch.long),
        frame_mask=torch.ones(num_videos, 16, dtype=torch.bool),
    )


def test_a_new_selector_learns_words_without_being_told_which_frames_matter(
    processor, episodes, tmp_path, monkeypatch
):
    """Its losses are the same whichever frames the questions are about, and its score then counts matches."""
    torch.manual_seed(0)
    model = DynFocusForConditionalGeneration(build_config(processor.tokenizer))
    naming, width = Naming(model, processor.tokenizer, seed=0), model.config.vision_config.hidden_size
    batches = batches_of(processor, episodes, monkeypatch)
    monkeypatch.setattr(batches.features, "batch", lambda rows, device: state_of(4, width))
    rows, turns = batches.draw(np.random.default_rng(0), 4)
    elsewhere = [[replace(questions[0], frames=(0,), event_ids=())] for questions in turns]
    losses = [
        word_losses(model, naming, batches, rows, asked, np.random.default_rng(1), "cpu")
        for asked in (turns, elsewhere)
    ]
    assert losses[0] == losses[1] and losses[0].keys() == {"question names", "frame names"}

    settings = {"batch_size": 4, "learning_rate": 1e-3, "seed": 1, "device": "cpu", "log": print}
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    learn_words(model, naming, batches, tmp_path / "words.partial", steps=1, **settings)
    changed = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert changed and all("question_encoder" in name or "question_scorer" in name for name in changed)
    scorer = model.model.event_prototypes.question_scorer
    queries, tokens = torch.randn(1, 3, 5, width), torch.randn(1, 3, 4, width)
    with torch.no_grad():
        score = scorer(queries, tokens, torch.randn(1, 3, 2 * width), torch.rand(1, 3, 4), torch.ones(1, 3).bool())
        products = scorer.query_match(scorer.query_norm(queries)) @ scorer.token_match(tokens).mT / width**0.5
    torch.testing.assert_close(score, MATCH_SCALE * products.amax(-1).sum(-1) + MATCH_BIAS)
    fix_words(model)
    fixed = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    assert {name for name in changed if "out_proj" not in name} <= fixed
    trained = {f"model.event_prototypes.question_scorer.{name}.weight" for name in ("in_proj", "out_proj")}
    assert not trained & fixed


def test_the_language_model_teaches_the_scores(processor, episodes, tmp_path, monkeypatch):
    """Each event is tried once, what is kept gives the model's own scores, and only what is not fixed is trained."""
    torch.manual_seed(0)
    model = DynFocusForConditionalGeneration(build_config(processor.tokenizer)).eval()
    inner, width = model.model, model.config.vision_config.hidden_size
    scorers = inner.event_prototypes
    torch.nn.init.normal_(scorers.question_scorer.out_proj.weight)
    batches = batches_of(processor, episodes, monkeypatch)
    monkeypatch.setattr(batches.features, "batch", lambda rows, device: state_of(len(rows), width))
    plan = TokenPlan(16, 6, 1, 16, 2 * 16 + 38)
    *seen, tried, likelihoods = ask(model, batches, plan, np.random.default_rng(0), 3, 4, "cpu")
    assert tried.shape == likelihoods.shape == (3, 4) and all(len(set(row)) == 4 for row in tried.tolist())
    rows, turns = batches.draw(np.random.default_rng(0), 3)
    inputs = batches.collate(rows, turns, "cpu", plan)
    inputs.pop("asked")
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(answer_likelihoods(model, inputs, tried), likelihoods)
        expected = torch.stack(model(**inputs).video_outputs.event_scores)
    queries, tokens, pooled, times, mask = seen
    with torch.no_grad():
        scores = scorers.scorer(pooled, mask)
        scores = scores + scorers.question_scorer(queries.float(), tokens.float(), pooled, times, mask)
    torch.testing.assert_close(scores, expected, atol=0.1, rtol=0.05)

    fix_words(model)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    settings = {"batch_size": 2, "learning_rate": 1e-3, "seed": 1, "device": "cpu", "log": print}
    numbers = {"num_questions": 3, "num_events": 4, "steps": 1}
    teach_scores(model, batches, plan, tmp_path / "taught.partial", **numbers, **settings)
    changed = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert changed and all(name.startswith("model.event_prototypes.") for name in changed)
    assert not any("_match" in name for name in changed)
