"""The `thoughtmix` command. Nothing here imports torch until a command needs it, so that help answers at once."""

from __future__ import annotations

import difflib
import gc
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import typer

from thoughtmix.cli.app import app
from thoughtmix.core.errors import InputError, RenamedWarning, SlowPathWarning, ThoughtmixError, UnknownName
from thoughtmix.core.files import disk_full, require_whole_characters

# Click's own errors (unknown option, missing argument...), wherever this Typer keeps Click.
UsageError: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "UsageError")

# Each module adds its commands to `app`; the order here is their order in the help.
from thoughtmix.cli import think, measure, noise, search, diffuse, graft, train, experts  # noqa: E402, F401, I001
from thoughtmix.cli import cost, bench, serve, lists, install, configure  # noqa: E402, F401
from thoughtmix.cli.settings import bind, defaults  # noqa: E402


_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code. Deliberate errors are one line on stderr, never a traceback."""
    _utf8()
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        return _main(arguments)


def _main(arguments: Sequence[str] | None) -> int:
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        _check_arguments(words)
        log_as_asked()
        command = bind(typer.main.get_command(app))
        # A broken file must not keep its own command from mending it.
        first = next((word for word in words if not word.startswith("-")), "")
        given = {} if first == "config" else defaults(command)
        result = command.main(args=words, prog_name="thoughtmix", standalone_mode=False, default_map=given)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except ThoughtmixError as error:
        return _say(str(error), error.exit_code)
    except UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # `thoughtmix` alone: its message is the help
            print(error.format_message())
            return 2
        return _say(*_usage(error))
    except (KeyboardInterrupt, typer.Abort):
        return _say("Stopped.", 130)
    except BrokenPipeError:  # `thoughtmix ... | head`: nothing to say; keep Python from flushing into the closed pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except SystemExit as stop:  # Typer's own answer to a closed pipe
        return stop.code if isinstance(stop.code, int) else 1
    except Exception as error:
        if os.environ.get("THOUGHTMIX_DEBUG"):
            raise
        if disk_full(error):
            return _say("No space left to write to. Free some, then type the same again.", 1)
        if isinstance(error, OSError) and error.filename is not None:  # what the system says of a file that was named
            said = f"Cannot use {error.filename}: {error.strerror or error}."
            return _say(f"{' '.join(said.split())[:300]} Type: thoughtmix --help", 1)
        reason = f"internal error: {type(error).__name__}: {error}"
        return _say(f"{' '.join(reason.split())[:300]} Type: THOUGHTMIX_DEBUG=1 thoughtmix ... to see where.", 70)


def log_as_asked() -> None:
    """Show on stderr what the program does, from the level that THOUGHTMIX_LOG names. Raises `UnknownName`."""
    level = os.environ.get("THOUGHTMIX_LOG", "").strip().upper()
    if not level:
        return
    import logging

    if level not in _LEVELS:
        raise UnknownName("level in THOUGHTMIX_LOG", level.lower(), [name.lower() for name in _LEVELS])
    logger = logging.getLogger("thoughtmix")
    logger.setLevel(level)
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logger.addHandler(handler)


def run() -> None:
    """The console script."""
    gc.set_threshold(20_000, 10, 10)  # looking for garbage is a tenth of importing torch
    sys.exit(main())


_python_shows = warnings.showwarning


def _show_warning(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
    """Our own warnings are one line; others are shown as ever."""
    if issubclass(category, (SlowPathWarning, RenamedWarning)):
        _say(str(message), 0)
    else:
        _python_shows(message, category, *where, **more)


def _say(line: str, code: int) -> int:
    print(f"thoughtmix: {line}", file=sys.stderr)
    return code


def _check_arguments(arguments: Sequence[str]) -> None:
    """Refuse bytes that are no text: no tokenizer, file or terminal takes them. Raises `InputError`."""
    for argument in arguments:
        try:
            require_whole_characters(argument)
        except ValueError as error:
            raise InputError(f"An argument is not UTF-8: {error}.", "Type it in UTF-8.") from None


def _usage(error: Exception) -> tuple[str, int]:
    """A usage error as one line that ends with what to type."""
    from thoughtmix.thinkers.call import ELSEWHERE, MEANT

    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "thoughtmix"
    said = " ".join(str(error.format_message()).split())  # type: ignore[attr-defined]
    said = said.replace(
        "Input should be a valid integer, unable to parse string as an integer", "it is no whole number"
    )
    said = said.replace("Input should be a valid number, unable to parse string as a number", "it is no number")
    typed = str(getattr(error, "option_name", ""))
    name = typed.lstrip("-").replace("-", "_")
    known = {flag.lstrip("-").replace("-", "_"): flag for flag in getattr(error, "possibilities", None) or ()}
    if context is not None:
        known |= {p.name: p.opts[-1] for p in context.command.params if p.opts and p.opts[-1].startswith("--")}
    near = [MEANT[name]] if name in MEANT else difflib.get_close_matches(name, known, n=1)
    if name in ELSEWHERE:
        said = f"{said.partition(' (')[0].rstrip('.')}. {ELSEWHERE[name]}"
    elif "unexpected extra argument" in said:
        said = f"{said.rstrip('.')}: a text of several words goes in quotes."
    elif typed and near and near[0] in known and "No such option" in said:
        said = f"No such option: {typed}. Did you mean {known[near[0]]}?"
    return f"{said}{'' if said[-1:] in '.?' else '.'} Type: {path} --help", 2


def _utf8() -> None:
    """Answers hold any character; a pipe in a C locale must not break on them."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure") and (stream.encoding or "").lower() not in {"utf-8", "utf8"}:
            stream.reconfigure(encoding="utf-8", errors="replace")
