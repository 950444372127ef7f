"""What the controller knows of the work that the instance does, for people who look: rates and latencies over the last
minutes and hours (`series`), who calls whom (`sampler`), single requests (`requests`), and all as it happens (`live`).

Processes count anyhow; `sampler` asks them for their counts, often while somebody looks, and seldom otherwise.
"""
