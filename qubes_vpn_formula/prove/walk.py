# SPDX-License-Identifier: GPL-2.0-or-later
"""A packet through one hook: all its base chains by priority, as terms of the solver."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import z3

from qubes_vpn_formula.prove import bytecode, translation
from qubes_vpn_formula.prove.expressions import single
from qubes_vpn_formula.prove.notmodelled import NotModelled
from qubes_vpn_formula.prove.packet import IPV4, IPV6, LOOPBACK, STATES, TCP, Packet, value
from qubes_vpn_formula.prove.ruleset import Chain, Rule, Ruleset
from qubes_vpn_formula.prove.statements import Names, Statements
from qubes_vpn_formula.prove.terms import FALSE, TRUE, both, either, equal, unless
from qubes_vpn_formula.prove.translation import Binding

#: Where connection tracking looks at a packet (net/netfilter/nf_conntrack_proto.c), and where
#: fragments are put together before that.
_TRACKING, _REASSEMBLY = -200, -400
_TRACKED_HOOKS = ("prerouting", "output")
_OF_DEVICES = ("ingress", "egress")
_STOPS = ("drop", "reject")
#: Deeper the kernel does not jump (NFT_JUMP_STACK_SIZE, include/net/netfilter/nf_tables.h).
_DEEPEST = 16
#: So much work a hook may be: statements, once for each way that leads to them, and the elements
#: of the sets that they look into.
_MOST = 100_000
_MOST_CHAINS = 256  # at one hook
#: Statements that leave a packet as it is and let it go on.
_IDLE = ("counter", "log", "comment")
#: Statements that let some packets go on; which, nobody here knows.
_CHANCES = ("limit", "quota")


@dataclass(frozen=True)
class Step:
    """Something that a packet may meet on its way.

    where: the rule; the base chain for its policy; a text for what the kernel does by itself.
    met: a truth: the packet gets there and everything that the rule compares is so.
    what: the verdict or the change, in words.
    """

    where: Rule | Chain | str
    met: z3.BoolRef
    what: str


@dataclass(frozen=True)
class Outcome:
    """What became of a packet that entered under a condition; the three exclude each other.

    rejected: dropped, and the sender is told.  packet: how it looks where it is accepted.
    trace: in the order of meeting.
    """

    accepted: z3.BoolRef
    dropped: z3.BoolRef
    rejected: z3.BoolRef
    packet: Packet
    trace: tuple[Step, ...]


def walk(
    ruleset: Ruleset,
    hook: str,
    packet: Packet,
    given: z3.BoolRef = TRUE,
    open_sets: Names = frozenset(),
) -> Outcome:
    """*packet* through *hook*: prerouting, input, forward, output, postrouting, ingress or egress.

    given: the condition under which it gets there; to other hooks than ingress and egress only IP
    does.  open_sets: (family, table, name) of sets whose
    elements are not looked at: membership is a function of the key of which nothing is known
    (:func:`qubes_vpn_formula.prove.statements.membership`), so what is proven holds for any
    elements.  Raises NotModelled.
    """
    return _Walk(ruleset, hook, packet, open_sets).outcome(given)


class _Walk:
    def __init__(self, ruleset: Ruleset, hook: str, packet: Packet, open_sets: Names) -> None:
        self._ruleset = ruleset
        self._hook = hook
        self._packet = packet
        self._statements = Statements(ruleset, open_sets)
        self._trace: list[Step] = []
        #: how the chain that is walked now ended, by verdict
        self._ended: dict[str, list[z3.BoolRef]] = defaultdict(list)
        self._bindings: list[Binding] = []
        self._depth = self._work = 0

    def outcome(self, given: z3.BoolRef) -> Outcome:
        alive, stopped = given, {verdict: [] for verdict in _STOPS}
        if self._hook not in _OF_DEVICES:
            alive = both(given, either(self._packet.is_ipv4(), self._packet.is_ipv6()))
        for stage in self._stages():
            self._ended.clear()
            alive = stage(alive)
            for verdict in _STOPS:
                stopped[verdict] += self._ended[verdict]
        return Outcome(
            alive,
            either(*stopped["drop"]),
            either(*stopped["reject"]),
            self._packet,
            tuple(self._trace),
        )

    # The order of things at a hook.

    def _stages(self) -> Iterator[Callable[[z3.BoolRef], z3.BoolRef]]:
        """Each takes the condition under which a packet comes, and gives that of its going on."""
        stages: list[tuple[int, Callable[[z3.BoolRef], z3.BoolRef]]] = []
        chains = self._ordered([one for one in self._chains() if one.base.kind != "nat"])
        for chain in chains:
            stages.append(
                (chain.base.priority, lambda alive, chain=chain: self._base(chain, alive))
            )
        if self._hook in translation.PRIORITIES and any(translation.families(self._ruleset)):
            stages.append((translation.PRIORITIES[self._hook], self._translate))
        early = [priority for priority, _stage in stages if priority <= _TRACKING]
        if self._hook in _TRACKED_HOOKS and early:
            if min(early) <= _REASSEMBLY or max(early) == _TRACKING:
                raise NotModelled(str(chains[0]), f"priority {min(early)}")
            tracked = self._packet.state
            self._untrack()
            stages.append((_TRACKING, lambda alive: self._track(tracked, alive)))
        stages.sort(key=lambda stage: stage[0])
        yield from (stage for _priority, stage in stages)

    def _chains(self) -> list[Chain]:
        chains = [one for one in self._ruleset.chains() if one.base]
        chains = [one for one in chains if one.base.hook == self._hook]
        if len(chains) > _MOST_CHAINS:
            raise NotModelled(self._hook, f"more than {_MOST_CHAINS} chains")
        return chains

    def _ordered(self, chains: list[Chain]) -> list[Chain]:
        """By priority.  Of several with the same, the order is not listed: it must not matter."""
        places: dict[tuple[int, str], list[Chain]] = defaultdict(list)
        for chain in chains:
            # At a device's hook chains of inet and of netdev stand in one row.
            for version in (0,) if self._hook in _OF_DEVICES else _versions(chain):
                places[chain.base.priority, version].append(chain)
                if translation.PRIORITIES.get(self._hook) == chain.base.priority and any(
                    translation.families(self._ruleset)
                ):
                    raise NotModelled(str(chain), "a filter at address translation's own priority")
        for several in places.values():
            if len(several) > 1:
                looked: set[str] = set()
                for chain in several:
                    self._must_not_write(chain, looked)
        return sorted(chains, key=lambda one: one.base.priority)

    def _must_not_write(self, chain: Chain, looked: set[str]) -> None:
        """looked: names of the chains that were seen to."""
        if str(chain) in looked:
            return
        looked.add(str(chain))
        for rule in chain.rules:
            for statement in rule.statements:
                for kind, data in statement.items():
                    if kind in ("jump", "goto"):
                        self._must_not_write(self._target(rule, data), looked)
                    changes = kind == "mangle" and data["key"] != _MSS
                    if changes or kind in ("notrack", "vmap"):
                        raise NotModelled(
                            str(rule), f"'{kind}' beside a chain of the same priority"
                        )

    # What the kernel does by itself.

    def _untrack(self) -> None:
        """Before tracking nothing has a flow, but what comes by `lo` and was tracked going out."""
        unknown = value("state", STATES["invalid"])
        if self._hook == "prerouting":
            unknown = z3.If(self._packet.in_index == LOOPBACK, self._packet.state, unknown)
        self._packet = self._packet.having(state=unknown)

    def _track(self, tracked: z3.BitVecRef, alive: z3.BoolRef) -> z3.BoolRef:
        untracked = self._packet.in_state("untracked")
        self._packet = self._packet.having(state=z3.If(untracked, self._packet.state, tracked))
        return alive

    def _translate(self, alive: z3.BoolRef) -> z3.BoolRef:
        packet = self._packet
        four, six = translation.families(self._ruleset)
        concerned = either(
            packet.is_ipv4() if four else FALSE,
            packet.is_ipv6() if six else FALSE,
        )
        flow = both(alive, concerned, unless(TRUE, packet.in_state("invalid", "untracked")))
        asks = translation.asks_rules(self._hook, packet)
        fresh, old = both(flow, asks), unless(flow, asks)
        self._bindings = []
        seeking = fresh
        for chain in self._nat_chains():
            before = len(self._bindings)
            seeking = self._base(chain, seeking)
            for one in self._bindings[before:]:
                self._ended["drop"].append(both(one.met, one.drop))
        stopped = either(*[one for verdict in _STOPS for one in self._ended[verdict]])
        self._trace.append(Step("address translation of its flow", old, "as for its first packet"))
        self._packet = translation.rewritten(self._hook, packet, self._bindings, fresh, old)
        return unless(alive, stopped)

    def _nat_chains(self) -> list[Chain]:
        chains = [one for one in self._chains() if one.base.kind == "nat"]
        taken = set()
        for chain in chains:
            for version in _versions(chain):
                if (chain.base.priority, version) in taken:
                    raise NotModelled(str(chain), "a second nat chain of the same priority")
                taken.add((chain.base.priority, version))
        return sorted(chains, key=lambda one: one.base.priority)

    # Rules.

    def _base(self, chain: Chain, alive: z3.BoolRef) -> z3.BoolRef:
        """A base chain: the condition under which a packet that came goes on behind it."""
        seen = self._sees(chain)
        accepted = len(self._ended["accept"])
        rest = self._chain(chain, both(alive, seen))
        self._trace.append(Step(chain, rest, f"policy {chain.base.policy}"))
        if chain.base.policy == "drop":
            self._ended["drop"].append(rest)
            rest = FALSE
        return either(unless(alive, seen), rest, *self._ended["accept"][accepted:])

    def _sees(self, chain: Chain) -> z3.BoolRef:
        packet = self._packet
        if self._hook in _OF_DEVICES:
            field = "in_name" if self._hook == "ingress" else "out_name"
            device = getattr(packet, field)
            named = either(*[equal(device, value(field, name)) for name in chain.base.devices])
            if chain.family == "netdev":
                return named
            return both(named, either(*[equal(packet.ethertype, one) for one in _versions(chain)]))
        return either(*[equal(packet.ethertype, version) for version in _versions(chain)])

    def _chain(self, chain: Chain, given: z3.BoolRef) -> z3.BoolRef:
        """The condition under which a packet comes out of the chain with no verdict."""
        alive, back = given, []
        if self._depth > _DEEPEST:
            raise NotModelled(str(chain), f"a jump behind {_DEEPEST} others")
        self._depth += 1
        for rule in chain.rules:
            if z3.is_false(alive):
                break
            stays = alive
            for met, verdict in self._rule(rule, alive):
                stays = unless(stays, met)
                [(kind, data)] = verdict.items()
                if kind == "jump":
                    stays = either(stays, self._chain(self._target(rule, data), met))
                elif kind == "goto":
                    back.append(self._chain(self._target(rule, data), met))
                elif kind == "return":
                    back.append(met)
                elif kind == "continue":
                    stays = either(stays, met)
                else:
                    self._ended[kind].append(met)
            alive = stays
        self._depth -= 1
        return either(alive, *back)

    def _target(self, rule: Rule, data: dict[str, Any]) -> Chain:
        return self._ruleset.chain(rule.family, rule.table, data["target"])

    def _rule(self, rule: Rule, alive: z3.BoolRef) -> list[tuple[z3.BoolRef, dict[str, Any]]]:
        """The verdicts of a rule for packets that come under *alive*, each with its condition."""
        met = alive
        self._work += 1 + len(rule.statements)
        if self._work + self._statements.elements > _MOST:
            raise NotModelled(str(rule), f"more than {_MOST} rules and elements on the way")
        for place, statement in enumerate(rule.statements):
            [(kind, data)] = statement.items()
            if kind == "continue":  # with the rule's next statement
                continue
            ends = kind in _VERDICTS or kind == "vmap" or kind in translation.STATEMENTS
            if ends and place != len(rule.statements) - 1:
                # Behind a verdict map the kernel goes on with what that says `continue` to.
                raise NotModelled(str(rule), f"a statement behind '{kind}'")
            if kind in _VERDICTS:
                met = both(met, self._rejects(rule, data)) if kind == "reject" else met
                self._trace.append(Step(rule, met, _told(kind, data)))
                return [(met, {kind: data})]
            if kind == "vmap":
                found = self._statements.lookup(rule, data["key"], data["data"], self._packet)
                verdicts = [(both(met, hit), verdict) for hit, verdict in found]
                for hit, verdict in verdicts:
                    [(kind, data)] = verdict.items()
                    if kind not in _VERDICTS:
                        raise NotModelled(str(rule), f"the verdict '{kind}'")
                    self._trace.append(Step(rule, hit, _told(kind, data)))
                return verdicts
            if kind in translation.STATEMENTS:
                return self._bound(rule, kind, data, met)
            met = self._passed(rule, place, kind, data, met)
        self._trace.append(Step(rule, met, "goes on"))
        return []

    def _passed(self, rule: Rule, place: int, kind: str, data: Any, met: z3.BoolRef) -> z3.BoolRef:
        """The condition under which the rule goes on behind a statement that is no verdict."""
        if kind == "match":
            return both(met, self._statements.match(rule, data, self._packet))
        if kind in _CHANCES:
            # Each packet has a chance of its own, at each look.
            return both(met, z3.FreshBool(f"{self._hook}: {rule}: {kind}"))
        if kind == "mangle":
            return self._mangle(rule, place, data, met)
        if kind == "notrack":
            packet = self._packet
            flowless = both(met, packet.in_state("invalid"))
            untracked = value("state", STATES["untracked"])
            self._packet = packet.having(state=z3.If(flowless, untracked, packet.state))
            return met
        if kind == "flow" and data["op"] == "add":
            self._trace.append(Step(rule, met, offloads(data["flowtable"])))
            return met
        if kind in _IDLE:
            return met
        raise NotModelled(str(rule), f"'{kind}'")

    def _mangle(self, rule: Rule, place: int, data: Any, met: z3.BoolRef) -> z3.BoolRef:
        where, target = data["key"], data["value"]
        if where == _MSS:
            if place != len(rule.statements) - 1:
                raise NotModelled(str(rule), "a statement behind a change of the MSS")
            return met
        if where not in _WRITABLE:
            raise NotModelled(str(rule), f"a change of '{where}'")
        packet = self._packet
        field = "mark" if where == _MARK else "flow_mark"
        current = single(rule.family, where, packet, str(rule))
        new = self._statements.value(rule, current, target, packet)
        if new.term.size() != 32:
            raise NotModelled(str(rule), f"a mark of '{target}'")
        loaded = both(met, new.there) if isinstance(target, dict) else met
        # Without a flow there is nothing to write to, and the rule goes on.
        writes = both(loaded, current.there)
        term = z3.If(writes, new.term, getattr(packet, field))
        self._packet = packet.having(**{field: term})
        return loaded

    def _rejects(self, rule: Rule, data: dict[str, Any] | None) -> z3.BoolRef:
        """`reject` of one family or for TCP implies a comparison that nft does not list."""
        kind = (data or {}).get("type", "icmpx")
        if kind == bytecode.RESET:
            return both(self._packet.is_protocol(TCP), self._resets(rule, data))
        if kind == "icmp":
            return self._packet.is_ipv4()
        if kind == "icmpv6":
            return self._packet.is_ipv6()
        if kind != "icmpx":
            raise NotModelled(str(rule), f"reject with {kind}")
        return TRUE

    def _resets(self, rule: Rule, data: dict[str, Any]) -> z3.BoolRef:
        """Which packets of TCP, by what is compared."""
        if any("mangle" in one or "notrack" in one for one in rule.statements):
            raise NotModelled(str(rule), "a change before a TCP reset")
        return both(*[self._compared(*one) for one in data["compared"]])

    def _compared(self, by: str, number: int) -> z3.BoolRef:
        packet = self._packet
        if by in ("nfproto", "protocol"):
            return either(*[equal(packet.ethertype, one) for one in _FAMILIES.get(number, ())])
        return equal(packet.next_header if by == "6" else packet.protocol, number)

    def _bound(
        self, rule: Rule, kind: str, data: Any, met: z3.BoolRef
    ) -> list[tuple[z3.BoolRef, dict[str, Any]]]:
        found = translation.bindings(
            rule, self._hook, kind, data, met, self._packet, self._statements
        )
        self._bindings += found
        for one in found:
            self._trace.append(Step(rule, one.met, kind))
        return [(one.met, {"translated": None}) for one in found]


def offloads(flowtable: str) -> str:
    """A step's words where a rule puts a packet's flow into *flowtable*, as the rule names it."""
    return f"flow add {flowtable}"


_VERDICTS = ("accept", "drop", "reject", "return", "continue", "jump", "goto")
#: By number of `nfproto`, or ethertype; newer nft shows the bytes of that in order.
_FAMILIES = {2: (IPV4,), 0x0008: (IPV4,), IPV4: (IPV4,)}
_FAMILIES |= {10: (IPV6,), 0xDD86: (IPV6,), IPV6: (IPV6,)}
_MARK = {"meta": {"key": "mark"}}
#: No rule that is modelled looks at it.
_MSS = {"tcp option": {"name": "maxseg", "field": "size"}}
_WRITABLE = (_MARK, {"ct": {"key": "mark"}})


def _versions(chain: Chain) -> tuple[int, ...]:
    """The ethertypes that a chain sees; netdev sees any, on its devices."""
    return {"ip": (IPV4,), "ip6": (IPV6,), "inet": (IPV4, IPV6), "netdev": (0,)}[chain.family]


def _told(kind: str, data: dict[str, Any] | None) -> str:
    return f"{kind} {data['target']}" if kind in ("jump", "goto") else kind
