# SPDX-License-Identifier: GPL-2.0-or-later
"""The wire protocol on a unix socket."""

import contextlib
import signal
import socket
import subprocess
import sys
import time

import pytest

from qubes_vpn_formula.embedded.machine import EmbeddedQubes
from qubes_vpn_formula.embedded.server import Server, serving


@pytest.fixture
def address(tmp_path):
    """Where the server listens."""
    return str(tmp_path / "qubesd.sock")


@pytest.fixture
def served(embedded, address):
    """The embedded Qubes, served at `address`."""
    with serving(address, embedded):
        yield embedded


def talk(address, request):
    """Sends a whole request and reads the whole answer."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(address)
        client.sendall(request)
        client.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: client.recv(65536), b""))


def ask(address, dest, method, arg="", payload=b""):
    return talk(address, f"{method}+{arg} dom0 name {dest}\0".encode() + payload)


class Listener:
    """Listens to `admin.Events` of one destination."""

    def __init__(self, address, dest):
        self.client = socket.socket(socket.AF_UNIX)
        self.client.settimeout(5)
        self.client.connect(address)
        self.client.sendall(f"admin.Events+ dom0 name {dest}\0".encode())
        self.client.shutdown(socket.SHUT_WR)
        self.stream = self.client.makefile("rb")

    def word(self):
        text = ""
        while (letter := self.stream.read(1).decode()) != "\0":
            assert letter, "the stream has ended"
            text += letter
        return text

    def next(self):
        """(subject, event, fields)"""
        assert self.word() == "1"
        subject, event = self.word(), self.word()
        fields = {}
        while key := self.word():
            fields[key] = self.word()
        return subject, event, fields

    def close(self):
        self.stream.close()
        self.client.close()


@pytest.fixture
def listen(served, address):
    """Starts a listener that has heard that it is connected."""
    with contextlib.ExitStack() as listeners:

        def start(dest):
            listener = Listener(address, dest)
            listeners.callback(listener.close)
            assert listener.next() == ("", "connection-established", {})
            return listener

        yield start


def test_an_answer_an_error_and_nothing(served, address):
    answer = ask(address, "work", "admin.vm.property.Get", "netvm")
    assert answer == b"0\0default=True type=vm sys-firewall"
    kind, error, trace, message, rest = ask(
        address, "work", "admin.vm.property.Set", "netvm", b"vault"
    ).split(b"\0")
    assert (kind, error, trace, rest) == (b"2", b"QubesValueError", b"", b"")
    assert b"vault" in message
    assert ask(address, "work", "admin.vm.firewall.Set", "", b"action=reject\n") == b""


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"",
        b"admin.vm.List",
        b"admin.vm.List dom0 name dom0",
        b"admin.vm.List+ dom0 dom0\0",
        b"admin.vm.List+ dom0 keyword adminvms\0",
        b"admin.vm.List+ work name dom0\0",
        b"admin.vm.feature.Set+a b dom0 name work\x001",
        b"\xff\xfe+ dom0 name dom0\0",
        b"admin.vm.List+ dom0 name dom0\0payload",
    ],
)
def test_what_is_no_request_gets_nothing(served, address, request_bytes):
    assert talk(address, request_bytes) == b""


def test_a_call_without_argument_and_the_keyword_for_dom0(served, address):
    full = ask(address, "dom0", "admin.label.List")
    assert talk(address, b"admin.label.List dom0 name dom0\0") == full
    assert talk(address, b"admin.label.List+ dom0 keyword adminvm\0") == full


@pytest.mark.parametrize(("count", "fits"), [(1129, True), (1130, False), (60000, False)])
def test_the_size_of_a_request_is_limited(served, address, count, fits):
    rule = b"action=accept dst4=10.9.8.7/32 proto=udp dstports=443-443\n"
    answer = ask(address, "work", "admin.vm.firewall.Set", "", rule * count)
    assert answer == (b"0\0" if fits else b"")


def test_clients_at_once(served, address):
    clients = [socket.socket(socket.AF_UNIX) for _ in range(20)]
    for number, client in enumerate(clients):
        client.connect(address)
        client.sendall(f"admin.vm.tag.Set+t{number} dom0 name work\0".encode())
    for client in reversed(clients):
        client.shutdown(socket.SHUT_WR)
        assert client.recv(10) == b"0\0"
        client.close()
    tags = ask(address, "work", "admin.vm.tag.List")[2:].decode().split()
    assert {f"t{number}" for number in range(20)} <= set(tags)


def test_calls_are_counted(served, address):
    ask(address, "work", "admin.vm.tag.Set", "x")
    assert [(call.method, call.arg, call.write) for call in served.calls()] == [
        ("admin.vm.tag.Set", "x", True)
    ]


def test_a_kill_hits_the_client_and_not_the_server(served, address):
    served.fail(method="admin.vm.tag.Set", kill="after")
    code = (
        "import socket, sys\n"
        "client = socket.socket(socket.AF_UNIX)\n"
        "client.connect(sys.argv[1])\n"
        "client.sendall(b'admin.vm.tag.Set+x dom0 name work\\0')\n"
        "client.shutdown(socket.SHUT_WR)\n"
        "client.recv(10)\n"
        "import time; time.sleep(10)\n"
    )
    client = subprocess.run([sys.executable, "-c", code, address], check=False)
    assert client.returncode == -signal.SIGKILL
    assert ask(address, "work", "admin.vm.tag.List").endswith(b"\nx\n")


def test_events_of_everything(served, address, listen):
    listener = listen("dom0")
    ask(address, "work", "admin.vm.property.Set", "netvm", b"sys-net")
    assert listener.next() == (
        "work",
        "property-set:netvm",
        {"name": "netvm", "newvalue": "sys-net"},
    )
    ask(address, "work", "admin.vm.Start")
    started = {listener.next()[:2] for _ in range(4)}
    assert started == {
        (qube, event)
        for qube in ("work", "sys-net")
        for event in ("domain-pre-start", "domain-start")
    }
    ask(address, "dom0", "admin.vm.Create.AppVM", "", b"name=new label=red")
    assert listener.next() == ("", "domain-add", {"vm": "new"})
    ask(address, "new", "admin.vm.Remove")
    assert listener.next() == ("", "domain-delete", {"vm": "new"})


def test_events_of_one_qube_made_by_another_process(served, listen):
    listener = listen("work")
    other = EmbeddedQubes(served.path)
    other.call("vault", "admin.vm.Start")
    other.call("work", "admin.vm.Start")
    assert [listener.next()[1] for _ in range(2)] == ["domain-pre-start", "domain-start"]
    other.call("work", "admin.vm.Pause")
    assert listener.next() == ("work", "domain-paused", {})
    other.call("work", "admin.vm.feature.Set", "x-a", b"1")
    assert listener.next()[1:] == ("domain-feature-set:x-a", {"feature": "x-a", "value": "1"})
    other.call("work", "admin.vm.firewall.Set", "", b"action=drop\n")
    assert listener.next() == ("work", "firewall-changed", {})


def test_the_socket_goes_with_the_server(embedded, address, tmp_path):
    with serving(address, embedded):
        assert ask(address, "dom0", "admin.vm.List")
        with pytest.raises(OSError, match="in use"):
            Server(address, embedded)
        assert ask(address, "dom0", "admin.vm.List")
    assert not (tmp_path / "qubesd.sock").exists()


def test_a_socket_left_behind_is_replaced(embedded, address):
    left = socket.socket(socket.AF_UNIX)
    left.bind(address)
    left.close()
    with serving(address, embedded):
        assert ask(address, "dom0", "admin.vm.List")


def test_the_command(tmp_path, address):
    module = "qubes_vpn_formula.embedded.server"
    state = tmp_path / "state.json"
    server = subprocess.Popen(
        [sys.executable, "-m", module, address, "--state", state, "--release", "4.2"]
    )
    try:
        while not (tmp_path / "qubesd.sock").exists():
            assert server.poll() is None
            time.sleep(0.02)
        assert b"RemoteVM" not in ask(address, "dom0", "admin.vmclass.List")
    finally:
        server.terminate()
        server.wait()
    assert server.returncode == 0
    assert not (tmp_path / "qubesd.sock").exists()
