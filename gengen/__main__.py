"""`python -m gengen`."""

import sys

from gengen.cli import main

sys.exit(main())
