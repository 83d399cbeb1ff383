"""Flattening a package: every form of import works as it did, and what has no flat form is refused in a sentence."""

import importlib
import sys
from pathlib import Path

import pytest
from transformers.dynamic_module_utils import check_imports

from dynfocus.hub.flatten import flatten

#: A package with each form of import that has a flat form; `run()` uses all of them.
NESTED = {
    "__init__.py": "raise AssertionError('what the package itself imports is not needed')\n",
    "unused.py": "",
    "entry.py": '''"""An entry."""
import os
from pathlib import Path
from typing import TYPE_CHECKING

from PACKAGE.inner.deep.far import far, \\
    other as renamed
from .inner.near import (
    near,  # a comment
    both as also,
)
from \\
    .siblings import *
from .inner import public

if TYPE_CHECKING:
    from .typed import Type


def run() -> "list":
    """
    An example, as users write it:

    from .nowhere import nothing
    """
    from .inner.deep.later import late

    é = "é"; assert é  # a letter of two bytes
    return [far(), renamed, near, also, sibling, public, late, os.sep, Path(".").name]
''',
    "typed.py": "Type = int\n",
    "siblings.py": "sibling = 'sibling'\n",
    "inner/__init__.py": "from .public_names import public\n",
    "inner/public_names.py": "public = 'public'\n",
    "inner/near.py": "from .deep.far import far\n\nnear = far()\nboth = 'both'\n",
    "inner/deep/__init__.py": "",
    "inner/deep/far.py": "from ...siblings import sibling\nfrom PACKAGE.siblings import sibling as twin\n\n"
    "other = twin\n\n\ndef far():\n    return 'far ' + sibling\n",
    "inner/deep/later.py": "from ..near import both as late\n",
}
FLAT = {
    "entry.py",
    "inner.py",
    "inner_deep_far.py",
    "inner_deep_later.py",
    "inner_near.py",
    "inner_public_names.py",
    "siblings.py",
    "typed.py",
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Writes a package of a name of its own from files, and gives its name."""
    names = []

    def write(files: dict[str, str], init: str = "") -> str:
        name = f"flattened{len(names)}_{tmp_path.name}"
        names.append(name)
        for path, text in {"__init__.py": init, **files}.items():
            file = tmp_path / name / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text.replace("PACKAGE", name), encoding="utf-8")
        importlib.invalidate_caches()
        return name

    monkeypatch.syspath_prepend(str(tmp_path))
    yield write
    for module in [one for one in sys.modules if one.partition(".")[0] in names]:
        del sys.modules[module]


def write_flat(files: dict[str, str], folder: Path) -> None:
    """The files as transformers keeps them: in a package of their own."""
    folder.mkdir()
    for name, text in {"__init__.py": "", **files}.items():
        (folder / name).write_text(text, encoding="utf-8")


def test_all_forms_of_import_give_what_they_gave(package, tmp_path):
    name = package({**NESTED, "__init__.py": ""})
    expected = importlib.import_module(f"{name}.entry").run()
    files = flatten(name, [f"{name}.entry"])
    write_flat(files, tmp_path / "flat_package")
    del sys.modules[name]
    sys.modules.pop("flat_package", None)
    assert importlib.import_module("flat_package.entry").run() == expected
    assert [one for one in sys.modules if one.startswith("flat_package.") and "unused" in one] == []


def test_no_file_is_missing_and_none_too_many(package, tmp_path):
    name = package({**NESTED, "__init__.py": ""})
    files = flatten(name, [f"{name}.entry"])
    assert files.keys() == FLAT
    write_flat(files, tmp_path / "checked")
    for file in files:
        # What transformers finds with its regular expressions lies in the folder.
        assert {f"{one}.py" for one in check_imports(tmp_path / "checked" / file)} <= files.keys()
    assert flatten(name, [f"{name}.typed"]) == {"typed.py": "Type = int\n"}


def test_code_other_than_imports_stays_as_it_is(package):
    name = package(
        {"a.py": "import os  # one\n\nfrom .b import (  # two\n    x,\n)\n\n# three\n", "b.py": "x = '\f1'\n"}
    )
    files = flatten(name, [f"{name}.a"])
    assert files == {
        "a.py": "import os  # one\n\nfrom .b import (  # two\n    x,\n)\n\n# three\n",
        "b.py": "x = '\f1'\n",
    }


def test_entries_keep_their_names(package):
    name = package({"parts/__init__.py": "", "parts/entry.py": "from .other import x\n", "parts/other.py": "x = 1\n"})
    files = flatten(name, [f"{name}.parts.entry"])
    assert files == {"entry.py": "from .parts_other import x\n", "parts_other.py": "x = 1\n"}


REFUSED = {
    "from . import b\n": "line 1: an import from PACKAGE itself has no flat form; name the module",
    "from PACKAGE import b\n": "line 1: an import from PACKAGE itself has no flat form; name the module",
    "\nimport PACKAGE.b\n": "line 2: `import PACKAGE.b` has no flat form; write `from … import …`",
    "import os, PACKAGE\n": "line 1: `import PACKAGE` has no flat form",
    "from .sub import c\n": "line 1: the import of the module PACKAGE.sub.c has no flat form; import names from it",
    "x = 1; from .b import y\n": "line 1: an import needs a line of its own",
    "if True: from .b import y\n": "line 1: an import needs a line of its own",
    "from .missing import y\n": "line 1: there is no module PACKAGE.missing",
    "from .missing.deeper import y\n": "line 1: there is no module PACKAGE.missing.deeper",
    "x = '''\nfrom .b import y\n'''\n": "line 2: transformers would read this line of a string as an import",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_has_no_flat_form_is_refused_with_its_place(package, text):
    name = package({"a.py": text, "b.py": "y = 1\n", "sub/__init__.py": "", "sub/c.py": ""})
    with pytest.raises(ValueError) as refused:
        flatten(name, [f"{name}.a"])
    assert str(refused.value).startswith(f"{name}.a, {REFUSED[text].replace('PACKAGE', name)}")


def test_two_modules_of_one_flat_name_are_refused(package):
    name = package(
        {"a.py": "from .x.y_z import one\nfrom .x_y.z import two\n", "x/y_z.py": "one = 1\n", "x_y/z.py": "two = 2\n"}
    )
    with pytest.raises(ValueError, match=r"\.x\.y_z and .*\.x_y\.z would both be x_y_z\.py in a flat folder: rename"):
        flatten(name, [f"{name}.a"])
