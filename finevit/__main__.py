"""`python -m finevit` is the command `finevit`."""

import sys

from finevit.cli import main

sys.exit(main())
