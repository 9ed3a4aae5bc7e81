"""Reads the lines in which the agent, at its end, accounts for every request that began: of the host, of each service.

In:   what the agent wrote to standard error
Out:  the numbers by their reasons
Owns: nothing
"""

import re
from dataclasses import dataclass

NOT_LOSSES = {"requests began", "spans", "exported", "on disk", "found on disk"}


@dataclass(frozen=True)
class Accounts:
    numbers: dict[str, int]

    @property
    def began(self) -> int:
        return self.numbers["requests began"]

    @property
    def spans(self) -> int:
        return self.numbers["spans"]

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
    return read_numbers(lines[0])


def read_service_accounts(messages: str) -> dict[int, Accounts]:
    """By the number of the process that leads the service."""
    found = re.findall(r"\(pid (\d+)\): (\d+) began, (.*)", messages)
    return {int(pid): read_numbers(f"{began} requests began, {rest}") for pid, began, rest in found}


def read_numbers(line: str) -> Accounts:
    parts = (re.fullmatch(r"(\d+) (.+)", part) for part in re.split(r", (?=\d)", line))
    return Accounts({part[2]: int(part[1]) for part in parts if part})
