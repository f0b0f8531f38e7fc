"""Each command in a line, and two examples of it: what the help shows first. A test parses every example."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Example = tuple[str, str]
"""What is typed, and what it does."""


@dataclass(frozen=True)
class Guide:
    """A command in the help: the group that it stands in, a line of what it does, and examples."""

    group: str
    says: str
    examples: tuple[Example, ...] = ()


_THINK, _MAKE, _KNOW, _RUN = "Think", "Make a model think differently", "Compare and look up", "Set up and serve"

GUIDES: Mapping[tuple[str, ...], Guide] = {
    (): Guide(
        "",
        "",
        (
            ('thoughtmix think "Name a use for a brick."', "Eight different answers."),
            (
                'thoughtmix think "An idea for a party?" -n 32 --select 5 --html ideas.html',
                "The 5 most different good ones of 32, also as a page with a map.",
            ),
        ),
    ),
    ("think",): Guide(
        _THINK,
        "One prompt, or a file of them, to n different answers.",
        (
            (
                'thoughtmix think "An idea for a party?" -n 32 --select 5',
                "Writes 32 answers and shows the 5 most different good ones.",
            ),
            (
                'thoughtmix think "Write a haiku." -e http://localhost:11434 -m qwen3 --html haiku.html',
                "By a model of Ollama's, also as a page with a map of the answers.",
            ),
        ),
    ),
    ("noise",): Guide(
        _THINK,
        "Rewrite an idea of yours in n directions.",
        (
            ('thoughtmix noise "A cafe where people repair things."', "Eight ways to take the idea elsewhere."),
            (
                'thoughtmix noise "A cafe where people repair things." --families style --strength chaotic',
                "Only other styles, asked for wildly.",
            ),
        ),
    ),
    ("search",): Guide(
        _THINK,
        "Grow a tree of partial answers; keep n good ones.",
        (
            (
                'thoughtmix search "An unusual idea for a party." --seconds 30 --html tree.html',
                "Searches for half a minute; the page draws the tree.",
            ),
            (
                'thoughtmix search "An unusual idea for a party." --budget 500 --save tree.json',
                "Draws 500 tokens; go on later: thoughtmix search --resume tree.json --budget 4000",
            ),
        ),
    ),
    ("diffuse",): Guide(
        _THINK,
        "Write a text out of noise, along branches that compete.",
        (
            ('thoughtmix diffuse "ROMEO:" --branches 4 --live', "Four texts side by side while they appear."),
            ('thoughtmix diffuse "To be, <mask:12> be" --html film.html', "Fills a gap; the page plays how."),
        ),
    ),
    ("renoise",): Guide(
        _THINK,
        "Forget a part of a text, and write it anew n times.",
        (
            ('thoughtmix renoise "To be, or not to be" --level 0.5', "Half of it is forgotten, four times."),
            (
                'thoughtmix renoise "To be, or not to be" --level 0.2,0.5,0.8 --lock "not to be" -n 2',
                "Ever more is forgotten, but not those words.",
            ),
        ),
    ),
    ("show",): Guide(
        _THINK,
        "Look at saved answers again, or make a page of them.",
        (
            ("thoughtmix show thoughts.json --select 3", "The 3 most different good ones of a saved set."),
            ("thoughtmix show thoughts.json --html page.html", "Also as a page with a map."),
        ),
    ),
    ("measure",): Guide(
        _THINK,
        "How different are texts of your own?",
        (
            ("thoughtmix measure texts.txt --select 5", "A text a line: how different they are, and the 5 most."),
            (
                "thoughtmix measure answers.csv --column answer --sets model",
                "Compares the sets that the column `model` tells apart.",
            ),
        ),
    ),
    ("graft",): Guide(
        _MAKE,
        "Put thought branches on a pretrained model.",
        (
            ("thoughtmix graft default --out mine", "On the default model; then: thoughtmix tune mine"),
            ("thoughtmix graft org/name --out mine --branches 4 --rank 16", "Fewer and larger ones, on another."),
        ),
    ),
    ("tune",): Guide(
        _MAKE,
        "Teach the branches of a graft.",
        (
            ("thoughtmix tune mine --minutes 15", "By eight ways to answer that are built in."),
            (
                "thoughtmix tune mine --contexts contexts.toml --prompts prompts.txt",
                "By your own ways to answer, on your own questions.",
            ),
        ),
    ),
    ("export",): Guide(
        _MAKE,
        "Write thoughts of a graft as plain LoRA adapters.",
        (
            ("thoughtmix export mine --lora adapters -n 8", "Eight thoughts, as eight adapters."),
            ("thoughtmix export mine --vllm adapters", "The same, with the command that serves them in vLLM."),
        ),
    ),
    ("train",): Guide(
        _MAKE,
        "Train a small model of ours on a text.",
        (
            (
                "thoughtmix train mixture --data tiny-shakespeare --out shakespeare --minutes 10",
                "A small Mixture of Thoughts in ten minutes.",
            ),
            ("thoughtmix train diffusion --data mine.txt --out noise", "A model that writes in any order."),
        ),
    ),
    ("experiment",): Guide(
        _MAKE,
        "Train a mixture and its baseline, and compare them.",
        (
            ("thoughtmix experiment --data tiny-shakespeare --out report", "In about ten minutes."),
            (
                "thoughtmix experiment --data tiny-shakespeare --out report --minutes 60 --seeds 3",
                "In an hour, each trained three times.",
            ),
        ),
    ),
    ("cost",): Guide(
        _KNOW,
        "What training or tuning a model takes, before you pay.",
        (
            ("thoughtmix cost org/name --gpu a100", "What five ways to different answers cost there."),
            ("thoughtmix cost --list", "The kinds of GPU, with dated prices."),
        ),
    ),
    ("bench",): Guide(
        _KNOW,
        "Compare ways to think on prompts, with intervals.",
        (
            ("thoughtmix bench --prompts prompts.jsonl --quick", "A look in a few minutes, on prompts of yours."),
            (
                "thoughtmix bench --thinkers sampling,list,mixture --tasks coverage,puzzles",
                "A result, on tasks whose answers are known.",
            ),
        ),
    ),
    ("thinkers",): Guide(
        _KNOW,
        "List the ways to think.",
        (
            ("thoughtmix thinkers", "A line each."),
            ("thoughtmix thinkers search", "One of them, with all of its options."),
        ),
    ),
    ("metrics",): Guide(
        _KNOW,
        "List what is measured, and what it means.",
        (
            ("thoughtmix metrics", "A line each."),
            ("thoughtmix metrics vendi", "One of them: its span, when it misleads, what it cannot see."),
        ),
    ),
    ("experts",): Guide(
        _KNOW,
        "Read and steer the experts of a mixture-of-experts model.",
        (
            ("thoughtmix experts map MODEL --html map.html", "What each expert is for, with a test."),
            (
                'thoughtmix experts think MODEL "Name a use for a brick." --profiles noise,all',
                "Answers under routings that differ.",
            ),
        ),
    ),
    ("experts", "map"): Guide(
        "Commands",
        "Find out what each expert is used for, and test it.",
        (
            ("thoughtmix experts map MODEL --html map.html", "On built-in prompts; the page has the map."),
            (
                "thoughtmix experts map MODEL --texts texts.json --save profiles.json",
                "On texts of yours; writes what `experts think` takes.",
            ),
        ),
    ),
    ("experts", "think"): Guide(
        "Commands",
        "Answers under routings that differ.",
        (
            (
                'thoughtmix experts think MODEL "Name a use for a brick."',
                "Each answer with its own noise in the router.",
            ),
            (
                'thoughtmix experts think MODEL "Name a use for a brick." --profiles all,profiles.json',
                "By built-in profiles, and those that `experts map` found.",
            ),
        ),
    ),
    ("serve",): Guide(
        _RUN,
        "A page to think at, and OpenAI's API, on this machine.",
        (
            ("thoughtmix serve", "Then open http://127.0.0.1:8000 in a browser."),
            (
                "thoughtmix serve --model org/name --host 0.0.0.0 --allow-host my-machine",
                "For others in the network; put a token into THOUGHTMIX_TOKEN first.",
            ),
        ),
    ),
    ("pull",): Guide(
        _RUN,
        "Fetch the default models now rather than at first use.",
        (
            ("thoughtmix pull", "The language model and the embedder, 180 MB."),
            ("thoughtmix pull --no-measure", "Without the embedder, which only measuring needs."),
        ),
    ),
    ("doctor",): Guide(
        _RUN,
        "Is everything there that is needed?",
        (
            ("thoughtmix doctor", "A few lines, and what to type where something is wrong."),
            ("thoughtmix doctor --verify --details", "Reads the models byte by byte; names every package."),
        ),
    ),
    ("config",): Guide(
        _RUN,
        "Settings that stay.",
        (
            ("thoughtmix config set n 4", "From now on four answers, unless -n says otherwise."),
            ("thoughtmix config set endpoints.big.url https://api.openai.com/v1", "Then: thoughtmix think ... -e @big"),
        ),
    ),
    ("config", "show"): Guide("Commands", "What is set. Keys are not shown."),
    ("config", "path"): Guide("Commands", "Where the file is. THOUGHTMIX_CONFIG names another."),
    ("config", "set"): Guide("Commands", "Write one setting. The file's other lines stay."),
    ("config", "unset"): Guide("Commands", "Remove one setting."),
    ("config", "edit"): Guide("Commands", "Open the file in $VISUAL or $EDITOR."),
}
