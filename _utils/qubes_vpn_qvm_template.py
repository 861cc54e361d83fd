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

import fcntl
import re
import shutil
from pathlib import Path

import qubes_vpn_program

_PROGRAM = "qvm-template"
#: The feature that it sets last: a template that has it is whole.
LAST_FEATURE = "template-description"
LOCK = "run/qubes/qvm-template.lock"
#: Seconds for a download of up to some GiB, perhaps through Tor.
_PATIENCE = 2 * 3600
#: Characters of its output that are repeated.
_SHOWN = 400


class NotInstalled(Exception):
    """The template was not installed: the text says why."""


def check(name):
    """Raises :class:`NotInstalled` where it is known beforehand that :func:`install` would."""
    if shutil.which(_PROGRAM) is None:
        raise NotInstalled(f"there is no program {_PROGRAM} in dom0")
    if name.endswith(".rpm"):
        raise NotInstalled(f"{_PROGRAM} would take {name} for a file")


def install(name):
    """Installs template *name*.  Raises :class:`NotInstalled`; then some of it may be there."""
    try:
        code, lines = qubes_vpn_program.run([_PROGRAM, *arguments(name)], _PATIENCE)
    except qubes_vpn_program.TooLong as error:
        raise NotInstalled(str(error)) from None
    said = _words(lines)
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


def _words(lines):
    """The last things that it said, on one line, without its usage (indented) and its own name.

    Some of it comes from the updatevm.
    """
    told = [line for line in lines if line and not line.startswith((" ", "usage:"))]
    told = [re.sub(rf"^({_PROGRAM}: error|ERROR): ", "", line).strip().rstrip(".") for line in told]
    return ". ".join(told[-3:])[-_SHOWN:]
