"""Dynamic batching: `@serve.batch`.

Requests are lined up by `forming` (pure), run by `batcher`, and answered through `calls`; `batched` is what stands in
for the user's function, and `decorator` makes it.
"""

from headrace.batching.decorator import batch
from headrace.batching.state import IterationStartTimes

__all__ = ["IterationStartTimes", "batch"]
