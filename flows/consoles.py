"""How the commands write for a person: as it is, whatever a message quotes."""

from __future__ import annotations

from rich.console import Console


def plain_console(*, stderr: bool = False) -> Console:
    """A console that takes nothing in a text for markup: logs, paths and labels that it quotes hold brackets, too."""
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False, soft_wrap=True)
