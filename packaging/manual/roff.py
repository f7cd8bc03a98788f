"""Manual pages from Markdown: man(7) for what the project's documents use of it, and an error for anything else.

A table becomes a list of its rows, tagged by the first column: lines of 80 characters have no room for columns of
sentences. Of a link the text stays, and the address where it leads out of the page.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from markdown_it import MarkdownIt
from markdown_it.token import Token

DOCUMENTS = "/usr/share/doc/mlbd/docs/"
"""Where the documents are that links of theirs lead to, on a machine with the package."""

_MARKDOWN = MarkdownIt("commonmark").enable("table")
_UNBROKEN = (".nr HY 0", ".nh", ".ad l")
"""No hyphens at the ends of lines: half of the words are to be typed, or searched for."""
_REFERENCE = re.compile(r"\b([a-z][\w.-]*)(\([1-8]\))")
_HEADINGS = {"h2": "SH", "h3": "SS", "h4": "SS"}
_SPECIAL = {"\\": "\\e", "'": "\\(aq", '"': "\\(dq", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti"}
_LITERAL = {**_SPECIAL, "-": "\\-"}


def page(name: str, section: int, date: str, source: str, manual: str, document: str) -> str:
    """A page with this header (man(7), TH). Headings of the first level, and HTML comments, are left out."""
    header = " ".join(f'"{_escaped(text, _SPECIAL)}"' for text in (name.upper(), str(section), date, source, manual))
    lines = [".TH " + header, *_UNBROKEN, *_blocks(_MARKDOWN.parse(document))]
    return "\n".join(lines) + "\n"


def _blocks(tokens: Sequence[Token]) -> Iterable[str]:
    """Lines of a sequence of blocks."""
    start = 0
    begun = True  # after a heading or a tag there is no paragraph to begin
    while start < len(tokens):
        token = tokens[start]
        end = _closing(tokens, start)
        inner = tokens[start + 1 : end]
        if token.type == "heading_open" and token.tag != "h1":
            yield f'.{_HEADINGS[token.tag]} "{_heading(inner[0], token.tag)}"'
        elif token.type == "paragraph_open":
            yield from ([] if begun else [".PP"]) + [_inline(inner[0])]
        elif token.type == "fence":
            code = [_line(_escaped(line, _LITERAL)) for line in token.content.splitlines()]
            yield from [] if begun else [".PP"]
            yield from [".RS 4", ".EX", *code, ".EE", ".RE"]
        elif token.type == "bullet_list_open":
            yield from _list(inner)
        elif token.type == "table_open":
            yield from _table(inner)
        elif token.type != "heading_open" and not token.content.startswith("<!--"):
            raise ValueError(f"line {(token.map or [0])[0] + 1}: no rule for {token.type}")
        begun = token.type == "heading_open" or (begun and token.type == "html_block")
        start = end + 1


def _closing(tokens: Sequence[Token], start: int) -> int:
    """Where the block that begins there ends; the same place for one that is a single token."""
    depth = 0
    for number in range(start, len(tokens)):
        depth += tokens[number].nesting
        if depth == 0:
            return number
    raise AssertionError("the parser closes what it opens")


def _list(tokens: Sequence[Token]) -> Iterable[str]:
    start = 0
    while start < len(tokens):
        end = _closing(tokens, start)
        yield ".IP \\(bu 2"
        yield from _blocks(tokens[start + 1 : end])
        start = end + 1


def _table(tokens: Sequence[Token]) -> Iterable[str]:
    header, *rows = _rows(tokens)
    for tag, *cells in rows:
        yield ".TP"
        yield _inline(tag)
        told = [(_inline(name), _inline(cell)) for name, cell in zip(header[1:], cells, strict=True) if cell.content]
        if len(header) == 2:
            yield from (cell for _, cell in told)
        elif [name.content for name in header] == ["key", "value", "default", "meaning"]:
            cell = dict(told)
            yield cell["meaning"]
            yield ".br"
            default = cell.get("default", "")
            ending = {"must be given": "; must be given", "": ""}.get(default, f"; default {default}")
            yield f"\\fIValue:\\fR {cell['value']}{ending}."
        else:
            for number, (name, text) in enumerate(told):
                yield from [".br"] if number else []
                yield f"\\fI{name}:\\fR {text}"


def _rows(tokens: Sequence[Token]) -> list[list[Token]]:
    rows: list[list[Token]] = []
    for token in tokens:
        if token.type == "tr_open":
            rows.append([])
        elif token.type == "inline":
            rows[-1].append(token)
    return rows


def _heading(token: Token, tag: str) -> str:
    """Within quotes; font changes would end the heading's own."""
    text = "".join(child.content for child in token.children or ())
    return _escaped(text.upper() if tag == "h2" else text, _LITERAL)


def _inline(token: Token) -> str:
    """Text with its fonts, none of its lines taken for a request."""
    out: list[str] = []
    links: list[str] = []
    for child in token.children or ():
        match child.type:
            case "text":
                text = _escaped(child.content, _SPECIAL).replace(" - ", " \\- ")
                out.append(_REFERENCE.sub(r"\\fB\1\\fR\2", text))
            case "code_inline":
                out.append(f"\\fB{_escaped(child.content, _LITERAL)}\\fR")
            case "softbreak":
                out.append("\n")
            case "em_open" | "strong_open":
                out.append("\\fI" if child.type == "em_open" else "\\fB")
            case "em_close" | "strong_close":
                out.append("\\fR")
            case "link_open":
                links.append(str(child.attrs["href"]))
            case "link_close":
                out.append(_address(links.pop()))
            case _:
                raise ValueError(f"no rule for {child.type} in {token.content!r}")
    return "\n".join(_line(line) for line in "".join(out).split("\n"))


def _address(link: str) -> str:
    """What is said behind a link's text. A place in the page needs no address."""
    path = link.partition("#")[0]
    full = path if ":" in path else DOCUMENTS + path
    return f" (\\fI{_escaped(full, _LITERAL)}\\fR)" if path else ""


def _escaped(text: str, table: dict[str, str]) -> str:
    """As groff_char(7) and mandoc_char(7) both have it."""
    text = "".join(table.get(c, c) for c in text)
    return re.sub(r"[^\x00-\x7f]", lambda found: f"\\[u{ord(found[0]):04X}]", text)


def _line(text: str) -> str:
    return f"\\&{text}" if text.startswith((".", "'")) else text
