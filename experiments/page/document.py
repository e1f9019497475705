"""The frame of a page, and the HTML of the Markdown that the commands write anyway."""

import base64
import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token

HERE = Path(__file__).parent
LONG = 30  # rows from which a table gets a field to search in it


def document(title: str, parts: Sequence[str]) -> str:
    """A whole page, with its style and its script in it."""
    style, script = ((HERE / f"page.{end}").read_text(encoding="utf-8") for end in ("css", "js"))
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n<main>\n"
        + "\n".join(parts)
        + f"\n</main>\n<script>\n{script}</script>\n</html>\n"
    )


def prose(text: str, *, folder: Path | None = None, pages: Mapping[str, str] = {}) -> str:
    """The HTML of a Markdown text.

    Args:
      text: the Markdown.
      folder: where its pictures lie, which are then put in; without it they become words.
      pages: files whose text stands on the same page, and the heading that each begins with: links
        to them lead there. Other links into a repository become words.
    """
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    heading, name, made = "", "", []
    for i, token in enumerate(tokens):
        if token.type == "heading_open":
            heading = name = _plain(tokens[i + 1])
            token.attrSet("id", anchor(heading))
        elif token.type == "paragraph_open":
            inside = tokens[i + 1].content
            name = f"{heading}: {inside[2:-2]}" if re.fullmatch(r"\*\*[^*]+\*\*", inside) else name
        elif token.type == "inline":
            token.children = _inline(token.children or [], folder, pages)
        elif token.type == "table_open":
            made += _raw(
                f'<div class="wide" role="region" tabindex="0" aria-label="{escape(name)}">'
            )
        elif token.type in ("th_open", "td_open"):
            _scope(tokens, i)
        made.append(token)
        if token.type == "table_open":
            made += _raw(f"<caption>{escape(name)}</caption>")
        elif token.type == "table_close":
            made += _raw("</div>\n")
    return MarkdownIt("commonmark").enable("table").renderer.render(made, MarkdownIt().options, {})


def provenance(title: str, document: Mapping[str, Any]) -> str:
    """How a results file came to be: the command, where it ran, every setting; shut at first."""
    config = document.get("config", {})
    facts = {
        "command": document.get("command"),
        "date": document.get("date"),
        "hardware": document.get("hardware"),
        "minutes": round(document.get("seconds", 0) / 60, 1),
        "versions": document.get("versions"),
        **config,
    }
    lines = "".join(f"<dt>{escape(k)}</dt><dd>{escape(_said(v))}</dd>" for k, v in facts.items())
    return f"<details><summary>{escape(title)}</summary><dl>{lines}</dl></details>"


def anchor(title: str) -> str:
    """The name of a heading, as the repository's own pages make it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def picture(path: Path) -> str:
    """A picture as an address that holds it."""
    kind = "png" if path.suffix == ".png" else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_said(v)}" for k, v in value.items())
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _raw(html: str) -> list[Token]:
    return [Token("html_block", "", 0, content=html)]


def _plain(inline: Token) -> str:
    return "".join(t.content for t in inline.children or [] if t.type in ("text", "code_inline"))


def _scope(tokens: Sequence[Token], i: int) -> None:
    """Say what a cell is the head of: a column, or, as the first of a row, its row."""
    cell = tokens[i]
    if cell.type == "th_open":
        cell.attrSet("scope", "col")
    elif tokens[i - 1].type == "tr_open":
        cell.attrSet("scope", "row")
        cell.tag = next(t for t in tokens[i:] if t.type == "td_close").tag = "th"


def _inline(children: list[Token], folder: Path | None, pages: Mapping[str, str]) -> list[Token]:
    """Links that lead nowhere in one file become words, pictures are put in."""
    made, dropped = [], False
    for token in children:
        if token.type == "link_open":
            place, _, part = str(token.attrGet("href") or "").partition("#")
            here = not place or place in pages
            if here and (part or place):
                token.attrSet("href", f"#{part or anchor(pages[place])}")
            dropped = not (here or place.startswith(("http:", "https:")))
            if dropped:
                continue
        elif token.type == "link_close" and dropped:
            dropped = False
            continue
        elif token.type == "image":
            file = folder / str(token.attrGet("src")) if folder else None
            if file is None or not file.is_file():
                continue
            token.attrSet("src", picture(file))
        made.append(token)
    return made
