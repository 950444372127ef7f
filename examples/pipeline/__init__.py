"""The pipeline of the tutorial: preprocess, then sentiment and summary side by side, then combine."""
