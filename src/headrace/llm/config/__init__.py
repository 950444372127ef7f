"""What users set: a model, its engine, the deployment around them, and the application of several."""
