# SPDX-License-Identifier: GPL-2.0-or-later
"""What `init` tells beside the pillar: remarks on the profile, its secrets, and what to do next."""

import shlex
from pathlib import PurePath, PureWindowsPath

import qubes_vpn_credentials
from qubes_vpn_credentials import PLACE
from qubes_vpn_formula import bundle
from qubes_vpn_formula.console import tell
from qubes_vpn_openvpn import login_file


def tell_profile(profile, refusals):
    """Findings, the VPN qube's *refusals*, and which secrets were left out (never their values)."""
    for finding in profile.findings:
        style = "bold red" if finding.danger else "yellow"
        if not finding.refused:
            tell(f"{profile.name}:{finding.line}: {finding.key}: {finding.what}", style)
    if refusals:
        tell("The VPN qube will refuse this profile until this is changed in it:", "bold red")
        for error in refusals:
            tell(f"  {error}", "bold red")
    if profile.secrets:
        tell(f"Left out of the pillar, because it is secret ({profile.name} stays as it is):")
        for secret in profile.secrets:
            tell(f"  line {secret.line}: {secret.what}")


def tell_places(tunnel, places):
    """That the app must be told where to connect: *places* are those of its chosen relays."""
    known = ", ".join(places[:10]) + (", ..." if len(places) > 10 else "")
    tell(
        f"{tunnel}: the Mullvad app connects where it was last told to, which the endpoints may "
        f"not allow. Write one place under tunnels.{tunnel}: 'mullvad: {{location: PLACE}}', in "
        f"quotes if it is no. The relays are in: {known}",
        "yellow",
    )


def tell_wider(tunnel, chosen, app=None):
    """That the app may try relays which were not chosen: of all that chose them, what it lacks.

    app: the tunnel's settings of it, as the model has them, or None.
    """
    wishes, entry = chosen.selection, app and app["entry"]
    what = []
    if wishes.hostnames and len(chosen.relays) > 1:
        what.append("names or patterns")
    if entry and (wishes.owner or wishes.hosted_by):
        what.append("the owner or company of an entry relay alone")
    if what:
        key = "entry" if entry else "location"
        tell(
            f"{tunnel}: the Mullvad app cannot be told {' or '.join(what)}, so it may try other "
            f"relays in its {key} too. The endpoints do not allow these, and it goes on to the "
            f"next. Name one relay as mullvad.{key}, or choose by country and city alone",
            "yellow",
        )


def tell_steps(steps):
    """The steps of :func:`next_steps`, numbered."""
    tell("Next:", "bold")
    for number, step in enumerate(steps, 1):
        tell(f"  {number}. {step['do']}")
        for line in step["type"]:
            tell(f"       {line}", "cyan")


def next_steps(profile, targets, pillar, port):
    """What the user does next: a list of ``{"do": sentence, "type": command lines}``.

    targets: who has a part of its own: ``{"template": name, "tunnel": name, "resolvers":
    [name...], "layout": bool}``, the resolvers' templates first.  pillar: the pillar's file.
    port: the Mullvad app's WireGuard port.
    """
    tunnel, resolvers = targets["tunnel"], targets["resolvers"]
    software = (
        _mullvad_app(tunnel, port) if profile.kind == "mullvad" else _profile(profile, tunnel)
    )
    ways = [targets["template"], tunnel]
    again = {
        "do": "In dom0, when that is there: apply it again. That brings the tunnel up.",
        "type": [_apply(ways)],
    }
    names = {
        "do": "In dom0, when the tunnel is up: the resolver. Until then, clients have no names.",
        "type": [_apply(resolvers, "--skip-dom0 ")],
    }
    own = {
        "do": "In dom0: your own qubes. Those that are missing are made.",
        "type": ["sudo qubesctl state.sls qubes.layout"],
    }
    after = [*([names] if resolvers else []), *([own] if targets["layout"] else [])]
    return [*_dom0(pillar, ways), *software, again, *after]


def _dom0(pillar, targets):
    bring, install = bundle.in_dom0("qubes-vpn.tar")
    return [
        {
            "do": f"Here: put the formula and {pillar} into one file, qubes-vpn.tar.",
            "type": [shlex.join(["qubes-vpn", "bundle", pillar])],
        },
        {
            "do": "In dom0 (README.md, Install it in dom0): take it over from the qube that holds "
            "it, here QUBE; go on if the sum is the one above; look, and apply it.",
            "type": [
                *bring,
                *install,
                "sudo qubesctl top.enable qubes_vpn pillar=True",
                "sudo qubesctl state.sls qubes.network.sys-vpn test=True",
                _apply(targets),
            ],
        },
    ]


def _apply(targets, options=""):
    return f"sudo qubesctl {options}--targets={','.join(targets)} state.sls qubes.network.sys-vpn"


def _mullvad_app(tunnel, port):
    return [
        {
            "do": f"In {tunnel}, never in its template: give the app its account number. Type it, "
            "Enter, Ctrl-D. The formula logs the app in with it, and pins it to port "
            f"{port}. `mullvad account login` by hand does as well.",
            "type": [
                f"sudo install -d -m700 {PLACE}",
                f"sudo install -m600 /dev/stdin {PLACE}/mullvad-account",
            ],
        }
    ]


def _profile(profile, tunnel):
    paths = [profile.name, *dict.fromkeys(reference.path for reference in profile.files)]
    asked = any(secret.what.startswith("auth-user-pass: asked") for secret in profile.secrets)
    return [
        {
            "do": f"In the qube that holds the profile: copy it to {tunnel}, never through dom0.",
            "type": [f"qvm-copy {shlex.join(paths)}"],
        },
        {
            "do": f"In {tunnel}: put it where only root can read it.",
            "type": qubes_vpn_credentials.bring(map(_base, paths)),
        },
        *([_login(profile, tunnel)] if asked else []),
    ]


def _login(profile, tunnel):
    path = shlex.quote(f"{PLACE}/{login_file(profile.name)}")
    return {
        "do": f"In {tunnel}: type the user's name, Enter, the password, Enter, and Ctrl-D.",
        "type": [
            f"sudo install -m 0600 -o root -g root /dev/null {path}",
            f"sudo tee {path} >/dev/null",
        ],
    }


def _base(path):
    """The bare name of a file, also of one that a Windows program wrote down."""
    return (PureWindowsPath if "\\" in path else PurePath)(path).name
