"""How many replicas the load asks for: the decision (pure), the count of what is going on, and what was decided."""
