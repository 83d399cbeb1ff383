"""What is installed, under which names, and the rules that keep the folders apart."""

import ast
import importlib.util
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from shutil import copy, copytree, ignore_patterns

import pytest

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PYPROJECT["tool"]["setuptools"]
#: Import name of each package, and its folder.
FOLDER_OF = {name: ROOT / folder for name, folder in SETUPTOOLS["package-dir"].items()}
#: These two are flattened into one folder of a Hub repository.
REMOTE_CODE_FOLDERS = (ROOT / "modeling_dynfocus", ROOT / "processing")
REMOTE_CODE = sorted({path for folder in REMOTE_CODE_FOLDERS for path in folder.glob("[!_]*.py")})
ALLOWED_IMPORTS = {"torch", "numpy", "PIL", "transformers", "safetensors", "huggingface_hub", *sys.stdlib_module_names}
GENERATED = ("__pycache__", "*.py[cod]")
TEXTS = {".py", ".md", ".toml", ".json", ".yaml", ".yml", ".jinja", ".txt", ""}
MAX_LINES = 450


def files_below(folder: Path) -> set[Path]:
    """All files in `folder` and below it, but for compiled ones."""
    return {path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts}


def project_files() -> list[Path]:
    """The files that belong to the repository; in an unpacked sdist, all."""
    if not (ROOT / ".git").exists():
        return sorted(files_below(ROOT))
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return sorted(path for path in (ROOT / name for name in listed.split("\0") if name) if path.is_file())


def source_files() -> list[Path]:
    """The Python files of the packages; the code in saved models is a copy of them."""
    return sorted({path for folder in FOLDER_OF.values() for path in folder.glob("*.py")})


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.fixture(scope="module")
def archives(tmp_path_factory) -> tuple[set[str], zipfile.ZipFile]:
    """The names in the sdist, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("archives")
    # Building writes into the tree: build from a copy.
    for name in {path.relative_to(ROOT).parts[0] for path in FOLDER_OF.values()}:
        copytree(ROOT / name, folder / "tree" / name, ignore=ignore_patterns(*GENERATED))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        copy(ROOT / name, folder / "tree")
    sdist = build(folder / "tree", "sdist", folder)
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
        archive.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    return names, zipfile.ZipFile(build(unpacked, "wheel", folder))


def build(project: Path, kind: str, out: Path) -> Path:
    """Build without a network: by the installed backend itself, in another process, as it changes its process."""
    command = f"import sys; from setuptools import build_meta; print(build_meta.build_{kind}(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", command, str(out)], cwd=project, capture_output=True, text=True)
    assert done.returncode == 0, f"setuptools could not build the {kind}:\n{done.stderr[-2000:]}"
    return out / done.stdout.split()[-1]


def test_wheel_holds_the_package_folders_and_nothing_else(archives):
    _, wheel = archives
    expected = set()
    for name, folder in FOLDER_OF.items():
        inner = [other for other in FOLDER_OF.values() if folder in other.parents]
        for file in files_below(folder):
            if not any(other in file.parents for other in inner):
                expected.add(f"{name.replace('.', '/')}/{file.relative_to(folder).as_posix()}")
    found = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert sorted(found - expected) == [], "installed, but in no package folder"
    assert sorted(expected - found) == [], "in a package folder, but not installed: see package-data in pyproject.toml"
    assert {name.partition("/")[0] for name in found} == {"dynfocus"}


def test_wheel_has_what_type_checkers_shells_and_lawyers_look_for(archives):
    _, wheel = archives
    contents = {name.partition(".dist-info/")[2]: name for name in wheel.namelist() if ".dist-info/" in name}
    assert "dynfocus/py.typed" in wheel.namelist()
    assert "dynfocus = dynfocus.cli:main" in wheel.read(contents["entry_points.txt"]).decode()
    metadata = wheel.read(contents["METADATA"]).decode()
    assert "License-Expression: Apache-2.0" in metadata
    licence = wheel.read(contents["licenses/LICENSE"]).decode()
    assert "Apache License" in licence and "END OF TERMS AND CONDITIONS" in licence


def test_wheel_brings_the_default_model(archives):
    _, wheel = archives
    model = {Path(name).name for name in wheel.namelist() if name.startswith("dynfocus/checkpoints/dynfocus-tiny/")}
    assert {"config.json", "model.safetensors", "processor_config.json", "modeling_dynfocus.py"} <= model


def test_sdist_can_be_worked_with(archives):
    names, _ = archives
    assert {"pyproject.toml", "README.md", "LICENSE"} <= names
    assert {relative(path) for path in source_files()} <= names


def test_no_upper_bounds():
    extras = PYPROJECT["project"]["optional-dependencies"].values()
    requirements = [*PYPROJECT["project"]["dependencies"], *(one for extra in extras for one in extra)]
    capped = [one for one in requirements if re.search(r"<|==|~=", one.partition(";")[0])]
    assert capped == []


def test_every_package_folder_is_listed():
    assert sorted(SETUPTOOLS["packages"]) == sorted(FOLDER_OF)
    top = {folder.relative_to(ROOT).parts[0] for folder in FOLDER_OF.values()}
    found = {file.parent for name in top for file in files_below(ROOT / name) if file.suffix == ".py"}
    saved_models = {folder for folder in found if folder.parent == ROOT / "checkpoints"}
    assert sorted(map(relative, found - saved_models)) == sorted(map(relative, FOLDER_OF.values()))
    assert [relative(folder) for folder in FOLDER_OF.values() if not (folder / "__init__.py").is_file()] == []


@pytest.mark.parametrize("name", FOLDER_OF)
def test_import_names_lead_to_their_folders(name):
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.origin is not None
    assert Path(spec.origin).resolve() == FOLDER_OF[name] / "__init__.py"


def test_nothing_generic_is_importable():
    """`eval` and `processing` are names for anybody's code: the install must not lead them to ours."""
    names = [folder.name for folder in FOLDER_OF.values()]
    command = f"import importlib.util as u; print(*[u.find_spec(name) for name in {names}], sep='\\n')"
    done = subprocess.run([sys.executable, "-P", "-c", command], capture_output=True, text=True, check=True)
    assert [line for line in done.stdout.splitlines() if str(ROOT) in line] == []


