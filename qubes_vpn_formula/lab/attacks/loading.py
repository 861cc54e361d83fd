# SPDX-License-Identifier: GPL-2.0-or-later
"""Attacks on the loading of the rules (R41, R45)."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Raw

from qubes_vpn_formula.lab import senders
from qubes_vpn_formula.lab.attacks import Section
from qubes_vpn_formula.lab.cell import Cell
from qubes_vpn_formula.lab.machine import SERVER, Lab
from qubes_vpn_formula.lab.oracle import Endpoint

section = Section("Loading")

_ENDPOINTS = "/rw/config/vpn/endpoints.txt"
_RATE = 300  # packets a second of a flood: one in each window of a few milliseconds
_LONGEST = 100  # seconds for many loads
_NFT = "/usr/sbin/nft"

#: Python in the qube kills itself at the step that LAB_KILL_AT says, counted from closed.nft on.
_KILLER = """
import os, signal, sys
left = int(os.environ.get("LAB_KILL_AT", "0"))
begun = False
def step(event, arguments):
    global begun, left
    if event not in ("open", "subprocess.Popen") or isinstance(arguments[0], int):
        return
    begun = begun or str(arguments[0]).endswith("closed.nft")
    left -= begun
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
if left:
    sys.addaudithook(step)
"""
#: Kills the command `$K` at its first step, its second ... until it comes to its end.
_KILL_ALL = """
n=1
while LAB_KILL_AT=$n "$K" load >/dev/null 2>&1; [ $? -eq 137 ]; do
    echo $n
    n=$((n + 1))
