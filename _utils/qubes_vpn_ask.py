# SPDX-License-Identifier: GPL-2.0-or-later
"""Asking a running qube from dom0, by a qrexec service.

What comes back is the qube's word: so many bytes and not more, in so many seconds and not more, and
not looked at here.  A call from dom0 passes no policy (qubes-core-admin-client,
``qubesadmin/app.py``: it runs ``qrexec-client -d QUBE``).
"""

import contextlib
import os
import select
import selectors
import signal
import subprocess
import time

from qubes_vpn_qubesd import Refused, in_words

#: Bytes and seconds, where the caller says no others.
MOST, SECONDS = 65536, 30
_CHUNK = 65536
#: What the exit codes mean that qrexec has for itself (qubes-core-qrexec, ``libqrexec/qrexec.h``).
_CODES = {
    125: "qrexec had a problem of its own. Is the qube whole: qvm-ls {name}",
    126: "refuses {service}",
    127: "has no service {service}. Apply the formula to its template, and restart it",
}
#: Of them, those with which nothing was started.
_NOT_STARTED = (126, 127)


class NoAnswer(Exception):
    """There is no answer that can be used: the text is a sentence that says why."""


class Unsure(NoAnswer):
    """The qube was asked, and may have done it."""


class Silent(Unsure):
    """It gave no whole answer in time, or too much of one."""


def ask(app, name, service, payload=b"", *, most=MOST, seconds=SECONDS, user="root"):
    """The bytes that *service* of the qube *name* answers to *payload*; raises :class:`NoAnswer`.

    app: a ``qubesadmin.Qubes`` without a cache, as ``qubes_vpn_qubesd.connect`` gives one: what a
    cache has of the qube's power state may be old.  service: with ``+ARGUMENT``, if it takes one.
    user: in the qube; ``DEFAULT`` is the qube's own.

    A qube that does not run, or is paused, is not asked, and not started.  Whatever happens here,
    the client has ended afterwards, and with it the connection.
    """
    with _in_words(name):
        process = _call(app, name, service, user)
    until = time.monotonic() + seconds
    try:
        told = _exchange(process, payload, most, until)
        code = process.wait(max(0.1, until - time.monotonic()))
    except (TimeoutError, subprocess.TimeoutExpired):
        raise Silent(f"{name}: no whole answer to {service} within {seconds} seconds.") from None
    except OverflowError:
        raise Silent(f"{name}: more than {most} bytes in answer to {service}.") from None
    finally:
        _end(process)
    if code:
        what = _CODES.get(code, "{service} ended with " + str(code))
        kind = NoAnswer if code in _NOT_STARTED else Unsure
        raise kind(f"{name}: {what.format(name=name, service=service)}.")
    return told


class Hearing:
    """A service that goes on telling, line by line, until :meth:`close`; a context manager.

    Arguments are those of :func:`ask`, whose limits are for all that it tells.
    """

    def __init__(self, app, name, service, payload=b"", *, most=MOST, seconds=SECONDS, user="root"):
        self.name, self._service, self._most = name, service, most
        self._until = time.monotonic() + seconds
        self._told = b""
        with _in_words(name):
            self._process = _call(app, name, service, user)
        try:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(payload)
                self._process.stdin.close()
        except BaseException:
            self.close()
            raise

    def line(self, within=None):
        """Its next line, of bytes; raises :class:`Silent`, also after *within* seconds."""
        until = self._until if within is None else time.monotonic() + within
        while b"\n" not in self._told:
            left = max(0, min(until, self._until) - time.monotonic())
            wire = self._process.stdout
            chunk = b""
            if select.select([wire], [], [], left)[0]:
                chunk = os.read(wire.fileno(), _CHUNK)
            self._most -= len(chunk)
            if not chunk or self._most < 0:
                raise Silent(f"{self.name}: {self._service} does not tell what it should.")
            self._told += chunk
        line, self._told = self._told.split(b"\n", 1)
        return line

    def close(self):
        """Ends it; may be called again."""
        _end(self._process)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def expect_running(app, name):
    """Raises :class:`NoAnswer` unless the qube *name* is one that could be asked now."""
    with _in_words(name):
        _expect_running(app, name)


def _expect_running(app, name):
    answer = app.qubesd_call(name, "admin.vm.CurrentState").decode("ascii", "replace")
    state = dict(word.partition("=")[::2] for word in answer.split()).get("power_state")
    if state != "Running":
        raise NoAnswer(f"{name}: does not run ({state}). In dom0: qvm-start {name}.")


def _call(app, name, service, user):
    _expect_running(app, name)
    return app.domains.get_blind(name).run_service(
        service,
        user=user,
        autostart=False,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # so that it can be ended with all that it started
    )


def _exchange(process, payload, most, until):
    """All that it says.  Raises TimeoutError, OverflowError."""
    told, left = bytearray(), memoryview(payload)
    os.set_blocking(process.stdin.fileno(), False)
    with selectors.DefaultSelector() as wires:
        wires.register(process.stdout, selectors.EVENT_READ)
        wires.register(process.stdin, selectors.EVENT_WRITE)
        while process.stdout in wires.get_map():
            ready = wires.select(max(0, until - time.monotonic()))
            if not ready or time.monotonic() > until:
                raise TimeoutError
            for key, _ in ready:
                if key.fileobj is process.stdout:
                    chunk = os.read(process.stdout.fileno(), min(_CHUNK, most + 1 - len(told)))
                    told += chunk
                    if len(told) > most:
                        raise OverflowError
                    if not chunk:
                        wires.unregister(process.stdout)
                    continue
                with contextlib.suppress(BlockingIOError):
                    try:
                        left = left[os.write(process.stdin.fileno(), left) :] if left else left
                    except BrokenPipeError:
                        left = left[:0]  # it does not want to know more
                if not left:
                    wires.unregister(process.stdin)
                    with contextlib.suppress(BrokenPipeError):
                        process.stdin.close()
    return bytes(told)


def _end(process):
    if process.returncode is None:  # until it is waited for, its number is nobody else's
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    for wire in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):
            wire.close()
    process.wait()


@contextlib.contextmanager
def _in_words(name):
    try:
        with in_words(f"{name} could not be asked"):
            yield
    except Refused as refused:
        raise NoAnswer(f"{refused}.") from refused
