"""Models on the Hub: who has the package, who has not, and who has no network any more get the same of them."""

import json
import re
from pathlib import Path

import pytest
import torch
from hub_client import Part, load_all
from hub_server import HubServer
from safetensors.torch import load_file
from tiny_models import save_question_aware
from videos import barcode_frames, write_video

pytestmark = pytest.mark.integration

QUESTION = "which number is shown with the red star?"
CLASSES = [
    "DynFocusConfig",
    "DynFocusProcessor",
    "DynFocusForConditionalGeneration",
    "DynFocusModel",
    "DynFocusVideoProcessor",
    "VideoQAPipeline",
    "DynFocusForConditionalGeneration",
    "DynFocusProcessor",
]
PICKLES = ["user/bomb-only", "user/pickle-only"]
#: What `dynfocus ask --model` is to refuse, with a token and a full disk where it takes one; and its sentence.
FAILURES = {
    "gated, nobody": {"model": "user/gated"},
    "gated, stranger": {"model": "user/gated", "token": "hf_stranger"},
    "private, nobody": {"model": "user/private"},
    "missing, nobody": {"model": "user/missing"},
    "missing, somebody": {"model": "user/missing", "token": "hf_user"},
    "bad token": {"model": "user/gated", "token": "hf_outdated"},
    "wrong revision": {"model": "user/tiny", "revision": "v7"},
    "no config": {"model": "user/no-config"},
    "cut config": {"model": "user/cut-config"},
    "no weights": {"model": "user/no-weights"},
    "cut weights": {"model": "user/cut-weights"},
    "only a pickle": {"model": "user/pickle-only"},
    "only a bomb": {"model": "user/bomb-only"},
    "no processor": {"model": "user/no-processor"},
    "another kind": {"model": "user/llama"},
    "unknown kind": {"model": "user/unknown"},
    "quantised": {"model": "user/quantised"},
    "full disk at once": {"model": "user/full-at-once", "full": "config.json"},
    "full disk later": {"model": "user/full-later", "full": "model.safetensors"},
    "server down": {"model": "user/down"},
}
_NO_ACCESS = "its owner has to grant you access on the Hub first .*hf auth login"
_NOT_THERE = "is neither a local folder nor a model on the Hub .*hf auth login"
_NO_WEIGHTS = "its weights are missing or damaged"
_FULL_DISK = "the disk is full.*HF_HOME"
SENTENCES = {
    "gated, nobody": _NO_ACCESS,
    "gated, stranger": _NO_ACCESS,
    "private, nobody": _NOT_THERE,
    "missing, nobody": _NOT_THERE,
    "missing, somebody": _NOT_THERE,
    "bad token": "the Hub does not accept your token.*hf auth login",
    "wrong revision": "has no revision 'v7' on the Hub",
    "no config": "has no config.json",
    "cut config": "config.json is not valid JSON",
    "no weights": _NO_WEIGHTS,
    "cut weights": _NO_WEIGHTS,
    "only a pickle": _NO_WEIGHTS,
    "only a bomb": _NO_WEIGHTS,
    "no processor": "holds no processor",
    "another kind": "user/llama is a llama model, which reads no videos: --model takes a DynFocus model, or a video",
    "unknown kind": "user/unknown: it is a never_heard_of model, which this version of transformers does not support",
    "quantised": "requires bitsandbytes: `pip install",
    "full disk at once": _FULL_DISK,
    "full disk later": _FULL_DISK,
    "server down": "the Hub (cannot be reached|answers with an error)",
}


class Bomb:
    """What unpickles this makes the file `marker`."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> str:
    return str(write_video(tmp_path_factory.mktemp("video") / "six seconds.mp4", barcode_frames(12), fps=2.0))


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Saved models: the older one, the newer one with other weights, and that one in several weight files."""
    root = tmp_path_factory.mktemp("models")
    save_question_aware(root / "old", seed=1)
    save_question_aware(root / "new")
    save_question_aware(root / "sharded", max_shard_size="80KB")
    return {path.name: path for path in root.iterdir()}


@pytest.fixture(scope="module")
def expected(folders, video) -> dict[str, tuple[dict, dict]]:
    """Facts and tensors of the saved folders, with the installed package."""
    return {name: load_all(str(folders[name]), video, QUESTION) for name in ("old", "new")}


