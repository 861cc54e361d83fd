# SPDX-License-Identifier: GPL-2.0-or-later
"""A server in the internet that tells its clients where they seem to come from."""

from contextlib import contextmanager
from subprocess import PIPE

from qubes_vpn_formula.lab.machine import SERVER, Lab

_PORT = 8080
_SERVE = f"""
import socket
listening = socket.create_server(("::", {_PORT}), family=socket.AF_INET6, dualstack_ipv6=True)
print("ready", flush=True)
while True:
    connection, peer = listening.accept()
    connection.sendall(peer[0].removeprefix("::ffff:").encode())
    connection.close()
"""
_ASK = f"""
import socket, sys
with socket.create_connection((sys.argv[1], {_PORT}), float(sys.argv[2])) as connection:
    print(connection.recv(100).decode(), end="")
"""


@contextmanager
def server(lab: Lab):
    """Runs it."""
    process = lab.internet.popen(["python3", "-c", _SERVE], stdout=PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    try:
        yield
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def seen_as(lab: Lab, name: str, family: int, patience: float = 3) -> str:
    """The source address that a qube has at the server; empty when it gets no answer."""
    command = ["python3", "-c", _ASK, SERVER[family], str(patience)]
    return lab.qubes[name].run(command, check=False).stdout
