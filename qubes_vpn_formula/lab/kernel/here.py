# SPDX-License-Identifier: GPL-2.0-or-later
"""A command on this machine's own files and programs, under another kernel.

The virtual machine reads this machine's files, and forgets what it writes, but for one folder.  So
whatever runs here runs there as well, the booted lab too, with what that kernel has and this
machine's may not: WireGuard, flowtables.  There is no network.
"""

import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from .archive import Archive
from .image import Image, Kind
from .vm import NotBooted, emulate

_INIT = Path(__file__).with_name("here.sh")
#: Debian's kernel for virtual machines has no 9p, by which the files come.
MACHINE = Kind(
    "here",
    ("linux-image-amd64", "busybox-static"),
    (
        "crc32c_generic",
        "9p",
        "9pnet_virtio",
        "overlay",
        "veth",
        "tun",
        "wireguard",
        "nf_tables",
        "nf_conntrack_netlink",
        "nf_flow_table_inet",
        "nf_log_syslog",
        "nft_chain_nat",
        "nft_ct",
        "nft_fib_inet",
        "nft_flow_offload",
        "nft_limit",
        "nft_log",
        "nft_masq",
        "nft_nat",
        "nft_redir",
        "nft_reject_inet",
        "nft_reject_ipv4",
        "nft_reject_ipv6",
        "nft_reject_netdev",
    ),
)
#: See :data:`qubes_vpn_formula.lab.qube.SLOWNESS`.
_SLOWNESS = 10
#: MiB.  What is written lies in it.
_MEMORY = 3072


def run(
    image: Image, command: list[str], shared: Path, timeout: float
) -> subprocess.CompletedProcess[str]:
    """What `command` says and answers, run as root in this process' folder and environment.

    image: of :data:`MACHINE`.  shared: a folder that both machines see, and both write to.
    timeout: seconds for everything.  Raises :class:`NotBooted`.
    """
    output, code = shared / "output", shared / "exit"
    code.unlink(missing_ok=True)
    start = shared / "start"
    start.write_text(_start(command, output, code), encoding="utf-8")
    start.chmod(0o755)
    with tempfile.TemporaryDirectory(prefix="qubes-vpn-vm-") as folder:
        disk = Path(folder, "disk")
        shutil.copy(image.disk, disk)
        with disk.open("ab") as file:
            archive = Archive(file)
            archive.file("init", _INIT.read_bytes(), 0o755)
            archive.file("where", f"{shared}\n".encode())
            archive.end()
        options = ["-smp", "2", "-m", str(_MEMORY)]
        # As they are: owners, modes, device files.
        local = "local,security_model=passthrough,multidevs=remap"
        options += ["-virtfs", f"{local},path=/,mount_tag=machine,readonly=on"]
        options += ["-virtfs", f"{local},path={shared},mount_tag=shared"]
        words = emulate(image, disk, options, timeout)
    said = output.read_text("utf-8", "replace") if output.exists() else ""
    if not code.exists():
        raise NotBooted("\n".join([*said.splitlines()[-200:], *words.splitlines()[-30:]]))
    return subprocess.CompletedProcess(command, int(code.read_text("ascii")), said)


def _start(command: list[str], output: Path, code: Path) -> str:
    """The virtual machine's first process, once it has this machine's files."""
    environment = [f"{key}={value}" for key, value in os.environ.items()]
    environment.append(f"QUBES_VPN_LAB_SLOWNESS={_SLOWNESS}")
    words = shlex.join(["env", "-i", *environment, *command])
    return f"""#!/bin/sh
for number in 0:stdin 1:stdout 2:stderr; do
    ln -s "/proc/self/fd/${{number%:*}}" "/dev/${{number#*:}}"
done
ln -s /proc/self/fd /dev/fd
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs -o mode=0755 run /run
mount -t cgroup2 cgroup /sys/fs/cgroup
ip link set lo up
cd {shlex.quote(str(Path.cwd()))}
{words} </dev/null >{shlex.quote(str(output))} 2>&1
echo $? >{shlex.quote(str(code))}
sync
echo o >/proc/sysrq-trigger
sleep 60
"""
