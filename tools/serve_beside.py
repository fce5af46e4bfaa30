"""``asr`` as the child of another tool: it ends with it, also where that one is killed.

[sys.executable, "tools/serve_beside.py", str(os.getpid()), "serve", "--port", "0"]
"""

import sys
import threading

from asr.cli.main import run_command
from asr.config.child_processes import end_with

if __name__ == "__main__":
    parent = int(sys.argv.pop(1))
    threading.Thread(target=end_with, args=(parent,), daemon=True).start()
    sys.exit(run_command())
