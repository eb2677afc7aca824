"""`python -m rlseg`, also under torchrun."""

import sys

from rlseg.cli import main

if __name__ == "__main__":
    sys.exit(main())
