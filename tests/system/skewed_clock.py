"""``phalanx``, on a machine whose clock is so many seconds before the others'.

Usage: ``python skewed_clock.py SECONDS VERB …``
"""

import sys
import time

if __name__ == "__main__":
    ahead_s, true_time = float(sys.argv.pop(1)), time.time
    time.time = lambda: true_time() + ahead_s
    from phalanx.cli.main import main

    sys.argv[0] = "phalanx"
    main()
