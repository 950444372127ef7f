"""A Ray cluster as an engine. Ray places the processes; requests go over Headrace's own wire.

Nothing outside this package imports Ray, and this module does not either.
"""
