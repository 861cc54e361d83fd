# SPDX-License-Identifier: GPL-2.0-or-later
"""Salt without a master, as dom0 has it, in a folder of its own.

The one way in which the demo, the tests and the benchmarks run the formula's SLS.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from qubes_vpn_formula.embedded import front
from qubes_vpn_formula.embedded.dom0 import FRESH
from qubes_vpn_formula.paths import formula_root

#: the embedded Qubes' front imports this package, also where it is not installed
_PACKAGE_FOLDER = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Run:
    """What one `salt-call` gave."""

    code: int
    stdout: str
    stderr: str

    @property
    def data(self) -> Any:
        """The answer of a run with `--out=json`. ValueError when it printed something else."""
        return json.loads(self.stdout)["local"]


class Applied(NamedTuple):
    """What a run gave: its exit code, the states by ID, and all that it printed."""

    code: int
    states: dict[str, dict[str, Any]]
    text: str

    def results(self) -> set[bool | None]:
        """The states' results; of a run that went well and changed nothing more, `{True}`."""
        return {state["result"] for state in self.states.values()}

    def changed(self) -> set[str]:
        """IDs of the states that changed something, or would."""
        return {name for name, state in self.states.items() if state["changes"]}

    @classmethod
    def read(cls, done: subprocess.CompletedProcess[str], minion: str) -> "Applied":
        """The answer of a program of Salt's with `--out=json`."""
        try:
            answer = json.loads(done.stdout)[minion]
        except (ValueError, KeyError):
            answer = None
        states = {}
        # salt-ssh tells a failure of its own as a mapping, too.
        if isinstance(answer, dict) and all(isinstance(one, dict) for one in answer.values()):
            states = {state["__id__"]: state for state in answer.values()}
        return cls(done.returncode, states, done.stdout + done.stderr)


@dataclass(frozen=True)
class Masterless:
    """A minion `dom0` whose configuration, pillar, caches and logs are all in `folder`."""

    folder: Path

    def options(self) -> dict[str, Any]:
        """The minion's configuration.

        The formula's modules are loaded from where they are, without a sync, because
        `saltutil.sync_all` and a highstate delete what they do not find in the file roots.
        """
        root = formula_root()
        return {
            "id": "dom0",
            "file_client": "local",
            "root_dir": str(self.folder),
            "file_roots": {"base": [str(root / "salt"), str(self.folder / "roots")]},
            "pillar_roots": {"base": [str(self.folder / "pillar")]},
            "module_dirs": [str(root / "_modules")],
            "states_dirs": [str(root / "_states")],
            "utils_dirs": [str(root / "_utils")],
            "extension_modules": str(self.folder / "extmods"),
            "autoload_dynamic_modules": False,
            "qubes_vpn_folder": str(self.folder / "qubes-vpn"),
            # They look up names and devices of the machine that only plays dom0.
            "enable_fqdns_grains": False,
            "enable_gpu_grains": False,
        }

    def prepare(self, **more: Any) -> "Masterless":
        """Writes the configuration, with `more` on top of `options()`, and an empty pillar."""
        # Salt complains once about each cache whose folder it has not made yet.
        (self.folder / "var/cache/salt/minion").mkdir(parents=True, exist_ok=True)
        (self.folder / "pillar").mkdir(exist_ok=True)
        # Also a folder of the file roots: qubes get the core from there.
        (self.folder / "roots").mkdir(exist_ok=True)
        with contextlib.suppress(FileExistsError):
            (self.folder / "roots/_utils").symlink_to(formula_root() / "_utils")
        shutil.copytree(FRESH, self.folder, dirs_exist_ok=True)
        (self.folder / "minion").write_text(yaml.safe_dump({**self.options(), **more}))
        (self.folder / "pillar/top.sls").write_text("base: {'*': [qubes_vpn]}\n")
        self.set_pillar("{}\n")
        return self

    def set_pillar(self, text: str) -> None:
        """Makes `text` (YAML, as a user writes it) dom0's pillar."""
        (self.folder / "pillar/qubes_vpn.sls").write_text(text)

    def environ(self, machine: str | os.PathLike) -> dict[str, str]:
        """The environment in which `qubesadmin` is the embedded Qubes of state file `machine`."""
        base = {**os.environ, "PYTHONPATH": str(_PACKAGE_FOLDER)}
        # Some machines set it; without kept bytecode each run compiles the formula anew.
        base.pop("PYTHONDONTWRITEBYTECODE", None)
        return front.environ(machine, base)

    def command(self, *args: str) -> list[str]:
        """The command line of `salt-call ARGS`. FileNotFoundError when there is no Salt."""
        config = f"--config-dir={self.folder}"
        options = ["--local", "--retcode-passthrough", "--no-color"]
        return [salt_program("salt-call"), config, *options, *args]

    def salt_call(self, *args: str, machine: str | os.PathLike) -> Run:
        """Runs `salt-call ARGS` on the embedded Qubes of state file `machine`.

        The exit code is the states', as with qubesctl.
        """
        done = subprocess.run(
            self.command(*args),
            env=self.environ(machine),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        return Run(done.returncode, done.stdout, done.stderr)


def salt_program(name: str) -> str:
    """Where one of Salt's programs is: beside this Python, else on PATH.  FileNotFoundError."""
    beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    if found := shutil.which(name, path=beside):
        return found
    raise FileNotFoundError(
        f"{name} is not installed: use the environment that `make` builds, or install Salt 3007."
    )