done
echo end
"""
#: What a load meets: shell text with the command as `$K`, and what is tidied up afterwards.
_HOSTILE = {
    "disks are full": (
        "mount -o remount,size=8m /run; mount -o remount,size=8m /rw;"
        " for disk in /run /rw; do head -c 10M /dev/zero >$disk/full; done;"
        # Hidden from the loader alone: the lab itself may lie below /tmp.
        ' export K; exec unshare --mount sh -c "mount -t tmpfs -o size=16k full /tmp;'
        ' head -c 10M /dev/zero >/tmp/full; exec $K load"',
        "rm -f /run/full /rw/full",
    ),
    **{
        f"{number} file descriptors": (f"ulimit -n {number}; exec $K load", "")
        for number in (3, 4, 5, 7)
    },
    **{
        f"{number // 1000} MB of memory": (f"ulimit -v {number}; exec $K load", "")
        for number in (4_000, 12_000, 20_000, 40_000)
    },
    "a hostile PATH": ("PATH=/rw/evil PYTHONPATH=/rw/evil PYTHONHOME=/rw/evil $K load", ""),
    "another locale": ("LANG=xx_XX LC_ALL=tr_TR.UTF-8 $K load", ""),
    "a hostile umask": ("umask 777; $K load", ""),
    "no working directory": ("mkdir /rw/gone; cd /rw/gone; rmdir /rw/gone; $K load", ""),
    "no standard files": ("$K load <&- >&- 2>&-", ""),
    "full standard files": ("$K load </dev/full >/dev/full 2>/dev/full", ""),
}
#: In place of nft: what it does instead of loading, and otherwise.
_BAD_NFT = {
    "hangs at a load": ("exec sleep 1000", 'exec /usr/sbin/nft.real "$@"'),
    "hangs": ("exec sleep 1000", "exec sleep 1000"),
    "loads nothing": ("exit 0", 'exec /usr/sbin/nft.real "$@"'),
    "does nothing": ("exit 0", "exit 0"),
}


@section.attack("L01", "loads again and again, during floods", "OUT", fast=True)
def again(cell: Cell) -> None:
    """A client's and the qube's own, the tunnel down."""
    cell.start()
    command = cell.command
    cell.tunnel_down()
    with _floods(cell):
        cell.repeat(f"{command} load", 100, seconds=6)


@section.attack("L02", "the loader is killed at each of its steps", "OUT")
def killed(cell: Cell) -> None:
    """From closed and from open; floods meanwhile."""
    cell.start()
    command = cell.command
    cell.tunnel_down()
    find = "import site; print(site.getsitepackages()[-1])"
    folder = cell.vpn.run(["/usr/bin/python3", "-I", "-c", find]).stdout.strip()
    cell.vpn.write(f"{folder}/lab_killer.py", _KILLER)
    cell.vpn.write(f"{folder}/lab_killer.pth", "import lab_killer\n")
    for name, first in (("from closed", "close"), ("from open", "load")):
        cell.vpn.run([command, first])
        script = f"K={command}\n{_KILL_ALL}"
        with _floods(cell):
            done = cell.vpn.run(
                f"timeout {_LONGEST // 3} sh -s", check=False, input=script, timeout=60
            )
        *steps, end = done.stdout.split() or ["nothing"]
        cell.require(len(steps) > 5, f"{name}: hardly a step of the loader was seen: {end}")
        if end != "end":
            cell.skip(f"{name}: steps after the {end}th; it took too long")
        cell.salvo("all", f"{name}, killed at each step")
    cell.require(not cell.load().returncode, "it does not load any more")


@section.attack("L03", "a program is missing", "OUT")
def missing(cell: Cell) -> None:
    """In operation, where the uplink is set up again by hand; and at boot."""
    programs = (_NFT, "/usr/bin/python3", "/usr/sbin/conntrack")
    cell.start()
    _ = cell.command  # ends the attack where nothing could be loaded
    cell.tunnel_down()
    for program in programs:
        # So that the load has flows to forget.
        cell.vpn.run(f"nft add table inet qubes-nat-accel; mv {program} {program}.away")
        cell.load()
        cell.vpn.run(["ip", "link", "set", "eth0", "up"])
        cell.vpn.run(["ip", "route", "replace", "default", "dev", "eth0"])
        _everything(cell, f"{program} is missing")
        cell.vpn.run(["mv", f"{program}.away", program])
        _mended(cell)
    for program in programs:

        def prepare(lab: Lab, program: str = program) -> None:
            lab.qubes["sys-vpn"].run(["mv", program, f"{program}.away"])

        cell.start(boot=False, before=prepare)
        cell.boot()
        cell.route_to_uplink()
        _everything(cell, f"booted without {program}")
        cell.vpn.run(["mv", f"{program}.away", program])
        _mended(cell)


@section.attack("L04", "the loader's surroundings are hostile", "OUT", "STATE")
def hostile(cell: Cell) -> None:
    """It loads what is configured, or closes, or leaves all as it was; and says which."""
    cell.start()
    command = cell.command
    cell.tunnel_down()
    cell.vpn.run(
        "mkdir /rw/evil; for name in nft ip conntrack unshare python3; do"
        " printf '#!/bin/sh\\nexit 0\\n' >/rw/evil/$name; done; chmod 755 /rw/evil/*;"
        " echo 'raise SystemExit(0)' >/rw/evil/json.py"
    )
    for name, (load, after) in _HOSTILE.items():
        done = cell.vpn.run(f"K={command}\n{load}", check=False)
        _everything(cell, name)
        cell.vpn.run(after or "true")
        status = cell.vpn.run([command, "status", "--json"], check=False).stdout
        state = json.loads(status)["state"]
        right = ("open",) if not done.returncode else ("open", "closed")
        cell.require(state in right, f"{name}: exit code {done.returncode}, and it is {state}")
        cell.require(not cell.load().returncode, f"after {name} it does not load any more")


@section.attack("L05", "loads of different configurations race", "OUT", "STATE")
def race(cell: Cell) -> None:
    """Two loads, or a load and a close, at once: afterwards one of them holds entirely."""
    cell.start()
    command = cell.command
    cell.tunnel_down()
    lists = {
        "a": [cell.tunnel.endpoint, "[2001:db8::a]:1/udp", "192.0.2.0/25:1/udp"],
        "b": ["192.0.2.9:9/tcp", "[2001:db8::b]:2/udp", "192.0.2.128/25:2/tcp"],
    }
    for name, lines in lists.items():
        cell.vpn.write(f"/rw/config/vpn/{name}", "".join(f"{line}\n" for line in lines))
    cell.allow(
        Endpoint("udp", cell.tunnel.server, cell.tunnel.port),
        Endpoint("tcp", "192.0.2.9", 9),
    )
    script = f"""
cd /rw/config/vpn
load() {{ cp $1 $1.new; mv $1.new {_ENDPOINTS}; {command} load; }}
list() {{ nft -s list table inet qubes_vpn; }}
load a; a=$(list); load b; b=$(list); {command} close; c=$(list)
end=$(($(date +%s) + 30))
for n in $(seq 20); do
    [ $(date +%s) -lt $end ] || break
    load a & load b & wait
    now=$(list)
    [ "$now" = "$a" ] || [ "$now" = "$b" ] || echo "round $n, two loads: $now"
    load a & {command} close & wait
    now=$(list)
    [ "$now" = "$a" ] || [ "$now" = "$c" ] || echo "round $n, load and close: $now"
