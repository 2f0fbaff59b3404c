"""Builds the documentation with ``make docs``; without any network, then or later."""
from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from numpydoc import xref
from pydantic import BaseModel
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.nodes import make_refnode

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

from crp import __version__  # noqa: E402
from crp.cli.command_line import build_parser  # noqa: E402
from crp.cli.schemas import ANSWERS, schema  # noqa: E402

project = "crp"
author = "the authors of crp"
copyright = author
version = release = __version__

extensions = [
    "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.viewcode", "numpydoc", "myst_nb", "sphinx_copybutton",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]

# Documentation of names, as numpydoc reads them
autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "none"  # the docstrings have them
autodoc_class_signature = "mixed"
numpydoc_show_class_members = False  # autodoc lists them
numpydoc_class_members_toctree = False
numpydoc_xref_param_type = True
numpydoc_xref_ignore = "all"  # but these:
xref.DEFAULT_LINKS.clear()  # to Python's documentation
numpydoc_xref_aliases = {
    name.rpartition(".")[2]: name
    for path in sorted((HERE / "api").glob("*.rst"), reverse=True)
    for name in re.findall(r"^   ~(crp\S+\.[A-Z]\w+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
}
python_use_unqualified_type_names = True
maximum_signature_line_length = 76
toc_object_entries_show_parents = "hide"

# Pages and notebooks
nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 4
suppress_warnings = [
    "myst.header",  # the changelog starts below the title of its page
    "autosummary.import_cycle",  # entries have full names, for those who look for them
]

# Looks
html_theme = "furo"
html_title = f"crp {version}"
html_static_path = ["_static"]
html_css_files = ["crp.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}
pygments_style = "default"
pygments_dark_style = "github-dark"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

PAGES = [
    "start", "attributions", "concepts", "references", "analysis", "neurons", "trust", "truth", "explorer", "any_model",
    "large_runs", "command_line", "agents", "moving", "speed", "tutorials", "api/index", "house", "security", "changes",
]
AMBIGUOUS = {"abs_norm", "accelerate", "accuracy", "project", "smooth", "spaced", "verify"}  # not only public names
OUTSIDE = {  # files that GitHub shows elsewhere than the documentation does
    "../tutorials/": "tutorials/", "../CHANGELOG.md": "changes.md", "../SECURITY.md": "security.md",
    "../README.md": "index.md",
    "docs/": "", "../docs/": "",
}


def copy_tutorials() -> None:
    """Notebooks live beside the documentation, where people look for them; pages are made in the documentation."""
    folder = HERE / "tutorials"
    folder.mkdir(exist_ok=True)
    saved = {path.name: path for path in (ROOT / "tutorials").glob("*.ipynb")}
    for copy in folder.iterdir():
        if copy.name not in saved:
            copy.unlink()
    for name, path in saved.items():
        copy, text = folder / name, path.read_text(encoding="utf-8").replace("](../images/", "](../../images/")
        if not copy.exists() or copy.read_text(encoding="utf-8") != text:
            copy.write_text(text, encoding="utf-8")


def remove_entries_of_old() -> None:
    """Entries are generated and stay; those of names that are no longer listed would be pages without a way to them."""
    listed = "\n".join(path.read_text(encoding="utf-8") for path in (HERE / "api").glob("*.rst"))
    for page in (HERE / "api" / "generated").glob("*.rst"):
        if not re.search(rf"^   ~{re.escape(page.stem)}$", listed, re.MULTILINE):
            page.unlink()


def write_for_agents(app: Sphinx, error: Exception | None) -> None:
    """``llms.txt`` is the page for agents, with links to pages; ``schemas.json`` has the schemas of all answers."""
    if error is None and app.builder.name == "html":
        folder, text = Path(app.outdir), (HERE / "agents.md").read_text(encoding="utf-8")
        (folder / "llms.txt").write_text(re.sub(r"\]\((\w+)\.md\)", r"](\1.html)", text), encoding="utf-8")
        (folder / "schemas.json").write_text(json.dumps({name: schema(name) for name in ANSWERS}), encoding="utf-8")


def describe_commands() -> str:
    """The commands of the command line in Markdown, from the parsers that read their arguments."""
    parser = build_parser()
    commands = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    summaries = {choice.dest: choice.help for choice in commands._choices_actions}
    return "\n".join(
        line for name, command in commands.choices.items()
        for line in _describe_command(name, command, summaries[name] or "")
    )


def _describe_command(name: str, command: argparse.ArgumentParser, summary: str) -> Iterator[str]:
    command.formatter_class = lambda prog: argparse.HelpFormatter(prog, width=72, max_help_position=12)
    yield from (f"## crp {name}", "", _sentence(command.description or summary), "")
    usage = command.format_usage().rstrip().replace("\n" + " " * len("usage: "), "\n").removeprefix("usage: ")
    yield from ("```text", usage, "```", "")
    for action in command._actions:
        if not isinstance(action, argparse._HelpAction):
            yield from (_argument(action), f": {_explain(action)}", "")
    for answer in ANSWERS[name]:
        yield from _describe_answer(answer)


def _describe_answer(answer: type[BaseModel]) -> Iterator[str]:
    """The fields of an answer as a table, and below it those of its parts."""
    yield from (f"**JSON**: {answer.__doc__}", "", "| field | type | |", "| --- | --- | --- |")
    described = answer.model_json_schema(mode="serialization")
    for fields in (described, *described.get("$defs", {}).values()):
        of = "" if fields is described else f"{fields['title']}."
        yield from (
            f"| `{of}{name}` | {_type(field)} | {field['description']} |"
            for name, field in fields["properties"].items()
        )
    yield ""


def _type(field: dict[str, Any]) -> str:
    """The type of a field in a schema, such as ``list of integer``."""
    if "anyOf" in field:
        return " or ".join(map(_type, field["anyOf"]))
    if "$ref" in field:
        return f"{field['$ref'].rpartition('/')[2]}"
    inner = {"array": "items", "object": "additionalProperties"}.get(field.get("type", ""), "")
    of = field.get(inner)
    return field.get("type", "any") + (f" of {_type(of)}" if isinstance(of, dict) else "")


def _argument(action: argparse.Action) -> str:
    value = "" if action.nargs == 0 else action.metavar or "|".join(map(str, action.choices or ()))
    if not action.option_strings:
        return f"`{value}`"
    return ", ".join(f"`{option} {value}`" if value else f"`{option}`" for option in action.option_strings)


def _explain(action: argparse.Action) -> str:
    text = _sentence(action.help or action.dest.replace("_", " "))
    text = re.sub(r" \(default: (.*)\)\.$", r". Default: \1.", text)
    if "Default:" not in text and action.nargs != 0 and action.default is not None:
        text += f" Default: `{action.default}`."
    return f"{text} Required." if action.required and action.option_strings else text


def _sentence(text: str) -> str:
    first = text.split()[0]
    is_name = "." in first or first.endswith(":")
    return (text if is_name else text[0].upper() + text[1:]).rstrip(".") + "."


def prepare_source(app: Sphinx, page: str, source: list[str]) -> None:
    """Fill in the commands, and lead links to where things are in the documentation."""
    text = source[0].replace("<!-- commands -->\n", describe_commands())
    if "/" not in page:
        for before, after in OUTSIDE.items():
            text = text.replace(f"]({before}", f"]({after}")
    if page == "index":  # pages are listed as far as they are there
        text = text.replace("<!-- pages -->\n", "".join(f"{name}\n" for name in PAGES if _exists(name)))
    source[0] = text


def prepare_include(app: Sphinx, path: Path, page: str, source: list[str]) -> None:
    """Included files have their links prepared too, but not their first heading."""
    prepare_source(app, page, source)
    source[0] = re.sub(r"\A# .*\n", "", source[0])


def _exists(page: str) -> bool:
    return any((HERE / f"{page}.{suffix}").exists() for suffix in ("md", "rst"))


def refuse_unknown_names(app: Sphinx, environment: Any, node: Any, content: nodes.Element) -> None:
    """Warn of references to names of crp that have no entry."""
    written = isinstance(content, nodes.literal) and node.get("refdomain") == "py"
    if written and not node["reftarget"].startswith(("torch.", "zennit.", "numpy.", "captum.")):
        logging.getLogger(__name__).warning("no entry for %s", node["reftarget"], location=node)


def link_names(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Lead public names to their entries, where a section of a page or tutorial first has them."""
    if page.startswith("api/"):
        return
    entries, linked = _entries(app), set()
    for literal in list(doctree.findall(nodes.literal)):
        name = literal.astext().partition("(")[0]
        section = literal.parent
        while section is not None and not isinstance(section, (nodes.section, nodes.title, nodes.reference)):
            section = section.parent
        if name in entries and isinstance(section, nodes.section) and (section, name) not in linked:
            linked.add((section, name))
            docname, place, full_name = entries[name]
            link = make_refnode(app.builder, page, docname, place, literal.deepcopy(), full_name)
            literal.parent.replace(literal, link)


def _entries(app: Sphinx) -> dict[str, tuple[str, str, str]]:
    """Page, place and full name by what is written: full names, short names, Class.method."""
    found: dict[str, tuple[str, str, str]] = {}
    for full_name, entry in app.env.domains.python_domain.objects.items():
        if full_name.startswith("crp."):
            parts = 2 if entry.objtype in ("method", "property") else 1
            short = ".".join(full_name.split(".")[-parts:])
            for name in {full_name, short} - AMBIGUOUS:
                found.setdefault(name, (entry.docname, entry.node_id, full_name))
    return found


def reread_pages(app: Sphinx, environment: Any, *changes: set[str]) -> list[str]:
    """Pages hold what is not in their files: the list of pages, the commands."""
    return [page for page in environment.found_docs if "/" not in page]


def skip_what_says_nothing(app: Sphinx, kind: str, name: str, value: Any, skip: bool, options: Any) -> bool | None:
    """Leave out members that Python or pydantic describe, since the entries of their classes say more."""
    empty = name == "model_config" or str(getattr(value, "__doc__", "")).startswith("Alias for field number")
    return True if empty else None


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    copy_tutorials()
    remove_entries_of_old()
    app.connect("source-read", prepare_source)
    app.connect("env-get-outdated", reread_pages)
    app.connect("include-read", prepare_include)
    app.connect("autodoc-skip-member", skip_what_says_nothing)
    app.connect("missing-reference", refuse_unknown_names)
    app.connect("doctree-resolved", link_names)
    app.connect("build-finished", write_for_agents)
