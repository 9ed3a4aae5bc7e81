"""Reads the line in which the agent, at its end, accounts for every request that began.

In:   what the agent wrote to standard error
Out:  the numbers by their reasons
Owns: nothing
"""

import re
from dataclasses import dataclass

NOT_LOSSES = {"requests began", "spans", "exported"}


@dataclass(frozen=True)
class Accounts:
    numbers: dict[str, int]

    @property
    def began(self) -> int:
        return self.numbers["requests began"]

    @property
    def exported(self) -> int:
        return self.numbers["exported"]

    @property
    def losses(self) -> dict[str, int]:
        return {reason: count for reason, count in self.numbers.items() if reason not in NOT_LOSSES}

    @property
    def lost(self) -> int:
        return sum(self.losses.values())


def read_accounts(messages: str) -> Accounts:
    """Reasons hold commas themselves, never one before a number."""
    lines = [line.partition(": ")[2] for line in messages.splitlines() if "requests began" in line]
    assert 1 == len(lines), f"exactly one line of accounts: {messages}"
    parts = (re.fullmatch(r"(\d+) (.+)", part) for part in re.split(r", (?=\d)", lines[0]))
    return Accounts({part[2]: int(part[1]) for part in parts if part})
