"""`accelerate launch training_scripts/mim.py --recipe mim/nano_cpu`: see `finevit_training.mim`."""

import sys

from finevit_training.mim import main

if __name__ == "__main__":
    sys.exit(main())
