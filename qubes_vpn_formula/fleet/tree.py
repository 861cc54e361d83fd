# SPDX-License-Identifier: GPL-2.0-or-later
"""What is delivered: a pillar tree for a Salt master, and a bundle for each machine."""

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from qubes_vpn_formula import bundle
from qubes_vpn_formula.errors import UserError
from qubes_vpn_formula.fleet.examine import Examined
from qubes_vpn_formula.fleet.workers import Workers
from qubes_vpn_formula.pillarfile import PillarFile

PILLAR, BUNDLES, SUMS = "pillar", "bundles", "SHA256SUMS"
#: Of the machines' own files, below the pillar's roots; as an SLS is called.
_MACHINE = "machine"
#: Of the names of folders that are not finished.
_PARTIAL = ".qubes-vpn-fleet."


class Bundle(NamedTuple):
    """file: below the new folder.  sha256: of its bytes."""

    file: str
    sha256: str


@contextlib.contextmanager
def new(output: str) -> Iterator[Path]:
    """A folder, to be filled, that gets the name *output* when that is done, and never half.

    One that stays empty is gone then.  What runs that were killed have left beside it goes, too.
    """
    if os.path.lexists(output):
        fix = "Name a new one; let a link of yours lead to the newest."
        raise UserError("it exists already", fix, file=output)
    target = Path(output)
    try:
        with contextlib.ExitStack() as stack:
            with _locked(target.parent):  # no other's sweep between the folder and its lock
                _sweep(target.parent)
                partial = Path(tempfile.mkdtemp(dir=target.parent, prefix=_PARTIAL))
                stack.callback(shutil.rmtree, partial, ignore_errors=True)
                stack.enter_context(_locked(partial))
            yield partial
            if any(partial.iterdir()):
                partial.rename(target)
    except OSError as error:
        reason = (error.strerror or "it failed").lower()
        fix = "Look at the folder above it, its mode and its space."
        raise UserError(f"cannot be written: {reason}", fix, file=output) from None


def _sweep(folder: Path) -> None:
    """Removes what a killed run has left in *folder*: the lock of one that runs is held."""
    for path in folder.glob(f"{_PARTIAL}*"):
        with contextlib.suppress(OSError), _locked(path, fcntl.LOCK_NB):
            shutil.rmtree(path)


@contextlib.contextmanager
def _locked(folder: Path, flag: int = 0) -> Iterator[None]:
    """flag: LOCK_NB raises OSError where another process has the lock."""
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | flag)
        yield
    finally:
        os.close(lock)


class Signing(NamedTuple):
    """key: as gpg takes it; None for no signature.  program: what signs."""

    key: str | None = None
    program: str = "gpg"


def write(
    folder: Path, machines: Sequence[Examined], signing: Signing, shared: Workers
) -> dict[str, Bundle]:
    """Fills *folder*; the bundles by a machine's name.  Raises UserError, as `bundle.build`."""
    _pillar(folder / PILLAR, machines)
    names = [one.name for one in machines]
    items = [(folder, one.name, one.pillar, signing) for one in machines]
    built = dict(zip(names, shared.map("built", _bundle, items), strict=True))
    known = {one.file: one.sha256 for one in built.values()}  # gigabytes, if it is a large fleet
    sums = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        file = str(path.relative_to(folder))
        sums.append(f"{known.get(file) or _digest(path)}  {file}\n")
    (folder / SUMS).write_text("".join(sums), encoding="utf-8")
    for path in folder.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
    return built


def _pillar(root: Path, machines: Sequence[Examined]) -> None:
    """Salt's tree: who is named in the top file gets his own file.  A dot in a name is a folder."""
    top = {}
    for one in machines:
        folder = root.joinpath(_MACHINE, *one.name.split("."))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "init.sls").write_text(one.pillar, encoding="utf-8")
        top[one.name] = [f"{_MACHINE}.{one.name}"]
    (root / "top.sls").write_text(yaml.safe_dump({"base": top}), encoding="utf-8")


def _bundle(item: tuple[Path, str, str, Signing]) -> Bundle:
    """One machine's.  Its pillar is checked once more there, as the text that is delivered."""
    folder, name, text, signing = item
    file = folder / BUNDLES / name / "qubes-vpn.tar"
    file.parent.mkdir(parents=True)
    pillar = PillarFile(name, text)
    made = bundle.build(str(file), pillar, sign=signing.key, gpg=signing.program)
    return Bundle(str(file.relative_to(folder)), made)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
