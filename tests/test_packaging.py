"""What is shipped and how it is installed: package list, dependencies, metadata, make, CI."""

import ast
import itertools
import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import rlseg

REPOSITORY = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
# Name to import -> name to install, where they differ.
DISTRIBUTIONS = {
    "skimage": "scikit-image",
    "PIL": "pillow",
    "cc3d": "connected-components-3d",
    "segmentation_models_pytorch": "segmentation-models-pytorch",
}
# Declared, though only others import it: segmentation-models-pytorch and timm build encoders with
# it, ask for nearly any version, and an install for another torch fails on import.
PARTNERS = {"torchvision"}
STAMP = ".venv/.installed-run"


def names(requirements):
    return {re.match(r"[\w-]+", requirement)[0] for requirement in requirements}


def test_every_package_is_listed():
    found = {
        ".".join(path.parent.relative_to(REPOSITORY).parts)
        for path in (REPOSITORY / "rlseg").rglob("__init__.py")
    }
    listed = set(PROJECT["tool"]["setuptools"]["packages"])
    assert listed == found | {"rlseg._recipes"}
    assert PROJECT["tool"]["setuptools"]["package-dir"]["rlseg._recipes"] == "benchmarks/recipes"


def test_data_files_are_listed():
    patterns = PROJECT["tool"]["setuptools"]["package-data"]
    kept = {"rlseg": REPOSITORY / "rlseg", "rlseg._recipes": REPOSITORY / "benchmarks" / "recipes"}
    for package, folder in kept.items():
        shipped = {path for pattern in patterns[package] for path in folder.glob(pattern)}
        assert shipped, package
    others = {
        p.relative_to(REPOSITORY).as_posix()
        for p in (REPOSITORY / "rlseg").rglob("*")
        if p.is_file() and p.suffix not in {".py", ".pyc"}
    }
    splits = {name for name in others if name.startswith("rlseg/data/splits/")}
    assert others - splits == {"rlseg/py.typed"}
    if splits:
        assert "splits/*" in "".join(patterns.get("rlseg.data", []))


def test_dependencies_are_those_that_are_imported():
    """Each dependency earns its line, and nothing is used that is not declared."""
    imported = set()
    for path in (REPOSITORY / "rlseg").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.split(".")[0])
    foreign = imported - sys.stdlib_module_names - {"rlseg"}
    used = {DISTRIBUTIONS.get(name, name) for name in foreign}
    project = PROJECT["project"]
    extras = project["optional-dependencies"]
    fast = names(extras["fast"])
    assert fast <= used, "an extra that nothing imports"
    optional = names(extras["tensorboard"]) | fast
    assert not PARTNERS & used, "imported by now: no exception is needed any more"
    assert (used - optional) | PARTNERS == names(project["dependencies"])


def test_dependencies_have_a_lower_bound_and_a_reason():
    text = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    project = PROJECT["project"]
    extras = itertools.chain.from_iterable(project["optional-dependencies"].values())
    everything = [*project["dependencies"], *extras]
    assert set(project["optional-dependencies"]) == {
        "test",
        "docs",
        "fast",
        "peers",
        "tensorboard",
    }
    for requirement in everything:
        assert ">=" in requirement, requirement
        line = next(line for line in text.splitlines() if f'"{requirement}"' in line)
        assert "#" in line, f"{requirement}: say why, and why this bound"


