"""Write the help that the package brings, so that `sastc COMMAND --help` need not load PyTorch: `python .ci/help.py`."""

import json
from pathlib import Path

from sastc.cli import COMMANDS
from sastc.cli.commands import command_help

texts = {name: {"--help": command_help(name), "--help_all": command_help(name, everything=True)} for name in COMMANDS}
place = Path(__file__).parent.parent / "sastc" / "cli" / "help.json"
place.write_text(json.dumps(texts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
