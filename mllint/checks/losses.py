"""Detectors of the topic losses: does what goes into a loss fit it, and does the loss do what it is computed for."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator

from mllint.checks import each
from mllint.flow.endings import LOG_SOFTMAX, SCORES, SIGMOID, SOFTMAX
from mllint.flow.lexical import SCOPES, CodeFile
from mllint.flow.library import LOSSES
from mllint.flow.questions import backwards, called, confidence, loss_of, owned, parts, path, reaches, shared_loop
from mllint.model.finding import Hit, Span
from mllint.model.history import Event, History, Value, mentions

# ------------------------------------------------------ what goes into a loss

CROSS_ENTROPY = ("torch.nn.CrossEntropyLoss", "torch.nn.functional.cross_entropy")
NLL = ("torch.nn.NLLLoss", "torch.nn.NLLLoss2d", "torch.nn.functional.nll_loss")
BCE = ("torch.nn.BCELoss", "torch.nn.functional.binary_cross_entropy")
BCE_WITH_LOGITS = ("torch.nn.BCEWithLogitsLoss", "torch.nn.functional.binary_cross_entropy_with_logits")


@each(History)
def softmax_before_cross_entropy(history: History) -> Iterator[Hit]:
    yield from fed(history, CROSS_ENTROPY, SOFTMAX, "{} is the output of a softmax, and cross entropy applies softmax once more")


@each(History)
def sigmoid_before_bce_with_logits(history: History) -> Iterator[Hit]:
    yield from fed(history, BCE_WITH_LOGITS, SIGMOID, "{} is the output of a sigmoid, and this loss applies sigmoid once more")


@each(History)
def redundant_log_softmax(history: History) -> Iterator[Hit]:
    yield from fed(
        history, CROSS_ENTROPY, LOG_SOFTMAX, "{} went through log_softmax, which cross entropy does itself: the work is done twice"
    )


@each(History)
def probability_log(history: History) -> Iterator[Hit]:
    for ending, what in ((SOFTMAX, "a softmax"), (SIGMOID, "a sigmoid"), (SCORES, "a layer that gives scores")):
        yield from fed(history, NLL, ending, f"{{}} is the output of {what}, and this loss takes logarithms of probabilities")
    for ending, what in ((LOG_SOFTMAX, "log_softmax"), (SCORES, "a layer that gives scores")):
        yield from fed(history, BCE, ending, f"{{}} is the output of {what}, and this loss takes probabilities")


def fed(history: History, losses: tuple[str, ...], ending: str, message: str) -> Iterator[Hit]:
    """The calls of these losses whose input was made by that operation last."""
    for call, name in loss_calls(history):
        if name not in losses or call.arguments["ending"].constant != ending:
            continue
        made = call.thing.made_at if call.thing is not None else None
        yield Hit(
            call.span,
            message.format(said(call, name)),
            path((made, "the loss is made here"), (call.span, "and called here")),
            confidence=confidence(call),
        )


def said(call: Event, name: str) -> str:
    """The input as a message names it: by the user's own name, else by that of the loss."""
    text = call.arguments["input"].text
    return f"`{text}`" if text else f"the input of {called(call.thing) if call.thing is not None else '`' + name.rpartition('.')[2] + '`'}"


def loss_calls(history: History) -> Iterator[tuple[Event, str]]:
    """The calls of losses whose input is known, with the name the library gives the loss."""
    for event in history.events(None, "forward", "loss"):
        if "ending" not in event.arguments:
            continue
        if event.action == "loss":
            yield event, str(event.arguments["function"].constant)
        elif event.thing is not None and "forward" not in event.thing.facts.get("overrides", ()):
            yield event, event.thing.type if "." in event.thing.type else next(iter(event.thing.bases), "")


# ------------------------------------------------------ what becomes of a loss

#: Parts of a key through which a sum, a difference or a scaled loss carries its terms.
TERMS = frozenset(("+", "-", "*", "/", "neg", "scaled", "either"))
#: Methods that give the same loss again.
SAME_LOSS = frozenset(("mean", "sum", "squeeze", "view", "reshape", "float", "to", "cuda", "clone"))


@each(History)
def loss_graph_retained(history: History) -> Iterator[Hit]:
    told: set[Span] = set()
    passes = backwards(history)
    for kept in history.events(None, "kept"):
        if kept.span in told or quiet(kept):
            continue
        key, into = kept.arguments["value"].key, kept.arguments["into"]
        if into.key and any(holds(b.arguments["loss"].key, into.key) for b in passes):
            continue  # the sum itself goes backward
        for backward in passes:
            loop = shared_loop(kept, backward)
            if loop is None or not isinstance(number := loop.key[1], int) or number < kept.arguments["since"].constant:
                continue  # the place is made anew in every turn
            loss = backward.arguments["loss"].key
            if not (term(loss, key) or term(key, loss)) or history.exclusive(kept, backward):
                continue
            told.add(kept.span)
            name = f"`{into.text}`" if into.text else loss_of(history, backward)
            yield Hit(
                kept.span,
                f"{name} keeps the graph of every step alive, because the loss is added to it as a tensor and not as a number",
                path((loop.span, "in every turn"), (backward.span, "the loss goes backward here"), (kept.span, "and is kept here")),
                confidence=confidence(kept) if kept.sure else "medium",
            )
            break


