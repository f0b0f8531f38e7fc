"""Five kinds of text that every machine with this library has: Tiny Shakespeare, and what its packages ship."""

from __future__ import annotations

import hashlib
import re
import sysconfig
from collections.abc import Iterator
from email import message_from_string
from pathlib import Path

import numpy as np

DOMAINS = ("shakespeare", "python", "cpp", "licence", "readme")
_MOST = 1_000_000  # characters a domain, so that none outweighs the others by much


def corpora(shakespeare: Path) -> dict[str, tuple[str, str]]:
    """{domain: (training text, held-out text)}. Files are split whole, Shakespeare at nine tenths."""
    site = Path(sysconfig.get_paths()["purelib"])
    found = {
        "python": _files(site, "transformers/models/*/modeling_*.py", licence=r"\A(?:[ \t]*#[^\n]*\n|\s*\n)+"),
        "cpp": _files(site, "torch/include/**/*.h", licence=r"\A\s*/\*[\s\S]*?\*/"),
        "licence": _paragraphs(site),
        "readme": _readmes(site),
    }
    play = shakespeare.read_text(encoding="utf-8")
    cut = int(len(play) * 0.9)
    out = {"shakespeare": (play[:cut][:_MOST], play[cut:])}
    for name, pieces in found.items():
        whole = [p for p in pieces if p.strip()]
        held = [p for i, p in enumerate(whole) if i % 10 == 9]
        kept = [p for i, p in enumerate(whole) if i % 10 != 9]
        out[name] = ("\n".join(kept)[:_MOST], "\n".join(held)[: _MOST // 8])
    return out


def parted(text: str, judge: bool) -> str:
    """Training text in pieces of 5,000 characters, of which every third is kept for the judge."""
    pieces = [text[i : i + 5000] for i in range(0, len(text), 5000)]
    return "".join(p for i, p in enumerate(pieces) if (i % 3 == 2) == judge)


def chunks(text: str, count: int, length: int, seed: int) -> list[str]:
    """Pieces of `length` characters from even places, without overlap, shuffled."""
    starts = np.arange(0, len(text) - length, max(length, len(text) // (count + 1)))
    order = np.random.default_rng(seed).permutation(len(starts))[:count]
    return [text[starts[i] : starts[i] + length] for i in order]


def _files(site: Path, pattern: str, licence: str) -> Iterator[str]:
    """Texts of files, spread evenly over their sorted names, until there is enough."""
    names = sorted(site.glob(pattern))
    size = 0
    for i in np.random.default_rng(0).permutation(len(names)):
        text = names[i].read_text(encoding="utf-8", errors="ignore")
        text = re.sub(licence, "", text)  # what stands above the code is of another domain
        size += len(text)
        yield text[:20_000]
        if size > 2 * _MOST:
            return


def _paragraphs(site: Path) -> list[str]:
    """Paragraphs of licences, each once: most packages ship the same few."""
    seen: set[str] = set()
    out = []
    for file in sorted(site.glob("*.dist-info/**/*")):
        if not file.is_file() or not re.match(r"(LICEN[CS]E|COPYING|NOTICE|AUTHORS)", file.name.upper()):
            continue
        for part in re.split(r"\n\s*\n", file.read_text(encoding="utf-8", errors="ignore")):
            key = hashlib.sha256(" ".join(part.split()).lower().encode()).hexdigest()
            if len(part) > 80 and key not in seen:
                seen.add(key)
                out.append(part + "\n")
    return out


def _readmes(site: Path) -> list[str]:
    """The long descriptions of packages."""
    out = []
    for file in sorted(site.glob("*.dist-info/METADATA")):
        body = message_from_string(file.read_text(encoding="utf-8", errors="ignore")).get_payload()
        if isinstance(body, str) and len(body) > 500:
            out.append(body[:20_000])
    return out
