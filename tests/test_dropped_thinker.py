"""A thinker that nobody here has heard of: a file dropped into a folder, and another that a package registers.

Both are then everywhere, with no other edit: in `thinkers`, `think`, the server, the page's form and `bench`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from benchland import OPEN
from browser import Watched, until

from thoughtmix import InputError, Pipeline, UnknownName, get_thinker
from thoughtmix.bench.systems import equal_budget, get_system, system_names
from thoughtmix.bench.trials import TrialRequest
from thoughtmix.cli import main

pytest_plugins = ["tinyland"]

SOURCE = """
from typing import Literal

import thoughtmix
from thoughtmix.core.options import Names, ThinkerOptions, option


class Echo(thoughtmix.Thinker):
    name = "NAME"
    summary = "Says the prompt again."

    class Options(ThinkerOptions):
        mood: Literal["calm", "loud"] = option("calm", "How it is said", served=True)
        times: int = option(2, "How often", served=True, served_max="thoughts", ge=1)
        share: float = option(1.0, "How much of it", served=True, gt=0, le=1)
        polite: bool = option(False, "Say please", served=True)
        first: str = option("", "What comes first", served=True)
        words: Names = option((), "Words that follow", served=True)
        file: str = option("", "A file to read from")  # not for a server

    def texts(self, n, options):
        return n * options.times

    def think(self, engine, prompt, request):
        o = request.options
        said = [o.first, *[prompt.text] * o.times, *o.words, "please" * o.polite]
        text = " ".join(filter(None, said))
        text = text[: round(len(text) * o.share)]
        text = text.upper() if o.mood == "loud" else text
        return [thoughtmix.Thought(f"{text} {seed}", (), seed, 0.0, "stop") for seed in request.seeds], {}


THINKER = Echo()
"""
NAMES = ["dropped_echo", "packaged_echo"]
both = pytest.mark.parametrize("name", NAMES)


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One file in a folder that THOUGHTMIX_THINKERS names, one package with an entry point. Gives the package's path."""
    (tmp_path / "thinkers").mkdir()
    (tmp_path / "thinkers" / f"{NAMES[0]}.py").write_text(SOURCE.replace("NAME", NAMES[0]))
    site = tmp_path / "site"
    about = site / "packaged_echo-1.0.dist-info"
    about.mkdir(parents=True)
    (site / "packaged_echo.py").write_text(SOURCE.replace("NAME", NAMES[1]))
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: packaged-echo\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[thoughtmix.thinkers]\n{NAMES[1]} = packaged_echo:THINKER\n")
    monkeypatch.setenv("THOUGHTMIX_THINKERS", str(tmp_path / "thinkers"))
    monkeypatch.syspath_prepend(site)
    return site


@pytest.fixture
def url(there: Path) -> Iterator[str]:
    serving = pytest.importorskip(
        "serving", reason="the server's packages are not installed: pip install 'thoughtmix[serve]'"
    )
    with serving.running() as server:
        yield server.url


def chat(url: str, thinker: str, **options: Any) -> httpx.Response:
    body = {"messages": [{"role": "user", "content": "w5"}], "n": 2, "seed": 3, "thinker": thinker, "options": options}
    return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)


def test_it_is_listed(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["thinkers", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    for name in NAMES:
        assert rows[name]["summary"] == "Says the prompt again."
        assert rows[name]["options"]["mood"] == "How it is said (calm, loud) (default calm)."
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(there), os.environ.get("PYTHONPATH", "")])}
    code = "import sys; from thoughtmix.cli import run; run()"
    out = subprocess.run([sys.executable, "-c", code, "thinkers"], env=env, capture_output=True, text=True, check=True)
    assert all(name in out.stdout for name in NAMES), "in a process of its own, too"


@both
def test_think_takes_its_typed_options(there: Path, name: str, tinyland: Any) -> None:
    pipeline = Pipeline()
    made = pipeline("w5", 2, name, seed=3, times="3", mood="loud")
    assert made.texts == ["W5 W5 W5 3", "W5 W5 W5 4"] and made.thinker == name
    assert made.settings["options"] == {"times": 3, "mood": "loud"} and made.metrics
    assert pipeline("w5", 1, name, options={"polite": True, "words": "w6,w7"}).texts == ["w5 w5 w6 w7 please 0"]
    with pytest.raises(UnknownName, match="Did you mean 'times'"):
        pipeline("w5", 2, name, tims=3)
    with pytest.raises(UnknownName, match="Did you mean 'temperature'"):
        pipeline("w5", 2, name, temprature=1)
    with pytest.raises(InputError, match=r"times is 0: it should be .* Pass times=2"):
        pipeline("w5", 2, name, times=0)
    with pytest.raises(UnknownName, match="Did you mean 'calm'"):
        pipeline("w5", 2, name, mood="clam")


