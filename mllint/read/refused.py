"""Why a file could not be read, in words that carry the way out. Loaded only when something is wrong."""

from __future__ import annotations

import re
import sys

from mllint.model.finding import Problem
from mllint.read.python import parse
from mllint.read.source import Source, split_lines

_PYTHON_2 = re.compile(
    r"""^\s*print\s+["'\w>]            # print "x", print x, print >>f
      | ^\s*exec\s+["'\w]
      | ^\s*raise\s+[\w.]+\s*,
      | \b0[0-7]+\b(?!\.)             # 0777
      | \b\d+[lL]\b | \b0[xX][0-9a-fA-F]+[lL]\b
      | `[^`]+`
      | <>
      | \b[uU][rR]["']
      | ^\s*def\s+\w+\(.*\(.*\).*\)\s*:  # def f(a, (b, c)):
      | \blambda\s*\(""",
    re.VERBOSE,
)
_PRINT_STATEMENT = re.compile(r"^[ \t]*(?:print|exec)[ \t]+[\"'\w]", re.MULTILINE)
_EXCEPT = re.compile(r"^\s*except\s+(?P<caught>[^:#]+?)\s*:")
_TWO_WORDS = ("Missing parentheses in call to 'print'", "Missing parentheses in call to 'exec'")
_NEWER = (
    (re.compile(r"^\s*type\s+\w+\s*(?:\[.*\])?\s*="), (3, 12)),
    (re.compile(r"^\s*(?:(?:async\s+)?def|class)\s+\w+\s*\[[^\]]*="), (3, 13)),
    (re.compile(r"^\s*(?:(?:async\s+)?def|class)\s+\w+\s*\["), (3, 12)),
    (re.compile(r"^\s*lazy\s+(?:import|from)\b"), (3, 15)),
)
# Behind a quote it is the end of `'can't'`, not a prefix.
_T_STRING = re.compile(r"(?<![\w'\"])(?:[tT](?=[rR]?['\"])|[rR][tT](?=['\"]))")
_OTHER = (
    (re.compile(r"^(?:<{7}|={7}|>{7})(?:\s|$)"), "an unresolved merge conflict; resolve it"),
    (
        re.compile(r"\basync\s*=(?!=)|\.async\b"),
        "`async` is a keyword since Python 3.7; rename it (torch calls it `non_blocking`), or exclude the file",
    ),
    (re.compile(r"^\s*[!%]\s*[A-Za-z]"), "a notebook command in a Python file; remove it, or keep the code as a notebook"),
    (re.compile(r"\{\{.*\}\}|\{%.*%\}"), "it looks like a template, not Python; exclude it (`exclude` in [tool.mllint])"),
)


def refuse(error: BaseException, source: Source) -> Problem:
    """The problem of a file that `compile` would not take."""
    if isinstance(error, MemoryError | RecursionError) or _too_deep(error):
        return Problem("unreadable", _TOO_DEEP, source.path, *_place(error))
    if b"\0" in source.data:
        return Problem("unreadable", _null_bytes(source.data), source.path, 1, 1)
    if not isinstance(error, SyntaxError) or not error.lineno:
        return refuse_encoding(error, source)
    try:
        text = source.text
    except (UnicodeError, LookupError, ValueError) as wrong:
        return refuse_encoding(wrong, source)
    return Problem("syntax", explain(error, text), source.path, *_place(error))


def refuse_cell(error: BaseException, text: str, path: str, cell: int, shift: int) -> Problem:
    """The problem of one notebook cell, whose first line was line `shift` + 1 for the parser."""
    if isinstance(error, MemoryError | RecursionError) or _too_deep(error):
        return Problem("unreadable", f"cell left out: {_TOO_DEEP}", path, 1, 1, cell)
    if not isinstance(error, SyntaxError) or not error.lineno:
        return Problem(
            "unreadable", "cell left out: it holds characters Python does not read (null bytes or lone surrogates)", path, 1, 1, cell
        )
    line, column = _place(error)
    line = min(max((line or 1) - shift, 1), len(split_lines(text)))
    return Problem("syntax", f"cell left out: {explain(error, text, line)}", path, line, column, cell)


def refuse_encoding(error: BaseException, source: Source) -> Problem:
    """The problem of bytes that are not text in the encoding the file declares."""
    data = source.data
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in data:
        return Problem("unreadable", _null_bytes(data), source.path, 1, 1)
    if isinstance(error, UnicodeDecodeError):
        at = error.start
        before = data[:at].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        line = before.count(b"\n") + 1
        column = len(before[before.rfind(b"\n") + 1 :].decode("utf-8", "replace")) + 1
        bad = f"byte 0x{data[at]:02x} is not {source.encoding.removesuffix('-sig').upper()}"
        way = "save the file as UTF-8, or declare its encoding in the first line (`# -*- coding: latin-1 -*-`)"
        return Problem("unreadable", f"{bad}; {way}", source.path, line, column)
    said = (error.msg if isinstance(error, SyntaxError) else str(error)) or type(error).__name__
    return Problem("unreadable", f"cannot be decoded: {said}; save the file as UTF-8 and correct its encoding comment", source.path, 1, 1)


