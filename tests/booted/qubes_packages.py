# SPDX-License-Identifier: GPL-2.0-or-later
"""Stand-ins for packages that are not Debian's, with their names and what they bring.

apt finds them in a folder of the template.
"""

import hashlib
import subprocess
from collections.abc import Mapping
from pathlib import Path

from qubes_vpn_formula.lab.booted.machine import Template

#: qubes-core-agent-linux, debian/control.
QUBES = {
    "qubes-core-agent": "",
    "qubes-core-agent-networking": "qubes-core-agent, nftables, conntrack, socat, iproute2",
    "qubes-core-agent-network-manager": "qubes-core-agent-networking, libglib2.0-bin, "
    "network-manager, polkitd",
}
#: What shows notices on a desktop: Debian's, and large.
NOTICES = {"libnotify-bin": "", "mate-notification-daemon": ""}


def offer(template: Template, folder: Path, packages: Mapping[str, str] = QUBES) -> None:
    """Let a template that runs install them.  packages: with what each depends on."""
    inside = Path("/proc", str(template.pid), "root", "srv/qubes")
    inside.mkdir()
    for name, depends in packages.items():
        control = folder / name / "DEBIAN/control"
        control.parent.mkdir(parents=True)
        fields = {"Package": name, "Version": "9:4.4.2", "Architecture": "all", "Depends": depends}
        fields |= {"Maintainer": "nobody", "Description": "stand-in"}
        control.write_text("".join(f"{key}: {text}\n" for key, text in fields.items() if text))
        words = ["dpkg-deb", "--build", str(folder / name), str(inside)]
        subprocess.run(words, check=True, capture_output=True)
    # apt wants a list; a package's own control file is its entry there.
    entries = ""
    for file in sorted(inside.glob("*.deb")):
        words = ["dpkg-deb", "--field", str(file)]
        said = subprocess.run(words, check=True, capture_output=True, text=True).stdout
        data = file.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        entries += f"{said}Filename: ./{file.name}\nSize: {len(data)}\nSHA256: {digest}\n\n"
    (inside / "Packages").write_text(entries)
    template.write("/etc/apt/sources.list.d/qubes.list", "deb [trusted=yes] file:/srv/qubes ./\n")
