"""The runs of an experiment as one HTML page: results with their errors, and how to reproduce them.

Made only from the files in the run directories; nothing here imports torch.
"""
