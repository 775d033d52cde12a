"""Translates games, and works out experts' plans, before they are asked for.

    python -m env_alfworld.prepare [--split valid_seen] [--plans]

It finds the games as the service does (ETO_DATA, ETO_ALFWORLD_*), and writes into the same store. What is there already is not made again.
"""

import argparse
import contextlib
import os
import sys
from pathlib import Path

NICENESS = 10


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="env_alfworld.prepare", description="Translate games before they are played.")
    add = parser.add_argument
    add("--split", action="append", help="only games of this split (may be given again; default: all splits)")
    add("--after", type=int, default=-1, help="only games after this place in the split")
    add("--count", type=int, default=sys.maxsize, help="at most so many games of a split")
    add("--plans", action="store_true", help="work out the expert's actions too (a second to some minutes a game)")
    add("--plan-timeout-s", type=float, default=1800.0, help="with --plans: seconds after which a search is given up (default 1800)")
    add("--store", type=Path, help=argparse.SUPPRESS)  # as the service calls it: the list is in the store
    add("--root", type=Path, help=argparse.SUPPRESS)
    add("--with-parent", action="store_true", help=argparse.SUPPRESS)
    add("--low-priority", action="store_true", help="leave the machine to others")
    add("--quiet", action="store_true", help="say nothing")
    return parser


def main() -> None:
    """Run the command."""
    options = _parser().parse_args()
    if options.with_parent:
        from env_alfworld.ahead import end_with_parent

        end_with_parent()
    if options.low_priority:
        os.nice(NICENESS)
    from env_alfworld.catalogue import SPLITS, GameFileError
    from env_alfworld.engine import made_ready
    from env_alfworld.experts import find_actions
    from env_alfworld.grammar import GrammarError
    from env_alfworld.settings import AlfworldSettings
    from env_alfworld.sources import listed
    from env_alfworld.store import Store

    settings = AlfworldSettings()
    source = listed(settings) if options.store is None else None
    root, path = (source.root, source.store) if source is not None else (options.root, options.store)
    store = Store(path)
    for split in options.split or SPLITS:
        games = [g for g in store.games() if g.split == split and g.reason is None and g.place > options.after][: options.count]
        done = 0
        for file in games:
            with contextlib.suppress(GameFileError, GrammarError):
                game = made_ready(store, root, file, games_kept=1)
                done += not options.plans or bool(find_actions(store, root, file, game, settings.expert, options.plan_timeout_s))
        if not options.quiet:
            print(f"{split}: {done} of {len(games)} games ready", flush=True)


if __name__ == "__main__":
    main()
