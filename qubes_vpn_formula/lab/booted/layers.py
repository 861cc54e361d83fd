# SPDX-License-Identifier: GPL-2.0-or-later
"""Layers with packages, kept on disk: installing takes long, and what comes of it is the same."""

import hashlib
import subprocess
from collections.abc import Iterable
from pathlib import Path

from qubes_vpn_formula.lab import debian
from qubes_vpn_formula.lab.booted import root


def home(packages: Iterable[str]) -> Path:
    """The folder for these packages on this root; its `layer` is the layer."""
    made_by = [root.made_by(), *sorted(packages)]
    return debian.cache() / f"layer-{hashlib.sha256(' '.join(made_by).encode()).hexdigest()[:16]}"


def complete(home: Path) -> bool:
    """Whether the layer is there, whole."""
    return (home / "complete").exists()


def keep(home: Path, layer: Path) -> None:
    """Copy a layer with all that overlayfs notes in it."""
    subprocess.run(["rm", "-rf", home / "layer"], check=True)
    subprocess.run(["cp", "--archive", layer, home / "layer"], check=True)
    (home / "complete").touch()
