"""The interpreter, feature by feature: what happens to one object along each way it can take through a program."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from mllint.discover import File
from mllint.flow.project import Project
from mllint.model.history import Event, History, Thing

HEAD = """
import torch
from torch import nn, optim
from torch.optim.lr_scheduler import StepLR, ReduceLROnPlateau, CosineAnnealingLR
model = nn.Linear(2, 2)
opt = optim.SGD(model.parameters(), lr=0.1)
"""


def histories(tmp_path: Path, files: dict[str, str]) -> list[History]:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
    project = Project(tmp_path, [File(name, "python") for name in files])
    found = project.histories()
    assert [p for p in project.problems if p.kind != "limit"] == []
    return found


def run(tmp_path: Path, body: str, **others: str) -> History:
    """The History of `main.py` (HEAD and the body) beside other modules given by name."""
    files = {f"{name}.py": text for name, text in others.items()}
    files["main.py"] = HEAD + textwrap.dedent(body)
    return next(h for h in histories(tmp_path, files) if h.entry == "main.py")


def scheduler(history: History) -> Thing:
    (found,) = history.things("scheduler")
    return found


def steps(history: History) -> list[Event]:
    return history.events(scheduler(history), "step")


WAYS = {
    "alias": "s = StepLR(opt, 1)\nt = s\nt.step()",
    "bound method": "s = StepLR(opt, 1)\ntick = s.step\ntick()",
    "attribute": "class T: pass\nt = T()\nt.s = StepLR(opt, 1)\nt.s.step()",
    "tuple": "a, s = 1, StepLR(opt, 1)\ns.step()",
    "nested unpacking": "(a, (b, s)) = 1, (2, StepLR(opt, 1))\ns.step()",
    "starred": "a, *rest = 1, StepLR(opt, 1)\nrest[0].step()",
    "list": "ss = [StepLR(opt, 1)]\nfor s in ss:\n    s.step()",
    "list appended": "ss = []\nss.append(StepLR(opt, 1))\nfor s in ss:\n    s.step()",
    "dict": "d = {'s': StepLR(opt, 1)}\nd['s'].step()",
    "dict get": "d = dict(s=StepLR(opt, 1))\nd.get('s').step()",
    "dict items": "d = {'s': StepLR(opt, 1)}\nfor name, s in d.items():\n    s.step()",
    "comprehension": "[s.step() for s in [StepLR(opt, 1)]]",
    "argument": "def f(s): s.step()\nf(StepLR(opt, 1))",
    "keyword": "def f(a=None, s=None): s.step()\nf(s=StepLR(opt, 1))",
    "double star": "def f(a=None, s=None): s.step()\nkw = {'s': StepLR(opt, 1)}\nf(**kw)",
    "kwargs taken": "def f(**kw): kw['s'].step()\nf(s=StepLR(opt, 1))",
    "args taken": "def f(*a): a[0].step()\nf(StepLR(opt, 1))",
    "return": "def f(): return StepLR(opt, 1)\nf().step()",
    "closure": "s = StepLR(opt, 1)\ndef f(): s.step()\nf()",
    "nested function": "def outer():\n    s = StepLR(opt, 1)\n    def inner(): s.step()\n    inner()\nouter()",
    "nonlocal": "def outer():\n    s = None\n    def make():\n"
    "        nonlocal s\n        s = StepLR(opt, 1)\n    make()\n    s.step()\nouter()",
    "global": "s = None\ndef make():\n    global s\n    s = StepLR(opt, 1)\nmake()\ns.step()",
    "lambda": "s = StepLR(opt, 1)\nf = lambda: s.step()\nf()",
    "partial": "from functools import partial\ndef f(s, n): s.step()\np = partial(f, StepLR(opt, 1))\np(1)",
    "property": "class T:\n    def __init__(self): self._s = StepLR(opt, 1)\n    @property\n    def s(self): return self._s\nT().s.step()",
    "inherited": "class A:\n    def __init__(self): self.s = StepLR(opt, 1)\n    def go(self): self.s.step()\nclass B(A): pass\nB().go()",
    "super": "class A:\n    def go(self): self.s.step()\nclass B(A):\n    def __init__(self): self.s = StepLR(opt, 1)\n"
    "    def go(self): super().go()\nB().go()",
    "dataclass": "from dataclasses import dataclass\n@dataclass\nclass T:\n    s: object\nT(StepLR(opt, 1)).s.step()",
    "call operator": "class T:\n    def __init__(self, s): self.s = s\n    def __call__(self): self.s.step()\nT(StepLR(opt, 1))()",
    "static method": "class T:\n    @staticmethod\n    def go(s): s.step()\nT.go(StepLR(opt, 1))",
    "class method": "class T:\n    @classmethod\n    def make(cls): return StepLR(opt, 1)\nT.make().step()",
    "getattr": "import types\nns = types.SimpleNamespace(s=StepLR(opt, 1))\ngetattr(ns, 's').step()",
    "class by name": "s = getattr(torch.optim.lr_scheduler, 'StepLR')(opt, 1)\ns.step()",
    "decorator": "import functools\ndef deco(f):\n    @functools.wraps(f)\n    def inner(*a, **k): return f(*a, **k)\n    return inner\n"
    "@deco\ndef go(s): s.step()\ngo(StepLR(opt, 1))",
    "generator": "s = StepLR(opt, 1)\ndef gen():\n    for i in range(3):\n        yield i\n        s.step()\nfor x in gen(): pass",
    "context manager": "from contextlib import contextmanager\n@contextmanager\ndef scope(s):\n    yield s\n    s.step()\n"
    "with scope(StepLR(opt, 1)) as q: pass",
    "enter and exit": "class C:\n    def __init__(self, s): self.s = s\n    def __enter__(self): return self\n"
    "    def __exit__(self, *a): self.s.step()\nwith C(StepLR(opt, 1)): pass",
    "try finally": "s = StepLR(opt, 1)\ntry:\n    pass\nfinally:\n    s.step()",
    "walrus": "if (s := StepLR(opt, 1)):\n    s.step()",
    "table of functions": "s = StepLR(opt, 1)\ndef a(): s.step()\ntable = {'a': a}\nimport sys\ntable[sys.argv[1]]()",
    "module attribute": "import holder\nholder.s.step()",
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_an_object_is_followed(tmp_path: Path, way: str) -> None:
    others = {"holder": HEAD + "s = StepLR(opt, 1)"} if way == "module attribute" else {}
    history = run(tmp_path, WAYS[way], **others)
    assert steps(history), way
    assert scheduler(history).lost is None


LOST = {
    "unknown function": "import unseen\ns = StepLR(opt, 1)\nunseen.use(s)",
    "inside a list": "import unseen\ns = StepLR(opt, 1)\nunseen.use([s])",
    "inside a dict": "import unseen\ns = StepLR(opt, 1)\nunseen.use(x={'a': s})",
    "inside an object": "import unseen\nclass T: pass\nt = T()\nt.s = StepLR(opt, 1)\nunseen.use(t)",
    "after the object left": "import unseen\nclass T: pass\nt = T()\nunseen.use(t)\nt.s = StepLR(opt, 1)",
    "bound method handed over": "import unseen\ns = StepLR(opt, 1)\nunseen.every_epoch(s.step)",
    "closure handed over": "import unseen\ns = StepLR(opt, 1)\nunseen.every_epoch(lambda: s.step())",
    "constructor of an unknown class": "from unseen import Wrapper\ns = Wrapper(StepLR(opt, 1))",
    "attribute of an unknown base": "from unseen import Base\nclass T(Base):\n    def __init__(self): self.s = StepLR(opt, 1)\nT()",
    "star arguments": "import unseen\nargs = [StepLR(opt, 1)]\nunseen.use(*args)",
}


@pytest.mark.parametrize("way", LOST)
def test_what_leaves_is_lost(tmp_path: Path, way: str) -> None:
    history = run(tmp_path, LOST[way])
    assert scheduler(history).lost is not None
    assert not history.never(scheduler(history), "step")


def test_every_closure_handed_over_is_lost(tmp_path: Path) -> None:
    body = """
    import unseen
    class Helper:
        def __init__(self, s): self.s = s
        def go(self): self.s.step()
    def give(s):
        def hook(): s.step()
        unseen.register(hook)
        unseen.register(Helper(s).go)
    give(StepLR(opt, 1))
    give(StepLR(opt, 2))
    give(StepLR(opt, 3))
    give(StepLR(opt, 4))
    """
    history = run(tmp_path, body)
    assert len(history.things("scheduler")) == 4
    assert all(thing.lost is not None for thing in history.things("scheduler"))


def test_what_only_harmless_code_sees_is_not_lost(tmp_path: Path) -> None:
    history = run(tmp_path, "import json\ns = StepLR(opt, 1)\nprint(s)\ntorch.save(s.state_dict(), 'x')\nlen([s])\nisinstance(s, StepLR)")
    assert scheduler(history).lost is None
    assert history.never(scheduler(history), "step")


def test_a_dead_arm_is_not_walked(tmp_path: Path) -> None:
    history = run(tmp_path, "s = StepLR(opt, 1)\ndef f(on):\n    if on:\n        s.step()\nf(False)")
    assert steps(history) == []


def test_a_setting_decides_nothing(tmp_path: Path) -> None:
    history = run(tmp_path, "USE = False\ns = StepLR(opt, 1)\nif USE:\n    s.step()")
    (step,) = steps(history)
    assert [f.kind for f in step.place] == ["arm"]


def test_arms_of_equal_conditions_belong_together(tmp_path: Path) -> None:
    body = """
    import argparse
    args = argparse.ArgumentParser().parse_args()
    s = StepLR(opt, 1)
    if args.amp:
        s.step()
    if not args.amp:
        opt.step()
    """
    history = run(tmp_path, body)
    (step,) = steps(history)
    (other,) = history.events(history.things("optimizer")[0], "step")
    assert history.exclusive(step, other)


def test_none_in_one_arm_is_told_from_the_other(tmp_path: Path) -> None:
    body = """
    import argparse
    args = argparse.ArgumentParser().parse_args()
    s = StepLR(opt, 1) if args.sched else None
    if s is not None:
        s.step()
    else:
        opt.step()
    """
    history = run(tmp_path, body)
    (step,) = steps(history)
    assert step.sure
    (other,) = history.events(history.things("optimizer")[0], "step")
    assert history.exclusive(step, other)


def test_isinstance_separates_kinds(tmp_path: Path) -> None:
    body = """
    import argparse
    args = argparse.ArgumentParser().parse_args()
    s = ReduceLROnPlateau(opt) if args.p else StepLR(opt, 1)
    if isinstance(s, ReduceLROnPlateau):
        s.step(0.5)
    else:
        s.step()
    """
    history = run(tmp_path, body)
    for thing in history.things("scheduler"):
        (step,) = history.events(thing, "step")
        assert bool(step.arguments) == thing.type.endswith("ReduceLROnPlateau")


def test_what_follows_an_early_exit_is_in_the_other_arm(tmp_path: Path) -> None:
    history = run(tmp_path, "s = StepLR(opt, 1)\nfor i in range(9):\n    if i % 4:\n        continue\n    s.step()")
    (step,) = steps(history)
    assert [(f.kind, f.polarity) for f in step.place if f.kind == "arm"] == [("arm", False)]


def test_loops_have_sizes_and_say_what_they_go_over(tmp_path: Path) -> None:
    body = """
    from torch.utils.data import DataLoader
    loader = DataLoader(range(8))
    s = StepLR(opt, 1)
    def main(epochs):
        for epoch in range(epochs):
            for i, batch in enumerate(loader):
                s.step()
    import sys
    main(int(sys.argv[1]))
    """
    history = run(tmp_path, body)
    outer, inner = steps(history)[0].loops()
    (loader,) = history.things("loader")
    assert inner.over == {loader.id}
    assert inner.size is not None and inner.size.key == ("len", ("thing", loader.id))
    assert outer.size is not None and outer.size.key == ("index", ("ext", "sys.argv"), ("const", 1))


def test_a_short_list_is_walked_element_by_element(tmp_path: Path) -> None:
    body = "s = StepLR(opt, 1)\nfor phase in ['train', 'val']:\n    if phase == 'train':\n        s.step()"
    (step,) = steps(run(tmp_path, body))
    assert not [f for f in step.place if f.kind == "arm"]


def test_each_call_of_a_factory_makes_its_own_object(tmp_path: Path) -> None:
    body = """
    def make():
        o = optim.SGD(model.parameters(), 0.1)
        return o, StepLR(o, 1)
    a, sa = make()
    b, sb = make()
    a.step()
    sb.step()
    """
    history = run(tmp_path, body)
    first, second = history.things("scheduler")
    assert history.never(first, "step") and not history.never(second, "step")
    assert list(history.siblings(first)) == [second]


def test_a_loss_knows_its_modules_scaler_and_divisors(tmp_path: Path) -> None:
    body = """
    scaler = torch.amp.GradScaler("cuda")
    import sys
    n = int(sys.argv[1])
    loss = nn.functional.mse_loss(model(torch.ones(1, 2)), torch.ones(1, 2)) / n
    scaler.scale(loss).backward()
    """
    history = run(tmp_path, body)
    (backward,) = history.events(None, "backward")
    loss = backward.arguments["loss"]
    (module,) = [t for t in history.things("module") if t.name == "model"]
    assert module.id in loss.sources
    assert loss.scaled_by == history.things("scaler")[0].id
    assert len(loss.divided_by) == 1


def test_a_detached_loss_reaches_nothing(tmp_path: Path) -> None:
    history = run(tmp_path, "loss = model(torch.ones(1, 2)).sum().detach()\nloss.backward()")
    (backward,) = history.events(None, "backward")
    assert backward.arguments["loss"].sources == frozenset()


def test_regions_follow_helpers(tmp_path: Path) -> None:
    body = """
    from contextlib import contextmanager, nullcontext
    @contextmanager
    def amp():
        with torch.autocast("cuda", dtype=torch.float16):
            yield
    with amp():
        loss = model(torch.ones(1, 2)).sum()
        loss.backward()
    """
    (backward,) = run(tmp_path, body).events(None, "backward")
    region = backward.inside("autocast")
    assert region is not None and region.facts["dtype"] == "float16"


def test_circular_imports_end(tmp_path: Path) -> None:
    files = {
        "a.py": "from b import g\ndef f(o): o.step()\n",
        "b.py": "from a import f\ndef g(o): f(o)\n",
        "main.py": HEAD + "from b import g\ns = StepLR(opt, 1)\ng(s)\n",
    }
    history = next(h for h in histories(tmp_path, files) if h.entry == "main.py")
    assert steps(history)


def test_packages_relative_imports_and_stars(tmp_path: Path) -> None:
    files = {
        "pkg/__init__.py": "from .core import *\n",
        "pkg/core.py": "from .sub.deep import advance\n",
        "pkg/sub/__init__.py": "",
        "pkg/sub/deep.py": "def advance(s): s.step()\n",
        "main.py": HEAD + "import pkg\ns = StepLR(opt, 1)\npkg.advance(s)\n",
    }
    history = next(h for h in histories(tmp_path, files) if h.entry == "main.py")
    assert steps(history)


def test_recursion_ends(tmp_path: Path) -> None:
    history = run(tmp_path, "s = StepLR(opt, 1)\ndef f(n):\n    if n:\n        f(n - 1)\n    s.step()\nimport sys\nf(len(sys.argv))")
    assert steps(history)


def test_a_class_nobody_uses_is_an_entry(tmp_path: Path) -> None:
    text = HEAD + "class T:\n    def setup(self): self.s = StepLR(opt, 1)\n    def go(self): self.s.step()\n"
    found = [h for h in histories(tmp_path, {"lib.py": text}) if h.entry.endswith("class T")]
    assert len(found) == 1 and steps(found[0])


def test_nothing_is_executed(tmp_path: Path) -> None:
    (tmp_path / "flag").write_text("")
    run(tmp_path, f"import os\nos.remove({str(tmp_path / 'flag')!r})\ns = StepLR(opt, 1)\nopt.step()")
    assert (tmp_path / "flag").exists()


def test_an_accessor_is_read_however_often(tmp_path: Path) -> None:
    body = """
    class T:
        def __init__(self): self._s = StepLR(opt, 1)
        @property
        def s(self): return self._s
        def go(self):
            for name in ("a", "b"):
                self.s.state_dict(); self.s.get_last_lr(); self.s.state_dict()
            self.s.step()
    T().go()
    """
    assert steps(run(tmp_path, body))


@pytest.mark.parametrize("above", ["", "src/", "third_party/copies/"])
def test_a_library_whose_source_is_in_the_project_is_what_its_table_says(tmp_path: Path, above: str) -> None:
    library = "class Accelerator:\n    def backward(self, loss):\n        self.how_many = 1\n"
    files = {
        f"{above}accelerate/__init__.py": "from accelerate.accelerator import Accelerator as Accelerator\n",
        f"{above}accelerate/accelerator.py": library,
        "main.py": HEAD + "from accelerate import Accelerator\na = Accelerator()\na.backward(model(torch.ones(2)).sum())\n",
    }
    history = next(h for h in histories(tmp_path, files) if h.entry == "main.py")
    (backward,) = history.events(None, "backward")
    assert [t.id for t in history.things("accelerator")] == [backward.via]


@pytest.mark.parametrize("depth", range(14))
def test_what_clears_gradients_does_so_however_it_was_come_by(tmp_path: Path, depth: int) -> None:
    model = "lib.wrapped(" * depth + "lib.make()" + ")" * depth
    history = run(tmp_path, f"import lib\nm = {model}\nfor _ in range(3):\n    m.zero_grad()\n    m(1).backward()\n    opt.step()")
    assert history.events(None, "zero_grad", "grad-cleared")
