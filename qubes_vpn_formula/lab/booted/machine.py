# SPDX-License-Identifier: GPL-2.0-or-later
"""A Qubes machine whose qubes really boot (layer L2 of the lab).

    with Booted() as lab:
        template = lab.template("t-vpn")
        template.install(["network-manager", "network-manager-openvpn"])
        template.run(["systemctl", "enable", "example.service"])
        template.stop()
        qube = lab.appvm("sys-vpn", template, services=["qubes-vpn", "network-manager"])
        client = lab.client("work", netvm=qube)
        qube.start()
        done = qube.run(["systemctl", "is-active", "qubes-firewall"])
        qube.stop()

- A *template* is Debian 13's minimal root with Qubes' agent, and on it one layer for each time that
  it ran: :meth:`Template.changed` lists what was written.  It has no netvm; apt reaches Debian, and
  nothing else, by the updates proxy at 127.0.0.1:8082 as in Qubes (:mod:`.updates`).
- An *AppVM* starts from its template as that was at its last shutdown, and forgets at its own what
  it wrote, but for /rw, /home, /usr/local and bind-dirs.
- A *disposable* starts from an AppVM, with a copy of its /rw, and forgets that too.
- A *client* is a qube of the lab's other layer, :class:`qubes_vpn_formula.lab.qube.Qube`: a network
  behind a netvm, nothing that boots.  An AppVM behind another is started after it, and gets its
  uplink anew when that one is killed and started again.
- The *internet* is one too.  All that is beyond a qube's uplink is there: any address answers, and
  `qube.vif` is the device there that sees all that the qube sends.  Records: `Capture(qube.network,
  lab.internet, qube.vif, file)`.  Servers: `qubes_vpn_formula.lab.tunnels`, or any program.

A running qube has all that :class:`qubes_vpn_formula.lab.qube.Inside` has: `run`, `popen`, `read`,
`write`, `exists`.  `qube.network` has the same in the qube's network alone, with this machine's
programs and files.  Each start has a network of its own: nothing of the last one is left in it.

Needs root, systemd-nspawn, overlayfs and mmdebstrap: :func:`hindrance`.  However this process ends,
qubes, mounts and namespaces end with it.

Not as in Qubes: one kernel for all (no udev, no Xen, no modules: the uplink's unit is started by
systemd and not by udev), no qrexec, no GUI agent; dom0's part is `Booted`.
"""

import itertools
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from qubes_vpn_formula.lab import debian, udev
from qubes_vpn_formula.lab.agent import CLIENT_MAC, NETVM_MAC
from qubes_vpn_formula.lab.agent.restated import Restated
from qubes_vpn_formula.lab.booted import agent, layers, root
from qubes_vpn_formula.lab.booted.inside.units import UPLINK, VOLUME
from qubes_vpn_formula.lab.booted.room import Room
from qubes_vpn_formula.lab.booted.updates import UpdatesProxy
from qubes_vpn_formula.lab.closing import Closing
from qubes_vpn_formula.lab.killswitches import Ours
from qubes_vpn_formula.lab.qube import SLOWNESS, Command, CommandFailed, Inside, Qube, children

#: What every client asks for names; the netvm translates it.
DNS = ("10.139.1.1", "10.139.1.2")
_BOOT = Path(__file__).with_name("boot.sh")
_PATIENCE = 90.0  # seconds for a start or a shutdown


def hindrance() -> str | None:
    """Why nothing can be booted here; None when it can."""
    for program in ("mmdebstrap", "systemd-nspawn", "unshare", "nsenter", "nft"):
        if not shutil.which(program):
            return f"{program} is missing: tools/apt.sh lab"
    return Room.hindrance()


