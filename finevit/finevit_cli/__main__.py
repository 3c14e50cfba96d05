"""`python -m finevit_cli` is the command `finevit`."""

import sys

from finevit_cli import main

sys.exit(main())
