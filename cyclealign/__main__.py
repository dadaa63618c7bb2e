"""``python -m cyclealign`` is ``cyclealign``; so is ``accelerate launch -m cyclealign``."""

import sys

from cyclealign.cli import main

sys.exit(main())
