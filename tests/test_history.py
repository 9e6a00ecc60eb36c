"""Each question of the History, asked by itself of a small history written by hand."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from mllint.model.finding import Span
from mllint.model.history import Event, Frame, History, Thing, Value, counted, idle, mentions, steady, varying

EPOCH, INDEX = ("item", ("range", 1)), ("index", 7)
BOUNDARY = ("==", ("%", INDEX, ("const", 4)), ("const", 0))
AMP = ("attr", ("args",), "amp")


def line(number: int) -> Span:
    return Span("train.py", number, 1, number, 9)


def thing(ident: int, kind: str = "optimizer", made_at: int | None = None, **known: Any) -> Thing:
    return Thing(ident, kind, f"lib.{kind.title()}", line(ident if made_at is None else made_at), **known)


def loop(key: str, *over: int, name: str = "for") -> Frame:
    return Frame("loop", line(1), ("loop", key), name, over=frozenset(over))


def arm(key: tuple[Any, ...], polarity: bool = True, branch: int = 0, name: str = "") -> Frame:
    # a branch of its own for each statement, unless a test wants two arms of one
    return Frame("arm", line(1), key, name, branch or id(key) + len(repr(key)), polarity)


def written(*events: tuple[Any, ...], things: tuple[Thing, ...] = ()) -> History:
    """(what, on which, *where) each, in order; the things are collected."""
    made = [Event(n, what, on, line(10 + n), tuple(where)) for n, (what, on, *where) in enumerate(events)]
    seen = {e.thing.id: e.thing for e in made if e.thing is not None} | {t.id: t for t in things}
    return History(made, list(seen.values()))


OPT, SCHED, NET = thing(1), thing(2, "scheduler", partners=(1,)), thing(3, "module")
EPOCHS, BATCHES = loop("epochs"), loop("batches", 9)


def orders(events: Any) -> list[int]:
    return [e.order for e in events]


# ------------------------------------------------------------------ what happened


def test_things_by_kind() -> None:
    history = written(("make", OPT), ("make", SCHED), ("forward", NET))
    assert history.things("scheduler") == [SCHED]
    assert history.things() == [OPT, SCHED, NET]
    assert history.thing(2) is SCHED and history.thing(99) is None


def test_events_of_a_thing_in_order() -> None:
    history = written(("zero_grad", OPT), ("backward", None), ("step", OPT), ("step", SCHED))
    assert orders(history.events(OPT)) == [0, 2]
    assert orders(history.events(OPT, "step")) == [2]
    assert orders(history.events(OPT, "state_dict")) == []


def test_events_of_all_things() -> None:
    history = written(("step", OPT), ("backward", None), ("step", SCHED))
    assert orders(history.events()) == [0, 1, 2]
    assert orders(history.events(None, "step", "backward")) == [0, 1, 2], "several actions come in the order of the program"
    assert orders(history.events(None, "backward")) == [1]


def test_partners_look_both_ways() -> None:
    history = written(("make", OPT), ("make", SCHED))
    assert history.partners(SCHED) == [OPT]
    assert history.partners(OPT, "scheduler") == [SCHED]
    assert history.partners(OPT, "module") == []


def test_siblings_are_made_on_one_line() -> None:
    twin, other = thing(5, made_at=1), thing(6)
    history = written(("make", OPT), ("make", twin), ("make", other))
    assert list(history.siblings(OPT)) == [twin]


def test_made() -> None:
    stranger = thing(8)
    history = written(("make", OPT), ("step", OPT), things=(stranger,))
    made = history.made(OPT)
    assert made is not None and made.order == 0
    assert history.made(stranger) is None


def test_never() -> None:
    history = written(("make", OPT), ("zero_grad", OPT))
    assert history.never(OPT, "step")
    assert not history.never(OPT, "zero_grad")


@pytest.mark.parametrize("gone", [thing(7, lost=line(30)), thing(7, managed=line(30))], ids=["lost", "managed"])
def test_never_is_not_said_of_what_went_out_of_sight(gone: Thing) -> None:
    assert not written(("make", gone)).never(gone, "step")


# ------------------------------------------------------------------ loops


def test_loops_around_an_event() -> None:
    history = written(("step", SCHED, EPOCHS), ("step", OPT, EPOCHS, BATCHES), ("make", NET))
    late, inner, outside = history.events()
    assert history.common_loops(late, inner) == [EPOCHS]
    assert not history.same_loop(late, inner) and history.same_loop(inner, inner)
    assert not history.same_loop(outside, outside), "no loop is not one loop"
    assert history.repeats(inner) and not history.repeats(outside)


def test_loops_over_a_thing() -> None:
    loader = thing(9, "loader")
    history = written(("step", OPT, EPOCHS, BATCHES), ("backward", None, EPOCHS, BATCHES), things=(loader,))
    assert history.loops_over(loader) == [BATCHES]
    assert history.loops_over(OPT) == []


def test_turns_leave_out_loops_over_the_things_themselves() -> None:
    pair, every = loop("pair", name="each"), loop("optimizers", 1)
    history = written(("step", OPT, EPOCHS, every), ("step", OPT, EPOCHS, pair), ("step", OPT, EPOCHS, BATCHES))
    assert [e.turns() for e in history.events()] == [[EPOCHS], [EPOCHS], [EPOCHS, BATCHES]]


def test_turns_leave_out_the_loop_over_what_is_handed_in() -> None:
    scaler = thing(4, "scaler")
    given = {"optimizer": Value(("thing", 1), sources=frozenset({1}))}
    event = Event(0, "unscale_", scaler, line(5), (EPOCHS, loop("optimizers", 1)), given)
    assert event.turns() == [EPOCHS]


def test_lap() -> None:
    history = written(("make", OPT), ("step", OPT, EPOCHS, BATCHES), ("step", SCHED, EPOCHS))
    assert orders(history.lap(BATCHES)) == [1]
    assert orders(history.lap(EPOCHS)) == [1, 2]
    assert history.lap(loop("another")) == []


# ------------------------------------------------------------------ branches


def test_exclusive_by_branch_and_by_value() -> None:
    one, other = arm((), True, branch=5), arm((), False, branch=5)
    elsewhere = arm(AMP, False)
    history = written(("step", OPT, one), ("step", OPT, other), ("step", OPT, arm(AMP)), ("step", OPT, elsewhere), ("step", OPT))
    a, b, amp, plain, bare = history.events()
    assert history.exclusive(a, b), "two arms of one statement"
    assert history.exclusive(amp, plain), "one condition, asked twice"
    assert not history.exclusive(a, amp) and not history.exclusive(a, bare)


def test_exclusive_by_two_values_of_one_option() -> None:
    kind = ("attr", ("args",), "scheduler")
    cosine, plateau = arm(("==", kind, ("const", "cosine"))), arm(("==", kind, ("const", "plateau")))
    not_cosine = arm(("==", kind, ("const", "cosine")), False)
    history = written(("make", SCHED, cosine), ("step", SCHED, plateau), ("step", SCHED, not_cosine))
    made, wrong, right = history.events()
    assert history.exclusive(made, wrong)
    assert history.exclusive(made, right)
    assert not history.exclusive(wrong, right)


def test_exclusive_by_the_choice_of_one_object() -> None:
    first, second = arm(("one of", 3, ("thing", 1)), name="choice"), arm(("one of", 3, ("thing", 2)), name="choice")
    history = written(("step", OPT, first), ("step", SCHED, second))
    assert history.exclusive(*history.events())


def test_before() -> None:
    history = written(("backward", None, arm(AMP)), ("step", OPT), ("zero_grad", OPT, arm(AMP, False)))
    backward, step, zero = history.events()
    assert history.before(backward, step) and not history.before(step, backward)
    assert not history.before(backward, zero), "no run holds both"


def test_always() -> None:
    history = written(("step", OPT, arm(AMP), EPOCHS), ("step", OPT, EPOCHS, arm(AMP)))
    outside, inside = history.events()
    assert history.always(outside, within=EPOCHS) and not history.always(outside)
    assert not history.always(inside, within=EPOCHS)


def test_implied() -> None:
    history = written(("unscale_", OPT, arm(AMP)), ("clip", None, arm(AMP), arm(BOUNDARY)), ("step", OPT))
    unscale, clip, step = history.events()
    assert history.implied(unscale, clip) and not history.implied(clip, unscale)
    assert history.implied(step, clip) and not history.implied(unscale, step)
    assert history.implied(clip, unscale, written(("x", None, arm(BOUNDARY))).events()[0]), "by several events together"


def test_implied_knows_the_same_object_chosen_twice() -> None:
    history = written(("zero_grad", OPT, arm(("one of", 3, ("thing", 1)))), ("step", OPT, arm(("one of", 8, ("thing", 1)))))
    assert history.implied(*history.events())


def test_implied_passes_over_a_test_for_a_gradient() -> None:
    has_gradient = arm(("is", ("attr", ("item", ("params",)), "grad"), ("const", None)), False)
    history = written(("grad-cleared", None, has_gradient), ("step", OPT))
    assert idle(has_gradient)
    assert history.implied(*history.events())


def test_together() -> None:
    unknown, other = arm(("branch", 1)), arm(("branch", 2))
    history = written(("a", None, unknown), ("b", None, other), ("c", None), ("d", None, arm(AMP)), ("e", None, arm(BOUNDARY)))
    a, b, c, d, e = history.events()
    assert not history.together(a, b), "two conditions nobody understands may well be opposites"
    assert history.together(a, c) and history.together(d, e)
    assert not history.together(d, written(("f", None, arm(AMP, False))).events()[0])


def test_possible() -> None:
    history = written(("make", SCHED, arm(AMP)), ("step", SCHED, arm(AMP, False)), ("step", SCHED, arm(AMP)), ("step", SCHED))
    assert orders(history.possible(SCHED, "step")) == [2, 3]


# ------------------------------------------------------------------ earlier, later


def test_earlier_turns_the_loop_back() -> None:
    history = written(
        ("make", OPT),
        ("zero_grad", OPT, EPOCHS),
        ("backward", None, EPOCHS, BATCHES),
        ("step", OPT, EPOCHS, BATCHES),
        ("eval", NET, EPOCHS),
    )
    backward = history.events(None, "backward")[0]
    assert orders(history.earlier(backward)) == [3, 1, 4, 0], "the step of the batch before, then the epoch, then what stands before it all"
    assert orders(history.later(backward)) == [3, 4, 1]


def test_earlier_of_an_event_outside_of_loops() -> None:
    history = written(("make", OPT), ("backward", None), ("step", OPT), ("save", NET))
    step = history.events(OPT, "step")[0]
    assert orders(history.earlier(step)) == [1, 0]
    assert orders(history.later(step)) == [3]


def test_earlier_leaves_out_the_other_arm() -> None:
    amp, plain = arm(AMP), arm(AMP, False)
    history = written(("backward", None, EPOCHS, amp), ("backward", None, EPOCHS, plain), ("step", OPT, EPOCHS, plain))
    assert orders(history.earlier(history.events(OPT, "step")[0])) == [1]


def test_another_turn_may_take_the_other_arm_of_a_counter() -> None:
    history = written(("step", OPT, BATCHES, arm(BOUNDARY)), ("backward", None, BATCHES, arm(BOUNDARY, False)))
    step, backward = history.events()
    assert orders(history.earlier(step)) == [1], "the turn before was no boundary"
    assert orders(history.earlier(backward)) == [0]
    assert not history.before(step, backward)


# ------------------------------------------------------------------ keys and places


def test_words_of_a_key() -> None:
    assert mentions(BOUNDARY, "%") and not mentions(BOUNDARY, "item")
    assert not mentions(("const", "%"), "%"), "a text is no operator"


@pytest.mark.parametrize(
    ("key", "changes", "counts"),
    [
        (BOUNDARY, True, True),
        (("==", INDEX, ("const", 5)), True, True),
        (("<=", EPOCH, ("const", 5)), True, True),
        (("==", ("varies", "seen", 3), ("attr", ("args",), "every")), True, True),
        (AMP, False, False),
        (("<=", ("attr", ("args",), "clip"), ("const", 0)), False, False),
        (("index", ("map", 4), ("const", "amp")), False, False),
        (("branch", 12), True, False),
        (("any", 12), True, False),
        (("any", ((AMP, True),)), False, False),
    ],
)
def test_what_changes_from_turn_to_turn(key: tuple[Any, ...], changes: bool, counts: bool) -> None:
    assert varying(key) is changes
    assert counted(key) is counts
    assert steady(arm(key)) is not changes


def test_steady_where_nothing_is_known() -> None:
    assert not steady(arm(()))
    assert steady(arm(("one of", 3, ("thing", 1)), name="choice")), "an object chosen once stays chosen"


def test_place_of_an_event() -> None:
    region, outer = Frame("with", line(3), name="autocast", facts={"dtype": "float16"}), Frame("with", line(2), name="autocast")
    event = Event(0, "backward", None, line(5), (arm(AMP), outer, EPOCHS, arm(BOUNDARY), region, BATCHES))
    assert event.inside("autocast") is region and event.inside("no_grad") is None
    assert event.loops() == [EPOCHS, BATCHES]
    assert [f.key for f in event.arms()] == [AMP, BOUNDARY]
    assert [f.key for f in event.arms(within=EPOCHS)] == [BOUNDARY]
    assert event.arms(within=BATCHES) == []


def test_values() -> None:
    assert Value(("const", None)).is_constant and Value(("const", None)).constant is None
    assert Value(("const", 3)).constant == 3
    assert Value(AMP).constant is None and not Value(AMP).is_constant


def test_things_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        OPT.name = "other"  # type: ignore[misc]
