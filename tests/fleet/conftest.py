# SPDX-License-Identifier: GPL-2.0-or-later
"""A folder of machines, and `qubes-vpn fleet` on it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qubes_vpn_formula.cli import main

BASE = """\
qubes_vpn:
  topology: simple
  tunnels:
    sys-vpn: {kind: wireguard, profile: wg.conf, endpoints: ["192.0.2.1:51820/udp"]}
  routes:
    qubes:
      work: sys-vpn
"""


class Fleet:
    """A folder `machines`, and what commands say of it."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture) -> None:
        self.folder, self.output = folder / "machines", folder / "built"
        self._capsys = capsys
        self.folder.mkdir()

    def write(self, **files: str) -> None:
        """Files by name; `__` is a slash."""
        for name, text in files.items():
            path = self.folder / f"{name.replace('__', '/')}.sls"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")

    def run(self, *words: str) -> tuple[int, str]:
        """The exit code and what was printed."""
        code = main(["fleet", words[0], str(self.folder), *words[1:]])
        captured = self._capsys.readouterr()
        return code, captured.out + captured.err

    def told(self, *words: str) -> tuple[int, dict[str, Any]]:
        """The exit code and the JSON; without a proof and in this process."""
        code, text = self.run(*words, "--no-proof", "--jobs", "1", "--json")
        return code, json.loads(text)

    def build(self, *words: str) -> tuple[int, str]:
        """Without a proof, which has tests of its own."""
        return self.run("build", "--output", str(self.output), "--no-proof", *words)


@pytest.fixture
def fleet(tmp_path: Path, capsys: pytest.CaptureFixture) -> Fleet:
    """With a shared base, and no machine yet."""
    made = Fleet(tmp_path, capsys)
    made.write(base=BASE)
    return made


@pytest.fixture
def tree() -> Callable[[Path], dict[str, tuple[int, bytes]]]:
    """Reads a folder: {path in it: (mode, content)}."""

    def read(folder: Path) -> dict[str, tuple[int, bytes]]:
        return {
            str(path.relative_to(folder)): (
                path.stat().st_mode,
                path.read_bytes() if path.is_file() else b"",
            )
            for path in sorted(folder.rglob("*"))
        }

    return read
