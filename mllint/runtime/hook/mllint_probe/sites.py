"""Where in the program something happens: the stack of the program's own frames, numbered, with exact spans where Python has them."""

import linecache
import os
import sys
from itertools import islice
from types import CodeType, FrameType
from typing import Any, Dict, List, Optional, Tuple

from . import loops, state, writer

FRAMES = 60
#: File name of wrapped functions. `warnings` skips frames of such a name when it counts `stacklevel`, so a warning of torch's
#: still points at the line of the program that caused it.
WRAPPER = "<mllint importlib _bootstrap>"

_FRAMEWORKS = tuple(os.sep + name + os.sep for name in ("accelerate", "transformers", "lightning", "pytorch_lightning"))
_OWN = os.path.dirname(os.path.abspath(__file__))
_torch = ""
_hidden: Dict[int, bool] = {}
_codes: Dict[int, CodeType] = {}  # keeps the code objects alive, so that an id stays one code
_ids: Dict[Tuple[int, ...], int] = {}
_spans: Dict[Tuple[int, int], List[Any]] = {}


def _judge(code: CodeType) -> bool:
    """The frame is none of the program's: ours, torch's, or the import system's."""
    global _torch
    if not _torch and "torch" in sys.modules:
        _torch = os.path.dirname(os.path.abspath(sys.modules["torch"].__file__ or "")) + os.sep
    name = code.co_filename
    hidden = name == WRAPPER or name.startswith(("<frozen", _OWN)) or bool(_torch and name.startswith(_torch))
    if _torch:
        _codes[id(code)] = code
        _hidden[id(code)] = hidden
    return hidden


def visible(frame: FrameType) -> bool:
    """The frame belongs to the program."""
    hidden = _hidden.get(id(frame.f_code))
    return not (_judge(frame.f_code) if hidden is None else hidden)


def stack(frame: Optional[FrameType]) -> Tuple[int, ...]:
    """The program's frames from here outwards, as pairs of code and instruction: cheap to take and to compare."""
    out: List[int] = []
    while frame is not None:
        code = frame.f_code
        ident = id(code)
        hidden = _hidden.get(ident)
        if hidden is None:
            hidden = _judge(code)
            _codes.setdefault(ident, code)
        if not hidden:
            out.append(ident)
            out.append(frame.f_lasti)
        frame = frame.f_back
    return tuple(out)


def here() -> int:
    """The site of what happens now."""
    frame = sys._getframe(1)
    key = stack(frame)
    known = _ids.get(key)
    if known is None:
        known = of(key)
        loops.note(frame)
    return known


def of(key: Tuple[int, ...]) -> int:
    """The number of a stack, written out when it is new."""
    known = _ids.get(key)
    if known is not None:
        return known
    with state.run.lock:
        number = _ids[key] = len(_ids) + 1
    frames = [_span(_codes[key[i]], key[i + 1]) for i in range(0, min(len(key), 2 * FRAMES), 2)]
    writer.line({"k": "site", "id": number, "frames": frames})
    return number


def of_program(frame: FrameType) -> bool:
    """The nearest visible frame lies in the program's own files, not in those of an installed library."""
    found: Optional[FrameType] = frame
    while found is not None and not visible(found):
        found = found.f_back
    if found is None:
        return False
    file = file_of(found.f_code)
    root = (state.run.options["root"] or state.run.home).rstrip(os.sep) + os.sep
    return file.startswith(root) and "site-packages" not in file


def framework(site: int) -> bool:
    """The innermost frame of a site lies in a framework that trains for the program."""
    key = next((k for k, number in _ids.items() if number == site), ())
    return bool(key) and any(name in _codes[key[0]].co_filename for name in _FRAMEWORKS)


def file_of(code: CodeType) -> str:
    """The absolute file name of a code object; names like <string> stay as they are."""
    name = code.co_filename
    return name if name.startswith("<") or os.path.isabs(name) else os.path.normpath(os.path.join(state.run.home, name))


def _span(code: CodeType, lasti: int) -> List[Any]:
    key = (id(code), lasti)
    known = _spans.get(key)
    if known is None:
        file = file_of(code)
        known = _spans[key] = [file, *_place(code, lasti, file), code.co_name, code.co_firstlineno]
    return known


def _place(code: CodeType, lasti: int, file: str) -> List[int]:
    """Line, column, end line, end column of an instruction; columns count characters from 1, 0 where unknown."""
    if hasattr(code, "co_positions"):
        line, end_line, column, end_column = next(islice(code.co_positions(), lasti // 2, None), (None, None, None, None))
        if line is not None and column is not None and end_column is not None:
            return [line, _characters(file, line, column), end_line or line, _characters(file, end_line or line, end_column)]
        if line is not None:
            return [line, 0, end_line or line, 0]
    line = code.co_firstlineno
    for start, number in _starts(code):
        if start > lasti:
            break
        line = number
    return [line, 0, line, 0]


def _starts(code: CodeType) -> List[Tuple[int, int]]:
    import dis

    return [(start, number) for start, number in dis.findlinestarts(code) if number is not None]


def _characters(file: str, line: int, offset: int) -> int:
    """A utf-8 byte offset from 0 as a character column from 1."""
    text = linecache.getline(file, line)
    if text.isascii():
        return offset + 1
    return len(text.encode("utf-8", "surrogatepass")[:offset].decode("utf-8", "ignore")) + 1
