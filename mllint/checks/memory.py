"""Detectors of the topic memory: what is kept, and what costs time in every batch."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from mllint.checks import each
from mllint.flow.lexical import FUNCTIONS, CodeFile
from mllint.flow.loaders import is_in
from mllint.flow.registration import is_own, last_name
from mllint.model.finding import Hit, Label
from mllint.model.fix import Fix, Move

#: Calls that give memory back, with what each costs.
EMPTYING = {
    **{
        f"torch.{module}.empty_cache": "waits for the device and gives back memory the next batch asks for again"
        for module in ("cuda", "cuda.memory", "mps", "xpu", "accelerator")
    },
    "gc.collect": "goes through every object of the program",
}
LOOPS = (ast.For, ast.AsyncFor, ast.While)
BACKWARD = frozenset(("backward", "manual_backward"))
STEPS = frozenset(("step",))
#: A function that is called for each batch by code in another file says so by its name.
NAMED = re.compile(r"(?i)step|batch|iteration|update|optimi[sz]e")
#: Classes whose `training_step` the framework calls for every batch.
STEPPED = ("lightning.pytorch.LightningModule", "transformers.Trainer")


@each(CodeFile)
def cache_emptied_per_batch(code: CodeFile) -> Iterator[Hit]:
    for call in code.all(ast.Call):
        cost = EMPTYING.get(code.dotted(call.func) or "")
        repeats = every_batch(code, call) if cost is not None else None
        statement = code.parents.get(call)
        if repeats is None or not isinstance(statement, ast.Expr):
            continue
        header = repeats.iter if isinstance(repeats, (ast.For, ast.AsyncFor)) else repeats.test if isinstance(repeats, ast.While) else None
        inside = code.parents.get(statement) is repeats and header is not None
        yield Hit(
            code.span(call),
            f"`{code.text(call)}` runs in every training step, and each time {cost}",
            (Label(code.span(header), "the batches"),) if header is not None else (),
            fix=Fix("call it once, behind the loop", "unsafe", (Move(code.span(statement), code.span(repeats), "after"),))
            if inside
            else None,
        )


def every_batch(code: CodeFile, node: ast.AST, depth: int = 2) -> ast.AST | None:
    """The loop over batches that repeats the node with every training step, or the function that is one such step."""
    inner = node
    for outer in code.around(node):
        if isinstance(outer, ast.ExceptHandler) or (
            isinstance(outer, (ast.If, ast.IfExp, ast.match_case)) and not asks_for_device(code, outer)
        ):
            return None
        if isinstance(outer, LOOPS):
            return outer if is_in(outer.body, inner) and does(outer.body, BACKWARD) else None
        if isinstance(outer, ast.FunctionDef):
            if stepped(code, outer):
                return outer
            if does(outer.body, BACKWARD):
                repeats = called_in_loop(code, outer) or (outer if NAMED.search(outer.name) else None)
                return repeats if does(outer.body, STEPS) else None
            calls = (c for c in code.all(ast.Call) if names(c.func, outer) and not is_in([outer], c)) if depth else ()
            return next((found for c in calls if (found := every_batch(code, c, depth - 1)) is not None), None)
        if isinstance(outer, (*FUNCTIONS, ast.ClassDef)):
            return None
        inner = outer
    return None


def names(callee: ast.expr, function: ast.FunctionDef) -> bool:
    """`f` or `self.f`."""
    return last_name(callee) == function.name and (isinstance(callee, ast.Name) or is_own(callee))


def asks_for_device(code: CodeFile, branch: ast.AST) -> bool:
    """`if torch.cuda.is_available()`: taken in every batch or in none."""
    return isinstance(branch, ast.If) and isinstance(branch.test, ast.Call) and code.dotted(branch.test.func) == "torch.cuda.is_available"


def does(body: list[ast.stmt], actions: frozenset[str]) -> bool:
    """The statements call one of these themselves, not in a loop of their own or in a function they define."""
    waiting: list[ast.AST] = list(body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, (*LOOPS, *FUNCTIONS, ast.ClassDef)):
            continue
        if isinstance(node, ast.Call) and last_name(node.func) in actions:
            return True
        waiting.extend(ast.iter_child_nodes(node))
    return False


def stepped(code: CodeFile, function: ast.FunctionDef) -> bool:
    """The framework calls this method for every batch."""
    cls = code.parents.get(function)
    named = function.name == "training_step" and isinstance(cls, ast.ClassDef)
    return named and any(name in STEPPED for name in code.ancestry(cls).libraries)  # type: ignore[arg-type]


def called_in_loop(code: CodeFile, function: ast.FunctionDef) -> ast.AST | None:
    """The loop that calls a function of the same file in each turn."""
    for call in code.all(ast.Call):
        if last_name(call.func) != function.name or is_in([function], call):
            continue
        around = list(code.around(call))
        loop = next((n for n, o in enumerate(around) if isinstance(o, LOOPS)), None)
        if loop is not None and not any(isinstance(o, (*FUNCTIONS, ast.If, ast.ExceptHandler)) for o in around[:loop]):
            return around[loop]
    return None
