# SPDX-License-Identifier: GPL-2.0-or-later
"""OpenVPN's options, by what they mean for a VPN qube whose NetworkManager runs the tunnel.

Names and meanings: openvpn(8) and ``src/openvpn/options.c`` of OpenVPN 2.7; properties and what
NetworkManager adds by itself: ``src/nm-openvpn-service.c`` of NetworkManager-openvpn 1.12.3.
Each option stands in one place: it becomes a property, is said to the user (NAMED), is refused in
the qube (REFUSED), or has a reason why nothing is lost without it (HARMLESS).
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

_SCRIPT = "a program that would run in the VPN qube as root"
_CONTROL = "another program would control the tunnel"
_CHECK = "a check of the server's certificate that NetworkManager cannot make"
_DEVICE = "a key on a device or in another program's store, which the VPN qube does not have"
_ADDRESS = "addresses of its own: the server gives the tunnel its addresses"

#: Options with which the VPN qube takes no profile, and why.  What has no entry in any of these
#: tables is refused as well: OpenVPN would not start with it.
REFUSED = {
    **dict.fromkeys(
        _words("""
            auth-user-pass-verify client-connect client-disconnect dns-updown down iproute ipchange
            learn-address plugin route-pre-down route-up tls-crypt-v2-verify tls-verify up
        """),
        _SCRIPT,
    ),
    **dict.fromkeys(
        _words("""
            management management-client management-client-auth management-client-group
            management-client-user management-external-cert management-external-key
            management-forget-disconnect management-hold management-log-cache
            management-query-passwords management-query-proxy management-query-remote
            management-signal management-up-down
        """),
        _CONTROL,
    ),
    **dict.fromkeys(
        _words("peer-fingerprint remote-cert-eku remote-cert-ku verify-hash x509-username-field"),
        _CHECK,
    ),
    **dict.fromkeys(
        _words("""
            cryptoapicert engine pkcs11-cert-private pkcs11-id pkcs11-pin-cache
            pkcs11-private-mode pkcs11-protected-authentication pkcs11-providers providers
        """),
        _DEVICE,
    ),
    **dict.fromkeys(("ifconfig", "ifconfig-ipv6", "client-nat"), _ADDRESS),
    "capath": "a folder of certificates; NetworkManager takes one file (ca)",
    "pkcs12": "certificates and key in one file; NetworkManager takes them apart (ca, cert, key)",
    "secret": "a static key, without certificates; OpenVPN itself gives that up",
    "http-proxy-user-pass": "a proxy stands between the qube and the VPN server",
    "config": "another file is read, and the servers in it are not pinned",
    "static-challenge": "asks for a code at every start: the tunnel cannot start by itself",
}

_REMOVE = "Remove the line."
#: What to do about a reason of REFUSED; what has no entry takes another profile.
FIXES = {
    _SCRIPT: "Remove the line: NetworkManager sets addresses, routes and DNS itself.",
    _CONTROL: _REMOVE,
    _ADDRESS: _REMOVE,
    REFUSED["capath"]: "Put them into one file, and write 'ca FILE'.",
    REFUSED["pkcs12"]: "Take it apart with 'openssl pkcs12', and name the files.",
    REFUSED["config"]: "Put its lines in place of this one.",
}

_WINDOWS = "for Windows only; it has no effect here"
_ROUTE = "a route of the profile's own: it may lead past the tunnel; it is not taken over"
_ELSEWHERE = "a setting that NetworkManager has no place for; OpenVPN's own counts"

#: Options to name to the user: what is to be said, and whether they are dangerous.
NAMED = {
    **dict.fromkeys(
        _words("""
            allow-nonadmin block-outside-dns dhcp-internal dhcp-pre-release dhcp-release dhcp-renew
            ip-win32 pause-exit register-dns route-method service show-adapters show-net-up
            tap-sleep win-sys windows-driver
        """),
        (_WINDOWS, False),
    ),
    **dict.fromkeys(
        _words("route route-gateway route-ipv6 route-ipv6-gateway redirect-private"), (_ROUTE, True)
    ),
    **dict.fromkeys(
        _words("""
            compat-mode dns ecdh-curve inactive session-timeout tls-cert-profile
            tls-ciphersuites tls-groups
        """),
        (_ELSEWHERE, False),
    ),
    "route-nopull": (
        "the server's routes are ignored: nothing would go into the tunnel; it is not taken over",
        True,
    ),
    "route-noexec": (
        "no routes are set: nothing would go into the tunnel; it is not taken over",
        True,
    ),
    "pull-filter": (
        "settings of the server are ignored, its routes or DNS perhaps among them; "
        "it is not taken over",
        True,
    ),
    "allow-recursive-routing": (
        "the tunnel's packets may go into the tunnel; it is not taken over",
        True,
    ),
    "allow-pull-fqdn": (
        "the server may send names that the qube would look up; it is not taken over",
        False,
    ),
    "no-replay": ("packets could be sent again by others; it is not taken over", True),
    "float": ("answers may come from other addresses; the killswitch drops those", False),
    "remote-random-hostname": (
        "a random part before the host name; the plain name is what gets pinned",
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

#: Option -> property of NetworkManager-openvpn, for options with one argument: a number, a word.
NUMBERS = {
    "connect-timeout": "connect-timeout",
    "fragment": "fragment-size",
    "ping": "ping",
    "ping-exit": "ping-exit",
    "ping-restart": "ping-restart",
    "reneg-sec": "reneg-seconds",
    "server-poll-timeout": "connect-timeout",
    "tun-mtu": "tunnel-mtu",
}
WORDS = {
    "auth": "auth",
    "cipher": "cipher",
    "data-ciphers": "data-ciphers",
    "data-ciphers-fallback": "data-ciphers-fallback",
    "mtu-disc": "mtu-disc",
    "ncp-ciphers": "data-ciphers",
    "ns-cert-type": "ns-cert-type",
    "remote-cert-tls": "remote-cert-tls",
    "tls-cipher": "tls-cipher",
    "tls-version-max": "tls-version-max",
    "tls-version-min": "tls-version-min",
}
#: Without an argument.
FLAGS = {"push-peer-info": "push-peer-info", "remote-random": "remote-random"}
#: Options whose argument is a file, to properties.
FILE_PROPERTIES = {
    "ca": "ca",
    "cert": "cert",
    "crl-verify": "crl-verify-file",
    "extra-certs": "extra-certs",
    "key": "key",
    "tls-auth": "ta",
    "tls-crypt": "tls-crypt",
    "tls-crypt-v2": "tls-crypt-v2",
}
#: Options that :mod:`qubes_vpn_keyfile_openvpn` has a line of code for.
SPECIAL = _words("""
    allow-compression askpass auth-user-pass block-ipv6 connection dev dev-type dhcp-option
    explicit-exit-notify ignore-unknown-option keepalive key-direction mssfix port
    proto proto-force remote rport verify-x509-name
