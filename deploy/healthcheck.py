"""Docker's HEALTHCHECK: exits with 0 when ``/livez`` says that the worker lives, else with 1.

Nothing but http.client, since it is started every ten seconds. Not urllib: that would go through the proxy
that the environment names.
"""

import http.client
import os
import sys

port = os.environ["WORKER_BIND"].rpartition(":")[2]
try:
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=4)
    connection.request("GET", "/livez")
    answer = connection.getresponse()
    # `docker inspect` shows it.
    print(answer.status, answer.read(4096).decode(errors="replace"))
except (OSError, http.client.HTTPException) as error:
    sys.exit(f"no answer from port {port}: {str(error).strip()}")
sys.exit(answer.status != 200)
