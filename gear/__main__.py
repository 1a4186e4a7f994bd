"""`python3 -m gear`: the command line from a checkout."""

import sys

from gear.cli import main

sys.exit(main())
