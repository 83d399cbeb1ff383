"""The dual encoder: every class through one matrix of properties, then pixels, texts, errors, the test of shapes."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from huggingface_hub import constants
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_dual_encoders import KINDS, TEXT, VISION, save_dual_encoder, save_open_clip

from dynfocus.states.fingerprint import difference
from dynfocus.towers import dual_encoder_check
from dynfocus.towers.dual_encoder import DEFAULT_DUAL_ENCODER, DualEncoder

pytestmark = pytest.mark.filterwarnings("ignore:The dual encoder .* found only")
TEXTS = ["A red circle", "what is the man holding?", "", "Blue square. " * 40]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of dual encoders, each made once."""
    made: dict[str, str] = {}

    def folder(kind: str) -> str:
        if kind not in made:
            made[kind] = save_dual_encoder(kind, tmp_path_factory.mktemp("models") / kind)
        return made[kind]

    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Each test has a cache folder of its own, and remembers nothing."""
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(dual_encoder_check, "_FOUND", {})
    return tmp_path / "cache"


def frames(count, height=40, width=64, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 5, 8, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(one).resize((width, height), Image.BICUBIC)) for one in coarse])


def close(ours, theirs, atol=1e-5):
    torch.testing.assert_close(ours, theirs, atol=atol, rtol=0)


# What holds for every class


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_are_unit_float32_and_do_not_depend_on_the_batch(kind, folders):
    encoder = DualEncoder.from_pretrained(folders(kind), device="cpu")
    pictures = frames(70)
    images, texts = encoder.encode_images(pictures), encoder.encode_texts(TEXTS * 20)
    for vectors, count in ((images, 70), (texts, 80)):
        assert vectors.shape == (count, encoder.width) and vectors.dtype == torch.float32
        close(vectors.norm(dim=-1), torch.ones(count))
    for place in (0, 31, 32, 69):
        close(encoder.encode_images(pictures[place : place + 1])[0], images[place])
    for place, text in enumerate(TEXTS):
        close(encoder.encode_texts([text])[0], texts[60 + place])
    close(encoder.encode_images(pictures[::-1].copy()), images.flip(0))
    # Different inputs give different vectors: else nothing above could fail.
    assert (images[0] - images[1]).norm() > 1e-2 and (texts[0] - texts[1]).norm() > 1e-2


@pytest.mark.parametrize(("kind", "dtype"), [*((kind, torch.bfloat16) for kind in KINDS), ("siglip", "float16")])
def test_half_precision_gives_nearly_the_same_vectors_in_float32(kind, dtype, folders):
    full = DualEncoder.from_pretrained(folders(kind), device="cpu")
    half = DualEncoder.from_pretrained(folders(kind), device="cpu", dtype=dtype)
    assert half.dtype != torch.float32 == full.dtype
    for ours, theirs in (
        (half.encode_images(frames(4)), full.encode_images(frames(4))),
        (half.encode_texts(TEXTS), full.encode_texts(TEXTS)),
    ):
        assert ours.dtype == torch.float32
        assert (ours * theirs).sum(-1).min() > 0.995


@pytest.mark.parametrize("kind", KINDS)
def test_the_fingerprint_knows_weights_pixels_and_texts_whatever_the_precision(kind, folders, tmp_path):
    first = DualEncoder.from_pretrained(folders(kind), device="cpu")
    half = DualEncoder.from_pretrained(folders(kind), device="cpu", dtype="bfloat16")
    other = DualEncoder.from_pretrained(save_dual_encoder(kind, tmp_path / kind, seed=5), device="cpu")
    assert difference(first.fingerprint(), half.fingerprint()) is None
    assert "weights" in difference(first.fingerprint(), other.fingerprint())
    assert first.fingerprint() == DualEncoder.from_pretrained(folders(kind), device="cpu").fingerprint()


def test_the_fingerprint_changes_with_the_settings(folders, tmp_path):
    path = Path(save_dual_encoder("clip", tmp_path / "clip"))
    first = DualEncoder.from_pretrained(path, device="cpu").fingerprint()
    file = path / "preprocessor_config.json"
    file.write_text(file.read_text().replace("0.6", "0.7"))
    pixels = DualEncoder.from_pretrained(path, device="cpu").fingerprint()
    assert "pixel settings" in difference(first, pixels)
    file = path / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "model_max_length": 20}))
    assert "settings" in difference(pixels, DualEncoder.from_pretrained(path, device="cpu").fingerprint())


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_in_gives_nothing_out(kind, folders):
    encoder = DualEncoder.from_pretrained(folders(kind), device="cpu")
    assert encoder.encode_images(frames(2)[:0]).shape == encoder.encode_texts([]).shape == (0, encoder.width)
    assert encoder.split_text("  ") == []


def test_frames_may_be_tensors_or_read_only_arrays(folders):
    encoder, pictures = DualEncoder.from_pretrained(folders("clip"), device="cpu"), frames(3)
    expected = encoder.encode_images(pictures)
    assert torch.equal(encoder.encode_images(torch.from_numpy(pictures)), expected)
    pictures.flags.writeable = False
    assert torch.equal(encoder.encode_images(pictures), expected)


# Pixels


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "open_clip"])
def test_images_are_processed_and_encoded_as_by_the_stock_classes(kind, folders):
    folder = folders(kind)
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    encoder = DualEncoder.from_pretrained(folder, device="cpu")
    for height, width in ((40, 64), (90, 33), (32, 32)):
        pictures = frames(3, height, width)
        with torch.no_grad():
            inputs = processor([Image.fromarray(picture) for picture in pictures], return_tensors="pt")
            expected = model.get_image_features(**inputs).pooler_output
        close(encoder.encode_images(pictures), torch.nn.functional.normalize(expected, dim=-1))


@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("size, interpolation", [(32, "bicubic"), ([32, 48], "bicubic"), (32, "bilinear")])
def test_pixels_of_open_clip_are_those_of_its_own_transform(mode, size, interpolation, tmp_path):
    import open_clip

    name = save_open_clip(tmp_path / "model", mode, size, interpolation=interpolation, fill_color=7)
    model, _, preprocess = open_clip.create_model_and_transforms(name.removeprefix("open_clip:"))
    if isinstance(size, list) and mode == "shortest":
        # There its transform forgets the interpolation, which is bicubic by default.
        assert interpolation == "bicubic"
    encoder = DualEncoder.from_pretrained(name, device="cpu")
    for height, width in ((40, 100), (90, 33), (20, 30)):
        pictures = frames(2, height, width)
        expected = torch.stack([preprocess(Image.fromarray(picture)) for picture in pictures])
        found = encoder._pixels(torch.from_numpy(pictures).permute(0, 3, 1, 2))["image"]
        # PIL and torch round a resized pixel each in its own way.
        assert (found - expected).abs().max() <= 2.01 / 255 / 0.2
        assert (found - expected).abs().mean() < 0.3 / 255 / 0.2
        with torch.no_grad():
            vectors = model.eval().encode_image(expected, normalize=True)
        assert (encoder.encode_images(pictures) * vectors).sum(-1).min() > 0.999


@pytest.mark.parametrize(
    "kind, size",
    [("clip", 32), ("siglip", (32, 32)), ("siglip2", 32), ("chinese_clip", (32, 32)), ("open_clip", 32)],
)
def test_frames_may_be_shrunk_to_the_size_that_is_looked_at(kind, size, folders):
    encoder = DualEncoder.from_pretrained(folders(kind), device="cpu")
    assert encoder.size == size
    height, width = size if isinstance(size, tuple) else (size, size * 2)
    large = frames(3, 160, 320)
    small = np.stack([np.asarray(Image.fromarray(one).resize((width, height), Image.BICUBIC)) for one in large])
    assert (encoder.encode_images(large) * encoder.encode_images(small)).sum(-1).min() > 0.98


def test_squashed_frames_of_open_clip_state_both_sides(tmp_path):
    assert DualEncoder.from_pretrained(save_open_clip(tmp_path / "a", "squash"), device="cpu").size == (32, 32)


# Texts


@pytest.mark.parametrize("kind", ["clip", "metaclip_2", "altclip", "chinese_clip"])
def test_texts_are_encoded_as_by_the_stock_classes(kind, folders):
    folder, texts = folders(kind), ["a red circle", "what is the man holding?"]
    model = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        expected = model.get_text_features(**tokenizer(texts, padding=True, return_tensors="pt")).pooler_output
    found = DualEncoder.from_pretrained(folder, device="cpu").encode_texts(texts)
    close(found, torch.nn.functional.normalize(expected, dim=-1))


@pytest.mark.parametrize("kind", ["siglip", "siglip2"])
def test_texts_of_siglip_fill_a_row_of_64_lower_case_unmasked(kind, folders):
    folder, texts = folders(kind), ["A Red circle", "What is the man holding?"]
    model = transformers.AutoModel.from_pretrained(folder).eval()
    # The file of the tokenizer itself, which holds the padding and the end token of SigLIP 2's training.
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    rows = tokenizer([text.lower() for text in texts], padding="max_length", max_length=64, return_tensors="pt")
    ids = rows["input_ids"]
    assert ids.shape == (2, 64) and (ids[:, -1] == tokenizer.pad_token_id).all()
    encoder = DualEncoder.from_pretrained(folder, device="cpu")
    assert torch.equal(encoder._tokens(texts)["input_ids"], ids)
    with torch.no_grad():
        expected = model.get_text_features(input_ids=ids).pooler_output
        masked = model.get_text_features(input_ids=ids, attention_mask=rows["attention_mask"]).pooler_output
    found = encoder.encode_texts(texts)
    close(found, torch.nn.functional.normalize(expected, dim=-1))
    assert (found - torch.nn.functional.normalize(masked, dim=-1)).norm(dim=-1).min() > 1e-3


@pytest.mark.parametrize("flags", [{}, {"add_bos_token": True}, {"add_eos_token": False}, {"padding_side": "left"}])
def test_texts_of_siglip_do_not_depend_on_what_gemmas_tokenizer_adds(flags, folders, tmp_path):
    expected = DualEncoder.from_pretrained(folders("siglip"), device="cpu")._tokens(TEXTS)["input_ids"]
    path = Path(save_dual_encoder("siglip", tmp_path / "siglip"))
    file = path / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "tokenizer_class": "GemmaTokenizer", **flags}))
    assert torch.equal(DualEncoder.from_pretrained(path, device="cpu")._tokens(TEXTS)["input_ids"], expected)


@pytest.mark.parametrize(
    "kind, length, end", [("clip", 77, 205), ("siglip", 64, 1), ("metaclip_2", 77, 2), ("open_clip", 16, 49407)]
)
def test_long_texts_are_cut_and_keep_their_end_token(kind, length, end, folders):
    encoder = DualEncoder.from_pretrained(folders(kind), device="cpu")
    assert encoder.max_tokens == length
    ids = encoder._tokens(["red " * 200, "red"])["input_ids"]
    assert ids.shape == (2, length) and ids[0, -1] == end
    assert (ids[1] == end).any() and ids[1].tolist().index(end) < 8


def test_positions_of_altclip_end_before_those_of_its_table(folders):
    """RoBERTa counts positions from behind the padding token: of 80, 78 can be used, and 77 are in its tokenizer."""
    encoder = DualEncoder.from_pretrained(folders("altclip"), device="cpu")
    encoder.tokenizer.model_max_length = 1000
    from dynfocus.towers.dual_encoder import _max_tokens

    assert encoder.max_tokens == 77 and _max_tokens(encoder.model.config, encoder.tokenizer) == 78


@pytest.mark.parametrize("kind", KINDS)
@given(
    words=st.lists(
        st.sampled_from(["red", "circle.", "The", "man?", "x" * 90, "红色的圆形。", "one,", "\n"]), max_size=60
    )
)
@settings(max_examples=15, deadline=None)
def test_parts_of_a_text_fit_and_leave_nothing_out(kind, folders, words):
    if kind not in SPLITTERS:
        SPLITTERS[kind] = DualEncoder.from_pretrained(folders(kind), device="cpu")
    encoder = SPLITTERS[kind]
    text = " ".join(words)
    parts = encoder.split_text(text)
    assert all(part == part.strip() and part and encoder._num_tokens(part) <= encoder.max_tokens for part in parts)
    assert "".join("".join(parts).split()) == "".join(text.split())


SPLITTERS: dict[str, DualEncoder] = {}


def test_long_texts_are_split_at_their_sentences(folders):
    encoder = DualEncoder.from_pretrained(folders("open_clip"), device="cpu")
    assert encoder.split_text("A man walks. He sits down!") == ["A man walks. He sits down!"]
    sentences = ["A man walks to the red house.", "Who is the second one?", "He sits down on the bench!"]
    assert encoder.split_text(" ".join(sentences)) == sentences
    words = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
    assert encoder.split_text(words) == [words[: words.index(" ten")], words[words.index("ten") :]]
    encoder = DualEncoder.from_pretrained(folders("chinese_clip"), device="cpu")
    sentences = ["那个人走进了红色的房子里面" * 3 + "。", "他在红色的长椅上坐下来了" * 3 + "！"]
    assert encoder.split_text("".join(sentences)) == sentences


# What is refused, each in one sentence


def save_other(kind, folder):
    vision = {key: value for key, value in VISION.items() if key != "intermediate_size"}
    language = {**TEXT, "vocab_size": 64}
    model = {
        "bert": lambda: transformers.BertModel(transformers.BertConfig(**language)),
        "dinov2": lambda: transformers.Dinov2Model(transformers.Dinov2Config(**vision, mlp_ratio=2)),
        "clip_vision_model": lambda: transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**VISION)),
        "clip_text_model": lambda: transformers.CLIPTextModel(transformers.CLIPTextConfig(**language)),
        "llava": lambda: transformers.LlavaForConditionalGeneration(
            transformers.LlavaConfig(
                vision_config={"model_type": "clip_vision_model", **VISION},
                text_config={"model_type": "llama", **language, "num_key_value_heads": 2},
            )
        ),
        "xclip": lambda: transformers.XCLIPModel(
            transformers.XCLIPConfig(text_config=language, vision_config={**VISION, "mit_hidden_size": 32})
        ),
    }[kind]()
    model.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    "kind, reason",
    [
        ("bert", "it is a bert, which takes no images"),
        ("clip_text_model", "it is a clip_text_model, which takes no images"),
        ("dinov2", "it is a dinov2, a vision model without a text side"),
        ("clip_vision_model", "it is a clip_vision_model, a vision model without a text side"),
        ("llava", "it is a llava, a language model that reads images or videos"),
        ("xclip", "it is a xclip, which compares texts with clips, not with frames"),
    ],
)
def test_other_models_are_refused_in_one_sentence(kind, reason, tmp_path):
    name = save_other(kind, tmp_path / kind)
    with pytest.raises(ValueError) as caught:
        DualEncoder.from_pretrained(name, device="cpu")
    way_out = f"choose a CLIP or SigLIP model, such as {DEFAULT_DUAL_ENCODER}"
    assert str(caught.value) == f"{name!r} cannot be used as dual encoder: {reason}; {way_out}."


def test_what_is_not_there_is_refused_in_one_sentence(tmp_path):
    for name, reason in (
        (str(tmp_path / "nothing"), "neither a local folder nor"),
        ("nobody/nothing", "Hub cannot be"),
    ):
        with pytest.raises(OSError, match=f"'{name}' cannot be used as dual encoder: .*{reason}") as caught:
            DualEncoder.from_pretrained(name, device="cpu")
        assert "\n" not in str(caught.value)


def test_weights_that_are_missing_not_finite_or_pickled_are_refused(tmp_path):
    path = Path(save_dual_encoder("clip", tmp_path / "clip"))
    file = path / "model.safetensors"
    weights = load_file(file)
    whole = dict(weights)
    weights.pop("text_projection.weight")
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 weights of a CLIPModel, such as text_projection\.weight"):
        DualEncoder.from_pretrained(path, device="cpu")
    whole["text_projection.weight"][0, 0] = torch.nan
    save_file(whole, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"not finite, first text_projection\.weight"):
        DualEncoder.from_pretrained(path, device="cpu")
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises((OSError, ValueError), match="cannot be used as dual encoder"):
        DualEncoder.from_pretrained(path, device="cpu")
    file.unlink()
    torch.save(whole, path / "pytorch_model.bin")
    with pytest.raises(OSError, match="weights as safetensors"):
        DualEncoder.from_pretrained(path, device="cpu")


def test_weights_of_open_clip_are_read_whole_and_never_unpickled(tmp_path):
    name = save_open_clip(tmp_path / "model")
    file = tmp_path / "model" / "open_clip_model.safetensors"
    weights = load_file(file)
    file.unlink()
    with pytest.raises(ValueError, match="pretrained weights .* could not be loaded"):
        DualEncoder.from_pretrained(name, device="cpu")
    torch.save({"state_dict": weights, "more": Touch(tmp_path / "touched")}, file.with_name("open_clip_model.pth"))
    with pytest.raises(ValueError, match="its weights are a pickle, which may run code when it is loaded"):
        DualEncoder.from_pretrained(name, device="cpu")
    assert not (tmp_path / "touched").exists()
    weights.pop("text_projection")
    save_file(weights, file)
    with pytest.raises(ValueError, match="cannot be used as dual encoder: Error.* in loading state_dict"):
        DualEncoder.from_pretrained(name, device="cpu")


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    "name, message",
    [
        (
            "open_clip:MobileCLIP2-S0",
            r"does not name pretrained weights: write open_clip:NAME/TAG, such as open_clip:Mobile",
        ),
        ("open_clip:ViT-Z-99", r"write open_clip:NAME/TAG, see open_clip\.list_pretrained"),
        (
            "open_clip:ViT-B-32/nothing",
            "cannot be used as dual encoder: Pretrained value 'nothing' is not a known tag",
        ),
    ],
)
def test_open_clip_needs_a_name_and_a_tag(name, message):
    with pytest.raises(ValueError, match=message) as caught:
        DualEncoder.from_pretrained(name, device="cpu")
    assert "\n" not in str(caught.value)


def test_wrong_arguments_are_refused(folders, tmp_path):
    with pytest.raises(TypeError, match="Unknown keyword of DualEncoder.from_pretrained: trust_remote_code"):
        DualEncoder.from_pretrained(folders("clip"), trust_remote_code=True)
    with pytest.raises(ValueError, match="dtype must be float32, float16 or bfloat16, got 'int8'"):
        DualEncoder.from_pretrained(folders("clip"), dtype="int8")
    with pytest.raises(ValueError, match="open_clip takes no revision: leave it out"):
        DualEncoder.from_pretrained(folders("open_clip"), device="cpu", revision="main")
    encoder = DualEncoder.from_pretrained(folders("clip"), device="cpu")
    with pytest.raises(ValueError, match="put it in a list"):
        encoder.encode_texts("a red circle")
    for wrong in (np.zeros((2, 3, 32, 32), np.uint8), np.zeros((2, 32, 32, 3), np.float32), frames(1)[0]):
        with pytest.raises(ValueError, match="takes uint8 frames of shape"):
            encoder.encode_images(wrong)


def test_a_model_whose_two_sides_differ_in_width_is_refused(tmp_path):
    config = transformers.SiglipConfig(
        text_config={**TEXT, "vocab_size": 200, "projection_size": 40}, vision_config=VISION
    )
    name = save_dual_encoder("siglip", tmp_path / "siglip")
    transformers.SiglipModel(config).save_pretrained(name)
    with pytest.raises(ValueError, match="returns 32 numbers for a frame and 40 for a text, which cannot be compared"):
        DualEncoder.from_pretrained(name, device="cpu")


def test_overflow_in_half_precision_names_the_way_out(folders):
    encoder = DualEncoder.from_pretrained(folders("clip"), device="cpu", dtype="float16")
    weight = encoder.model.visual_projection.weight
    weight.copy_(6e4 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)).sign())
    with pytest.raises(ValueError, match=r"gives NaN in torch\.float16: load it with dtype=torch\.float32"):
        encoder.encode_images(frames(1))


# The test of shapes


class ColorEncoder:
    """Knows colours by their names, as a trained model would; `swapped` sees red for blue."""

    colors = {"red": (230, 20, 20), "blue": (20, 60, 230), "green": (20, 160, 40)}
    colors |= {"yellow": (250, 210, 20), "black": (0, 0, 0), "pink": (255, 105, 180)}

    def __init__(self, name, swapped=False):
        self.name, self.swapped = name, swapped
        self.looked = 0

    def fingerprint(self):
        return f"0:{self.name}"

    def encode_images(self, pictures):
        self.looked += 1
        pictures = pictures[..., ::-1] if self.swapped else pictures
        drawn = [picture[(picture < 250).any(-1)].astype(float).mean(0) / 255 for picture in pictures]
        return torch.tensor(np.stack(drawn)).float()

    def encode_texts(self, texts):
        named = [next((rgb for color, rgb in self.colors.items() if color in text), (9, 9, 9)) for text in texts]
        return NearestColor(torch.tensor(named).float() / 255)


class NearestColor:
    def __init__(self, rgb):
        self.rgb = rgb

    def __matmul__(self, images_t):
        return -torch.cdist(self.rgb, images_t.T)


def test_an_encoder_that_knows_shapes_is_tried_once_and_remembered_on_disk(cache, monkeypatch, recwarn):
    for _ in range(2):
        encoder = ColorEncoder("good")
        dual_encoder_check.warn_unless_it_knows_shapes(encoder)
    assert encoder.looked == 0 and not recwarn.list
    monkeypatch.setattr(dual_encoder_check, "_FOUND", {})  # as in another process
    dual_encoder_check.warn_unless_it_knows_shapes(encoder)
    assert encoder.looked == 0 and len(json.loads((cache / "dynfocus" / "dual_encoders.json").read_text())) == 1
    dual_encoder_check.warn_unless_it_knows_shapes(ColorEncoder("another"))
    assert len(json.loads((cache / "dynfocus" / "dual_encoders.json").read_text())) == 2


@pytest.mark.filterwarnings("default:The dual encoder")
def test_an_encoder_with_swapped_colours_is_warned_about_once_and_tried_again_in_the_next_process(cache, monkeypatch):
    with pytest.warns(UserWarning, match="'bad' found only . of 6 drawn shapes .* will choose frames badly"):
        dual_encoder_check.warn_unless_it_knows_shapes(ColorEncoder("bad", swapped=True))
    again = ColorEncoder("bad", swapped=True)
    dual_encoder_check.warn_unless_it_knows_shapes(again)
    assert again.looked == 0 and not (cache / "dynfocus").exists()
    monkeypatch.setattr(dual_encoder_check, "_FOUND", {})
    with pytest.warns(UserWarning, match="'bad'"):
        dual_encoder_check.warn_unless_it_knows_shapes(again)


@pytest.mark.filterwarnings("default:The dual encoder")
@pytest.mark.parametrize("kind", KINDS)
def test_a_random_model_is_warned_about_once(kind, folders, recwarn):
    for _ in range(2):
        DualEncoder.from_pretrained(folders(kind), device="cpu")
    assert sum(bool(re.search("found only . of 6 drawn shapes", str(one.message))) for one in recwarn.list) == 1


@pytest.mark.parametrize("content", ["", "{}", "[1, 2", '[3, {"a": 1}]'])
def test_a_broken_cache_is_written_anew(content, cache):
    (cache / "dynfocus").mkdir(parents=True)
    (cache / "dynfocus" / "dual_encoders.json").write_text(content)
    dual_encoder_check.warn_unless_it_knows_shapes(ColorEncoder("good"))
    assert len(json.loads((cache / "dynfocus" / "dual_encoders.json").read_text())) == 1


def test_a_cache_that_cannot_be_written_changes_nothing(cache, recwarn):
    cache.write_text("a file where the folder would be")
    dual_encoder_check.warn_unless_it_knows_shapes(ColorEncoder("good"))
    assert not recwarn.list
