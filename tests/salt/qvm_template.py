# SPDX-License-Identifier: GPL-2.0-or-later
"""A stand-in for Qubes' qvm-template, which needs a Qubes: `qvm-template install --quiet NAME`.

By qubes-core-admin-client 4.3, qubesadmin/tools/qvm_template.py and qvm_template_postprocess.py:
its lock, its calls to the machine in their order, its words and exit codes.  It differs in this:
nothing is searched, downloaded or checked, the repositories hold the names in QVM_TEMPLATE_HAS; the
root volume is copied from another template, because the embedded Qubes has no
admin.vm.volume.Import; and nothing runs in the template, so what qubes.PostInstall would ask for is
set here.

QVM_TEMPLATE_LOCK: the lock's path.  QVM_TEMPLATE_FAILS: an error of the download.
QVM_TEMPLATE_WAITS: while there is a file of this path, it waits before the root volume is written,
and says so by a file PATH.reached.
"""

import argparse
import fcntl
import os
import sys
import time
from pathlib import Path

import qubesadmin
import qubesadmin.exc

LAST = ("url", "summary", "description")


def main():
    parser = argparse.ArgumentParser("qvm-template")
    parser.add_argument("command", choices=["install"])
    parser.add_argument("--quiet", action="store_true")
    parser.add_argument("templates", nargs=1)
    (name,) = parser.parse_args().templates
    app = qubesadmin.Qubes()
    lock = Path(os.environ["QVM_TEMPLATE_LOCK"])
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return failed(
                f"ERROR: Cannot get lock on {lock}. Perhaps another instance of qvm-template is "
                "running?"
            )
        try:
            return install(parser, app, name)
        except qubesadmin.exc.QubesException as error:
            return failed(f"ERROR: {error}")
        finally:
            lock.unlink()


def install(parser, app, name):
    if not app.updatevm.is_running():
        app.updatevm.start()  # a qrexec call starts the qube that it goes to
    if name not in os.environ["QVM_TEMPLATE_HAS"].split():
        parser.error(f"Template '{name}' not found.")
    if name in app.domains:
        return failed(f"Template '{name}' already installed, skipping... (You may want ...)", 0)
    if error := os.environ.get("QVM_TEMPLATE_FAILS"):
        return failed(error)
    print(f"Installing template '{name}'...", file=sys.stderr)
    vm = app.add_new_vm("TemplateVM", name, "black")
    try:
        waits = Path(os.environ.get("QVM_TEMPLATE_WAITS") or os.devnull)
        while waits.is_file():
            waits.with_suffix(".reached").touch()
            time.sleep(0.05)
        vm.volumes["root"].clone(app.domains["debian-13-xfce"].volumes["root"])
    except:
        del app.domains[name]
        raise
    vm.installed_by_rpm = False
    post_install(vm)
    for key in ("name", "epoch", "version", "release", "reponame", *LAST):
        vm.features[f"template-{key}"] = name if key == "name" else "0"
    return 0


def post_install(vm):
    vm.netvm = None
    vm.features["qrexec"] = "1"
    vm.start()
    vm.features["os"] = "Linux"
    vm.shutdown()
    vm.netvm = qubesadmin.DEFAULT


def failed(text, code=1):
    print(text, file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
