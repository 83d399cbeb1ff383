"""Recipes and rows: what they take, and one clear sentence for what they do not."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from peft import get_peft_model
from tiny import make_tiny_processor, make_tiny_tokenizer
from tiny_models import tiny_config, tiny_model, tiny_text_config
from torch.utils.flop_counter import FlopCounterMode
from training_runs import QUESTION, recipe_settings, write_recipe
from transformers import AutoModelForCausalLM, TrainingArguments
from typer.testing import CliRunner

from dynfocus import DynFocusCollator, DynFocusForConditionalGeneration
from dynfocus.cli.app import app
from dynfocus.training.answer_evaluation import answer_table, gain
from dynfocus.training.check import _length, check_recipe, estimate_flops, estimate_memory
from dynfocus.training.lengths import row_lengths
from dynfocus.training.parts import NEW_PARTS, PARTS, freeze, lora_config, names_in, part_sizes, plain_name
from dynfocus.training.recipe import RECIPES, Recipe, load_recipe, recipe_names
from dynfocus.training.rows import Source, load_rows, make_synthetic, stream_rows
from dynfocus.training.setup import check_fit, load_data, load_model, training_arguments


@pytest.fixture
def settings(rows, start, tmp_path) -> dict:
    return recipe_settings(start, rows, tmp_path / "run")


def dynfocus(*words) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["train", *map(str, words)])
    return done.exit_code, done.output


# ---- recipes


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_that_comes_along_is_one(name, rows, tmp_path):
    overrides = [f"data.train={rows}", f"training.output_dir={tmp_path / 'run'}", "training.bf16=false"]
    overrides.append("training.use_cpu=true")
    if name == "lora":
        overrides += ["model.checkpoint=some/model", f"data.eval={rows}"]
    recipe = load_recipe(name, overrides)
    arguments = training_arguments(recipe)
    assert arguments.learning_rate > 0 and arguments.remove_unused_columns is False
    model = tiny_model()
    for pattern in (*recipe.freeze, *recipe.learning_rates):
        assert names_in(model, pattern)
    # What the first lines of a recipe tell the user to type is about that recipe.
    assert f" {name}" in (RECIPES / f"{name}.yaml").read_text().split("model:")[0]


def test_both_stages_train_the_selector():
    for name in ("align", "instruct"):
        model = tiny_model()
        freeze(model, load_recipe(name, ["data.train=x.json"]).freeze)
        trained = {part for part, (_, learned) in part_sizes(model).items() if learned}
        assert trained == ({*NEW_PARTS} if name == "align" else {*NEW_PARTS, "language_model"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update(modle={}), "unknown key `modle` (is it `model`?)"),
        (lambda s: s["data"].update(trian="x"), "unknown key `data.trian` (is it `train`?)"),
        (lambda s: s["data"].update(train=[{"path": "x", "splt": "y"}]), "splt` (is it `split`?)"),
        (
            lambda s: s["training"].update(learning_rat=1),
            "`learning_rat` is no field of TrainingArguments (is it `learn",
        ),
        (
            lambda s: s["training"].update(push_to_hub=True),
            "`push_to_hub` is set by `push_to_hub` of the recipe itself",
        ),
        (lambda s: s["training"].update(output_dir=None), "`output_dir` is missing"),
        (lambda s: s["data"].update(train=None), "`data.train` is missing: a file, folder or Hub id"),
        (lambda s: s["data"].update(fps=-1), "`data.fps`: Input should be greater than 0"),
        (lambda s: s.pop("training"), "`training` is missing"),
        (lambda s: s["model"].update(vision="x"), "give either `checkpoint`, or both `vision` and `language_model`"),
        (lambda s: s.update(model={"vision": "x"}), "give either `checkpoint`, or both `vision` and `language_model`"),
        (lambda s: (s["data"].update(streaming=True), s["training"].pop("max_steps")), "a stream has no end"),
        (
            lambda s: s["training"].update(eval_strategy="epoch"),
            "`training.eval_strategy` needs rows: set `data.eval`",
        ),
        (lambda s: s.update(lora={}, freeze=[]), "with `lora` the vision tower stays frozen"),
        (
            lambda s: s.update(selection_noise={"hold": 2}),
            "`selection_noise.hold`: Input should be less than or equal",
        ),
    ],
)
def test_bad_settings(settings, tmp_path, change, message):
    change(settings)
    code, said = dynfocus(write_recipe(tmp_path / "recipe.yaml", settings))
    assert code == 1 and message in said and said.count("\n") == 1, said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.yaml"], "nowhere.yaml: is neither a file nor one of the recipes align, full_fsdp2, full_zero3,"),
        (["{recipe}", "max_steps"], "'max_steps': a setting is changed by KEY=VALUE"),
        (["{recipe}", "training.max_steps.x=3"], "`max_steps` has no settings below it"),
        (["{recipe}", "data.train=nothing.csv"], "nothing.csv: there is no such file or folder with rows"),
        (["{recipe}", "data.media_root=/no/where"], "media_root /no/where: there is no such folder"),
        (
            ["{recipe}", "model.checkpoint=/no/model"],
            "`model.checkpoint` /no/model: it is neither a local folder nor a model on the Hub",
        ),
        (["{recipe}", "training.max_steps=ten"], "`max_steps` takes a number, not 'ten'"),
        (["{recipe}", "training.use_cpu=false"], "This machine has no GPU: set `training.use_cpu=true`"),
        (
            ["{recipe}", "training.output_dir=/proc/x"],
            "/proc/x: cannot be made: No such file or directory; choose another folder",
        ),
        (["{recipe}", "freeze=[visiontower]"], "'visiontower' names no part and no parameter of the model: the parts"),
        (["{recipe}", "freeze=['*']"], "Nothing is left to train"),
        (["{recipe}", "learning_rates={selecter: 1}", "--check"], "'selecter' names no part and no parameter"),
        (["{recipe}", "data.max_visual_tokens=3"], "`max_visual_tokens=3` is too small"),
        (["{recipe}", "model.config={no_field: 1}"], "`model.config` or `model.processor`: "),
        (["{recipe}", "training.lr_scheduler_type=cosin"], "`training`: cosin is not a valid SchedulerType"),
        (["lora", "--accelerate"], "lora: comes without settings for accelerate"),
    ],
)
def test_bad_words(settings, tmp_path, words, message):
    recipe = write_recipe(tmp_path / "recipe.yaml", settings)
    code, said = dynfocus(*[word.replace("{recipe}", str(recipe)) for word in words])
    assert code == 1 and message in said and "Traceback" not in said, said


@pytest.mark.parametrize("text", ["- a list", "a: [", "", "\xff"])
def test_files_that_are_no_recipes(tmp_path, text):
    (tmp_path / "recipe.yaml").write_bytes(text.encode("latin-1"))
    code, said = dynfocus(tmp_path / "recipe.yaml")
    assert code == 1 and "recipe.yaml: is not a " in said and said.count("\n") == 1


def test_no_is_no_strategy_and_not_false(settings, tmp_path):
    recipe = write_recipe(tmp_path / "recipe.yaml", settings)
    found = load_recipe(recipe, ["training.eval_strategy=no", "training.save_strategy=no"])
    assert found.training["eval_strategy"] == found.training["save_strategy"] == "no"
    training_arguments(found)


def test_overrides_are_yaml(settings, tmp_path):
    recipe = write_recipe(tmp_path / "recipe.yaml", settings)
    words = ["training.learning_rate=1e-4", "lora={rank: 8}", "data.train=[a.json, {path: b.json, split: x}]"]
    found = load_recipe(recipe, words)
    assert found.training["learning_rate"] == 1e-4 and found.lora.rank == 8
    assert found.data.sources("train") == [Source("a.json"), Source("b.json", split="x")]


def test_what_is_given_replaces_what_a_recipe_of_the_package_suggests(settings, tmp_path):
    backbones = ["model.vision=tower", "model.language_model=words", "data.train=x.json"]
    assert load_recipe("instruct", backbones).model.checkpoint is None
    with pytest.raises(ValueError, match="^The recipe instruct: `model`: give either `checkpoint`, or both"):
        load_recipe("instruct", [*backbones, "model.checkpoint=x"])
    with pytest.raises(ValueError, match="^The recipe lora: unknown key `data.trian` .is it `train`"):
        load_recipe("lora", ["data.trian=x.csv"])
    words = ["model.checkpoint=x", "data.train=x.csv"]
    recipe = load_recipe("lora", words)
    assert not {"eval_strategy", "load_best_model_at_end", "metric_for_best_model"} & recipe.training.keys()
    assert load_recipe("lora", [*words, "data.eval=y.csv"]).training["eval_strategy"] == "epoch"
    # Only what the user gave can be refused.
    names = ["selection_noise", "data.max_frames", "data.fps"]
    recipe.refuse(names, "for others.")
    given = load_recipe("lora", [*words, "data.max_frames=9", "selection_noise={end: 0.1}"])
    with pytest.raises(ValueError, match="^`selection_noise`, `data.max_frames` are for others.$"):
        given.refuse(names, "for others.")
    settings["data"]["max_frames"] = 9
    with pytest.raises(ValueError, match="^`data.max_frames` is for others.$"):
        load_recipe(write_recipe(tmp_path / "own.yaml", settings)).refuse(names, "for others.")


def test_show_prints_the_recipe(tmp_path):
    code, said = dynfocus("tiny", "--show")
    assert code == 0 and yaml.safe_load(said) == yaml.safe_load((RECIPES / "tiny.yaml").read_text())
    code, said = dynfocus("full_fsdp2", "--accelerate")
    assert code == 0 and yaml.safe_load(Path(said.strip()).read_text())["distributed_type"] == "FSDP"
    code, said = dynfocus("lora", "data.fps=2", "--show")
    assert code == 1 and said.startswith("error: --show takes the recipe as it is: leave out data.fps=2")


# ---- models


def test_models_that_do_not_fit():
    model, processor = tiny_model(), make_tiny_processor()
    check_fit(model, processor)
    with pytest.raises(ValueError, match="The processor plans `rods_on_key_frames` = False, the model makes True"):
        check_fit(model, make_tiny_processor(rods_on_key_frames=False))
    with pytest.raises(ValueError, match="has the id 3, the model's `video_token_id` is 9"):
        check_fit(tiny_model(video_token_id=9), processor)
    processor.tokenizer.add_tokens(["new"])
    with pytest.raises(ValueError, match="The tokenizer has 65 tokens, the model's vocabulary 64"):
        check_fit(model, processor)


def test_a_model_of_another_kind(settings, tmp_path):
    AutoModelForCausalLM.from_config(tiny_text_config()).save_pretrained(tmp_path / "llama")
    settings["model"]["checkpoint"] = str(tmp_path / "llama")
    code, said = dynfocus(write_recipe(tmp_path / "recipe.yaml", settings))
    assert code == 1 and "is a llama model, which reads no videos: `model.checkpoint` takes a DynFocus" in said


def test_a_vocabulary_without_the_video_token():
    tokenizer = make_tiny_tokenizer()
    processor = make_tiny_processor()
    with pytest.raises(ValueError, match="The tokenizer has no token '<film>': add it with"):
        type(processor)(processor.video_processor, tokenizer, video_token="<film>")


def test_m_rope_is_refused():
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 1e4}
    with pytest.raises(ValueError, match="with M-RoPE positions is not supported"):
        tiny_config(text_config=tiny_text_config("llama", rope_parameters=rope))


def test_settings_of_frames_and_tokens_stay_with_the_trained_model(settings, tmp_path):
    settings["data"].update(fps=2.0, max_frames=7, max_visual_tokens=90, key_ratio=0.25)
    model, processor = load_model(load_recipe(write_recipe(tmp_path / "recipe.yaml", settings)))
    model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    again = type(processor).from_pretrained(tmp_path / "saved")
    assert (again.video_processor.fps, again.video_processor.max_frames) == (2.0, 7)
    assert (again.max_visual_tokens, again.key_ratio, again.num_prototypes) == (90, 0.25, 4)


def test_every_parameter_has_one_part():
    model = tiny_model()
    names = [names_in(model, part) for part in PARTS]
    assert set().union(*names) == {name for name, _ in model.named_parameters()}
    assert sum(map(len, names)) == len(list(model.named_parameters()))
    assert sum(total for total, _ in part_sizes(model).values()) == sum(p.numel() for p in model.parameters())


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
def test_lora_goes_into_the_language_model_and_leaves_names_and_sizes():
    model = tiny_model()
    names = {name for name, _ in model.named_parameters()}
    linear = {
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name.startswith("model.language_model.")
    }
    sizes = part_sizes(model)
    wrapped = get_peft_model(model, lora_config(model, 2, 4, 0.0))
    adapters = {name: p for name, p in wrapped.named_parameters() if "lora_" in name}
    assert {plain_name(name).partition(".lora_")[0] for name in adapters} == linear
    assert {plain_name(name) for name, _ in wrapped.named_parameters() if name not in adapters} == names
    added = sum(p.numel() for p in adapters.values())
    total = sizes["language_model"][0]
    assert part_sizes(wrapped) == {
        **{part: (sizes[part][0],) * 2 for part in NEW_PARTS},
        "vision_tower": (sizes["vision_tower"][0], 0),
        "language_model": (total + added, added),
    }


# ---- rows


def test_forms_of_files(rows, tmp_path):
    from datasets import load_dataset

    listed = [json.loads(line) for line in rows.read_text().splitlines()]
    data = load_dataset("json", data_files=str(rows), split="train", cache_dir=str(tmp_path / "cache"))
    data.to_parquet(str(tmp_path / "rows.parquet"))
    data.save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "rows.json").write_text(json.dumps(listed))
    for sep, end in ((",", "csv"), ("\t", "tsv")):
        lines = [sep.join(row[name] for name in ("video", "question", "answer")) for row in listed]
        (tmp_path / f"rows.{end}").write_text("\n".join([sep.join(("video", "question", "answer")), *lines]))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "rows.jsonl").write_text(rows.read_text())
    for path in ("rows.parquet", "saved", "rows.json", "rows.csv", "rows.tsv", "folder"):
        found = load_rows([Source(str(tmp_path / path))])
        assert [{key: row[key] for key in listed[0]} for row in found] == listed, path


def test_cells_of_tables_are_text(tmp_path):
    (tmp_path / "rows.csv").write_text("video,question,answer\na.mp4,how many?,3\nb.mp4,which?,NA\nc.mp4,and?,007\n")
    assert [row["answer"] for row in load_rows([Source(str(tmp_path / "rows.csv"))])] == ["3", "NA", "007"]


def test_tables_as_spreadsheets_write_them(tmp_path):
    text = "video,question,answer\na.mp4,how many?,3\n"
    (tmp_path / "mark.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    (tmp_path / "index.csv").write_text(",video,question,answer\n0,a.mp4,how many?,3\n")
    (tmp_path / "capitals.csv").write_text("Video, question ,ANSWER\na.mp4,how many?,3\n")
    for name in ("mark.csv", "index.csv", "capitals.csv"):
        (row,) = load_rows([Source(str(tmp_path / name))])
        assert (row["video"], row["question"], row["answer"]) == ("a.mp4", "how many?", "3")


def test_several_sources_with_their_roots(rows, tmp_path):
    conversations = [{"from": "human", "value": "<image>\nhi"}, {"from": "gpt", "value": "ho"}]
    llava = tmp_path / "llava.json"
    llava.write_text(json.dumps([{"id": 1, "video": "x.mp4", "conversations": conversations}]))
    found = load_rows([Source(str(rows), limit=2), Source(str(llava), media_root=str(rows.parent))])
    assert len(found) == 3 and [row["media_root"] for row in found] == [str(rows.parent)] * 3
    assert found[2]["conversations"] == conversations
    with pytest.raises(IndexError):
        found[3]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("rows.jsonl", "", "the file is empty"),
        ("rows.json", "[]", "holds no rows|cannot be read as rows"),
        ("rows.json", '{"a": [', "cannot be read as rows"),
        ("rows.csv", "video;question;answer\na;b;c\n", "its columns are separated by semicolons"),
        ("rows.csv", "video,question,answer\n", "rows.csv: holds no rows"),
        ("rows.csv", "video,question,answer\na,b,c\na,b,c,d\n", "texts with a comma must be in quotes"),
        ("rows.csv", "File,question,answer\na.MP4,b,c\n", "has no column `video`, but a file in `File`: rename it to"),
        ("rows.csv", "film,text\na,b\n", "rows need `messages`.*these have the columns film"),
        ("rows.txt", "hello", "rows are read from .json, .jsonl"),
    ],
)
def test_files_that_hold_no_rows(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        load_rows([Source(str(tmp_path / name))])


def test_a_folder_with_several_tables(tmp_path):
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("video,question,answer\nx,y,z\n")
    with pytest.raises(ValueError, match=r"should hold one file with rows .* and holds a\.csv, b\.csv"):
        load_rows([Source(str(tmp_path))])
    (tmp_path / "train.csv").write_text("video,question,answer\nx,y,z\n")
    assert len(load_rows([Source(str(tmp_path))])) == 1


def test_a_stream_has_no_end_and_takes_all(rows):
    from itertools import islice

    found, again = (
        [row["video"] for row in islice(stream_rows([Source(str(rows))], seed=1, buffer_size=4), 80)] for _ in range(2)
    )
    assert found == again and found[:8] != found[8:16]
    # Within the buffer, each as often as any other.
    assert {found.count(f"{number}.mp4") for number in range(8)} <= {9, 10, 11}


def test_lengths_are_those_of_the_encoded_rows(settings, tmp_path, monkeypatch):
    recipe = load_recipe(write_recipe(tmp_path / "recipe.yaml", settings))
    _, processor = load_model(recipe)
    data = load_data(recipe, processor)
    found = row_lengths(data.train, data.collator, tmp_path / "lengths.json", print)
    assert found == [len(data.collator.encode(row)["input_ids"]) for row in data.train]
    monkeypatch.setattr(data.collator, "estimate_length", lambda row: pytest.fail("they are kept"))
    assert row_lengths(data.train, data.collator, tmp_path / "lengths.json", print) == found


def test_answers_beside_the_right_ones():
    row = {"question": "Which?", "media_root": None}
    rows = [row | {"video": f"https://x.org/{name}.mp4?key=secret", "answer": "?"} for name in "aab"]
    rows += [{"messages": "broken"}, {"question": "And?", "answer": "5"}]
    answered = [(0, " The red star.", "red star"), (1, "blue", "red"), (4, "5", "5")]
    table = answer_table(rows, answered)
    assert [one["correct"] for one in table] == [True, False, False, False, True]
    assert [one["answer"] for one in table] == [" The red star.", "blue", None, None, "5"]
    assert [one["question"] for one in table] == ["Which?"] * 3 + [None, "And?"]
    videos = [one["video"] for one in table]
    assert videos[0] == videos[1] != videos[2] and videos[3:] == ["row 3", "row 4"] and "secret" not in str(videos)


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ([0] * 10, [1] * 10, r"gain \+1.00, 95 % interval \+0.\d\d … \+1.00, 10 rows"),
        ([0] * 10, [1] + [0] * 9, r"gain \+0.10, 95 % interval -0.\d\d … \+0.\d\d, 10 rows: it may be chance"),
        ([1, 0, 1], [1, 0, 1], "no answer became right or wrong, 3 rows"),
    ],
)
def test_words_for_a_gain(before, after, words):
    tables = [[{"correct": bool(one), "video": n} for n, one in enumerate(some)] for some in (before, after)]
    assert re.fullmatch(words, gain(*tables))


def test_synthetic_sets_of_a_recipe_are_made_once(settings, tmp_path):
    synth = {"split": "train", "seed": 1, "num_videos": 2, "num_frames": 6, "size": 32, "kinds": ["object"]}
    settings["data"]["train"] = {"path": str(tmp_path / "made"), "synth": synth}
    recipe = load_recipe(write_recipe(tmp_path / "recipe.yaml", settings))
    said = []
    make_synthetic(recipe.data.train, said.append)
    make_synthetic(recipe.data.train, said.append)
    assert said == [f"Making synthetic videos in {tmp_path / 'made'}."]
    assert len(load_rows(recipe.data.sources("train"))) == 2
    synth["seed"] = 2
    recipe = load_recipe(write_recipe(tmp_path / "recipe.yaml", settings))
    with pytest.raises(ValueError, match="made holds a set with `seed` = 1 instead of 2: choose another folder"):
        make_synthetic(recipe.data.train, said.append)
    synth["videos"] = 3
    recipe = load_recipe(write_recipe(tmp_path / "recipe.yaml", settings))
    with pytest.raises(ValueError, match="made: `synth`: got an unexpected keyword argument 'videos'.$"):
        make_synthetic(recipe.data.train, said.append)


# ---- the check


def test_check_shows_rows_and_trains_nothing(settings, start, rows, tmp_path):
    settings["model"] = {"checkpoint": str(start)}
    recipe = write_recipe(tmp_path / "recipe.yaml", settings)
    before = (start / "model.safetensors").read_bytes()
    code, said = dynfocus(recipe, "--check")
    assert code == 0, said
    assert "8 rows to learn from. 1 process on cpu, 4 rows a step. 8 steps." in said
    assert QUESTION in said and "Nothing was trained." in said and "Memory of a process, roughly:" in said
    assert re.search(r"Time, roughly, without evaluation: [\d.]+ s of computing at 100 TFLOP/s", said)
    assert said.startswith(f"Loading {start}.") and "Generating" not in said and "it/s" not in said
    assert not (tmp_path / "run").exists() and (start / "model.safetensors").read_bytes() == before
    found = check_recipe(load_recipe(recipe))
    learned = "".join(token for token, is_learned in found.examples[0] if is_learned)
    assert learned.replace("▁", "").strip() == "47</s>"
    assert [one.visual for one in found.lengths] == [
        2 * one.frames + 38 * -(-min(4, one.frames) // 2) for one in found.lengths
    ]
    assert [one.frames for one in found.lengths] == [3, 4, 5, 6] * 2 and found.bad_rows == []
    assert found.reading > 0


@pytest.mark.parametrize("again", [False, True], ids=["kept", "computed again"])
def test_the_estimate_of_operations_is_near_their_count(settings, again):
    settings["model"] = {"checkpoint": "dynfocus-tiny"}
    settings["training"]["gradient_checkpointing"] = again
    recipe = Recipe.model_validate(settings)
    model, processor = load_model(recipe)
    data = load_data(recipe, processor)
    row = _length(data.collator.encode(data.train[0]), processor, data.train[0])
    if again:
        getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    with FlopCounterMode(display=False) as counted:
        model.train()(**data.collator([data.train[0]])).loss.backward()
    found = estimate_flops(model, training_arguments(recipe), row)
    assert 0.7 < found / counted.get_total_flops() < 1.7


def test_check_names_rows_that_cannot_be_read(settings, rows, tmp_path):
    listed = [json.loads(line) for line in rows.read_text().splitlines()]
    listed[1]["video"] = "gone.mp4"
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in listed))
    settings["data"].update(train=str(path), media_root=str(rows.parent))
    found = check_recipe(load_recipe(write_recipe(tmp_path / "recipe.yaml", settings)))
    assert len(found.lengths) == 7 and len(found.bad_rows) == 1
    assert found.bad_rows[0].startswith("Row 1: ") and "gone.mp4" in found.bad_rows[0]
    for row in listed:
        row["video"] = "gone.mp4"
    path.write_text("".join(json.dumps(row) + "\n" for row in listed))
    code, said = dynfocus(write_recipe(tmp_path / "recipe.yaml", settings), "--check")
    assert code == 1 and "None of the first 8 rows can be read. Row 0: " in said


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
def test_the_memory_estimate_is_within_a_factor_of_two(tmp_path):
    """Of the bytes that autograd keeps, on a language model with the proportions of real ones."""
    text = tiny_text_config(
        hidden_size=128, intermediate_size=352, num_hidden_layers=8, num_attention_heads=4, head_dim=32
    )
    model = DynFocusForConditionalGeneration(tiny_config(text_config=text)).train()
    freeze(model, ["vision_tower"])
    processor = make_tiny_processor(num_prototypes=8)
    video = torch.randint(0, 255, (16, 32, 32, 3), dtype=torch.uint8)
    batch = DynFocusCollator(processor)([{"video": video, "question": QUESTION, "answer": "47"}])
    row = _length({name: tensor[0] for name, tensor in batch.items()}, processor, {})
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def kept() -> int:
        found: dict[int, int] = {}

        def pack(tensor):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                found[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            # The graph has to live while its bytes are counted.
            loss = model(**batch, logits_to_keep=row.learned + 1).loss
        del loss
        return sum(found.values())

    args = TrainingArguments(str(tmp_path), use_cpu=True, per_device_train_batch_size=1, bf16=False)
    whole = kept()
    found = estimate_memory(model, args, row)
    assert found.gradients * 2 == found.optimizer
    assert 0.5 < found.activations / whole < 2
    model.gradient_checkpointing_enable()
    args.gradient_checkpointing = True
    # The inputs of all layers, and one layer that is computed again.
    assert 0.5 < estimate_memory(model, args, row).activations / (kept() + whole / 8) < 2