def test_remote_code_has_no_two_files_of_one_name():
    names = [path.name for path in REMOTE_CODE]
    assert sorted(set(names)) == sorted(names)


@pytest.mark.parametrize("path", REMOTE_CODE, ids=relative)
def test_remote_code_imports_siblings_and_known_libraries_alone(path):
    siblings = {one.stem for one in path.parent.glob("*.py")}
    wrong = []
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom) and node.level:
            # `from . import x`, `from ..x import y` and `from .x.y import z` do not survive the flattening.
            if node.level > 1 or node.module is None or node.module not in siblings:
                wrong.append(ast.unparse(node))
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [one.name for one in node.names]
            if any(module.partition(".")[0] not in ALLOWED_IMPORTS for module in modules):
                wrong.append(ast.unparse(node))
    assert wrong == [], "use `importlib.import_module` inside a function for libraries that may be missing"


@pytest.mark.parametrize("path", REMOTE_CODE, ids=relative)
def test_remote_code_mentions_no_imports_that_it_does_not_make(path):
    """transformers looks for relative imports by regular expressions, and takes docstrings for code."""
    text = path.read_text(encoding="utf-8")
    mentioned = {
        *re.findall(r"^\s*import\s+\.(\S+)\s*$", text, re.MULTILINE),
        *re.findall(r"^\s*from\s+\.(\S+)\s+import", text, re.MULTILINE),
    }
    made = {node.module for node in ast.walk(tree(path)) if isinstance(node, ast.ImportFrom) and node.level}
    assert mentioned == made


def test_model_file_evaluates_its_annotations():
    """transformers reads the class of the configuration from the annotation `config: …`."""
    futures = [node for node in ast.walk(tree(ROOT / "modeling_dynfocus/modeling_dynfocus.py")) if is_future(node)]
    assert futures == []


def is_future(node: ast.AST) -> bool:
    return isinstance(node, ast.ImportFrom) and node.module == "__future__"


def imported_packages(path: Path) -> set[str]:
    """The `dynfocus` packages that a file imports, by their first two parts."""
    package = next(name for name, folder in FOLDER_OF.items() if folder == path.parent)
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names = [one.name for one in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{module}.{one.name}" for one in node.names]
        else:
            continue
        for name in names:
            owners = [one for one in FOLDER_OF if f"{name}.".startswith(f"{one}.")]
            if owners:
                found.add(".".join(max(owners, key=len).split(".")[:2]))
    return found


#: What each package may import, besides itself. `dynfocus` alone stands for `modeling_dynfocus/`.
MAY_IMPORT = {
    "dynfocus": set(),
    "dynfocus.processing": set(),
    "dynfocus.training": {"dynfocus", "dynfocus.processing", "dynfocus.eval", "dynfocus.checkpoints"},
    "dynfocus.eval": {"dynfocus", "dynfocus.processing", "dynfocus.checkpoints"},
    "dynfocus.cli": {"dynfocus", "dynfocus.processing", "dynfocus.eval", "dynfocus.training", "dynfocus.checkpoints"},
    "dynfocus.checkpoints": set(),
}


@pytest.mark.parametrize("path", source_files(), ids=relative)
def test_dependencies_point_one_way(path):
    if path == ROOT / "modeling_dynfocus/__init__.py":
        # The one place where all comes together.
        assert imported_packages(path) <= {"dynfocus", "dynfocus.processing"}
        return
    package = next(name for name, folder in FOLDER_OF.items() if folder == path.parent)
    own = ".".join(package.split(".")[:2])
    assert imported_packages(path) <= {own} | MAY_IMPORT[own]


@pytest.mark.parametrize("path", source_files(), ids=relative)
def test_files_hold_one_idea(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES, f"{relative(path)} has {lines} lines: it has two ideas in it, so make it two files"


@pytest.mark.parametrize("path", source_files(), ids=relative)
def test_modules_say_what_they_offer(path):
    """A module begins with a docstring and closes with `__all__` (empty packages and scripts of one `main` aside)."""
    module = tree(path)
    if not module.body:
        return
    assert ast.get_docstring(module), f"{relative(path)} has no docstring"
    if path.stem not in ("__init__", "__main__"):
        targets = [ast.unparse(t) for n in module.body if isinstance(n, ast.Assign) for t in n.targets]
        targets += [ast.unparse(node.target) for node in module.body if isinstance(node, ast.AnnAssign)]
        assert "__all__" in targets, f"{relative(path)} has no __all__"


def test_no_paths_of_one_machine():
    machine = re.compile(r"(?<![\w./:<-])/(?:work|home|Users|root|tmp|mnt|data|opt|private)/\w|\b[A-Z]:\\+Users")
    found = []
    for path in project_files():
        if path.suffix in TEXTS:
            text = path.read_text(encoding="utf-8", errors="ignore")
            found += [f"{relative(path)}: {line.strip()}" for line in text.splitlines() if machine.search(line)]
    assert found == []
