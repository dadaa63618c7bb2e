"""``python -m cyclealign`` is ``cyclealign``; so is ``accelerate launch -m cyclealign``."""

import sys

from cyclealign.cli.main import main

sys.exit(main())
