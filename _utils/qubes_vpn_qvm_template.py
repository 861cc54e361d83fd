# SPDX-License-Identifier: GPL-2.0-or-later
"""Qubes' own program for installing templates, as dom0 runs it (R20).

``qvm-template install NAME`` (qubes-core-admin-client, qubesadmin/tools/qvm_template.py and
qvm_template_postprocess.py, R4.2 and R4.3) has the qube that dom0 calls updatevm search and
download the package (qrexec qubes.TemplateSearch and qubes.TemplateDownload), checks its signature
in dom0, always, by the keys of dom0's repositories of templates, makes the template, writes its
root volume in one piece, starts it once without a netvm, and sets the features ``template-*`` last.
It ends with 0, also when there was a template of that name; with 1 after an error, with 2 when no
repository that is switched on has such a template.  One of them runs at a time.  Interrupted, it
takes a template without a system away again; killed, it leaves what there is.
"""

import contextlib
import fcntl
import os
import re
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

_PROGRAM = "qvm-template"
#: The feature that it sets last: a template that has it is whole.
LAST_FEATURE = "template-description"
LOCK = "run/qubes/qvm-template.lock"
#: Seconds for a download of up to some GiB, perhaps through Tor; and for ending when told to.
_PATIENCE, _GRACE = 2 * 3600, 60
#: Bytes of its output that are looked at, and characters of them that are repeated.
_READ, _SHOWN = 65536, 400


class NotInstalled(Exception):
    """The template was not installed: the text says why."""


def install(name):
    """Installs template *name*.  Raises :class:`NotInstalled`; then some of it may be there."""
    program = shutil.which(_PROGRAM)
    if program is None:
        raise NotInstalled(f"there is no program {_PROGRAM} in dom0")
    if name.endswith(".rpm"):
        raise NotInstalled(f"{_PROGRAM} would take {name} for a file")
    with tempfile.TemporaryFile() as output:
        code = _run([program, *arguments(name)], output)
        output.seek(max(0, output.tell() - _READ))
        said = _words(output.read().decode(errors="replace"))
    if code != 0:
        raise NotInstalled(f"{_PROGRAM} said: {said}" if said else f"{_PROGRAM} ended with {code}")
    if "already installed" in said:
        raise NotInstalled("one of that name came there meanwhile. Run this again")


def arguments(name):
    """Its command line for template *name*."""
    return ["install", "--quiet", name]


def busy(root):
    """Whether it runs on the machine whose files are under *root*: then it holds its lock."""
    try:
        with (Path(root) / LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _run(command, output):
    # A session of its own: whatever it started is stopped with it.
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        return process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        raise NotInstalled(f"{_PROGRAM} did not end within {_PATIENCE} seconds") from None
    finally:
        _stop(process)


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


def _words(output):
    """The last things that it said, on one line, without its usage (indented) and its own name.

    Some of it comes from the updatevm.
    """
    lines = []
    for line in re.split(r"[\r\n]+", output):
        text = "".join(mark for mark in line if mark.isprintable())
        if text and not text.startswith((" ", "usage:")):
            lines.append(re.sub(rf"^({_PROGRAM}: error|ERROR): ", "", text).strip().rstrip("."))
    return ". ".join(lines[-3:])[-_SHOWN:]
