"""Every call in the package is type-checked while the tests run, shapes and dtypes included."""

import os
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

import tests.typecheck  # noqa: F401  (the hook looks the checker up by name)

install_import_hook("ferrojax", "tests.typecheck.check")


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
