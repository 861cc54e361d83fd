# SPDX-License-Identifier: GPL-2.0-or-later
"""What the lab needs of the machine that it runs on, and what it found there."""

import importlib.util
import os
import platform
import shutil
import subprocess
from datetime import UTC, datetime

#: Programs and the Debian packages that have them.
_PACKAGES = {
    "conntrack": "conntrack",
    "ip": "iproute2",
    "nft": "nftables",
    "nsenter": "util-linux",
    "openssl": "openssl",
    "openvpn": "openvpn",
    "ping": "iputils-ping",
    "socat": "socat",
    "tcpdump": "tcpdump",
    "unshare": "util-linux",
    "wg": "wireguard-tools",
    "wireguard-go": "wireguard-go",
}
#: Programs whose versions belong to a result, and how they tell them.
_VERSIONS = {
    "nft": ["nft", "--version"],
    "wireguard-go": ["wireguard-go", "--version"],
    "openvpn": ["openvpn", "--version"],
    "tcpdump": ["tcpdump", "--version"],
    "iproute2": ["ip", "-V"],
}


def missing() -> list[str]:
    """Debian packages that have to be installed, sorted."""
    packages = {package for name, package in _PACKAGES.items() if not shutil.which(name)}
    if not importlib.util.find_spec("scapy"):
        packages.add("python3-scapy")
    return sorted(packages)


def refusal() -> str | None:
    """Why no network namespace can be made here; None when one can."""
    if os.geteuid():
        return "it makes network namespaces, and only root may"
    words = ["unshare", "--net", "--mount", "--uts", "--pid", "--fork", "true"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return f"no network namespace can be made: {done.stderr.strip()}" if done.returncode else None


def machine() -> dict[str, str]:
    """Facts that a result may depend on, by their names."""
    facts = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processors": str(os.cpu_count()),
        "Python": platform.python_version(),
    }
    for name, command in _VERSIONS.items():
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        said = (done.stdout or done.stderr).splitlines()
        facts[name] = said[0].strip() if said else "unknown"
    return facts
