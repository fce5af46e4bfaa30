"""``asr`` as the child of another tool: it ends with it, also where that one is killed.

[sys.executable, "tools/serve_beside.py", str(os.getpid()), "serve", "--port", "0"]
"""

import sys
import threading
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[1])  # as `python -m asr.cli` in the project's folder

from asr.cli.main import run_command  # noqa: E402
from asr.config.child_processes import end_with  # noqa: E402

if __name__ == "__main__":
    parent = int(sys.argv.pop(1))
    threading.Thread(target=end_with, args=(parent,), daemon=True).start()
    sys.exit(run_command())
