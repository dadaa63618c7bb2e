"""Every message by its words, under the kinds of ``docs/troubleshooting.md``."""

from __future__ import annotations

import html

from messages import Message, messages

# Where a message is raised says what it is about: the longest beginning counts.
KINDS = {
    "config/": "The config",
    "losses/": "The config",
    "cli/": "The command line",
    "types.py": "The command line",
    "judge/": "The judge",
    "rankers/": "The judge",
    "generation/": "Sampling",
    "models/": "Models",
    "training/": "Training",
    "cycle/": "A run and its directory",
    "files/": "Files",
    "files/run_dir.py": "A run and its directory",
    "scores/": "Scores",
    "distill/": "Distillers",
    "evaluation/": "Evals",
    "reporting/": "Evals",
    "curation/": "Demonstrations and templates",
}
INTRODUCTION = """# Every message

What a command of cyclealign can say when it refuses or stops, word by word; `…` stands for what differs. Search this
page for the words you see. What they mean, and what to do where the line does not say it:
[troubleshooting](troubleshooting.md).

"""


def kind_of(message: Message) -> str:
    """The section that a message belongs to."""
    return KINDS[max((k for k in KINDS if message.module.startswith(k)), key=len)]


def messages_page() -> str:
    """Markdown: a list a kind, each message once."""
    parts = [INTRODUCTION]
    found = list(messages())
    for kind in dict.fromkeys(KINDS.values()):
        lines = sorted({m.text for m in found if kind_of(m) == kind}, key=str.lower)
        anchor = kind.lower().replace(" ", "-")
        shown = "\n".join(f"- <code>{html.escape(line)}</code>" for line in lines)
        parts.append(f"## {kind}\n\n[What they mean](troubleshooting.md#{anchor})\n\n{shown}\n")
    return "\n".join(parts)
