"""Text and tables as editors and spreadsheets of Windows, Macs and Linux write them."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable
from typing import NamedTuple

from advface_jax.untrusted import TEXT_BYTES, BadFile, read_bytes


class Row(NamedTuple):
    """A line of a table: its number in the file, from 1, and its cells by column."""

    line: int
    cells: dict[str, str]


def read_lines(path: str | os.PathLike[str]) -> list[str]:
    """A text file's lines, whatever ends them.

    UTF-8, with a mark or without; UTF-16 with its mark, as Excel's "Unicode text"; else Windows'
    Western code page (cp1252).

    Raises:
      ValueError: there is no such file, or it is no text.
    """
    try:
        data = read_bytes(path, TEXT_BYTES)
    except OSError as error:
        raise BadFile(f"{path} cannot be read: {error.strerror or error}") from error
    marked = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    for coding in ("utf-16",) if marked else ("utf-8-sig", "cp1252"):
        try:
            text = data.decode(coding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return re.split("\r\n|\r|\n", text)
    raise BadFile(f"{path} cannot be read as text: save it as UTF-8")


def header(lines: list[str]) -> tuple[int, str, list[str]]:
    """Where the first line with text is, what separates its cells, and these, plain.

    The separator is the tab, the semicolon or the comma, or what Excel's line ``sep=;`` says.
    """
    at = next((i for i, line in enumerate(lines) if line.strip()), len(lines) - 1)
    told = re.fullmatch(r"\"?sep=([^\w\s\"]|\t)\"?", lines[at])
    if told and at + 1 < len(lines):
        at += 1
    found = (mark for mark in "\t;," if mark in lines[at])
    mark = told[1] if told else next(found, "\t")
    return at, mark, [plain(cell) for cell in cells(lines[at], mark)]


def plain(column: str) -> str:
    """A column's name without spaces and case."""
    return "".join(column.split()).casefold()


def cells(line: str, mark: str) -> list[str]:
    """A line's cells without spaces around them; ValueError for what is no line of a table."""
    try:
        if mark != "\t":
            return [cell.strip() for cell in next(csv.reader([line], delimiter=mark), [])]
        (raw,) = csv.reader([line], delimiter="\t", quoting=csv.QUOTE_NONE) if line else ([],)
    except csv.Error as error:
        raise BadFile(str(error)) from None
    # A quote is part of a name here, unless it is a spreadsheet's, around the whole cell.
    quoted = re.compile(r'"((?:[^"]|"")*)"')
    return [
        found[1].replace('""', '"').strip() if (found := quoted.fullmatch(cell.strip())) else cell
        for cell in (cell.strip() for cell in raw)
    ]


def read_table(path: str | os.PathLike[str], wanted: Iterable[str]) -> list[Row]:
    """The rows of a table with a header line, without the empty ones.

    Args:
      path: Separated by tabs, semicolons or commas.
      wanted: Columns that it must have; case and spaces do not count in the header.

    Raises:
      ValueError: the table is unreadable or lacks a column, or a line has more cells than columns.
    """
    lines = read_lines(path)
    wanted = list(wanted)
    try:
        at, mark, columns = header(lines)
    except ValueError as error:
        raise BadFile(f"{path} is no table: {error}") from None
    lacking = [column for column in wanted if plain(column) not in columns]
    if lacking:
        raise BadFile(
            f"{path} has the columns {', '.join(filter(None, columns))[:300] or '(none)'} and "
            f"lacks {', '.join(lacking)}: it must be a table with a header line, separated by "
            "tabs, semicolons or commas"
        )
    rows = []
    for number, line in enumerate(lines[at + 1 :], at + 2):
        try:
            values = cells(line, mark)
        except ValueError as error:
            raise BadFile(f"{path}, line {number}: {error}") from None
        if any(values[len(columns) :]):
            raise BadFile(
                f"{path}, line {number}: got {len(values)} cells; wanted {len(columns)}: put a "
                "name that holds the separator into double quotes"
            )
        if any(values):
            values += [""] * (len(columns) - len(values))
            found = dict(zip(columns, values, strict=False))
            rows.append(Row(number, {c: found[plain(c)] for c in wanted}))
    return rows
