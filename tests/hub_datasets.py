"""
A Hub on the loopback interface that serves data sets as well as models.

```python
with DatasetHubServer() as hub:
    hub.add_dataset("org/set", {"data/test-00000-of-00001.parquet": parquet_file(rows)})
    # … HF_ENDPOINT=hub.url, in a process of its own (`Part` of hub_client.py does that) …
```

Models and data sets share their names here.
"""

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow
import pyarrow.parquet
import yaml
from hub_server import Files, HubServer


class DatasetHubServer(HubServer):
    """As `HubServer`, with the addresses of data sets."""

    def __init__(self, tokens: Mapping[str, tuple[str, str]] | None = None):
        super().__init__(tokens)
        models: Any = self._server.RequestHandlerClass

        class Handler(models):
            def _route(self, path: str) -> tuple[int, dict[str, str], Any]:
                return super()._route(path.replace("/api/datasets/", "/api/models/", 1).removeprefix("/datasets"))

        self._server.RequestHandlerClass = Handler

    def add_dataset(self, name: str, files: Files, *, revision: str = "main", gated: bool = False) -> str:
        """A new data set with these files on a branch; returns the commit."""
        self.add_repo(name, {"README.md": files.get("README.md", "# Data\n")}, gated=gated)
        if revision != "main":
            self.repos[name].branches[revision] = self.sha(name)
        return self.commit(name, files, revision=revision)


def parquet_file(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Rows as the content of a Parquet file; the types are those of the Python values."""
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([dict(row) for row in rows]), buffer)
    return buffer.getvalue()


def json_file(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as a JSON list."""
    return json.dumps(list(rows), indent=2)


def jsonl_file(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as JSON, a line each."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def data_card(configs: Mapping[str, str], split: str) -> str:
    """A README that says in which file each configuration is."""
    listed = [{"config_name": name, "data_files": [{"split": split, "path": path}]} for name, path in configs.items()]
    return f"---\n{yaml.safe_dump({'configs': listed})}---\n# Data\n"


__all__ = ["DatasetHubServer", "data_card", "json_file", "jsonl_file", "parquet_file"]
