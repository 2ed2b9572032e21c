"""Every call in the package is type-checked while the tests run, shapes and dtypes included."""

import gc
import os
from pathlib import Path

import jax
import jaxtyping
import pytest
from jaxtyping import install_import_hook

import tests.typecheck  # noqa: F401  (the hook looks the checker up by name)

install_import_hook("ferrojax", "tests.typecheck.check")

from ferrojax.devices import SHORTEST, machine_key  # noqa: E402  (imported through the hook)

PROGRAMS = Path(__file__).parents[1] / ".pytest_cache" / "programs" / machine_key()
"""Where workers, the processes that tests start, and the next run find the programs that one of them compiled."""
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(PROGRAMS))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", str(SHORTEST))
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])  # a plugin imports it earlier
jax.config.update("jax_persistent_cache_min_compile_time_secs", SHORTEST)


MAPPINGS = Path("/proc/self/maps")
MANY = 20_000


@pytest.fixture(scope="module", autouse=True)
def few_programs():
    """Every program that JAX compiles for a CPU holds memory mappings, of which Linux allows a process 65 530: compiled
    programs are forgotten between modules before they run out, or the compiler aborts."""
    yield
    if MAPPINGS.exists() and MAPPINGS.read_bytes().count(b"\n") > MANY:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def unchecked():
    """As users run it: without the type checker that the tests put before every call."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def reference_data() -> Path:
    """The folder of reference data that the environment names; tests that need it are skipped without it."""
    folder = os.environ.get("FERROJAX_REFERENCE_DATA")
    if not folder:
        pytest.skip("FERROJAX_REFERENCE_DATA names no folder of reference data")
    path = Path(folder)
    if not path.is_dir():
        pytest.fail(f"FERROJAX_REFERENCE_DATA={folder} is not a folder")
    return path
