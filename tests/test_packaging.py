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


def folder_of(package: str) -> Path:
    """Where a package lies: as `package-dir` says of it, or of what it is part of."""
    named = max((one for one in SETUPTOOLS["package-dir"] if f"{package}.".startswith(f"{one}.")), key=len)
    return ROOT.joinpath(SETUPTOOLS["package-dir"][named], *package.removeprefix(named).split(".")[1:])


#: Import name of each package, and its folder.
FOLDER_OF = {name: folder_of(name) for name in SETUPTOOLS["packages"]}
GENERATED = ("__pycache__", "*.py[cod]")
TEXTS = {".py", ".md", ".toml", ".json", ".yaml", ".yml", ".jinja", ".txt", ""}
MAX_LINES = 700


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
    """The Python files of the packages."""
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
        # Python 3.11.0 to 3.11.3 have no filters.
        archive.extraction_filter = getattr(tarfile, "data_filter", lambda member, path: member)
        archive.extractall(folder / "unpacked")
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
    assert {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json"} <= model
    assert [name for name in model if name.endswith(".py")] == []


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
    assert set(SETUPTOOLS["package-dir"]) <= FOLDER_OF.keys()
    top = {folder.relative_to(ROOT).parts[0] for folder in FOLDER_OF.values()}
    found = {file.parent for name in top for file in files_below(ROOT / name) if file.suffix == ".py"}
    assert sorted(map(relative, found)) == sorted(map(relative, FOLDER_OF.values()))
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


def test_model_file_evaluates_its_annotations():
    """transformers reads the class of the configuration from the annotation `config: …`."""
    futures = [node for node in ast.walk(tree(ROOT / "modeling_dynfocus/modeling_dynfocus.py")) if is_future(node)]
    assert futures == []


def is_future(node: ast.AST) -> bool:
    return isinstance(node, ast.ImportFrom) and node.module == "__future__"


def imported_packages(path: Path) -> set[str]:
    """The parts of `MAY_IMPORT` that a file imports."""
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
                found.add(part_of(max(owners, key=len)))
    return found


def part_of(package: str) -> str:
    return max((one for one in MAY_IMPORT if f"{package}.".startswith(f"{one}.")), key=len)


#: What each part may import, besides itself. `dynfocus` stands for `modeling_dynfocus/`.
MAY_IMPORT: dict[str, set[str]] = {
    "dynfocus": {"dynfocus.selecting"},
    "dynfocus.selecting": set(),
    "dynfocus.processing": {"dynfocus", "dynfocus.selecting"},
    "dynfocus.adoption": {"dynfocus", "dynfocus.selecting", "dynfocus.processing"},
    "dynfocus.training": {
        *("dynfocus", "dynfocus.selecting", "dynfocus.processing", "dynfocus.adoption", "dynfocus.eval"),
        "dynfocus.checkpoints",
    },
    "dynfocus.eval": {"dynfocus", "dynfocus.processing", "dynfocus.adoption", "dynfocus.checkpoints"},
    "dynfocus.cli": {
        *("dynfocus", "dynfocus.processing", "dynfocus.adoption", "dynfocus.eval", "dynfocus.training"),
        "dynfocus.checkpoints",
    },
    "dynfocus.checkpoints": set(),
}


def test_dependencies_point_one_way():
    for path in source_files():
        if path in (ROOT / "modeling_dynfocus/__init__.py", ROOT / "modeling_dynfocus/registration.py"):
            # Where all comes together.
            assert imported_packages(path) <= {"dynfocus.adoption", *MAY_IMPORT["dynfocus.adoption"]}
            continue
        package = next(name for name, folder in FOLDER_OF.items() if folder == path.parent)
        own = part_of(package)
        assert imported_packages(path) <= {own} | MAY_IMPORT[own], relative(path)


def test_files_hold_one_idea():
    lines = {relative(path): len(path.read_text(encoding="utf-8").splitlines()) for path in source_files()}
    too_long = {name: count for name, count in lines.items() if count > MAX_LINES}
    assert too_long == {}, "there are two ideas in such a file, so make it two files"


def test_modules_say_what_they_offer():
    """A module begins with a docstring and closes with `__all__` (empty packages and scripts of one `main` aside)."""
    for path in source_files():
        module = tree(path)
        if not module.body:
            continue
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
