"""What the README and docs/ say to type works: commands parse with the program's own parser or run, Python runs, the
site builds without a warning and asks no other host. What is not run says why on the line above it."""

from __future__ import annotations

import ast
import importlib
import json
import re
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from docsland import PAGES, ROOT, Block, blocks, calls

pytest_plugins = ["tinyland"]
ELSEWHERE = {
    ".",
    "cat",
    "printf",
    "docker",
    "export",
    "inspect",
    "llm",
    "ollama",
    "openssl",
    "vllm",
    "curl",
    "ray",
    "echo",
    "cd",
}
"""Programs of others, whose options are theirs."""
CONSOLE = [block for page in PAGES for block in blocks(page, "console")]
PYTHON = [page for page in PAGES if blocks(page, "python")]


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", read(page))
    made = {f"notebooks/{file.stem}.md" for file in (ROOT / "examples" / "notebooks").glob("*.ipynb")}
    lost = [link for link in links if "://" not in link and link not in made and not (page.parent / link).exists()]
    assert not lost, f"{page.name} links to {lost}"


# --- what is said to be typed ----------------------------------------------------------------------------------------


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Parses a `thoughtmix` command as the program does, runs nothing, and gives exit code and message."""
    import typer

    from thoughtmix import cli

    monkeypatch.setattr(typer.core.TyperCommand, "invoke", lambda self, ctx: 0)
    return cli.main


@pytest.mark.parametrize("block", CONSOLE, ids=lambda block: block.name)
def test_commands(block: Block, parsed: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Commands, options and values exist, and so do files of this repository, targets of make and extras of pip."""
    for command in block.commands:
        for program, *words in calls(command):
            wrong = _wrong(program, words, parsed)
            said = capsys.readouterr().err
            assert not wrong and not said, f"{block.name}: {command}\n{wrong} {said}"  # old names are told there


def _wrong(program: str, words: list[str], parsed: Any) -> str:
    if program == "thoughtmix":
        return f"exit code {code}" if (code := parsed(words)) else ""
    if program == "make":
        targets = re.findall(r"^([\w.$()/]+):", read(ROOT / "Makefile"), re.M)
        named = [word.replace(".venv", "$(VENV)") for word in words if "=" not in word]
        return "".join(f"no target {name}" for name in named if name not in targets)
    if Path(program).name in {"python", "python3", "pytest"}:
        return _wrong_script(words)
    if Path(program).name == "pip":
        extras = re.findall(r"(?:thoughtmix|\.)\[(\w+)\]", " ".join(words))
        known = tomllib.loads(read(ROOT / "pyproject.toml"))["project"]["optional-dependencies"]
        return "".join(f"no extra {extra}" for extra in extras if extra not in known)
    return "" if program in ELSEWHERE or "$" in program or program.endswith("/serve.sh") else f"what is {program}?"


def _wrong_script(words: list[str]) -> str:
    """Of `python FILE --option`: the file is there and has such options."""
    if not words or not words[0].endswith(".py"):
        return ""
    file = ROOT / words[0]
    if not file.exists():
        return f"no file {words[0]}"
    text = read(file)
    options = {word.split("=")[0] for word in words[1:] if word.startswith("--")}
    needed = {option for option in re.findall(r'"(--[\w-]+)"[^\n]*required=True', text) if option not in options}
    made = {f"--{name}" for name in re.findall(r'"([\w-]+)"', text)}  # those that a loop adds
    unknown = {option for option in options if f'"{option}"' not in text and option not in made}
    return f"{words[0]} has no {unknown}" if unknown else f"{words[0]} needs {needed}" if needed else ""


