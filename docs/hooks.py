"""The notebooks of examples/notebooks as pages of the site: their text, their code, and what it printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

NOTEBOOKS = Path(__file__).parents[1] / "examples" / "notebooks"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for notebook in sorted(NOTEBOOKS.glob("*.ipynb")):
        files.append(File.generated(config, f"notebooks/{notebook.stem}.md", content=as_markdown(notebook)))
    return files


def as_markdown(notebook: Path) -> str:
    """A notebook as Markdown: text as it is, code in a fence, outputs below it (HTML in a frame of its own)."""
    parts = []
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        parts += [_output(output) for output in cell.get("outputs", ())]
    whole = f"examples/notebooks/{notebook.name}"
    parts.append(f"---\nThis page is the notebook `{whole}`, which runs in a test and in Jupyter as it is.")
    return "\n\n".join(part for part in parts if part.strip())


def _output(output: dict[str, Any]) -> str:
    data = output.get("data", {"text/plain": output.get("text", "")})
    if "image/png" in data:
        return f'<img alt="What the code above draws" src="data:image/png;base64,{"".join(data["image/png"]).strip()}">'
    if "text/html" in data:
        page = "".join(data["text/html"]).replace("&", "&amp;").replace('"', "&quot;").replace("\n", "&#10;")
        return f'<iframe class="output" title="What a notebook shows" loading="lazy" srcdoc="{page}"></iframe>'
    return f"```text\n{''.join(data.get('text/plain', '')).rstrip()}\n```"
