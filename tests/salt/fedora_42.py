# SPDX-License-Identifier: GPL-2.0-or-later
"""A lab's qube as a minimal Fedora 42 template: Debian's dnf and rpm, and packages without content.

Names and what they need are those of qubes-core-agent-linux' ``rpm_spec/core-agent.spec.in``; the
others bring a unit or a program where our states look for one.  Not as in Fedora: its packages' own
scripts and files, SELinux, and dnf5, which Debian has not.  Salt runs ``dnf5`` where it is, with
its order of arguments; here that is dnf 4 under this name.
"""

import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from gpg_keys import Keys

from qubes_vpn_formula.lab.qube import Qube

#: The mirror, and below it Fedora's packages: behind the updates proxy.
MIRROR, REPOSITORY = "fedora.example.org", "fedora/42"
#: What a package needs, and what it only recommends.
NEEDS = {
    "fedora-release": "",
    "python3": "",
    "iproute": "",
    "conntrack-tools": "",
    "nftables": "",
    "socat": "",
    "tinyproxy": "",
    "qubes-core-agent": "",
    "qubes-core-agent-networking": "conntrack-tools, iproute, nftables, socat, tinyproxy, "
    "qubes-core-agent",
    "qubes-core-agent-network-manager": "NetworkManager, qubes-core-agent-networking",
    "NetworkManager": "",
    "NetworkManager-wwan": "NetworkManager",
    "NetworkManager-openvpn": "NetworkManager, openvpn",
    "openvpn": "",
    "wireguard-tools": "",
    "libnotify": "",
    "mate-notification-daemon": "libnotify",
    "ca-certificates": "",
    "dnscrypt-proxy": "",
    "needy": "nothing-has-this",
}
_RECOMMENDS = {"NetworkManager": "NetworkManager-wwan"}
_PROVIDES = {"fedora-release": "system-release = 42-1"}
#: Of a template before the formula, as Qubes' builder leaves a minimal one.
MINIMAL = ("fedora-release", "python3", "qubes-core-agent")
_UNIT = "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n"
_FILES = {
    "NetworkManager": {"/usr/lib/systemd/system/NetworkManager.service": _UNIT},
    "dnscrypt-proxy": {"/usr/sbin/dnscrypt-proxy": "#!/bin/sh\n"},
    "mullvad-vpn": {
        "/usr/lib/systemd/system/mullvad-daemon.service": _UNIT,
        "/usr/bin/mullvad": "#!/bin/sh\n",
    },
}
_RELEASE = """NAME="Fedora Linux"
VERSION="42 (Container Image)"
ID=fedora
VERSION_ID=42
PLATFORM_ID="platform:f42"
PRETTY_NAME="Fedora Linux 42"
"""
#: As Fedora has it, and what Qubes' ``network/update-proxy-configs`` adds.
DNF = """[main]
gpgcheck=True
installonly_limit=3
clean_requirements_on_remove=True
best=False
skip_if_unavailable=True
### QUBES BEGIN ###
proxy=http://127.0.0.1:8082/
### QUBES END ###
"""
_KEY = "/etc/pki/rpm-gpg/RPM-GPG-KEY-fedora-42"


def fedora_42(qube: Qube, keys: Keys, folder: Path) -> Path:
    """Makes the qube look so.  Returns what MIRROR has, a folder with REPOSITORY in it.

    keys: has one by the name ``fedora``.
    """
    www = folder / "www"
    packages = build(folder / "fedora", NEEDS)
    publish(packages.values(), www / REPOSITORY, keys, "fedora")
    for path, text in {
        "/usr/lib/os-release": _RELEASE,
        "/etc/rpm/macros": "%_dbpath /usr/lib/sysimage/rpm\n",
        "/etc/dnf/dnf.conf": DNF,
        _KEY: keys.public("fedora"),
        "/etc/yum.repos.d/fedora.repo": f"[fedora]\nname=Fedora\ngpgcheck=1\nenabled=1\n"
        f"baseurl=https://{MIRROR}/{REPOSITORY}/\ngpgkey=file://{_KEY}\n",
    }.items():
        qube.write(path, text)
    # Whoever took it for a Debian would not get far.
    qube.run("rm /usr/bin/apt-get /usr/bin/dpkg /usr/bin/dpkg-query; ln -s dnf /usr/bin/dnf5")
    install(qube, *(packages[name] for name in MINIMAL))
    # There is no systemd here, so systemctl looks at the files, as it does in a chroot.
    qube.run("mkdir -p /run/systemd/system; mv /usr/bin/systemctl /usr/bin/systemctl.real")
    script = '#!/bin/sh\nSYSTEMD_OFFLINE=1 exec /usr/bin/systemctl.real "$@"\n'
    qube.write("/usr/bin/systemctl", script, 0o755)
    return www


def install(qube: Qube, *packages: Path) -> None:
    """Past dnf."""
    copies = {f"/var/cache/{package.name}": (package.read_bytes(), 0o644) for package in packages}
    qube.unpack(copies)
    # Debian's rpm asks for that option.
    qube.run(["rpm", "--force-debian", "--install", "--nodeps", *copies])


def build(folder: Path, needs: dict[str, str], version: int = 1) -> dict[str, Path]:
    """Packages by name, in *folder*, unsigned."""
    lines = ["Name: stand-ins", f"Version: {version}", "Release: 1.fc42", "Summary: stand-in"]
    lines += ["License: none", "BuildArch: noarch", "%description", "%install"]
    for name in needs:
        for path, text in _FILES.get(name, {}).items():
            mode = 644 if text is _UNIT else 755
            lines += [f"install -D -m {mode} /dev/stdin %{{buildroot}}{path} <<'END'", text, "END"]
    for name, what in needs.items():
        lines += [f"%package -n {name}", "Summary: stand-in", "AutoReqProv: no"]
        more = {"Requires": what, "Recommends": _RECOMMENDS.get(name)}
        more["Provides"] = _PROVIDES.get(name)
        lines += [f"{key}: {value}" for key, value in more.items() if value]
        lines += [f"%description -n {name}", f"%files -n {name}", *_FILES.get(name, ())]
    folder.mkdir(parents=True)
    spec = folder / "stand-ins.spec"
    spec.write_text("\n".join(lines) + "\n")
    top = [f"--define=_topdir {folder}/build", f"--define=_rpmdir {folder}"]
    _run("rpmbuild", "-bb", "--quiet", *top, str(spec))
    return {name: folder / f"noarch/{name}-{version}-1.fc42.noarch.rpm" for name in needs}


def publish(packages: Iterable[Path], folder: Path, keys: Keys, key: str | None) -> None:
    """A repository of them in *folder*, anew, signed by that key."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.rpm"):
        old.unlink()
    for package in packages:
        (folder / package.name).write_bytes(package.read_bytes())
    if key:
        # Debian's rpm does not look for gpg on PATH.
        words = ["rpmsign", f"--define=__gpg {shutil.which('gpg')}", f"--define=_gpg_name {key}"]
        _run(*words, "--addsign", *map(str, folder.glob("*.rpm")), GNUPGHOME=str(keys.home))
    _run("createrepo_c", "--quiet", str(folder))


def installed(qube: Qube) -> set[str]:
    """Names of the packages, by rpm."""
    return set(qube.run(["rpm", "-qa", "--qf", "%{NAME}\\n"]).stdout.split())


def _run(*words: str, **environ: str) -> None:
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, env={**os.environ, **environ}
    )
    assert done.returncode == 0, done.stdout + done.stderr
