# SPDX-License-Identifier: GPL-2.0-or-later
"""Secrets that are looked for wherever they must not be (R33), and the looking.

Each is made anew for each run, so that what is found was left by this run.
"""

import base64
import json
import os
import re
import secrets
import subprocess
import sys
import urllib.parse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

from qubes_vpn_formula.lab.qube import Inside

#: Of a long secret its first and its last characters give enough away.
_HALF = 20
#: Set for what is run outside of qubes, so that its processes are known from all others.
MARK = "QUBES_VPN_SAMPLED"


def forms(secret: str) -> set[bytes]:
    """All that gives *secret* away: itself, its halves, and these in other encodings."""
    plain = {secret.encode()}
    if len(secret) > _HALF:
        plain |= {secret[:_HALF].encode(), secret[-_HALF:].encode()}
    found = set(plain)
    for text in plain:
        found |= {text.hex().encode(), text.hex().upper().encode()}
        found |= set(_base64(text))
        found.add(urllib.parse.quote(text, safe="").encode())
        found.add(urllib.parse.quote_plus(text).encode())
        found.add(json.dumps(text.decode())[1:-1].encode())
        found.add(repr(text.decode())[1:-1].encode())
        found.add(text.replace(b"\\", b"\\\\").replace(b" ", b"\\s"))
    return found


def _base64(text: bytes) -> Iterable[bytes]:
    """The part that only *text* decides, wherever in a longer one it stands."""
    for before in range(3):
        head, tail = (before * 8 + 5) // 6, (before + len(text)) * 8 // 6
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            yield encode(bytes(before) + text)[head:tail]


class Secrets:
    """name -> secret, as it stands in a file.  needles: the file of all forms for grep."""

    def __init__(self, needles: Path, known: dict[str, str]) -> None:
        self.known, self._needles = known, needles
        self._names = {form: name for name, secret in known.items() for form in forms(secret)}
        needles.write_bytes(b"".join(form + b"\n" for form in self._names))

    def grep(self, files: Iterable[Path | str]) -> dict[str, set[str]]:
        """File -> names of the secrets in it.  files: these, and those in these folders."""
        words = ["grep", "-raoFHZ", "-D", "skip", "-f", str(self._needles), "--"]
        found: dict[str, set[str]] = {}
        todo = [str(file) for file in files]
        for at in range(0, len(todo), 1000):
            done = subprocess.run(
                [*words, *todo[at : at + 1000]],
                env={**os.environ, "LC_ALL": "C"},
                capture_output=True,
                check=False,
            )
            for line in done.stdout.splitlines():
                path, _, form = line.partition(b"\0")
                found.setdefault(os.fsdecode(path), set()).add(self._names[form])
        return found


class Evidence:
    """What was said and seen, in a folder, to be searched at the end."""

    def __init__(self, folder: Path, secrets: Secrets) -> None:
        self.folder, self.secrets = folder, secrets
        folder.mkdir()

    def note(self, what: str, said: Any) -> None:
        """Keeps a text, a finished program's output and errors, or anything with a `repr`."""
        if isinstance(said, subprocess.CompletedProcess):
            said = f"exit {said.returncode}\n{said.stdout}\n{said.stderr}"
        name = re.sub(r"[^\w.-]+", "_", what)
        with (self.folder / name).open("a", encoding="utf-8", errors="surrogateescape") as file:
            file.write(f"{said if isinstance(said, str) else repr(said)}\n")

    def sampler(self, where: str, inside: Inside | None = None) -> "Sampler":
        """Notes command line and environment of every process, as long as it runs."""
        return Sampler(self.folder / f"processes-{where}", inside)

    def leaks(self) -> dict[str, set[str]]:
        """What was noted with a secret in it -> names of the secrets."""
        return {Path(file).name: names for file, names in self.secrets.grep([self.folder]).items()}


#: A process without the mark gets none later, whatever program it becomes.
_SAMPLE = """
import os, sys, time
mark, seen, others, out = sys.argv[1].encode(), set(), set(), sys.stdout.buffer
while True:
    pids = set(filter(str.isdigit, os.listdir("/proc")))
    others &= pids
    for pid in pids - others:
        try:
            texts = [open(f"/proc/{pid}/{name}", "rb").read() for name in ("environ", "cmdline")]
        except OSError:
            continue
        if mark not in texts[0]:
            others.add(pid)
            continue
        for text in texts:
            if text not in seen:
                seen.add(text)
                out.write(text + b"\\n")
    out.flush()
    time.sleep(0.01)
"""


class Sampler:
    """A context manager.  inside: the qube; None is outside of them, where MARK tells what counts.

    A process that lives less than some milliseconds may be missed.
    """

    def __init__(self, file: Path, inside: Inside | None) -> None:
        self._file, self._inside = file, inside
        self._program: subprocess.Popen[bytes] | None = None
        self._out: IO[bytes] | None = None

    def __enter__(self) -> "Sampler":
        self._out = self._file.open("ab")
        popen: Callable[..., Any] = self._inside.popen if self._inside else subprocess.Popen
        python, mark = ("python3", "") if self._inside else (sys.executable, MARK)
        self._program = popen([python, "-c", _SAMPLE, mark], stdout=self._out)
        return self

    def __exit__(self, *_: object) -> None:
        self._program.kill()
        self._program.wait()
        self._out.close()


def new_files(inside: Inside, since: float, *places: str) -> list[str]:
    """Files in a qube that were made or changed since then (seconds of the epoch).

    places: where; without, everywhere.
    """
    left_out = ["(", "-path", "/proc", "-o", "-path", "/sys", ")", "-prune", "-o"]
    words = ["find", *(places or ["/"]), *left_out]
    words += ["-type", "f", "-newerct", f"@{since:.3f}", "-print"]
    done = inside.run(words, check=False, timeout=60)
    return done.stdout.splitlines()


def made_up() -> dict[str, str]:
    """The secrets that are no file's of a program's own making."""
    return {
        "user": f"user.{secrets.token_hex(8)}@example",
        "password": f"p w&{secrets.token_hex(9)}\\%/+=;#{secrets.token_hex(6)}",
        "passphrase": f"pass phrase {secrets.token_hex(10)}?",
        "account": str(secrets.randbelow(9 * 10**15) + 10**15),
        "private key": base64.b64encode(secrets.token_bytes(32)).decode(),
        "preshared key": base64.b64encode(secrets.token_bytes(32)).decode(),
    }
