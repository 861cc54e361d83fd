# SPDX-License-Identifier: GPL-2.0-or-later
"""The Mullvad app in a VPN qube: kept, answering, set as the pillar says, logged in, connected.

In this order, so that nothing is set that would be lost, and nothing connects before all is set.
The app's own firewall and lockdown are set, and never counted on: the killswitch does not need
them (R40).
"""

import os
import re
import time
from pathlib import Path
from typing import NamedTuple

import qubes_vpn_mullvad_account as account
import qubes_vpn_mullvad_cli as cli
import qubes_vpn_mullvad_keep as keep
import qubes_vpn_mullvad_settings as settings

_UNITS = Path("/etc/systemd/system")
#: What the template must have: the app, its daemon enabled, and ours between the two (R24).
_NEEDED = {
    cli.PROGRAM: "The Mullvad app is not in the template",
    _UNITS / "multi-user.target.wants" / keep.DAEMON: "The template does not start the app",
    _UNITS / "mullvad-.service.d" / "50-qubes-vpn.conf": "The app would start before its settings",
}
#: Seconds for which the daemon's first answer, and a connection, are waited for.
_DAEMON_PATIENCE = 30
_TUNNEL_PATIENCE = 60
#: Seconds for which it must be connected after a change: a new setting makes the app connect anew.
_HOLDS = 1
_STATE = re.compile(r"^(Connected|Connecting|Disconnected|Disconnecting|Blocked)\b", re.MULTILINE)


class Outcome(NamedTuple):
    """changes: as a state gives them.  problems: why it is not as it should be, in words.

    told: what else is so, in words.
    """

    changes: dict
    problems: list
    told: tuple = ()


def apply(pillar, api, dry):
    """The app becomes as *pillar* says, its ``mullvad`` of the tunnel; an :class:`Outcome`.

    api: whether Mullvad's API is among the endpoints.  dry: nothing is changed.
    """
    changes = {}
    try:
        _ready_to_begin()
        _keep(changes, dry)
        if dry and keep.DAEMON in changes:
            return Outcome(changes, [], ["What it is set to is seen once its daemon runs"])
        wait()
        _set(changes, pillar, dry)
        _log_in(changes, api, dry)
        if changes and not dry:
            _look_again(pillar)
        if pillar["auto_connect"]:
            _connect(changes, dry)
            return Outcome(changes, [])
        now = status()
    except (cli.Failed, keep.NotKept) as error:
        return Outcome(changes, [str(error)])
    return Outcome(changes, [], [f"Nothing is connected here, as auto_connect is off: {now}"])


def _ready_to_begin():
    for path, what in _NEEDED.items():
        if not os.path.lexists(path):
            fix = "Apply the formula to the template, and restart this qube"
            raise cli.Failed(f"{path}: not there. {what}. {fix}")
    if hindrances := keep.hindrances():
        raise keep.NotKept(". ".join(hindrances))


def _keep(changes, dry):
    wanted = keep.differences()
    left = {}
    try:
        if wanted and not dry:
            keep.keep()
    except keep.NotKept:
        left = keep.differences()
        raise
    finally:
        changes.update({what: change for what, change in wanted.items() if what not in left})


def wait(patience=_DAEMON_PATIENCE):
    """Waits until the daemon answers (R24): without it a command may fail or do nothing at all."""
    until = time.monotonic() + patience
    while True:
        try:
            return status()
        except cli.Failed as error:
            if time.monotonic() >= until:
                what = f"the Mullvad app's daemon did not answer in {patience} seconds"
                raise cli.Failed(f"{what}: {error}") from None
        time.sleep(0.25)


def status():
    """The tunnel's state, as the first word of `mullvad status`."""
    if found := _STATE.search(cli.run("status")):
        return found[1]
    raise cli.Failed(f"`mullvad status`: no answer. {cli.DAEMON}")


def _set(changes, pillar, dry):
    told = settings.said()
    for name, value in settings.wanted(pillar).items():
        if settings.differs(name, value, told) is False:
            continue
        if not dry:
            settings.change(name, value)
        old = settings.SETTINGS[name].value(told)
        changes[name] = {"old": settings.shown(old), "new": settings.shown(value)}


def _log_in(changes, api, dry):
    now = account.state()
    if now == "revoked":
        raise cli.Failed(account.revoked())
    if now == "logged in":
        return
    number = account.number()
    if not dry:
        account.login(number, api)
    changes["account"] = {"old": now, "new": "logged in"}


def _look_again(pillar):
    """Whether all settings hold, after the login and one another."""
    told = settings.said()
    for name, value in settings.wanted(pillar).items():
        if settings.differs(name, value, told) is not False:
            now = settings.shown(settings.SETTINGS[name].value(told))
            what = f"{name} was set to {settings.shown(value)}, and is {now} again"
            raise cli.Failed(f"{what}: somebody else sets it too, or the app does. {cli.DAEMON}")


def _connect(changes, dry):
    """Connects, unless the app does so by itself already, and waits for it."""
    before = now = status()
    if before in ("Disconnected", "Disconnecting") and not dry:
        cli.run("connect")
    if before != "Connected":
        changes["tunnel"] = {"old": before, "new": "Connected"}
    until = time.monotonic() + _TUNNEL_PATIENCE
    if changes and not dry:
        time.sleep(_HOLDS)
        now = status()
    while not dry and now != "Connected":
        if time.monotonic() >= until:
            changes.pop("tunnel", None)
            raise cli.Failed(
                f"the Mullvad app is set, and not connected after {_TUNNEL_PATIENCE} seconds: "
                f"{now}. The relays of its location, and its port, must be among the endpoints: "
                "`mullvad status -v` names what it tries"
            )
        time.sleep(0.5)
        now = status()
