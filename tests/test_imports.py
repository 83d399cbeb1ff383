"""`import dynfocus` and `dynfocus --help` import nothing heavy, and the Auto classes know DynFocus all the same."""

import importlib
import importlib.util
import inspect
import json
import pickle
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path

import forked
import pytest
from tiny import make_tiny_processor
from tiny_models import tiny_model
from transformers import AutoConfig

import dynfocus
from dynfocus.registration import _AfterImport

TESTS = Path(__file__).parent
CONFIG = "dynfocus.configuration_dynfocus.DynFocusConfig"
MODEL = "dynfocus.modeling_dynfocus.DynFocusModel"
GENERATING = "dynfocus.modeling_dynfocus.DynFocusForConditionalGeneration"
PROCESSOR = "dynfocus.processing.processing_dynfocus.DynFocusProcessor"
VIDEO_PROCESSOR = "dynfocus.processing.video_processing_dynfocus.DynFocusVideoProcessor"
PIPELINE = "dynfocus.processing.pipeline_video_qa.VideoQAPipeline"
CLASS_OF = {
    "AutoConfig": CONFIG,
    "AutoModel": MODEL,
    "AutoModelForImageTextToText": GENERATING,
    "AutoModelForMultimodalLM": GENERATING,
    "AutoProcessor": PROCESSOR,
    "AutoVideoProcessor": VIDEO_PROCESSOR,
    "pipeline": PIPELINE,
    "from_config": MODEL,
    "pickled": GENERATING,
}
ALL = ["AutoModel", "AutoModelForImageTextToText", "AutoModelForMultimodalLM", "AutoConfig", "AutoVideoProcessor"]
ALL += ["AutoProcessor", "pipeline"]
#: What is imported first, and what is asked for then, in this order: each may be the first to need DynFocus.
ORDERS = {
    "config first": ("import dynfocus", ALL),
    "processor first": ("import dynfocus", ["AutoProcessor", "AutoModel"]),
    "video processor first": ("import transformers, dynfocus", ["AutoVideoProcessor", "AutoProcessor"]),
    "pipeline first": ("import dynfocus", ["pipeline", "AutoModel"]),
    "configuration by its module": ("import dynfocus.configuration_dynfocus", ["from_config"]),
    "processing by its package": ("import dynfocus.processing", ["pipeline"]),
    "after transformers' pipelines": ("from transformers import pipeline; import dynfocus", ["pipeline", *ALL]),
    "after transformers' models": ("from transformers import AutoModel; import dynfocus", ALL),
    "after its configurations": ("from transformers import AutoConfig; import dynfocus", ["AutoProcessor", *ALL]),
    # As a spawned worker is given its arguments.
    "by a pickled configuration": ("", ["pickled"]),
}


