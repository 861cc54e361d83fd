# SPDX-License-Identifier: GPL-2.0-or-later
"""Packages of other Debian releases, unpacked into a folder: nothing is installed on this machine.

apt-get fetches them with lists and a status of its own and checks their signatures against the
installed debian-archive-keyring.  What was fetched is kept in :func:`cache`; delete that folder for
newer packages.  Needs apt-get, dpkg-deb, GNU tar and that keyring; root is not needed.
"""

import fcntl
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Another mirror than Debian's own.
MIRROR = os.environ.get("QUBES_VPN_LAB_MIRROR", "http://deb.debian.org/debian")
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
#: Never unpacked: a third of the bytes, and nobody reads them here.
_DOCUMENTS = ("doc", "man", "locale", "info", "lintian", "bug", "bash-completion", "zoneinfo")
#: What a kernel's package asks for and a virtual machine of ours has no use for.
_PROVIDED = ("initramfs-tools", "linux-base", "kmod", "debconf", "dpkg", "passwd", "adduser")


class NotReachable(Exception):
    """The packages cannot be had here; the text says why."""


def cache() -> Path:
    """The folder for what is fetched and built: QUBES_VPN_LAB_CACHE, or in the user's cache."""
    own = os.environ.get("QUBES_VPN_LAB_CACHE")
    user = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(own) if own else Path(user) / "qubes-vpn-lab"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Waits until no other process works in `folder`, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def tree(suite: str, name: str, packages: tuple[str, ...]) -> Path:
    """A folder with `packages` of `suite` (``trixie`` ...) and all that they depend on.

    name: of the folder; a tree of that name and these packages is not made again.
    Raises :class:`NotReachable`.
    """
    home = cache() / suite
    made, wanted = home / name, " ".join(packages)
    with alone(home):
        stamp = made / "packages"
        if not (stamp.exists() and stamp.read_text("ascii") == wanted):
            archives = _download(home, suite, packages)
            _run("rm", "-rf", made)
            _unpack(archives, made)
            stamp.write_text(wanted, "ascii")
    return made


def command(tree: Path, program: str) -> list[str]:
    """The first words of a command that runs a tree's program here, with the tree's own libraries.

    program: its path in the tree, ``usr/sbin/nft``.
    """
    loader, libraries = tree / "usr/lib64/ld-linux-x86-64.so.2", tree / "usr/lib/x86_64-linux-gnu"
    return [str(loader), "--library-path", str(libraries), str(tree / program)]


def _download(home: Path, suite: str, packages: tuple[str, ...]) -> list[Path]:
    if not KEYRING.exists():
        raise NotReachable(f"{KEYRING} is missing (Debian's package debian-archive-keyring)")
    for folder in ("state/lists/partial", "cache/archives/partial"):
        (home / folder).mkdir(parents=True, exist_ok=True)
    (home / "sources.list").write_text(f"deb [signed-by={KEYRING}] {MIRROR} {suite} main\n")
    stanza = "Package: {}\nStatus: install ok installed\nVersion: 999\nArchitecture: all\n\n"
    (home / "status").write_text("".join(stanza.format(name) for name in _PROVIDED))
    settings = {
        "Dir::Etc::sourcelist": home / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::State": home / "state",
        "Dir::State::status": home / "status",
        "Dir::Cache": home / "cache",
        "Acquire::Languages": "none",
        "Acquire::Retries": "1",
        "Acquire::http::Timeout": "15",
        "APT::Architecture": "amd64",
        "APT::Architectures": "amd64",
        # The folders are the caller's; apt's own user may not even reach them.
        "APT::Sandbox::User": _run("id", "-un").strip(),
    }
    options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
    install = [*options, "-q", "-y", "--no-install-recommends", "install"]
    _run("apt-get", *options, "-q", "--error-on=any", "update")
    for old in (home / "cache/archives").glob("*.deb"):
        old.unlink()
    _run("apt-get", "--download-only", *install, *packages)
    return sorted((home / "cache/archives").glob("*.deb"))


def _unpack(archives: list[Path], target: Path) -> None:
    """As dpkg does on a merged /usr, where /bin and its like are links."""
    for name in ("bin", "sbin", "lib", "lib64"):
        (target / "usr" / name).mkdir(parents=True)
        (target / name).symlink_to(f"usr/{name}")
    exclude = [f"--exclude=./usr/share/{name}" for name in _DOCUMENTS]
    into = ["tar", "-x", "--keep-directory-symlink", "--no-same-owner", f"--directory={target}"]
    for archive in archives:
        packed = subprocess.run(
            ["dpkg-deb", "--fsys-tarfile", archive], check=True, capture_output=True
        )
        subprocess.run([*into, *exclude], check=True, input=packed.stdout)


def _run(*command: object) -> str:
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError as error:
        raise NotReachable(f"{words[0]}: {error.strerror}") from None
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-3:]
        raise NotReachable(f"{words[0]}: {' '.join(last)}")
    return done.stdout
