"""`python -m creative_upscaler.cli`: the command where no script is installed."""

import sys

from . import main

if __name__ == "__main__":
    sys.exit(main())
