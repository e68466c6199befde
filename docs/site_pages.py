"""MkDocs hook: makes pages of the site from files elsewhere in the repository and from the package itself."""

from __future__ import annotations

import inspect
import posixpath
import re
import reprlib
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from reference_tables import key_table, suites_reference  # beside this hook

ROOT = Path(__file__).resolve().parents[1]

FROM_REPOSITORY = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/README.md": "benchmarks.md",
    "integrations/README.md": "integrations.md",
    "projects/emoji/README.md": "emoji/index.md",
    "projects/emoji/docs/training.md": "emoji/training.md",
    "projects/emoji/docs/suites.md": "emoji/suites.md",
    "projects/emoji/docs/gpu.md": "emoji/gpu.md",
    "src/hart/models/emoji/README.md": "model_card.md",
}
"""Files of the repository -> pages."""

PUBLIC_MODULES = (
    "hart",
    "hart.tokenizer",
    "hart.text_encoder",
    "hart.data",
    "hart.training",
    "hart.evaluation",
    "hart.checkpoint",
    "hart.lora",
    "hart.commands",
    "hart.files",
)
CONFIGURATIONS = (
    ("hart.config", "HartConfig", "`config.json` of a model"),
    ("hart.training", "TokenizerRecipe", "Recipe of the stage `tokenizer`"),
    ("hart.training", "TransformerRecipe", "Recipe of the stage `transformer`"),
)
OWN_MEMBERS = "\n    options:\n      inherited_members: false"
WIDE = "---\nhide: [toc]\n---\n\n"
FROM_ELSEWHERE = re.compile(r'<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)="?(?:https?:)?//[^>]*>')
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for source, page in FROM_REPOSITORY.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=rewritten(text, source, page)))
    for name, make in PAGES.items():
        files.append(File.generated(config, f"reference/{name}.md", content=make()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Rewrite links in pages of docs/, which also name files of the repository."""
    if page.file.generated_by is not None:
        return markdown
    return rewritten(markdown, f"docs/{page.file.src_uri}", page.file.src_uri)


def on_post_page(output: str, page: Any, **_: Any) -> None:
    """Refuse pages that load anything from elsewhere: they work offline and tell nobody that they are read."""
    if found := FROM_ELSEWHERE.search(output):
        raise ValueError(f"{page.file.src_uri} loads something from elsewhere: {found.group()}")


def rewritten(text: str, source: str, page: str) -> str:
    """Adapt the links of a repository file to the site; links to what the site lacks become plain text."""

    def link(match: re.Match[str]) -> str:
        image, words, address, place = match.groups()
        if "://" in address or address.startswith("mailto:"):
            return match.group()
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), address))
        if target in FROM_REPOSITORY:
            target = FROM_REPOSITORY[target]
        elif target.startswith("docs/"):
            target = target.removeprefix("docs/")
        elif not (ROOT / target).exists():
            raise FileNotFoundError(f"{source} links to {address}, which is not there")
        else:
            return words
        return f"{image}[{words}]({posixpath.relpath(target, posixpath.dirname(page) or '.')}{place or ''})"

    return LINK.sub(link, text)


def reference_index() -> str:
    modules = "\n".join(f"- [`{name}`]({name}.md): {_summary(name)}" for name in PUBLIC_MODULES)
    return f"""# Reference

Made from the code: what stands here is what the installed version does.

- [Commands](commands.md): `hart` and its options
- [Configuration](configuration.md): keys of `config.json` and of recipes, with types, defaults and bounds
- [Suites](suites.md): `hart evaluate` and its options

The public modules; everything else may change without notice:

{modules}
"""


def _summary(module: str) -> str:
    return (import_module(module).__doc__ or "").strip().split("\n")[0]


def module_page(name: str) -> str:
    """Return a page of every public name of a module: documented classes and functions, then constants."""
    module = import_module(name)
    values = {public: getattr(module, public) for public in module.__all__ if not public.startswith("__")}
    objects = [public for public, value in values.items() if inspect.isclass(value) or inspect.isroutine(value)]
    constants = [f"- `{public}` = `{reprlib.repr(values[public])}`" for public in values if public not in objects]
    parts = [f"# {name}", inspect.getdoc(module) or ""]
    for public in objects:
        parts.append(f"::: {name}.{public}" + (OWN_MEMBERS if is_configuration(values[public]) else ""))
    if constants:
        parts += ["## Constants", "\n".join(constants)]
    return "\n\n".join(parts) + "\n"


def is_configuration(value: Any) -> bool:
    """Return whether it is a configuration: their common members are not repeated for each."""
    from hart.strict import Config

    return inspect.isclass(value) and issubclass(value, Config)


def configuration_page() -> str:
    parts = [
        f"{WIDE}# Configuration",
        "Unknown keys and values out of bounds are refused with the full key. A recipe is TOML: `trainer.steps` is the "
        "key `steps` of the table `[trainer]`, and may be given behind the command, `trainer.steps=10`.",
    ]
    for module, name, title in CONFIGURATIONS:
        rows = [
            f"| `{key}` | {kind} | {_code(default)} | {allowed.replace('|', '/')} | {said} |"
            for key, kind, default, allowed, said in key_table(getattr(import_module(module), name))
        ]
        head = "| key | type | default | allowed | what it is |\n|---|---|---|---|---|"
        parts += [f"## {title}", "\n".join([head, *rows])]
    return "\n\n".join(parts) + "\n"


def _code(default: str) -> str:
    return default if default in ("required", "none") else f"`{default}`"


def suites_page() -> str:
    text = re.sub(r"`(None|False|\(\))?` *\|", " |", suites_reference())
    return f"{WIDE}# Suites\n\n`hart evaluate SUITE`. What the figures mean: [evaluation](../evaluation.md).\n\n{text}"


def commands_page() -> str:
    from hart.cli import app

    command = typer.main.get_command(app)
    parts = [f"{WIDE}# Commands", "Bad input is one line on stderr and exit code 2."]
    for path, found in _commands(command, "hart"):
        rows = [_parameter(parameter) for parameter in found.params if parameter.name != "help"]
        table = ["| option | default | what it does |", "|---|---|---|", *rows] if rows else []
        parts += [f"## {path}", (found.help or "").strip(), "\n".join(table)]
    return "\n\n".join(parts) + "\n"


def _commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield the commands that do something, except suites, which have their own page."""
    if not hasattr(command, "list_commands"):
        yield path, command
        return
    context = command.make_context(path, [], resilient_parsing=True)
    for name in command.list_commands(context):
        if path != "hart evaluate":
            yield from _commands(command.get_command(context, name), f"{path} {name}")


def _parameter(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        names = [(parameter.metavar or parameter.name).strip("[].").replace("]", "").upper()]
    else:
        names = [*parameter.opts, *parameter.secondary_opts]
    default = "required" if parameter.required else ""
    if not default and parameter.default not in (None, False, (), []) and not callable(parameter.default):
        default = f"`{parameter.default}`"
    said = " ".join((getattr(parameter, "help", None) or "").split()).replace("|", "\\|")
    return f"| {', '.join(f'`{name}`' for name in names)} | {default} | {said} |"


PAGES: dict[str, Callable[[], str]] = {
    "index": reference_index,
    "commands": commands_page,
    "configuration": configuration_page,
    "suites": suites_page,
    **{name: partial(module_page, name) for name in PUBLIC_MODULES},
}
