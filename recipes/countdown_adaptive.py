"""The training program for a checkout: accelerate launch ... recipes/countdown_adaptive.py --config RECIPE.yaml."""

import sys

from tinyzero_trl.commands.train import main

if __name__ == "__main__":
    sys.exit(main())
