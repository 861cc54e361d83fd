# SPDX-License-Identifier: GPL-2.0-or-later
"""Keys of gpg's in a folder of their own, for vendors that a test makes up."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: All keys are of this day, so that one can have expired.
_DAY = "20200101T000000!"


class Keys:
    """A key ring.  home: the value of GNUPGHOME for other programs that sign."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def __call__(self, *words: str) -> str:
        """What `gpg WORDS` prints."""
        environ = {**os.environ, "GNUPGHOME": str(self.home)}
        options = ["--batch", "--passphrase=", "--pinentry-mode=loopback"]
        command = ["gpg", *options, *words]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environ)
        return done.stdout

    def make(self, name: str, kind: str = "ed25519", expires: str = "never") -> None:
        """A new key without a passphrase that signs."""
        words = ["--quick-generate-key", f"{name} <x@example.org>", kind, "sign", expires]
        self(f"--faked-system-time={_DAY}", *words)

    def public(self, *names: str) -> str:
        """Their public keys, armored, in one block."""
        return self("--armor", "--export", *names)

    def fingerprint(self, name: str) -> str:
        """The key's, as gpg has it."""
        lines = self("--with-colons", "--list-keys", name).splitlines()
        return next(line.split(":")[9] for line in lines if line.startswith("fpr"))


@contextmanager
def key_ring() -> Iterator[Keys]:
    """An empty one, in a short path: gpg's agent has a socket there."""
    with tempfile.TemporaryDirectory(prefix="gpg-", dir="/tmp") as folder:
        try:
            yield Keys(Path(folder))
        finally:
            words = ["gpgconf", f"--homedir={folder}", "--kill", "all"]
            subprocess.run(words, check=False)
