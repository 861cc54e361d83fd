# SPDX-License-Identifier: GPL-2.0-or-later
"""The fake qubesd answers as the real one did, call by call (see README.md)."""

import contextlib
import socket

import pytest
from replay import differences, recordings

from qubes_vpn_formula.embedded.machine import EmbeddedQubes
from qubes_vpn_formula.embedded.qubesd import AdminError, EmptyAnswer, Qubesd
from qubes_vpn_formula.embedded.server import serving


class OverSocket:
    """A qubesd at the other end of a socket; `qubesdb` is looked up in the state file."""

    def __init__(self, address, machine):
        self.address = str(address)
        self.machine = machine

    def call(self, dest, method, arg, payload):
        answer = self._talk(f"{method}+{arg} dom0 name {dest}\0".encode() + payload)
        kind, _, rest = answer.partition(b"\0")
        if kind == b"0":
            return rest
        if kind == b"2":
            error, _, message = rest.split(b"\0")[:3]
            raise AdminError(error.decode(), message.decode())
        raise EmptyAnswer

    def qubesdb(self, name):
        return dict(sorted(self.machine.snapshot()["qubes"][name]["qubesdb"].items()))

    def _talk(self, request):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(self.address)
            client.sendall(request)
            client.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: client.recv(65536), b""))


@contextlib.contextmanager
def direct(release, _folder):
    yield Qubesd(release)


@contextlib.contextmanager
def over_socket(release, folder):
    machine = EmbeddedQubes(folder / "qubes.json", release)
    with serving(folder / "qubesd.sock", machine):
        yield OverSocket(folder / "qubesd.sock", machine)


@pytest.mark.parametrize("way", [direct, over_socket])
@pytest.mark.parametrize(("calls", "recording"), list(recordings()))
def test_answers_are_the_real_ones(calls, recording, way, tmp_path):
    release = recording.stem.rpartition("release")[2]
    with way(release, tmp_path) as qubesd:
        different = differences(qubesd, calls, recording)
    assert not different, f"{len(different)}, first: {different[0]}"
