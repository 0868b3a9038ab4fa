"""Tables as spreadsheets save them, and JSON Lines as editors do."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from vc_core.batch.reading import read_rows
from vc_core.errors import UserError

WANTED = [(2, {"prompt": "a boat, at sea", "seed": "1-4", "end_picture": "b.png"}), (5, {"prompt": "caf\u00e9"})]
TABLE = 'Prompt,seed,end-picture\n"a boat, at sea",1-4,b.png\n\n# a comment, with "quotes\ncaf\u00e9,,\n,,\n'


def rows(path: Path) -> list[tuple[int, dict[str, object]]]:
    read = read_rows(path)
    assert not read.problems
    return [(row.line, row.values) for row in read.rows]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_tables_in_every_dress(
    encoding: str, end: str, separator: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "lines.csv"
    text = TABLE.replace("boat, at", "boat\0 at").replace(",", separator).replace("\0", ",")
    path.write_bytes(text.replace("\n", end).encode(encoding))
    with caplog.at_level(logging.WARNING):
        assert rows(path) == WANTED
    assert ("read as Windows-1252" in caplog.text) == (encoding == "cp1252")


def test_a_cell_over_several_lines_and_the_separator_of_excel(tmp_path: Path) -> None:
    path = tmp_path / "lines.csv"
    path.write_text('sep=;\nprompt;seed\n"a, ""boat"",\nat sea";1\n# a comment\nb;2\n', encoding="utf-8")
    assert rows(path) == [(3, {"prompt": 'a, "boat",\nat sea', "seed": "1"}), (6, {"prompt": "b", "seed": "2"})]


def test_columns_of_one_name_are_a_list(tmp_path: Path) -> None:
    path = tmp_path / "lines.tsv"
    path.write_text("prompt\tthen\tthen\tthen\na\tb\t\tc\nd\te\n", encoding="utf-8")
    assert rows(path) == [(2, {"prompt": "a", "then": ["b", "c"]}), (3, {"prompt": "d", "then": "e"})]


def test_json_lines_with_a_mark_comments_and_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'\xef\xbb\xbf# first\r\n\r\n{"--Prompt": "a", "end picture": ["b"]}\r\n  // last\r\n{"seed": 7}')
    assert rows(path) == [(3, {"prompt": "a", "end_picture": ["b"]}), (5, {"seed": 7})]


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("prompt,seed\na,1,2\n", 2, "There are 3 cells, but 2 columns"),
        ("prompt,\na,1\n", 2, "'1' is in a column without a name"),
        ('prompt\na\n"b\nc\n', 3, "The row that begins here cannot be read"),
        ('prompt\n"a"b\n', 2, "The row that begins here cannot be read"),
    ],
)
def test_rows_that_cannot_be_read(text: str, line: int, message: str, tmp_path: Path) -> None:
    path = tmp_path / "lines.csv"
    path.write_text(text, encoding="utf-8")
    (problem,) = read_rows(path).problems
    assert problem.line == line
    assert message in problem.message


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.csv", b"", "has no lines"),
        ("a.csv", b"prompt,seed\n\n# none\n", "has no lines"),
        ("a.jsonl", b"\n# none\n", "has no lines"),
        ("a.jsonl", b'{"prompt": "a"}\n{"prompt": "\xe9"}\n', "Line 2 of"),
        ("a.xlsx", b"PK", "Give a file with one JSON object in each line, or a table saved as CSV"),
    ],
)
def test_files_that_cannot_be_used(name: str, data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=message):
        read_rows(tmp_path / name)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_rows(tmp_path / "none.csv")