class Booted(Closing):
    """A machine; a context manager.

    internet: see the module.  Raises :class:`qubes_vpn_formula.lab.debian.NotReachable` without
    Debian's packages, and :class:`CommandFailed`.
    """

    def __init__(self) -> None:
        base = root.build()
        self._numbers = itertools.count(1)
        self._qubes: dict[str, Qube | Guest] = {}
        with ExitStack() as stack:
            self.room = stack.enter_context(Room())
            agent.layer(self.room.folder("layers/agent"))
            self.base = ("/run/layers/agent", str(base))
            self.internet = stack.enter_context(Qube("internet"))
            self.internet.run(["ip", "-batch", "-"], input="\n".join(_INTERNET))
            self._stack = stack.pop_all()

    def template(self, name: str) -> "Template":
        """A new template: Debian's root with the agent, and nothing else."""
        template = Template(self, name, next(self._numbers))
        self._qubes[name] = template
        return template

    def appvm(
        self,
        name: str,
        template: "Template",
        netvm: "AppVM | None" = None,
        provides: bool = True,
        services: Iterable[str] = (),
        online: bool = True,
    ) -> "AppVM":
        """A new qube, not started.

        netvm: None is the internet itself.  provides: whether it may have clients, and has the
        services that Qubes gives such a qube.  services: others that are on, such as `qubes-vpn`.
        online: False for a qube that has no netvm.
        """
        number = next(self._numbers)
        qube = AppVM(self, name, number, template, netvm, provides, services, online)
        self._qubes[name] = qube
        return qube

    def disposable(self, name: str, home: "AppVM", services: Iterable[str] = ()) -> "Disposable":
        """A new named disposable of *home*, not started; on the internet, for clients."""
        qube = Disposable(self, name, next(self._numbers), home, services)
        self._qubes[name] = qube
        return qube

    def client(self, name: str, netvm: "AppVM") -> Qube:
        """A new client of an AppVM, which sees it at its next start, or at once when it runs."""
        client = self._stack.enter_context(Qube(name))
        client.qubesdb |= _addresses(next(self._numbers), netvm.number)
        netvm.add(client)
        return client


