"""Labels on the assistant's turns alone, under the chat templates that are in use."""

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from dynfocus.adoption.backbone_processor import readable_blocks
from dynfocus.processing import DynFocusCollator, DynFocusProcessor, DynFocusVideoProcessor
from dynfocus.processing.processing_dynfocus import DEFAULT_CHAT_TEMPLATE
from dynfocus.processing.rows.labels import answer_spans, label_table

CHATML = """\
{%- for m in messages -%}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>' + '\\n' -}}{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""
# Thoughts of earlier turns are dropped, and the last answer always has some, be they empty.
QWEN3 = """\
{%- set ns = namespace(last_query=messages | length - 1, found=false) -%}
{%- for m in messages[::-1] -%}
    {%- if m.role == 'user' and not ns.found -%}
        {%- set ns.found = true -%}{%- set ns.last_query = messages | length - 1 - loop.index0 -%}
    {%- endif -%}
{%- endfor -%}
{%- for m in messages -%}
    {%- if m.role == 'assistant' -%}
        {%- set content = m.content -%}{%- set thoughts = '' -%}
        {%- if '</think>' in content -%}
            {%- set thoughts = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') -%}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') -%}
        {%- endif -%}
        {%- if loop.index0 > ns.last_query and (loop.last or thoughts) -%}
            {{- '<|im_start|>assistant\\n<think>\\n' + thoughts.strip('\\n') + '\\n</think>\\n\\n' + content -}}
        {%- else -%}
            {{- '<|im_start|>assistant\\n' + content -}}
        {%- endif -%}
        {{- '<|im_end|>\\n' -}}
    {%- else -%}
        {{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""
LLAMA3 = """\
{{- bos_token -}}
{%- for m in messages -%}
    {{- '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content | trim + '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}{%- endif -%}
"""
MISTRAL = """\
{{- bos_token -}}
{%- for m in messages -%}
    {%- if m.role == 'system' -%}{{- raise_exception('no system turns') -}}{%- endif -%}
    {%- if m.role == 'user' -%}{{- '[INST] ' + m.content + ' [/INST]' -}}
    {%- else -%}{{- ' ' + m.content | trim + eos_token -}}{%- endif -%}
{%- endfor -%}
"""
GEMMA = """\
{{- bos_token -}}
{%- for m in messages -%}
    {{- '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' + m.content | trim -}}
    {{- '<end_of_turn>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<start_of_turn>model\\n' -}}{%- endif -%}
"""
DEFAULT_SYSTEM = (
    "{%- if messages[0].role != 'system' -%}{{- '<|im_start|>system\\nBe kind.<|im_end|>\\n' -}}{%- endif -%}"
)
GENERATION = """\
{%- for m in messages -%}
    {{- '<|im_start|>' + m.role + '\\n' -}}
    {%- if m.role == 'assistant' -%}
        {% generation %}{{- m.content + '<|im_end|>' -}}{% endgeneration %}{{- '\\n' -}}
    {%- else -%}{{- m.content + '<|im_end|>\\n' -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""
# Template, what is to be written for an answer before the last one, and for the last one.
TEMPLATES = {
    "default": (DEFAULT_CHAT_TEMPLATE, " {}</s>", " {}</s>"),
    "chatml": (readable_blocks(CHATML), "{}<|im_end|>\n", "{}<|im_end|>\n"),
    "qwen3": (readable_blocks(QWEN3), "{}<|im_end|>\n", "<think>\n\n</think>\n\n{}<|im_end|>\n"),
    "llama3": (readable_blocks(LLAMA3), "{}<|eot_id|>", "{}<|eot_id|>"),
    "mistral": (readable_blocks(MISTRAL), " {}</s>", " {}</s>"),
    "gemma": (readable_blocks(GEMMA), "{}<end_of_turn>\n", "{}<end_of_turn>\n"),
    "default_system": (readable_blocks(DEFAULT_SYSTEM + CHATML), "{}<|im_end|>\n", "{}<|im_end|>\n"),
    "generation": (readable_blocks(GENERATION), "{}<|im_end|>\n", "{}<|im_end|>\n"),
}
MARKS = ["<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<end_of_turn>"]


def make_processor(template: str, merges: int = 0) -> DynFocusProcessor:
    """With a tokenizer of bytes, which loses nothing, and `merges` longer tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=256 + merges, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(
        ["assistant\n\nyes, it is red and blue.\n\n", "user\nwhat is it? think yes yes\n"], trainer
    )
    # Tokens of the vocabulary, but no special ones, as in Qwen3.
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in ("<think>", "</think>")])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<video>", "<start_of_turn>", *MARKS],
    )
    return DynFocusProcessor(DynFocusVideoProcessor(size=16), fast, chat_template=template)


