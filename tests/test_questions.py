"""What the detectors ask beyond the History itself: sizes, boundaries, owners; each of a small history written by hand."""

from __future__ import annotations

from typing import Any

from mllint.flow import questions as ask
from mllint.model.finding import Span
from mllint.model.history import Event, Frame, History, Thing, Value

EPOCHS, LOADER, PASSES = ("attr", ("args",), "epochs"), ("len", ("thing", 9)), ("attr", ("args",), "passes")
TURN = ("index", 4)
BOUNDARY = ("==", ("%", ("+", TURN, ("const", 1)), PASSES), ("const", 0))


def span(number: int) -> Span:
    return Span("train.py", number, 1, number, 9)


def thing(ident: int, kind: str, **known: Any) -> Thing:
    return Thing(ident, kind, known.pop("type", f"lib.{kind.title()}"), span(ident), **known)


def loop(name: str) -> Frame:
    return Frame("loop", span(1), ("loop", name), "for")


def arm(key: tuple[Any, ...], polarity: bool = True, name: str = "") -> Frame:
    return Frame("arm", span(1), key, name, len(repr(key)), polarity)


def written(*events: tuple[Any, ...], things: tuple[Thing, ...] = ()) -> History:
    made = []
    for number, (what, on, place, *more) in enumerate(events):
        made.append(Event(number, what, on, span(10 + number), tuple(place), more[0] if more else {}))
    seen = {e.thing.id: e.thing for e in made if e.thing is not None} | {t.id: t for t in things}
    return History(made, list(seen.values()))


# ---------------------------------------------------------------------- sizes


def test_factors_of_a_product_and_a_quotient() -> None:
    top, bottom = ask.factors(("//", ("*", EPOCHS, LOADER), PASSES))
    assert set(top) == {EPOCHS, LOADER} and set(bottom) == {PASSES}


def test_factors_see_through_rounding_offsets_and_ones() -> None:
    rounded = ("call", "math.ceil", ("/", LOADER, PASSES))
    assert [set(side) for side in ask.factors(rounded)] == [{LOADER}, {PASSES}]
    upwards = ("//", ("-", ("+", LOADER, PASSES), ("const", 1)), PASSES)
    assert [set(side) for side in ask.factors(upwards)] == [{LOADER}, {PASSES}]
    assert set(ask.factors(("call", "builtins.max", ("const", 1), ("*", ("const", 1), EPOCHS)))[0]) == {EPOCHS}


def test_a_factor_on_both_sides_is_gone() -> None:
    top, bottom = ask.factors(("/", ("*", EPOCHS, PASSES), PASSES))
    assert set(top) == {EPOCHS} and not bottom


def test_number_of_a_key() -> None:
    assert ask.number(("*", ("const", 3), ("const", 4))) == 12
    assert ask.number(("const", True)) is None and ask.number(EPOCHS) is None


# ------------------------------------------------------------------ boundaries


def test_what_counts_turns() -> None:
    assert ask.counts(arm(BOUNDARY))
    assert ask.counts(arm(("<", PASSES, ("varies", "seen", 3))))
    assert not ask.counts(arm(("attr", ("args",), "amp")))
    assert not ask.counts(arm(BOUNDARY, name="choice"))


def test_the_period_of_a_boundary() -> None:
    assert ask.period(arm(BOUNDARY)) == PASSES
    assert ask.period(arm(("==", ("varies", "seen", 3), ("const", 8)))) == ("const", 8)
    assert ask.period(arm(("attr", ("args",), "amp"))) is None


def test_the_boundary_inside_the_loop_alone() -> None:
    outside, inside = arm(("==", ("%", ("index", 1), ("const", 2)), ("const", 0))), arm(BOUNDARY)
    step = Event(1, "step", None, span(1), (outside, loop("batches"), inside))
    assert ask.boundary(step, loop("batches")) is inside


def test_everything_a_condition_compares() -> None:
    assert ask.compared(("<=", PASSES, ("const", 1))) == {PASSES, ("const", 1)}
    assert ask.compared(("attr", ("args",), "amp")) == frozenset()


# --------------------------------------------------------------------- owners


def test_the_optimizer_a_schedule_drives_among_several() -> None:
    first, second = thing(1, "optimizer"), thing(2, "optimizer")
    either = Value(("either", ("thing", 1), ("thing", 2)), sources=frozenset((1, 2)))
    schedule = thing(3, "scheduler", arguments={"optimizer": either}, partners=(1, 2))
    history = written(("make", first, ()), ("make", second, ()), ("make", schedule, ()), ("step", second, ()))
    assert ask.partner(history, schedule) is None
    assert ask.driven(history, schedule) is second


def test_the_only_optimizer_of_a_schedule() -> None:
    optimizer = thing(1, "optimizer")
    schedule = thing(3, "scheduler", arguments={"optimizer": Value(("thing", 1), sources=frozenset((1,)))}, partners=(1,))
    assert ask.driven(written(("make", optimizer, ()), ("make", schedule, ())), schedule) is optimizer


def test_what_a_clearing_leaves_over() -> None:
    whole = thing(1, "module", facts={"parts": frozenset((1, 2, 3))})
    head, unseen = thing(2, "module"), thing(4, "module", type="")
    history = written(things=(whole, head, thing(3, "module"), unseen))
    assert ask.left_over(history, frozenset((2,)), frozenset((1, 2, 3))) is True
    assert ask.left_over(history, frozenset((2, 3)), frozenset((2,))) is False
    assert ask.left_over(history, frozenset((2, 4)), frozenset((2,))) is None  # module 4 may be a part of 2


def test_an_optimizer_holds_the_parts_of_its_modules() -> None:
    whole = thing(1, "module", facts={"parts": frozenset((1, 2))})
    optimizer = thing(5, "optimizer", arguments={"params": Value(("params",), sources=frozenset((1,)))})
    history = written(("make", optimizer, ()), things=(whole, thing(2, "module")))
    assert ask.owned(history, optimizer) == {1, 2}


def test_the_pass_that_reaches_the_optimizer() -> None:
    net, other = thing(1, "module"), thing(2, "module")
    optimizer = thing(5, "optimizer", arguments={"params": Value(("params",), sources=frozenset((1,)))})
    loss = {"loss": Value(("loss",), sources=frozenset((1,)))}
    strange = {"loss": Value(("loss",), sources=frozenset((2,)))}
    hidden = {"loss": Value(("loss",))}
    passes = [("backward", None, (), given) for given in (loss, strange, hidden)]
    history = written(*passes, things=(net, other, optimizer))
    assert [ask.reaches(history, e, optimizer) for e in ask.backwards(history)] == [True, False, None]
    assert ask.surely_reaches(history, ask.backwards(history)[2], optimizer)  # the only optimizer is the one that is meant


# ----------------------------------------------------------------- what is said


def test_confidence_falls_with_an_arm_between() -> None:
    plain, behind = Event(1, "step", None, span(1)), Event(2, "step", None, span(2), (arm(("attr", ("args",), "amp")),))
    assert ask.confidence(plain, plain) is None
    assert ask.confidence(plain, behind) == "medium"
    assert ask.confidence(behind, behind) is None


def test_one_process_of_several() -> None:
    assert ask.by_process(arm(("==", ("call", "torch.distributed.get_rank"), ("const", 0))))
    assert not ask.by_process(arm(("attr", ("args",), "amp")))