@pytest.fixture(scope="module")
def marker(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("marker") / "a pickle was run"


@pytest.fixture(scope="module")
def hub(folders, marker):
    """`user/tiny` with its history, and repositories with which something is wrong."""
    with HubServer() as server:
        server.add_repo("user/tiny", folders["old"])
        server.tag("user/tiny", "v1")
        new = {path.name: path.read_bytes() for path in folders["new"].iterdir()}
        server.commit("user/tiny", new)
        server.add_repo("user/sharded", folders["sharded"])

        pickled = marker.with_name("pytorch_model.bin")
        torch.save({"weight": Bomb(marker)}, pickled)
        bomb, weights = pickled.read_bytes(), new.pop("model.safetensors")
        torch.save(load_file(folders["new"] / "model.safetensors"), pickled)
        extras = dict.fromkeys(["pytorch_model.bin", "training_args.bin", "optimizer.pt", "scheduler.pt"], bomb)
        server.add_repo("user/with-pickles", {**new, "model.safetensors": weights, **extras})
        server.add_repo("user/bomb-only", {**new, **extras})
        server.add_repo("user/pickle-only", {**new, "pytorch_model.bin": pickled.read_bytes()})

        whole = {**new, "model.safetensors": weights}
        config = json.loads(new["config.json"])
        four_bits = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
        quantised = json.dumps({**config, "quantization_config": four_bits})
        server.add_repo("user/gated", whole, gated=True)
        server.add_repo("user/private", whole, private=True)
        server.add_repo("user/no-weights", new)
        server.add_repo("user/cut-weights", {**new, "model.safetensors": weights[:-1000]})
        server.add_repo("user/no-config", {"README.md": "# Nothing yet"})
        server.add_repo("user/cut-config", {**whole, "config.json": new["config.json"][:-100]})
        server.add_repo("user/no-processor", {"config.json": new["config.json"], "model.safetensors": weights})
        server.add_repo("user/llama", {"config.json": json.dumps({"model_type": "llama"})})
        server.add_repo("user/unknown", {"config.json": json.dumps({"model_type": "never_heard_of"})})
        server.add_repo("user/quantised", {**whole, "config.json": quantised})
        server.add_repo("user/full-at-once", whole)
        server.add_repo("user/full-later", whole)
        server.add_repo("user/down", whole)
        server.fail = lambda method, path: (500, {}, b"Internal error") if "user/down/resolve" in path else None
        yield server


def assert_same(run: tuple[dict, dict], expected: tuple[dict, dict], name: str) -> None:
    """
    The source `name` of a run gave what was expected, tensors bit for bit; but for a sharded one: where a tensor lies
    in its file decides how it lies in memory, and so how sums are rounded.
    """
    found, tensors = run
    facts, values = expected
    if name == "sharded":
        assert found["sources"][name]["answer"]["answer"] == facts["answer"]["answer"]
        for key, value in values.items():
            torch.testing.assert_close(tensors[f"{name}/{key}"], value, rtol=1e-4, atol=1e-5)
        return
    assert found["sources"][name] == facts
    assert facts["classes"] == CLASSES and facts["answer"]["num_visual_tokens"] > 0
    assert {key: torch.equal(tensors[f"{name}/{key}"], value) for key, value in values.items()} == dict.fromkeys(
        ("logits", "hidden", "pixels"), True
    )


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory) -> Path:
    """Folder of the user who does not have the package."""
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture(scope="module")
def nowhere() -> str:
    """Where nothing listens any more."""
    with HubServer() as gone:
        return gone.url


@pytest.fixture(scope="module")
def home_hub(hub):
    """The same Hub, which keeps its own book of what it is asked."""
    with HubServer() as server:
        server.repos, server.fail = hub.repos, hub.fail
        yield server


@pytest.fixture(scope="module")
def started(hub, home_hub, nowhere, folders, video, elsewhere, tmp_path_factory):
    """What can run at once, does: in processes with and without the package, and with the Hub out of reach."""
    asked = {"video": video, "question": QUESTION}
    remote = {
        "main": ("user/tiny", {}),
        "commit": ("user/tiny", {"revision": hub.sha("user/tiny", "v1")}),
        "with pickles": ("user/with-pickles", {}),
    }
    installed = {"main": ("user/tiny", {}), "tag": ("user/tiny", {"revision": "v1"}), "sharded": ("user/sharded", {})}
    home, away = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("away")
    parts = {
        "remote": Part("remote", elsewhere, hub.url, sources=remote, refused="user/tiny", pickles=PICKLES, **asked),
        "installed": Part("installed", home, home_hub.url, sources=installed, failures=FAILURES, **asked),
        "failure": Part("failure", away, nowhere, model="user/tiny"),
    }
    yield parts
    for part in parts.values():
        part.process.kill()
        part.process.wait()


@pytest.fixture(scope="module")
def remotely(started) -> tuple[dict, dict]:
    """The process that cannot import the package."""
    return started["remote"].result()


@pytest.fixture(scope="module")
def at_home(started) -> tuple[dict, dict]:
    """The process that can."""
    return started["installed"].result()


