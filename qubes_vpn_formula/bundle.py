# SPDX-License-Identifier: GPL-2.0-or-later
"""All that dom0 needs of the formula in one file, with or without a pillar.

A tar whose names, but for the installer's, the command's and what is only to be read, are places
below dom0's /srv.  The same files give the same bytes, wherever and whenever it is made.
What puts it there is :mod:`.install`, which travels in it; docs/decisions/0031 says why.
"""

import hashlib
import io
import json
import os
import re
import shlex
import subprocess
import tarfile
from pathlib import Path

import qubes_vpn_part
from qubes_vpn_formula import files, install
from qubes_vpn_formula.console import printable
from qubes_vpn_formula.errors import UserError
from qubes_vpn_formula.paths import formula_root
from qubes_vpn_problem import looks_secret

#: Has Salt read a pillar as data: without it, Jinja in there would be run in dom0 as root.
_DATA = "#!yaml\n"
_COMMENT = re.compile(r"(?:^|\s)#(.*)")
#: What is read in dom0, too (R70): by itself, or named by a pillar or a message.
DOCS = (
    "bypass.md",
    "cheatsheet.md",
    "layout.md",
    "relays.md",
    "resolvefix.md",
    "sysvpn-improvements.md",
    "topologies.md",
)
_DOCS_PLACE = "salt/qubes/network/docs"
_FOLDERS = {"salt/qubes": "salt/qubes", **{f"_{name}": f"salt/_{name}" for name in (
    "modules", "states", "utils"
)}}  # fmt: skip


def build(output, pillar=None, sign=None, force=True, gpg="gpg"):
    """Write a bundle to the file *output* (mode 0600); return its SHA-256 as hexadecimal digits.

    pillar: a :class:`qubes_vpn_formula.pillarfile.PillarFile` without problems, which goes along.
    sign: a key's name, as gpg takes it: its signature is written to *output*.asc.  force: whether
    files that are there are replaced.  gpg: the program that signs.
    Raises :class:`UserError`; nothing is left half written then.
    """
    content = tar(members(pillar))
    if not force and sign and os.path.lexists(f"{output}.asc"):
        raise UserError("the file exists already", "Add --force.", file=f"{output}.asc")
    signature = _signature(content, sign, gpg) if sign else None
    files.write_new(output, content, force)
    if signature:
        files.write_new(f"{output}.asc", signature, force)
    return hashlib.sha256(content).hexdigest()


def members(pillar=None):
    """``{name in the bundle: bytes}``, as of :func:`build`."""
    root = formula_root()
    found = {
        "LICENSE": root / "LICENSE",
        "install.py": Path(install.__file__),
        "bin/qubes-vpn": root / "dom0/qubes-vpn",
        f"{_DOCS_PLACE}/pillar.example": root / "pillar.example",
        **{f"{_DOCS_PLACE}/{name}": root / "docs" / name for name in DOCS},
    }
    for folder, place in _FOLDERS.items():
        for path in (root / folder).rglob("*"):
            if path.is_file() and path.suffix != ".pyc":
                found[f"{place}/{path.relative_to(root / folder)}"] = path
    for name, path in found.items():
        if not install.NAMES.fullmatch(name):
            raise UserError("no file of the formula's has such a name", "Remove it.", file=path)
    content = {name: path.read_bytes() for name, path in found.items()}
    if pillar is not None:
        if pillar.problems():
            fix = f"See qubes-vpn check {pillar.path}."
            raise UserError("the pillar has problems", fix, file=pillar.path)
        _refuse_unseen(pillar)
        content["pillar/qubes_vpn/init.sls"] = f"{_DATA}{pillar.text}".encode()
        content["pillar/qubes_vpn/init.top"] = top(pillar.model).encode()
    return content


def _refuse_unseen(pillar):
    """Raises :class:`UserError` for what no check of the pillar looks at, and dom0 would get."""
    for key in pillar.data:
        if key != "qubes_vpn":
            raise UserError(
                "a bundle's pillar has 'qubes_vpn' and nothing else at the top",
                "Give Salt other pillar in files of its own.",
                file=pillar.path,
                line=pillar.line([key]),
            )
    for number, line in enumerate(pillar.text.splitlines(), 1):
        comment = _COMMENT.search(line)
        # The key of a list's signature is everybody's.
        if comment and looks_secret(comment[1].replace("minisign_key", "")):
            raise UserError(
                "a comment that looks like a secret, which does not belong in dom0",
                "Take it out.",
                file=pillar.path,
                line=number,
            )


def top(model):
    """The text of the top file that gives the pillar to dom0 and to who has a part of its own."""
    minions = ["dom0", *qubes_vpn_part.targets(model)]
    # In quotes: a qube may be called `yes`.
    entries = ", ".join(f"{json.dumps(minion)}: [qubes_vpn]" for minion in minions)
    return f"base: {{{entries}}}\n"


def in_dom0(output):
    """What is typed in dom0 for the bundle *output*: lines that bring it there, that install it.

    Into a file first: a qube's bytes on dom0's terminal could drive it.
    """
    read = shlex.quote(f"cat {shlex.quote(str(Path(output).absolute()))}")
    return [
        f"qvm-run --pass-io QUBE {read} > qubes-vpn.tar",
        "sha256sum qubes-vpn.tar",
    ], ["tar -xOf qubes-vpn.tar install.py | sudo python3 -I - qubes-vpn.tar"]


def tar(content):
    """The bytes of a tar of plain files, ``{name: bytes}``: no owners, no times, sorted."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as made:
        for name, data in sorted(content.items()):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            made.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def _signature(content, key, gpg):
    """An armoured detached signature.  By a pipe, which split GPG's client understands as well."""
    words = [gpg, "--local-user", key, "--armor", "--detach-sign"]
    try:
        done = subprocess.run(words, input=content, capture_output=True, check=False)
    except OSError as error:
        why = (error.strerror or "it failed").lower()
        fix = "Install it, or name the program that signs by --gpg."
        raise UserError(f"cannot be started: {why}", fix, file=gpg) from None
    if done.returncode or b"BEGIN PGP SIGNATURE" not in done.stdout:
        said = (done.stderr.decode(errors="replace").strip().splitlines() or ["nothing"])[-1]
        raise UserError(
            f"it did not sign; it said: {printable(said)}",
            "See which keys are there: gpg --list-secret-keys.",
            file=gpg,
            key="--sign",
        )
    return done.stdout
