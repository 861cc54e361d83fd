# SPDX-License-Identifier: GPL-2.0-or-later
"""Our own restatement of what qubes-core-agent-linux 4.4 does in a qube (facts 6).

Left out: host names in clients' rules, translated client addresses, and that qubes-firewall ends
flows which new rules forbid.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from qubes_vpn_formula.lab.agent import CLIENT_MAC, NETVM_MAC, clients
from qubes_vpn_formula.lab.qube import Qube

if TYPE_CHECKING:
    from qubes_vpn_formula.lab.boot import Unit

_RULES = Path(__file__).parent
#: Later links are preferred: a link's metric is this minus the client's number in its name.
_METRIC = 32752
_OFFLOAD = """
add table inet qubes-nat-accel
delete table inet qubes-nat-accel
table inet qubes-nat-accel {
	flowtable qubes-accel {
		hook ingress priority filter
		devices = { $DEVICES }
	}
	chain qubes-accel {
		type filter hook forward priority filter + 5; policy accept;
		meta l4proto { tcp, udp } iifgroup 2 oifgroup 1 flow add @qubes-accel
		counter
	}
}
"""
#: What is left of it on a kernel without flowtables, so that the table is there to be found.
_NO_OFFLOAD = """
add table inet qubes-nat-accel
delete table inet qubes-nat-accel
table inet qubes-nat-accel {
	chain qubes-accel {
		type filter hook forward priority filter + 5; policy accept;
		counter
	}
}
"""
#: At each start of qubes-firewall; with custom-persist nothing below /rw.
_RUN_HOOKS = """
run() { [ ! -f "$1" ] || [ ! -x "$1" ] || "$1" || :; }
exec >/dev/null 2>&1
for script in /etc/qubes/qubes-firewall.d/*; do run "$script"; done
[ ! -e /run/qubes-service/custom-persist ] || exit 0
for script in /rw/config/qubes-firewall.d/*; do run "$script"; done
run /rw/config/qubes-firewall-user-script
"""
_WITHOUT_DNAT = """
add table ip qubes
add chain ip qubes dnat-dns
delete chain ip qubes dnat-dns
"""
_IP_CHANGE_HOOK = """
for hook in /rw/config/qubes-ip-change-hook /rw/config/qubes_ip_change_hook; do
    [ ! -x "$hook" ] || "$hook"
done
"""


class Restated:
    """An :class:`qubes_vpn_formula.lab.agent.Agent`.

    patience: seconds after which systemd gives up on qubes-firewall's start, whose scripts do not
    end.  offload: whether the kernel takes Qubes' flowtable; None until a client's link came up.
    """

    def __init__(self, patience: float = 90) -> None:
        self.patience = patience
        self.offload: bool | None = None
        #: qubes whose qubes-firewall runs, and the clients that it has made a chain for
        self._workers: dict[str, set[str]] = {}

    def arrange(self, units: "list[Unit]") -> "list[Unit]":
        return units

    def antispoof(self, qube: Qube) -> None:
        _nft(qube, (_RULES / "antispoof.nft").read_text(encoding="utf-8"))

    def base(self, qube: Qube) -> None:
        _nft(qube, (_RULES / "base.nft").read_text(encoding="utf-8"))

    def firewall_start(self, qube: Qube) -> None:
        _nft(qube, clients.tables())
        # Exit codes and what the scripts say are nobody's concern, as in Qubes.
        qube.run(_RUN_HOOKS, timeout=self.patience)
        self._workers[qube.name] = set()
        self.firewall_changed(qube)

    def firewall_restart(self, qube: Qube) -> None:
        self.firewall_stop(qube)
        self.firewall_start(qube)

    def firewall_stop(self, qube: Qube) -> None:
        """SIGTERM: its tables go."""
        if self._workers.pop(qube.name, None) is not None:
            _nft(qube, "delete table ip qubes-firewall\ndelete table ip6 qubes-firewall\n")

    def firewall_reload(self, qube: Qube) -> None:
        if qube.name in self._workers:
            _nft(qube, self._client_rules(qube))

    def firewall_kill(self, qube: Qube) -> None:
        self._workers.pop(qube.name, None)

    def firewall_changed(self, qube: Qube) -> None:
        if qube.name in self._workers:
            _nft(qube, self._client_rules(qube) + clients.connected(qube.qubesdb))

    def _client_rules(self, qube: Qube) -> str:
        hooked = self._workers[qube.name]
        addresses = clients.addresses(qube.qubesdb)
        new = "".join(clients.hook(address) for address in addresses if address not in hooked)
        hooked.update(addresses)
        resolvers = _resolvers(qube)
        return new + "".join(
            clients.rules(address, qube.qubesdb, resolvers) for address in addresses
        )

    def network(self, qube: Qube) -> None:
        if "/qubes-netvm-network" not in qube.qubesdb:
            return
        self.dnat(qube)
        forward = "echo 1 >/proc/sys/net/ipv4/ip_forward"
        if "/qubes-netvm-gateway6" in qube.qubesdb:
            forward += "; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding"
        qube.run(forward)

    def uplink(self, qube: Qube, device: str) -> None:
        database = qube.qubesdb
        lines = []
        for key in ("", "6"):
            if f"/qubes-ip{key}" not in database:
                continue
            address, gateway = database[f"/qubes-ip{key}"], database[f"/qubes-gateway{key}"]
            lines += [
                f"address replace {address}/{128 if key else 32} dev {device}",
                f"neighbour replace {gateway} dev {device} lladdr {NETVM_MAC} nud permanent",
            ]
        lines.append(f"link set dev {device} group 1 up")
        for key in ("", "6"):
            if gateway := database.get(f"/qubes-gateway{key}"):
                lines += [
                    f"route replace unicast {gateway} dev {device} scope link",
                    f"route replace unicast default via {gateway} dev {device} onlink",
                ]
        _ip(qube, lines)
        if not _is_protected(qube, "/etc/resolv.conf"):
            resolvers = [database["/qubes-primary-dns"], database["/qubes-secondary-dns"]]
            qube.write("/etc/resolv.conf", "".join(f"nameserver {one}\n" for one in resolvers))
        if "/qubes-netvm-network" in database:
            self.dnat(qube)
            self.ip_changed(qube)

    def ip_changed(self, qube: Qube) -> None:
        """The user's hooks for a new uplink."""
        qube.run(_IP_CHANGE_HOOK)

    def vif(
        self, qube: Qube, device: str, addresses: list[str], command: Literal["online", "offline"]
    ) -> None:
        if command == "online":
            self._offload(qube)
            qube.run(_online(qube, device, addresses))
        else:
            qube.run(_offline(qube, device, addresses))

    def _offload(self, qube: Qube) -> None:
        """The flowtable over all devices, where the kernel has them."""
        if self.offload is not False:
            devices = qube.run(["ls", "/proc/sys/net/ipv4/conf"]).stdout.split()
            listed = ", ".join(name for name in devices if name not in ("all", "default"))
            text = _OFFLOAD.replace("$DEVICES", listed)
            done = qube.run(["nft", "-f", "-"], check=False, input=text)
            self.offload = done.returncode == 0
        if not self.offload:
            _nft(qube, _NO_OFFLOAD)

    def dnat(self, qube: Qube) -> None:
        database = qube.qubesdb
        own = [
            database[key]
            for key in ("/qubes-netvm-primary-dns", "/qubes-netvm-secondary-dns")
            if key in database
        ]
        targets = [one for one in _resolvers(qube) if clients.family_of(one) == "ip"]
        rules = []
        for number, address in enumerate(own):
            verdict = f"dnat to {targets[number % len(targets)]}" if targets else "drop"
            rules += [f"ip daddr {address} {layer} dport 53 {verdict}" for layer in ("udp", "tcp")]
        chain = ["type nat hook prerouting priority dstnat; policy accept;", *rules]
        text = "table ip qubes {\nchain dnat-dns {\n" + "\n".join(chain) + "\n}\n}\n"
        listed = qube.run(["nft", "list", "chain", "ip", "qubes", "dnat-dns"], check=False).stdout
        if [line.strip() for line in listed.splitlines()] == text.splitlines():
            return
        self.firewall_reload(qube)
        # One transaction: no moment without the chain, none with two.
        _nft(qube, _WITHOUT_DNAT + text)


def _nft(qube: Qube, text: str) -> None:
    qube.run(["nft", "-f", "-"], input=text)


def _ip(qube: Qube, lines: list[str]) -> None:
    qube.run(["ip", "-batch", "-"], input="\n".join(lines))


def _online(qube: Qube, device: str, addresses: list[str]) -> str:
    """The script for a client's link that comes: known to antispoofing before it is up."""
    neighbours = [
        f"neighbour add {one} dev {device} lladdr {CLIENT_MAC} nud permanent" for one in addresses
    ]
    ours = _link_addresses(qube, device, addresses, "add")
    return f"""set -e
echo 1 >/proc/sys/net/ipv4/conf/{device}/proxy_arp
{_purge(addresses)}
{_fed("ip -batch -", neighbours)}
{_fed("nft -f -", _elements(device, addresses, "add"))}
{_fed("ip -batch -", [f"link set dev {device} group 2 up", *ours])}
echo 1 >/proc/sys/net/ipv6/conf/{device}/proxy_ndp
"""


def _offline(qube: Qube, device: str, addresses: list[str]) -> str:
    """The script for a client's link that goes, or has gone already."""
    ours = _link_addresses(qube, device, addresses, "del")
    return f"""{_purge(addresses)}
{_fed("nft -f -", _elements(device, addresses, "delete"))}
[ ! -e /sys/class/net/{device} ] || {_fed("ip -force -batch -", ours)}
true
"""


def _fed(command: str, lines: list[str]) -> str:
    """Shell text for a command that reads these lines."""
    return "\n".join([f"{command} <<'END'", *lines, "END"])


def _purge(addresses: list[str]) -> str:
    """Shell text: flows of whoever had these addresses before are forgotten."""
    ways = [f"conntrack -D {way} {one}" for one in addresses for way in ("-s", "-d")]
    return "\n".join(f"{command} >/dev/null 2>&1 || :" for command in ways)


def _elements(device: str, addresses: list[str], verb: str) -> list[str]:
    return [
        f"{verb} element {clients.family_of(one)} qubes {element}"
        for one in addresses
        for element in (f'allowed {{ "{device}" . {one} }}', f"downstream {{ {one} }}")
    ]


def _link_addresses(qube: Qube, device: str, addresses: list[str], verb: str) -> list[str]:
    """Lines for `ip`: routes to the client, and the qube's own address on the link."""
    metric = _METRIC - int(device[len("vif") :].split(".")[0])
    lines = [f"route {verb} {one} dev {device} metric {metric}" for one in addresses]
    for key, length in (("", 32), ("6", 128)):
        if own := qube.qubesdb.get(f"/qubes-netvm-gateway{key}"):
            lines.append(f"address {verb} {own}/{length} dev {device}")
    return lines


def _is_protected(qube: Qube, path: str) -> bool:
    """Whether a file in one of two folders names it on a line of its own: init/functions."""
    backups = [f"--exclude=*{end}" for end in ("~", ".rpmsave", ".rpmnew", ".rpmold")]
    folders = ["/etc/qubes/protected-files.d", "/rw/config/protected-files.d"]
    words = ["grep", "-Fxrqs", *backups, "--", path, *folders]
    return qube.run(words, check=False).returncode == 0


def _resolvers(qube: Qube) -> list[str]:
    """The qube's own name servers, as resolv.conf has them."""
    lines = [line.split() for line in qube.read("/etc/resolv.conf").splitlines()]
    return [words[1] for words in lines if len(words) > 1 and words[0] == "nameserver"]
