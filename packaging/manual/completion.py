"""Completion for bash, zsh and fish: by shtab from the parser, and names of uplinks as they are at that moment."""

from __future__ import annotations

import argparse
import shlex

import pages
import shtab

from mlbd.cli import DEFAULT_CONFIG

FILES = {"bash": "mlbd.bash", "zsh": "_mlbd", "fish": "mlbd.fish"}
"""By shell, as what loads them wants them called."""

_NAMES = r"""
names=$(timeout 1 mlbd status --json -c "$1" 2>/dev/null |
    grep -o '"name": *"[^"]*", *"interface": *"[^"]*", *"id":' | cut -d '"' -f 4)
if [ -n "$names" ]; then
    echo "$names"
elif [ -r "$1" ]; then
    awk '/^[ \t]*\[/ { uplink = /^[ \t]*\[\[[ \t]*uplink[ \t]*\]\]/ }
        uplink && /^[ \t]*name[ \t]*=/ { split($0, part, /["\047]/); print part[2] }' "$1" 2>/dev/null
fi
"""
"""For sh, with a configuration as its argument: the daemon knows its uplinks; where it does not answer, the file."""

_ASK = shlex.quote(_NAMES)
_FISH_ASK = "'" + _NAMES.replace("\\", "\\\\").replace("'", "\\'") + "'"

_BASH = f"""
_mlbd_uplinks() {{
    local i config={DEFAULT_CONFIG}
    for ((i = 1; i < COMP_CWORD; i++)); do
        [[ ${{COMP_WORDS[i]}} == -c || ${{COMP_WORDS[i]}} == --config ]] && config=${{COMP_WORDS[i + 1]/#\\~/$HOME}}
    done
    compgen -W "$(sh -c {_ASK} sh "$config")" -- "$1"
}}
"""
_ZSH = f"""
_mlbd_uplinks() {{
    local i config={DEFAULT_CONFIG}
    local -a names
    for ((i = 1; i < $#words; i++)); do
        [[ $words[i] == (-c|--config) ]] && config=${{~words[i + 1]}}
    done
    names=(${{(f)"$(sh -c {_ASK} sh "$config")"}})
    compadd -a names
}}
"""
_FISH = f"""
function _mlbd_uplinks
    set -l config {DEFAULT_CONFIG}
    set -l words (commandline -opc)
    for i in (seq (count $words))
        if contains -- $words[$i] -c --config; and test $i -lt (count $words)
            set config $words[(math $i + 1)]
        end
    end
    sh -c {_FISH_ASK} sh $config
end
"""
_UPLINK = {
    "bash": "_mlbd_uplinks",
    "zsh": "_mlbd_uplinks",
    "fish": "(_mlbd_uplinks)",
    "preamble": {"bash": _BASH, "zsh": _ZSH, "fish": _FISH},
}
_BY_PURPOSE = {"config": shtab.FILE, "file": shtab.FILE, "uplink": _UPLINK}
"""By the name under which the program finds the argument."""


def scripts(parser: argparse.ArgumentParser) -> dict[str, str]:
    """By the file's name. The parser's arguments are marked for shtab here, since the program needs nothing of it."""
    for command in pages.subcommands(parser).values():
        for action in command._actions:
            if action.dest in _BY_PURPOSE:
                action.complete = _BY_PURPOSE[action.dest]  # type: ignore[attr-defined]
    return {name: shtab.complete(parser, shell) for shell, name in FILES.items()}