def quiet(event: Event) -> bool:
    """Gradients are switched off around the event."""
    return event.inside("no_grad") is not None or event.inside("inference_mode") is not None


def term(key: tuple, part: tuple) -> bool:
    """The value is the part, or a sum or multiple of it and others."""
    if key == part:
        return True
    if key[:1] == ("call",) and isinstance(key[1], tuple) and key[1][:1] == ("attr",) and key[1][2] in SAME_LOSS:
        return term(key[1][1], part)
    return bool(key) and key[0] in TERMS and any(isinstance(k, tuple) and term(k, part) for k in key[1:])


def holds(key: tuple, part: tuple) -> bool:
    """The part occurs anywhere in the key."""
    return key == part or any(isinstance(k, tuple) and holds(k, part) for k in key)


#: Functions of torch that make a new tensor out of a number, without its graph.
NEW_TENSORS = frozenset(("torch.tensor", "torch.as_tensor", "torch.FloatTensor", "torch.Tensor"))


@each(History)
def gradient_cut(history: History) -> Iterator[Hit]:
    told: set[Span] = set()
    for backward in backwards(history):
        loss = backward.arguments["loss"]
        if backward.span in told or not is_cut(history, loss.key, carries_module(history, loss)):
            continue
        told.add(backward.span)
        yield Hit(
            backward.span,
            f"{loss_of(history, backward)} was cut from its graph, so this `backward()` reaches no parameter",
            path((backward.span, "goes backward here, without a graph")),
            confidence=confidence(backward),
        )
    yield from cut_off(history)


def carries_module(history: History, value: Value) -> bool:
    return any(t.kind == "module" for i in value.sources if (t := history.thing(i)) is not None)


def is_cut(history: History, key: tuple, carried: bool) -> bool | None:
    """No way leads from the value back to a parameter; None for numbers. `carried`: some part of it comes from a module."""
    if key[:1] == ("const",):
        return None
    if key[:1] == ("attr",):
        return key[2] == "data"
    if key[:1] == ("call",):
        function, inputs = key[1], [k for k in key[2:] if isinstance(k, tuple)]
        if function in NEW_TENSORS:
            return any(mentions(k, "call") for k in inputs)
        if isinstance(function, tuple) and function[:1] == ("attr",):
            if function[2] in CUTS:
                return mentions(function[1], "call")
            return function[2] in SAME_LOSS and is_cut(history, function[1], carried) is True
        thing = history.thing(function[1]) if isinstance(function, tuple) and function[:1] == ("thing",) else None
        is_a_loss = thing.kind == "criterion" if thing is not None else isinstance(function, str) and LOSSES.search(function) is not None
        return bool(is_a_loss and not carried and inputs and is_cut(history, inputs[0], carried))
    if key[:1] and key[0] in TERMS:
        states = [is_cut(history, k, carried) for k in key[1:] if isinstance(k, tuple)]
        return False if False in states else (True in states or None)
    return False


def cut_off(history: History) -> Iterator[Hit]:
    """Optimizers that step while the outputs of their modules enter the loss cut from their graph, and in no other way."""
    passes = backwards(history)
    if history.events(None, "autograd-grad", "grad-written"):
        return
    for optimizer in history.things("optimizer"):
        own = owned(history, optimizer)
        escaped = any(t.lost is not None for i in own if (t := history.thing(i)) is not None)  # unseen code may go backward through it
        if not own or escaped or optimizer.lost or optimizer.managed or any(reaches(history, b, optimizer) is not False for b in passes):
            continue
        for step in history.possible(optimizer, "step"):
            found = next(((c, b) for b in passes for c in history.events(None, "cut") if enters(history, c, b, step, own)), None)
            if found is None:
                continue
            cut, backward = found
            yield Hit(
                cut.span,
                f"no backward pass reaches the parameters of {called(optimizer)}, because the way to the loss is cut here",
                path((cut.span, "cut here"), (backward.span, "the only gradients are computed here"), (step.span, "stepped with none")),
                confidence=confidence(cut, backward, step),
            )
            break


