# SPDX-License-Identifier: GPL-2.0-or-later
"""qubes-firewall.service of a checkout: systemd's part of a unit of type notify-reload."""

import contextlib
import os
import queue
import signal
import socket
import threading
import time

from qubes_vpn_formula.lab.agent.shims.python.qubesdb import QubesDB
from qubes_vpn_formula.lab.qube import CommandFailed, Process, Qube

#: Seconds for a reload, for a stop, or for a change to be dealt with.
_PATIENCE = 60
_SOCKET = "/run/qubes-firewall.notify"


class Worker:
    """The worker of one qube.

    Unlike systemd it does not start the worker again by itself after a kill; the caller does.
    Methods raise :class:`qubes_vpn_formula.lab.qube.CommandFailed`, with the worker's own output.
    """

    def __init__(self, qube: Qube, environment: dict[str, str], database: QubesDB) -> None:
        self._qube = qube
        self._environment = environment
        self._database = database
        self._process: Process | None = None
        self._states: queue.Queue[str] = queue.Queue()

    @property
    def runs(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    def start(self, patience: float) -> None:
        """Start it unless it runs; returns when it is ready and has loaded the clients' rules.

        patience: seconds until it and its hooks are killed, because it is not ready.
        """
        if self.runs:
            return
        self._states = queue.Queue()
        notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._qube.run(["rm", "-f", _SOCKET])
        notify.bind(f"/proc/{self._qube.pid}/root{_SOCKET}")
        self._database.unsettle()
        self._process = self._qube.popen(
            ["/usr/bin/qubes-firewall"], env=self._environment | {"NOTIFY_SOCKET": _SOCKET}
        )
        # A thread, because the kernel queues no more than ten messages and then blocks the worker.
        listen = threading.Thread(
            target=_listen, args=(notify, self._process, self._states), daemon=True
        )
        listen.start()
        try:
            self._wait_ready(patience)
        except CommandFailed:
            self.kill()
            raise
        self.settle()

    def reload(self) -> None:
        """SIGHUP; returns when it says that it is ready again."""
        if not self.runs:
            raise CommandFailed(f"{self._qube.name}: qubes-firewall is not active, cannot reload")
        self.settle()
        with contextlib.suppress(queue.Empty):
            while True:
                self._states.get_nowait()
        self._process.send_signal(signal.SIGHUP)
        self._wait_ready(_PATIENCE)

    def stop(self) -> None:
        """SIGTERM, and wait: it removes its tables as it goes."""
        if self.runs:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(_PATIENCE)

    def kill(self) -> None:
        """SIGKILL to it and, as systemd does, to what it has started; and wait."""
        if self.runs:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def settle(self) -> None:
        """Wait until it, if it runs, has dealt with every change of QubesDB so far."""
        deadline = time.monotonic() + _PATIENCE
        while self.runs and not self._database.settled():
            if time.monotonic() > deadline:
                raise self._failed("does not follow QubesDB")
            time.sleep(0.01)

    def _wait_ready(self, patience: float) -> None:
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            with contextlib.suppress(queue.Empty):
                if "READY=1" in self._states.get(timeout=0.1).splitlines():
                    return
                continue
            if not self.runs:
                raise self._failed("ended before it was ready")
        raise self._failed("is not ready")

    def _failed(self, what: str) -> CommandFailed:
        log = self._qube.run(["cat", "/run/qubes-firewall.log"], check=False).stdout
        return CommandFailed(f"{self._qube.name}: qubes-firewall {what}\n{log}")


def _listen(notify: socket.socket, process: Process, states: "queue.Queue[str]") -> None:
    """Pass on what the worker tells systemd, until it ends."""
    notify.settimeout(0.5)
    with notify:
        while process.poll() is None:
            with contextlib.suppress(TimeoutError):
                states.put(notify.recv(4096).decode())
