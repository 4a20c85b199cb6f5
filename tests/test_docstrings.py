"""What docstrings show without running it is true to the signatures: every call has the arguments that it must have."""

from __future__ import annotations

import ast
import doctest
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import aurora_pool
from aurora_pool.blocking import BlockingPool
from aurora_pool.patterns import tree_reduce
from tests.test_exports import MODULES, PUBLIC, load

LITERAL = re.compile(r"::\n\n((?:[ \t]+\S.*\n?|\n)+)")
UNPACKED = re.compile(r"Unpack\[(\w+)\]")


def shown(test: doctest.DocTest) -> Iterator[str]:
    """Give the code of a docstring that isn't run: skipped examples, and what stands after a double colon."""
    yield from (example.source for example in test.examples if example.options.get(doctest.SKIP))
    yield from map(textwrap.dedent, LITERAL.findall(inspect.cleandoc(test.docstring or "")))


def calls(code: str) -> Iterator[ast.Call]:
    """Give the calls of a piece of code; none where it isn't Python."""
    try:
        tree = compile(code, "docstring", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    except SyntaxError:
        return
    yield from (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def called(function: ast.expr, names: dict[str, Any], home: Any) -> tuple[Callable[..., Any] | None, int]:
    """Give what of this package is called, and how many arguments it gets besides: 1 for a method's object."""
    owner = found = None
    if isinstance(function, ast.Name):
        found = names.get(function.id)
    elif isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
        variable = names["VLLMPool"] if function.value.id == "pool" else None
        owner = names.get(function.value.id, home if hasattr(home, function.attr) else variable)
        found = getattr(owner, function.attr, None)
    ours = callable(found) and str(getattr(found, "__module__", "")).startswith("aurora_pool")
    return (found if ours else None), int(inspect.isclass(owner) and not inspect.ismethod(found))


def bind(call: ast.Call, names: dict[str, Any], home: Any) -> bool:
    """Bind a call to the signature of what is called; tell whether that is of this package. Raises TypeError."""
    function, first = called(call.func, names, home)
    if function is None or any(isinstance(part, ast.Starred) for part in call.args):
        return False
    if function is BlockingPool.run:  # it hands its arguments on, after the pool
        function, first = called(call.args[0], names, home)[0], 0
        assert function is not None
    keywords = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg is not None}
    signature = inspect.signature(function)
    signature.bind(*[None] * (first + len(call.args)), **keywords)
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD and (options := UNPACKED.search(str(parameter.annotation))):
            known = vars(inspect.getmodule(function))[options[1]].__annotations__
            if unknown := keywords.keys() - {*signature.parameters, *known}:
                raise TypeError(f"got unexpected keyword arguments {sorted(unknown)}")
    return True


def test_calls_in_docstrings_have_the_arguments_of_what_they_call() -> None:
    finder = doctest.DocTestFinder(exclude_empty=False)
    public: dict[str, Any] = {}
    for module in load(*sorted(PUBLIC & {"aurora_pool", *MODULES})):
        public |= {name: getattr(module, name) for name in module.__all__}
    bound, wrong = set(), []
    for module in load("aurora_pool", *MODULES):
        names = public | vars(module)
        for test in finder.find(module):
            home = vars(module).get(test.name.removeprefix(f"{module.__name__}.").partition(".")[0])
            for call in (call for code in shown(test) for call in calls(code)):
                try:
                    bound |= {test.name} if bind(call, names, home) else set()
                except TypeError as error:
                    wrong.append(f"{test.name}: {ast.unparse(call)}: {error}")
    assert not wrong, "\n".join(wrong)
    assert len(bound) > 30, sorted(bound)


@pytest.mark.parametrize(
    "code",
    [
        'pool.run(tree_reduce, "Summarise: {item}", items=pages)',
        "pool.ask()",
        "VLLMPool.from_hostfile('fleet.hostfile', token=3)",
    ],
)
def test_a_call_that_would_fail_is_found(code: str) -> None:
    names = {"VLLMPool": aurora_pool.VLLMPool, "tree_reduce": tree_reduce}
    [call] = calls(code)
    with pytest.raises(TypeError):
        bind(call, names, BlockingPool)