def enters(history: History, cut: Event, backward: Event, step: Event, own: frozenset[int]) -> bool:
    """The cut output of these modules is part of the loss that goes backward in the loop of the step."""
    value = cut.arguments["value"]
    inside = parts(history, value.sources) & own and shared_loop(cut, step) is not None and shared_loop(backward, step) is not None
    return bool(inside) and holds(backward.arguments["loss"].key, ("call", value.key))


#: What takes a number out of its graph on purpose.
CUTS = frozenset(("item", "detach", "data", "tolist", "numpy"))
#: Calls that read the names of a function without naming them.
READERS = frozenset(("locals", "vars", "eval", "exec", "globals"))


@each(CodeFile)
def loss_term_unused(code: CodeFile) -> Iterator[Hit]:
    criteria: frozenset[str] | None = None
    named = [n for n in code.all(ast.Assign) if len(n.targets) == 1 and isinstance(n.targets[0], ast.Name)]
    loads = read_often(code)
    for node in named:
        target = node.targets[0]
        # most names are read by somebody: the question that answers itself soonest comes first
        if not isinstance(target, ast.Name) or target.id.startswith("_") or loads(node, target.id):
            continue
        calls = [n for n in ast.walk(node.value) if isinstance(n, ast.Call)]
        if not calls or any(isinstance(n, ast.Attribute) and n.attr in CUTS for n in ast.walk(node.value)):
            continue
        criteria = made_criteria(code) if criteria is None else criteria
        if not any(is_loss(code, c, criteria) for c in calls):
            continue
        scope = next((o for o in code.around(node) if isinstance(o, SCOPES)), code.tree)
        if isinstance(scope, ast.ClassDef) or without_gradients(code, node) or is_read(scope, target.id):
            continue
        others = [c for c in ast.walk(scope) if isinstance(c, ast.Call) and c not in calls and is_loss(code, c, criteria)]
        if not others or not trains(code, scope):
            continue
        yield Hit(
            code.span(node),
            f"`{target.id}` is computed with its gradients and never read, so it is no part of the loss that goes backward",
            path((code.span(node), "computed here"), (code.span(others[0]), "another loss of the same step")),
        )


def read_often(code: CodeFile) -> Callable[[ast.AST, str], bool]:
    """Whether a name is read anywhere in the function around a statement, by one walk over each function."""
    known: dict[ast.AST, frozenset[str]] = {}

    def loads(node: ast.AST, name: str) -> bool:
        scope = next((o for o in code.around(node) if isinstance(o, SCOPES)), code.tree)
        if scope not in known:
            known[scope] = frozenset(n.id for n in ast.walk(scope) if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Store))
        return name in known[scope]

    return loads


def made_criteria(code: CodeFile) -> frozenset[str]:
    """The names and attributes of this file that are given a loss object."""
    made = (n for n in code.all(ast.Assign) if isinstance(n.value, ast.Call) and code.made_kind(n.value)[0] == "criterion")
    return frozenset(code.text(t) for n in made for t in n.targets if isinstance(t, (ast.Name, ast.Attribute)))


def is_loss(code: CodeFile, call: ast.Call, criteria: frozenset[str]) -> bool:
    """A loss function of torch is called, or a loss object this file makes."""
    if isinstance(call.func, (ast.Name, ast.Attribute)) and code.text(call.func) in criteria:
        return True
    last = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    return bool(LOSSES.search(last)) and (code.dotted(call.func) or "").startswith("torch.nn.functional.")


def is_read(scope: ast.AST, name: str) -> bool:
    """Something in the scope reads the name, or may."""
    for node in ast.walk(scope):
        if isinstance(node, ast.Name) and (node.id in READERS or (node.id == name and not isinstance(node.ctx, ast.Store))):
            return True
        if isinstance(node, (ast.Global, ast.Nonlocal)) and name in node.names:
            return True
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name) and node.target.id == name:
            return True
    return False


def without_gradients(code: CodeFile, node: ast.AST) -> bool:
    """The statement stands in a region, or in a function, that switches gradients off."""
    for outer in code.around(node):
        items = (
            [i.context_expr for i in outer.items] if isinstance(outer, (ast.With, ast.AsyncWith)) else getattr(outer, "decorator_list", [])
        )
        if any(word in code.text(i) for i in items for word in ("no_grad", "inference_mode", "set_grad_enabled")):
            return True
    return False


def trains(code: CodeFile, scope: ast.AST) -> bool:
    """The scope goes backward, or gives a loss to whoever does, and does not evaluate."""
    called_names = {n.func.attr for n in ast.walk(scope) if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)}
    if any(name.endswith("backward") for name in called_names):
        return True
    measures = "eval" in called_names or re.search(r"eval|valid|test|_val|val_|infer|predict", getattr(scope, "name", ""), re.IGNORECASE)
    return not measures and any(isinstance(n, ast.Return) and n.value is not None for n in ast.walk(scope))
