# SPDX-License-Identifier: GPL-2.0-or-later
"""What a template needs, by kind and system: packages, services, repositories.

All names are here and nowhere else.  Those of Debian are in Debian 13's own package lists; Qubes'
own (``qubes-*``) and what they bring are in qubes-core-agent-linux ``debian/control`` and
``rpm_spec/core-agent.spec.in``; those of Fedora have spec files of Fedora's own, and
were never installed from there: dnf was seen with packages of these names (tests/salt).
"""

from pathlib import Path

#: Systems that a template may have: ``(ID, VERSION_ID)`` of os-release(5) -> its name.
SYSTEMS = {
    ("debian", "13"): "Debian 13",
    ("fedora", "42"): "Fedora 42",
    ("fedora", "43"): "Fedora 43",
}
_RELEASE = Path("/etc/os-release")

#: Nothing that is only recommended: that would be modem and wireless software.
OPTIONS = {
    "debian": {"install_recommends": False},
    "fedora": {"setopt": "install_weak_deps=False"},
}
PACKAGES = {
    "debian": {
        "every": (
            # The network itself, qubes-firewall, and so the hook of the killswitch; minimal
            # templates lack it.
            "qubes-core-agent-networking",
            # What the killswitch runs: they come with the one above, and are ours to keep.
            "nftables",
            "conntrack",
            "iproute2",
            "python3",
        ),
        # notify-send, and what shows its notices (qubes-core-agent recommends both).
        "tunnel": ("libnotify-bin", "mate-notification-daemon"),
        # It brings NetworkManager, makes it follow Qubes' uplink, and tells Qubes of its DNS.
        # The keyfile is ours, so none of NetworkManager's editors is needed.
        "wireguard": ("qubes-core-agent-network-manager", "network-manager", "wireguard-tools"),
        "openvpn": (
            "qubes-core-agent-network-manager",
            "network-manager",
            "network-manager-openvpn",
            "openvpn",
        ),
        # For its repository, which is reached by https.
        "mullvad": ("ca-certificates",),
        "dnscrypt": ("dnscrypt-proxy",),
    },
    "fedora": {
        "every": (
            "qubes-core-agent-networking",
            "nftables",
            "conntrack-tools",
            "iproute",
            "python3",
        ),
        # Fedora's notification-daemon has no D-Bus service: nothing would start it.
        "tunnel": ("libnotify", "mate-notification-daemon"),
        "wireguard": ("qubes-core-agent-network-manager", "NetworkManager", "wireguard-tools"),
        "openvpn": (
            "qubes-core-agent-network-manager",
            "NetworkManager",
            "NetworkManager-openvpn",
            "openvpn",
        ),
        "mullvad": ("ca-certificates",),
        "dnscrypt": ("dnscrypt-proxy",),
    },
}
#: What starts with the qube.  Without the qube's service flag network-manager, which dom0's part
#: sets, Qubes' own condition keeps NetworkManager off.
SERVICES = {
    "wireguard": ("NetworkManager",),
    "openvpn": ("NetworkManager",),
    "mullvad": ("mullvad-daemon",),
    "dnscrypt": ("dnscrypt-proxy",),
}
#: Those of them whose unit is the formula's own file, in the place where a mask would be.
OWN_UNITS = ("dnscrypt-proxy",)
#: Vendors' repositories: by kind, then as arguments of the state ``qubes_vpn.repository``.
#: Mullvad's, as its own repositories describe themselves (mullvadvpn-app,
#: ``ci/linux-repository-builder``).  ``only`` are the packages that may come from there.
REPOSITORIES = {
    "mullvad": {
        "name": "mullvad",
        "fingerprint": "A1198702FC3E0A09A9AE5B75D5A1D4F266DE8DDF",
        "only": ("mullvad-vpn",),
        "debian": {
            "uri": "https://repository.mullvad.net/deb/stable",
            "key": "https://repository.mullvad.net/deb/mullvad-keyring.asc",
        },
        "fedora": {
            "uri": "https://repository.mullvad.net/rpm/stable/$basearch",
            "key": "https://repository.mullvad.net/rpm/mullvad-keyring.asc",
        },
    },
}
#: A desktop's own packages: their names are the same in Debian and Fedora.
DESKTOPS = {
    "xfce4-session": "Xfce",
    "xfdesktop4": "Xfce",
    "xfdesktop": "Xfce",
    "gnome-shell": "GNOME",
    "gnome-session": "GNOME",
    "plasma-workspace": "KDE Plasma",
    "mate-session-manager": "MATE",
    "cinnamon-session": "Cinnamon",
    "lxqt-session": "LXQt",
    "lxsession": "LXDE",
}


class Unsupported(Exception):
    """A template of a system for which no packages are known; the argument says so."""


def family():
    """``debian`` or ``fedora``, of the system that this runs in; raises :class:`Unsupported`."""
    found = {}
    for line in _RELEASE.read_text("utf-8").splitlines():
        key, _, value = line.partition("=")
        found[key] = value.strip("\"'")
    system = found.get("ID", "?"), found.get("VERSION_ID", "?")
    if system not in SYSTEMS:
        known = ", ".join(SYSTEMS.values())
        raise Unsupported(
            f"this is {' '.join(system)}, and a tunnel's template is one of: {known}. "
            "Name another one as the tunnel's template, or clone_of one of these"
        )
    return system[0]


def needs(kinds):
    """All that this template needs for tunnels of these *kinds*, as data for the SLS.

    ``options`` are arguments of Salt's ``pkg.install``.  Raises :class:`Unsupported`.
    """
    system = family()
    return {
        "packages": packages(kinds, system),
        "options": OPTIONS[system],
        "repositories": repositories(kinds, system),
        "services": services(kinds),
        "own_units": list(OWN_UNITS),
    }


def packages(kinds, system):
    """Names of the distribution's packages for these *kinds*; system: :func:`family`."""
    common = ("every", "tunnel") if {*kinds} - {"dnscrypt"} else ("every",)
    names = [name for kind in (*common, *kinds) for name in PACKAGES[system][kind]]
    return list(dict.fromkeys(names))


def services(kinds):
    """Names of the services that start with the qube."""
    return list(dict.fromkeys(name for kind in kinds for name in SERVICES[kind]))


def repositories(kinds, system):
    """The vendors' repositories for *kinds*: arguments of the state ``qubes_vpn.repository``."""
    found = [REPOSITORIES[kind] for kind in kinds if kind in REPOSITORIES]
    return [
        {
            "name": repository["name"],
            "fingerprint": repository["fingerprint"],
            "only": list(repository["only"]),
            **repository[system],
        }
        for repository in found
    ]
