# SPDX-License-Identifier: GPL-2.0-or-later
"""The root file system that every template starts from: Debian 13, minimal, with Qubes' agent.

Made by mmdebstrap once and kept in :func:`qubes_vpn_formula.lab.debian.cache`; another list of
packages, or another way to make it, is another root.  The agent is put on top of it, uncached.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from qubes_vpn_formula.lab import debian

SUITE = "trixie"
#: What debian-13-minimal has and the lab needs, and what qubes-core-agent-networking brings.
PACKAGES = (
    "ca-certificates",
    "conntrack",
    "dbus",
    "iproute2",
    "iputils-ping",
    "kmod",
    "netbase",
    "nftables",
    "procps",
    "python3",
    "socat",
    "systemd-sysv",
    "udev",
)
#: As written in a template; `updates.py` knows where the packages really come from.
SOURCE = f"deb http://deb.debian.org/debian {SUITE} main"
_DOCUMENTS = ("doc", "info", "lintian", "locale", "man")
_APT = """Acquire::Languages "none";
APT::Install-Recommends "false";
"""


def made_by() -> str:
    """What tells this root from one with other packages or options."""
    made_of = repr((SUITE, PACKAGES, _APT, _DOCUMENTS))
    return hashlib.sha256(made_of.encode()).hexdigest()[:16]


def build() -> Path:
    """The root's folder, which nobody may write to and which is never made anew: it may be in use.

    Raises :class:`debian.NotReachable`.
    """
    home = debian.cache() / f"root-{SUITE}-{made_by()}"
    root, complete = home / "root", home / "complete"
    with debian.alone(home):
        if not complete.exists():
            subprocess.run(["rm", "-rf", root], check=True)
            _make(root)
            complete.touch()
    return root


def _make(root: Path) -> None:
    if not debian.KEYRING.exists():
        raise debian.NotReachable(f"{debian.KEYRING} is missing (debian-archive-keyring)")
    options = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _DOCUMENTS]
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as apt:
        apt.write(_APT)
        apt.flush()
        command = [
            *("mmdebstrap", "--quiet", "--mode=root", "--variant=minbase"),
            *("--dpkgopt=force-unsafe-io", *options, f"--aptopt={apt.name}"),
            # The lists stay, so that a template installs without asking for them.
            *("--skip=cleanup/apt/lists", f"--include={','.join(PACKAGES)}"),
            *(f"--keyring={debian.KEYRING}", SUITE, str(root)),
            f"deb {debian.MIRROR} {SUITE} main",
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            raise debian.NotReachable(f"mmdebstrap: {error.strerror}") from None
    if done.returncode:
        raise debian.NotReachable(f"mmdebstrap: {' '.join(done.stderr.splitlines()[-3:])}")
    _settle(root)


def _settle(root: Path) -> None:
    """What mmdebstrap took over from this machine goes; what a first start would do is done."""
    for name in ("resolv.conf", "hostname"):
        (root / "etc" / name).unlink(missing_ok=True)
    (root / "etc/resolv.conf").touch()
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n127.0.1.1 qube\n::1 localhost\n")
    (root / "etc/apt/sources.list").write_text(f"{SOURCE}\n")
    (root / "etc/machine-id").write_text(f"{os.urandom(16).hex()}\n")
    shutil.rmtree(root / "var/log/journal", ignore_errors=True)
    for folder in ("etc", "var"):
        (root / folder / ".updated").touch()
