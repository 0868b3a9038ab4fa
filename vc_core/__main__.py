"""`python -m vc_core`: the command line."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    try:
        from .cli import main

        sys.exit(main())
    except KeyboardInterrupt:  # while modules were imported
        sys.exit(130)
