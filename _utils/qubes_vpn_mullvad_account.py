# SPDX-License-Identifier: GPL-2.0-or-later
"""The Mullvad account of this qube: whether the app is logged in, and logging it in (R30, R33).

The number comes from a file in the qube, and goes to `mullvad account login` by its standard
input; without a number among its words that command reads one there (mullvadvpn-app
`mullvad-cli/src/cmds/account.rs`).  What it prints has the number in it, and is not told.
"""

import os
import stat

import qubes_vpn_mullvad_cli as cli
from qubes_vpn_killswitch import CONFIG

FILE = CONFIG / "credentials" / "mullvad-account"
_BY_HAND = "in this qube, `mullvad account login` asks for the number"
_NONE = f"Write the account number into {FILE} (0600, of root), or, {_BY_HAND}"
#: Seconds for Mullvad's API: the daemon tries other ways to it before it gives up.
_PATIENCE = 120


def state(patience=_PATIENCE):
    """``logged in``, ``logged out`` or ``revoked``; raises `qubes_vpn_mullvad_cli.Failed`."""
    told = cli.ask("account", "get", patience=patience)
    labels = {label for _, label in told}
    if any(section.startswith("not logged in") for section, _ in told):
        return "logged out"
    if any("device has been revoked" in section for section, _ in told):
        return "revoked"
    if "mullvad account" in labels:
        return "logged in"
    raise cli.Failed(f"`mullvad account get`: an answer that is not known. {cli.DAEMON}")


def number():
    """The account number in the file; raises :class:`qubes_vpn_mullvad_cli.Failed`."""
    try:
        descriptor = os.open(FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise cli.Failed(f"the Mullvad app is not logged in. {_NONE}") from None
    except OSError as error:
        raise cli.Failed(f"{FILE}: {error.strerror}. {_NONE}") from None
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise cli.Failed(f"{FILE}: not a plain file. {_NONE}")
        if found.st_uid or found.st_mode & 0o077:
            raise cli.Failed(
                f"{FILE}: others than root can read or change it. In this qube: "
                f"chown root:root {FILE}; chmod 0600 {FILE}"
            )
        text = "".join(file.read(200).decode("ascii", "replace").split())
    if not (text.isascii() and text.isdigit() and 10 <= len(text) <= 20):
        raise cli.Failed(f"{FILE}: there is no account number in it. Write it, and nothing else")
    return text


def login(account, api):
    """Logs in with the number *account*, and looks whether that holds.

    api: whether Mullvad's API is among the endpoints.
    Raises :class:`qubes_vpn_mullvad_cli.Failed`.
    """
    try:
        cli.run("account", "login", typed=f"{account}\n", patience=_PATIENCE)
    except cli.Failed as error:
        raise cli.Failed(_why(error, api)) from None
    if state() != "logged in":
        raise cli.Failed(
            f"`mullvad account login` was taken for done, and nobody is logged in. {cli.DAEMON}"
        )


def revoked():
    """What to do about a device that is no more."""
    return (
        "this qube's device was revoked from the Mullvad account, so nothing logs it in again by "
        f"itself. If that is not what you want: {_BY_HAND}"
    )


def _why(failed, api):
    """The sentence of a failed login; the app's own texts are the same in every version."""
    low = failed.said.lower()
    if "too many devices" in low:
        return (
            "the Mullvad account has all the devices that it may have. Revoke one: on mullvad.net, "
            "or in a qube that is logged in, `mullvad account list-devices` and `mullvad account "
            "revoke-device NAME`. Then run this again"
        )
    if "account does not exist" in low:
        return f"Mullvad knows no account of the number in {FILE}. Correct it"
    if not api:
        return f"{failed}. Mullvad's API is not among the endpoints: {NO_API}"
    if "cannot reach the api" in low:
        return "the Mullvad app cannot reach Mullvad's API, so it is not logged in. Run this again"
    return f"{failed}. To see it: {_BY_HAND}"


#: What goes without the API among the endpoints.
NO_API = (
    "add 45.83.223.196:443/tcp to them, or the app can neither log in nor renew its key and its "
    "relay list"
)
