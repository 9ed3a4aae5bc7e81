"""The errors that end the agent: what failed, what to do about it, the exit status, and the form in which they are told."""


class AgentError(Exception):
    """Says what failed and how to mend it; only the command line turns it into text and an exit status."""

    exit_code = 1

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy


class SettingsError(AgentError):
    """A setting has a value that is not allowed."""

    exit_code = 2


class PreflightError(AgentError):
    """This host lacks something the agent needs."""

    exit_code = 3


class ProbeError(AgentError):
    """A BPF program could not be compiled, loaded or attached."""

    exit_code = 4


class PeerLostError(AgentError):
    """The other process of the agent ended unexpectedly."""

    exit_code = 5


def printable(text: str) -> str:
    """Another user's text, such as a path or a name, for a terminal: control characters are escaped."""
    return text if text.isprintable() else repr(text)


def error_text(error: AgentError, *hints: str) -> str:
    """What failed and the value seen; how to mend it; where to look further."""
    return "\n  ".join([f"otel-ebpf: {error.what.rstrip('.')}.", *error.remedy.splitlines(), *hints])
