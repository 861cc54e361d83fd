# SPDX-License-Identifier: GPL-2.0-or-later
"""Fingerprints and refusals, against keys that GnuPG made and what GnuPG says of them (R23)."""

import base64
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from qubes_vpn_openpgp import NotOneKey, public_key

YEAR = 365 * 86400
#: 2020-01-01, as gpg writes it and in seconds.
THEN, THEN_SECONDS = "20200101T000000", 1577836800


class Gpg:
    """GnuPG with a home of its own, short enough for its sockets."""

    def __init__(self, home):
        self.environ = {**os.environ, "GNUPGHOME": str(home), "LC_ALL": "C"}
        self.home = home

    def __call__(self, *words, text=None):
        options = ["--batch", "--yes", "--pinentry-mode=loopback", "--passphrase="]
        command = ["gpg", *options, *words]
        done = subprocess.run(
            command, env=self.environ, check=True, capture_output=True, text=True, input=text
        )
        return done.stdout

    def make(self, name, kind="ed25519", expires="never", at=THEN):
        """A key's fingerprint, as gpg says it."""
        time = f"--faked-system-time={at}!"
        self(time, "--quick-generate-key", name, kind, "sign", expires)
        return self.fingerprints(f"={name}")[0]

    def fingerprints(self, *words):
        lines = self("--with-colons", "--list-keys", *words).splitlines()
        return [line.split(":")[9] for line in lines if line.startswith("fpr")]

    def export(self, *names):
        return self("--armor", "--export", *names)


@pytest.fixture(scope="module")
def gpg():
    if not shutil.which("gpg"):
        pytest.skip("needs gpg")
    with tempfile.TemporaryDirectory(prefix="gpg-") as home:
        made = Gpg(Path(home))
        yield made
        subprocess.run(["gpgconf", "--kill", "all"], env=made.environ, check=False)


@pytest.mark.parametrize("kind", ["ed25519", "rsa2048", "nistp256"])
def test_fingerprint_is_gpgs_and_what_is_written_is_that_one_key(gpg, kind):
    name = f"Vendor {kind} <v@example.org>"
    fingerprint = gpg.make(name, kind)
    gpg("--quick-add-key", fingerprint, "rsa2048", "sign", "never")
    key = public_key("Some words before.\r\n" + gpg.export(fingerprint).replace("\n", "\r\n"))
    assert key.fingerprint == fingerprint
    listed = gpg("--with-colons", "--show-keys", text=key.text).splitlines()
    assert next(line.split(":")[9] for line in listed if line.startswith("fpr")) == fingerprint
    assert [line.split(":")[0] for line in listed].count("pub") == 1
    assert [line.split(":")[0] for line in listed].count("sub") == 1
    assert public_key(key.text) == key


def test_a_key_whose_end_was_put_off_is_valid_by_its_newest_word(gpg):
    fingerprint = gpg.make("Late <l@example.org>", expires="1y")
    over = gpg.export(fingerprint)
    assert public_key(over, THEN_SECONDS + YEAR - 86400).fingerprint == fingerprint
    with pytest.raises(NotOneKey, match="it expired on 2020-12-31"):
        public_key(over)
    gpg("--faked-system-time=20200601T000000!", "--quick-set-expire", fingerprint, "20y")
    assert public_key(gpg.export(fingerprint)).fingerprint == fingerprint


def test_what_is_not_one_valid_public_key_is_refused_in_words(gpg):
    one, two = gpg.make("One <1@example.org>"), gpg.make("Two <2@example.org>")
    good = gpg.export(one)
    assert public_key(good).fingerprint == one
    lines = good.splitlines()
    refused = {
        "it is no armored public key": "<html>Sign in to this network</html>\n",
        "it holds 2 keys instead of one": gpg.export(one, two),
        "it holds more than one block": good + gpg.export(two),
        "it is longer than": good + " " * 300_000,
        "its checksum is wrong": good.replace(lines[3], lines[3].swapcase()),
        "it is of the future": gpg.export(gpg.make("Soon <3@example.org>", at="20990101T000000")),
    }
    for why, text in refused.items():
        with pytest.raises(NotOneKey, match=why):
            public_key(text)
    secret = gpg("--armor", "--export-secret-keys", one)
    for text in ("", secret, secret.replace("PRIVATE", "PUBLIC"), "\n".join(lines[:3]), lines[0]):
        with pytest.raises(NotOneKey):
            public_key(text)


def test_a_key_that_was_taken_back_is_refused(gpg):
    fingerprint = gpg.make("Gone <g@example.org>")
    statement = (gpg.home / f"openpgp-revocs.d/{fingerprint}.rev").read_text()
    gpg("--import", text=statement.replace(":-----BEGIN", "-----BEGIN"))
    with pytest.raises(NotOneKey, match="it has been revoked"):
        public_key(gpg.export(fingerprint))


def test_no_part_of_a_key_makes_anything_but_a_key_or_a_refusal(gpg):
    """Cut off anywhere, and with every byte changed: never another kind of error."""
    good = public_key(gpg.export(gpg.make("Cut <c@example.org>")))
    body = "".join(good.text.splitlines()[2:-2])
    data = base64.b64decode(body)

    def answer(changed):
        text = base64.b64encode(changed).decode()
        begin = "-----BEGIN PGP PUBLIC KEY BLOCK-----"
        try:
            return public_key(f"{begin}\n\n{text}\n{begin.replace('BEGIN', 'END')}\n").fingerprint
        except NotOneKey:
            return None

    assert answer(data) == good.fingerprint
    first = 2 + data[1]  # the primary key's packet: whatever changes there is another key
    assert not any(answer(data[:place]) for place in range(first))
    for place in range(len(data)):
        answer(data[:place])
        for bit in (0x01, 0x80, 0xFF):
            changed = bytearray(data)
            changed[place] ^= bit
            found = answer(bytes(changed))
            assert place >= first or found != good.fingerprint, place
