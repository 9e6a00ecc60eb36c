"""Files as a fix sees them: bytes in, the patches of an edit, and bytes out in the same encoding."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from mllint.fix import notebook, text
from mllint.fix.patch import Declined, Lines, Patch, Plan, applied
from mllint.fix.python import Editor
from mllint.fix.tree import Tree
from mllint.model.fix import AddImport, Edit, Fix, Insert, Move, Unwrap, path_of
from mllint.read.notebook import mask_magics
from mllint.read.python import parse
from mllint.read.source import BOM, Source, split_lines

PYTHON, NOTEBOOK, TEXT = "python", "notebook", "text"


class Editable:
    """One file of one state. What is read from it is kept, so that all fixes of a round share it."""

    def __init__(self, path: str, data: bytes, kind: str) -> None:
        self.path = path
        self.data = data
        self.kind = kind
        try:
            if kind == PYTHON:
                self.encoding = Source(path, data).encoding
            else:
                self.encoding = "utf-8-sig" if data.startswith(BOM) else "utf-8"
            self.text = data.decode(self.encoding)
            exact = self.text.encode(self.encoding) == data
        except (UnicodeError, LookupError) as error:
            raise Declined(f"cannot be decoded: {error}") from error
        if not exact:
            raise Declined(f"its encoding ({self.encoding}) does not give back the bytes it was read from")
        self.cells = notebook.Scanner(self.text).cells if kind == NOTEBOOK else []
        self._trees: dict[int | None, Tree] = {}
        self._lines: dict[int | None, Lines] = {}

    def plan(self, edits: Sequence[Edit]) -> Plan:
        """What all edits of one fix do to this file, or Declined."""
        if self.kind == PYTHON:
            return Editor(self._tree(None)).edit(edits)
        if self.kind == TEXT:
            return text.plan(self._lines_of(None), edits)
        by_cell: dict[int, list[Edit]] = {}
        for edit in edits:
            by_cell.setdefault(self._cell_of(edit), []).append(edit)
        plans = [self._plan_cell(number, some) for number, some in by_cell.items()]
        return Plan(tuple(p for plan in plans for p in plan.patches), tuple(c for plan in plans for c in plan.claims))

    def _plan_cell(self, number: int, edits: Sequence[Edit]) -> Plan:
        if self.cells[number].kind == "code":
            return Editor(self._tree(number), number).edit(edits)
        return text.plan(self._lines_of(number), edits, number)

    def _cell_of(self, edit: Edit) -> int:
        if isinstance(edit, AddImport):
            return self._cell_to_import(edit)
        if isinstance(edit, Move) and edit.anchor.cell != edit.span.cell:
            raise Declined("a statement cannot move to another cell")
        cell = edit.anchor.cell if isinstance(edit, (Insert, Unwrap)) else getattr(edit, "call", None) or getattr(edit, "span", None)
        number = cell if isinstance(cell, int) else getattr(cell, "cell", None)
        if number is None or not 0 <= number < len(self.cells):
            raise Declined("the place to change lies in no cell of the notebook")
        return number

    def _cell_to_import(self, edit: AddImport) -> int:
        """The first cell with an import at its margin, up to the one that needs it."""
        last = len(self.cells) - 1 if edit.cell is None else edit.cell
        code = [n for n, cell in enumerate(self.cells[: last + 1]) if cell.kind == "code"]
        for number in code:
            if any(line.startswith(("import ", "from ")) for line in split_lines(self.cells[number].text)):
                return number
        if not code:
            raise Declined("the notebook has no cell to import in")
        return code[-1]

    def _tree(self, cell: int | None) -> Tree:
        if cell not in self._trees:
            if cell is None:
                self._trees[cell] = Tree(self.text)
            else:
                written = self.cells[cell].text
                self._trees[cell] = Tree(written, "\n".join(mask_magics(split_lines(written))))
        return self._trees[cell]

    def _lines_of(self, cell: int | None) -> Lines:
        if cell not in self._lines:
            self._lines[cell] = Lines(self.text if cell is None else self.cells[cell].text)
        return self._lines[cell]

    def exact(self, patches: Iterable[Patch]) -> list[Patch]:
        """The patches as changes of the text of the file: of a notebook, of its JSON."""
        if self.kind != NOTEBOOK:
            return list(patches)
        by_cell: dict[int, list[Patch]] = {}
        for patch in patches:
            assert patch.cell is not None
            by_cell.setdefault(patch.cell, []).append(patch)
        return notebook.rewritten(self.text, self.cells, by_cell)

    def changed(self, patches: Iterable[Patch]) -> bytes:
        """The bytes of the file after the patches; Declined where they would no longer be read."""
        new = applied(self.text, self.exact(patches))
        try:
            data = new.encode(self.encoding)
        except UnicodeError as error:
            raise Declined(f"the new text cannot be written in {self.encoding}") from error
        if self.kind == PYTHON:
            try:
                parse(data, self.path)
            except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
                raise Declined(f"the file would not parse: {getattr(error, 'msg', error)}") from error
        else:
            text.check(self.path, new)
        return data


def edits_by_path(fix: Fix) -> Mapping[str, list[Edit]]:
    """The edits of a fix, file by file."""
    found: dict[str, list[Edit]] = {}
    for edit in fix.edits:
        found.setdefault(path_of(edit), []).append(edit)
        if isinstance(edit, Move) and edit.anchor.path != edit.span.path:
            raise Declined("a statement cannot move to another file")
    return found


def kind_of(path: str, known: str | None) -> str:
    """How a file is edited: by what the scan read it as, else by its name."""
    if known in (PYTHON, NOTEBOOK):
        return known
    if path.endswith(".ipynb"):
        return NOTEBOOK
    return PYTHON if path.endswith((".py", ".pyw")) and known is None else TEXT
