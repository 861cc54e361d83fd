# SPDX-License-Identifier: GPL-2.0-or-later
"""Audit rules about what is to be kept apart: vaults, templates, logins, labels (R09, R13, R14)."""

import qubes_vpn_updates
from qubes_vpn_finding import Rule, some

#: Labels that say "trusted": not for what everybody's packets pass.
_TRUSTED = ("green", "blue", "purple", "gray", "black")


def _vault(flow):
    view = flow.view
    for name in view.vaults():
        if view.wiring[name]:
            yield name, f"its netvm is {view.wiring[name]}"


def _vault_opens(flow):
    view = flow.view
    for name in view.vaults():
        base = view.disposables_of(name)
        if base and view.wiring.get(base):
            yield name, f"in a disposable of {base}, which hangs on {view.wiring[base]}"


def _template_online(flow):
    view = flow.view
    for name in view.of_class("TemplateVM"):
        if view.wiring[name] and name not in _templates_of(view, view.all_tunnels()):
            yield name, f"its netvm is {view.wiring[name]}"


def _login_in_template(flow):
    view = flow.view
    for name in sorted(_templates_of(view, view.all_tunnels())):
        if view.wiring[name]:
            yield name, f"its netvm is {view.wiring[name]}"


def _shared(flow):
    yield from _sharing(flow.view, flow.view.all_tunnels())


def _shared_resolver(flow):
    view = flow.view
    named = {each.name for each in view.services() if each.role == "resolver"}
    yield from _sharing(view, sorted((view.resolvers | named) & view.qubes.keys()))


def _sharing(view, names):
    service = {*view.all_tunnels(), *view.resolvers, *(each.name for each in view.services())}
    service |= {view.value(name, "template") for name in service & view.qubes.keys()}
    for template in sorted(_templates_of(view, names)):
        users = [
            name
            for name in sorted(view.qubes)
            if name not in service
            and view.klass(name) == "AppVM"
            and view.value(name, "template") == template
        ]
        if users:
            yield template, f"{some(users)} have it too"


def _templates_of(view, names):
    """The templates at the bottom of these qubes."""
    found = set()
    for name in names:
        below = view.value(name, "template")
        if below and view.klass(below) != "TemplateVM":  # of a disposable
            below = view.value(below, "template")
        found |= {below} if below else set()
    return found


def _login_copies(flow):
    view = flow.view
    homes = {
        view.value(name, "template"): name
        for name in view.all_tunnels()
        if view.klass(name) == "DispVM"
    }
    for name in sorted(view.qubes):
        base = view.disposables_of(name)
        own = view.value(name, "template") == base or name == base
        if base in homes and not own and view.klass(name) != "TemplateVM":
            yield name, f"in one of {base}, which has what {homes[base]} logs in with"


def _labels(flow):
    view = flow.view
    meant = {each.name: each.label for each in view.services()}
    ends = [name for name in view.qubes if view.is_end(name)]
    for name in sorted({*ends, *view.all_tunnels()}):
        label = view.value(name, "label")
        if label in _TRUSTED and meant.get(name) != label:
            yield name, f"its label is {label}"


def _no_disposables(flow):
    if flow.view.named["default_dispvm"] is None:
        yield "dom0", "default_dispvm is none"


def _updates_wait(flow):
    view = flow.view
    view.need("updates-available")
    for name in sorted(view.qubes):
        if view.feature(name, "updates-available"):
            yield name, "updates wait"


def _not_updated(flow):
    view = flow.view
    view.need("update times")
    days = view.model.check_days if view.model else qubes_vpn_updates.CHECK_DAYS
    yield from qubes_vpn_updates.overdue(view.inventory, days)


def _runs_for_long(flow):
    view = flow.view
    view.need("update times")
    days = view.model.restart_days if view.model else qubes_vpn_updates.RESTART_DAYS
    yield from qubes_vpn_updates.long_running(view.inventory, days)
    yield from qubes_vpn_updates.running_since_unknown(view.inventory)


def _two_jobs(flow):
    view = flow.view
    for name in view.bases():
        if view.value(name, "provides_network") and name in view.wiring.values():
            yield name, "others hang on it, and disposables are made from it"


RULES = (
    Rule(
        "A401",
        "critical",
        "A vault has a netvm",
        "What is kept there is safe because nothing leaves it.",
        "qvm-prefs QUBE netvm none.",
        _vault,
    ),
    Rule(
        "A402",
        "medium",
        "What a vault opens in a disposable has a network",
        "A file from the vault can be sent from there.",
        "qvm-prefs QUBE default_dispvm NAME, one whose template for disposables is offline, or ''.",
        _vault_opens,
    ),
    Rule(
        "A403",
        "high",
        "A template has a netvm",
        "Its updates come by the updates proxy. What gets in by a netvm is in every qube of it, "
        "and outlives each restart.",
        "qvm-prefs QUBE netvm none.",
        _template_online,
    ),
    Rule(
        "A404",
        "high",
        "The template of a VPN qube has a netvm",
        "A login made there is every qube's of the template. Its files are not seen from dom0.",
        "qvm-prefs QUBE netvm none, and: "
        "qubesctl --skip-dom0 --targets=QUBE qubes_vpn.template_ready KINDS.",
        _login_in_template,
    ),
    Rule(
        "A405",
        "medium",
        "The template of a VPN qube is others' too",
        "VPN software does not belong into other qubes, nor theirs into the VPN qube.",
        "Give the VPN qube a template of its own (pillar: template).",
        _shared,
    ),
    Rule(
        "A406",
        "low",
        "The template of a resolver is others' too",
        "What is installed for others runs beside everybody's DNS.",
        "Give the resolver a template of its own (pillar: template).",
        _shared_resolver,
    ),
    Rule(
        "A407",
        "high",
        "What it opens runs beside a copy of a VPN login",
        "Disposables of what a disposable VPN qube is made from have all its files.",
        "qvm-prefs QUBE default_dispvm NAME, another one.",
        _login_copies,
    ),
    Rule(
        "A408",
        "low",
        "A trusted label on a qube of the network",
        "Everybody's packets pass it; red or orange says so.",
        "qvm-prefs QUBE label red.",
        _labels,
    ),
    Rule(
        "A409",
        "low",
        "There are no disposables to open things in",
        "Links and files from others are then opened in the qube itself.",
        "Set default_dispvm in the pillar, or: qubes-prefs default_dispvm NAME.",
        _no_disposables,
    ),
    Rule(
        "A410",
        "low",
        "Updates wait",
        "Known holes stay open until they are installed and qubes are restarted.",
        "Install them: the Qubes Update tool.",
        _updates_wait,
    ),
    Rule(
        "A411",
        "low",
        "A network qube that disposables are made from",
        "Each of them has a copy of its files, and it has their job beside its own.",
        "Make a template for disposables of its own.",
        _two_jobs,
    ),
    Rule(
        "A412",
        "low",
        "It was up to date long ago, or never",
        "Nobody looks for updates, or they do not get there: known holes stay open.",
        "Update it: the Qubes Update tool, or qubes-vm-update --force-update --targets QUBE; dom0: "
        "qubes-dom0-update. If that fails, look at who fetches for it (pillar: updates).",
        _not_updated,
    ),
    Rule(
        "A413",
        "low",
        "It has been running for long, or nobody knows since when",
        "What got into it stays until a restart, and so does what was mended in its template.",
        "Restart it when it suits; in which order: qubesctl qubes_vpn.restarts.",
        _runs_for_long,
    ),
)
