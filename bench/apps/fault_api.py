"""20 ms of work on 2 replicas, by Headrace, by Headrace on Ray or by Ray Serve.

`update` on standard input rolls out another version; `status` waits until the controller says that all runs.
"""

import asyncio
import contextlib
import sys
import time

FRAMEWORK, PORT, NUM_PROXIES = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

if FRAMEWORK == "ray":
    from ray import serve

    serve.start(http_options={"port": PORT})
else:
    if FRAMEWORK == "headrace-ray":
        import ray

        ray.init()

    import headrace as serve

    serve.start(http_options={"port": PORT, "num_proxies": NUM_PROXIES}, rest_options={"port": 0})


# No CPU is reserved: on a cluster of two, a new version would otherwise have to wait for the old one's.
@serve.deployment(
    num_replicas=2,
    max_ongoing_requests=50,
    health_check_period_s=1,
    health_check_timeout_s=2,
    ray_actor_options={"num_cpus": 0},
)
class Work:
    def __init__(self, version: int) -> None:
        self.version = version

    async def __call__(self, request) -> str:
        await asyncio.sleep(0.02)
        return str(self.version)


serve.run(Work.bind(1))
print("ready", flush=True)
for number, line in enumerate(sys.stdin, start=2):
    if line.strip() == "update":
        serve.run(Work.bind(number))
        print("updated", flush=True)
    elif line.strip() == "status":
        while True:
            with contextlib.suppress(Exception):  # Ray's calls fail while there is no controller
                if all(one.status == "RUNNING" for one in serve.status().applications.values()):
                    break
            time.sleep(0.02)
        print("running", flush=True)
    else:
        break
serve.shutdown()