def test_versions_agree():
    citation = (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {rlseg.__version__}\n" in citation
    assert PROJECT["project"]["requires-python"] == ">=3.11,<3.14"
    make = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    assert "(3, 11) <= sys.version_info[:2] <= (3, 13)" in make


def test_licence_is_whole():
    text = (REPOSITORY / "LICENSE").read_text(encoding="utf-8")
    for part in ("Version 2.0, January 2004", "TERMS AND CONDITIONS FOR USE", "9. Accepting"):
        assert part in text
    assert PROJECT["project"]["license"] == "Apache-2.0"
    assert "license: Apache-2.0" in (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8")


def test_console_script_exists():
    module, _, function = PROJECT["project"]["scripts"]["rlseg"].partition(":")
    assert callable(getattr(__import__(module, fromlist=[function]), function))


# The Makefile, with commands that stand in for Python and df

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def program(folder, name, text):
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def stand_in(version):
    """A Python of some version: it answers, makes environments with a copy of itself, installs."""
    supported = "0" if version in ("3.11", "3.12", "3.13") else "1"
    return f"""
case "$*" in
  *print*) echo {version};;
  *sys.exit*) exit {supported};;
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python";;
  *"pip install"*) echo "pip: $*";;
  *) exit 9;;
esac"""


@pytest.fixture
def clone(tmp_path):
    """A folder with the Makefile, and `bin` with ordinary tools, a large disk and no Python."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, tmp_path / name)
    tools = ("sh", "awk", "ls", "rm", "cut", "du", "sleep", "touch", "mkdir", "cp", "kill", "cat")
    (tmp_path / "bin").mkdir()
    for tool in tools:
        if found := shutil.which(tool):
            (tmp_path / "bin" / tool).symlink_to(found)
    program(tmp_path / "bin", "df", "echo head; echo '/dev/x 1 1 90000000 1% /'")
    return tmp_path


def make(clone, *arguments):
    make_program = shutil.which("make")
    environment = {
        key: value
        for key, value in os.environ.items()
        if key not in {"PYTHON", "PIP_ARGS", "MAKEFLAGS", "MAKELEVEL", "MFLAGS"}
    }
    return subprocess.run(
        [make_program, *arguments],
        cwd=clone,
        env=environment | {"PATH": str(clone / "bin"), "LC_ALL": "C"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@needs_make
@pytest.mark.parametrize("version", ["3.10", "3.14"])
def test_make_says_that_python_does_not_fit(clone, version):
    program(clone / "bin", "python3", stand_in(version))
    done = make(clone, STAMP)
    assert done.returncode != 0
    assert "needs Python 3.11, 3.12 or 3.13" in done.stderr
    assert f"python3 is {version}" in done.stderr
    assert "PYTHON=" in done.stderr
    assert not (clone / ".venv").exists()


@needs_make
def test_make_says_that_python_is_missing(clone):
    done = make(clone, "quickstart")
    assert done.returncode != 0
    assert "none found as: python3.13 python3.12 python3.11 python3" in done.stderr
    other = make(clone, "test", "PYTHON=/nowhere/python")
    assert "none found as: /nowhere/python" in other.stderr


@needs_make
def test_make_says_that_the_disk_is_too_small(clone):
    program(clone / "bin", "python3.12", stand_in("3.12"))
    program(clone / "bin", "df", "echo head; echo '/dev/x 1 1 2048000 1% /'")
    done = make(clone, STAMP)
    assert done.returncode != 0
    assert "the disk is too small" in done.stderr
    assert "2000 MB free" in done.stderr
    assert not (clone / ".venv").exists()


@needs_make
def test_make_says_that_venv_is_missing(clone):
    text = 'case "$*" in *print*) echo 3.12;; *venv*) exit 1;; esac'
    program(clone / "bin", "python3.12", text)
    done = make(clone, STAMP)
    assert done.returncode != 0
    assert "python3-venv" in done.stderr
    assert not (clone / ".venv").exists()


@needs_make
def test_make_installs_once_and_again_after_a_change(clone):
    # The newest one that answers is taken; one that is only a name (as pyenv leaves) is not.
    program(clone / "bin", "python3.13", "exit 127")
    program(clone / "bin", "python3.12", stand_in("3.12"))
    program(clone / "bin", "python3", stand_in("3.14"))
    first = make(clone, STAMP)
    assert first.returncode == 0, first.stderr
    assert "making .venv with python3.12" in first.stdout
    assert "2 to 5 minutes" in first.stdout
    assert re.search(r"pip: .* -e \.$", first.stdout, re.MULTILINE)

    again = make(clone, STAMP)
    assert "up to date" in again.stdout

    later = (clone / STAMP).stat().st_mtime + 10
    os.utime(clone / "pyproject.toml", (later, later))
    # An installed environment needs no room for a second one.
    program(clone / "bin", "df", "echo head; echo '/dev/x 1 1 2048000 1% /'")
    changed = make(clone, STAMP)
    assert changed.returncode == 0, changed.stderr
    assert "pip:" in changed.stdout
    assert "making .venv" not in changed.stdout

    tested = make(clone, ".venv/.installed-test")
    assert re.search(r"pip: .* -e \.\[test\]$", tested.stdout, re.MULTILINE)


@needs_make
def test_make_explains_a_failed_install(clone):
    failing = stand_in("3.12").replace('echo "pip: $*"', "echo broken >&2; exit 1")
    program(clone / "bin", "python3.12", failing)
    done = make(clone, STAMP)
    assert done.returncode != 0
    assert "broken" in done.stderr
    assert "pip could not install rlseg" in done.stderr
    assert not (clone / STAMP).exists()


@needs_make
@pytest.mark.parametrize("passes", [True, False])
def test_ci_runs_make_test_in_a_fresh_environment(tmp_path, passes):
    (tmp_path / ".ci").mkdir()
    shutil.copy(REPOSITORY / ".ci" / "run", tmp_path / ".ci" / "run")
    (tmp_path / ".venv").mkdir()
    closing = "3 passed in 0.10s" if passes else "1 failed, 2 passed in 0.10s"
    (tmp_path / "Makefile").write_text(
        f"test:\n\t@test ! -e .venv\n\t@echo '{closing}'\n\t@{'true' if passes else 'false'}\n"
    )
    script = tmp_path / ".ci" / "run"
    done = subprocess.run([script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode == 0) is passes, done.stderr
    assert done.stdout.splitlines()[-1] == closing
