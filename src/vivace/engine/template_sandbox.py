"""Jinja templates from model files, which nobody has checked: no access to Python's inside, and bounded work.

Jinja's sandbox keeps a template from reaching the interpreter, but not from looping or growing for ever. Here the
parsed template is rewritten so that loops, new containers, concatenation, slices and comparisons pass through
counting operations; filters, tests, calls, operators and output are counted by the environment. What is counted is
fixed by template and input, never by time.
"""

# ruff: noqa: N802 - Jinja dispatches on the names of its node classes

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import jinja2
from jinja2 import nodes, pass_context
from jinja2.ext import Extension, LoopControlExtension
from jinja2.meta import find_undeclared_variables
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from vivace.core.errors import TemplateError
from vivace.engine import template_operations as operations
from vivace.engine.render_budget import RenderBudget, current_budget, use_budget

MAX_TEMPLATE_CHARS = 1 << 17  # the longest published one has some 20,000
_NODES_PER_STEP = 8
_STEPS_PER_MACRO = 8  # a macro call takes 7 us, a counted operation 1


class GenerationTag(Extension):
    """`{% generation %}` marks what the assistant says, for training; rendering keeps its body as it is."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own declaration

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Meter(NodeTransformer):
    """Rewrites what Jinja compiles to bare Python into counting filters."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        if node.recursive:
            raise TemplateError("a chat template cannot loop recursively")
        weight = 1 + sum(1 for _ in node.find_all(nodes.Node)) // _NODES_PER_STEP
        self.generic_visit(node)
        node.iter = _filter("(iterate)", node.iter, nodes.Const(weight))
        return node

    def visit_Output(self, node: nodes.Output) -> nodes.Node:
        self.generic_visit(node)
        # Constants pass through `finalize`, which counts; template data would not.
        node.nodes = [nodes.Const(part.data) if isinstance(part, nodes.TemplateData) else part for part in node.nodes]
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filter("(concat)", nodes.List(node.nodes))

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        bounds = (bound or nodes.Const(None) for bound in (node.arg.start, node.arg.stop, node.arg.step))
        return _filter("(slice)", node.node, *bounds)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        node.expr = _read(node.expr)
        for operand in node.ops:
            operand.expr = _read(operand.expr)
        return node

    def visit_List(self, node: nodes.List) -> nodes.Node:
        self.generic_visit(node)
        return _filter("(made)", node)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        self.generic_visit(node)
        return _filter("(made)", node)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return _filter("(made)", node) if node.ctx == "load" else node


def _filter(name: str, value: nodes.Node, *args: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(value, name, list(args), [], None, None, lineno=value.lineno)


def _read(value: nodes.Expr) -> nodes.Expr:
    return value if isinstance(value, nodes.Const) else _filter("(read)", value)


@pass_context
def _finalize(_context: Context, value: Any) -> Any:
    """Every piece of output, counted before it becomes text."""
    current_budget().charge_text_of(value)
    return value


class TemplateEnvironment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with counted work."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[GenerationTag, LoopControlExtension],
            optimized=False,  # constants would be computed while compiling, uncounted
            finalize=_finalize,
        )
        self.filters = dict(operations.filters())
        self.tests = dict(operations.tests())
        self.globals = {
            "range": self.globals["range"],  # refuses more than 100,000 numbers
            "dict": operations.make_dict,
            "namespace": operations.TemplateNamespace,
            "raise_exception": operations.raise_exception,
            "strftime_now": operations.strftime_now,
        }

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        template: nodes.Template = _Meter().visit(super()._parse(source, name, filename))
        return template

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        budget = current_budget()
        operations.check_operator(budget, operator, left, right)
        result = super().call_binop(context, operator, left, right)
        budget.charge_made(result)
        return result

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, int | float | bytes):  # int.to_bytes(10**9)
            return False
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None
        pattern, takes_mapping = value.__self__, value.__name__ == "format_map"

        def bounded(*args: Any, **kwargs: Any) -> str:
            values = args[0].values() if takes_mapping and args else (*args, *kwargs.values())
            operations.check_text_format(current_budget(), pattern, values)
            return str(wrapped(*args, **kwargs))

        return bounded

    def call(self, context: Context, obj: Any, *args: Any, **kwargs: Any) -> Any:
        budget = current_budget()
        budget.charge(_STEPS_PER_MACRO if isinstance(obj, Macro) else 1)
        method = getattr(obj, "__name__", "")
        owner = getattr(obj, "__self__", None)
        if isinstance(owner, str) and isinstance(method, str):
            operations.check_text_call(budget, owner, method, args, kwargs)
        return operations.settled(budget, super().call(context, obj, *args, **kwargs))


_ENVIRONMENT = TemplateEnvironment()


@lru_cache(maxsize=32)
def compile_template(source: str) -> jinja2.Template:
    """The compiled template. Raises `TemplateError`."""
    if len(source) > MAX_TEMPLATE_CHARS:
        raise TemplateError(f"the chat template has more than {MAX_TEMPLATE_CHARS} characters")
    try:
        return _ENVIRONMENT.from_string(source)
    except TemplateError:
        raise
    except jinja2.TemplateSyntaxError as error:
        raise TemplateError(f"the chat template is wrong in line {error.lineno}: {error.message}") from error
    except (Exception, RecursionError, MemoryError) as error:
        raise TemplateError(f"the chat template cannot be compiled: {type(error).__name__}") from error


@lru_cache(maxsize=32)
def template_variables(source: str) -> frozenset[str]:
    """Names of the variables that the template reads. Raises `TemplateError`."""
    compile_template(source)
    return frozenset(find_undeclared_variables(_ENVIRONMENT.parse(source)))


def render_template(source: str, variables: Mapping[str, Any]) -> str:
    """Renders `source` with plain data. Raises `TemplateError` for any failure and for work beyond the budget."""
    template = compile_template(source)
    try:
        with use_budget(RenderBudget(variables)):
            return template.render(variables)
    except TemplateError:
        raise
    except (RecursionError, MemoryError) as error:
        raise TemplateError("the chat template nests too deeply") from error
    except Exception as error:  # whatever the template's expressions raise
        raise TemplateError(f"the chat template failed: {type(error).__name__}: {str(error)[:500]}") from error