""")

#: Why nothing is lost when NetworkManager does not hear of an option -> the options.
HARMLESS = {
    "NetworkManager says the same to OpenVPN itself": _words("""
        auth-nocache auth-retry bind client nobind persist-key persist-local-ip persist-remote-ip
        persist-tun pull script-security tls-client up-restart
    """),
    "NetworkManager sets addresses, routes and DNS itself, all of them into the tunnel": _words("""
        ifconfig-nowarn max-routes redirect-gateway route-delay route-metric topology tun-ipv6
    """),
    "the server, or its answer, decides": _words("""
        auth-gen-token auth-token auth-token-user key-derivation peer-id
    """),
    "how OpenVPN tries again; the VPN qube does that": _words("""
        connect-freq connect-retry connect-retry-max preresolve remap-usr1 resolv-retry
        single-session tls-exit
    """),
    "for scripts, of which there are none": _words("""
        compat-names down-pre no-name-remapping setenv setenv-safe tls-export-cert up-delay
        x509-track
    """),
    "where OpenVPN writes and what it says": _words("""
        daemon echo errors-to-stderr machine-readable-output mute mute-replay-warnings parameter
        status status-version suppress-timestamps syslog tmp-dir verb writepid
    """),
    "who OpenVPN runs as; NetworkManager has a user for it": _words("group nice mlock setcon user"),
    "a size or a time of this end alone": _words("""
        bcast-buffers disable-dco fast-io hand-window link-mtu max-packet-size mtu-dynamic mtu-test
        passtos ping-timer-rem rcvbuf reneg-bytes reneg-pkts replay-persist replay-window shaper
        sndbuf socket-flags tcp-nodelay tcp-queue-limit tls-timeout tran-window tun-mtu-extra
        tun-mtu-max txqueuelen udp-mtu
    """),
    "the source address and port; NetworkManager leaves both open": _words(
        "bind-dev local lport multihome"
    ),
    "of other modes or of releases long gone": _words("""
        comp-noadapt dev-node dh disable-occ force-tls-key-material-export key-method
        keying-material-exporter keysize lladdr mode ncp-disable no-iv prng
    """),
}

#: Everything that a client understands and that needs no word.
QUIET = (
    frozenset(NUMBERS) | set(WORDS) | set(FLAGS) | SPECIAL | frozenset().union(*HARMLESS.values())
)

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
