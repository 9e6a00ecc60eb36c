"""Fixes as small values: what to change, carried out later by `mllint.fix`.

An edit names places by the spans a detector already holds. An edit of statements takes any span that covers them from the first
character to the last (of `loop.step()` the span of the call); an anchor may be any span within a statement and stands for the
smallest statement that holds it. An edit that cannot be carried out as asked is declined, and with it the whole fix.

Text that becomes lines is written as at the left margin, with four blanks for each level: it gets the indentation, the tabs and the
line ends of the place it goes to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from mllint.model.finding import Span

#: "safe" keeps the meaning, or can only have been meant; "unsafe" changes what the program does and is applied on request; "shown"
#: is text for a person and never applied.
SAFETIES = ("safe", "unsafe", "shown")

#: Where lines go, seen from an anchor: beside its statement, or inside the block that its statement opens (a loop, a function).
WHERES = ("before", "after", "start", "end")


@dataclass(frozen=True, slots=True)
class Replace:
    """Put `text` exactly where `span` is, in any kind of file. An empty span inserts."""

    span: Span
    text: str


@dataclass(frozen=True, slots=True)
class Rewrite:
    """Write the expression at `span` anew, with parts of it kept as they stand, comments and line breaks included.

    In `text`, `$whole` is the expression as it is. Of a call, `$function` is what is called and `$receiver` what stands before its
    last dot, `$arguments` all arguments, `$0`, `$1` ... the positional ones and `$name` the value of the argument of that name
    (`$$` is a dollar sign). `scaler.step($receiver, $arguments)` loses the comma where there are no arguments; a part that is put
    where it would bind differently gets parentheses. A part that does not exist declines the fix.
    """

    span: Span
    text: str


@dataclass(frozen=True, slots=True)
class Insert:
    """Put lines beside a statement, or first or last into the block it opens. Behind a `return`, `break` or `raise` is declined."""

    anchor: Span
    where: str
    text: str


@dataclass(frozen=True, slots=True)
class Delete:
    """Take statements out; a comment behind them stays, and `pass` keeps a block that would be empty."""

    span: Span


@dataclass(frozen=True, slots=True)
class Move:
    """Take statements out, with their comments, and put them where an `Insert` would put lines, in the same file."""

    span: Span
    anchor: Span
    where: str


@dataclass(frozen=True, slots=True)
class Wrap:
    """Put statements of one block into a block of their own. `header` is one or more lines, of which the last opens that block.

    `with autocast():` wraps; `if scaler is not None:\\n    scaler.scale(loss).backward()\\nelse:` makes them the other arm. `span`
    reaches from anywhere in the first statement to anywhere in the last; what stands between them is wrapped too.
    """

    span: Span
    header: str


@dataclass(frozen=True, slots=True)
class Unwrap:
    """Remove the header of the block (`with`, `if`) that the statement at `anchor` opens; its body stands in its place."""

    anchor: Span


@dataclass(frozen=True, slots=True)
class Dedent:
    """Take statements out of the block they stand in, to right behind it. Only the last ones of a block can leave it so: where others
    follow, these stay inside a second copy of the header when `reopen` (a `with` alone), else the fix is declined."""

    span: Span
    reopen: bool = False


@dataclass(frozen=True, slots=True)
class Rename:
    """Write another name at `span`, which holds a name (a variable, an attribute, a keyword of a call) and nothing else."""

    span: Span
    name: str


@dataclass(frozen=True, slots=True)
class SetArgument:
    """Give the call at `call` the keyword argument `name=text`, or put `text` where it already has one of that name.

    `position` is where the parameter may stand without its name, from 0: an argument found there is replaced instead.
    """

    call: Span
    name: str
    text: str
    position: int | None = None


@dataclass(frozen=True, slots=True)
class DropArgument:
    """Take one argument out of the call at `call`: a keyword by name, a positional one by number from 0."""

    call: Span
    argument: str | int


@dataclass(frozen=True, slots=True)
class SetFormat:
    """Write the number format `text` (`.3e`) in the place of `was` (`.4f`) where the value at `span` is formatted.

    `span` is the value inside an f-string; or the whole `template % values`, the whole call of `template.format(...)`, of a logging
    method or of `format(value, spec)`, and `index` then counts the conversions of the template from 0. A width and flags are kept.
    """

    span: Span
    was: str
    text: str
    index: int = 0


@dataclass(frozen=True, slots=True)
class AddImport:
    """Make `name` of `module` (or, without `name`, the module itself) known in a file, as `asname` where that is given.

    Nothing happens where exactly this import is there already at the top of the file; a name that means something else there
    declines the fix. `cell` is the cell of a notebook that needs it, by which it must stand.
    """

    path: str
    module: str
    name: str | None = None
    asname: str | None = None
    cell: int | None = None


Edit: TypeAlias = (
    Replace | Rewrite | Insert | Delete | Move | Wrap | Unwrap | Dedent | Rename | SetArgument | DropArgument | SetFormat | AddImport
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Fix:
    """A named set of edits that belong together, in one file or several: all of them are made, or none.

    `title` says what is done, in the imperative and with the user's names ("step `scheduler` after each epoch").
    """

    title: str
    safety: str
    edits: tuple[Edit, ...]


def path_of(edit: Edit) -> str:
    """The file an edit changes."""
    if isinstance(edit, AddImport):
        return edit.path
    if isinstance(edit, (Insert, Unwrap)):
        return edit.anchor.path
    if isinstance(edit, (SetArgument, DropArgument)):
        return edit.call.path
    return edit.span.path