def turns(*texts, video=True):
    """A conversation, the user first, with a video in its first turn."""
    messages = [
        {"role": ("user", "assistant")[index % 2], "content": [{"type": "text", "text": text}]}
        for index, text in enumerate(texts)
    ]
    if video:
        messages[0]["content"].insert(0, {"type": "video", "video": np.zeros((3, 16, 16, 3), dtype=np.uint8)})
    return messages


def learned(processor, row):
    """The runs of labelled tokens, decoded."""
    runs, run = [], []
    for label in [*row["labels"].tolist(), -100]:
        if label != -100:
            run.append(label)
        elif run:
            runs.append(processor.tokenizer.decode(run))
            run = []
    return runs


@pytest.mark.parametrize("merges", [0, 60])
@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize(
    "texts",
    [
        ("what is it?", "red"),
        ("is it yes or no?", "yes", "yes?", "yes", "what is it?", "no, yes"),
        ("say assistant", "assistant", "say think", "think"),
        ("a", "s", "m", "model"),
        ("what?", "a\nb\n\nc", "ü 東京 🙂?", "größer 🙂"),
        ("what?", "<b>&amp;</b> {{ x }}", "what?", "im_end"),
    ],
)
def test_what_is_learned_is_what_follows_the_generation_prompt(name, texts, merges):
    template, earlier, last = TEMPLATES[name]
    processor = make_processor(template, merges)
    messages = turns(*texts)
    collator = DynFocusCollator(processor, processor_kwargs={"max_visual_tokens": 50})
    row = collator.encode({"messages": messages})
    answers = texts[1::2]
    expected = [earlier.format("{}").replace("{}", answer) for answer in answers[:-1]]
    expected.append(last.replace("{}", answers[-1]))
    assert learned(processor, row) == expected
    labels = row["labels"]
    assert (labels[labels != -100] == row["input_ids"][labels != -100]).all()
    if merges == 0:
        # Nothing but the spans of the text is learned, and each turn begins where generation would.
        prompt, answer = collator.encode_prompt({"messages": messages})
        length = len(prompt["input_ids"])
        assert (row["input_ids"][:length] == prompt["input_ids"]).all()
        assert learned(processor, {"labels": labels[length:]}) == expected[-1:] and answer == answers[-1]
        assert learned(processor, {"labels": labels[:length]}) == expected[:-1]
    only = DynFocusCollator(processor, processor_kwargs={"max_visual_tokens": 50}, learn_from="last")
    assert learned(processor, only.encode({"messages": messages})) == expected[-1:]


@pytest.mark.parametrize("name", TEMPLATES)
def test_system_and_trailing_turns_and_plain_strings(name):
    template, _, last = TEMPLATES[name]
    processor = make_processor(template)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "what?"}]
    messages += [{"role": "assistant", "content": "red"}, {"role": "user", "content": "thanks"}]
    row = {"messages": messages}
    if name == "mistral":
        with pytest.raises(ValueError, match="chat template refuses this conversation: no system turns"):
            DynFocusCollator(processor).encode(row)
        row = {"messages": messages[1:]}
    encoded = DynFocusCollator(processor).encode(row)
    assert learned(processor, encoded) == [last.format("red")]
    assert "thanks" not in processor.tokenizer.decode(encoded["input_ids"])


def test_thoughts_and_trimmed_contents():
    qwen = make_processor(TEMPLATES["qwen3"][0])
    thinking = "<think>\nIt glows.\n</think>\n\n"
    row = DynFocusCollator(qwen).encode({"messages": turns("what?", thinking + "red", "sure?", thinking + "yes")})
    # Earlier thoughts are dropped by the template; those of the last turn are learned.
    assert learned(qwen, row) == ["red<|im_end|>\n", thinking + "yes<|im_end|>\n"]
    llama = make_processor(TEMPLATES["llama3"][0])
    row = DynFocusCollator(llama).encode({"messages": turns("what?", "  red \n", "sure?", "\nyes ")})
    assert learned(llama, row) == ["red<|eot_id|>", "yes<|eot_id|>"]


