"""Every snippet that a reader may copy is run: README, docs, docstrings; and every command line is one that exists."""

import ast
import re
import shlex
import shutil
import textwrap
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import typer.main

import ferrojax
from ferrojax.cli import app

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
"""The page on abTEM runs in tests/test_validate.py, commands included."""
SHIPPED = Path(str(files("ferrojax.data")))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"\bferrojax (map|simulate|demo|validate|info)\b")
SETTLED_BEFORE_JAX = ("use_all_cores", "keep_compiled")
"""What a process does once, before its first computation; tests/test_devices.py does it in processes of its own."""


def blocks(text: str, language: str) -> list[str]:
    return [body for kind, body in FENCE.findall(text) if kind == language]


def commands() -> list[tuple[str, str]]:
    """(page, command line) of every ferrojax command in a page."""
    found = []
    for page in PAGES:
        told = "\n".join(body for kind, body in FENCE.findall(page.read_text()) if kind != "python")
        lines = re.sub(r"\\\n\s*", "", told).splitlines()  # a command may go on in the next line
        found += [
            (page.name, line) for line in lines if re.search(r"\bferrojax (map|simulate|demo|validate|info)\b", line)
        ]
    return found


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """As the pages name them: an image of BaTiO3 called scan.dm4."""
    shutil.copy(SHIPPED / "BTO_crystal_1.dm4", tmp_path / "scan.dm4")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.study
@pytest.mark.parametrize("page", [p for p in PAGES if p.name != "abtem.md"], ids=lambda p: p.name)
def test_the_python_of_a_page_runs_from_top_to_bottom(page, folder):
    names: dict[str, Any] = {}
    for body in blocks(page.read_text(), "python"):
        if not any(f"fj.{name}(" in body for name in SETTLED_BEFORE_JAX):
            exec(compile(body, page.name, "exec"), names)


@pytest.mark.parametrize(("page", "line"), commands())
def test_command_lines_name_what_exists(page, line):
    words = shlex.split(line, comments=True)
    words = words[words.index(next(w for w in words if w.endswith("ferrojax"))) + 1 :]
    group: Any = typer.main.get_command(app)
    context = group.make_context("ferrojax", words[:1], resilient_parsing=True)
    group.commands[words[0]].make_context(words[0], words[1:], parent=context)  # exits where an option is unknown


def docstrings() -> list[tuple[str, str]]:
    found = []
    for file in sorted(Path(ferrojax.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node) or ""
                found += [(file.name, body) for body in blocks(textwrap.dedent(text), "python")]
                assert ">>>" not in text, f"{file}: write a ```python block, which is run"
    return found


def test_the_python_of_docstrings_runs(folder):
    for name, body in docstrings():
        exec(compile(body, name, "exec"), {"fj": ferrojax})


def test_what_the_pages_link_to_is_there():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert target.startswith("http") or (page.parent / target).exists(), f"{page.name}: {target}"


def test_names_in_the_pages_exist():
    for page in PAGES:
        for name in re.findall(r"\bfj\.(\w+)", page.read_text()):
            assert hasattr(ferrojax, name), f"{page.name}: fj.{name}"
