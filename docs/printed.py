"""Runs the commands of the README and the tutorial and writes what they print below them, as it comes.

    python docs/printed.py                     # README.md, README.fr.md, docs/tutorial.md
    python docs/printed.py docs/tutorial.md

Blocks are those behind `<!-- printed -->`. A command that stands in several pages runs once. What goes to standard
error (progress) is not shown, and lines are not shortened.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "README.fr.md", "docs/tutorial.md")
BLOCK = re.compile(r"(<!-- printed -->\n```console\n)(.*?)(^```$)", re.M | re.S)


def printed(command: str) -> str:
    """What a command line with `thoughtmix` in it prints, at 100 columns."""
    environment = {**os.environ, "COLUMNS": "100", "THOUGHTMIX_CONFIG": os.devnull}
    program = re.sub(r"(^|\| )thoughtmix\b", rf"\1{sys.executable} -m thoughtmix", command)
    began = time.perf_counter()
    done = subprocess.run(program, shell=True, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{command}\n{done.stderr}")
    print(f"{time.perf_counter() - began:6.1f} s  {command}", flush=True)
    return "\n".join(line.rstrip() for line in done.stdout.strip("\n").splitlines())


def commands(page: str) -> list[str]:
    """Those of its blocks, as they stand there."""
    blocks = BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))
    return [line[2:] for _, block, _ in blocks for line in block.splitlines() if line.startswith("$ ")]


def renew(page: str, known: dict[str, str]) -> None:
    """Writes what is known by now below its commands; a block of which nothing is known stays as it is."""

    def renewed(block: re.Match[str]) -> str:
        lines = [line[2:] for line in block[2].splitlines() if line.startswith("$ ")]
        if not all(line in known for line in lines):
            return block[0]
        whole = "\n\n".join(f"$ {line}\n{known[line]}" for line in lines)
        return f"{block[1]}{whole}\n{block[3]}"

    path = ROOT / page
    path.write_text(BLOCK.sub(renewed, path.read_text(encoding="utf-8")), encoding="utf-8")


def main() -> None:
    pages, known = sys.argv[1:] or PAGES, {}
    for command in dict.fromkeys(command for page in pages for command in commands(page)):
        known[command] = printed(re.sub(r"  +#.*$", "", command))
        for page in pages:
            renew(page, known)


if __name__ == "__main__":
    main()
