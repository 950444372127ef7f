"""Small applications, each runnable by `headrace run examples.<name>:app` from the repository."""
