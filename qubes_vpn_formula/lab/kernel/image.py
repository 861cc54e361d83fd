# SPDX-License-Identifier: GPL-2.0-or-later
"""A kernel, and a RAM disk with the programs and modules that the scenarios need."""

import hashlib
import lzma
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from .. import debian
from .archive import Archive


class Kind(NamedTuple):
    """What an image is made of.

    name: of what is kept.  modules: with what they depend on, loaded at boot, because nothing looks
    for a module later.  One that a kernel does not have as a module is built in or came later.
    """

    name: str
    packages: tuple[str, ...]
    modules: tuple[str, ...]


#: Debian's kernel for virtual machines is small, and the only one of its kernels that boots fast.
_PACKAGES = (
    "linux-image-cloud-amd64",
    "python3",
    "nftables",
    "iproute2",
    "conntrack",
    "wireguard-tools",
    "busybox-static",
)
#: What is really missing fails a scenario.
_MODULES = (
    "veth",
    "dummy",
    "tun",
    "wireguard",
    "nf_tables",
    "nf_conntrack_netlink",
    "nf_flow_table_inet",
    "nf_log_syslog",
    "nft_chain_nat",
    "nft_ct",
    "nft_flow_offload",
    "nft_limit",
    "nft_log",
    "nft_masq",
    "nft_reject_inet",
)
#: For the scenarios of ``guest/``.
SCENARIOS = Kind("vm", _PACKAGES, _MODULES)
_LIBRARY = "usr/lib/x86_64-linux-gnu"
#: What the scenarios never touch; the RAM disk is memory, and is copied at each boot.
_LEAVE_OUT = (
    "packages",
    "boot",
    "usr/lib/modules",
    "usr/share",
    "usr/include",
    "usr/lib/udev",
    "usr/lib/systemd",
    f"{_LIBRARY}/gconv",
    f"{_LIBRARY}/perl-base",
    "var",
)


class Image(NamedTuple):
    """What a virtual machine boots from: two files, and the kernel's release."""

    kernel: Path
    disk: Path
    release: str


def build(suite: str, kind: Kind = SCENARIOS) -> Image:
    """The image for a Debian release (``bookworm``, ``trixie``, ``sid``); made once, then kept.

    Raises :class:`debian.NotReachable`.
    """
    home = debian.cache() / f"{kind.name}-{suite}"
    kernel, disk, stamp = home / "kernel", home / "disk", home / "release"
    # Another way to make it is another image.
    made_by = hashlib.sha256(Path(__file__).read_bytes() + repr(kind).encode()).hexdigest()
    with debian.alone(home):
        if not stamp.exists() or stamp.read_text("ascii").split()[1] != made_by:
            tree = debian.tree(suite, kind.name, kind.packages)
            (modules,) = (tree / "usr/lib/modules").iterdir()
            _compile(tree)
            shutil.copy(_kernel(tree, modules), kernel)
            with disk.open("wb") as file:
                _write(Archive(file), tree, _in_order(modules, kind.modules))
            stamp.write_text(f"{modules.name} {made_by}", "ascii")
            shutil.rmtree(tree)
        return Image(kernel, disk, stamp.read_text("ascii").split()[0])


def _kernel(tree: Path, modules: Path) -> Path:
    """Where Debian puts it up to 13, and since."""
    places = (tree / f"boot/vmlinuz-{modules.name}", modules / "vmlinuz")
    return next(place for place in places if place.exists())


def _compile(tree: Path) -> None:
    """Python's library as bytecode, made by that Python itself: emulated it takes seconds a start.

    Times of files are not kept in the RAM disk, so that nothing is to be checked by them.
    """
    for library in (found for found in tree.glob("usr/lib/python3.*") if found.is_dir()):
        command = debian.command(tree, f"usr/bin/{library.name}")
        options = ["-q", "--invalidation-mode", "unchecked-hash", "-x", "/test/|/pydoc_data/"]
        words = [*command, "-Sm", "compileall", *options, "-s", str(tree), str(library)]
        subprocess.run(words, check=True, env={"PYTHONHOME": str(tree / "usr")})


def _write(archive: Archive, tree: Path, modules: list[Path]) -> None:
    # The kernel opens it for init before anything is mounted.
    archive.device("dev/console", 5, 1)
    for folder in ("proc", "sys", "run", "tmp", "rw", "var"):
        archive.folder(folder)
    archive.link("var/run", "/run")
    tests = [str(found.relative_to(tree)) for found in tree.glob("usr/lib/python3*/test")]
    archive.tree(tree, [*_LEAVE_OUT, *tests])
    for number, module in enumerate(modules):
        archive.file(f"modules/{number:03}-{_name(module)}.ko", _content(module))
    archive.end()


def _in_order(folder: Path, modules: tuple[str, ...]) -> list[Path]:
    """The files of *modules* and of what they depend on, each after what it needs."""
    files = {_name(path): path for path in folder.rglob("*.ko*")}
    ordered: dict[str, Path] = {}

    def add(name: str) -> None:
        if name in files and name not in ordered:
            for needed in _needs(_content(files[name])):
                add(needed)
            ordered[name] = files[name]

    for name in modules:
        add(name)
    return list(ordered.values())


def _needs(module: bytes) -> Iterator[str]:
    """The names after `depends=` among a module's facts, each of which ends in a zero byte."""
    _, found, rest = module.partition(b"\0depends=")
    if found:
        names = rest.partition(b"\0")[0].decode("ascii").split(",")
        yield from (name.replace("-", "_") for name in names if name)


def _name(path: Path) -> str:
    return path.name.partition(".")[0].replace("-", "_")


def _content(path: Path) -> bytes:
    data = path.read_bytes()
    return lzma.decompress(data) if path.suffix == ".xz" else data
