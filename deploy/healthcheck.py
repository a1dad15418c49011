"""Asks a probe: exits with 0 when the worker is well, else with 1. For Docker's HEALTHCHECK, and Kubernetes.

    healthcheck.py [/livez | /readyz]

Nothing but http.client, since it is started every ten seconds. Not urllib: that would go through the proxy
that the environment names.
"""

import http.client
import os
import sys


def admin_token() -> str | None:
    """The worker's WORKER_ADMIN_TOKEN, without which it answers `/livez` only."""
    path = os.environ.get("WORKER_ADMIN_TOKEN_FILE")
    if not path:
        return os.environ.get("WORKER_ADMIN_TOKEN")
    with open(path, encoding="utf-8") as file:
        return file.read().strip()


path = sys.argv[1] if len(sys.argv) > 1 else "/livez"
port = os.environ["WORKER_BIND"].rpartition(":")[2]
try:
    token = admin_token()
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=4)
    connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
    answer = connection.getresponse()
    # `docker inspect` shows it, and `kubectl describe pod`.
    print(answer.status, answer.read(4096).decode(errors="replace"))
except (OSError, http.client.HTTPException) as error:
    sys.exit(f"no answer from port {port}: {str(error).strip()}")
sys.exit(answer.status != 200)
