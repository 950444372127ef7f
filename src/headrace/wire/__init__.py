"""The data plane's transport: authenticated, multiplexed calls with payloads, streams and shared memory.

Knows nothing of deployments. From the bottom up: `auth` (handshake), `frames` (layout on the socket), `shm` (large
buffers on one machine), `codec` (Python values to buffers), `connection` (frames in, frames out, flow control),
`caller` and `callee` (the two ends of a call), `rpc` (typed control-plane calls).
"""