def test_a_conversation_that_the_assistant_begins():
    processor = make_processor(TEMPLATES["chatml"][0])
    messages = [{"role": "assistant", "content": "hello"}, *turns("what?", "red")]
    assert learned(processor, DynFocusCollator(processor).encode({"messages": messages})) == [
        "hello<|im_end|>\n",
        "red<|im_end|>\n",
    ]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for m in messages %}{% if not loop.last %}{{ m.content }}{% endif %}{% endfor %}", "turn 1 0 times"),
        ("{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}", "turn 1 2 times"),
        (
            "{% for m in messages %}{{ m.content }}/{% endfor %}{{ messages[-1].content | length }}",
            "differently when the answer of turn 1 is another",
        ),
        (
            "{{ messages[-1].content | length }}{% for m in messages %}{{ m.content }}{% endfor %}",
            "differently when the answer of turn 1 is another",
        ),
    ],
)
def test_templates_that_hide_the_answer_are_refused(template, message):
    processor = make_processor(readable_blocks(template))
    with pytest.raises(ValueError, match=message):
        DynFocusCollator(processor).encode({"messages": turns("what?", "blue", video=False)})


def test_a_template_that_writes_earlier_turns_differently():
    template = "{% for m in messages %}{{ m.role if loop.last else '' }}: {{ m.content }}{% endfor %}"
    processor = make_processor(readable_blocks(template))
    messages = turns("yes", "yes", "yes", "yes", video=False)
    text, spans = answer_spans(processor.apply_chat_template, messages)
    assert text == ": yes: yes: yesassistant: yes"
    assert [text[start:end] for start, end in spans] == ["yes", "yes"] and spans[0] == (7, 10)


def test_a_generation_prompt_that_reaches_into_the_answer():
    template = "{% for m in messages %}/{{ m.content }}.{% endfor %}{% if add_generation_prompt %}/red{% endif %}"
    processor = make_processor(readable_blocks(template))
    for answer, expected in (("red one", [" one."]), ("red", ["."]), ("re", ["re."]), ("blue", ["blue."])):
        row = DynFocusCollator(processor).encode({"messages": turns("what?", answer, video=False)})
        assert learned(processor, row) == expected
    template = template.replace("/red{%", "/red.{%")
    row = DynFocusCollator(make_processor(readable_blocks(template))).encode(
        {"messages": turns("a", "red", video=False)}
    )
    assert learned(processor, row) == ["red."]


@pytest.mark.parametrize("name", ["llama3", "chatml"])
def test_a_tokenizer_that_begins_each_text_itself(name):
    processor = make_processor(TEMPLATES[name][0])
    begin = processor.tokenizer.bos_token_id
    processor.tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", begin)]
    )
    row = {"messages": turns("what?", "red")}
    collator = DynFocusCollator(processor)
    encoded = collator.encode(row)
    assert encoded["input_ids"].tolist().count(begin) == 1 and encoded["input_ids"][0] == begin
    assert learned(processor, encoded) == [TEMPLATES[name][2].format("red")]
    assert collator.estimate_length(row) == len(encoded["input_ids"])
    prompt = processor.apply_chat_template(
        [row["messages"][:1]], add_generation_prompt=True, tokenize=True, return_dict=True
    )
    assert prompt["input_ids"][0] == collator.encode_prompt(row)[0]["input_ids"].tolist()


def test_labels_as_a_table():
    processor = make_processor(TEMPLATES["qwen3"][0])
    row = DynFocusCollator(processor, processor_kwargs={"max_visual_tokens": 46}).encode(
        {"messages": turns("hm?", "no", "ok?", "ja")}
    )
    prompt, answer = [(c, False) for c in "assistant\u010a"], [(c, True) for c in "ja"]
    del prompt[-1]
    labelled = [(token.replace("\n", "\\n"), is_learned) for token, is_learned in label_table(processor, row)]

    def plain(text):
        return [("\\n" if char == "\n" else char, False) for char in text]

    start, end, newline = ("<|im_start|>", False), "<|im_end|>", "\\n"
    think = [("<think>", True), (newline, True), (newline, True), ("</think>", True), (newline, True), (newline, True)]
    assert labelled == [
        *[start, *plain("user\n"), ("<video>×44", False), *plain("\nhm?"), (end, False), (newline, False)],
        *[start, *prompt, (newline, False), ("n", True), ("o", True), (end, True), (newline, True)],
        *[start, *plain("user\nok?"), (end, False), (newline, False)],
        *[start, *prompt, (newline, False), *think, *answer, (end, True), (newline, True)],
    ]
    padded = DynFocusCollator(processor)([{"messages": turns("a", "b")}, {"messages": turns("long one", "c")}])
    first = {name: tensor[0] for name, tensor in padded.items() if name in ("input_ids", "labels", "attention_mask")}
    assert label_table(processor, first)[-3:] == [("b", True), ("<|im_end|>", True), ("\n", True)]
