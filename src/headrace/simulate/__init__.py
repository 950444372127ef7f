"""What a deployment would do under a load, in virtual time: choose settings without an hour of load testing.

Needs NumPy, and for charts matplotlib: `pip install 'headrace[simulate]'`.
"""