def test_the_light_commands_of_the_readme_run(
    tinyland: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every `thoughtmix think` of the README on a tiny model, but for those that need a server or a file."""
    from thoughtmix import cli

    monkeypatch.chdir(tmp_path)
    ran = 0
    for block in blocks(ROOT / "README.md", "console"):
        for program, *words in (call for command in block.commands for call in calls(command)):
            if (
                program == "thoughtmix"
                and words[0] == "think"
                and not {"-e", "--engine", "--prompts", "--regex"} & set(words)
            ):
                if "--model" in words:
                    words[words.index("--model") + 1] = "gpt2"
                if "--max-new-tokens" in words:
                    at = words.index("--max-new-tokens")
                    words = words[:at] + words[at + 2 :]
                assert cli.main([*words, "--max-new-tokens", "3"]) == 0, f"{words}\n{capsys.readouterr().err}"
                assert capsys.readouterr().out
                ran += 1
    assert ran >= 4
    assert (tmp_path / "page.html").exists()


# --- Python ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PYTHON, ids=lambda page: str(page.relative_to(ROOT)))
def test_python(page: Path, tinyland: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page run one after the other, on tiny models; of the others at least the names exist."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in blocks(page, "python"):
        code = ast.parse(block.text, block.name)
        _names_exist(code)
        if not block.not_run:
            names = names or _given(page.name, tmp_path)
            exec(compile(code, block.name, "exec"), names)


def _names_exist(code: ast.Module) -> None:
    for node in ast.walk(code):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("thoughtmix"):
            module = importlib.import_module(str(node.module))
            lost = [alias.name for alias in node.names if not hasattr(module, alias.name)]
            assert not lost, f"{node.module} has no {lost}"


def _given(page: str, folder: Path) -> dict[str, Any]:
    """What a page takes for granted: a model that the reader holds, files that its commands wrote."""
    import torch

    given: dict[str, Any] = {"__name__": page}
    ids = torch.arange(3, 11)[None]
    if page == "experts.md":
        from tiny_moe import fresh_moe

        given |= {"model": fresh_moe("mixtral"), "input_ids": ids.repeat(2, 1)}
    elif page in {"graft.md", "own-model.md"}:
        from tiny import fresh, tokenizer

        given |= {"base": fresh("llama"), "model": fresh("llama"), "tokenizer": tokenizer(), "ids": ids}
        rows = ids.expand(8, -1)
        given |= {"one_hot": torch.eye(8), "lengths": [4] * 8, "input_ids": rows, "mask": torch.ones_like(rows)}
        given["labels"] = rows
    elif page == "batches.md":
        from thoughtmix.cli import main

        lines = [json.dumps({"question": f"w{i} w7", "prompt": f"w{i} w7"}) for i in range(2)]
        (folder / "in.jsonl").write_text("\n".join(lines))
        assert main(["think", "--prompts", "in.jsonl", "--out", "out.jsonl", "-n", "2", "--max-new-tokens", "3"]) == 0
    elif page == "cost.md":
        from tiny import tiny

        tiny("llama").config.save_pretrained(folder / "FOLDER")
    return given


@pytest.mark.model
@pytest.mark.parametrize("name", ["first_thoughts", "your_own_texts", "a_graft"])
def test_notebook(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs as it is; the outputs that are kept in it are those of all its cells."""
    import nbformat
    from notebooks import FOLDER, execute

    monkeypatch.chdir(tmp_path)
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", 4)
    kept = [[output.output_type for output in cell.outputs] for cell in notebook.cells if cell.cell_type == "code"]
    execute(notebook, name)
    made = [[output.output_type for output in cell.outputs] for cell in notebook.cells if cell.cell_type == "code"]
    assert kept == made, "Type: python tests/notebooks.py"


# --- the site --------------------------------------------------------------------------------------------------------


class _Asked(HTMLParser):
    """What a page loads by itself when it is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        loads = tag in {"script", "img", "iframe", "source", "video"} or given.get("rel") in {"stylesheet", "icon"}
        if loads and (url := given.get("src") or given.get("href")):
            self.urls.append(url)


def test_the_site_builds_without_a_warning_and_asks_no_other_host(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: pip install '.[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=_quiet_environment())
    assert done.returncode == 0, done.stdout + done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 50
    for page in pages:
        parser = _Asked()
        parser.feed(read(page))
        elsewhere = [url for url in parser.urls if re.match(r"(https?:)?//", url)]
        assert not elsewhere, f"{page.name} loads {elsewhere}"
    api = read(tmp_path / "site" / "reference" / "thoughtmix.html")
    for word in ("max_new_tokens", "Returns", "Raises", "InputError"):
        assert word in api, "the reference is made from the docstrings"


def _quiet_environment() -> dict[str, str]:
    import os

    return {**os.environ, "NO_MKDOCS_2_WARNING": "1"}


# --- the README ------------------------------------------------------------------------------------------------------


def test_the_readme_is_short() -> None:
    prose = re.sub(r"```.*?```|<!--.*?-->|!?\[|\]\([^)]*\)", " ", read(ROOT / "README.md"), flags=re.S)
    assert len(read(ROOT / "README.md").split()) <= 1500, "all of it, commands and what they print too"
    assert len(prose.split()) > 300


def test_the_french_readme_keeps_step() -> None:
    """As many headings on each level, the same commands, code and pictures, the same links."""
    english, french = (ROOT / "README.md", ROOT / "README.fr.md")
    for pattern in (r"^(#+) ", r"!\[[^]]*\]\(([^)]*)\)"):
        assert re.findall(pattern, _no_code(english), re.M) == re.findall(pattern, _no_code(french), re.M)
    links = [
        set(re.findall(r"\]\(([^)#]+)", _no_code(page))) - {"README.md", "README.fr.md"} for page in (english, french)
    ]
    assert links[0] == links[1]
    ours, theirs = ([_code(block) for block in blocks(page, "console", "python")] for page in (english, french))
    assert ours == theirs


def _no_code(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", read(page), flags=re.M | re.S)


def _code(block: Block) -> str:
    """A block without its remarks, which are translated."""
    return re.sub(r"\s*# .*$", "", block.text, flags=re.M)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if "<!-- printed -->" in read(page)], ids=lambda page: page.name
)
def test_what_commands_print_is_shown(page: Path) -> None:
    """Below each command of such a block stands what it printed: `python docs/printed.py` takes it anew."""
    for block in blocks(page, "console"):
        if block.mark == "printed":
            for part in re.split(r"^\$ ", block.text, flags=re.M)[1:]:
                assert len(part.strip().splitlines()) > 1, f"{block.name}: type python docs/printed.py {page.name}"
