"""All cores without settings, and programs that stay compiled: every case in a process of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ferrojax.devices import CACHE_LIMIT, available_cores, kept_bytes, machine_key, trim, use_all_cores
from ferrojax.errors import InputError

ROOT = Path(__file__).parents[1]
FLAG = "--xla_force_host_platform_device_count"
SETTINGS = (
    "XLA_FLAGS", "JAX_NUM_CPU_DEVICES", "JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS",
    "FERROJAX_CACHE",
)  # fmt: skip
COUNT = "import jax; print(jax.device_count())"
COMPILED = (
    "import ferrojax as fj; print(fj.keep_compiled()); import jax, jax.numpy as jnp;"
    "print(float(jax.jit(lambda x: jnp.linalg.norm(jnp.sin(x) @ x))(jnp.eye(16))))"
)
INFO = "import sys; from ferrojax.cli import main; sys.argv[1:] = ['info']; sys.exit(main())"


def run(code: str, home: Path | None = None, **settings: str) -> subprocess.CompletedProcess:
    """A fresh interpreter with one kind of device, nothing set but `settings`, and a cache of its own."""
    env = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    env |= {"JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(home or "/nonexistent"), **settings}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)


def printed(code: str, home: Path | None = None, **settings: str) -> list[str]:
    done = run(code, home, **settings)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[:-1]


def test_one_call_gives_every_core_that_the_process_may_use():
    assert printed(f"import ferrojax as fj; print(fj.use_all_cores()); {COUNT}") == [str(available_cores())] * 2


@pytest.mark.parametrize(("command", "all_of_them"), [("simulate", True), ("validate", True), ("map", False)])
def test_commands_that_simulate_use_all_cores(command, all_of_them):
    code = f"from ferrojax.cli import prepare; prepare({command!r}); {COUNT}"
    assert printed(code) == [str(available_cores() if all_of_them else 1)]


def test_a_number_of_cores_is_taken_and_other_flags_are_kept():
    code = f"import os, jax, ferrojax as fj; fj.use_all_cores(3); {COUNT}; print(os.environ['XLA_FLAGS'])"
    assert printed(code, XLA_FLAGS="--xla_cpu_enable_fast_math=false") == [
        "3",
        f"--xla_cpu_enable_fast_math=false {FLAG}=3",
    ]


@pytest.mark.parametrize("setting", [{"XLA_FLAGS": f"{FLAG}=3 --xla_cpu_enable_fast_math=false"},
                                     {"JAX_NUM_CPU_DEVICES": "3"}])  # fmt: skip
def test_a_number_that_the_user_set_is_kept(setting):
    code = f"import os, ferrojax as fj; print(fj.use_all_cores(2)); {COUNT}; print(os.environ.get('XLA_FLAGS', ''))"
    assert printed(code, **setting) == ["3", "3", setting.get("XLA_FLAGS", "")]


def test_a_call_after_the_first_computation_is_refused():
    code = (
        "import ferrojax as fj, jax.numpy as jnp; jnp.zeros(1)\n"
        "try: fj.use_all_cores(3)\n"
        "except fj.InputError as error: print(error)\n"
        "import os; print(os.environ.get('XLA_FLAGS', ''))"
    )
    assert printed(code) == [
        "cores: comes too late: JAX has started with 1 CPU device(s) (got 3); "
        "call use_all_cores before the first computation",
        "",
    ]


def test_a_second_call_and_a_late_one_that_changes_nothing_are_fine():
    code = f"import ferrojax as fj; fj.use_all_cores(3); {COUNT}; print(fj.use_all_cores(3))"
    assert printed(code) == ["3", "3"]


def test_jax_is_neither_imported_nor_started_by_asking():
    code = (
        "import sys, ferrojax as fj; fj.use_all_cores(); print('jax' in sys.modules); import jax;"
        "from ferrojax.devices import jax_has_started; print(jax_has_started(), jax_has_started());"
        "jax.devices(); print(jax_has_started())"
    )
    assert printed(code) == ["False", "False False", "True"]


@pytest.mark.parametrize("cores", [0, -1, True])
def test_cores_must_be_a_whole_number(cores):
    with pytest.raises(InputError, match="cores: must be a whole number from 1"):
        use_all_cores(cores)


def test_a_control_group_bounds_the_cores(monkeypatch):
    monkeypatch.setattr("ferrojax.devices._quota", lambda: 1)
    assert available_cores() == 1


def test_the_second_process_finds_what_the_first_compiled(tmp_path):
    settings = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    first = printed(COMPILED, tmp_path, **settings)
    kept = Path(first[0])
    assert kept == tmp_path / "ferrojax" / machine_key()
    files = {path: path.stat().st_mtime_ns for path in kept.glob("*-cache")}
    assert files
    assert kept_bytes(kept) == sum(path.stat().st_size for path in files)
    assert printed(COMPILED, tmp_path, **settings) == first
    assert {path: path.stat().st_mtime_ns for path in kept.glob("*-cache")} == files


def test_a_damaged_file_is_compiled_anew(tmp_path):
    settings = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    first = printed(COMPILED, tmp_path, **settings)
    for number, path in enumerate(sorted(Path(first[0]).glob("*-cache"))):
        whole = path.read_bytes()
        path.write_bytes((whole[: len(whole) // 2], b"", whole[:-9] + b"\0" + whole[-8:])[number % 3])
    assert printed(COMPILED, tmp_path, **settings) == first


def test_keeping_is_refused_once_jax_is_imported(tmp_path):
    done = run("import jax, ferrojax as fj; fj.keep_compiled()", tmp_path)
    assert "comes too late: JAX is imported" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_folder_that_the_user_named_for_jax_is_kept_to(tmp_path):
    code = "import ferrojax as fj; print(fj.keep_compiled())"
    assert printed(code, tmp_path / "a", JAX_COMPILATION_CACHE_DIR=str(tmp_path / "b")) == [str(tmp_path / "b")]
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_refused_and_breaks_no_command(tmp_path):
    (tmp_path / "taken").touch()
    done = run(f"import ferrojax as fj; fj.keep_compiled({str(tmp_path / 'taken')!r})", tmp_path)
    assert "InputError: folder: cannot be written" in done.stderr
    done = run(INFO, tmp_path, FERROJAX_CACHE=str(tmp_path / "taken"))
    assert done.returncode == 0
    assert "compiled programs are not kept: folder: cannot be written" in done.stderr
    assert "compiled programs: not kept" in done.stdout


@pytest.mark.skipif(os.name != "posix", reason="rights of POSIX")
def test_a_folder_that_others_can_write_to_is_refused(tmp_path):
    folder = tmp_path / "ferrojax" / machine_key()
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    assert "can be written by others" in run("import ferrojax as fj; fj.keep_compiled()", tmp_path).stderr


def test_only_the_last_used_programs_stay(tmp_path):
    ages = {"jaxlib-1-a/old-cache": 1, "jaxlib-2-b/new-cache": 3, "jaxlib-2-b/middle-cache": 2, "mine/x-cache": 0}
    for name, age in ages.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(100))
        os.utime(path, (age, age))
    trim(tmp_path, CACHE_LIMIT)
    assert all((tmp_path / name).exists() for name in ages)
    trim(tmp_path, 250)
    assert [name for name in ages if not (tmp_path / name).exists()] == ["jaxlib-1-a/old-cache"]


def test_info_says_what_is_used(tmp_path):
    cores = available_cores()
    share = "all are used by `ferrojax simulate`, `validate`, and after fj.use_all_cores()"
    lines = printed(INFO, tmp_path)
    assert any(line.startswith("1 device: cpu") for line in lines)
    assert f"cores: 1 of {cores} seen by JAX; {share}" in lines
    assert "compiled programs: not kept; FERROJAX_CACHE=1 keeps them for the next command" in lines
    folder = tmp_path / "ferrojax" / machine_key()
    lines = printed(INFO, tmp_path, FERROJAX_CACHE="1", XLA_FLAGS=f"{FLAG}=3")
    assert any(line.startswith("3 devices: cpu") for line in lines)
    assert f"cores: 3 of {cores} seen by JAX; {share}" in lines
    assert f"compiled programs: 0.0 MB in {folder}" in lines
    assert folder.is_dir()


def test_the_page_on_performance_says_what_runs(tmp_path):
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert printed("".join([*blocks, COUNT]), tmp_path) == [str(available_cores())]
    assert (tmp_path / "ferrojax" / machine_key()).is_dir()


def test_commands_called_from_python_change_no_settings(monkeypatch):
    from ferrojax.cli import main

    monkeypatch.setenv("FERROJAX_CACHE", "1")
    before = dict(os.environ)
    assert main(["info"]) == 0
    assert dict(os.environ) == before
