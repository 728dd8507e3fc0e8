"""`python -m tests.bench.peers.publish APP FILE`: enqueue a file of events as APP's own client would."""

import sys
from importlib import import_module
from pathlib import Path

if __name__ == "__main__":
    import_module(f"tests.bench.peers.{sys.argv[1]}").publish(Path(sys.argv[2]))
