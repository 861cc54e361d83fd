# SPDX-License-Identifier: GPL-2.0-or-later
"""What stands for dom0's qrexec-client in the lab: runs a service of one of its qubes.

    python -m qubes_vpn_formula.lab.qrexec MAP QUBE SERVICE[+ARGUMENT] [USER]

MAP is a JSON file of `client`. A service is a program in the qube's /etc/qubes-rpc, which gets the
argument as qrexec gives it; Qubes' own `qubes.VMExec`, `qubes.VMShell` and `qubes.VMRootShell` need
no file. It ends with the service's exit code; 125 where there is no such qube and 127 where there
is no such service, as qrexec does. USER does not count: in the lab everybody is root.
"""

import json
import os
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from qubes_vpn_formula.lab.qube import ENVIRONMENT, Inside

#: In the qube: the file, and with an argument that it takes, if there is one.
_RUN = '[ -x "$0" ] || exit 127; exec "$0" "$@"'


def client(folder: Path, qubes: Mapping[str, Inside]) -> Path:
    """A program in `folder` for QUBES_VPN_QREXEC, for these running qubes by their dom0 names."""
    entries = folder / "qrexec.json"
    entries.write_text(json.dumps({name: qube.enter for name, qube in qubes.items()}), "utf-8")
    program = folder / "qrexec-client"
    words = shlex.join([sys.executable, "-m", __name__, str(entries)])
    checkout = shlex.quote(str(Path(__file__).parents[2]))
    program.write_text(f'#!/bin/sh\nPYTHONPATH={checkout} exec {words} "$@"\n', "utf-8")
    program.chmod(0o755)
    return program


def words(service: str) -> list[str]:
    """The command that a call of `service` runs in the qube."""
    name, _, argument = service.partition("+")
    if name == "qubes.VMExec":
        return [_decoded(word) for word in argument.split("+")]
    if name in ("qubes.VMShell", "qubes.VMRootShell"):
        return ["/bin/bash"]
    path = f"/etc/qubes-rpc/{name}"
    return ["/bin/sh", "-c", _RUN, path, *filter(None, [argument])]


def _decoded(word: str) -> str:
    """A word as qubesadmin.utils.encode_for_vmexec has written it: `-XX` a byte, `--` a minus."""
    plain = re.sub(
        rb"-(-|[0-9A-F]{2})",
        lambda found: b"-" if found[1] == b"-" else bytes([int(found[1], 16)]),
        word.encode("ascii"),
    )
    return os.fsdecode(plain)


def main() -> None:
    """The command line."""
    entries, name, service, *_ = sys.argv[1:]
    enter = json.loads(Path(entries).read_text("utf-8")).get(name)
    if enter is None:
        sys.exit(125)
    service_name, _, argument = service.partition("+")
    environment = {
        **ENVIRONMENT,
        "QREXEC_REMOTE_DOMAIN": "dom0",
        "QREXEC_SERVICE_FULL_NAME": f"{service_name}+{argument}",
        "QREXEC_SERVICE_ARGUMENT": argument,
    }
    os.execvpe(enter[0], [*enter, *words(service)], environment)  # noqa: S606


if __name__ == "__main__":
    main()