done
echo end
"""
    with _floods(cell):
        done = cell.vpn.run(
            f"timeout {_LONGEST} sh -s", check=False, input=script, timeout=_LONGEST + 20
        )
    *mixed, end = done.stdout.splitlines() or [""]
    cell.require(end == "end", f"not all rounds were done: {done.stderr[:200]}")
    cell.require(not mixed, f"neither of them holds: {' '.join(mixed)[:300]}")


@section.attack("L06", "the old endpoint after a change", "STATE")
def endpoints_change(cell: Cell) -> None:
    """Not even the tunnel's established outer flow goes on."""
    cell.start()
    _ = cell.command  # ends the attack where nothing could be loaded
    marker = cell.phase("endpoints changed")
    cell.vpn.write(_ENDPOINTS, "192.0.2.9:51820/udp\n")
    cell.load()
    cell.allow(Endpoint("udp", "192.0.2.9", 51820))
    jobs = [senders.udp(to, 443, marker, count=20) for to in SERVER.values()]
    cell.send(cell.client, *jobs)
    cell.salvo("all", "into the tunnel that has no endpoint")


@section.attack("L07", "nft hangs, or does not do what it says", "OUT", "STATE")
def bad_nft(cell: Cell) -> None:
    """Rules stay as they were, and the loader does not say that it has opened."""
    cell.start()
    command = cell.command
    cell.tunnel_down()
    before = _rules(cell)
    # A hung program is given up on after two minutes; here after one second.
    module = f"{command.rpartition('/')[0]}/qubes_vpn_nft.py"
    cell.vpn.run(["sed", "-i", "s/^_PATIENCE = .*/_PATIENCE = 1/", module])
    for name, (load, other) in _BAD_NFT.items():
        script = (
            f'#!/bin/sh\ncase " $* " in\n*" -c "*) {other} ;;\n*" -f "*) {load} ;;\nesac\n{other}\n'
        )
        cell.vpn.run(["mv", _NFT, f"{_NFT}.real"])
        cell.vpn.write(_NFT, script, 0o755)
        with cell.flood(cell.client, f"nft {name}", _RATE):
            done = cell.vpn.run(f"timeout 20 {command} load", check=False)
        cell.vpn.run(["mv", f"{_NFT}.real", _NFT])
        cell.require(done.returncode, f"nft {name}, and the loader says that it has opened")
        cell.require(_rules(cell) == before, f"nft {name}, and the rules are not as they were")
        cell.vpn.run(["ip", "link", "set", "eth0", "up"])
        cell.lab.agent.uplink(cell.vpn, "eth0")
        cell.salvo("all", f"nft {name}, afterwards")


@contextmanager
def _floods(cell: Cell) -> Iterator[None]:
    """A client's and the qube's own, while the context lasts."""
    with cell.flood(cell.client, "client's flood", _RATE), cell.flood(cell.vpn, "own flood", _RATE):
        yield


def _rules(cell: Cell) -> str:
    """Our table as it is loaded, without counters."""
    return cell.vpn.run("nft -s list table inet qubes_vpn", check=False).stdout


def _everything(cell: Cell, phase: str) -> None:
    """All salvoes and raw frames, whatever became of the uplink."""
    marker = cell.salvo("all", phase, routed=False)
    datagram = UDP(sport=40000, dport=443) / Raw(marker)
    own = cell.lab.addresses("sys-vpn")
    headers = [IP(src=own[0], dst=SERVER[4]), IPv6(src=own[1], dst=SERVER[6])]
    jobs = [senders.on_link(header / datagram, device="eth0") for header in headers]
    cell.send(cell.vpn, *jobs, routed=False)


def _mended(cell: Cell) -> None:
    """Everything is there again, and the uplink up, so that the capture can be proven."""
    cell.vpn.run(["nft", "-f", f"{cell.command.rpartition('/')[0]}/closed.nft"])
    cell.vpn.run([cell.command, "gate"])
    cell.vpn.run([cell.command, "load"], check=False)
    cell.vpn.run(["ip", "link", "set", "eth0", "up"])
