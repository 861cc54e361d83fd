# SPDX-License-Identifier: GPL-2.0-or-later
"""A lab's qube as a Debian 13 template in which all software is installed: nothing to fetch."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from qubes_vpn_formula.lab.qube import Qube

_CHECKOUT = Path(__file__).resolve().parents[1]


def debian_13(qube: Qube, kinds: tuple[str, ...] = ("wireguard", "openvpn")) -> None:
    """Makes the qube look so, for NetworkManager's kinds of tunnel.

    dpkg, systemctl and Salt are real; the packages are entries of dpkg's, and one unit.
    """
    qube.write("/usr/lib/os-release", "ID=debian\nVERSION_ID=13\nNAME=Debian\n")
    stanza = "\nPackage: {}\nStatus: install ok installed\nVersion: 13\nArchitecture: all\n"
    stanza += "Maintainer: none\nDescription: stand-in\n"
    names = _software().packages(kinds, "debian")
    have = qube.run(["dpkg-query", "-W", "-f", "${Package}\\n"]).stdout.split()
    text = "".join(stanza.format(name) for name in names if name not in have)
    qube.run("cat >> /var/lib/dpkg/status", input=text)
    unit = "/usr/lib/systemd/system/NetworkManager.service"
    qube.write(unit, "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n")
    if "dnscrypt" in kinds:
        qube.write("/usr/sbin/dnscrypt-proxy", "#!/bin/sh\n", 0o755)
    # There is no systemd here, so systemctl looks at the files, as it does in a chroot.
    qube.run("mkdir -p /run/systemd/system; mv /usr/bin/systemctl /usr/bin/systemctl.real")
    script = '#!/bin/sh\nSYSTEMD_OFFLINE=1 exec /usr/bin/systemctl.real "$@"\n'
    qube.write("/usr/bin/systemctl", script, 0o755)
    qube.run(["systemctl", "enable", "NetworkManager"])


def _software() -> ModuleType:
    """The core's module by its file: beside Salt 3006 the core is not installed."""
    module = "qubes_vpn_packages"
    found = spec_from_file_location(module, _CHECKOUT / f"_utils/{module}.py")
    loaded = module_from_spec(found)
    found.loader.exec_module(loaded)
    return loaded
