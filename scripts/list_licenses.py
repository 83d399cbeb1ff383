"""
Prints a table of the licenses of all packages that dynfocus needs, directly or not, with every extra.

    python scripts/list_licenses.py > docs/licenses.md      # in an environment with all extras

The packages' own metadata are read; packages that are not installed here (other systems, extras) are left out.
"""

import re
from importlib import metadata

from packaging.requirements import Requirement

_HEAD = """# Licenses of dependencies

Of the packages that `pip install "dynfocus[train,eval,serve,demo,ray]"` installs on Linux, as their own metadata say.
Made by `scripts/list_licenses.py`. Packages named `nvidia-…` come with CUDA builds of torch.

| package | version | license | needed for |
|---|---|---|---|"""
_LONGEST = 60


def needed(name: str, extras: frozenset[str], purpose: str, found: dict[str, set[str]]) -> None:
    """Adds the packages that a package needs to `found`, with what they are needed for."""
    for line in metadata.requires(name) or []:
        one = Requirement(line)
        for extra in extras | {""}:
            if one.marker is not None and not one.marker.evaluate({"extra": extra}):
                continue
            why = purpose or extra or "core"
            key = re.sub(r"[-_.]+", "-", one.name).lower()
            if key == "dynfocus":
                needed("dynfocus", frozenset(one.extras), why, found)
                break
            if why in found.setdefault(key, set()):
                continue
            found[key].add(why)
            try:
                needed(key, frozenset(one.extras), why, found)
            except metadata.PackageNotFoundError:
                continue


def license_of(name: str) -> str:
    about = metadata.metadata(name)
    classified = [
        line.split(" :: ")[-1] for line in about.get_all("Classifier") or [] if line.startswith("License ::")
    ]
    stated = (about.get("License-Expression") or "").strip()
    words = (about.get("License") or "").strip().partition("\n")[0]
    text = stated or ", ".join(classified) or words or "see its files"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def main() -> None:
    found: dict[str, set[str]] = {}
    needed("dynfocus", frozenset({"train", "eval", "serve", "demo", "ray"}), "", found)
    print(_HEAD)
    for name, purposes in sorted(found.items()):
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        why = "core" if "core" in purposes else ", ".join(sorted(purposes))
        print(f"| {name} | {version} | {license_of(name)} | {why} |")


if __name__ == "__main__":
    main()
