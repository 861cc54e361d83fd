# SPDX-License-Identifier: GPL-2.0-or-later
"""usage: targets.py [--show-output] NAME[,NAME...] FUNCTION [ARGUMENTS]

Stands in for `qubesctl --skip-dom0 --targets=NAMES`: Salt in each of these qubes, templates first.

As in Qubes, a name that does not exist is passed over, a target is started for it and shut down
after it, its pillar is rendered in dom0 and is all that it sees of the pillar, and the formula
is a copy of dom0's /srv/salt.  The qubes are the lab's: the files and the network are private, and
what stays when one is shut down is a template's root and any other qube's /rw, in DOM0_QUBES_OFF.
At a start the formula's own units run, as far as they are enabled.  A template has its packages
already: nothing is fetched here.  salt-call takes the place of
salt-ssh; no management qube and no qrexec is on the way.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import qubesadmin
import yaml

sys.path.append(str(Path(__file__).resolve().parents[1]))
from debian_13 import debian_13

from qubes_vpn_formula.lab import boot
from qubes_vpn_formula.lab.boot import Unit
from qubes_vpn_formula.lab.qube import Qube

_OFF = Path(os.environ["DOM0_QUBES_OFF"])
_SALT_CALL = [os.environ["DOM0_PYTHON"], "-S", os.environ["DOM0_SALT_CALL"], "--local"]
_BEGIN = "/run/begin"
_UNITS = "/etc/systemd/system"
_UPLINK = "ip netns add netvm && ip link add eth0 group 1 type veth peer name eth0 netns netvm"


def main(words: list[str]) -> int:
    """Runs FUNCTION in all targets; the exit code is the highest of theirs."""
    show = words[0] == "--show-output"
    names, *function = words[show:]
    wanted = [vm for vm in qubesadmin.Qubes().domains if vm.name in names.split(",")]
    code = 0
    for vm in sorted(wanted, key=lambda vm: vm.klass != "TemplateVM"):
        with _started(vm) as qube:
            done = qube.run(_salt(vm.name, function), check=False, timeout=120)
        code = max(code, done.returncode)
        said = done.stdout + done.stderr
        if show:
            lines = said.splitlines()
            print("\n".join([f"{vm.name}:", *(f"  {line}" for line in lines if line != "local:")]))
        elif done.returncode:
            print(f"{vm.name}: ERROR (exit code {done.returncode})")
            print(said, file=sys.stderr)
        else:
            print(f"{vm.name}: OK")
    return code


@contextmanager
def _started(vm: qubesadmin.vm.QubesVM) -> Iterator[Qube]:
    """The qube, booted; what Qubes keeps of it is kept."""
    if vm.is_running():
        sys.exit(f"{vm.name}: this stand-in knows only targets that are off")
    is_template = vm.klass == "TemplateVM"
    root = _OFF / f"{vm.name if is_template else vm.template.name}.root.tar"
    rw = _OFF / f"{vm.name}.rw.tar"
    with Qube(vm.name) as qube:
        if is_template:
            debian_13(qube, ("wireguard", "openvpn", "dnscrypt"))
            # As the package does, whose files and scripts are not there.
            qube.run("id _dnscrypt-proxy || useradd --system --no-create-home _dnscrypt-proxy")
        qube.run(["touch", _BEGIN])
        qube.run("mount -t tmpfs srv /srv")  # what was there is dom0's
        if vm.netvm:
            qube.run(_UPLINK)
        if root.exists():
            qube.run(["tar", "-C", "/", "-xpf", str(root)])
        boot.play(qube, [*_qubes_units(vm, qube, rw), *_enabled(qube)])
        yield qube
        if is_template:
            changed = f"find etc usr -cnewer {_BEGIN} -print0"
            pack = "tar --null --no-recursion --files-from=- -cf"
            qube.run(f"cd / && {changed} | {pack} {root}")
        else:
            qube.run(["tar", "-C", "/rw", "-cpf", str(rw), "."])


def _qubes_units(vm: qubesadmin.vm.QubesVM, qube: Qube, rw: Path) -> list[Unit]:
    """What of Qubes' own boot the formula's units wait for: the services, then /rw."""
    flags = [
        f"/run/qubes-service/{name.removeprefix('service.')}"
        for name, value in vm.features.items()
        if name.startswith("service.") and value
    ]

    def services() -> None:
        if flags:
            qube.run(["touch", *flags])

    def mount_dirs() -> None:
        if rw.exists():
            qube.run(["tar", "-C", "/rw", "-xpf", str(rw)])

    return [
        Unit("qubes-sysinit.service", action=services, default=False),
        Unit(
            "qubes-mount-dirs.service",
            after=("qubes-sysinit.service",),
            action=mount_dirs,
            default=False,
        ),
        Unit("sysinit.target", default=False),
    ]


def _enabled(qube: Qube) -> list[Unit]:
    """The formula's units that something wants or requires."""
    find = f"find {_UNITS} -path '*.*/qubes-vpn-*.service' -type l -printf '%f\\n'"
    names = sorted(set(qube.run(find).stdout.split()))
    return [boot.parse(name, qube.read(f"{_UNITS}/{name}")) for name in names]


def _salt(name: str, function: list[str]) -> list[str]:
    """The command line of FUNCTION in the target, whose configuration it writes."""
    folder = _OFF / f"{name}.salt"
    pillar, states = folder / "pillar", folder / "states"
    shutil.rmtree(states, ignore_errors=True)
    shutil.copytree("/srv/salt", states)
    for made in (folder / "var/cache/salt/minion", pillar):
        made.mkdir(parents=True, exist_ok=True)
    (pillar / "top.sls").write_text(yaml.safe_dump({"base": {name: ["combined"]}}))
    (pillar / "combined.sls").write_text(yaml.safe_dump(_pillar(name)))
    minion = {
        "id": name,
        "file_client": "local",
        "root_dir": str(folder),
        "file_roots": {"base": [str(states)]},
        "pillar_roots": {"base": [str(pillar)]},
        # Sent along with every call.
        "module_dirs": [str(states / "_modules")],
        "utils_dirs": [str(states / "_utils")],
        "states_dirs": [str(states / "_states")],
        "extension_modules": str(folder / "extmods"),
        "autoload_dynamic_modules": False,
        "enable_fqdns_grains": False,
        "enable_gpu_grains": False,
    }
    (folder / "minion").write_text(yaml.safe_dump(minion))
    path = f"PYTHONPATH={sysconfig.get_path('purelib')}"
    options = [f"--config-dir={folder}", "--retcode-passthrough", "--no-color"]
    return ["env", path, *_SALT_CALL, *options, *function]


def _pillar(name: str) -> dict:
    """The target's pillar, rendered in dom0 as Qubes does it."""
    words = [f"--config-dir={os.environ['DOM0_CONFIG']}", f"--id={name}", "--output=yaml"]
    done = subprocess.run(
        [*_SALT_CALL, *words, "pillar.items"], stdout=subprocess.PIPE, text=True, check=True
    )
    pillar = yaml.safe_load(done.stdout)["local"]
    del pillar["master"]  # dom0's configuration
    return pillar


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
