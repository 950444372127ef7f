"""Draw the simulator's charts that the documentation shows: `python -m bench.autoscaling_traces docs/images`.

Virtual time, so that the figures do not depend on the machine. Needs `headrace[simulate]`.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from headrace.cli.simulate_view import summary, what_is_simulated
from headrace.config import AutoscalingConfig
from headrace.config.schedule import ScheduleEntry
from headrace.simulate.arrivals import ServiceTime
from headrace.simulate.autoscaling import Deployment, simulate
from headrace.simulate.chart import write_chart
from headrace.simulate.trace import day, steps

SENTIMENT = Deployment(
    autoscaling=AutoscalingConfig(min_replicas=1, max_replicas=20),
    service=ServiceTime(0.1, 0.5),
    start_s=20.0,
    max_ongoing_requests=8,
    concurrency=4,
)
QUICKER = replace(
    SENTIMENT,
    autoscaling=AutoscalingConfig(
        min_replicas=1, max_replicas=20, metrics_interval_s=1, look_back_period_s=10, upscale_delay_s=2
    ),
)
BY_LATENCY = replace(
    SENTIMENT,
    autoscaling=AutoscalingConfig(
        min_replicas=1,
        max_replicas=20,
        target_latency_p99_s=0.5,
        schedule=[ScheduleEntry(cron="50 19 * * *", duration_s=1800, min_replicas=7)],
    ),
)
CHARTS = {
    "simulated-day-by-latency": (BY_LATENCY, day(200.0)),
    "simulated-day": (SENTIMENT, day(200.0)),
    "simulated-steps": (SENTIMENT, steps(200.0)),
    "simulated-steps-quicker": (QUICKER, steps(200.0)),
}


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, (deployment, trace) in CHARTS.items():
        result = simulate(deployment, trace, latency_target_s=0.5)
        title, subtitle = what_is_simulated("Sentiment", deployment, trace)
        write_chart(result, folder / f"{name}.png", title=title, subtitle=subtitle)
        Console(highlight=False).print(summary(result, title, subtitle, decisions=5))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images"))
