# SPDX-License-Identifier: GPL-2.0-or-later
"""Boots an image with a folder of scenarios and hands back what they found."""

import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from .archive import Archive
from .image import Image

_GUEST = Path(__file__).with_name("guest")
_QEMU = "qemu-system-x86_64"
#: MiB; the RAM disk is in it twice while the kernel unpacks it.
_MEMORY = 512


class NotBooted(Exception):
    """No virtual machine, or it did not get to its end; the text has its last words."""


class Run(NamedTuple):
    """results: by scenario, a dictionary of facts, or ``{"error": traceback}``.

    boot: seconds from the start to our init's first word; seconds: until it was off.
    """

    results: dict[str, dict[str, Any]]
    boot: float
    seconds: float


def missing() -> str | None:
    """Why no virtual machine can run here, or None."""
    return None if shutil.which(_QEMU) else f"{_QEMU} is missing (Debian: qemu-system-x86)"


def run(image: Image, files: dict[str, tuple[str, int]], timeout: float = 900) -> Run:
    """Boots `image`, runs all scenarios, and waits until it is off.

    files: path -> text and mode, what the virtual machine has besides image and scenarios.
    timeout: seconds for everything.  Raises :class:`NotBooted`.
    """
    with tempfile.TemporaryDirectory(prefix="qubes-vpn-vm-") as folder:
        disk, results = Path(folder, "disk"), Path(folder, "results")
        _disk(disk, image, files)
        started = time.time()
        # The kernel's own words must not get between the results: a port for each.
        options = ["-m", str(_MEMORY), "-serial", f"file:{results}"]
        words = emulate(image, disk, options, timeout)
        seconds = time.time() - started
        lines = results.read_text("utf-8").splitlines() if results.exists() else []
    found = [json.loads(line) for line in lines]
    if not found or found[-1] != ["end"]:
        last = [line[:300] for line in lines[-1:]]
        raise NotBooted("\n".join([*last, *words.splitlines()[-30:]]))
    (_, boot), *scenarios, _ = found
    return Run(dict(scenarios), boot, seconds)


def emulate(image: Image, disk: Path, options: list[str], timeout: float) -> str:
    """Boots the image's kernel with the RAM disk `disk`; what QEMU and the serial port said.

    options: further ones of QEMU.  timeout: seconds until it is killed, which the last line says.
    """
    try:
        done = subprocess.run(
            [*_command(image, disk), *options],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        return f"{(error.stdout or b'').decode(errors='replace')}\nkilled after {timeout} s"
    return done.stdout + done.stderr


def _disk(disk: Path, image: Image, files: dict[str, tuple[str, int]]) -> None:
    """The image's RAM disk, and one with what is of today behind it."""
    shutil.copy(image.disk, disk)
    with disk.open("ab") as file:
        archive = Archive(file)
        for scenario in sorted(_GUEST.iterdir()):
            if scenario.is_file():
                archive.file(f"scenarios/{scenario.name}", scenario.read_bytes(), 0o755)
        archive.link("init", "/scenarios/init")
        for path, (text, mode) in files.items():
            archive.file(path.lstrip("/"), text.encode(), mode)
        archive.end()


def _command(image: Image, disk: Path) -> list[str]:
    """Emulated, not virtualised: slower, but it runs wherever QEMU does and needs no rights."""
    kernel = "console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off random.trust_cpu=on"
    return [
        # However we end, it ends with us.
        *("setpriv", "--pdeathsig", "KILL", "--"),
        _QEMU,
        *("-machine", "pc,accel=tcg", "-nodefaults", "-no-user-config"),
        # QEMU 7.2 emulates these two wrongly.
        *("-cpu", "max,-cx16,-la57"),
        *("-display", "none", "-no-reboot", "-serial", "stdio"),
        *("-kernel", str(image.kernel), "-initrd", str(disk), "-append", kernel),
    ]
