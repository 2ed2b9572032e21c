"""Results do not depend on the number of devices, here 8 simulated ones in a process of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.study

ROUTES = ("probes", "tilts", "matrix", "windowed probes", "windowed matrix")


@pytest.fixture(scope="module")
def found() -> dict:
    env = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    env["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # compiling takes far longer than these small runs do
    command = [sys.executable, "-m", "tests.sharding_case"]
    done = subprocess.run(
        command, env=env, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("route", ROUTES)
def test_eight_devices_give_what_one_gives(found, route):
    assert found["devices"] == 8
    assert found[route]["devices"] == 8
    assert found[route]["windowed"] == ("windowed" in route)
    assert found[route]["error"] < 1e-5


def test_the_gradient_passes_through_eight_devices(found):
    """With respect to positions and tilt."""
    assert max(found["gradient"]) < 1e-4
