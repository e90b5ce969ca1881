"""`python -m mechlab.cli`."""

import sys

from mechlab.cli import main

sys.exit(main())
