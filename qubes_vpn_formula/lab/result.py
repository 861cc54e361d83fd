# SPDX-License-Identifier: GPL-2.0-or-later
"""What came out of one cell."""

from dataclasses import dataclass

#: Every outcome, from the one to hope for to the ones that say nothing.
CLOSED, LEAK, FAILED, NOT_RUN, ERROR = OUTCOMES = ("closed", "LEAK", "FAILED", "not run", "error")


@dataclass(frozen=True)
class Result:
    """One attack on one killswitch.

    outcome: `closed`; `LEAK` (something got out, or in); `FAILED` (the wrong rules afterwards, or
        something that has to work does not); `not run` (the machine cannot do it, or the attack
        means nothing there); `error` (the lab's own trouble: nothing is proven).
    leaks: how many frames got out, or arrived where they must not.
    aside: how many got out that this row does not count: before the attack began, from the kernel
        itself, or in a row about something else.  They do not decide the outcome, because every
        attack would find them; for ours they are a finding.
    lines: what was found, in words, each with the phase of the attack; or why there is nothing.
    sent: packets that senders gave to the kernel, refused ones included.  frames: captured and
        judged.  seconds: how long it took.  captures: pcap files, names in the run's folder.
    """

    attack: str
    killswitch: str
    outcome: str
    leaks: int = 0
    aside: int = 0
    lines: tuple[str, ...] = ()
    sent: int = 0
    frames: int = 0
    seconds: float = 0.0
    captures: tuple[str, ...] = ()

    @property
    def fine(self) -> bool:
        """Whether there is nothing to hold against the killswitch."""
        return self.outcome in (CLOSED, NOT_RUN) and not self.aside

    def __str__(self) -> str:
        numbers = f" ({self.leaks} frames)" if self.leaks else ""
        more = f", {self.aside} frames beside it" if self.aside else ""
        first = f": {self.lines[0]}" if self.lines else ""
        return f"{self.outcome}{numbers}{more}{first}"
