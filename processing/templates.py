"""
Chat templates, which come with a model and are programs, within bounds of work and memory.

A template is rendered here first, in jinja2's sandbox with bounds on its loops, calls, operators, filters and the
length of texts; only then by transformers, whose result counts. So it holds in any thread and on any system, without a
clock or a process of its own, and what transformers renders does no more than what was seen to end. Templates are
deterministic but for the date.
"""

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from importlib import import_module
from typing import Any

from .rows.blocks import KEYS_OF_TEMPLATES, ROLES_OF_TEMPLATES

# The longest templates in use have about 20,000 characters.
_MOST_TEMPLATE_CHARACTERS = 1 << 20
# Items of loops, calls and operators; the longest chats take some ten thousand.
_MOST_STEPS = 250_000
# Characters of a text, and items of a list.
_MOST_LENGTH = 1 << 26
_MOST_ITEMS = 1 << 20
# As repetitions, widths and the like.
_LARGEST_NUMBER = 100_000
_LARGEST_RESULT = 1 << 64
_WIDTH = re.compile(r"%[^%a-zA-Z]*(\d{6,}|\*)|\{[^}]*\d{6,}")
_PLAIN = (str, int, float, bool, type(None))


class UnusableTemplate(ValueError):
    """A chat template that cannot be used; the message says why."""


def check_template(template: Any, messages: Sequence[Any], **variables: Any) -> None:
    """
    Renders a template within bounds, to know that it ends.

    Args:
        template: the text of the template, or texts by name, of which `"default"` is rendered; `None` passes.
        messages: the conversation.
        variables: all else that the template may read.

    Raises:
        `UnusableTemplate`: more work or longer texts than any conversation needs.
        `TypeError` and jinja2's `TemplateError`: a conversation that the template does not take.
    """
    if isinstance(template, Mapping):
        template = template.get("default")
    if template is None:
        return
    if not isinstance(template, str):
        raise UnusableTemplate(f"The chat template must be a text, got {type(template).__name__}.")
    if len(template) > _MOST_TEMPLATE_CHARACTERS:
        raise UnusableTemplate(f"The chat template is too long: it has {len(template):,} characters.")
    _check_read(template, messages)
    refusals = import_module("jinja2.exceptions").TemplateError
    try:
        environment, compiled = _compiled(template)
        environment.work.steps = length = 0
        for piece in compiled.generate(messages=_plain(messages), **_plain(variables)):
            length += len(piece)
            environment.check_length(length)
    except (UnusableTemplate, refusals, TypeError):
        raise
    except Exception as error:
        raise UnusableTemplate(f"The chat template cannot be rendered: {type(error).__name__}, {error}.") from None


def _check_read(template: str, messages: Sequence[Any]) -> None:
    """Raises a `ValueError` for roles and keys that this template would leave out, or take for others."""
    for message in messages:
        if not isinstance(message, Mapping):
            continue
        if (role := message.get("role")) in ROLES_OF_TEMPLATES and role not in template:
            raise ValueError(f"This model's chat template has no role {role!r}: use 'system', 'user' and 'assistant'.")
        for key in KEYS_OF_TEMPLATES:
            if message.get(key) is not None and not re.search(rf"\b{key}\b", template):
                raise ValueError(f"This model's chat template does not read `{key}` of a message: leave it out.")


def _plain(value: Any) -> Any:
    """What a template may read: texts, numbers, lists and dicts; the type's name stands for videos and the like."""
    if type(value) in _PLAIN:
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return f"<{type(value).__name__}>"


@lru_cache(maxsize=16)
def _compiled(template: str) -> tuple[Any, Any]:
    environment = _environment_class()()
    return environment, environment.from_string(template)