class Guest(Inside):
    """A template or an AppVM.  number: of its addresses and of its device in the netvm."""

    def __init__(self, lab: Booted, name: str, number: int) -> None:
        super().__init__(name, None)
        self.lab, self.number = lab, number
        #: what dom0 says to it, by Qubes' own paths
        self.qubesdb: dict[str, str] = {"/name": name}
        self._nspawn: subprocess.Popen[str] | None = None
        lab.room.folder(f"volumes/{name}")

    @property
    def running(self) -> bool:
        """Whether it has been started, and not ended since."""
        return self._nspawn is not None and self._nspawn.poll() is None

    @property
    def network(self) -> Inside:
        """Its network, for programs of this machine."""
        return Inside(self.name, self.pid, ["net"])

    @property
    def volume(self) -> Path:
        """The folder of its /rw, as this process sees it, also while it is off."""
        return self.lab.room.folder(f"volumes/{self.name}")

    def start(
        self,
        wait: bool = True,
        plugged: Callable[[], None] | None = None,
        kernel_log: bool = False,
    ) -> None:
        """Boot it.

        wait: until systemd has done all, or else until there is a systemd.  plugged: called when
        the cables are there and nothing runs yet, for whoever wants to look at them from then on.
        kernel_log: its journal has the kernel's log, which is that of all qubes and of this
        machine, as it has in a real qube, whose kernel is its own; see :mod:`..kernellog`.
        """
        if self.running:
            raise CommandFailed(f"{self.name} runs already")
        self._tell()
        lower, upper = self._layers()
        binds = {
            f"/run/volumes/{self.name}": VOLUME,
            f"/run/qubesdb/{self.name}": "/run/qubesdb",
            "/dev/net/tun": "/dev/net/tun",
        }
        options = [f"--bind={here}:{there}" for here, there in binds.items()]
        if kernel_log:
            options += ["--bind=/dev/kmsg", "--capability=CAP_SYSLOG"]
        self._nspawn = self.lab.room.popen(
            ["unshare", "--net", "--mount", "--uts", "--", str(_BOOT)],
            [self.name, ":".join(lower), upper, self.lab.room.group, *options],
        )
        if self._nspawn.stdout.readline() != "ready\n":
            raise CommandFailed(f"{self.name} did not start: {self._nspawn.stderr.read()}")
        self._pid = children(self._nspawn.pid)[0]
        self._wire(self._pid)
        if plugged:
            plugged()
        self._nspawn.stdin.write("\n")
        self._nspawn.stdin.flush()
        self._pid = self._first_process()
        if wait:
            self.wait()

    def wait(self) -> str:
        """Wait until its boot is over: `running`, or `degraded` when a unit failed."""
        done = self._systemctl("is-system-running", "--wait")
        if done.stdout.strip() not in ("running", "degraded"):
            raise CommandFailed(f"{self.name} did not boot: {done.stdout}{done.stderr}")
        return done.stdout.strip()

    def stop(self) -> None:
        """Shut it down; nothing when it is off."""
        if self.running:
            self._systemctl("poweroff")
            self._ended()

    def kill(self) -> None:
        """`qvm-kill`: it has no time for anything."""
        if self.running:
            process = self.lab.room.end(self._nspawn)
            process.wait()
            self._ended()

    def suspend(self) -> None:
        """What dom0 has a qube do before the machine sleeps.

        `qubes.SuspendPreAll`, and `qubes.SuspendPre` as a qube with a network card has it: the
        scripts, then NetworkManager sleeps.
        """
        self.run(_SCRIPTS.format("pre"))
        self._network_manager_sleeps("true")

    def resume(self) -> None:
        """`qubes.SuspendPost`, `qubes.SuspendPostAll`: NetworkManager wakes, then the scripts."""
        self._network_manager_sleeps("false")
        self.run(_SCRIPTS.format("post"))

    def failed(self) -> list[str]:
        """The units that failed."""
        words = ["systemctl", "list-units", "--failed", "--plain", "--no-legend"]
        return [line.split()[0] for line in self.run(words).stdout.splitlines()]

    def journal(self, *options: str) -> str:
        """Its journal, since its start; options are journalctl's."""
        return self.run(["journalctl", "--no-pager", *options]).stdout

    def _layers(self) -> tuple[Sequence[str], str]:
        """Folders for overlayfs: those below, and that for what is written or nothing."""
        raise NotImplementedError

    def _wire(self, pid: int) -> None:
        """Cables of the network of a process, before the boot."""

    def _ended(self) -> None:
        """After a shutdown."""
        try:
            self._nspawn.wait(_PATIENCE * SLOWNESS)
        except subprocess.TimeoutExpired:
            self.lab.room.end(self._nspawn).wait()
            raise CommandFailed(f"{self.name} did not shut down in time") from None
        finally:
            self._nspawn, self._pid = None, None

    def _tell(self) -> None:
        """dom0's QubesDB for it."""
        self.lab.room.tell(self.name, self.qubesdb)

    def _network_manager_sleeps(self, flag: str) -> None:
        self.run(
            "[ ! -e /run/qubes-service/network-manager ] || dbus-send --system --print-reply"
            " --dest=org.freedesktop.NetworkManager /org/freedesktop/NetworkManager"
            f" org.freedesktop.NetworkManager.Sleep boolean:{flag}"
        )

    def _systemctl(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.run(["systemctl", *words], check=False, timeout=_PATIENCE)

    def _first_process(self) -> int:
        """systemd in the qube, once it answers."""
        until = time.monotonic() + _PATIENCE * SLOWNESS
        while time.monotonic() < until and self.running:
            with suppress(OSError, IndexError):
                nspawn = children(self._nspawn.pid)[0]
                for pid in children(nspawn):
                    if Path(f"/proc/{pid}/root", "run/systemd/private").is_socket():
                        return pid
            time.sleep(0.02)
        said = self._nspawn.stderr.read() if not self.running else "systemd does not answer"
        raise CommandFailed(f"{self.name} did not boot: {said}")


class Template(Guest):
    """See the module."""

    def __init__(self, lab: Booted, name: str, number: int) -> None:
        super().__init__(lab, name, number)
        self.qubesdb |= {"/qubes-vm-type": "TemplateVM", "/qubes-vm-persistence": "full"}
        self._done: list[str] = []  # its layers, the oldest first
        self._starts = 0
        self._proxy: UpdatesProxy | None = None

    def install(self, packages: Iterable[str]) -> None:
        """Debian packages, by the template's own apt; the layer that this makes is kept on disk.

        In a template that has not run yet the same packages come from there another time.  For an
        installation that a test is about, run apt-get: :meth:`run`.
        """
        if self._done or self.running:
            self._apt(packages)
            return
        home = layers.home(packages)
        with debian.alone(home):
            if not layers.complete(home):
                self._apt(packages)
                self.stop()
                layers.keep(home, self.lab.room.path(self._done.pop()))
        self._done.append(str(home / "layer"))

    def _apt(self, packages: Iterable[str]) -> None:
        words = ["apt-get", "--yes", "--quiet", "install", *packages]
        self.run(["env", "DEBIAN_FRONTEND=noninteractive", *words], timeout=600)

    def popen(self, command: Command, **options: Any) -> Any:
        """Start a program in it, after starting the template if it is off."""
        if not self.running:
            self.start()
        return super().popen(command, **options)

    def layers(self) -> list[str]:
        """What a child starts from, the topmost first: as of the last shutdown."""
        return [*reversed(self._done), *self.lab.base]

    def changed(self) -> set[str]:
        """Paths of what was written or removed in it up to its last shutdown, folders left out."""
        found = set()
        for layer in self._done:
            folder = self.lab.room.path(layer)
            files = (path for path in folder.rglob("*") if not path.is_dir() or path.is_symlink())
            found |= {f"/{path.relative_to(folder)}" for path in files}
        return found

    def _layers(self) -> tuple[Sequence[str], str]:
        upper = f"layers/{self.name}-{self._starts}"
        self.lab.room.folder(upper)
        return self.layers(), f"/run/{upper}"

    def _wire(self, pid: int) -> None:
        self._proxy = UpdatesProxy(pid)

    def _ended(self) -> None:
        try:
            super()._ended()
        finally:
            self._proxy.close()
            self._done.append(f"/run/layers/{self.name}-{self._starts}")
            self._starts += 1


class AppVM(Guest):
    """See the module.  vif: the name of its uplink's other end, in the netvm or the internet."""

    def __init__(
        self,
        lab: Booted,
        name: str,
        number: int,
        template: Template,
        netvm: "AppVM | None",
        provides: bool,
        services: Iterable[str],
        online: bool = True,
    ) -> None:
        super().__init__(lab, name, number)
        self.template, self.netvm, self.vif = template, netvm, f"vif{number}.0"
        self.online = online
        self._clients: dict[int, Qube] = {}
        #: AppVMs behind it that run
        self._behind: dict[int, AppVM] = {}
        if online:
            self.qubesdb |= _addresses(number, netvm.number if netvm else 0)
        self.qubesdb |= {"/qubes-vm-type": "AppVM", "/qubes-vm-persistence": "rw-only"}
        if provides:
            self.qubesdb |= {"/qubes-vm-type": "NetVM", **_provider(number)}
            services = {"qubes-network", "qubes-firewall", *services}
        self.qubesdb |= {f"/qubes-service/{service}": "1" for service in services}

    @property
    def upstream(self) -> "Inside":
        """Where its uplink ends: the netvm's network, or the internet."""
        return self.netvm.network if self.netvm else self.lab.internet

    def add(self, client: Qube) -> None:
        """A client that is nobody's: see :meth:`Booted.client`, :meth:`remove`."""
        number = _number(client)
        client.qubesdb |= _addresses(number, self.number)
        self._clients[number] = client
        if self.running:
            self._plug(self.pid, number)
            self._tell()
            addresses = " ".join(_own(number))
            self.run(f"/usr/lib/qubes/agent vif online vif{number}.0 {addresses}")

    def remove(self, client: Qube) -> None:
        """A client is nobody's from now on."""
        number = _number(client)
        del self._clients[number]
        if self.running:
            self._unplug_client(f"vif{number}.0", number)
            self._tell()

    def replug(self, netvm: "AppVM | None") -> None:
        """Another netvm, also while it runs; None: it is offline."""
        if self.running:
            self._unplug_uplink()
        for key in _addresses(0, 0):
            self.qubesdb.pop(key, None)
        self.netvm, self.online = netvm, netvm is not None
        if netvm:
            self.qubesdb |= _addresses(self.number, netvm.number)
        if not self.running:
            return
        self._tell()
        if netvm:
            self._wire_uplink(self.pid)
            self._new_uplink()

    def allow(self, client: "Qube | AppVM", rules: list[str], policy: str = "drop") -> None:
        """A qube's firewall list, in qvm-firewall's canonical words; it replaces the old one.

        Also of one that is no client yet, so that it never is one without its list.
        """
        for address, other in zip(_own(_number(client)), ("dst6=", "dst4="), strict=True):
            prefix = f"/qubes-firewall/{address}/"
            for key in [key for key in self.qubesdb if key.startswith(prefix)]:
                del self.qubesdb[key]
            own = [rule for rule in rules if other not in rule]
            for place, rule in enumerate(own):
                self.qubesdb[f"{prefix}{place:04}"] = rule
            self.qubesdb[f"{prefix}policy"] = policy
        self._tell()

    def _tell(self) -> None:
        numbers = [*self._clients, *self._behind]
        for number in numbers:
            own = _own(number)
            self.qubesdb[f"/lab/vif{number}.0"] = " ".join(own)
            for address in own:
                if f"/qubes-firewall/{address}/policy" not in self.qubesdb:
                    self.qubesdb[f"/qubes-firewall/{address}/0000"] = "action=accept"
                    self.qubesdb[f"/qubes-firewall/{address}/policy"] = "drop"
        for key, place in (("", 0), ("6", 1)):
            self.qubesdb.pop(f"/connected-ips{key}", None)
            if numbers:
                connected = [_own(number)[place] for number in numbers]
                self.qubesdb[f"/connected-ips{key}"] = " ".join(connected)
        super()._tell()

    def _layers(self) -> tuple[Sequence[str], str]:
        if self.template.running:
            self.template.stop()  # a child sees what was there at its shutdown
        return self.template.layers(), ""

    def _wire(self, pid: int) -> None:
        if self.online:
            self._wire_uplink(pid)
        for number in self._clients:
            self._plug(pid, number)
        for qube in self._behind.values():
            _links(pid, [_cable(qube.vif, UPLINK, qube.pid)])
            qube._new_uplink()

    def _new_uplink(self) -> None:
        """udev's part in it, when the device appears: systemd hears of it after udev's rules."""
        rules = [path for path in Ours().udev_rules if self.exists(path)]
        udev.event(self, rules, "add", UPLINK)
        self.run(["systemctl", "--no-block", "restart", f"qubes-network-uplink@{UPLINK}"])

    def _wire_uplink(self, pid: int) -> None:
        upstream = self.netvm.pid if self.netvm else self.lab.internet.pid
        _links(upstream, [_cable(self.vif, UPLINK, pid)])
        if self.netvm is None:
            _links(upstream, _online(self.vif, self.number))
        else:
            self.netvm._behind[self.number] = self
            self.netvm._tell()
            words = ["/usr/lib/qubes/agent", "vif", "online", self.vif, *_own(self.number)]
            self.netvm.run(words)

    def _ended(self) -> None:
        try:
            super()._ended()
        finally:
            self._unplug()

    def _unplug(self) -> None:
        """Its cables go now; with its network the kernel would take them away some time later."""
        self._unplug_uplink()
        for qube in (*self._clients.values(), *self._behind.values()):
            _links(qube.pid, [f"link del {UPLINK}"])

    def _unplug_uplink(self) -> None:
        if not self.netvm:
            _links(self.lab.internet.pid, [f"link del {self.vif}"])
        elif self.netvm.running:
            self.netvm._unplug_client(self.vif, self.number)
        if self.netvm and self.netvm._behind.pop(self.number, None):
            self.netvm._tell()

    def _unplug_client(self, vif: str, number: int) -> None:
        """Its own end of a client's cable goes, and the cable with it."""
        self.run(["/usr/lib/qubes/agent", "vif", "offline", vif, *_own(number)])
        _links(self.pid, [f"link del {vif}"])

    def _plug(self, pid: int, number: int) -> None:
        """A client's cable, with the client's own end configured."""
        client = self._clients[number]
        _links(pid, [_cable(f"vif{number}.0", UPLINK, client.pid)])
        Restated().uplink(client, UPLINK)


class Disposable(AppVM):
    """See the module.  home: the AppVM that it is made from.

    To systemd and the agent it is as an AppVM: dom0 tells both that /rw alone is kept, and the
    agent asks whether it is a disposable only to make a filesystem (core-admin
    `create_qdb_entries`, core-agent-linux `setup-rwdev.sh`).  Not as in Qubes: a home that runs is
    shut down first, where Qubes takes what was there at its last shutdown.
    """

    def __init__(
        self, lab: Booted, name: str, number: int, home: AppVM, services: Iterable[str]
    ) -> None:
        super().__init__(lab, name, number, home.template, None, True, services)
        self.home = home
        self.qubesdb["/type"] = "DispVM"

    def _layers(self) -> tuple[Sequence[str], str]:
        self.home.stop()
        volume = self.volume
        shutil.rmtree(volume)
        subprocess.run(["cp", "--archive", str(self.home.volume), str(volume)], check=True)
        return super()._layers()


def _number(qube: "Qube | AppVM") -> int:
    """Of its addresses and of its device in the netvm."""
    if isinstance(qube, Guest):
        return qube.number
    return int(qube.qubesdb["/qubes-ip"].rpartition(".")[2])


def _own(number: int) -> tuple[str, str]:
    """A qube's addresses, of both families."""
    return f"10.137.0.{number}", f"fd09:24ef:4179::a89:{number:x}"


def _addresses(number: int, netvm: int) -> dict[str, str]:
    """QubesDB of a qube with an uplink.  netvm: its number; 0 is the internet."""
    gateways = _own(netvm) if netvm else _GATEWAYS
    return {
        "/qubes-mac": CLIENT_MAC,
        "/qubes-ip": _own(number)[0],
        "/qubes-ip6": _own(number)[1],
        "/qubes-gateway": gateways[0],
        "/qubes-gateway6": gateways[1],
        "/qubes-netmask": "255.255.255.255",
        "/qubes-primary-dns": DNS[0],
        "/qubes-secondary-dns": DNS[1],
    }


def _provider(number: int) -> dict[str, str]:
    """QubesDB of a qube that provides network."""
    own = _own(number)
    return {
        "/qubes-netvm-network": own[0],
        "/qubes-netvm-gateway": own[0],
        "/qubes-netvm-gateway6": own[1],
        "/qubes-netvm-netmask": "255.255.255.255",
        "/qubes-netvm-primary-dns": DNS[0],
        "/qubes-netvm-secondary-dns": DNS[1],
    }


#: The internet's own addresses as a netvm, where no qube's number leads.
_GATEWAYS = ("10.138.0.1", "fd09:24ef:4179::a8a:1")
_INTERNET = [
    *(f"address add {address} dev lo" for address in _GATEWAYS),
    "link set lo up",
    # Every other address is here too, so that whatever gets out also arrives.
    "route add local 0.0.0.0/0 dev lo table main",
    "route add local ::/0 dev lo table main",
]
_SCRIPTS = (
    'for script in /etc/qubes/suspend-{}.d/*.sh; do [ ! -x "$script" ] || "$script" || :; done'
)


def _online(vif: str, number: int) -> list[str]:
    """Lines for `ip` where nothing of Qubes runs: the internet's end of a cable."""
    lines = [
        f"link set {vif} group 2 up",
        # Who forgets the permanent entry, as NetworkManager makes a qube do, may ask for it.
        f"address replace {_GATEWAYS[1]}/128 dev {vif} nodad",
    ]
    for address in _own(number):
        lines += [
            f"neighbour replace {address} dev {vif} lladdr {CLIENT_MAC} nud permanent",
            f"route replace {address} dev {vif}",
        ]
    return lines


def _cable(vif: str, uplink: str, pid: int) -> str:
    """A line for `ip` in the netvm: both ends, still down."""
    return (
        f"link add {vif} address {NETVM_MAC} type veth"
        f" peer name {uplink} address {CLIENT_MAC} netns {pid}"
    )


def _links(pid: int, lines: list[str]) -> None:
    """`ip` in the network of a process, where process ids are the machine's.

    A link that is to be deleted may have gone by itself.
    """
    command = ["nsenter", f"--target={pid}", "--net", "ip", "-batch", "-"]
    done = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True)
    if done.returncode and "Cannot find device" not in done.stderr:
        raise CommandFailed(f"{lines}: {done.stderr}")
