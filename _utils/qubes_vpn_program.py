# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs of Qubes' own that dom0's steps run, for a bounded time, and never beyond ours."""

import contextlib
import os
import re
import signal
import subprocess
import tempfile

#: Seconds for ending when told to; bytes of the output that are looked at.
_GRACE, _READ = 60, 65536


class TooLong(Exception):
    """The program did not end in time, and was stopped."""


def run(command, patience):
    """Runs *command*, at most *patience* seconds; returns ``(exit code, the end of its output)``.

    The output's lines are a list, printable characters only.  Raises :class:`TooLong`.  Whatever
    happens here, the program and all that it started have ended afterwards.
    """
    with tempfile.TemporaryFile() as output:
        # A session of its own: whatever it started is stopped with it.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # Where ours is deaf to Ctrl-C (nohup, a script's `&`), it would inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        try:
            code = process.wait(patience)
        except subprocess.TimeoutExpired:
            raise TooLong(f"{command[0]} did not end within {patience} seconds") from None
        finally:
            _stop(process)
        output.seek(max(0, output.tell() - _READ))
        lines = re.split(r"[\r\n]+", output.read().decode(errors="replace"))
    return code, ["".join(mark for mark in line if mark.isprintable()) for line in lines]


def _stop(process):
    """Ends it and all that it started, if it still runs: as by Ctrl-C, so that it tidies up."""
    if process.poll() is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
