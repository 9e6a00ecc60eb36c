"""Unknown values that are used: methods of tensors, parts of models, gradients, formatted numbers."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from mllint.flow.state import State
from mllint.flow.values import (
    Alts,
    Bound,
    Const,
    Function,
    Instance,
    Mapping,
    Opaque,
    Partial,
    Sequence,
    instances,
    one,
    single,
    values_of,
)
from mllint.model.history import Value

if TYPE_CHECKING:
    from mllint.flow.interpret import Interpreter


def gradient(key: tuple) -> bool:
    """The key names a gradient: `p.grad`, `p.grad.data`, `p.grad.detach()`."""
    while key and key[0] in ("attr", "call"):
        if key[0] == "attr":
            if key[2] == "grad":
                return True
            if key[2] not in ("data", "detach", "float"):
                return False
        key = key[1] if isinstance(key[1], tuple) else ()
    return False


#: Kinds whose disappearance into unseen code makes "never" unprovable.
FOLLOWED = frozenset(("optimizer", "scheduler", "scaler", "module", "loader", "sampler", "accelerator", "engine"))
#: Beginnings of keys of values that came from code nobody has seen.
UNSEEN = frozenset(("parameter", "attr", "index", "item", "part", "name", "missing", "call"))
#: Methods that take a tensor out of the graph.
CUTS = frozenset(("item", "detach", "tolist", "numpy"))


class Unknown(State):
    """Uses of unknown values; mixed into the Interpreter."""

    # ----------------------------------------------------------------- opaque

    def call_opaque(self: Interpreter, value: Opaque, args: list[Alts], keywords: dict[str, Alts], node: ast.AST) -> Alts | None:
        """A call of something unknown that is understood all the same: a method of a tensor, of a promoted object."""
        thing = self.promoted.get(value.key)
        if thing is not None and thing.kind == "module":
            return self.forward(thing, args, keywords, node)
        if value.key[0] != "attr":
            return None
        base_key, name = value.key[1], value.key[2]
        owner = self.promoted.get(base_key)
        if owner is not None:
            return self.call_library_method(owner, name, args, keywords, node)
        base = Opaque(base_key, value.sources, value.tags, value.divided, value.scaled, max(1, value.depth - 1))
        if name == "backward":
            passed = args[0] if args and not base.sources else ()
            if any(isinstance(v, Opaque) and v.sources for v in values_of(passed)):  # `engine.backward(loss)`: nobody saw what engine it is
                engine = self.promote(base, "engine", node)
                self.record("backward", None, node, {"loss": self.held_value(passed, node)}, via=engine)
                return one(Const(None))
            loss = self.scaled_by_parameter(base, node) if base_key[0] == "call" and not base.scaled else base
            self.record("backward", None, node, {"loss": self.value(one(loss))}, via=None)
            return one(Const(None))
        if name in ("parameters", "named_parameters", "zero_grad", "requires_grad_", "state_dict") and base_key[0] in (
            "call",
            "parameter",
            "attr",
            "index",
            "item",
            "part",
            "name",
            "missing",
        ):
            if "params" in value.tags:
                return None
            if value.sources and base_key[0] in ("attr", "index", "item", "part", "call"):
                return self.part_method(base, name, node)
            return self.call_library_method(
                self.promote(
                    base, "module", node.func.value if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else node
                ),
                name,
                args,
                keywords,
                node,
            )
        if name == "zero_grad":  # of one of several, or of what cannot be told any more
            self.record("grad-cleared", None, node, {"of": self.value(one(base))})
            return one(Const(None))
        if name in ("zero_", "detach_") and base_key[0] == "attr" and base_key[2] == "grad":
            self.record("grad-cleared", None, node, {"of": self.value(one(base))})
            return one(base)
        if (
            name == "scale"
            and base_key[0] in UNSEEN
            and not base.sources
            and len(args) == 1
            and any(instances(v) for v in values_of(args[0]))
        ):
            return self.call_library_method(self.promote(base, "scaler", self.receiver_node(node)), name, args, keywords, node)
        if name in CUTS:
            if any(i.kind == "module" for i in value.sources):
                self.record("cut", None, node, {"value": Value(value.key, sources=frozenset(i.ident for i in value.sources))})
            return one(self.cut(value))
        if name == "add_argument":
            self.note_option(args, keywords)
        if name == "enter_context" and args:
            before = len(self.place)
            self.open_regions(args[0], node)
            self.stacked.setdefault(base_key, []).extend(self.place[before:])
            return args[0]
        if name == "close" and base_key in self.stacked:
            while self.place and any(self.place[-1] is frame for frame in self.stacked[base_key]):
                self.place.pop()
            return one(Const(None))
        if gradient(base_key):
            self.note_gradient(base, name, node)
        inputs = [self.meet(a) for a in (*args, *keywords.values()) if a]
        if name == "get" and inputs and isinstance(inputs[0], Const) and isinstance(inputs[0].value, str) and not value.sources:
            return one(Opaque(("index", base_key, inputs[0].key), depth=value.depth))  # `config.get("epochs", 9)` is `config["epochs"]`
        followed = [v for v in inputs if (isinstance(v, Instance) and v.kind in FOLLOWED) or isinstance(v, (Function, Bound, Partial))]
        holding = any((isinstance(v, Instance) and v.cls is not None) or isinstance(v, (Sequence, Mapping)) for v in inputs)
        if (followed or holding) and ("unknown" in value.tags or not value.sources):
            self.lose_all([*args, *keywords.values()], node)
        for alts in (*args, *keywords.values()):
            for given, _ in alts:
                if value.sources and "unknown" not in value.tags and isinstance(given, (Function, Bound)):
                    self.called_back(given, node, set())
        self.note_log(args, node)
        simple = all(isinstance(v, (Const, Opaque, Instance)) for v in inputs) and len(inputs) <= 3
        key = ("call", value.key, *(v.key for v in inputs)) if simple else ("call", value.key, self.fresh())
        result = self.opaque(key, [base, *inputs], frozenset(("sum",)) if name == "sum" else frozenset())
        if name in ("mean",):
            result.tags -= {"sum"}
        if name in ("div", "div_", "true_divide") and inputs:
            result.divided |= {inputs[0].key}
        if name in ("mul", "mul_") and inputs and (inverse := self.inverse(inputs[0])) is not None:
            result.divided |= {inverse}
        changed = node.func.value if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else None
        if isinstance(changed, ast.Name) and (name in ("div_", "mul_") or (name in ("add_", "sub_") and not value.sources)):
            self.write_name(changed.id, one(result))  # in place: the name holds the result from here on
        return one(result)

    def cut(self: Interpreter, value: Opaque) -> Opaque:
        """The same number without its graph."""
        tags = value.tags & frozenset(("lr", "metric")) | {"detached"} | ({"metric"} if value.sources else frozenset())
        return Opaque(("call", value.key), frozenset(), tags, depth=value.depth + 1)

    def scaled_by_parameter(self: Interpreter, loss: Opaque, node: ast.AST) -> Opaque:
        """`scaler.scale(loss).backward()`: what scales so is a gradient scaler, whoever gave it."""
        scale = loss.key[1]
        if scale[:1] != ("attr",) or scale[2] != "scale" or len(loss.key) != 3 or scale[1][0] not in UNSEEN:
            return loss
        called = self.receiver_node(node)
        scaler = self.promote(Opaque(scale[1]), "scaler", self.receiver_node(called))
        plain = Opaque(loss.key[2], loss.sources, loss.tags, loss.divided, None, loss.depth)
        self.record("scale", scaler, called, {"0": self.value(one(plain))}, sure=False)
        return Opaque(("scaled", plain.key), plain.sources, plain.tags, plain.divided, scaler, plain.depth + 1)

    @staticmethod
    def receiver_node(node: ast.AST) -> ast.AST:
        """What stands before the dot of a call."""
        return node.func.value if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else node

    def module_list(self: Interpreter, receiver: Instance, name: str, args: list[Alts], node: ast.AST) -> Alts:
        """`layers.append(nn.Linear(...))` on a ModuleList or Sequential."""
        for alts in args:
            for value, _ in alts:
                for part in self.inside(self.thing_of(value)):
                    if part.kind in ("module", "parameter"):
                        self.note_replaced(receiver, name, one(part), node)
                        receiver.partners.append(part)
        return one(receiver)

    def part_method(self: Interpreter, base: Opaque, name: str, node: ast.AST) -> Alts:
        """A method of an unknown part of a known module (`model.fc.parameters()`)."""
        part = self.promoted.get(base.key)
        if part is None:
            part = self.promoted[base.key] = Instance(self.fresh(), self.span(node), "module", "")
            part.name = ast.unparse(node.func.value) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else ""
            part.lost = next((s.lost for s in base.sources if s.lost is not None), None)
            self.things.append(part)
            for owner in base.sources:
                if owner.kind == "module":
                    owner.partners.append(part)
        return self.call_library_method(part, name, [], {}, node)

    def note_gradient(self: Interpreter, base: Opaque, name: str, node: ast.AST) -> None:
        """A method of `p.grad`: in place it changes the gradient, else it reads it."""
        of = Value(base.key, sources=frozenset(i.ident for i in base.sources), tags=frozenset(("norm",)) if name == "norm" else frozenset())
        if name.endswith("_") and not name.endswith("__"):
            self.record("grad-written", None, node, {"of": of})
        else:
            self.record("grad-read", None, node, {"of": of})

    def note_option(self: Interpreter, args: list[Alts], keywords: dict[str, Alts]) -> None:
        """`parser.add_argument("--epochs", default=90)`: what the option is when nobody gives it."""
        default = single(keywords.get("default", ()))
        names = [v.value for a in args for v, _ in a if isinstance(v, Const) and isinstance(v.value, str)]
        dest = single(keywords.get("dest", ()))
        if isinstance(dest, Const):
            names = [dest.value]
        if isinstance(default, Const) and names:
            long = next((n for n in names if n.startswith("--")), names[0])
            self.option_defaults[long.lstrip("-").replace("-", "_")] = default.value

    # ---------------------------------------------------------------- formats

    def note_log(self: Interpreter, args: list[Alts], node: ast.AST) -> None:
        """`logger.info("lr %.4f", lr)`."""
        text = single(args[0]) if len(args) > 1 else None
        if isinstance(text, Const) and isinstance(text.value, str) and "%" in text.value:
            self.percent_format(text.value, one(Sequence(self.fresh(), args[1:], "tuple")), node)

    def note_format(self: Interpreter, alts: Alts, spec: Alts, node: ast.AST, index: int = 0) -> None:
        """A number is written with this many digits, at the place `index` of a template: only learning rates matter, and they are
        sorted out at the end."""
        text = single(spec) if spec else None
        if not isinstance(text, Const) or not isinstance(text.value, str) or not text.value.rstrip("0123456789").endswith(("f", ".", ":")):
            return
        if text.value.endswith("f") or text.value.startswith("round:"):
            for value, _ in alts:
                if isinstance(value, Opaque):
                    place = Value(("const", index))
                    self.record("format", None, node, {"value": self.value(one(value), node), "spec": Value(text.key), "index": place})
