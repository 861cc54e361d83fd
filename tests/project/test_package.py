# SPDX-License-Identifier: GPL-2.0-or-later
"""The package installs whole: from a wheel, and editable from a checkout."""

import compileall
import configparser
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from qubes_vpn_formula import __version__, bundle
from qubes_vpn_formula.paths import formula_root

INSTALLED_DOCS = [f"docs/{name}" for name in bundle.DOCS]


@pytest.fixture(scope="module")
def wheel(checkout, tmp_path_factory) -> Path:
    """The wheel that this checkout builds. Nothing is fetched for it."""
    folder = tmp_path_factory.mktemp("wheel")
    # A copy: setuptools would reuse what an earlier build left in the checkout.
    source = folder / "source"
    shutil.copytree(checkout, source, ignore=shutil.ignore_patterns(".*", "build"))
    compileall.compile_dir(source / "qubes_vpn_formula", quiet=1)  # which must not get in
    _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel) -> Path:
    """A new virtual environment with that wheel."""
    folder = wheel.parent / "venv"
    venv.create(folder)
    _pip("--python", folder, "install", "--no-deps", "--no-index", wheel)
    # The dependencies are this environment's. A path in a .pth file brings them, but not the
    # editable install that is beside them.
    dependencies = Path(pytest.__file__).parent.parent
    (_packages(folder) / "dependencies.pth").write_text(f"{dependencies}\n")
    return folder


def test_core_modules_are_all_listed(checkout):
    config = configparser.ConfigParser()
    config.read(checkout / "setup.cfg")
    listed = config["options"]["py_modules"].split()
    there = sorted(path.stem for path in (checkout / "_utils").glob("*.py"))
    assert listed == there, "setup.cfg, py_modules: one line for each file of _utils, sorted"


def test_wheel_has_the_command_the_core_and_the_formula_and_nothing_else(checkout, wheel):
    package = "qubes_vpn_formula"
    trees = {
        f"{package}/formula/{tree}/{name}"
        for tree in ("salt", "_modules", "_states", "_utils")
        for name in _files(checkout / tree)
    }
    expected = (
        {f"{package}/{name}" for name in _files(checkout / package)}
        | _files(checkout / "_utils")
        | trees
        | {
            f"{package}/formula/{name}"
            for name in ("LICENSE", "pillar.example", "dom0/qubes-vpn", *INSTALLED_DOCS)
        }
    )
    about = f"qubes_vpn_formula-{__version__}.dist-info/"
    names = {name for name in zipfile.ZipFile(wheel).namelist() if not name.startswith(about)}
    assert names == expected


def test_installed_command_runs_outside_a_checkout(installed, tmp_path):
    shown = _run(installed / "bin/qubes-vpn", "--help", cwd=tmp_path)
    assert "usage: qubes-vpn" in shown
    assert "check" in shown


def test_installed_wheel_uses_its_own_files(installed, tmp_path):
    core, root = _where(installed / "bin/python", tmp_path)
    assert core == _packages(installed) / "qubes_vpn_check.py"
    assert root == _packages(installed) / "qubes_vpn_formula/formula"


def test_editable_install_uses_the_checkout(checkout, tmp_path):
    core, root = _where(sys.executable, tmp_path)
    assert core == checkout / "_utils/qubes_vpn_check.py"
    assert root == formula_root() == checkout


def _where(python: str | Path, cwd: Path) -> list[Path]:
    """Where a core module and the formula come from, for `python`."""
    code = (
        "import qubes_vpn_check; print(qubes_vpn_check.__file__);"
        "from qubes_vpn_formula.paths import formula_root; print(formula_root())"
    )
    return [Path(line) for line in _run(python, "-c", code, cwd=cwd).splitlines()]


def _packages(environment: Path) -> Path:
    return next((environment / "lib").glob("python*/site-packages"))


def _files(folder: Path) -> set[str]:
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }


def _pip(*args: object) -> None:
    _run(sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *args)


def _run(*command: object, cwd: Path | None = None) -> str:
    # Only what is installed counts, whatever the caller's own paths are.
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
