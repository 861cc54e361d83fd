# SPDX-License-Identifier: GPL-2.0-or-later
"""A Tor network of the lab's own: Debian 13's tor, and nobody else in it.

Three relays, each in namespaces of its own: the first of every way, the middle one, which is also
the only directory authority, and the last, which asks for names.  They are Tor's own code with the
switches that it has for test networks (torrc(5), TESTING NETWORK OPTIONS): votes every 10 seconds,
nobody is tested, addresses need not be public.  So a network is up in half a minute, most of it
waiting, and stays up from one lab to the next: :meth:`TorNetwork.plug`.
"""

import re
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

from qubes_vpn_formula.lab import debian
from qubes_vpn_formula.lab.closing import Closing
from qubes_vpn_formula.lab.machine import RESOLVER
from qubes_vpn_formula.lab.qube import SLOWNESS, CommandFailed, Process, Qube

#: Where the relays are: the first, the middle one, the last.
RELAYS = {"first": "198.51.100.201", "middle": "198.51.100.202", "last": "198.51.100.203"}
_ROUTER, _NETWORK = "198.51.100.200", "198.51.100.200/29"
#: Of the internet's own addresses; who answers for it on the cable.
_INTERNET = "198.51.100.9"
_RELAY_PORT, _DIRECTORY_PORT = 7001, 7000
_AUTHORITY = "middle"
_PATIENCE = 90.0 * SLOWNESS
_COMMON = """\
TestingTorNetwork 1
DataDirectory {folder}
Log notice file {folder}/log
SocksPort 0
ShutdownWaitLength 0
ConfluxEnabled 0
"""
_RELAY = """\
Nickname {name}
Address {address}
ORPort {address}:{port} IPv4Only
OutboundBindAddress {address}
AssumeReachable 1
ExitPolicy {policy}
"""
_LAST = """\
ExitRelay 1
ServerDNSDetectHijacking 0
ServerDNSAllowBrokenConfig 1
"""
_VOTES = """\
AuthoritativeDirectory 1
V3AuthoritativeDirectory 1
DirPort {address}:{port}
V3AuthVotingInterval 10
V3AuthVoteDelay 2
V3AuthDistDelay 2
V3AuthNIntervalsValid 24
TestingV3AuthInitialVotingInterval 5
TestingV3AuthInitialVoteDelay 2
TestingV3AuthInitialDistDelay 2
TestingDirAuthVoteGuard *
TestingMinExitFlagThreshold 0
TestingAuthDirTimeToLearnReachability 0
"""


