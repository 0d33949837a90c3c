"""The page says which test stands for which fault: each of these tests exists."""

import ast
import re
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
NAMED = re.compile(r"`([\w/]+\.py)::(\w+)`")


def rows() -> list[list[str]]:
    """The cells of each row of the tables."""
    lines = (HERE / "README.md").read_text().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("| ")]
    return [row for row in cells if row[0] not in ("fault", "complaint", "---")]


def test_each_row_names_tests_that_exist() -> None:
    assert len(rows()) >= 27
    for first, *_, named in rows():
        found = NAMED.findall(named)
        assert found, first
        assert NAMED.sub("", named).strip(", ") == "", first
        for file, name in found:
            path = (ROOT if "/" in file else HERE) / file
            functions = {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}
            assert name in functions, f"{file} has no {name}"
