"""Runs the notebooks of examples/notebooks, cell after cell: `python tests/notebooks.py` writes what came into them.

A kernel of Jupyter does the same with twenty more packages; the notebooks use no magic, and Jupyter opens them as they
are.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
from pathlib import Path
from typing import Any

import nbformat

FOLDER = Path(__file__).parents[1] / "examples" / "notebooks"


def execute(notebook: Any, name: str) -> Any:
    """Runs the code cells in one namespace, and puts what they print, and what their last expression is, below them."""
    names: dict[str, Any] = {"__name__": "__main__"}
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for number, cell in enumerate(cells, start=1):
        code = ast.parse(cell.source, f"{name}, cell {number}")
        last = code.body.pop() if code.body and isinstance(code.body[-1], ast.Expr) else None
        out, value = io.StringIO(), None
        with contextlib.redirect_stdout(out):
            exec(compile(code, f"{name}, cell {number}", "exec"), names)
            if last is not None:
                value = eval(compile(ast.Expression(last.value), f"{name}, cell {number}", "eval"), names)
        cell.execution_count, cell.outputs = number, []
        if out.getvalue():
            cell.outputs.append(nbformat.v4.new_output("stream", name="stdout", text=out.getvalue()))
        if value is not None:
            shown = nbformat.v4.new_output("execute_result", data=_data(value), execution_count=number)
            cell.outputs.append(shown)
    nbformat.validate(notebook)
    return notebook


def _data(value: Any) -> dict[str, str]:
    if hasattr(value, "savefig"):
        picture = io.BytesIO()
        value.savefig(picture, format="png", dpi=90)
        return {"image/png": base64.b64encode(picture.getvalue()).decode(), "text/plain": "<Figure>"}
    if html := getattr(value, "_repr_html_", lambda: None)():
        return {"text/html": html, "text/plain": f"<{type(value).__name__}>"}
    return {"text/plain": repr(value)}


def main() -> None:
    for path in sorted(FOLDER.glob("*.ipynb")):
        print(path.name)
        nbformat.write(execute(nbformat.read(path, 4), path.name), path)


if __name__ == "__main__":
    main()
