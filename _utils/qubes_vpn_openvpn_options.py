# SPDX-License-Identifier: GPL-2.0-or-later
"""OpenVPN's options, by what they mean for a VPN qube.

Names and meanings: openvpn(8) and ``src/openvpn/options.c`` of OpenVPN 2.7.
"""


def _words(text):
    return frozenset(text.split())


#: Options whose argument is a file (or that stand inline, as <ca>...</ca>); True: it is secret.
FILES = {
    "askpass": True,
    "auth-user-pass": True,
    "ca": False,
    "capath": False,
    "cert": False,
    "crl-verify": False,
    "dh": False,
    "extra-certs": False,
    "http-proxy-user-pass": True,
    "key": True,
    "pkcs12": True,
    "secret": True,
    "tls-auth": True,
    "tls-crypt": True,
    "tls-crypt-v2": True,
}

#: Options that only a server has: the file is not a client's profile.
SERVER = _words("""
    client-config-dir client-to-client duplicate-cn ifconfig-pool max-clients push server
    server-bridge server-ipv6 tls-server
""")

_SCRIPT = "a program that would run in the VPN qube; it is not taken over"
_WINDOWS = "for Windows only; it has no effect here"
_ROUTE = "a route of the profile's own: it may lead past the tunnel; it is not taken over"

#: Options to name to the user: what is to be said, and whether they are dangerous.
NAMED = {
    **dict.fromkeys(
        (
            "up",
            "down",
            "route-up",
            "route-pre-down",
            "ipchange",
            "tls-verify",
            "plugin",
            "iproute",
            "auth-user-pass-verify",
            "client-connect",
            "client-disconnect",
            "learn-address",
            "dns-updown",
            "tls-crypt-v2-verify",
        ),
        (_SCRIPT, True),
    ),
    **dict.fromkeys(
        (
            "allow-nonadmin",
            "block-outside-dns",
            "cryptoapicert",
            "dhcp-pre-release",
            "dhcp-release",
            "dhcp-renew",
            "dhcp-internal",
            "ip-win32",
            "pause-exit",
            "register-dns",
            "route-method",
            "service",
            "show-adapters",
            "show-net-up",
            "tap-sleep",
            "win-sys",
            "windows-driver",
        ),
        (_WINDOWS, False),
    ),
    **dict.fromkeys(("route", "route-ipv6", "route-gateway", "route-ipv6-gateway"), (_ROUTE, True)),
    "route-nopull": ("the server's routes are ignored: nothing would go into the tunnel", True),
    "route-noexec": ("no routes are set: nothing would go into the tunnel", True),
    "redirect-private": ("the default route stays outside the tunnel", True),
    "pull-filter": (
        "settings of the server are ignored, its routes or DNS perhaps among them",
        True,
    ),
    "allow-recursive-routing": ("the tunnel's packets may go into the tunnel", True),
    "config": (
        "another file is read, and the servers in it are not pinned; put it into this one",
        True,
    ),
    "management": ("another program may control the tunnel; it is not taken over", True),
    "float": ("answers may come from other addresses; the killswitch drops those", False),
    "remote-random-hostname": (
        "a random part before the host name; the plain name is what gets pinned",
        False,
    ),
    "static-challenge": (
        "asks for a code at every start: the tunnel cannot start by itself",
        False,
    ),
    "cd": ("a folder of another machine; all files belong into the VPN qube, side by side", False),
    "chroot": ("a folder of another machine; it is not taken over", False),
    "log": ("writes a log file of its own; it is not taken over", False),
    "log-append": ("writes a log file of its own; it is not taken over", False),
    "mark": ("a mark for routing rules of its own; it is not taken over", False),
    "compress": ("compression can give away what is in the tunnel (VORACLE)", True),
    "comp-lzo": ("compression can give away what is in the tunnel (VORACLE)", True),
}

#: Everything else that a client understands and that needs no word.
QUIET = _words("""
    allow-compression allow-pull-fqdn auth auth-gen-token auth-nocache auth-retry auth-token
    auth-token-user bcast-buffers bind bind-dev block-ipv6 cipher client client-nat
    comp-noadapt compat-mode compat-names connect-freq connect-retry connect-retry-max
    connect-timeout connection daemon data-ciphers data-ciphers-fallback dev dev-node
    dev-type dhcp-option disable-dco disable-occ dns down-pre ecdh-curve echo engine
    errors-to-stderr explicit-exit-notify fast-io force-tls-key-material-export fragment
    group hand-window ifconfig ifconfig-ipv6 ifconfig-nowarn ignore-unknown-option inactive
    keepalive key-derivation key-direction keying-material-exporter link-mtu lladdr local
    lport machine-readable-output max-packet-size max-routes mlock mode mssfix mtu-disc
    mtu-dynamic mtu-test multihome mute mute-replay-warnings ncp-ciphers ncp-disable nice
    no-iv no-name-remapping no-replay nobind ns-cert-type parameter passtos peer-fingerprint
    peer-id persist-key persist-local-ip persist-remote-ip persist-tun ping ping-exit
    ping-restart ping-timer-rem pkcs11-cert-private pkcs11-id pkcs11-pin-cache
    pkcs11-private-mode pkcs11-protected-authentication pkcs11-providers port preresolve
    prng proto proto-force providers pull push-peer-info rcvbuf redirect-gateway remap-usr1
    remote remote-cert-eku remote-cert-ku remote-cert-tls remote-random reneg-bytes
    reneg-pkts reneg-sec replay-persist replay-window resolv-retry route-delay route-metric
    rport script-security server-poll-timeout session-timeout setcon setenv setenv-safe
    shaper single-session sndbuf socket-flags status status-version suppress-timestamps
    syslog tcp-nodelay tcp-queue-limit tls-cert-profile tls-cipher tls-ciphersuites
    tls-client tls-exit tls-export-cert tls-groups tls-timeout tls-version-max
    tls-version-min tmp-dir topology tran-window tun-ipv6 tun-mtu tun-mtu-extra tun-mtu-max
    txqueuelen udp-mtu up-delay up-restart user verb verify-hash verify-x509-name writepid
    x509-track x509-username-field
""")

#: Name of a protocol -> (as the firewall calls it, IP version or 0 for either).
PROTOCOLS = {
    "udp": ("udp", 0),
    "udp4": ("udp", 4),
    "udp6": ("udp", 6),
    "tcp": ("tcp", 0),
    "tcp4": ("tcp", 4),
    "tcp6": ("tcp", 6),
    "tcp-client": ("tcp", 0),
    "tcp4-client": ("tcp", 4),
    "tcp6-client": ("tcp", 6),
}