# Who does not have the package


def test_the_package_was_out_of_reach(remotely):
    found, _ = remotely
    assert found["imported"] == []
    assert any(name.startswith("transformers_modules.user.tiny") for name in found["modules"])


def test_models_differ_so_that_they_can_be_told_apart(expected):
    assert not torch.equal(expected["old"][1]["logits"], expected["new"][1]["logits"])
    assert expected["old"][0]["answer"] != expected["new"][0]["answer"]


@pytest.mark.parametrize(("source", "model"), [("main", "new"), ("commit", "old")])
def test_remote_code_gives_what_the_package_gives(remotely, expected, source, model):
    assert_same(remotely, expected[model], source)


def test_several_weight_files_are_several(folders):
    assert len(list(folders["sharded"].glob("model-*.safetensors"))) > 2


def test_offline_the_cache_gives_the_same(remotely, nowhere, hub, expected, video, elsewhere):
    sources = {"main": ("user/tiny", {}), "commit": ("user/tiny", {"revision": hub.sha("user/tiny", "v1")})}
    offline = {"HF_HUB_OFFLINE": "1"}
    run = Part("remote_again", elsewhere, nowhere, offline, sources=sources, video=video, question=QUESTION).result()
    assert run[0]["imported"] == []
    for source, model in (("main", "new"), ("commit", "old")):
        assert_same(run, expected[model], source)


@pytest.mark.parametrize("way", ["config", "model", "processor", "video processor", "pipeline"])
def test_without_trust_transformers_asks(remotely, way):
    refused, asked = remotely[0]["untrusted"][way]
    for answer in (refused, asked):
        assert answer["error"] == "ValueError"
        assert "The repository user/tiny contains custom code" in answer["says"]
        assert "`trust_remote_code=True`" in answer["says"]
    assert refused["printed"] == ""
    assert "Do you wish to run the custom code? [y/N]" in asked["printed"]


# Pickles


def test_a_pickle_beside_the_weights_is_never_read(remotely, hub, expected, marker):
    assert_same(remotely, expected["new"], "with pickles")
    requests = [path for path in hub.requested() if path.startswith("/user/with-pickles/")]
    assert any(path.endswith("/model.safetensors") for path in requests)
    assert [path for path in requests if path.endswith((".bin", ".pt"))] == []
    assert not marker.exists()


@pytest.mark.parametrize("name", PICKLES)
def test_a_pickle_in_place_of_the_weights_is_refused(remotely, hub, name, marker):
    for refusal in remotely[0]["pickles"][name]:
        assert refusal["error"] in ("OSError", "ValueError")
        assert f"{name} does not appear to have a file named model.safetensors" in refusal["says"]
    requests = [path for path in hub.requested() if path.startswith(f"/{name}/")]
    assert requests and [path for path in requests if path.endswith((".bin", ".pt"))] == []
    assert not marker.exists()


def test_the_pickle_would_have_gone_off(hub, marker):
    broken = marker.with_name("broken.bin")
    broken.write_bytes(hub.files("user/bomb-only")["pytorch_model.bin"])
    assert not marker.exists()
    torch.load(broken, weights_only=False)["weight"].close()
    assert marker.exists()
    marker.unlink()


# Who has the package


@pytest.mark.parametrize(("source", "model"), [("main", "new"), ("tag", "old"), ("sharded", "new")])
def test_the_package_needs_no_trust(at_home, expected, source, model):
    assert_same(at_home, expected[model], source)


def test_the_package_fetches_no_code(at_home, home_hub):
    assert at_home[0]["modules"] == []
    assert home_hub.requested("GET") and [path for path in home_hub.requested() if path.endswith(".py")] == []


@pytest.mark.parametrize("failure", FAILURES)
def test_one_sentence_says_what_is_wrong(at_home, failure):
    found = at_home[0]["failures"][failure]
    assert found["error"] == "UserError", found["chain"]
    assert_one_sentence(found["says"], FAILURES[failure]["model"])
    assert re.search(SENTENCES[failure], found["says"])


def test_a_full_disk_leaves_nothing_unfinished(at_home):
    assert at_home[0]["failures"]["full disk later"]["unfinished"] == []


def test_a_hub_out_of_reach(started):
    found, _ = started["failure"].result()
    assert found["error"] == "UserError", found["chain"]
    assert_one_sentence(found["says"], "user/tiny")
    assert "the Hub cannot be reached" in found["says"]
    assert found["waited"] <= 60


def assert_one_sentence(says: str, model: str) -> None:
    assert model in says
    assert "\n" not in says and len(says) < 250
    # Nothing of how it came about.
    assert not re.search(r"Traceback|http://|snapshots|\bclass\b", says)
