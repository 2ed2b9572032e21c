"""The package's shape: imports point up the list of rooms, and importing it costs nothing."""

import ast
import re
import subprocess
import sys
import tomllib
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import ferrojax

PACKAGE = Path(__file__).parents[1] / "ferrojax"
ORDER = (
    "errors files devices checks constants products grid image crystal optics multislice detection acquisition columns "
    "polarization refinement tilt io dataset models training inference report interop cli"
)
ROOMS = ORDER.split()
HEAVY = ("jax", "flax", "abtem", "sklearn", "matplotlib", "dask", "numpy", "scipy", "rsciio")
PROJECT = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path, *, for_types: bool = True) -> set[str]:
    """Full dotted names that a file imports anywhere, also inside functions; for_types: under TYPE_CHECKING, too."""
    names = set()
    waiting: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and not for_types and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            waiting.extend(node.orelse)
            continue
        waiting.extend(ast.iter_child_nodes(node))
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import, write it in full"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room(dotted: str) -> str:
    return dotted.split(".")[1]


def rooms_imported(path: Path) -> set[str]:
    return {room(name) for name in imports(path) if name.startswith("ferrojax.")}


def own_room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_up(path):
    own = own_room(path)
    if own in ("__init__", "data"):
        assert not rooms_imported(path)
        return
    assert own in ROOMS, f"{own} is not in the list of rooms"
    allowed = {own} if own == "models" else set(ROOMS[: ROOMS.index(own) + 1])
    below = rooms_imported(path) - allowed - {"data"}
    assert not below, f"{path.relative_to(PACKAGE)} imports {', '.join(sorted(below))}"


def file_of(dotted: str) -> Path | None:
    """The file of the package that an imported name lies in."""
    parts = dotted.split(".")[1:]
    for end in range(len(parts), 0, -1):
        stem = PACKAGE.joinpath(*parts[:end])
        for path in (stem / "__init__.py", stem.with_name(f"{stem.name}.py")):
            if path.is_file():
                return path
    return None


def roommates(path: Path) -> set[Path]:
    """Files of its own room that a file imports: inside functions, too, but not for type checkers alone."""
    own = {name for name in imports(path, for_types=False) if name.startswith(f"ferrojax.{own_room(path)}")}
    return {found for name in own if (found := file_of(name)) is not None and own_room(found) == own_room(path)}


@pytest.mark.parametrize("name", sorted({own_room(path) for path in FILES} - {"__init__"}))
def test_no_room_has_a_circle_of_imports(name):
    """An import inside a function closes a circle as well as one at the top; only `if TYPE_CHECKING` is exempt."""
    inside = {path: roommates(path) - {path} for path in FILES if own_room(path) == name}
    through_the_door = [path.name for path, used in inside.items() if PACKAGE / name / "__init__.py" in used]
    assert not through_the_door, f"{name}: {', '.join(through_the_door)}: import the file, not the room that it is in"
    try:
        TopologicalSorter(inside).prepare()
    except CycleError as error:
        pytest.fail(f"{name}: {' -> '.join(path.name for path in reversed(error.args[1]))}")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_the_bridge_imports_abtem(path):
    if path.relative_to(PACKAGE) != Path("interop/abtem.py"):
        assert not {name for name in imports(path) if name.split(".")[0] == "abtem"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_global_configuration(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        assert not (isinstance(node, ast.Attribute) and ast.unparse(node).startswith("jax.config")), path
    assert not {name for name in imports(path) if name.startswith("jax.config")}, path


def test_every_import_is_declared():
    owners = packages_distributions()
    used = {name.split(".")[0] for path in FILES for name in imports(path)} - {"ferrojax"}
    foreign = {name: owners[name] for name in used if name in owners and name not in sys.stdlib_module_names}
    unknown = used - foreign.keys() - set(sys.stdlib_module_names)
    assert not unknown, f"not installed: {unknown}"
    names = {name_of(line) for line in PROJECT["dependencies"]}
    missing = {name for name, owner in foreign.items() if not names & {name_of(each) for each in owner}}
    assert not missing, f"pyproject.toml does not list {missing}"


def loaded_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("statement", ["import ferrojax", "import ferrojax.cli", "import ferrojax.errors"])
def test_import_is_light(statement):
    assert not loaded_by(statement) & set(HEAVY)


def test_every_public_name_resolves():
    names = dir(ferrojax)
    missing = [name for name in names if getattr(ferrojax, name, None) is None]
    assert not missing
    assert {"material", "simulate", "map_polarization", "read"} <= set(names)


def test_constraints_pin_every_dependency():
    wanted = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]
    names = {name_of(line) for line in wanted}
    for minor in (11, 12, 13):
        text = (PACKAGE.parent / "constraints" / f"py3{minor}.txt").read_text()
        pins = {name_of(line) for line in text.splitlines() if "==" in line}
        assert names <= pins
        assert "/" not in text, "a constraints file names no host and no path"


def name_of(requirement: str) -> str:
    return re.split(r"[\[<>=]", requirement, maxsplit=1)[0].strip().lower().replace("_", "-")
