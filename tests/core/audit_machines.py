# SPDX-License-Identifier: GPL-2.0-or-later
"""Inventories for the audit's tests: a machine on which all is well, to be spoilt."""

import copy

ACCEPT, DROP = "action=accept", "action=drop"
ENDPOINT = "action=accept dst4=203.0.113.7/32 proto=udp dstports=51820-51820"
MORE = [
    *("ip", "ipv6", "service.custom-persist", "updates-available", "tags of policy"),
    *("policy of services", "update times", "bypass"),
]
#: When the inventories here are taken; an hour before, all was up to date.
TAKEN, CHECKED = "2026-03-01T12:00:00+01:00", {"last-updates-check": "2026-03-01 11:00:00"}
_POLICY = (
    "qubes.UpdatesProxy * @tag:whonix-updatevm @default allow target=sys-whonix",
    "qubes.UpdatesProxy * @tag:whonix-updatevm @anyvm deny",
    "qubes.UpdatesProxy * @type:TemplateVM @default allow target=sys-firewall",
    "qubes.UpdatesProxy * @type:TemplateVM @anyvm deny",
)
_UPDATED = ("AdminVM", "StandaloneVM", "TemplateVM")
#: A pillar that fits `well()`.
PILLAR = {
    "tunnels": {
        "sys-vpn": {
            "kind": "wireguard",
            "profile": "wg.conf",
            "endpoints": ["203.0.113.7:51820/udp"],
        }
    },
    "routes": {"qubes": {"work": "sys-firewall"}},
    "vaults": ["vault"],
    "whonix": "behind_vpn",
}


class Machine:
    """An inventory to be made and spoilt, by few words."""

    def __init__(self):
        self.data = {
            "format": "qubes-vpn inventory",
            "version": 1,
            "release": "4.3",
            "globals": dict.fromkeys(
                ("default_netvm", "default_template", "default_dispvm", "management_dispvm")
            )
            | {"updatevm": None, "clockvm": None},
            "policy": {},
            "qubes": {},
            "written": {},
            "taken": TAKEN,
            "more": list(MORE),
        }
        self.add("dom0", "AdminVM", None)

    def add(self, name, klass="AppVM", template="debian", netvm=None, label="blue", **more):
        """A qube.  more: other properties; lists, features and tags by their names."""
        rules, features, tags = (more.pop(key, None) for key in ("rules", "features", "tags"))
        values = {"label": label, "netvm": netvm, "provides_network": False, "template": template}
        values |= {"default_dispvm": None, "memory": 400, "maxmem": 4000, **more}
        if klass in ("TemplateVM", "StandaloneVM", "AdminVM"):
            del values["template"]
        if klass == "AdminVM":
            values = {"default_dispvm": None}
        self.data["qubes"][name] = {
            "class": klass,
            "power": "Halted",
            "properties": {
                key: {"value": value, "inherited": False} for key, value in values.items()
            },
            "features": (dict(CHECKED) if klass in _UPDATED else {}) | dict(features or {}),
            "tags": list(tags or ()),
        }
        if klass != "AdminVM":
            self.data["qubes"][name]["firewall"] = list(rules or [ACCEPT])
        return self

    def set(self, name, key, value, inherited=False):
        self.data["qubes"][name]["properties"][key] = {"value": value, "inherited": inherited}
        return self

    def feature(self, name, key, value):
        self.data["qubes"][name]["features"][key] = value
        return self

    def no_feature(self, name, key):
        del self.data["qubes"][name]["features"][key]
        return self

    def rules(self, name, *rules):
        self.data["qubes"][name]["firewall"] = list(rules)
        return self

    def tag(self, name, *tags):
        self.data["qubes"][name]["tags"] = list(tags)
        return self

    def named(self, key, name):
        self.data["globals"][key] = name
        return self

    def policy(self, *lines):
        self.data["policy"] = {"30-mine.policy": list(lines)}
        return self

    def copy(self):
        return copy.deepcopy(self)


def well():
    """Everything goes by sys-firewall, sys-dns and sys-vpn to sys-net, or is offline."""
    networking = {"qubes-firewall": "1", "supported-service.qubes-updates-proxy": "1"}
    made = Machine()
    for name in ("debian", "t-vpn", "t-dns"):
        made.add(name, "TemplateVM", features=networking)
    made.add("whonix-ws", "TemplateVM", tags=["whonix-updatevm"])
    provider = {"provides_network": True, "maxmem": 600}
    made.add("sys-net", label="red", **provider)
    vpn = {"features": {"service.qubes-vpn": "1"}, "rules": [ENDPOINT, DROP]}
    made.add("sys-vpn", template="t-vpn", netvm="sys-net", label="orange", **provider, **vpn)
    dns = {"service.qubes-vpn-dns": "1"}
    made.add("sys-dns", template="t-dns", netvm="sys-vpn", features=dns, **provider)
    made.add("sys-firewall", netvm="sys-dns", label="green", **provider)
    made.add("sys-whonix", netvm="sys-firewall", tags=["anon-gateway"], **provider)
    made.add("anon", template="whonix-ws", netvm="sys-whonix", tags=["anon-vm"])
    made.add("work", netvm="sys-firewall", default_dispvm="dvm")
    made.add("vault", label="black", default_dispvm="dvm-offline")
    made.add("dvm", netvm="sys-firewall", template_for_dispvms=True, default_dispvm="dvm")
    made.add("dvm-offline", template_for_dispvms=True)
    made.add("mgmt", template_for_dispvms=True)
    made.add("disp1", "DispVM", "dvm", netvm="sys-firewall", default_dispvm="dvm")
    for key, name in (
        ("default_netvm", "sys-firewall"),
        ("default_dispvm", "dvm"),
        ("management_dispvm", "mgmt"),
        ("updatevm", "sys-firewall"),
        ("clockvm", "sys-firewall"),
    ):
        made.named(key, name)
    return made.policy(*_POLICY)