@lru_cache(maxsize=1)
def _environment_class() -> Any:
    """The class of environments; jinja2 is imported when a template is used."""
    nodes: Any = import_module("jinja2.nodes")
    sandbox: Any = import_module("jinja2.sandbox")
    visitor: Any = import_module("jinja2.visitor")
    stock = import_module("transformers.utils.chat_template_utils")._compile_jinja_template("").environment

    class Environment(sandbox.ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

        def __init__(self) -> None:
            extensions = [type(extension) for extension in stock.extensions.values()]
            super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
            # Several threads may render at once.
            self.work = threading.local()
            self.globals.update({name: value for name, value in stock.globals.items() if name != "lipsum"})
            self.globals["range"] = self._range
            self.globals.pop("lipsum", None)
            self.tests.update(stock.tests)
            self.filters.update({name: self._bounded(name, function) for name, function in stock.filters.items()})
            self.filters.update({_COUNTED: self._counted, _JOINED: self._joined})

        def step(self, count: int = 1) -> None:
            self.work.steps = getattr(self.work, "steps", 0) + count
            if self.work.steps > _MOST_STEPS:
                raise UnusableTemplate("The chat template does not come to an end: it is no template to be used.")

        def check_length(self, length: int) -> None:
            if length > _MOST_LENGTH:
                raise UnusableTemplate("The chat template makes texts without bound: it is no template to be used.")

        def check_result(self, value: Any) -> Any:
            if isinstance(value, int) and abs(value) > _LARGEST_RESULT:
                raise UnusableTemplate(
                    "The chat template computes numbers without bound: it is no template to be used."
                )
            if isinstance(value, str):
                self.check_length(len(value))
            elif isinstance(value, (list, tuple)):
                self.check_length(len(value) * (_MOST_LENGTH // _MOST_ITEMS))
            return value

        def check_numbers(self, arguments: Sequence[Any]) -> None:
            for value in arguments:
                if isinstance(value, int) and abs(value) > _LARGEST_NUMBER:
                    raise UnusableTemplate(f"The chat template repeats or pads {value:.3g} times: no chat needs that.")

        def check_format(self, text: str) -> None:
            if _WIDTH.search(text):
                raise UnusableTemplate("The chat template writes numbers too wide: no chat needs that.")

        def check_growth(self, name: str, text: Any, given: Sequence[Any]) -> None:
            """Before a method or filter makes a text that may be longer than those that it is given."""
            texts = [value for value in given if isinstance(value, str)]
            if name == "replace" and isinstance(text, str) and len(texts) >= 2:
                self.check_length(len(text) + text.count(texts[0]) * len(texts[1]))
            elif name == "join":
                lists = [value for value in (text, *given) if isinstance(value, (list, tuple))]
                glue = max([len(value) for value in (text, *texts) if isinstance(value, str)], default=0)
                for pieces in lists:
                    self.check_length(len(pieces) * glue + sum(len(one) for one in pieces if isinstance(one, str)))
            elif name in ("indent", "tojson", "pprint"):
                wide = max([value for value in given if isinstance(value, int)], default=0)
                self.check_length(len(str(text)) * max(1, wide))
            elif name in ("format", "format_map") and isinstance(text, str):
                self.check_format(text)

        def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
            self.step()
            owner, given = getattr(function, "__self__", None), [*args, *kwargs.values()]
            name = getattr(function, "__name__", "")
            if isinstance(owner, str) or name in ("format", "format_map"):
                self.check_numbers(given)
                self.check_growth(name, owner, given)
            return self.check_result(super().call(context, function, *args, **kwargs))

        def wrap_str_format(self, value: Any) -> Any:
            # The sandbox takes the place of this method.
            text = getattr(value, "__self__", None)
            if isinstance(text, str) and getattr(value, "__name__", "") in ("format", "format_map"):
                self.check_format(text)
            return super().wrap_str_format(value)

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            self.step()
            sized = [value for value in (left, right) if isinstance(value, (str, list, tuple))]
            if operator == "**":
                raise UnusableTemplate("The chat template computes a power: no chat needs that.")
            if operator == "*" and sized:
                times = right if sized[0] is left else left
                self.check_length(len(sized[0]) * times if isinstance(times, int) else 0)
            if operator == "%" and isinstance(left, str):
                self.check_format(left)
            return self.check_result(super().call_binop(context, operator, left, right))

        def _range(self, *args: Any) -> range:
            # A loop over it counts again; a list of it does not.
            found = sandbox.safe_range(*args)
            self.step(len(found))
            return found

        def _counted(self, items: Any) -> Any:
            return _Counted(self, items)

        def _joined(self, pieces: list[Any]) -> str:
            self.step()
            texts = [str(piece) for piece in pieces]
            self.check_length(sum(map(len, texts)))
            return "".join(texts)

        def concat(self, pieces: Any) -> str:
            found = list(pieces)
            self.check_length(sum(map(len, found)))
            return "".join(found)

        def _bounded(self, name: str, function: Any) -> Any:
            def bounded(*args: Any, **kwargs: Any) -> Any:
                self.step()
                # Some get the environment or the context first.
                text, *given = [*args[1 if hasattr(function, "jinja_pass_arg") else 0 :], *kwargs.values()]
                self.check_numbers(given)
                self.check_growth(name, text, given)
                found = function(*args, **kwargs)
                return found if isinstance(found, Iterator) else self.check_result(found)

            if hasattr(function, "jinja_pass_arg"):
                bounded.jinja_pass_arg = function.jinja_pass_arg  # type: ignore[attr-defined]
            return bounded

        def _parse(self, source: str, name: str | None, filename: str | None) -> Any:
            try:
                tree = super()._parse(source, name, filename)
                return Bounds(self).visit(tree)
            except RecursionError:
                raise UnusableTemplate(
                    "The chat template is nested too deeply: it is no template to be used."
                ) from None

    class Bounds(visitor.NodeTransformer):
        """Counts what loops pass, and refuses constants that would be computed while a template is compiled."""

        def __init__(self, environment: Any) -> None:
            self.environment = environment

        def visit_For(self, node: Any) -> Any:
            self.generic_visit(node)
            node.iter = nodes.Filter(node.iter, _COUNTED, [], [], None, None, lineno=node.lineno)
            return node

        def visit_Concat(self, node: Any) -> Any:
            self.generic_visit(node)
            pieces = nodes.List(node.nodes, lineno=node.lineno)
            return nodes.Filter(pieces, _JOINED, [], [], None, None, lineno=node.lineno)

        def visit_Pow(self, node: Any) -> Any:
            raise UnusableTemplate("The chat template computes a power: no chat needs that.")

        def visit_Filter(self, node: Any) -> Any:
            self.generic_visit(node)
            constants = [node.node, *node.args, *(pair.value for pair in node.kwargs)]
            values = [one.value for one in constants if isinstance(one, nodes.Const)]
            self.environment.check_numbers(values)
            if node.name == "format":
                for text in [value for value in values if isinstance(value, str)]:
                    self.environment.check_format(text)
            return node

        def visit_Binary(self, node: Any) -> Any:
            self.generic_visit(node)
            sides = node.left, node.right
            if not all(isinstance(side, nodes.Const) for side in sides):
                return node
            try:
                value = self.environment.call_binop(None, node.operator, *(side.value for side in sides))
            except UnusableTemplate:
                raise
            except Exception:  # its own fault, when it is rendered
                return node
            return nodes.Const(value, lineno=node.lineno)

        visit_Mul = visit_Add = visit_Sub = visit_Div = visit_FloorDiv = visit_Mod = visit_Binary

    class _Counted:
        """The items of a loop, each a step."""

        def __init__(self, environment: Any, items: Any) -> None:
            self.environment, self.items = environment, items

        def __len__(self) -> int:
            return len(self.items)

        def __iter__(self) -> Iterator[Any]:
            for item in self.items:
                self.environment.step()
                yield item

    return Environment


_COUNTED, _JOINED = "_counted", "_joined"


__all__ = ["UnusableTemplate", "check_template"]
