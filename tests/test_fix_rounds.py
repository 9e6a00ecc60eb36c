"""Which fixes are kept: those whose finding is gone and that brought nothing as bad."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import pytest

from mllint.fix.rounds import ROUNDS, Result, Rounds, groups
from mllint.model.finding import Finding, Hit, Problem, Report, Span
from mllint.model.fix import Fix, Insert, Replace
from mllint.session import Outcome

#: What a line may hold, with the severity of the finding it is.
WORDS = {"bad": "warning", "worse": "error", "slight": "info"}


def here(path: str, line: int, match: re.Match[str]) -> Span:
    return Span(path, line, match.start() + 1, line, match.end() + 1)


class Files:
    """A project of a few files in which every bad word is a finding; `fix` says what is offered for it."""

    def __init__(self, files: dict[str, str], fix: Callable[[Span, str], Fix | None]) -> None:
        self.files = {path: text.encode() for path, text in files.items()}
        self.fix = fix
        self.scans = 0

    def judge(self, overlay: Mapping[str, bytes]) -> Outcome:
        self.scans += 1
        now = self.files | dict(overlay)
        findings, problems, seen = [], [], {}
        for path, data in sorted(now.items()):
            for number, line in enumerate(data.decode().split("\n"), 1):
                if "problem" in line:
                    problems.append(Problem("syntax", "no such word", path, number))
                for match in re.finditer("|".join(WORDS), line):
                    span, word = here(path, number, match), match.group()
                    twin = seen[path, line, word] = seen.get((path, line, word), -1) + 1
                    hit = Hit(span, f"{word} is there", fix=self.fix(span, line))
                    findings.append(Finding(word, "words", hit, WORDS[word], "high", f"{path}-{line}-{word}-{twin}"))
        report = Report(tuple(findings), tuple(problems))
        return Outcome(report=report, rules={}, files=len(now), line_of=lambda span: "", bytes_of=now.__getitem__)

    def run(self, **more) -> Result:
        return Rounds(self.judge, kinds=dict.fromkeys(self.files, "python"), allowed=frozenset(("safe", "unsafe")), **more).run()


def to(text: str, safety: str = "safe") -> Callable[[Span, str], Fix]:
    return lambda span, line: Fix("say it well", safety, (Replace(span, text),))


def texts(result: Result) -> dict[str, str]:
    return {path: data.decode() for path, data in result.new.items()}


def test_a_fix_that_helps_is_kept() -> None:
    files = Files({"a.py": "x = bad\ny = bad\n", "b.py": "z = 1\n"}, to("good"))
    result = files.run()
    assert texts(result) == {"a.py": "x = good\ny = good\n"}
    assert result.old == {"a.py": b"x = bad\ny = bad\n"}
    assert [f.finding.span.line for f in result.fixed] == [1, 2] and not result.skipped
    assert files.scans == 2, "before and after"
    assert not result.outcome.report.shown


def test_a_finding_that_stays_is_not_fixed() -> None:
    result = Files({"a.py": "x = bad\n"}, to("very(bad)")).run()
    assert not result.new and not result.fixed
    assert [s.reason for s in result.skipped] == ["the finding would still be there"]


@pytest.mark.parametrize(("brings", "kept"), [("bad", False), ("worse", False), ("slight", True)])
def test_a_new_finding_as_bad_undoes_the_fix(brings: str, kept: bool) -> None:
    def fix(span: Span, line: str) -> Fix | None:
        if line.startswith("x"):
            return Fix("say it well", "safe", (Replace(span, "good"), Insert(span, "after", f"q = {brings}")))
        return None

    result = Files({"a.py": "x = bad\n"}, fix).run()
    assert bool(result.new) is kept
    if kept:
        assert texts(result) == {"a.py": "x = good\nq = slight\n"}
    else:
        assert f"would bring {brings} at a.py:2" in result.skipped[0].reason


def test_a_problem_undoes_the_fix() -> None:
    result = Files({"a.py": "x = bad\n"}, to("problem")).run()
    assert not result.new and "would bring a problem" in result.skipped[0].reason


def test_one_fix_that_does_harm_does_not_cost_the_others() -> None:
    def fix(span: Span, line: str) -> Fix:
        return Fix("say it well", "safe", (Replace(span, "worse" if line.startswith("c") else "bad" if line.startswith("e") else "good"),))

    text = "".join(f"{name} = bad\n" for name in "abcdefgh")
    result = Files({"a.py": text}, fix).run()
    assert texts(result) == {"a.py": "".join(f"{name} = {'bad' if name in 'ce' else 'good'}\n" for name in "abcdefgh")}
    assert sorted(s.finding.span.line for s in result.skipped) == [3, 5]


def test_fixes_of_one_place_take_turns() -> None:
    def fix(span: Span, line: str) -> Fix:
        return Fix("say it", "safe", (Replace(span, "good"), Insert(span, "after", f"# {span.column}")))

    result = Files({"a.py": "x = bad, bad\n"}, fix).run()
    assert texts(result) == {"a.py": "x = good, good\n# 11\n# 5\n"} or texts(result) == {"a.py": "x = good, good\n# 12\n# 5\n"}
    assert len(result.fixed) == 2


def test_what_waits_too_long_is_said() -> None:
    def fix(span: Span, line: str) -> Fix:
        return Fix("say it", "safe", (Replace(span, "good"), Insert(span, "after", "# more")))

    result = Files({"a.py": f"x = {', '.join(['bad'] * (ROUNDS + 2))}\n"}, fix).run()
    assert len(result.fixed) == ROUNDS
    assert len(result.skipped) == 2 and all("rounds" in s.reason for s in result.skipped)


def test_a_fix_in_circles_ends() -> None:
    words = {"bad": "slight", "slight": "bad"}

    def fix(span: Span, line: str) -> Fix:
        return Fix("turn it", "safe", (Replace(span, words[line[span.column - 1 : span.end_column - 1]]),))

    result = Files({"a.py": "x = bad\n"}, fix).run()
    assert len(result.fixed) <= ROUNDS


def test_only_allowed_and_wanted_fixes_are_made() -> None:
    files = Files({"a.py": "x = bad\n"}, to("good", "unsafe"))
    rounds = Rounds(files.judge, kinds={"a.py": "python"}, allowed=frozenset(("safe",)))
    assert not rounds.run().new
    assert not Rounds(files.judge, kinds={}, allowed=frozenset(("unsafe",)), wanted=lambda f: f.rule != "bad").run().new
    shown = Files({"a.py": "x = bad\n"}, to("good", "shown"))
    assert not shown.run().new


def test_a_refused_file_keeps_its_bytes_and_the_reason() -> None:
    files = Files({"a.py": "x = bad\n", "b.py": "y = bad\n"}, to("good"))
    result = files.run(refusal=lambda path, data: "is read-only" if path == "a.py" else None)
    assert texts(result) == {"b.py": "y = good\n"}
    assert [s.reason for s in result.skipped] == ["a.py is read-only"]


def test_a_fix_of_two_files_is_made_in_both_or_in_none() -> None:
    def fix(span: Span, line: str) -> Fix | None:
        other = Span("b.py", 1, 1, 1, 1)
        return Fix("say it", "safe", (Replace(span, "good"), Replace(other, "import a\n"))) if span.path == "a.py" else None

    files = {"a.py": "x = bad\n", "b.py": "y = 1\n", "c.py": "z = 1\n"}
    result = Files(files, fix).run()
    assert texts(result) == {"a.py": "x = good\n", "b.py": "import a\ny = 1\n"}
    assert [sorted(group) for group in groups(result)] == [["a.py", "b.py"]]
    assert not Files(files, fix).run(refusal=lambda path, data: "is generated" if path == "b.py" else None).new


def test_an_edit_that_cannot_be_made_is_said() -> None:
    result = Files({"a.py": "x = bad\n"}, lambda span, line: Fix("x", "safe", (Insert(Span("a.py", 9, 1, 9, 1), "after", "y"),))).run()
    assert [s.reason for s in result.skipped] == ["there is no line 9"]
    assert [s.reason for s in Files({"a.py": "x = bad\n"}, to("(")).run().skipped] == ["the file would not parse: '(' was never closed"]
    assert [s.reason for s in Files({"a.py": "x = bad\n"}, to("bad")).run().skipped] == ["it changes nothing"]


def test_asking() -> None:
    asked: list[tuple[str, str]] = []

    def ask(finding: Finding, old: Mapping[str, bytes], new: Mapping[str, bytes]) -> bool | None:
        asked.append((old["a.py"].decode(), new["a.py"].decode()))
        return [True, False, None][len(asked) - 1]

    result = Files({"a.py": "a = bad\nb = bad\nc = bad\nd = bad\n"}, to("good")).run(ask=ask)
    assert texts(result) == {"a.py": "a = good\nb = bad\nc = bad\nd = bad\n"}
    assert len(asked) == 3
    assert asked[1][0] == "a = good\nb = bad\nc = bad\nd = bad\n"
    assert asked[1][1] == "a = good\nb = good\nc = bad\nd = bad\n"
    assert [s.reason for s in result.skipped] == ["not wanted", "not asked about", "not asked about"]
