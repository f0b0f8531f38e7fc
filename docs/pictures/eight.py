"""The picture at the top of the README: the same model, prompt and seeds, thought by plain sampling and by another way.

    python docs/pictures/eight.py                                  # eight.svg, as it stands in the README
    python docs/pictures/eight.py --thinker list --prompt "Name one colour."

Runs the model; what stands on the picture is what it wrote, all of it, in the order of the seeds.
"""

from __future__ import annotations

import argparse
import textwrap
from html import escape
from pathlib import Path

HERE = Path(__file__).parent
WIDTH, COLUMN, TOP, LINE, WRAP = 760, 366, 100, 24, 37
COLOURS = ("#0f6b66", "#b4501e", "#3557a8", "#8a3b8f", "#5d7a12", "#a3262f", "#7a5c00", "#33566b")


def answers(prompt: str, thinker: str, tokens: int) -> tuple[list[str], float]:
    """Eight texts, and the seconds that they took, loading left out."""
    import thoughtmix

    pipeline = thoughtmix.Pipeline()
    pipeline(prompt, n=1, thinker=thinker, max_new_tokens=2, measure=False)
    thoughts = pipeline(prompt, n=8, thinker=thinker, max_new_tokens=tokens, measure=False)
    return [" ".join(text.split()) for text in thoughts.texts], float(thoughts.run["wall_seconds"])


def column(x: int, title: str, texts: list[str]) -> tuple[list[str], int]:
    """The SVG of one side, and how tall it is."""
    parts, y = [f'<text class="t" x="{x}" y="{TOP - 14}">{escape(title)}</text>'], TOP + 16
    for text, colour in zip(texts, COLOURS, strict=True):
        lines = textwrap.wrap(text, WRAP) or [""]
        height = LINE * len(lines) + 10
        parts.append(f'<rect x="{x}" y="{y - 17}" width="5" height="{height - 8}" rx="2" fill="{colour}"/>')
        parts += [f'<text x="{x + 16}" y="{y + LINE * i}">{escape(line)}</text>' for i, line in enumerate(lines)]
        y += height
    return parts, y + 6


def drawing(prompt: str, sides: list[tuple[str, list[str]]]) -> str:
    columns = [column(28 + i * COLUMN, title, texts) for i, (title, texts) in enumerate(sides)]
    height = max(tall for _, tall in columns)
    style = (
        "text{font:17px system-ui,-apple-system,'Segoe UI',Roboto,'Noto Sans',sans-serif;fill:#1d2b2b}"
        ".t{font-weight:600;font-size:17px}.p{font-size:22px;font-weight:600}"
    )
    size = f'width="{WIDTH}" height="{height}"'
    said = "; ".join(f"{title}: {' / '.join(texts)}" for title, texts in sides)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" {size} role="img">',
            f"<title>{escape(prompt)}</title><desc>{escape(said)}</desc><style>{style}</style>",
            f'<rect width="{WIDTH}" height="{height}" rx="10" fill="#f6f8f7"/>',
            f'<text class="p" x="28" y="44">{escape(prompt)}</text>',
            f'<path d="M{28 + COLUMN - 16} {TOP - 30}V{height - 16}" stroke="#c9d3d1"/>',
            *(part for parts, _ in columns for part in parts),
            "</svg>\n",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompt", default="Name a bird.")
    parser.add_argument("--thinker", default="auto")
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--out", type=Path, default=HERE / "eight.svg")
    args = parser.parse_args()
    sides = []
    chosen = "" if args.thinker == "auto" else f" (--thinker {args.thinker})"
    for title, thinker in (("Plain sampling", "sampling"), (f"thoughtmix{chosen}", args.thinker)):
        texts, seconds = answers(args.prompt, thinker, args.tokens)
        print(f"{thinker}: {seconds:.1f} s", *texts, sep="\n  ")
        sides.append((title, texts))
    args.out.write_text(drawing(args.prompt, sides), encoding="utf-8")


if __name__ == "__main__":
    main()