def explain(error: SyntaxError, text: str, line_number: int | None = None) -> str:
    """What is wrong with the code, and the way out where it is another Python that is wanted."""
    lines = split_lines(text)
    number = line_number or error.lineno or 1
    line = lines[number - 1] if 0 < number <= len(lines) else ""
    needed = _needs(error, line, text)
    if _is_python_2(error, line, text):
        return "Python 2 syntax, which mllint does not read; exclude the file, or convert it to Python 3"
    if needed is not None and needed > sys.version_info[:2]:
        wanted, running = ".".join(map(str, needed)), ".".join(map(str, sys.version_info[:2]))
        return f"needs Python {wanted} or newer to read; mllint runs on {running}: run mllint under Python {wanted}, or exclude the file"
    for pattern, meaning in _OTHER:
        if pattern.search(line):
            return f"cannot be parsed: {meaning}"
    return f"cannot be parsed: {error.msg}"


def _place(error: BaseException) -> tuple[int | None, int | None]:
    if isinstance(error, SyntaxError) and error.lineno:
        return error.lineno, max(error.offset or 1, 1)
    return None, None


_TOO_DEEP = "nested too deeply for Python's parser; split the expression, or exclude the file"


def _too_deep(error: BaseException) -> bool:
    return isinstance(error, SyntaxError) and str(error.msg).startswith(("too many nested parentheses", "too many levels of indentation"))


def _null_bytes(data: bytes) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or data[:64].count(b"\0") > 8:
        return "looks like UTF-16, which Python does not read; save the file as UTF-8"
    return "holds null bytes, so it is no Python source; save it as UTF-8 text, or exclude it"


def _is_python_2(error: SyntaxError, line: str, text: str) -> bool:
    if str(error.msg).startswith(_TWO_WORDS):
        return True
    caught = _EXCEPT.match(line)
    if caught and re.search(r",(?![^(]*\))", caught["caught"]):
        return not _is_new_except(caught["caught"]) or bool(_PRINT_STATEMENT.search(text))
    if isinstance(error, TabError):
        return bool(_PRINT_STATEMENT.search(text))
    return bool(_PYTHON_2.search(_without_plain_strings(line)))


def _is_new_except(caught: str) -> bool:
    """`except A, B:` of Python 3.14 names classes; `except A, e:` of Python 2 binds a name."""
    names = [part.strip() for part in caught.split(",")]
    return not caught.startswith("(") and (len(names) > 2 or not names[-1].split(".")[-1][:1].islower())


def _needs(error: SyntaxError, line: str, text: str) -> tuple[int, int] | None:
    """The Python that would read the line, where it is one that came after 3.11."""
    caught = _EXCEPT.match(line)
    if caught and "," in caught["caught"] and _is_new_except(caught["caught"]):
        return (3, 14)
    if "unpacking cannot be used in comprehension" in str(error.msg):
        return (3, 15)
    code = _without_plain_strings(line)
    for pattern, version in _NEWER:
        if pattern.search(code):
            return version
    if sys.version_info < (3, 14) and _T_STRING.search(code) and _reads_without_f_strings(_T_STRING.sub("f", text)):
        return (3, 14)
    if sys.version_info < (3, 12) and re.search(r"(?<!\w)(?:[fF][rR]?|[rR][fF])['\"]", text) and _reads_without_f_strings(text):
        return (3, 12)
    return None


def _without_plain_strings(line: str) -> str:
    """The line with the insides of simple strings and its comment taken out, so that words in them are not taken for code."""
    return re.sub(r"(['\"])(?:\\.|(?!\1).)*\1|#.*", lambda found: found.group(1) * 2 if found.group(1) else "", line)


_PIECE = re.compile(r"#[^\n]*|(?<!\w)([A-Za-z]{0,2})('''|\"\"\"|'|\")")


def _reads_without_f_strings(text: str) -> bool:
    """The code parses once its f-strings, found by the rules of Python 3.12, are replaced by names."""
    pieces, at = [], 0
    while found := _PIECE.search(text, at):
        start, quote = found.start(), found.group(2)
        end = found.end() if quote is None else _string_end(text, found.end(), quote, "f" in found.group(1).lower())
        if end is None:
            return False
        plain = quote is None or "f" not in found.group(1).lower()
        pieces += [text[at:start], text[start:end] if plain else "''" + "\\\n" * text.count("\n", start, end)]
        at = end
    try:
        parse("".join([*pieces, text[at:]]), "f")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    return True


def _string_end(text: str, at: int, quote: str, fields: bool) -> int | None:
    """Just behind the closing quote, or None. `fields`: an f-string, whose replacement fields may hold any string."""
    while at < len(text):
        if text.startswith(quote, at):
            return at + len(quote)
        if text[at] == "\\" or (fields and text.startswith("{{", at)):
            at += 2
        elif text[at] == "\n" and len(quote) == 1:
            return None
        elif fields and text[at] == "{":
            behind = _field_end(text, at + 1)
            if behind is None:
                return None
            at = behind
        else:
            at += 1
    return None


def _field_end(text: str, at: int) -> int | None:
    """Just behind the `}` that closes a replacement field."""
    depth = 0
    while at < len(text):
        found = _PIECE.match(text, at)
        if found:
            end = found.end() if found.group(2) is None else _string_end(text, found.end(), found.group(2), "f" in found.group(1).lower())
            if end is None:
                return None
            at = end
            continue
        if text[at] in "([{":
            depth += 1
        elif text[at] == "}" and depth == 0:
            return at + 1
        elif text[at] in ")]}":
            depth -= 1
        at += 1
    return None