def run(code: str, *args: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    tiny_model().save_pretrained(folder)
    make_tiny_processor().save_pretrained(folder)
    (folder / "config.pickle").write_bytes(pickle.dumps(AutoConfig.from_pretrained(folder)))
    return folder


@pytest.fixture(scope="module")
def found(saved, tmp_path_factory) -> dict[str, object]:
    asked, printed = (tmp_path_factory.mktemp("orders") / name for name in ("asked", "printed"))
    asked.write_text(json.dumps(ORDERS), encoding="utf-8")
    forked.run(TESTS / "loading_in_orders.py", saved, package=False, stdin=asked, stdout=printed)
    found: dict[str, object] = {}
    for line in printed.read_text(encoding="utf-8").splitlines():
        found.update(json.loads(line))
    return found


@pytest.mark.integration
@pytest.mark.parametrize("order", ORDERS)
def test_auto_classes_find_dynfocus_whatever_is_imported_first(order, found):
    assert found[order] == [CLASS_OF[name] for name in ORDERS[order][1]], found[order]


def test_importing_the_package_imports_neither_torch_nor_transformers():
    assert run("import dynfocus, sys; print(*{'torch', 'transformers', 'numpy'} & {*sys.modules})").split() == []


def test_help_imports_neither_torch_nor_transformers():
    code = """
import os, sys
from dynfocus.cli import main
for word in sys.argv[1].split(","):
    if not os.fork():
        sys.argv = ["dynfocus", *word.split(), "--help"]
        try:
            main()
        except SystemExit as end:
            heavy = {"torch", "transformers", "numpy"} & {*sys.modules}
            print(f"after {word!r}:", *heavy, "code:", end.code, flush=True)
        os._exit(0)
    os.wait()
"""
    commands = ["", "ask", "encode", "train", "eval", "export"]
    said = [line for line in run(code, ",".join(commands)).splitlines() if line.startswith("after ")]
    assert said == [f"after {command!r}: code: 0" for command in commands]


def test_every_name_of_the_package_is_there():
    for name in dynfocus.__all__:
        assert getattr(dynfocus, name) is not None
        assert name in dir(dynfocus)
    with pytest.raises(AttributeError, match="module 'dynfocus' has no attribute 'DynFocusModels'"):
        dynfocus.DynFocusModels  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'DynFocusModels' from 'dynfocus'"):
        from dynfocus import DynFocusModels  # noqa: F401


def test_type_checkers_are_shown_the_names_that_are_there():
    """The imports for type checkers, the table of modules and `__all__` name the same."""
    source = Path(dynfocus.__file__ or "").read_text(encoding="utf-8")
    for name, module in dynfocus._MODULE_OF.items():
        (line,) = [
            one
            for one in source.splitlines()
            if one.startswith("    from .") and name in one.split("import")[1].replace(",", " ").split()
        ]
        assert line.split()[1] == f".{module}"
    assert {*dynfocus._MODULE_OF, "__version__"} == {*dynfocus.__all__}


@pytest.fixture
def after_import(tmp_path, monkeypatch):
    """Writes a module of its own, to be watched; gives its name, and what it was called with."""
    monkeypatch.syspath_prepend(tmp_path)
    seen: list[object] = []

    def watch(name: str, text: str, function=seen.append) -> list[object]:
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
        monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.setattr(sys, "meta_path", [_AfterImport({name: function}), *sys.meta_path])
        return seen

    return watch


def test_a_watched_module_is_complete_when_the_function_is_called(after_import):
    seen = after_import("watched_whole", "first = 1\nlast = 2\n", lambda module: seen.append(vars(module)["last"]))
    module = importlib.import_module("watched_whole")
    assert seen == [2]
    importlib.import_module("watched_whole")
    assert seen == [2]
    # Nothing is left of the detour.
    assert type(module.__loader__) is SourceFileLoader and module.__spec__ is not None
    assert module.__spec__.loader is module.__loader__
    assert inspect.getsource(module) == "first = 1\nlast = 2\n"


def test_a_watched_module_is_looked_at_without_being_imported(after_import):
    seen = after_import("watched_found", "text = 'here'\n")
    spec = importlib.util.find_spec("watched_found")
    assert spec is not None and spec.loader is not None
    assert spec.loader.get_source("watched_found") == "text = 'here'\n"  # type: ignore[attr-defined]
    assert seen == [] and "watched_found" not in sys.modules


def test_a_watched_module_that_fails_says_so_and_can_be_imported_again(after_import, tmp_path):
    seen = after_import("watched_broken", "raise OSError('broken')\n")
    with pytest.raises(OSError, match="broken"):
        importlib.import_module("watched_broken")
    assert seen == [] and "watched_broken" not in sys.modules
    (tmp_path / "watched_broken.py").write_text("whole = True\n", encoding="utf-8")
    importlib.invalidate_caches()
    assert importlib.import_module("watched_broken").whole
    assert len(seen) == 1


def test_a_function_that_fails_fails_the_import(after_import):
    """Never a module that is there without what should have followed it."""

    def fail(module):
        raise OSError("no pipeline")

    after_import("watched_failing", "", fail)
    for _ in range(2):
        with pytest.raises(OSError, match="no pipeline"):
            importlib.import_module("watched_failing")


def test_a_module_that_does_not_exist_is_not_found(after_import):
    after_import("watched_missing", "")
    with pytest.raises(ModuleNotFoundError, match="watched_other"):
        importlib.import_module("watched_other")
