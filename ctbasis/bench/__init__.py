"""`ctbasis bench`: what the project says of its speed and accuracy, measured side by side in one run."""