class TorNetwork(Closing):
    """The relays, which have started; a context manager.  See :meth:`wait`.

    relays, router: their qubes by the names of :data:`RELAYS`.  folder: for keys and logs.
    Raises :class:`debian.NotReachable`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._tree = debian.tree("trixie", "tor", ("tor",))
        with ExitStack() as stack:
            self.router = stack.enter_context(Qube("tor-router"))
            self.relays = {name: stack.enter_context(Qube(name)) for name in RELAYS}
            self._wire()
            self._directory = self._authority()
            for name, qube in self.relays.items():
                self.run(qube, folder / name, self._relay(name))
            self._stack = stack.pop_all()

    def wait(self) -> None:
        """Until the directory knows every relay.  Raises :class:`CommandFailed`."""
        consensus = self._folder / _AUTHORITY / "cached-consensus"
        end = time.monotonic() + _PATIENCE
        while not consensus.exists() or consensus.read_text("utf-8").count("\nr ") < len(RELAYS):
            if time.monotonic() > end:
                raise CommandFailed(f"no Tor network after {_PATIENCE} s")
            time.sleep(0.1)

    def plug(self, internet: Qube) -> str:
        """A cable to an internet; it ends with it.  The name of its device there."""
        internet.run("sysctl -qw net.ipv4.ip_forward=1")
        internet.links(f"link add tor type veth peer name internet netns {self.router.pid}")
        internet.run(f"ip link set tor up; ip route add {_NETWORK} dev tor")
        # It answers for the relays: the internet has every address itself, a router's too.
        self.router.run(
            "ip link set internet up; sysctl -qw net.ipv4.conf.internet.proxy_arp=1; "
            f"ip route replace default via {_INTERNET} dev internet onlink"
        )
        return "tor"

    def client(self) -> str:
        """Lines by which a tor is a client of this network, by the first relay and the last."""
        return f"{self._directory}EntryNodes first\nExitNodes last\n"

    def run(self, qube: Qube, folder: Path, lines: str, *before: str) -> Process:
        """A tor in a qube.  lines: beside what each has.  before: words before the command."""
        qube.run(["install", "-d", "-m", "0700", str(folder)])
        qube.write(f"{folder}/torrc", _COMMON.format(folder=folder) + lines, 0o600)
        words = [*before, *self._program("tor"), "--defaults-torrc", "/dev/null"]
        null = subprocess.DEVNULL
        return qube.popen([*words, "-f", f"{folder}/torrc"], stdout=null, stderr=null)

    def _relay(self, name: str) -> str:
        last = name == "last"
        policy = "accept *:*" if last else "reject *:*"
        address = RELAYS[name]
        lines = _RELAY.format(name=name, address=address, port=_RELAY_PORT, policy=policy)
        if name == _AUTHORITY:
            lines += _VOTES.format(address=address, port=_DIRECTORY_PORT)
        return self._directory + lines + (_LAST if last else "")

    def _authority(self) -> str:
        """Makes the authority's keys; the line by which all others know it."""
        folder, address = self._folder / _AUTHORITY, RELAYS[_AUTHORITY]
        keys = folder / "keys"
        for each in (folder, keys):
            each.mkdir(mode=0o700)
        words = f"--create-identity-key -m 3 -a {address}:{_DIRECTORY_PORT} --passphrase-fd 0"
        for option, name in (("-i", "identity_key"), ("-s", "signing_key"), ("-c", "certificate")):
            words += f" {option} {keys}/authority_{name}"
        self._tool("tor-gencert", *words.split())
        certificate = (keys / "authority_certificate").read_text("ascii")
        identity = re.search(r"^fingerprint (\w+)", certificate, re.MULTILINE)[1]
        # It makes the relay's own keys; what it wants to know beside that does not matter.
        words = f"--list-fingerprint --quiet --orport 1 --datadirectory {folder}"
        other = f"x 127.0.0.1:1 {'f' * 40}"
        said = self._tool("tor", *words.split(), "--dirserver", other)
        own = said.strip().partition(" ")[2].replace(" ", "")
        where = f"orport={_RELAY_PORT} v3ident={identity} {address}:{_DIRECTORY_PORT}"
        return f"DirAuthority {_AUTHORITY} {where} {own}\n"

    def _wire(self) -> None:
        self.router.run(f"sysctl -qw net.ipv4.ip_forward=1; ip addr add {_ROUTER}/32 dev lo")
        for name, address in RELAYS.items():
            qube = self.relays[name]
            self.router.links(f"link add {name} type veth peer name eth0 netns {qube.pid}")
            self.router.run(f"ip link set {name} up; ip route add {address} dev {name}")
            qube.run(
                f"ip addr add {address}/32 dev eth0; ip link set eth0 up; "
                f"ip route add default via {_ROUTER} dev eth0 onlink"
            )
        self.relays["last"].write("/etc/resolv.conf", f"nameserver {RESOLVER}\n")

    def _tool(self, name: str, *words: str) -> str:
        command = [*self._program(name), *words]
        done = subprocess.run(command, input="\n", capture_output=True, text=True)
        if done.returncode:
            raise CommandFailed(f"{name} {words}: {done.stdout}{done.stderr}")
        return done.stdout

    def _program(self, name: str) -> list[str]:
        return debian.command(self._tree, f"usr/bin/{name}")
