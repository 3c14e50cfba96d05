"""`accelerate launch training_scripts/align.py --recipe align/nano_cpu`: see `finevit_training.align`."""

import sys

from finevit_training.align import main

if __name__ == "__main__":
    sys.exit(main())