@both
def test_the_server_takes_what_is_declared_safe(url: str, name: str) -> None:
    told = {thinker["name"]: thinker for thinker in httpx.get(f"{url}/api/info").json()["thinkers"]}[name]
    assert list(told["options"]) == ["mood", "times", "share", "polite", "first", "words"], "the file is not offered"
    assert told["option_schema"]["properties"]["times"]["maximum"] == 64, "the server's own limit"
    got = chat(url, name, mood="loud", times=3)
    assert got.status_code == 200, got.text
    assert [choice["message"]["content"] for choice in got.json()["choices"]] == ["W5 W5 W5 3", "W5 W5 W5 4"]
    for options, says in (
        ({"file": "/etc/passwd"}, "The option file is not for requests"),
        ({"tims": 3}, "Did you mean 'times'"),
        ({"times": 10**9}, "takes up to 64"),
        ({"times": 0}, "at least 1"),
        ({"mood": "clam"}, "Did you mean 'calm'"),
        ({"times": True}, "no numbers"),
    ):
        got = chat(url, name, **options)
        message = got.json()["error"]["message"]
        assert got.status_code == 400 and says in message and "\n" not in message, got.text


@both
def test_the_page_has_a_form_for_it(browser: Any, url: str, name: str) -> None:
    watched = Watched(browser, url + "/", reduced_motion="reduce")
    page = watched.page
    page.select_option("#thinker", name)
    assert page.inner_text("#thinker-note") == "Says the prompt again."
    page.click("#more summary")
    looks = page.locator("#options-list .field").evaluate_all("""fields => fields.map(field => {
        const input = field.querySelector('input, select');
        return [input.name, input.type, input.placeholder ?? '', input.min ?? '', input.max ?? '', input.step ?? '',
                field.querySelector('small').textContent]; })""")
    assert looks == [
        ["mood", "select-one", "", "", "", "", "How it is said (calm, loud) (default calm)."],
        ["times", "number", "2", "1", "64", "1", "How often (default 2). Between 1 and 64."],
        ["share", "number", "1", "0", "1", "any", "How much of it (default 1.0). Between 0 and 1."],
        ["polite", "checkbox", "", "", "", "", "Say please (default false)."],
        ["first", "text", "thinker's own", "", "", "", "What comes first."],
        ["words", "text", "thinker's own", "", "", "", "Words that follow."],
    ]
    page.fill("#option-times", "65")
    page.fill("#prompt", "w5 w6")
    page.fill("#n", "2")
    page.fill("#max_tokens", "4")
    page.click("#think")
    assert page.locator("#option-times:invalid").count() == 1, "more than the server takes is not even sent"
    page.select_option("#option-mood", "loud")
    page.fill("#option-times", "1")
    page.check("#option-polite")
    page.fill("#option-words", "w7, w8")
    page.click("#think")
    until(page, "[...document.querySelectorAll('.card .state')].filter(s => s.textContent === 'complete').length === 2")
    assert page.locator(".card .text").all_inner_texts() == [f"W5 W6 W7 W8 PLEASE {seed}" for seed in (0, 1)]
    watched.context.close()
    watched.check()


@both
def test_bench_measures_it(there: Path, name: str, tmp_path: Path, tinyland: Any) -> None:
    assert name in system_names()
    system, request = get_system(name), TrialRequest(OPEN[0], 2, 5, 8)
    assert (system.summary, system.knob) == ("Says the prompt again.", "creativity")
    assert equal_budget(get_thinker(name), {}, request) == {"max_new_tokens": 4}, "each thought is two texts"
    assert equal_budget(get_thinker(name), {"times": 4}, request)["max_new_tokens"] == 2
    made = system.answer(Pipeline(), request, system.grid(3)[0])
    assert [thought.seed for thought in made] == [5, 6]
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("\n".join(json.dumps({"prompt": f"w{i} w9"}) for i in range(5, 9)))
    small = ["-n", "2", "--budget", "8", "--seeds", "1", "--settings", "2", "--keep", "1", "--tasks", "none"]
    run = ["bench", "--thinkers", f"sampling,{name}", "--prompts", str(prompts), "--out", str(tmp_path / "out"), *small]
    assert main(run) == 0
    record = json.loads((tmp_path / "out" / "result.json").read_text())
    assert name in record["kinds"]["open"]["chosen"]
