"""All CPU cores, and programs that stay compiled: settled in the environment, before JAX starts.

JAX is not imported here unless it runs already: what it reads at its start must be written before.
"""

import hashlib
import math
import operator
import os
import platform
import re
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ferrojax.errors import InputError

COUNT_FLAG = "--xla_force_host_platform_device_count"
CACHE_LIMIT = 2**30
"""Bytes that kept programs may take; the ones not used for longest go first."""
SHORTEST = 0.1
"""Seconds of compilation below which a program is not worth a file."""
PREFIX = "jaxlib-"
"""Of the folders that `keep_compiled` makes: nothing else is ever cleared away."""


def use_all_cores(cores: int | None = None) -> int:
    """Let JAX see as many CPU devices as there are cores; call it once, before the first computation.

    JAX runs one multislice loop on about one core, and `simulate` shares its work over JAX's devices. The number goes
    into XLA_FLAGS beside the flags that are there; a number that stands there or in JAX_NUM_CPU_DEVICES already is
    kept. GPUs and TPUs are not touched. By default the cores that this process may use (affinity and control group).
    Returns the number of CPU devices. Raises InputError where `cores` is no whole number from 1, or where JAX has
    started with another number.
    """
    asked = available_cores() if cores is None else _whole(cores)
    wanted = _given() or asked
    if jax_has_started():
        _check_started(wanted)
    elif _given() is None:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {COUNT_FLAG}={wanted}".strip()
    return wanted


def available_cores() -> int:
    """The logical cores that this process may use: its affinity, and the share of time that its control group has."""
    if sys.version_info >= (3, 13):
        count = os.process_cpu_count()
    elif hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count()
    return max(1, min(count or 1, _quota()))


def jax_has_started() -> bool:
    """Whether JAX has set up its devices, which it does at the first computation; JAX is not started by asking."""
    bridge = sys.modules.get("jax._src.xla_bridge")
    # JAX has no public name for this. Should it take this one away, use_all_cores cannot tell that it comes too late.
    return bool(getattr(bridge, "backends_are_initialized", bool)())


def keep_compiled(folder: str | os.PathLike[str] | None = None) -> Path:
    """Keep compiled programs in a folder for the next process; call it before JAX is imported.

    folder: by default `ferrojax` in the user's cache (XDG_CACHE_HOME or ~/.cache). Within it every version of jaxlib
    and every kind of CPU has a folder of its own, which is returned: what is kept is machine code. A folder named by
    JAX_COMPILATION_CACHE_DIR is kept to and returned instead. At every call all but the last used 1 GiB are deleted.
    Raises InputError where JAX is imported already, where the folder cannot be written, or where others can write to
    it, because what lies there is executed.
    """
    if "jax" in sys.modules:
        remedy = "call it before anything imports jax, or set JAX_COMPILATION_CACHE_DIR before Python starts"
        raise InputError("folder", str(folder), "comes too late: JAX is imported and has read its settings", remedy)
    named = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if named:
        return Path(named)
    try:
        base = default_folder() if folder is None else Path(folder).expanduser().absolute()
        kept = base / machine_key()
        kept.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=kept):
            pass
        trim(base, CACHE_LIMIT)
        state = kept.stat()
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: there is no home
        remedy = "choose a folder that you can write to"
        raise InputError("folder", str(folder), f"cannot be written: {error}", remedy) from error
    if os.name == "posix" and (state.st_uid != os.getuid() or state.st_mode & 0o022):
        problem = "can be written by others, and what lies there is executed"
        raise InputError("folder", str(kept), problem, "choose a folder of your own, or delete this one")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(kept)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", str(SHORTEST))
    return kept


def default_folder() -> Path:
    """`ferrojax` in the user's cache; it need not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "ferrojax"


def machine_key() -> str:
    """Name of the folder for this jaxlib on this kind of CPU.

    JAX's own key of a program names the program, jaxlib and XLA_FLAGS; it does not name what the CPU can do.
    """
    installed = version("jaxlib")
    cpu = f"{platform.machine()} {platform.processor()} {_cpu_features()}"
    return f"{PREFIX}{installed}-{hashlib.sha256(cpu.encode()).hexdigest()[:12]}"


def kept_bytes(folder: Path) -> int:
    """Bytes of the programs kept in a folder."""
    return sum(size for _, size, _ in _entries(folder.glob("*-cache")))


def trim(base: Path, limit: int) -> None:
    """Delete the programs not used for longest, of all machines and versions, until `limit` bytes are left."""
    entries = sorted(_entries(base.glob(f"{PREFIX}*/*-cache")), reverse=True)
    total = 0
    for _, size, path in entries:
        total += size
        if total > limit:  # a process that was about to read it compiles anew
            path.unlink(missing_ok=True)


def _entries(paths: Any) -> list[tuple[float, int, Path]]:
    """(last use, bytes, path); a file that another process has just deleted is left out."""
    found = []
    for path in paths:
        try:
            state = path.stat()
        except OSError:
            continue
        found.append((max(state.st_atime, state.st_mtime), state.st_size, path))
    return found


def _given() -> int | None:
    """The number of CPU devices that the environment asks for; XLA takes the last of repeated flags."""
    flags = re.findall(rf"{COUNT_FLAG}=(\d+)", os.environ.get("XLA_FLAGS", ""))
    number = os.environ.get("JAX_NUM_CPU_DEVICES", "").strip()
    for text in (number, *reversed(flags)):
        if text.isdigit() and int(text) > 0:
            return int(text)
    return None


def _whole(cores: Any) -> int:
    """`cores` as an int from 1 (ferrojax.checks would import JAX)."""
    try:
        number = 0 if isinstance(cores, bool) else operator.index(cores)
    except TypeError:
        number = 0
    if number < 1:
        raise InputError("cores", cores, "must be a whole number from 1", "leave it out to use all cores")
    return number


def _check_started(wanted: int) -> None:
    """Refuse where JAX computes on a CPU with another number of devices."""
    import jax

    if jax.default_backend() == "cpu" and jax.local_device_count() != wanted:
        raise InputError(
            "cores",
            wanted,
            f"comes too late: JAX has started with {jax.local_device_count()} CPU device(s)",
            "call use_all_cores before the first computation",
        )


def _quota() -> int:
    """Cores whose time the control group of this process may use, rounded up; a large number where none says so."""
    limit = math.inf
    try:
        own = re.search(r"^0::/?(.*)$", Path("/proc/self/cgroup").read_text(encoding="utf-8"), re.MULTILINE)
        root = Path("/sys/fs/cgroup")
        place = root / (own[1] if own else "")
        for group in (place, *place.parents):
            file = group / "cpu.max"
            if file.is_file():
                quota, period = file.read_text(encoding="utf-8").split()
                limit = min(limit, math.inf if quota == "max" else int(quota) / int(period))
            if group == root:
                break
    except (OSError, ValueError):
        pass
    return sys.maxsize if limit == math.inf else max(1, math.ceil(limit))


def _cpu_features() -> str:
    """Model and instruction sets as Linux tells them; elsewhere the machine's name, so that no other one reads it."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.node()
    lines = re.findall(r"^(?:model name|flags|Features)\s*:\s*(.*)$", text.split("\n\n", 1)[0], re.MULTILINE)
    return "\n".join(lines)
