"""What every benchmark records beside its figures: commit, versions, device, date, command."""

import json
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ferrojax.report.summary import plain

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("jax", "jaxlib", "numpy", "scipy", "abTEM", "ase")


def write_result(name: str, figures: Mapping[str, object], folder: str | Path = RESULTS) -> Path:
    """Write `folder`/name.json: the figures (floats to six digits) under what is needed to measure them again."""
    path = Path(folder) / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(plain({**provenance(), **figures}), indent=1, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
    return path


def provenance() -> dict[str, object]:
    """Command, commit (with "+changes" where the tree differs from it), date, versions and device."""
    import jax

    return {
        "command": " ".join(["python", *map(_shown, sys.argv)]),
        "commit": _commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), **{p: _version(p) for p in PACKAGES}},
        "device": f"{jax.devices()[0].platform} {jax.devices()[0].device_kind}, {_cores()} cores",
    }


def _shown(argument: str) -> str:
    """Paths inside the repository relative to it, others as their name: no machine's folders are recorded."""
    path = Path(argument)
    root = RESULTS.parents[1]
    if not path.is_absolute():
        return argument
    return str(path.relative_to(root)) if path.is_relative_to(root) else path.name


def _commit() -> str:
    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=RESULTS.parents[1], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--", "ferrojax", "benchmarks/*.py")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("+changes" if changed else "")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def _cores() -> int:
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
